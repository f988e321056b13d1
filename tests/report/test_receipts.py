"""A receipt holds what was judged, and what is altered in it, with every hash made again, is refused by its reason."""

import hashlib
import io
import json
import os
import re
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from bench import registry
from bench.cli import main
from bench.data.rows import sha_of_rows
from bench.keys import canonical_json, cell_key, training_key
from bench.outcomes import Outcomes
from bench.report.receipts import verdict
from bench.report.receipts.passes import remark
from bench.report.receipts.read import Contradiction, NoReceipt, read
from bench.report.receipts.redacted import redacted
from bench.report.receipts.weights import of_files
from bench.stats import wilson
from bench.store.working_store import Store
from bench.types import Cell, ModelRef, UsageError
from tests.report import fabricate
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
    options = ("--store", str(folder / "store"), "--out", str(folder / "out"), "--by", "Ada")
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
    members = {name: data for name, data in members.items() if name.removesuffix(".npy") in values}
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
    assert one.by == "Ada" and one.result.cell == measured.cell and one.result.key == measured.key
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
    options = ("--store", str(folder / "store"), "--by", "Ada", "--out", str(again))
    assert main(["export", "receipt", "resize-pad/fgsm/adaptive", *options]) == 0
    assert capsys.readouterr().out == f"{read(path).sha256}  {again}\n"
    assert again.read_bytes() == path.read_bytes()
    # Written again by other means, the same claims and arrays have the same name.
    assert read(forged(path, tmp_path / "copy.receipt")).sha256 == read(path).sha256


@pytest.mark.parametrize("by", ["", " ", "Ada\nEve", "Ada \x1b[31m", "Ada \u202eecalevoL", "A" * 201])
def test_a_name_that_is_not_seen_as_it_is_written_is_refused(folder, tmp_path, capsys, by):
    options = ("--store", str(folder / "store"), "--by", by, "--out", str(tmp_path / "f.receipt"))
    capsys.readouterr()
    assert main(["export", "receipt", "resize-pad/fgsm/adaptive", *options]) == 2
    error = capsys.readouterr().err
    assert "--by" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_name_in_a_receipt_is_shown_with_all_that_is_in_it_or_refused(folder, tmp_path):
    def by(text):
        return forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", lambda body: body.update(by=text))

    assert read(by("Ada \x1b[31m\nEve")).by == "Ada \\x1b[31m\\nEve" and read(by(None)).by is None
    for text in ("", " "):
        with pytest.raises(NoReceipt, match="by is empty; a receipt that names nobody says null"):
            read(by(text))


def test_a_name_in_a_receipt_cannot_leave_its_quotes(folder, tmp_path, capsys):
    name = "Bob' (2 cells verified: holds); 'x\" y"
    path = forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", lambda body: body.update(by=name))
    shown = "\"Bob' (2 cells verified: holds); 'x\\x22 y\""
    capsys.readouterr()
    assert main(["verify", str(path)]) == 0
    assert f"measured by {shown}, as they say; " in capsys.readouterr().out
    assert main(["leaderboard", "--receipts", str(path), "--format", "csv"]) == 0
    assert main(["leaderboard", "--receipts", str(path)]) == 0
    assert f"measured by {shown} (1 cell not verified)" in " ".join(capsys.readouterr().out.split())


def test_a_date_ahead_is_said(folder, tmp_path, capsys):
    def at(date):
        change = lambda body: body["result"]["provenance"].update(finished=f"{date}T00:00:00+00:00")  # noqa: E731
        capsys.readouterr()
        assert main(["verify", str(forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", change))]) == 0
        return capsys.readouterr().out

    out = at("2099-01-01")
    assert "said         date: it says that it was measured on 2099-01-01, and today is 20" in out
    assert out.endswith("; its date lies ahead\n") and " date: " not in at("2020-01-01")


def test_a_report_is_not_replaced_by_a_weaker_one(folder, tmp_path, capsys):
    path, out = receipt(folder, "standard-fgsm"), tmp_path / "f.json"
    (weights,) = (folder / "store" / "train").glob("*/weights.safetensors")
    whole = ("--weights", str(weights), "--out", str(out))
    assert verify(folder, path, *whole) == 0
    strong = out.read_bytes()
    lost = "weights, costs, clean answers, adversarial answers, accuracy, and is left as it is"
    capsys.readouterr()
    assert main(["verify", str(path), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert lost in captured.err and captured.err.count("\n") == 1 and "verdict: holds as far" in captured.out
    assert verify(folder, path, *whole, "--sample", "1") == 2
    assert "also says what became of accuracy, and" in capsys.readouterr().err
    assert out.read_bytes() == strong
    # Of two samples the larger one stays.
    sampled = tmp_path / "sampled.json"
    assert verify(folder, path, *whole[:2], "--sample", "129", "--out", str(sampled)) == 0
    body = json.loads(sampled.read_text(encoding="utf-8"))
    assert body["images_predicted"] == 140
    # As one of an image less, of which there is no accuracy.
    body |= {"images_predicted": 139, "findings": [each for each in body["findings"] if each["check"] != "accuracy"]}
    sampled.write_text(json.dumps(body), encoding="utf-8")
    capsys.readouterr()
    code = verify(folder, path, *whole[:2], "--sample", "1", "--out", str(sampled))
    small = capsys.readouterr()
    assert code == 2 and re.search(r"139 images, where (128|12) were predicted now", small.err), small.err
    # As much, a report on another receipt, and one that refutes it may stand in its place.
    assert verify(folder, path, *whole) == 0 and out.read_bytes() == strong
    other = forged(path, tmp_path / "other.receipt", lambda body: body.update(by="Eve"))
    assert main(["verify", str(other), "--out", str(out)]) == 0 and out.read_bytes() != strong
    # Of several each that is weaker is said, and the others are written.
    two, reports = receipt(folder, "resize-pad-fgsm-static"), tmp_path / "reports"
    reports.mkdir()
    kept = reports / f"{path.name}.json"
    kept.write_bytes(strong)
    capsys.readouterr()
    assert main(["verify", str(path), str(two), "--out", str(reports)]) == 2
    assert lost in capsys.readouterr().err and kept.read_bytes() == strong
    assert (reports / f"{two.name}.json").exists()


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
    # The name alone may stand in a hash.
    assert "/ada/" not in shown.model_dump_json() and cell_key(shown.cell) == shown.key == body["key"]


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
        (lambda body: body["trained"].clear(), None, "does not state a hash of the weights"),
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
    ("part", "changes", "line"),
    [
        ("metrics", {"accuracy_under_attack": 1.0}, "accuracy_under_attack is not between ci_low and ci_high"),
        ("metrics", {"ci_low": 1.0}, "accuracy_under_attack is not between ci_low and ci_high"),
        ("metrics", {"ci_low": None}, "accuracy_under_attack, ci_low and ci_high: some are there and some are not"),
        ("metrics", {"robust_accuracy": 1.0}, "robust_accuracy is above clean_accuracy or accuracy_under_attack"),
        ("metrics", {"robust_worst": 1.0}, "robust_worst is above robust_accuracy or robust_mean"),
        ("metrics", {"n": 7}, "metrics of 7 images in a cell of 140"),
        ("names", {"access": "static"}, "it is called static and was measured white-box"),
    ],
)
def test_claims_that_contradict_each_other_are_refuted_as_those_that_arrays_refute(
    folder, tmp_path, capsys, part, changes, line
):
    """Who reads the exit code takes 2 for a file that is none, and these are of one that lies."""
    path = forged(
        receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", lambda body: body["result"][part].update(changes)
    )
    capsys.readouterr()
    assert main(["verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert f"refuted      claims: {line}\n" in out and out.endswith("verdict: does not hold\n")
    assert main(["verify", str(path), "--json", "--out", str(tmp_path / "f.json")]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "does not hold"
    with pytest.raises(Contradiction, match=re.escape(line)):
        read(path)


@pytest.mark.parametrize("value", [-1.0, "far", None])
def test_a_value_that_no_result_has_makes_a_file_no_receipt(folder, tmp_path, capsys, value):
    change = lambda body: body["result"]["metrics"].update(mean_l2=value)  # noqa: E731
    capsys.readouterr()
    assert main(["verify", str(forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", change))]) == 2
    error = capsys.readouterr().err
    assert "is no receipt that can be read: result.metrics.mean_l2: " in error and error.count("\n") == 1


def test_the_first_image_that_left_its_budget_is_named_under_budget(folder, tmp_path, capsys):
    def far(arrays):
        # Two of them, of which the second is the farther.
        for image, by in ((77, 0.2), (130, 0.4)):
            pixel = arrays["clean"][image, 0, 3, 3] / 255
            arrays["adversarial"][image, 0, 3, 3] = pixel + by if pixel < 0.5 else pixel - by

    path = forged(receipt(folder, "standard-fgsm-white-box"), tmp_path / "f.receipt", lambda body: None, far)
    capsys.readouterr()
    assert main(["verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert "refuted      budget: its image 77 left its budget: linf distance 0.2 above eps 1/10\n" in out
    # The mean distances do not follow either.
    assert "refuted      claims: it says mean_linf" in out
    narrow = forged(receipt(folder, "standard-fgsm"), tmp_path / "g.receipt", lambda b: (narrower(b), with_key(b)))
    assert main(["verify", str(narrow)]) == 1
    out = capsys.readouterr().out
    assert "holds        claims: " in out and out.count("refuted") == 1


def test_a_method_in_a_file_may_be_called_by_its_whole_name(folder, tmp_path):
    def own(body):
        body["result"]["cell"]["attack"]["attack"]["name"] = body["result"]["names"]["attack"] = "mine.py:fgsm"
        with_key(body)

    assert read(forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", own)).result.names.attack


def test_images_that_were_chosen_are_refused(folder, tmp_path, capsys):
    source = receipt(folder, "standard-fgsm-white-box")
    order = np.arange(140)
    # Two images change places: the same rows in another order, which is the smallest choice there is.
    order[[5, 9]] = 9, 5
    arrays = {}

    def chosen(known):
        for name in known:
            known[name][:] = known[name][order]
        arrays.update(known)

    def of_subset(subset):
        def claims(body):
            for data in (body["result"]["cell"]["data"], body["result"]["cell"]["attack"]["data"]):
                data["indices_sha"], data["subset"] = sha_of_rows(arrays["rows"]), subset
            with_key(body)
            right = [arrays[f"predictions_{name}"] == arrays["labels"] for name in ("clean", "adversarial")]
            with_outcomes(body, *right)

        return claims

    with pytest.raises(Contradiction, match="the first 140 of the set, and its image 5 is row 9: images were chosen"):
        read(forged(source, tmp_path / "first.receipt", of_subset("first"), chosen))
    # Which rows the other way of choosing takes is known with the set alone.
    path = forged(source, tmp_path / "stratified.receipt", of_subset("stratified"), chosen)
    assert read(path).result.cell.data.subset == "stratified"
    capsys.readouterr()
    assert verify(folder, path) == 1
    assert "not the 140 that 'stratified' takes from digits test on this machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # Such an image would count as unbroken whatever is answered.
        (lambda arrays: arrays["targets"].__setitem__(3, arrays["labels"][3]), "target is their own class"),
        (lambda arrays: arrays["targets"].__setitem__(3, -1), "it has images without a target"),
        (lambda arrays: arrays["targets"].__setitem__(3, 10), "its targets are not all among 10 classes"),
    ],
)
def test_targets_that_no_attack_would_choose_are_refused(folder, tmp_path, change, reason):
    with pytest.raises(Contradiction, match=reason):
        read(forged(receipt(folder, "standard-pgd-second"), tmp_path / "f.receipt", lambda body: None, change))


@pytest.mark.parametrize(
    ("claims", "arrays", "plain", "reason"),
    [
        (fewer, None, {}, "and its cell needs"),
        (lambda body: body["sha256"].update(targets="0" * 64), None, {}, "its arrays are not"),
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
        (
            lambda body: body["result"].update(status="failed"),
            None,
            {},
            "a receipt is of an attacked cell that is done",
        ),
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


def without_draws(body):
    """State a random defense as if it were none."""
    body["result"]["metrics"] |= {"robust_mean": None, "robust_worst": None, "protocol": "deterministic"}
    body["result"]["flags"] = []
    for name in ("shares_clean", "shares_adversarial"):
        body["sha256"].pop(name)


def without_shares(arrays):
    for name in ("shares_clean", "shares_adversarial"):
        del arrays[name]


def test_a_random_defense_that_is_stated_as_none_is_refuted(folder, tmp_path, capsys):
    source = receipt(folder, "resize-pad-fgsm-adaptive")

    def alone(out, claims):
        return forged(source, tmp_path / out, claims, without_shares)

    with pytest.raises(Contradiction, match="resize-pad answers at random, and no robust accuracy over its draws"):
        read(alone("f.receipt", without_draws))

    def by_other_code(body):
        without_draws(body)
        body["result"]["cell"]["step"]["code_sha"] = body["result"]["cell"]["attack"]["step"]["code_sha"] = "0" * 64
        with_key(body)

    # Of other code the registry knows nothing; with the weights the defense is built, and draws.
    path = alone("g.receipt", by_other_code)
    assert main(["verify", str(path)]) == 0
    capsys.readouterr()
    assert verify(folder, path) == 1
    line = "refuted      draws: resize-pad draws at random and is asked 5 times, and shares of its draws are not stated"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cell", "protocol", "right"),
    [
        ("standard-fgsm", "random", "deterministic"),
        ("standard-fgsm", "<script>x", "deterministic"),
        ("standard-fgsm", "majority-of-5", "deterministic"),
        ("resize-pad-fgsm-adaptive", "majority-of-10", "majority-of-5"),
        ("resize-pad-fgsm-adaptive", "deterministic", "majority-of-5"),
    ],
)
def test_a_protocol_that_is_not_that_of_the_arrays_is_refused(folder, tmp_path, cell, protocol, right):
    claims = lambda body: body["result"]["metrics"].update(protocol=protocol)  # noqa: E731
    with pytest.raises(Contradiction) as error:
        read(forged(receipt(folder, cell), tmp_path / "f.receipt", claims))
    assert f"its protocol is '{protocol}'" in str(error.value) and f"'{right}'" in str(error.value)


def test_shares_are_fifths(folder, tmp_path):
    known = {}

    def sixths(arrays):
        shares = arrays["shares_adversarial"]
        assert (shares == 1).any()
        shares[shares == 1] = np.float32(5 / 6)
        known.update(arrays)

    def stated(body):
        clean = known["predictions_clean"] == known["labels"]
        mean = float((clean * known["shares_adversarial"]).mean())
        body["result"]["metrics"] |= {"robust_mean": mean, "robust_worst": 0.0}

    with pytest.raises(Contradiction, match="shares_adversarial are not all shares of 5 draws"):
        read(forged(receipt(folder, "resize-pad-fgsm-adaptive"), tmp_path / "f.receipt", stated, sixths))


@pytest.mark.parametrize(
    ("params", "why"),
    [
        # As a run of digits states them: docs/attacks.md has steps as a whole number and six parameters.
        (lambda params: params | {"steps": "2"}, "its pgd has steps = '2', which a run writes 2"),
        (lambda params: params | {"restarts": 1.0}, "its pgd has restarts = 1.0, which a run writes 1"),
        (
            lambda params: {},
            "its pgd lacks steps, step_size, restarts, start, loss and 1 more, which a run always states",
        ),
        (
            lambda params: params | {"steps": -2},
            "a run here would refuse its parameters: attack pgd: steps: input should",
        ),
        # A parameter that names what is there is not opened, and no way round.
        (lambda params: params | {"steps": "/"}, "attack pgd: steps: input should be a valid integer"),
        (lambda params: params | {"depth": 2}, "attack pgd: unknown key 'depth'"),
    ],
)
def test_parameters_that_no_run_would_state_are_refused_and_of_other_code_said(folder, tmp_path, capsys, params, why):
    def other_way(body):
        attack = body["result"]["cell"]["attack"]["attack"]
        attack["params"] = params(attack["params"])
        with_key(body)

    source = receipt(folder, "standard-pgd-second")
    with pytest.raises(Contradiction) as error:
        read(forged(source, tmp_path / "f.receipt", other_way))
    assert why in str(error.value)

    def by_other_code(body):
        body["result"]["cell"]["attack"]["attack"]["code_sha"] = "0" * 64
        other_way(body)

    capsys.readouterr()
    assert verify(folder, forged(source, tmp_path / "g.receipt", by_other_code)) == 0
    out = capsys.readouterr().out
    assert "said         code: other code here: pgd; " in out and why in out


def test_passes_of_an_attack_of_which_nothing_is_known_are_not_checked(folder, tmp_path, capsys):
    def own(body):
        body["result"]["cell"]["attack"]["attack"]["name"] = "mine.py:fgsm"
        with_key(body)

    path = forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", own)
    capsys.readouterr()
    assert verify(folder, path) == 0
    out = capsys.readouterr().out
    assert "not checked  passes: mine.py:fgsm is not Crossfire's own, so nothing here says what it takes" in out
    # Its images are in the ball; which norms it has is another matter.
    assert "holds        budget: 140 images in the box and within linf 1/10" in out
    assert (
        "not checked  budget: mine.py:fgsm is not Crossfire's own, so nothing here says whether it keeps to linf" in out
    )
    assert out.endswith("verdict: holds as far as it was checked\n")


def verify(folder, path, *options):
    """Return the exit code of ``verify``, with the weights of the store unless ``options`` say something else."""
    (weights,) = (folder / "store" / "train").glob("*/weights.safetensors")
    return main(["verify", str(path), *(options or ("--weights", str(weights)))])


@pytest.mark.parametrize(
    "name",
    [
        "standard-fgsm",
        "standard-pgd",
        "resize-pad-fgsm-static",
        "resize-pad-fgsm-adaptive",
        "resize-pad-pgd-second-adaptive",
    ],
)
def test_every_answer_is_repeated_also_of_random_steps_and_targeted_attacks(folder, capsys, name):
    path = receipt(folder, name)
    capsys.readouterr()
    assert verify(folder, path) == 0
    out = capsys.readouterr().out
    assert out.count("140 of 140 repeated") == 2 and out.endswith("verdict: holds\n")
    assert "140 clean images and labels are those of digits test on this machine" in out
    assert "within linf 1/10; the largest distance is 0.1" in out
    assert read(path).sha256 in out and "\x1b" not in out
    (weights,) = (folder / "store" / "train").glob("*/weights.safetensors")
    assert verify(folder, path, "--weights", str(weights), "--sample", "13") == 0
    # The last chunk alone has 12.
    out = capsys.readouterr().out
    assert re.search(r"(128|140) of \1 repeated", out)
    assert out.endswith("verdict: holds as far as it was checked\n") == ("140 of 140" not in out)


def counted_by_hand():
    """Return parameters and FLOPs of a pass of the network, which has 8x8 images, 4, 8 and 16 channels and 16 units."""
    # Of each layer: places of its output, outputs, and inputs of one output.
    layers = [(64, 4, 9), (64, 8, 36), (16, 16, 72), (1, 16, 64), (1, 10, 16)]
    params = sum(outputs * (inputs + 1) for _, outputs, inputs in layers)
    return params, sum(2 * places * outputs * inputs for places, outputs, inputs in layers)


def test_parameters_and_flops_are_counted_again(folder, capsys):
    params, flops = counted_by_hand()
    capsys.readouterr()
    assert verify(folder, receipt(folder, "resize-pad-fgsm-adaptive")) == 0
    line = f"holds        costs: {params:,} parameters and {flops:,} FLOPs of an image, counted again; passes and"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cost", "name", "what"),
    [
        ("defense_cost", "params", "parameters"),
        ("defense_cost", "test_flops", "FLOPs of an image through the defense"),
        ("defense_cost", "test_forwards", "forwards of an image through the defense"),
        ("cost", "flops_per_example", "FLOPs of the attack on an image"),
    ],
)
def test_costs_that_are_not_those_of_the_weights_are_refused_with_both_numbers(
    folder, tmp_path, capsys, cost, name, what
):
    def twice(body):
        body["result"][cost][name] *= 2

    for cell in ("standard-fgsm", "resize-pad-fgsm-adaptive"):
        path = forged(receipt(folder, cell), tmp_path / "f.receipt", twice)
        body = json.loads(zipfile.ZipFile(path).read("receipt.json"))
        said = body["result"][cost][name]
        capsys.readouterr()
        assert verify(folder, path) == 1
        line = f"refuted      costs: it says {said:,.0f} {what}, and {said / 2:,.0f} are counted\n"
        out = capsys.readouterr().out
        assert line in out and out.endswith("verdict: does not hold\n")
        # Without weights it is only a claim.
        assert main(["verify", str(path)]) == 0


def claimed(result, forwards, backwards, use="pgd", right=70, flags=(), eot=1, **parameters):
    """Return a result whose attack is another one, which left the first ``right`` of 140 images right."""
    max_passes, cell = parameters.pop("max_passes", None), result.cell
    method = registry.find("attack", use).ref(parameters)
    attack = cell.attack.model_copy(update={"attack": method, "max_passes": max_passes, "eot": eot, "target": None})
    bits = Outcomes.of([image < right for image in range(140)]).encode()
    cost = result.cost.model_copy(update={"forwards_per_example": forwards, "backwards_per_example": backwards})
    changes = {"clean_bits": bits, "adversarial_bits": bits, "cost": cost, "flags": flags}
    return result.model_copy(update={"cell": cell.model_copy(update={"attack": attack}), **changes})


@pytest.mark.parametrize(
    ("cell", "passes", "given", "why"),
    [
        ("standard", (20, 20), {"rule": "last-iterate"}, None),
        ("standard", (1, 1), {"rule": "last-iterate"}, "pgd with its settings takes 20 and 20 for each image"),
        # Five starts leave the images that broke at the first.
        ("standard", (20, 20), {"rule": "last-iterate", "restarts": 5, "right": 0}, None),
        ("standard", (10, 10), {"rule": "any-iterate"}, None),
        ("standard", (9, 10), {"rule": "any-iterate"}, "takes 20 and 20 for each of 70 images that stayed right"),
        ("standard", (1, 1), {"rule": "any-iterate", "right": 0}, None),
        ("standard", (1, 0), {"use": "autoattack"}, "takes 5,101 and 100 for each of 70 images that stayed right"),
        ("standard", (1, 0), {"use": "autoattack", "right": 0}, None),
        ("standard", (2551, 50), {"use": "autoattack"}, None),
        ("standard", (1, 1), {"use": "cw"}, None),
        ("standard", (30, 30), {"max_passes": 60, "steps": 50}, None),
        ("standard", (40, 30), {"max_passes": 60}, "and max_passes = 60 allows 60 together"),
        # A gradient of zero is passed back as any other, so a flag of that makes nothing plausible.
        ("standard", (20, 0), {"flags": ("zero-gradient",)}, "pgd with its settings takes 20 and 20"),
        ("resize-pad", (20, 0), {"flags": ("zero-gradient",)}, "pgd with its settings takes 20 and 20"),
        ("resize-pad", (20000, 20000), {"eot": 1000}, None),
        ("resize-pad", (1, 1), {"eot": 1000, "right": 0}, "takes 20,000 and 20,000 for each image"),
        # With one draw at a time it says nothing of random functions.
        ("resize-pad", (1, 1), {"use": "autoattack"}, None),
        # One forward and one backward are what FGSM is; twice the forwards and two are what bfloat16 and starts add.
        ("standard", (4, 1), {"use": "fgsm"}, None),
        ("standard", (5, 1), {"use": "fgsm"}, "and fgsm with its settings takes at most 1 and 1"),
        ("standard", (1, 2), {"use": "fgsm"}, "and fgsm with its settings takes at most 1 and 1"),
        ("standard", (1000, 1000), {"use": "fgsm", "right": 0}, "takes at most 1 and 1"),
        ("resize-pad", (20, 20), {"use": "fgsm", "eot": 20}, None),
        ("resize-pad", (20, 21), {"use": "fgsm", "eot": 20}, "takes at most 20 and 20"),
        # Searches that stall, and suites that state a maximum, have an end as well.
        ("standard", (100_000, 1), {"use": "cw", "steps": 10, "searches": 2}, "takes at most 20 and 20"),
        ("standard", (1e6, 1e6), {"use": "autoattack"}, "autoattack with its settings takes at most "),
    ],
)
def test_passes_that_the_settings_cannot_give_get_a_remark(folder, cell, passes, given, why):
    access = "white-box" if cell == "standard" else "adaptive"
    one = claimed(result(folder, f"digits/small-cnn/{cell}/fgsm/{access}"), *passes, **given)
    said = remark(one)
    assert (said is None) == (why is None) and (why is None or why in said)


def test_a_budget_that_no_image_shows_is_not_checked(folder, tmp_path, capsys):
    def of(name, norm, eps):
        def claims(body):
            attack = body["result"]["cell"]["attack"]
            attack["threat"] = {"norm": norm, "eps": eps}
            if name != "fgsm":
                method = registry.find("attack", name).ref({})
                attack["attack"] = method.model_dump(mode="json")
                body["result"]["names"]["attack"] = name
            else:
                # Its code here cannot have a flow; that of another version is not known.
                attack["attack"]["code_sha"] = "0" * 64
            with_key(body)

        return forged(receipt(folder, "standard-fgsm"), tmp_path / f"{name}-{norm}.receipt", claims)

    for path, line in (
        (of("sta", "flow", "1/10"), "a flow budget cannot be read off images"),
        (of("fwa", "wasserstein", "1/10"), "a wasserstein budget cannot be read off images"),
        (of("corruption", "corruption", None), "a corruption has no budget"),
        (of("fgsm", "flow", "1/10"), "here norm 'flow' is not one that fgsm keeps to: linf, l2"),
    ):
        capsys.readouterr()
        assert main(["verify", str(path)]) == 0
        out = capsys.readouterr().out
        budget = [each for each in out.splitlines() if " budget: " in each]
        assert any(line in each for each in budget) and all(each.startswith("  not checked  ") for each in budget)
        assert "verdict: holds as far as it was checked" in out


def test_a_norm_that_the_code_here_cannot_have_is_refused_whatever_the_images_are(folder, tmp_path):
    def smeared(body):
        body["result"]["cell"]["attack"]["threat"] = {"norm": "flow", "eps": "1/10"}
        with_key(body)

    with pytest.raises(Contradiction, match="norm 'flow' is not one that fgsm keeps to: linf, l2"):
        read(forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", smeared))


def test_implausible_passes_are_said_in_the_verdict_and_in_tables(folder, tmp_path, capsys):
    def fewer_passes(body):
        for name in ("forwards_per_example", "backwards_per_example", "flops_per_example"):
            body["result"]["cost"][name] /= 2

    path = forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", fewer_passes)
    capsys.readouterr()
    assert verify(folder, path) == 0
    out = capsys.readouterr().out
    why = "it says 0.5 forwards and 0.5 backwards an image, and fgsm with its settings takes 1 and 1 for each image"
    assert f"said         passes: not plausible: {why}\n" in out
    assert out.endswith("verdict: holds; its passes are not plausible\n")
    assert main(["leaderboard", "--receipts", str(path), "--format", "md"]) == 0
    assert f"fgsm: not plausible: {why}" in capsys.readouterr().out
    assert verify(folder, path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["remarks"] == [f"not plausible: {why}"]


def test_passes_of_an_attack_and_seconds_stay_claims(folder, tmp_path, capsys):
    def other(body):
        attack, defense = body["result"]["cost"], body["result"]["defense_cost"]
        for name in ("forwards_per_example", "backwards_per_example", "flops_per_example", "seconds_per_example"):
            attack[name] *= 2
        defense["test_seconds"] *= 2

    path = forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", other)
    capsys.readouterr()
    assert verify(folder, path) == 0
    assert "passes and seconds are what the receipt says" in capsys.readouterr().out


def test_exported_weights_are_those_of_the_store_and_others_are_refused_before_predicting(folder, tmp_path, capsys):
    path = receipt(folder, "standard-fgsm")
    (key,) = [each.name[:12] for each in (folder / "store" / "train").iterdir()]
    assert main(["export", "weights", key, "--store", str(folder / "store"), "--out", str(tmp_path / "net")]) == 0
    assert verify(folder, path, "--weights", str(tmp_path / "net")) == 0
    tensors = load_file(tmp_path / "net" / "model.safetensors")
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1e-7}, tmp_path / "other.safetensors")
    capsys.readouterr()
    for wrong in (str(tmp_path / "other.safetensors"), "pyautoattack"):
        assert verify(folder, path, "--weights", wrong) == 2
        error = capsys.readouterr().err
        stated = next(iter(read(path).claims.trained.values()))
        assert stated in error and "is not what" in error and error.count("\n") == 1


def test_weights_in_half_precision_are_taken_and_said(folder, tmp_path, capsys):
    path = receipt(folder, "standard-fgsm")
    (key,) = [each.name[:12] for each in (folder / "store" / "train").iterdir()]
    out = tmp_path / "net"
    options = ("--store", str(folder / "store"), "--out", str(out), "--half", "--part-size", "5kB")
    assert main(["export", "weights", key, *options]) == 0
    capsys.readouterr()
    code = verify(folder, path, "--weights", str(out))
    said = capsys.readouterr().out
    assert "small-cnn in half precision, in which answers near a boundary may be others" in said
    # Answers are judged as they are.
    assert (code, "140 of 140 repeated" in said) in ((0, True), (1, False), (1, True))
    assert said.endswith("; predicted with weights in half precision\n")
    # A hash that is not that of their rounding is refuted by the whole ones, and a file that was not rounded is none.
    (whole,) = (folder / "store" / "train").glob("*/weights.safetensors")
    state = lambda value: lambda body: body.update(halved=dict.fromkeys(body["halved"], value))  # noqa: E731
    false = forged(path, tmp_path / "false.receipt", state("0" * 64))
    assert verify(folder, false, "--weights", str(whole)) == 1
    assert "refuted      weights: it states a hash of small-cnn in half precision" in capsys.readouterr().out
    save_file({name: tensor * 1.25 for name, tensor in load_file(whole).items()}, tmp_path / "other.safetensors")
    claimed = forged(path, tmp_path / "claimed.receipt", state(of_files([tmp_path / "other.safetensors"])))
    assert verify(folder, claimed, "--weights", str(tmp_path / "other.safetensors")) == 2
    assert "its numbers were not rounded to float16" in capsys.readouterr().err
    # A receipt that does not state their hash knows them not.
    old = forged(path, tmp_path / "f.receipt", lambda body: body.pop("halved"))
    assert verify(folder, old) == 0 and verify(folder, old, "--weights", str(out)) == 2


def test_several_receipts_are_judged_each_on_its_own(folder, tmp_path, capsys):
    good, other = receipt(folder, "standard-fgsm"), receipt(folder, "resize-pad-fgsm-static")
    out = tmp_path / "reports"
    (weights,) = (folder / "store" / "train").glob("*/weights.safetensors")
    options = ("--weights", str(weights), "--out", str(out))
    capsys.readouterr()
    assert main(["verify", str(good), str(other), *options]) == 0
    said = capsys.readouterr().out
    assert said.count("verdict: holds\n") == 2 and said.endswith("\n2 receipts: 2 hold\n")
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{path.name}.json" for path in (good, other))
    # Weights of another receipt are passed over; that of none is not checked.
    (tmp_path / "none.receipt").write_text("nothing", encoding="utf-8")
    bad = forged(good, tmp_path / "bad.receipt", narrower)
    assert main(["verify", str(good), str(bad), str(tmp_path / "none.receipt"), *options[:2]]) == 1
    said = capsys.readouterr()
    assert said.out.endswith("3 receipts: 1 hold, 1 do not hold, 1 could not be checked\n")
    assert re.search(r"^error: .*none\.receipt is no receipt", said.err, re.MULTILINE)
    assert main(["verify", str(good), str(tmp_path / "none.receipt"), "--json"]) == 2
    said = capsys.readouterr()
    assert [(each["file"], each["verdict"]) for each in json.loads(said.out)] == [
        (str(good), "holds as far as it was checked")
    ]
    assert "2 receipts: 1 hold as far as they were checked, 1 could not be checked" in said.err
    assert main(["verify", str(good), str(folder / "out")]) == 2
    assert main(["verify", str(good), str(good), "--out", str(out)]) == 2


def test_without_weights_or_the_set_it_says_what_was_not_checked(folder, tmp_path, capsys):
    path = receipt(folder, "standard-fgsm")
    report = tmp_path / "report.json"
    assert verify(folder, path, "--json", "--out", str(report)) == 0
    body = json.loads(capsys.readouterr().out)
    assert body == json.loads(report.read_text()) and body["verdict"] == "holds as far as it was checked"
    assert {each["check"]: each["state"] for each in body["findings"]}["weights"] == "not checked"

    def elsewhere(body):
        cell = body["result"]["cell"]
        body["result"]["names"]["dataset"] = "folder:images"
        for images in of_images(cell):
            images["name"] = "folder:images"

    # Names of sets are in no key.
    other = forged(
        path, tmp_path / "f.receipt", elsewhere, lambda arrays: arrays["clean"].__setitem__(1, arrays["clean"][0])
    )
    assert verify(folder, forged(path, tmp_path / "g.receipt", elsewhere)) == 0
    assert (
        "not checked  images: not checked against the set: the results name 'folder:images'" in capsys.readouterr().out
    )
    assert verify(folder, other) == 1
    assert "left its budget" in capsys.readouterr().out


def of_images(cell):
    """Return all references to images in a cell: those that were measured, and those of trainings."""
    trainings = [model["weights"]["data"] for model in (cell["model"], cell["attack"]["model"])]
    return [cell["data"], cell["attack"]["data"], *trainings]


def invented(arrays):
    """Answers are made up."""
    wrong = np.flatnonzero(arrays["predictions_adversarial"] != arrays["labels"])[:40]
    arrays["predictions_adversarial"][wrong] = arrays["labels"][wrong]


def with_other_labels(arrays):
    """Labels are exchanged where the answer was wrong anyway."""
    wrong = np.flatnonzero(arrays["predictions_adversarial"] != arrays["labels"])[:30]
    arrays["labels"][wrong] = arrays["predictions_adversarial"][wrong]


def replaced(arrays):
    """Clean images are replaced by their attacked neighbours, so that the attack seems to have moved nothing."""
    some = slice(0, 20)
    arrays["clean"][some] = np.round(arrays["adversarial"][some] * 255)
    arrays["adversarial"][some] = arrays["clean"][some].astype(np.float32) / 255
    arrays["predictions_clean"][some] = arrays["predictions_adversarial"][some]


def shuffled(arrays):
    """A set of the same shape, under the name of digits: here it is its own test split in another order."""
    for name in set(arrays) - {"rows"}:
        arrays[name][:] = np.roll(arrays[name], 1, axis=0)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (invented, ("adversarial answers: 100 of 140 repeated; other at image", "refuted      accuracy")),
        (with_other_labels, ("images: 30 of 140 labels are not those of digits test on this machine",)),
        (replaced, ("images: 20 of 140 clean images are not those of digits",)),
        (shuffled, ("images: 140 of 140 clean images are not those",)),
    ],
)
def test_a_forgery_that_agrees_with_itself_is_refused_against_the_set_or_the_network(
    folder, tmp_path, capsys, change, reasons
):
    known = {}

    def arrays_of(arrays):
        change(arrays)
        known.update(arrays)

    def stated(body):
        """Give the claims all that follows from the arrays."""
        right = [known[f"predictions_{name}"] == known["labels"] for name in ("clean", "adversarial")]
        with_outcomes(body, *right)
        moved = np.abs(known["adversarial"] - known["clean"].astype(np.float32) / 255).reshape(140, -1).astype(float)
        means = {"mean_linf": moved.max(1).mean(), "mean_l2": np.sqrt((moved**2).sum(1)).mean()}
        body["result"]["metrics"] |= {name: float(value) for name, value in means.items()}

    source = receipt(folder, "standard-fgsm-white-box")
    capsys.readouterr()
    assert verify(folder, forged(source, tmp_path / "f.receipt", stated, arrays_of)) == 1
    out = capsys.readouterr().out
    assert all(reason in out for reason in reasons) and "refuted" in out
    assert out.endswith("verdict: does not hold\n")


def test_of_another_pixel_within_the_budget_it_is_the_answer_that_counts(folder, tmp_path, capsys):
    source = receipt(folder, "standard-fgsm-white-box")

    def pixel(arrays):
        arrays["adversarial"][7, 0, 0, 0] = arrays["clean"][7, 0, 0, 0] / 255

    code = verify(folder, forged(source, tmp_path / "f.receipt", lambda body: None, pixel))
    out = capsys.readouterr().out
    # One image more or less answered as stated is all that can follow.
    assert (code, "adversarial answers: 140 of 140" in out) in ((0, True), (1, False))
    assert code == 0 or "other at image 7," in out or "other at image 7;" in out


def test_round_off_is_a_small_gap_at_few_images(folder):
    def state(differing, gap, asked=140):
        where = np.arange(differing)
        return verdict.of_answers("clean answers", asked, where, np.full(differing, gap), margin=2.0).state

    assert [state(0, 0.0), state(1, 1.9e-3), state(1, 2.1e-3), state(2, 1e-6)] == [
        "holds",
        "round-off",
        "refuted",
        "refuted",
    ]
    assert [state(10, 1e-6, 1000), state(11, 1e-6, 1000)] == ["round-off", "refuted"]


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ({"name": "net.py:net"}, "'net.py:net', which is not opened"),
        (
            {"params": {"channels": "net.py"}, "code_sha": "0" * 64},
            "small-cnn is to read 'net.py', which is not opened",
        ),
    ],
)
def test_what_a_receipt_names_is_not_opened_without_trust(folder, tmp_path, monkeypatch, capsys, network, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("raise SystemExit('it was run')\n")

    def own(body):
        cell = body["result"]["cell"]
        for model in (cell["model"], cell["attack"]["model"]):
            model["network"] |= network
        body["result"]["names"]["model"] = network.get("name", "small-cnn")
        body["trained"] = {training_key(ModelRef.model_validate(cell["model"])): next(iter(body["trained"].values()))}
        del body["halved"]
        with_key(body)

    path = forged(receipt(folder, "standard-fgsm"), tmp_path / "f.receipt", own)
    capsys.readouterr()
    assert verify(folder, path) == 2
    assert reason in capsys.readouterr().err


def test_a_table_of_receipts_says_who_measured_what_and_what_was_verified(folder, tmp_path, capsys):
    copy = tmp_path / "receipts"
    copy.mkdir()
    for path in (folder / "out").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    one = copy / receipt(folder, "standard-fgsm").name
    assert verify(folder, one, "--out", f"{one}.json") == 0
    forged(one, copy / "bad.receipt", narrower)
    capsys.readouterr()
    assert main(["leaderboard", "--receipts", str(copy), "--format", "md"]) == 0
    said = capsys.readouterr()
    ada = "'Ada'"
    assert (
        f"standard, white-box: measured by {ada} (1 cell verified: holds as far as it was checked; 1 cell not"
        in said.out
    )
    assert f"resize-pad, static: measured by {ada} (2 cells not verified)" in said.out
    assert said.err.count("\n") == 1 and "left out" in said.err and "its key is" in said.err
    # The report is that of this receipt alone.
    other = receipt(folder, "standard-pgd")
    (copy / f"{other.name}.json").write_bytes((copy / f"{one.name}.json").read_bytes())
    assert main(["leaderboard", "--receipts", str(copy / other.name)]) == 0
    assert "not verified" in " ".join(capsys.readouterr().out.split())
    assert main(["leaderboard", "--receipts", str(copy / "bad.receipt")]) == 2
    assert main(["leaderboard", "--receipts", str(copy), "--cover"]) == 2


def test_a_flag_of_a_receipt_that_no_run_gives_is_in_no_table_of_receipts_and_said_once(folder, tmp_path, capsys):
    path = tmp_path / "f.receipt"
    forged(
        receipt(folder, "standard-fgsm"), path, lambda body: body["result"].update(flags=["no-op", "verified twice"])
    )
    capsys.readouterr()
    assert main(["leaderboard", "--receipts", str(path), "--format", "json"]) == 0
    said = capsys.readouterr()
    line = f"left out: {path}: its flag 'verified twice', which no run of this version gives"
    assert said.err == f"warning: {line}\n"
    body = json.loads(said.out)
    assert [cell["flags"] for cell in body["cells"]] == [["no-op"]]
    assert said.out.count("verified twice") == 1 and line in str(body)


def test_a_table_of_receipts_says_which_were_predicted_with_weights_in_half_precision(folder, tmp_path, capsys):
    path = tmp_path / receipt(folder, "standard-fgsm").name
    path.write_bytes(receipt(folder, "standard-fgsm").read_bytes())
    report = path.with_name(f"{path.name}.json")
    (weights,) = (folder / "store" / "train").glob("*/weights.safetensors")
    assert verify(folder, path, "--weights", str(weights), "--out", str(report)) == 0

    def said():
        capsys.readouterr()
        assert main(["leaderboard", "--receipts", str(path), "--format", "md"]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if "measured by" in line)

    assert said().endswith("(1 cell verified: holds)")
    # As verify writes it with weights in half precision of which no answer is another.
    body = json.loads(report.read_text(encoding="utf-8"))
    for finding in body["findings"]:
        if finding["check"] == "weights":
            finding["state"] = "said"
    report.write_text(json.dumps(body), encoding="utf-8")
    assert said().endswith("(1 cell verified: holds, with weights in half precision)")


@settings(max_examples=40)
@given(st.data())
def test_a_receipt_with_damaged_bytes_is_refused_in_one_line_or_is_the_same(folder, data):
    whole = receipt(folder, "standard-fgsm-white-box").read_bytes()
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        # The directory, its end and local heads are where a reader can be led astray.
        place = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.integers(len(whole) - 900, len(whole) - 1)))
        damaged[place] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    path = folder / "damaged.receipt"
    path.write_bytes(damaged[:length])
    try:
        one = read(path)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert one.sha256 == read(receipt(folder, "standard-fgsm-white-box")).sha256


def test_what_would_unpack_to_much_more_is_refused_before(folder, tmp_path):
    path = tmp_path / "bomb.receipt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("receipt.json", bytes(2**26 + 1))
    with pytest.raises(NoReceipt, match="would unpack to 67,108,865"):
        read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, pytest.warns(UserWarning):
        for _ in range(2):
            archive.writestr("receipt.json", b"{}")
    with pytest.raises(NoReceipt, match="a member twice"):
        read(path)
    whole = receipt(folder, "standard-fgsm-white-box").read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + whole)
    with pytest.raises(NoReceipt, match="something between them"):
        read(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(NoReceipt, match="a device, not a file"):
        read(path)


@pytest.mark.parametrize(("low", "holds"), [(3.3e-18, True), (0.0, True), (0.01, False)])
def test_an_accuracy_at_the_end_of_its_interval_is_within_it(low, holds):
    own = fabricate.result("standard", "pgd", clean=[True] * 9, adversarial=[False] * 9)
    claimed = own.model_copy(update={"metrics": own.metrics.model_copy(update={"ci_low": low})})
    found = verdict.of_accuracy(SimpleNamespace(result=claimed), np.zeros(9, dtype=bool))
    assert (found.state == "holds") == holds
