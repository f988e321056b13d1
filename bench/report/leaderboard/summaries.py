"""One defense of a table: its outcomes over accesses, threats, attacks and seeds, and what follows from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, product
from statistics import fmean, median
from typing import Literal

from bench import registry
from bench.anytime import anytime_interval
from bench.keys import Once
from bench.outcomes import Outcomes, right_in_all
from bench.report.leaderboard import corruption_error
from bench.report.leaderboard.flags import OF_ANSWERS, in_seeds, is_by_others, is_proven, that_count, unproven
from bench.report.leaderboard.required import Required
from bench.report.leaderboard.soundness import unsound
from bench.report.leaderboard.verdicts import RobustnessVerdict
from bench.stats import paired_difference, spread, wilson
from bench.types import (
    Access,
    Cell,
    CellResult,
    DefenseCost,
    Measured,
    MethodRef,
    ModelRef,
    PartialResult,
    Threat,
    threat_text,
)

ACCESSES: tuple[Access, ...] = ("white-box", "static", "adaptive", "transfer")
EXCLUDE_SEED = {"weights": {"seed"}}

#: What a worst case counts, in every format.
WORST_CASE = "right when clean and under every attack of the row"

#: How the footnote of a worst case begins whose evaluation is unsound.
UPPER_BOUND = "upper bound only: "

#: Mark of a cell that was measured before accuracy under attack was kept, and whose outcomes are not kept.
NO_OUTCOMES = "only robust accuracy was kept"


@dataclass(frozen=True)
class Value:
    """One number of a table: a mean over seeds with its 95 % interval, and the keys of the cells behind it."""

    number: float | None
    low: float | None = None
    high: float | None = None
    #: Standard deviation over seeds, where there are several.
    spread: float | None = None
    #: What a reader must know of it, in short words: flags of its cells, seeds or attacks that are missing.
    footnotes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    failed: bool = False
    #: A worst case over fewer attacks than the table has, an upper bound only, or a stranger's word: it is not ranked.
    partial: bool = False
    #: Of an accuracy under attack: robust accuracy, the share that is right clean as well.
    robust: float | None = None
    #: Of the first images alone, with an interval that holds whenever one looks (:mod:`bench.anytime`).
    anytime: bool = False
    #: What stands in place of a number, in a column of words.
    words: str = ""

    @property
    def merit(self) -> float | None:
        """What it is ranked by: the robust accuracy where there is one, for an attacker may also do nothing."""
        return self.number if self.number is None or self.robust is None else self.robust


@dataclass(frozen=True)
class BaseComparison:
    """What adaptive evaluation makes of a test-time step: its worst case minus that of its base, on the same images."""

    verdict: RobustnessVerdict
    base: str
    over_base: Value
    #: That step and base are equal, adjusted for all verdicts of the table.
    p_value: float
    #: Why the worst case of the step is an upper bound only, whatever the verdict.
    reasons: tuple[str, ...] = ()


class RowIds:
    """What makes two cells one row: network, recipe, schedule and step, whatever the seed."""

    def __init__(self) -> None:
        self._models = Once[ModelRef, str](lambda model: model.model_dump_json(exclude=EXCLUDE_SEED))
        self._steps = Once[MethodRef, str](lambda step: step.model_dump_json(exclude={"score": EXCLUDE_SEED}))

    def base(self, cell: Cell) -> str:
        """Return the row of the base classifier of a cell's defense."""
        return self._models(cell.model)

    def of(self, cell: Cell) -> str:
        """Return the row of a cell."""
        return self.base(cell) + (self._steps(cell.step) if cell.step else "")


def attack_ids(results: Iterable[Measured]) -> dict[str, str]:
    """Return for each attacked result of a table the id of its column.

    A column holds one attack under every access. The plan may let it keep another iterate, or average another number
    of gradients, where the attacker sees less; that splits a column only where one access has both.
    """
    results = list(results)
    counting = {r.key for r in that_count(results)}
    exact: dict[str, str] = {}
    loose: dict[str, str] = {}
    variants: dict[tuple[str, str, Access], set[str]] = defaultdict(set)
    strangers: dict[tuple[str, str, Access], set[str]] = defaultdict(set)
    with_rule = Once[MethodRef, str](lambda attack: attack.model_dump_json(exclude={"file": True}))
    without_rule = Once[MethodRef, str](
        lambda attack: attack.model_dump_json(exclude={"file": True, "params": {"rule"}})
    )
    for r in results:
        if (attack_ref := r.cell.attack) is None:
            continue
        # Saved images that were transferred name no classifier that they were made on.
        is_named = r.cell.access == "transfer" and attack_ref.model != r.cell.model
        source = attack_ref.model.model_dump_json(exclude=EXCLUDE_SEED) if is_named else ""
        exact[r.key] = f"{with_rule(attack_ref.attack)} {attack_ref.eot} {source} {bool(attack_ref.after)}"
        within = "" if attack_ref.max_passes is None else f" {attack_ref.max_passes}"
        within += "" if attack_ref.target is None else f" to {attack_ref.target}"
        within += "" if attack_ref.craft_precision == "auto" else f" in {attack_ref.craft_precision}"
        exact[r.key] += within
        loose[r.key] = f"{r.names.attack} {without_rule(attack_ref.attack)} {source}{within}"
        of = variants if r.key in counting else strangers
        of[loose[r.key], threat_text(attack_ref.threat), r.cell.access].add(exact[r.key])
    split = {attack for (attack, _, _), ids in variants.items() if len(ids) > 1}
    # What is only a stranger's word splits no column of others: it gets one of its own.
    apart = set(chain.from_iterable(_split_off(ids, variants.get(place, ())) for place, ids in strangers.items()))
    is_apart = {key: key not in counting and exact[key] in apart for key in loose}
    return {key: exact[key] if attack in split or is_apart[key] else attack for key, attack in loose.items()}


def _split_off(ids: Collection[str], known: Collection[str]) -> Collection[str]:
    """Return which of the ids of strangers' results under one access do not share a column with those that count."""
    return set(ids) - set(known) if known or len(ids) > 1 else ()


def conditional_attacks(results: Iterable[Measured], ids: Mapping[str, str]) -> frozenset[str]:
    """Return the ids of attacks that do not apply to every row: those on purifiers, and transfers."""
    attacked = [(r, r.cell.attack.attack.name) for r in results if r.cell.attack]
    known = registry.entries("attack")
    only = {name for _, name in attacked if name in known and known[name].meta.get("purifiers_only")}
    return frozenset(ids[r.key] for r, name in attacked if name in only or r.cell.access == "transfer")


@dataclass(frozen=True)
class Terms:
    """By what the rows of a table are measured."""

    #: Ids of the attacks that are made on some defenses only.
    conditional_attacks: frozenset[str]
    #: Of which attacks a row needs one each, by threat; of others, all that any row has.
    required: Required
    #: Which images survived in other measurements on a row, by the key of one of its results: worst cases count these.
    broken_too: Mapping[str, Sequence[Outcomes]]


#: Access, the text of a threat, and the id of an attack; text, since comparing threats is slow and there are many.
CellCoord = tuple[Access, str, str]

#: A worst case, and which images survive it, by seed.
Survivors = tuple[Value, Mapping[int, Outcomes]]


@dataclass(frozen=True)
class DefenseCells:
    """A defense with its cells by (access, threat, attack) and which images survived them, by seed."""

    name: str
    n: int
    seeds: tuple[int, ...]
    accesses: tuple[Access, ...]
    cells: Mapping[CellCoord, Sequence[CellResult]]
    robust: Mapping[CellCoord, Mapping[int, Outcomes]]
    #: Which images survived others' measurements beside these, by seed: worst cases count them.
    by_others: Mapping[CellCoord, Mapping[int, Outcomes]]
    clean: Value
    cost: DefenseCost | None
    #: Ids of the attacks of the table that are made on some defenses only.
    conditional_attacks: frozenset[str]
    #: Of which attacks it needs one each, where not all of the table are needed.
    required: Required
    #: Clean errors by condition, where the images are those of several common corruptions.
    by_corruption: Mapping[corruption_error.Condition, float]
    #: Its error without corruptions, measured on a set of another table.
    uncorrupted_error: float | None
    #: What is known of cells of which only the first images are measured, by coordinates.
    begun: Mapping[CellCoord, Sequence[PartialResult]]
    #: Beside results that count, those that are only the word of strangers: shown where nothing else is.
    aside: Mapping[CellCoord, Sequence[CellResult]]

    @classmethod
    def of(
        cls,
        name: str,
        results: Sequence[CellResult],
        ids: Mapping[str, str],
        terms: Terms,
        uncorrupted_error: float | None = None,
        begun: Sequence[PartialResult] = (),
    ) -> DefenseCells:
        """Sort all results of a defense. Where some are proven, those of strangers that are not count for nothing.

        Args:
            name: its label.
            results: its cells.
            ids: the column of each result, by key.
            terms: by what all rows of the table are measured.
            uncorrupted_error: its error without corruptions, measured on a set of another table.
            begun: its cells of which only the first images are measured.
        """
        parts: dict[CellCoord, list[PartialResult]] = defaultdict(list)
        cells: dict[CellCoord, list[CellResult]] = defaultdict(list)
        aside: dict[CellCoord, list[CellResult]] = defaultdict(list)
        every, results = results, that_count(results)
        counting = {each.key for each in results}
        for each in every:
            if each.cell.attack:
                of = cells if each.key in counting else aside
                of[each.cell.access, threat_text(each.cell.attack.threat), ids[each.key]].append(each)
        for part in begun:
            if part.cell.attack:
                coord = (part.cell.access, threat_text(part.cell.attack.threat), ids[part.key])
                parts[coord].append(part)
                # A coordinate of its own, though no result is there.
                cells[coord] = cells[coord]
        accesses = tuple(access for access in ACCESSES if any(coord[0] == access for coord in cells))
        return cls(
            name,
            results[0].cell.data.n,
            tuple(sorted({each.cell.seed for each in results})),
            accesses or (results[0].cell.access,),
            cells,
            {coord: _robust_by_seed(group) for coord, group in cells.items()},
            {coord: _by_others(group, terms.broken_too) for coord, group in cells.items()},
            _clean(results),
            _cost(results),
            terms.conditional_attacks,
            terms.required,
            corruption_error.of_set(results),
            uncorrupted_error,
            parts,
            {coord: group for coord, group in aside.items() if coord not in cells},
        )

    @cached_property
    def coords(self) -> Mapping[str, Sequence[CellCoord]]:
        """The coordinates of its attacked cells, by the text of the threat."""
        by_threat: dict[str, list[CellCoord]] = defaultdict(list)
        for coord in self.cells:
            by_threat[coord[1]].append(coord)
        return dict(by_threat)

    @cached_property
    def is_proven(self) -> bool:
        """Whether its numbers are more than the word of strangers, as those of every store are."""
        return all(map(is_proven, chain.from_iterable(self.cells.values())))

    @cached_property
    def done(self) -> Sequence[CellCoord]:
        """The coordinates at which there are results, of failures too."""
        return [coord for coord, results in self.cells.items() if results]

    def under(self, group: str) -> Iterator[CellResult]:
        """Yield all results under a threat, given by its text."""
        return chain.from_iterable(self.cells[coord] for coord in self.coords.get(group, ()))

    def is_begun(self, group: str) -> bool:
        """Say whether of a cell under a threat, given by its text, only the first images are measured."""
        return any(coord[1] == group for coord in self.begun)

    def at(self, coord: CellCoord) -> Value:
        """Return the accuracy under one attack; where no seed is done, on the first images of those that are begun."""
        results, parts = self.cells[coord], self.begun.get(coord, ())
        if not parts or any(result.metrics for result in results):
            return self.under_attack(results)
        n = min(part.n for part in parts)
        robust = fmean(part.robust_outcomes.first(n).share for part in parts)
        return replace(self._of_first([part.outcomes_under_attack.first(n) for part in parts]), robust=robust)

    def _of_first(self, outcomes: Sequence[Outcomes]) -> Value:
        """Return the mean share of the first images, the same of each seed, with an interval that holds at any stop."""
        n = outcomes[0].n
        ends = anytime_interval(fmean(each.count for each in outcomes), n)
        about = f"the first {n:,} of {self.n:,} images"
        return Value(*ends, spread([each.share for each in outcomes]), (about,), partial=True, anytime=True)

    def first_survivors(self, group: str, accesses: Sequence[Access], attacks: Sequence[str]) -> Mapping[int, Outcomes]:
        """Return which images survive every attack, by seed, of the first ones that all its cells have.

        Nothing where a cell of some seed is neither done nor begun, or has no outcomes.
        """
        wanted = ((access, group, attack) for access, attack in product(accesses, attacks))
        coords = [coord for coord in wanted if coord in self.cells]
        known = [dict(self.robust[coord]) for coord in coords]
        for own, coord in zip(known, coords, strict=True):
            own |= {part.cell.seed: part.robust_outcomes for part in self.begun.get(coord, ())}
        if not known or any(own.keys() != known[0].keys() for own in known):
            return {}
        n = min((outcomes.n for outcomes in chain.from_iterable(own.values() for own in known)), default=0)
        return {seed: right_in_all(own[seed].first(n) for own in known) for seed in known[0] if n}

    def known_survivors(
        self, group: str, accesses: Sequence[Access], attacks: Sequence[str], *, by_all: bool = True
    ) -> Mapping[int, Outcomes]:
        """Return which images survive every attack, by seed: of all, or of the first ones where a cell is begun.

        Of a public leaderboard also the attacks of others, unless ``by_all`` is false.
        """
        if any((access, group, attack) in self.begun for access, attack in product(accesses, attacks)):
            return self.first_survivors(group, accesses, attacks)
        return self.worst_case(group, accesses, attacks, by_all=by_all)[1]

    def under_attack(self, results: Sequence[CellResult]) -> Value:
        """Return the accuracy under one attack, with the robust accuracy beside it."""
        metrics = [r.metrics for r in results if r.metrics]
        shares = [m.accuracy_under_attack for m in metrics if m.accuracy_under_attack is not None]
        lost = (NO_OUTCOMES,) if len(shares) < len(metrics) else ()
        robust = fmean(m.robust_accuracy for m in metrics) if metrics else None
        return replace(mean_value(shares, self.n, results, lost), robust=robust)

    def worst_case(
        self, group: str, accesses: Sequence[Access], attacks: Sequence[str], *, by_all: bool = True
    ) -> Survivors:
        """Return the share of images that survive every attack, and these images for each seed.

        Of a public leaderboard also the attacks of others, unless ``by_all`` is false.
        """
        coords = [(access, group, attack) for access, attack in product(accesses, attacks)]
        if any(coord in self.begun for coord in coords):
            return self._worst_of_first(group, accesses, attacks), {}
        tried = [coord for coord in coords if coord in self.cells]
        used = [coord for coord in tried if self.robust[coord]]
        run = {attack for _, _, attack in tried}
        seeds = [seed for seed in self.seeds if used and all(seed in self.robust[coord] for coord in used)]
        of_all = [self.robust[coord] for coord in used] + [self.by_others[coord] for coord in used if by_all]
        survivors = {seed: right_in_all(own[seed] for own in of_all if seed in own) for seed in seeds}
        lost = sum(any(r.metrics for r in self.cells[coord]) for coord in tried if not self.robust[coord])
        failed = len(tried) - len(used) - lost
        footnotes = {
            f"without {failed} failed": failed > 0,
            f"without {lost} whose outcomes were not kept": lost > 0,
            self._lacking(group, accesses, attacks, run): bool(run),
            f"{len(seeds)} of {len(self.seeds)} seeds": bool(used) and len(seeds) < len(self.seeds),
        }
        results = list(chain.from_iterable(self.cells[coord] for coord in used))
        shares = [outcomes.share for outcomes in survivors.values()]
        bound = unsound((self._accuracy(coord), self._flags(coord)) for coord in used) if any(shares) else ()
        footnotes[UPPER_BOUND + ", ".join(in_seeds(results, bound))] = bool(bound)
        footnotes |= dict.fromkeys(unproven(chain.from_iterable(result.flags for result in results)), True)
        said = [note for note, holds in footnotes.items() if note and holds]
        value = mean_value(shares, self.n, results, said, flags=False)
        return replace(value, partial=bool(value.footnotes)), survivors

    def _lacking(self, group: str, accesses: Sequence[Access], attacks: Sequence[str], run: Collection[str]) -> str:
        """Return how many of the attacks that are needed were run, where not all were."""
        if (sets := self.required.get(group)) is None:
            applying = [attack for attack in attacks if self._applies(group, accesses, attack)]
            return f"{len(run)} of {len(applying)} attacks" if len(run) < len(applying) else ""
        needed = [own for own in sets if not own or any(self._applies(each[0], accesses, each[1]) for each in own)]
        tried = [{(access, *each) for access, each in product(accesses, own)} for own in needed]
        there = {*self.cells, *(coord for coord, own in self.aside.items() if all(map(is_by_others, own)))}
        met = sum(not own.isdisjoint(there) for own in tried)
        return f"{met} of {len(needed)} required attacks" if met < len(needed) else ""

    def _worst_of_first(self, group: str, accesses: Sequence[Access], attacks: Sequence[str]) -> Value:
        """Return the worst case where some cells are not done, on the first images that all have."""
        survivors = self.first_survivors(group, accesses, attacks)
        if not survivors:
            return Value(None, footnotes=("not all attacks have begun",), partial=True)
        return self._of_first(list(survivors.values()))

    def _applies(self, group: str, accesses: Sequence[Access], attack: str) -> bool:
        """Say whether a column applies to this row: attacks on purifiers and transfers do not apply to all."""
        if any((access, group, attack) in self.cells for access in accesses):
            return True
        return attack not in self.conditional_attacks and list(accesses) != ["transfer"]

    def _flags(self, coord: CellCoord) -> set[str]:
        return set(chain.from_iterable(result.flags for result in self.cells[coord]))

    def _accuracy(self, coord: CellCoord) -> float:
        return fmean(outcomes.share for outcomes in self.robust[coord].values())

    def paired(self, first: Mapping[int, Outcomes], second: Mapping[int, Outcomes]) -> Value:
        """Return the first share of surviving images minus the second, given which survive, by seed."""
        pairs = [(first[seed], second[seed]) for seed in first if seed in second]
        if not pairs:
            return Value(None)
        both = fmean((a & b).count for a, b in pairs)
        first_only = fmean(a.but_not(b).count for a, b in pairs)
        second_only = fmean(b.but_not(a).count for a, b in pairs)
        differences = [(a.count - b.count) / self.n for a, b in pairs]
        ends = paired_difference(both, first_only, second_only, self.n - both - first_only - second_only)
        return Value(*ends, spread(differences))

    def other_code(self, group: str) -> tuple[str, ...]:
        """Return the names of attacks that static and adaptive attackers made with different code, under a threat."""
        code: dict[Access, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for access, _, attack in self.coords.get(group, ()):
            coord = (access, group, attack)
            measured: list[Measured] = [*self.cells[coord], *self.begun.get(coord, ())]
            for each in measured:
                if each.cell.attack is not None:
                    code[access][each.cell.attack.attack.name].add(each.cell.attack.attack.code_sha)
        static, adaptive = code["static"], code["adaptive"]
        return tuple(sorted(name for name in static.keys() & adaptive.keys() if static[name] != adaptive[name]))

    def gap(self, group: str, attacks: Sequence[str], static: Survivors, adaptive: Survivors) -> Value:
        """Return static minus adaptive worst case, each over all attacks made with it, on the same images.

        Nothing where the two are by different code of one attack: how much weaker one version is would count as gap.
        """
        if self.other_code(group):
            return Value(None)
        gap = self.paired(static[1], adaptive[1])
        if gap.number is None:
            return gap
        with_static = {attack for attack in attacks if self.robust.get(("static", group, attack))}
        with_adaptive = {attack for attack in attacks if self.robust.get(("adaptive", group, attack))}
        counts = f"{len(with_static)} static, {len(with_adaptive)} adaptive attacks"
        marks = unproven((*static[0].footnotes, *adaptive[0].footnotes))
        footnotes = (*((counts,) if with_static != with_adaptive else ()), *marks)
        return replace(gap, footnotes=footnotes, keys=static[0].keys + adaptive[0].keys)


def _robust_by_seed(results: Iterable[CellResult]) -> dict[int, Outcomes]:
    return {r.cell.seed: outcomes for r in results if (outcomes := r.robust_outcomes) is not None}


def _by_others(results: Iterable[CellResult], broken_too: Mapping[str, Sequence[Outcomes]]) -> dict[int, Outcomes]:
    return {r.cell.seed: right_in_all(broken_too[r.key]) for r in results if broken_too.get(r.key)}


@dataclass(frozen=True)
class ThreatSummary:
    """A defense under one threat (none where it was only measured clean)."""

    cells: DefenseCells
    threat: Threat | None
    #: The threat as tables write it.
    group: str
    worst: Mapping[Access | Literal["any"], Value]
    gap: Value
    attacks: tuple[str, ...]
    #: The attacks that gave an outcome, by access.
    evaluated_attacks: Mapping[Access, tuple[str, ...]]
    #: The labels of the attacks of the table under this threat, by the ids of their columns.
    labels: Mapping[str, str]
    #: Where the base was attacked too, and the step adaptively.
    judgement: BaseComparison | None = None
    #: Why there is no verdict, where one was to be expected.
    unjudged: str = ""

    @property
    def defense(self) -> str:
        """Its label."""
        return self.cells.name

    @property
    def clean(self) -> Value:
        """Its accuracy on clean images."""
        return self.cells.clean

    @property
    def cost(self) -> DefenseCost | None:
        """What it costs, where that was measured."""
        return self.cells.cost

    def worst_under(self, access: Access, attacks: Collection[str]) -> Value:
        """Return the worst case over some attacks, given by label."""
        ids = [attack for attack, label in self.labels.items() if label in attacks]
        return self.cells.worst_case(self.group, [access], ids)[0]


@dataclass(frozen=True)
class DefenseSummary:
    """One row of a table: the cells of a defense, and how it does under each threat."""

    cells: DefenseCells
    threats: tuple[ThreatSummary, ...]

    @property
    def name(self) -> str:
        """Its label."""
        return self.cells.name

    def rank(self, accesses: Sequence[Access], group: str) -> tuple[float, float]:
        """Return what rows are ordered by: the worst case under the threat that ranks a table, then clean accuracy."""
        threats = [threat for threat in self.threats if threat.group == group]
        worst = (threat.worst.get(access) for threat, access in product(threats, accesses))
        shares = (value.number for value in worst if value and value.number is not None)
        return max(shares, default=-1.0), self.cells.clean.number or 0.0


def summarise(
    cells: DefenseCells, attacks: Mapping[str, Mapping[str, str]], threats: Mapping[str, Threat]
) -> DefenseSummary:
    """Return the row of a defense.

    Args:
        cells: of the defense.
        attacks: the labels of all columns of the table by their ids, by the text of their threat.
        threats: the threats of these texts.
    """
    summaries = [
        _under(cells, threats[group], group, labels) for group, labels in attacks.items() if group in cells.coords
    ]
    return DefenseSummary(cells, tuple(summaries) or (_under(cells, None, "", {}),))


def _under(cells: DefenseCells, threat: Threat | None, group: str, labels: Mapping[str, str]) -> ThreatSummary:
    """Return how a defense does under one threat; ``None`` where it was only measured clean."""
    worst: dict[Access | Literal["any"], Value] = {}
    gap = Value(None)
    if threat is not None:
        worst_cases = {access: cells.worst_case(group, [access], list(labels)) for access in cells.accesses}
        worst.update({access: value for access, (value, _) in worst_cases.items()})
        alone = len(worst_cases) == 1
        worst["any"] = worst[cells.accesses[0]] if alone else cells.worst_case(group, cells.accesses, list(labels))[0]
        if "static" in worst_cases and "adaptive" in worst_cases:
            gap = cells.gap(group, list(labels), worst_cases["static"], worst_cases["adaptive"])
    attacks = tuple(
        label for attack, label in labels.items() if any((access, group, attack) in cells.cells for access in ACCESSES)
    )
    evaluated = {
        access: tuple(label for attack, label in labels.items() if cells.robust.get((access, group, attack)))
        for access in cells.accesses
    }
    return ThreatSummary(cells, threat, group, worst, gap, attacks, evaluated, labels)


def mean_value(
    shares: Sequence[float], n: int, results: Sequence[CellResult], footnotes: Iterable[str] = (), *, flags: bool = True
) -> Value:
    """Return the mean of shares, one for each seed, with its interval.

    Args:
        shares: in [0, 1].
        n: images, which the seeds share.
        results: behind the number.
        footnotes: what a reader must know of it.
        flags: whether the flags of the results are footnotes, too.
    """
    raised = [note for note in in_seeds(results) if note != "failed"] if flags else []
    is_partial = bool(unproven(raised))
    keys = tuple(r.key for r in results)
    failed = sum(r.status == "failed" for r in results)
    if not shares:
        return Value(None, footnotes=(*raised, *footnotes), keys=keys, failed=failed > 0)
    some = (f"{failed} of {len(results)} seeds failed",) if failed and flags else ()
    # The seeds share their images, so the interval is that of one seed.
    ends = wilson(min(n, fmean(shares) * n), n)
    return Value(*ends, spread(shares), (*raised, *some, *footnotes), keys, partial=is_partial)


def _clean(results: Sequence[CellResult]) -> Value:
    plain = [r for r in results if r.cell.attack is None]
    known = [r for r in results if r.metrics]
    if not any(r.metrics for r in plain):
        # Attacked cells have the clean answers too; what their flags say of the attack is not said of these.
        attacked = {r.cell.seed: r for r in known}.values()
        plain += [r.model_copy(update={"flags": tuple(set(r.flags) & OF_ANSWERS)}) for r in attacked]
    shares = [r.metrics.clean_accuracy for r in plain if r.metrics]
    return mean_value(shares, results[0].cell.data.n, plain, _disagreements(results))


def _disagreements(results: Sequence[CellResult]) -> Iterator[str]:
    """Yield in which points cells are not of one defense, though they are of one row.

    Other machines may round otherwise. A file that somebody put together by hand may mix two networks.
    """
    clean = {(r.cell.seed, r.clean_bits) for r in results if r.clean_bits is not None}
    if len(clean) > len({seed for seed, _ in clean}):
        yield "cells of one seed have different clean outcomes"
    costs = [(r.cell.seed, r.defense_cost) for r in results if r.defense_cost is not None]
    if len({cost.params for _, cost in costs}) > 1:
        yield "cells have different numbers of parameters"
    if _differ((seed, cost.train_flops_per_epoch) for seed, cost in costs):
        yield "cells of one seed have different FLOPs of training"
    if _differ((seed, cost.test_flops) for seed, cost in costs):
        yield "cells of one seed have different FLOPs of testing"


def _differ(values: Iterable[tuple[int, float | None]]) -> bool:
    """Say whether numbers of one seed are further apart than a hundredth."""
    ends: dict[int, tuple[float, float]] = {}
    for seed, value in values:
        if value is not None:
            least, most = ends.get(seed, (value, value))
            ends[seed] = min(least, value), max(most, value)
    return any(most > 1.01 * least for least, most in ends.values())


def _cost(results: Sequence[CellResult]) -> DefenseCost | None:
    """Return the cost of a row: seconds of testing are the median over cells, those of an epoch the mean over seeds."""
    costs = [r.defense_cost for r in results if r.defense_cost]
    if not costs:
        return None
    by_seed = {r.cell.seed: r.defense_cost.train_seconds_per_epoch for r in results if r.defense_cost}
    seconds = [each for each in by_seed.values() if each is not None]
    changes = {
        "test_seconds": median(cost.test_seconds for cost in costs),
        "train_seconds_per_epoch": fmean(seconds) if seconds else None,
    }
    return costs[-1].model_copy(update=changes)
