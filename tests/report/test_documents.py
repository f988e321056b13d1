"""What the pages about results tell a reader to type works as it stands."""

import re
from pathlib import Path

import matplotlib

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


def test_every_column_of_the_frame_is_documented():
    from bench.report.frame import load_results

    text = (ROOT / "docs/results-as-a-library.md").read_text()
    assert [name for name in load_results(story(20)).columns if f"`{name}`" not in text] == []
