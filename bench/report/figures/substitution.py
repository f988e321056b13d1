"""Training attack crossed with purification attack: does TPAP need FGSM on both sides?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import (
    WIDTH,
    WORST,
    caption,
    heatmap,
    measured,
    over_common_attacks,
    stacked,
    trained_with,
)
from bench.report.figures._tpap import STEP, Setting, differences, reference, settings
from bench.report.leaderboard.summaries import Value


class _Group(NamedTuple):
    """The settings of one table: recipes in training crossed with attacks in purification."""

    title: str
    recipes: list[str]
    purifiers: list[str]
    settings: dict[tuple[str, str], Setting]


def draw(source: Source) -> Drawing:
    groups = _groups(settings(source))
    if not groups:
        raise Missing(f"{STEP} was run on one training recipe only: give base as a list in the configuration")
    rows = [len(group.recipes) for group in groups]
    figure, axes = stacked(rows, sum(0.9 + 0.28 * n for n in rows) + 0.2, 3)
    numbers: list[dict[str, Any]] = []
    for row, group in zip(axes, groups, strict=True):
        numbers += _draw_group(row, group)
    caption(figure, f"% of all images; {WORST}")
    return Drawing(figure, {"accuracies": numbers})


def _groups(every: list[Setting]) -> list[_Group]:
    """Return the tables with several recipes and several purifiers."""
    groups: list[_Group] = []
    for table in sorted({s.table for s in every}):
        comparable = _comparable([s for s in every if s.table == table])
        recipes = list(dict.fromkeys(_recipe(s) for s in comparable if s.step is not None))
        purifiers = sorted({_purifier(s) for s in comparable}, key=lambda name: (name != "none", len(name), name))
        if len(recipes) > 1 and len(purifiers) > 1:
            cells: dict[tuple[str, str], Setting] = {}
            for s in comparable:
                cells.setdefault((_recipe(s), _purifier(s)), s)
            groups.append(_Group(comparable[0].title, recipes, purifiers, cells))
    return groups


def _draw_group(axes: Sequence[Axes], group: _Group) -> list[dict[str, Any]]:
    """Draw clean accuracy and both worst cases side by side, and return their numbers."""
    compared = over_common_attacks([s.summary for s in group.settings.values()])
    values: dict[tuple[str, str], Mapping[str, Value | None]] = {
        cell: {"clean": s.summary.clean, **worst}
        for (cell, s), worst in zip(group.settings.items(), compared.worst, strict=True)
    }
    for axis, kind in zip(axes, ("clean", "static", "adaptive"), strict=True):
        shares: list[list[float | None]] = []
        for recipe in group.recipes:
            row = [values.get((recipe, purifier), {}).get(kind) for purifier in group.purifiers]
            shares.append([value.number if value else None for value in row])
        first = axis is axes[0]
        names = group.recipes if first else [""] * len(group.recipes)
        heatmap(axis, names, group.purifiers, shares, width=WIDTH / 4)
        title = "clean" if kind == "clean" else f"worst case, {kind}"
        axis.set_title(f"{group.title}\n{title}" if first else title)
        axis.set_xlabel("purified with")
    axes[0].set_ylabel("trained with")
    return [
        {
            "table": group.title,
            "trained_with": recipe,
            "purified_with": purifier,
            "attacks": compared.describe_attacks(values[recipe, purifier]),
            **{kind: measured(value) for kind, value in values[recipe, purifier].items()},
        }
        for recipe, purifier in product(group.recipes, group.purifiers)
        if (recipe, purifier) in values
    ]


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
    steps = int(s.step.get("steps", 1))
    start = " + random start" if s.step.get("random_start") else ""
    return ("FGSM" if steps == 1 else f"PGD-{steps}") + start
