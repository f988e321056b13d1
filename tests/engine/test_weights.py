"""Unusable weights files: their rows fail, the reason is printed before any work, and the other rows run."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.cli import main
from bench.models import weights
from bench.models.small_cnn import small_cnn
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import UsageError
from tests.engine.test_run import named

HEAD = """
schema = 1
name = "weights"

[dataset]
name = "digits"
n = 10

[[models]]
arch = "small-cnn"
channels = 4
hidden = 16

[[attacks]]
use = "fgsm"
eps = "0.1"
"""
#: The message of each damaged file; the first list is detected without torch.
SEEN = {
    "gone.safetensors": "no file",
    "folder.safetensors": "is a folder",
    "loop.safetensors": "cannot be read: Too many levels",
    "pipe.pt": "is no plain file",
    "x" * 300 + ".pt": "cannot be read: File name too long",
    "net.onnx": "not '.onnx' (a graph of ONNX",
    "empty.safetensors": "is empty",
    "empty.pt": "is empty",
    "cut.safetensors": "not fully covered",
    "cut.pt": "was cut short",
    "pickle.safetensors": "no readable weights file",
}
LOADED = {
    "other.safetensors": "belongs to another architecture",
    "nan.safetensors": "1 of the 36 numbers of features.0.weight are NaN or infinite",
    "code.pt": "more than tensors, and is not loaded: it asks for getattr, which no network needs",
    "list.pt": "not a state dict",
    "numbered.pt": "not a state dict",
    "sparse.pt": "'features.0.weight' is a sparse tensor (sparse_coo)",
}


class Fires:
    def __reduce__(self):
        return Path.touch, (Path("fired"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    state = small_cnn(10, in_channels=1, image_size=8, channels=4, hidden=16).state_dict()
    save_file(state, folder / "good.safetensors")
    torch.save(state, folder / "good.pt")
    for kind in ("safetensors", "pt"):
        (folder / f"empty.{kind}").touch()
        (folder / f"cut.{kind}").write_bytes((folder / f"good.{kind}").read_bytes()[:-100])
    (folder / "folder.safetensors").mkdir()
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    os.mkfifo(folder / "pipe.pt")
    (folder / "net.onnx").write_bytes(b"weights")
    torch.save({"weight": Fires()}, folder / "code.pt")
    (folder / "pickle.safetensors").write_bytes((folder / "code.pt").read_bytes())
    save_file(small_cnn(10, in_channels=1, image_size=8, channels=5).state_dict(), folder / "other.safetensors")
    nan = {name: value.clone() for name, value in state.items()}
    nan["features.0.weight"][0, 0, 0, 0] = torch.nan
    save_file(nan, folder / "nan.safetensors")
    torch.save([1, 2], folder / "list.pt")
    torch.save({1: torch.zeros(2)}, folder / "numbered.pt")
    torch.save({name: value.to_sparse() for name, value in state.items()}, folder / "sparse.pt")
    return folder


def config(folder, names):
    path = folder / "weights.toml"
    path.write_text(HEAD + "".join(f'[[defenses]]\nuse = "weights:{folder}/{name}"\n' for name in names))
    return str(path)


@pytest.mark.parametrize(("name", "says"), SEEN.items(), ids=lambda text: text[:20])
def test_what_can_be_seen_of_a_file_without_torch(folder, name, says):
    inspected = weights.inspect(f"weights:{folder / name}")
    assert says in inspected.problem and "\n" not in inspected.problem
    assert inspected.path is None and len(inspected.sha256) == 64


def test_it_is_seen_without_torch(folder):
    code = f"import sys; from bench.models import weights; weights.inspect('weights:{folder}/cut.safetensors'); "
    code += f"weights.inspect('weights:{folder}/cut.pt'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_bad_rows_fail_alone_and_are_said_before_any_work(folder, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [*SEEN, "good.safetensors", *LOADED]
    argv = [config(folder, names), "--store", str(tmp_path / "store")]
    says = {**SEEN, **LOADED}

    def check(lines):
        for name, reason in says.items():
            (line,) = (line for line in lines if f"row small-cnn/weights:{name} will fail" in line)
            assert reason in line
        assert not any("row small-cnn/weights:good.safetensors" in line for line in lines)

    assert main(["plan", *argv]) == 3
    out, _ = capsys.readouterr()
    check(caplog.messages)
    assert "2 cells" in out and "good.safetensors" in out and "nan.safetensors" not in out
    assert not (tmp_path / "store").exists()

    caplog.clear()
    assert main(["run", *argv, "--report", str(tmp_path / "report")]) == 3
    out, _ = capsys.readouterr()
    check(caplog.messages)
    results = named(tmp_path)
    assert len(results) == 2 * len(names)
    for name, reason in says.items():
        for attack in ("clean", "fgsm"):
            result = results[f"weights:{name}/{attack}/white-box"]
            assert result.status == "failed" and reason in result.error.message
    assert all(results[f"weights:good.safetensors/{attack}/white-box"].status == "done" for attack in ("clean", "fgsm"))
    assert "incomplete: 2 of" in out
    assert not (tmp_path / "fired").exists()


def test_the_first_network_is_read_once_and_answers_as_one_that_is_read_again(folder, tmp_path, monkeypatch, capsys):
    read, classifier = [], weights.classifier
    monkeypatch.setattr(weights, "classifier", lambda *args: read.append(args[2].name) or classifier(*args))
    names = ["good.safetensors", "good.pt"]
    folders = ["--store", str(tmp_path / "store"), "--report", str(tmp_path / "r")]
    assert main(["run", config(folder, names), *folders]) == 0
    assert Counter(read) == {"good.safetensors": 1, "good.pt": 2}
    first, second = (named(tmp_path)[f"weights:{name}/fgsm/white-box"] for name in names)
    assert first.adversarial_bits == second.adversarial_bits and first.metrics == second.metrics


def test_where_every_row_is_bad_nothing_is_begun(folder, tmp_path, capsys):
    for names in (["gone.safetensors", "empty.pt"], ["nan.safetensors"], ["gone.safetensors", "nan.safetensors"]):
        for verb in ("plan", "run"):
            assert main([verb, config(folder, names), "--store", str(tmp_path / "store")]) == 2
            assert "no cell can be measured" in capsys.readouterr().err
    assert not Store(tmp_path / "store").root.exists()


def test_gc_deletes_nothing_for_want_of_a_file(folder, tmp_path, capsys):
    assert main(["gc", config(folder, ["good.safetensors", "gone.safetensors"]), "--store", str(tmp_path)]) == 2
    assert "no file" in capsys.readouterr().err


def test_a_plan_for_others_knows_no_bad_file(folder):
    from bench.config import sections as configs

    with pytest.raises(UsageError, match="is empty"):
        make(*configs.request(config(folder, ["good.safetensors", "empty.pt"]), {}).parts)


def test_a_row_whose_file_was_mended_is_no_longer_failed(folder, tmp_path, capsys):
    net, store = tmp_path / "net.safetensors", ["--store", str(tmp_path / "store")]
    path = tmp_path / "weights.toml"
    rows = "".join(f'[[defenses]]\nuse = "weights:{each}"\n' for each in (folder / "good.pt", net))
    path.write_text(HEAD + rows)

    def run():
        return main(["run", str(path), *store, "--report", str(tmp_path / "report")])

    def statuses():
        capsys.readouterr()
        assert main(["leaderboard", *store, "--json"]) == 0
        return sorted((cell["defense"], cell["status"]) for cell in json.loads(capsys.readouterr().out)["cells"])

    good = [("weights:good.pt", "done")] * 2
    for damage in (b"", (folder / "nan.safetensors").read_bytes()):
        net.write_bytes(damage)
        # What was finished last is known to the second.
        time.sleep(1)
        assert run() == 3
        assert statuses() == [*good, *[("weights:net.safetensors", "failed")] * 2]
    net.write_bytes((folder / "good.safetensors").read_bytes())
    time.sleep(1)
    assert run() == 0
    assert statuses() == [*good, *[("weights:net.safetensors", "done")] * 2]


def test_key_chooses_a_state_dict_and_is_part_of_the_key_of_a_cell(folder, tmp_path, capsys, caplog):
    from bench.config import sections

    raw, average = (small_cnn(10, in_channels=1, image_size=8, channels=4, hidden=16).state_dict() for _ in range(2))
    torch.save({"model": raw, "ema": average}, net := tmp_path / "net.pt")
    path = tmp_path / "weights.toml"

    def planned(*rows):
        path.write_text(HEAD + "".join(f"[[defenses]]\n{row}\n" for row in rows))
        return make(*sections.request(str(path), {}).parts)

    work = planned(
        f'use = "weights:{net}"\nkey = ["model", "ema"]', f'use = "jpeg"\nbase = "weights:{net}"\nkey = "ema"'
    )
    labels = [cell.names.defense for cell in work.plan.cells if cell.names.attack == "clean"]
    assert labels == ["weights:net.pt[key=model]", "weights:net.pt[key=ema]", "jpeg@weights:net.pt[key=ema]"]
    assert len({cell.key for cell in work.plan.cells}) == len(work.plan.cells)
    for row, says in (
        ('use = "standard"\nkey = "ema"', "key chooses"),
        ('use = "jpeg"\nkey = "ema"', "'jpeg' has none"),
    ):
        with pytest.raises(UsageError, match=says):
            planned(row)

    transfer = f'access = ["transfer"]\nsource = "weights:{net}"\nsource_key = "ema"\n'
    path.write_text(HEAD + transfer + f'[[defenses]]\nuse = "weights:{folder}/good.pt"\n')
    sources = [
        cell.cell.attack.model.weights.key for cell in make(*sections.request(str(path), {}).parts).plan.cells[1:]
    ]
    assert sources == ["ema"]

    path.write_text(HEAD + f'[[defenses]]\nuse = "weights:{net}"\n')
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 2
    assert '2 state dicts: "model", "ema"; say which with key' in capsys.readouterr().err
    path.write_text(HEAD + f'[[defenses]]\nuse = "weights:{net}"\nkey = "ema"\n')
    assert main(["run", str(path), "--store", str(tmp_path / "store"), "--report", str(tmp_path / "report")]) == 0
    assert f"{net}: the state dict 'ema' is used" in caplog.messages
