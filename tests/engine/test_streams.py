"""Output of commands: full disks, closed streams and pipes, terminals of any size and encoding."""

import io
import logging
import os
import subprocess
import sys
import threading

import pytest

from bench.cli import main
from bench.cli.asides import said_in_one_line
from bench.display.console import console
from bench.display.streams import Stream, guarded
from bench.store.working_store import Store
from tests.report.fabricate import stored, story

RUN = "import sys; from bench.cli import main; raise SystemExit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("store"), story(40))


def cli(*arguments, shell="", env=None, **kwargs):
    """Run a command with a redirection or pipe of the shell, such as ``>/dev/full``."""
    line = f'exec "$0" -c "$1" "${{@:2}}" {shell}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, RUN, *map(os.fspath, arguments)],
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=120,
        **kwargs,
    )


@pytest.mark.parametrize("verb", ["leaderboard", "leaderboard --json", "--help"])
def test_a_full_disk_under_standard_output_is_one_line(verb, store):
    where = () if verb == "--help" else ("--store", store.root, "--quiet")
    done = cli(*verb.split(), *where, shell=">/dev/full")
    assert done.stderr == b"error: standard output cannot be written: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize("shell", ["<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_stop_nothing(tmp_path, shell, store):
    out = tmp_path / "table.json"
    done = cli("leaderboard", "--store", store.root, "--out", out, shell=shell)
    assert done.returncode == 0 and done.stderr == b""
    # No file got the descriptor of a closed stream.
    assert out.read_text(encoding="utf-8").startswith('{"schema"') and out.read_text().endswith("}\n")


def test_a_reader_who_has_seen_enough_is_no_error(store):
    done = cli("leaderboard", "--json", "--store", store.root, "--quiet", shell="| head -c 20")
    assert done.stdout == b'{"schema": 1,\n"table'[:20] and done.stderr == b""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii:strict"])
def test_every_encoding_takes_every_text(encoding, store):
    done = cli("leaderboard", "--store", store.root, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert "worst case" in done.stdout.decode(encoding.partition(":")[0])


@pytest.mark.parametrize(
    "env",
    [
        *({"COLUMNS": size, "LINES": size} for size in ("0", "1", "-5", "99999999999", "wide", "²", "")),
        {"TERM": "dumb"},
        {"NO_COLOR": "1", "TERM": ""},
        {"TERM": "nonsense", "FORCE_COLOR": "1", "COLORTERM": "truecolor"},
    ],
)
def test_a_terminal_of_any_size_or_kind_is_written_to(monkeypatch, capsys, env, store):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main(["leaderboard", "--store", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert "pgd-at" in shown and max(map(len, shown.splitlines())) <= 1000
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0


def test_the_plain_locale_of_posix_is_enough(store):
    env = {"LANG": "C", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cli("leaderboard", "--store", store.root, env=env)
    assert done.returncode == 0 and done.stdout.isascii() and b"worst case" in done.stdout


@pytest.mark.parametrize("text", ["\x1b[2J", "\u202e", "\udcff", "\x9b", "\u2028", "a\nb"])
def test_words_of_the_command_line_come_back_visible(capsys, text):
    from bench.visible import visible

    for argv in ([text], ["leaderboard", "--store", text], ["leaderboard", f"--{text}"], ["list", text]):
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1
        assert visible(err, lines=True) == err and "\\" in err


def test_whatever_prints_and_logs_inside_a_command_is_visible_and_on_its_line(capsys, caplog):
    with guarded():
        print("\x1b[31m\udc80")
        print("a", "b\r", file=sys.stderr)
        sys.stdout.writelines(["one\n", "\u202e\n"])
        logging.getLogger("crossfire").warning("file %s\x1b", "a\nb")
        terminal = console()
        terminal.print("[red]x[/red] \x1b]52;c;x :smile:")
    out, err = capsys.readouterr()
    assert out == "\\x1b[31m\\udc80\none\n\\u202e\n[red]x[/red] \\x1b]52;c;x :smile:\n"
    assert err == "a b\\r\n"
    assert caplog.messages == ["file a\\nb\\x1b"]


def test_a_progress_bar_moves_while_its_notes_stay_text():
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    below = io.StringIO()
    below.isatty = lambda: True
    stream = Stream(below)
    before, sys.stderr = sys.stderr, stream
    try:
        terminal = console(stderr=True)
        terminal._force_terminal = True
        assert isinstance(terminal, Console)
        with Progress(TextColumn("{task.fields[note]}", markup=False), console=terminal) as progress:
            progress.add_task("", total=2, note="\x1b]0;t\x07")
            print("printed\x1b meanwhile")
    finally:
        sys.stderr = before
    shown = below.getvalue()
    assert "\x1b[?25l" in shown and r"\x1b" in shown and "printed" in shown
    assert "\x1b]0" not in shown and "\x07" not in shown


def test_a_method_that_prints_to_a_full_disk_or_closes_the_stream_goes_on(capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    stream = Stream(Full())
    assert stream.write("x") == 1 and stream.lost.errno == 28
    stream.write("y")
    stream.flush()
    with guarded() as streams:
        sys.stdout.close()
        print("still here")
        assert streams.failure() is None
    assert capsys.readouterr().out == "still here\n"


def test_what_the_system_says_of_its_files_is_one_line(monkeypatch, tmp_path, capsys):
    def denied(self):
        raise PermissionError(13, "Permission denied", b"/a\nb\xff")

    monkeypatch.setattr(Store, "results", denied)
    monkeypatch.setattr("bench.store.history.planned.read", denied)
    assert main(["show", "x", "--store", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: /a\\nb\\udcff: Permission denied\n"


class _Failing:
    def __del__(self):
        raise ValueError("of nobody")


def test_errors_that_reach_no_caller_are_one_line_each(capsys):
    hooks = threading.excepthook, sys.unraisablehook, logging.Handler.handleError
    with said_in_one_line():
        for error in (KeyError("of a thread"), SystemExit(1)):
            thread = threading.Thread(target=lambda error=error: (_ for _ in ()).throw(error))
            thread.start()
            thread.join()
        _Failing()
        logging.StreamHandler().handle(logging.LogRecord("its", logging.INFO, "its.py", 7, "%d", ("x",), None))
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: a thread ended by KeyError: 'of a thread' (test_streams.py, line ")
    assert second.startswith("warning: ignored: ValueError: of nobody (test_streams.py, line ")
    assert third.startswith("warning: a message of line 7 of its.py cannot be shown: TypeError: ")
    assert hooks == (threading.excepthook, sys.unraisablehook, logging.Handler.handleError)


@pytest.mark.parametrize(
    "argv",
    [
        ("sync", ""),
        ("compare", "", "HEAD"),
        ("compare", "HEAD", ""),
        ("run", "--store", ""),
        ("plan", "--data", ""),
        ("list", "--data", ""),
        ("leaderboard", "--out", ""),
        ("figures", "--out", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(argv, capsys):
    assert main(argv) == 2
    assert "is empty" in capsys.readouterr().err
