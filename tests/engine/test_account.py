"""Where the time of a run goes: every moment counts once, and what a user is told adds up."""

import json
import threading
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.store import account
from bench.store.account import Account
from tests.schedule import small

KINDS = ["training", "attacks", "saving", "estimating"]


class Clock:
    """Nanoseconds that pass only when told to."""

    def __init__(self, now=0):
        self.now = now

    def __call__(self):
        return self.now


#: What a run does: waits (numbers), and blocks of a kind that contain more, some of which an exception ends.
WORK = st.recursive(
    st.integers(0, 10**12),
    lambda inner: st.tuples(st.sampled_from(KINDS), st.lists(inner, max_size=4), st.booleans()),
    max_leaves=30,
)


def follow(spent, clock, work, kind, expected):
    """Do the work, and count the waits of each kind in another way than the account does."""
    if isinstance(work, int):
        clock.now += work
        expected[kind] = expected.get(kind, 0) + work
        return
    inner_kind, parts, fails = work
    with suppress(ValueError), spent.spending(inner_kind):
        for part in parts:
            follow(spent, clock, part, inner_kind, expected)
        if fails:
            raise ValueError


@given(began=st.integers(0, 10**9), before=st.integers(0, 10**9), works=st.lists(WORK, max_size=5))
def test_every_nanosecond_counts_once_for_the_innermost_work(began, before, works):
    clock = Clock(began)
    spent = Account(clock)
    clock.now += before
    spent.begin(began)
    expected = {"starting": before}
    for work in works:
        follow(spent, clock, work, "else", expected)
    got = spent.spent()
    assert {kind: n for kind, n in got.items() if n} == {kind: n for kind, n in expected.items() if n}
    assert sum(got.values()) == clock.now - began


def test_a_block_that_never_left_does_not_count_on():
    clock = Clock()
    spent = Account(clock)
    with spent.spending("training"):
        # As if a signal came between entering and the block.
        inner = spent.spending("saving")
        inner.__enter__()
        clock.now += 5
    clock.now += 7
    assert spent.spent() == {"starting": 0, "training": 0, "saving": 5, "else": 7}
    del inner


def test_other_threads_are_not_counted():
    clock = Clock()
    spent = Account(clock)

    def work():
        with spent.spending("training"):
            clock.now += 5

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert spent.spent() == {"starting": 0, "else": 5}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ({"training": 500, "attacks": 29, "starting": 6, "else": 5}, "97 % of 540 s in training and attacks; the rest: "
         "6 s starting Python and torch, 5 s else"),
        ({"training": 10.0}, "100 % of 10 s in training and attacks"),
        # What takes less than a second is no item of its own.
        ({"attacks": 97.2, "saving": 0.6, "planning": 0.7, "measuring": 1.5}, "97 % of 100 s in training and attacks; "
         "the rest: 2 s measuring watched images, 1 s else"),
        ({"training": 999.9, "saving": 0.1}, "99 % of 1000 s in training and attacks"),
        ({"starting": 3, "else": 4}, None),
    ],
)  # fmt: skip
def test_the_line(seconds, text):
    assert account.line_of({kind: round(10**9 * value) for kind, value in seconds.items()}) == text


def test_a_run_says_where_its_time_went_and_its_log_has_it(tmp_path, capsys):
    began = time.monotonic()
    assert small.run(tmp_path) == 0
    took = time.monotonic() - began
    out = capsys.readouterr().out.splitlines()
    assert " s in training and attacks" in out[-2] and out[-1].endswith("index.html")
    (log,) = (tmp_path / "store" / "log").glob("*.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    spent = events[-1]["spent"]
    assert {"training", "attacks", "evaluating", "images", "networks", "saving", "planning"} <= spent.keys()
    assert all(seconds >= 0 for seconds in spent.values())
    # What the log says of single trainings and attacks, by another clock, includes building and saving.
    worked = sum(event["seconds"] for event in events if event["event"] in ("trained", "crafted"))
    assert 0 < spent["training"] + spent["attacks"] <= worked + 0.01
    assert worked <= sum(spent.values()) <= took + 0.1
