"""Helpers that figures share: colours, panels, legends, a heat map, labels that do not overlap, numbers as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, product
from math import ceil, floor, log10
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import EngFormatter, NullLocator

from bench.report.figures import Missing, Source
from bench.report.leaderboard.summaries import ThreatSummary, Value
from bench.report.leaderboard.tables import Column, Table
from bench.types import Access

#: Colours of Okabe and Ito: an attacker who sees the whole defense is blue, one who does not is vermilion.
COLOUR = {"white-box": "#0072B2", "adaptive": "#0072B2", "static": "#D55E00", "transfer": "#CC79A7"}
WRONG = "#D55E00"
INK = "#1c1e21"
SOFT = "#5f666f"
RULE = "#e4e6e9"
HEAT = LinearSegmentedColormap.from_list("crossfire", ["#f2f5f8", "#9dbbd8", "#08457e"])
#: Parts of a text between which lines are broken: at blanks but those that do not break, at brackets, commas.
_WORDS = re.compile(r"[\[(]?[^ \[(,]*,? *")
#: Parts of a word that is longer than a line.
_WORD_PARTS = re.compile(r"[^-=_/:·]*[-=_/:·]? *")
#: Tables, and defenses and attacks of each, that are legible in one figure.
MAX_TABLES = 6
MAX_DEFENSES = 60
MAX_ATTACKS = 30
#: Panels of a figure, and curves of one panel.
MAX_PANELS = 12
MAX_CURVES = 12
UNDER_ATTACK = "accuracy under attack"
#: A worst case: of every chart's axis, and what it counts.
ROBUST = "robust accuracy"
ROBUST_MEANS = "robust accuracy: right when clean and under every attack"
#: The accesses in the words of tables.
ACCESS_WORDS: Mapping[str, str] = {
    "white-box": "white-box",
    "static": "gray-box (static)",
    "adaptive": "adaptive",
    "transfer": "transfer",
}


class Suitable(NamedTuple):
    """The tables of a figure, complete, and how many there are in all."""

    tables: list[Table]
    total: int
    #: What each of them is called.
    word: str = "tables"

    def first(self, count: int) -> Suitable:
        """Return fewer of them."""
        return self._replace(tables=self.tables[:count])

    @property
    def left_out(self) -> str:
        """What is left out, in words."""
        return f"the first {len(self.tables):,} of {self.total:,} {self.word}" if len(self.tables) < self.total else ""


def suitable_tables(source: Source, suits: Callable[[Table], bool], missing: str) -> Suitable:
    """Return the suitable tables, at most six.

    Raises:
        Missing: there is none; ``missing`` is the message.
    """
    suitable = [table for table in source.board.tables if suits(table)]
    if not suitable:
        raise Missing(missing)
    return Suitable(suitable[:MAX_TABLES], len(suitable))


def threats_text(table: Table) -> str:
    """Say that a figure shows one threat of several; nothing where there is one."""
    count = len({summary.group for summary in table.threats if summary.threat})
    return f"1 of {count} threats" if count > 1 else ""


def in_brackets(*parts: str) -> str:
    """Return what stands behind a title: the parts that say something."""
    said = list(filter(None, parts))
    return f" ({'; '.join(said)})" if said else ""


def attacked(table: Table) -> list[Column]:
    """Return the columns that hold accuracies under attack, worst cases among them."""
    return [column for column in table.columns if column.unit == "accuracy" and column.group]


def column_name(column: Column) -> str:
    """Return what the JSON of figures calls a column."""
    return {"clean": "clean", "worst": "worst case"}.get(column.kind, column.label)


@lru_cache(maxsize=20_000)
def text_width(text: str, points: float, weight: str = "normal") -> float:
    """Return the width of one line of text, in inches, which a picture's grid of pixels may widen by 3 %."""
    font = FontProperties(size=points, weight=weight)
    return 1.03 * float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def fold(text: str, inches: float, points: float, weight: str = "normal") -> str:
    """Return a text in lines that are at most ``inches`` wide.

    Lines are broken between words and before brackets; words that are too long, after hyphens and the like; parts of
    these that are still too long, anywhere. Line breaks in the text stay.
    """
    return "\n".join("\n".join(_lines(line, inches, points, weight)) for line in text.split("\n"))


def _lines(text: str, inches: float, points: float, weight: str) -> list[str]:
    """Return the lines of one line that is too long."""

    def fits(line: str) -> bool:
        return text_width(line.strip(), points, weight) <= inches

    lines = [""]
    for word in _WORDS.findall(text):
        parts = [word] if fits(word) else _WORD_PARTS.findall(word)
        for part in chain.from_iterable([part] if fits(part) else part for part in parts):
            if fits(lines[-1] + part):
                lines[-1] += part
            else:
                lines.append(part)
    return [line.strip() for line in lines if line.strip()] or [""]


def access_points(
    axes: Axes, at: float, static: Value | None, adaptive: Value | None, *, horizontal: bool = False
) -> None:
    """Draw the worst cases of one defense, in percent: static as a ring, adaptive as a disc, with their intervals."""
    for access, value in (("static", static), ("adaptive", adaptive)):
        if value is None or value.number is None:
            continue
        colour = COLOUR[access]
        whisker(axes, at, value, colour, horizontal=horizontal)
        xy = (100 * value.number, at) if horizontal else (at, 100 * value.number)
        if access == "static":
            axes.plot(*xy, "o", color=colour, markerfacecolor="white", zorder=3)
        else:
            axes.plot(*xy, "o", color=colour, zorder=4)


def marker(label: str, colour: str, face: str | None = None, shape: str = "o") -> Line2D:
    """Return a point for a legend."""
    return Line2D([], [], marker=shape, linestyle="", color=colour, markerfacecolor=face or colour, label=label)


def legend_below(figure: Figure, handles: Iterable[Artist], columns: int, title: str | None = None) -> None:
    """Write a legend below a figure."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, title=title, title_fontsize=7)


def unbroken(text: str) -> str:
    """Return a text that stays on one line, such as a threat."""
    return text.replace(" ", "\xa0")


def signed(points: float) -> str:
    """Return a difference in points, with its sign."""
    return f"{points:+.1f}".replace("-", "−")


def number_text(number: float, digits: int = 3) -> str:
    """Return a number to so many digits as people read it: no exponent, thousands apart, millions in words."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(number) >= 0.9995 * size:
            return f"{_rounded(number / size, digits)} {word}"
    return _rounded(number, digits)


def _rounded(number: float, digits: int) -> str:
    """Return a number to so many digits, those before the point all kept."""
    if number == 0:
        return "0"
    places = max(0, digits - 1 - floor(log10(abs(number))))
    text = f"{number:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def measured(value: Value | None) -> dict[str, Any]:
    """Return a number for the JSON of a figure; an accuracy under attack comes with the robust accuracy."""
    if value is None:
        return {"value": None, "low": None, "high": None}
    more: dict[str, Any] = {}
    if value.failed:
        more = {"failed": True}
    elif value.robust is not None:
        more = {"robust_accuracy": value.robust}
    return {"value": value.number, "low": value.low, "high": value.high, **more}


class CommonAttacks(NamedTuple):
    """Worst cases that can be compared: each over the attacks that all defenses have in common."""

    #: The common attacks, by access.
    attacks: Mapping[str, Sequence[str]]
    #: The worst cases of each defense, by access.
    worst: Sequence[Mapping[str, Value | None]]

    def describe_attacks(self, worst: Mapping[str, object]) -> str:
        """Say how many attacks these worst cases are over, for each access."""
        return ", ".join(f"{len(attacks)} {access}" for access, attacks in self.attacks.items() if worst.get(access))


def over_common_attacks(summaries: Sequence[ThreatSummary]) -> CommonAttacks:
    """Return static and adaptive worst cases; where there is no test-time step, white-box stands for both.

    A defense that was not attacked with one access has no worst case for it, and does not restrict the common attacks.
    """
    common: dict[str, list[str]] = {}
    worst: list[dict[str, Value | None]] = [{} for _ in summaries]
    accesses: tuple[Access, ...] = ("static", "adaptive")
    for access in accesses:
        used: list[Access] = [access if access in summary.evaluated_attacks else "white-box" for summary in summaries]
        evaluated = [summary.evaluated_attacks.get(kind, ()) for summary, kind in zip(summaries, used, strict=True)]
        restricting = [attacks for attacks in evaluated if attacks]
        first = restricting[0] if restricting else ()
        common[access] = [attack for attack in first if all(attack in attacks for attacks in restricting)]
        for summary, kind, attacks, row in zip(summaries, used, evaluated, worst, strict=True):
            row[access] = summary.worst_under(kind, common[access]) if attacks and common[access] else None
    return CommonAttacks(common, worst)


def heat_cells(
    axes: Axes, shares: Sequence[Sequence[float | None]], notes: Sequence[Sequence[str]] | None = None
) -> None:
    """Draw accuracies in [0, 1] with their numbers in percent, and small notes below these; absent ones stay empty.

    Args:
        axes: to draw on, whose labels are written elsewhere.
        shares: accuracies by row and column.
        notes: texts by row and column.
    """
    import numpy as np

    grid = np.array([[np.nan if share is None else 100 * share for share in row] for row in shares], dtype=float)
    axes.imshow(grid, cmap=HEAT, vmin=0, vmax=100, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(-0.5, grid.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, grid.shape[0]), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    for y, x in np.ndindex(grid.shape):
        _heat_text(axes, x, y, shares[y][x], notes[y][x] if notes else "")


def _heat_text(axes: Axes, x: int, y: int, share: float | None, note: str) -> None:
    colour = SOFT
    if share is not None:
        colour = legible_on(HEAT(share))
    text = "–" if share is None else f"{100 * share:.1f}"
    axes.text(x, y - 0.14 * bool(note), text, ha="center", va="center", color=colour, fontsize=7.5)
    if note:
        axes.text(x, y + 0.24, note, ha="center", va="center", color=colour, fontsize=5.5)


def legible_on(ground: tuple[float, ...]) -> str:
    """Return white or black, whichever has the higher contrast (WCAG 2) to a colour in [0, 1]."""
    middle = _luminance(ground[:3])
    return "white" if 1.05 / (middle + 0.05) > (middle + 0.05) / 0.05 else "black"


def _luminance(colour: Sequence[float]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def without_eps(label: str) -> str:
    """Return the label of an attack without its budget, which the figure writes beside it."""
    return re.sub(r"\[\]", "", re.sub(r"(?<=[\[,])eps=[^,\]]*,?", "", label)).replace(",]", "]")


def trained_with(recipe: str, params: Mapping[str, Any]) -> str:
    """Return a recipe, with its attack in training where that is one of its parameters."""
    inner = params.get("inner")
    return recipe if inner is None else f"{recipe} {str(inner).partition('[')[0]}"


def whisker(axes: Axes, x: float, value: Value, colour: str, *, horizontal: bool = False) -> None:
    """Draw the 95 % interval of an accuracy, in percent."""
    if value.low is None or value.high is None:
        return
    ends = [100 * value.low, 100 * value.high]
    axes.plot(
        *((ends, [x, x]) if horizontal else ([x, x], ends)),
        color=colour,
        linewidth=1,
        alpha=0.6,
        solid_capstyle="butt",
        zorder=2,
    )


def log_axis(axes: Axes, flops: Sequence[float]) -> None:
    """Give a logarithmic x axis of FLOPs room for its labels: more than a decade, few ticks, units in words."""
    low, high = min(flops) / 1.6, max(flops) * 1.6
    stretch = max(1.0, (20 / (high / low)) ** 0.5)
    low, high = low / stretch, high * stretch
    axes.set_xlim(low, high)
    inches = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted()).width
    # A label such as 100 MFLOP, with blanks.
    most = max(2, int(inches / 0.65))
    # A label at the end would leave the figure.
    last = high / (high / low) ** (0.12 / inches)
    axes.set_xticks(_decades(low, last, most))
    axes.xaxis.set_major_formatter(EngFormatter(unit="FLOP", sep=" "))
    axes.xaxis.set_minor_locator(NullLocator())


def _decades(low: float, high: float, most: int) -> list[float]:
    """Return at most so many ticks between two numbers: powers of ten, or also three times these."""
    exponents = range(floor(log10(low)), ceil(log10(high)) + 1)
    for subs in ((1.0,), (1.0, 3.0)):
        ticks = [sub * 10.0**exponent for exponent, sub in product(exponents, subs)]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) > 1:
            break
    return inside[:: ceil(len(inside) / most)]
