"""Several processes on one store share the work, whatever becomes of one of them, and whatever clocks do."""

import json
import os
import time
from collections import Counter

import pytest

from bench import lease
from bench.lease import Busy, Leases
from tests.faults import child
from tests.schedule import small


def test_eight_processes_with_one_plan(tmp_path):
    folders = [tmp_path / str(i) for i in range(8)]
    (tmp_path / "store").mkdir()
    for folder in folders:
        folder.mkdir()
        (folder / "store").symlink_to(tmp_path / "store")
    processes = [child.start(folder, small.words(folder)) for folder in folders]
    assert [child.finish(process) for process in processes] == [0] * 8, [child.errors(f) for f in folders]
    for event, name in (("trained", "key"), ("crafted", "images"), ("done", "key")):
        times = Counter((each["key"], each.get(name)) for each in small.events(tmp_path, event))
        assert times and set(times.values()) == {1}, event
    assert not list((tmp_path / "store" / "leases").iterdir())
    (tmp_path / "alone").mkdir()
    assert small.run(tmp_path / "alone") == 0
    assert small.outcome(tmp_path) == small.outcome(tmp_path / "alone")


@pytest.fixture
def now(monkeypatch):
    """The monotonic clock of this process, to be set."""
    clock = [1000.0]
    monkeypatch.setattr(lease.time, "monotonic", lambda: clock[0])
    return clock


def held_elsewhere(folder, name="work"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"machine": "another", "host": "b", "pid": 1, "started": "1", "token": "x"}))
    return folder / name


def take(leases, name="work"):
    with leases.hold(name):
        return True


def test_a_lease_is_held_once_and_given_back(tmp_path):
    leases, others = Leases(tmp_path), Leases(tmp_path)
    with leases.hold("work"):
        with pytest.raises(Busy):
            take(others)
        assert take(others, "other work")
    assert take(others)
    assert not list(tmp_path.iterdir())


def test_a_lease_that_nobody_touches_expires(tmp_path, now):
    held_elsewhere(tmp_path)
    leases = Leases(tmp_path)
    with pytest.raises(Busy):
        take(leases)
    now[0] += lease.EXPIRY - 1
    with pytest.raises(Busy):
        take(leases)
    now[0] += 2
    assert take(leases)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("jump", [-(10**9), -1, 1, 10**9])
def test_a_touched_lease_lives_though_the_clock_of_its_owner_jumps(tmp_path, now, jump):
    path = held_elsewhere(tmp_path)
    leases, at = Leases(tmp_path), 2 * 10**9
    for _ in range(5):
        with pytest.raises(Busy):
            take(leases)
        now[0] += lease.EXPIRY - 1
        at += jump
        os.utime(path, (at, at))
    with pytest.raises(Busy):
        take(leases)


def test_a_lease_from_the_future_expires_all_the_same(tmp_path, now):
    os.utime(held_elsewhere(tmp_path), (4 * 10**9, 4 * 10**9))
    leases = Leases(tmp_path)
    with pytest.raises(Busy):
        take(leases)
    now[0] += lease.EXPIRY + 1
    assert take(leases)


def _hold_and_die(folder):
    with Leases(folder).hold("work"):
        os._exit(0)


def test_the_lease_of_a_process_of_this_machine_that_died_is_void_at_once(tmp_path):
    process = child.CONTEXT.Process(target=_hold_and_die, args=(tmp_path,))
    process.start()
    assert child.finish(process) == 0
    assert (tmp_path / "work").exists()
    assert take(Leases(tmp_path))


def test_of_many_who_find_an_expired_lease_one_gets_it(tmp_path, now):
    held_elsewhere(tmp_path)
    crowd = [Leases(tmp_path) for _ in range(8)]
    for leases in crowd:
        with pytest.raises(Busy):
            take(leases)
    now[0] += lease.EXPIRY + 1
    with crowd[0].hold("work"):
        for leases in crowd[1:]:
            with pytest.raises(Busy):
                take(leases)


def test_a_fresh_lease_that_was_buried_by_mistake_is_given_back(tmp_path, monkeypatch):
    leases, others = Leases(tmp_path), Leases(tmp_path)
    path = held_elsewhere(tmp_path)
    with others.hold("fresh"):
        fresh = (tmp_path / "fresh").read_text()
        # The void lease is buried and taken by another process between the look of this one and its rename.
        look, rename = lease._read, type(path).rename

        def rename_late(self, target):
            self.write_text(fresh)
            return rename(self, target)

        monkeypatch.setattr(type(path), "rename", rename_late)
        assert not leases._bury(path)
        assert look(path) == fresh


def test_who_stood_still_learns_that_its_lease_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    leases = Leases(tmp_path)
    with leases.hold("work"):
        leases.check()
        held_elsewhere(tmp_path)
        for _ in range(500):
            time.sleep(0.01)
            try:
                leases.check()
            except Busy:
                break
        else:
            pytest.fail("the loss was not noticed")
    assert json.loads((tmp_path / "work").read_text())["machine"] == "another"


def test_a_lease_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    leases = Leases(tmp_path)
    with leases.hold("work"):
        os.utime(tmp_path / "work", (1, 1))
        for _ in range(500):
            time.sleep(0.01)
            if (tmp_path / "work").stat().st_mtime != 1:
                break
        else:
            pytest.fail("it was never touched")
