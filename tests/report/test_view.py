"""Which columns and rows a table shows, in which order and under which names; no number changes."""

import csv
import io
import json
from itertools import product

import pytest

from bench.cli import main
from bench.report.leaderboard.tables import WORST_LABEL, build
from bench.report.leaderboard.view import View, new_names, shown
from bench.report.leaderboard.view import build as viewed
from bench.report.render.export import FORMATS, comma_separated
from bench.report.render.html import render
from bench.report.render.latex import latex
from bench.report.render.markdown import markdown
from bench.types import UsageError
from tests.report.fabricate import outcomes, result, stored, story
from tests.report.test_terminal import shown as in_terminal

GROUP = "L∞ ε=8/255"


def table_of(results=None, **view):
    (table,) = viewed(story() if results is None else results, [], View(**view)).tables
    return table


def heads(table):
    return [column.label for column in table.columns]


def names(table):
    return [f"{row.defense}/{row.access}" for row in table.rows]


def numbers(table):
    """Return all numbers of a table by row and column."""
    cells = [(row, column) for row, column in product(table.rows, table.columns) if column.id in row.values]
    return {(row.defense, row.access, column.id): row.values[column.id] for row, column in cells}


def test_without_a_wish_all_is_as_it_was():
    assert shown(build(story()), View()) == build(story())


@pytest.mark.parametrize(
    ("patterns", "labels"),
    [
        (["pgd", "clean accuracy"], ["pgd", "clean accuracy"]),
        (["clean", "attack"], ["clean accuracy", "fgsm", "pgd"]),
        (["p*"], ["pgd", "parameters, M"]),
        (["verdict", "?gsm"], ["verdict", "fgsm"]),
        ([f"pgd {GROUP}", "gap"], ["pgd", "gap, static − adaptive"]),
        (["cost"], [cost.label for cost in build(story()).tables[0].columns if cost.group == "cost"]),
    ],
)
def test_columns_are_those_that_match_in_the_order_of_the_patterns(patterns, labels):
    assert heads(table_of(columns=tuple(patterns))) == labels


def test_columns_of_a_threat_stay_together():
    results = [*story(50), *story(50, eps="2/255")]
    columns = table_of(results, columns=("worst", "clean", "pgd")).columns
    assert [(column.kind, column.group) for column in columns] == [
        ("worst", "L∞ ε=2/255"),
        ("attack", "L∞ ε=2/255"),
        ("worst", "L∞ ε=8/255"),
        ("attack", "L∞ ε=8/255"),
        ("clean", ""),
    ]


@pytest.mark.parametrize(
    ("pattern", "columns"),
    [
        ("worst L2*", [f"{WORST_LABEL} L2 ε=1/2"]),
        ("worst L2", [f"{WORST_LABEL} L2 ε=1/2"]),
        ("verdict Linf", [f"verdict {GROUP}"]),
        ("gap L2*", ["gap, static − adaptive L2 ε=1/2"]),
        ("gap, static - adaptive l2 eps=1/2", ["gap, static − adaptive L2 ε=1/2"]),
        ("VERDICT Linf*", [f"verdict {GROUP}"]),
        ("attack linf eps=8/255", [f"fgsm {GROUP}", f"pgd {GROUP}"]),
        ("PGD", [f"pgd {GROUP}", "pgd L2 ε=1/2"]),
        (
            "L2*",
            [f"{label} L2 ε=1/2" for label in ("fgsm", "pgd", WORST_LABEL, "gap, static − adaptive", "verdict")],
        ),
    ],
)
def test_columns_go_by_threats_as_they_are_typed(pattern, columns):
    results = [*story(50), *story(50, norm="l2", eps="1/2")]
    table = table_of(results, columns=(pattern,))
    assert [f"{column.label} {column.group}" for column in table.columns] == columns
    if pattern.startswith(("worst", "L2")):
        assert f"sorted by {WORST_LABEL}, L2 ε=1/2" in table_of(results, sort=pattern).notes


@pytest.mark.parametrize(
    ("patterns", "rows"),
    [
        (["tpap"], ["tpap/static", "tpap/adaptive"]),
        (["*/adaptive", "standard"], ["tpap/adaptive", "jpeg/adaptive", "standard/white-box"]),
        (["standard", "*-at"], ["standard/white-box", "pgd-at/white-box", "fgsm-at/white-box"]),
        (["jpeg/static"], ["jpeg/static"]),
    ],
)
def test_rows_are_those_that_match_in_the_order_of_the_patterns(patterns, rows):
    assert names(table_of(rows=tuple(patterns))) == rows


def test_a_name_with_brackets_is_itself():
    clean = [True] * 10
    cells = [result("jpeg", "fgsm", step="jpeg", step_params={"quality": q}, clean=clean) for q in (50, 75)]
    assert names(table_of(cells, rows=("jpeg[quality=50]",))) == ["jpeg[quality=50]/static"]
    assert names(table_of(cells, rename=("jpeg[quality=50]=JPEG",), rows=("JPEG",))) == ["JPEG/static"]


def test_what_is_hidden_changes_no_number_and_is_said():
    whole, part = table_of(), table_of(columns=("fgsm", "worst", "gap", "verdict"), rows=("tpap", "pgd-at"))
    assert numbers(part).items() <= numbers(whole).items()
    assert "shown are 3 of 7 rows and 4 of 11 columns; best and second best are of the rows shown" in part.notes
    said = f"robust accuracy, gap and verdict are over all attacks, of which are shown 1 of 2 under {GROUP}"
    assert said in part.notes
    # What is said of hidden defenses goes with them.
    assert [line.partition(":")[0] for line in whole.verdicts] == ["tpap", "jpeg"]
    assert [line.partition(":")[0] for line in part.verdicts] == ["tpap"]
    assert {summary.defense for summary in part.threats} == {"tpap", "pgd-at"}
    board = viewed(story(), [], View(columns=("fgsm", "worst")))
    for text in (markdown(board), latex(board), comma_separated(board), in_terminal(board)):
        assert "over all attacks, of which are shown 1 of 2" in " ".join(text.split()).replace("\\", "")


def test_notes_are_on_the_threats_rows_and_attacks_that_are_shown():
    results = [*story(50), *story(50, norm="l2", eps="1/2")]
    # Two attacks of one name are told apart by the digits of a key, and a note says what these mean.
    clean = [True] * 50
    attacked = {"norm": "l2", "eps": "1/2", "recipe": "pgd-at", "clean": clean}
    results += [result("pgd-at", "cw", attack_params=dict.fromkeys("abcd", i), **attacked) for i in (1, 2)]
    # Right after every attack of each access in another half: what survives all of them is less.
    flow = {"norm": "flow", "eps": None, "step": "tpap", "recipe": "fgsm-at", "clean": clean}
    results += [
        result("tpap", "sta", access=a, adversarial=[(i % 2 == 0) == (a == "static") for i in range(50)], **flow)
        for a in ("static", "adaptive")
    ]
    whole = table_of(results)
    lines = [*whole.verdicts, *whole.notes]
    assert any(line.startswith("cw #") for line in lines)
    assert any(line.startswith("tpap, flow unbounded: 0.0 % right when") for line in lines)
    for short in (False, True):
        table = table_of(results, columns=("clean", "*L∞*"), short=short)
        lines = [*table.verdicts, *table.notes]
        assert not any(other in line for line in lines for other in ("L2", "flow", "cw #")), lines
        assert sorted(line.partition(":")[0] for line in table.verdicts) == ["jpeg", "tpap"]
        assert [line.count(GROUP) for line in table.verdicts] == [1, 1]
        table = table_of(results, columns=("flow*", "L2*"), rows=("tpap",), short=short)
        lines = [*table.verdicts, *table.notes]
        assert not any(other in line for line in lines for other in (GROUP, "jpeg"))
        assert any(line.startswith("tpap, flow unbounded: 0.0 % right when") for line in lines)
        assert any(line.startswith("cw #") for line in lines)
        # Whoever leaves the verdict out reads nothing of it, but of what survives.
        table = table_of(results, columns=("clean", "worst", "*flow*"), short=short)
        assert table.verdicts == ()
        assert any(line.startswith("tpap, flow unbounded: 0.0 % right when") for line in table.notes)


def test_why_there_is_no_verdict_is_said_of_the_threats_that_are_shown():
    step = {"step": "jpeg", "recipe": "other", "clean": [True] * 50}
    threats = [("linf", "8/255"), ("l2", "1/2"), ("l1", "9")]
    cells = [
        result("jpeg", access=access, norm=norm, eps=eps, **step)
        for (norm, eps), access in product(threats, ("static", "adaptive"))
    ]
    reason = "no verdict, for the classifier under it was not attacked"
    assert f"jpeg: {reason}" in table_of(cells).notes
    base = result(clean=[True] * 50, recipe="other", adversarial=outcomes(0.5, 50))
    for results, columns, about in (
        ([*cells, base], ("L2*", "Linf*"), "jpeg, L2 ε=1/2"),
        ([*cells, base], ("L2*",), "jpeg"),
        (cells, ("L1*",), "jpeg"),
    ):
        notes = table_of(results, columns=columns).notes
        assert [note for note in notes if "no verdict" in note] == [f"{about}: {reason}"]


def test_best_and_second_best_are_of_the_rows_shown():
    (column,) = (column for column in table_of().columns if column.label == "pgd")
    assert table_of().best[column.id] == (0.842, 0.03)
    assert table_of(rows=("fgsm-at", "tpap", "standard")).best[column.id] == (0.03, 0.026)


def test_a_column_that_is_empty_for_the_rows_shown_is_left_out():
    assert "verdict" not in heads(table_of(rows=("pgd-at", "standard")))
    assert "verdict" in heads(table_of(rows=("pgd-at", "standard"), columns=("*",)))


@pytest.mark.parametrize(
    ("sort", "defenses"),
    [
        ("worst", ["pgd-at", "fgsm-at", "tpap", "jpeg", "standard"]),
        ("-worst", ["standard", "jpeg", "tpap", "fgsm-at", "pgd-at"]),
        ("clean", ["fgsm-at", "standard", "tpap", "jpeg", "pgd-at"]),
        # The smallest gap is the best; without one is last, in either order, and as it was.
        ("gap", ["jpeg", "tpap", "pgd-at", "fgsm-at", "standard"]),
        ("-gap", ["tpap", "jpeg", "pgd-at", "fgsm-at", "standard"]),
        ("defense", ["fgsm-at", "jpeg", "pgd-at", "standard", "tpap"]),
        ("-defense", ["tpap", "standard", "pgd-at", "jpeg", "fgsm-at"]),
        # What costs the same stays as it was.
        ("inference TFLOP*", ["pgd-at", "fgsm-at", "jpeg", "standard", "tpap"]),
    ],
)
def test_rows_are_sorted_the_best_first_and_each_defense_stays_in_one_piece(sort, defenses):
    rows = table_of(sort=sort).rows
    assert list(dict.fromkeys(row.defense for row in rows)) == defenses
    assert [row.access for row in rows if row.defense == "tpap"] == ["static", "adaptive"]
    few = table_of(sort=sort, rows=("tpap", "pgd-at", "standard"), columns=("fgsm",))
    kept = {"tpap", "pgd-at", "standard"}
    assert list(dict.fromkeys(row.defense for row in few.rows)) == [name for name in defenses if name in kept]


def test_the_short_form_is_sorted_by_what_is_ranked():
    table = table_of(short=True, sort="worst")
    assert [row.defense for row in table.rows][:2] == ["pgd-at", "fgsm-at"]
    assert f"sorted by robust accuracy, white-box or adaptive, {GROUP}" in table.notes


def test_what_is_sorted_by_is_said():
    assert f"sorted by pgd, {GROUP}" in table_of(sort="pgd").notes


def test_a_new_name_is_everywhere():
    renames = ("tpap=Purifier (ours)", "fgsm-at=FGSM", "pgd=PGD-20", "digits=Digits", "small-cnn=CNN")
    board = viewed(story(), [], View(rename=renames))
    (table,) = board.tables
    assert table.title == "Digits · CNN · 500 images"
    assert names(table)[2:4] == ["Purifier (ours)/static", "Purifier (ours)/adaptive"]
    (verdict,) = (line for line in table.verdicts if line.startswith("Purifier (ours): "))
    assert "points over FGSM," in verdict
    assert "PGD-20" in heads(table) and "pgd" not in heads(table)
    assert ("Purifier (ours)", "PGD-20") in board.labels.values()
    plain = [list(row.values.values()) for row in table_of().rows]
    assert [list(row.values.values()) for row in table.rows] == plain


def _csv_names(**view):
    return set(next(csv.reader(io.StringIO(comma_separated(viewed(story(50), [], View(**view)))))))


def test_a_new_name_is_nothing_that_tables_files_and_options_use():
    own = _csv_names() | _csv_names(short=True) | set(heads(table_of())) | set(heads(table_of(short=True)))
    kinds = {column.kind for column in table_of().columns}
    board = build(story(50))
    # What follows the name of an attack in CSV, and a number's ends, cannot be taken for another column.
    for name in {
        name for name in own if not name.startswith(("fgsm", "pgd")) and name[-4:] not in (" low", "high")
    } | kinds:
        for old in ("pgd", "tpap", "digits"):
            with pytest.raises(UsageError, match="the tables use .* for something else") as refused:
                new_names(board, [f"{old}={name}"])
            assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="the tables use Worst for"):
        new_names(board, ["pgd=Worst"])


@pytest.mark.parametrize("results", [story(50), [*story(50), *story(50, norm="l2", eps="1/2")]])
def test_a_new_name_takes_no_column_of_csv(results):
    before, after = (
        next(csv.reader(io.StringIO(comma_separated(viewed(results, [], View(rename=rename))))))
        for rename in ((), ("pgd=fgsm robust accuracy", "tpap=P", "digits=clean accuracy low"))
    )
    assert len(set(after)) == len(after) == len(before)


def test_a_caption_is_the_title_and_what_it_replaces_is_said_beside_it():
    board = viewed(story(), [], View(caption="What $holds$"))
    assert markdown(board).startswith("### What \\$holds\\$\n")
    assert r"\caption{What \$holds\$.}" in latex(board)
    assert in_terminal(board).startswith("What $holds$\ndigits · small-cnn · 500 images\n")
    assert "\n- digits · small-cnn · 500 images\n" in markdown(board)
    assert r"digits $\cdot$ small-cnn $\cdot$ 500 images" in latex(board)
    assert "digits · small-cnn · 500 images. Accuracy" in render(board)
    assert {row["caption"] for row in csv.DictReader(io.StringIO(comma_separated(board)))} == {"What $holds$"}
    (table,) = viewed(story(50), [], View(caption=" What\nholds?\r\n")).tables
    assert table.caption == "What holds?"
    two = viewed([*story(50), *story(50, network="vgg16")], [], View(caption="All"))
    assert [table.heading for table in two.tables] == [
        "All (digits · small-cnn · 50 images)",
        "All (digits · vgg16 · 50 images)",
    ]


def test_the_short_form_has_a_row_for_each_defense_with_both_worst_cases():
    table = table_of(short=True)
    assert heads(table) == [
        "clean accuracy",
        "robust accuracy, gray-box (static)",
        "robust accuracy, white-box or adaptive",
        "gap, static − adaptive",
        "verdict",
    ]
    rows = {
        row.defense: [(v.words or v.number) if (v := row.values.get(c.id)) else None for c in table.columns]
        for row in table.rows
    }
    assert rows["tpap"] == [0.984, 0.418, 0.026, pytest.approx(0.392), "broken"]
    assert rows["pgd-at"] == [0.974, None, 0.842, None, None]
    assert len(rows) == len(table.rows) == 5
    static = next(column for column in table.columns if "static)" in column.label)
    # Nobody is the best by what a static attacker leaves.
    assert table.best[static.id] == (None, None)
    assert f"robust accuracy is the worst case over all attacks of a threat: fgsm, pgd under {GROUP}" in table.notes


def test_the_short_form_has_several_threats_side_by_side_in_every_format():
    results = [*story(50), *story(50, norm="l2", eps="1/2")]
    board = viewed(results, [], View(short=True))
    groups = [column.group for column in board.tables[0].columns]
    assert groups == ["", *[GROUP] * 4, *["L2 ε=1/2"] * 4]
    assert "access" not in markdown(board).splitlines()[2]
    (row,) = (row for row in csv.DictReader(io.StringIO(comma_separated(board))) if row["defense"] == "tpap")
    assert "access" not in row and row["verdict (L2 ε=1/2)"] == "broken"
    assert float(row["robust accuracy, gray-box (static) (L2 ε=1/2)"]) == pytest.approx(0.42)
    assert latex(board).count(r"\caption{") == 1
    page = render(board)
    assert page.count("robust accuracy, gray-box (static)") >= 2 and ">access<" not in page
    text = in_terminal(board, 160)
    assert sum(line.startswith("tpap ") for line in text.splitlines()) == 1
    assert "or adaptive" in text


def test_a_step_without_adaptive_attacks_has_a_static_number_only():
    clean = [True] * 10
    cells = [result(clean=clean), result("jpeg", step="jpeg", access="static", clean=clean, adversarial=[False] * 10)]
    transfer = result("jpeg", step="jpeg", access="transfer", clean=clean)
    table = table_of([*cells, transfer], short=True)
    row = next(row for row in table.rows if row.defense == "jpeg")
    assert {c.label: row.values[c.id].number for c in table.columns if c.id in row.values} == {
        "clean accuracy": 1.0,
        "robust accuracy, gray-box (static)": 0.0,
    }
    assert "what transfers from other networks is left out" in table.notes


def test_tables_without_what_is_asked_for_are_left_out_and_that_is_said():
    other = [result("mine", "square", recipe="mine", network="vgg16", clean=[True] * 10)]
    (table,) = viewed([*story(50), *other], [], View(columns=("square",))).tables
    assert table.model == "vgg16"
    assert "1 of 2 tables have what is shown; the others are left out" in table.notes


def test_patterns_that_match_in_no_table_together_are_refused_before_anything_is_written(tmp_path, capsys):
    other = [result("mine", "square", recipe="mine", network="vgg16", clean=[True] * 10)]
    call = ["leaderboard", "--store", str(stored(tmp_path / "s", [*story(20), *other]).root)]
    out = tmp_path / "t.tex"
    assert main([*call, "--rows", "mine", "--columns", "verdict", "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: --rows and --columns: ") and printed.err.count("\n") == 1
    assert printed.out == "" and not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sort", ""], "error: --sort: it is empty; name a column, or defense"),
        (["--caption", " "], "error: --caption: it is empty; leave it out"),
        (["--format", "tex", "--out", "x.csv"], "error: --out x.csv: the name ends with .csv, and --format is tex"),
        (["--json", "--out", "x.md"], "error: --out x.md: the name ends with .md, and --format is json"),
    ],
)
def test_empty_texts_and_names_of_other_formats_are_refused(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "s", story(10))
    assert main(["leaderboard", "--store", "s", *options]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(message) and printed.err.count("\n") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["s"]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"columns": ("clean", "cw")}, "--columns cw: nothing matches; there are clean; attack; "),
        ({"rows": ("tpap/white-box",)}, "--rows tpap/white-box: nothing matches; there are pgd-at; fgsm-at; "),
        ({"sort": "-cw"}, "--sort cw: nothing matches; there are defense; clean; "),
        ({"rename": ("cw=CW",)}, "--rename cw=CW: say OLD=NEW, with one of these as OLD: digits; small-cnn; pgd-at; "),
        ({"rename": ("tpap",)}, "--rename tpap: say OLD=NEW"),
        ({"rename": ("tpap= ",)}, "--rename tpap= : the new name is empty"),
        ({"rename": ("tpap=jpeg",)}, "--rename tpap=jpeg: jpeg is the name of something else; choose another name"),
        ({"rename": ("tpap=pgd",)}, "--rename tpap=pgd: pgd is the name of something else"),
        ({"rename": ("tpap=jpeg", "jpeg=tpap")}, "--rename tpap=jpeg: jpeg is the name of something else"),
        ({"rename": ("tpap=X", "tpap=Y")}, "--rename tpap=Y: tpap is also renamed to X; give it one new name"),
        ({"rename": ("pgd=x", "fgsm=x")}, "--rename: fgsm and pgd would both be called x"),
        ({"rename": ("digits=x", "tpap=x")}, "--rename: digits and tpap would both be called x"),
        ({"caption": "x" * 1001}, "--caption: 1,001 letters; a caption has at most 1,000"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_is(view, message):
    with pytest.raises(UsageError) as refused:
        viewed(story(50), [], View(**view))
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_a_message_lists_a_few_names_only():
    many = [result(f"d{i:02}", recipe=f"d{i:02}", clean=[True] * 4) for i in range(30)]
    with pytest.raises(UsageError, match="d19 and 10 more, or one"):
        viewed(many, [], View(rows=("x",)))


@pytest.mark.parametrize(
    ("options", "what"),
    [(["--json"], "--format json"), (["--format", "robustbench"], "--format"), (["--paper"], "--paper")],
)
def test_the_verb_refuses_a_view_of_what_holds_everything(tmp_path, capsys, options, what):
    store = str(stored(tmp_path, story(20)).root)
    assert main(["leaderboard", "--store", store, "--short", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("error: --short is for tables") and what in printed.err


def test_the_verb_shows_what_it_is_asked_for(tmp_path, capsys):
    store = str(stored(tmp_path, story(20)).root)
    call = ["leaderboard", "--store", store, "--columns", "clean", "pgd", "--rows", "PURE", "pgd-at"]
    call += ["--rename", "tpap=PURE", "--sort=-pgd", "--caption", "Mine"]
    for kind in (*sorted(set(FORMATS) - {"json"}), "html", None):
        assert main([*call, *(["--format", kind] if kind else [])]) == 0
        text = capsys.readouterr().out
        assert "Mine" in text and "PURE" in text and "jpeg" not in text, kind
        assert text.index("PURE") < text.index("pgd-at"), kind
    assert main([*call[:3], "--json"]) == 0
    assert {row["defense"] for row in json.loads(capsys.readouterr().out)["defenses"]} >= {"tpap", "jpeg"}


def test_sorting_goes_by_what_is_right_when_clean_as_well():
    """An attack that repairs what a step breaks does not put it before a network that is right more often."""
    clean = [True] * 4 + [False] * 6
    repaired = [True] * 2 + [False] * 2 + [True] * 6
    cells = [
        result("repaired", clean=clean, adversarial=repaired, recipe="a"),
        result("plain", clean=[True] * 10, adversarial=[True] * 5 + [False] * 5, recipe="b"),
    ]
    assert names(table_of(cells, sort="pgd")) == ["plain/white-box", "repaired/white-box"]
