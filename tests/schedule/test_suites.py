"""Worst-case suites, in which a set continues from that of the previous attack."""

import pytest
import torch

from bench.config import sections
from bench.keys import attack_key
from bench.schedule.plan import make
from bench.schedule.run import Runner
from bench.store.working_store import Store
from bench.types import MethodError
from tests.faults.test_damage import Silent
from tests.schedule import small

LENGTH = 1_200


@pytest.fixture
def runner(tmp_path):
    text = small.CONFIG.replace('name = "small"', 'name = "small"\nworst_case = true')
    work = make(sections.load(small.write(tmp_path, text)))
    return Runner(work, Store(tmp_path / "store"), torch.device("cpu"), None, lambda: None, Silent())


@pytest.fixture
def last(runner):
    """The last cell of a suite that is longer than Python's stack is deep."""
    planned = next(each for each in runner.work.plan.cells if each.cell.attack and each.cell.attack.after)
    attack = planned.cell.attack.model_copy(update={"after": planned.cell.attack.after * LENGTH})
    return planned.model_copy(update={"cell": planned.cell.model_copy(update={"attack": attack})})


@pytest.fixture
def lengths(runner, monkeypatch):
    """The number of earlier attacks of each requested set; a number in ``broken`` raises."""
    lengths, broken = [], {LENGTH - 7}

    def make_chunks(ref, planned):
        lengths.append(len(ref.after))
        if len(ref.after) in broken:
            raise MethodError("broken")

    monkeypatch.setattr(runner, "_make_chunks", make_chunks)
    return lengths


def prefix(ref, length):
    """The set of a suite with this number of attacks before it."""
    while len(ref.after) > length:
        ref = ref.previous
    return ref


def test_a_suite_may_be_longer_than_the_stack_is_deep(runner, last, lengths):
    runner.make_set(last.cell.attack, last)
    assert lengths == [*range(LENGTH + 1)]
    assert runner._failed == {attack_key(prefix(last.cell.attack, LENGTH - 7))}, (
        "the sets after it continue from the one before it"
    )


def test_of_a_suite_only_what_comes_after_its_last_whole_set_is_made(runner, last, lengths):
    folder = runner.store.adversarial(attack_key(prefix(last.cell.attack, LENGTH - 3)))
    folder.mkdir(parents=True)
    (folder / "000000-000128.safetensors").write_bytes(b"")
    runner.make_set(last.cell.attack, last)
    assert len(lengths) > 3, "of two chunks one was there"
    lengths.clear()
    (folder / "000128-000140.safetensors").write_bytes(b"")
    runner.make_set(last.cell.attack, last)
    assert lengths == [LENGTH - 2, LENGTH - 1, LENGTH]


def test_the_last_set_of_a_suite_says_why_it_cannot_be_made(runner, last, lengths):
    with pytest.raises(MethodError, match="broken"):
        runner.make_set(prefix(last.cell.attack, LENGTH - 7), last)
