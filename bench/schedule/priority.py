"""Which cell gets the next chunk of images: the one that can settle the most ranks and verdicts in the least time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from bench.anytime import Contender, Standings, compared, needed
from bench.outcomes import Outcomes, right_in_all
from bench.schedule.contests import Row, TableContests, contests_of
from bench.types import CellResult, Measured, PlannedCell


class _Known(NamedTuple):
    """What is known of a cell: which of its first images survive, and seconds of each; ``None`` where it failed."""

    survivors: Outcomes | None
    seconds: float


class Priority:
    """Orders cells by what their next chunk can decide, given what is known of all.

    What a table ranks and asks is in :mod:`bench.schedule.contests`. Two rows are undecided as long as
    :class:`bench.anytime.Standings` says so, and a verdict or a gap as long as :func:`bench.anytime.compared` does. The
    order depends on results, the seconds that are kept with them, and the plan alone.

    Args:
        cells: all cells of the plan, in its order.
    """

    def __init__(self, cells: Sequence[PlannedCell]) -> None:
        self._places = {planned.key: place for place, planned in enumerate(cells)}
        self._sizes = {planned.key: planned.cell.data.n for planned in cells}
        self._known: dict[str, _Known] = {}
        self._tables = [
            _Table(contests, Standings(map(self._contender, contests.ranked), len(contests.contests)))
            for contests in contests_of(cells)
        ]
        #: The tables that each cell says something in, with its places among the ranked rows, and the contests.
        self._rows: dict[str, list[tuple[_Table, int]]] = defaultdict(list)
        self._contests: dict[str, list[tuple[_Table, int]]] = defaultdict(list)
        for table in self._tables:
            for place, row in enumerate(table.own.ranked):
                for key in _keys(row):
                    self._rows[key].append((table, place))
            for place, contest in enumerate(table.own.contests):
                for key in chain.from_iterable(map(_keys, contest)):
                    self._contests[key].append((table, place))
        self._scores: dict[str, float] | None = None

    def note(self, result: Measured) -> None:
        """Note what is known of a cell now."""
        survivors = result.robust_outcomes
        if isinstance(result, CellResult):
            seconds = result.cost.seconds_per_example if result.cost else 0.0
        else:
            seconds = result.seconds / result.n
        self._known[result.key] = _Known(survivors, seconds)
        for table, place in self._rows.get(result.key, ()):
            table.standings.update(place, self._contender(table.own.ranked[place]))
            self._scores = None
        for table, place in self._contests.get(result.key, ()):
            table.decided.pop(place, None)
            self._scores = None

    def order(self, cells: Iterable[PlannedCell]) -> list[PlannedCell]:
        """Return cells in the order in which their next chunks should be made.

        First those without images, then by undecided statements per second, then those that decide nothing; all of
        them in the order of the plan where they are equal.
        """
        if self._scores is None:
            self._scores = defaultdict(float)
            for key, score in chain.from_iterable(map(self._scored, self._tables)):
                self._scores[key] += score
        scores = self._scores

        def place(planned: PlannedCell) -> tuple[bool, float, int]:
            return planned.key in self._known, -scores.get(planned.key, 0.0), self._places[planned.key]

        return sorted(cells, key=place)

    def _scored(self, table: _Table) -> Iterator[tuple[str, float]]:
        """Yield cells of a table whose next chunk may decide something, with how much of it per second."""
        standings = table.standings
        images = [contender.n for contender in standings.rows]
        for place, row in enumerate(table.own.ranked):
            # A pair is compared on the images of both: more of the row that is ahead tell nothing.
            undecided = sum(
                n >= images[place] and other != place and not standings.above(place, other)
                for other, n in enumerate(images)
            )
            yield from self._shared(row, undecided)
        for place, contest in enumerate(table.own.contests):
            if not self._is_decided(table, place):
                known = min(map(self._images_of, contest))
                for row in contest:
                    yield from self._shared(row, self._images_of(row) == known)

    def _shared(self, row: Row, undecided: int) -> Iterator[tuple[str, float]]:
        """Yield the cells whose next chunk extends what is known of a row, each with what that decides per second."""
        n = self._images_of(row)
        behind = [key for key in _keys(row) if self._images(key) == n < self._sizes[key]]
        seconds = sum(self._known[key].seconds for key in behind if key in self._known)
        for key in behind:
            yield key, undecided / max(seconds, 1e-9)

    def _is_decided(self, table: _Table, place: int) -> bool:
        if place not in table.decided:
            first, second = map(self._contender, table.own.contests[place])
            table.decided[place] = compared(first, second, table.least) != "open"
        return table.decided[place]

    def _contender(self, row: Row) -> Contender:
        """Return the images of a row that survive all of its attacks; one of which an attack failed has none."""
        n = self._images_of(row)
        by_seed = {seed: right_in_all(self._survivors(key).first(n) for key in own) for seed, own in row.items() if n}
        return Contender(next(_keys(row)), by_seed)

    def _images_of(self, row: Row) -> int:
        return min(map(self._images, _keys(row)))

    def _images(self, key: str) -> int:
        return self._survivors(key).n if key in self._known else 0

    def _survivors(self, key: str) -> Outcomes:
        survivors = self._known[key].survivors
        return Outcomes(0, 0) if survivors is None else survivors


class _Table:
    """What a table ranks and asks, and what of it is decided."""

    def __init__(self, own: TableContests, standings: Standings) -> None:
        self.own = own
        self.standings = standings
        self.least = needed(len(own.ranked), len(own.contests))
        self.decided: dict[int, bool] = {}


def _keys(row: Row) -> Iterator[str]:
    """Yield the keys of the cells of a row."""
    return chain.from_iterable(row.values())
