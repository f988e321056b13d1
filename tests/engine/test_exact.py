"""Numbers have exactly the value of their text, and messages stay one line."""

import pickle
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.types import StoreError, UsageError, exact, shown
from tests.fuzz import cases


@cases(0.4)
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=12))
def test_a_decimal_means_what_the_decimal_module_says(value):
    assert exact(str(value)) == Fraction(Decimal(str(value)))


@cases(0.4)
@given(st.floats(1e-290, 1e290))
def test_a_float_means_its_shortest_text(value):
    assert exact(value) == Fraction(Decimal(repr(value)))


@pytest.mark.parametrize("text", ["1e-300", "-1e300", "0." + "7" * 90 + "e-290", "1/" + "3" * 90, "123_4.5e-99", "0"])
def test_what_was_kept_as_a_fraction_is_read_again(text):
    assert exact(str(exact(text))) == exact(text)


def test_fractions_and_blanks():
    assert exact(" 8 / 255\n") == Fraction(8, 255)
    assert exact("1e-300") == Fraction(1, 10**300) and exact("1e300") == 10**300


@pytest.mark.parametrize(
    "text",
    ["1e99999999", "1e-99999999", "1E+99999999", "0e9999999999", "1e99999999\n\n", "1e1_000_000_000", "1e٩٩٩٩٩٩٩٩٩"],
)
def test_a_long_exponent_is_refused_before_it_is_written_out(text):
    with pytest.raises(ValueError, match="between 1e-300 and 1e300"):
        exact(text)


LONG = {"digits": "9" * 5000, "int": 10**5000, "bits": 1 << 20_000, "near zero": Fraction(1, 10**400), "float": 5e-324}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_numbers_too_long_to_be_meant(value):
    with pytest.raises(ValueError, match="at most 100 characters between") as caught:
        exact(value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["1/0", "inf", "nan", float("inf"), float("nan"), "", "eight", True, None, [1], b"1"])
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match="is not a number"):
        exact(value)


def test_any_value_can_be_shown():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert shown("8/255") == "'8/255'"
    assert shown(deep) == "a value of type list" and shown(10**5000) == "a value of type int"
    assert len(shown("x" * 10**6)) <= 100


@pytest.mark.parametrize("kind", [UsageError, StoreError])
def test_a_usage_error_is_one_line_whatever_it_repeats(kind):
    error = kind("unknown attack 'a\nb\r\nc\u2028d\x85e'; " + "x" * 10**6)
    assert len(str(error).splitlines()) == 1 and len(str(error)) <= 2000
    assert str(error).startswith(r"unknown attack 'a\nb\r\nc\u2028d\x85e'; xxx")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
