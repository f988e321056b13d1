"""run --verify, gc and show --log."""

import json

import pytest

from bench.cli import main
from bench.store.working_store import Store
from bench.training import checkpoint
from bench.types import UsageError
from tests.schedule import small


@pytest.fixture
def done(tmp_path):
    assert small.run(tmp_path) == 0
    return tmp_path


def files(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}


def test_verified_cells_come_out_the_same(done, capsys):
    before = files(done)
    assert small.run(done, "--verify", "100%") == 0
    assert "verified: 8 cells computed again, 0 differ" in capsys.readouterr().out
    assert files(done) == before


def test_a_result_that_nobody_measured_is_found(done, capsys):
    store = Store(done / "store")
    honest = next(result for result in store.results() if str(result.names).endswith("tpap/pgd/adaptive"))
    cheaper = honest.cost.model_copy(update={"forwards_per_example": 0.875})
    store.put(honest.model_copy(update={"cost": cheaper}))
    assert small.run(done) == 0
    assert small.run(done, "--verify", "100%") == 3
    output = capsys.readouterr().out
    assert f"{honest.names} differs: forwards_per_example was 0.875, is " in output
    assert "8 cells computed again, 1 differ" in output


@pytest.mark.parametrize(("share", "cells"), [("1%", 1), ("0.5", 4), ("50%", 4)])
def test_how_many_are_verified(done, capsys, share, cells):
    assert small.run(done, "--verify", share) == 0
    assert f"verified: {cells} cells" in capsys.readouterr().out


@pytest.mark.parametrize("share", ["0%", "101%", "2", "many"])
def test_a_share_that_is_none(tmp_path, capsys, share):
    assert small.run(tmp_path, "--verify", share) == 2
    assert "is no share such as 2%" in capsys.readouterr().err


def other_plan(folder):
    """The same configuration without its last attack."""
    path = folder / "less.toml"
    path.write_text(small.CONFIG[: small.CONFIG.rindex("[[attacks]]")])
    return str(path)


def test_gc_lists_and_deletes_what_no_plan_needs(done, capsys):
    store, before = ["--store", str(done / "store")], files(done)
    (done / "store" / "cells" / f".{'0' * 64}.json.1.0123abcd.part").write_text('{"half')
    checkpoint.write(next((done / "store" / "train").iterdir()) / "state.safetensors", {}, {"identity": "", "epoch": 1})
    assert main(["gc", str(done / "small.toml"), other_plan(done), *store, "--json"]) == 0
    assert {each["what"] for each in json.loads(capsys.readouterr().out)} == {"left behind"}
    assert main(["gc", other_plan(done), *store, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (
        sorted(each["what"] for each in listed)
        == ["adversarial set"] * 3 + ["left behind"] * 2 + ["plan"] + ["records"] * 3 + ["result"] * 3
    )
    assert files(done).items() >= before.items()
    assert main(["gc", other_plan(done), *store, "--yes"]) == 0
    assert "deleted" in capsys.readouterr().out
    assert main(["gc", other_plan(done), *store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    kept = files(done)
    assert main(["run", other_plan(done), *store, "--report", str(done / "report")]) == 0
    # gc removed the plans that needed deleted cells; a run stores its plan again.
    assert {path: mark for path, mark in files(done).items() if "plans" not in path.parts} == kept
    assert main(["gc", other_plan(done), *store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == []
    assert small.run(done) == 0


def test_gc_waits_for_a_run_at_work(done, capsys):
    before = files(done)
    with Store(done / "store").leases.hold("work"):
        assert main(["gc", other_plan(done), "--store", str(done / "store"), "--yes"]) == 2
    assert "a run is at work" in capsys.readouterr().err
    assert files(done) == before


def test_gc_needs_a_plan(done, capsys):
    assert main(["gc", "--store", str(done / "store"), "--yes"]) == 2
    assert "PRESET|FILE.toml" in capsys.readouterr().err


def test_the_log_says_what_was_done_and_when(done, capsys):
    store = ["--store", str(done / "store")]
    capsys.readouterr()
    assert main(["show", "--log", *store, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started" and kinds[-1] == "ended" and events[-1]["why"] == "finished"
    assert kinds.count("done") == 8 and kinds.count("trained") == 1
    # Six pairs of attack and access, of which static and white-box differ by when they stop; two chunks each.
    assert kinds.count("crafted") == 2 * 5
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    cell = next(event for event in events if event["event"] == "done")
    assert main(["show", "--log", cell["key"][:12], *store]) == 0
    assert cell["cell"] in capsys.readouterr().out
    assert main(["show", *store]) == 2


def test_a_training_without_its_weights_is_done_only_where_no_cell_needs_it(done, capsys):
    def pieces():
        assert main(["plan", str(done / "small.toml"), "--store", str(done / "store"), "--json"]) == 0
        return {piece["what"]: piece["done"] for piece in json.loads(capsys.readouterr().out)}

    capsys.readouterr()
    (weights,) = (done / "store" / "train").glob("*/weights.safetensors")
    (training,) = [name for name in pieces() if name.startswith("train ")]
    assert pieces()[training]
    weights.unlink()
    assert pieces()[training]
    min((done / "store" / "cells").iterdir()).unlink()
    assert not pieces()[training]


def test_a_line_that_a_dying_process_cut_is_left_out(done, capsys):
    (path,) = (done / "store" / "log").iterdir()
    path.write_text(path.read_text()[:-20])
    assert main(["show", "--log", "--store", str(done / "store")]) == 0
    assert "ended" not in capsys.readouterr().out


@pytest.mark.parametrize("odd_field", ['"event":null', '"event":["x"]', '"event":1', '"time":null', '"cell":{}'])
def test_a_line_of_somebody_else_in_a_log_ends_nothing(tmp_path, capsys, odd_field):
    log = tmp_path / "log" / "20261127T074451.174616-vm-31172.jsonl"
    log.parent.mkdir()
    event = {"time": "2026-01-01T00:00:00.000+00:00", "event": "done", "cell": "a"}
    line = json.dumps(event | json.loads(f"{{{odd_field}}}"))
    log.write_text(f"{line}\n{json.dumps(event)}\n")
    assert main(["show", "--log", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(event["time"])


def test_gc_of_a_store_that_cannot_be_planned_for(done, tmp_path):
    with pytest.raises(UsageError):
        from bench.config import sections

        sections.load(str(tmp_path / "gone.toml"))
    assert main(["gc", str(tmp_path / "gone.toml"), "--store", str(done / "store"), "--yes"]) == 2
    assert len(list((done / "store" / "cells").iterdir())) == 8
