"""The process beside a worker: a task that hangs or kills it fails alone, after one attempt, and is reported."""

import ctypes
import faulthandler
import os
import signal
import time
from functools import partial

import pytest

from bench.process.ending import Overtime, Piece
from bench.schedule import hand
from bench.types import MethodError, StoreError


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A process that runs each task as one piece of work and logs a line when it begins; it is ended afterwards."""
    monkeypatch.setattr(hand, "GRACE", 0.2)
    process = hand.Hand(partial(in_hand, tmp_path / "begun"))
    yield process
    process._end()


def in_hand(begun, control, task, lost):
    run, seconds = task
    if any(each.key == "a" for each in lost):
        return ()
    with begun.open("a") as file:
        file.write(f"{os.getpid()}\n")
    piece = Piece("set", "a", seconds, "took too long", 0.1)
    try:
        control.within(piece, run)
    except Overtime as error:
        return (hand.Lost("set", "a", str(error), late=True),)
    return ()


def attempts(tmp_path):
    return (tmp_path / "begun").read_text().split()


def nothing():
    pass


def in_python():
    while True:
        time.sleep(0.01)


def in_c():
    """Sleeps in C and holds the GIL."""
    ctypes.PyDLL(None).sleep(1000)


def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)


def deaf():
    """Closes its files and blocks all signals."""
    os.closerange(3, 1000)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(1000)


def segmentation():
    faulthandler.disable()
    ctypes.string_at(0)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once(mark):
    if not mark.exists():
        mark.touch()
        killed()


def left():
    ctypes.CDLL(None)._exit(0)


def refused(error):
    raise error


@pytest.mark.parametrize("hang", [in_python, in_c, stopped, deaf])
def test_what_never_comes_back_is_ended_in_one_attempt_and_the_next_task_is_done(worker, tmp_path, hang):
    (lost,) = worker.do((hang, 0.1))
    assert (lost.kind, lost.key, lost.late) == ("set", "a", True)
    assert len(attempts(tmp_path)) == 1
    assert worker.do((nothing, None)) == ()


@pytest.mark.parametrize(
    ("crash", "why"),
    [
        (segmentation, f"ended the process ({signal.strsignal(signal.SIGSEGV)})"),
        (left, "ended the process (exit code 0)"),
    ],
)
def test_what_takes_the_process_with_it_is_lost_in_one_attempt(worker, tmp_path, crash, why):
    assert worker.do((crash, None)) == (hand.Lost("set", "a", why),)
    assert len(attempts(tmp_path)) == 1


def test_a_task_is_over_with_the_piece_that_is_all_of_it(worker, tmp_path):
    assert len(worker.do((segmentation, None), only_piece=("set", "a"))) == len(attempts(tmp_path)) == 1
    assert worker._ours is None, "no other process was started"


def test_what_is_killed_counts_as_lost_the_second_time(worker, tmp_path):
    (lost,) = worker.do((killed, None))
    assert "twice" in lost.why and len(attempts(tmp_path)) == 2
    assert worker.do((partial(killed_once, tmp_path / "mark"), None)) == ()
    assert len(attempts(tmp_path)) == 4


def test_tasks_go_to_one_process_and_what_was_lost_before_goes_with_them(worker, tmp_path):
    before = (hand.Lost("cell", "b", "why"),)
    assert worker.do((nothing, None), before) == before
    worker.do((nothing, None))
    first, second = attempts(tmp_path)
    assert first == second != str(os.getpid())
    os.kill(int(first), signal.SIGKILL)
    assert worker.do((nothing, None)) == ()


def test_errors_arrive_and_the_process_stays(worker, tmp_path):
    with pytest.raises(StoreError, match="the disk is full"):
        worker.do((partial(refused, StoreError("the disk is full")), None))
    with pytest.raises(MethodError, match="no number"):
        worker.do((partial(refused, ValueError("no number")), None))
    first, second = attempts(tmp_path)
    assert first == second, "what is raised ends nothing but the task"


def test_it_ends_with_who_made_it(tmp_path):
    begun = tmp_path / "begun"
    if (worker := os.fork()) == 0:
        hand.Hand(partial(in_hand, begun)).do((in_c, None))
        os._exit(1)
    while not begun.exists() or not begun.read_text().endswith("\n"):
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    (child,) = map(int, attempts(tmp_path))
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{child}") and state(child) != "Z":
        assert time.monotonic() < until, "it lives on"
        time.sleep(0.01)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
