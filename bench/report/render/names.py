"""Names that fit into a place: cut so that no two look alike, broken into pieces, and how wide they are."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from os.path import commonprefix
from unicodedata import east_asian_width

from bench.report.render import text

CUT = "…"

#: Letters of a heading that stay on one line if they can, and at most.
_PIECE_LETTERS = 14
_LONGEST_PIECE = 20

#: Advance widths in em, rounded up from DejaVu Sans, which is the widest of the fonts that browsers come with.
_WIDTHS = {
    **dict.fromkeys("ijlI.,:;'|!/\\ ", 0.34),
    **dict.fromkeys('-()[]ftr"`', 0.46),
    **dict.fromkeys("mwMW=+%@#~<>…", 1.0),
}
_LOWER_CASE = 0.64
_UPPER_CASE = 0.79


def width_of(name: str) -> float:
    """Return how wide a text is at most, in em of a common sans-serif font."""
    return sum(_WIDTHS.get(letter) or _common_width(letter) for letter in name)


def _common_width(letter: str) -> float:
    if letter.isascii():
        return _UPPER_CASE if letter.isupper() else _LOWER_CASE
    return 1.0 if east_asian_width(letter) in "WF" else _UPPER_CASE


def short_names(names: Iterable[str], letters: int) -> dict[str, str]:
    """Return each name in at most so many letters, different names in different letters.

    A long name loses its middle. Where names would then look alike, the place where they differ is kept; where that is
    not enough either, they are numbered.
    """
    shown: dict[str, str] = {}
    for alike in _alike({name: _without_middle(name, letters) for name in names}):
        differ_at = len(commonprefix(alike))
        around = {name: _around(name, differ_at, letters) for name in alike}
        shown |= {alike[0]: _without_middle(alike[0], letters)} if len(alike) == 1 else around
    counts: dict[str, int] = {}
    for alike in (group for group in _alike(shown) if len(group) > 1):
        for name in alike:
            shown[name] = _numbered(name, letters, counts, set(shown.values()))
    return shown


def _alike(shown: dict[str, str]) -> list[list[str]]:
    """Return the names in groups that look the same."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, short in shown.items():
        groups[short].append(name)
    return list(groups.values())


def _without_middle(name: str, letters: int) -> str:
    if len(name) <= letters:
        return name
    tail = (letters - 1) // 3
    return f"{name[: letters - 1 - tail]}{CUT}{name[len(name) - tail :]}"


def _around(name: str, place: int, letters: int) -> str:
    """Return the beginning of a name, and what is around a place in it."""
    head = letters // 3
    start = max(head, place - 2)
    rest = letters - head - 2 * len(CUT)
    begun = f"{name[:head]}{CUT if start > head else ''}{name[start : start + rest]}"
    return begun + (CUT if start + rest < len(name) else "")


def _numbered(name: str, letters: int, counts: dict[str, int], taken: set[str]) -> str:
    head = name[: letters // 2]
    while True:
        counts[head] = counts.get(head, 0) + 1
        if (short := f"{head}{CUT} ({counts[head]})") not in taken:
            return short


def breakable(label: str) -> list[str]:
    """Return a label in pieces, to be broken between them where a heading is narrow; numbers stay whole."""
    return list(chain.from_iterable(_pieces(piece) for piece in text.pieces(label)))


def _pieces(label: str) -> list[str]:
    if " " in label:
        return re.split(r"(?<= )|(?<=\w\w/)", label)
    if len(label) <= _PIECE_LETTERS:
        return [label]
    parts = re.split(r"(?<=[-_.=:;@/])(?=[^\W\d])", label)
    return list(chain.from_iterable(re.findall(rf".{{1,{_LONGEST_PIECE}}}", part, re.DOTALL) for part in parts))
