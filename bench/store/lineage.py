"""What git says of commits: which lie between two, which one halves them, and what each is called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.store.git import run_git
from bench.types import UsageError, shortened

#: What means something else in a pattern of git, and how it stands there for itself.
_SPECIAL, _ESCAPED = re.compile(r"[][\\.^$*+?(){}|]"), r"\\\g<0>"
#: Characters of a subject that are shown.
_LONGEST = 100


class Described(NamedTuple):
    """A commit: its hash, the first line of its message, and a time, as ISO 8601."""

    sha: str
    subject: str
    date: str

    def __str__(self) -> str:
        return f"{self.sha[:10]} {self.subject}".rstrip()


class History:
    """The commits of a repository.

    Args:
        repository: a folder in it.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository

    def described(self, sha: str) -> Described:
        """Return what a commit is called, and when it was written.

        Its subject is text of others: it may hold any character.
        """
        line = self._said("show", "--no-patch", "--no-show-signature", "--encoding=UTF-8", "--format=%aI%x00%s", sha)
        date, _, subject = line.partition("\0")
        return Described(sha, shortened(subject, _LONGEST), date)

    def require_ancestor(self, good: str, bad: str) -> None:
        """Raises UsageError: ``good`` is no ancestor of ``bad``, or is the same commit."""
        if good == bad:
            raise UsageError(f"GOOD and BAD are one commit, {good[:10]}: there is nothing between them")
        if self._is_ancestor(good, bad):
            return
        if self._is_ancestor(bad, good):
            raise UsageError(f"GOOD ({good[:10]}) comes after BAD ({bad[:10]}): give the older one first")
        shallow = self._said("rev-parse", "--is-shallow-repository") == "true"
        hint = "; the clone is shallow: git fetch --unshallow" if shallow else "; name one that BAD was built on"
        raise UsageError(f"GOOD ({good[:10]}) is no ancestor of BAD ({bad[:10]}){hint}")

    def _is_ancestor(self, old: str, new: str) -> bool:
        return run_git(self._repository, "merge-base", "--is-ancestor", old, new).returncode == 0

    def between(self, good: str, bad: str) -> list[str]:
        """Return the commits that were built on ``good`` and that ``bad`` was built on, and ``bad``, oldest first."""
        order = ("--topo-order", "--reverse", "--ancestry-path")
        return self._said("rev-list", *order, bad, f"^{good}").split()

    def halving(self, goods: Sequence[str], bad: str) -> list[str]:
        """Return the commits up to ``bad`` that no good one was built on, ``bad`` too, the most dividing first.

        Of merged branches these are divided as by ``git bisect``: by how many of them a commit was built on. Commits
        that were not built on the first good one are left out.
        """
        excluded = (f"^{good}" for good in goods)
        listed = self._said("rev-list", "--bisect-all", bad, *excluded)
        # Behind each hash stand, in brackets, names of branches and how well it divides.
        found = [line.partition(" ")[0] for line in listed.splitlines()]
        # Not by --ancestry-path, for which commits may have been built on any of the good ones.
        within = set(self.between(goods[0], bad))
        return [each for each in found if each in within]

    def changing(self, path: str, good: str, bad: str) -> list[str]:
        """Return the commits of :meth:`between` that changed a file, newest first."""
        return self._said("rev-list", "--topo-order", "--ancestry-path", bad, f"^{good}", "--", f":(top){path}").split()

    def changed(self, good: str, bad: str) -> set[str]:
        """Return the files that commits between two changed, and those in which the two differ, seen from the top."""
        commits = self._said("rev-list", bad, f"^{good}")
        options = ("diff-tree", "-r", "--no-commit-id", "--name-only", "--no-renames", "-z")
        by_commits = run_git(self._repository, *options, "-m", "--stdin", given=f"{commits}\n".encode()).stdout
        by_ends = run_git(self._repository, *options, good, bad).stdout
        return {os.fsdecode(name) for name in (by_commits + by_ends).split(b"\0") if name}

    def parents(self, sha: str) -> list[str]:
        """Return the commits that one was built on: several for a merge, none for a first."""
        return self._said("rev-list", "--parents", "-n", "1", sha).split()[1:]

    def hash_of(self, sha: str, path: str) -> str | None:
        """Return the hash of a file or folder in a commit, which is that of its content; ``None`` if it has none."""
        done = run_git(self._repository, "rev-parse", "--verify", "--quiet", f"{sha}:{path}")
        return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else None

    def hashes_of(self, sha: str, paths: Sequence[str]) -> dict[str, str]:
        """Return the hash of each file that a commit has of some, by one call of git however many they are."""
        if not paths:
            return {}
        done = run_git(self._repository, "ls-tree", "-r", "-z", "--full-tree", sha)
        # Of each: mode, kind and hash, a tab, the path.
        entries = (os.fsdecode(entry).partition("\t")[::2] for entry in done.stdout.split(b"\0") if entry)
        wanted = set(paths)
        return {path: described.split()[2] for described, path in entries if path in wanted}

    def bytes_of(self, sha: str, path: str) -> bytes | None:
        """Return the content of a file in a commit; ``None`` if it has none."""
        done = run_git(self._repository, "cat-file", "blob", f"{sha}:{path}")
        return done.stdout if done.returncode == 0 else None

    def files_naming(self, sha: str, folder: str, pattern: str) -> list[str]:
        """Return the files of a commit that name paths in a folder, of those that match a pattern like ``*.py``."""
        options = ("grep", "-z", "-l", "-E", "--full-name")
        # Not as the end of a longer path.
        text = rf"(^|[^[:alnum:]_./-]){_SPECIAL.sub(_ESCAPED, folder)}/"
        found = run_git(self._repository, *options, "-e", text, sha, "--", f":(top){pattern}")
        # Before each name stand the hash and a colon.
        return [os.fsdecode(each).partition(":")[2] for each in found.stdout.split(b"\0") if each]

    def is_edited(self) -> bool:
        """Say whether tracked files have changes that are part of no commit."""
        return bool(self._said("status", "--porcelain", "--untracked-files=no"))

    def _said(self, *arguments: str) -> str:
        done = run_git(self._repository, *arguments)
        if done.returncode != 0:
            why = (os.fsdecode(done.stderr).strip().splitlines() or [f"code {done.returncode}"])[-1]
            raise UsageError(f"git {arguments[0]} failed in {self._repository}: {why}")
        return done.stdout.decode("utf-8", "replace").strip()
