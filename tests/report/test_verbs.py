import json
import shutil
import subprocess
import sys

import pytest

from bench.cli import main
from bench.store import history
from tests.report.fabricate import outcomes, result, stored, story


@pytest.fixture
def store(tmp_path):
    return str(stored(tmp_path / "store", story(50)).root)


def test_the_leaderboard_is_a_table_in_the_terminal(store, capsys):
    assert main(["leaderboard", "--store", store]) == 0
    assert "digits · small-cnn · 50 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("md", "### digits"),
        ("csv", "dataset,model"),
        ("tex", "% \\usepackage{booktabs}"),
        ("html", "<!doctype html>"),
        ("json", "{"),
    ],
)
def test_every_format_goes_to_the_terminal_or_a_file(store, tmp_path, capsys, kind, start):
    assert main(["leaderboard", "--store", store, "--format", kind]) == 0
    text = capsys.readouterr().out
    assert text.startswith(start)
    assert main(["leaderboard", "--store", store, "--out", str(tmp_path / "deep" / f"board.{kind}")]) == 0
    assert (tmp_path / "deep" / f"board.{kind}").read_text() == text


def test_json_is_one_object(store, capsys):
    assert main(["leaderboard", "--json", "--store", store]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"schema", "tables", "cells", "defenses"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["leaderboard", "--store", "nowhere"], "no store at nowhere"),
        (["leaderboard", "--store", "STORE", "--out", "x.pdf"], "--out x.pdf: say --format"),
        (["leaderboard", "--store", "STORE", "--format", "pdf"], "invalid choice: 'pdf'"),
        (["leaderboard", "--store", "STORE", "--out", "/dev/null/x.md"], "cannot be written"),
        (["compare", "STORE", "no-such"], "'no-such' is no commit, run file or store here"),
        (["compare", "STORE", "STORE", "--min-effect", "-1"], "no number of points"),
        (["compare", "STORE", "OTHER"], "have no cell in common"),
        (["compare", "STORE", "EMPTY"], "holds no results"),
    ],
)
def test_bad_input_is_one_clear_line(store, tmp_path, capsys, words, message):
    other = stored(tmp_path / "other", [result("else", recipe="else", clean=[True] * 4)])
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    places = {"STORE": store, "OTHER": str(other.root), "EMPTY": str(tmp_path / "empty")}
    assert main([places.get(word, word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "runs", "STORE"],
        ["compare", "STORE", "runs/box"],
        ["leaderboard", "--store", "runs"],
        ["figures", "--store", "runs"],
        ["show", "pgd", "--store", "runs"],
    ],
)
def test_a_folder_of_run_files_is_called_what_it_is(store, tmp_path, monkeypatch, capsys, words):
    """Which of its runs is meant nobody can know; that it holds no results would not be true."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "box").mkdir(parents=True)
    # Something else that ends so comes first.
    (tmp_path / "runs" / "a.json").write_text("{}\n")
    (tmp_path / "runs" / "box" / "b.json").write_text(history.serialise(story(50)))
    assert main([store if word == "STORE" else word for word in words]) == 2
    folder = next(word for word in words if word.startswith("runs"))
    assert capsys.readouterr().err == (
        f"error: {folder} is no store but a folder with run files, each of which is a run of its own: name one, such "
        f"as runs/box/b.json; history {folder} shows them all\n"
    )
    assert main(["compare", "runs/box/b.json", store]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "run.json", "other.json", "--out", "./other.json"],
        ["history", "run.json", "--out", "run.json"],
        ["history", ".", "--format", "json", "--out", "run.json"],
        ["history", "run.json", "other.json", "--format", "json", "--out", "link.json"],
        ["leaderboard", "--receipts", "some.receipt", "--format", "md", "--out", "some.receipt"],
        ["leaderboard", "--submissions", ".", "--out", "some.receipt", "--format", "md"],
        ["verify", "some.receipt", "--out", "some.receipt"],
        ["verify", "some.receipt", "--weights", "w.safetensors", "--out", "w.safetensors"],
        ["verify", "some.receipt", "some.receipt.json", "--out", "."],
    ],
)
def test_a_report_replaces_nothing_that_it_is_made_of(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    for name in ("run.json", "other.json", "some.receipt", "some.receipt.json", "w.safetensors"):
        (tmp_path / name).write_text(f"what {name} holds")
    (tmp_path / "link.json").symlink_to("run.json")
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: --out ") and "would replace what is read; name another" in printed.err
    assert printed.out == "" and printed.err.count("\n") == 1
    for path in tmp_path.glob("[!l]*.*"):
        assert path.read_text() == f"what {path.name} holds"


def test_a_damaged_result_is_told(store, tmp_path, capsys):
    some = next((tmp_path / "store" / "cells").glob("*.json"))
    some.write_text("{")
    assert main(["leaderboard", "--store", store, "--json"]) == 0
    assert "1 damaged result files" in capsys.readouterr().err


def test_show_reads_a_run_file_as_it_reads_a_store(store, tmp_path, capsys):
    run_file = tmp_path / "run.json"
    run_file.write_text(history.serialise(story(50)))
    cell = story(50)[0]
    shown = []
    for origin in (store, str(run_file)):
        for words in ([cell.key, "--json"], [str(cell.names)]):
            assert main(["show", *words, "--store", origin]) == 0
            shown.append(capsys.readouterr().out)
    assert shown[:2] == shown[2:] and json.loads(shown[0])["key"] == cell.key
    (tmp_path / "half.json").write_bytes(run_file.read_bytes()[:-100])
    said = []
    for words in (["show", cell.key], ["leaderboard"], ["figures"]):
        assert main([*words, "--store", str(tmp_path / "half.json")]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] == said[2] and said[0].startswith("error: ") and said[0].count("\n") == 1
    assert main(["show", "--log", "--store", str(run_file)]) == 2
    assert main(["show", "--log", "--store", str(tmp_path / "nowhere")]) == 2


def test_show_tells_seeds_of_one_name_apart_and_finds_each_by_it(tmp_path, capsys):
    seeds = {seed: result(clean=[True] * 4, seed=seed) for seed in (0, 7)}
    there = ["--store", str(stored(tmp_path, list(seeds.values())).root)]
    name = str(seeds[0].names)
    assert main(["show", name, *there]) == 2
    said = capsys.readouterr().err
    assert f"'{name}' names 2 cells: " in said
    for seed, cell in seeds.items():
        assert f"{cell.key[:12]} {name} seed {seed}" in said
        assert main(["show", f"{name} seed {seed}", *there]) == 0
        assert capsys.readouterr().out.startswith(f"{name} seed {seed}\nkey {cell.key}\n")


def test_compare_takes_stores_and_files_and_exits_1_on_a_regression(tmp_path, capsys):
    clean, bits = [True] * 1000, outcomes(0.5, 1000)
    worse = [bit and i % 10 > 0 for i, bit in enumerate(bits)]
    base = stored(tmp_path / "base", [result(clean=clean, adversarial=bits)])
    (tmp_path / "head.json").write_text(
        history.serialise([result(clean=clean, adversarial=worse, finished="2026-11-23T00:00:00+00:00")])
    )
    assert main(["compare", str(base.root), str(tmp_path / "head.json")]) == 1
    assert "1 regression" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "head.json"), str(base.root), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["verdict"] == "improvement"
    assert (
        main(
            ["compare", str(base.root), str(tmp_path / "head.json"), "--format", "md", "--out", str(tmp_path / "c.md")]
        )
        == 1
    )
    assert (tmp_path / "c.md").read_text().startswith("### ❌")


def test_lost_coverage_is_exit_code_1_unless_allowed(tmp_path, capsys):
    kept, gone = result(clean=[True] * 4), result(attack="fgsm", clean=[True] * 4)
    base, head = (
        str(stored(tmp_path / name, cells).root) for name, cells in (("base", [kept, gone]), ("head", [kept]))
    )
    assert main(["compare", base, head]) == 1
    assert "coverage lost: 1 cell of the base not tested" in capsys.readouterr().out.splitlines()[0]
    assert main(["compare", base, head, "--allow-lost"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "no regression in 1 cell; 1 cell of the base not tested, which --allow-lost accepts" in first
    assert main(["compare", head, base]) == 0
    assert main(["compare", base, head, "--format", "md"]) == 1
    assert capsys.readouterr().out.rpartition("### ")[2].startswith("❌ Crossfire: coverage lost")


@pytest.mark.parametrize("allowed", [[], ["--allow-lost"]])
def test_a_changed_default_never_passes_unseen(tmp_path, allowed):
    # 20 of 40 images right at quality 75, none at 10.
    step = {"step": "jpeg", "clean": [True] * 40}
    cells = [
        result("jpeg", step_params={"quality": quality}, adversarial=[i < right for i in range(40)], **step)
        for quality, right in ((75, 20), (10, 0))
    ]
    base, head = (str(stored(tmp_path / name, [r]).root) for name, r in zip("bh", cells, strict=True))
    assert main(["compare", base, head, *allowed]) == 1


@pytest.mark.parametrize("form", ["text", "md", "json"])
def test_a_comparison_that_compares_nothing_is_no_success(tmp_path, capsys, form):
    base = stored(tmp_path / "base", [result(clean=[True] * 4)])
    head = stored(tmp_path / "head", [result(clean=[True] * 5)])
    assert main(["compare", str(base.root), str(head.root), "--format", form]) == 2
    printed = capsys.readouterr()
    assert "no cell could be compared" in printed.out
    assert "no regression" not in printed.out
    assert "other example lists" in printed.out
    assert printed.err.startswith("error: no cell of ") and printed.err.count("\n") == 1


def test_a_store_or_file_is_not_compared_with_itself(store, tmp_path, capsys):
    (tmp_path / "link").symlink_to(store)
    for other in (store, str(tmp_path / "link")):
        assert main(["compare", store, other]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        assert "are one and the same: nothing to compare" in printed.err


def test_reading_verbs_import_no_torch(store, tmp_path):
    copy = str(shutil.copytree(store, tmp_path / "copy"))
    code = (
        "import sys; from bench.cli import main\n"
        f"assert main(['leaderboard', '--store', {store!r}, '--json']) == 0\n"
        f"assert main(['leaderboard', '--store', {store!r}, '--format', 'html']) == 0\n"
        f"assert main(['compare', {store!r}, {copy!r}]) == 0\n"
        "assert not {'torch', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
