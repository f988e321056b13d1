"""Images that others broke as well: adversarial images that were checked stay what they are, whoever made them.

Of several measurements of a cell one number stands in the table. What others measured on a row, or measured otherwise,
lowers its worst case and says nothing else of it: so nobody can make a table forget images that were broken, and nobody
can change what is said of somebody else's row but by breaking more of its images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from bench.report.submissions.read import REPEATED, Entry
from bench.report.submissions.seeds import Counting
from bench.report.submissions.weights import Row, Rows
from bench.types import threat_text

#: A row, the threat, the access, the seed, and the weights: what the images of a worst case have in common.
_Place = tuple[Row, str, str, int, tuple[tuple[str, str], ...]]


def broken_too(counting: Iterable[Counting], others: Iterable[Entry]) -> Mapping[str, tuple[Entry, ...]]:
    """Return the other measurements whose broken images count in a worst case, by the key of a result that it is over.

    Only of the same weights, with every prediction repeated: what nobody repeated shows nothing, and what a defense
    that draws answered once shows little of what it answers. Nor of attackers that do not see the whole defense: images
    that break more may be of one that does.

    Args:
        counting: what counts of each cell, by those whose row it is.
        others: what does not, and was not withdrawn, and of whose images and attack nothing is in doubt.
    """
    rows = Rows()
    by_place: dict[_Place, list[Entry]] = defaultdict(list)
    for entry in others:
        if entry.state in REPEATED and _shows(entry) and (place := _place(entry, rows)) is not None:
            by_place[place].append(entry)
    found: dict[str, tuple[Entry, ...]] = {}
    for each in counting:
        place = _place(each.first, rows)
        if place is not None and place in by_place and each.result.robust_outcomes is not None:
            found[each.result.key] = tuple(by_place.pop(place))
    return found


def _place(entry: Entry, rows: Rows) -> _Place | None:
    cell = entry.result.cell
    if cell.attack is None:
        return None
    return rows.of(cell), threat_text(cell.attack.threat), cell.access, cell.seed, entry.trained


def _shows(entry: Entry) -> bool:
    result = entry.result
    draws = result.metrics is None or result.metrics.robust_mean is not None or "randomised" in result.flags
    return not draws and result.cell.access in ("white-box", "adaptive") and result.robust_outcomes is not None
