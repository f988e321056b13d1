"""The progress display of a command: lines in a log, bars on a terminal and in a notebook."""

import argparse
import errno
import io
import logging
import re
import sys
import threading
import time
import types

import pytest

from bench.cli import VERBS, main, progress
from bench.display import base as display
from bench.display.bars import Bars, Notebook
from bench.display.base import Display
from bench.display.lines import Lines, Relay
from bench.process.isolation import isolated
from bench.process.shared import Shared
from bench.store import run_log
from bench.store.run_log import RunLog
from tests.engine import tiny

LOG = logging.getLogger("crossfire")
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
#: Attacks that fail and that never call the network.
METHODS = """
import time

from bench.api import attack


@attack(norms=("linf",), needs="gradient", passes="0")
def boom(target, x, y, threat):
    '''Fail.'''
    raise ValueError("no luck")


@attack(norms=("linf",), needs="gradient", passes="0")
def asleep(target, x, y, threat):
    '''Never call the network.'''
    time.sleep(0.6)
    return x.clone()
"""


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def lines(caplog, monkeypatch):
    """Lines on a fake clock that only the test advances."""
    monkeypatch.setattr(display, "LOOK", 3600)
    caplog.set_level(logging.INFO, "crossfire")
    return Lines(Clock())


def wait(lines, seconds):
    """Advance the clock, and look as often as the thread does."""
    for _ in range(round(seconds * 4)):
        lines._clock.now += 0.25
        lines.look()


def test_a_line_a_minute_says_what_is_in_hand_though_nobody_calls(lines, caplog):
    with lines.run("quick", 84, "; store s"):
        lines.cells(3, 84, 1)
        lines.work("train pgd-at net", 7, 20, "loss 0.412", left=300)
        wait(lines, 59)
        assert caplog.messages == ["quick: 84 cells; store s"]
        wait(lines, 1)
        prefix = "3 of 84 cells, 1 failed; train pgd-at net 35%, loss 0.412 (for 1 min 0 s); "
        assert caplog.messages[1:] == [prefix + "about 4 min left"]
        wait(lines, 19 * 60)
        assert len(caplog.messages) == 21
        assert caplog.messages[-1] == prefix.replace("for 1 min", "for 20 min") + "takes longer than estimated"
        lines.work("attack", 0, 0)
        lines.cells(84, 84, 1)
        wait(lines, 60)
        assert caplog.messages[-1] == "84 of 84 cells, 1 failed; attack (for 1 min 0 s); takes longer than estimated"
    assert caplog.messages[-1] == "quick: 84 of 84 cells, 1 failed, in 21 min 0 s"


def test_a_run_that_went_on_in_another_process_took_the_time_of_both(lines, caplog):
    with lines.run("quick", 2, "", began=lines._clock() - 90):
        wait(lines, 30)
    assert caplog.messages[-1] == "quick: 0 of 2 cells, in 2 min 0 s"


def test_time_left_is_said_as_far_as_it_is_known(lines, caplog):
    with lines.run("quick", 2, ""):
        wait(lines, 60)
        assert caplog.messages[-1] == "0 of 2 cells; time left not known yet"
        lines.work("one", 0, 1, left=3600)
        lines.work("another", 0, 1)
        wait(lines, 60)
        assert caplog.messages[-1] == "0 of 2 cells; another 0% (for 1 min 0 s); about 59 min left"


def test_what_is_left_at_most_is_said_where_that_is_much_more(lines, caplog):
    with lines.run("quick", 2, ""):
        for left, most, said in (
            (78, 660, "about 18 s left, at most 10 min"),
            (660, 720, "about 10 min left"),
            (30, 660, "takes longer than estimated, at most 10 min left"),
            (30, 30, "takes longer than estimated"),
        ):
            lines.work(said, 0, 1, left=left, most=most)
            wait(lines, 60)
            assert caplog.messages[-1].endswith(f"; {said}")
        lines.work("plain", 0, 1, left=660)
        wait(lines, 60)
        assert caplog.messages[-1].endswith("; about 10 min left")


def test_a_process_that_stood_still_says_one_line_and_goes_on_by_the_minute(lines, caplog):
    with lines.run("quick", 2, ""):
        lines._clock.now += 3600
        wait(lines, 59)
        assert len(caplog.messages) == 2
        wait(lines, 60)
        assert len(caplog.messages) == 3


def test_what_takes_a_moment_is_not_named_and_what_takes_longer_is(lines, caplog):
    for _ in range(3):
        with lines.phase("planning"):
            wait(lines, 0.5)
    assert caplog.messages == []
    with lines.phase("drawing figures", 4) as at:
        at(1, "eps-sweep")
        wait(lines, 10)
        assert caplog.messages == ["drawing figures 25%, eps-sweep"]
        at(3, "examples")
        wait(lines, 60)
        assert caplog.messages[1:] == ["drawing figures 75%, examples (for 1 min 0 s)"]
    # A phase inside a run shows as its current activity; afterwards the previous activity is back.
    with lines.run("quick", 2, ""):
        lines.work("outer", 0, 1)
        with lines.phase("checking weights"):
            wait(lines, 60)
        assert "; checking weights (for" in caplog.messages[-1]
        assert lines.piece.activity == "outer"


def test_another_process_says_the_same_lines(lines, caplog):
    """Also while the working process holds its lock, has ended, or shows nothing yet."""
    shared = Shared()
    shown_display, relay = Lines(lines._clock, shared), Relay(shared, lines._clock)
    relay._is_heard = False
    wait(relay, 60)
    assert caplog.messages == ["starting (for 1 min 0 s)"]
    with shown_display.run("quick", 84, "; store s"):
        assert caplog.messages[1:] == ["quick: 84 cells; store s"]
        shown_display.cells(3, 84, 1)
        shown_display.work("train pgd-at " + "net" * 1000, 7, 20, "loss 0.412", left=300)
        wait(relay, 60)
        (message,) = caplog.messages[2:]
        pattern = r"3 of 84 cells, 1 failed; train pgd-at net.* 35%, loss 0.412 \(for 1 min 0 s\); about 4 min left"
        assert re.fullmatch(pattern, message) and len(message) < 700
        with shown_display.phase("checking weights"):
            wait(relay, 60)
            assert caplog.messages[-1].startswith("3 of 84 cells, 1 failed; checking weights (for 1 min 0 s); about ")
        # The process is killed, and another one starts.
        shared.clear()
        wait(relay, 120)
        assert caplog.messages[-2:] == [
            "3 of 84 cells, 1 failed; starting again; time left not known yet",
            "3 of 84 cells, 1 failed; starting again (for 2 min 0 s); time left not known yet",
        ]


def test_a_method_that_silences_all_loggers_does_not_silence_the_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(display, "LOOK", 3600)
    with progress.shown(argparse.Namespace(progress="plain", quiet=False)) as lines, lines.run("quick", 2, ""):
        with isolated("a method"):
            logging.disable(logging.CRITICAL)
            LOG.handlers.clear()
            lines._last -= 60
            lines.look()
        LOG.warning("heard again")
    messages = [line[20:] for line in capsys.readouterr().err.splitlines()]
    assert messages[:3] == ["quick: 2 cells", "0 of 2 cells; time left not known yet", "warning: heard again"]


@pytest.mark.parametrize(
    ("seconds", "says"), [(-1, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (279, "4 min 39 s"), (7500, "2 h 5 min")]
)
def test_a_duration(seconds, says):
    assert display.duration(seconds) == says


def run(folder, *options, extra=""):
    (folder / "methods.py").write_text(METHODS)
    folders = ["--store", str(folder / "s"), "--report", str(folder / "r")]
    return main(["run", tiny.write(folder, extra), *folders, *options])


def test_a_captured_run_has_its_lines_and_leaves_logging_as_it_was(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.display.lines.MINUTE", 0.05)
    monkeypatch.setattr(display, "LOOK", 0.02)
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    LOG.addHandler(handler)
    try:
        before = LOG.level, LOG.handlers[:], logging.root.level, logging.root.handlers[:]
        attacks = "".join(f'\n[[attacks]]\nuse = "{tmp_path}/methods.py:{name}"\n' for name in ("boom", "asleep"))
        assert run(tmp_path, "--epochs", "1", extra=attacks) == 3
        assert (LOG.level, LOG.handlers[:], logging.root.level, logging.root.handlers[:]) == before
        assert "crossfire-progress" not in [thread.name for thread in threading.enumerate()]
    finally:
        LOG.removeHandler(handler)
    out, err = capsys.readouterr()
    messages = err.splitlines()
    assert all(re.match(STAMP, line) for line in messages)
    messages = [line[20:] for line in messages]
    assert [record.getMessage() for record in records] == messages
    start = messages.index(f"tiny.1-epochs: 14 cells, 0 of them done; device cpu; store {(tmp_path / 's').resolve()}")
    failed = [line for line in messages if line.startswith("failed: ")]
    assert failed == [
        f"failed: digits/small-cnn/{line}: ValueError: no luck"
        for line in ("fgsm-at/boom/white-box", "tpap/boom/static", "tpap/boom/adaptive")
    ]
    minutes = [line for line in messages[start:] if re.match(r"\d+ of 14 cells", line)]
    assert len(minutes) > 3
    assert any("train fgsm-at small-cnn" in line for line in minutes)
    assert any(re.search(r"fgsm-at/asleep/white-box .*\(for ", line) for line in minutes)
    assert re.fullmatch(r"tiny\.1-epochs: 14 of 14 cells, 3 failed, in .*", messages[-1])
    assert "worst" in out

    only = ("--epochs", "1", "--only", "boom")
    assert run(tmp_path, "--quiet", *only, extra=attacks) == 3
    out, err = capsys.readouterr()
    assert [line[20:] for line in err.splitlines()] == failed
    assert out == f"{(tmp_path / 'r' / 'index.html').resolve()}\n"

    assert run(tmp_path, "--progress", "none", *only, extra=attacks) == 3
    out, err = capsys.readouterr()
    assert [line[20:] for line in err.splitlines()] == failed and "worst" in out

    assert run(tmp_path, "--progress", "rich", *only, extra=attacks) == 3
    err = capsys.readouterr().err
    assert "\x1b[" in err and "3 of 3" not in err and "3/3" in err
    assert all(f"{line}\n" in err for line in failed)


def test_train_has_its_lines(tmp_path, capsys):
    assert main(["train", tiny.write(tmp_path), "--store", str(tmp_path / "s")]) == 0
    out, err = capsys.readouterr()
    first, *_, last = [line[20:] for line in err.splitlines() if "tiny: " in line]
    assert first.startswith("tiny: 1 trainings; device cpu; store ")
    assert last.startswith("tiny: 1 of 1 trainings, in ")
    assert "weights.safetensors" in out


def test_a_log_level_of_the_user_stays(tmp_path, capsys):
    LOG.setLevel(logging.ERROR)
    try:
        assert main(["train", tiny.write(tmp_path), "--store", str(tmp_path / "s"), "--epochs", "0"]) == 0
        assert LOG.level == logging.ERROR
    finally:
        LOG.setLevel(logging.NOTSET)
    assert capsys.readouterr().err == ""


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_stream_that_cannot_be_written_ends_nothing(monkeypatch):
    for stream in (Full(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with (
            progress.shown(argparse.Namespace(progress="plain", quiet=False)) as shown_display,
            shown_display.run("quick", 1, ""),
        ):
            LOG.error("failed")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "flags", "environment", "kind"),
    [
        (io.StringIO, {}, {}, Lines),
        (io.StringIO, {}, {"FORCE_COLOR": "1", "TERM": "xterm"}, Lines),
        (Terminal, {}, {"TERM": "xterm"}, Bars),
        (Terminal, {}, {"TERM": "dumb"}, Lines),
        (Terminal, {"progress": "plain"}, {"TERM": "xterm"}, Lines),
        (io.StringIO, {"progress": "rich"}, {}, Bars),
        (Terminal, {"progress": "none"}, {"TERM": "xterm"}, Display),
        (Terminal, {"progress": "rich", "quiet": True}, {"TERM": "xterm"}, Display),
    ],
)
def test_how_work_is_shown(monkeypatch, stream, flags, environment, kind):
    monkeypatch.setattr(sys, "stderr", stream())
    for name in ("TERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with progress.shown(argparse.Namespace(**{"progress": None, "quiet": False, **flags})) as shown_display:
        assert type(shown_display) is kind


def test_bars_on_a_terminal(monkeypatch):
    screen, out = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(display, "LOOK", 0.02)
    with progress.shown(argparse.Namespace(progress=None, quiet=False)) as shown_display:
        with shown_display.phase("planning"):
            time.sleep(0.1)
        assert screen.getvalue() == ""
        with shown_display.run("quick", 8, ""):
            shown_display.cells(1, 8, 1)
            shown_display.work("train \x1b]0;net", 3, 10, "loss 0.4", left=300)
            LOG.error("failed: [red]one[/red]")
            print("a path")
            time.sleep(0.3)
            with shown_display.paused():
                before = screen.getvalue()
                time.sleep(0.2)
                assert screen.getvalue() == before
    shown = screen.getvalue()
    assert "failed: [red]one[/red]\n" in shown and r"train \x1b]0;net" in shown and "\x1b]" not in shown
    for expected in ("1/8", "1 failed", "loss 0.4, about 5 min left"):
        assert expected in shown
    # Standard output goes to a file, not to the screen.
    assert out.getvalue() == "a path\n"


def test_a_notebook_shows_a_bar(tmp_path, capsys, monkeypatch):
    """A fake of IPython has the one part that is used: a display that is shown once and then updated."""
    pictures = []

    class Handle:
        def update(self, picture):
            pictures.append(picture._repr_mimebundle_((), ()))

    def show(picture, *, display_id):
        assert display_id is True
        Handle().update(picture)
        return Handle()

    display_module = types.ModuleType("IPython.display")
    display_module.display = show
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display_module)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with progress.shown(argparse.Namespace(progress=None, quiet=False)) as shown_display:
        assert type(shown_display) is Notebook
    monkeypatch.setattr("bench.display.bars._PICTURE", 0.05)
    monkeypatch.setattr(display, "LOOK", 0.02)
    with (
        progress.shown(argparse.Namespace(progress=None, quiet=False)) as shown_display,
        shown_display.run("tiny", 8, ""),
    ):
        for done in range(8):
            shown_display.cells(done, 8)
            shown_display.work("train <net>", done, 8)
            time.sleep(0.06)
        shown_display.cells(8, 8)
        shown_display.work("train <net>", 8, 8)
    with (
        progress.shown(argparse.Namespace(progress=None, quiet=False)) as shown_display,
        shown_display.phase("planning"),
    ):
        shown_display._since -= 3
        shown_display.look()
        assert "planning" in pictures[-1]["text/html"]
    assert "planning" not in pictures.pop()["text/html"] and "planning" in pictures.pop()["text/html"]
    assert len(pictures) > 4
    assert "cells" in pictures[0]["text/html"] and "train &lt;net&gt;" in pictures[3]["text/html"]
    assert "8/8" in pictures[-1]["text/html"] and "train" not in pictures[-1]["text/html"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_flags(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    out = capsys.readouterr().out
    assert "--progress {plain,rich,none}" in out and "--quiet" in out


def test_every_verb_that_may_take_long_says_what_it_does(tmp_path, capsys, monkeypatch):
    """Without a delay, every activity is named when it begins."""

    def at_once(lines):
        lines._is_named, lines._last = lines.count is not None, float("-inf")
        lines.look()
        return showing(lines)

    showing = Lines._showing
    monkeypatch.setattr(Lines, "_showing", at_once)
    monkeypatch.setattr(display, "LOOK", 3600)
    config, store = tiny.write(tmp_path), str(tmp_path / "s")

    def activities(*argv):
        capsys.readouterr()
        assert main([*argv]) in (0, 2)
        return [line[20:] for line in capsys.readouterr().err.splitlines() if re.match(STAMP, line)]

    only = ("--only", "clean", "--epochs", "0")
    of_run = activities("run", config, "--store", store, "--report", str(tmp_path / "r"), *only)
    assert {"planning", "reading the results", "loading torch", "making the table", "writing the page"} <= {*of_run}
    assert activities("plan", config, "--store", store, *only)[-1] == "estimating"
    assert activities("leaderboard", "--store", store, "--format", "html") == [
        "reading the results", "making the tables", "writing the tables"]  # fmt: skip
    assert activities("figures", "eps-sweep", "--store", store)[-1] == "drawing figures 0%"
    assert activities("sync", str(tmp_path / "remote"), "--store", store) == ["carrying files"]
    assert activities("gc", config, "--store", store) == ["planning", "looking through the store"]
    assert activities("show", "digits/small-cnn/tpap/clean/static", "--store", store) == ["looking for the cell"]


@pytest.mark.parametrize("kind", ["a folder that cannot be", "a disk that is full later"])
def test_a_log_that_cannot_be_written_ends_no_run(tmp_path, caplog, kind):
    folder = "log" if kind.startswith("a disk") else "x" * 300
    log = RunLog(tmp_path / folder, {"plan": "tiny"})
    if kind.startswith("a disk"):
        log.write("done", cell="a", seconds=float("inf"), message="\ud800")
        log._file.close()
        log._file = Full(log._file.name)
    for _ in range(3):
        log.write("done", cell="b")
    assert caplog.messages == []
    log.close("finished")
    (line,) = caplog.messages
    assert "cannot be written and lacks events" in line
    if kind.startswith("a disk"):
        assert "No space left on device" in line
        started, done = run_log.read(tmp_path / "log")
        assert started["plan"] == "tiny" and done["seconds"] == "inf" and done["message"] == r"\ud800"
