"""A commit in a folder of its own, for as long as it is needed: a worktree of git that nobody else uses.

It lies in the folder of git itself, so that what a killed process left behind is found however late:

    .git/crossfire/lock          held while a worktree is begun or leftovers are removed
    .git/crossfire/<id>.lock     held as long as the worktree is used; released by the system when its user dies
    .git/crossfire/<id>/         what is checked out

Git is told to run no hook. Other worktrees of the repository are never listed, pruned or touched.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from bench.store.git import run_git
from bench.types import UsageError, shown

_ID = re.compile(r"[0-9a-f]{16}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAMED = 3


class Worktree(NamedTuple):
    """A commit that is checked out.

    Attributes:
        path: the folder.
        commit: its full hash.
        lock: the number of a file that is locked; a process that is given it keeps the folder from being removed as a
            leftover for as long as it lives.
        checkout: the folder that the repository itself is checked out in, links resolved; ``None`` of a bare one.
    """

    path: Path
    commit: str
    lock: int
    checkout: Path | None = None


def commit_of(repository: Path, name: str) -> str:
    """Return the full hash of a commit (``abc123``, ``main``, ``HEAD~1``).

    Raises:
        UsageError: the folder is in no repository, there is no such commit, or its name begins with a hyphen.
    """
    if name.startswith("-") or not name or "\0" in name:
        raise UsageError(f"{shown(name)} is no name of a commit")
    common_folder(repository)
    done = run_git(repository, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    sha = done.stdout.decode("ascii", "replace").strip()
    # Of ^HEAD, git says the hash with that sign before it.
    if done.returncode != 0 or not _HASH.fullmatch(sha):
        any_commit = run_git(repository, "rev-list", "--max-count=1", "--all")
        if any_commit.returncode == 0 and not any_commit.stdout:
            raise UsageError(f"{shown(name)} is no commit: the repository in {repository} has no commits yet")
        raise UsageError(f"{shown(name)} is no commit of the repository in {repository}{_if_shallow(repository)}")
    return sha


def _if_shallow(repository: Path) -> str:
    """Return what to add to a message on a commit that is not there: in a shallow clone, what brings the others."""
    is_shallow = run_git(repository, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
    if not is_shallow:
        return ""
    return (
        "; the clone is shallow: git fetch --unshallow brings the rest (in a job, fetch-depth: 0 of actions/checkout)"
    )


@contextmanager
def worktree(repository: Path, commit: str) -> Iterator[Worktree]:
    """Check a commit out into a new folder, which is removed at the end of the block, however that ends.

    What was changed and not committed is not in it, and neither are ignored files and what is in submodules. What
    processes that were killed have left behind is removed first.

    Args:
        repository: a folder in the repository.
        commit: its hash, or a name of it.

    Raises:
        UsageError: :func:`commit_of` says so, or the commit cannot be checked out.
    """
    sha = commit_of(repository, commit)
    common = common_folder(repository)
    folder, checkout = common / "crossfire", None
    with _begun(folder, common) as (path, lock):
        try:
            done = run_git(common, "worktree", "add", "--quiet", "--detach", str(path), sha)
            if done.returncode != 0:
                raise UsageError(f"the commit {sha[:10]} cannot be checked out: {_reason(done)}")
            with suppress(UsageError):
                checkout = root_of(repository)
            yield Worktree(path, sha, lock.fileno(), checkout)
        finally:
            _remove(path, common)


@contextmanager
def scratch(repository: Path) -> Iterator[Path]:
    """Return an empty folder beside the worktrees, which is removed like them.

    Args:
        repository: a folder in the repository.

    Raises:
        UsageError: it cannot be made.
    """
    common = common_folder(repository)
    with _begun(common / "crossfire", common) as (path, _):
        try:
            path.mkdir()
        except OSError as error:
            raise UsageError(f"no folder can be made in {path.parent}: {error.strerror}") from None
        try:
            yield path
        finally:
            _remove(path, common)


@contextmanager
def _begun(folder: Path, common: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Remove leftovers, and hold the lock of a new worktree, of which the path is returned, inside the block."""
    try:
        folder.mkdir(exist_ok=True)
        with _locked(folder / "lock"):
            _remove_leftovers(folder, common)
            path = folder / secrets.token_hex(8)
            mine = _opened(_lock_of(path))
            fcntl.flock(mine, fcntl.LOCK_EX)
    except OSError as error:
        raise UsageError(f"no commit can be checked out in {folder}: {error.strerror}") from None
    with mine:
        yield path, mine


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb")


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _remove_leftovers(folder: Path, common: Path) -> None:
    """Remove the worktrees whose lock nobody holds. What is not named as one is not of this module, and stays."""
    for name in sorted({each.partition(".")[0] for each in os.listdir(folder) if _ID.match(each)}):
        path = folder / name
        if not _ID.fullmatch(name):
            continue
        with suppress(OSError), _opened(_lock_of(path)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path, common)


def _remove(path: Path, common: Path) -> None:
    # Git refuses a folder that is removed by half, and forgets one that is not there any more.
    shutil.rmtree(path, ignore_errors=True)
    if not os.path.lexists(path):
        run_git(common, "worktree", "remove", "--force", "--force", str(path))
        _lock_of(path).unlink(missing_ok=True)


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = os.fsdecode(done.stderr).strip().splitlines()
    return lines[-1] if lines else f"git ended with code {done.returncode}"


def common_folder(repository: Path) -> Path:
    """Return the folder of git that all worktrees of a repository share."""
    done = run_git(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if done.returncode != 0:
        raise UsageError(f"git finds no repository in {repository}: {_reason(done)}")
    return Path(os.fsdecode(done.stdout.removesuffix(b"\n")))


def root_of(repository: Path) -> Path:
    """Return the folder that a repository is checked out in, links resolved, given one in it.

    Raises:
        UsageError: nothing is checked out, as in a bare repository.
    """
    done = run_git(repository, "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        if run_git(repository, "rev-parse", "--is-bare-repository").stdout.strip() == b"true":
            raise UsageError(f"the repository in {repository} is bare, nothing is checked out: work in a clone of it")
        raise UsageError(f"git finds no checkout in {repository}: {_reason(done)}")
    return Path(os.fsdecode(done.stdout.removesuffix(b"\n"))).resolve()


def is_tracked(root: Path, path: Path) -> bool:
    """Say whether git keeps a file of a checkout, or files in a folder of it."""
    real = path.resolve()
    if not real.is_relative_to(root):
        return False
    # No pattern: the name is meant as it is.
    done = run_git(root, "ls-files", "-z", "--", f":(literal){os.path.relpath(real, root)}")
    return done.returncode == 0 and bool(done.stdout)


def because_of_submodules(tree: Worktree, message: str) -> str:
    """Return what to add to a message on a file of a worktree: which of its submodules the file is in, if in one.

    Submodules are not checked out.
    """
    listed = run_git(tree.path, "ls-tree", "-r", "-z", "--full-tree", tree.commit).stdout.split(b"\0")
    names = [os.fsdecode(each.partition(b"\t")[2]) for each in listed if each.startswith(b"160000 ")]
    roots = {str(tree.path), str(tree.path.resolve())}
    meant = [name for name in names if any(f"{root}/{name}/" in message for root in roots)]
    return f"; {', '.join(meant[:_NAMED])} is a submodule, which is not checked out there" if meant else ""
