"""Targeted attacks from one call to records: which class each image is to be given, and what counts as broken."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import bench
from bench.data import open_set
from bench.keys import attack_key
from bench.store.working_store import Store
from bench.types import AttackRef, UsageError

GOAL = 3
PGD = {"steps": 8, "eps": "1/4"}


@pytest.fixture(scope="module")
def digits():
    test = open_set("digits", "test", folder=None)
    return torch.tensor(np.array(test.images[:150])).float() / 255, torch.tensor(np.array(test.labels[:150]))


@pytest.fixture(scope="module")
def net(digits):
    x, y = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        # Of the images that are judged a third is never seen, so that some are wrong clean.
        for _ in range(25):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[:100]), y[:100]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def evaluated(net, digits, tmp_path_factory):
    """The store of one evaluation, and its results by attack and access."""
    folder = tmp_path_factory.mktemp("store")
    targets = [GOAL, "least-likely", "second", "random"]
    attacks = [("pgd", PGD), *(("pgd", {**PGD, "target": target}) for target in targets)]
    bench.evaluate(("bit-depth", {"bits": 4}), *digits, base=net, attacks=attacks, store=folder, progress=False)
    store = Store(folder)
    return store, {(r.names.attack, r.cell.access, r.cell.step is None): r for r in store.results() if r.cell.attack}


def kept(store, result):
    """The adversarial images and target classes of a result, from its chunks."""
    chunks = [load_file(path) for path in sorted(store.adversarial(attack_key(result.cell.attack)).iterdir())]
    return torch.cat([chunk["images"] for chunk in chunks]), torch.cat([chunk["goals"] for chunk in chunks])


def expected(target, logits, y):
    others = [[k for k in range(10) if k != label] for label in y.tolist()]
    rows = zip(logits.tolist(), others, strict=True)
    best = {"least-likely": min, "second": max}[target]
    return torch.tensor([best(each, key=row.__getitem__) for row, each in rows])


@pytest.mark.parametrize("target", ["least-likely", "second"])
def test_the_class_is_that_of_the_clean_logits_of_the_attacked_function(net, digits, evaluated, target):
    store, results = evaluated
    x, y = digits
    # A static set is made on the bare network, an adaptive one on the rounded images.
    for access, seen in (("static", x), ("adaptive", (x * 15).round() / 15)):
        result = results[f"pgd {target}", access, False]
        assert torch.equal(kept(store, result)[1], expected(target, net(seen), y))
        assert result.cost.forwards_per_example <= PGD["steps"] + 1
    assert results[f"pgd {target}", "static", False].cost.forwards_per_example == PGD["steps"] + 1, "and the first one"


def test_a_random_class_is_any_but_the_true_one(net, digits, evaluated):
    store, results = evaluated
    y = digits[1]
    goals = kept(store, results["pgd random", "static", False])[1]
    assert not (goals == y).any()
    counts = torch.bincount((goals - y) % 10, minlength=10)[1:]
    # Of 150 draws about 17 each: 4 standard deviations.
    assert int(counts.min()) >= 1 and int(counts.max()) <= 33


def test_only_the_target_class_breaks_an_image_and_those_of_it_stay_as_they_are(net, digits, evaluated):
    store, results = evaluated
    x, y = digits
    result = results[f"pgd to class {GOAL}", "white-box", True]
    images, goals = kept(store, result)
    assert torch.equal(images[y == GOAL], x[y == GOAL]) and bool((goals == GOAL).all())
    answers = net(images).argmax(1)
    unbroken = (answers != GOAL) | (y == GOAL)
    assert list(result.outcomes_under_attack) == unbroken.tolist()
    assert list(result.robust_outcomes) == (unbroken & (net(x).argmax(1) == y)).tolist()
    assert bool((answers != y)[~unbroken].all()), "what is broken this way is broken any way"
    assert bool(((answers != y) & unbroken).any()), "a third class is no success"
    assert {"targeted", f"{int((y == GOAL).sum())}-of-target-class"} <= set(result.flags)
    assert "loss-not-rising" not in result.flags


def test_records_name_the_class_and_the_answer(net, digits, evaluated):
    store, results = evaluated
    result = results["pgd random", "static", False]
    images, goals = kept(store, result)
    frame = bench.load_records(store.root, cell=str(result.names))
    assert frame["target_class"].tolist() == goals.tolist()
    assert frame["adversarial_prediction"].tolist() == net((images * 15).round() / 15).argmax(1).tolist()


def test_a_target_is_in_the_key_and_none_leaves_it_as_it_was(evaluated):
    _, results = evaluated
    targeted = results["pgd second", "white-box", True].cell.attack
    plain = results["pgd", "white-box", True].cell.attack
    assert targeted.model_copy(update={"target": None}) == plain
    assert "target" not in plain.model_dump() and attack_key(targeted) != attack_key(plain)
    assert AttackRef.model_validate(targeted.model_dump(mode="json")) == targeted


@pytest.mark.parametrize(
    ("attack", "settings", "why"),
    [
        ("fgsm", {"target": 3}, "fgsm cannot aim at a class; these can: apgd-ce, "),
        ("foolbox:LinfPGD", {"target": 3}, "foolbox:LinfPGD cannot aim at a class"),
        ("pgd", {"target": 10}, "target = 10; the images have classes 0 to 9"),
        ("pgd", {"target": "leastlikely"}, "unknown class 'leastlikely'"),
        ("pgd", {"target": True}, "true is not a number"),
        ("pgd", {"target": 2, "loss": "kl"}, 'the loss "kl"'),
    ],
)
def test_what_cannot_be_aimed_at_is_one_line(net, digits, attack, settings, why):
    with pytest.raises(UsageError) as error:
        bench.attack(net, *digits, attack, **settings)
    assert why in str(error.value) and "\n" not in str(error.value)


def test_in_a_suite_an_image_is_left_to_the_next_attack_until_one_succeeds_by_its_own_rule(net, digits, tmp_path):
    from bench.evaluation.chunks import read_chunk, write_chunk
    from bench.evaluation.craft import craft
    from bench.evaluation.defense import deploy
    from bench.evaluation.predict import predict

    x, y = digits
    result = bench.evaluate(net, x, y, attacks=[("pgd", {**PGD, "target": GOAL})], progress=False)
    (ref,) = (r.cell.attack for r in result.results if r.cell.attack is not None)
    rows = torch.arange(len(x))
    towards = craft(ref, net, x, y, rows, key="k", batch=64)
    path = tmp_path / "0" / "000000-000150.safetensors"
    path.parent.mkdir()
    write_chunk(path, towards)
    read = read_chunk(path, x, ref.threat)
    assert torch.equal(read.goals, towards.goals)
    after = craft(ref.model_copy(update={"target": None}), net, x, y, rows, key="k", batch=64, before=read)
    reached = (net(towards.images).argmax(1) == GOAL) & (y != GOAL)
    assert torch.equal(after.goals == GOAL, reached)
    assert torch.equal(after.images[reached], towards.images[reached])
    answer = predict(deploy(net, None), net, after.images, y, 64, seed=("it",), goals=after.goals)
    wrong = net(after.images).argmax(1) != y
    assert torch.equal(answer.unbroken[0], ~(reached | wrong))


def test_out_of_passes_an_image_keeps_what_is_nearest_to_its_target_class(net, digits):
    x, y = digits
    settings = {"eps": "1/4", "steps": 40, "target": "least-likely"}
    # One forward says which class that is, and twelve passes are six steps.
    cut = bench.attack(net, x, y, "pgd", **settings, rule="last-iterate", max_passes=13)
    goal = expected("least-likely", net(x), y)
    reached = [int((net(images).argmax(1) == goal).sum()) for images in (x, cut)]
    assert reached[0] == 0 and reached[1] > 15

    def margin(images):
        logits = net(images)
        return logits.gather(1, goal[:, None])[:, 0] - logits.scatter(1, goal[:, None], -torch.inf).amax(1)

    assert bool((margin(cut) > margin(x)).float().mean() > 0.9)
