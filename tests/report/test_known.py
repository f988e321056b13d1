"""What is known of a submitted receipt is true: honest ones are never accused, and false claims on images are seen."""

import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from bench.cli import command, main
from bench.data import named as named_sets
from bench.data.rows import sha_of_rows
from bench.keys import training_key
from bench.report.leaderboard.tables import build
from bench.report.receipts.read import Contradiction, read
from bench.report.render.latex import latex
from bench.report.submissions import merge, render
from bench.report.submissions import read as submitted
from bench.types import ModelRef
from tests.report.test_receipts import forged, of_images, with_key
from tests.schedule import small

#: Two seeds; steps that do not draw, that draw and that train; attacks of two norms, with a target and from a source.
HONEST = f"""
schema = 1
name = "honest"
seeds = [0, 1]
{small.DIGITS}
[train]
epochs = 2
batch = 50
lr = 0.05
eps = "0.1"

[[defenses]]
use = "standard"

[[defenses]]
use = "jpeg"
quality = 50

[[defenses]]
use = "resize-pad"

[[defenses]]
use = "tpap"
beta = "0.1"

[[attacks]]
use = "fgsm"
eps = "0.1"

[[attacks]]
use = "pgd"
eps = "0.1"
steps = 2
target = "second"

[[attacks]]
use = "pgd"
norm = "l2"
eps = "0.5"
steps = 2
access = ["transfer"]
source = "standard"
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A store, and a submission of all its receipts with the weights of every training."""
    folder = tmp_path_factory.mktemp("honest")
    assert small.run(folder, text=HONEST) == 0
    root = folder / "submissions" / "ada"
    store = ("--store", str(folder / "store"))
    assert main(["export", "receipt", "digits", *store, "--out", str(root), "--by", "Ada"]) == 0
    names = []
    for path in sorted((folder / "store" / "train").glob("*/weights.safetensors")):
        names.append(f"w{len(names)}.safetensors")
        shutil.copy(path, root / names[-1])
    (root / "submission.toml").write_text(f'who = "Ada"\nweights = {names}\n', encoding="utf-8")
    return folder


def verified(root, out, capsys):
    capsys.readouterr()
    code = main(["verify", str(root), "--device", "cpu", "--out", str(out)])
    lines = (line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    return code, {line.split(": ", 1)[0]: (state, line.split(": ", 1)[1]) for state, line in lines}


def test_no_honest_receipt_is_accused(honest, tmp_path, capsys):
    code, lines = verified(honest / "submissions", tmp_path / "out", capsys)
    assert code == 0 and len(lines) > 20
    assert {state for state, _ in lines.values()} == {"holds"}
    assert {words for _, words in lines.values()} == {"predictions repeated"}


def receipt(folder, name):
    return next(path for path in sorted((folder / "submissions" / "ada").glob("*.receipt")) if name in path.name)


def test_weights_exported_in_half_precision_are_those_that_receipts_state(honest, tmp_path, capsys):
    root, half = tmp_path / "submissions", tmp_path / "submissions" / "bob"
    half.mkdir(parents=True)
    names = []
    for training in sorted((honest / "store" / "train").iterdir()):
        out = tmp_path / training.name
        options = ("--store", str(honest / "store"), "--out", str(out), "--half")
        assert main(["export", "weights", training.name[:12], *options]) == 0
        names.append(f"h{len(names)}.safetensors")
        shutil.copy(out / "model.safetensors", half / names[-1])
    (half / "submission.toml").write_text(f'who = "Bob"\nweights = {names}\n', encoding="utf-8")
    for path in (honest / "submissions" / "ada").glob("*fgsm-*.receipt"):
        if "tpap" not in path.name:
            shutil.copy(path, half)
    _, lines = verified(root, tmp_path / "halved", capsys)
    # Each is predicted with them; of answers near a boundary some may be others.
    assert len(lines) > 5
    assert {words for state, words in lines.values() if state == "holds"} <= {
        "predictions repeated, with weights in half precision"
    }
    assert all("answers: " in words for state, words in lines.values() if state == "refused")
    entries = merge.merged(submitted.read(root, tmp_path / "halved", command.version())).sources.values()
    assert {entry.state for own in entries for entry in own} <= {"repeated in half"}
    # With the whole ones every receipt is repeated, and the report of the half ones made again.
    shutil.copytree(honest / "submissions" / "ada", root / "ada", ignore=shutil.ignore_patterns("*.receipt"))
    shutil.copy(receipt(honest, "standard-fgsm-white"), root / "ada")
    code, lines = verified(root, tmp_path / "halved", capsys)
    assert code == 0 and {words for _, words in lines.values()} == {"predictions repeated"}


def as_cifar(body):
    """Call the images CIFAR-10, of which no copy is here, in grey and made small."""
    named(body, "cifar10")


def submit(root, name, source, **more):
    (root / name).mkdir(parents=True)
    (root / name / "submission.toml").write_text(f'who = "{name}"\n', encoding="utf-8")

    def own(body):
        as_cifar(body)
        body["result"]["cost"]["seconds_per_example"] *= 1 + sum(map(ord, name)) / 1000
        more.get("claims", lambda body: None)(body)

    return forged(source, root / name / "a.receipt", own, more.get("arrays", lambda arrays: None))


def test_a_number_whose_images_nobody_compared_is_marked_and_not_ranked(honest, tmp_path, capsys):
    root, out = tmp_path / "submissions", tmp_path / "out"
    shutil.copytree(honest / "submissions" / "ada", root / "ada")
    for path in (root / "ada").glob("*.receipt"):
        if "-fgsm-" in path.name and "tpap" not in path.name:
            forged(path, path, as_cifar)
        else:
            path.unlink()
    code, lines = verified(root, out, capsys)
    assert code == 0
    assert {words for _, words in lines.values()} == {"predictions repeated; images not compared with their set"}
    found = submitted.read(root, out, command.version())
    merged = merge.merged(found)
    assert {result.flags for result in merged.ranked} >= {("images-not-compared",)}
    assert all("images-not-compared" in result.flags for result in merged.ranked)
    board, people = build(merged.ranked), render.contributions(found, merged)
    for table in board.tables:
        assert table.ranking is None
        shown = [column for column in table.columns if column.unit == "accuracy"]
        numbers = [row.values[column.id] for row in table.rows for column in shown if column.id in row.values]
        assert all("images-not-compared" in number.footnotes for number in numbers if number.number is not None)
        assert not any(table.mark(row, column) for row in table.rows for column in shown)
    texts = [write(board, people) for write in render.FORMATS.values()]
    assert all("images-not-compared" in text for text in (*texts, latex(board)))


def test_receipts_alone_are_marked_where_images_were_not_compared(honest, tmp_path, capsys):
    weights = sorted((honest / "submissions" / "ada").glob("*.safetensors"))
    path = forged(receipt(honest, "standard-fgsm-white"), tmp_path / "a.receipt", as_cifar)

    def flags():
        capsys.readouterr()
        assert main(["leaderboard", "--receipts", str(path), "--json"]) == 0
        (cell,) = json.loads(capsys.readouterr().out)["cells"]
        return {"not-repeated", "images-not-compared"} & set(cell["flags"])

    # Of none anything was looked at, which tells nothing of one.
    assert flags() == set()
    for each in weights:
        if main(["verify", str(path), "--weights", str(each), "--out", f"{path}.json"]) == 0:
            break
    assert flags() == {"images-not-compared"}


def test_of_two_lists_of_one_set_with_other_images_one_counts(honest, tmp_path):
    source, root = receipt(honest, "standard-fgsm-white"), tmp_path / "submissions"

    def relabelled(arrays):
        # Wrong as before, so that all outcomes stay.
        wrong = np.flatnonzero(
            (arrays["predictions_clean"] != arrays["labels"]) & (arrays["predictions_adversarial"] != arrays["labels"])
        )[0]
        taken = {arrays[f"predictions_{name}"][wrong] for name in ("clean", "adversarial")} | {arrays["labels"][wrong]}
        arrays["labels"][wrong] = min(set(range(10)) - taken)

    submit(root, "ada", source)
    submit(root, "bob", source)
    submit(root, "mia", source, arrays=relabelled)
    entries = submitted.read(root, None, command.version()).entries
    assert {entry.file for entry in entries} == {"ada/a.receipt", "bob/a.receipt", "mia/a.receipt"}

    def outcome(**changes):
        own = [entry._replace(**changes.get(entry.file[:3], {})) for entry in entries]
        merged = merge.merged(submitted.Submissions(own, (), []))
        (counted,) = merged.sources.values()
        return {each.file[:3]: each.words for each in counted}, {each.file[:3]: each.why for each in merged.remarks}

    counted, remarks = outcome(ada={"arrival": 2}, bob={"arrival": 3}, mia={"arrival": 1})
    assert set(counted) == {"mia"} and set(remarks) == {"ada", "bob"}
    assert "has other clean images or labels than mia/a.receipt, which was merged first" in remarks["ada"]
    assert "; ada/a.receipt has other images of the same rows" in counted["mia"]
    counted, remarks = outcome(ada={"arrival": 2, "are_images_known": True}, mia={"arrival": 1})
    assert set(counted) == {"ada", "bob"} and "which was compared with its set" in remarks["mia"]
    # Nobody is left out for what was withdrawn.
    mia = next(entry for entry in entries if entry.file.startswith("mia"))
    withdrawal = submitted.Withdrawal(sha256=mia.sha256, reason="not CIFAR-10", date="2026-01-01")
    merged = merge.merged(submitted.Submissions(entries, (withdrawal,), []))
    assert not merged.remarks and [len(own) for own in merged.sources.values()] == [2]


def of(what, **changes):
    def change(body):
        cell = body["result"]["cell"]
        for images in of_images(cell)[:2] if what == "images" else of_images(cell)[2:]:
            images.update(changes)
        with_key(body)
        keys = [training_key(ModelRef.model_validate(cell["model"]))]
        for name in ("trained", "halved"):
            body[name] = dict.fromkeys(keys, next(iter(body[name].values())))

    return change


def named(body, name):
    body["result"]["names"]["dataset"] = name
    for images in of_images(body["result"]["cell"]):
        images["name"] = name
    with_key(body)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (of("training", n=1_000_000), "digits has 1,297 train images, and 1,000,000 of them are named"),
        (of("training", n=1_000), "names other rows"),
        (of("training", split="test"), "trained on digits test, and a run trains on the train split of digits"),
        (of("training", name="cifar10"), "trained on cifar10 train, and a run trains"),
        (of("training", image_shape=(1, 16, 16)), "trained on images of another shape"),
        (of("training", num_classes=11), "digits has 10 classes, and 11 are named"),
        (lambda body: named(body, "cifar10-c:mist:3"), "it cannot be measured on its images: "),
        (of("images", num_classes=100), "digits has 10 classes, and 100 are named"),
        (of("images", interpolation="bicubic"), "they are said to be resized (bicubic)"),
    ],
)
def test_what_is_known_of_a_set_is_not_stated_otherwise(honest, tmp_path, change, why):
    path = forged(receipt(honest, "standard-fgsm-white"), tmp_path / "f.receipt", change)
    with pytest.raises(Contradiction) as error:
        read(path)
    assert why in str(error.value) and "\n" not in str(error.value)


def test_rows_that_a_set_does_not_have_are_refused(honest, tmp_path):
    def far(arrays):
        arrays["rows"][-1] = 500

    def listed(body):
        sha256 = sha_of_rows(np.array([*range(139), 500]))
        for images in of_images(body["result"]["cell"])[:2]:
            images.update(indices_sha=sha256, subset="stratified")
        with_key(body)

    with pytest.raises(Contradiction, match="it has row 500, and digits has 500 test images"):
        read(forged(receipt(honest, "standard-fgsm-white"), tmp_path / "f.receipt", listed, far))


def test_training_images_are_compared_with_those_that_are_here(honest, tmp_path, capsys):
    path = receipt(honest, "standard-fgsm-white")

    def said(change):
        capsys.readouterr()
        code = main(["verify", str(forged(path, tmp_path / "f.receipt", change))])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if " training: " in line]
        return code, line.strip()

    what = "100 images of digits train"
    assert said(lambda body: None)[1].startswith(f"holds        training: {what} on this machine have the hash")
    assert said(of("training", data_sha="0" * 64)) == (
        1,
        f"refuted      training: it says that it was trained on {what}, and those on this machine are others",
    )
    code, line = said(of("training", subset="stratified"))
    assert code == 1 and line.endswith("and names other rows than 'stratified' takes from them")
    code, line = said(as_cifar)
    assert code == 0 and line.startswith("said         training: it says that it was trained on 100 images of cifar10")


def test_how_many_draws_are_averaged_means_nothing_where_none_are_made(honest, tmp_path):
    root = tmp_path / "submissions"

    def once(body):
        body["result"]["cell"]["attack"]["eot"] = 1
        body["by"] = "Bob"
        body["result"]["cost"]["seconds_per_example"] *= 2
        with_key(body)

    (root / "ada").mkdir(parents=True)
    (root / "bob").mkdir()
    for name in ("jpeg", "resize-pad"):
        shutil.copy(receipt(honest, f"{name}-fgsm-adaptive"), root / "ada" / f"{name}.receipt")
    for name in ("ada", "bob"):
        (root / name / "submission.toml").write_text(f'who = "{name}"\n', encoding="utf-8")
    forged(root / "ada" / "jpeg.receipt", root / "bob" / "jpeg.receipt", once)
    for present in (("ada", "bob"), ("bob",)):
        # Also where those who state one draw are alone in their row.
        if present == ("bob",):
            (root / "ada" / "jpeg.receipt").unlink()
        merged = merge.merged(submitted.read(root, None, command.version()))
        assert sorted(len(own) for own in merged.sources.values()) == sorted([1, len(present)])
        (table,) = build(merged.ranked).tables
        assert [column.label for column in table.columns if column.kind == "attack"] == ["fgsm"]
        assert set(merged.sources) == {each.key for each in merged.ranked}


@pytest.mark.parametrize(
    ("name", "why"), [("cifar-10", "'cifar-10'"), ("cifar10", "dataset cifar10 not found: .*CROSSFIRE_OFFLINE")]
)
def test_a_set_that_cannot_be_fetched_ends_verify_before_anything_is_read(name, why, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CROSSFIRE_OFFLINE", "1")
    monkeypatch.delenv("CROSSFIRE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["verify", str(tmp_path / "no.receipt"), "--fetch", name, "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(why, line)


def test_a_set_that_is_to_be_fetched_is_downloaded_once(honest, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CROSSFIRE_OFFLINE", "0")
    monkeypatch.delenv("CROSSFIRE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def download(dataset, folder):
        asked.append(dataset)
        image = folder / "test" / "airplane" / "0.png"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(image)
        return folder

    monkeypatch.setattr(named_sets, "_fetch", download)
    receipt = str(next((honest / "submissions" / "ada").glob("*.receipt")))
    for _ in range(2):
        assert main(["verify", receipt, "--fetch", "cifar10", "--fetch", "digits", "--quiet"]) == 0
    assert asked == ["CIFAR10"]


def called(name, norm=None, eps=None):
    """Call an attack another, of which there is no code here."""

    def change(body):
        result = body["result"]
        result["names"]["attack"] = name
        result["cell"]["attack"]["attack"] |= {"name": name, "code_sha": "ab" * 32}
        if norm is not None:
            result["cell"]["attack"]["threat"] = {"norm": norm, "eps": eps}
        with_key(body)

    return change


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (called("zzz"), {"unknown-attack"}, "; an attack that is not here: zzz"),
        (called("torchattacks:Zzz"), {"unknown-attack"}, "; an attack that is not here: torchattacks:Zzz"),
        (called("sta", "flow"), {"budget-not-checked"}, "; a flow budget cannot be read off images"),
        (called("fwa", "wasserstein", "1/10"), {"budget-not-checked"}, "; a wasserstein budget cannot be read off"),
        (called("cw", "l2"), {"no-budget"}, "; no budget to keep to"),
        (called("zzz", "l2"), {"unknown-attack", "no-budget"}, "; no budget to keep to"),
    ],
)
def test_a_repeated_number_of_what_nobody_can_check_is_marked_and_not_ranked(
    honest, tmp_path, capsys, change, flags, words
):
    root, out = tmp_path / "submissions", tmp_path / "out"
    shutil.copytree(honest / "submissions" / "ada", root / "ada")
    for path in (root / "ada").glob("*.receipt"):
        if not re.search("-(standard|jpeg)-fgsm-", path.name):
            path.unlink()

    def board():
        assert verified(root, out, capsys)[0] == 0
        found = submitted.read(root, out, command.version())
        merged = merge.merged(found)
        return build(merged.ranked), render.contributions(found, merged), merged

    (before,) = board()[0].tables
    (root / "eve").mkdir()
    for number, path in enumerate((root / "ada").glob("*-standard-fgsm-white*.receipt")):
        forged(path, root / "eve" / f"{number}.receipt", change)
    after, people, merged = board()
    (table,) = after.tables
    (entry, *_) = [own[0] for own in merged.sources.values() if own[0].folder == "eve"]
    assert entry.words.startswith("predictions repeated") and words in entry.words
    marked = [result for result in merged.ranked if flags & set(result.flags)]
    assert len(marked) == 2 and all(flags <= set(result.flags) for result in marked)
    # What was ranked before still is, of as many attacks.
    assert before.ranking is not None and table.ranking == before.ranking
    for row in table.rows:
        for column in (column for column in table.columns if column.id in row.values):
            notes = row.values[column.id].footnotes
            assert "of 2 attacks" not in str(notes) and not (flags & set(notes) and table.mark(row, column))
    texts = [write(after, people) for write in render.FORMATS.values()]
    assert all(flag in text for text in (*texts, latex(after)) for flag in flags)


def test_images_of_a_corruption_are_made_again(tmp_path, capsys):
    text = HONEST[: HONEST.index("[[defenses]]")].replace("[0, 1]", "[0]") + (
        '[[defenses]]\nuse = "standard"\n\n[[attacks]]\nuse = "corruption"\nkind = "snow"\nseverity = 5\n'
        '\n[[attacks]]\nuse = "fgsm"\neps = "0.1"\n'
    )
    assert small.run(tmp_path, text=text) == 0
    root, out, store = tmp_path / "submissions", tmp_path / "out", ("--store", str(tmp_path / "store"))
    assert main(["export", "receipt", "digits", *store, "--out", str(root / "ada"), "--by", "Ada"]) == 0
    (weights,) = (tmp_path / "store" / "train").glob("*/weights.safetensors")
    shutil.copy(weights, root / "ada" / "w.safetensors")
    (root / "ada" / "submission.toml").write_text('who = "Ada"\nweights = "w.safetensors"\n', encoding="utf-8")

    def entry():
        assert verified(root, out, capsys)[0] == 0
        entries = submitted.read(root, out, command.version()).entries
        return next(each for each in entries if each.result.names.attack.startswith("corruption"))

    assert entry().doubts == () and entry().words == "predictions repeated"
    path = root / entry().file

    def shifted(arrays):
        # Each image becomes another that is answered alike: the next of the same class and answers.
        groups = {}
        for place, answers in enumerate(zip(arrays["labels"], arrays["predictions_adversarial"], strict=True)):
            groups.setdefault(answers, []).append(place)
        order = np.arange(len(arrays["labels"]))
        for places in groups.values():
            order[places] = np.roll(places, 1)
        arrays["adversarial"] = arrays["adversarial"][order]

    def moved(body):
        metrics = body["result"]["metrics"]
        with zipfile.ZipFile(path) as archive:
            arrays = {name: np.load(archive.open(f"{name}.npy")) for name in ("clean", "labels", "adversarial")}
            arrays["predictions_adversarial"] = np.load(archive.open("predictions_adversarial.npy"))
        shifted(arrays)
        far = arrays["adversarial"].astype(np.float64) - arrays["clean"].astype(np.float32) / 255
        far = far.reshape(len(far), -1)
        metrics |= {"mean_linf": np.abs(far).max(1).mean(), "mean_l2": np.sqrt((far**2).sum(1)).mean()}

    forged(path, path, moved, shifted)
    assert entry().doubts == ("budget-not-checked",)
    assert entry().words == "predictions repeated; nobody saw that its images are those of the corruption"
