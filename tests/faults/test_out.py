"""What a user names is written: through links, into pipes and devices, and never in the place of what is no file."""

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.cli import main
from bench.store import outputs
from bench.types import UsageError
from tests.report.fabricate import stored, story

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(stored(tmp_path_factory.mktemp("made") / "store", story(20)).root)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "table.md"
    target.write_text("before")
    target.chmod(0o640)
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("far/table.md")
    with target.open() as reader:
        assert outputs.write_named(tmp_path / "one", b"after")
        # Replaced as a whole: who has it open reads on in the old one.
        assert reader.read() == "before"
    assert target.read_bytes() == b"after" and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.readlink(tmp_path / "one") == "two" and os.readlink(tmp_path / "two") == "far/table.md"
    assert os.listdir(tmp_path / "far") == ["table.md"]


def test_a_link_to_what_is_not_there_yet_is_written_through(tmp_path):
    (tmp_path / "link").symlink_to("table.md")
    assert outputs.write_named(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "table.md").read_bytes() == b"new"


def test_folders_of_a_new_file_are_made(tmp_path):
    assert outputs.write_named(tmp_path / "a" / "b" / "table.md", b"new")
    assert (tmp_path / "a" / "b" / "table.md").read_bytes() == b"new"


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    assert outputs.write_named(tmp_path / ("x" * 255), b"new")


def test_a_pipe_gets_the_text_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    assert not outputs.write_named(tmp_path / "pipe", b"x" * 200_000)
    reader.join(30)
    assert got == [b"x" * 200_000] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_stream_of_this_process_gets_the_text(tmp_path, name):
    reader, writer = os.pipe()
    assert not outputs.write_named(Path(name.format(writer)), b"text")
    os.close(writer)
    assert os.read(reader, 100) == b"text"
    os.close(reader)


def test_a_stream_that_is_a_file_is_added_to_and_not_replaced(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("before\n")
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = "import sys; from pathlib import Path; from bench.store import outputs\n"
    code += "print('printed'); outputs.write_named(Path(sys.argv[1]), b'written\\n'); print('after')"
    for name in ("/dev/stdout", "/dev/fd/1", str(tmp_path / "link")):
        with path.open("a") as out:
            subprocess.run([sys.executable, "-c", code, name], cwd=ROOT, stdout=out, check=True, timeout=60)
    assert path.read_text() == "before\n" + "printed\nwritten\nafter\n" * 3


def test_devices_stay(capsys):
    assert not outputs.write_named(Path("/dev/null"), b"text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(UsageError, match="/dev/full cannot be written: No space left"):
        outputs.write_named(Path("/dev/full"), b"text")


def unwritable(tmp_path, name):
    """Make something that cannot be written to."""
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "link to a folder":
        (tmp_path / "inside").mkdir()
        path.symlink_to("inside")
    elif name == "link into no folder":
        path.symlink_to("nowhere/table.md")
    elif name == "loop":
        path.symlink_to("loop")
    elif name == "under a file":
        (tmp_path / "file").write_text("mine")
        return tmp_path / "file" / "table.md"
    return path


@pytest.mark.parametrize("name", ["folder", "link to a folder", "link into no folder", "loop", "under a file"])
@pytest.mark.parametrize("verb", ["leaderboard", "compare", "into a folder"])
def test_what_cannot_be_written_is_one_line_and_stays(tmp_path, store, capsys, monkeypatch, name, verb):
    path = unwritable(tmp_path, name)
    before = {each: os.lstat(each).st_ino for each in tmp_path.rglob("*")}
    if verb in ("leaderboard", "compare"):
        words = ["leaderboard", "--store", store] if verb == "leaderboard" else ["compare", store, other(tmp_path)]
        assert main([*words, "--format", "md", "--out", str(path)]) == 2
    else:
        with pytest.raises(UsageError) as caught:
            outputs.write_into(path, b"text", option=verb)
        print(f"error: {caught.value}", file=sys.stderr)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said and said.startswith("error: ")
    assert {each: os.lstat(each).st_ino for each in tmp_path.rglob("*") if "other" not in str(each)} == before


def other(tmp_path):
    return str(stored(tmp_path.parent / f"{tmp_path.name}-other", story(20, code="2")).root)


def test_a_file_in_a_folder_that_was_named_goes_to_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "index.html")
    with pytest.raises(UsageError, match=r"index\.html is a pipe; name a file"):
        outputs.write_into(tmp_path / "index.html", b"text")


def test_a_pipe_carries_the_table_and_nothing_else(store, capfd):
    assert main(["leaderboard", "--store", store, "--format", "csv", "--out", "/dev/stdout"]) == 0
    first_output = capfd.readouterr().out
    assert main(["leaderboard", "--store", store, "--format", "csv"]) == 0
    assert first_output == capfd.readouterr().out


def test_more_folders_than_python_calls_are_made(tmp_path):
    deep = tmp_path / "/".join("d" * 1500)
    try:
        assert outputs.write_named(deep / "table.md", b"x") and (deep / "table.md").read_bytes() == b"x"
        assert main(["sync", str(tmp_path), "--store", str(deep / "s")]) == 0
    finally:
        # What removes folders calls itself for each.
        for path in (deep / "table.md", deep / "s"):
            path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        for folder in (deep, *deep.parents):
            if folder == tmp_path:
                break
            folder.rmdir()
