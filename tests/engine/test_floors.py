"""Who may import whom: arrows point down, and what starts at once never imports torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


def _floors() -> dict[int, set[str]]:
    """Return the rooms of each floor, from the table that people read."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)
    return {int(floor): set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows}


FLOORS = _floors()
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
TORCH_FREE = (
    "types",
    "keys",
    "stats",
    "api",
    "registry",
    "config",
    "store",
    "checks",
    "verdicts",
    "data",
    "report",
    "cli",
)


class Import(NamedTuple):
    module: str
    line: int
    #: Done when the file is imported: not inside a function, not for the type checker alone.
    at_once: bool


def imports(path: Path) -> Iterator[Import]:
    """Yield everything that a file imports, wherever in it."""

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


def room(path: Path) -> str:
    return path.relative_to(ROOT / "bench").parts[0].removesuffix(".py")


def named(path: Path, found: Import) -> str:
    return f"{path.relative_to(ROOT)}:{found.line} imports {found.module}"


def modules(*rooms: str) -> list[str]:
    """Return the names of all modules of rooms of bench."""
    paths = [path for path in sources("bench") if path.name != "__init__.py" or path.parent != ROOT / "bench"]
    chosen = [path.relative_to(ROOT).with_suffix("") for path in paths if room(path) in rooms]
    return [".".join(path.parts).removesuffix(".__init__") for path in chosen]


def test_every_room_has_a_floor():
    rooms = {room(path) for path in sources("bench")} - {"__init__"}
    assert sorted(FLOORS) == list(range(7))
    differing = rooms ^ FLOOR_OF.keys()
    assert not differing, f"bench/ and the table in docs/architecture.md differ by {sorted(differing)}"


def test_arrows_in_bench_point_down():
    wrong = []
    for path in sources("bench"):
        if path == ROOT / "bench" / "__init__.py":
            continue
        for found in imports(path):
            package, *rest = found.module.split(".")
            if package == "bench" and rest[0] in FLOOR_OF and FLOOR_OF[rest[0]] > FLOOR_OF[room(path)]:
                wrong.append(named(path, found))
    assert not wrong


def test_the_report_stands_on_the_store_alone():
    wrong = []
    for path in sources("bench/report"):
        if path.name == "_network.py":
            # Figures that look inside a network; the others reach it from inside a function only.
            continue
        for found in imports(path):
            package, *rest = found.module.split(".")
            if found.at_once and package == "bench" and rest[0] != "report" and FLOOR_OF.get(rest[0], 0) > 1:
                wrong.append(named(path, found))
    assert not wrong


@pytest.mark.parametrize("folder", ["attacks", "defenses"])
def test_a_method_uses_bench_api_torch_and_private_helpers_beside_it(folder):
    wrong = []
    for path in sources(folder):
        for found in imports(path):
            package, *rest = found.module.split(".")
            if package == "bench":
                allowed = rest[0] == "api"
            elif package in ("attacks", "defenses"):
                allowed = package == folder and rest[0].startswith("_")
            else:
                # A third party's package is imported by the function that needs it, so that listing needs none.
                allowed = package == "torch" or package in sys.stdlib_module_names or not found.at_once
            if not allowed:
                wrong.append(named(path, found))
    assert not wrong


def test_nothing_in_bench_names_an_attack_or_a_defense_module():
    wrong = [named(path, found) for path in sources("bench") for found in imports(path)
             if found.module.split(".")[0] in ("attacks", "defenses")]  # fmt: skip
    assert not wrong


def test_what_starts_at_once_does_not_import_torch():
    names = [name for name in modules(*TORCH_FREE) if name != "bench.report.figures._network"]
    assert {"bench.registry", "bench.store", "bench.data", "bench.report.board", "bench.cli"} <= set(names)
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
        "def f():\n    from bench.store import Store\n    class A:\n        import json\n"
    )
    assert set(imports(tmp_path / "a.py")) == {
        Import("os", 1, True),
        Import("typing.TYPE_CHECKING", 2, True),
        Import("torch", 4, False),
        Import("bench.store.Store", 6, False),
        Import("json", 8, False),
    }
