import io
import re
from collections import Counter
from itertools import product

import pytest
from rich.cells import cell_len
from rich.console import Console

from bench.report.leaderboard.tables import build
from bench.report.leaderboard.view import View
from bench.report.leaderboard.view import shown as viewed
from bench.report.render import text as words
from bench.report.render.terminal import leaderboard
from tests.report.fabricate import outcomes, result, story


def shown(results, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(leaderboard(results, width=width))
    return console.file.getvalue()


def test_first_sight_shows_clean_attacks_worst_case_and_gap_within_100_columns():
    text = shown(story())
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "digits · small-cnn · 500 images" in text
    header = next(line for line in text.splitlines() if line.startswith("defense"))
    assert header.split() == ["defense", "access", "accuracy", "fgsm", "pgd", "worst", "case", "adaptive", "verdict"]
    assert all(words in text for words in ("clean", "robust", "accuracy,", "gap,", "static −"))
    rows = text.splitlines()
    static = next(i for i, line in enumerate(rows) if line.startswith("tpap"))
    assert rows[static].split() == ["tpap", "gray-box", "(static)", "98.4", "41.8", "97.0", "41.8", "–", "–"]
    assert rows[static + 1].split()[:5] == ["adaptive", "98.4", "30.0", "2.6", "2.6"]
    assert rows[static + 1].split()[5:] == ["+39.2", "[+34.9,", "+43.5]", "broken"]
    assert "pgd: any-iterate" in text


def test_a_cell_has_robust_accuracy_in_brackets_where_it_differs():
    clean = [i < 4 for i in range(10)]
    text = shown([result("tpap", step="tpap", clean=clean, adversarial=[1 <= i < 8 for i in range(10)])])
    row = next(line.split() for line in text.splitlines() if line.startswith("tpap"))
    assert row == ["tpap", "gray-box", "(static)", "40.0", "70.0", "(30.0)", "30.0"]
    words = " ".join(text.split())
    assert "Worst case: right when clean and under every attack of the row" in words


def test_nothing_is_cut_off_whatever_the_number_of_attacks():
    attacks = [f"attack-number-{i}" for i in range(20)]
    text = shown([result(attack=a, clean=[True] * 50, adversarial=outcomes(0.5, 50, i)) for i, a in enumerate(attacks)])
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert all(attack in text for attack in attacks)


def test_failures_and_flags_are_visible():
    text = shown(
        [result(clean=[True] * 4, status="failed"), result(attack="fgsm", clean=[True] * 4, flags=("zero-gradient",))]
    )
    assert "failed" in next(line for line in text.splitlines() if line.startswith("standard"))
    assert "MethodError: pgd returned NaN for 3 of 8 images" in text
    assert "ᵃ zero-gradient" in text
    assert "100.0ᵃ" in text


def test_the_best_is_highlighted_but_never_a_static_line():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(leaderboard(story()))
    text = console.file.getvalue()
    assert "\x1b[1;32m84.2" in text
    assert "\x1b[1;32m97.0" not in text


def test_a_row_with_nothing_but_its_clean_accuracy_is_shown_once():
    attacks = [f"attack-number-{i}" for i in range(20)]
    attacked = [result(attack=a, clean=[True] * 50, adversarial=outcomes(0.5, 50, 1)) for a in attacks]
    alone = result("fgsm-at", None, recipe="fgsm-at", clean=[i < 40 for i in range(50)])
    accuracies = shown([*attacked, alone]).partition("TFLOP")[0]
    rows = [line.split() for line in accuracies.splitlines() if line.startswith("fgsm-at")]
    assert [row[:3] for row in rows] == [["fgsm-at", "white-box", "80.0"]]


def test_an_empty_store_says_so():
    assert shown([]) == "no results yet\n"


def test_names_are_not_markup():
    assert "[bold]x[/bold]" in shown([result("[bold]x[/bold]", clean=[True] * 4)])


def test_swept_parameters_stand_in_the_head():
    runs = [result(attack_params={"steps": s}, label=f"pgd[steps={s}]", clean=[True] * 4) for s in (20, 60)]
    text = shown(runs)
    assert "pgd[steps=20]" in text and "pgd[steps=60]" in text


def test_a_screen_holds_the_first_lines_and_says_how_many_there_are():
    runs = [result(name := f"defense-{i:02d}", recipe=name, clean=[True] * i + [False] * (60 - i)) for i in range(60)]
    text = shown(runs)
    assert sum(line.startswith("defense-") and "white-box" in line for line in text.splitlines()) == 40
    assert "defense-59" in text and "defense-10" not in text
    assert "the first 40 of 60 rows" in text


def test_a_narrow_terminal_shows_one_threat_in_one_piece_and_says_what_it_leaves_out():
    text = shown(story(), 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    row = next(line.split() for line in text.splitlines() if line.startswith("tpap  "))
    assert row == ["tpap", "gray-box", "98.4", "41.8", "97.0", "41.8", "–", "–"]
    assert ["adaptive", "98.4", "30.0", "2.6", "2.6", "+39.2", "broken"] in [line.split() for line in text.splitlines()]
    assert "a terminal of 100 columns shows the 95 % interval of each gap" in " ".join(text.split())
    assert "a terminal of" not in shown(story())


def test_columns_are_broken_between_threats_where_that_is_enough():
    text = shown([*story(50), *story(50, norm="l2", eps="1/2")], 100)
    heads = [line.split() for line in text.splitlines() if "ε=" in line and line.startswith("  ")]
    assert heads == [["L∞", "ε=8/255"], ["L2", "ε=1/2"]]


def named(letters, kind):
    """Steps and recipes whose long names differ in the middle or at the end, over seeds, threats and accesses."""
    signs = "猫" if kind == "wide" else "ab-[c=1],"
    names = [(signs * letters)[: letters - 1 - at] + str(i) + "x" * at for i, at in enumerate((0, 0, letters // 2, 3))]
    clean = outcomes(0.9, 100)
    for name, (seed, attack, norm) in product(names, product((1, 2), ("pgd", "fgsm"), ("linf", "wasserstein"))):
        is_step = name in names[:2]
        for i, access in enumerate(("static", "adaptive") if is_step else ("white-box",)):
            hits = outcomes(0.3 + 0.1 * i + 0.05 * seed, 100, i)
            more = {"recipe": f"r{names.index(name)}", "step": "s" if is_step else None, "seed": seed, "norm": norm}
            label = attack + names[0] if kind == "attacks too" else attack
            yield result(name, attack, label=label, clean=clean, adversarial=hits, access=access, **more)


SIZES = [*product((80, 120, 200), (5, 40, 120), (False, True)), (45, 120, False)]


@pytest.mark.parametrize("kind", ["narrow", "wide", "attacks too"])
@pytest.mark.parametrize(("width", "letters", "short"), SIZES)
def test_long_names_give_way_and_numbers_accesses_and_threats_never_do(width, letters, short, kind):
    board = viewed(build(named(letters, kind)), View(short=short))
    (table,) = board.tables
    output = shown(board, width)
    assert max(map(cell_len, output.splitlines())) <= width
    # Each name is there as it is, or a line below says what it was cut to.
    flat = "".join(output.split())
    cut = re.findall(r"^(\S*…\S*(?: \(\d+\))?) =", output, re.M)
    defenses = {row.defense for row in table.rows}
    assert len(set(cut)) == len(cut) == sum(f"={defense}" in flat for defense in defenses)
    assert all(defense in flat for defense in defenses)
    for name in sorted(cut, key=len, reverse=True):
        output = output.replace(name, "")
    assert "…" not in output
    found = Counter(token.rstrip("ᵃᵇᶜᵈᵉᶠᵍ") for token in output.split())
    assert not Counter(numbers_of(table)) - found
    if table.has_access:
        assert not Counter(row.access.replace("static", "gray-box") for row in table.rows) - found
    for threat in words.threats(table):
        assert any(threat in line and ":" not in line for line in output.splitlines())


def numbers_of(table):
    """Yield every number of a table without its interval; costs are said once for each defense."""
    seen = set()
    for row, column in product(table.rows, table.columns):
        value = row.values.get(column.id)
        if value is not None and not (column.kind == "cost" and (row.defense, column.id) in seen):
            seen.add((row.defense, column.id))
            yield from words.number(value, column, table.n).partition(" [")[0].replace("–", "").split()
