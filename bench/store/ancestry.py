"""Commits as a repository knows them: their order by ancestry, what they are called, and the page that shows them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.store.git import git, git_bytes
from bench.store.lineage import Described
from bench.store.runs import COMMIT
from bench.types import shortened
from bench.visible import visible

_LONGEST_SUBJECT = 120
#: An address that is read by anybody: what stands before an @ is a name and a password, and is dropped.
_HTTPS = re.compile(r"https://(?:[^@/\s]*@)?(?P<host>[A-Za-z0-9.-]+(?::[0-9]{1,5})?)/(?P<path>[A-Za-z0-9._~/-]+?)/?")
#: The address of the same repository for its members.
_SSH = re.compile(
    r"(?:ssh://)?git@(?P<host>github\.com|gitlab\.com|codeberg\.org|bitbucket\.org)[:/](?P<path>[\w./~-]+?)/?"
)
#: Where the page of a commit lies, by a part of the name of its host.
_PAGES = {
    "github": "commit",
    "gitlab": "-/commit",
    "codeberg": "commit",
    "gitea": "commit",
    "forgejo": "commit",
    "bitbucket": "commits",
    "sr.ht": "commit",
}


class KnownCommits(NamedTuple):
    """Those of some commits that a repository has."""

    #: Ancestors before descendants; commits of one branch stand together.
    order: tuple[str, ...]
    #: For each the places of its ancestors in ``order``, and its own, as the bits of an integer.
    ancestors: Mapping[str, int]
    #: The same, of those alone that are reached through first parents: what was merged into a branch is not on it.
    mainline: Mapping[str, int]
    about: Mapping[str, Described]


def known_commits(repository: Path, names: Collection[str]) -> KnownCommits:
    """Return those of the full names that are commits of the repository, in their order by ancestry."""
    asked = "".join(f"{name}\n" for name in sorted(names) if COMMIT.fullmatch(name)).encode()
    checked = _lines(git_bytes(repository, "cat-file", "--batch-check=%(objectname) %(objecttype)", given=asked))
    known = {name for name, _, kind in (line.partition(" ") for line in checked) if kind == "commit"}
    given = "".join(f"{name}\n" for name in sorted(known)).encode()
    if not known:
        return KnownCommits((), {}, {}, {})
    walked = _lines(git_bytes(repository, "rev-list", "--topo-order", "--reverse", "--parents", "--stdin", given=given))
    described = git_bytes(
        repository, "rev-list", "--no-walk=unsorted", "--encoding=UTF-8", "--format=%H%x00%cI%x00%s", "--stdin",
        given=given,
    )  # fmt: skip
    about = {}
    for line in _lines(described):
        name, *rest = line.split("\0")
        if len(rest) == 2:
            about[name] = Described(name, shortened(visible(rest[1]), _LONGEST_SUBJECT), visible(rest[0]))
    order, ancestors = _by_ancestry(walked, known)
    return KnownCommits(order, ancestors, _by_ancestry(walked, known, first_parents=True)[1], about)


def _lines(output: bytes | None) -> list[str]:
    return (output or b"").decode(errors="replace").split("\n")


def _by_ancestry(
    walked: list[str], wanted: Collection[str], *, first_parents: bool = False
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the wanted commits, ancestors first, and the ancestors of each.

    Args:
        walked: lines of a commit and its parents, no parent after its child.
        wanted: what is asked for; others only lead from one of these to the next.
        first_parents: whether only the first parent of a merge leads on.
    """
    order: list[str] = []
    reached: dict[str, int] = {}
    for line in walked:
        name, *parents = line.split() or [""]
        bits = 0
        for parent in parents[:1] if first_parents else parents:
            bits |= reached.get(parent, 0)
        if name in wanted:
            bits |= 1 << len(order)
            order.append(name)
        reached[name] = bits
    return tuple(order), {name: reached[name] for name in order}


def commit_pages(repository: Path) -> str | None:
    """Return what the addresses of its commits' pages begin with, such as ``https://github.com/a/b/commit/``.

    It is made of the address of the remote ``origin``, or of the only remote, without a name and password in it;
    ``None`` where the host is not known to have such pages.
    """
    remotes = (git(repository, "remote") or "").split()
    remote = "origin" if "origin" in remotes else next(iter(remotes), "")
    address = git(repository, "remote", "get-url", "--", remote) if len(remotes) == 1 or remote == "origin" else None
    found = _HTTPS.fullmatch(address or "") or _SSH.fullmatch(address or "")
    if found is None or not found["path"].isascii():
        return None
    parts = found["path"].removesuffix(".git").split("/")
    page = next((page for part, page in _PAGES.items() if part in found["host"].lower()), None)
    if page is None or len(parts) < 2 or not all(part.strip(".") for part in parts):
        return None
    return f"https://{found['host'].lower()}/{'/'.join(parts)}/{page}/"
