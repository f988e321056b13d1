"""Everything besides its parameters that decides the numbers of a method: its sources, their packages, data files.

Sources count as syntax trees without docstrings, comments, layout and the name of the method, so that only what runs
changes a hash: a reference to a method names it beside its hash. Docstrings stay in where a file mentions ``__doc__``.
torch and numpy are left out: they are under everything, and the provenance of a result names their versions. So is the
harness itself, whose versions are those of the protocol (:mod:`bench.keys`).
"""

from __future__ import annotations

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
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from itertools import chain
from pathlib import Path

from bench.keys import sha256_hex
from bench.methods.syntax import LONGEST_PATH, Import, syntax
from bench.methods.tree import text_of
from bench.types import UsageError

#: Packages by the name they are imported under, where that is not the one that pip knows.
DISTRIBUTIONS = {
    "art": "adversarial-robustness-toolbox",
    "cv2": "opencv-python",
    "PIL": "pillow",
    "pywt": "PyWavelets",
    "secmlt": "secml-torch",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
#: A folder of data with more files than this is refused.
MOST_FILES = 100_000
#: Bytes of the largest file of data that is hashed, which takes some ten seconds.
MOST_HASHED = 2**34

_NO_FILES = ("/proc", "/sys", "/dev")
NOT_COUNTED = {*sys.stdlib_module_names, "bench", "numpy", "torch"}
# The same release, built for a CPU or for one GPU or another.
_BUILD = re.compile(r"\+(cpu|cu\d+|rocm[\d.]+|xpu)$")

_ABSENT = " absent"

_log = logging.getLogger("crossfire")


@dataclass(frozen=True)
class Code:
    """The code of one method: its hash, and every source by its path as it was when it was hashed.

    ``absent`` are the modules that it imports somewhere and that Python does not find.
    """

    sha: str
    texts: Mapping[Path, bytes]
    absent: frozenset[str] = frozenset()


def code_of(path: Path, root: Path, needed: str | None = None) -> Code:
    """Return the code of the method in a file: every source behind it, package versions, and data files it names.

    Every import of a source outside the installed packages is followed, also inside functions. Of an installed package
    the version counts. Of a text in a source that names a file, from the folder of the source or, in a user's own,
    from the current one, the content counts.

    Args:
        path: the file.
        root: the folder of the harness, with its own ``attacks`` and ``defenses``.
        needed: the name under which the package is imported without which the method is not available.

    Raises:
        UsageError: a source cannot be read, or is not valid Python.
    """
    search = Search(path, root)
    texts: dict[Path, bytes] = {}
    packages: set[str] = set()
    data: set[tuple[str, str]] = set()
    absent: set[str] = set()
    queue = [path.resolve()]
    while queue:
        source = queue.pop(0)
        if source in texts:
            continue
        try:
            texts[source] = text_of(source) if source.suffix == ".py" else source.read_bytes()
            if source.suffix != ".py":
                continue
            parsed = syntax(texts[source])
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"{source} is not valid Python: {error}") from None
        needs = [Import(needed)] if needed is not None and len(texts) == 1 else []
        for each in (*parsed.imports, *needs):
            files, package = search.files(each, source)
            queue += files
            if package is not None:
                packages.add(package)
                absent |= {package.removesuffix(_ABSENT)} if package.endswith(_ABSENT) else set()
        folders = [source.parent] if search.is_bundled(source) else [source.parent, Path()]
        data |= {(text, sha) for text in parsed.strings if (sha := _named_in_code(text, folders)) is not None}
    sha = sha256_hex(*_hashes(texts), *sorted(packages), *chain.from_iterable(sorted(data)))
    return Code(sha, texts, frozenset(absent))


def _hashes(texts: Mapping[Path, bytes]) -> Iterator[str]:
    """Yield the hash of each source; names of local variables count in all of them if one may read its callers'."""
    with_names = any(syntax(text).reads_names for source, text in texts.items() if source.suffix == ".py")
    for source, text in texts.items():
        if source.suffix != ".py":
            yield hashlib.sha256(text).hexdigest()
        else:
            # Without the argument it is the answer that is known already.
            yield (syntax(text, with_names=True) if with_names else syntax(text)).sha


@dataclass(frozen=True)
class Search:
    """Where the imports of a method lead.

    The same rules hold when it runs (:mod:`bench.methods.loading`): files next to a user's own file come first, except
    for the standard library, the harness, torch and numpy; ``attacks`` and ``defenses`` are the harness's; the rest is
    what Python finds.
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
        if top in NOT_COUNTED or self.is_bundled(self.path) or not source.resolve().is_relative_to(folder):
            return None
        own = folder / f"{top}.py"
        if os.path.isfile(own):
            return None if own == source.resolve() else folder
        return folder if os.path.isdir(folder / top) and any((folder / top).glob("*.py")) else None

    def files(self, imported: Import, source: Path) -> tuple[list[Path], str | None]:
        """Return the sources that an import runs, and the installed package with its version that it leads to."""
        if imported.level:
            folder = source.parent
            for _ in range(imported.level - 1):
                folder = folder.parent
            return _files([folder], imported), None
        top = imported.module.partition(".")[0]
        if (folder_of_it := self.beside(top, source)) is not None:
            return _files([folder_of_it], imported), None
        if top in ("attacks", "defenses") or imported.module.startswith("bench.models"):
            return _files([self.root], imported), None
        if top in NOT_COUNTED:
            return [], None
        spec = find_top(top)
        if spec is None:
            return [], f"{top}{_ABSENT}"
        origin = Path(spec.origin) if spec.has_location and spec.origin else None
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        if any(map(is_installed, folders or [origin or Path()])) and (known := version(top)) is not None:
            return [], known
        if folders:
            return _files([folder.parent for folder in folders], imported), None
        return [origin] if origin else [], None


def _files(roots: list[Path], imported: Import) -> list[Path]:
    """Return the files that importing something from one of these folders runs, as far as they are there."""
    module_parts = imported.module.split(".") if imported.module else []
    wanted = [module_parts, *([*module_parts, name] for name in imported.names)]
    files: dict[Path, None] = {}
    for root in roots:
        for parts in wanted:
            for depth in range(len(parts) + 1):
                path = root.joinpath(*parts[:depth])
                # A folder above the one that is imported from is not imported with it.
                names = [path / "__init__.py"] if depth or not module_parts else []
                if depth == len(parts) and depth:
                    names += [path.with_name(f"{path.name}{suffix}") for suffix in (".py", *EXTENSION_SUFFIXES)]
                files |= {name.resolve(): None for name in names if os.path.isfile(name)}
    return list(files)


# Packages.


def find_top(name: str) -> ModuleSpec | None:
    """Return where Python finds a top-level module, importing nothing; ``None`` where it is not installed."""
    try:
        return importlib.util.find_spec(name)
    # What is in sys.modules without a spec, or a broken installation.
    except (ImportError, ValueError, AttributeError):
        return None


def find_module(name: str) -> ModuleSpec | None:
    """Return where Python finds a module, importing nothing, not even the packages that it is in."""
    top, *inside = name.split(".")
    spec, path = find_top(top), top
    for part in inside:
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = f"{path}.{part}"
        spec = PathFinder.find_spec(path, list(spec.submodule_search_locations))
    return spec


def version(name: str) -> str | None:
    """Return a package with its version, by the name it is imported under or that pip knows; ``None`` if no package."""
    for distribution in chain((DISTRIBUTIONS.get(name, name),), _owners(name)):
        try:
            return f"{distribution} {release(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def release(distribution: str) -> str:
    """Return the version of an installed package, by the name that pip knows, whatever it was built for.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    return _BUILD.sub("", importlib.metadata.version(distribution))


def _owners(name: str) -> Iterator[str]:
    # Reads what every installed package holds, so it comes last.
    yield from _all_owners().get(name, ())


@cache
def _all_owners() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@cache
def _installed_in() -> tuple[Path, ...]:
    named = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platlib", "purelib")}
    # Such as the folder of ``pip install --target``: whatever installs a package leaves its metadata beside it.
    with_metadata = {Path(entry).resolve() for entry in sys.path if any(Path(entry or ".").glob("*.dist-info"))}
    return tuple(named | with_metadata)


def is_installed(path: Path) -> bool:
    """Say whether a file belongs to Python or to an installed package, also where only a link leads to it."""
    real = path.resolve()
    if {"site-packages", "dist-packages"} & {*path.parts, *real.parts}:
        return True
    return any(real.is_relative_to(folder) for folder in _installed_in())


# Data.


def content(text: str, folders: Iterable[Path]) -> str | None:
    """Return the hash of the files or folders that a text names, seen from each of ``folders``; ``None`` if none.

    A folder is the names and contents of all files in it.

    Raises:
        UsageError: the folder holds too many files.
    """
    hashes: dict[Path, str] = {}
    for path in _named_paths(text, folders):
        try:
            hashes[path] = _sha_of(path) if path.is_file() else _sha_of_folder(path)
        except OSError:
            continue
    return sha256_hex(*hashes.values()) if hashes else None


def _named_paths(text: str, folders: Iterable[Path]) -> list[Path]:
    """Return the files and folders that a text names, each once."""
    if not 0 < len(text) <= LONGEST_PATH:
        return []
    # Unlike those of pathlib, these functions take any text for the name of a file that is not there.
    own = os.path.expanduser(text.rstrip("/") or "/")
    named = [os.path.join(folder, own) for folder in folders]
    paths = dict.fromkeys(Path(name).resolve() for name in named if os.path.isfile(name) or os.path.isdir(name))
    # What the system makes up as it is read may have no end.
    return [path for path in paths if not any(path.is_relative_to(root) for root in _NO_FILES)]


def _named_in_code(text: str, folders: Iterable[Path]) -> str | None:
    """Return :func:`content` of a text in a source, where it may well mean no file.

    A folder counts if the text is put together as a path, and not an absolute one; a Python source as it does anywhere.
    """
    paths = _named_paths(text, folders)
    if "/" not in text or text.startswith(("/", "~", "..")):
        paths = [path for path in paths if path.is_file()]
    try:
        hashes = [_sha_of_source(path) or content(str(path), [path.parent]) for path in paths]
    except UsageError as error:
        _log.warning("%s; it is no part of any key", error)
        return None
    known = [sha for sha in hashes if sha is not None]
    return sha256_hex(*known) if known else None


def _sha_of_source(path: Path) -> str | None:
    try:
        return syntax(text_of(path)).sha if path.suffix == ".py" and path.is_file() else None
    except (OSError, ValueError):
        return None


def _sha_of(file: Path) -> str:
    status = file.stat()
    if status.st_size > MOST_HASHED:
        raise UsageError(f"{file}: a method reads this file, which has over {MOST_HASHED:,} bytes; name a part")
    return _sha_of_version(str(file.resolve()), status.st_size, status.st_mtime_ns)


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
    return sha256_hex(*chain.from_iterable((file.relative_to(folder).as_posix(), _sha_of(file)) for file in files))
