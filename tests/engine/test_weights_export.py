"""Trained networks are exported as they are, finished or not, and read again; what is altered is refused by name."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file

from bench.cli import main
from bench.config import expand, sections
from bench.models import weights
from bench.models.build import build
from bench.report.weights import kept, parts
from bench.schedule.plan import make
from bench.schedule.run import Runner
from bench.store.seals import sealed, unsealed
from bench.store.working_store import Store
from bench.types import Ending, UsageError
from tests.schedule import small

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""
schema = 1
name = "exported"
{small.DIGITS}
[train]
epochs = 3
batch = 50
lr = 0.05
eps = "0.1"
drops = []

[[defenses]]
use = "fgsm-at"

[[defenses]]
use = "standard"

[[attacks]]
use = "fgsm"
eps = "0.1"
"""
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    (folder / "c.toml").write_text(CONFIG)
    assert main(["train", str(folder / "c.toml"), "--store", str(folder / "store"), "--quiet"]) == 0
    return folder


def export(folder, *options):
    return main(["export", "weights", *map(str, options), "--store", str(folder / "store")])


def trained(folder, recipe):
    """The folder in which the store keeps a training."""
    (found,) = [
        path.parent
        for path in (folder / "store" / "train").glob("*/card.json")
        if json.loads(path.read_text())["training"]["recipe"]["name"] == recipe
    ]
    return found


@pytest.fixture(scope="module")
def divided(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("divided") / "out"
    assert export(folder, trained(folder, "fgsm-at").name[:12], "--out", out, "--part-size", "5KB") == 0
    return out


def copied(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def logits(source, digits):
    net = build(make(sections.load(digits)).plan.cells[0].cell.model.network, 10, (1, 8, 8))
    weights.load(weights.find(f"weights:{source}"), net)
    torch.manual_seed(0)
    with torch.no_grad():
        return net.eval()(torch.rand(16, 1, 8, 8))


def test_one_file_has_the_tensors_of_the_store_to_the_bit(folder, tmp_path):
    own = trained(folder, "standard")
    assert export(folder, own.name, "--out", tmp_path / "one") == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["README.md", "card.json", "curve.png", "log.jsonl", "model.safetensors"]
    one, kept = load_file(tmp_path / "one" / "model.safetensors"), load_file(own / "weights.safetensors")
    assert one.keys() == kept.keys()
    assert all(one[name].dtype == kept[name].dtype and torch.equal(one[name], kept[name]) for name in kept)
    assert (tmp_path / "one" / "log.jsonl").read_bytes() == (own / "log.jsonl").read_bytes()
    card = unsealed((tmp_path / "one" / "card.json").read_bytes())
    original = hashlib.sha256((own / "weights.safetensors").read_bytes()).hexdigest()
    assert card["weights"]["original_sha256"] == original and card["key"] == own.name
    sha = hashlib.sha256((tmp_path / "one" / "model.safetensors").read_bytes()).hexdigest()
    assert card["weights"]["files"] == {"model.safetensors": sha}
    assert card["card"] == unsealed((own / "card.json").read_bytes())
    assert (card["epoch"], card["epochs_done"], card["epochs_planned"]) == (3, 3, 3)
    with Image.open(tmp_path / "one" / "curve.png") as picture:
        assert min(picture.size) > 500
    for source in (tmp_path / "one", tmp_path / "one" / "model.safetensors"):
        assert torch.equal(logits(source, folder / "c.toml"), logits(own / "weights.safetensors", folder / "c.toml"))


def test_parts_are_as_small_as_asked_for_and_together_the_network(folder, divided):
    own = load_file(trained(folder, "fgsm-at") / "weights.safetensors")
    index = json.loads((divided / INDEX).read_text())
    files = sorted(divided.glob("model-*.safetensors"))
    assert len(files) > 2 and [path.name for path in files] == sorted(set(index["weight_map"].values()))
    assert [path.name for path in files] == [
        f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)
    ]
    assert all(path.stat().st_size <= 5000 for path in files)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in own.values())
    seen = {}
    for path in files:
        assert index["metadata"]["sha256"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            seen |= {name: (path.name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    assert {name: file for name, (file, _) in seen.items()} == index["weight_map"]
    assert all(torch.equal(own[name], tensor) for name, (_, tensor) in seen.items())
    expected = logits(trained(folder, "fgsm-at") / "weights.safetensors", folder / "c.toml")
    for source in (divided, divided / INDEX, files[1]):
        assert torch.equal(logits(source, folder / "c.toml"), expected)


def test_libraries_load_what_is_written(folder, divided, tmp_path):
    assert export(folder, "standard", "--out", tmp_path) == 0
    (one,) = tmp_path.glob("digits-small-cnn-standard-*/model.safetensors")
    net = build(make(sections.load(folder / "c.toml")).plan.cells[0].cell.model.network, 10, (1, 8, 8))
    assert load_model(net, one) == (set(), [])
    hub = pytest.importorskip("huggingface_hub")
    result = hub.load_torch_model(net, divided, safe=True)
    assert not result.missing_keys and not result.unexpected_keys
    own = load_file(trained(folder, "fgsm-at") / "weights.safetensors")
    assert all(torch.equal(own[name], value) for name, value in net.state_dict().items())


def test_half_is_the_rounding_of_numpy_and_loads_into_a_network_of_float32(folder, tmp_path, capsys):
    own = trained(folder, "fgsm-at")
    assert export(folder, own.name, "--out", tmp_path / "half", "--half") == 0
    half, kept = load_file(tmp_path / "half" / "model.safetensors"), load_file(own / "weights.safetensors")
    card = unsealed((tmp_path / "half" / "card.json").read_bytes())["weights"]
    for name, tensor in kept.items():
        if name in card["not_halved"]:
            assert half[name].dtype == torch.float32 and torch.equal(half[name], tensor)
        else:
            np.testing.assert_array_equal(half[name].numpy(), tensor.numpy().astype(np.float16))
    assert any(tensor.dtype == torch.float16 for tensor in half.values())
    said = re.search(r"the largest relative error is (\S+)", capsys.readouterr().err)
    assert 0 < float(said[1]) <= 2.0**-11 and float(said[1]) == float(f"{card['largest_relative_error']:.2e}")
    full = logits(own / "weights.safetensors", folder / "c.toml")
    rounded = logits(tmp_path / "half", folder / "c.toml")
    assert not torch.equal(full, rounded) and torch.allclose(full, rounded, rtol=0, atol=0.02)


def test_numbers_that_float16_cannot_hold_stay_as_they_are():
    channels = torch.ones(2, 3)
    channels[1] = torch.tensor([1.0, 1e-9, 0.0])
    tensors = {
        "large": torch.tensor([70_000.0, 1.0]),
        "variance": torch.tensor([1e-7, 1.0]),
        "dead": torch.cat([torch.ones(1, 4), torch.full((1, 4), 1e-9)]),
        "channels": channels,
        "third": torch.tensor([1 / 3, 0.0]),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(0.1),
    }
    halved = parts.halved(tensors)
    assert set(halved.kept) == {"large", "variance", "dead"}
    assert "65,504" in halved.kept["large"] and "near zero" in halved.kept["variance"]
    assert {name for name, tensor in halved.tensors.items() if tensor.dtype == torch.float16} == {
        "channels",
        "third",
        "empty",
        "scalar",
    }
    assert halved.tensors["count"] is tensors["count"] and halved.tensors["large"] is tensors["large"]
    third = abs(float(np.float16(np.float32(1 / 3))) / float(np.float32(1 / 3)) - 1)
    tenth = abs(float(np.float16(np.float32(0.1))) / float(np.float32(0.1)) - 1)
    assert halved.error == pytest.approx(max(third, tenth), rel=1e-9)


def test_the_page_has_the_configuration_that_reads_it_again(folder, divided, tmp_path, monkeypatch):
    text = (divided / "README.md").read_text()
    block = re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1]
    # No folder of this machine is told to others.
    assert tomllib.loads(block)["defenses"] == [{"use": f"weights:{divided.name}"}]
    assert str(divided.parent) not in text
    (tmp_path / "again.toml").write_text(block)
    monkeypatch.chdir(divided.parent)
    work = make(sections.load(tmp_path / "again.toml"), lenient=True)
    assert {each.names.defense for each in work.plan.cells} == {f"weights:{divided.name}"}
    assert not work.unusable and {each.names.attack for each in work.plan.cells} == {"clean", "pgd"}
    log = [json.loads(line) for line in (divided / "log.jsonl").read_text().splitlines()]
    for row in log:
        assert f"| {row['epoch']} | {100 * row['test']['clean']:.1f} | {100 * row['test']['fgsm']:.1f} |" in text


def test_the_page_names_the_folder_as_it_was_named(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export(folder, "standard", "--out", "ex") == 0
    (out,) = Path("ex").iterdir()
    block = re.search(r"```toml\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)[1]
    assert tomllib.loads(block)["defenses"] == [{"use": f"weights:ex/{out.name}"}]


@pytest.mark.parametrize("inside", ["", "/" + INDEX, "/model-00001-of-00003.safetensors", "/model.safetensors"])
def test_a_row_is_called_by_the_folder_of_files_that_are_called_alike(inside, tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG.replace('use = "standard"', f'use = "weights:a/net{inside}"'))
    assert [each.label for each in expand.defenses(sections.load(tmp_path / "c.toml"))] == ["fgsm-at", "weights:net"]
    (tmp_path / "c.toml").write_text(CONFIG.replace('use = "standard"', 'use = "weights:a/net.safetensors"'))
    assert expand.defenses(sections.load(tmp_path / "c.toml"))[1].label == "weights:net.safetensors"
    (tmp_path / "c.toml").write_text(CONFIG.replace('use = "standard"', 'use = "weights:model.safetensors"'))
    assert expand.defenses(sections.load(tmp_path / "c.toml"))[1].label == "weights:model.safetensors"


def test_an_exported_network_is_judged_as_that_of_the_store(folder, divided, tmp_path):
    judged = CONFIG.replace('use = "standard"', f'use = "weights:{divided}"')
    (tmp_path / "c.toml").write_text(judged)
    assert main(["run", str(tmp_path / "c.toml"), "--store", str(folder / "store"), "--quiet"]) == 0
    cells = {str(each.names).split("/", 2)[2]: each for each in Store(folder / "store").results()}
    own = cells["fgsm-at/fgsm/white-box"]
    (copy,) = [each for name, each in cells.items() if name.startswith("weights:") and "/fgsm/" in name]
    assert copy.adversarial_bits == own.adversarial_bits and copy.metrics == own.metrics


def test_copies_are_one_row_under_the_first_name_and_a_line_says_so(divided, tmp_path, caplog):
    first, second = (copied(divided, tmp_path / name) for name in ("first", "second"))
    (tmp_path / "c.toml").write_text(
        CONFIG.replace('use = "fgsm-at"', f'use = "weights:{first}"').replace(
            'use = "standard"', f'use = "weights:{second / INDEX}"'
        )
    )
    work = make(sections.load(tmp_path / "c.toml"))
    assert [str(each.names).split("/", 2)[2] for each in work.plan.cells] == [
        f"weights:first/{attack}" for attack in ("clean/white-box", "fgsm/white-box")
    ]
    (line,) = caplog.messages
    assert line.startswith(f"weights:{second / INDEX} holds the same weights as weights:{first}: ")
    caplog.clear()
    # Other bytes are another row.
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "c.toml").write_text(
        CONFIG.replace('use = "standard"', f'use = "weights:{tmp_path / "a.safetensors"}"')
    )
    make(sections.load(tmp_path / "c.toml"))
    assert not caplog.messages


def test_what_is_there_is_named(folder, capsys):
    assert export(folder) == 0
    assert capsys.readouterr().out.startswith("weights: 2 trainings, 2 of them finished; ")
    assert export(folder, "--list") == 0
    assert capsys.readouterr().out.count("3 of 3 epochs") == 2
    assert export(folder, "--list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["digits/small-cnn/fgsm-at", "digits/small-cnn/standard"]
    assert rows[0]["key"] == trained(folder, "fgsm-at").name and rows[0]["finished"] and rows[0]["lacks"] is None
    assert rows[0]["bytes"] == (trained(folder, "fgsm-at") / "weights.safetensors").stat().st_size
    assert export(folder, "*/standard", "--list", "--json") == 0
    assert [row["recipe"] for row in json.loads(capsys.readouterr().out)] == ["standard"]
    assert main(["export", "--store", str(folder / "store")]) in (0, 2)
    assert "weights: 2 trainings" in capsys.readouterr().out


def test_trainings_of_one_name_are_told_apart_by_what_they_differ_in(folder, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(CONFIG)
    for more in ([], ["--set", "train.eps=1/5"], ["--set", "train.eps=1/5", "--set", "train.cycles=3"]):
        more = more and ["--set", "train.schedule=one-cycle", *more]
        assert main(["train", str(tmp_path / "c.toml"), "--store", str(tmp_path / "store"), "--quiet", *more]) == 0
    capsys.readouterr()
    assert export(tmp_path, "--list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    differing = {json.dumps(row["differs_in"], sort_keys=True) for row in rows if row["recipe"] == "fgsm-at"}
    assert differing == {
        '{"cycles": 1, "eps": "1/10", "schedule": "multistep"}',
        '{"cycles": 1, "eps": "1/5", "schedule": "one-cycle"}',
        '{"cycles": 3, "eps": "1/5", "schedule": "one-cycle"}',
    }
    assert export(tmp_path, "fgsm-at", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("fgsm-at (cycles = 3, eps = 1/5, schedule = one-cycle)  finished" in line for line in lines) == 1
    assert export(folder, "--list") == 0
    assert "(" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["nothing-like-it", "--out", "o"], "'nothing-like-it': no training has a key that begins so, or a name"),
        (["standard"], "where to?"),
        (["standard", "--out", "o", "--part-size", "100 kB", "--format", "npz"], "weights are safetensors"),
        (["", "--out", "o"], "the pattern is empty"),
        ([" ", "--list"], "the pattern is empty"),
        (["standard", "--out", "o", "--part-size", "1kB"], "a tensor is not divided, so give at least that"),
        (["standard", "--out", "there.txt"], "cannot be written: "),
        (["KEY", "--out", "there.txt"], "there.txt is there already and is not overwritten"),
        (["--json", "--out", "o"], "--json goes with --list"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(options, says, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.txt").write_text("mine")
    key = trained(folder, "standard").name
    assert export(folder, *(key if option == "KEY" else option for option in options)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert [path for path in Path().rglob("*") if path.is_file()] == [Path("there.txt")]


def test_a_size_that_is_too_small_is_refused_with_one_that_is_enough(folder, tmp_path, capsys):
    key = trained(folder, "standard").name
    assert export(folder, key, "--out", tmp_path / "o", "--part-size", "0.3kB") == 2
    needed = re.search(r"alone, the largest tensor, takes ([0-9,]+) bytes", capsys.readouterr().err)[1]
    assert export(folder, key, "--out", tmp_path / "o", "--part-size", f"{int(needed.replace(',', '')) / 1000}kB") == 0


def test_a_key_is_known_by_four_letters_of_either_case(folder, tmp_path, monkeypatch, capsys):
    known = kept.trainings(Store(folder / "store"))
    key = trained(folder, "fgsm-at").name
    for wanted in (key, key[:4], key[:12].upper()):
        (found,), by_key = kept.chosen(known, wanted)
        assert by_key and found.key == key
    assert export(folder, key[:3], "--out", tmp_path / "o") == 2
    error = capsys.readouterr().err
    assert f"'{key[:3]}': give at least 4 letters of a key; those that begin so: {key[:12]} digits" in error
    twice = [each._replace(key=f"ABCD{number}".lower() + each.key[5:]) for number, each in enumerate(known)]
    with pytest.raises(UsageError, match=r"'ABCD' begins the keys of 2 trainings: abcd0.*; abcd1"):
        kept.chosen(twice, "ABCD")
    # Few letters may be in names, which go first.
    assert [each.ref.recipe.name for each in kept.chosen(known, "fg")[0]] == ["fgsm-at"]


@pytest.mark.parametrize("size", ["15", "0MB", "15m", "-1MB", "1e3MB", "999999999999999GB", ""])
def test_a_size_is_a_number_and_a_unit(size, folder, tmp_path, capsys):
    assert export(folder, "standard", "--out", tmp_path / "o", f"--part-size={size}") == 2
    assert "no size such as 15MB or 16MiB" in capsys.readouterr().err


def test_options_of_weights_are_not_those_of_sets(folder, tmp_path, capsys):
    store = ["--store", str(folder / "store"), "--out", str(tmp_path / "o")]
    assert main(["export", "sets", "--half", *store]) == 2
    assert "--half is of export weights" in capsys.readouterr().err


def test_nothing_is_overwritten_and_a_pattern_gives_each_training_a_folder(folder, tmp_path, capsys):
    assert export(folder, "small-cnn", "--out", tmp_path / "all") == 0
    folders = sorted(path.name for path in (tmp_path / "all").iterdir())
    keys = {recipe: trained(folder, recipe).name[:12] for recipe in ("fgsm-at", "standard")}
    assert folders == [f"digits-small-cnn-{recipe}-{key}" for recipe, key in keys.items()]
    assert export(folder, "small-cnn", "--out", tmp_path / "all") == 3
    assert capsys.readouterr().err.count("is there already and is not overwritten") == 2
    # What is there does not keep the others from being written.
    shutil.rmtree(tmp_path / "all" / folders[1])
    assert export(folder, "small-cnn", "--out", tmp_path / "all") == 3
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == folders


def test_weights_that_are_gone_or_altered_are_one_line_and_the_others_are_written(folder, tmp_path, capsys):
    store = tmp_path / "store"
    for recipe in ("fgsm-at", "standard"):
        (store / "train").mkdir(parents=True, exist_ok=True)
        copied(trained(folder, recipe), store / "train" / trained(folder, recipe).name)
    path = trained(tmp_path, "fgsm-at") / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert export(tmp_path, "--out", tmp_path / "o") == 3
    assert "cut short or altered since it was written" in capsys.readouterr().err
    assert [path.name.split("-")[3] for path in (tmp_path / "o").iterdir()] == ["standard"]
    path.unlink()
    assert export(tmp_path, "fgsm-at", "--out", tmp_path / "p") == 2
    assert "its weights are not in the store any more" in capsys.readouterr().err


class Silent:
    def cells(self, *_):
        pass

    def work(self, *_):
        pass


def train(folder, look, *lines):
    """Train by one recipe, and call ``look`` before each batch."""
    recipe = CONFIG.replace('[[defenses]]\nuse = "standard"\n', "").replace(
        "drops = []", "\n".join(["drops = []", *lines])
    )
    (folder / "one.toml").write_text(recipe)
    work = make(sections.load(folder / "one.toml"))
    runner = Runner(work, Store(folder / "store"), torch.device("cpu"), None, look, Silent())
    cell = work.plan.cells[0].cell
    return runner.train(cell.model, cell.data)


def outside(folder, *options):
    """Export in another process."""
    command = [sys.executable, str(ROOT / "run_bench.py"), "export", "weights", *options]
    return subprocess.run(
        [*command, "--store", str(folder / "store")], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_last_finished_epoch_is_exported_while_another_process_trains(folder, tmp_path, monkeypatch):
    # The state is kept before every batch.
    monkeypatch.setattr("bench.training.loop.SAVE_EVERY", 0.0)
    seen = []

    def look():
        states = list((tmp_path / "store" / "train").glob("*/epoch.safetensors"))
        if states and not seen:
            seen.append(outside(tmp_path, "fgsm-at", "--out", str(tmp_path / "o")))
            seen.append(outside(tmp_path, "--list", "--json"))

    final = train(tmp_path, look)
    assert final.read_bytes() == (trained(folder, "fgsm-at") / "weights.safetensors").read_bytes()
    exported, listed = seen
    assert exported.returncode == 0, exported.stderr
    (out,) = (tmp_path / "o").iterdir()
    assert out.name.endswith("-epoch-1") and "epoch 1 of 3, of a training that is not finished" in exported.stderr
    (row,) = json.loads(listed.stdout)
    assert (row["epochs"], row["finished"], row["running"]) == (1, False, True)
    card = unsealed((out / "card.json").read_bytes())
    assert (card["epoch"], card["epochs_done"], card["epochs_planned"]) == (1, 1, 3)
    assert len((out / "log.jsonl").read_text().splitlines()) == len(card["card"]["log"]) == 1
    # Without drops of the rate the first epoch of three is all of a training of one.
    (tmp_path / "short").mkdir()
    text = (tmp_path / "one.toml").read_text().replace("epochs = 3", "epochs = 1")
    (tmp_path / "short.toml").write_text(text)
    assert main(["train", str(tmp_path / "short.toml"), "--store", str(tmp_path / "short"), "--quiet"]) == 0
    (short,) = (tmp_path / "short").glob("train/*/weights.safetensors")
    one, other = load_file(out / "model.safetensors"), load_file(short)
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert card["weights"]["original_sha256"] == hashlib.sha256(short.read_bytes()).hexdigest()


@pytest.mark.parametrize("line", ["ema = 0.5", "holdout = 40"])
def test_a_training_that_was_cut_gives_what_it_would_keep(tmp_path, line, capsys):
    state = tmp_path / "store" / "train"

    def look():
        if any(unsealed_state(path)["epoch"] == 2 for path in state.glob("*/state.safetensors")):
            raise Ending

    with pytest.raises(Ending):
        train(tmp_path, look, line)
    assert export(tmp_path, "--out", tmp_path / "o") == 0
    (out,) = (tmp_path / "o").iterdir()
    (path,) = state.glob("*/state.safetensors")
    group = "average." if "ema" in line else "best."
    kept = {name.removeprefix(group): value for name, value in load_file(path).items() if name.startswith(group)}
    one = load_file(out / "model.safetensors")
    assert kept and one.keys() == kept.keys() and all(torch.equal(one[name], kept[name]) for name in kept)
    card = unsealed((out / "card.json").read_bytes())
    assert card["epochs_done"] == 2
    assert card["epoch"] == (2 if "ema" in line else unsealed_state(path)["best_epoch"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert export(tmp_path, "--out", tmp_path / "p") == 2
    assert "is damaged" in capsys.readouterr().err


def unsealed_state(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])


def test_without_a_finished_epoch_there_is_nothing_to_export(tmp_path, capsys):
    looks = iter(range(1))

    def look():
        if next(looks, None) is None:
            raise Ending

    with pytest.raises(Ending):
        train(tmp_path, look)
    assert export(tmp_path, "--out", tmp_path / "o") == 2
    assert "no epoch is finished yet" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert export(tmp_path, "--list") == 0 and "not kept" in capsys.readouterr().out


def test_whichever_part_is_altered_it_is_refused_by_name(divided, tmp_path, capsys):
    out = copied(divided, tmp_path / "o")
    for path in sorted(out.glob("model-*.safetensors")):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        problem = weights.inspect(f"weights:{out}").problem
        assert f"{path} was cut short or altered since it was exported" in problem and "\n" not in problem
        with pytest.raises(UsageError, match=path.name):
            weights.load(out / INDEX, torch.nn.Linear(1, 1))
        assert main(["doctor", str(out)]) == 2
        assert path.name in capsys.readouterr().err
        path.write_bytes(data)
    assert weights.inspect(f"weights:{out}").problem is None
    assert main(["doctor", str(out)]) == 0
    said = capsys.readouterr().out
    assert "digits/small-cnn/fgsm-at, epoch 3 of 3" in said and "fits           small-cnn" not in said
    assert re.search(r"fits +small-cnn \(channels = 4, hidden = 16\)", said)


def test_a_part_that_is_missing_or_alone_is_named(divided, tmp_path):
    out = copied(divided, tmp_path / "o")
    first = min(out.glob("model-*.safetensors"))
    first.unlink()
    assert f"shards are missing: {first.name}" in weights.inspect(f"weights:{out}").problem
    second = min(out.glob("model-*.safetensors"))
    (out / INDEX).unlink()
    problem = weights.inspect(f"weights:{out}").problem
    assert problem.endswith(f"holds parts of weights, such as {second.name}, without their index {INDEX}")
    problem = weights.inspect(f"weights:{second}").problem
    assert "is one of" in problem and f"{INDEX} is not beside it" in problem


def test_the_card_guards_a_single_file_and_is_guarded_itself(folder, tmp_path):
    assert export(folder, trained(folder, "standard").name, "--out", tmp_path / "o") == 0
    path, card = tmp_path / "o" / "model.safetensors", tmp_path / "o" / "card.json"
    data, text = path.read_bytes(), card.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "was cut short or altered" in weights.inspect(f"weights:{path}").problem
    path.write_bytes(data)
    card.write_bytes(text.replace(b'"epoch":3', b'"epoch":2', 1))
    assert "card.json" in weights.inspect(f"weights:{path}").problem
    card.write_bytes(sealed({**unsealed(text), "weights": {"files": {"model.safetensors": "none"}}}))
    assert "are not the hashes of files" in weights.inspect(f"weights:{path}").problem
    # Somebody's own file of that name says nothing of weights.
    for theirs in (b'{"format": "mine"}', b"{}"):
        card.write_bytes(theirs)
        assert weights.inspect(f"weights:{path}").problem is None


@pytest.mark.parametrize(
    "damaged",
    [
        lambda text: text[:500],
        lambda text: text[:-2],
        lambda text: b"[]",
        lambda text: b"\xff",
        lambda text: b"",
        # Whole JSON that says of itself nothing that is known.
        lambda text: text.replace(b'"format":"crossfire-weights"', b'"format":"crossfire-weightz"'),
        lambda text: text.replace(b'"format"', b'"formas"', 1),
        None,
    ],
)
def test_a_damaged_card_is_refused_and_a_deleted_one_is_not(divided, tmp_path, capsys, damaged):
    out = copied(divided, tmp_path / "o")
    card, index = out / "card.json", out / INDEX
    text = card.read_bytes()
    card.unlink()
    assert weights.inspect(f"weights:{out}").problem is None
    if damaged is None:
        card.mkdir()
    else:
        assert damaged(text) != text
        card.write_bytes(damaged(text))
    for source in (out, index, min(out.glob("model-*.safetensors"))):
        problem = weights.inspect(f"weights:{source}").problem
        assert str(card) in problem and "does not count" in problem and "\n" not in problem
    with pytest.raises(UsageError, match="does not count"):
        weights.load(index, torch.nn.Linear(1, 1))
    assert main(["doctor", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    # What torch saved is never exported, so that no card can be one of it.
    torch.save({"weight": torch.ones(1, 1)}, out / "net.pt")
    assert weights.inspect(f"weights:{out / 'net.pt'}").problem is None


def test_a_file_that_a_card_does_not_list_is_refused_with_what_would_be_right(folder, divided, tmp_path):
    assert export(folder, trained(folder, "standard").name, "--out", tmp_path / "o") == 0
    one = (tmp_path / "o" / "model.safetensors").rename(tmp_path / "o" / "net.safetensors")
    assert "is 'model.safetensors' by its SHA-256" in weights.inspect(f"weights:{one}").problem
    out = copied(divided, tmp_path / "parts")
    last = max(out.glob("model-*.safetensors"))
    part = last.rename(out / "part2.safetensors")
    assert f"is '{last.name}' by its SHA-256" in weights.inspect(f"weights:{part}").problem
    part.rename(last)
    # A file of other weights beside parts: the folder has two answers, and the card is of one of them.
    other = out / "model.safetensors"
    other.write_bytes(one.read_bytes())
    problem = weights.inspect(f"weights:{out}").problem
    assert "holds two answers, model.safetensors and the parts of " + INDEX in problem
    problem = weights.inspect(f"weights:{other}").problem
    assert "is not of the exported weights whose card.json lies beside it" in problem and "\n" not in problem
    with pytest.raises(UsageError, match="is not of the exported weights"):
        weights.load(other, torch.nn.Linear(1, 1))
    assert weights.inspect(f"weights:{out / INDEX}").problem is None
    (out / "card.json").unlink()
    assert weights.inspect(f"weights:{other}").problem is None
    # An index that names the one file of a folder is no second answer.
    (tmp_path / "hub").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "hub" / "model.safetensors")
    (tmp_path / "hub" / INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    assert weights.inspect(f"weights:{tmp_path / 'hub'}").problem is None
    kept = copied(trained(folder, "standard"), tmp_path / "kept")
    mine = (kept / "weights.safetensors").rename(kept / "mine.safetensors")
    assert "is 'weights.safetensors' by its SHA-256" in weights.inspect(f"weights:{mine}").problem


def test_the_weights_of_a_store_are_guarded_by_its_card(folder, tmp_path):
    own = copied(trained(folder, "standard"), tmp_path / "o")
    path = own / "weights.safetensors"
    assert weights.inspect(f"weights:{path}").problem is None
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "was cut short or altered" in weights.inspect(f"weights:{path}").problem


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight_map": {"a": "../model-00001-of-00002.safetensors"}}, "beside their index"),
        ({"weight_map": {"a": "/etc/passwd"}}, "beside their index"),
        ({"weight_map": {"a": "\x1b[31m/x.safetensors"}}, "beside their index"),
        ({"weight_map": {f"t{n}": f"m{n}.safetensors" for n in range(100_000)}}, "100000 of its 100000 shards are"),
        ({"weight_map": {"a": ["x"]}}, "weight_map"),
        ({"metadata": {"sha256": ["x"]}}, "are not the hashes of files"),
        ({"metadata": {"sha256": {"model-00001-of-00002.safetensors": "0" * 64}}}, "was cut short or altered"),
        ({"metadata": {"sha256": 3}}, "are not the hashes of files"),
        (b"[" * 100_000, "no readable index"),
        (b'{"weight_map": {' + b"[[" * 200_000, "no readable index"),
        (b"3", "no index of shards"),
    ],
)
def test_a_foreign_index_is_one_line(tmp_path, change, says):
    save_file({"a": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    good = {"metadata": {}, "weight_map": files}
    (tmp_path / INDEX).write_text(json.dumps(good))
    assert weights.inspect(f"weights:{tmp_path}").problem is None
    (tmp_path / INDEX).write_bytes(change if isinstance(change, bytes) else json.dumps({**good, **change}).encode())
    problem = weights.inspect(f"weights:{tmp_path}").problem
    assert says in problem and "\n" not in problem and "\x1b" not in problem and len(problem) < 2100


def test_two_parts_with_one_tensor_are_refused(tmp_path):
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(files):
        save_file({"a": torch.full((1,), float(number)), f"b{number}": torch.ones(1)}, tmp_path / name)
    weight_map = {"a": files[0], "b0": files[0], "b1": files[1]}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    problem = weights.inspect(f"weights:{tmp_path}").problem
    assert problem.endswith(f"{files[1]} holds, against its index, the tensor 'a'")


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("bench.report.weights.parts.write_beside", full)
    assert export(folder, "standard", "--out", tmp_path / "o") == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error and error.count("\n") == 1
    assert not [path for path in (tmp_path / "o").rglob("*") if path.is_file()]
