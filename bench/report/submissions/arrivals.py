"""When each file of a folder of submissions came into its branch, which those who submit cannot write themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bench.store.git import git_bytes

#: Names of all files of a branch by its own commits, newest first: what a merge brought in came with the merge. Dates
#: of commits are what their authors write, so that none is asked for.
_LOG = ("-c", "log.showSignature=false", "-c", "log.follow=false", "log", "--first-parent")
_NAMES = ("--diff-merges=first-parent", "--no-renames", "--name-only", "--relative", "-z", "--format=tformat:%H")


def arrivals(root: Path) -> Mapping[str, int]:
    """Return by the path of each file below a folder its place in the order in which the branch got them as they are.

    Files of one commit, or of a merge, have one place. A file that is in no commit has none, and none has one where
    there is no git or no repository. In a clone that was cut short all that is older came at once.
    """
    log = git_bytes(root, *_LOG, *_NAMES, "--", ".")
    newest_first: dict[str, int] = {}
    commits = 0
    for text in (log or b"").split(b"\0"):
        # Names of a commit begin in a new line behind its hash, and those of files of submissions have a folder.
        name = os.fsdecode(text.removeprefix(b"\n"))
        if "/" in name:
            newest_first.setdefault(name, commits)
        elif name:
            commits += 1
    return {name: commits - place for name, place in newest_first.items()}


def came_last(root: Path) -> frozenset[str] | None:
    """Return the files below a folder that the last commit or merge changed, and those that are in none.

    ``None`` where there is no git or no repository.
    """
    others = git_bytes(root, "ls-files", "--others", "-z", "--", ".")
    last = git_bytes(root, *_LOG, "-1", *_NAMES, "--", ".")
    if others is None or last is None:
        return None
    names = (text.removeprefix(b"\n") for text in (*others.split(b"\0"), *last.split(b"\0")[1:]))
    return frozenset(os.fsdecode(name) for name in names if name)
