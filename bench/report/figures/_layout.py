"""Layout in inches: what texts need is measured first, so that nothing overlaps or is cut, whatever the names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures._plot import SOFT, Suitable, fold, text_width

#: Inches: the text height of a page. A chart shows as many rows as fit.
PAGE_HEIGHT = 9.2
#: Inches: the edge of a figure, and what is between a name and its axes.
EDGE, GAP = 0.05, 0.06
#: Sizes of text, in points. None is smaller than the last, at any width.
TITLE_POINTS = 8.5
NAME_POINTS = 7.5
LEGEND_POINTS = 7.0
SMALL_POINTS = 6.5
LEAST_POINTS = 6.0
#: Inches: the height of a row, and of one in a chart of many.
ROW, DENSE_ROW = 0.24, 0.135
#: Inches: between two names of several lines.
_BETWEEN_NAMES = 0.04
#: Defenses of each of several tables; where these take more than a page, fewer tables are shown.
_LEAST_DEFENSES = 3
#: A legend, in sizes of its text: a handle with its blanks, and what is between columns and between lines.
_HANDLE = 2.8
_COLUMN_SPACING, _LINE_SPACING = 1.6, 0.45
#: A heading above its column is on at most so many lines, and turned where that does not do.
_HEAD_LINES = 3


def text_height(text: str, points: float) -> float:
    """Return the height of a text of one or several lines, in inches."""
    return (text.count("\n") + 1) * 1.2 * points / 72


def widest(texts: Iterable[str], points: float) -> float:
    """Return the width of the widest line of some texts, in inches."""
    return max((text_width(line, points) for line in chain.from_iterable(map(str.splitlines, texts))), default=0.0)


class Labels(NamedTuple):
    """Texts as they are written: folded, with their size in points, and in inches what the largest takes."""

    texts: list[str]
    points: float
    width: float
    height: float
    turned: bool = False

    @classmethod
    def of(cls, texts: Sequence[str], points: float, *, turned: bool = False) -> Labels:
        """Return texts that are folded already."""
        sides = widest(texts, points), max((text_height(text, points) for text in texts), default=0.0)
        width, height = reversed(sides) if turned else sides
        return cls(list(texts), points, width, height, turned)


def beside_rows(names: Sequence[str], room: float) -> Labels:
    """Return names for rows: on one line where ``room`` inches allow it, else smaller, else folded."""
    for points in (NAME_POINTS, SMALL_POINTS):
        if widest(names, points) <= room:
            return Labels.of(names, points)
    labels = Labels.of([fold(name, room, LEAST_POINTS) for name in names], LEAST_POINTS)
    return labels._replace(height=labels.height + _BETWEEN_NAMES)


def above_columns(names: Sequence[str], room: float, *, turned: bool = False) -> Labels:
    """Return headings for columns that are ``room`` inches wide: side by side, or turned where words would be split.

    Args:
        names: of the columns.
        room: of one of them.
        turned: whether they are turned in any case, as those of another panel are.
    """
    points = SMALL_POINTS
    level = [fold(name, room - GAP / 2, points) for name in names]
    fits = max(text.count("\n") for text in level) < _HEAD_LINES and not any(map(_splits_words, names, level))
    if fits and not turned:
        return Labels.of(level, points)
    lines = max(1, int(room / text_height("", points)))
    length = max(1.0, 1.15 * widest(names, points) / lines)
    upright = [fold(name, length, points) for name in names]
    while max(text.count("\n") for text in upright) >= lines:
        length *= 1.1
        upright = [fold(name, length, points) for name in names]
    return Labels.of(upright, points, turned=True)


def _splits_words(name: str, folded: str) -> bool:
    """Say whether a line ends within a word, which is where two lines meet at letters or digits."""
    lines = folded.split("\n")
    plain = name
    for line, following in zip(lines, lines[1:], strict=False):
        rest = plain.partition(line)[2]
        if line[-1:].isalnum() and following[:1].isalnum() and not rest[:1].isspace():
            return True
        plain = rest
    return False


def write_rows(axes: Axes, labels: Labels) -> None:
    """Name rows 0, 1, and so on of axes."""
    axes.set_yticks(range(len(labels.texts)), labels.texts, fontsize=labels.points, linespacing=1.1)
    axes.tick_params(axis="y", length=0, pad=72 * GAP)


@dataclass(frozen=True)
class Block:
    """A part of a figure: a title, and axes with room above and below them; all in inches."""

    title: str
    #: Of the axes.
    height: float
    #: Between title and axes, for headings.
    above: float = 0.0
    #: For ticks and the label of the x axis.
    below: float = 0.0


class Box(NamedTuple):
    """Where axes are, in inches from the left and the bottom."""

    left: float
    bottom: float
    width: float
    height: float


def stack(
    blocks: Sequence[Block], width: float, *, left: float, right: float = EDGE, foot: float = 0.0
) -> tuple[Figure, list[Box]]:
    """Return a figure of blocks below each other, titles written, and the place of the axes of each.

    Args:
        blocks: from the top.
        width: of the figure, in inches.
        left: of the axes, for names of rows.
        right: of the axes.
        foot: the height of what is below all blocks.
    """
    titles = [_title(block, width) for block in blocks]
    figure = _figure(width, stack_height(blocks, width, foot))
    y = figure.get_figheight() - EDGE
    boxes: list[Box] = []
    for block, title in zip(blocks, titles, strict=True):
        write(figure, EDGE, y, title, TITLE_POINTS, va="top", fontweight="bold")
        y -= _title_height(title) + block.above + block.height
        boxes.append(Box(left, y, width - left - right, block.height))
        y -= block.below + 2 * GAP
    return figure, boxes


def stack_height(blocks: Sequence[Block], width: float, foot: float = 0.0) -> float:
    """Return the height of a figure of blocks, in inches."""
    titles = (_title_height(_title(block, width)) for block in blocks)
    return 2 * EDGE + sum(titles) + sum(b.above + b.height + b.below + 2 * GAP for b in blocks) + foot


def _title(block: Block, width: float) -> str:
    return fold(block.title, width - 2 * EDGE, TITLE_POINTS, "bold") if block.title else ""


def _title_height(title: str) -> float:
    return text_height(title, TITLE_POINTS) + GAP if title else 0.0


def _figure(width: float, height: float) -> Figure:
    # The style would have Matplotlib lay out the axes.
    with plt.rc_context({"figure.constrained_layout.use": False}):
        return plt.figure(figsize=(width, height))


def axes_at(figure: Figure, box: Box) -> Axes:
    """Return new axes at a place that is given in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box.left / width, box.bottom / height, box.width / width, box.height / height))


def write(figure: Figure, x: float, y: float, text: str, points: float, **style: object) -> None:
    """Write on a figure, at inches from its left and its bottom."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, fontsize=points, **style)  # type: ignore[arg-type]


class Foot:
    """What stands below a figure: a legend, and a remark below it."""

    def __init__(self, width: float, handles: Sequence[Artist] = (), remark: str = "") -> None:
        """Measure.

        Args:
            width: of the figure, in inches.
            handles: of the legend, with their labels.
            remark: which is folded.
        """
        self._handles = list(handles)
        self._remark = fold(remark, width - 2 * EDGE, SMALL_POINTS) if remark else ""
        em = LEGEND_POINTS / 72
        labels = [fold(str(handle.get_label()), width - 2 * EDGE - _HANDLE * em, LEGEND_POINTS) for handle in handles]
        for handle, label in zip(handles, labels, strict=True):
            handle.set_label(label)
        entry = widest(labels, LEGEND_POINTS) + (_HANDLE + _COLUMN_SPACING) * em
        rows = -(-len(labels) // max(1, int(width / entry)))
        # Equally long columns.
        self._columns = -(-len(labels) // max(1, rows))
        self._legend = 0.0
        if labels:
            lines = max(text_height(label, LEGEND_POINTS) for label in labels)
            self._legend = rows * lines + (rows - 1) * _LINE_SPACING * em + GAP
        self._remark_height = text_height(self._remark, SMALL_POINTS) + GAP if remark else 0.0

    @property
    def height(self) -> float:
        """In inches."""
        return self._legend + self._remark_height

    def draw(self, figure: Figure) -> None:
        """Draw it at the bottom of a figure."""
        width, height = figure.get_size_inches()
        if self._remark:
            write(figure, width / 2, EDGE, self._remark, SMALL_POINTS, ha="center", va="bottom", color=SOFT)
        if self._handles:
            figure.legend(
                handles=self._handles,
                loc="lower center",
                bbox_to_anchor=(0.5, (EDGE + self._remark_height) / height),
                ncols=self._columns,
                fontsize=LEGEND_POINTS,
                borderpad=0,
                borderaxespad=0,
                handlelength=2,
                handletextpad=0.6,
                columnspacing=_COLUMN_SPACING,
                labelspacing=_LINE_SPACING,
            )


@dataclass(frozen=True)
class Grid:
    """Panels of one size that share their y axis; all in inches."""

    count: int
    across: int
    width: float
    #: Of the axes.
    panel: float
    height: float
    #: Titles, folded, and what the tallest takes.
    titles: Sequence[str]
    above: float
    foot: float
    heading: str = ""

    #: Left of the first axes, right of the last, between two, and below each.
    LEFT = 0.5
    RIGHT = 0.2
    BETWEEN = 0.2
    BELOW = 0.4

    @classmethod
    def panel_width(cls, width: float, across: int) -> float:
        """Return the width of axes of which so many are side by side."""
        return (width - cls.LEFT - cls.RIGHT - (across - 1) * cls.BETWEEN) / across

    @staticmethod
    def across_of(count: int, width: float) -> int:
        """Return how many of ``count`` small panels are side by side: three on a page, two in a column."""
        return min(count, 3 if width > 5 else 2)

    @classmethod
    def of(
        cls, titles: Sequence[str], width: float, across: int, height: float, foot: float, heading: str = ""
    ) -> Grid:
        """Lay out panels.

        Args:
            titles: of the panels.
            width: of the figure.
            across: panels side by side.
            height: of the axes of a panel.
            foot: what is below all of them.
            heading: above all of them.
        """
        panel = cls.panel_width(width, across)
        folded = [fold(title, panel, NAME_POINTS, "bold") for title in titles]
        above = max(text_height(title, NAME_POINTS) for title in folded) + GAP
        return cls(
            len(titles),
            across,
            width,
            panel,
            height,
            folded,
            above,
            foot,
            fold(heading, width - 2 * EDGE, SMALL_POINTS),
        )

    @property
    def total(self) -> float:
        """The height of the figure."""
        down = -(-self.count // self.across)
        return 2 * EDGE + self._heading + down * (self.above + self.height + self.BELOW) + self.foot

    @property
    def _heading(self) -> float:
        return text_height(self.heading, SMALL_POINTS) + GAP if self.heading else 0.0

    def draw(self, ylabel: str) -> tuple[Figure, list[Axes]]:
        """Return the figure and its axes, with titles; the first of each row has the label of the y axis."""
        figure = _figure(self.width, self.total)
        if self.heading:
            write(
                figure, self.width / 2, self.total - EDGE, self.heading, SMALL_POINTS, ha="center", va="top", color=SOFT
            )
        axes: list[Axes] = []
        for index, title in enumerate(self.titles):
            row, column = divmod(index, self.across)
            top = self.total - EDGE - self._heading - row * (self.above + self.height + self.BELOW) - self.above
            left = self.LEFT + column * (self.panel + self.BETWEEN)
            axis = axes_at(figure, Box(left, top - self.height, self.panel, self.height))
            axis.set_title(title, fontsize=NAME_POINTS, pad=72 * GAP * 0.6)
            axis.set(ylim=(-4, 104), yticks=range(0, 101, 25))
            axis.tick_params(labelleft=column == 0, labelsize=LEGEND_POINTS)
            if column == 0:
                axis.set_ylabel(ylabel, fontsize=NAME_POINTS)
            axes.append(axis)
        return figure, axes


class Listing:
    """Texts in columns below a figure, read from top to bottom."""

    _BETWEEN = 0.15
    _MOST_COLUMNS = 4

    def __init__(self, texts: Sequence[str], width: float) -> None:
        """Measure.

        Args:
            texts: one for each entry.
            width: of the figure, in inches.
        """
        room = width - 2 * EDGE
        longest = widest(texts, LEAST_POINTS) + self._BETWEEN
        # Long entries are folded: rather two columns on a page, one in a column of it.
        columns = max(1, min(int(room / longest), self._MOST_COLUMNS, len(texts)), int(room / 3))
        self._step = room / columns
        folded = [fold(text, self._step - self._BETWEEN, LEAST_POINTS).replace("\n", "\n     ") for text in texts]
        each = max(1, -(-len(texts) // columns))
        self._columns = ["\n".join(folded[first : first + each]) for first in range(0, len(texts), each)]
        self.height = max((text_height(text, LEAST_POINTS) for text in self._columns), default=-GAP) + GAP

    def draw(self, figure: Figure, top: float) -> None:
        """Write the texts below ``top``, in inches from the bottom of the figure."""
        for index, text in enumerate(self._columns):
            write(figure, EDGE + index * self._step, top, text, LEAST_POINTS, va="top", linespacing=1.1)


def fitting(most: int, height: Callable[[int], float], least: int = 1) -> int:
    """Return how many fit a page, at least ``least``.

    Args:
        most: that are legible.
        height: of the figure of so many, in inches.
        least: that are shown even where they take more.
    """
    return next((count for count in range(most, least, -1) if height(count) <= PAGE_HEIGHT), least)


def fitting_tables(suitable: Suitable, most: int, height: Callable[[Suitable, int], float]) -> tuple[Suitable, int]:
    """Return the tables that fit a page, and how many defenses of each.

    Args:
        suitable: all tables.
        most: defenses that are legible.
        height: of the figure of tables with so many defenses, in inches.
    """
    least = min(most, _LEAST_DEFENSES)

    def shortest(number: int) -> float:
        # Titles that say what is left out are longer.
        return min(height(suitable.first(number), count) for count in (least, most))

    number = fitting(len(suitable.tables), shortest)
    shown = suitable.first(number)
    return shown, fitting(most, lambda count: height(shown, count), least if number > 1 else 1)


def row_height(height: Callable[[float], float], most: float = ROW) -> float:
    """Return the height of rows, in inches: ``most``, or less where the figure would be longer than a page.

    Args:
        height: of the figure whose rows have some height.
        most: of a row.
    """
    row = most
    while row > DENSE_ROW and height(row) > PAGE_HEIGHT:
        row -= 0.01
    return max(row, DENSE_ROW)
