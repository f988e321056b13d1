"""Names in charts and headings: whole or told apart, none on another."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.render.names import breakable, short_names, width_of
from bench.report.render.placement import Box, Spot, mark, place

AREA = Box(56, 478, 0, 272)
NAMES = st.lists(st.text("ab[=,1é", min_size=1, max_size=60), min_size=1, max_size=12)


@given(NAMES, st.integers(12, 30))
def test_short_names_are_short_and_as_different_as_the_names(names, letters):
    shown = short_names(names, letters)
    assert set(shown) == set(names)
    assert len(set(shown.values())) == len(set(names))
    assert all(len(short) <= letters for short in shown.values())
    assert all(shown[name] == name for name in names if len(name) <= letters)


def test_a_short_name_keeps_what_it_differs_in():
    names = [f"defense[steps=10,step_size=2/255,noise=0.{i},schedule=cosine,momentum=0.75]" for i in range(3)]
    assert all(f"noise=0.{i}"[-3:] in short for i, short in enumerate(short_names(names, 28).values()))


@given(st.text("ab[=,_-/1 ", max_size=120))
def test_a_heading_in_pieces_is_the_same_heading(label):
    pieces = breakable(label)
    assert "".join(pieces) == label
    assert all(len(piece) <= 20 or " " in label for piece in pieces)


@pytest.mark.parametrize("count", [2, 12, 80])
@pytest.mark.parametrize("costs", [1, 4])
def test_labels_lie_on_nothing_and_every_point_is_named_or_numbered(count, costs):
    rng = random.Random(count + costs)
    columns = [70, 150, 300, 470][:costs]
    spots = [Spot(rng.choice(columns), rng.uniform(12, 264), (f"defense-{i}",)) for i in range(count)]
    marks = [mark(spot.x, spot.y - 6, spot.y + 6) for spot in spots]
    labels, numbered, whole = place(spots, marks, AREA)
    boxes = [label.box for label in labels]
    assert boxes and not any(one.meets(other) for one, other in combinations(boxes, 2))
    assert not any(box.meets(other) for box in boxes for other in marks)
    assert all(AREA.holds(box) for box in boxes)
    assert all(label.box.right - label.box.left >= 16 * width_of(label.text) - 1e-9 for label in labels)
    texts = [label.text for label in labels]
    assert len(set(texts)) == len(texts) and not any("…" in text for text in texts)
    assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))
    named = [name for text in texts for name in text.split(", ") if name.startswith("defense")]
    assert sorted([*named, *(name for _, name in numbered)]) == sorted(spot.names[0] for spot in spots)
    assert whole == len(named)


def test_a_lone_name_stands_at_the_height_of_its_point():
    (label,), numbered, _ = place([Spot(100, 100, ("pgd-at",))], [mark(100, 90, 110)], AREA)
    assert (label.text, label.x, label.y, label.leader, numbered) == ("pgd-at", 111, 100, None, [])
    (label,), *_ = place([Spot(470, 100, ("pgd-at",))], [mark(470, 90, 110)], AREA)
    assert label.left and label.x == 459
