"""Results with a right checksum and values within their bounds that no measurement gives together."""

import copy
import math

import pytest

from bench.config import load
from bench.consistent import contradiction
from bench.naming import misnomer
from bench.reading import read_result
from bench.schedule.plan import make
from bench.types import UsageError, jsonable
from tests.report.fabricate import result
from tests.report.test_reading import sealed

CLEAN, ATTACKED = [True, True, False, True], [True, False, False, True]
ADAPTIVE = jsonable(result("jpeg", clean=CLEAN, adversarial=ATTACKED, step="jpeg", access="adaptive"))
STATIC = jsonable(result("jpeg", clean=CLEAN, adversarial=ATTACKED, step="jpeg", access="static"))
BARE = jsonable(result(clean=CLEAN, adversarial=ATTACKED))
PLAIN = jsonable(result(attack=None, clean=CLEAN))
L2 = jsonable(result(clean=CLEAN, adversarial=ATTACKED, norm="l2", eps="1/2"))
MOVED = jsonable(result(clean=CLEAN, adversarial=ATTACKED, access="transfer", label="pgd from standard epochs 3"))
NO_OUTCOMES = {"clean_bits": None, "adversarial_bits": None}


def altered(body, **changes):
    body = copy.deepcopy(body)
    for path, value in changes.items():
        *folders, last = path.split("__")
        inner = body
        for name in folders:
            inner = inner[name]
        inner[last] = value
    return body


# Right in 5, 4, 0 and 3 of five draws each: three survive by majority, and none but the first in every draw.
DRAWN = altered(BARE, metrics__protocol="majority-of-5", metrics__robust_mean=0.45, metrics__robust_worst=0.25)
STEP = ADAPTIVE["cell"]["step"]
OTHER = {**STEP, "name": "tpap"}
WRONG = [
    # access against what was attacked
    (altered(ADAPTIVE, cell__attack__step=None), "it is called adaptive, and its attack saw another test-time step"),
    (altered(ADAPTIVE, cell__attack__step=OTHER), "it is called adaptive, and its attack saw another test-time step"),
    (altered(STATIC, cell__attack__step=STEP), "it is called static, and its attack saw a test-time step"),
    (altered(STATIC, cell__step=None), "it is called static and has no test-time step"),
    (altered(BARE, cell__step=STEP), "it is called white-box and has a test-time step"),
    (altered(BARE, cell__attack__model__network__name="vgg"), "it is called white-box, and its attack saw another net"),
    (altered(BARE, cell__attack__model__weights__seed=1), "it is called white-box, and its attack saw another network"),
    (altered(BARE, cell__attack__seed=5), "its attack has seed 5, the cell 0"),
    (altered(PLAIN, cell__access="static", names__access="static"), "with no test-time step and is called static"),
    (altered(PLAIN, clean_bits=None, adversarial_bits=BARE["clean_bits"]), "of clean images and has outcomes"),
    # a method in the place of another kind
    (altered(BARE, cell__attack__attack__kind="recipe"), "its attack is of kind recipe, not attack"),
    (altered(ADAPTIVE, cell__step=OTHER | {"kind": "attack"}), "its step is of kind attack, not test-time"),
    (altered(BARE, cell__model__network__kind="attack"), "its network is of kind attack, not network"),
    (altered(BARE, cell__model__weights__recipe__kind="network"), "its recipe is of kind network, not recipe"),
    # numbers that are no shares of the images, or not those of the outcomes
    (altered(BARE, metrics__clean_accuracy=0.8), "clean_accuracy = 0.8, but 3 of 4 outcomes are right"),
    (altered(BARE, metrics__robust_accuracy=0.45), "robust_accuracy = 0.45, but 2 of 4 outcomes are right"),
    (altered(BARE, metrics__clean_accuracy=0.8, **NO_OUTCOMES), "clean_accuracy = 0.8 is no share of 4 images"),
    (altered(BARE, metrics__robust_accuracy=0.0, **NO_OUTCOMES), "robust_accuracy is below what"),
    (altered(PLAIN, metrics__robust_accuracy=0.5, **NO_OUTCOMES), "of clean images, and robust_accuracy = 0.5 is not"),
    # distances that pixels in [0, 1] cannot have
    (altered(BARE, metrics__mean_linf=1.5, metrics__mean_l2=2.0), "mean_linf = 1.5, and pixels are in [0, 1]"),
    (altered(BARE, metrics__mean_l2=16.1), "256 pixels in [0, 1] are at most 16 apart"),
    (altered(BARE, metrics__mean_linf=0.9), "mean_linf = 0.9 is above mean_l2 = 0.36"),
    (altered(BARE, metrics__mean_l2=0.49), "mean_l2 = 0.49 is above what 256 pixels of mean_linf = 0.03 make"),
    # distances beyond the budget that every image was audited against, and distances of clean images
    (altered(BARE, metrics__mean_linf=0.0315), "mean_linf = 0.0315 is above the budget of its attack, eps = 8/255"),
    (altered(L2, metrics__mean_l2=0.501, metrics__mean_linf=0.1), "mean_l2 = 0.501 is above the budget of its attack"),
    (altered(PLAIN, metrics__mean_linf=0.01, metrics__mean_l2=0.01), "it is of clean images, and mean_linf = 0.01"),
    # draws that the protocol does not have, and a mean that no such majorities have
    (altered(BARE, metrics__robust_mean=0.5), "deterministic, and it has robust_mean or robust_worst"),
    (altered(BARE, metrics__robust_worst=0.0), "deterministic, and it has robust_mean or robust_worst"),
    (altered(BARE, metrics__protocol="majority-of-5"), "majority-of-5, and robust_mean or robust_worst is missing"),
    (altered(BARE, metrics__protocol="majority-of-0"), "its protocol is 'majority-of-0', neither"),
    (altered(BARE, metrics__protocol="best-of-5"), "its protocol is 'best-of-5', neither"),
    (altered(DRAWN, metrics__robust_mean=0.2, metrics__robust_worst=0.0), "robust_mean = 0.2 is no mean over draws"),
    (altered(DRAWN, metrics__robust_mean=0.7), "robust_mean = 0.7 is no mean over draws"),
    (altered(BARE, flags=["failed"]), "it is done and has the flag failed"),
    # names of other things than the cell refers to
    (altered(BARE, names__dataset="cifar10"), "its data set is called 'cifar10', and is 'digits'"),
    (altered(BARE, names__model="wrn-34-10"), "its network is called 'wrn-34-10', and is 'small-cnn'"),
    (altered(BARE, names__defense="pgd-at"), "its defense is called 'pgd-at', and is 'standard'"),
    (altered(BARE, names__defense="jpeg@standard"), "its defense is called 'jpeg@standard', and is 'standard'"),
    (altered(STATIC, names__defense="standard"), "its defense is called 'standard', and is 'jpeg@standard'"),
    (altered(STATIC, names__defense="jpeg@pgd-at"), "its defense is called 'jpeg@pgd-at', and is 'jpeg@standard'"),
    (altered(BARE, names__attack="fgsm"), "its attack is called 'fgsm', and is 'pgd'"),
    (altered(BARE, names__attack="pgd from standard"), "its attack is called 'pgd from standard', and is 'pgd'"),
    (altered(MOVED, names__attack="pgd from pgd-at"), "its attack is called 'pgd from pgd-at', and is 'pgd'"),
    (altered(MOVED, names__attack="pgd from standard-at"), "its attack is called 'pgd from standard-at'"),
    (altered(BARE, names__attack="clean"), "it is of attacked images and its attack is called clean"),
    (altered(PLAIN, names__attack="pgd"), "it is of clean images and its attack is called 'pgd'"),
    # parameters in a name that are not those of the method
    (altered(BARE, names__attack="pgd[steps=1000]"), "its attack is called 'pgd[steps=1000]', and is 'pgd'"),
    (altered(BARE, names__attack="pgd[eps=16/255]"), "its attack is called 'pgd[eps=16/255]'"),
    (altered(BARE, names__attack="pgd[norm=l2,steps=20]"), "its attack is called 'pgd[norm=l2,steps=20]'"),
    (altered(BARE, names__attack="pgd[restarts=5]"), "its attack is called 'pgd[restarts=5]'"),
    (altered(BARE, names__attack="pgd[steps=20,]"), "its attack is called 'pgd[steps=20,]'"),
    (altered(BARE, names__attack="pgd[]"), "its attack is called 'pgd[]'"),
    (altered(BARE, names__defense="standard[epochs=200]"), "its defense is called 'standard[epochs=200]'"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), WRONG, ids=[f"{i}-{each[1][:30]}" for i, each in enumerate(WRONG)])
def test_what_no_measurement_gives_is_refused(body, message):
    with pytest.raises(ValueError) as error:
        read_result(sealed(body))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"classes": ["a", "b"]}, "it names 2 of 10 classes"),
        ({"classes_present": 11}, "4 images cannot be of 11 of 10"),
    ],
)
def test_classes_are_as_many_as_there_are(data, message):
    body = altered(PLAIN)
    body["cell"]["data"] |= data
    with pytest.raises(ValueError, match=message):
        read_result(sealed(body))


def test_results_of_every_access_are_consistent():
    for body in (ADAPTIVE, STATIC, BARE, PLAIN, L2, MOVED, DRAWN, altered(BARE, **NO_OUTCOMES)):
        assert contradiction(read_result(sealed(body))) is None


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (BARE, {"names__attack": "pgd[eps=8/255,norm=linf,preset=tpap,rule=any-iterate,steps=20]"}),
        # A set for others than the attacker sees takes every step, whatever the rule of the column.
        (STATIC, {"cell__attack__attack__params__rule": "last-iterate", "names__attack": "pgd[rule=any-iterate]"}),
        (MOVED, {"names__attack": "pgd from standard epochs 3 seed 5[preset=a,b,steps=20]"}),
        # A recipe's parameters are as they were given, not as they were read.
        (BARE, {"names__defense": "standard[bf16=0,drops=[0.75, 0.9],epochs=24.0,lr=1e-2]"}),
        (BARE, {"cell__model__weights__recipe__params": {"inner": "cw[eps=1,lr=2]", "lr": 1}, "names__defense":
                "standard[inner=cw[eps=1,lr=2],lr=1]"}),
        (STATIC, {"names__defense": "jpeg@standard[epochs=24]"}),
        (BARE, {"cell__attack__attack__name": "my/file.py:My_Attack", "names__attack": "my-attack"}),
        # Of such distances round-off is a part.
        (BARE, {"metrics__mean_linf": 8 / 255 + 9e-7, "metrics__mean_l2": 16 * (8 / 255 + 9e-7)}),
        (L2, {"metrics__mean_l2": 0.50004, "metrics__mean_linf": 0.1}),
    ],
)  # fmt: skip
def test_what_a_plan_may_call_a_cell_and_an_audit_lets_pass_is_read(body, changes):
    body = altered(body, **changes)
    # What it attacked and what it was measured on stay one.
    if body["cell"]["attack"] is not None:
        body["cell"]["attack"]["model"] = body["cell"]["model"]
    assert contradiction(read_result(sealed(body))) is None


@pytest.mark.parametrize(
    ("norm", "distances"),
    [("flow", (0.9, 3.0)), ("wasserstein", (0.9, 3.0)), ("l2", (0.9, 3.0))],
)
def test_attacks_without_a_budget_that_is_seen_go_as_far_as_they_like(norm, distances):
    eps = "1/200" if norm == "wasserstein" else None
    made = jsonable(result(clean=CLEAN, adversarial=ATTACKED, norm=norm, eps=eps))
    linf, l2 = distances
    assert contradiction(read_result(sealed(altered(made, metrics__mean_linf=linf, metrics__mean_l2=l2)))) is None


MANY = """
schema = 1
name = "many"
dataset = {name = "digits", n = 20, train_n = 60}
models = [{arch = "small-cnn", channels = [8, 16]}, {arch = "small-cnn", hidden = 64}]
train = {epochs = 1}
worst_case = true

[[defenses]]
use = "standard"
train = {lr = 1, drops = [0.5, 0.75], bf16 = true}

[[defenses]]
use = "pgd-at"
eps = ["8/255", "0.1"]

[[defenses]]
use = "mart"
preset = "tpap-pgd"

[[defenses]]
use = "at"
inner = "ddn[levels=16,steps=10]"
norm = "l2"
eps = 1
train = {epochs = 2}

[[defenses]]
use = "jpeg"
base = ["standard", "trades"]
quality = [50, 75]
train = {epochs = 2}

[[attacks]]
use = "pgd"
steps = [10, 20]
rule = ["any-iterate", "last-iterate"]

[[attacks]]
use = "pgd"
preset = "tpap"

[[attacks]]
use = "pgd"
restarts = 3

[[attacks]]
use = "square"
access = ["static", "transfer"]
source = ["pgd-at", "standard"]
source_seed = 7
source_train = {epochs = 3, drops = [0.25, 0.5]}
eps = ["8/255", "16/255"]

[[attacks]]
use = "cw"
"""


def test_no_attack_is_called_as_what_is_right_without_one_is(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from bench.api import attack\n\n\n"
        '@attack(norms=("linf",), passes="0 forwards")\n'
        "def clean(target, x, y, threat):\n    return x\n"
    )
    config = tmp_path / "many.toml"
    config.write_text(f"{MANY}\n[[attacks]]\nuse = '{tmp_path / 'mine.py'}:clean'\n")
    with pytest.raises(UsageError, match=r"attacks\[5\] .*an attack cannot be called clean, as what is right"):
        make(load(str(config)))


def test_every_cell_of_a_plan_is_called_as_its_results_may_be(tmp_path):
    config = tmp_path / "many.toml"
    config.write_text(MANY)
    cells = make(load(str(config))).plan.cells
    assert len(cells) > 50
    assert [(str(each.names), why) for each in cells if (why := misnomer(each.names, each.cell))] == []


def test_an_interval_is_that_of_the_accuracy_whatever_a_file_says():
    read = read_result(sealed(altered(BARE, metrics__ci_low=0.0, metrics__ci_high=1.0)))
    # Wilson's interval of 2 in 4 from its definition: the ends are as far from 1/2 as their own deviations say.
    for end in (read.metrics.ci_low, read.metrics.ci_high):
        assert abs(end - 0.5) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 4))
    assert read == read_result(sealed(BARE))
