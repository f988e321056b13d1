"""Saved images are judged as the attack that made them was, audited like any attack, and known by their content."""

import hashlib
import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyautoattack
import pytest
import torch

import bench
from bench.cli import main
from bench.config import sections
from bench.data import open_set, saved
from bench.evaluation.craft import audit
from bench.evaluation.device_cache import DeviceCache
from bench.keys import training_key
from bench.schedule.plan import make
from bench.schedule.run import Runner
from bench.store.working_store import Store
from bench.types import MethodError, Threat, UsageError
from tests.schedule import small

#: Accurate enough that images differ in their outcomes; two chunks of images.
BASE = f"""
schema = 1
name = "saved"
{small.DIGITS.replace("train_n = 100", "train_n = 600").replace("channels = 4", "channels = 8")}
[train]
epochs = 8
batch = 50
lr = 0.1

[[defenses]]
use = "standard"

[[defenses]]
use = "jpeg"
quality = 30
"""
EPS = "0.1"
PAGE = Path(__file__).parents[2] / "docs" / "adversarial-sets.md"


def attack(use, *lines, eps=EPS):
    return "\n".join(["\n[[attacks]]", f'use = "{use}"', f'eps = "{eps}"', *lines, ""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with static and adaptive FGSM, and ``fgsm.npz``, the exported set on the bare network."""
    folder = tmp_path_factory.mktemp("saved")
    assert small.run(folder, text=BASE + attack("fgsm")) == 0
    options = ["--store", str(folder / "store"), "--out", str(folder / "fgsm.npz")]
    assert main(["export", "sets", "standard/fgsm/white-box", *options]) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def results(folder):
    return {str(each.names).split("/", 2)[2]: each for each in Store(folder / "store").results()}


def records(folder, result):
    table = pq.read_table(Store(folder / "store").records(result.key))
    return {name: table.column(name).to_numpy() for name in ("adversarial", "adversarial_margin", "linf", "clean")}


def plan(*attacks):
    head = "".join(each for each in attacks if "[" not in each)
    Path("plan.toml").write_text(BASE.replace("[dataset]", f"{head}\n[dataset]") + "".join(attacks[bool(head) :]))
    return make(sections.load("plan.toml"))


def test_a_round_trip_gives_the_same_outcomes_to_the_bit_on_every_defense(here, tmp_path):
    # Another store, which has the network and no result.
    shutil.copytree("store/train", tmp_path / "store" / "train")
    shutil.copy("fgsm.npz", tmp_path / "theirs.npz")
    assert small.run(tmp_path, text=BASE + attack(f"images:{tmp_path}/theirs.npz")) == 0
    first, again = results(here), results(tmp_path)
    assert sorted(again) == [
        "jpeg/clean/static",
        "jpeg/images:theirs.npz/static",
        "standard/clean/white-box",
        "standard/images:theirs.npz/white-box",
    ]
    for defense, access in (("standard", "white-box"), ("jpeg", "static")):
        one, other = first[f"{defense}/fgsm/{access}"], again[f"{defense}/images:theirs.npz/{access}"]
        assert 0.05 < one.metrics.accuracy_under_attack < one.metrics.clean_accuracy
        assert other.adversarial_bits == one.adversarial_bits and other.clean_bits == one.clean_bits
        assert other.metrics == one.metrics
        for name, values in records(here, one).items():
            np.testing.assert_array_equal(records(tmp_path, other)[name], values)
        assert (other.cost.forwards_per_example, other.cost.backwards_per_example) == (0, 0)


def test_the_key_is_the_content_and_not_the_place(here):
    def keys(*attacks):
        return [(each.names.attack, each.key) for each in plan(*attacks).plan.cells if each.cell.attack]

    shutil.copy("fgsm.npz", "copy.npz")
    (here / "sub").mkdir(exist_ok=True)
    shutil.copy("fgsm.npz", "sub/fgsm.npz")
    first, moved = keys(attack("images:fgsm.npz")), keys(attack("images:copy.npz"))
    assert [key for _, key in first] == [key for _, key in moved] and first != moved
    # A byte behind the archive changes no image, but the file.
    with Path("copy.npz").open("ab") as file:
        file.write(b"0")
    assert not {key for _, key in first} & {key for _, key in keys(attack("images:copy.npz"))}
    sha = plan(attack("images:fgsm.npz")).plan.cells[-1].cell.attack.attack.params["sha256"]
    assert keys(attack("images:fgsm.npz", f'sha256 = "{sha}"')) == first
    with pytest.raises(UsageError, match="its SHA-256 is"):
        plan(attack("images:fgsm.npz", f'sha256 = "{"0" * 64}"'))
    labels = {name for name, _ in keys(attack("images:fgsm.npz"), attack("images:copy.npz"))}
    assert labels == {"images:fgsm.npz", "images:copy.npz"}


def test_fixed_images_are_never_called_adaptive(here):
    cells = [each.names for each in plan(attack("images:fgsm.npz", 'access = ["transfer"]')).plan.cells]
    assert {str(each).split("/", 2)[2] for each in cells} == {
        "standard/clean/white-box",
        "standard/images:fgsm.npz/transfer",
        "jpeg/clean/static",
        "jpeg/images:fgsm.npz/transfer",
    }
    shared = '\n[attack]\naccess = ["static", "adaptive"]\n'
    assert {each.names.access for each in plan(shared, attack("images:fgsm.npz")).plan.cells} == {"white-box", "static"}
    for line, says in (
        ('access = ["static", "adaptive"]', "saved images adapt to no defense"),
        ('source = "standard"', "already made"),
        ("steps = 3", "unknown key 'steps'|extra|steps"),
    ):
        with pytest.raises(UsageError, match=says):
            plan(attack("images:fgsm.npz", line))


def test_images_out_of_the_ball_fail_their_cells_with_the_distance(here, tmp_path, capsys):
    fgsm = dict(np.load("fgsm.npz"))
    np.savez("rounded.npz", x_adv=np.rint(fgsm["x_adv"] * 255).astype(np.uint8), rows=fgsm["rows"])
    further = fgsm["x"] / 255 + 2 * (fgsm["x_adv"] - fgsm["x"] / 255)
    np.savez("double.npz", x_adv=further.clip(0, 1), rows=fgsm["rows"])
    text = BASE + attack("images:rounded.npz") + attack("images:double.npz") + attack("images:fgsm.npz")
    assert small.run(here, text=text) == 3
    cells = results(here)
    # A tenth is 25.5 of 255.
    rounded = cells["standard/images:rounded.npz/white-box"].error.message
    assert "linf distance 0.101961 above eps 1/10" in rounded and "8 bit, and rounding can explain that" in rounded
    double = cells["standard/images:double.npz/white-box"].error.message
    assert "0.2 above eps 1/10" in double and "8 bit" not in double
    assert cells["jpeg/images:fgsm.npz/static"].status == "done"


def test_round_off_has_the_tolerance_of_every_attack():
    x = torch.full((2, 1, 4, 4), 0.5)
    eps = Fraction(8, 255)
    audit(x + float(eps) + 1e-7, x, Threat(eps=eps), "saved")
    with pytest.raises(MethodError, match="linf distance"):
        audit(x + float(eps) + 1e-5, x, Threat(eps=eps), "saved")


def test_a_file_that_changes_while_a_run_goes_on_fails_its_cells(here, tmp_path):
    shutil.copy("fgsm.npz", "changing.npz")
    work = plan(attack("images:changing.npz"))
    Path("changing.npz").write_bytes(Path("fgsm.npz").read_bytes() + b"0")
    shutil.copytree("store/train", tmp_path / "store" / "train")
    runner = Runner(work, Store(tmp_path / "store"), torch.device("cpu"), None, lambda: None, Silent())
    errors = [each.error.message for each in runner.run() if each.cell.attack]
    assert all("changing.npz has changed since the plan was made" in each for each in errors) and len(errors) == 2


class Silent:
    def cells(self, done, total, failed=0): ...

    def work(self, *_): ...


def test_in_a_worst_case_suite_every_image_of_the_file_is_judged(here):
    suite = plan("worst_case = true", attack("fgsm", 'access = ["adaptive"]'), attack("images:fgsm.npz"))
    sets = {each.names.attack: each.cell.attack for each in suite.plan.cells if each.cell.attack}
    alone = {each.key for each in plan(attack("images:fgsm.npz")).plan.cells}
    assert {each.key for each in suite.plan.cells if each.names.attack == "images:fgsm.npz"} <= alone
    assert sets["images:fgsm.npz"].after == ()


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "suite"])
def targeted(request, folder, tmp_path_factory):
    """A store with targeted PGD on the bare network, alone or after FGSM, and whether it is of that suite."""
    other, adaptive = tmp_path_factory.mktemp("targeted"), 'access = ["adaptive"]'
    shutil.copytree(folder / "store" / "train", other / "store" / "train")
    text = BASE.replace('name = "saved"', f'name = "saved"\nworst_case = {str(request.param).lower()}')
    text += attack("fgsm", adaptive) + attack("pgd", adaptive, "steps = 3", 'target = "least-likely"')
    assert small.run(other, "--only", "*/standard/pgd*", text=text) == 0
    return other, request.param


def export(folder, name, path, *options):
    arguments = [f"*/standard/{name}*/white-box", "--store", str(folder / "store"), "--out", str(path), *options]
    assert main(["export", "sets", *arguments]) == 0


def test_target_classes_are_exported_and_the_check_of_the_page_holds(here, targeted, tmp_path, monkeypatch):
    store, is_suite = targeted
    result = results(store)["standard/pgd least-likely/white-box"]
    targets = pq.read_table(Store(store / "store").records(result.key)).column("target").to_numpy()
    # What FGSM breaks has no target class.
    assert 0 < (targets == -1).sum() < len(targets) if is_suite else (targets >= 0).all()
    monkeypatch.chdir(tmp_path)
    # Called as on the page.
    export(store, "pgd", "fgsm.npz")
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0], names)
    np.testing.assert_array_equal(names["targets"], targets)
    assert names["arrays"]["targets"].dtype == np.int64 and names["about"]["attack"]["target"] == "least-likely"
    assert names["about"]["sha256"]["targets"] == hashlib.sha256(targets.tobytes()).hexdigest()
    assert is_suite or names["accuracy"] > (names["predictions"] == names["labels"]).mean()
    export(store, "pgd", "set.parquet")
    np.testing.assert_array_equal(pq.read_table("set.parquet").column("target").to_numpy(), targets)
    export(store, "pgd", "pictures", "--format", "png")
    (listed,) = Path("pictures").glob("*/set.json")
    assert json.loads(listed.read_text())["images"]["target"] == targets.tolist()
    # Other sets are written as before.
    export(here, "fgsm", "untargeted.parquet")
    untargeted = np.load(here / "fgsm.npz")
    assert "targets" not in untargeted and '"target"' not in str(untargeted["metadata"])
    assert "target" not in pq.read_schema("untargeted.parquet").names


def test_a_file_with_target_classes_is_judged_by_any_wrong_answer_and_says_so(here, caplog):
    fgsm = dict(np.load("fgsm.npz"))
    labels = fgsm["labels"]
    some = np.where(np.arange(len(labels)) < 100, (labels + 1) % 10, -1)
    for name, targets in (("aimed", some), ("labelled", labels)):
        np.savez(f"{name}.npz", x_adv=fgsm["x_adv"], rows=fgsm["rows"], targets=targets)
    plan(attack("images:fgsm.npz"), attack("images:labelled.npz"))
    assert not [each for each in caplog.messages if "target" in each]
    plan(attack("images:aimed.npz"))
    (line,) = [each for each in caplog.messages if "target" in each]
    assert "aimed.npz: 100 of 140 images have a target class ('targets'); here any wrong answer counts" in line


def test_a_missing_file_is_one_line_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert small.run(tmp_path, text=BASE + attack("images:gone.npz")) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"attacks (images:gone.npz): no file {tmp_path}/gone.npz")
    assert not (tmp_path / "store").exists()


def test_what_autoattack_saves_has_the_accuracy_that_autoattack_says(here, tmp_path):
    cell, cache = plan(attack("images:fgsm.npz")).plan.cells[0].cell, DeviceCache(torch.device("cpu"), None)
    weights = Store(here / "store").training(training_key(cell.model)) / "weights.safetensors"
    net, images = cache.classifier(cell.model, cell.data, lambda: weights).net, cache.test(cell.data)
    x, y = images.x.float() / 255, images.y
    adversary = pyautoattack.AutoAttack(net, norm="Linf", eps=0.1, version="custom", attacks=["apgd-ce"], seed=0)
    adversary.apgd.n_iter = 5
    adversary.apgd.n_restarts = 1
    returned = adversary.run_standard_evaluation(x, y, batch_size=140)
    # As its own examples/eval.py saves and calls it; it returns images and what is predicted for them.
    path, x_adv = tmp_path / "aa_standard_1_140_eps_0.10000.pth", returned[0]
    torch.save({"adv_complete": returned}, path)
    assert small.run(here, text=BASE + attack(f"images:{path}")) == 0
    cells = results(here)
    ours = cells[f"standard/images:{path.name}/white-box"].metrics.accuracy_under_attack
    assert ours == pytest.approx(float((net(x_adv).argmax(1) == y).float().mean()))
    assert ours < cells["standard/clean/white-box"].metrics.clean_accuracy - 0.1


def test_what_the_page_shows_works(here):
    page = PAGE.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    (block,) = re.findall(r"```toml\n# saved.toml\n(.*?)```", page, re.DOTALL)
    Path("saved.toml").write_text(block)
    cells = make(sections.load("saved.toml")).plan.cells
    assert {str(each.names).split("/", 2)[2] for each in cells if each.cell.attack} == {
        "standard/images:theirs.npz/white-box",
        "jpeg/images:theirs.npz/static",
    }
    # The keys that the page lists are those that are read.
    rows = {row[0].strip(): row[1] for row in re.findall(r"^\| ([a-z ]+) \| (.*?) \|$", page, re.MULTILINE)}
    listed = {name: tuple(re.findall(r"`(\w+)`", rows[name])) for name in ("adversarial images", "labels")}
    assert listed["adversarial images"][: len(saved.ADVERSARIAL)] == saved.ADVERSARIAL
    assert listed["labels"] == saved.LABELS


def test_from_python_saved_images_are_judged_beside_other_attacks(tmp_path):
    digits = open_set("digits", "test", folder=None)
    x, y = torch.from_numpy(digits.images[:40].copy()).float() / 255, torch.from_numpy(digits.labels[:40].copy())
    # As accurate as one step of gradient descent makes it.
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        net[1].weight.copy_(torch.nn.functional.one_hot(y, 10).float().T @ (x.flatten(1) - x.flatten(1).mean(0)))
    x_adv = bench.attack(net, x, y, "fgsm", eps="0.2")
    torch.save((x_adv, y), tmp_path / "adv.pt")
    frame = bench.evaluate(net, x, y, attacks=["fgsm", f"images:{tmp_path}/adv.pt"], eps="0.2").frame
    accuracy = dict(zip(frame["attack"], frame["accuracy_under_attack"], strict=True))
    expected = float((net(x_adv).argmax(1) == y).float().mean())
    assert accuracy["images:adv.pt"] == accuracy["fgsm"] == pytest.approx(expected)
    assert expected < accuracy["clean"] and set(frame["access"]) == {"white-box"}
