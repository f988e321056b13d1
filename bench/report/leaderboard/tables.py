"""The leaderboard as data: results in, tables out. Every format renders these and computes nothing of its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from statistics import fmean, median
from typing import Literal, NamedTuple

from bench.keys import EVALUATION_VERSION, Keys
from bench.report.leaderboard.judging import PurifierRow, judge, unjudged_lines, verdict_lines
from bench.report.leaderboard.labels import Params, attack_params, defense_params, shortest_name, unique
from bench.report.leaderboard.soundness import across
from bench.report.leaderboard.summaries import (
    NORMS,
    WORST_CASE,
    DefenseCells,
    DefenseSummary,
    RowIds,
    ThreatSummary,
    Value,
    attack_ids,
    conditional_attacks,
    summarise,
    threat_text,
)
from bench.store.latest import newest, protocol
from bench.store.planned import Count, PlannedTable, table_id
from bench.types import Access, CellResult, DefenseCost, Threat, TrainRef
from bench.visible import visible

Unit = Literal["accuracy", "gap", "seconds", "TFLOP", "millions"]

#: Only these lines are ranked: a static attacker does not see the whole defense and so has not tried its best.
RANKED: tuple[Access, ...] = ("white-box", "adaptive")


@dataclass(frozen=True)
class Column:
    """A column of a table; ``group`` is the threat that it belongs to, or ``cost``."""

    id: str
    label: str
    unit: Unit
    group: str = ""
    hint: str = ""
    #: Which iterate an iterative attack keeps.
    rule: str = ""
    #: It holds the accuracy under one attack.
    under_attack: bool = False


@dataclass(frozen=True)
class TableRow:
    """A defense under one access: numbers by the id of their column."""

    defense: str
    access: Access
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Table:
    """What may stand side by side: one list of images, one network, one protocol."""

    dataset: str
    model: str
    n: int
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    threats: tuple[ThreatSummary, ...]
    #: What adaptive evaluation makes of each test-time step, in words.
    verdicts: tuple[str, ...]
    notes: tuple[str, ...]
    cells: Count
    #: What it is of a larger table; nothing where it is whole.
    part: str = ""

    @property
    def title(self) -> str:
        return f"{self.dataset} · {self.model} · {self.n:,} images" + (f" ({self.part})" if self.part else "")

    @property
    def incomplete(self) -> str:
        """What the table lacks of what was asked for; nothing where it is whole."""
        return self.cells.incomplete

    @cached_property
    def best(self) -> Mapping[str, tuple[float | None, float | None]]:
        """The best and the second-best accuracy of each column among the ranked lines, where they differ."""
        ranked = [line for line in self.rows if line.access in RANKED]
        ends: dict[str, tuple[float | None, float | None]] = {}
        for column in self.columns:
            values = (line.values.get(column.id) for line in ranked if column.unit == "accuracy")
            found = sorted({v.number for v in values if v and v.number is not None and not v.partial}, reverse=True)
            ends[column.id] = found[0] if len(found) > 1 else None, found[1] if len(found) > 2 else None
        return ends


def first_columns(columns: Sequence[Column], attacks: int) -> tuple[Column, ...]:
    """Return the columns of the first attacks, worst case and gap beside them, and those of no attack."""
    kept = {column.id for column in [column for column in columns if column.under_attack][:attacks]}
    groups = {column.group for column in columns if column.id in kept} | {"", "cost"}
    return tuple(
        column for column in columns if column.id in kept or (not column.under_attack and column.group in groups)
    )


def first_defenses(table: Table, defenses: int, attacks: int) -> Table:
    """Return a table of the most robust defenses under the first attacks; its title says so."""
    names = list(dict.fromkeys(line.defense for line in table.rows))
    kept, columns = set(names[:defenses]), first_columns(table.columns, attacks)
    groups = {column.group for column in columns}
    parts = [
        f"the first {some:,} of {count:,} {what}"
        for some, count, what in (
            (len(kept), len(names), "defenses"),
            (len(columns), len(table.columns), "columns"),
        )
        if some < count
    ]
    if not parts:
        return table
    return replace(
        table,
        columns=columns,
        rows=tuple(row for row in table.rows if row.defense in kept),
        threats=tuple(s for s in table.threats if s.defense in kept and (not s.threat or s.group in groups)),
        part=" and ".join(parts),
    )


@dataclass(frozen=True)
class Board:
    """Every table, the results they stand on by key, and the labels (defense, attack) that each result goes by."""

    tables: tuple[Table, ...]
    results: Mapping[str, CellResult]
    labels: Mapping[str, tuple[str, str]]
    #: The evaluation protocol of each result.
    protocols: Mapping[str, str]
    superseded: int
    #: Tables that were asked for and of which there is no cell: title, and how many cells they would have.
    absent: tuple[tuple[str, int], ...] = ()


class _Cost(NamedTuple):
    column: Column
    number: Callable[[DefenseCost], float | None]


COSTS = (
    _Cost(
        Column("train_seconds", "train s", "seconds", "cost", "seconds to train for an epoch"),
        lambda c: c.train_seconds_per_epoch,
    ),
    _Cost(
        Column("train_tflop", "train TFLOP", "TFLOP", "cost", "TFLOP to train for an epoch, 2 per multiply-add"),
        lambda c: None if c.train_flops_per_epoch is None else c.train_flops_per_epoch / 1e12,
    ),
    _Cost(
        Column("test_seconds", "test s", "seconds", "cost", "seconds for 10,000 images"), lambda c: c.test_seconds * 1e4
    ),
    _Cost(Column("test_tflop", "test TFLOP", "TFLOP", "cost", "TFLOP for 10,000 images"), lambda c: c.test_flops / 1e8),
    _Cost(Column("params", "params", "millions", "cost", "parameters, in millions"), lambda c: c.params / 1e6),
)


def build(results: Iterable[CellResult], asked: Iterable[PlannedTable] = ()) -> Board:
    """Sort results into tables. An answer of code since edited gives way to the newest one to the same question.

    Args:
        results: all that is known.
        asked: what runs were asked for; a table that lacks cells of it says so. Where nothing is known of a table, its
            cells are those that were tried.
    """
    given = list(results)
    status = {result.key: result.status for result in given}
    plans: dict[str, dict[str, str]] = defaultdict(dict)
    titles: dict[str, str] = {}
    for each in asked:
        plans[each.table] |= each.keys
        titles[each.table] = each.title
    answers = _checked(newest(given).values())
    shelves: dict[tuple[str, str], dict[tuple[str, str, str], list[CellResult]]] = defaultdict(
        lambda: defaultdict(list)
    )
    protocols: dict[str, str] = {}
    keys = Keys()
    for result in answers:
        cell, names = result.cell, result.names
        protocols[result.key] = protocol(result, keys)
        made_by = (keys.text(cell.data), keys.text(cell.model.network), protocols[result.key])
        shelves[names.dataset, names.model][made_by].append(result)
    tables: list[Table] = []
    labels: dict[str, tuple[str, str]] = {}
    for _, shelf in sorted(shelves.items()):
        for made_by, found in sorted(shelf.items()):
            titles.pop(identity := table_id(*made_by), None)
            wanted = plans.get(identity) or {r.key: r.names.defense for r in found}
            missing = Counter(defense for key, defense in wanted.items() if key not in status)
            count = Count.of(wanted, status)
            table, named = _table(found, missing, count, protocol=made_by[2], alone=len(shelf) == 1)
            tables.append(table)
            labels |= named
    kept = sorted(
        answers, key=lambda r: (r.names.dataset, r.names.model, *labels[r.key], r.names.access, r.cell.seed, r.key)
    )
    absent = tuple((title, len(plans[table])) for table, title in sorted(titles.items(), key=lambda each: each[1]))
    return Board(tuple(tables), {r.key: r for r in kept}, labels, protocols, len(given) - len(answers), absent)


def _checked(results: Iterable[CellResult]) -> list[CellResult]:
    found = list(results)
    more = across(found)
    return [
        r.model_copy(update={"flags": tuple(sorted({*r.flags, *more[r.key]}))}) if r.key in more else r for r in found
    ]


def _table(
    results: Sequence[CellResult], missing: Mapping[str, int], count: Count, *, protocol: str, alone: bool
) -> tuple[Table, dict[str, tuple[str, str]]]:
    """Return a table and the labels of its results, given how many cells of each defense are missing."""
    ids, row_ids = attack_ids(results), RowIds()
    by_defense: dict[str, list[CellResult]] = defaultdict(list)
    by_attack: dict[tuple[str, str], list[CellResult]] = defaultdict(list)
    threats: dict[str, Threat] = {}
    for result in results:
        by_defense[row_ids.of(result.cell)].append(result)
        if result.cell.attack:
            threat = threat_text(result.cell.attack.threat)
            threats[threat] = result.cell.attack.threat
            by_attack[threat, ids[result.key]].append(result)
    names = unique(
        {each: (shortest_name("defense", found), defense_params(found[0])) for each, found in by_defense.items()}
    )
    suite: dict[str, dict[str, tuple[str, Params]]] = defaultdict(dict)
    for threat, attack in sorted(by_attack, key=lambda each: (*column_order(by_attack[each]), each[1])):
        made = by_attack[threat, attack]
        suite[threat][attack] = (shortest_name("attack", made), attack_params(made[0]))
    order = sorted(suite, key=lambda threat: (-len(suite[threat]), _severity(threats[threat])))
    attacks = {threat: unique(suite[threat]) for threat in order}
    labels = {
        r.key: (
            names[defense],
            attacks[threat_text(r.cell.attack.threat)][ids[r.key]] if r.cell.attack else r.names.attack,
        )
        for defense, found in by_defense.items()
        for r in found
    }
    conditional = conditional_attacks(results, ids)
    of = {
        each: summarise(DefenseCells.of(names[each], found, ids, conditional), attacks, threats)
        for each, found in by_defense.items()
    }
    steps = {each: found[0].cell for each, found in by_defense.items() if found[0].cell.step is not None}
    lost = {each: sum(missing.get(name, 0) for name in {r.names.defense for r in by_defense[each]}) for each in steps}
    purifiers = [PurifierRow(of[each], of.get(row_ids.base(cell)), lost[each]) for each, cell in steps.items()]
    of |= zip(steps, judge(purifiers, attacks), strict=True)
    rows = list(of.values())
    rows.sort(key=lambda row: (*(-number for number in row.rank(RANKED)), row.name))
    first = results[0]
    table = Table(
        first.names.dataset,
        first.names.model,
        first.cell.data.n,
        _columns(attacks, by_attack, rows),
        tuple(TableRow(row.name, access, _values(row, access)) for row in rows for access in row.cells.accesses),
        tuple(chain.from_iterable(row.threats for row in rows)),
        tuple(verdict_lines(rows)),
        tuple(_notes(results, rows, protocol=protocol, alone=alone)),
        count,
    )
    return table, labels


def _columns(
    attacks: Mapping[str, Mapping[str, str]],
    results: Mapping[tuple[str, str], Sequence[CellResult]],
    rows: Sequence[DefenseSummary],
) -> tuple[Column, ...]:
    columns = [Column("clean", "clean", "accuracy", hint="accuracy of the deployed defense on clean images")]
    with_gap = {s.group for row in rows for s in row.threats if s.gap.number is not None}
    for group, found in attacks.items():
        for attack, label in found.items():
            hint, rule = _described(results[group, attack])
            columns.append(Column(_place(group, attack), label, "accuracy", group, hint, rule, under_attack=True))
        if len(found) > 1 or len(columns) == 2:
            hint = WORST_CASE
            columns.append(Column(_place(group, "worst"), "worst case", "accuracy", group, hint))
        if group in with_gap:
            hint = "static minus adaptive worst case, in points, with its paired interval"
            columns.append(Column(_place(group, "gap"), "gap", "gap", group, hint))
    measured = [
        cost.column for cost in COSTS if any(row.cells.cost and cost.number(row.cells.cost) is not None for row in rows)
    ]
    return (*columns, *measured)


def _described(results: Sequence[CellResult]) -> tuple[str, str]:
    """Return the parameters of an attack, and which iterate it keeps under each access."""
    made = [(r.cell.access, r.cell.attack) for r in results if r.cell.attack]
    params = visible(", ".join(f"{key} {value}" for key, value in made[0][1].attack.params.items() if key != "rule"))
    by_access = {access: visible(str(attack.attack.params.get("rule", ""))) for access, attack in made}
    kept = sorted(set(by_access.values()) - {""})
    if len(kept) < 2:
        return params, "".join(kept)
    return params, ", ".join(
        f"{rule} ({', '.join(sorted(a for a, r in by_access.items() if r == rule))})" for rule in kept
    )


def _values(row: DefenseSummary, access: Access) -> dict[str, Value]:
    values = {"clean": row.cells.clean}
    values |= {
        _place(threat, attack): row.cells.under_attack(found)
        for (seen, threat, attack), found in row.cells.cells.items()
        if seen == access
    }
    for standing in row.threats:
        if standing.threat and access in standing.worst:
            values[_place(standing.group, "worst")] = standing.worst[access]
            if access == "adaptive":
                values[_place(standing.group, "gap")] = standing.gap
    if row.cells.cost:
        values |= {cost.column.id: Value(cost.number(row.cells.cost)) for cost in COSTS}
    return values


def _notes(
    results: Sequence[CellResult], rows: Sequence[DefenseSummary], *, protocol: str, alone: bool
) -> Iterable[str]:
    data = results[0].cell.data
    suites = any(r.cell.attack and r.cell.attack.after for r in results)
    sets = {r.cell.attack.model_dump_json(): r for r in results if suites and r.cell.attack}
    if not alone:
        listed = f"images #{data.indices_sha[:4]} of {data.subset} {data.n}"
        yield f"another image list, network or protocol than its namesake: {listed}"
    if data.classes_present is not None:
        yield f"the {data.n:,} test images are of {data.classes_present} of {data.num_classes} classes"
    trained = dict.fromkeys(r.cell.model.weights.data for r in results if isinstance(r.cell.model.weights, TrainRef))
    for each in (each for each in trained if each.classes_present is not None):
        yield f"the {each.n:,} training images are of {each.classes_present} of {each.num_classes} classes"
    if protocol != str(EVALUATION_VERSION):
        yield f"measured with protocol {protocol}, not comparable with new results (protocol {EVALUATION_VERSION})"
    if len(machines := sorted({f"{r.provenance.machine} ({r.provenance.device})" for r in results if r.cost})) > 1:
        yield f"seconds come from {len(machines)} machines and do not compare: {', '.join(machines)}"
    if any(r.provenance.dirty for r in results):
        dirty = sum(r.provenance.dirty for r in results)
        yield f"{dirty} of {len(results)} results come from code with uncommitted changes"
    if given := [spared for r in results if (spared := _spared(r, sets)) is not None]:
        yield (
            "worst-case mode: attacks ran cheapest first, each on images that the ones before it had not broken, which "
            f"spared {100 * fmean(given):.0f} % of them"
        )
    for row in rows:
        yield from unjudged_lines(row)
        # Where there is a verdict, it says so.
        for standing in (each for each in row.threats if each.judgement is None):
            lowest = min(
                (v.number for k, v in standing.worst.items() if k != "any" and v.number is not None), default=None
            )
            total = standing.worst.get("any")
            if standing.threat and total and total.number is not None and lowest is not None and total.number < lowest:
                share = f"{100 * total.number:.1f} %"
                yield f"{row.name}, {standing.group}: {share} survive all attacks of every access"


def _spared(result: CellResult, sets: Mapping[str, CellResult]) -> float | None:
    """Return the share of images that an attack of a suite was not given; ``None`` where that is not known."""
    earlier = result.cell.attack and result.cell.attack.previous
    before = sets.get(earlier.model_dump_json()) if earlier else None
    if before is None or before.metrics is None or before.metrics.accuracy_under_attack is None:
        return None
    return 1 - before.metrics.accuracy_under_attack


def _place(group: str, what: str) -> str:
    return f"{group} {what}"


def _severity(threat: Threat) -> tuple[int, float]:
    return list(NORMS).index(threat.norm), float("inf") if threat.eps is None else float(threat.eps)


def column_order(results: Sequence[CellResult]) -> tuple[int, float]:
    """Return what attacks are ordered by: their place in a suite, and what they took."""
    place = max(len(r.cell.attack.after) for r in results if r.cell.attack)
    return place, median(
        [r.cost.forwards_per_example + r.cost.backwards_per_example for r in results if r.cost] or [0.0]
    )
