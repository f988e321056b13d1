"""How near attacks come to the best of all on the same networks: optimality, as AttackBench ranks attacks.

An attack that searches for the nearest wrong image of each image has a curve: robust accuracy R_a(ε) at every budget.
R_*(ε) is that of the nearest wrong image that any attack found. Both fall from the clean accuracy. Local optimality is
the area between clean accuracy and R_a over [0, ε0] as a share of the area between clean accuracy and R_*, ε0 being the
least budget at which R_* is 0 (Cinà et al., AAAI 2025, arXiv 2404.19460). It is 1 for an attack that is the best on
every image, and 0 for one that broke no image within ε0. Global optimality is the mean over networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import inf
from statistics import fmean, median

from bench.report.leaderboard.budgets import SearchedAttack
from bench.report.leaderboard.summaries import DefenseCells
from bench.report.leaderboard.tables import Board, Table, column_id
from bench.types import DISTANCE_NORMS, Access, CellResult, Norm


def local_optimality(least: Sequence[float], best: Sequence[float]) -> float | None:
    """Return the local optimality of an attack, in [0, 1], by exact integrals of both steps; ``None`` without any.

    Where no attack broke some image, R_* never is 0. The integrals then end at the largest distance at which an image
    was broken: from there on R_* stays as it is, and such images, which say nothing about attacks, add to neither area.

    Args:
        least: the least budget at which the attack broke each image that is right when clean, infinite of one that was
            not broken. It is 0 where a random defense is wrong about an image that the attack left as it was.
        best: the least of all attacks for the same images.
    """
    end = max((each for each in best if each < inf), default=0.0)
    # Below its curve an image counts until it breaks; above, from there to the end.
    own = sum(end - min(each, end) for each in least)
    whole = sum(end - min(each, end) for each in best)
    return own / whole if whole > 0 else None


@dataclass(frozen=True)
class OnNetwork:
    """An attack without a budget on one deployed network; distances are in the norm, of images that are right clean.

    ``optimality`` is a mean over seeds, and ``None`` where all broken images were broken at one distance.
    """

    dataset: str
    model: str
    #: What the heading of its table calls the model: with parameters, where another one has its name.
    network: str
    defense: str
    access: Access
    norm: Norm
    attack: str
    optimality: float | None
    distances: Sequence[float]
    results: Sequence[CellResult]


@dataclass(frozen=True)
class RankedAttack:
    """An attack over all networks of a data set that it was run on, of ``of`` that any was."""

    dataset: str
    norm: Norm
    attack: str
    networks: Sequence[OnNetwork]
    of: int

    @cached_property
    def optimality(self) -> float | None:
        """Global optimality: the mean over networks."""
        known = [each.optimality for each in self.networks if each.optimality is not None]
        return fmean(known) if known else None

    @cached_property
    def _distances(self) -> list[float]:
        return list(chain.from_iterable(each.distances for each in self.networks))

    @property
    def median_distance(self) -> float | None:
        """Of all images that are right clean; ``None`` where half of them were not broken."""
        middle = median(self._distances) if self._distances else inf
        return middle if middle < inf else None

    @property
    def broken(self) -> float | None:
        """The share of the images that are right clean that were broken."""
        return fmean(each < inf for each in self._distances) if self._distances else None

    @property
    def passes(self) -> float | None:
        """Forwards and backwards of the base classifier, for an image."""
        return _mean(r.cost.forwards_per_example + r.cost.backwards_per_example for r in self._results if r.cost)

    @property
    def seconds(self) -> float | None:
        """For an image."""
        return _mean(r.cost.seconds_per_example for r in self._results if r.cost)

    @property
    def _results(self) -> Iterator[CellResult]:
        return chain.from_iterable(each.results for each in self.networks)


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return fmean(listed) if listed else None


def ranking(board: Board) -> list[RankedAttack]:
    """Return the attacks without a budget of each data set and norm, the best first.

    A network is a row of a table as it is deployed, white-box or adaptive: static images were found on another function
    than the one that judges them. They count in R_*, as transferred ones do and those of attacks with a budget or with
    a target class, which are not ranked: an image that one with a budget broke counts as broken at its budget.

    An attack that was run on fewer networks than another follows it, as it did not show that it is good on the rest.
    """
    groups: dict[tuple[str, Norm], dict[str, list[OnNetwork]]] = {}
    networks: dict[tuple[str, Norm], set[tuple[str, str, str, Access]]] = {}
    for table in board.tables:
        for each in _on_networks(table):
            group = each.dataset, each.norm
            groups.setdefault(group, {}).setdefault(each.attack, []).append(each)
            networks.setdefault(group, set()).add((table.title, each.model, each.defense, each.access))
    ranked: list[RankedAttack] = []
    for (dataset, norm), attacks in groups.items():
        of = len(networks[dataset, norm])
        own = [RankedAttack(dataset, norm, attack, found, of) for attack, found in attacks.items()]
        ranked += sorted(own, key=lambda each: (-len(each.networks), -(each.optimality or 0.0), each.attack))
    return ranked


def _on_networks(table: Table) -> Iterator[OnNetwork]:
    labels = {column.id: column.label for column in table.columns}
    for cells in {summary.defense: summary.cells for summary in table.threats}.values():
        for access in (each for each in cells.accesses if each in ("white-box", "adaptive")):
            for norm in DISTANCE_NORMS:
                yield from _of(table, cells, access, norm, labels)


def _of(table: Table, cells: DefenseCells, access: Access, norm: Norm, labels: dict[str, str]) -> Iterator[OnNetwork]:
    """Yield the attacks on one deployed network in one norm."""
    searched: dict[str, SearchedAttack] = {}
    others: list[SearchedAttack] = []
    for (seen_by, group, attack), results in cells.cells.items():
        ref = results[0].cell.attack
        if ref is None or ref.threat.norm != norm or seen_by not in (access, "transfer", "static"):
            continue
        known = SearchedAttack.of(results)
        if known.eps is None and seen_by == access and known.least and ref.target is None:
            searched[labels.get(column_id(group, attack), attack)] = known
        else:
            others.append(known)
    for label, attack_on in searched.items():
        clean = {r.cell.seed: r.clean_outcomes for r in attack_on.results}
        local: list[float] = []
        right: list[float] = []
        for seed, least in attack_on.least.items():
            same = [each.least[seed] for each in (*searched.values(), *others) if seed in each.least]
            best = map(min, zip(*same, strict=True))
            own = [
                pair
                for pair, is_right in zip(zip(least, best, strict=True), clean[seed] or (), strict=True)
                if is_right
            ]
            right += (distance for distance, _ in own)
            optimality = local_optimality(*zip(*own, strict=True)) if own else None
            local += [] if optimality is None else [optimality]
        yield OnNetwork(
            *(table.dataset, table.model, table.network, cells.name, access, norm, label),
            optimality=fmean(local) if local else None,
            distances=right,
            results=attack_on.results,
        )
