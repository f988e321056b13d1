"""The leaderboard as data: results in, tables out. Every format renders these and computes nothing itself."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from statistics import fmean, median
from typing import Any, Literal, NamedTuple

from bench.anytime import ranking_order
from bench.keys import EVALUATION_VERSION, Keys
from bench.report.leaderboard import corruption_error
from bench.report.leaderboard.flags import Result, is_by_others, is_proven, that_count, unproven
from bench.report.leaderboard.judging import PurifierRow, gapless_lines, judge, unjudged_lines, verdict_lines
from bench.report.leaderboard.labels import (
    Params,
    attack_params,
    defense_params,
    distinctions,
    shortest_name,
    unique,
)
from bench.report.leaderboard.queries import query_lines
from bench.report.leaderboard.questions import Answer, questions
from bench.report.leaderboard.required import ALL_ATTACKS, Policy, described, in_order, lacking_lines, of_set, required
from bench.report.leaderboard.soundness import across
from bench.report.leaderboard.standing import Ranking, standing
from bench.report.leaderboard.summaries import (
    ACCESSES,
    EXCLUDE_SEED,
    WORST_CASE,
    DefenseCells,
    DefenseSummary,
    RowIds,
    Terms,
    ThreatSummary,
    Value,
    attack_ids,
    conditional_attacks,
    summarise,
)
from bench.report.leaderboard.verdicts import RobustnessVerdict
from bench.store.latest import newest, protocol
from bench.store.planned import Count, PlannedTable, table_id
from bench.types import (
    NORMS,
    Access,
    AttackRef,
    CellResult,
    DataRef,
    DefenseCost,
    Measured,
    PartialResult,
    Threat,
    TrainRef,
    threat_text,
)
from bench.visible import visible

Unit = Literal["accuracy", "error", "gap", "words", "seconds", "TFLOP", "millions"]

#: What a column holds: ``attack`` is the accuracy under one attack, ``worst`` the worst case over all of a threat,
#: ``mce`` a mean corruption error, and ``budget`` the worst case at a budget, from all attacks in its norm.
Kind = Literal["clean", "attack", "worst", "mce", "gap", "verdict", "budget", "cost"]

#: The place of a number in its column, where that is marked.
Mark = Literal["best", "second", ""]

#: The heading of the worst case under a threat.
WORST_LABEL = "robust accuracy, worst case"
#: That of what a static attacker's worst case flatters by.
GAP_LABEL = "gap, static − adaptive"

#: Verdicts in the words of a column, from the best; the lines below a table have the reasons and the numbers.
VERDICT_WORDS: Mapping[RobustnessVerdict, str] = {
    "holds": "holds",
    "upper bound only": "upper bound",
    "broken under adaptive attack": "broken",
    "weaker than its base": "weaker",
}
#: The same words alone, in that order.
VERDICT_ORDER = tuple(VERDICT_WORDS.values())

#: Only these rows are ranked: a static attacker does not see the entire defense, so it is too weak.
RANKED: tuple[Access, ...] = ("white-box", "adaptive")


@dataclass(frozen=True)
class Column:
    """A column of a table; ``group`` is the threat that it belongs to, or ``cost``."""

    id: str
    label: str
    unit: Unit
    kind: Kind
    group: str = ""
    hint: str = ""
    #: Which iterate an iterative attack keeps.
    rule: str = ""
    #: Whether its best and second-best number are marked.
    ranked: bool = True
    #: The norm and the budget of robust accuracy at a budget.
    threat: Threat | None = None


@dataclass(frozen=True)
class TableRow:
    """A defense under one access: numbers by the id of their column."""

    defense: str
    access: Access
    values: Mapping[str, Value]

    @property
    def keys(self) -> list[str]:
        """The keys of all results that its numbers come from; a result is there once for each number."""
        return list(chain.from_iterable(value.keys for value in self.values.values()))


@dataclass(frozen=True)
class Table:
    """Rows that can be compared: one list of images, one network, one protocol."""

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
    #: Which part of a larger table it is; empty where it is all of it.
    part: str = ""
    #: What stands above it instead of its title, which is then said beside it.
    caption: str = ""
    #: Whether a row is one access; in the short form a row is all accesses of its defense.
    has_access: bool = True
    #: What tells a view of chosen columns and rows from others of the same table; empty where all is shown.
    view: str = ""
    #: The ranks of its defenses and which are settled, where there are several to rank.
    ranking: Ranking | None = None
    #: What is settled of its verdicts and gaps, or open.
    answers: tuple[Answer, ...] = ()
    #: What its network is called where people read it: with parameters, where another one has its name.
    network: str = ""

    @property
    def heading(self) -> str:
        """What stands above it."""
        return self.caption or self.title

    @property
    def title(self) -> str:
        return f"{self.dataset} · {self.network} · {self.n:,} images" + (f" ({self.part})" if self.part else "")

    @property
    def incomplete(self) -> str:
        """What the table lacks of its plan; empty where it is complete."""
        return self.cells.incomplete

    def mark(self, row: TableRow, column: Column) -> Mark:
        """Return the place of a number in its column among the ranked rows, judged by its robust accuracy."""
        value = row.values.get(column.id)
        if value is None or value.merit is None or value.partial or row.access not in RANKED:
            return ""
        best, second = self.best[column.id]
        if value.merit == best:
            return "best"
        return "second" if value.merit == second else ""

    @cached_property
    def best(self) -> Mapping[str, tuple[float | None, float | None]]:
        """The best and the second-best accuracy of each column among the ranked rows, where they differ."""
        ranked = [row for row in self.rows if row.access in RANKED]
        ends: dict[str, tuple[float | None, float | None]] = {}
        for column in self.columns:
            values = (row.values.get(column.id) for row in ranked if column.unit == "accuracy" and column.ranked)
            numbers = sorted({v.merit for v in values if v and v.merit is not None and not v.partial}, reverse=True)
            ends[column.id] = numbers[0] if len(numbers) > 1 else None, numbers[1] if len(numbers) > 2 else None
        return ends


def first_columns(columns: Sequence[Column], attacks: int) -> tuple[Column, ...]:
    """Return the columns of the first attacks, those beside them, and those of threats that show no attack."""
    attacked = [column for column in columns if column.kind == "attack"]
    kept = {column.id for column in attacked[:attacks]}
    groups = {column.group for column in attacked[:attacks]}
    groups |= {column.group for column in columns} - {column.group for column in attacked}
    return tuple(
        column for column in columns if column.id in kept or (column.kind != "attack" and column.group in groups)
    )


def first_defenses(table: Table, defenses: int, attacks: int) -> Table:
    """Return a table of the most robust defenses under the first attacks; its title says so."""
    names = list(dict.fromkeys(row.defense for row in table.rows))
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


def lines_by_defense(table: Table) -> dict[str | None, list[str]]:
    """Return verdicts and notes by the defense that they are about; under ``None`` those about the table."""
    names = {row.defense for row in table.rows}
    lines: dict[str | None, list[str]] = defaultdict(list)
    for line in (*table.verdicts, *table.notes):
        beginnings = (line[: match.start()] for match in re.finditer("[:,]", line))
        lines[next((beginning for beginning in beginnings if beginning in names), None)].append(line)
    return dict(lines)


class Place(NamedTuple):
    """Where a result stands: the data set and the network of its table, as renamed, and what the network is called."""

    dataset: str
    model: str
    #: With parameters, where another network has its name.
    network: str


@dataclass(frozen=True)
class Board:
    """Every table, the results behind them by key, and the label of each result (defense, attack)."""

    tables: tuple[Table, ...]
    results: Mapping[str, CellResult]
    labels: Mapping[str, tuple[str, str]]
    places: Mapping[str, Place]
    #: The evaluation protocol of each result.
    protocols: Mapping[str, str]
    superseded: int
    #: Tables that were planned and of which there is no cell: title, and how many cells they would have.
    absent: tuple[tuple[str, int], ...] = ()


class _Cost(NamedTuple):
    column: Column
    number: Callable[[DefenseCost], float | None]


def _cost_column(identity: str, label: str, unit: Unit, hint: str = "") -> Column:
    return Column(identity, label, unit, "cost", "cost", hint)


COSTS = (
    _Cost(_cost_column("train_seconds", "training s/epoch", "seconds"), lambda c: c.train_seconds_per_epoch),
    _Cost(
        _cost_column("train_tflop", "training TFLOP/epoch", "TFLOP", "2 FLOP per multiply-add"),
        lambda c: None if c.train_flops_per_epoch is None else c.train_flops_per_epoch / 1e12,
    ),
    _Cost(_cost_column("test_seconds", "inference s/10k images", "seconds"), lambda c: c.test_seconds * 1e4),
    _Cost(
        _cost_column("test_tflop", "inference TFLOP/10k images", "TFLOP", "2 FLOP per multiply-add"),
        lambda c: c.test_flops / 1e8,
    ),
    _Cost(_cost_column("params", "parameters, M", "millions", "in millions"), lambda c: c.params / 1e6),
)


def build(
    results: Iterable[CellResult],
    planned: Iterable[PlannedTable] = (),
    rename: Mapping[str, str] | None = None,
    begun: Iterable[PartialResult] = (),
    policy: Policy = ALL_ATTACKS,
) -> Board:
    """Sort results into tables. Of results that differ in their code alone the newest counts.

    Args:
        results: all that is known.
        planned: the cells that runs planned; a table that lacks some of them says so. Where there is no plan for a
            table, its cells are those that were tried.
        rename: new names by the old ones, for defenses, attacks, data sets and networks.
        begun: cells of which only the first images are measured; they are shown in tables that have results.
        policy: what a row needs before it is ranked, and what counts in its worst case beside its own results.
    """
    results, rename = list(results), rename or {}
    status = {result.key: result.status for result in results}
    plans: dict[str, dict[str, str]] = defaultdict(dict)
    titles: dict[str, str] = {}
    for each in planned:
        plans[each.table] |= each.keys
        renamed = {"dataset": rename.get(each.dataset, each.dataset), "model": rename.get(each.model, each.model)}
        titles[each.table] = each.model_copy(update=renamed).title
    answers = _checked(newest(results).values())
    by_name: dict[tuple[str, str], dict[tuple[str, str, str], list[CellResult]]] = defaultdict(
        lambda: defaultdict(list)
    )
    protocols: dict[str, str] = {}
    keys = Keys()
    parts: dict[tuple[str, str, str], list[PartialResult]] = defaultdict(list)
    for part in begun:
        if part.key not in status:
            parts[keys.text(part.cell.data), keys.text(part.cell.model.network), str(EVALUATION_VERSION)].append(part)
    for result in answers:
        cell, names = result.cell, result.names
        protocols[result.key] = protocol(result, keys)
        content = (keys.text(cell.data), keys.text(cell.model.network), protocols[result.key])
        by_name[names.dataset, names.model][content].append(result)
    tables: list[Table] = []
    labels: dict[str, tuple[str, str]] = {}
    places: dict[str, Place] = {}
    uncorrupted = _errors_on_imagenet(answers)
    for _, namesakes in sorted(by_name.items()):
        for content, own in sorted(namesakes.items()):
            titles.pop(identity := table_id(*content), None)
            measured: list[Measured] = [*own, *parts[content]]
            wanted = plans.get(identity) or {each.key: each.names.defense for each in measured}
            known = status.keys() | {part.key for part in parts[content]}
            missing = Counter(defense for key, defense in wanted.items() if key not in known)
            count = Count.of(wanted, status, {part.key for part in parts[content]})
            called = _Called.of(content, namesakes, rename)
            asked = policy._replace(required=of_set(policy.required, own[0].names.dataset))
            table, named = _table(
                own, parts[content], missing, count, rename, uncorrupted, asked, protocol=content[2], called=called
            )
            tables.append(table)
            labels |= named
            places |= dict.fromkeys(named, Place(table.dataset, table.model, table.network))
    kept = sorted(
        answers, key=lambda r: (r.names.dataset, r.names.model, *labels[r.key], r.names.access, r.cell.seed, r.key)
    )
    absent = tuple((title, len(plans[table])) for table, title in sorted(titles.items(), key=lambda each: each[1]))
    by_key = {r.key: r for r in kept}
    return Board(tuple(tables), by_key, labels, places, protocols, len(results) - len(answers), absent)


class _Called(NamedTuple):
    """What the network of a table is called in its heading, and in what it differs from its namesakes, as a note."""

    network: str
    note: str

    @classmethod
    def of(
        cls,
        content: tuple[str, str, str],
        namesakes: Mapping[tuple[str, str, str], Sequence[CellResult]],
        rename: Mapping[str, str],
    ) -> _Called:
        """Tell a table from its namesakes.

        Args:
            content: its images, its network and its protocol, as text.
            namesakes: the results of all tables of its names, by their contents.
            rename: new names by the old ones.
        """
        first = namesakes[content][0]
        data, network = first.cell.data, first.cell.model.network
        name = rename.get(first.names.model, first.names.model)
        others = {each[1]: own[0].cell.model.network for each, own in namesakes.items()}
        labels = unique({each: (name, other.params) for each, other in others.items()})
        # Of networks that differ in their code alone the name stays, as published numbers are found by it.
        has_params = len({str(sorted(other.params.items())) for other in others.values()}) > 1
        label = labels[content[1]] if has_params else name
        of_network = label if has_params else f"code #{network.code_sha[:4]}"
        known = (
            _of_images(data, [own[0].cell.data for own in namesakes.values()]),
            ("network", of_network),
            ("protocol", f"protocol {content[2]}"),
        )
        differing = [words for part, words in enumerate(known) if len({each[part] for each in namesakes}) > 1]
        what, about = (" and ".join(each) for each in zip(*differing, strict=True)) if differing else ("", "")
        return cls(rename.get(label, label), f"another {what} than its namesake: {about}" if what else "")


def _of_images(data: DataRef, others: Iterable[DataRef]) -> tuple[str, str]:
    """Return in what the images of a table differ from those of its namesakes, and what they are there."""
    others = list(others)

    def differs(*names: str) -> bool:
        return any(len({getattr(each, name) for each in others}) > 1 for name in names)

    size = "x".join(map(str, data.image_shape[1:]))
    resized = data.prepared or f"{size}, {data.interpolation} where they were resized"
    parts = {
        "image list": (
            differs("indices_sha", "subset", "n"),
            f"images #{data.indices_sha[:4]} of {data.subset} {data.n}",
        ),
        "image size": (differs("image_shape", "interpolation", "preprocessing"), resized),
        "list of classes": (differs("num_classes", "classes"), f"{data.num_classes} classes"),
    }
    known = [(what, words) for what, (has_others, words) in parts.items() if has_others]
    # Of another list or size the hash is another, too.
    known = known or [("image set", f"images #{data.data_sha[:4]}")]
    what, words = (" and ".join(each) for each in zip(*known, strict=True))
    return what, words


def _checked(results: Iterable[CellResult]) -> list[CellResult]:
    results = list(results)
    # What strangers say raises flags on their own results alone.
    proven = [each for each in results if is_proven(each)]
    more = across(proven)
    if len(proven) < len(results):
        known = {each.key for each in proven}
        more |= {key: flags for key, flags in across(results).items() if key not in known}
    return [
        r.model_copy(update={"flags": tuple(sorted({*r.flags, *more[r.key]}))}) if r.key in more else r for r in results
    ]


def _table(
    results: Sequence[CellResult],
    begun: Sequence[PartialResult],
    missing: Mapping[str, int],
    count: Count,
    rename: Mapping[str, str],
    uncorrupted: Mapping[str, float],
    policy: Policy,
    *,
    protocol: str,
    called: _Called,
) -> tuple[Table, dict[str, tuple[str, str]]]:
    """Return a table and the labels of its results.

    Args:
        results: its cells.
        begun: those that are not done, of which the first images are measured.
        missing: how many cells of each defense are missing.
        count: of its cells.
        rename: new names by the old ones.
        uncorrupted: the error of each row on ImageNet without corruptions, where it was measured.
        policy: what a row needs before it is ranked, and what counts beside its own results.
        protocol: of its cells.
        called: its network, and what tells it from other tables of its names.
    """
    ids, row_ids = attack_ids([*results, *begun]), RowIds()
    by_defense, parts = _by_row(results, row_ids), _by_row(begun, row_ids)
    by_attack, threats = _attacked([*results, *begun], ids)
    counting = {column: that_count(own) for column, own in by_attack.items()}
    # A column that is only the word of strangers is shown, and counts for none of the others' rows.
    common = {column for column, own in counting.items() if any(map(is_proven, own))} or set(by_attack)
    labels = unique(
        {each: (shortest_name("defense", that_count(own)), defense_params(own[0])) for each, own in by_defense.items()}
    )
    names = {each: rename.get(label, label) for each, label in labels.items()}
    rows_of = {column: {row_ids.of(each.cell) for each in counting[column]} for column in common}
    attack_labels = _attack_labels(counting, threats, rows_of)
    attacks = {t: {each: rename.get(name, name) for each, name in own.items()} for t, own in attack_labels.items()}
    run = rows_of | _run_by_others(by_attack, row_ids)
    needed = required(policy.required, {t: _among(own, t, run) for t, own in attacks.items()}, by_attack)
    attacks = in_order(attacks, needed, run)
    terms = Terms(conditional_attacks(results, ids), needed, policy.broken_too)
    by_id: dict[str, DefenseSummary] = {}
    for each, own in by_defense.items():
        cells = DefenseCells.of(names[each], own, ids, terms, uncorrupted.get(each), parts.get(each, ()))
        counted = common | {coord[1:] for coord in cells.cells}
        by_id[each] = summarise(cells, {t: _among(labels_of, t, counted) for t, labels_of in attacks.items()}, threats)
    steps = {each: own[0].cell for each, own in by_defense.items() if own[0].cell.step is not None}
    waiting = _waiting(missing, by_defense, names)
    bases = {each: by_id.get(row_ids.base(cell)) for each, cell in steps.items()}
    purifiers = [PurifierRow(by_id[each], base, waiting[names[each]]) for each, base in bases.items()]
    judged = judge(purifiers, attacks)
    by_id |= zip(steps, judged, strict=True)
    defenses = _best_first(by_id.values(), next(iter(attacks), ""))
    asked = questions((step._replace(row=row) for step, row in zip(purifiers, judged, strict=True)), attacks, waiting)
    by = described(needed, attacks)
    stands = standing(defenses, {each: threats[each] for each in attacks}, RANKED, waiting, list(asked), by)
    defenses, first = _ranked_first(defenses, stands.ranking), results[0]
    rows = tuple(chain.from_iterable(_rows(defense, first.cell.data) for defense in defenses))
    columns = _columns(attacks, by_attack, defenses, first.cell.data)
    table = Table(
        rename.get(first.names.dataset, first.names.dataset),
        rename.get(first.names.model, first.names.model),
        first.cell.data.n,
        tuple(c for c in columns if c.kind not in ("mce", "worst") or any(c.id in row.values for row in rows)),
        rows,
        tuple(chain.from_iterable(defense.threats for defense in defenses)),
        tuple(verdict_lines(chain.from_iterable(defense.threats for defense in defenses))),
        (
            *filter(None, [called.note]),
            *lacking_lines(policy.required, needed),
            *_notes(results, defenses, {r.key: _attack_label(r, attacks, ids) for r in results}, protocol=protocol),
            *_leads([*results, *begun]),
            *_distinctions(labels, {each: own[0] for each, own in by_defense.items()}, rename, _deployed),
            *chain.from_iterable(
                _distinctions(own, {each: by_attack[t, each][0] for each in own}, rename, _attacking)
                for t, own in attack_labels.items()
            ),
        ),
        count,
        ranking=stands.ranking,
        answers=stands.answers,
        network=called.network,
    )
    return table, {r.key: (names[row_ids.of(r.cell)], _attack_label(r, attacks, ids)) for r in results}


def _attacked(
    measured: Iterable[Measured], ids: Mapping[str, str]
) -> tuple[dict[tuple[str, str], list[Measured]], dict[str, Threat]]:
    """Return the attacked cells of each threat and attack, and the threats by their texts."""
    by_attack: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    threats: dict[str, Threat] = {}
    for each in measured:
        if each.cell.attack:
            threat = threat_text(each.cell.attack.threat)
            threats[threat] = each.cell.attack.threat
            by_attack[threat, ids[each.key]].append(each)
    return by_attack, threats


def _run_by_others(
    by_attack: Mapping[tuple[str, str], Sequence[Measured]], row_ids: RowIds
) -> dict[tuple[str, str], set[str]]:
    """Return the rows of columns that others ran on somebody's row: that meets what is required."""
    known = {
        column: [each for each in own if is_proven(each) or is_by_others(each)] for column, own in by_attack.items()
    }
    return {
        column: {row_ids.of(each.cell) for each in own} for column, own in known.items() if any(map(is_by_others, own))
    }


def _by_row(measured: Iterable[Result], row_ids: RowIds) -> dict[str, list[Result]]:
    """Return what was measured of each row."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for each in measured:
        rows[row_ids.of(each.cell)].append(each)
    return rows


def _best_first(defenses: Iterable[DefenseSummary], group: str) -> list[DefenseSummary]:
    """Return defenses by how they do under the threat that ranks a table, the best first."""
    return sorted(defenses, key=lambda each: (*(-number for number in each.rank(RANKED, group)), each.name))


def _ranked_first(defenses: Iterable[DefenseSummary], ranking: Ranking | None) -> list[DefenseSummary]:
    """Return defenses in their order, those without a rank behind: a number of fewer attacks looks like the best."""
    ranked = {rank.name for rank in ranking.ranks} if ranking else set()
    return sorted(defenses, key=lambda each: each.name not in ranked)


def _waiting(
    missing: Mapping[str, int], by_defense: Mapping[str, Sequence[CellResult]], names: Mapping[str, str]
) -> dict[str, int]:
    """Return how many planned cells are missing, by the names of defenses in tables; plans may call them otherwise."""
    called = {each: {result.names.defense for result in own} for each, own in by_defense.items()}
    there = set().union(*called.values())
    absent = {name: count for name, count in missing.items() if name not in there}
    return absent | {names[each]: sum(missing.get(name, 0) for name in own) for each, own in called.items()}


def _attack_labels(
    by_attack: Mapping[tuple[str, str], Sequence[Measured]],
    threats: Mapping[str, Threat],
    common: Mapping[tuple[str, str], Collection[str]],
) -> dict[str, dict[str, str]]:
    """Return the labels of the attacks by their ids, for each threat, in the order of the columns: ``common`` first.

    Args:
        by_attack: what was measured of each threat and attack.
        threats: by their texts.
        common: the rows of those that count for all.
    """
    suite: dict[str, dict[str, tuple[str, Params]]] = defaultdict(dict)
    columns = sorted(by_attack, key=lambda each: (each not in common, *column_order(by_attack[each]), each[1]))
    for threat, attack in columns:
        results = by_attack[threat, attack]
        suite[threat][attack] = (shortest_name("attack", results), attack_params(results[0]))
    first = ranking_order(common)
    # Corruptions come last, however many: tables are ranked by what an adversary can do.
    order = sorted(suite, key=lambda threat: (first.get(threat, (0, 0)), _severity(threats[threat])))
    order.sort(key=lambda threat: threats[threat].norm == "corruption")
    return {threat: unique(suite[threat]) for threat in order}


def _among(labels: Mapping[str, str], threat: str, columns: Collection[tuple[str, str]]) -> dict[str, str]:
    """Return the attacks of a threat that are among some columns, with their labels."""
    return {attack: label for attack, label in labels.items() if (threat, attack) in columns}


def _attack_label(result: CellResult, attacks: Mapping[str, Mapping[str, str]], ids: Mapping[str, str]) -> str:
    attack = result.cell.attack
    return attacks[threat_text(attack.threat)][ids[result.key]] if attack else result.names.attack


def _errors_on_imagenet(results: Iterable[CellResult]) -> dict[str, float]:
    """Return the clean error of each row on ImageNet, means over seeds on the set with the most images."""
    ids = RowIds()
    errors: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    by_row: dict[str, list[CellResult]] = defaultdict(list)
    for result in results:
        if result.cell.attack is None and corruption_error.is_imagenet(result.cell.data):
            by_row[ids.of(result.cell)].append(result)
    for row, own in by_row.items():
        for metrics in filter(None, (result.metrics for result in that_count(own))):
            errors[row][metrics.n].append(1 - metrics.clean_accuracy)
    return {row: fmean(by_images[max(by_images)]) for row, by_images in errors.items()}


def _rows(defense: DefenseSummary, data: DataRef) -> Iterator[TableRow]:
    cells = defense.cells
    for access in (each for each in ACCESSES if each in cells.accesses or any(each == c[0] for c in cells.aside)):
        yield TableRow(defense.name, access, _values(defense, access, data))


def _columns(
    attacks: Mapping[str, Mapping[str, str]],
    results: Mapping[tuple[str, str], Sequence[Measured]],
    defenses: Sequence[DefenseSummary],
    data: DataRef,
) -> tuple[Column, ...]:
    hint = "accuracy of the deployed defense on clean images"
    columns = [Column("clean", "clean accuracy", "accuracy", "clean", hint=hint)]
    conditions = chain.from_iterable(defense.cells.by_corruption for defense in defenses)
    columns += (_error_column("", measure) for measure in corruption_error.measures(conditions, data))
    threats = list(chain.from_iterable(defense.threats for defense in defenses))
    with_gap = {threat.group for threat in threats if threat.gap.number is not None}
    with_verdict = {threat.group for threat in threats if threat.judgement is not None}
    for group, labels in attacks.items():
        for attack, label in labels.items():
            hint, rule = _described(results[group, attack])
            columns.append(Column(column_id(group, attack), label, "accuracy", "attack", group, hint, rule))
        if len(labels) > 1 or sum(column.kind == "attack" for column in columns) == 1:
            columns.append(Column(column_id(group, "worst"), WORST_LABEL, "accuracy", "worst", group, WORST_CASE))
        known = corruption_error.conditions({attack: results[group, attack] for attack in labels})
        columns += (_error_column(group, measure) for measure in corruption_error.measures(known, data))
        if group in with_gap:
            hint = "gray-box (static) minus adaptive worst case, in points, with its paired interval"
            columns.append(Column(column_id(group, "gap"), GAP_LABEL, "gap", "gap", group, hint))
        if group in with_verdict:
            hint = "a test-time step against the classifier under it, on the same images"
            columns.append(Column(column_id(group, "verdict"), "verdict", "words", "verdict", group, hint))
    costs = [defense.cells.cost for defense in defenses if defense.cells.cost]
    return (*columns, *(cost.column for cost in COSTS if any(cost.number(each) is not None for each in costs)))


def _error_column(group: str, measure: corruption_error.Measure) -> Column:
    identity = column_id(group or "clean", measure.label)
    return Column(identity, measure.label, "error", "mce", group, measure.hint, ranked=False)


def _described(results: Sequence[Measured]) -> tuple[str, str]:
    """Return the parameters of an attack, and which iterate it keeps under each access."""
    attacks = [(r.cell.access, r.cell.attack.attack) for r in results if r.cell.attack]
    params = visible(", ".join(f"{key} {value}" for key, value in attack_params(results[0]).items()))
    by_access = {access: visible(str(attack.params.get("rule", ""))) for access, attack in attacks}
    kept = sorted(set(by_access.values()) - {""})
    if len(kept) < 2:
        return params, "".join(kept)
    return params, ", ".join(
        f"{rule} ({', '.join(sorted(a for a, r in by_access.items() if r == rule))})" for rule in kept
    )


def _values(defense: DefenseSummary, access: Access, data: DataRef) -> dict[str, Value]:
    cells = defense.cells
    values = {"clean": cells.clean}
    for coord in cells.cells:
        if coord[0] == access:
            values[column_id(*coord[1:])] = cells.at(coord)
    for coord, results in cells.aside.items():
        if coord[0] == access:
            values[column_id(*coord[1:])] = cells.under_attack(results)
    for summary in defense.threats:
        if summary.threat and access in summary.worst:
            values[column_id(summary.group, "worst")] = summary.worst[access]
            if access == "adaptive":
                values[column_id(summary.group, "gap")] = summary.gap
                values |= _verdict(summary)
    values |= _errors_of_set(cells, data) | _corruption_errors(cells, access, data)
    if cells.cost:
        values |= {cost.column.id: Value(cost.number(cells.cost)) for cost in COSTS}
    return values


def _errors_of_set(cells: DefenseCells, data: DataRef) -> dict[str, Value]:
    """Return the mean corruption errors of a row on a set of common corruptions."""
    values: dict[str, Value] = {}
    for measure in corruption_error.measures(cells.by_corruption, data):
        number = measure.value(cells.by_corruption, cells.uncorrupted_error)
        if number is not None:
            marks = unproven(cells.clean.footnotes)
            values[column_id("clean", measure.label)] = Value(number, keys=cells.clean.keys, footnotes=marks)
    return values


def _corruption_errors(cells: DefenseCells, access: Access, data: DataRef) -> dict[str, Value]:
    """Return the mean corruption errors of a row, where all that they are means of was measured."""
    values: dict[str, Value] = {}
    clean = None if cells.clean.number is None else 1 - cells.clean.number
    for group, coords in cells.coords.items():
        own = {coord[2]: cells.cells[coord] for coord in coords if coord[0] == access and cells.cells[coord]}
        shares = {
            condition: cells.under_attack(own[attack]) for condition, attack in corruption_error.conditions(own).items()
        }
        errors = {condition: 1 - share.number for condition, share in shares.items() if share.number is not None}
        for measure in corruption_error.measures(shares, data):
            number = measure.value(errors, clean)
            if number is not None:
                behind = [shares[condition] for condition in measure.conditions]
                keys = tuple(chain.from_iterable(share.keys for share in behind))
                marks = unproven(chain.from_iterable(share.footnotes for share in behind))
                values[column_id(group, measure.label)] = Value(number, keys=keys, footnotes=marks)
    return values


def _verdict(summary: ThreatSummary) -> dict[str, Value]:
    """Return the verdict on a step as a number of its adaptive row; nothing where there is none."""
    judgement = summary.judgement
    if judgement is None:
        return {}
    marks = unproven(chain.from_iterable(value.footnotes for value in summary.worst.values()))
    words = VERDICT_WORDS[judgement.verdict]
    return {column_id(summary.group, "verdict"): Value(None, words=words, footnotes=marks)}


def _machines(results: Iterable[CellResult]) -> list[str]:
    """Return the machines that seconds come from; one of which a receipt says the device alone may be any with that."""
    made_by = {(r.provenance.machine, r.provenance.device, r.provenance.where) for r in results if r.cost}
    named = {device for machine, device, _ in made_by if machine}
    return sorted({where for machine, device, where in made_by if machine or device not in named})


def _notes(
    results: Sequence[CellResult], defenses: Sequence[DefenseSummary], labels: Mapping[str, str], *, protocol: str
) -> Iterator[str]:
    data = results[0].cell.data
    suites = any(r.cell.attack and r.cell.attack.after for r in results)
    sets = {r.cell.attack.model_dump_json(): r for r in results if suites and r.cell.attack}
    if data.prepared is not None:
        yield f"images are {data.prepared}"
    if data.classes_present is not None:
        yield f"the {data.n:,} test images are of {data.classes_present} of {data.num_classes} classes"
    trained = dict.fromkeys(r.cell.model.weights.data for r in results if isinstance(r.cell.model.weights, TrainRef))
    for each in (each for each in trained if each.classes_present is not None):
        yield f"the {each.n:,} training images are of {each.classes_present} of {each.num_classes} classes"
    if protocol != str(EVALUATION_VERSION):
        yield f"measured with protocol {protocol}, not comparable with new results (protocol {EVALUATION_VERSION})"
    attacked = [(labels[r.key], attack) for r in results if (attack := r.cell.attack) is not None]
    yield from _budgets_of_passes(attacked)
    yield from _targets(attacked)
    if len(machines := _machines(results)) > 1:
        yield f"seconds come from {len(machines)} machines and do not compare: {', '.join(machines)}"
    if any(r.provenance.dirty for r in results):
        dirty = sum(r.provenance.dirty for r in results)
        yield f"{dirty} of {len(results)} results come from code with uncommitted changes"
    if spared := [share for r in results if (share := _spared(r, sets)) is not None]:
        yield (
            "worst-case mode: the attacks of a suite ran cheapest first, each on images that those before it had not "
            f"broken, which spared {100 * fmean(spared):.0f} % of them"
        )
    for defense in defenses:
        yield from query_lines(defense.cells)
        yield from unjudged_lines(defense.threats)
        yield from gapless_lines(defense.threats)
        # A verdict says how many survive itself.
        for summary in (each for each in defense.threats if each.judgement is None and each.threat is not None):
            yield from _survivors_of_all(summary)


def _distinctions(
    labels: Mapping[str, str],
    results: Mapping[str, Measured],
    rename: Mapping[str, str],
    content: Callable[[Measured], Mapping[str, Any]],
) -> Iterator[str]:
    """Yield what distinguishes defenses or attacks that only the digits of their key tell apart."""
    for each, difference in distinctions(labels, lambda each: content(results[each])).items():
        yield f"{rename.get(labels[each], labels[each])}: {difference}"


def _deployed(result: Measured) -> dict[str, Any]:
    """Return what a row is made of, as data."""
    step = result.cell.step
    return {
        **result.cell.model.model_dump(mode="json", exclude=EXCLUDE_SEED),
        "step": step and step.model_dump(mode="json"),
    }


def _attacking(result: Measured) -> dict[str, Any]:
    """Return what an attack column is made of, as data."""
    attack = result.cell.attack
    assert attack is not None
    return attack.model_dump(mode="json", include={"attack", "eot", "max_passes", "target", "craft_precision"})


def _leads(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield of how many cells gradients in bfloat16 led the attack, also of those that are only begun."""
    if led := sum(each.craft_precision == "bf16" for each in measured):
        yield f"{led} of {len(measured)} results: gradients in bfloat16 led the attack, float32 judged it"


def _survivors_of_all(summary: ThreatSummary) -> Iterator[str]:
    """Yield how many images survive the attacks of all accesses together, where that is fewer than of any one."""
    total = summary.worst["any"].number
    shares = [v.number for access, v in summary.worst.items() if access != "any" and v.number is not None]
    if total is not None and shares and total < min(shares):
        accesses = ["gray-box" if access == "static" else access for access in summary.worst if access != "any"]
        together = f"under all {' and '.join(accesses)} attacks together"
        yield f"{summary.defense}, {summary.group}: {100 * total:.1f} % right when clean and {together}"


def _spared(result: CellResult, sets: Mapping[str, CellResult]) -> float | None:
    """Return the share of images that an attack of a suite was not given; ``None`` where that is not known."""
    earlier = result.cell.attack and result.cell.attack.previous
    before = sets.get(earlier.model_dump_json()) if earlier else None
    if before is None or before.metrics is None or before.metrics.accuracy_under_attack is None:
        return None
    return 1 - before.metrics.accuracy_under_attack


def _targets(attacked: Iterable[tuple[str, AttackRef]]) -> Iterator[str]:
    """Yield what surviving a targeted attack is, where there is one, given attacks by their labels."""
    names = dict.fromkeys(label for label, attack in attacked if attack.target is not None)
    if names:
        yield f"an image survives a targeted attack unless it is given the target class: {', '.join(names)}"


def _budgets_of_passes(attacked: Iterable[tuple[str, AttackRef]]) -> Iterator[str]:
    """Yield how many passes an image may take, and under which attacks, where not all of a table have that budget."""
    names: dict[int | None, dict[str, None]] = {}
    for label, attack in attacked:
        names.setdefault(attack.max_passes, {})[label] = None
    for most, attacks in names.items():
        if most is not None:
            of = f": {', '.join(attacks)}" if len(names) > 1 else ""
            count = f"at most {most:,} pass{'es' * (most != 1)} an image"
            yield f"{count}, forwards and backwards of the base classifier together{of}"


def column_id(group: str, column: str) -> str:
    """Return the id of a column under a threat; ``worst``, ``gap`` and ``verdict`` are those of all attacks."""
    return f"{group} {column}"


def _severity(threat: Threat) -> tuple[int, float]:
    return list(NORMS).index(threat.norm), float("inf") if threat.eps is None else float(threat.eps)


def column_order(results: Sequence[Measured]) -> tuple[int, float]:
    """Return what attacks are ordered by: their position in a suite, and the passes that they took."""
    position = max(len(r.cell.attack.after) for r in results if r.cell.attack)
    passes = [r.cost.forwards_per_example + r.cost.backwards_per_example for r in results if r.cost]
    return position, median(passes or [0.0])
