"""Patterns that people type for columns, rows and attacks: shell-style, whatever the case, and as one can type them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache

#: What is written in two ways: as tables have it, and as it is typed.
_TYPED = {"linf": "l∞", "eps=": "ε=", "−": "-"}


def matches(pattern: str, names: Iterable[str]) -> bool:
    """Say whether a pattern is one of some names, or matches one."""
    # A name with brackets is itself, whatever these mean in a pattern.
    wanted = folded(pattern)
    return any(wanted == name or fnmatchcase(name, wanted) for name in map(folded, names))


@cache
def folded(name: str) -> str:
    """Return a name or a pattern as it is compared: in small letters, and what few can type as it is in tables."""
    text = name.casefold()
    for typed, shown in _TYPED.items():
        text = text.replace(typed, shown)
    return text


def with_threat(name: str, group: str) -> list[str]:
    """Return what a thing under a threat may be asked for by: its name alone, with the threat, or with its norm."""
    norm = group.partition(" ")[0]
    return [name, f"{name} {norm}", f"{name} {group}"]
