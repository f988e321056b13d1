"""Text that is measured before it is written and cut to its place: on so many lines of such a width."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.figures._plot import fold, text_width

#: Of a longer text only the beginning is looked at; no figure has room for more.
_MAX_LETTERS = 1000


def fitted(text: str, inches: float, size: float, lines: int, *, weight: str = "normal", end: str = "…") -> str:
    """Return a text in at most so many lines, none of them wider than ``inches``.

    What does not fit is cut, and then the text ends with ``end``.

    Args:
        text: without line breaks.
        inches: the width of a line.
        size: of the letters, in points.
        lines: as many as there may be.
        weight: of the letters.
        end: of a text that is cut.
    """
    broken = fold(text[:_MAX_LETTERS], inches, size, weight).split("\n")
    if len(broken) <= lines and len(text) <= _MAX_LETTERS:
        return "\n".join(broken)
    last = broken[lines - 1] if len(broken) >= lines else broken.pop()
    while last and text_width(last + end, size, weight) > inches:
        last = last[:-1]
    return "\n".join([*broken[: lines - 1], last.rstrip(" ,;:-_") + end])


def fitted_name(number: int, names: Sequence[str], inches: float, size: float, lines: int, *, before: str = "") -> str:
    """Return one of several names in so many lines, so that it cannot be taken for another of them.

    Where a cut name is also the beginning of another, its number follows.

    Args:
        number: of the name.
        names: all of them, different.
        inches: the width of a line.
        size: of the letters, in points.
        lines: as many as there may be.
        before: words before the name.
    """
    name = names[number]
    text = fitted(before + name, inches, size, lines)
    if _letters(text) == _letters(before + name):
        return text
    left = _letters(text.removesuffix("…")).removeprefix(_letters(before))
    if sum(_letters(other).startswith(left) for other in names) == 1:
        return text
    return fitted(before + name, inches, size, lines, end=f"… ({number})")


def _letters(text: str) -> str:
    return "".join(text.split())
