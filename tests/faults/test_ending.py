"""What never comes back is ended: by budgets, signals and timeouts, with the right exit code and all that is finished.

How soon is a matter for a stopwatch (``python -m tests.perf.ending``); here it is that it ends at all.
"""

import contextlib
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.cli import main
from bench.display import lines
from bench.process.ending import Control, Overtime, Piece, Stop
from bench.process.isolation import isolated
from bench.process.shared import Shared
from bench.store.working_store import Store
from tests.engine import tiny
from tests.faults import child, hostile

METHODS = hostile.__file__
CLOSING = "cells are done; the same command continues from here."
#: Seconds after which a run that should have ended counts as one that hangs.
HANGS = 100


def write(folder, attacks="", row="", timeout=None):
    head, _, usual = tiny.CONFIG.replace("epochs = 2", "epochs = 1").partition("\n[[attacks]]")
    plain = head.replace('\n[[defenses]]\nuse = "tpap"\nbeta = "0.1"\n', row)
    path = folder / "these.toml"
    limits = "" if timeout is None else f'\n[run]\ntimeout = "{timeout}s"\n'
    path.write_text(f"{plain}{attacks}\n[[attacks]]{usual}{limits}")
    return path


def attack(fault):
    return f'\n[[attacks]]\nuse = "{METHODS}:hostile"\neps = "0.1"\nfault = "{fault}"\n'


def words(folder, *more):
    options = ("--store", str(folder / "store"), "--report", str(folder / "report"))
    return ["run", str(folder / "these.toml"), *options, *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store that holds the training and every cell but the hostile ones."""
    folder = tmp_path_factory.mktemp("trained")
    write(folder)
    assert child.finish(child.start(folder, words(folder))) == 0, child.errors(folder)
    return folder / "store"


@pytest.fixture
def workspace(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "store")
    monkeypatch.setenv("HOSTILE", str(tmp_path))
    return tmp_path


def start(folder, *more, **surroundings):
    # The environment of the server from which it is forked is that of its own start.
    return child.start(folder, words(folder, *more), _Surroundings(str(folder), **surroundings), supervised=True)


class _Surroundings:
    """Where a command runs.

    Args:
        folder: that of the hostile methods.
        minute: seconds of the minute of which each has a line.
        full: the number of a stream that becomes a pipe without room, whose reader does not read; "disk" for standard
            output on a full disk.
        ignored: signals that are ignored from the beginning.
        loading: seconds that each process takes until it begins to work.
    """

    def __init__(self, folder, minute=None, full=None, ignored=(), loading=0.0):
        self.folder = folder
        self.minute = minute
        self.full = full
        self.ignored = ignored
        self.loading = loading

    def __call__(self):
        os.environ["HOSTILE"] = self.folder
        if self.loading:
            os.register_at_fork(after_in_child=lambda: time.sleep(self.loading))
        if self.minute is not None:
            lines.MINUTE = self.minute
        if self.full == "disk":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        elif self.full is not None:
            self._reader, writer = os.pipe()
            os.set_blocking(writer, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, b" " * 4096)
            os.set_blocking(writer, True)
            os.dup2(writer, self.full)
            setattr(sys, ("stdout", "stderr")[self.full - 1], open(self.full, "w", closefd=False))  # noqa: SIM115
        # The tests themselves may run under nohup.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        for number in self.ignored:
            signal.signal(number, signal.SIG_IGN)


def end(process):
    process.join(HANGS)
    alive = process.is_alive()
    process.kill()
    assert not alive, "it hangs"
    return process.exitcode


def begun(folder, process):
    while not (folder / "begun").exists():
        assert process.is_alive(), child.errors(folder)
        time.sleep(0.02)


def outcomes(folder):
    results = (result for result in Store(folder / "store").results())
    return {result.names.attack.split("[")[0]: result for result in results}


@pytest.mark.parametrize(
    ("fault", "way", "code"),
    [
        ("sleep", signal.SIGTERM, 143),
        ("swallow", signal.SIGINT, 130),
        ("stopped", signal.SIGHUP, 129),
        ("blocked", "budget", 0),
    ],
)
def test_a_run_ends_and_goes_on(workspace, fault, way, code):
    write(workspace, attack(fault))
    process = start(workspace, *(("--time-budget", "6s") if way == "budget" else ()))
    if way != "budget":
        begun(workspace, process)
        for _ in range(2 if way == signal.SIGTERM else 1):
            # As timeout does: to the command, and to its group.
            os.kill(process.pid, way)
    assert end(process) == code, child.errors(workspace)
    assert f"3 of 4 {CLOSING}" in (workspace / "out").read_text()
    assert "Traceback" not in child.errors(workspace)
    assert not list((workspace / "store" / "leases").glob("[!.]*")) or fault != "sleep", (
        "what could be left was left in order"
    )
    (workspace / "calm").touch()
    assert end(start(workspace)) == 0, child.errors(workspace)
    assert len(outcomes(workspace)) == 4


def hears(process):
    """Wait until a command hears signals."""
    heard = re.compile(r"SigCgt:\t(\w+)")
    while process.is_alive():
        status = Path(f"/proc/{process.pid}/status").read_text()
        if int(heard.search(status)[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.02)


def _asks(number):
    """Return the work of a verb that never comes back, but asks to be ended."""

    def work(_args):
        if number:
            os.kill(os.getpid(), number)
        time.sleep(HANGS)

    return work


@pytest.mark.parametrize(
    ("words", "number", "code", "says"),
    [
        (
            ["plan", "quick", "--json", "--time-budget", "0.01s"],
            None,
            0,
            "time budget used before the plan was finished",
        ),
        (["leaderboard"], signal.SIGTERM, 143, "terminated before leaderboard was finished"),
        (["show", "x"], signal.SIGINT, 130, "interrupted before show was finished"),
        (["doctor"], signal.SIGHUP, 129, "the terminal was closed before doctor was finished"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else None,
)
def test_a_verb_that_ends_before_its_time_says_so(words, number, code, says, monkeypatch, capsys):
    monkeypatch.setattr(f"bench.cli.{words[0]}.main", _asks(number))
    assert main(words) == code
    assert capsys.readouterr() == ("", f"{says}\n")


def _lists_for_ever():
    def work(_args):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(HANGS)

    importlib.import_module("bench.cli.list").main = work


def test_a_verb_that_has_to_be_killed_says_so(tmp_path):
    assert end(child.start(tmp_path, ["list"], _lists_for_ever, supervised=True)) == 143
    assert child.errors(tmp_path) == "terminated before list was finished\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whether a process hears signals")
@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize(
    ("words", "way", "code"),
    [
        (["list"], signal.SIGTERM, 143),
        (["leaderboard", "--store", "{}/store", "--json"], signal.SIGINT, 130),
        (["gc", "{}/these.toml", "--store", "{}/store"], signal.SIGHUP, 129),
        (["run", "{}/these.toml", "--store", "{}/store", "--report", "{}/report", "--time-budget", "1s"], None, 0),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else None,
)
def test_nobody_who_does_not_read_keeps_a_command(workspace, words, way, code, stream):
    write(workspace)
    here = [word.format(workspace) for word in words]
    process = child.start(workspace, here, _Surroundings(str(workspace), full=stream), supervised=True)
    if way is not None:
        hears(process)
        # So long that it has come to where it waits; where it has not, it has to end as well.
        time.sleep(1)
        if process.is_alive():
            os.kill(process.pid, way)
    # Those that have nothing to say there may be done before.
    assert end(process) in ({0, code} if stream == 2 else {code}), child.errors(workspace)


def test_under_nohup_the_end_of_the_terminal_ends_nothing(workspace):
    """What ends it then has its exit code, though what is said of it cannot be written."""
    write(workspace, attack("sleep"))
    process = start(workspace, ignored=(signal.SIGHUP,), full="disk")
    begun(workspace, process)
    os.kill(process.pid, signal.SIGHUP)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGTERM)
    assert end(process) == 143


@pytest.mark.parametrize("fault", ["gil", "stopped"])
def test_a_line_a_minute_is_said_whatever_the_method_holds(workspace, fault):
    write(workspace, attack(fault))
    process = start(workspace, minute=0.5)
    begun(workspace, process)
    held = re.compile(r" 3 of 4 cells; \S+/hostile/white-box 0% \(for \d+ s\); time left not known yet$", re.MULTILINE)
    while len(held.findall(child.errors(workspace))) < 3:
        assert process.is_alive(), child.errors(workspace)
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    assert end(process) == 143


def test_a_line_a_minute_is_said_while_another_process_begins(workspace):
    """The first one is killed with what it had in hand, and the next one loads for as long as the test wishes."""
    write(workspace, attack("segmentation"))
    process = start(workspace, minute=0.1, loading=1.0)
    assert end(process) == 3, child.errors(workspace)
    assert " 3 of 4 cells; starting again" in child.errors(workspace)


def test_a_second_ctrl_c_does_not_wait(workspace):
    write(workspace, attack("swallow"))
    process = start(workspace)
    begun(workspace, process)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
    assert end(process) == 130


@pytest.mark.parametrize("fault", ["sleep", "swallow", "gil"])
def test_a_cell_fails_alone_when_its_time_is_up(workspace, fault):
    # Those that swallow it, or never hear it, are killed; the rest is done by another process.
    write(
        workspace, attack(fault) + attack("lock").replace("[[attacks]]", "[[attacks]]\naccess = ['static']"), timeout=1
    )
    assert end(start(workspace)) == 3, child.errors(workspace)
    failed = [result for result in Store(workspace / "store").results() if result.status == "failed"]
    assert {result.error.message.partition(";")[0] for result in failed} == {"took longer than timeout = 1 s"}
    assert len(failed) == 2 and len(list(Store(workspace / "store").results())) == 5
    said = child.errors(workspace)
    assert said.count("had to be killed") == (fault != "sleep")
    assert said.count(" failed: ") == 2, "each is said once, whichever process did it"
    assert "5 of 5 cells, 2 failed, in 0 s" not in said, "the time of all processes"


@pytest.mark.parametrize("fault", [each.__name__ for each in hostile.DEADLY])
def test_what_takes_the_process_with_it_fails_alone(workspace, fault):
    write(workspace, attack(fault))
    assert end(start(workspace)) == 3, child.errors(workspace)
    results = outcomes(workspace)
    assert "ended the process" in results["hostile"].error.message
    assert sorted(result.status for result in results.values()) == ["done", "done", "done", "failed"]
    assert "Traceback" not in child.errors(workspace)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("everything", "closed or replaced standard output and standard error"),
        ("silence", "closed or replaced standard output and standard error"),
        ("nowhere", "closed or replaced standard output, of which"),
        ("unprinted", "closed or replaced standard output, of which"),
        ("crossed", "closed or replaced standard output, of which"),
        ("limits_for_good", "lowered RLIMIT_NOFILE of the process"),
    ],
)
def test_what_closes_the_files_of_the_process_fails_alone(workspace, fault, says):
    if fault == "limits_for_good" and sys.platform != "linux":
        pytest.skip("only there the right to raise limits can be given up")
    write(workspace, attack(fault))
    assert end(start(workspace)) == 3, child.errors(workspace)
    results = outcomes(workspace)
    assert results["hostile"].error.message.startswith(says)
    assert sorted(result.status for result in results.values()) == ["done", "done", "done", "failed"]
    said = child.errors(workspace)
    assert says in said and "hostile" in said and "Traceback" not in said
    assert "accuracy" in (workspace / "out").read_text(), "the table is where it belongs"


def test_limits_that_a_method_lowers_are_put_back(workspace):
    write(workspace, attack("limits"))
    assert end(start(workspace)) == 0, child.errors(workspace)
    assert {result.status for result in outcomes(workspace).values()} == {"done"}


def test_a_stream_that_nobody_reads_any_more_was_taken_by_no_method(workspace):
    """Nothing is then put in its place, so that Python does not fail on it."""
    write(workspace, attack("prints"))
    assert end(start(workspace, full="disk")) == 2, child.errors(workspace)
    assert {result.status for result in outcomes(workspace).values()} == {"done"}
    assert child.errors(workspace).count("closed or replaced") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whose a process was")
@pytest.mark.parametrize("signals", [1, 2])
def test_what_a_method_leaves_behind_is_ended(workspace, signals):
    write(workspace, attack("copy"))
    process = start(workspace)
    begun(workspace, process)
    while not (workspace / "left").exists() or not (left := (workspace / "left").read_text()):
        time.sleep(0.02)
    for _ in range(signals):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
    assert end(process) == 130
    assert not os.path.exists(f"/proc/{left}")


def test_a_thread_that_is_left_behind_does_not_keep_the_process(workspace):
    write(workspace, attack("thread"))
    assert end(start(workspace)) == 0, child.errors(workspace)


def test_a_training_that_never_steps_fails_its_cells_once(tmp_path):
    path = write(tmp_path, timeout=2)
    path.write_text(path.read_text().replace('use = "fgsm-at"', f'use = "{METHODS}:endless"\nfault = "swallow"'))
    assert end(start(tmp_path)) == 3, child.errors(tmp_path)
    results = list(Store(tmp_path / "store").results())
    assert len(results) == 3 and all("a step of the training took longer" in r.error.message for r in results)
    assert child.errors(tmp_path).count("another process continues") == 1


def test_who_kills_the_supervisor_kills_the_work(workspace):
    write(workspace, attack("swallow"))
    process = start(workspace)
    begun(workspace, process)
    os.kill(process.pid, signal.SIGKILL)
    assert end(process) == -signal.SIGKILL
    (workspace / "calm").touch()
    assert end(start(workspace)) == 0, "its lease is free at once"


def test_who_kills_the_process_that_works_is_survived(workspace):
    write(workspace, attack("sleep"))
    process = start(workspace)
    begun(workspace, process)
    (workspace / "calm").touch()
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        (worker,) = map(int, file.read().split())
    os.kill(worker, signal.SIGKILL)
    assert end(process) == 0, child.errors(workspace)
    assert {result.status for result in outcomes(workspace).values()} == {"done"}


# In one process.


def test_words_are_read_whole_while_another_process_writes_them():
    shared = Shared()

    def writes():
        for number in range(10**9):
            shared.show({"number": number, "text": f"{number} " * (number % 300)})

    writer = multiprocessing.get_context("fork").Process(target=writes)
    writer.start()
    try:
        seen = set()
        while len(seen) < 300:
            shown = shared.read().shown or {"number": 0, "text": ""}
            assert shown["text"] == f"{shown['number']} " * (shown["number"] % 300)
            seen.add(shown["number"])
    finally:
        writer.kill()
        writer.join()


def test_code_that_never_looks_is_left_by_an_exception():
    def work():
        with pytest.raises(Overtime, match="too long"):
            control.within(Piece("cell", "a", 0.1, "too long", patience=0.1), lambda: time.sleep(HANGS))
        control.within(Piece("cell", "b", 0.1), lambda: None)
        time.sleep(0.5)
        return "went on"

    control = Control()
    assert control.watch(work) == "went on"


def test_the_time_of_an_inner_piece_is_not_that_of_the_outer():
    control = Control()

    def outer():
        control.within(Piece("training", "b", 10), lambda: time.sleep(0.3))
        control.check()
        time.sleep(0.3)
        with pytest.raises(Overtime):
            control.check()

    control.within(Piece("cell", "a", 0.2), outer)


def test_what_must_be_whole_is_not_left_half_way(tmp_path, monkeypatch):
    written = []

    def slow(data):
        time.sleep(0.6)
        written.append(data)

    from bench.store import files

    monkeypatch.setattr(files.os, "fsync", slow)
    control = Control(time.monotonic() + 0.1)
    assert control.watch(lambda: files.write_atomically(tmp_path / "file", b"whole") or time.sleep(HANGS)) is None
    assert (tmp_path / "file").read_bytes() == b"whole" and len(written) == 2
    assert control.code == 0


def test_who_is_asked_to_end_while_a_class_is_made_ends():
    class Attribute:
        def __set_name__(self, owner, name):
            os.kill(os.getpid(), signal.SIGINT)
            control.check()

    control = Control()
    assert control.watch(lambda: type("Made", (), {"attribute": Attribute()})) is None
    assert control.code == 130


LOADING = """
import os, runpy, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "bench.display.base":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder)
runpy.run_path("run_bench.py", run_name="__main__")
"""


def test_ctrl_c_while_packages_are_loaded_is_no_traceback():
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_signals_that_a_method_blocks_come_again():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with isolated("it"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_an_import_is_not_left_half_way(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.8)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    control = Control()

    def work():
        piece = Piece("cell", "a", 0.1, patience=0.1)
        return control.within(piece, lambda: importlib.import_module("slow_to_import"))

    assert control.watch(work).whole


def test_signals_mean_again_what_they_meant():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGURG)}
    control = Control()

    def work():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(HANGS)

    assert control.watch(work) is None and control.code == 143
    assert {number: signal.getsignal(number) for number in before} == before
    with pytest.raises(Stop):
        control.check()
