"""Robust accuracy at every budget of a norm, from attacks that know how far each image is from a wrong one.

An attack without a budget finds for each image the nearest wrong one that it can (DeepFool, Moosavi-Dezfooli et al.,
CVPR 2016; C&W, Carlini and Wagner, S&P 2017; DDN, Rony et al., CVPR 2019), so a single run gives a whole curve: at a
budget the images survive whose distance is larger. An attack that was run with a budget counts from this budget on.

As under any attack, an image that survives may fall to a better one: every number is an upper bound. Targeted attacks
do not count, since what they search for is not the nearest wrong image.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain, product
from math import inf
from statistics import fmean

from bench.report.leaderboard.flags import NO_BUDGET, unproven
from bench.report.leaderboard.soundness import unsound
from bench.report.leaderboard.summaries import CellCoord, DefenseCells, Value, mean_value
from bench.report.leaderboard.tables import Board, Column, Table, column_id
from bench.store.audit import farthest_allowed
from bench.types import DISTANCE_NORMS, NORMS, Access, CellResult, Norm, Threat, UsageError, eps_text, threat_text

#: The heading of robust accuracy at a budget.
BUDGET_LABEL = "robust accuracy at ε"
_HINT = "right when clean and not broken within ε by any attack of this norm; an upper bound"
#: Of a budget at which nothing is known.
NOT_SEARCHED = "no attack without a budget, or with this one"
_ABOVE = "more than pixels in [0, 1] can move"
#: Footnote of a number that lacks attacks.
_NOT_KEPT = "without {} whose distances were not kept"


@dataclass(frozen=True)
class SearchedAttack:
    """The cells of one attack in one norm, and by seed the least budget that breaks each image.

    The budget is 0 for an image that is wrong when clean, and infinite for one that was not broken.
    """

    eps: Fraction | None
    results: Sequence[CellResult]
    least: Mapping[int, Sequence[float]]

    @classmethod
    def of(cls, results: Sequence[CellResult]) -> SearchedAttack:
        """Return what is known of results under one threat, one for each seed."""
        known = {r.cell.seed: least for r in results if (least := _least_budgets(r)) is not None}
        attack = results[0].cell.attack
        return cls(attack.threat.eps if attack else None, results, known)

    def searched(self, eps: Fraction) -> bool:
        """Say whether it says anything about a budget."""
        return self.eps is None or self.eps <= eps

    def accuracy(self, norm: Norm, eps: Fraction) -> float:
        """Return the share of images that survive it within a budget, the mean over seeds."""
        limit = farthest_allowed(norm, float(eps))
        return fmean(_surviving(each, limit) for each in self._rising)

    @cached_property
    def _rising(self) -> list[list[float]]:
        return [sorted(each) for each in self.least.values()]


def _surviving(rising: Sequence[float], limit: float) -> float:
    """Return the share of images whose least budget, in rising order, is above a limit."""
    return (len(rising) - bisect_right(rising, limit)) / len(rising)


def _least_budgets(r: CellResult) -> list[float] | None:
    """Return the least budget that broke each image of a result; ``None`` where that was not kept."""
    attack = r.cell.attack
    clean, robust = r.clean_outcomes, r.robust_outcomes
    if attack is None or clean is None or robust is None:
        return None
    if attack.threat.eps is not None:
        eps = float(attack.threat.eps)
        broken = [inf if survives else eps for survives in robust]
    else:
        distances = r.broken_at
        if distances is None:
            return None
        broken = list(distances.values)
    return [each if right else 0.0 for each, right in zip(broken, clean, strict=True)]


@dataclass(frozen=True)
class BudgetCurve:
    """Robust accuracy of one defense under one access at every budget of a norm.

    ``attacks`` gave an outcome. ``lost`` and ``failed`` are others, by the budget that they had: those whose distances
    or outcomes were not kept, and those that failed. ``wanted`` are the budgets of all attacks that the table has.
    """

    cells: DefenseCells
    access: Access
    norm: Norm
    attacks: Sequence[SearchedAttack]
    lost: Sequence[Fraction | None]
    failed: Sequence[Fraction | None]
    wanted: Sequence[Fraction | None]
    #: What :meth:`at` has found so far, by the number of attacks that count.
    _found: dict[int, Mapping[int, Sequence[float]]] = field(default_factory=dict, repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether an attack without a budget is in it, so that every budget was searched."""
        return any(attack.eps is None for attack in self.attacks)

    @property
    def budgets(self) -> list[Fraction]:
        """The budgets that attacks were run with."""
        return sorted({attack.eps for attack in self.attacks if attack.eps is not None})

    def knows(self, eps: Fraction) -> bool:
        """Say whether an attack searched for wrong images within a budget, without one or with this one."""
        return self.is_whole or eps in self.budgets

    def distances(self) -> list[float]:
        """Return the distances at which images that are right when clean were broken, of all seeds, rising."""
        least = self._weakest([attack for attack in self.attacks if attack.eps is None])
        return sorted(each for each in chain.from_iterable(least.values()) if 0 < each < inf)

    def at(self, eps: Fraction) -> Value:
        """Return the robust accuracy within a budget that it :meth:`knows`."""
        used = [attack for attack in self.attacks if attack.searched(eps)]
        # Attacks count from their budgets on, so their number says which.
        if (least := self._found.get(len(used))) is None:
            least = self._found[len(used)] = self._weakest(used)
        limit = farthest_allowed(self.norm, float(eps))
        shares = [_surviving(each, limit) for each in least.values()]
        results = list(chain.from_iterable(attack.results for attack in used))
        flagged = [(attack, set(chain.from_iterable(r.flags for r in attack.results))) for attack in used]
        bound = unsound((attack.accuracy(self.norm, eps), flags) for attack, flags in flagged) if any(shares) else ()
        run = len(used) + _within(self.lost, eps) + _within(self.failed, eps)
        footnotes = {
            f"without {_within(self.failed, eps)} failed": _within(self.failed, eps) > 0,
            _NOT_KEPT.format(_within(self.lost, eps)): _within(self.lost, eps) > 0,
            f"{run} of {_within(self.wanted, eps)} attacks": run < _within(self.wanted, eps),
            f"{len(shares)} of {len(self.cells.seeds)} seeds": len(shares) < len(self.cells.seeds),
            f"upper bound only: {', '.join(bound)}": bool(bound),
        }
        marks = unproven(chain.from_iterable(r.flags for r in results))
        # Of an attack without a budget it is the distances that count, and these follow from its images.
        footnotes |= {mark: mark != NO_BUDGET for mark in marks}
        said = [note for note, holds in footnotes.items() if holds]
        value = mean_value(shares, self.cells.n, results, said, flags=False)
        return replace(value, partial=bool(said))

    def _weakest(self, attacks: Sequence[SearchedAttack]) -> dict[int, list[float]]:
        """Return, by seed that all attacks have, the least budget of each image under any of them, rising."""
        seeds = [s for s in self.cells.seeds if attacks and all(s in attack.least for attack in attacks)]
        return {s: sorted(map(min, zip(*(attack.least[s] for attack in attacks), strict=True))) for s in seeds}


def _within(budgets: Iterable[Fraction | None], eps: Fraction) -> int:
    return sum(each is None or each <= eps for each in budgets)


def curves(table: Table) -> Iterator[BudgetCurve]:
    """Yield what is known of every defense of a table, under each access and in each norm that was attacked."""
    defenses = {summary.defense: summary.cells for summary in table.threats}
    norms = {s.threat.norm for s in table.threats if s.threat}
    for norm in (each for each in DISTANCE_NORMS if each in norms):
        columns: dict[tuple[str, str], Fraction | None] = {}
        common: set[tuple[str, str]] = set()
        for cells in defenses.values():
            own = [coord for coord in cells.done if _norm(cells, coord) == norm and not _is_targeted(cells, coord)]
            columns |= {coord[1:]: _budget(cells, coord) for coord in own}
            common |= {coord[1:] for coord in own if cells.is_proven}
        for cells in defenses.values():
            for access in cells.accesses:
                if any(coord[0] == access and coord[1:] in columns for coord in cells.done):
                    # What only strangers say that they tried lacks in no other row.
                    own_columns = {coord[1:] for coord in cells.done} | (common or set(columns))
                    wanted = {column: eps for column, eps in columns.items() if column in own_columns}
                    yield _curve(cells, access, norm, wanted)


def _curve(
    cells: DefenseCells, access: Access, norm: Norm, columns: Mapping[tuple[str, str], Fraction | None]
) -> BudgetCurve:
    """Return the curve of a defense, given the budgets of all attacks of the table in its norm by their columns."""
    attacks: list[SearchedAttack] = []
    lost: list[Fraction | None] = []
    failed: list[Fraction | None] = []
    own = [coord for coord in cells.done if coord[0] == access and coord[1:] in columns]
    for coord in own:
        attack = SearchedAttack.of(cells.cells[coord])
        if attack.least:
            attacks.append(attack)
        elif any(r.metrics for r in attack.results):
            lost.append(attack.eps)
        else:
            failed.append(attack.eps)
    tried = {coord[1:] for coord in own}
    applying = [each for each in columns if each in tried or each[1] not in cells.conditional_attacks]
    # Transfers are made on some defenses only.
    wanted = [columns[each] for each in (applying if access != "transfer" else tried)]
    return BudgetCurve(cells, access, norm, attacks, lost, failed, wanted)


def _norm(cells: DefenseCells, coord: CellCoord) -> Norm | None:
    attack = cells.cells[coord][0].cell.attack
    return attack.threat.norm if attack else None


def _is_targeted(cells: DefenseCells, coord: CellCoord) -> bool:
    attack = cells.cells[coord][0].cell.attack
    return attack is not None and attack.target is not None


def _budget(cells: DefenseCells, coord: CellCoord) -> Fraction | None:
    attack = cells.cells[coord][0].cell.attack
    return attack.threat.eps if attack else None


def with_budgets(board: Board, budgets: Sequence[Fraction]) -> Board:
    """Return a board with the robust accuracy at some budgets, in each norm in which a defense of the table has one.

    Raises:
        UsageError: there are tables, and none of them has any.
    """
    tables = [_with_columns(table, budgets) for table in board.tables]
    texts = ",".join(map(eps_text, budgets))
    if tables and not any(column.kind == "budget" for column in chain.from_iterable(t.columns for t in tables)):
        raise UsageError(
            f"--eps {texts}: no attack searched there: run one that minimises a norm without eps and target, "
            f"or one with such a budget{older(board.tables)}"
        )
    return replace(board, tables=tuple(tables))


def older(tables: Iterable[Table]) -> str:
    """Return how many results are of versions that kept no distances, as the end of a line; nothing where none is."""
    lost = sum(curve.lost.count(None) for curve in chain.from_iterable(map(curves, tables)))
    return f"; of {lost} without eps no distances were kept" if lost else ""


def _with_columns(table: Table, budgets: Sequence[Fraction]) -> Table:
    every = list(curves(table))
    columns: dict[str, Column] = {}
    values: dict[tuple[str, Access], dict[str, Value]] = {}
    unknown: dict[tuple[Norm, str], list[str]] = {}
    for norm, eps in product(dict.fromkeys(curve.norm for curve in every), budgets):
        own = [curve for curve in every if curve.norm == norm]
        if norm == "linf" and eps > 1:
            unknown.setdefault((norm, _ABOVE), []).append(eps_text(eps))
        elif not any(curve.knows(eps) for curve in own):
            unknown.setdefault((norm, NOT_SEARCHED + older([table])), []).append(eps_text(eps))
        else:
            threat = Threat(norm=norm, eps=eps)
            group = threat_text(threat)
            identity = column_id(group, "budget")
            column = Column(identity, BUDGET_LABEL, "accuracy", "budget", group, _HINT, threat=threat)
            columns[column.id] = column
            for curve in own:
                known = curve.at(eps) if curve.knows(eps) else Value(None, footnotes=(NOT_SEARCHED,))
                values.setdefault((curve.cells.name, curve.access), {})[column.id] = known
    notes = [f"{NORMS[norm]} at ε={', '.join(texts)}: {why}" for (norm, why), texts in unknown.items()]
    rows = [replace(row, values={**row.values, **values.get((row.defense, row.access), {})}) for row in table.rows]
    return replace(table, columns=_placed(table.columns, columns), rows=tuple(rows), notes=(*table.notes, *notes))


def _placed(columns: Sequence[Column], more: Mapping[str, Column]) -> tuple[Column, ...]:
    """Return columns with others: each after those of its threat, those of a new threat before the costs."""
    groups = dict.fromkeys(column.group for column in columns if column.group != "cost")
    groups |= dict.fromkeys(column.group for column in more.values())
    places = [*groups, "cost"]
    return tuple(sorted((*columns, *more.values()), key=lambda column: places.index(column.group)))
