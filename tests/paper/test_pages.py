"""The page of tables and figures: what is published beside what was measured, and how large the run was."""

import pytest

from bench.cli import main
from bench.report import figures, paper_page
from bench.store.working_store import Store
from bench.types import UsageError
from tests.report.fabricate import outcomes, result, stored

CLEAN = outcomes(0.85, 1000)


def cifar(defense, attack="pgd", **more):
    base = {"recipe": defense, "dataset": "cifar10", "network": "resnet18", "clean": CLEAN, "train_n": 50_000}
    return result(defense, attack, **{**base, **more})


def sections(tmp_path, results):
    source = figures.source_of(results, Store(tmp_path / "none"), paper=True)
    page = paper_page.write(source, tmp_path / "paper")[0].read_text(encoding="utf-8").replace("\\", "")
    return dict(part.split("\n", 1) for part in page.split("\n## ")[1:])


@pytest.fixture
def page_sections(tmp_path):
    results = [
        cifar("pgd-at", adversarial=outcomes(0.5, 1000)),
        cifar("standard", "fgsm", adversarial=outcomes(0.1, 1000)),
        cifar("my-own", adversarial=outcomes(0.2, 1000)),
    ]
    return sections(tmp_path, results)


def test_the_motivation_table_has_published_measured_and_deviation(page_sections):
    rows = page_sections["Motivation table"]
    assert "| pgd-at | white-box | 85.0 [82.7, 87.1] (84.54, +0.46) |" in rows
    assert "| 10.0 [8.3, 12.0] (0, +10) |" in rows
    assert "my-own" not in rows
    assert "Published: Tang and Zhang" in rows


def test_robust_accuracy_stands_beside_what_is_compared_with_the_paper(tmp_path):
    clean, correct = [i < 400 for i in range(1000)], [100 <= i < 800 for i in range(1000)]
    page_sections = sections(tmp_path, [cifar("pgd-at", clean=clean, adversarial=correct)])
    assert "| 70.0 [67.1, 72.8] robust 30.0 (48.91, +21.1) |" in page_sections["Motivation table"]
    page = (tmp_path / "paper/README.md").read_text()
    assert "Worst case: right when clean and under every attack of the row" in page


def test_a_table_of_an_earlier_protocol_says_so(tmp_path):
    page_sections = sections(tmp_path, [cifar("pgd-at", version=1)])
    for title in ("Motivation table", "Cost"):
        assert "- measured with protocol 1, not comparable with new results" in page_sections[title]


def test_every_table_says_how_large_its_run_was(page_sections):
    for title in ("Motivation table", "Main tables", "Cost"):
        assert "Size: test images cifar10 1,000; trained on 50,000 images" in page_sections[title]
        assert "box (cpu: Xeon)" in page_sections[title]


def test_what_the_paper_prints_is_never_made_up(page_sections):
    (row,) = (line for line in page_sections["Main tables"].splitlines() if line.startswith("| my-own"))
    assert "(not known)" in row
    assert "Not measured yet" in page_sections["Substitution"] and "|" not in page_sections["Substitution"]


def test_settings_of_one_attack_stand_as_pairs(tmp_path):
    labels = {"preset": "ddn[levels=16,preset=tpap]", "right": "ddn[levels=256,preset=tpap]"}
    results = [
        cifar("pgd-at", "ddn", attack_params={"levels": levels}, label=label, norm="l2", eps="1", adversarial=outcome)
        for label, levels, outcome in (
            (labels["preset"], 16, outcomes(0.1, 1000)),
            (labels["right"], 256, outcomes(0.2, 1000)),
        )
    ]
    rows = sections(tmp_path, results)["Attacks as shipped"].splitlines()
    assert sum("ddn" in row and "L2 ε=1" in row for row in rows) == 2


def test_the_verb_writes_the_folder(tmp_path, capsys):
    store = str(stored(tmp_path / "store", [cifar("pgd-at")]).root)
    assert main(["leaderboard", "--paper", "--store", store, "--out", str(tmp_path / "paper")]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0] == str(tmp_path / "paper" / "README.md")
    assert all((tmp_path / "paper" / line).exists() for line in output)
    assert {"cost.png", "cost.json"} <= {path.name for path in (tmp_path / "paper").iterdir()}


def test_files_of_somebody_else_are_moved_aside(tmp_path, caplog):
    foreign_files = {"README.md": "# My project\n", "cost.png": "a photo", "cost.pdf": "a letter", "cost.json": "[]"}
    source = figures.source_of([cifar("pgd-at", adversarial=outcomes(0.5, 1000))], Store(tmp_path / "none"), paper=True)
    out = tmp_path / "out"
    out.mkdir()
    for name, text in foreign_files.items():
        (out / name).write_text(text)
    for _ in range(2):
        paper_page.write(source, out)
        figures.draw("cost", source, out)
        moved = {path.name.partition(".aside-")[0]: path.read_text() for path in out.glob("*.aside-*")}
        # Once: the second time they are ours.
        assert moved == foreign_files and len(list(out.glob("*.aside-*"))) == len(foreign_files)
    assert caplog.text.count("moved to") == len(foreign_files)


def test_a_figure_that_was_cut_off_is_still_ours(tmp_path, caplog, monkeypatch):
    source = figures.source_of([cifar("pgd-at", adversarial=outcomes(0.5, 1000))], Store(tmp_path / "none"))
    write = figures.write_into

    def cut_off(path, data):
        write(path, data)
        if path.suffix == ".png":
            raise KeyboardInterrupt

    monkeypatch.setattr(figures, "write_into", cut_off)
    with pytest.raises(KeyboardInterrupt):
        figures.draw("cost", source, tmp_path)
    monkeypatch.setattr(figures, "write_into", write)
    figures.draw("cost", source, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"cost.png", "cost.pdf", "cost.json"} and not caplog.text


def test_where_the_numbers_cannot_be_written_no_picture_is(tmp_path):
    source = figures.source_of([cifar("pgd-at", adversarial=outcomes(0.5, 1000))], Store(tmp_path / "none"))
    (tmp_path / "cost.json").mkdir()
    for _ in range(2):
        with pytest.raises(UsageError, match="cost.json is a folder"):
            figures.draw("cost", source, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]
