"""What a run would not call or state so is said of results that others may have written, and refused nowhere."""

import json
from pathlib import Path

import pytest

from bench.cli import main
from bench.report.misstated import MOST, Misstated
from bench.store import history
from bench.types import UsageError
from tests.report.fabricate import result

RESULTS = Path(__file__).parents[2] / "results"
CLEAN = [True] * 40
LINE = "1 cell named or stated as no run here would: digits/small-cnn/pgd-at/pgd/white-box: it is called pgd-at, and "
LINE += "standard was measured"


def called(name, **more):
    """Return a result of the recipe ``standard`` that says that it is of another."""
    return result(name, clean=CLEAN, **more)


def farther(by, **more):
    moved = result(clean=CLEAN, **more)
    return moved.model_copy(update={"metrics": moved.metrics.model_copy(update={"mean_linf": by, "mean_l2": 1.0})})


def kept_results():
    for path in sorted(RESULTS.rglob("*.json")):
        try:
            yield from history.read_run(path).results
        except UsageError:
            # Cards and tables are no run files.
            continue


def test_of_all_results_that_are_kept_in_this_repository_nothing_is_doubted():
    kept = list(kept_results())
    assert len(kept) > 800
    for at in range(0, len(kept), MOST):
        assert Misstated(kept[at : at + MOST]).notes() == []


def test_of_many_results_of_one_cell_the_farthest_is_looked_at():
    """Images within 8/255 have a mean distance of at most so much."""
    honest = [farther(8 / 255, machine=name) for name in "abc"]
    assert Misstated(honest).notes() == []
    (line,) = Misstated([*honest, farther(9 / 255), *honest]).notes()
    assert line.startswith("1 cell named or stated as no run here would: ")
    assert "mean_linf = 0.0352941, and images within linf 8/255 have at most" in line


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, results in {
        "honest": [called("standard")],
        "forged": [called("standard"), called("pgd-at", seed=1)],
    }.items():
        (tmp_path / f"{name}.json").write_text(history.serialise(results))
    return tmp_path


def test_compare_says_so_of_the_side(runs, capsys):
    assert main(["compare", "honest.json", "forged.json", "--json"]) in (0, 1, 2)
    assert f"forged.json: {LINE}" in json.loads(capsys.readouterr().out)["notes"]
    main(["compare", "honest.json", "forged.json"])
    assert f"forged.json: {LINE}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("file_format", ["text", "json", "md", "html"])
def test_history_says_so(runs, capsys, file_format):
    assert main(["history", "forged.json", "--format", file_format]) == 0
    printed = capsys.readouterr()
    assert LINE in " ".join(printed.out.split())
    assert (f"warning: {LINE}\n" in printed.err) == (file_format != "text")
    assert main(["history", "honest.json", "--format", file_format]) == 0
    assert "as no run here would" not in capsys.readouterr().out


def test_an_object_of_python_is_called_as_its_caller_likes():
    own = result("mine", clean=CLEAN, network="live:net")
    own = own.model_copy(update={"names": own.names.model_copy(update={"model": "my net"})})
    assert Misstated([own]).notes() == []
