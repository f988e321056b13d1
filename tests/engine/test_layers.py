"""Imports between packages point down, and commands that must start fast never import torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Layer(NamedTuple):
    height: int
    may_import: frozenset[str]


def _layers() -> dict[str, Layer]:
    """Return the layer of each package and module of bench, from the table that people read."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| `(\w+)` \|([^|]*)\|", text, re.MULTILINE)
    return {name: Layer(int(height), frozenset(re.findall(r"`(\w+)`", others))) for height, name, others in rows}


LAYERS = _layers()
TORCH_FREE = (
    "types",
    "visible",
    "keys",
    "anytime",
    "stats",
    "equivalence",
    "api",
    "methods",
    "registry",
    "config",
    "store",
    "data",
    "report",
    "display",
    "cli",
)
#: Imports allowed between the packages of bench.report.
REPORT = {
    "leaderboard": set(),
    "render": {"leaderboard"},
    "comparison": {"leaderboard", "render"},
    "timeline": {"leaderboard", "render", "comparison"},
}


class Import(NamedTuple):
    module: str
    line: int
    #: Whether it runs when the file is imported: neither inside a function nor for the type checker only.
    at_once: bool


def imports(path: Path) -> Iterator[Import]:
    """Yield every import of a file, at any depth."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: a relative import"
                yield from (Import(f"{child.module}.{alias.name}", child.lineno, at_once) for alias in child.names)
            else:
                lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, at_once and not lazy and not for_types)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def package(path: Path) -> str:
    """Return the package or module of bench that a file belongs to."""
    return path.relative_to(ROOT / "bench").parts[0].removesuffix(".py")


def location(path: Path, statement: Import) -> str:
    return f"{path.relative_to(ROOT)}:{statement.line} imports {statement.module}"


def modules(*packages: str) -> list[str]:
    """Return the names of all modules of packages of bench."""
    paths = [path for path in sources("bench") if path != ROOT / "bench" / "__init__.py"]
    chosen = [path.relative_to(ROOT).with_suffix("") for path in paths if package(path) in packages]
    return [".".join(path.parts).removesuffix(".__init__") for path in chosen]


def test_the_table_names_every_package_of_bench_and_no_other():
    packages = {package(path) for path in sources("bench")} - {"__init__"}
    differing = packages ^ LAYERS.keys()
    assert not differing, f"bench/ and the table in docs/architecture.md differ by {sorted(differing)}"


def test_imports_point_down():
    wrong = []
    for name, layer in LAYERS.items():
        for other in layer.may_import:
            if other not in LAYERS or LAYERS[other].height > layer.height or name in LAYERS[other].may_import:
                wrong.append(f"{name} may import {other}")
    assert not wrong
    heights = [layer.height for layer in LAYERS.values()]
    assert heights == sorted(heights, reverse=True)


def test_a_package_imports_what_the_table_says_and_the_table_says_no_more():
    wrong, used = [], {name: set() for name in LAYERS}
    for path in sources("bench"):
        if path == ROOT / "bench" / "__init__.py":
            continue
        for each in imports(path):
            top, *rest = each.module.split(".")
            if top != "bench" or not rest or rest[0] == package(path):
                continue
            used[package(path)].add(rest[0])
            if rest[0] not in LAYERS[package(path)].may_import:
                wrong.append(location(path, each))
    assert not wrong
    assert used == {name: set(layer.may_import) for name, layer in LAYERS.items()}


def test_the_packages_of_the_report_import_down():
    wrong = []
    for part, allowed in REPORT.items():
        for path in sources(f"bench/report/{part}"):
            for each in imports(path):
                top, *rest = each.module.split(".")
                if [top, *rest[:1]] == ["bench", "report"] and rest[1] not in {part} | allowed:
                    wrong.append(location(path, each))
    assert not wrong


def test_the_report_stands_on_the_store_alone():
    wrong = []
    for path in sources("bench/report"):
        if path.name == "_network.py":
            # Figures that need a network; other modules import it inside a function.
            continue
        for each in imports(path):
            top, *rest = each.module.split(".")
            if each.at_once and top == "bench" and rest[0] in ("models", "evaluation", "training", "schedule"):
                wrong.append(location(path, each))
    assert not wrong


def test_every_package_says_what_it_holds_what_it_may_import_and_where_to_start():
    for path in sorted((ROOT / "bench").rglob("__init__.py")):
        if path.parent.parent == ROOT / "bench":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            assert re.search(r"^May import: ", text, re.MULTILINE), path
            allowed = re.split(r"[.;]\s", text.partition("May import:")[2])[0]
            mentioned = set(re.findall(r"(?<!`)`(\w+)`(?!`)", allowed))
            assert mentioned == LAYERS[path.parent.name].may_import, f"{path} names {mentioned}"
            start = re.search(r"^Start at ``([\w.]+)``", text, re.MULTILINE)
            assert start, path
            module, *rest = start[1].split(".")
            file = path.parent / f"{module}.py"
            assert file.is_file() or (path.parent / module).is_dir(), f"{path} names {start[1]}"


@pytest.mark.parametrize("folder", ["attacks", "defenses"])
def test_a_method_uses_bench_api_torch_and_private_helpers_beside_it(folder):
    wrong = []
    for path in sources(folder):
        for each in imports(path):
            top, *rest = each.module.split(".")
            if top == "bench":
                allowed = rest[0] == "api"
            elif top in ("attacks", "defenses"):
                allowed = top == folder and rest[0].startswith("_")
            else:
                # Third-party packages are imported by the function that uses them: `list` then needs none.
                allowed = top == "torch" or top in sys.stdlib_module_names or not each.at_once
            if not allowed:
                wrong.append(location(path, each))
    assert not wrong


def test_nothing_in_bench_names_an_attack_or_a_defense_module():
    wrong = []
    for path in sources("bench"):
        for each in imports(path):
            if each.module.split(".")[0] in ("attacks", "defenses"):
                wrong.append(location(path, each))
    assert not wrong


def test_what_starts_at_once_does_not_import_torch():
    names = [name for name in modules(*TORCH_FREE) if name != "bench.report.figures._network"]
    assert {
        "bench.registry",
        "bench.store.working_store",
        "bench.data",
        "bench.report.leaderboard.tables",
        "bench.cli",
    } <= set(names)
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({name!r})\nassert not {{'torch', 'torchvision'}} & sys.modules.keys(), {name!r}\n"
        for name in names
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_listing_every_method_does_not_import_torch():
    code = (
        "import sys\nfrom bench import registry\n"
        "for kind in ('attack', 'library', 'recipe', 'test-time', 'network'):\n"
        "    for entry in registry.entries(kind).values(): entry.summary, entry.defaults(), entry.available\n"
        "assert not {'torch', 'art', 'sklearn', 'matplotlib', 'pandas'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_walker_sees_imports_in_functions_and_tells_those_for_types(tmp_path):
    (tmp_path / "a.py").write_text(
        "import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from bench.store.working_store import Store\n    class A:\n        import json\n"
    )
    assert set(imports(tmp_path / "a.py")) == {
        Import("os", 1, True),
        Import("typing.TYPE_CHECKING", 2, True),
        Import("torch", 4, False),
        Import("bench.store.working_store.Store", 6, False),
        Import("json", 8, False),
    }
