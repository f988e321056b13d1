"""The tables and figures of the TPAP paper from stored results: a page, and a file for each figure.

Each table says how large the run behind it was, and shows published numbers next to the measured ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

from bench.report import figures
from bench.report.figures import NotDrawn, Source
from bench.report.leaderboard.published import NOT_KNOWN, published
from bench.report.leaderboard.summaries import WORST_CASE, Value
from bench.report.leaderboard.tables import COSTS, Column, Table, TableRow, lines_by_defense
from bench.report.render import text
from bench.report.render.markdown import escape_markdown, grid
from bench.store.outputs import move_foreign_aside, write_into
from bench.types import Access, Cell, CellResult, TrainRef
from bench.visible import visible

#: Images of this many pixels to a side are large.
LARGE = 96
_MOTIVATION = ("standard", "pgd-at", "trades", "mart")
_PURIFIER = "tpap"


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper: its file, its title, what the paper shows, and how ours is made."""

    name: str
    title: str
    shows: str
    tables: Callable[[Source], Iterator[str]] | None = None
    figure: str | None = None
    #: How the numbers of the figure are a table: what they are listed under, words, and values.
    listed: tuple[str, tuple[str, ...], tuple[str, ...]] | None = None


def write(source: Source, out: Path) -> list[Path]:
    """Write ``README.md`` and the figures into ``out`` and return the files; what has no results yet says so.

    Raises:
        UsageError: the folder cannot be written.
    """
    files: list[Path] = []
    page = [_TITLE, "", _ABOUT, ""]
    for item in ITEMS:
        page += [f"## {item.title}", "", f"*The paper:* {item.shows}", ""]
        section = list(item.tables(source)) if item.tables else []
        why = "no results in the store"
        if item.figure is not None:
            try:
                drawn = figures.draw(item.figure, source, out)
            except NotDrawn as missing:
                why = str(missing)
            else:
                files += drawn
                section += _listed(item, out) if item.listed else []
                section += [f"![{item.title}]({item.figure}.png)\n", f"{escape_markdown(_size(source.results))}\n"]
        page += section or [f"Not measured yet: {escape_markdown(why)}.\n"]
    # ``--out .`` is not to cost the README of somebody's project.
    move_foreign_aside(out / "README.md", lambda head: head.startswith(_TITLE.encode()))
    write_into(out / "README.md", visible("\n".join(page), lines=True).encode())
    return [out / "README.md", *files]


_TITLE = "# The TPAP paper, measured"
_ABOUT = (
    "Under an attack stands accuracy under attack, as the paper counts it: percent of all images that are right under "
    "that attack, whatever the clean answer, with 95 % intervals. *robust* is robust accuracy, right clean and under "
    f"attack, where it reads otherwise. Worst case: {WORST_CASE}. In round brackets: what is published, which is of "
    f"the same measure, and measured minus published; `{NOT_KNOWN}` where the paper's value could not be read. A "
    "protocol stands in the name of whatever has one: `[preset=tpap]` as the paper's code has it, `[preset=reference]` "
    "or none as its own authors have it."
)


def _motivation(source: Source) -> Iterator[str]:
    fitting = [t for t in source.board.tables if t.dataset == "cifar10" and t.model.startswith("resnet18")]
    for table in sorted(fitting, key=lambda table: table.n)[-1:]:
        columns = [
            c for c in table.columns if c.kind == "clean" or (c.kind == "attack" and _plain(c.label) in ("fgsm", "pgd"))
        ]
        attacked = [c.id for c in columns if c.group]
        rows = [row for row in table.rows if _plain(row.defense) in _MOTIVATION and any(map(row.values.get, attacked))]
        if rows:
            yield from _table(source, table, rows, columns)


def _main(source: Source) -> Iterator[str]:
    yield from _mains(source, large=False)


def _large(source: Source) -> Iterator[str]:
    yield from _mains(source, large=True)


def _mains(source: Source, *, large: bool) -> Iterator[str]:
    for table in source.board.tables:
        cells = _cells(source, table)
        shape = next(iter(cells.values())).data.image_shape
        rows = [row for row in table.rows if _is_main(cells[row.defense])]
        if (min(shape[1:]) >= LARGE) == large and len(rows) > 1:
            columns = [column for column in table.columns if column.group != "cost"]
            yield f"### {escape_markdown(table.title)}\n"
            yield from _table(source, table, rows, columns)


def _is_main(cell: Cell) -> bool:
    """Say whether a row is a recipe, or TPAP as the paper has it: its budget is 8/255, or that of the training."""
    step, weights = cell.step, cell.model.weights
    if not isinstance(weights, TrainRef) or step is None or step.name != _PURIFIER:
        return isinstance(weights, TrainRef) and step is None
    usual = _usual(_PURIFIER) or {}
    budgets = {usual.get("beta"), weights.recipe.params.get("eps")}
    return any(step.params == {**usual, "beta": beta} for beta in budgets)


def _usual(step: str) -> Mapping[str, Any] | None:
    """Return a step's parameters where nothing else is given; ``None`` of one that is no longer there."""
    from bench import registry

    entry = registry.entries("test-time").get(step)
    return None if entry is None else entry.ref({}).params


def _preprocessing(source: Source) -> Iterator[str]:
    for table in source.board.tables:
        cells = _cells(source, table)
        steps = {cell.step.name for cell in cells.values() if cell.step}
        if len(steps - {_PURIFIER}) > 1:
            usual = {step: _usual(step) for step in steps}
            rows = [
                row
                for row in table.rows
                if (step := cells[row.defense].step) is None or step.params == usual.get(step.name)
            ]
            columns = [column for column in table.columns if column.group != "cost"]
            yield f"### {escape_markdown(table.title)}\n"
            yield from _table(source, table, rows, columns)


def _cost(source: Source) -> Iterator[str]:
    wanted = {cost.column.id for cost in COSTS}
    for table in source.board.tables:
        columns = [column for column in table.columns if column.id in wanted]
        cells = _cells(source, table)
        rows = {row.defense: row for row in table.rows if _is_main(cells[row.defense])}
        if columns and rows:
            yield f"### {escape_markdown(table.title)}\n"
            yield from _table(source, table, list(rows.values()), columns, access=False)


def _pairs(source: Source) -> Iterator[str]:
    """Yield, for each row, the attacks that it was measured under in several settings, one of them the paper's."""
    for table in source.board.tables:
        for row in table.rows:
            settings = _settings(source, table, row)
            pairs = [*chain.from_iterable(same for same in settings.values() if len(same) > 1)]
            if row.access in ("white-box", "static") and any("preset=tpap" in column.label for column, _ in pairs):
                yield f"### {escape_markdown(f'{table.title} · {row.defense}, {text.access(row)}')}\n"
                heads = ("attack", "threat", "accuracy under attack", "robust accuracy", "mean L2", "mean L∞")
                yield _grid(heads, [_setting(*pair) for pair in pairs], 2)
                yield f"- {escape_markdown(_size(result for _, result in pairs))}\n"


def _settings(source: Source, table: Table, row: TableRow) -> dict[str, list[tuple[Column, CellResult]]]:
    """Return the columns of a row with their results, by the name of the attack, where one result is behind each."""
    settings: dict[str, list[tuple[Column, CellResult]]] = {}
    for column in table.columns:
        value = row.values.get(column.id)
        results = [source.board.results[key] for key in value.keys] if value and column.group else []
        if len(results) == 1 and results[0].cell.attack and results[0].metrics:
            settings.setdefault(results[0].cell.attack.attack.name, []).append((column, results[0]))
    return settings


def _setting(column: Column, result: CellResult) -> list[str]:
    m = result.metrics
    assert m is not None
    right = f"{_percent(m.accuracy_under_attack)} [{_percent(m.ci_low)}, {_percent(m.ci_high)}]"
    return [column.label, column.group, right, _percent(m.robust_accuracy), f"{m.mean_l2:.3f}", f"{m.mean_linf:.4f}"]


def _listed(item: Item, out: Path) -> list[str]:
    assert item.listed is not None
    key, names, values = item.listed
    numbers = json.loads((out / f"{item.figure}.json").read_text(encoding="utf-8"))[key]
    rows = [[*(str(row[name]) for name in names), *(_percent(row.get(value)) for value in values)] for row in numbers]
    heads = ["clean accuracy" if value == "clean" else f"worst case, {text.access_words(value)}" for value in values]
    return [_grid([*names, *heads], rows, len(names))]


def _table(
    source: Source, table: Table, rows: Sequence[TableRow], columns: Sequence[Column], *, access: bool = True
) -> Iterator[str]:
    known: dict[tuple[str, Access, str], tuple[float, str]] = {}
    for row, column in product(rows, columns):
        if (number := published(source.board, table, row, column)) is not None:
            known[row.defense, row.access, column.id] = number

    def cell(row: TableRow, column: Column) -> str:
        value = row.values.get(column.id)
        shown = _measured(value, column, table)
        if not known or value is None or value.number is None or column.unit == "gap":
            return shown
        printed = known.get((row.defense, row.access, column.id))
        if printed is None:
            return f"{shown} ({NOT_KNOWN})"
        scale = 100 if column.unit == "accuracy" else 1
        return f"{shown} ({printed[0]:.4g}, {scale * value.number - printed[0]:+.3g})"

    many = len({column.group for column in columns} - {"", "cost"}) > 1
    heads = ["defense", *(["access"] if access else [])]
    names = [f"{c.label} {c.group}" if many and c.group else c.label for c in columns]
    cells = [[row.defense, *([text.access(row)] if access else []), *(cell(row, c) for c in columns)] for row in rows]
    if table.incomplete:
        yield f"**{escape_markdown(table.incomplete)}**\n"
    yield _grid([*heads, *names], cells, len(heads))
    about = [_size(source.board.results[key] for key in chain.from_iterable(row.keys for row in rows))]
    about += [f"Published: {each}." for each in dict.fromkeys(where for _, where in known.values())]
    about += [] if known else [f"Published: {NOT_KNOWN}, or not of a run of this size."]
    notes = lines_by_defense(table)
    of_rows = set(chain.from_iterable(notes.get(row.defense, ()) for row in rows))
    about += [f"{verdict}." for verdict in table.verdicts if verdict in of_rows]
    about += [f"{note}." for note in notes.get(None, ())]
    yield "\n".join(f"- {escape_markdown(each)}" for each in about) + "\n"


def _measured(value: Value | None, column: Column, table: Table) -> str:
    """Return a number with its interval, and with robust accuracy where that reads otherwise."""
    shown = text.plain(value, column, table.n)
    if value is None or value.number is None or column.unit == "gap":
        return shown
    if column.unit == "accuracy" and value.low is not None and value.high is not None:
        shown += f" [{100 * value.low:.1f}, {100 * value.high:.1f}]"
    if value.robust is not None and f"{value.robust:.3f}" != f"{value.number:.3f}":
        shown += f" robust {100 * value.robust:.1f}"
    return shown


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]], names: int) -> str:
    """Return a Markdown table of which the first columns, so many as ``names``, hold text and the others numbers."""
    escaped = ([escape_markdown(cell) for cell in row] for row in rows)
    align = "l" * names + "r" * (len(heads) - names)
    return "\n".join(grid([escape_markdown(head) for head in heads], escaped, align)) + "\n"


def _size(results: Iterable[CellResult]) -> str:
    """Return how large the runs behind some numbers were, and where they were made."""
    results = list(results)
    tested = sorted({f"{r.cell.data.name} {r.cell.data.n:,}" for r in results})
    trained = {
        f"{w.data.n:,} images of {w.data.name} for {w.schedule.epochs} epochs"
        for r in results
        if isinstance(w := r.cell.model.weights, TrainRef)
    } | {f"elsewhere ({w.name})" for r in results if not isinstance(w := r.cell.model.weights, TrainRef)}
    where = sorted({f"{r.provenance.machine} ({r.provenance.device})" for r in results})
    commits = sorted({(r.provenance.commit or "no commit")[:10] for r in results})
    return (
        f"Size: test images {', '.join(tested)}; trained on {', '.join(sorted(trained))}. "
        f"Measured on {', '.join(where)} at commit {', '.join(commits)}."
    )


def _cells(source: Source, table: Table) -> dict[str, Cell]:
    """Return a cell of each defense of a table."""
    return {row.defense: source.board.results[row.keys[-1]].cell for row in table.rows}


def _plain(label: str) -> str:
    return label.partition("[")[0]


def _percent(value: Mapping[str, Any] | float | None) -> str:
    share = value.get("value") if isinstance(value, Mapping) else value
    return text.ABSENT if share is None else f"{100 * share:.1f}"


ITEMS = (
    Item(
        "motivation",
        "Motivation table",
        "Four recipes on CIFAR-10 and ResNet-18 under FGSM and PGD-20; no accuracy of TPAP itself is known.",
        _motivation,
    ),
    Item(
        "main",
        "Main tables",
        "TPAP beside PGD-AT, TRADES and MART under eight attacks, on four sets and three networks. Its numbers are not "
        "known, and its attacks see the bare network only: the lines `static`.",
        _main,
        "access-gap",
    ),
    Item("large-images", "Large images", "The same on Caltech-101 at 300x200.", _large, "large-images"),
    Item(
        "preprocessing",
        "Preprocessing",
        "TPAP beside image preprocessing on CIFAR-10; which methods is not known.",
        _preprocessing,
        "preprocessing",
    ),
    Item("cost", "Cost", "Seconds, TFLOP and parameters of standard training and PGD-AT on one card.", _cost, "cost"),
    Item(
        "ablation",
        "Ablation",
        "The effect of hyper-parameters; which ones and its numbers are not known.",
        figure="tpap-ablation",
        listed=("settings", ("table", "parameter", "value", "attacks"), ("clean", "static", "adaptive")),
    ),
    Item(
        "substitution",
        "Substitution",
        "Networks trained by one attack and purified by another; its numbers are not known.",
        figure="substitution",
        listed=(
            "accuracies",
            ("table", "trained_with", "purified_with", "attacks"),
            ("clean", "static", "adaptive"),
        ),
    ),
    Item(
        "perturbations",
        "Perturbation pictures",
        "Images clean, under PGD and under STA, and the difference magnified.",
        figure="attack-gallery",
    ),
    Item(
        "overfitting",
        "Training curves",
        "Only training by FGSM keeps high accuracy under its own attack on training and test images.",
        figure="overfitting-curves",
    ),
    Item("grad-cam", "Grad-CAM", "Where the network looks, with and without purification.", figure="grad-cam"),
    Item("tsne", "t-SNE", "Features of clean, adversarial and purified images.", figure="tsne"),
    Item(
        "as-shipped",
        "Attacks as shipped",
        "The settings that its code gives to its attacks, each beside the same attack with something put right.",
        _pairs,
    ),
)
