"""Results made by somebody else, with a right checksum and wrong values: one line that says where, and never more."""

import base64
import copy
import gzip
import json
import os
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest

from bench.cli import main
from bench.keys import canonical_json, sha256_hex
from bench.outcomes import Outcomes
from bench.report.comparison.compare import compare
from bench.report.leaderboard.summaries import Value
from bench.report.leaderboard.tables import build
from bench.report.render import text
from bench.store import files, history, reading
from bench.store.reading import SharedParts, read_result
from bench.types import UsageError, jsonable
from tests.report.fabricate import result, stored, story

ROOT = Path(__file__).parents[2]
HEAD = b'{"format":"crossfire-run","schema":1}\n'
BODY = jsonable(result(clean=[True, True, False, True], adversarial=[True, False, False, True]))


def sealed(body):
    """Return a result as a line, with a right checksum whatever it says."""
    dump = dict(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    text = json.dumps(body, **dump).encode("utf-8", "surrogatepass")
    return json.dumps({**body, "sha256": sha256_hex(text)}, **dump).encode("utf-8", "surrogatepass")


def changed(path, value):
    """Return the body of a result with another value at a dotted path."""
    body = copy.deepcopy(BODY)
    *folders, last = path.split(".")
    inner = body
    for name in folders:
        inner = inner[name]
    inner[last] = value
    return body


def test_what_is_not_changed_is_read():
    assert read_result(sealed(BODY)) == result(clean=[True, True, False, True], adversarial=[True, False, False, True])


def test_results_that_share_parts_are_what_each_is_alone():
    many = [
        result(f"defense-{row}", clean=[True] * 4, recipe=f"recipe-{row}", step="jpeg", attack_params={"steps": steps})
        for row in range(2)
        for steps in range(1, 6)
    ]
    lines = [sealed(jsonable(r)) for r in many]
    shared = SharedParts()
    read = [read_result(line, shared=shared) for line in lines]
    assert read == many == [read_result(line) for line in lines]
    for part, count in (("data", 1), ("model", 2), ("step", 1)):
        for cells in ([r.cell for r in read], [r.cell.attack for r in read]):
            assert len({id(getattr(cell, part)) for cell in cells}) == count
    assert len({id(r.cell.attack.attack) for r in read}) == 5


def test_parts_that_are_equal_to_python_alone_are_not_shared():
    shared = SharedParts()
    values = [1, 1.0, True, "1", 0, 0.0, False, -0.0, None]
    lines = [sealed(changed("cell.attack.attack.params", {"x": value})) for value in values]
    read = [read_result(line, shared=shared).cell.attack.attack.params["x"] for line in lines]
    assert list(map(repr, read)) == list(map(repr, values))


def test_results_that_differ_in_their_time_alone_keep_it():
    shared = SharedParts()
    times = [f"2026-11-22T10:00:0{second}+00:00" for second in range(3)]
    lines = [sealed(changed("provenance.finished", time)) for time in times]
    provenances = [read_result(line, shared=shared).provenance for line in lines]
    assert [each.finished for each in provenances] == times
    assert len({id(each.packages) for each in provenances}) == 1
    assert jsonable(provenances[0]) == BODY["provenance"] | {"finished": times[0]}


HOSTILE = [
    # outcomes
    ("clean_bits", "AA==", "clean_accuracy = 0.75, but 0 of 4 outcomes are right"),
    ("adversarial_bits", Outcomes.of([True] * 4).encode(), "accuracy_under_attack = 0.5, but 4 of 4"),
    ("adversarial_bits", Outcomes.of([False, True, True, False]).encode(), "robust_accuracy = 0.5, but 1 of 4"),
    ("clean_bits", "", "0 bytes cannot hold exactly 4 outcomes"),
    ("clean_bits", base64.b64encode(bytes(99)).decode(), "99 bytes cannot hold exactly 4 outcomes"),
    ("clean_bits", "####", "not base64"),
    ("clean_bits", "ä", "not base64"),
    ("clean_bits", base64.b64encode(b"\xdf").decode(), "more than 4 outcomes"),
    ("clean_bits", 7, "clean_bits: Input should be a valid string"),
    # counts and numbers
    ("cell.data.n", 10**9, "cell.data.n: Input should be less than or equal to 50000000"),
    ("cell.data.n", -4, "cell.data.n: "),
    ("cell.data.n", 4.0, "cell.data.n: "),
    ("cell.data.n", True, "cell.data.n: "),
    ("cell.data.n", "4", "cell.data.n: "),
    ("cell.data.num_classes", 0, "cell.data.num_classes: "),
    ("cell.data.image_shape", [3, 32], "cell.data.image_shape"),
    ("cell.data.image_shape", [3, 32, 10**9], "cell.data.image_shape"),
    ("cell.seed", 10**30, "cell.seed: "),
    ("metrics.n", 5, "metrics of 5 images in a cell of 4"),
    ("metrics.clean_accuracy", 1.5, "metrics.clean_accuracy: "),
    ("metrics.clean_accuracy", float("nan"), "it is no JSON"),
    ("metrics.mean_l2", float("inf"), "it is no JSON"),
    ("metrics.mean_l2", -1.0, "metrics.mean_l2: "),
    ("metrics.robust_accuracy", 0.6, "robust_accuracy is above"),
    ("metrics.ci_low", 0.9, "accuracy_under_attack is not between ci_low and ci_high"),
    ("metrics.ci_low", None, "some are there and some are not"),
    ("metrics.robust_worst", 0.9, "robust_worst is above"),
    ("cost.flops_per_example", 1e308, "cost.flops_per_example: "),
    ("cost.seconds_per_example", -1.0, "cost.seconds_per_example: "),
    ("defense_cost.params", -1, "defense_cost.params: "),
    ("defense_cost.test_flops", 1e308, "defense_cost.test_flops: "),
    ("cell.attack.threat.eps", "1e99999999", "cell.attack.threat.eps: "),
    ("cell.attack.threat.eps", "1e-99999999", "cell.attack.threat.eps: "),
    ("cell.attack.threat.eps", "9" * 5000, "cell.attack.threat.eps: "),
    ("cell.attack.threat.eps", "8/0", "cell.attack.threat.eps: "),
    ("cell.attack.threat.eps", -1, "negative"),
    ("cell.attack.threat", {"eps": "1e200", "norm": "l2"}, "above 1,000,000"),
    ("cell.attack.attack.params", {"steps": 10**30}, "'steps' = 1000"),
    ("cell.attack.attack.params", {"steps": [1]}, "cell.attack.attack.params.steps"),
    ("cell.attack.attack.params", {"s": "x" * 20_000}, "out of bounds"),
    ("cell.attack.attack.params", {f"p{i}": i for i in range(100_000)}, "cell.attack.attack.params: "),
    ("cell.attack.eot", 0, "cell.attack.eot: "),
    ("cell.attack.data.n", 5, "the attacked images are not those of the cell"),
    ("cell.model.weights.schedule.epochs", -1, "cell.model.weights.TrainRef.schedule.epochs: "),
    ("cell.model.weights.schedule.lr", 1e308, "cell.model.weights.TrainRef.schedule.lr: "),
    # words
    ("names.defense", "x" * 100_000, "names.defense: "),
    ("names.access", "adaptive", "it is called adaptive and was measured white-box"),
    ("names.access", "god-mode", "names.access: "),
    ("names.attack", "\ud800", ""),
    ("status", "perhaps", "status: "),
    ("status", "failed", "it is failed and has metrics"),
    ("metrics", None, "it is done and has no metrics"),
    ("error", {"kind": "E", "message": "m", "traceback": "t"}, "it is done and has no metrics, or an error"),
    ("key", "../../etc/passwd", "key: "),
    ("key", BODY["key"] + "\n", "key: "),
    ("records_sha", "0", "records_sha: "),
    ("flags", [f"flag-{i}" for i in range(5000)], "flags: "),
    ("flags", ["x" * 1000], "flags.0: "),
    ("flags", {"a": 1}, "flags: "),
    ("provenance.finished", "yesterday", "is not a time"),
    ("provenance.finished", "2026-02-30T10:00:00+00:00", "provenance.finished: "),
    ("provenance.packages", {f"p{i}": "1" for i in range(5000)}, "provenance.packages: "),
    ("provenance.threads", -1, "provenance.threads: "),
    ("extra", 1, "extra: "),
    ("cell", None, "cell: "),
    ("cell.model", [], "cell.model: "),
    ("provenance", "here", "provenance: "),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "message"), HOSTILE, ids=[f"{i}-{each[0]}" for i, each in enumerate(HOSTILE)]
)
def test_a_value_that_is_none_is_one_line_with_its_row_and_place(tmp_path, capsys, path, value, message):
    file = tmp_path / "run.json"
    good = sealed(jsonable(result("other", clean=[True] * 4)))
    file.write_bytes(HEAD + good + b"\n" + sealed(changed(path, value)) + b"\n")
    assert main(["leaderboard", "--store", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {file}, line 3: ") and message in said.err and said.err.count("\n") == 1
    assert len(said.err) < 2500


MINIMAL = jsonable(result(clean=[True, True, False, True], norm="l2", distances=[0.5, float("inf"), 0.0, 16.0]))


def distances(*values):
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (MINIMAL | {"distances": distances(0.5, np.inf, np.nan, 1)}, "negative or no number"),
        (MINIMAL | {"distances": distances(0.5, np.inf, -1, 1)}, "negative or no number"),
        (MINIMAL | {"distances": distances(0.5, np.inf, 0)}, "12 bytes are not exactly 4 distances"),
        (MINIMAL | {"distances": "####"}, "distances that are not base64"),
        (MINIMAL | {"distances": "A" * 6_000_001}, "distances: String should have at most 6000000 characters"),
        (MINIMAL | {"distances": 7}, "distances: "),
        (MINIMAL | {"distances": distances(0.5, 1, 0, 1)}, "distances are finite for other images"),
        (MINIMAL | {"distances": distances(0.5, np.inf, 0, 16.1)}, "an image is 16.1 away in l2"),
        (MINIMAL | {"adversarial_bits": None}, "distances without outcomes under attack"),
        (BODY | {"distances": distances(1, 1, 1, 1)}, "distances, but no attack that minimises a norm"),
        (
            {
                **jsonable(result(clean=[True] * 4, norm="l0", distances=[1, 2, 3, 4])),
                "distances": distances(1, 2, 3, 4.5),
            },
            "an L0 distance is no whole number",
        ),
    ],
)
def test_distances_that_no_attack_found_are_one_line(tmp_path, capsys, body, message):
    file = tmp_path / "run.json"
    file.write_bytes(HEAD + sealed(body) + b"\n")
    assert main(["leaderboard", "--store", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}, line 2: ") and message in said
    assert said.count("\n") == 1 and len(said) < 2500


def test_of_thousands_of_errors_none_is_spelled_out():
    with pytest.raises(ValueError, match="^5,000 values are wrong or do not belong there$"):
        read_result(sealed(BODY | {f"x{i}": i for i in range(5000)}))


def test_a_suite_of_thousands_is_refused():
    earlier = {"attack": BODY["cell"]["attack"]["attack"], "eot": 1}
    with pytest.raises(ValueError, match="cell.attack.after: "):
        read_result(sealed(changed("cell.attack.after", [earlier] * 5000)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"schema":1', b'"schema":1,"schema":1'),
        (b'"seed":0', b'"seed":1,"seed":0'),
        (b'"packages":{', b'"packages":{"a\\\\":"1","a\\\\":"1",'),
        (b'"n":4', b'"n" :4'),
        (b'"mean_l2":0.8', b'"mean_l2":1e400'),
        (b'"mean_l2":0.8', b'"mean_l2":Infinity'),
        (b'"params":{"rule":', b'"params":{"deep":' + b"[" * 5000 + b"]" * 5000 + b',"rule":'),
        (b'"params":{"rule":', b'"params":{"wide":[' + b"[]," * 200_000 + b'[]],"rule":'),
        (b'"params":{"rule":', b'"params":{"digits":' + b"9" * 5000 + b',"rule":'),
        (b'"pgd"', b'"pg\xff"'),
    ],
)
def test_text_that_crossfire_does_not_write_is_refused(old, new):
    body = canonical_json(BODY).encode().replace(old, new, 1)
    line = body.replace(b'"schema":1', b'"schema":1,"sha256":"' + sha256_hex(body).encode() + b'"', 1)
    with pytest.raises(ValueError) as error:
        read_result(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no run file"),
        (b"\x00\xff\xfe" * 99, "is no run file"),
        (b"[" * 100_000, "is no run file"),
        (b"\n" * 1_000_000, "is no run file"),
        (gzip.compress(HEAD, mtime=0), "it is compressed"),
        (b"\xef\xbb\xbf" + HEAD, "byte order mark"),
        (HEAD.decode().encode("utf-16"), "UTF-16"),
        (b'{"format":"crossfire-run","schema":"1"}\n', "has schema '1'"),
        (b'{"format":"crossfire-run","schema":true}\n', "line 1: "),
        (b'{"format":"crossfire-run","schema":0}\n', "line 1: "),
        (b'{"format":"crossfire-run","schema":1,"asked":7}\n', "line 1: what was asked for is damaged: asked: "),
        (b'{"format":"crossfire-run","schema":1,"more":7}\n', "line 1: "),
        (HEAD + b"\n" * 1_000_000, "line 2: the result was cut short"),
        (HEAD + b"null\n", "line 2: the result was cut short"),
        (HEAD + sealed(BODY) + b"\n" + sealed(BODY) + b"\n", "line 3: the key of a line before it"),
        (HEAD + b"x" * (reading.MAX_RESULT + 1), "line 2: the result has 20,000,001 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_files_that_are_no_run_files_are_one_line(tmp_path, capsys, data, message):
    (tmp_path / "file.json").write_bytes(data)
    for words in (["leaderboard", "--store"], ["compare", str(stored(tmp_path / "store", story(10)).root)]):
        assert main([*words, str(tmp_path / "file.json")]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


@pytest.mark.parametrize("table", [
    {"plan": "p", "table": "../../x", "dataset": "d", "model": "m", "n": 4, "cells": {}},
    {"plan": "p", "table": "0" * 16, "dataset": "d", "model": "m", "n": 10**9, "cells": {}},
    {"plan": "p", "table": "0" * 16, "dataset": "d", "model": "m", "n": 4, "cells": {"a": {"b": "no key"}}},
    {"plan": "p" * 10_000, "table": "0" * 16, "dataset": "d", "model": "m", "n": 4, "cells": {}},
])  # fmt: skip
def test_plans_with_absurd_contents_are_refused(tmp_path, table):
    head = json.dumps({"format": "crossfire-run", "schema": 1, "asked": [table]}).encode()
    (tmp_path / "file.json").write_bytes(head + b"\n" + sealed(BODY) + b"\n")
    with pytest.raises(UsageError, match="line 1: what was asked for is damaged: asked.0"):
        history.read(tmp_path / "file.json")


def test_lines_of_windows_and_lines_within_names_are_read(tmp_path):
    odd = result("split\u2028defense\x85", recipe="other", clean=[True] * 4)
    data = HEAD + sealed(BODY) + b"\n" + sealed(jsonable(odd)) + b"\n"
    (tmp_path / "file.json").write_bytes(data.replace(b"\n", b"\r\n"))
    assert [r.names.defense for r in history.read(tmp_path / "file.json").results] == ["standard", odd.names.defense]


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "file.json").open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(UsageError, match="has 104,857,600 bytes, and at most 99,614,720 are read"):
        history.read(tmp_path / "file.json")


def test_what_is_no_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="not a file"):
            files.read(path, 100)
    with pytest.raises(UsageError, match="no commit, run file or store"):
        history.read(str(tmp_path / "pipe"))
    with pytest.raises(UsageError, match="no commit, run file or store"):
        history.read("x" * 5000)


def test_one_bad_result_of_a_store_is_a_warning(tmp_path, capsys):
    store = stored(tmp_path / "store", story(10))
    some = min((store.root / "cells").glob("*.json"))
    body = json.loads(some.read_text())
    del body["sha256"]
    some.write_bytes(sealed({**body, "flags": ["f"] * 1000}))
    assert main(["leaderboard", "--store", str(store.root), "--format", "md"]) == 0
    said = capsys.readouterr()
    assert f"1 damaged result files in {store.root} are left out: {some.stem[:12]}" in said.err
    assert "standard" in said.out


def test_footnotes_never_run_out():
    names = [text._letter(index) for index in range(20_000)]
    assert names[:28] == [*ascii_lowercase, "aa", "ab"] and names[701:704] == ["zz", "aaa", "aab"]
    assert len(set(names)) == len(names)


def test_letters_of_many_footnotes_are_told_apart():
    marks = {f"mark {index}": text._letter(index) for index in range(30)}
    assert text.letters(Value(0.5, footnotes=("mark 0", "mark 1", "mark 27")), marks) == "a,b,ab"
    few = {"one": "a", "two": "b"}
    assert text.letters(Value(0.5, footnotes=("one", "two")), few) == "ab"


def test_the_letters_of_a_number_are_in_the_order_of_the_alphabet():
    legend = {"one": "a", "two": "b", "three": "c"}
    assert text.letters(Value(0.5, footnotes=("three", "one", "two")), legend) == "abc"


def test_thousands_of_flags_have_footnotes_in_every_format(tmp_path, capsys):
    cells = [
        result("standard", f"attack-{i}", clean=[True], flags=tuple(f"flag-{i}-{j}" for j in range(100)))
        for i in range(9)
    ]
    (tmp_path / "run.json").write_text(history.serialise(cells))
    for kind in ("md", "tex", "csv", "json", "html"):
        assert main(["leaderboard", "--store", str(tmp_path / "run.json"), "--format", kind]) == 0
        assert "flag-8-99" in capsys.readouterr().out


def test_times_that_no_clock_measures_are_not_compared():
    none, some, long = (
        result(clean=[True], seconds=s, commit=c * 40) for s, c in ((5e-324, "a"), (1.0, "b"), (1e12, "c"))
    )
    assert compare(history.Recorded("a", [none]), history.Recorded("c", [long])).times == ()
    assert compare(history.Recorded("b", [some]), history.Recorded("c", [long])).times[0].ratio == pytest.approx(1e12)


def test_one_key_of_two_cells_is_one_cell():
    first, second = result(clean=[True]), result(attack="fgsm", clean=[True])
    twice = [first, second.model_copy(update={"key": first.key})]
    assert len(build(twice).results) == 1
    assert compare(history.Recorded("a", twice), history.Recorded("b", [first])).base == "a"


def test_every_kept_result_is_read():
    kept = [path for path in (ROOT / "results").rglob("*.json") if b'"crossfire-run"' in path.read_bytes()[:10_000]]
    assert len(kept) >= 5
    for path in kept:
        assert len(history.read(path).results) == path.read_bytes().count(b"\n") - 1


def test_recording_onto_what_is_no_run_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "source", lambda: ("b" * 40, False))
    path = history.write_run(story(10), tmp_path)
    path.write_bytes(b"\xff" * 10)
    with pytest.raises(UsageError, match="is no run file"):
        history.write_run(story(10), tmp_path)
    assert path.read_bytes() == b"\xff" * 10
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="not a file"):
        history.write_run(story(10), tmp_path)


@pytest.mark.parametrize("text", [":memory:", ":", '":', '\\":', ':":', "::", '",":', "{'a':1}", '{"a":1}'])
def test_texts_that_look_like_keys_are_texts(text):
    """Also those that begin with a colon, as messages of errors do."""
    body = {**BODY, "flags": [text], "names": {**BODY["names"], "defense": text}}
    body["cell"] = copy.deepcopy(BODY["cell"])
    body["cell"]["attack"]["attack"]["params"] = {text: text}
    assert read_result(sealed(body)).flags == (text,)
    twice = canonical_json(body).encode().replace(b'"seed":0', b'"seed":1,"seed":0', 1)
    line = twice.replace(b'"schema":1', b'"schema":1,"sha256":"' + sha256_hex(twice).encode() + b'"', 1)
    with pytest.raises(ValueError, match="has a key twice"):
        read_result(line)


def test_of_very_many_bad_results_the_first_are_named(tmp_path, capsys):
    store = stored(tmp_path / "store", story(10))
    for number in range(300):
        (store.root / "cells" / f"{number:064x}.json").touch()
    assert main(["leaderboard", "--store", str(store.root), "--format", "md"]) == 0
    said = capsys.readouterr().err
    assert said.count("does not count") == 100 and said.count("further results that do not count are not named") == 1
    assert "300 damaged result files" in said
