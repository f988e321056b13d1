"""The harness at another commit: what starts it where that commit is checked out, and what it plans there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import bench
from bench.process.children import ending
from bench.process.ending import end_with, how_it_ended
from bench.schedule.files_read import KeyFiles
from bench.store.git import environment
from bench.store.worktree import Worktree, because_of_submodules
from bench.types import UsageError, shown

#: The harness as it is installed: its console script only does this. The name is for messages that repeat the command.
_INSTALLED = "import sys; sys.argv[0] = 'crossfire'; from bench.cli import main; raise SystemExit(main())"
#: Exit codes with which a plan is printed: all cells can be measured, or some will fail.
_PLANNED = (0, 3)
_KEY = re.compile(r"[0-9a-f]{64}")
#: Bytes that are read of what a run wrote to standard error.
_LONGEST = 2**16


#: An environment variable by which ``run`` leaves out table and page; an option would not be known to every harness.
ONLY_RESULTS = "CROSSFIRE_ONLY_RESULTS"
#: One by which ``plan --json`` names with each cell the files behind its key, those below a folder.
FILES_BELOW = "CROSSFIRE_PLAN_FILES_BELOW"


class NotMeasurable(UsageError):
    """A commit at which a cell cannot be measured: the line says why."""


class CellAt(NamedTuple):
    """A cell as a commit plans it: its key there, and its name ``dataset/model/defense/attack/access``.

    ``behind`` are the files behind the key, seen from the root of the commit; ``None`` where its harness says nothing.
    """

    key: str
    name: str
    behind: KeyFiles | None = None


class PlanAt(NamedTuple):
    """What a commit plans: its cells, and the keys of the trainings and adversarial sets that they need."""

    cells: list[CellAt]
    trainings: list[str]
    sets: list[str]


def has_own_harness(folder: Path) -> bool:
    """Say whether a folder holds a harness of its own, as a checkout of Crossfire or a fork of it does."""
    return (folder / "run_bench.py").is_file() and (folder / "bench" / "cli" / "__init__.py").is_file()


def command_in(folder: Path) -> list[str]:
    """Return the command that starts the harness of a folder.

    That is its own ``run_bench.py`` where it has one, and otherwise the harness that runs now.
    """
    root = Path(bench.__file__).resolve().parent.parent
    for each in (folder, root):
        if has_own_harness(each):
            return [sys.executable, str(each / "run_bench.py")]
    # Without -P a folder `bench` of the current folder would be taken for it.
    return [sys.executable, "-P", "-c", _INSTALLED]


def start(tree: Worktree, arguments: Sequence[str], *, inside: Path = Path(), **streams: Any) -> subprocess.Popen[str]:
    """Start the harness of a commit, with that commit as the current folder; it ends at the latest when this one does.

    Args:
        tree: where the commit is checked out.
        arguments: of the harness, the verb first.
        inside: the current folder, relative to the root of the commit.
        streams: what :class:`subprocess.Popen` takes for standard output and error.

    Raises:
        NotMeasurable: the commit has no such folder, or the process cannot be started.
    """
    folder = tree.path / inside
    if not folder.is_dir():
        raise NotMeasurable(f"the commit {tree.commit[:10]} has no folder {shown(str(inside))}")
    try:
        return subprocess.Popen(
            [*command_in(tree.path), *arguments],
            cwd=folder,
            env=_environment(tree),
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            pass_fds=(tree.lock,),
            preexec_fn=partial(end_with, _this_process()),
            **streams,
        )
    except OSError as error:
        raise NotMeasurable(f"the harness of {tree.commit[:10]} cannot be started: {error.strerror}") from None


def _environment(tree: Worktree) -> dict[str, str]:
    """Return the environment of a commit: folders of the checkout that Python searches become those of the commit."""
    own = {**environment(), ONLY_RESULTS: "1", FILES_BELOW: str(tree.path.resolve())}
    searched = own.get("PYTHONPATH", "").split(os.pathsep)
    if tree.checkout is None or not any(searched):
        return own
    moved = [_moved(each, tree.checkout, tree.path) if os.path.isabs(each) else each for each in searched]
    return own | {"PYTHONPATH": os.pathsep.join(moved)}


def _moved(folder: str, checkout: Path, tree: Path) -> str:
    real = Path(folder).resolve()
    # The harness that measures is the one that runs now, unless the commit has one.
    is_kept_there = real.is_relative_to(checkout) and not has_own_harness(real)
    return str(tree / real.relative_to(checkout)) if is_kept_there else folder


def cells_at(tree: Worktree, arguments: Sequence[str], *, inside: Path = Path()) -> list[CellAt]:
    """Return the cells that the harness of a commit plans; see :func:`plan_at`."""
    return plan_at(tree, arguments, inside=inside).cells


def plan_at(tree: Worktree, arguments: Sequence[str], *, inside: Path = Path()) -> PlanAt:
    """Return what the harness of a commit plans.

    Args:
        tree: where the commit is checked out.
        arguments: of ``plan``, without ``--json``; paths in them are relative to the commit unless absolute.
        inside: the current folder, relative to the root of the commit.

    Raises:
        NotMeasurable: that harness cannot read the configuration, or fails; the line says which commit, and why.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(tree, ["plan", *arguments, "--json", "--quiet"], inside=inside, **pipes)
    with ending(process):
        output, errors = process.communicate()
    if process.returncode not in _PLANNED:
        why = reason(process.returncode, errors)
        why += because_of_submodules(tree, why)
        raise NotMeasurable(f"the commit {tree.commit[:10]} cannot plan it: {why}")
    try:
        return read_plan(output)
    except ValueError as error:
        raise NotMeasurable(f"the commit {tree.commit[:10]} cannot plan it: {error}") from None


def read_plan(text: str) -> PlanAt:
    """Return what ``plan --json`` printed.

    Raises:
        ValueError: it is something else.
    """
    try:
        nodes = json.loads(text)
        cells = [CellAt(_key(node), _name(node), _behind(node)) for node in nodes if node["kind"] == "evaluate"]
        trainings, sets = ([_key(node) for node in nodes if node["kind"] == kind] for kind in ("train", "attack"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("what its plan --json prints is not understood") from None
    return PlanAt(cells, trainings, sets)


def _key(node: dict[str, str]) -> str:
    if not _KEY.fullmatch(node["key"]):
        raise ValueError("no key")
    return node["key"]


def _name(node: dict[str, str]) -> str:
    return node["what"].removeprefix("evaluate ")


def _behind(node: dict[str, Any]) -> KeyFiles | None:
    return KeyFiles.read(node["behind"]) if "behind" in node else None


def run_at(tree: Worktree, arguments: Sequence[str], *, inside: Path = Path()) -> tuple[int, str]:
    """Run the harness of a commit, and return its exit code and the end of what it wrote to standard error.

    It is in a group of processes of its own, so that Ctrl-C ends it once, and through this process.

    Args:
        tree: where the commit is checked out.
        arguments: of ``run``.
        inside: the current folder, relative to the root of the commit.

    Raises:
        NotMeasurable: the process cannot be started.
    """
    with tempfile.TemporaryFile() as errors:
        streams = {"stdout": subprocess.DEVNULL, "stderr": errors, "process_group": 0}
        process = start(tree, ["run", *arguments, "--quiet"], inside=inside, **streams)
        with ending(process):
            process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _LONGEST))
        return process.returncode, errors.read().decode("utf-8", "replace")


def reason(code: int, errors: str) -> str:
    """Return in a line why the harness failed, from its exit code and what it wrote to standard error."""
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else how_it_ended(code)


def _this_process() -> int:
    # Loaded here, and not by the new process between its fork and its start.
    import ctypes  # noqa: F401

    return os.getpid()
