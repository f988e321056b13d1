"""Results that are not called what they are, or state what no run gives them: said in a line, and refused nowhere here.

Who gives results to strangers is held to the same by receipts and submissions, which refuse them. Results of one's own,
or of colleagues, may be of a version in which a name was right, so they are shown, and a reader is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from bench.registry import live_names
from bench.report.receipts.methods import impossible
from bench.report.receipts.names import misnamed
from bench.types import CellResult, listed

#: Cells that a line names.
_NAMED = 3
#: Cells that are looked at, so that those of a large store do not take seconds.
MOST = 2_000


class Misstated:
    """Looks at results, of which many may be of one cell, and says what is wrong with the first :data:`MOST` cells."""

    def __init__(self, results: Iterable[CellResult] = ()) -> None:
        # Of each cell the result with the largest mean distances speaks for the others: nothing else that is looked at
        # differs between them.
        self._farthest: dict[tuple[object, ...], tuple[CellResult, CellResult]] = {}
        self.look(results)

    def look(self, results: Iterable[CellResult]) -> None:
        """Look at some results more."""
        for result in results:
            metrics = result.metrics
            drawn = None if metrics is None else (metrics.protocol, metrics.robust_mean is None)
            cell = result.key, result.names, drawn
            first, second = self._farthest.get(cell, (result, result))
            self._farthest[cell] = max(first, result, key=_linf), max(second, result, key=_l2)

    def notes(self) -> list[str]:
        """Return what is wrong, in one line; none where nothing is."""
        lines = list(dict.fromkeys(self._lines()))
        if not lines:
            return []
        count = f"{len(lines)} cell{'s' * (len(lines) > 1)}"
        return [f"{count} named or stated as no run here would: {listed(lines, _NAMED, between='; ', noun='cell')}"]

    def _lines(self) -> Iterator[str]:
        for first, second in islice(self._farthest.values(), MOST):
            for result in (first,) if first is second else (first, second):
                # An object of Python is called as its caller likes.
                names = () if live_names(result.cell) else misnamed(result)
                why = next(chain(names, impossible(result)), None)
                if why is not None:
                    yield f"{result.names}: {why}"
                    break


def _linf(result: CellResult) -> float:
    return 0.0 if result.metrics is None else result.metrics.mean_linf


def _l2(result: CellResult) -> float:
    return 0.0 if result.metrics is None else result.metrics.mean_l2
