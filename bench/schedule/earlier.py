"""The cells that a table has at another commit: its files are read there, by this harness, in a process of its own.

One ruler measures both sides. Keys of the commit's own harness would differ where only the way of hashing changed, and
would be alike where the harness itself changed what they stand for. What is read there is the table, its presets, the
methods, their helpers and what they name. Packages, images and whatever else git does not keep are those of today.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

import bench
from bench.config import overlay
from bench.differences import methods_of
from bench.store.commits import Commit
from bench.types import PlannedCell, UsageError, first_line, shown

#: The harness with its methods.
ROOT = Path(bench.__file__).resolve().parent.parent
#: Where presets have been, newest first.
PRESETS = (Path("bench", "config", "presets"), Path("bench", "presets"))


class Table(NamedTuple):
    """A table as a command asks for it."""

    what: str
    variants: Mapping[str, str] = {}
    epochs: int | None = None
    settings: Sequence[str] = ()
    n: int | None = None
    seed: int | None = None
    data_folder: Path | None = None
    only: str | None = None


class Earlier(NamedTuple):
    """The cells of a table at a commit.

    ``unlike`` are those whose keys it does not have now, and ``same`` the keys of the others. ``strays`` are sources of
    methods in the repository that were not read as the commit has them: files in no commit, or named by absolute paths.
    """

    same: frozenset[str]
    unlike: tuple[PlannedCell, ...]
    strays: frozenset[str]


def cells(commit: Commit, folder: Path, table: Table, known: Collection[str]) -> Earlier:
    """Return the cells of a table at a commit.

    Args:
        commit: of the repository around the current folder.
        folder: in which it is checked out.
        table: the table.
        known: the keys that it has now.

    Raises:
        UsageError: this harness cannot plan the table as the commit has it.
    """
    here = folder / (commit.inside(Path.cwd()) or "")
    here.mkdir(parents=True, exist_ok=True)
    _link(commit, folder)
    there = _there(commit, folder)
    asked = {
        **table._asdict(),
        "what": _what(commit, there, table.what),
        "data_folder": table.data_folder and os.path.abspath(table.data_folder),
        "folders": [str(folder), str(commit.top)],
        "root": there(str(ROOT)),
        "presets": _presets(Path(there(str(ROOT)))),
        "path": [there(os.path.abspath(each)) for each in sys.path],
        "known": list(known),
    }
    return _received(_asked(asked, here))


def _there(commit: Commit, folder: Path) -> Callable[[str], str]:
    def there(path: str) -> str:
        """Return a path of the repository as it is where the commit is checked out, and any other as it is."""
        inside = commit.inside(Path(path))
        return path if inside is None or not (folder / inside).exists() else str(folder / inside)

    return there


def _what(commit: Commit, there: Callable[[str], str], what: str) -> str:
    """Return the table as it is named where the commit is checked out."""
    if not what.endswith(".toml") or (commit.inside(Path(what)) is not None and not os.path.isabs(what)):
        return what
    return there(os.path.abspath(what))


def _presets(root: Path) -> str:
    found = (root / each for each in PRESETS if (root / each).is_dir())
    return str(next(found, overlay.PRESETS))


def _link(commit: Commit, folder: Path) -> None:
    """Give a checked-out commit what git does not keep, such as images and weights: taken to be the same then."""
    for each in commit.in_no_commit:
        link = folder / each.rstrip("/")
        if link.parent.is_dir() and not os.path.lexists(link):
            link.symlink_to(commit.top / each.rstrip("/"))


def _asked(asked: Mapping[str, Any], here: Path) -> bytes:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if data := os.environ.get("CROSSFIRE_DATA"):
        environment["CROSSFIRE_DATA"] = os.path.abspath(data)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench.schedule.earlier"],
        input=json.dumps(asked).encode(),
        capture_output=True,
        cwd=here,
        env=environment,
        # Ctrl-C is for this process, which then ends that.
        start_new_session=True,
    )
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UsageError(last or f"it ends with exit code {done.returncode}")
    return done.stdout


def _received(answer: bytes) -> Earlier:
    first, *lines = answer.splitlines()
    head = json.loads(first)
    if "error" in head:
        raise UsageError(head["error"])
    try:
        unlike = tuple(map(PlannedCell.model_validate_json, lines))
    except ValidationError as error:
        raise UsageError(f"what it plans cannot be read: {first_line(error)}") from None
    return Earlier(frozenset(head["same"]), unlike, frozenset(head["strays"]))


# In the process of its own.


def _answered(asked: dict[str, Any]) -> list[str]:
    """Return the lines of the answer: the head, then each cell that is not known."""
    sys.path[:] = asked["path"]
    from bench import registry
    from bench.config import overrides, sections
    from bench.schedule.plan import make

    registry.read_from(Path(asked["root"]))
    overlay.PRESETS = Path(asked["presets"])
    settings = [overrides.setting(text) for text in asked["settings"]]
    request = sections.request(asked["what"], asked["variants"], epochs=asked["epochs"], settings=settings)
    data_folder = asked["data_folder"] and Path(asked["data_folder"])
    options = {name: asked[name] for name in ("n", "seed")}
    work = make(*request.parts, name=request.name, data_folder=data_folder, lenient=True, **options)
    known = set(asked["known"])
    same = [planned.key for planned in work.plan.cells if planned.key in known]
    methods = {ref.code_sha: ref for ref in chain.from_iterable(methods_of(each.cell) for each in work.plan.cells)}
    read = frozenset[Path]().union(*map(registry.code_files_of, methods.values()))
    strays = [str(path) for path in read if _is_stray(path, *map(Path, asked["folders"]))]
    unlike = (planned.model_dump_json(by_alias=True) for planned in work.plan.cells if planned.key not in known)
    return [json.dumps({"same": same, "strays": strays}), *unlike]


def _is_stray(path: Path, folder: Path, top: Path) -> bool:
    return path.is_relative_to(top) and not path.is_relative_to(folder)


def _main() -> None:
    from bench.process.ending import end_with

    end_with(os.getppid())
    answer = os.dup(1)
    # A library may print while it is looked at.
    os.dup2(2, 1)
    try:
        lines = _answered(json.load(sys.stdin))
    except UsageError as error:
        lines = [json.dumps({"error": str(error)})]
    # A table of another time may break what this harness takes for granted.
    except Exception as error:
        lines = [json.dumps({"error": f"{type(error).__name__}: {shown(first_line(error))}"})]
    with os.fdopen(answer, "wb") as file:
        file.writelines(f"{line}\n".encode() for line in lines)


if __name__ == "__main__":
    _main()
