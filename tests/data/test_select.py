import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data import ImageSet, select
from bench.data.rows import held_out
from bench.types import UsageError


def image_set(labels):
    labels = np.array(labels, dtype=np.int64)
    return ImageSet("fake", "test", np.zeros((len(labels), 1, 1, 1), np.uint8), labels, tuple("abcdef"), "")


labels_and_n = st.lists(st.integers(0, 5), min_size=1, max_size=60).flatmap(
    lambda labels: st.tuples(st.just(labels), st.integers(1, len(labels)))
)


@given(labels_and_n)
def test_first_is_a_prefix(case):
    labels, n = case
    assert select(image_set(labels), n, "first").tolist() == list(range(n))


@given(labels_and_n)
def test_stratified_keeps_every_share_within_one(case):
    labels, n = case
    rows = select(image_set(labels), n, "stratified")
    assert len(rows) == n and rows.dtype == np.int64
    assert np.all(np.diff(rows) > 0) and rows.min() >= 0 and rows.max() < len(labels)
    taken = np.bincount(np.array(labels)[rows], minlength=6)
    shares = np.bincount(labels, minlength=6) * n / len(labels)
    assert np.all(np.abs(taken - shares) < 1)
    for value in range(6):
        of_class = np.flatnonzero(np.array(labels) == value)
        assert np.array_equal(rows[np.array(labels)[rows] == value], of_class[: taken[value]])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.sampled_from(["first", "stratified"]))
def test_none_is_all(labels, subset):
    assert select(image_set(labels), None, subset).tolist() == list(range(len(labels)))


@given(labels_and_n)
def test_a_held_out_split_loses_nothing_and_repeats_nothing(case):
    labels, n = case
    parts = held_out(np.array(labels), n)
    assert len(parts["test"]) == n
    assert sorted([*parts["train"], *parts["test"]]) == list(range(len(labels)))
    assert held_out(np.array(labels), n)["test"].tolist() == parts["test"].tolist()


@pytest.mark.parametrize(
    ("n", "line"),
    [
        (0, "n = 0: at least one image is needed"),
        (-3, "n = -3: at least one image is needed"),
        (4, "n = 4: fake has 3 test images"),
    ],
)
@pytest.mark.parametrize("subset", ["first", "stratified"])
def test_a_number_out_of_range_is_an_error(n, line, subset):
    with pytest.raises(UsageError) as caught:
        select(image_set([0, 1, 2]), n, subset)
    assert str(caught.value) == line
