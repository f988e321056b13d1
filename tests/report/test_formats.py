import csv
import io
import json
import re
import shutil
import subprocess

import pytest

from bench.report.leaderboard.tables import WORST_LABEL, build
from bench.report.render.export import as_json, comma_separated, payload
from bench.report.render.latex import latex
from bench.report.render.markdown import markdown
from tests.report.fabricate import outcomes, result, story

GAP = "gap, static − adaptive"
NASTY = r'=x|*a*_b_&<i>%$#{}\~^"-'


def test_markdown_has_a_line_per_defense_and_access_with_the_best_marked():
    text = markdown(build(story()))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    assert rows[0][2:8] == ["clean accuracy", "fgsm", "pgd", WORST_LABEL, GAP, "verdict"]
    assert rows[0][:2] == ["defense", "access"]
    numbers = {(row[0], row[1]): row[2:8] for row in rows[2:]}
    assert numbers["pgd-at", "white-box"] == ["97.4", "<u>88.0</u>", "**84.2**", "**84.2**", "–", "–"]
    assert numbers["tpap", "gray-box (static)"] == ["98.4", "41.8", "97.0", "41.8", "–", "–"]
    assert numbers["tpap", "adaptive"] == ["98.4", "30.0", "2.6", "2.6", "+39.2 [+34.9, +43.5]", "broken"]
    assert "- pgd: any-iterate" in text


def test_markdown_keeps_nasty_names_in_their_column():
    text = markdown(build([result(NASTY, clean=[True] * 4)]))
    (row,) = (line for line in text.splitlines() if line.startswith("| =x"))
    assert len(re.split(r"(?<!\\)\|", row)) == len(re.split(r"(?<!\\)\|", text.splitlines()[2]))
    assert "<i>" not in text


def test_csv_reads_back_and_starts_no_formula():
    board = build([*story(), result(NASTY, clean=[True] * 4, step="x", dataset="@set")])
    rows = list(csv.DictReader(io.StringIO(comma_separated(board))))
    tpap = next(row for row in rows if (row["defense"], row["access"]) == ("tpap", "adaptive"))
    assert float(tpap["pgd (L∞ ε=8/255)"]) == 0.026
    assert float(tpap[f"{GAP} (L∞ ε=8/255)"]) == pytest.approx(0.392)
    assert float(tpap[f"{GAP} (L∞ ε=8/255) low"]) < 0.392 < float(tpap[f"{GAP} (L∞ ε=8/255) high"])
    assert tpap["verdict (L∞ ε=8/255)"] == "broken"
    assert {"'" + NASTY, "'@set"} <= {value for row in rows for value in row.values()}
    assert not any(value[:1] in "=+@" for row in rows for value in row.values() if value)


def test_latex_is_booktabs_with_the_best_bold_and_everything_escaped():
    text = latex(build([*story(), result(NASTY, clean=[True] * 4, step="x", rows="other")]))
    # The story is wider than a page: its costs go on in a table of their own.
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\caption") == 8
    assert text.count("continued") == 6
    assert r"pgd-at & white-box & 97.4 & \underline{88.0} & \textbf{84.2} & \textbf{84.2}" in text
    assert (
        r"=x\textbar{}*a*\_b\_\&\textless{}i\textgreater{}\%\$\#\{\}\textbackslash{}\textasciitilde{}\textasciicircum{}"
        in text
    )
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for body in re.findall(r"\\begin{tabular}{(l+r+)}.*?\\midrule(.*?)\\bottomrule", text, re.S):
        for row in body[1].strip().splitlines():
            assert len(re.split(r"(?<!\\)&", row)) == len(body[0])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    body = latex(build([*story(), result(NASTY, clean=[True] * 4, flags=("no-op",), rows="other")]))
    (tmp_path / "t.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}" + body + r"\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_long_names_of_attacks_are_heads_of_several_lines_within_the_text():
    names = [f"ti-dim[diversity=0.{i},kernel=1,preset=reference]" for i in range(6)]
    cells = [
        result(attack="ti-dim", attack_params={"diversity": str(i)}, label=name, clean=[True] * 4)
        for i, name in enumerate(names)
    ]
    text = latex(build(cells))
    heads = [head for head in re.findall(r"\\shortstack\[r\]{(.*?)}(?= [&\\])", text) if "ti-dim" in head]
    assert [head.replace(r"\\", "").removeprefix("{}").replace("{}", "") for head in heads] == names
    widths = [max(len(line) for line in head.split(r"\\")) for head in heads]
    per_table = [part.count("ti-dim") for part in text.split(r"\midrule")[:-1]]
    assert sum(per_table) == 6
    assert max(per_table) * max(widths) < 90


@pytest.mark.parametrize("name", ["[bracket", "*star"])
def test_a_row_does_not_begin_with_what_would_be_the_argument_of_the_line_end(name):
    text = latex(build([result(name, clean=[True] * 4, step="x")]))
    assert f"{{}}{name} &" in text


@pytest.mark.parametrize("form", [markdown, latex])
def test_tables_without_room_for_intervals_say_how_far_these_reach(form):
    # Wilson's interval of 50 of 100 is 40.4 to 59.6 %.
    text = form(build([result(clean=[True] * 100, adversarial=outcomes(0.5, 100))]))
    assert re.search(r"95 .?% intervals \(Wilson\) reach at most 9\.6 points", text)


def test_json_has_the_fixed_shape():
    cells = (
        "dataset model defense attack access norm eps n clean_accuracy accuracy_under_attack robust_accuracy ci_low "
        "ci_high status flags forwards_per_example backwards_per_example seconds_per_example flops_per_example "
        "mean_linf mean_l2 key"
    )
    defenses = (
        "dataset model defense clean_accuracy worst_case_static worst_case_adaptive worst_case params "
        "train_flops_per_epoch train_seconds_per_epoch test_flops test_seconds"
    )
    body = json.loads(as_json(build(story())))
    assert body["schema"] == 1
    assert len(body["cells"]) == 19
    assert all(set(cells.split()) <= cell.keys() for cell in body["cells"])
    assert len(body["defenses"]) == 5
    assert all(set(defenses.split()) <= defense.keys() for defense in body["defenses"])


def harmed():
    """A step that is wrong on six of ten clean images, and under attack right on seven, three of them right clean."""
    clean = [i < 4 for i in range(10)]
    return result("tpap", step="tpap", clean=clean, adversarial=[1 <= i < 8 for i in range(10)])


def test_every_format_has_both_measures_where_they_differ():
    board = build([harmed()])
    assert "| tpap | gray-box (static) | 40.0 | 70.0 (30.0) | 30.0 |" in markdown(board)
    assert r"tpap & gray-box (static) & 40.0 & 70.0 (30.0) & 30.0" in latex(board)
    (row,) = csv.DictReader(io.StringIO(comma_separated(board)))
    assert [float(row[f"pgd (L∞ ε=8/255){end}"]) for end in ("", " robust accuracy")] == [0.7, 0.3]
    assert float(row[f"{WORST_LABEL} (L∞ ε=8/255)"]) == 0.3
    (cell,) = payload(board)["cells"]
    assert (cell["accuracy_under_attack"], cell["robust_accuracy"], cell["clean_accuracy"]) == (0.7, 0.3, 0.4)
    assert cell["ci_low"] < 0.7 < cell["ci_high"] and cell["ci_low"] > 0.3
    (same,) = csv.DictReader(io.StringIO(comma_separated(build([result(clean=[True] * 4)]))))
    assert same["pgd (L∞ ε=8/255) robust accuracy"] == "1.0"


@pytest.mark.parametrize("form", [markdown, latex, comma_separated, as_json])
def test_every_format_says_that_a_worst_case_counts_the_clean_answer(form):
    said = "right clean and under every attack of the line: doing nothing is one of the attacks"
    assert said in form(build([harmed()]))


def test_json_says_how_far_static_flatters():
    by_name = {row["defense"]: row for row in payload(build(story()))["defenses"]}
    tpap, plain = by_name["tpap"], by_name["pgd-at"]
    assert (tpap["worst_case_static"], tpap["worst_case_adaptive"]) == (0.418, 0.026)
    assert tpap["worst_case"] <= 0.026
    assert tpap["gap_low"] < tpap["gap"] < tpap["gap_high"]
    assert plain["worst_case_static"] == plain["worst_case_adaptive"] == plain["worst_case"] == 0.842
    assert plain["gap"] is None


def test_json_gives_null_for_what_is_not_there():
    failed = result(clean=[True] * 4, status="failed")
    body = payload(build([failed]))
    assert body["cells"][0]["robust_accuracy"] is None
    assert body["cells"][0]["error"].startswith("MethodError: ")
    assert body["defenses"][0]["worst_case"] is None
    unbounded = payload(
        build([result(norm="l2", eps=None, attack="cw", clean=[True] * 4, adversarial=outcomes(0.5, 4))])
    )
    assert unbounded["cells"][0]["eps"] is None
    assert unbounded["cells"][0]["norm"] == "l2"


@pytest.mark.parametrize("form", [markdown, comma_separated, latex, as_json])
def test_no_results_and_one_result_are_tables_too(form):
    assert form(build([]))
    assert form(build([result(clean=[True])]))
    assert form(build([result(attack=None, clean=[True])]))


def test_a_row_of_csv_has_what_is_said_of_it_and_of_the_table_but_nothing_of_other_rows():
    board = build(
        [
            *story(),
            result(
                "jpeg[quality=1,x=2]", step="jpeg", recipe="other", access="adaptive", clean=[True] * 500, dirty=True
            ),
        ]
    )
    rows = {
        (row["defense"], row["access"]): row["notes"] for row in csv.DictReader(io.StringIO(comma_separated(board)))
    }
    verdicts = {line.partition(":")[0]: line for line in board.tables[0].verdicts}
    assert set(verdicts) == {"jpeg", "tpap"}
    for (defense, _), notes in rows.items():
        assert all((line in notes) == (name == defense) for name, line in verdicts.items())
        assert "1 of 20 results come from code with uncommitted changes" in notes
        assert ("jpeg[quality=1,x=2]: no verdict" in notes) == (defense == "jpeg[quality=1,x=2]")
