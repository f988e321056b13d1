"""What others put into a store is seen, said in one line and left; what stands in the place of our own is mended."""

import json
import os
import shutil
import socket
import stat
from contextlib import chdir
from functools import partial
from itertools import chain, product

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bench.cli import main
from bench.evaluation.chunks import read_chunk
from bench.keys import sha256_hex
from bench.report.render.samples import samples
from bench.store import files
from bench.store.cards import is_trained
from bench.store.seals import sealed
from bench.store.working_store import Store
from bench.training import checkpoint
from bench.types import StoreError
from tests.schedule import small

#: Which records of the first versions lack.
LATER_COLUMNS = ["l1", "l0", "clean_share", "clean_margin", "adversarial_share", "adversarial_margin"]
PHOTO = b"\xff\xd8\xff\xe0 a photo of the sea"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    assert small.run(folder) == 0
    return folder, small.outcome(folder)


@pytest.fixture
def copy(done, tmp_path):
    """A folder with a finished store of its own, and beside it what links lead to."""
    shutil.copytree(done[0] / "store", tmp_path / "store")
    (tmp_path / "elsewhere").mkdir()
    for name in ("weights.safetensors", "card.json", "mine.txt"):
        (tmp_path / "elsewhere" / name).write_bytes(PHOTO)
    return tmp_path


# What may lie anywhere.


def photo(path):
    path.write_bytes(PHOTO)


def empty(path):
    path.write_bytes(b"")


def deep(path):
    path.write_bytes(b'{"schema":1,"files":' + b'{"a":[' * 100_000)


def odd(path):
    """Something with a right seal whose every word is of a wrong type."""
    path.write_bytes(sealed({"files": 7, "log": 3, "message": [1], "weights_sha256": 5, "training": 1, "schema": "x"}))


def vast(path):
    with path.open("wb") as file:
        file.truncate(2**40)


def folder(path):
    path.mkdir()


def album(path):
    path.mkdir()
    photo(path / "sea.jpg")


def loop(path):
    path.symlink_to(path.name)


def dangling(path):
    path.symlink_to("/nowhere/at/all")


def link(path):
    path.symlink_to(path.parents[len(path.parts) - path.parts.index("store") - 1] / "elsewhere" / "mine.txt")


def folder_link(path):
    path.symlink_to(path.parents[len(path.parts) - path.parts.index("store") - 1] / "elsewhere")


def pipe(path):
    os.mkfifo(path)


def sock(path):
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


ANYTHING = (photo, vast, album, loop, dangling, folder_link, pipe, sock)


def first(store, pattern):
    return min(store.glob(pattern))


def strays(store):
    """Return paths for a stranger's files in every folder of a store."""
    key = first(store, "cells/*.json").stem
    inside = [first(store, "train/*"), first(store, "attack/*"), first(store, "plans/*")]
    (store / "leases").mkdir(exist_ok=True)
    names = ["README.json", f"{key} (conflicted copy).json", ".DS_Store", os.fsdecode(b"caf\xe9.json")]
    tops = [store / name for name in ("cells", "records", "attack", "train", "plans", "leases", "log")]
    return [folder / name for folder, name in product((store, *tops, *inside), names)]


def look(path):
    """Return what a path is and holds, without following it."""
    about = path.lstat()
    kind = stat.S_IFMT(about.st_mode)
    if stat.S_ISLNK(about.st_mode):
        return kind, os.readlink(path)
    if stat.S_ISDIR(about.st_mode):
        return kind, {each.name: look(each) for each in path.iterdir()}
    return kind, about.st_size, path.read_bytes() if stat.S_ISREG(about.st_mode) and about.st_size < 10**7 else None


def verbs(folder):
    toml, store = small.write(folder), ["--store", str(folder / "store")]
    return [
        ["leaderboard", *store, "--format", "json"],
        ["show", "digits/small-cnn/fgsm-at/fgsm/white-box", *store],
        ["show", "--log", *store],
        ["export", "sets", "--list", *store],
        ["run", toml, *store, "--report", str(folder / "report")],
        ["sync", str(folder / "remote"), *store],
        ["gc", toml, *store, "--yes"],
    ]


@pytest.mark.parametrize("put", ANYTHING)
def test_strangers_are_said_and_left_by_every_verb(copy, caplog, capsys, put):
    paths = strays(copy / "store")
    for path in paths:
        put(path)
    before = {path: look(path) for path in paths}
    for words in verbs(copy):
        caplog.clear()
        assert main(words) == 0, words
        said = [record.getMessage() for record in caplog.records if "left alone" in record.getMessage()]
        if words[0] != "gc" and "--log" not in words:
            # One line for each folder that all verbs look into.
            assert len(set(said)) == len(said) >= 9, words
    assert {path: look(path) for path in paths} == before
    assert look(copy / "elsewhere") == look_of_elsewhere()
    listed = capsys.readouterr().out
    assert all(
        f"left: not Crossfire's: {path}" in listed
        for path in paths
        if path.name == "README.json" and path.parent.name != "plans"
    )


def look_of_elsewhere():
    inside = {name: (stat.S_IFREG, len(PHOTO), PHOTO) for name in ("weights.safetensors", "card.json", "mine.txt")}
    return stat.S_IFDIR, inside


def our_paths(store):
    """Return where files of our own lie, one of each kind."""
    training = first(store, "train/*")
    names = ("card.json", "weights.safetensors", "log.jsonl", "state.safetensors", "failed.json")
    return [
        first(store, "cells/*.json"),
        max(store.glob("cells/*.json")),
        first(store, "records/*.parquet"),
        first(store, "attack/*/000000*"),
        max(store.glob("attack/*")),
        first(store, "plans/*/*.json"),
        store / "verified.json",
        store / "leases" / f"cell-{first(store, 'cells/*.json').stem}",
        *(training / name for name in names),
    ]


def clear(path):
    path.parent.mkdir(exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


IN_OUR_PLACE = (photo, empty, deep, odd, vast, folder, album, loop, dangling, link, pipe)


@pytest.mark.parametrize("turn", range(len(IN_OUR_PLACE)))
def test_whatever_stands_in_the_place_of_our_own_is_mended(done, copy, caplog, turn):
    """Every path meets every kind: in each turn the kinds move on by one path."""
    paths = our_paths(copy / "store")
    kinds = {path: IN_OUR_PLACE[(turn + number) % len(IN_OUR_PLACE)] for number, path in enumerate(paths)}
    for path, put in kinds.items():
        clear(path)
        put(path)
    assert main(["leaderboard", "--store", str(copy / "store"), "--format", "json"]) == 0
    assert main(["show", "--log", "--store", str(copy / "store")]) == 0
    # So that the run looks at everything.
    for path in (copy / "store" / "cells").iterdir():
        if path not in kinds:
            path.unlink()
    assert small.run(copy) == 0
    assert small.outcome(copy) == done[1]
    caplog.clear()
    assert small.run(copy) == 0
    assert not [text for text in caplog.messages if "does not count" in text]
    # A folder that holds something was moved, or stays where it is in nobody's way, and nothing was followed.
    for path in (path for path, put in kinds.items() if put is album):
        (kept,) = [*path.parent.glob(f"{path.name}.aside-*")] or [path]
        assert look(kept)[1]["sea.jpg"][2] == PHOTO
    assert look(copy / "elsewhere") == look_of_elsewhere()


@pytest.mark.parametrize("put", [photo, loop, dangling, pipe])
def test_what_stands_in_the_place_of_our_folders_is_moved_aside(copy, caplog, put):
    store = copy / "store"
    tops = [store / name for name in ("cells", "records", "attack", "plans", "leases", "log")]
    for path in tops:
        shutil.rmtree(path, ignore_errors=True)
        put(path)
    before = [look(path) for path in tops]
    assert main(["leaderboard", "--store", str(store)]) == 2
    assert small.run(copy) == 0
    assert all(path.is_dir() for path in tops)
    moved = list(map(look, chain.from_iterable(store.glob(f"{top.name}.aside-*") for top in tops)))
    # A link to itself holds nothing and is gone.
    assert moved == ([] if put is loop else before)
    assert len([text for text in caplog.messages if "was moved to" in text]) == len(moved)


@pytest.mark.parametrize("put", [photo, loop, dangling, pipe])
def test_a_store_that_is_no_folder_is_one_line(tmp_path, capsys, put):
    put(tmp_path / "store")
    before = look(tmp_path / "store")
    for words in verbs(tmp_path):
        code = main(words)
        said = capsys.readouterr().err
        assert (code, len(said.splitlines())) in ({(2, 1), (0, 0)} - ({(0, 0)} if words[0] == "gc" else set())), said
    assert look(tmp_path / "store") == before


def less(folder):
    """Return a plan without the last attack."""
    path = folder / "less.toml"
    path.write_text(small.CONFIG[: small.CONFIG.rindex("[[attacks]]")])
    return str(path)


def all_of(folder):
    return {path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def test_gc_deletes_what_is_ours_beside_what_is_not(copy, capsys):
    store, ours = copy / "store", all_of(copy / "store")
    needed = ["gc", less(copy), "--store", str(store)]
    for attack in (store / "attack").iterdir():
        album(attack / "holiday")
        photo(attack / "000000-000128.jpg")
    # Under names of ours, each where one of ours could be.
    other = sha256_hex("other")
    for name in ("cells/{}.json", "records/{}.parquet", "train/{}/card.json", "attack/{}/000000-000128.safetensors",
                 "train/{}/weights.safetensors", "leases/cell-{}", "cells/.{}.json.part",
                 "cells/.{}.json.17.0123abcd.part", "train/{}/.state.safetensors.17.0123abcd.part",
                 "records/.{}.parquet.17.0123abcd.part", ".probe.17.0123abcd.part"):  # fmt: skip
        path = store / name.format(other)
        path.parent.mkdir(exist_ok=True)
        photo(path)
    link(store / "cells" / f"{sha256_hex('link')}.json")
    folder_link(store / "train" / sha256_hex("folder"))
    strangers = all_of(store) - ours
    capsys.readouterr()
    assert main([*needed, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {each["path"] for each in listed if each["left"]} >= {
        str(path) for path in strangers if path.parent.name != "holiday"
    }
    assert main([*needed, "--yes"]) == 0
    assert strangers <= all_of(store)
    gone = ours - all_of(store)
    # Of three attack cells that go: results, records and adversarial sets of two chunks; and what asked for them.
    assert sorted(path.relative_to(store).parts[0] for path in gone) == (
        ["attack"] * 6 + ["cells"] * 3 + ["plans"] + ["records"] * 3
    )
    assert look(copy / "elsewhere") == look_of_elsewhere()
    capsys.readouterr()
    assert main([*needed, "--json"]) == 0
    assert all(each["left"] for each in json.loads(capsys.readouterr().out))


def test_gc_deletes_a_training_however_far_it_came(copy, capsys):
    """What a training leaves when it is killed at any of its writes is ours, as long as one of its files says so."""
    training = first(copy / "store", "train/*")
    trainings = copy / "store" / "train"
    state = checkpoint.serialised({})
    for number, names in enumerate([("card.json",), ("weights.safetensors", "log.jsonl"), ("log.jsonl",), ()]):
        folder = trainings / sha256_hex(str(number))
        folder.mkdir()
        for name in names:
            shutil.copy(training / name, folder)
    checkpoint.write(trainings / sha256_hex("state") / "state.safetensors", {}, {"identity": "", "epoch": 1})
    (trainings / sha256_hex("state") / "weights.safetensors").write_bytes(state)
    assert main(["gc", less(copy), "--store", str(copy / "store"), "--yes"]) == 0
    assert list(trainings.iterdir()) == [training]
    assert "left" not in capsys.readouterr().out


def test_gc_deletes_what_killed_processes_left_of_files(copy):
    """Whatever part of a file was written, also none, or, after a power cut, nothing but zeros."""
    store, parts = copy / "store", []
    for path in (path for path in our_paths(store) if path.is_file()):
        data = path.read_bytes()
        for number, part in enumerate((data[:1], data[:9], data[: len(data) // 2], b"", bytes(40))):
            parts.append(path.with_name(f".{path.name}.17.0123abc{number}.part"))
            parts[-1].write_bytes(part)
    assert main(["gc", small.write(copy), "--store", str(store), "--yes"]) == 0
    assert not [part for part in parts if part.exists()]


def strange_contents(store):
    """Yield places of ours in which a stranger's words have the form of ours, or even a right seal."""
    training = first(store, "train/*")
    beside = store / "train" / sha256_hex("beside")
    shutil.copytree(training, beside)
    yield beside / "weights.safetensors", checkpoint.serialised({"thesis": torch.ones(2)})
    yield store / "train" / sha256_hex("alone") / "weights.safetensors", checkpoint.serialised({})
    row = b'{"epoch": 1, "loss": 2, "learning_rate": 3}\n'
    yield store / "train" / sha256_hex("diary") / "log.jsonl", row + b"Dear diary,\n"
    card = b'{"training": "football", "network": "television", "weights_sha256": ""}'
    yield store / "train" / sha256_hex("card") / "card.json", card
    contract = sealed({"contract": "of a house", "price": 3})
    yield store / "train" / sha256_hex("failed") / "failed.json", contract
    yield store / "cells" / f"{sha256_hex('contract')}.json", contract
    # Digits of another script are none of ours.
    yield store / "leases" / f"attack-{sha256_hex('x')}-\u0660\u0661\u0662\u0663\u0664\u0665", b""


def test_gc_leaves_what_only_looks_like_ours(copy, capsys):
    paths = list(strange_contents(copy / "store"))
    (copy / "store" / "leases").mkdir(exist_ok=True)
    for path, data in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert main(["gc", less(copy), "--store", str(copy / "store"), "--yes"]) == 0
    assert [path.read_bytes() for path, _ in paths] == [data for _, data in paths]
    # The card that stood beside strange weights was ours.
    assert [path.name for path in paths[0][0].parent.iterdir()] == ["weights.safetensors"]
    listed = capsys.readouterr().out
    assert all(f"left: damaged, or not Crossfire's: {path}\n" in listed for path, _ in paths[:-1])


def test_gc_leaves_records_to_which_somebody_added_a_column(copy, capsys):
    store = Store(copy / "store")
    extended, first_version, written = (store.records(r.key) for r in store.results() if "/pgd" in str(r.names))
    mine = pa.array(["a note"] * 140)
    pq.write_table(pq.read_table(extended).append_column("mine", mine), extended)
    pq.write_table(pq.read_table(first_version).drop_columns(LATER_COLUMNS), first_version)
    assert main(["gc", less(copy), "--store", str(store.root), "--yes"]) == 0
    assert [path.exists() for path in (extended, first_version, written)] == [True, False, False]
    assert f"left: damaged, or not Crossfire's: {extended}\n" in capsys.readouterr().out


def test_gc_says_what_it_cannot_look_into(copy, capsys, monkeypatch):
    """As for a user who is not root."""
    refused = {copy / "store" / "cells", first(copy / "store", "train/*")}
    words = ["gc", less(copy), "--store", str(copy / "store")]
    monkeypatch.setattr(os, "access", lambda path, mode: path not in refused)
    assert main(words) == 0
    listed = capsys.readouterr().out
    assert all(f"left: cannot be looked into: permission denied: {path}\n" in listed for path in refused)
    refused.add(copy / "store")
    assert main(words) == 2
    assert f"the store {copy / 'store'} cannot be looked into: permission denied" in capsys.readouterr().err


def test_strangers_in_trainings_and_sets_are_one_line_each(copy, caplog):
    store = copy / "store"
    for path in (*store.glob("train/*"), *store.glob("attack/*")):
        photo(path / ".DS_Store")
    Store(store).warn_of_strangers()
    assert [text.partition(", ")[0] for text in caplog.messages] == [
        f"{store / top}: not Crossfire's and left alone: {first(store, f'{top}/*').name}/.DS_Store"
        for top in ("attack", "train")
    ]


def test_gc_removes_links_to_themselves_and_empty_folders_in_our_places(copy, capsys):
    for path in our_paths(copy / "store")[:3]:
        clear(path)
        loop(path)
    folder(copy / "store" / "records" / f"{sha256_hex('x')}.parquet")
    before = all_of(copy / "store")
    assert main(["gc", small.write(copy), "--store", str(copy / "store"), "--yes"]) == 0
    assert len(before - all_of(copy / "store")) == 3
    assert not (copy / "store" / "records" / f"{sha256_hex('x')}.parquet").exists()
    assert small.run(copy) == 0


# What bears a right seal and is yet something else.


def test_files_that_came_to_lie_in_the_place_of_others_do_not_count(done, copy, caplog):
    chunks = sorted((copy / "store").glob("attack/*/000000*"))
    datas = [path.read_bytes() for path in chunks]
    for path, data in zip(chunks, datas[1:] + datas[:1], strict=True):
        path.write_bytes(data)
    for path in (copy / "store" / "cells").iterdir():
        path.unlink()
    assert small.run(copy) == 0
    assert small.outcome(copy) == done[1]
    assert len({text for text in caplog.messages if "it is that of" in text}) == len(chunks)


def test_a_training_in_the_place_of_another_does_not_count(copy, tmp_path, caplog):
    text = small.CONFIG.replace("lr = 0.05", "lr = 0.04")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert small.run(fresh, "--only", "*/clean/*", text=text) == 0
    expected = small.outcome(fresh)
    (other,) = {path.name for path in (fresh / "store" / "train").iterdir()}
    first(copy / "store", "train/*").rename(copy / "store" / "train" / other)
    assert small.run(copy, "--only", "*/clean/*", text=text) == 0
    outcome = small.outcome(copy)
    weights = f"train/{other}/weights.safetensors"
    assert outcome[weights] == expected[weights]
    assert "it is of another training" in caplog.text


def test_a_chunk_of_other_images_does_not_count(copy, caplog):
    path = first(copy / "store", "attack/*/000000*")
    x = small.images()[:128]
    assert read_chunk(path, x, small.THREAT) is not None
    assert read_chunk(path, x.expand(128, 3, 8, 8), small.THREAT) is None
    assert read_chunk(path, x[:64], small.THREAT) is None


# What a store says of a disk, and of files that are there and cannot be read.


def test_a_file_that_may_not_be_read_is_made_again(done, copy, monkeypatch, caplog):
    victim = first(copy / "store", "cells/*.json")

    def denied(path, *more, real=os.open, **options):
        if os.fspath(path) == str(victim) and not more[0] & os.O_WRONLY:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", denied)
        assert Store(copy / "store").get(victim.stem) is None
        assert f"{victim} does not count: permission denied" in caplog.text


def test_only_what_is_in_the_store_is_the_stores_failure(tmp_path):
    store = Store(tmp_path / "store")
    for error in (OSError(28, "No space left on device"), OSError(28, "No space left on device", str(tmp_path / "x"))):
        with pytest.raises(OSError) as caught, store.writing():
            raise error
        assert caught.value is error
    with pytest.raises(StoreError, match="No space left"), store.writing():
        raise OSError(28, "No space left on device", str(tmp_path / "store" / "cells" / "x"))


def test_a_full_disk_says_which_file(tmp_path):
    with pytest.raises(OSError) as caught, files.named(tmp_path / "x"), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"1")
    assert caught.value.filename == str(tmp_path / "x")


@pytest.mark.parametrize("pattern", ["records/*.parquet", "train/*/weights.safetensors", "attack/*/000000*"])
def test_a_file_of_a_terabyte_is_not_read(copy, pattern, caplog):
    path = first(copy / "store", pattern)
    vast(path)
    store = Store(copy / "store", trusting=False)
    if "records" in pattern:
        result = store.get(path.stem)
        assert not store.has_records(result)
    elif "train" in pattern:
        assert not is_trained(path.parent)
    else:
        assert (
            read_chunk(path, small.images()[:128], small.THREAT) is None and samples(store.results(), store) is not None
        )
    assert "has 1,099,511,627,776 bytes, and at most" in caplog.text


def test_a_folder_that_cannot_be_entered_is_said_once(copy, monkeypatch, caplog):
    """As for a user who is not root."""
    cells = copy / "store" / "cells"

    def denied(path, *more, real, **options):
        if os.fspath(path).startswith(str(cells)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more, **options)

    with monkeypatch.context() as patched:
        for name in ("open", "listdir", "scandir", "stat"):
            patched.setattr(os, name, partial(denied, real=getattr(os, name)))
        patched.setattr(os, "access", lambda path, mode, real=os.access: path != cells and real(path, mode))
        store = Store(copy / "store")
        assert store.get("0" * 64) is None and list(store.results()) == []
    assert caplog.messages == [f"{cells} is left out: permission denied"]
