"""Which cell gets the next chunk of images: the one that can settle the most undecided ranks in the least time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from bench.anytime import Contender, Standings
from bench.keys import Keys, Once
from bench.outcomes import Outcomes, right_in_all
from bench.types import CellResult, Measured, ModelRef, PlannedCell

#: A row: the keys of its cells by seed.
_Row = Mapping[int, Sequence[str]]
#: Ranked are rows whose attacker sees the entire defense.
_SEEING = ("white-box", "adaptive")


class _Known(NamedTuple):
    """What is known of a cell: which of its first images survive, and seconds of each; ``None`` where it failed."""

    survivors: Outcomes | None
    seconds: float


class Priority:
    """Orders cells by what their next chunk can decide, given what is known of all.

    The rows of a table are ranked as the leaderboard ranks them: by the images that survive all attacks of the threat
    that has the most, where the attacker sees the entire defense. Two rows are undecided as long as
    :class:`bench.anytime.Standings` says so. The order depends on results, the seconds that are kept with them, and
    the plan alone.

    Args:
        cells: all cells of the plan, in its order.
    """

    def __init__(self, cells: Sequence[PlannedCell]) -> None:
        self._places = {planned.key: place for place, planned in enumerate(cells)}
        self._sizes = {planned.key: planned.cell.data.n for planned in cells}
        self._known: dict[str, _Known] = {}
        #: For each table its rows, and for each of these its ranked cells by seed.
        self._tables = _ranked(cells)
        self._standings = [Standings(map(self._contender, rows)) for rows in self._tables]
        #: The table and the row of each cell that ranks one.
        self._rows: dict[str, tuple[int, int]] = {}
        for table, rows in enumerate(self._tables):
            for place, row in enumerate(rows):
                self._rows |= dict.fromkeys(chain.from_iterable(row.values()), (table, place))
        self._scores: dict[str, float] | None = None

    def note(self, result: Measured) -> None:
        """Note what is known of a cell now."""
        survivors = result.robust_outcomes
        if isinstance(result, CellResult):
            seconds = result.cost.seconds_per_example if result.cost else 0.0
        else:
            seconds = result.seconds / result.n
        self._known[result.key] = _Known(survivors, seconds)
        if result.key in self._rows:
            table, place = self._rows[result.key]
            self._standings[table].update(place, self._contender(self._tables[table][place]))
            self._scores = None

    def order(self, cells: Iterable[PlannedCell]) -> list[PlannedCell]:
        """Return cells in the order in which their next chunks should be made.

        First those without images, then by undecided pairs of rows per second, then those that decide nothing; all of
        them in the order of the plan where they are equal.
        """
        if self._scores is None:
            self._scores = {}
            for rows, standings in zip(self._tables, self._standings, strict=True):
                self._scores |= self._scores_of(rows, standings)
        scores = self._scores

        def place(planned: PlannedCell) -> tuple[bool, float, int]:
            return planned.key in self._known, -scores.get(planned.key, 0.0), self._places[planned.key]

        return sorted(cells, key=place)

    def _scores_of(self, rows: Sequence[_Row], standings: Standings) -> dict[str, float]:
        """Return, for each cell of a table whose next chunk extends what is known of its row, pairs per second."""
        scores: dict[str, float] = {}
        images = [contender.n for contender in standings.rows]
        for place, row in enumerate(rows):
            # A pair is compared on the images of both: more of the row that is ahead tell nothing.
            undecided = sum(
                n >= images[place] and other != place and not standings.above(place, other)
                for other, n in enumerate(images)
            )
            keys = chain.from_iterable(row.values())
            behind = [key for key in keys if self._images(key) == images[place] < self._sizes[key]]
            seconds = sum(self._known[key].seconds for key in behind if key in self._known)
            scores |= dict.fromkeys(behind, undecided / max(seconds, 1e-9))
        return scores

    def _contender(self, row: _Row) -> Contender:
        """Return the images of a row that survive all of its attacks; one of which an attack failed has none."""
        keys = list(chain.from_iterable(row.values()))
        n = min(map(self._images, keys))
        by_seed = {seed: right_in_all(self._survivors(key).first(n) for key in own) for seed, own in row.items() if n}
        return Contender(keys[0], by_seed)

    def _images(self, key: str) -> int:
        return self._survivors(key).n if key in self._known else 0

    def _survivors(self, key: str) -> Outcomes:
        survivors = self._known[key].survivors
        return Outcomes(0, 0) if survivors is None else survivors


def _ranked(cells: Iterable[PlannedCell]) -> list[list[_Row]]:
    """Return for each table its rows, and for each of these the keys of the cells that rank it, by seed."""
    keys = Keys()
    rows_of = Once[ModelRef, str](lambda model: model.model_dump_json(exclude={"weights": {"seed"}}))
    tables: dict[tuple[str, str], list[PlannedCell]] = defaultdict(list)
    for planned in cells:
        tables[keys.text(planned.cell.data), keys.text(planned.cell.model.network)].append(planned)
    ranked: list[list[_Row]] = []
    for own in tables.values():
        threat = _first_threat(own, keys)
        rows: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for planned in own:
            cell = planned.cell
            if cell.attack is not None and cell.access in _SEEING and keys.text(cell.attack.threat) == threat:
                row = rows_of(cell.model) + keys.text(cell.step)
                rows[row][cell.seed].append(planned.key)
        ranked.append(list(rows.values()))
    return ranked


def _first_threat(cells: Iterable[PlannedCell], keys: Keys) -> str | None:
    """Return the text of the threat with a budget under which a table has the most attacks, the first such one."""
    attacks: dict[str, set[str]] = defaultdict(set)
    for planned in cells:
        attack = planned.cell.attack
        if attack is not None and attack.threat.norm != "corruption" and attack.threat.eps is not None:
            attacks[keys.text(attack.threat)].add(planned.names.attack)
    return max(attacks, key=lambda threat: len(attacks[threat]), default=None)
