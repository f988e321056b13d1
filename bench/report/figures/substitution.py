"""Training attack crossed with purification attack: does TPAP need FGSM on both sides?"""

from __future__ import annotations

from collections import Counter

from matplotlib import pyplot as plt

from bench.report.figures import Drawing, Missing, Source
from bench.report.figures._plot import SOFT, WIDTH, WORST, heatmap, measured, over_common_attacks, trained_with
from bench.report.figures._tpap import STEP, Setting, differences, reference, settings


def draw(source: Source) -> Drawing:
    found = settings(source)
    groups = []
    for table in sorted({s.table for s in found}):
        mine = _alike([s for s in found if s.table == table])
        recipes = list(dict.fromkeys(trained_with(s.recipe, s.training) for s in mine if s.step is not None))
        columns = sorted({_purifier(s) for s in mine}, key=lambda name: (name != "none", len(name), name))
        if len(recipes) > 1 and len(columns) > 1:
            groups.append((recipes, columns, mine))
    if not groups:
        raise Missing(f"{STEP} was run on one training recipe only: give base as a list in the configuration")
    rows = [len(group[0]) for group in groups]
    figure, axes = plt.subplots(
        len(groups), 3, figsize=(WIDTH, sum(0.9 + 0.28 * n for n in rows) + 0.2), squeeze=False, height_ratios=rows
    )
    numbers = []
    for line, (recipes, columns, mine) in zip(axes, groups, strict=True):
        cells: dict[tuple[str, str], Setting] = {}
        for s in mine:
            cells.setdefault((trained_with(s.recipe, s.training), _purifier(s)), s)
        compared = over_common_attacks([s.standing for s in cells.values()])
        shown = {
            place: {"clean": s.standing.clean, **under}
            for (place, s), under in zip(cells.items(), compared.worst, strict=True)
        }
        for axis, kind in zip(line, ("clean", "static", "adaptive"), strict=True):
            values = [[shown.get((recipe, column), {}).get(kind) for column in columns] for recipe in recipes]
            names = recipes if axis is line[0] else [""] * len(recipes)
            heatmap(
                axis,
                names,
                columns,
                [[value.number if value else None for value in row] for row in values],
                width=WIDTH / 4,
            )
            place = f"{mine[0].title}\n" if axis is line[0] else ""
            axis.set_title(place + ("clean" if kind == "clean" else f"worst case, {kind}"))
            axis.set_xlabel("purified with")
        numbers += [
            {
                "table": mine[0].title,
                "trained_with": recipe,
                "purified_with": column,
                "attacks": compared.describe_attacks(shown[recipe, column]),
                **{kind: measured(value) for kind, value in shown[recipe, column].items()},
            }
            for recipe in recipes
            for column in columns
            if (recipe, column) in shown
        ]
        line[0].set_ylabel("trained with")
    figure.supxlabel(f"% of all images; {WORST}", fontsize=7, color=SOFT)
    return Drawing(figure, {"accuracies": numbers})


def _alike(found: list[Setting]) -> list[Setting]:
    """Return the settings that differ from the usual one in recipe and in what purifies, and in nothing else.

    Of several trainings by one recipe the one that most settings share is its usual one.
    """
    shared = {
        name: Counter(_training(s) for s in found if trained_with(s.recipe, s.training) == name).most_common(1)[0][0]
        for name in {trained_with(s.recipe, s.training) for s in found}
    }
    found = [s for s in found if _training(s) == shared[trained_with(s.recipe, s.training)]]
    if all(s.step is None for s in found):
        return found
    usual = reference(found)
    varied = {("step", name) for name in ("steps", "random_start", "step_size")}
    return [s for s in found if s.step is None or {d for d in differences(s, usual) if d[0] == "step"} <= varied]


def _training(s: Setting) -> str:
    return repr(sorted(s.training.items()))


def _purifier(s: Setting) -> str:
    """Return what purifies: one sign step is FGSM, more are PGD."""
    if s.step is None:
        return "none"
    steps = int(s.step.get("steps", 1))
    start = " + random start" if s.step.get("random_start") else ""
    return ("FGSM" if steps == 1 else f"PGD-{steps}") + start
