"""Results with a right checksum and values within their bounds that no measurement gives together."""

import copy
import math

import pytest

from bench.store.consistent import contradiction
from bench.store.reading import read_result
from bench.types import jsonable
from tests.report.fabricate import result
from tests.report.test_reading import sealed

CLEAN, ATTACKED = [True, True, False, True], [True, False, False, True]
ADAPTIVE = jsonable(result("jpeg", clean=CLEAN, adversarial=ATTACKED, step="jpeg", access="adaptive"))
STATIC = jsonable(result("jpeg", clean=CLEAN, adversarial=ATTACKED, step="jpeg", access="static"))
BARE = jsonable(result(clean=CLEAN, adversarial=ATTACKED))
PLAIN = jsonable(result(attack=None, clean=CLEAN))
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
    (altered(BARE, metrics__mean_linf=0.9), "mean_linf = 0.9 is above mean_l2 = 0.8"),
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
    for body in (ADAPTIVE, STATIC, BARE, PLAIN, altered(BARE, **NO_OUTCOMES)):
        assert contradiction(read_result(sealed(body))) is None


def test_an_interval_is_that_of_the_accuracy_whatever_a_file_says():
    read = read_result(sealed(altered(BARE, metrics__ci_low=0.0, metrics__ci_high=1.0)))
    # Wilson's interval of 2 in 4 from its definition: the ends are as far from 1/2 as their own deviations say.
    for end in (read.metrics.ci_low, read.metrics.ci_high):
        assert abs(end - 0.5) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 4))
    assert read == read_result(sealed(BARE))
