"""Results files made by somebody else, with right checksums: each command ends with 0, 1, or one line and 2."""

import contextlib
import copy
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cli import main
from bench.keys import sha256_hex
from bench.report.frame import load_results
from bench.types import jsonable
from tests.fuzz import cases
from tests.report.fabricate import result, story

FORMATS = ("terminal", "md", "csv", "tex", "html", "json", "robustbench", "paper", "text")


def line_of(body):
    """Return the body of a result as a line with a right checksum, or what it is instead."""
    dump = dict(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if not isinstance(body, dict):
        return json.dumps(body, **dump).encode("utf-8", "surrogatepass")
    text = json.dumps(body, **dump).encode("utf-8", "surrogatepass")
    return json.dumps({**body, "sha256": sha256_hex(text)}, **dump).encode("utf-8", "surrogatepass")


def written(path, bodies, head=None):
    head = {"format": "crossfire-run", "schema": 1} if head is None else head
    path.write_bytes(
        b"\n".join([line_of(head) if not isinstance(head, dict) else json.dumps(head).encode(), *map(line_of, bodies)])
        + b"\n"
    )
    return str(path)


def outcome(words, *, lines=True):
    """Return the exit code of a command, whose error is one line."""
    out, errors = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(words)
    assert code in (0, 1, 2), words
    assert code != 2 or errors.getvalue().count("\n") == 1 or not lines, errors.getvalue()
    return code


def commands(form, path, other):
    """Yield what reads a file, in one of its formats."""
    if form == "terminal":
        yield ["leaderboard", "--store", path]
        yield ["leaderboard", "--store", path, "--eps", "0,1/2,8/255"]
    elif form == "paper":
        yield ["leaderboard", "--store", path, "--paper"]
    elif form != "text":
        yield ["leaderboard", "--store", path, "--format", form]
    kind = form if form in ("text", "md", "json") else "text"
    yield ["compare", path, other, "--format", kind]
    yield ["compare", other, path, "--format", kind]


def paths(value, path=()):
    """Yield the path of every value in a JSON document, from the outside in."""
    yield path
    if not isinstance(value, dict | list):
        return
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield from paths(each, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


TEXTS = (
    "",
    " ",
    "\0",
    "a\nb\r\n",
    "\x1b[2J\x07",
    "\u202e\u2028",
    "\ud800",
    "<script>alert(1)</script>",
    "$\\frac{$_^",
    "|`*[](x)~",
    "=cmd|' /C calc'!A0",
    "{}{{%s}}%(x)s",
    "\N{PILE OF POO}e\u0301",
    "x" * 300,
    "x[a=1,b=2]",
    "x[",
    "]@",
    "/",
    "../..",
    "clean",
    "None",
)
NUMBERS = (
    0,
    -1,
    1,
    2,
    8,
    10**9,
    2**63,
    2**64,
    -(2**70),
    10**400,
    0.5,
    -0.0,
    5e-324,
    1e-5,
    1e30,
    1e308,
    float("nan"),
    float("inf"),
)
OTHERS = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"a": 1},
    [None] * 50,
    "8/255",
    "1e99999999",
    "1/0",
    "-1/2",
    "9" * 200,
    "AA==",
    "/w==",
    "####",
    "2026-11-22T10:00:00+00:00",
    "2026-02-31T10:00:00+00:00",
    "yesterday",
    "done",
    "failed",
    "adaptive",
    "l2",
    "wasserstein",
    "0" * 64,
    {f"k{i}": i for i in range(2000)},
    [f"flag-{i}" for i in range(200)],
    json.loads("[" * 150 + "]" * 150),
)

BASE = [
    jsonable(r)
    for r in [
        *story(16)[:9],
        result("standard", "fgsm", clean=[True] * 16, status="failed"),
        result("standard", "cw", clean=[True] * 16, norm="l2", distances=[0.5, float("inf")] * 8),
        result("tpap", "pgd", clean=[True] * 16, recipe="fgsm-at", step="tpap", access="transfer", eps="1/2"),
    ]
]

edits = st.lists(
    st.tuples(
        st.integers(0, len(BASE) - 1),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(("replace", "delete", "add", "copy")),
        st.sampled_from((*TEXTS, *NUMBERS, *OTHERS)) | st.text(max_size=5) | st.integers() | st.floats(),
    ),
    min_size=1,
    max_size=3,
)


def edited(bodies, changes):
    """Return results of which some values are others."""
    bodies = json.loads(json.dumps(bodies))
    for number, where, operation, value in changes:
        value = copy.deepcopy(value)
        all_places = list(paths(bodies[number]))
        path = all_places[int(where * len(all_places))]
        if operation == "copy":
            with contextlib.suppress(KeyError, IndexError, TypeError):
                value = at(bodies[number - 1], path)
        if not path:
            bodies[number] = value
        elif operation == "delete":
            del at(bodies[number], path[:-1])[path[-1]]
        elif operation == "add" and isinstance(at(bodies[number], path), dict):
            at(bodies[number], path)[str(value)[:99]] = value
        else:
            at(bodies[number], path[:-1])[path[-1]] = value
    return bodies


@pytest.fixture(scope="module")
def results_folder(tmp_path_factory):
    results_folder = tmp_path_factory.mktemp("results")
    written(results_folder / "other.json", BASE)
    return results_folder


@cases(0.4)
@given(changes=edits, form=st.sampled_from(FORMATS))
def test_altered_results_are_read_or_refused_in_one_line(folder, changes, form):
    path = written(folder / "altered.json", edited(BASE, changes))
    for words in commands(form, path, str(folder / "other.json")):
        outcome(words)


methods = st.sampled_from(
    ("standard", "pgd-at", "jpeg", "tpap", "noise", "pgd", "fgsm", "square", "cw", *TEXTS[6:]) + TEXTS[:6]
).map(lambda text: text.replace("\ud800", "\ufffd"))
shares = st.lists(st.booleans(), min_size=1, max_size=9)
params = st.dictionaries(
    st.sampled_from(("steps", "restarts", "queries", "rule", "preset", "eps", "beta", "")),
    st.sampled_from(
        (0, 1, 2, 20, 100, -1, 2**64, True, None, 0.5, 1e300, "any-iterate", "8/255", "1e-300", "tpap", "\n")
    ),
    max_size=4,
)


@st.composite
def odd(draw):
    """Return a result that is valid and like none that was measured."""
    clean, attack = draw(shares), draw(st.none() | methods)
    attacked = st.lists(st.booleans(), min_size=len(clean), max_size=len(clean))
    step = draw(st.none() | methods) or None
    if attack is None:
        access = "white-box" if step is None else "static"
    else:
        access = draw(
            st.sampled_from(("white-box", "transfer") if step is None else ("static", "adaptive", "transfer"))
        )
    cell_result = result(
        draw(methods),
        attack,
        clean=clean,
        adversarial=draw(attacked) if attack is not None else None,
        access=access,
        recipe=draw(methods),
        recipe_params=draw(params),
        step=step,
        step_params=draw(params),
        attack_params=draw(params),
        norm=(norm := draw(st.sampled_from(("linf", "l2", "wasserstein", "flow")))),
        eps=draw(st.sampled_from((None, 0, "8/255", 1, "1/2", "1e-300", *([10**6] if norm == "l2" else [])))),
        dataset=(dataset := draw(st.sampled_from(("digits", "cifar10", "folder:/no/where", "\n")))),
        image_shape=(3, 32, 32) if dataset == "cifar10" else (1, 16, 16),
        network=draw(st.sampled_from(("small-cnn", "resnet18", "$x"))),
        seed=draw(st.sampled_from((0, 1, -1, 2**64))),
        status=draw(st.sampled_from(("done", "done", "done", "failed"))),
        flags=tuple(
            draw(st.lists(st.sampled_from(("no-op", "zero-gradient", "randomised", "failed", *TEXTS[:6])), max_size=3))
        ),
        rows=draw(st.sampled_from(("first", "other"))),
        seconds=draw(st.sampled_from((0.0, 5e-324, 1.0, 1e12))),
        forwards=draw(st.sampled_from((0.0, 0.5, 20.0, 1e12))),
        version=draw(st.sampled_from((1, 2))),
        label=draw(st.none() | methods),
        epochs=draw(st.sampled_from((0, 24))),
        finished=draw(st.sampled_from(("1970-01-01T00:00:00+00:00", "2199-12-31T23:59:59.5+00:00"))),
    )
    body = jsonable(cell_result)
    lost = draw(st.sets(st.sampled_from(("clean_bits", "adversarial_bits", "cost", "defense_cost", "records_sha"))))
    body |= dict.fromkeys(lost)
    if body["defense_cost"]:
        extremes = st.sampled_from((0.0, 5e-324, 1e6, 1e30))
        body["defense_cost"] |= {"test_flops": draw(extremes), "train_flops_per_epoch": draw(st.none() | extremes)}
        body["defense_cost"] |= {
            "params": draw(st.sampled_from((0, 10**18))),
            "test_seconds": draw(st.sampled_from((0.0, 1e12))),
        }
    if body["cell"]["attack"] and draw(st.booleans()):
        earlier = {"attack": body["cell"]["attack"]["attack"], "eot": 2}
        body["cell"]["attack"]["after"] = [earlier] * draw(st.integers(1, 3))
    return body


def distinct(bodies):
    """Return results of which no two have one key."""
    unique = {}
    for number, body in enumerate(bodies):
        # What has another key is another cell, whatever it is made of.
        body = body if body["key"] not in unique else {**body, "key": sha256_hex(str(number))}
        unique[body["key"]] = body
    return list(unique.values())


several = st.lists(odd(), min_size=1, max_size=8).map(distinct)


@cases(0.4)
@given(bodies=several, form=st.sampled_from(FORMATS))
def test_results_like_none_that_was_measured_make_tables(folder, bodies, form):
    path = written(folder / "odd.json", bodies)
    for words in commands(form, path, str(folder / "other.json")):
        code = outcome(words)
        # Of few of them RobustBench has a leaderboard.
        # Not every budget was searched.
        assert words[0] == "compare" or form == "robustbench" or "--eps" in words or code == 0


@cases(0.008)
@given(bodies=several)
def test_results_like_none_that_was_measured_are_shown_drawn_and_framed(folder, bodies):
    root = Path(tempfile.mkdtemp(dir=folder))
    (root / "cells").mkdir()
    for body in bodies:
        (root / "cells" / f"{body['key']}.json").write_bytes(line_of(body))
    for body in bodies:
        assert outcome(["show", body["key"], "--store", str(root)]) == 0
        assert outcome(["show", str(body["key"]), "--json", "--store", str(root)]) == 0
    assert len(load_results(root)) >= 1
    assert outcome(["figures", "--store", str(root), "--out", str(root / "figures")], lines=False) == 0
    assert outcome(["leaderboard", "--paper", "--store", str(root), "--out", str(root / "paper")], lines=False) == 0


WHOLE = b"\n".join([b'{"format":"crossfire-run","schema":1}', *map(line_of, BASE)]) + b"\n"


@cases(0.2)
@given(
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=20)), min_size=1, max_size=4),
    form=st.sampled_from(FORMATS),
)
def test_altered_bytes_are_read_or_refused_in_one_line(folder, cuts, form):
    data = WHOLE
    for where, length, inserted in cuts:
        # Half of them in the first line.
        start = int(where * 2 * 40) if where < 0.5 else int((where - 0.5) * 2 * len(data))
        data = data[:start] + inserted + data[start + length :]
    (folder / "bytes.json").write_bytes(data)
    for words in commands(form, str(folder / "bytes.json"), str(folder / "other.json")):
        outcome(words)
