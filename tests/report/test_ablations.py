"""Figures that take defenses apart, of any number of defenses with names of any length, at both widths."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from bench.report import figures
from bench.store.working_store import Store
from tests.report.fabricate import outcomes, result
from tests.report.layout import faults, written

CLEAN = [True] * 100
USUAL = {"beta": "1/4", "steps": 1, "label": "predicted"}
PAGE, COLUMN = figures.WIDTHS.values()
SIZES = pytest.mark.parametrize(("width", "count", "letters"), [(COLUMN, 2, 5), (PAGE, 12, 120), (COLUMN, 60, 120)])


def name_of(number, letters):
    """Return a name of so many letters, the last of them a number."""
    return ("recipe-number-with-a-name[and=its,parameters=and]" * 4)[: letters - 3] + f"{number:03}"


def draw(name, results, width):
    return drawn_from(name, figures.source_of(results, Store(Path("no-store"))), width)


def drawn_from(name, source, width):
    source = replace(source, width=width)
    with plt.style.context(str(figures.STYLE)):
        return import_module(f"bench.report.figures.{name.replace('-', '_')}").draw(source)


def legible(drawn, width):
    """Say whether a figure fits its width and a page, with every text apart from the others."""
    assert faults(drawn.figure) == []
    assert drawn.figure.get_figwidth() <= width + 1e-6
    assert drawn.figure.get_figheight() < 9.5


def said(drawn):
    return " ".join(" ".join(each.text.split()) for each in written(drawn.figure))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def purified(name, share, recipe, **params):
    common = {"step": "tpap", "recipe": recipe, "step_params": {**USUAL, **params}, "clean": CLEAN}
    yield result(name, None, **common)
    for access in ("static", "adaptive"):
        under = outcomes(share * (access == "static"), 100)
        yield result(name, access=access, adversarial=under, **common)


def bare(recipe, share=0.3):
    yield result(recipe, None, clean=CLEAN, recipe=recipe)
    yield result(recipe, clean=CLEAN, adversarial=outcomes(share, 100), recipe=recipe)


def ablation(count, letters):
    cells = [*bare("fgsm-at"), *purified("usual", 0.5, "fgsm-at")]
    for number in range(count):
        cells += purified(f"tpap{number}", number / count, "fgsm-at", label=name_of(number, letters))
        cells += purified(f"tpap{number}b", number / count, "fgsm-at", beta=f"{number + 1}/255")
    return figures.source_of(cells, Store(Path("no-store")))


@SIZES
def test_ablations_of_any_size_are_legible(width, count, letters):
    drawn = drawn_from("tpap-ablation", ablation(count, letters), width)
    legible(drawn, width)
    shown = sum(row["parameter"] == "label" for row in drawn.numbers["settings"])
    assert shown == count + 1 or f"{shown} of {count + 1} values" in said(drawn)


def crossed(count, letters):
    cells = []
    for number in range(count):
        recipe = name_of(number, letters)
        cells += bare(recipe)
        for steps in range(1, (12 if number < 2 else 2) + 1):
            cells += purified(f"tpap{steps}@{number}", 0.0, recipe, steps=steps)
    return figures.source_of(cells, Store(Path("no-store")))


@SIZES
def test_crossed_recipes_of_any_number_are_legible(width, count, letters):
    drawn = drawn_from("substitution", crossed(count, letters), width)
    legible(drawn, width)
    shown = len({row["trained_with"] for row in drawn.numbers["accuracies"]})
    assert shown == count or f"{shown} of {count} training recipes" in said(drawn)


def test_nothing_survived_is_not_nothing_measured():
    cells = [*bare("fgsm-at"), *bare("pgd-at"), *purified("a", 0.0, "fgsm-at"), *purified("b", 0.5, "pgd-at", steps=2)]
    drawn = draw("substitution", cells, 7.0)
    texts = [each.text for each in written(drawn.figure)]
    missing = [row for row in drawn.numbers["accuracies"] if row["adaptive"]["value"] == 0.0]
    assert len(missing) == 2 and texts.count("0.0") == 3
    # Two recipes and three purifiers, of which each recipe lacks one, in three maps.
    assert texts.count("–") == 6
    assert "robust accuracy, gray-box" in said(drawn) and "not measured" in said(drawn)


def stepped(count, letters):
    cells = []
    for number in range(count):
        name, clean = name_of(number, letters), outcomes(0.9, 100, number)
        step = ("jpeg", "median", "tpap")[number % 3]
        common = {"clean": clean, "step": step, "step_params": {"quality": number}}
        cells.append(result(name, None, **common))
        for attack in range(min(count, 12) if number < 2 else 2):
            under = [right and (i + attack) % 3 > 0 for i, right in enumerate(clean)]
            for access in ("static", "adaptive"):
                cells.append(result(name, name_of(attack, letters), adversarial=under, access=access, **common))
    return figures.source_of([*bare("standard"), *cells], Store(Path("no-store")))


@SIZES
def test_steps_of_any_number_are_legible(width, count, letters):
    drawn = drawn_from("preprocessing", stepped(count, letters), width)
    legible(drawn, width)
    rows = {row["defense"] for row in drawn.numbers["accuracies"]}
    # TPAP has a figure of its own: here it has one row.
    known = 1 + count - max(0, count // 3 - 1)
    assert len(rows) == known or f"{len(rows)} of {known} defenses" in said(drawn)


@pytest.mark.parametrize("attacks", [1, 0])
def test_tables_with_other_panels_have_ticks_of_their_own(attacks):
    cells = []
    for step in ("jpeg", "median"):
        for dataset, more in (("digits", 0), ("other", attacks)):
            for attack in ("pgd", *("cw", "fgsm")[: 1 + more]):
                common = {"step": step, "dataset": dataset, "clean": CLEAN, "access": "adaptive"}
                cells.append(result(step, attack, adversarial=outcomes(0.5, 100), **common))
    figure = draw("preprocessing", cells, PAGE).figure
    figure.canvas.draw()
    labelled = [axes for axes in figure.axes if any(label.get_text() for label in axes.get_xticklabels())]
    shown = [axes for axes in labelled if axes.xaxis.get_tick_params()["labelbottom"]]
    assert len(shown) == (len(figure.axes) if attacks else len(figure.axes) // 2)


def test_parameters_of_other_versions_are_words():
    cells = [*purified("usual", 0.5, "fgsm-at"), *purified("odd", 0.4, "fgsm-at", beta="auto"), *bare("fgsm-at")]
    cells += purified("many", 0.4, "fgsm-at", steps="many")
    drawn = draw("tpap-ablation", cells, 7.0)
    assert {"auto", "many"} <= {row["value"] for row in drawn.numbers["settings"]}
    assert "PGD-many" in said(draw("substitution", [*cells, *purified("x", 0.1, "pgd-at"), *bare("pgd-at")], 7.0))
