"""What the pages about results tell a reader to type works as it stands."""

import re
import shlex
from pathlib import Path

import matplotlib

from bench.cli import main
from tests.report.fabricate import stored, story

ROOT = Path(__file__).parents[2]


def test_the_page_on_results_as_a_library_runs_from_top_to_bottom(tmp_path, monkeypatch, capfd):
    matplotlib.use("agg")
    stored(tmp_path / ".crossfire", story())
    (tmp_path / "run_bench.py").symlink_to(ROOT / "run_bench.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("CROSSFIRE_STORE", raising=False)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/results-as-a-library.md").read_text(), re.M | re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5
    assert "tpap linf 8/255 0.418 0.026" in capfd.readouterr().out


def test_the_commands_for_the_tables_of_a_paper_run_as_they_stand(tmp_path, monkeypatch, capsys):
    stored(tmp_path / ".crossfire", story())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CROSSFIRE_STORE", raising=False)
    page = (ROOT / "docs/reading-the-tables.md").read_text().partition("## Tables for a paper")[2]
    (block,) = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    commands = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    assert [command[:3] for command in commands] == [["python", "run_bench.py", "leaderboard"]] * 3
    for command in commands:
        assert main(command[2:]) == 0
    assert r"\caption{Robustness on CIFAR-10.}" in capsys.readouterr().out
    assert r"\label{tab:digits-small-cnn-500}" in Path("table.tex").read_text()
    assert r"\label{tab:digits-small-cnn-500-short}" in Path("short.tex").read_text()


def test_every_column_of_the_frame_is_documented():
    from bench.report.frame import load_results

    text = (ROOT / "docs/results-as-a-library.md").read_text()
    assert [name for name in load_results(story(20)).columns if f"`{name}`" not in text] == []
