"""Machines that share no folder carry their finished work to and from a place elsewhere."""

import os
import re
import secrets
import shutil

import fsspec
import pytest

from bench.cli import main
from bench.store.working_store import Store
from bench.types import CellError
from tests.faults import child
from tests.schedule import small


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    assert small.run(folder) == 0
    return folder


@pytest.fixture
def bucket():
    """An object store, empty, in the memory of this process."""
    url = f"memory://{secrets.token_hex(4)}"
    yield url
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(url):
        filesystem.rm(url, recursive=True)


def complaints(text):
    """Return the lines of standard error that are no progress, which a slow machine shows as well."""
    return [line for line in text.splitlines() if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line)]


def sync(folder, url):
    return main(["sync", url, "--store", str(folder / "store")])


def names(url):
    filesystem, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(root).lstrip("/"): filesystem.cat_file(path) for path in filesystem.find(root)}


def test_shards_on_two_machines_come_together(tmp_path, done, bucket):
    machines = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(machines, start=1):
        folder.mkdir()
        assert small.run(folder, "--shard", f"{number}/2") == 0
        assert small.outcome(folder) != small.outcome(done)
        assert sync(folder, bucket) == 0
    assert sync(machines[0], bucket) == 0
    assert small.outcome(machines[0]) == small.outcome(done)
    before = len(small.events(machines[0], "done", "crafted", "trained"))
    assert small.run(machines[0]) == 0
    assert len(small.events(machines[0], "done", "crafted", "trained")) == before


def test_a_fresh_machine_has_nothing_left_to_do(tmp_path, done, bucket, capsys):
    assert sync(done, bucket) == 0
    assert sync(tmp_path, bucket) == 0
    assert "sent 0 files" in capsys.readouterr().out.splitlines()[-1]
    assert small.run(tmp_path) == 0
    assert not small.events(tmp_path, "done", "crafted", "trained")
    assert small.outcome(tmp_path) == small.outcome(done)


def test_what_is_not_called_what_it_is_is_fetched_and_said(tmp_path, done, capsys):
    shutil.copytree(done / "store", tmp_path / "theirs")
    theirs = Store(tmp_path / "theirs")
    result = next(each for each in theirs.results() if each.names.attack == "pgd")
    theirs.put(result.model_copy(update={"names": result.names.model_copy(update={"attack": "pgd[steps=1000]"})}))
    assert sync(tmp_path, str(tmp_path / "theirs")) == 0
    (line,) = complaints(capsys.readouterr().err)
    assert line.startswith("warning: of what was fetched, 1 cell named or stated as no run here would: ")
    assert line.endswith("it is called pgd[steps=1000], and its steps is 2")
    assert {each.key for each in Store(tmp_path / "store").results()} == {each.key for each in theirs.results()}


def test_of_a_place_that_is_a_store_failed_cells_stay_there(tmp_path, done, caplog):
    shutil.copytree(done / "store", tmp_path / "theirs")
    theirs = Store(tmp_path / "theirs")
    result = next(theirs.results())
    error = CellError(kind="ValueError", message="no", traceback="")
    theirs.put(
        result.model_copy(
            update={"status": "failed", "error": error, "metrics": None, "clean_bits": None, "adversarial_bits": None}
        )
    )
    assert sync(tmp_path, str(theirs.root)) == 0
    kept = {each.key for each in Store(tmp_path / "store").results()}
    assert kept == {each.key for each in theirs.results()} - {result.key}
    assert "failed there are not fetched: 1" in caplog.text


def test_killed_at_any_write_the_same_command_completes_the_place(tmp_path, done):
    remote = tmp_path / "remote"
    words = ["sync", f"file://{remote}", "--store", str(done / "store")]
    for kills in range(20):
        code = child.finish(child.start(tmp_path, words, child.At(remote, 2 + 5 * kills)))
        # Whatever is there under its own name is whole.
        for name, data in names(f"file://{remote}").items():
            assert name.endswith(".part") or data == (done / "store" / name).read_bytes()
        if code == 0:
            break
        assert code == -9, child.errors(tmp_path)
    assert code == 0 and kills > 2
    (tmp_path / "other").mkdir()
    assert sync(tmp_path / "other", str(remote)) == 0
    assert small.outcome(tmp_path / "other") == small.outcome(done)


def test_what_is_not_finished_stays(tmp_path, done, bucket):
    assert sync(done, bucket) == 0
    assert {name.split("/")[0] for name in names(bucket)} == {"attack", "cells", "records", "train"}
    assert not [name for name in names(bucket) if "state" in name or "lease" in name]
    text = small.CONFIG + f'\n[[attacks]]\nuse = "{tmp_path}/bad.py:bad"\neps = "0.1"\n'
    (tmp_path / "bad.py").write_text(
        "from bench.api import Target, Threat, attack\n\n@attack(norms=('linf',), passes='0 forwards')\n"
        "def bad(target, x, y, threat):\n    '''Bad.'''\n    raise RuntimeError('no')\n"
    )
    cells = {name for name in names(bucket) if name.startswith("cells/")}
    assert sync(tmp_path, bucket) == 0
    assert small.run(tmp_path, text=text) == 3
    assert sync(tmp_path, bucket) == 0
    assert {name for name in names(bucket) if name.startswith("cells/")} == cells


def test_names_that_would_leave_the_folder_are_not_fetched(tmp_path, bucket):
    filesystem = fsspec.filesystem("memory")
    for name in (
        "cells/../../../up.json",
        "train/x/card.json",
        "leases/a",
        "evil.py",
        f"records/{'0' * 64}.parquet.py",
    ):
        filesystem.pipe_file(f"{bucket}/{name}", b"evil")
    assert sync(tmp_path, bucket) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path.parent / "up.json").exists()


def test_a_damaged_result_elsewhere_is_refused(tmp_path, done, bucket, capsys):
    assert sync(done, bucket) == 0
    name = next(name for name in names(bucket) if name.startswith("cells/"))
    fsspec.filesystem("memory").pipe_file(f"{bucket}/{name}", names(bucket)[name].replace(b"1", b"2", 1))
    assert sync(tmp_path, bucket) == 2
    said = capsys.readouterr().err
    assert "cut short or altered" in said and name in said and len(complaints(said)) == 1
    assert not (tmp_path / "store" / name).exists()


@pytest.mark.parametrize("kind", ["records/", "train/"])
def test_records_and_cards_that_are_damaged_elsewhere_are_refused(tmp_path, done, bucket, capsys, kind):
    assert sync(done, bucket) == 0
    contents = names(bucket)
    name = next(name for name in contents if name.startswith(kind) and not name.endswith(("safetensors", ".jsonl")))
    fsspec.filesystem("memory").pipe_file(f"{bucket}/{name}", contents[name][:-40] + b"1" + contents[name][-39:])
    assert sync(tmp_path, bucket) == 2
    said = capsys.readouterr().err
    assert f"{name}: " in said and "there\n" in said and len(complaints(said)) == 1
    assert not (tmp_path / "store" / name).exists()


def test_beside_what_is_damaged_elsewhere_the_rest_is_carried(tmp_path, remote, capsys):
    victims = [
        min(remote.glob("attack/*/*")),
        min(remote.glob("train/*/weights.safetensors")),
        *remote.glob("cells/*"),
    ][:3]
    for path in victims:
        path.write_bytes(path.read_bytes()[:-40])
    lost = {str(path.relative_to(remote)) for path in victims}
    # A card without its weights, and records without their result, would say nothing.
    lost |= {str(path.relative_to(remote)) for path in victims[1].parent.iterdir()}
    lost |= {f"records/{victims[2].stem}.parquet"}
    undamaged = {str(path.relative_to(remote)) for path in remote.rglob("*") if path.is_file()} - lost
    assert sync(tmp_path / "new", str(remote)) == 2
    said = capsys.readouterr()
    root = tmp_path / "new" / "store"
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} >= undamaged
    assert not [name for name in lost if (root / name).exists()]
    assert said.err.count("warning: ") == 3 and said.err.count("error: ") == 1 and "3 files there" in said.err
    assert said.out.startswith(f"fetched {len(undamaged)} files")


def test_what_is_damaged_here_is_not_sent_but_fetched(tmp_path, done, bucket, caplog):
    (tmp_path / "remote").mkdir()
    shutil.copytree(done / "store", tmp_path / "store")
    damaged = [min((tmp_path / "store").glob(pattern)) for pattern in ("records/*.parquet", "train/*/card.json")]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-9])
    assert sync(tmp_path, str(tmp_path / "remote")) == 0
    kept = [Store(tmp_path / "store").name(path) for path in damaged]
    assert not [name for name in kept if (tmp_path / "remote" / name).exists()]
    assert all(str(path) in caplog.text for path in damaged)
    # From a machine that has them whole they come back.
    assert sync(done, str(tmp_path / "remote")) == 0
    assert sync(tmp_path, str(tmp_path / "remote")) == 0
    assert [(tmp_path / "store" / name).read_bytes() for name in kept] == [
        (done / "store" / name).read_bytes() for name in kept
    ]


def test_a_result_replaces_what_another_machine_left_unfinished(tmp_path, done, bucket):
    for name in ("records", "train"):
        for path in (done / "store" / name).rglob("*"):
            if path.is_file() and path.name != "card.json":
                name_there = Store(done / "store").name(path)
                fsspec.filesystem("memory").pipe_file(f"{bucket}/{name_there}", b"of another machine, cut off here")
    assert sync(done, bucket) == 0
    assert sync(tmp_path, bucket) == 0
    assert small.run(tmp_path) == 0
    assert not small.events(tmp_path, "done", "crafted", "trained", "warning")


@pytest.fixture
def remote(tmp_path, done):
    """A folder elsewhere that holds a whole run."""
    assert sync(done, str(tmp_path / "remote")) == 0
    return tmp_path / "remote"


SECRET = b"a secret of this machine"


@pytest.mark.parametrize(
    "pattern", ["attack/*/*", "train/*/weights.safetensors", "train/*/log.jsonl", "cells/*", "records/*"]
)
def test_no_link_out_of_the_place_is_followed(tmp_path, remote, caplog, capsys, pattern):
    (tmp_path / "secret").write_bytes(SECRET)
    victim = min(remote.glob(pattern))
    victim.unlink()
    victim.symlink_to(tmp_path / "secret")
    assert sync(tmp_path / "new", str(remote)) == 0
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file() and path.read_bytes() == SECRET]
    assert "are links or no files" in caplog.text
    name = victim.relative_to(remote)
    assert not (tmp_path / "new" / "store" / name).exists()


@pytest.mark.parametrize("name", ["attack", "cells"])
def test_no_folder_that_is_a_link_is_entered_or_written_to(tmp_path, remote, done, caplog, name):
    (remote / name).rename(tmp_path / "elsewhere")
    (remote / name).symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    shutil.rmtree(before[0]) if before[0].is_dir() else before[0].unlink()
    left = sorted((tmp_path / "elsewhere").rglob("*"))
    assert sync(tmp_path / "new", str(remote)) == 0
    assert not (tmp_path / "new" / "store" / name).exists()
    assert sync(done, str(remote)) == 0
    assert sorted((tmp_path / "elsewhere").rglob("*")) == left
    assert "is not sent: in its place" in caplog.text


def test_a_folder_of_one_set_that_is_a_link_is_neither_entered_nor_written_to(tmp_path, remote, done, caplog):
    folder = min((remote / "attack").iterdir())
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "000000-000128.safetensors").unlink(missing_ok=True)
    left = sorted((tmp_path / "elsewhere").rglob("*"))
    assert sync(tmp_path / "new", str(remote)) == 0
    assert not (tmp_path / "new" / "store" / "attack" / folder.name).exists()
    assert sync(done, str(remote)) == 0
    assert sorted((tmp_path / "elsewhere").rglob("*")) == left


def test_only_the_folders_of_a_store_are_looked_at(tmp_path, remote, monkeypatch):
    (remote / "strangers").mkdir()
    (remote / "strangers" / "deep").mkdir()
    (remote / "attack" / ("f" * 64) / "more" / "levels").mkdir(parents=True)
    looked = []
    monkeypatch.setattr(os, "scandir", lambda path, scandir=os.scandir: looked.append(str(path)) or scandir(path))
    assert sync(tmp_path / "new", str(remote)) == 0
    assert str(remote / "attack") in looked
    assert not [path for path in looked if "strangers" in path or "levels" in path]


def test_pipes_and_folders_there_are_not_waited_for(tmp_path, remote, done, caplog):
    pipe, folder = min(remote.glob("cells/*")), max(remote.glob("cells/*"))
    pipe.unlink()
    os.mkfifo(pipe)
    folder.unlink()
    folder.mkdir()
    assert sync(tmp_path / "new", str(remote)) == 0
    assert sync(done, str(remote)) == 0
    assert f"{pipe.name} is not sent" in caplog.text and pipe.is_fifo()


@pytest.mark.parametrize(
    "pattern", ["cells/*", "records/*", "attack/*/*", "train/*/weights.safetensors", "train/*/card.json"]
)
def test_a_file_of_terabytes_is_refused_before_it_is_read(tmp_path, remote, capsys, pattern):
    victim = min(remote.glob(pattern))
    with victim.open("r+b") as file:
        file.truncate(2**40)
    assert sync(tmp_path / "new", str(remote)) == 2
    said = capsys.readouterr().err
    assert f"{victim.name}: it has 1,099,511,627,776 bytes" in said and len(complaints(said)) == 1
    rest = [path.relative_to(remote) for path in remote.glob(pattern) if path != victim]
    fetched = tmp_path / "new" / "store"
    assert not (fetched / victim.relative_to(remote)).exists() and all((fetched / name).exists() for name in rest)


def test_beside_what_is_too_large_there_what_is_new_here_is_sent(tmp_path, remote, done, capsys):
    large, gone = min(remote.glob("attack/*/*")), max(remote.glob("attack/*/*"))
    gone.unlink()
    with large.open("r+b") as file:
        file.truncate(2**40)
    assert sync(done, str(remote)) == 2
    said = capsys.readouterr().err
    assert f"{large.name}: it has 1,099,511,627,776 bytes" in said and len(complaints(said)) == 1
    assert gone.read_bytes() == (done / "store" / gone.relative_to(remote)).read_bytes()


def test_more_than_the_disk_has_room_for_is_refused_before_it_is_fetched(tmp_path, remote, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert sync(tmp_path / "new", str(remote)) == 2
    assert "there is room for 1,000" in capsys.readouterr().err
    assert not (tmp_path / "new" / "store" / "attack").exists()


@pytest.mark.parametrize(
    "pattern", ["cells/*", "records/*", "attack/*/*", "train/*/weights.safetensors", "train/*/card.json"]
)
def test_what_is_not_what_its_name_says_is_refused(tmp_path, remote, capsys, pattern):
    """Each is whole and sealed, but of another cell, set or training."""
    victim = min(remote.glob(pattern))
    others = [path for path in remote.glob(pattern) if path.read_bytes() != victim.read_bytes()]
    if pattern.startswith("train/"):
        victim.write_bytes(victim.read_bytes().replace(b"0", b"1"))
    else:
        victim.write_bytes(others[0].read_bytes())
    assert sync(tmp_path / "new", str(remote)) == 2
    said = capsys.readouterr().err
    assert f"/{victim.relative_to(remote)}: " in said and "delete it there" in said and len(complaints(said)) == 1
    assert not (tmp_path / "new" / "store" / victim.relative_to(remote)).exists()


def test_a_log_of_a_training_is_that_of_its_card(tmp_path, remote, done):
    log = min(remote.glob("train/*/log.jsonl"))
    log.write_bytes(b"somebody else's\x1b[2J\n")
    assert sync(tmp_path / "new", str(remote)) == 0
    name = log.relative_to(remote)
    assert (tmp_path / "new" / "store" / name).read_bytes() == (done / "store" / name).read_bytes()


@pytest.mark.parametrize("pattern", ["cells/*", "records/*", "attack/*/*", "train/*/weights.safetensors"])
def test_a_folder_in_the_place_of_a_file_stays_as_it_is(tmp_path, remote, done, caplog, capsys, pattern):
    victim = min(remote.glob(pattern))
    victim.unlink()
    victim.mkdir()
    for _ in range(2):
        caplog.clear()
        capsys.readouterr()
        assert sync(done, str(remote)) == 0
        assert "sent 0 files" in capsys.readouterr().out
        assert list(victim.iterdir()) == []
        assert f"{victim.relative_to(remote)} is not sent: in its place at {remote} is a folder" in caplog.text
    assert not list(remote.rglob("*.part"))


@pytest.mark.parametrize("name", ["cells", "attack/*"])
def test_a_file_in_the_place_of_a_folder_is_one_warning(tmp_path, remote, done, caplog, name):
    folder = min(remote.glob(name))
    # Records stay with their results.
    count = len([path for path in folder.rglob("*") if path.is_file()]) * (2 if name == "cells" else 1)
    shutil.rmtree(folder)
    folder.write_bytes(SECRET)
    caplog.clear()
    assert sync(done, str(remote)) == 0
    assert folder.read_bytes() == SECRET
    (said,) = [record.getMessage() for record in caplog.records if "is not sent" in record.getMessage()]
    assert said.startswith(f"{folder.relative_to(remote)} is not sent: in its place at {remote} is a file")
    assert count == 1 or f"{count} files stay here" in said


def test_no_result_is_sent_where_its_records_cannot_be(tmp_path, done, caplog):
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "records").write_bytes(SECRET)
    assert sync(done, str(tmp_path / "remote")) == 0
    assert not list(tmp_path.glob("remote/cells/*")) and list(tmp_path.glob("remote/train/*/card.json"))
    assert caplog.text.count("is not sent") == 1


@pytest.mark.parametrize("slash", ["/", ""])
def test_on_an_object_store_an_object_named_like_a_folder_is_in_nobodys_way(tmp_path, done, bucket, monkeypatch, slash):
    """Consoles make one for a new folder; s3fs lists it with the slash at its end, others without."""
    assert sync(done, bucket) == 0
    memory = type(fsspec.filesystem("memory"))

    def with_markers(self, path, detail=True, ls=memory.ls, **more):
        listed = ls(self, path, detail=detail, **more)
        marker = {"name": f"{path}{slash}", "type": "file", "size": 0}
        return [*listed, marker] if detail and (slash or "/attack" in path) else listed

    monkeypatch.setattr(memory, "ls", with_markers)
    before = {name: data for name, data in names(bucket).items() if name}
    gone = max(name for name in before if name.startswith("attack/"))
    fsspec.filesystem("memory").rm_file(f"{bucket}/{gone}")
    assert sync(done, bucket) == 0
    assert names(bucket) == before
    assert sync(tmp_path, bucket) == 0
    assert small.outcome(tmp_path) == small.outcome(done)


@pytest.mark.parametrize(
    "pattern", ["cells/*", "records/*", "attack/*/*", "train/*/weights.safetensors", "train/*/card.json"]
)
def test_what_was_emptied_there_is_named_by_who_has_it(tmp_path, remote, done, capsys, pattern):
    victim = min(remote.glob(pattern))
    size = victim.stat().st_size
    victim.write_bytes(b"")
    assert sync(done, str(remote)) == 2
    said = capsys.readouterr().err
    assert said == f"error: {victim}: it has 0 bytes, and {size:,} here; delete it there\n"
    victim.unlink()
    assert sync(done, str(remote)) == 0
    assert victim.read_bytes() == (done / "store" / victim.relative_to(remote)).read_bytes()


@pytest.mark.parametrize("pattern", ["attack/*/*", "train/*/weights.safetensors"])
def test_what_was_cut_short_there_is_named_by_who_has_it(tmp_path, remote, done, capsys, pattern):
    victim = min(remote.glob(pattern))
    victim.write_bytes(victim.read_bytes()[:-40])
    assert sync(done, str(remote)) == 2
    said = capsys.readouterr().err
    assert f"{victim}: " in said and "delete" in said and len(complaints(said)) == 1


def test_what_two_machines_made_alike_is_not_called_damaged(tmp_path, remote):
    (tmp_path / "twin").mkdir()
    assert small.run(tmp_path / "twin") == 0
    # Seconds have other digits each time.
    assert any(
        path.read_bytes() != (tmp_path / "twin/store/cells" / path.name).read_bytes() for path in remote.glob("cells/*")
    )
    for log in remote.glob("train/*/log.jsonl"):
        log.write_bytes(log.read_bytes() + b"{}\n")
    assert sync(tmp_path / "twin", str(remote)) == 0


@pytest.mark.parametrize(("pattern", "beside"), [("train/*/weights.safetensors", "card.json"), ("records/*", "")])
def test_a_card_without_weights_and_a_result_without_records_stay_there(tmp_path, remote, caplog, pattern, beside):
    victim = min(remote.glob(pattern))
    victim.unlink()
    assert sync(tmp_path / "new", str(remote)) == 0
    left = victim.with_name(beside) if beside else remote / "cells" / f"{victim.stem}.json"
    assert left.exists() and not (tmp_path / "new" / "store" / left.relative_to(remote)).exists()
    assert not beside or not (tmp_path / "new" / "store" / victim.relative_to(remote)).parent.exists()
    assert "without their records are not fetched: 1" in caplog.text


@pytest.mark.parametrize("intact", [True, False])
def test_a_card_whose_weights_are_here_is_fetched(tmp_path, remote, intact):
    weights = min(remote.glob("train/*/weights.safetensors"))
    here = tmp_path / "store" / weights.relative_to(remote)
    here.parent.mkdir(parents=True)
    here.write_bytes(weights.read_bytes() if intact else SECRET)
    weights.unlink()
    assert sync(tmp_path, str(remote)) == 0
    assert here.with_name("card.json").exists() == intact


def test_weights_are_sent_with_the_card_that_they_are_of(tmp_path, remote, done):
    """The one there is of another machine, whose weights are lost."""
    weights = min(remote.glob("train/*/weights.safetensors"))
    weights.unlink()
    card = weights.with_name("card.json")
    card.write_bytes(b"of another machine")
    assert sync(done, str(remote)) == 0
    assert [path.read_bytes() for path in (weights, card)] == [
        (done / "store" / path.relative_to(remote)).read_bytes() for path in (weights, card)
    ]


@pytest.mark.parametrize("url", ["nowhere://bucket", "http://127.0.0.1:9/x", "file:///proc/nowhere"])
def test_an_address_that_cannot_be_used_is_one_line(done, capsys, url):
    assert sync(done, url) == 2
    assert len(complaints(capsys.readouterr().err)) == 1


def test_a_store_in_use_is_left_alone(tmp_path, bucket, capsys):
    with Store(tmp_path / "store").leases.hold("work"):
        assert sync(tmp_path, bucket) == 2
    assert "a run is at work" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["file://", "file:", "local://", "simplecache::file://"])
def test_an_address_without_a_path_is_not_the_current_folder(tmp_path, done, capsys, monkeypatch, url):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert sync(done, url) == 2
    assert capsys.readouterr().err == f"error: {url} names no folder; the current one is '.'\n"
    assert not os.listdir(tmp_path / "here")


def test_a_file_in_the_place_of_the_folder_is_said_though_nothing_is_to_be_sent(tmp_path, bucket, capsys):
    (tmp_path / "file").write_bytes(SECRET)
    fsspec.filesystem("memory").pipe_file(f"{bucket}/file", SECRET)
    for url in (f"file://{tmp_path}/file", str(tmp_path / "file"), f"{bucket}/file"):
        assert sync(tmp_path / "empty", url) == 2
        assert capsys.readouterr().err == f"error: {url} is a file, not a folder\n"


def test_a_place_that_cannot_be_looked_into_is_not_taken_for_an_empty_one(tmp_path, capsys, monkeypatch):
    def refuse(self, path, detail=True, **more):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "ls", refuse)
    assert sync(tmp_path / "empty", f"file://{tmp_path}/remote") == 2
    assert "Permission denied" in capsys.readouterr().err


def test_no_password_of_an_address_is_said(tmp_path, capsys):
    assert sync(tmp_path, "nosuchplace://user:secret@host/folder") == 2
    assert "secret" not in capsys.readouterr().err
