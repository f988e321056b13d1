"""The time that a run still takes, on clocks of our own."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.schedule.estimate import Node
from bench.schedule.progress import SHARE, Remaining, TimeLeft
from tests.schedule import small


def plan(draw):
    """Twelve base classifiers, each with a training, attacks and evaluations, of very different costs."""
    nodes = []
    for base in range(12):
        nodes.append(Node(f"t{base}", "train", "pgd-at", f"net{base}", False, 1, draw.uniform(50, 150)))
        for attack, cost in (("pgd", 20), ("autoattack", 60), ("cw", None)):
            key, cell = f"{base}{attack}", f"set/net{base}/d/{attack}/static"
            nodes.append(Node(f"a{key}", "attack", attack, cell, False, 1, cost))
            nodes.append(Node(f"e{key}", "evaluate", attack, cell, False, 1, 1))
    return nodes


@pytest.mark.parametrize("slower", [0.2, 1, 5])
@pytest.mark.parametrize("seed", range(5))
def test_right_within_a_third_after_the_first_tenth(slower, seed):
    draw, now = random.Random(seed), [0.0]
    nodes = plan(draw)
    # Every method is mispredicted by its own factor, every node a little more, and all of them by the machine.
    of = {"train": 1.1, "pgd": 0.8, "autoattack": 0.85, "cw": 1.2, "evaluate": 3}
    takes = {}
    for node in nodes:
        name = node.method if node.kind == "attack" else node.kind
        mean = 40 if node.seconds is None else node.seconds
        takes[node.key] = mean * slower * of[name] * draw.uniform(0.9, 1.1)
    total, follow = sum(takes.values()), Remaining(nodes, lambda: now[0])
    for node in nodes:
        for step in range(11):
            now[0] += takes[node.key] / 10 * (step > 0)
            follow.at(node.key, step / 10)
            left = total - now[0]
            if 0.1 * total < now[0] < 0.99 * total:
                assert follow.seconds() == pytest.approx(left, rel=0.3)
    assert follow.seconds() == pytest.approx(0, abs=1e-6)


def test_what_is_done_takes_no_time_and_what_was_begun_is_no_experience():
    now = [0.0]
    nodes = [Node("a", "train", "x", "y", True, 1, 100), Node("b", "train", "z", "y", False, 1, 100)]
    follow = Remaining(nodes, lambda: now[0])
    assert follow.seconds() == 100
    follow.at("b", 0.5)
    assert follow.seconds() == 50
    now[0] = 100
    follow.at("b", 0.75)
    # A quarter took four times what was predicted, but for the doubt.
    assert 70 < follow.seconds() < 100
    left = follow.seconds()
    follow.at("of another plan", 0.5)
    follow.at("b", 0.0)
    assert follow.seconds() == left


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1)), min_size=1, max_size=200))
def test_the_estimate_takes_a_fiftieth_of_the_time_and_one_step(run):
    now, spent = [0.0], [0.0]
    step_seconds = iter([second for _, second in run])

    def steps():
        for seconds in step_seconds:
            now[0] += seconds
            spent[0] += seconds
            yield
        return [Node("a", "train", "x", "y", False, 1, 100)]

    estimate = TimeLeft(steps(), lambda: now[0])
    for pause, _ in run:
        now[0] += pause
        before = spent[0]
        left = estimate.at("a", 0.0)
        # The time before the last step was within the share, so only one step can exceed it.
        assert spent[0] == before or spent[0] <= SHARE * now[0] + 1.0
        assert left is None or next(step_seconds, None) is None


def test_an_estimate_that_comes_late_knows_what_was_done_meanwhile():
    """It is the same as an early one, also for work that was finished before it began."""
    now, early = [0.0], [0.0]
    nodes = [Node(name, "train", name, "y", False, 1, 100) for name in "abc"]

    def steps():
        for _ in range(100):
            now[0] += 0.01
            yield
        return [node._replace(done=node.key == "a") for node in nodes]

    estimate, follow = TimeLeft(steps(), lambda: now[0]), Remaining(nodes, lambda: early[0])
    done = [("a", i / 20) for i in range(21)] + [("b", i / 200) for i in range(200)]
    for key, share in done:
        early[0] = now[0]
        follow.at(key, share)
        if (left := estimate.at(key, share)) is not None:
            break
        now[0] += 2
    assert now[0] > 50 and key == "b"
    assert left == pytest.approx(follow.seconds())


def test_where_nothing_is_known_nothing_is_said():
    estimate = TimeLeft(iter_of([Node("a", "train", "x", "y", False, 1, None)]), iter(range(0, 10**6, 1000)).__next__)
    assert [estimate.at("a", share / 10) for share in range(10)] == [None] * 10


def iter_of(pieces):
    yield
    return pieces


def test_a_long_run_says_when_it_will_end(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.schedule.progress._LOG_EVERY", 0.0)
    monkeypatch.setattr("bench.schedule.progress.SHARE", 100.0)
    assert small.run(tmp_path) == 0
    events = small.events(tmp_path, "remaining")
    assert len(events) > 10 and all(event["seconds"] >= 0 for event in events)
    assert events[-1]["seconds"] < 0.05 * max(event["seconds"] for event in events)


def test_what_takes_more_passes_than_it_is_counted_with_has_a_bound():
    now = [0.0]
    nodes = [
        Node("a", "attack", "pgd", "x", False, 1, 10, (5, 20), (40, None)),
        # Half of what it takes if none breaks, and at most ten times as many passes.
        Node("b", "attack", "cascade", "x", False, 1, 30, (10, 60), (300, 3000)),
        Node("c", "attack", "cascade", "y", True, 1, 30, (10, 60), (300, 3000)),
    ]
    follow = Remaining(nodes, lambda: now[0])
    assert (follow.seconds(), follow.most()) == (40, 10 + 30 * 20)
    follow.at("b", 0.0)
    now[0] = 15
    follow.at("b", 0.5)
    # As fast as predicted so far: half of it may still take 300 s, beside 10 s of the other.
    assert (follow.seconds(), follow.most()) == (pytest.approx(25), pytest.approx(310))
    follow.at("b", 1.0)
    assert follow.most() == follow.seconds()
