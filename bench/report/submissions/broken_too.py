"""Images that other measurements of a cell broke as well: adversarial images that were checked stay what they are.

Of several measurements of a cell one number stands in the table. Without this, whoever sends other images of an attack,
with a lower number, would make the table forget those that only the earlier ones broke, and raise a worst case.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from bench.keys import Keys
from bench.report.submissions.read import REPEATED, Entry


def broken_too(counting: Iterable[Entry], others: Iterable[Entry]) -> Mapping[str, tuple[Entry, ...]]:
    """Return the other measurements whose broken images count, by the key of the result that stands for the cell.

    Only of the same weights, with every prediction repeated: what nobody repeated shows nothing, and what a defense
    that draws answered once shows little of what it answers. Nor of attackers that do not see the whole defense: images
    that break more may be of one that does.

    Args:
        counting: the entry that counts of each cell.
        others: those that do not, were not withdrawn, and of whose images and attack nothing is in doubt.
    """
    keys = Keys()
    by_cell: dict[tuple[str, tuple[tuple[str, str], ...]], list[Entry]] = defaultdict(list)
    for entry in others:
        if entry.state in REPEATED and _shows(entry):
            by_cell[keys.comparison_key(entry.result.cell), entry.trained].append(entry)
    cells = {first.result.key: (keys.comparison_key(first.result.cell), first.trained) for first in counting}
    return {key: tuple(by_cell[cell]) for key, cell in cells.items() if cell in by_cell}


def _shows(entry: Entry) -> bool:
    result = entry.result
    draws = result.metrics is None or result.metrics.robust_mean is not None or "randomised" in result.flags
    return not draws and result.cell.access in ("white-box", "adaptive") and result.robust_outcomes is not None
