"""What the page about Python tells a reader to type works, and the notebooks show what they ran."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import bench

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_the_snippets_of_the_page_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"net": nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), "images": torch.randint(256, (6, 3, 6, 6)).byte()}
    names |= {"labels": [0, 1, 2, 0, 1, 2], "x": names["images"].float() / 255, "y": [0, 1, 2, 0, 1, 2]}
    first, *others = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "from-python.md").read_text(), re.DOTALL)
    # AutoAttack takes seconds, and is run by a notebook.
    exec(first.replace('"autoattack"', '"mi-fgsm"'), names)
    bench.evaluate("jpeg", names["x"], names["y"], base=names["net"], attacks="fgsm", store="store", progress=False)
    for snippet in others:
        exec(snippet, names)
    assert set(names["result"].frame["attack"]) == {"clean", "pgd", "mi-fgsm"} and names["result"].verdict
    assert float((names["x_adv"] - names["x"]).abs().max()) <= 8 / 255 + 1e-6
    assert set(names["records"]["defense"]) == {"jpeg"} and len(names["records"]) == 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_ran_and_nothing_of_the_machine_that_ran_it(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1)), "run it from its beginning, with all outputs kept"
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert "error" not in {output["output_type"] for cell in code for output in cell["outputs"]}
    # A table is one output, with a text for those who cannot show it.
    texts = ["".join(output["data"]["text/plain"]) for cell in code for output in cell["outputs"] if "data" in output]
    assert all(text.strip() for text in texts)
    assert not re.search(r"/(?:home|root|tmp|work|Users)/|uncommitted changes", outputs)
    assert path.stem in (ROOT / "docs" / "from-python.md").read_text(encoding="utf-8")
