"""Model cards of RobustBench: numbers counted by hand, and the form that its own code reads."""

import json
import re
from pathlib import Path

import pytest

from bench.cli import main
from bench.keys import sha256_hex
from bench.report.leaderboard.tables import build
from bench.report.render import robustbench
from bench.types import DataRef, Earlier, ModelRef, UsageError, WeightsRef
from tests.report.fabricate import method, result, stored

# RobustBench 1.1.1: the fields and types of a card as its README shows one ("Adding a new model"), with `external`,
# `footnote` and `unreliable` as in model_info/cifar10/Linf/Kang2021Stable.json. `additional_data` and
# `number_forward_passes` are optional in `ModelInfo` (robustbench/utils.py).
REQUIRED = {
    "link": str,
    "name": str,
    "authors": str,
    "additional_data": (bool, type(None)),
    "number_forward_passes": (int, type(None)),
    "dataset": str,
    "venue": str,
    "architecture": str,
    "eps": str,
    "clean_acc": str,
    "reported": str,
}
OPTIONAL = {"autoattack_acc": str, "external": str, "footnote": str, "unreliable": bool}
PERCENT = re.compile(r"\d{1,3}\.\d\d")

STANDARD = {"version": None, "steps": 100, "targets": 9, "queries": 5000}
CIFAR = {"dataset": "cifar10", "network": "resnet18", "image_shape": (3, 32, 32)}


def images(n, *wrong):
    """Return outcomes of ``n`` images, right but for ranges of them."""
    missed = set().union(*wrong)
    return [i not in missed for i in range(n)]


def cards(*results):
    made = robustbench.model_cards(build(results))
    return {card.path: card.fields for card in made.cards}


def only(*results):
    (card,) = cards(*results).values()
    return card


def cell(attack="pgd", *, clean, defense="pgd-at", **more):
    return result(defense, attack, clean=clean, **{**CIFAR, "recipe": "pgd-at", **more})


def full(*wrong, attack="autoattack", **more):
    """Return a cell of 10,000 images, 1,000 of which are wrong clean."""
    n = 10_000
    return cell(
        attack,
        clean=images(n, range(1000)),
        adversarial=None if attack is None else images(n, *wrong),
        attack_params=STANDARD if attack == "autoattack" else None,
        **more,
    )


def in_form(card):
    assert REQUIRED.keys() <= card.keys() <= REQUIRED.keys() | OPTIONAL.keys()
    for name, value in card.items():
        assert isinstance(value, {**REQUIRED, **OPTIONAL}[name]), name
    for name in {"clean_acc", "autoattack_acc", "external"} & card.keys():
        assert PERCENT.fullmatch(card[name])
    # Its generator sorts by `external` if that is there, else by `autoattack_acc` (ACC_FIELDS, generate_leaderboard).
    float(next(card[key] for key in ("external", "autoattack_acc") if key in card))
    # get_leaderboard_bibtex and list_available_models read these as text.
    assert [card[name] for name in ("link", "name", "authors", "venue", "reported")] == [""] * 5


def test_a_card_counts_as_robustbench_counts():
    # Wrong under AutoAttack are images 500 to 4,999: with the 1,000 that are wrong clean, 5,000 of 10,000 are left.
    auto = full(range(500, 5000))
    card = only(full(attack=None), auto)
    in_form(card)
    assert (card["clean_acc"], card["autoattack_acc"], card["eps"]) == ("90.00", "50.00", "8/255")
    assert (card["dataset"], card["architecture"], card["number_forward_passes"]) == ("cifar10", "resnet18", 1)
    assert card["additional_data"] is None and card["unreliable"] is False and "external" not in card
    assert "all 10,000 test images" in card["footnote"]
    # PGD breaks 12 others.
    card = only(full(attack=None), auto, full(range(6000, 6012), attack="pgd"))
    in_form(card)
    assert (card["autoattack_acc"], card["external"]) == ("50.00", "49.88")
    assert "49.88% robust accuracy is the worst case over autoattack, pgd (white-box access)." in card["footnote"]
    # And what PGD breaks beside AutoAttack's own is no news.
    assert "external" not in only(full(attack=None), auto, full(range(1000, 1100), attack="pgd"))


def shortened(**params):
    few = full(range(5000))
    attack = few.cell.attack
    method_ref = attack.attack.model_copy(update={"params": {**STANDARD, **params}})
    attack = attack.model_copy(update={"attack": method_ref})
    return few.model_copy(update={"cell": few.cell.model_copy(update={"attack": attack})})


def after_another():
    auto = full(range(5000))
    earlier = auto.cell.attack.model_copy(update={"after": (Earlier(attack=method("attack", "pgd")),)})
    return auto.model_copy(update={"cell": auto.cell.model_copy(update={"attack": earlier})})


def of_images(n, share=0.5):
    return cell(
        "autoattack", clean=images(n), adversarial=images(n, range(round(n * share), n)), attack_params=STANDARD
    )


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (full(range(5000), attack="pgd"), "AutoAttack was not run"),
        (of_images(1000), "AutoAttack was run on 1,000 images, and RobustBench asks for 10,000"),
        (shortened(steps=20, queries=200), "with steps 20 instead of 100, queries 200 instead of 5,000"),
        (shortened(version="plus"), "AutoAttack was run in its version plus"),
        (full(range(5000), flags=("ran-out-of-passes",)), "AutoAttack ran out of passes (max_passes)"),
        (full(range(5000), flags=("randomised",)), "AutoAttack was run in its version rand"),
        (after_another(), "only on images that earlier attacks had left"),
        (full(range(5000), step="jpeg", access="adaptive", attack="pgd"), "AutoAttack was not run by an adaptive"),
    ],
    ids=range(8),
)
def test_only_standard_autoattack_on_all_images_is_called_so(run, why):
    made = robustbench.model_cards(build([run]))
    (card,) = made.cards
    in_form(card.fields)
    assert "autoattack_acc" not in card.fields and card.fields["external"] == "50.00"
    assert why in card.fields["footnote"]
    (line,) = [line for line in robustbench.remarks(made) if "autoattack_acc" in line]
    assert line.startswith("1 of 1 cards have no autoattack_acc: ") and why in line


def test_a_step_is_as_robust_as_against_who_knows_it():
    step = {"step": "jpeg", "defense": "jpeg"}
    clean = full(attack=None, **step)
    static = full(range(2000), attack="pgd", access="static", **step)
    with pytest.raises(UsageError, match=r"jpeg/L∞ ε=8/255: no attacker knew the entire defense"):
        cards(clean, static)
    adaptive = full(range(1500, 9000), attack="pgd", access="adaptive", **step)
    card = only(clean, static, adaptive)
    in_form(card)
    # 1,000 are left; static images break 500 others that the adaptive ones had left right.
    assert card["external"] == "10.00"
    assert only(clean, adaptive)["external"] == "15.00"
    assert "(gray-box (static), adaptive access)" in card["footnote"]


def test_flags_make_a_card_unreliable():
    card = only(full(range(5000), flags=("autoattack-zero-gradient",)))
    assert card["unreliable"] is True and "flags: autoattack-zero-gradient" in card["footnote"]
    assert only(full(range(5000), flags=("autoattack-dynamic",)))["unreliable"] is True
    assert only(full(range(5000), flags=("robust-overfitting",)))["unreliable"] is False
    # None survives: that is no upper bound.
    assert only(full(range(10_000), flags=("zero-gradient",)))["unreliable"] is False
    assert "unreliable" not in only(full(range(5000), attack="pgd"))


def test_a_threat_has_its_folder_and_its_leaderboards_budget_a_plain_name():
    n = 8
    threats = [("linf", "8/255"), ("linf", "2/255"), ("linf", "0.031"), ("l2", "1/2"), ("l2", "1/4"), ("l2", "1/3")]
    more = [("l1", "12"), ("l2", None), ("linf", None)]
    results = [cell(clean=[True] * n, norm=norm, eps=eps) for norm, eps in threats + more]
    eps = {path: card["eps"] for path, card in cards(*results).items()}
    assert eps == {
        "cifar10/L2/pgd-at_resnet18.json": "0.5",
        "cifar10/L2/pgd-at_resnet18_eps_0_25.json": "0.25",
        "cifar10/L2/pgd-at_resnet18_eps_1_3.json": "1/3",
        "cifar10/Linf/pgd-at_resnet18.json": "8/255",
        "cifar10/Linf/pgd-at_resnet18_eps_0_031.json": "0.031",
        "cifar10/Linf/pgd-at_resnet18_eps_2_255.json": "2/255",
    }
    (refused,) = robustbench.model_cards(build(results)).refused
    assert refused.endswith("RobustBench has no leaderboard of cifar10 for it") and "L1 ε=12" in refused
    assert "eps = 0.25 instead of 0.5" in cards(*results)["cifar10/L2/pgd-at_resnet18_eps_0_25.json"]["footnote"]


@pytest.mark.parametrize(
    ("name", "shape", "classes", "dataset"),
    [
        ("cifar10", (3, 32, 32), 10, "cifar10"),
        ("cifar100", (3, 32, 32), 100, "cifar100"),
        ("cifar10", (3, 64, 64), 10, None),
        ("digits", (1, 16, 16), 10, None),
        ("folder:/data/ImageNet/val", (3, 224, 224), 1000, "imagenet"),
        ("parquet:/data/imagenet-1k", (3, 299, 299), 1000, "imagenet"),
        ("folder:/data/imagenet/subset", (3, 224, 224), 100, None),
        ("folder:/data/imagenet-sketch", (3, 224, 224), 1000, None),
        ("tiny_imagenet", (3, 64, 64), 200, None),
        ("folder:/data/cifar10", (3, 32, 32), 10, None),
    ],
)
def test_the_sets_that_are_theirs(name, shape, classes, dataset):
    sha = sha256_hex(name)
    ref = DataRef(name=name, split="test", n=1, image_shape=shape, num_classes=classes, indices_sha=sha, data_sha=sha)
    assert robustbench.dataset_of(ref) == dataset


def test_every_training_has_a_card_and_weights_from_elsewhere_one():
    n = 100
    seeds = [cell(clean=images(n), adversarial=images(n, range(30 + 7 * seed)), seed=seed) for seed in (0, 1)]
    assert {path: card["external"] for path, card in cards(*seeds).items()} == {
        "cifar10/Linf/pgd-at_resnet18_seed0.json": "70.00",
        "cifar10/Linf/pgd-at_resnet18_seed1.json": "63.00",
    }
    ref = ModelRef(network=seeds[0].cell.model.network, weights=WeightsRef(name="net.pt", sha256="0" * 64))

    def given(seed, wrong):
        each = cell(clean=images(n), adversarial=images(n, wrong), seed=seed)
        attack = each.cell.attack.model_copy(update={"model": ref})
        return each.model_copy(update={"cell": each.cell.model_copy(update={"model": ref, "attack": attack})})

    card = only(given(0, range(30)), given(1, range(20, 45)))
    assert card["external"] == "55.00" and "of up to 2 runs each" in card["footnote"]


def test_what_is_missing_is_said():
    n = 50
    whole, failed = (
        cell(clean=images(n), adversarial=images(n, range(20))),
        cell("cw", clean=[True] * n, status="failed"),
    )
    card = only(whole, failed)
    assert card["external"] == "60.00"
    assert "1 of 2 attacks failed and do not count." in card["footnote"]
    assert "Its table is incomplete: 1 of 2 cells, 1 failed." in card["footnote"]
    with pytest.raises(UsageError, match="its attacks failed"):
        cards(failed)
    lost = whole.model_copy(update={"clean_bits": None, "adversarial_bits": None})
    with pytest.raises(UsageError, match="which images were right was not kept"):
        cards(lost)
    kept = only(cell("fgsm", clean=images(n), adversarial=images(n, range(5))), lost)
    assert kept["external"] == "90.00" and "1 of 2 attacks do not count" in kept["footnote"]
    # AutoAttack's own number needs no outcomes.
    auto = full(range(5000)).model_copy(update={"clean_bits": None, "adversarial_bits": None})
    assert only(auto)["autoattack_acc"] == "50.00"
    with pytest.raises(UsageError, match="measured clean only"):
        cards(cell(None, clean=[True] * n))
    with pytest.raises(UsageError, match="there are none"):
        cards()


def test_of_two_tables_of_one_network_the_larger_counts():
    many = cell(clean=images(400), adversarial=images(400, range(100)))
    few = cell(clean=images(100), adversarial=images(100, range(90)))
    few = few.model_copy(update={"cell": few.cell.model_copy(update={"model": many.cell.model})})
    made = robustbench.model_cards(build([few, many]))
    assert [card.fields["external"] for card in made.cards] == ["75.00"]
    assert made.refused == (
        "cifar10/resnet18/pgd-at/L∞ ε=8/255, 100 images: a card is made of the table of 400 images",
    )


HOSTILE = [
    "../../x",
    "/etc/passwd",
    "..",
    "a\\..\\b",
    "x" * 300,
    "x" * 300 + "y",
    "防御",
    "<script>",
    "CON",
    "a\0b\n",
    "A",
    "a",
]


def test_foreign_names_stay_in_their_folder_and_apart(tmp_path):
    results = [cell(clean=[True] * 8, defense=name, recipe=f"r{i}") for i, name in enumerate(HOSTILE)]
    made = robustbench.model_cards(build(results))
    folder = tmp_path / "deep" / "cards"
    paths = robustbench.write(made, folder)
    assert len({str(path).lower() for path in paths}) == len(HOSTILE)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    assert {path.parent for path in paths} == {folder / "cifar10" / "Linf"}
    for path in paths:
        assert re.fullmatch(r"[A-Za-z0-9@+][A-Za-z0-9@.+_-]{0,150}\.json", path.name)
        assert "_resnet18" in path.name
        assert "<" not in path.read_text()


def test_a_budget_with_three_hundred_digits_has_a_short_name():
    (path,) = cards(cell(clean=[True] * 8, eps="1e-300"))
    assert path == f"cifar10/Linf/pgd-at_resnet18_eps_1_1{'0' * 17}.json"


def test_a_name_that_looks_told_apart_takes_no_other_card():
    twins = [cell(clean=[True] * 8, defense=name, recipe=f"r{i}") for i, name in enumerate(["a!", "a?"])]
    (first, _) = cards(*twins)
    forged = first.removeprefix("cifar10/Linf/").removesuffix(".json")
    network = {"network": forged.rpartition("_")[2]}
    third = cell(clean=[True] * 8, defense=forged.rpartition("_")[0], recipe="r9", **network)
    assert len(cards(*twins, third)) == 3


def test_what_a_person_filled_in_stays(tmp_path):
    def written(wrong):
        made = robustbench.model_cards(build([cell(clean=images(100), adversarial=images(100, range(wrong)))]))
        (path,) = robustbench.write(made, tmp_path)
        return path

    path = written(10)
    card = json.loads(path.read_text())
    mine = {
        "link": "https://example.org",
        "venue": "Nowhere 2026",
        "additional_data": False,
        "architecture": "ResNet-18",
    }
    path.write_text(json.dumps({**card, **mine, "name": 3, "clean_acc": "1.00", "autoattack_acc": "99.00"}))
    written(40)
    assert json.loads(path.read_text()) == {
        **card, **mine, "external": "60.00", "footnote": card["footnote"].replace("90.00%", "60.00%")
    }  # fmt: skip
    path.write_text("my notes")
    with pytest.raises(UsageError, match="is there already and is no model card"):
        written(20)
    assert path.read_text() == "my notes"


@pytest.fixture
def store(tmp_path):
    return str(stored(tmp_path / "store", [of_images(100)]).root)


def test_the_verb_writes_a_folder_or_one_object(store, tmp_path, capsys):
    words = ["leaderboard", "--store", store, "--format", "robustbench"]
    assert main(words) == 0
    printed = capsys.readouterr()
    every = json.loads(printed.out)
    assert list(every) == ["cifar10/Linf/pgd-at_resnet18.json"]
    lines = printed.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("warning: ") for line in lines)
    assert "no autoattack_acc" in lines[0] and "additional_data" in lines[1]
    assert main([*words, "--out", str(tmp_path / "model_info")]) == 0
    (path,) = capsys.readouterr().out.split()
    assert json.loads(Path(path).read_text()) == every["cifar10/Linf/pgd-at_resnet18.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.json"], "--out x.json: --format robustbench writes a folder of model cards; name a folder"),
        (["--out", "FILE"], "is no folder; --format robustbench writes a folder"),
        (["--out", "/dev/null"], "/dev/null is no folder"),
        (["--out", "FILE/deep"], "cannot be written: Not a directory"),
        (["--paper"], "--paper has no model cards"),
        (["--store", "OTHER"], "RobustBench has a card for none of these results: digits/small-cnn: RobustBench has"),
    ],
)
def test_what_cannot_be_is_one_line(store, tmp_path, capsys, words, message):
    (tmp_path / "file").write_text("")
    other = stored(tmp_path / "other", [result(clean=[True] * 8)])
    places = {"FILE": str(tmp_path / "file"), "OTHER": str(other.root), "FILE/deep": str(tmp_path / "file" / "deep")}
    given = [places.get(word, word) for word in words]
    assert main(["leaderboard", "--store", store, "--format", "robustbench", *given]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err
