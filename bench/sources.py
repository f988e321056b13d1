"""What the number of a method stands on besides its parameters: its sources, the packages behind them, data files.

Sources count as syntax trees without docstrings, comments, layout and the name of the method, so that only what runs
changes a hash: a reference to a method names it beside its hash. torch and numpy are left out: they are under
everything, and the provenance of a result names their versions. So is the harness itself, whose versions are those of
the protocol (:mod:`bench.keys`).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bench.keys import sha256_hex
from bench.types import UsageError

#: Packages by the name they are imported under, where that is not the one that pip knows.
DISTRIBUTIONS = {
    "art": "adversarial-robustness-toolbox",
    "cv2": "opencv-python",
    "PIL": "pillow",
    "pywt": "PyWavelets",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
#: A folder of data with more files than this is refused.
MOST_FILES = 100_000

_NOT_COUNTED = {*sys.stdlib_module_names, "bench", "numpy", "torch"}
# The same release, built for a CPU or for one GPU or another.
_BUILD = re.compile(r"\+(cpu|cu\d+|rocm[\d.]+|xpu)$")
_REGISTERING = {"attack", "defense", "network"}
_IMPORTING = {"import_module", "__import__"}
_JOINING = {"join", "joinpath", "Path", "with_name"}
_LONGEST_PATH = 1024

_log = logging.getLogger("crossfire")


class Import(NamedTuple):
    """``import module`` (no names) or ``from module import names``; ``level`` counts the dots before the module."""

    module: str
    names: tuple[str, ...] = ()
    level: int = 0


class Syntax(NamedTuple):
    """A source file: the hash of what it does, what it imports, and its strings that could name a file."""

    sha: str
    imports: tuple[Import, ...]
    strings: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """The code of one method: its hash, and every source by its path as it was when it was hashed."""

    sha: str
    texts: Mapping[Path, bytes]


# One file.


@lru_cache(maxsize=4096)
def syntax(source: bytes) -> Syntax:
    """Return what counts of a source text.

    Raises:
        SyntaxError: it is not valid Python.
        ValueError: likewise, such as a byte 0.
    """
    tree = ast.parse(source)
    imports: list[Import] = []
    strings: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [Import(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append(Import(node.module or "", tuple(alias.name for alias in node.names), node.level))
        elif isinstance(node, ast.Call) and _called(node.func) in _IMPORTING and (name := _text(node.args[:1])):
            imports.append(Import(name.lstrip("."), (), len(name) - len(name.lstrip("."))))
        strings |= dict.fromkeys(_paths(node))
    _without_name(tree)
    return Syntax(sha256_hex(canonical(tree)), tuple(imports), tuple(strings))


def _without_name(tree: ast.Module) -> None:
    """Take the name of the one registered method out of a syntax tree: what it is called is no part of what it does.

    Of several in one file the names stay, since they tell which code is whose.
    """
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and any(isinstance(each, ast.Call) and _called(each.func) in _REGISTERING for each in node.decorator_list)
    ]
    if len(found) == 1:
        found[0].name = ""


def canonical(node: object) -> str:
    """Return a syntax tree as a text that is the same in every version of Python.

    ``ast.dump`` and ``ast.unparse`` are not: new versions add fields, and quote f-strings otherwise. So a node is its
    name and those of its fields that are not empty, which new fields are in old code. Left out are strings that stand
    alone, docstrings among them, and what the parser notes about a node's use (``ctx``) or spelling (``kind``).
    """
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!a}"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr({canonical(_joined(node.values))})"
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in sorted(node._fields) if name not in ("ctx", "kind")]
        told = [(name, _alone_left_out(value)) for name, value in fields]
        return f"{type(node).__name__}({','.join(f'{name}={canonical(value)}' for name, value in told if value)})"
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    return repr(node)


def _alone_left_out(value: object) -> object:
    return [each for each in value if not _is_text(each)] if isinstance(value, list) else value


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with neighbouring texts as one: versions of Python cut them differently."""
    found: list[ast.expr] = []
    for part in parts:
        if isinstance(part, ast.Constant) and found and isinstance(last := found[-1], ast.Constant):
            found[-1] = ast.Constant(str(last.value) + str(part.value))
        elif not isinstance(part, ast.Constant) or part.value:
            found.append(part)
    return found


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(nodes: list[ast.expr]) -> str | None:
    """Return the text that the first node is, if it is one."""
    return next((n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)), None)


def _paths(node: ast.AST) -> Iterator[str]:
    """Yield what in a node could be a path; what is put together as one ends with a slash, so it may be a folder's."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # A bare word counts only where it may be what a call opens.
        if "." in node.value or "/" in node.value:
            yield from _path([node.value])
    elif isinstance(node, ast.Call) and _called(node.func) in _JOINING:
        yield from _runs(node.args)
    elif isinstance(node, ast.Call) and (word := _text(node.args[:1])) is not None:
        yield from _path([word])
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts: list[ast.expr] = [node.right]
        while isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Div):
            node = node.left
            parts.insert(0, node.right)
        yield from _runs([node.left, *parts])


def _runs(nodes: list[ast.expr]) -> Iterator[str]:
    """Yield neighbouring texts, such as those of ``folder / "a" / "b" / name``, as one path."""
    run: list[str] = []
    for node in [*nodes, None]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            run.append(node.value)
        else:
            yield from _path([*run, ""] if run else [])
            run = []


def _path(parts: list[str]) -> Iterator[str]:
    text = "/".join(parts)
    if 0 < len(text) <= _LONGEST_PATH and text.isprintable() and text.strip("/. "):
        yield text


# All the files of a method.


def code_of(path: Path, root: Path, needed: str | None = None) -> Code:
    """Return the code of the method in a file: every source behind it, package versions, and data files it names.

    Followed is every import, wherever it stands, of a source outside the installed packages. Of an installed package
    the version counts. Of a text in a source that names a file, from the folder of the source or, in a user's own,
    from the current one, the content counts.

    Args:
        path: the file.
        root: the folder of the harness, with its own ``attacks`` and ``defenses``.
        needed: the name under which the package is imported without which the method is not available.

    Raises:
        UsageError: a source is not valid Python.
    """
    search = Search(path, root)
    texts: dict[Path, bytes] = {}
    packages: set[str] = set()
    data: set[tuple[str, str]] = set()
    parts: list[str] = []
    queue = [path.resolve()]
    while queue:
        source = queue.pop(0)
        if source in texts:
            continue
        texts[source] = source.read_bytes()
        if source.suffix != ".py":
            parts.append(hashlib.sha256(texts[source]).hexdigest())
            continue
        try:
            found = syntax(texts[source])
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"{source} is not valid Python: {error}") from None
        parts.append(found.sha)
        needs = [Import(needed)] if needed is not None and len(texts) == 1 else []
        for each in (*found.imports, *needs):
            files, package = search.files(each, source)
            queue += files
            if package is not None:
                packages.add(package)
        folders = [source.parent] if search.is_bundled(source) else [source.parent, Path()]
        data |= {(text, sha) for text in found.strings if (sha := _named_in_code(text, folders)) is not None}
    return Code(sha256_hex(*parts, *sorted(packages), *(word for each in sorted(data) for word in each)), texts)


@dataclass(frozen=True)
class Search:
    """Where the imports of a method lead.

    The same rules hold when it runs (:mod:`bench.loading`): what lies beside a user's own file comes first, but for the
    standard library, the harness, torch and numpy; ``attacks`` and ``defenses`` are the harness's; the rest is what
    Python finds.
    """

    path: Path
    root: Path

    def is_bundled(self, source: Path) -> bool:
        """Say whether a source is one of the harness's own methods."""
        folders = (self.root / "attacks", self.root / "defenses", self.root / "bench" / "models")
        return any(source.resolve().is_relative_to(folder.resolve()) for folder in folders)

    def beside(self, top: str, source: Path) -> Path | None:
        """Return the folder in which a source finds a module beside the user's own file; ``None`` if not there."""
        folder = self.path.resolve().parent
        if top in _NOT_COUNTED or self.is_bundled(self.path) or not source.resolve().is_relative_to(folder):
            return None
        own = folder / f"{top}.py"
        if own.is_file():
            return None if own == source.resolve() else folder
        return folder if any((folder / top).glob("*.py")) else None

    def files(self, found: Import, source: Path) -> tuple[list[Path], str | None]:
        """Return the sources that an import runs, and the installed package with its version that it leads to."""
        if found.level:
            folder = source.parent
            for _ in range(found.level - 1):
                folder = folder.parent
            return _files([folder], found), None
        top = found.module.partition(".")[0]
        if (folder_of_it := self.beside(top, source)) is not None:
            return _files([folder_of_it], found), None
        if top in ("attacks", "defenses") or found.module.startswith("bench.models"):
            return _files([self.root], found), None
        if top in _NOT_COUNTED:
            return [], None
        spec = find_top(top)
        if spec is None:
            return [], f"{top} absent"
        origin = Path(spec.origin) if spec.has_location and spec.origin else None
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        if any(map(_is_installed, folders or [origin or Path()])) and (known := version(top)) is not None:
            return [], known
        if folders:
            return _files([folder.parent for folder in folders], found), None
        return [origin] if origin else [], None


def _files(roots: list[Path], found: Import) -> list[Path]:
    """Return the files that importing something from one of these folders runs, as far as they are there."""
    words = found.module.split(".") if found.module else []
    wanted = [words, *([*words, name] for name in found.names)]
    files: dict[Path, None] = {}
    for root in roots:
        for parts in wanted:
            for depth in range(len(parts) + 1):
                place = root.joinpath(*parts[:depth])
                # A folder above the one that is imported from is not imported with it.
                names = [place / "__init__.py"] if depth or not words else []
                if depth == len(parts) and depth:
                    names += [place.with_name(f"{place.name}{suffix}") for suffix in (".py", *EXTENSION_SUFFIXES)]
                files |= {name.resolve(): None for name in names if name.is_file()}
    return list(files)


# Packages.


def find_top(name: str) -> ModuleSpec | None:
    """Return where Python finds a top-level module, importing nothing; ``None`` where it is not installed."""
    try:
        return importlib.util.find_spec(name)
    # What is in sys.modules without a spec, or a broken installation.
    except (ImportError, ValueError, AttributeError):
        return None


def version(name: str) -> str | None:
    """Return a package with its version, by the name it is imported under or that pip knows; ``None`` if no package."""
    for distribution in chain((DISTRIBUTIONS.get(name, name),), _owners(name)):
        try:
            return f"{distribution} {_BUILD.sub('', importlib.metadata.version(distribution))}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _owners(name: str) -> Iterator[str]:
    # Reads what every installed package holds, so it comes last.
    yield from _all_owners().get(name, ())


@cache
def _all_owners() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@cache
def _installed_in() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platlib", "purelib")})


def _is_installed(path: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.resolve().is_relative_to(folder) for folder in _installed_in())


# Data.


def content(text: str, folders: Iterable[Path]) -> str | None:
    """Return the hash of the files or folders that a text names, seen from each of ``folders``; ``None`` if none.

    A folder is the names and contents of all files in it.

    Raises:
        UsageError: the folder holds too many files.
    """
    if not 0 < len(text) <= _LONGEST_PATH or "\0" in text:
        return None
    found: dict[Path, str] = {}
    for folder in folders:
        try:
            place = (folder / Path(text).expanduser()).resolve()
            if place.is_file():
                found[place] = _sha_of(place)
            elif place.is_dir():
                found[place] = _sha_of_folder(place)
        except (OSError, RuntimeError):
            continue
    return sha256_hex(*found.values()) if found else None


def _named_in_code(text: str, folders: Iterable[Path]) -> str | None:
    """Return :func:`content` of a text in a source, where it may well mean no file.

    A folder counts if the text is put together as a path, and not an absolute one; sources count by themselves.
    """
    path = Path(text)
    may_be_folder = "/" in text and not text.startswith(("/", "~", ".."))
    there = [folder for folder in folders if (folder / path).is_file() or (may_be_folder and (folder / path).is_dir())]
    if not there or path.suffix == ".py":
        return None
    try:
        return content(text, there)
    except UsageError as error:
        _log.warning("%s; it is no part of any key", error)
        return None


def _sha_of(file: Path) -> str:
    about = file.stat()
    return _sha_of_version(str(file.resolve()), about.st_size, about.st_mtime_ns)


@cache
def _sha_of_version(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha_of_folder(folder: Path) -> str:
    files: list[Path] = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - {"__pycache__", ".git"})
        files += [Path(base, name) for name in sorted(names)]
        if len(files) > MOST_FILES:
            raise UsageError(f"{folder}: a method reads this folder, which has over {MOST_FILES:,} files; name a part")
    return sha256_hex(*(word for file in files for word in (file.relative_to(folder).as_posix(), _sha_of(file))))
