"""Importing methods, so that the sources that were hashed are the ones that run.

The harness's own methods are ``attacks.*``, ``defenses.*`` and ``bench.models.*``, from its own folder whatever else is
on the path of Python or imported already. A user's file and the files next to it are a package of their own, so files
of one name in two folders, or before and after an edit, are different modules.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.keys import sha256_hex
from bench.methods.sources import Code, Search, find_top
from bench.methods.syntax import syntax
from bench.types import MethodError, UsageError, first_line

_PACKAGES = ("attacks", "defenses", "bench.models")
# Sources of the harness's own methods as they were first hashed in this process.
_bundled: dict[Path, bytes] = {}
# The modules of these packages, by the folder of the harness that they were last seen to come from.
_owned: dict[Path, dict[str, ModuleType]] = {}


def load(path: Path, code: Code, root: Path) -> ModuleType:
    """Return the module of a method's file.

    Args:
        path: the file.
        code: its sources.
        root: the folder of the harness.

    Raises:
        UsageError: a user's file cannot be imported, or leads Python to a module that it did not find before.
        MethodError: a source was edited since it was hashed, and what runs may be the one or the other.
    """
    path, search = path.resolve(), Search(path.resolve(), root.resolve())
    for source, text in code.texts.items():
        if search.is_bundled(source):
            _require_same(source, _bundled.setdefault(source, text), text)
    _own_packages(root.resolve())
    if search.is_bundled(path):
        return importlib.import_module(".".join(path.relative_to(search.root).with_suffix("").parts))
    module = _of_user(path, code, search)
    if (late := next((name for name in sorted(code.absent) if find_top(name) is not None), None)) is not None:
        raise UsageError(
            f"{path}: {late} is found only once the file has run, so it is in no key; put it beside the file or on "
            "PYTHONPATH"
        )
    for source, text in code.texts.items():
        if not search.is_bundled(source) and not source.is_relative_to(path.parent):
            _require_same(source, source.read_bytes(), text)
    return module


def _require_same(source: Path, current: bytes, hashed: bytes) -> None:
    if current != hashed and (source.suffix != ".py" or not _does_the_same(current, hashed)):
        raise MethodError(f"{source} was edited while this ran; run again")


def _does_the_same(current: bytes, hashed: bytes) -> bool:
    try:
        return syntax(current, with_names=True).sha == syntax(hashed, with_names=True).sha
    # It was edited, and is no Python now.
    except ValueError:
        return False


# Packages whose modules come from known sources.


@dataclass(frozen=True)
class _House:
    """Where the sources of a package are; ``search`` is that of a user's file."""

    texts: Mapping[Path, bytes]
    search: Search | None = None
    package: str = ""

    def importing(self, source: Path) -> Callable[..., Any]:
        """Return the ``__import__`` of a user's source: files next to it come from its own package."""
        search, package = self.search, self.package
        assert search is not None

        def import_(
            name: str,
            globals: Mapping[str, Any] | None = None,
            locals: Mapping[str, Any] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> Any:
            top = name.partition(".")[0]
            if level or search.beside(top, source) is None:
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or (), 0)
            return module if fromlist else sys.modules[f"{package}.{top}"]

        return import_


class _Path(list[str]):
    """The ``__path__`` of such a package."""

    def __init__(self, folders: Sequence[str], house: _House) -> None:
        super().__init__(folders)
        self.house = house


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, house: _House) -> None:
        super().__init__(name, path)
        self._house = house

    def get_code(self, fullname: str) -> Any:
        source = Path(self.path).resolve()
        text = self._house.texts.get(source)
        if text is None and self._house.search is not None:
            raise ImportError(f"{source} is in no key: name it in a plain import statement")
        return super().get_code(fullname) if text is None else self.source_to_code(text, self.path)

    def exec_module(self, module: ModuleType) -> None:
        if self._house.search is not None:
            importing = self._house.importing(Path(self.path).resolve())
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": importing}
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds the modules of these packages, and no others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not isinstance(path, _Path):
            return None
        spec = PathFinder.find_spec(fullname, list(path))
        if spec is None:
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, path.house)
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations = _Path(list(spec.submodule_search_locations), path.house)
        return spec


def _install() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _own_packages(root: Path) -> None:
    """Make each package of the harness's methods the one in its folder, if it is not already."""
    _install()
    ours = tuple(chain.from_iterable((package, f"{package}.") for package in _PACKAGES))
    loaded = {name: module for name, module in sys.modules.items() if name.startswith(ours)}
    # Nearly always nothing was imported since.
    if _owned.get(root) == loaded:
        return
    for package in _PACKAGES:
        _own(package, root)
    _owned.clear()
    _owned[root] = {name: module for name, module in sys.modules.items() if name.startswith(ours)}


def _own(package: str, root: Path) -> None:
    """Make a package of the harness's methods the one in its folder, and forget modules of others by its name."""
    folder = root.joinpath(*package.split("."))
    if not folder.is_dir():
        return
    _forget_strangers(package, folder, sys.modules)
    search_path = _Path([str(folder)], _House(_bundled))
    if package in sys.modules:
        sys.modules[package].__path__ = search_path
        return
    spec = importlib.util.spec_from_file_location(
        package, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__path__ = search_path
    sys.modules[package] = module
    spec.loader.exec_module(module)


def _forget_strangers(package: str, folder: Path, modules: MutableMapping[str, ModuleType]) -> None:
    for name in [name for name in modules if name == package or name.startswith(f"{package}.")]:
        file = getattr(modules[name], "__file__", None)
        if file is None or not Path(file).resolve().is_relative_to(folder):
            del modules[name]


def _of_user(path: Path, code: Code, search: Search) -> ModuleType:
    name = f"crossfire_user_{sha256_hex(str(path), code.sha)[:12]}"
    full = f"{name}.{path.stem.replace('.', '_')}"
    if full in sys.modules:
        return sys.modules[full]
    # A file written a moment ago is in no listing of its folder yet.
    importlib.invalidate_caches()
    house = _House(code.texts, search, name)
    package = ModuleType(name)
    package.__path__ = _Path([str(path.parent)], house)
    sys.modules[name] = package
    spec = importlib.util.spec_from_file_location(full, path, loader=_Loader(full, str(path), house))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        for each in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            del sys.modules[each]
        message = first_line(error) or "no message"
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {message}") from error
    return module
