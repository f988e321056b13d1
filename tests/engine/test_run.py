"""A run from configuration to results: its metrics, resuming, and the failures that it survives."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.cli import main
from bench.store.working_store import Store
from tests.engine import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run: its folder, exit code and results by name."""
    folder = tmp_path_factory.mktemp("run")
    code = run(folder)
    return folder, code, named(folder)


def run(folder, *options, extra=""):
    folders = ["--store", str(folder / "store"), "--report", str(folder / "report")]
    return main(["run", tiny.write(folder, extra), *folders, *options])


def named(folder):
    return {str(result.names).removeprefix("digits/small-cnn/"): result for result in Store(folder / "store").results()}


def outcome(result):
    """Return the part of a result that must not depend on interruptions of the run."""
    body = result.model_dump(
        mode="json", include={"key", "status", "metrics", "clean_bits", "adversarial_bits", "flags"}
    )
    cost = result.cost
    return body, cost and (cost.forwards_per_example, cost.backwards_per_example)


def test_every_cell_of_the_plan_has_its_result(done):
    folder, code, results = done
    assert code == 0
    assert set(results) == {
        "fgsm-at/clean/white-box", "fgsm-at/fgsm/white-box", "fgsm-at/pgd/white-box", "tpap/clean/static",
        "tpap/fgsm/static", "tpap/pgd/static", "tpap/fgsm/adaptive", "tpap/pgd/adaptive",
    }  # fmt: skip
    assert (folder / "report" / "index.html").stat().st_size > 1000


def test_metrics_are_what_the_records_say(done):
    folder, _, results = done
    for result in results.values():
        rows = pq.read_table(Store(folder / "store").records(result.key)).to_pandas()
        assert result.metrics.n == len(rows) == 40
        assert result.metrics.clean_accuracy == pytest.approx((rows.clean == rows.label).mean())
        assert result.metrics.robust_accuracy == pytest.approx(rows.robust.mean())
        assert result.metrics.accuracy_under_attack == pytest.approx((rows.adversarial == rows.label).mean())
        assert result.metrics.ci_low <= result.metrics.accuracy_under_attack <= result.metrics.ci_high
        assert list(result.outcomes_under_attack) == list(rows.adversarial == rows.label)
        assert (rows.linf <= 0.1 + 1e-6).all()


def test_passes_are_counted_exactly(done):
    _, _, results = done
    white_box, adaptive = results["fgsm-at/fgsm/white-box"].cost, results["tpap/fgsm/adaptive"].cost
    assert (white_box.forwards_per_example, white_box.backwards_per_example) == (1, 1)
    # One gradient through purification: forward and backward for the step, forward and backward for the loss.
    assert (adaptive.forwards_per_example, adaptive.backwards_per_example) == (2, 2)
    trained = results["fgsm-at/clean/white-box"].defense_cost
    assert trained.train_flops_per_epoch / trained.test_flops / 200 == pytest.approx(6, rel=0.1)
    assert (
        results["tpap/clean/static"].defense_cost.test_forwards,
        results["tpap/clean/static"].defense_cost.test_backwards,
    ) == (2, 1)


def test_a_base_that_never_overfitted_is_flagged_under_tpap_alone(done):
    # Two epochs of a network this small leave FGSM and PGD the same few images.
    _, _, results = done
    assert "no-catastrophic-overfitting" in results["tpap/pgd/static"].flags
    assert "no-catastrophic-overfitting" not in results["fgsm-at/pgd/white-box"].flags


def test_show_names_the_regime_of_the_network(done, capsys):
    folder, _, results = done
    assert main(["show", results["tpap/pgd/static"].key, "--store", str(folder / "store")]) == 0
    lines = capsys.readouterr().out.partition("overfitting of the network\n")[2].partition("\n\n")[0].splitlines()
    assert "  regime none" in lines


def test_a_static_set_takes_every_step(done):
    _, _, results = done
    assert results["tpap/pgd/static"].cell.attack.attack.params["rule"] == "last-iterate"
    assert results["tpap/pgd/static"].cost.backwards_per_example == 3
    assert results["fgsm-at/pgd/white-box"].cell.attack.attack.params["rule"] == "any-iterate"


def test_the_same_command_again_does_nothing(done):
    folder, _, _ = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
    assert run(folder) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()} == before


def test_an_altered_result_is_measured_again(done, tmp_path):
    folder, _, results = done
    result = results["fgsm-at/fgsm/white-box"]
    path = folder / "store" / "cells" / f"{result.key}.json"
    path.write_text(path.read_text().replace('"robust_accuracy":', '"robust_accuracy":0.5,"was":'))
    assert Store(folder / "store").get(result.key) is None
    assert run(folder) == 0
    assert outcome(named(folder)["fgsm-at/fgsm/white-box"]) == outcome(result)


def test_a_chunk_cut_short_is_made_again(done):
    folder, _, results = done
    result = results["fgsm-at/pgd/white-box"]
    (folder / "store" / "cells" / f"{result.key}.json").unlink()
    for path in (folder / "store" / "attack").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-100])
    assert run(folder) == 0
    assert outcome(named(folder)["fgsm-at/pgd/white-box"]) == outcome(result)


BROKEN = '''
import torch
from bench.api import Target, Threat, attack


@attack(norms=("linf",), passes="0 forwards")
def raises(target, x, y, threat):
    """Raises."""
    raise RuntimeError("<b>no luck</b>")


@attack(norms=("linf",), passes="0 forwards")
def nan(target, x, y, threat):
    """NaN."""
    return x * float("nan")


@attack(norms=("linf",), passes="0 forwards")
def shape(target, x, y, threat):
    """Wrong shape."""
    return x[:1]


@attack(norms=("linf",), passes="0 forwards")
def greedy(target, x, y, threat):
    """Out of budget."""
    return 1 - x


@attack(norms=("linf",), passes="0 forwards")
def edits(target, x, y, threat):
    """Edits its input."""
    x += 0.01
    return x


@attack(norms=("linf",), passes="0 forwards")
def sparse(target, x, y, threat):
    """Right images in another layout."""
    return x.to_sparse()


@attack(norms=("linf",), passes="0 forwards")
def attached(target, x, y, threat):
    """Right images that still require gradients."""
    return x.clone().requires_grad_()
'''


def test_a_broken_method_fails_its_own_cell_and_the_others_go_on(tmp_path, capsys, recwarn):
    (tmp_path / "mine.py").write_text(BROKEN)
    names = ("raises", "nan", "shape", "greedy", "edits", "sparse", "attached")
    extra = "".join(
        f'\n[[attacks]]\nuse = "{tmp_path}/mine.py:{name}"\neps = "0.1"\naccess = ["static"]\n' for name in names
    )
    assert run(tmp_path, "--only", "*fgsm-at/*", extra=extra) == 3
    results = named(tmp_path)
    says = {name: results[f"fgsm-at/{name}/white-box"].error.message for name in names[:-1]}
    assert says["raises"] == "<b>no luck</b>"
    assert "not finite" in says["nan"]
    assert "returned (1, 1, 8, 8), not images (40, 1, 8, 8)" in says["shape"]
    assert "left its budget" in says["greedy"]
    assert "changed the images" in says["edits"]
    assert "layout torch.sparse_coo" in says["sparse"]
    assert results["fgsm-at/attached/white-box"].status == "done"
    assert not [each for each in recwarn if "requires_grad" in str(each.message)]
    assert results["fgsm-at/pgd/white-box"].status == "done"
    assert "<b>no luck</b>" not in (tmp_path / "report" / "index.html").read_text()


def command(folder):
    return [sys.executable, str(ROOT / "run_bench.py"), "run", tiny.write(folder), "--store", str(folder / "store"),
            "--report", str(folder / "report")]  # fmt: skip


def wait_for(folder, pattern, process):
    for _ in range(2400):
        if list((folder / "store").glob(pattern)):
            return
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.05)
    pytest.fail(f"no {pattern} appeared")


@pytest.mark.parametrize(
    ("number", "after", "code"),
    [
        (signal.SIGKILL, "train/*/state.safetensors", -signal.SIGKILL),
        (signal.SIGKILL, "attack/*/*.safetensors", -signal.SIGKILL),
        (signal.SIGTERM, "train/*/log.jsonl", 143),
        (signal.SIGINT, "cells/*.json", 130),
    ],
)
def test_stopped_at_any_moment_the_same_command_ends_with_the_same_results(done, tmp_path, number, after, code):
    process = subprocess.Popen(command(tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(tmp_path, after, process)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors.decode()
    assert b"Traceback" not in errors
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "cells").glob("*.json")}
    assert run(tmp_path) == 0
    assert {name: outcome(result) for name, result in named(tmp_path).items()} == {
        n: outcome(r) for n, r in done[2].items()
    }
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


@pytest.mark.parametrize(("budget", "seconds"), [("9m", 537), ("100s", 98), ("1h", 3597)])
def test_a_time_budget_includes_saving_and_ending(tmp_path, monkeypatch, budget, seconds):
    monkeypatch.setattr("bench.cli._controlled", lambda args, charge: deadlines.append(charge.deadline) or 0)
    deadlines, began = [], time.monotonic()
    assert run(tmp_path, "--time-budget", budget) == 0
    assert began + seconds <= deadlines[0] <= time.monotonic() + seconds


def test_a_time_budget_ends_cleanly_and_the_next_run_goes_on(done, tmp_path, capsys):
    assert run(tmp_path, "--time-budget", "0.01s") == 0
    assert "the same command continues" in capsys.readouterr().out
    assert run(tmp_path) == 0
    assert {n: outcome(r) for n, r in named(tmp_path).items()} == {n: outcome(r) for n, r in done[2].items()}


def test_plan_foretells_and_runs_nothing(done, tmp_path, capsys):
    folder, _, _ = done
    assert main(["plan", tiny.write(tmp_path), "--store", str(tmp_path / "store"), "--json"]) == 0
    pieces = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "store").exists()
    assert not any(piece["done"] for piece in pieces)
    assert all(piece["tflop"] is not None and math.isfinite(piece["seconds"]) for piece in pieces)
    main(["plan", tiny.write(tmp_path), "--store", str(folder / "store"), "--json"])
    assert all(piece["done"] for piece in json.loads(capsys.readouterr().out))


def test_a_plan_in_json_has_the_passes_that_an_image_is_counted_with_and_takes_at_most(tmp_path, capsys):
    """Those of PGD and APGD are counted by hand; those of cascade are what the lines of the plan say."""
    text = tiny.CONFIG.partition("[[attacks]]")[0]
    for use in ('pgd"\nsteps = 7', 'apgd-ce"\nsteps = 7', 'mi-fgsm"\nmax_passes = 30', 'cascade"'):
        text += f'[[attacks]]\neps = "0.1"\nuse = "{use}\n'
    text += '[[attacks]]\neps = "0.1"\nuse = "pgd"\nsteps = 7\ntarget = "second"\n'
    (tmp_path / "few.toml").write_text(text)
    argv = ["plan", str(tmp_path / "few.toml"), "--only", "*/white-box", "--store", str(tmp_path / "store")]
    assert main([*argv, "--json"]) == 0
    pieces = json.loads(capsys.readouterr().out)
    passes = {each["method"]: (each["passes"], each["most_passes"]) for each in pieces if each["kind"] == "attack"}
    assert [passes[name] for name in ("pgd", "pgd second", "apgd-ce")] == [(14, None), (15, None), (15, None)]
    assert passes["mi-fgsm"] == (None, None)
    assert main(argv) == 0
    counted, most = passes["cascade"]
    assert counted < most
    assert f"cascade: counted with {counted:,.0f} passes an image, of at most {most:,.0f}: " in capsys.readouterr().out
    others = [each for each in pieces if each["kind"] != "attack"]
    assert {each["kind"] for each in others} == {"train", "evaluate"}
    assert all(each["passes"] is each["most_passes"] is None for each in others)


def test_attacks_on_an_oracle_and_on_a_random_step_are_foretold_as_they_are_done(tmp_path, capsys):
    steps = "".join(f'\n[[defenses]]\nuse = "tpap"\nbeta = "0.1"\nlabel = "{label}"\n' for label in ("true", "random"))
    (tmp_path / "few.toml").write_text(tiny.CONFIG.replace("\n[[attacks]]", f"{steps}\n[[attacks]]", 1))
    argv = [str(tmp_path / "few.toml"), "--only", "*label=*/pgd/adaptive", "--store", str(tmp_path / "store")]
    assert main(["plan", *argv, "--json"]) == 0
    foretold = {piece["what"]: piece["tflop"] for piece in json.loads(capsys.readouterr().out)}
    assert main(["run", *argv, "--report", str(tmp_path / "report")]) == 0
    for result in Store(tmp_path / "store").results():
        if result.names.attack == "pgd":
            done, predicted = result.cost.flops_per_example * 40 / 1e12, foretold[f"attack {result.names}"]
            # A random step costs every draw of every gradient; the number of images that the oracle keeps is estimated.
            assert (
                predicted == pytest.approx(done, rel=0.01)
                if "random" in str(result.names)
                else done / 4 < predicted < 4 * done
            )


def test_plan_cost_needs_no_training(tmp_path, capsys):
    assert main(["plan", tiny.write(tmp_path), "--store", str(tmp_path / "store"), "--cost", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    # FGSM training is two passes forwards and two backwards, each backward worth two forwards.
    assert row["train_tflop_per_epoch"] / 200 / (row["test_tflop"] / 40) == pytest.approx(6, rel=0.1)


def test_show_tells_all_of_one_cell(done, capsys):
    folder, _, results = done
    result = results["tpap/pgd/adaptive"]
    assert main(["show", str(result.names), "--store", str(folder / "store")]) == 0
    shown = capsys.readouterr().out
    assert result.key in shown and "steps 3" in shown and "robust_accuracy" in shown and "commit" in shown
    assert main(["show", result.key[:10], "--store", str(folder / "store"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == result.key


def test_an_oracle_is_told_the_truth_wherever_it_is_asked(tmp_path):
    oracle = '\n[[defenses]]\nuse = "tpap"\nbeta = "0.1"\nlabel = "true"\n'
    text = tiny.CONFIG.replace("\n[[attacks]]", f"{oracle}\n[[attacks]]", 1)
    (tmp_path / "oracle.toml").write_text(text)
    folders = ["--store", str(tmp_path / "store"), "--report", str(tmp_path / "report")]
    for only in ("label=true", "fgsm-at/fgsm/"):
        assert main(["run", str(tmp_path / "oracle.toml"), "--only", only, *folders]) == 0
    results = {f"{r.names.defense}/{r.names.attack}/{r.names.access}": r for r in Store(tmp_path / "store").results()}
    oracle = "tpap[label=true]/{}"
    ends = ("clean/static", "fgsm/static", "pgd/static", "fgsm/adaptive", "pgd/adaptive")
    assert {oracle.format(end) for end in ends} <= set(results)
    assert all(result.status == "done" for result in results.values())
    # To purify a clean image away from its true label is to attack it by FGSM.
    assert results[oracle.format("clean/static")].clean_bits == results["fgsm-at/fgsm/white-box"].adversarial_bits
