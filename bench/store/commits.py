"""One commit of the repository around the current folder, and what differs from it now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.store.git import git, git_bytes
from bench.store.worktree import commit_of
from bench.types import UsageError

#: Files without a commit that may hold code, or a table, as pathspecs of git.
_SOURCES = ("*.py", "*.toml")


@dataclass(frozen=True)
class Commit:
    """A commit, by the name that it was given and its full one, in the repository at ``top``."""

    top: Path
    name: str
    sha: str

    @cached_property
    def changed(self) -> frozenset[str]:
        """The files that are not as in the commit, by their paths from the top, and sources that are in no commit."""
        differing = self._listed("diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", self.sha, "--")
        return differing | self.unknown_sources

    @cached_property
    def renamed(self) -> Mapping[str, str]:
        """By its path from the top the one that a file had in the commit, where git finds that it was renamed."""
        options = ("--name-status", "--find-renames", "--diff-filter=R", "--no-ext-diff", "-z")
        # Of each: R with how alike they are, the old path, the new one.
        fields = self._fields("diff", *options, self.sha, "--")
        return dict(zip(fields[2::3], fields[1::3], strict=True))

    @cached_property
    def uncommitted(self) -> frozenset[str]:
        """The files that differ from the commit that is checked out, and sources that are in no commit."""
        return self._listed("diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", "HEAD", "--") | (
            self.unknown_sources
        )

    @cached_property
    def unknown_sources(self) -> frozenset[str]:
        """Python and TOML files that git neither tracks nor ignores."""
        return self._listed("ls-files", "--others", "--exclude-standard", "-z", "--", *_SOURCES)

    @cached_property
    def in_no_commit(self) -> frozenset[str]:
        """What git ignores, or does not track and holds no source: files, and folders that end with a slash."""
        ignored = self._listed("ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z")
        others = self._listed("ls-files", "--others", "--exclude-standard", "--directory", "-z")
        return ignored | {path for path in others if not self._holds_source(path)}

    def keeps(self, path: Path) -> bool:
        """Say whether a file is one of the repository, and neither ignored nor within what is."""
        inside = self.inside(path)
        if inside is None:
            return False
        name = inside.as_posix()
        return not any(name == each or (each.endswith("/") and name.startswith(each)) for each in self.in_no_commit)

    def has(self, path: Path) -> bool:
        """Say whether the commit has a file of the repository."""
        return self.inside(path) is not None and git(self.top, "cat-file", "-e", self._named(path)) is not None

    def text(self, path: Path) -> bytes | None:
        """Return a file of the repository as the commit has it; ``None`` where it has none."""
        return git_bytes(self.top, "cat-file", "blob", self._named(path)) if self.inside(path) is not None else None

    def inside(self, path: Path) -> Path | None:
        """Return a path as it is seen from the top of the repository; ``None`` of one outside."""
        absolute = Path(os.path.abspath(path))
        for each in (absolute, absolute.resolve()):
            if each.is_relative_to(self.top):
                return each.relative_to(self.top)
        return None

    def from_top(self, path: Path) -> str:
        """Return a path as git writes it, seen from the top; empty for one outside of the repository."""
        inside = self.inside(path)
        return "" if inside is None else inside.as_posix()

    def _named(self, path: Path) -> str:
        return f"{self.sha}:{self.from_top(path)}"

    def _holds_source(self, path: str) -> bool:
        return any(source == path or source.startswith(path) for source in self.unknown_sources)

    def _listed(self, *arguments: str) -> frozenset[str]:
        return frozenset(self._fields(*arguments))

    def _fields(self, *arguments: str) -> list[str]:
        listed = git_bytes(self.top, *arguments)
        if listed is None:
            raise UsageError(
                f"git {arguments[0]} fails in {self.top}, so it is not known what changed since {self.name}"
            )
        return [os.fsdecode(each) for each in listed.split(b"\0") if each]


def commit_named(name: str, option: str) -> Commit:
    """Return a commit of the repository around the current folder.

    Args:
        name: ``abc123``, ``main``, ``HEAD~1``.
        option: that gives it, for the message.

    Raises:
        UsageError: there is no repository, or it has no such commit.
    """
    here = Path.cwd()
    try:
        sha = commit_of(here, name)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None
    top = git(here, "rev-parse", "--show-toplevel")
    if not top:
        raise UsageError(f"{option}: {here} is no folder of a checkout; run it in one")
    return Commit(Path(top), name, sha)
