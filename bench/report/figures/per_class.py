"""What each class loses: its accuracy, and which classes it is taken for, under the worst attack on each defense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._choice import kept, of_defenses_text, precedence
from bench.report.figures._layout import (
    EDGE,
    GAP,
    LEAST_POINTS,
    LEGEND_POINTS,
    Block,
    Box,
    Foot,
    Labels,
    above_columns,
    axes_at,
    beside_rows,
    fitting,
    stack,
    stack_height,
    write_rows,
)
from bench.report.figures._plot import ACCESS_WORDS, COLOUR, HEAT, SOFT, legible_on, marker, whisker, without_eps
from bench.report.figures._text import fitted_name
from bench.report.leaderboard.summaries import Value
from bench.report.leaderboard.tables import RANKED, Table
from bench.report.render import outside
from bench.report.render.class_names import class_labels
from bench.stats import Interval, wilson
from bench.store.records import read_columns
from bench.types import CellResult, DataRef, MethodError, UsageError, threat_text

#: Defenses of one figure, and classes of one defense; of more those that lose the most.
_MOST, _MOST_CLASSES = 12, 12
#: Inches: a row, the shares of the width for names and for accuracies, and what is below the axes.
_ROW = 0.17
_NAMES, _ACCURACIES = 0.22, 0.3
_BELOW = 0.36
#: Inches: a cell of the matrix that has room for its number, of so many points.
_LEGIBLE, _NUMBER_POINTS = 0.2, 5.5
_COLUMNS = {"index": "iu", "label": "iu", "clean": "iu", "adversarial": "iu"}
_REMARK = (
    "Left, images of each class: right when clean, and right under the attack as well, with 95 % intervals. Right, "
    "images that are predicted as the class of the row when clean: the share of each class that is predicted under the "
    "attack. The attack is the one of the lowest robust accuracy under the first threat of the table"
)


class _Class(NamedTuple):
    """A class of a set: how many images it has, and which share is right when clean, and under the attack as well."""

    number: int
    name: str
    n: int
    clean: Interval
    robust: Interval


@dataclass(frozen=True)
class _Panel:
    """The worst attack on a defense, image by image: labels (n,) that are true, predicted clean, and under the attack.

    ``names`` are those of the classes, and ``about`` says where they are numbers for lack of names.
    """

    table: Table
    defense: str
    attack: str
    result: CellResult
    label: np.ndarray[Any, Any]
    clean: np.ndarray[Any, Any]
    adversarial: np.ndarray[Any, Any]
    names: Sequence[str]
    about: str

    @property
    def title(self) -> str:
        """What stands above it."""
        attack = self.result.cell.attack
        threat = f" {threat_text(attack.threat)}" if attack else ""
        part = f"; the {_MOST_CLASSES} of {len(self.classes):,} classes that lose the most"
        access = ACCESS_WORDS[self.result.cell.access]
        more = part if len(self.classes) > _MOST_CLASSES else ""
        return f"{self.defense}: {without_eps(self.attack)}{threat}, {access}; {self.table.title}{more}"

    @cached_property
    def classes(self) -> list[_Class]:
        """The classes that have an image."""
        return [self._class(number) for number in np.unique(self.label).tolist()]

    def _class(self, number: int) -> _Class:
        own = self.label == number
        right = own & (self.clean == number)
        n = int(own.sum())
        clean, robust = int(right.sum()), int((right & (self.adversarial == number)).sum())
        return _Class(number, self.names[number], n, wilson(clean, n), wilson(robust, n))

    @cached_property
    def shown(self) -> list[_Class]:
        """All classes in their order; of many those that lose the most, the worst first."""
        if len(self.classes) <= _MOST_CLASSES:
            return self.classes
        return sorted(self.classes, key=lambda each: (each.robust.value - each.clean.value, each.number))[
            :_MOST_CLASSES
        ]

    @property
    def headings(self) -> list[str]:
        """The names of the columns of the matrix."""
        others = np.isin(self.adversarial, [each.number for each in self.shown], invert=True).any()
        return [*(each.name for each in self.shown), *(["others"] if others else [])]

    def shares(self) -> np.ndarray[Any, Any]:
        """Return the share of each heading among the images that are predicted as each shown class when clean.

        It is NaN where none is predicted as the class.
        """
        numbers = [each.number for each in self.shown]
        shares = np.full((len(numbers), len(self.headings)), np.nan)
        for row, number in enumerate(numbers):
            predicted = self.adversarial[self.clean == number]
            if len(predicted):
                own = [float((predicted == each).mean()) for each in numbers]
                shares[row] = [*own, 1 - sum(own)][: len(self.headings)]
        return shares

    @property
    def numbers(self) -> dict[str, Any]:
        """Everything that is known of it, for the JSON of the figure."""
        pairs, counts = np.unique(np.stack([self.clean, self.adversarial]), axis=1, return_counts=True)
        attack = self.result.cell.attack
        return {
            "dataset": self.table.dataset,
            "model": self.table.model,
            "defense": self.defense,
            "attack": self.attack,
            "threat": threat_text(attack.threat) if attack else None,
            "access": self.result.cell.access,
            "key": self.result.key,
            "n": self.result.cell.data.n,
            "classes": [
                {
                    "class": each.number,
                    "name": each.name,
                    "n": each.n,
                    "clean_accuracy": each.clean._asdict(),
                    "robust_accuracy": each.robust._asdict(),
                }
                for each in self.classes
            ],
            "confusion": [
                {"clean": clean, "adversarial": adversarial, "images": images}
                for clean, adversarial, images in zip(*pairs.tolist(), counts.tolist(), strict=True)
            ],
        }


def draw(source: Source) -> Drawing:
    width = source.width
    panels, total = _panels(source)
    foot = _foot(width, panels, total)
    count = fitting(len(panels), lambda count: stack_height(_blocks(panels[:count], width), width, foot.height))
    shown = panels[:count]
    foot = _foot(width, shown, total)
    names = [_row_names(panel, width) for panel in shown]
    left = EDGE + max(each.width for each in names) + GAP
    figure, boxes = stack(_blocks(shown, width), width, left=left, foot=foot.height)
    for panel, box, own in zip(shown, boxes, names, strict=True):
        middle = _ACCURACIES * width
        accuracies = axes_at(figure, box._replace(width=middle))
        _draw_accuracies(accuracies, panel, own)
        at = Box(box.left + middle + 2 * GAP, box.bottom, box.width - middle - 2 * GAP, box.height)
        _draw_confusion(axes_at(figure, at), panel, at.width, _heading(panel, width))
    foot.draw(figure)
    return Drawing(figure, {"panels": [panel.numbers for panel in shown]})


def _panels(source: Source) -> tuple[list[_Panel], int]:
    """Return the defenses whose worst attack has records, those to keep first, and how many there are in all.

    Raises:
        Missing: there is none.
    """
    order = precedence(source)
    chosen: list[tuple[Table, CellResult]] = []
    for table in source.board.tables:
        chosen += ((table, result) for result in _worst(table))
    if not chosen:
        raise Missing("no defense was attacked")
    names = [source.board.labels[result.key][0] for _, result in chosen]
    first = set(kept(list(dict.fromkeys(names)), _MOST, order))
    some = [each for each, name in zip(chosen, names, strict=True) if name in first][:_MOST]
    panels = [panel for table, result in some if (panel := _panel(source, table, result)) is not None]
    if not panels:
        raise Missing("the records of the worst attacks are not in this store: this figure needs those of every image")
    return panels, len(chosen)


def _worst(table: Table) -> Iterator[CellResult]:
    """Yield for each defense of a table the cell of the lowest robust accuracy: under the first threat with a budget,
    where there is one, and of an attacker that sees the entire defense, where there is one.
    """
    threats = [s for s in table.threats if s.threat is not None]
    for name in dict.fromkeys(row.defense for row in table.rows):
        own = [s for s in threats if s.defense == name]
        bounded = [s for s in own if s.threat is not None and s.threat.eps is not None]
        for summary in (bounded or own)[:1]:
            under = summary.cells.under(summary.group)
            cells = [r for r in under if r.metrics is not None and r.cell.access != "transfer"]
            # What a targeted attack leaves is not what is right.
            cells = [r for r in cells if r.cell.attack is None or r.cell.attack.target is None]
            seen = [r for r in cells if r.cell.access in RANKED]
            if cells:
                yield min(seen or cells, key=_strength)


def _strength(r: CellResult) -> tuple[float, str]:
    return r.metrics.robust_accuracy if r.metrics else 1.0, r.key


def _panel(source: Source, table: Table, result: CellResult) -> _Panel | None:
    """Return a cell image by image; ``None`` where its records are not kept whole."""
    data = result.cell.data
    if not source.store.has_records(result):
        return None
    try:
        columns = read_columns(source.store.records(result.key), data.n, _COLUMNS)
    except (FileNotFoundError, ValueError):
        return None
    labels = columns["label"]
    if labels.min() < 0 or labels.max() >= data.num_classes or not _agree(columns, result):
        return None
    names, about = _class_names(source, data)
    defense, attack = source.board.labels[result.key]
    return _Panel(table, defense, attack, result, labels, columns["clean"], columns["adversarial"], names, about)


def _agree(columns: Mapping[str, np.ndarray[Any, Any]], result: CellResult) -> bool:
    """Say whether records have the outcomes of the sealed result, as their hash alone vouches for no foreign ones."""
    known = {"clean": result.clean_outcomes, "adversarial": result.outcomes_under_attack}
    right = {name: (columns[name] == columns["label"]).tolist() for name in known}
    return all(own is not None and list(own) == right[name] for name, own in known.items())


def _class_names(source: Source, data: DataRef) -> tuple[Sequence[str], str]:
    """Return how the classes of a set are shown, and why these are numbers, where they are."""
    try:
        image_set, _ = outside.images(data, source.data_folder, trusted=source.trusted)
        names = image_set.class_names
    except (UsageError, MethodError) as error:
        return class_labels([str(number) for number in range(data.num_classes)]), f"classes by number: {error}"
    return class_labels(names), ""


def _row_names(panel: _Panel, width: float) -> Labels:
    names = [each.name for each in panel.shown]
    room = _NAMES * width
    return beside_rows([fitted_name(i, names, room, LEAST_POINTS, 1) for i in range(len(names))], room)


def _heading(panel: _Panel, width: float) -> Labels:
    """Return the headings of the matrix of a panel."""
    names = panel.headings
    room = (width * (1 - _NAMES - _ACCURACIES) - 2 * EDGE - 3 * GAP) / len(names)
    turned = [fitted_name(i, names, _NAMES * width, LEAST_POINTS, 1) for i in range(len(names))]
    return above_columns(turned, room, turned=room < 2 * _LEGIBLE)


def _blocks(panels: Sequence[_Panel], width: float) -> list[Block]:
    return [
        Block(panel.title, _ROW * len(panel.shown), above=_heading(panel, width).height + GAP, below=_BELOW)
        for panel in panels
    ]


def _foot(width: float, panels: Sequence[_Panel], total: int) -> Foot:
    handles = [marker("right when clean", SOFT, "white"), marker("and under the attack", COLOUR["adaptive"])]
    if any(panel.result.cell.access not in RANKED for panel in panels):
        handles.append(marker("and under an attack that does not see the defense", COLOUR["static"]))
    remarks = [_REMARK, *dict.fromkeys(panel.about for panel in panels), of_defenses_text(len(panels), total)]
    return Foot(width, handles, "; ".join(filter(None, remarks)))


def _draw_accuracies(axis: Axes, panel: _Panel, names: Labels) -> None:
    colour = COLOUR[panel.result.cell.access]
    for y, each in enumerate(panel.shown):
        ends = [100 * each.robust.value, 100 * each.clean.value]
        axis.plot(ends, [y, y], color=SOFT, linewidth=2, alpha=0.35, zorder=1)
        axis.plot(ends[1], y, "o", color=SOFT, markerfacecolor="white", markersize=4, zorder=2)
        whisker(axis, y, Value(*each.robust), colour, horizontal=True)
        axis.plot(ends[0], y, "o", color=colour, markersize=4, zorder=4)
    write_rows(axis, names)
    axis.set(xlim=(-3, 103), ylim=(len(panel.shown) - 0.5, -0.5), xticks=range(0, 101, 50))
    axis.tick_params(axis="x", labelsize=LEGEND_POINTS)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("accuracy, %", fontsize=LEGEND_POINTS)


def _draw_confusion(axis: Axes, panel: _Panel, inches: float, names: Labels) -> None:
    shares = panel.shares()
    axis.imshow(100 * shares, cmap=HEAT, vmin=0, vmax=100, aspect="auto")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.xaxis.tick_top()
    axis.set_xticks(
        range(len(names.texts)),
        names.texts,
        fontsize=names.points,
        rotation=90 if names.turned else 0,
        linespacing=1.1,
    )
    axis.set_yticks([])
    axis.tick_params(axis="x", length=0, pad=72 * GAP / 2)
    axis.set_xlabel("predicted under attack, %", fontsize=LEGEND_POINTS)
    axis.xaxis.set_label_position("bottom")
    axis.xaxis.labelpad = 12
    if inches / shares.shape[1] < _LEGIBLE:
        return
    for (y, x), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = legible_on(HEAT(share))
            text = f"{100 * share:.0f}"
            axis.text(x, y, text, ha="center", va="center", color=colour, fontsize=_NUMBER_POINTS)
