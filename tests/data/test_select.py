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
    assert len(set(rows.tolist())) == n and rows.min() >= 0 and rows.max() < len(labels)
    selected_counts = np.bincount(np.array(labels)[rows], minlength=6)
    shares = np.bincount(labels, minlength=6) * n / len(labels)
    assert np.all(np.abs(selected_counts - shares) < 1)
    # Of a set in mixed order, the first of each class.
    for value in range(6) if not image_set(labels).ordered else ():
        of_class = np.flatnonzero(np.array(labels) == value)
        assert np.array_equal(rows[np.array(labels)[rows] == value], of_class[: selected_counts[value]])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.sampled_from(["first", "stratified"]))
def test_none_is_all(labels, subset):
    assert sorted(select(image_set(labels), None, subset).tolist()) == list(range(len(labels)))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_the_first_are_the_first_whatever_the_order(labels):
    assert select(image_set(sorted(labels)), len(labels), "first").tolist() == list(range(len(labels)))


def test_what_counts_as_class_by_class():
    assert not image_set([9, 3, 7, 0, 9, 7, 7, 9, 6, 5, 4, 5]).ordered and not image_set([0]).ordered
    assert not image_set([3, 1, 0, 2]).ordered  # an image of each class has no order
    for labels in ([0, 0, 1], [5, 5, 5, 1, 1, 0], [0, 0, 0, 1, 1, 1] * 2, [0] * 40 + [1] * 40 + [0, 1] * 5):
        assert image_set(labels).ordered
    rng = np.random.default_rng(0)
    for classes in (2, 10, 100):
        assert not image_set(rng.integers(0, classes, 1000)).ordered
        assert image_set(np.sort(rng.integers(0, classes, 1000))).ordered
    # One class in ninety-nine of a hundred: its long runs are chance, not order.
    assert not image_set((rng.random(1000) < 0.01).astype(int)).ordered


def test_a_sorted_set_gives_a_fixed_random_part_of_every_class():
    images = image_set(np.repeat(range(6), 50))
    rows = select(images, 60)
    assert np.bincount(images.labels[rows]).tolist() == [10] * 6
    # Neither the first of each class, nor class by class, so that the first rows of the choice are a sample too.
    assert (rows % 50).max() > 30 and len(set(images.labels[rows[:12]].tolist())) > 3
    assert rows.tolist() == select(images, 60).tolist() == select(images, 60, "stratified").tolist()
    assert set(rows.tolist()) < set(select(images, 120).tolist())
    assert select(images, 60, "first").tolist() == list(range(60))


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
