"""Several processes on one store share the work, whatever becomes of one of them, and whatever clocks do."""

import errno
import json
import logging
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from bench.store import lease
from bench.store.lease import Busy, Leases, is_lease
from tests.faults import child
from tests.schedule import small

#: Seconds for which a process stands still; with 150 and more, leases expire as they do outside of tests.
STALL = float(os.environ.get("CROSSFIRE_STALL", "1.5"))


class Impatient:
    """Leases that expire after a second, unless stalls are long enough for true ones."""

    def __call__(self):
        if lease.EXPIRY > STALL:
            lease.BEAT, lease.EXPIRY = 0.1, 1.0


def work_together(tmp_path, count, fault=None):
    """Start some processes with one plan on one store."""
    folders = [tmp_path / str(i) for i in range(count)]
    (tmp_path / "store").mkdir()
    for folder in folders:
        folder.mkdir()
        (folder / "store").symlink_to(tmp_path / "store")
    return folders, [child.start(folder, small.command_line(folder), fault) for folder in folders]


def times_done(tmp_path):
    """Return how often each piece of work was brought to its end, by kind."""
    kinds = (("trained", "key"), ("crafted", "images"), ("done", "key"))
    return {kind: Counter((each["key"], each.get(of)) for each in small.events(tmp_path, kind)) for kind, of in kinds}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The outcome of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert small.run(folder) == 0
    return small.outcome(folder)


def test_eight_processes_with_one_plan(tmp_path, alone):
    folders, processes = work_together(tmp_path, 8)
    assert [child.finish(process) for process in processes] == [0] * 8, [child.errors(f) for f in folders]
    for kind, times in times_done(tmp_path).items():
        assert times and set(times.values()) == {1}, kind
    assert not list((tmp_path / "store" / "leases").iterdir())
    assert small.outcome(tmp_path) == alone


def test_of_six_processes_one_stands_still_and_one_is_killed(tmp_path, alone):
    folders, processes = work_together(tmp_path, 6, Impatient())
    stalled, killed = holder(tmp_path, processes, ("train-", "attack-")), None
    os.kill(stalled.pid, signal.SIGSTOP)
    since = time.monotonic()
    try:
        while killed is None and any(each.is_alive() for each in processes if each is not stalled):
            killed = holder(tmp_path, processes, ("attack-", "cell-"), but=stalled, seconds=0.1)
        if killed is not None:
            killed.kill()
        others = [each for each in processes if each not in (stalled, killed)]
        # Those that it kept waiting end without it.
        ends = [child.finish(process, 120 + STALL) for process in others]
        assert ends == [0] * len(others), [child.errors(f) for f in folders]
        time.sleep(max(0.0, STALL - (time.monotonic() - since)))
        before = times_done(tmp_path)
    finally:
        os.kill(stalled.pid, signal.SIGCONT)
    assert child.finish(stalled) == 0, [child.errors(f) for f in folders]
    # It learns that what it had in hand was taken, but for a piece that only had to be written when it was stopped.
    repeated = {kind: times - before[kind] for kind, times in times_done(tmp_path).items()}
    assert sum(times.total() for times in repeated.values()) <= 1, repeated
    assert small.outcome(tmp_path) == alone


def holder(tmp_path, processes, kinds, but=None, seconds=60.0):
    """Return a process that holds a lease of some kinds, as soon as there is one."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in (tmp_path / "store" / "leases").glob("[!.]*"):
            try:
                pid = json.loads(path.read_bytes())["pid"]
            except (OSError, ValueError):
                continue
            for process in processes:
                if path.name.startswith(kinds) and process.pid == pid and process is not but:
                    return process
        time.sleep(0.002)
    if but is None:
        pytest.fail("no process took a lease")
    return None


@pytest.fixture
def now(monkeypatch):
    """The monotonic clock of this process, to be set."""
    clock = [1000.0]
    monkeypatch.setattr(lease.time, "monotonic", lambda: clock[0])
    return clock


OWNER = {"machine": "another", "host": "b", "pid": 1, "started": "1", "token": "x"}


def held_elsewhere(folder, name="work"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(OWNER))
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
    path = held_elsewhere(tmp_path)
    void, fresh = lease._look(path), json.dumps({**OWNER, "token": "y"})
    rename = type(path).rename

    def rename_late(self, target):
        # The void lease is buried and taken by another process between the look of this one and its rename.
        if self == path:
            self.write_text(fresh)
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", rename_late)
    assert not lease._bury(path, void)
    assert [each.name for each in tmp_path.iterdir()] == ["work"] and path.read_text() == fresh


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


@pytest.mark.parametrize("times", ["none", "refused", "of two seconds"])
def test_a_lease_lives_on_a_file_system_that_keeps_no_times(tmp_path, monkeypatch, times):
    monkeypatch.setattr(lease, "BEAT", 0.02)
    monkeypatch.setattr(lease, "EXPIRY", 0.5)
    utime = os.utime

    def without(file):
        if times == "refused":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        utime(file, (0, 0) if times == "none" else (time.time() // 2 * 2,) * 2)

    monkeypatch.setattr(lease.os, "utime", without)
    owner, others = Leases(tmp_path), Leases(tmp_path)
    with owner.hold("work"):
        # Its owner is on another machine, for all that others can see.
        monkeypatch.setattr(lease, "_machine", lambda: "here")
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            with pytest.raises(Busy):
                take(others)
            time.sleep(0.05)
        owner.check()
    assert take(others)


def test_a_full_disk_ends_no_lease(tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    leases = Leases(tmp_path)
    with leases.hold("work"):
        os.utime(tmp_path / "work", (1, 1))
        monkeypatch.setattr(lease.os, "write", full)
        leases._touch()
        leases.check()
        assert (tmp_path / "work").stat().st_mtime != 1


def _hold_until_lost(folder):
    Impatient()()
    leases = Leases(folder)
    with leases.hold("work"):
        while True:
            try:
                leases.check()
            except Busy:
                break
            if (folder / "end").exists():
                os._exit(2)
    os._exit(0)


def started_holding(folder):
    folder.mkdir(exist_ok=True)
    process = child.CONTEXT.Process(target=_hold_until_lost, args=(folder,))
    process.start()
    while not (folder / "work").exists() or not (folder / "work").read_bytes():
        assert process.is_alive()
        time.sleep(0.01)
    return process


def test_who_was_stopped_knows_it_at_its_next_look(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "EXPIRY", 1.0)
    process = started_holding(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    leases = Leases(tmp_path)
    try:
        with pytest.raises(Busy):
            take(leases)
        time.sleep(1.1)
        with leases.hold("work"):
            mine = (tmp_path / "work").read_bytes().rstrip(b"\n")
            os.kill(process.pid, signal.SIGCONT)
            # It leaves its block, and what it finds there is not its own.
            assert child.finish(process) == 0
            assert (tmp_path / "work").read_bytes().rstrip(b"\n") == mine
    finally:
        process.kill()
    assert not (tmp_path / "work").exists()


def test_the_lease_of_a_dead_process_that_nobody_has_buried_is_void_at_once(tmp_path):
    (read, write), pid = os.pipe(), os.fork()
    if pid == 0:
        with Leases(tmp_path).hold("work"):
            os.write(write, b"held")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.read(read, 4) == b"held"
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert take(Leases(tmp_path))
    os.waitpid(pid, 0)


def test_a_process_id_that_is_used_again_holds_nothing(tmp_path):
    mine = json.loads(lease._signed())
    (tmp_path / "work").write_text(json.dumps({**mine, "started": "1"}))
    assert take(Leases(tmp_path))


def test_what_another_user_runs_is_not_taken_for_dead_where_it_is_hidden(tmp_path, monkeypatch):
    """A machine that shows a user only his own processes (``hidepid``)."""
    with Leases(tmp_path).hold("work"):
        monkeypatch.setattr(lease, "_started", lambda pid: None)
        with pytest.raises(Busy):
            take(Leases(tmp_path))


def test_machines_of_one_name_are_told_apart(tmp_path):
    mine = json.loads(lease._signed())
    boot, _, processes = mine["machine"].partition(" ")
    # Alive there; there is no such process here.
    other = {**mine, "machine": f"{boot[::-1]} {processes}", "pid": 2**22 + 1}
    (tmp_path / "work").write_text(json.dumps(other))
    with pytest.raises(Busy):
        take(Leases(tmp_path))


LEASE = f"cell-{'ab' * 32}"
TORN = {
    "empty": b"",
    "zeros": bytes(200),
    "cut short": json.dumps(OWNER).encode()[:30],
    "types": b'{"machine":[1],"host":3,"pid":{},"started":5,"token":null}',
    "no machine": b'{"machine":null}',
    **{
        f"pid {pid[:6]}": json.dumps({**OWNER, "pid": 0}).replace('"pid": 0', f'"pid": {pid}').encode()
        for pid in ('"1"', "-1", "0", "0.5", "null", "true", "[1]", "1e999", "1" + "0" * 400, str(2**31))
    },
}


@pytest.mark.parametrize("data", TORN.values(), ids=TORN)
def test_a_lease_that_does_not_say_whose_it_is_is_void_after_seconds(tmp_path, now, data, caplog):
    path, leases = tmp_path / LEASE, Leases(tmp_path)
    path.write_bytes(data)
    assert is_lease(path)
    with pytest.raises(Busy):
        take(leases, LEASE)
    now[0] += lease.UNSIGNED + 1
    assert take(leases, LEASE) and not path.exists()
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} was removed: a lease that does not say whose it is"
    ]
    assert leases.at_work() is None


def _in_a_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


def _sparse(path):
    with path.open("wb") as file:
        file.truncate(3 * 10**9)


STRANGE = {
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to a file": lambda path: path.symlink_to(path.parent / "contract.pdf"),
    "pipe": os.mkfifo,
    "socket": _in_a_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "photo": lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(10**5)),
    "array": lambda path: path.write_text("[1, 2, 3]"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "nested and begins well": lambda path: path.write_text('{"machine":' * 100_000),
    "huge": _sparse,
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
def test_what_is_no_lease_stays_and_the_work_goes_on(tmp_path, make, caplog):
    (tmp_path / "contract.pdf").write_bytes(b"signed")
    path, leases = tmp_path / LEASE, Leases(tmp_path)
    make(path)
    before = path.lstat()
    assert not is_lease(path)
    for _ in range(3):
        assert take(leases, LEASE)
    leases.check()
    assert leases.at_work() is None
    assert path.lstat() == before and (tmp_path / "contract.pdf").read_bytes() == b"signed"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{path} cannot hold a lease (something else is in its place); the work continues")


def test_only_what_has_the_name_and_the_words_of_a_lease_is_one(tmp_path):
    with Leases(tmp_path).hold(LEASE):
        text = (tmp_path / LEASE).read_bytes()
        assert is_lease(tmp_path / LEASE)
    names = {LEASE: True, f".{LEASE}.0123abcd": True, f"attack-{'0' * 64}-000128": True, f"plan-{'0' * 64}": True}
    names |= {
        "README.json": False,
        f"{LEASE} (conflicted copy)": False,
        f"{LEASE}.json": False,
        f"Cell-{'0' * 64}": False,
    }
    for name, ours in names.items():
        (tmp_path / name).write_bytes(text)
        assert is_lease(tmp_path / name) == ours, name
        (tmp_path / name).write_bytes(b"a letter")
        assert not is_lease(tmp_path / name)


def without_locks():
    """Have every lease refused, as on a network file system whose server knows no locks."""
    real = os.open

    def refuse(path, flags, *mode, **more):
        if flags & os.O_EXCL and "/leases/" in os.fsdecode(path):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), path)
        return real(path, flags, *mode, **more)

    os.open = refuse


def test_a_store_that_cannot_be_locked_is_worked_on_with_one_warning(tmp_path, alone):
    process = child.start(tmp_path, small.command_line(tmp_path), without_locks)
    assert child.finish(process) == 0, child.errors(tmp_path)
    (said,) = [line for line in child.errors(tmp_path).splitlines() if "warning: " in line]
    assert "cannot hold a lease (No locks available)" in said
    assert small.outcome(tmp_path) == alone


@pytest.mark.parametrize(
    "make", [STRANGE[name] for name in ("link to itself", "link to nothing", "pipe", "socket", "photo")]
)
def test_where_the_folder_of_leases_is_something_else_the_work_goes_on(tmp_path, make, caplog):
    make(tmp_path / "leases")
    leases = Leases(tmp_path / "leases")
    assert take(leases) and take(leases, "other work")
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records) == 1
    assert leases.at_work() is None


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL])
@pytest.mark.parametrize("call", ["open", "rename"])
def test_where_no_lease_can_be_made_or_moved_the_work_goes_on(tmp_path, now, monkeypatch, caplog, call, error):
    path = held_elsewhere(tmp_path)
    leases, opened = Leases(tmp_path), os.open

    def refuse(name, *args):
        if call == "open" and not args[0] & os.O_EXCL:
            return opened(name, *args)
        raise OSError(error, os.strerror(error), str(name))

    with pytest.raises(Busy):
        take(leases)
    now[0] += lease.EXPIRY + 1
    monkeypatch.setattr(*((lease.os, "open") if call == "open" else (type(path), "rename")), refuse)
    assert take(leases) and take(leases)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert os.strerror(error) in said and json.loads(path.read_text()) == OWNER


@pytest.mark.parametrize("error", sorted(lease.BROKEN_DISK))
def test_a_disk_that_takes_no_lease_takes_no_results(tmp_path, monkeypatch, error):
    def refuse(name, *args):
        raise OSError(error, os.strerror(error), str(name))

    monkeypatch.setattr(lease.os, "open", refuse)
    with pytest.raises(OSError):
        take(Leases(tmp_path))
