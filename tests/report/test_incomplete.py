"""A table says which of its planned cells it lacks, in every format."""

import csv
import io
import json
import logging
import threading

import pytest
from rich.console import Console

from bench.cli import main
from bench.report.leaderboard.published import beside
from bench.report.leaderboard.tables import build
from bench.report.render.export import FORMATS, as_json, comma_separated
from bench.report.render.html import render
from bench.report.render.latex import latex
from bench.report.render.markdown import markdown
from bench.report.render.published import as_markdown, as_text
from bench.report.render.terminal import leaderboard
from bench.store import planned
from bench.store.history import parse, read, write_run
from bench.store.planned import PlannedTable, tables_of
from bench.store.working_store import Store
from bench.types import PlannedCell, UsageError
from tests.report.fabricate import result, stored, story
from tests.schedule import small

CLEAN = [True] * 40


def plan_of(results, name="quick"):
    """Return what a plan of these cells asks for."""
    return tables_of(name, [PlannedCell(key=r.key, names=r.names, cell=r.cell) for r in results])


def terminal(board):
    out = io.StringIO()
    Console(file=out, width=120).print(leaderboard(board, width=120))
    return out.getvalue()


@pytest.fixture
def board():
    """Fourteen planned cells, of which three are missing and one has failed."""
    cells = [each for each in story(40) if each.names.defense != "pgd-at"]
    failed = result(clean=CLEAN, attack="cw", status="failed")
    return build([*cells[3:], failed], plan_of([*cells, failed]))


def test_every_format_says_it_before_the_first_number(board):
    (table,) = board.tables
    total = len(table.rows) and table.cells.asked
    said = f"incomplete: {total - 4} of {total} cells, 1 failed"
    assert table.incomplete == said
    texts = {
        "terminal": (terminal(board), "defense"),
        "md": (markdown(board), "| defense"),
        "tex": (latex(board), "\\toprule"),
        "html": (render(board), "<thead>"),
        "paper": (as_text(beside(board)), "tpap/static"),
    }
    for name, (text, first) in texts.items():
        assert said in text, name
        assert text.index(said) < text.index(first), name
    assert f"40 ({said})" in as_markdown(beside(board))
    rows = list(csv.DictReader(io.StringIO(comma_separated(board))))
    assert {row["incomplete"] for row in rows} == {said}
    assert list(rows[0]).index("incomplete") < list(rows[0]).index("clean accuracy")
    body = json.loads(as_json(board))
    assert list(body)[:2] == ["schema", "tables"]
    counts = {name: body["tables"][0][name] for name in ("incomplete", "asked", "done", "failed")}
    assert counts == {"incomplete": said, "asked": total, "done": total - 4, "failed": 1}


def test_a_whole_table_says_nothing():
    complete = build(story(40), plan_of(story(40)))
    assert complete.tables[0].incomplete == ""
    assert "incomplete" not in terminal(complete) + markdown(complete) + latex(complete)
    assert {row["incomplete"] for row in csv.DictReader(io.StringIO(comma_separated(complete)))} == {""}
    assert json.loads(as_json(complete))["tables"][0]["incomplete"] is None
    # Of results that no plan is known of, what was tried counts.
    assert build(story(40)).tables[0].incomplete == ""
    failed = [*story(40), result(clean=CLEAN, attack="cw", status="failed")]
    assert build(failed).tables[0].incomplete == f"incomplete: {len(failed) - 1} of {len(failed)} cells, 1 failed"


def test_a_table_without_a_cell_is_not_passed_over():
    other = [result(clean=CLEAN, network="resnet18"), result(clean=CLEAN, network="resnet18", attack=None)]
    board = build(story(40), plan_of([*story(40), *other]))
    said = "digits · resnet18 · 40 images: incomplete: 0 of 2 cells"
    assert said in terminal(board) and said in markdown(board) and said in render(board)
    assert "0 of 2 cells" in latex(board)
    assert [each["incomplete"] for each in json.loads(as_json(board))["tables"]] == [None, "incomplete: 0 of 2 cells"]
    assert "0 of 2 cells" in terminal(build([], plan_of(other)))


def test_a_plan_is_of_one_list_of_images_and_one_network():
    missing = [result(clean=CLEAN, rows="other"), result(clean=CLEAN, network="vgg16"), result(clean=[True] * 30)]
    for each in missing:
        board = build(story(40), plan_of([*story(40), each]))
        assert [table.incomplete for table in board.tables] == [""]
        assert len(board.absent) == 1


def test_the_same_cells_under_another_name_are_planned_once():
    cells = story(40)
    renamed = [r.model_copy(update={"names": r.names.model_copy(update={"dataset": "folder:/moved"})}) for r in cells]
    board = build(cells, plan_of(renamed))
    assert [table.incomplete for table in board.tables] == [""]
    assert board.absent == ()


def test_an_answer_that_newer_code_replaced_was_given():
    old = result(code="old", clean=CLEAN, finished="2026-01-01T00:00:00+00:00")
    board = build([old, result(code="new", clean=CLEAN)], plan_of([old]))
    assert board.superseded == 1
    assert board.tables[0].incomplete == ""


def test_nothing_holds_where_cells_of_it_are_missing():
    def of(make, left):
        attacks = [("pgd", {"steps": k}) for k in (20, 40)] + [("square", {"queries": q}) for q in (200, 400)]
        hits = [i < left for i in range(40)]
        return [result(attack=a, attack_params=p, clean=CLEAN, adversarial=hits, **make) for a, p in attacks]

    jpeg = {"defense": "jpeg", "step": "jpeg", "access": "adaptive"}
    cells = [*of({}, 5), *of(jpeg, 30)]
    later = result(attack="apgd-t", clean=CLEAN, **jpeg)
    judged = [
        next(s.judgement for s in build(cells, plan_of(wanted)).tables[0].threats if s.judgement)
        for wanted in (cells, [*cells, later])
    ]
    assert [each.verdict for each in judged] == ["holds", "upper bound only"]
    assert judged[1].reasons == ("1 of its cells are missing",)


def tables(folder, capsys, *more):
    """Return what the leaderboard of a store says that its tables lack."""
    capsys.readouterr()
    assert main(["leaderboard", "--store", str(folder / "store"), "--json", *more]) == 0
    return [each["incomplete"] for each in json.loads(capsys.readouterr().out)["tables"]]


def test_the_leaderboard_of_a_store_knows_what_its_runs_planned(tmp_path, capsys):
    assert small.run(tmp_path, "--only", "/pgd/") == 0
    assert tables(tmp_path, capsys) == [None], "all planned cells are there"
    assert small.run(tmp_path) == 0
    assert tables(tmp_path, capsys) == [None]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert small.run(tmp_path) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what is known is not written again"
    for each in list(Store(tmp_path / "store").results()):
        if each.names.attack == "pgd":
            Store(tmp_path / "store").cell_file(each.key).unlink()
    assert tables(tmp_path, capsys) == ["incomplete: 5 of 8 cells"]
    for kind in (None, *FORMATS, "html"):
        assert main(["leaderboard", "--store", str(tmp_path / "store"), *(["--format", kind] if kind else [])]) == 0
        assert "incomplete: 5 of 8 cells" in capsys.readouterr().out
    # The rest of the plan is still wanted when a part of it is planned again.
    assert small.run(tmp_path, "--only", "/fgsm/") == 0
    assert "incomplete" not in capsys.readouterr().out
    assert tables(tmp_path, capsys) == ["incomplete: 5 of 8 cells"]
    # Who drops the attack from the configuration no longer misses it.
    less = small.CONFIG[: small.CONFIG.rindex("[[attacks]]")]
    assert small.run(tmp_path, text=less) == 0
    assert tables(tmp_path, capsys) == [None]


def test_a_shard_is_a_part_of_the_whole(tmp_path, capsys):
    assert small.run(tmp_path, "--shard", "1/2") == 0
    said = next(each for each in tables(tmp_path, capsys) if each)
    assert said.startswith("incomplete: ") and said.endswith(" of 8 cells")
    assert small.run(tmp_path, "--shard", "2/2") == 0
    assert tables(tmp_path, capsys) == [None]


def test_recorded_runs_carry_their_plans(tmp_path, capsys):
    cells = story(40)
    path = write_run(cells[:5], tmp_path, plan_of(cells))
    capsys.readouterr()
    assert main(["leaderboard", "--store", str(path), "--format", "md"]) == 0
    said = f"incomplete: 5 of {len(cells)} cells"
    assert said in capsys.readouterr().out
    # A second run of the same code adds its cells; of two plans of one name the later one counts.
    write_run(cells[5:], tmp_path, plan_of(cells))
    assert len(parse(path.read_bytes(), "file").results) == len(cells)
    assert build(read(path).results, read(path).planned_tables).tables[0].incomplete == ""
    assert len(read(path).planned_tables) == 1
    damaged = path.read_text().replace('"plan":"quick"', '"plan":7')
    path.write_text(damaged)
    with pytest.raises(UsageError, match="line 1: what was asked for is damaged"):
        read(path)


def test_a_plan_that_is_not_whole_does_not_count_and_says_so(tmp_path, caplog):
    store = stored(tmp_path, story(40)[:4])
    (table,) = plan_of(story(40))
    planned.keep(store, [table], partly=False)
    path = planned.path_of(store, table)
    assert planned.read(store) == [table]
    path.write_text(path.read_text().replace('"pgd/', '"cw/'))
    with caplog.at_level(logging.WARNING, "crossfire"):
        assert planned.read(store) == []
    assert "does not count, so tables may not say what they lack" in caplog.text
    for foreign in ('{"mine":1}', "[]", "3", '"schema"', "null"):
        caplog.clear()
        path.write_text(foreign)
        with caplog.at_level(logging.WARNING, "crossfire"):
            assert planned.read(store) == []
        assert "may not say what they lack: it is no plan that Crossfire wrote: its first line" in caplog.text


def test_parts_of_a_plan_that_begin_at_once_are_all_kept(tmp_path):
    cells = story(40)
    store = Store(tmp_path)
    runs = [
        threading.Thread(target=planned.keep, args=(Store(tmp_path), plan_of([each])), kwargs={"partly": True})
        for each in cells
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    (table,) = planned.read(store)
    assert set(table.keys) == {each.key for each in cells}


def test_two_things_of_one_name_are_two_cells():
    cells = [result("a", recipe=recipe, clean=CLEAN) for recipe in ("one", "other")]
    (table,) = plan_of(cells)
    assert set(table.keys) == {each.key for each in cells}


def test_a_plan_of_many_cells_is_small():
    cells = {
        f"jpeg[quality={q}]": {f"pgd[steps={k}]/adaptive/0": f"{q:032}{k:032}" for k in range(100)} for q in range(100)
    }
    planned_table = PlannedTable(plan="quick", table="0" * 16, dataset="digits", model="small-cnn", n=500, cells=cells)
    assert len(planned.text_of(planned_table)) / 10_000 < 120
