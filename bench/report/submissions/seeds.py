"""The seeds of a row: those that are known equally well, and what was measured on some of them alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from bench.keys import Keys
from bench.report.leaderboard.flags import NOT_ALL_SEEDS
from bench.report.submissions import weights
from bench.report.submissions.aside import Differing
from bench.report.submissions.known import how_known
from bench.report.submissions.read import Entry
from bench.types import Cell, CellResult, MethodRef, ModelRef, TrainRef


class Counting(NamedTuple):
    """A cell of the tables: the entry that counts, its result with all marks, and those that agree, that one first."""

    first: Entry
    result: CellResult
    agreeing: list[Entry]

    def flagged(self, flag: str) -> Counting:
        """Return it with one more mark."""
        return self._replace(result=self.result.model_copy(update={"flags": tuple(sorted({*self.result.flags, flag}))}))


def known_equally(counting: Iterable[Counting], differing: list[Differing]) -> list[Counting]:
    """Return what counts without seeds of which less is known than of others of the same row and attack."""
    kept: list[Counting] = []
    for seeds in _columns(counting):
        best = min(how_known(each.first) for each in seeds)
        for each in seeds:
            if how_known(each.first) == best:
                kept.append(each)
            else:
                why = f"another seed ({each.result.cell.seed:,}) of the same recipe, of which less is known"
                differing += (Differing(entry, None, why) for entry in each.agreeing)
    return kept


def of_all_seeds(counting: Iterable[Counting], groups: weights.Groups) -> list[Counting]:
    """Return what counts with a mark on attacks that were not measured on all seeds that a row has.

    Else numbers of a row would be those of the seeds that somebody chose.
    """
    counting = list(counting)
    wanted: dict[weights.Row, set[int]] = defaultdict(set)
    for each in counting:
        if groups.is_of_owner(each.agreeing):
            wanted[groups.row(each.first)].add(each.result.cell.seed)
    lacking = [
        own for own in _columns(counting) if wanted[groups.row(own[0].first)] - {each.result.cell.seed for each in own}
    ]
    marked = {id(each) for each in chain.from_iterable(lacking)}
    return [each.flagged(NOT_ALL_SEEDS) if id(each) in marked else each for each in counting]


def _columns(counting: Iterable[Counting]) -> list[list[Counting]]:
    """Return the seeds of each row and attack."""
    keys = Keys()
    columns: dict[str, list[Counting]] = defaultdict(list)
    for each in counting:
        columns[keys.comparison_key(_unseeded(each.first.result.cell))].append(each)
    return list(columns.values())


def _unseeded(cell: Cell) -> Cell:
    """Return a cell as if all seeds were 0: what the seeds of a row and a column have in common."""

    def unseeded(model: ModelRef) -> ModelRef:
        if not isinstance(model.weights, TrainRef):
            return model
        return model.model_copy(update={"weights": model.weights.model_copy(update={"seed": 0})})

    def of_step(step: MethodRef | None) -> MethodRef | None:
        if step is None or step.score is None:
            return step
        return step.model_copy(update={"score": unseeded(step.score)})

    changes: dict[str, object] = {"model": unseeded(cell.model), "step": of_step(cell.step), "seed": 0}
    if (attack := cell.attack) is not None:
        own = {"model": unseeded(attack.model), "step": of_step(attack.step), "seed": 0}
        changes["attack"] = attack.model_copy(update=own)
    return cell.model_copy(update=changes)
