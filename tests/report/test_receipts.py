"""A receipt holds what was judged, and what is altered in it, with every hash made again, is refused by its reason."""

import hashlib
import io
import json
import os
import zipfile

import numpy as np
import pytest

from bench.cli import main
from bench.keys import canonical_json, cell_key
from bench.outcomes import Outcomes
from bench.report.receipts.read import Contradiction, NoReceipt, read
from bench.report.receipts.redacted import redacted
from bench.stats import wilson
from bench.store.working_store import Store
from bench.types import Cell
from tests.schedule import small

#: Two chunks of images, with a fixed step and a random one.
CONFIG = f"""
schema = 1
name = "receipts"
{small.DIGITS}
[train]
epochs = 2
batch = 50
lr = 0.05

[[defenses]]
use = "standard"

[[defenses]]
use = "resize-pad"

[[attacks]]
use = "fgsm"
eps = "0.1"

[[attacks]]
use = "pgd"
eps = "0.1"
steps = 2
target = "second"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("receipts")
    assert small.run(folder, text=CONFIG) == 0
    options = ("--store", str(folder / "store"), "--out", str(folder / "out"), "--by", "Ada \x1b[31m")
    assert main(["export", "receipt", "digits", *options]) == 0
    return folder


def receipt(folder, name):
    (path,) = [path for path in (folder / "out").iterdir() if name in path.name]
    return path


def result(folder, name):
    (found,) = [each for each in Store(folder / "store").results() if str(each.names) == name]
    return found


def forged(source, out, claims=lambda claims: None, arrays=lambda arrays: None, plain=None):
    """Write a receipt again with other claims and arrays, every hash made again; return its path.

    ``plain`` are members by name, to be written as they are.
    """
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    body = json.loads(members.pop("receipt.json"))
    values = {name.removesuffix(".npy"): np.load(io.BytesIO(data)) for name, data in members.items()}
    arrays(values)
    for name, value in values.items():
        file = io.BytesIO()
        np.save(file, value)
        members[f"{name}.npy"] = file.getvalue()
        body["sha256"][name] = hashlib.sha256(file.getvalue()).hexdigest()
    claims(body)
    members["receipt.json"] = canonical_json(body).encode() + b"\n"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (members | (plain or {})).items():
            archive.writestr(name, data)
    return out


def with_key(body):
    """Give the claims the key of their cell."""
    body["result"]["key"] = cell_key(Cell.model_validate(body["result"]["cell"]))


def with_outcomes(body, clean, attacked):
    """Give the claims all that follows from outcomes."""
    share, low, high = wilson(int(attacked.sum()), len(attacked))
    body["result"]["clean_bits"] = Outcomes.of(clean.tolist()).encode()
    body["result"]["adversarial_bits"] = Outcomes.of(attacked.tolist()).encode()
    body["result"]["metrics"] |= {
        "clean_accuracy": float(clean.mean()),
        "accuracy_under_attack": share,
        "robust_accuracy": float((clean & attacked).mean()),
        "ci_low": low,
        "ci_high": high,
    }


def test_a_receipt_is_what_was_judged_and_names_no_machine(folder):
    path, measured = (
        receipt(folder, "standard-fgsm-white-box"),
        result(folder, "digits/small-cnn/standard/fgsm/white-box"),
    )
    one = read(path)
    assert one.by == "Ada \\x1b[31m" and one.result.cell == measured.cell and one.result.key == measured.key
    assert one.result.metrics == measured.metrics and one.result.adversarial_bits == measured.adversarial_bits
    with zipfile.ZipFile(path) as archive:
        text = archive.read("receipt.json")
        answers, labels = (
            np.load(io.BytesIO(archive.read(f"{name}.npy"))) for name in ("predictions_adversarial", "labels")
        )
    assert hashlib.sha256(text).hexdigest() == one.sha256
    assert (answers == labels).tolist() == list(measured.outcomes_under_attack)
    assert os.uname().nodename not in text.decode() and str(folder) not in text.decode()


def test_equal_receipts_are_equal_files(folder, tmp_path, capsys):
    path = receipt(folder, "resize-pad-fgsm-adaptive")
    again = tmp_path / "again.receipt"
    options = ("--store", str(folder / "store"), "--by", "Ada \x1b[31m", "--out", str(again))
    assert main(["export", "receipt", "resize-pad/fgsm/adaptive", *options]) == 0
    assert capsys.readouterr().out == f"{read(path).sha256}  {again}\n"
    assert again.read_bytes() == path.read_bytes()
    # Written again by other means, the same claims and arrays have the same name.
    assert read(forged(path, tmp_path / "copy.receipt")).sha256 == read(path).sha256


def test_paths_are_not_named_where_no_key_holds_them(folder):
    measured = result(folder, "digits/small-cnn/standard/fgsm/white-box")
    body = measured.model_dump(mode="json", by_alias=True)
    weights = {"name": "weights:/home/ada/nets/net.safetensors", "sha256": "0" * 64}
    body["cell"]["model"]["weights"] = body["cell"]["attack"]["model"]["weights"] = weights
    body["cell"]["data"]["name"] = body["cell"]["attack"]["data"]["name"] = "folder:/home/ada/images"
    body["names"] |= {"dataset": "folder:/home/ada/images", "defense": "jpeg@weights:/home/ada/nets/net.safetensors"}
    with_key({"result": body})
    shown = redacted(type(measured).model_validate(body))
    assert (shown.names.dataset, shown.names.defense) == ("folder:images", "jpeg@weights:net.safetensors")
    assert "ada" not in shown.model_dump_json() and cell_key(shown.cell) == shown.key == body["key"]


def narrower(body):
    for attack in (body["result"]["cell"]["attack"],):
        attack["threat"]["eps"] = "1/20"


def other(body):
    body["result"]["cell"]["attack"]["attack"]["name"] = "pgd"
    body["result"]["names"]["attack"] = "pgd"


def other_recipe(body):
    cell = body["result"]["cell"]
    cell["model"]["weights"]["recipe"]["name"] = cell["attack"]["model"]["weights"]["recipe"]["name"] = "pgd-at"
    body["result"]["names"]["defense"] = "pgd-at"


def wider_key(body):
    body["result"]["cell"]["attack"]["threat"]["eps"] = "1/5"


def fewer(body):
    body["result"]["metrics"]["n"] = body["result"]["cell"]["data"]["n"] = 100
    body["result"]["cell"]["attack"]["data"]["n"] = 100
    clean, attacked = (Outcomes.decode(body["result"][f"{name}_bits"], 140) for name in ("clean", "adversarial"))
    with_outcomes(body, *(np.array(list(each.first(100))) for each in (clean, attacked)))


def flip_outcome(body):
    bits = np.array(list(Outcomes.decode(body["result"]["adversarial_bits"], 140)))
    clean = np.array(list(Outcomes.decode(body["result"]["clean_bits"], 140)))
    bits[np.flatnonzero(~bits)[:3]] = True
    with_outcomes(body, clean, bits)


def one_pixel_far(arrays):
    arrays["adversarial"][5, 0, 3, 3] = min(1.0, arrays["clean"][5, 0, 3, 3] / 255 + 0.2)
    arrays["adversarial"][5, 0, 4, 4] = max(0.0, arrays["clean"][5, 0, 4, 4] / 255 - 0.2)


def repeated(arrays):
    for name in arrays:
        arrays[name][1] = arrays[name][0]


def relabelled(arrays):
    arrays["labels"][:10] = np.roll(arrays["labels"][:10], 1)


def not_a_number(arrays):
    arrays["adversarial"][0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("claims", "arrays", "reason"),
    [
        (narrower, None, "its key is"),
        (lambda body: (narrower(body), with_key(body)), None, "left its budget: linf distance 0.1"),
        (wider_key, None, "its key is"),
        (other, None, "its key is"),
        (other_recipe, None, "its key is"),
        (lambda body: body["result"]["metrics"].update(mean_linf=0.01), None, "it says mean_linf = 0.01"),
        (lambda body: body["result"]["names"].update(attack="autoattack"), None, "it is called autoattack, and fgsm"),
        (lambda body: body["result"]["names"].update(defense="tpap"), None, "it is called tpap, and standard"),
        (lambda body: body["result"]["names"].update(model="vgg16"), None, "it is called a cell of vgg16"),
        (lambda body: body["result"]["names"].update(dataset="cifar10"), None, "it is called a cell of cifar10"),
        (flip_outcome, None, "its adversarial outcomes are not those of its predictions and labels, at 3 of 140"),
        (None, one_pixel_far, "left its budget"),
        (None, not_a_number, "not finite"),
        (None, repeated, "it counts rows twice"),
        (None, relabelled, "outcomes are not those of its predictions"),
        (None, lambda arrays: arrays["rows"].__iadd__(1), "its rows are not those that its cell names"),
        (None, lambda arrays: arrays["labels"].__setitem__(0, 10), "its labels are not all among 10 classes"),
        (None, lambda arrays: arrays["predictions_clean"].__setitem__(0, -1), "its predictions_clean are not all"),
    ],
)
def test_a_claim_that_the_arrays_refute_is_refused_with_every_hash_made_again(folder, tmp_path, claims, arrays, reason):
    nothing = lambda _: None  # noqa: E731
    path = forged(
        receipt(folder, "standard-fgsm-white-box"), tmp_path / "f.receipt", claims or nothing, arrays or nothing
    )
    with pytest.raises(Contradiction) as error:
        read(path)
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("claims", "arrays", "plain", "reason"),
    [
        (fewer, None, {}, "and its cell needs"),
        (
            lambda body: body.update(evaluation=1),
            None,
            {},
            "its evaluation is 1, and this version of Crossfire reads 2",
        ),
        (lambda body: body.update(schema=2), None, {}, "its schema is 2"),
        (lambda body: body.update(format="zip"), None, {}, "does not say that it is one"),
        (lambda body: body.update(code="import os"), None, {}, "code: Extra inputs"),
        (lambda body: body.update(by="x" * 201), None, {}, "by: String should have at most 200"),
        (lambda body: body["sha256"].update(labels="0" * 64), None, {}, "its labels.npy was altered"),
        (lambda body: body["sha256"].pop("labels"), None, {}, "its arrays are not"),
        (lambda body: body["result"].update(status="failed"), None, {}, "it is failed and has metrics"),
        (None, None, {"../evil.py": b"x"}, "has a member '../evil.py' that"),
        (None, None, {"labels.npy": b""}, "its labels.npy has 0 bytes"),
        (None, None, {"receipt.json": b"{}"}, "does not say that it is one"),
        (None, None, {"receipt.json": b"\xff"}, "it is no JSON"),
        (None, None, {f"{i}.npy": b"" for i in range(30)}, "its directory has"),
        (None, lambda a: a.update(labels=a["labels"].astype("<f8")), {}, "its labels.npy is not <i8 of shape"),
        (None, lambda a: a.update(clean=a["clean"].reshape(140, 8, 8, 1)), {}, "its clean.npy is not |u1"),
        (None, lambda a: a.update(labels=a["labels"].astype(object)), {}, "its labels.npy"),
    ],
)
def test_what_is_no_receipt_is_refused_in_one_line(folder, tmp_path, claims, arrays, plain, reason):
    nothing = lambda _: None  # noqa: E731
    source, path = receipt(folder, "standard-fgsm-white-box"), tmp_path / "f.receipt"
    with pytest.raises(NoReceipt) as error:
        read(forged(source, path, claims or nothing, arrays or nothing, plain))
    assert reason in str(error.value) and "\n" not in str(error.value)
