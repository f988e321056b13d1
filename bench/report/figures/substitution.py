"""Training attack crossed with purification attack: does TPAP need FGSM on both sides?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, product
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._layout import (
    DENSE_ROW,
    EDGE,
    GAP,
    SMALL_POINTS,
    Block,
    Box,
    Foot,
    Labels,
    above_columns,
    axes_at,
    beside_rows,
    fitting,
    row_height,
    stack,
    stack_height,
    text_height,
    write,
    write_rows,
)
from bench.report.figures._plot import (
    ACCESS_WORDS,
    MAX_DEFENSES,
    ROBUST,
    ROBUST_MEANS,
    SOFT,
    fold,
    heat_cells,
    measured,
    over_common_attacks,
    trained_with,
    unbroken,
)
from bench.report.figures._tpap import STEP, Setting, differences, reference, settings, threats_remark
from bench.report.leaderboard.summaries import Value

#: Tables of one figure.
_MAX_GROUPS = 6
#: Share of the width of the figure for names.
_NAMES = 0.36
#: Inches: the least width of a number, and between two maps.
_NUMBER, _BETWEEN = 0.37, 0.12
_TRAINED, _PURIFIED = "trained with", "purified with"
#: What the maps show, as the JSON calls it.
_KINDS = ("clean", "static", "adaptive")
_TITLES = {
    "clean": "clean accuracy",
    "static": f"{ROBUST}, {unbroken(ACCESS_WORDS['static'])}",
    "adaptive": f"{ROBUST}, adaptive",
}


class _Group(NamedTuple):
    """The settings of one table: recipes in training crossed with attacks in purification."""

    table: str
    #: The same, and what of it is shown.
    title: str
    recipes: list[str]
    purifiers: list[str]
    settings: dict[tuple[str, str], Setting]

    def first(self, recipes: int, purifiers: int) -> _Group:
        """Return a part of it; its title says so."""
        counts = ((recipes, len(self.recipes), "training recipes"), (purifiers, len(self.purifiers), "purifiers"))
        parts = [f"{some:,} of {total:,} {what}" for some, total, what in counts if some < total]
        kept = (self.recipes[:recipes], self.purifiers[:purifiers])
        cells = {cell: s for cell, s in self.settings.items() if cell[0] in kept[0] and cell[1] in kept[1]}
        return _Group(self.table, self.table + (f" ({', '.join(parts)})" if parts else ""), *kept, cells)


class _Maps(NamedTuple):
    """Some of the three maps of a group, side by side, with all their labels."""

    group: _Group
    title: str
    kinds: tuple[str, ...]
    #: Inches: the width of one map.
    width: float
    names: Labels
    heads: Labels
    titles: list[str]

    def block(self, row: float) -> Block:
        """Return their room on the figure, where rows are at least ``row`` inches high."""
        above = max(text_height(title, SMALL_POINTS) for title in self.titles) + GAP
        below = self.heads.height + text_height("", SMALL_POINTS) + 2 * GAP
        return Block(self.title, max(row, self.names.height) * len(self.group.recipes), above=above, below=below)


def draw(source: Source) -> Drawing:
    every = _groups(settings(source))
    if not every:
        raise Missing(f"{STEP} was run on one training recipe only: give base as a list in the configuration")
    width = source.width

    def laid_out(groups: int, recipes: int) -> list[_Maps]:
        return _all_maps(every[:groups], recipes, width)

    def height(groups: int, recipes: int, row: float = DENSE_ROW) -> float:
        return stack_height(
            [m.block(row) for m in laid_out(groups, recipes)], width, _foot(width, groups, every).height
        )

    shown = fitting(min(_MAX_GROUPS, len(every)), lambda groups: height(groups, 2))
    most = min(MAX_DEFENSES, max(len(group.recipes) for group in every))
    recipes = fitting(most, lambda recipes: height(shown, recipes), 2)
    maps, foot = laid_out(shown, recipes), _foot(width, shown, every)
    row = row_height(lambda row: height(shown, recipes, row))
    left = width - EDGE - _room(every[:shown], recipes, width)
    figure, boxes = stack([m.block(row) for m in maps], width, left=left, foot=foot.height)
    for box, each in zip(boxes, maps, strict=True):
        _draw_maps(figure, box, each)
    foot.draw(figure)
    numbers: list[dict[str, Any]] = []
    for each in maps:
        # Each group once, however many rows of maps it takes.
        numbers += _numbers(each.group) if each.title else []
    return Drawing(figure, {"accuracies": numbers})


def _foot(width: float, groups: int, every: Sequence[_Group]) -> Foot:
    left_out = f"the first {groups:,} of {len(every):,} tables" if groups < len(every) else ""
    threats = threats_remark(chain.from_iterable(group.settings.values() for group in every[:groups]))
    remarks = ["% of all images", ROBUST_MEANS, threats, "–: not measured", left_out]
    return Foot(width, remark="; ".join(filter(None, remarks)))


def _all_maps(groups: Sequence[_Group], recipes: int, width: float) -> list[_Maps]:
    """Return the maps of some groups: the three of a group side by side where there is room, else below each other."""
    room = _room(groups, recipes, width)
    maps: list[_Maps] = []
    for group in groups:
        part = group.first(recipes, max(2, int(room / _NUMBER)))
        names = beside_rows(part.recipes, _NAMES * width)
        third = (room - 2 * _BETWEEN) / len(_KINDS)
        if third >= _NUMBER * len(part.purifiers):
            maps.append(_maps(part, part.title, _KINDS, third, names))
        else:
            titles = (part.title, "", "")
            maps += (_maps(part, title, (kind,), room, names) for kind, title in zip(_KINDS, titles, strict=True))
    return maps


def _room(groups: Sequence[_Group], recipes: int, width: float) -> float:
    """Return what names leave of the width, in inches."""
    names = max(beside_rows([*group.recipes[:recipes], _TRAINED], _NAMES * width).width for group in groups)
    return width - 2 * EDGE - GAP - names


def _maps(group: _Group, title: str, kinds: tuple[str, ...], width: float, names: Labels) -> _Maps:
    heads = above_columns(group.purifiers, width / len(group.purifiers))
    return _Maps(group, title, kinds, width, names, heads, [fold(_TITLES[kind], width, SMALL_POINTS) for kind in kinds])


def _draw_maps(figure: Figure, box: Box, maps: _Maps) -> None:
    """Draw clean accuracy and both robust accuracies, or some of them."""
    values = _values(maps.group)
    top = box.bottom + box.height + GAP / 2
    write(figure, box.left - GAP, top, _TRAINED, SMALL_POINTS, ha="right", va="bottom", color=SOFT)
    for place, (kind, title) in enumerate(zip(maps.kinds, maps.titles, strict=True)):
        at = box._replace(left=box.left + place * (maps.width + _BETWEEN), width=maps.width)
        axis = axes_at(figure, at)
        shares: list[list[float | None]] = []
        for recipe in maps.group.recipes:
            row = [values.get((recipe, purifier), {}).get(kind) for purifier in maps.group.purifiers]
            shares.append([value.number if value else None for value in row])
        heat_cells(axis, shares)
        _name(axis, maps, first=place == 0)
        middle = at.left + at.width / 2
        write(figure, middle, top, title, SMALL_POINTS, ha="center", va="bottom")
        below = box.bottom - maps.heads.height - 1.5 * GAP
        write(figure, middle, below, _PURIFIED, SMALL_POINTS, ha="center", va="top", color=SOFT)


def _name(axis: Axes, maps: _Maps, *, first: bool) -> None:
    """Name the columns of a map, and its rows if it is the first."""
    heads = maps.heads
    rotation = 90 if heads.turned else 0
    axis.set_xticks(range(len(heads.texts)), heads.texts, rotation=rotation, fontsize=heads.points, linespacing=1.1)
    if first:
        write_rows(axis, maps.names)
    else:
        axis.set_yticks([])
    axis.tick_params(axis="x", length=0, pad=72 * GAP / 2)


def _values(group: _Group) -> dict[tuple[str, str], Mapping[str, Value | None]]:
    compared = over_common_attacks([s.summary for s in group.settings.values()])
    return {
        cell: {"clean": s.summary.clean, **worst}
        for (cell, s), worst in zip(group.settings.items(), compared.worst, strict=True)
    }


def _numbers(group: _Group) -> list[dict[str, Any]]:
    compared, values = over_common_attacks([s.summary for s in group.settings.values()]), _values(group)
    return [
        {
            "table": group.table,
            "trained_with": recipe,
            "purified_with": purifier,
            "attacks": compared.describe_attacks(values[recipe, purifier]),
            **{kind: measured(value) for kind, value in values[recipe, purifier].items()},
        }
        for recipe, purifier in product(group.recipes, group.purifiers)
        if (recipe, purifier) in values
    ]


def _groups(every: list[Setting]) -> list[_Group]:
    """Return the tables with several recipes and several purifiers."""
    groups: list[_Group] = []
    for table in sorted({s.table for s in every}):
        comparable = _comparable([s for s in every if s.table == table])
        # The baseline is kept first.
        names = dict.fromkeys(_recipe(s) for s in comparable if s.step is not None)
        recipes = sorted(names, key=lambda name: name != "standard")
        purifiers = sorted({_purifier(s) for s in comparable}, key=lambda name: (name != "none", len(name), name))
        if len(recipes) > 1 and len(purifiers) > 1:
            cells: dict[tuple[str, str], Setting] = {}
            for s in comparable:
                cells.setdefault((_recipe(s), _purifier(s)), s)
            groups.append(_Group(comparable[0].title, comparable[0].title, recipes, purifiers, cells))
    return groups


def _comparable(every: list[Setting]) -> list[Setting]:
    """Return the settings that differ from the usual one only in recipe and purifier.

    Of several trainings by one recipe, the one that most settings have in common is its usual one.
    """
    trainings: dict[str, Counter[str]] = {}
    for s in every:
        trainings.setdefault(_recipe(s), Counter())[_training(s)] += 1
    usual_training = {recipe: counts.most_common(1)[0][0] for recipe, counts in trainings.items()}
    kept = [s for s in every if _training(s) == usual_training[_recipe(s)]]
    if all(s.step is None for s in kept):
        return kept
    usual = reference(kept)
    varied = {("step", name) for name in ("steps", "random_start", "step_size")}
    return [s for s in kept if s.step is None or {d for d in differences(s, usual) if d[0] == "step"} <= varied]


def _recipe(s: Setting) -> str:
    return trained_with(s.recipe, s.training)


def _training(s: Setting) -> str:
    return repr(sorted(s.training.items()))


def _purifier(s: Setting) -> str:
    """Return the attack in purification: one sign step is FGSM, more are PGD."""
    if s.step is None:
        return "none"
    steps = s.step.get("steps", 1)
    start = " + random start" if s.step.get("random_start") else ""
    return ("FGSM" if steps == 1 else f"PGD-{steps}") + start
