"""Which attacks a worst case needs: a greedy cover of the images that they break, by passes.

The worst case over attacks is a union of sets, the images that each one breaks. The fewest passes that reach it are a
weighted set cover. The greedy order takes the attack that breaks the most images that are still right for its passes
on these, until no attack breaks another one; at a fixed price of each set, its price is at most 1 + ln n times the
least (Chvátal, 1979). An attack is left out where the others then break the same images for fewer passes. Ties go to
the attack of fewer passes, then to the name, so that equal results give one order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from math import inf

from bench.outcomes import Outcomes, right_in_all
from bench.report.leaderboard.tables import Board, Table, column_id
from bench.types import Access, CellResult

#: Passes of each image of a result, forwards and backwards together; ``None`` where only their mean was kept.
PassesOf = Callable[[CellResult], Sequence[float] | None]
#: A deployed network: defense, access and seed.
Network = tuple[str, Access, int]


@dataclass(frozen=True)
class Tried:
    """What an attack did on one deployed network: which images it left right, and the passes of each image."""

    robust: Outcomes
    passes: Sequence[float]


@dataclass(frozen=True)
class Step:
    """An attack of the cover: how many images it is the first to break, and how many it leaves, over all networks.

    ``passes`` are those of the images that were still right before it, all together.
    """

    attack: str
    broken: int
    left: int
    passes: float


@dataclass(frozen=True)
class Cover:
    """The cover of one table under one threat.

    ``right`` counts the images that are right clean, over ``networks`` deployed networks. ``passes`` are those that all
    attacks together took on these images, each by itself. ``idle`` attacks break nothing that the steps do not;
    ``partial`` ones were not run on every network, and ``after_others`` on some only on what other attacks had left, so
    they are not compared. Of ``averaged`` ones only the mean of the
    passes is known on some network.
    """

    table: str
    threat: str
    networks: int
    right: int
    passes: float
    steps: Sequence[Step]
    idle: Sequence[str]
    partial: Sequence[str]
    after_others: Sequence[str]
    averaged: Sequence[str]


def greedy(attacks: Mapping[str, Sequence[Tried]], clean: Sequence[Outcomes]) -> list[Step]:
    """Return the attacks of the cover in their order.

    Args:
        attacks: what each did on every network, in the order of ``clean``.
        clean: which images are right clean on each network.
    """
    left = list(clean)
    rest = dict(attacks)
    steps: list[Step] = []
    while rest:
        broken = {
            name: sum(before.but_not(each.robust).count for before, each in zip(left, tried, strict=True))
            for name, tried in rest.items()
        }
        passes = {name: _passes(rest[name], left) for name, count in broken.items() if count}
        if not passes:
            break
        # An attack whose images were made elsewhere takes no passes.
        rate = {name: broken[name] / taken if taken else inf for name, taken in passes.items()}
        chosen = min(passes, key=lambda name: (-rate[name], passes[name], name))
        left = [before & each.robust for before, each in zip(left, rest.pop(chosen), strict=True)]
        steps.append(Step(chosen, broken[chosen], sum(each.count for each in left), passes[chosen]))
    return _shortened(attacks, clean, steps)


def _passes(tried: Sequence[Tried], images: Sequence[Outcomes]) -> float:
    """Return the passes of an attack on some images of every network."""
    return sum(sum(compress(each.passes, chosen)) for each, chosen in zip(tried, images, strict=True))


def covers(board: Board, passes_of: PassesOf) -> list[Cover]:
    """Return the cover of each table and threat, over its rows of white-box and adaptive access and all seeds.

    Images of static and transfer access were found on another function than the one that judges them. Attacks with a
    target class and those of worst-case mode, which got only what others had left, do not count either.

    Args:
        board: all tables.
        passes_of: of a result, by image.
    """
    return list(chain.from_iterable(_of_table(table, passes_of) for table in board.tables))


def _sequence(attacks: Mapping[str, Sequence[Tried]], clean: Sequence[Outcomes], order: Sequence[str]) -> list[Step]:
    """Return the steps of attacks that run in an order, each on what those before it leave."""
    left, steps = list(clean), list[Step]()
    for name in order:
        passes = _passes(attacks[name], left)
        after = [before & each.robust for before, each in zip(left, attacks[name], strict=True)]
        count = sum(each.count for each in after)
        steps.append(Step(name, sum(each.count for each in left) - count, count, passes))
        left = after
    return steps


def _shortened(attacks: Mapping[str, Sequence[Tried]], clean: Sequence[Outcomes], steps: list[Step]) -> list[Step]:
    """Leave out attacks, as long as the others break the same images for fewer passes."""
    while len(steps) > 1:
        names = [step.attack for step in steps]
        fewer = [_sequence(attacks, clean, [*names[:i], *names[i + 1 :]]) for i in range(len(names))]
        equal = [each for each in fewer if each[-1].left == steps[-1].left]
        best = min(equal, key=_price, default=steps)
        if _price(best) >= _price(steps):
            break
        steps = best
    return steps


def _price(steps: Sequence[Step]) -> float:
    return sum(step.passes for step in steps)


def _of_table(table: Table, passes_of: PassesOf) -> Iterator[Cover]:
    labels = {column.id: column.label for column in table.columns}
    after_others: dict[str, set[str]] = defaultdict(set)
    by_threat: dict[str, dict[str, dict[Network, CellResult]]] = defaultdict(lambda: defaultdict(dict))
    for cells in {summary.defense: summary.cells for summary in table.threats}.values():
        for (access, group, attack), results in cells.cells.items():
            for each in results:
                if access not in ("white-box", "adaptive") or not _counts(each):
                    continue
                label = labels.get(column_id(group, attack), attack)
                if each.cell.attack is not None and each.cell.attack.after:
                    after_others[group].add(label)
                else:
                    by_threat[group][label][cells.name, access, each.cell.seed] = each
    for threat in dict.fromkeys((*by_threat, *after_others)):
        alone = {name: own for name, own in by_threat[threat].items() if name not in after_others[threat]}
        yield _cover(table.title, threat, alone, sorted(after_others[threat]), passes_of)


def _counts(r: CellResult) -> bool:
    ref = r.cell.attack
    return ref is not None and ref.target is None and r.robust_outcomes is not None


def _cover(
    table: str,
    threat: str,
    attacks: Mapping[str, Mapping[Network, CellResult]],
    after_others: Sequence[str],
    passes_of: PassesOf,
) -> Cover:
    networks = sorted(set(chain.from_iterable(attacks.values())))
    whole = {name: results for name, results in attacks.items() if len(results) == len(networks)}
    tried: dict[str, list[Tried]] = {}
    averaged: list[str] = []
    for name, results in whole.items():
        found = [_tried(results[network], passes_of) for network in networks]
        tried[name] = [each for each, _ in found]
        averaged += [] if all(exact for _, exact in found) else [name]
    # A random defense may answer otherwise before another attack.
    clean = [
        right_in_all(right for results in whole.values() if (right := results[network].clean_outcomes) is not None)
        for network in (networks if whole else ())
    ]
    steps = greedy(tried, clean)
    chosen = {step.attack for step in steps}
    return Cover(
        *(table, threat, len(networks), sum(each.count for each in clean)),
        passes=sum(_passes(each, clean) for each in tried.values()),
        steps=steps,
        idle=sorted(whole.keys() - chosen),
        partial=sorted(attacks.keys() - whole.keys()),
        after_others=after_others,
        averaged=sorted(averaged),
    )


def _tried(r: CellResult, passes_of: PassesOf) -> tuple[Tried, bool]:
    """Return what an attack did, and whether the passes of each image are known."""
    robust, passes = r.robust_outcomes, passes_of(r)
    if robust is None:
        raise ValueError("a result without outcomes")
    mean = r.cost.forwards_per_example + r.cost.backwards_per_example if r.cost else 0.0
    return Tried(robust, [mean] * robust.n if passes is None else passes), passes is not None
