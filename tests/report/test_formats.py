import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import chain, product

import pandas
import pytest

from bench.report.leaderboard.tables import WORST_LABEL, build
from bench.report.leaderboard.view import View, shown
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
    assert numbers["pgd-at", "white-box"] == ["97.4", "<ins>88.0</ins>", "**84.2**", "**84.2**", "–", "–"]
    assert numbers["tpap", "gray-box (static)"] == ["98.4", "41.8", "97.0", "41.8", "–", "–"]
    assert numbers["tpap", "adaptive"] == ["98.4", "30.0", "2.6", "2.6", "+39.2 [+34.9, +43.5]", "broken"]
    assert "- pgd: any-iterate" in text


def test_markdown_keeps_nasty_names_in_their_column():
    text = markdown(build([result(NASTY, clean=[True] * 4)]))
    (row,) = (line for line in text.splitlines() if line.startswith("| =x"))
    assert len(re.split(r"(?<!\\)\|", row)) == len(re.split(r"(?<!\\)\|", text.splitlines()[2]))
    assert "<i>" not in text


def test_markdown_names_every_threat_and_gives_costs_none():
    one = markdown(shown(build(story()), View(caption="Mine")))
    assert "### Mine\n" in one and "| pgd L∞ ε=8/255 |" in one
    assert "### digits · small-cnn · 500 images · L∞ ε=8/255\n" in markdown(build(story()))
    several = markdown(build([*story(), *story(norm="l2", eps="1/2")]))
    head = next(row for row in several.splitlines() if row.startswith("| defense"))
    assert "| pgd L∞ ε=8/255 |" in head and "| pgd L2 ε=1/2 |" in head
    assert head.endswith("| inference TFLOP/10k images | parameters, M |")
    assert "### digits · small-cnn · 500 images\n" in several


@pytest.mark.parametrize("form", [markdown, latex])
def test_bold_and_underlined_are_explained_where_there_are_some(form):
    assert "bold: best of its column, underlined: second best" in form(build(story()))
    assert "bold" not in form(build([result(clean=[True] * 4)])).replace("textbf", "")


@pytest.mark.parametrize("form", [markdown, latex])
def test_a_flag_is_explained_where_its_letter_is(form):
    text = form(build([result(clean=[True] * 4, flags=("autoattack-reduced",))]))
    assert "autoattack-reduced (with fewer steps, targets or queries than its authors'" in text


@pytest.mark.parametrize("form", [markdown, latex])
def test_a_spread_is_explained_with_the_number_of_seeds(form):
    cells = [result(seed=s, clean=[True] * 100, adversarial=outcomes(x / 10, 100)) for s, x in enumerate((4, 5, 6))]
    said = re.compile(r"a (±|\$\\pm\$) b: mean \1 standard deviation over 3 seeds")
    assert said.search(form(build(cells)))
    assert not said.search(form(build(cells[:1])))


def test_csv_has_spread_and_count_of_seeds_where_there_are_several():
    cells = [result(seed=s, clean=[True] * 100, adversarial=outcomes(x / 10, 100)) for s, x in enumerate((4, 5, 6))]
    (row,) = csv.DictReader(io.StringIO(comma_separated(build(cells))))
    # The standard deviation of 0.4, 0.5 and 0.6.
    assert float(row["pgd (L∞ ε=8/255) spread"]) == pytest.approx(0.1)
    assert (row["seeds"], float(row["clean accuracy spread"])) == ("3", 0.0)
    assert "seeds" not in comma_separated(build(cells[:1]))


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
    # One float for each table, costs below the accuracies.
    assert text.count(r"\begin{table*}") + text.count(r"\begin{table}") == text.count(r"\caption") == 2
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 4
    assert r"pgd-at & white-box & 97.4 & \underline{88.0} & \textbf{84.2} & \textbf{84.2} & -- & --" in text
    # The name of a defense is in its first line, and a long interval is smaller.
    assert r" & adaptive & 98.4 & 30.0 & 2.6 & 2.6 & +39.2 {\scriptsize[+34.9, +43.5]} & broken" in text
    assert (
        r"=x\textbar{}*a*\_b\_\&\textless{}i\textgreater{}\%\$\#\{\}\textbackslash{}\textasciitilde{}\textasciicircum{}"
        in text
    )
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    bodies = re.findall(r"\\begin{tabular}{@{}(l[lr]+)@{}}\n.*?\\midrule(.*?)\\bottomrule", text, re.S)
    assert len(bodies) == 4
    for columns, body in bodies:
        for row in body.strip().splitlines():
            assert len(re.split(r"(?<!\\)&", row)) == len(columns)


def test_each_latex_table_has_a_label_that_stays():
    cells = [*story(), *story(rows="other"), *story(network="vgg 16")]
    labels = re.findall(r"\\label{(.*?)}", latex(build(cells)))
    assert labels == ["tab:digits-small-cnn-500", "tab:digits-small-cnn-500-2", "tab:digits-vgg-16-500"]
    assert r"\label{tab:digits-small-cnn-500-short}" in latex(shown(build(story()), View(short=True)))


def test_each_view_of_a_store_has_a_label_of_its_own_which_stays():
    views = [View(), View(short=True), View(columns=("clean",)), View(columns=("pgd",)), View(rows=("tpap",))]
    views += [View(sort="pgd"), View(caption="Clean & robust"), View(caption="Clean + robust"), View(caption="表1")]
    views += [View(caption="表2"), View(caption="word " * 50 + "a"), View(caption="word " * 50 + "b")]
    texts = [latex(shown(build(story(20)), view)) for view in views]
    labels = [re.findall(r"\\label{(.*?)}", text) for text in texts]
    flat = list(chain.from_iterable(labels))
    assert len(flat) == len(set(flat)) == len(views)
    assert all(re.fullmatch("tab:[a-z0-9-]{1,67}", label) for label in flat)
    # More images of a class, or other results, are the same view.
    again = [latex(shown(build(story(20, norm="l2")[:-2]), View(columns=("pgd",))))]
    assert re.findall(r"\\label{(.*?)}", again[0]) == labels[3]
    assert r"\label{tab:robust-in-l2}" in latex(shown(build(story(20)), View(caption="Robust in L2?")))
    # Two tables of one output, and one that is named as the second of them would be.
    cells = [*story(20), *story(20, rows="x"), *story(20, network="small-cnn-20-2")]
    several = re.findall(r"\\label{(.*?)}", latex(build(cells)))
    assert len(several) == len(set(several)) == 3


@pytest.mark.parametrize("end", "?!.")
def test_a_caption_ends_with_one_mark(end):
    text = latex(shown(build(story(20)), View(caption=f"What holds{end}")))
    assert rf"\caption{{What holds{end}}}" in text


def test_names_that_pdflatex_has_no_letters_for_are_said_at_the_top():
    hint = "% letters other than Latin ones need xelatex or lualatex"
    assert hint not in latex(build(story(20))) and hint not in latex(shown(build(story(20)), View(caption="“Ü” – ß…")))
    assert hint in latex(shown(build(story(20)), View(caption="精度"))).partition(r"\begin")[0]


def four():
    """Four defenses under four attacks, two of them steps with static and adaptive lines: what a paper has."""
    clean = outcomes(0.95, 400, 3)
    cells = []
    for name, step in (("standard", None), ("pgd-at", None), ("jpeg", "jpeg"), ("feature-squeezing", "x")):
        for access in ("static", "adaptive") if step else ("white-box",):
            for i, attack in enumerate(("fgsm", "pgd", "apgd-ce", "square")):
                hits = [a and b for a, b in zip(clean, outcomes(0.5 - i / 20, 400, i), strict=True)]
                recipe = "standard" if step else name
                cells.append(
                    result(name, attack, clean=clean, adversarial=hits, access=access, step=step, recipe=recipe)
                )
    return cells


def many(rows, attacks, name="defense"):
    clean = outcomes(0.9, 100)
    bits = [outcomes(0.5, 100, i) for i in range(attacks)]
    kinds = [(f"{name}-{r:02}", f"attack-{i:02}", bits[i]) for r, i in product(range(rows), range(attacks))]
    return [result(d, a, recipe=d[-30:], clean=clean, adversarial=hits) for d, a, hits in kinds]


def long_names(letters=120):
    """Names that are long and end differently, with and without marks to break them at, in every place."""
    clean = outcomes(0.9, 100)
    words = [("weights:a-very-long_name/of.a.file," * 4)[: letters - 1] + end for end in "ab"] + ["q" * letters]
    common = {"clean": clean, "dataset": "d" * letters, "network": "n" * letters, "flags": ("f" * letters,)}
    return [
        result(words[r], a, label=words[a == "pgd"] + "x", recipe=f"r{r}", adversarial=outcomes(0.5, 100, r), **common)
        for r, a in product(range(3), ("pgd", "fgsm"))
    ]


def noted(rows, notes):
    """A table of some rows with many notes, which together nearly fill a page."""
    board = build(many(rows, 3))
    lines = tuple(f"a note of some words that says what is known of row {i} and nothing more" for i in range(notes))
    return replace(board, tables=(replace(board.tables[0], notes=lines),))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("document", ["[twocolumn]{article}", "{article}", "[conference]{IEEEtran}"])
def test_latex_fits_the_page_of_a_paper(tmp_path, document):
    short = shown(build(four()), View(short=True))
    nasty = build([result(NASTY, clean=[True] * 4, flags=("no-op",), rows="other")])
    floats = [(build(four()), 1), (short, 1), (nasty, 1), (build(many(60, 24)), 7), (build(many(3, 24)), 1)]
    floats += [(build(many(2, 100)), 2), (build(long_names()), 2)]
    texts = [latex(board) for board, _ in floats]
    # A short table is in one of two columns, four defenses under four attacks across both; neither is in pieces.
    assert r"\begin{table}" in texts[1] and r"\begin{table*}" in texts[0]
    assert [text.count(r"\caption{") for text in texts] == [count for _, count in floats]
    texts += [latex(noted(*counts)) for counts in ((9, 27), (13, 16), (25, 29), (33, 16))]
    body = "\\usepackage{booktabs,graphicx}\\begin{document}Text." + "\\clearpage ".join(texts)
    (tmp_path / "t.tex").write_text(rf"\documentclass{document}{body}\end{{document}}")
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True)
    if b"IEEEtran.cls' not found" in done.stdout:
        pytest.skip("IEEEtran is not installed")
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "t.log").read_text(errors="replace")
    assert [float(points) for points in re.findall(r"Overfull .hbox \((.*?)pt", log) if float(points) > 3] == []
    assert "Float too large" not in log


def test_each_float_of_a_table_has_its_notes_or_says_where_they_are():
    for board in (build(four()), build(many(60, 24)), build(many(90, 40))):
        text = latex(board)
        floats = re.findall(r"\\begin{table\*?}.*?\\end{table\*?}", text, re.S)
        label = re.search(r"\\label{(.*?)}", floats[-1])[1]
        outside = re.search(r"\\label{(.*?:notes)}Notes on Table", text)
        for each in floats:
            if outside:
                assert rf"Notes: in the text on page~\pageref{{{outside[1]}}}." in each
            else:
                assert (rf"Notes: below Table~\ref{{{label}}}." in each) == (each is not floats[-1])
                assert ("Percent of all images." in each) == (each is floats[-1])


def test_latex_defines_words_that_the_table_has_after_its_letters_and_no_others():
    words = {
        "Percent of all": "clean", "gray-box (static) ones": "clean", "in brackets": "fgsm", "Worst case:": "worst",
        "Gap: in points": "gap", "Verdict: a step": "verdict",
    }  # fmt: skip
    cells = [*story(50), harmed()]
    for word, column in words.items():
        assert word in latex(shown(build(cells), View(columns=(column, "pgd"))))
    text = latex(shown(build(story(50)), View(columns=("clean", "pgd"), rows=("*-at",))))
    assert [word for word in words if word in text] == ["Percent of all"]
    assert "White-box" not in text
    costs = latex(shown(build(story(50)), View(columns=("cost",), rows=("*-at",))))
    assert not any(word in costs for word in words)
    flagged = [result("pgd-at", clean=[True] * 4, flags=("no-op",))]
    notes = latex(build(flagged)).partition("minipage")[2]
    assert notes.index("no-op") < notes.index("Percent of all")


def test_latex_stacks_threats_in_one_float_and_breaks_none_that_fits():
    cells = [*four(), *chain.from_iterable(story(400, norm="l2", eps=eps) for eps in ("1/2", "3/2"))]
    text = latex(build(cells))
    assert text.count(r"\caption{") == 1
    bodies = re.findall(r"\\toprule\n(.*?)\\midrule", text, re.S)
    groups = [re.findall(r"\\multicolumn{\d+}{c}{(.+?)}(?= [&\\])", body) for body in bodies]
    flat = list(chain.from_iterable(groups))
    assert len(flat) == len(set(flat)) == 4
    assert groups[-1] == ["cost"]


def test_long_names_of_attacks_are_heads_of_several_lines_within_the_text():
    names = [f"ti-dim[diversity=0.{i},kernel=1,preset=reference]" for i in range(6)]
    cells = [
        result(attack="ti-dim", attack_params={"diversity": str(i)}, label=name, clean=[True] * 4)
        for i, name in enumerate(names)
    ]
    text = latex(build(cells))
    stacks = re.findall(r"\\begin{tabular}\[b\]{@{}r@{}}(.*?)\\end{tabular}", text)
    heads = [stack.split(r"\\") for stack in stacks if "ti-dim" in stack]
    assert ["".join(head).replace("{}", "") for head in heads] == names
    assert max(len(line) for head in heads for line in head) <= 16
    assert text.count(r"\caption{") == 1


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
    said = "right when clean and under every attack of the row"
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


def csv_rows(board):
    """Return the rows as pandas reads them back, by defense and access."""
    frame = pandas.read_csv(io.StringIO(comma_separated(board)), keep_default_na=False)
    return {(row["defense"], row["access"]): row for row in frame.to_dict("records")}


def test_notes_of_csv_belong_to_their_row_and_what_the_table_says_is_a_column_of_its_own():
    step = {"step": "jpeg", "recipe": "other", "clean": [True] * 500}
    name = "jpeg[quality=1,x=2]"
    static, adaptive = (result(name, access=a, **step) for a in ("static", "adaptive"))
    flagged = static.model_copy(update={"flags": ("no-op",)})
    board = build([*story(dirty=True), flagged, adaptive])
    rows = csv_rows(board)
    verdicts = {line.partition(":")[0]: line for line in board.tables[0].verdicts}
    assert set(verdicts) == {"jpeg", "tpap"}
    for (defense, access), row in rows.items():
        # What is said of a defense is said once, where the attacker sees all of it.
        for about, line in verdicts.items():
            assert (line in row["notes"]) == ((defense, access) == (about, "adaptive"))
        assert (f"{name}: no verdict" in row["notes"]) == ((defense, access) == (name, "adaptive"))
        assert ("no-op" in row["notes"]) == ((defense, access) == (name, "static"))
        assert "uncommitted" not in row["notes"]
    assert len({row["table notes"] for row in rows.values()}) == 1
    assert "19 of 21 results come from code with uncommitted changes" in rows["tpap", "static"]["table notes"]
    assert rows["standard", "white-box"]["notes"] == rows["pgd-at", "white-box"]["notes"] == ""


def test_csv_gives_pandas_the_numbers_of_the_table():
    board = build(story())
    (table,) = board.tables
    frame = pandas.read_csv(io.StringIO(comma_separated(board))).set_index(["defense", "access"])
    assert len(frame) == len(table.rows)
    for row, column in product(table.rows, table.columns):
        value = row.values.get(column.id)
        name = f"{column.label} ({column.group})" if column.group not in ("", "cost") else column.label
        wanted = None if value is None else value.words or value.number
        read = frame.loc[(row.defense, row.access), name]
        assert read == wanted or (wanted is None and pandas.isna(read))


def test_namesakes_that_only_a_digit_of_their_key_tells_apart_say_what_distinguishes_them():
    clean = [True] * 10
    params = {"one": {"a": 1, "b": 2, "c": 3, "d": 4}, "two": {"a": 5, "b": 6, "c": 7, "d": 8}}
    cells = [result("x", recipe="r", recipe_params=own, clean=clean) for own in params.values()]
    cells += [result("x", "fgsm", recipe="r", recipe_params=params["one"], clean=clean, code=c) for c in "12"]
    board = build(cells)
    (table,) = board.tables
    names = sorted({row.defense for row in table.rows})
    assert all(name.startswith("x #") for name in names) and len(names) == 2
    notes = {note.partition(": ")[0]: note.partition(": ")[2] for note in table.notes}
    assert {notes[name] for name in names} == {
        "weights recipe a 1, weights recipe b 2, weights recipe c 3, weights recipe d 4",
        "weights recipe a 5, weights recipe b 6, weights recipe c 7, weights recipe d 8",
    }
    for form in (markdown, latex, comma_separated, as_json):
        assert "weights recipe a 5" in form(board)
