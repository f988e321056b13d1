"""A file of the store that was cut short or altered is noticed by its hash, said, and made again."""

import json
import logging
import os
import random
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save

from bench.cli import main
from bench.config import sections
from bench.evaluation.chunks import read_chunk
from bench.evaluation.measure import Measure
from bench.report.render.samples import samples
from bench.schedule.plan import make
from bench.schedule.run import Runner
from bench.store import cards, files, partial
from bench.store.audit import broken_rule
from bench.store.seals import arrays_digest, sealed, sealed_arrays, unsealed
from bench.store.working_store import Store
from bench.training import checkpoint
from bench.types import Ending, Threat, UsageError
from tests.schedule import small


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    assert small.run(folder) == 0
    return folder, small.outcome(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def alter(path):
    text = path.read_text()
    digits = re.search(r'accuracy":0\.\d*(\d)', text)
    changed = str((int(digits[1]) + 1) % 10)
    path.write_text(text[: digits.start(1)] + changed + text[digits.end(1) :])


def dearer(path):
    """Let a training seem to have taken 99 times its passes."""
    card = json.loads(path.read_text())
    card["passes_per_example"] = [99 * passes for passes in card["passes_per_example"]]
    path.write_text(json.dumps(card, sort_keys=True, separators=(",", ":")) + "\n")


def impossible(path):
    """Let a training have taken less than no time, under a right seal."""
    path.write_bytes(sealed({**unsealed(path.read_bytes()), "seconds_per_epoch": -5.0}))


def touched(path):
    """Flip a byte and set the time of the last change back."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


#: What results stand on, and what they are.
BELOW = [
    ("attack/*/*.safetensors", cut),
    ("attack/*/*.safetensors", flip),
    ("train/*/weights.safetensors", flip),
    ("train/*/card.json", cut),
    ("train/*/card.json", dearer),
    ("train/*/card.json", impossible),
    ("train/*/log.jsonl", flip),
]
RESULTS = [
    ("cells/*.json", cut),
    ("cells/*.json", empty),
    ("cells/*.json", alter),
    ("records/*.parquet", cut),
    ("records/*.parquet", empty),
    ("records/*.parquet", flip),
    ("records/*.parquet", touched),
]


@pytest.mark.parametrize(
    ("pattern", "damage", "unfinished"),
    [(*each, False) for each in (*BELOW, *RESULTS)] + [(*each, True) for each in BELOW],
)
def test_damaged_and_made_again(done, tmp_path, caplog, pattern, damage, unfinished):
    folder, outcome = done
    shutil.copytree(folder / "store", tmp_path / "store")
    victims = sorted((tmp_path / "store").glob(pattern))
    for path in victims:
        damage(path)
    if unfinished:
        for path in sorted((tmp_path / "store").glob("cells/*.json")):
            path.unlink()
    with caplog.at_level(logging.WARNING, "crossfire"):
        assert small.run(tmp_path) == 0
    assert small.outcome(tmp_path) == outcome
    assert train_flops(tmp_path) == train_flops(folder)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert any(path.name in said or path.parent.name in said for path in victims)
    caplog.clear()
    assert small.run(tmp_path) == 0
    assert "does not count" not in caplog.text
    (card,) = (tmp_path / "store").glob("train/*/card.json")
    rows = [json.loads(line) for line in card.with_name("log.jsonl").read_text().splitlines()]
    assert rows == json.loads(card.read_text())["log"]


def train_flops(folder):
    return {str(r.names): r.defense_cost.train_flops_per_epoch for r in Store(folder / "store").results()}


#: Of each kind of file, what its reader returns for one that is not whole, and what it returns for this one.
def whole_cell(store, path):
    return store.get(path.stem)


def whole_records(store, path):
    result = store.get(path.stem)
    return store.has_records(result) or None


def whole_chunk(store, path):
    first, last = map(int, path.stem.split("-"))
    chunk = read_chunk(path, small.images()[first:last], small.THREAT)
    return chunk and (
        chunk.images.tolist(),
        chunk.forwards.tolist(),
        chunk.backwards.tolist(),
        chunk.seconds,
        chunk.notes,
    )


def whole_card(store, path):
    return cards.read(path.parent)


def whole_weights(store, path):
    return cards.is_trained(path.parent) or None


def whole_state(store, path):
    try:
        kept, words = checkpoint.read(path)
    except UsageError:
        return None
    return {name: value.tolist() for name, value in kept.items()}, words


@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("cells/*.json", whole_cell),
        ("records/*.parquet", whole_records),
        ("attack/*/*.safetensors", whole_chunk),
        ("train/*/card.json", whole_card),
        ("train/*/weights.safetensors", whole_weights),
        ("train/*/state.safetensors", whole_state),
    ],
)
def test_whichever_byte_is_flipped_it_is_noticed(done, tmp_path, pattern, read):
    if "state" in pattern:
        stop_in_training(tmp_path)
    else:
        shutil.copytree(done[0] / "store", tmp_path / "store")
    store = Store(tmp_path / "store")
    path = min(store.root.glob(pattern))
    data, expected = path.read_bytes(), read(store, path)
    assert expected is not None
    # The ends, where formats keep what they are read by, and a sample of the rest.
    offsets = {*range(24), *range(len(data) - 24, len(data)), *random.Random(0).sample(range(len(data)), 60)}
    for offset in sorted(offsets):
        for flipped in (1, 0x20, 0xFF):
            path.write_bytes(data[:offset] + bytes([data[offset] ^ flipped]) + data[offset + 1 :])
            content = read(store, path)
            # Blanks at the end of a text mean nothing.
            assert content is None or (content == expected and data[offset : offset + 1].isspace()), (offset, flipped)
    path.write_bytes(data)
    assert read(store, path) == expected


def forge(path, change):
    """Write a chunk again with other arrays and words, and the seal of these."""
    arrays, about = sealed_arrays(path.read_bytes())
    change(arrays, about)
    path.write_bytes(save(arrays, {**about, "sha256": arrays_digest(arrays, about)}))


def put(name, value):
    def change(arrays, about):
        arrays[name][3] = value

    return change


def doubled(arrays, about):
    arrays["images"] = arrays["images"].astype(np.float64)


def noted(arrays, about):
    about["notes"] = json.dumps(["n" * 201])


def hurried(arrays, about):
    about["seconds"] = "-1.0"


FORGED = {
    "its attack left its budget: linf distance": put("images", 0.5),
    "its attack left the box [0, 1] by 8, at image 3": put("images", 9.0),
    "its attack left the box [0, 1] by 0.01, at image 3": put("images", -0.01),
    "its attack returned a value that is not finite, at image 3": put("images", np.nan),
    "its images are not (128, 1, 8, 8) numbers of type float32": doubled,
    "its passes are not 128 counts each": put("forwards", -1),
    "what it took is not a time, notes and a batch": noted,
    "what it took is not": hurried,
}


@pytest.mark.parametrize("why", FORGED)
def test_a_chunk_that_no_attack_makes_does_not_count(done, tmp_path, why, caplog):
    (path, *_) = sorted((done[0] / "store").glob("attack/*/000000-*"))
    copy = tmp_path / path.parent.name / path.name
    copy.parent.mkdir()
    shutil.copyfile(path, copy)
    assert read_chunk(copy, small.images()[:128], small.THREAT) is not None
    forge(copy, FORGED[why])
    assert read_chunk(copy, small.images()[:128], small.THREAT) is None
    assert f"{copy} does not count and is made again: {why}" in caplog.text


@pytest.mark.parametrize("unfinished", [False, True])
def test_forged_adversarial_images_are_made_again(done, tmp_path, capfd, unfinished):
    """Those of a suite too, whose later attacks go on from the earlier ones."""
    text = small.ONE.replace('name = "small"', 'name = "small"\nworst_case = true')
    text += '[[attacks]]\nuse = "pgd"\neps = "0.1"\nsteps = 2\n'
    assert small.run(tmp_path, text=text) == 0
    outcome = small.outcome(tmp_path)
    victims = sorted((tmp_path / "store").glob("attack/*/*.safetensors"))
    for path in victims:
        forge(path, put("images", 0.5))
    if unfinished:
        for path in (tmp_path / "store").glob("cells/*.json"):
            path.unlink()
    capfd.readouterr()
    assert small.run(tmp_path, text=text) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if "does not count" in line]
    assert sorted(line.partition("warning: ")[2].split()[0] for line in warnings) == sorted(map(str, victims))
    assert len(victims) == 2 and small.outcome(tmp_path) == outcome


def test_images_are_allowed_or_not_whether_tensors_or_arrays():
    """Against each rule written out image by image in double precision."""
    draws = np.random.default_rng(0)
    bounded = [("linf", "1/4"), ("l2", "2"), ("l1", 12), ("flow", "1/4")]
    for norm, eps in [*bounded, ("linf", None), ("l2", None)]:
        threat, seen = Threat(norm=norm, eps=eps), set()
        for radius in (0.24, 0.26):
            x = draws.uniform(0.3, 0.7, (5, 3, 4, 4)).astype(np.float32)
            # 48 pixels moved by as much are an L2 distance of sqrt(48) times that.
            step = radius if norm != "l2" else radius * 8 / 48**0.5
            # The third image is moved the farthest.
            steps = step * np.array([0.5, 0.9, 1, 0.8, 0])[:, None, None, None]
            x_adv = (x + steps * draws.choice([-1, 1], x.shape)).astype(np.float32)
            moved = np.abs(x_adv.astype(np.float64) - x).reshape(5, -1)
            distances = {"linf": moved.max(1), "l2": np.sqrt((moved**2).sum(1)), "l1": moved.sum(1)}.get(norm)
            said = broken_rule(x_adv, x, threat)
            assert said == broken_rule(torch.from_numpy(x_adv), torch.from_numpy(x), threat)
            assert (said is None) == (eps is None or distances is None or distances.max() <= float(threat.eps) + 1e-5)
            assert said is None or said.endswith("at image 2")
            seen.add(said is None)
        assert seen == ({True, False} if norm != "flow" and eps is not None else {True})


def test_changed_values_are_counted_exactly():
    x = np.full((3, 3, 4, 4), 0.5, np.float32)
    x_adv = x.copy()
    x_adv[1, :, 0, 0] = 0.75
    for images in (x_adv, torch.from_numpy(x_adv)):
        clean = torch.from_numpy(x) if isinstance(images, torch.Tensor) else x
        assert broken_rule(images, clean, Threat(norm="l0", eps=3)) is None
        why = broken_rule(images, clean, Threat(norm="l0", eps=2))
        assert why == "left its budget: l0 distance 3 above eps 2, at image 1"


def test_damaged_images_are_not_shown(done, tmp_path, caplog):
    shutil.copytree(done[0] / "store", tmp_path / "store")
    store = Store(tmp_path / "store")
    assert len(samples(store.results(), store)) > 2
    for path in store.root.glob("attack/*/000000-*.safetensors"):
        flip(path)
    assert samples(store.results(), store) == {}
    assert "is not shown" in caplog.text


def test_records_are_hashed_once_and_after_a_copy(done, tmp_path, monkeypatch):
    shutil.copytree(done[0] / "store", tmp_path / "store")
    hashed = []
    monkeypatch.setattr(
        files, "file_sha256", lambda path, limit, real=files.file_sha256: hashed.append(path) or real(path, limit)
    )
    cells = make(sections.load(small.write(tmp_path))).plan.cells

    def look(**options):
        hashed.clear()
        store = Store(tmp_path / "store", **options)
        assert all(store.finished(planned) for planned in cells)
        store.remember()
        return len(hashed)

    assert look() == len(cells), "a copy has other times"
    assert look() == 0
    assert look(trusting=False) == len(cells)
    cut(tmp_path / "store" / "verified.json")
    assert look() == len(cells)
    assert look() == 0


def test_what_a_disk_does_behind_its_times_is_found_by_verify(done, tmp_path, caplog):
    folder, outcome = done
    shutil.copytree(folder / "store", tmp_path / "store")
    store = Store(tmp_path / "store")
    victim = min(store.root.glob("records/*.parquet"))
    flip(victim)
    # As if the file had had these times when it was hashed.
    store.known.note(store.name(victim), victim, store.get(victim.stem).records_sha)
    store.remember()
    assert small.run(tmp_path) == 0
    assert not caplog.records
    assert small.run(tmp_path, "--verify", "1%") == 0
    assert f"{victim} does not count" in caplog.text
    assert small.outcome(tmp_path) == outcome


def test_damage_is_said_in_one_line_each(done, tmp_path, capfd):
    shutil.copytree(done[0] / "store", tmp_path / "store")
    (card,) = (tmp_path / "store").glob("train/*/card.json")
    record = min((tmp_path / "store").glob("records/*.parquet"))
    dearer(card)
    flip(record)
    capfd.readouterr()
    assert small.run(tmp_path) == 0
    warnings = [
        line.partition("warning: ")[2] for line in capfd.readouterr().err.splitlines() if "does not count" in line
    ]
    assert sorted(line.partition(" does not")[0] for line in warnings) == sorted(map(str, (card, record)))
    logged = {event["message"] for event in small.events(tmp_path, "warning")}
    assert sorted(logged) == sorted(warnings)
    assert small.run(tmp_path) == 0
    assert "does not count" not in capfd.readouterr().err


def test_a_damaged_card_is_said_and_mended_although_no_cell_needs_it(done, tmp_path, caplog, capsys):
    folder, outcome = done
    shutil.copytree(folder / "store", tmp_path / "store")
    (card,) = (tmp_path / "store").glob("train/*/card.json")
    dearer(card)
    name = next(name for name in outcome if isinstance(name, str) and "/clean/" in name)
    show = ["show", name, "--store", str(tmp_path / "store")]
    assert main(show) == 0
    assert str(card) in caplog.text and "overfitting of the network" not in capsys.readouterr().out
    caplog.clear()
    assert small.run(tmp_path) == 0
    warned = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
    assert [text.partition(" does")[0] for text in warned] == [str(card)]
    assert len(small.events(tmp_path, "trained")) == 2
    capsys.readouterr()
    assert main(show) == 0
    assert "overfitting of the network" in capsys.readouterr().out


def test_a_sealed_document_is_read_only_whole():
    data = sealed({"message": "the loss is not finite"})
    assert unsealed(data) == {"message": "the loss is not finite"}
    for damaged in (b"", data[:-9], data.replace(b"not", b"now"), b"[]", b"\xff", b'{"message":"x"}'):
        with pytest.raises(ValueError):
            unsealed(damaged)


def stop_in_training(folder):
    """Run, and end in the second epoch, with a state to resume from."""
    looks = iter(range(4))

    def stop_check():
        if next(looks, None) is None:
            raise Ending

    work = make(sections.load(small.write(folder)))
    with pytest.raises(Ending):
        Runner(work, Store(folder / "store"), torch.device("cpu"), None, stop_check, Silent()).run()


class Silent:
    def cells(self, *_):
        pass

    def work(self, *_):
        pass


def test_altered_answers_among_records_are_not_taken(done, tmp_path, caplog):
    folder, outcome = done
    shutil.copytree(folder / "store", tmp_path / "store")
    results = {str(result.names): result for result in Store(tmp_path / "store").results()}
    for name, result in results.items():
        path = Store(tmp_path / "store").records(result.key)
        if "/clean/" in name:
            table = pq.ParquetFile(path).metadata.row_group(0).column(3)
            data = bytearray(path.read_bytes())
            data[table.dictionary_page_offset + table.total_compressed_size - 1] ^= 1
            path.write_bytes(data)
        else:
            Store(tmp_path / "store").cell_file(result.key).unlink()
    assert small.run(tmp_path) == 0
    assert any("does not count" in record.getMessage() for record in caplog.records)
    again = {str(result.names): result.metrics for result in Store(tmp_path / "store").results()}
    assert again == {name: result.metrics for name, result in results.items()}


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_state_trains_again(done, tmp_path, caplog, damage):
    _, outcome = done
    stop_in_training(tmp_path)
    (state,) = (tmp_path / "store").glob("train/*/state.safetensors")
    damage(state)
    assert small.run(tmp_path) == 0
    assert any("training begins again" in record.getMessage() for record in caplog.records)
    assert small.outcome(tmp_path) == outcome


def test_records_that_are_gone_are_measured_again(done, tmp_path):
    folder, outcome = done
    shutil.copytree(folder / "store", tmp_path / "store")
    for path in (tmp_path / "store" / "records").iterdir():
        path.unlink()
    assert small.run(tmp_path) == 0
    assert small.outcome(tmp_path) == outcome


def test_a_run_that_grows_chunk_by_chunk_and_is_interrupted_ends_with_the_same_results(
    done, tmp_path, capsys, monkeypatch
):
    folder, outcome = done
    store, whole = Store(tmp_path / "store"), Store(folder / "store")
    shutil.copytree(whole.root / "train", store.root / "train")
    grown, count = Measure.outcomes, iter(range(5))

    def ending(*args):
        if next(count) == 4:
            raise Ending
        return grown(*args)

    with monkeypatch.context() as patched:
        patched.setattr(Measure, "outcomes", ending)
        work = make(sections.load(small.write(tmp_path)))
        with pytest.raises(Ending):
            Runner(work, store, torch.device("cpu"), None, lambda: None, Silent(), anytime=True).run()
    begun = list(partial.read(store))
    assert [each.n for each in begun] == [128] * 4
    for each in begun:
        assert each.robust_outcomes == whole.get(each.key).robust_outcomes.first(128)
    assert main(["leaderboard", "--store", str(store.root)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 begun" in said and "the first 128 of 140 images" in said
    assert small.run(tmp_path, "--time-budget", "9m") == 0
    assert small.outcome(tmp_path) == outcome
    assert not list(partial.read(store))
    assert len(small.events(tmp_path, "grown")) == 6, "each attacked cell once; the last chunk is the whole cell"
