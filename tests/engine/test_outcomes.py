"""Outcomes of images against numpy's packed bits and plain loops."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.outcomes import Distances, Outcomes, right_in_all

images = st.lists(st.booleans(), min_size=1, max_size=70)
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=70)


@given(images)
def test_the_text_of_outcomes_is_numpys_packed_bits(right):
    text = Outcomes.of(right).encode()
    assert base64.b64decode(text) == np.packbits(right).tobytes()
    assert (
        list(Outcomes.decode(text, len(right)))
        == np.unpackbits(np.packbits(right), count=len(right)).astype(bool).tolist()
    )


@given(images)
def test_outcomes_are_counted_image_by_image(right):
    outcomes = Outcomes.of(iter(right))
    assert list(outcomes) == right
    assert (outcomes.n, outcomes.count, outcomes.share) == (len(right), sum(right), np.mean(right))


@given(pairs)
def test_two_outcomes_are_paired_image_by_image(pairs):
    first, second = (Outcomes.of(column) for column in zip(*pairs, strict=True))
    assert list(first & second) == [a and b for a, b in pairs]
    assert list(first.but_not(second)) == [a and not b for a, b in pairs]
    assert first.but_not(second).count + (first & second).count == first.count


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=6))
def test_an_image_survives_what_it_survives_every_time(attacks):
    assert list(right_in_all(map(Outcomes.of, attacks))) == np.all(attacks, axis=0).tolist()


@given(images, st.integers(1, 90))
def test_a_text_of_another_length_is_refused(right, n):
    if -(-n // 8) != -(-len(right) // 8):
        with pytest.raises(ValueError, match=f"exactly {n} outcomes"):
            Outcomes.decode(Outcomes.of(right).encode(), n)


def test_an_outcome_after_the_last_image_is_refused():
    text = base64.b64encode(bytes([0b00010000])).decode()
    assert list(Outcomes.decode(text, 4)) == [False, False, False, True]
    with pytest.raises(ValueError, match="more than 3 outcomes"):
        Outcomes.decode(text, 3)


@pytest.mark.parametrize("text", ["*", "AAA", "A A=", "é"])
def test_a_text_that_is_not_base64_is_refused(text):
    with pytest.raises(ValueError, match="not base64"):
        Outcomes.decode(text, 8)


lengths = st.lists(st.floats(0, 1e6, width=32) | st.just(np.inf), min_size=1, max_size=40)


@given(lengths)
def test_the_text_of_distances_is_numpys_floats_of_32_bits(values):
    text = Distances(values).encode()
    assert base64.b64decode(text) == np.array(values, "<f4").tobytes()
    read = Distances.decode(text, len(values))
    assert list(read.values) == values
    assert list(read.unbroken) == np.isinf(values).tolist()
    assert read.farthest == max([each for each in values if each < np.inf], default=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [([np.nan, 1], "no number"), ([-1, 1], "negative"), ([-np.inf, 1], "negative"), ([1, 1, 1], "exactly 2 distances")],
)
def test_distances_that_are_none_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Distances.decode(base64.b64encode(np.array(values, "<f4").tobytes()).decode(), 2)
    with pytest.raises(ValueError, match="not base64"):
        Distances.decode("####", 2)
