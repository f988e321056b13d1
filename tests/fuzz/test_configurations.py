"""Whatever a configuration, a flag or a method's file says: a plan, or one line."""

import copy
import re
import tomllib
from itertools import chain
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bench import registry
from bench.cli import options, parsers, progress
from bench.config import overlay, sections
from bench.schedule.plan import make
from bench.types import Schedule, UsageError
from tests.fuzz import cases, hostile

ROOT = Path(__file__).parents[2]
PRESETS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(overlay.PRESETS.glob("*.toml"))}
#: Those that take long to plan are left to the raw texts.
SMALL = [name for name in PRESETS if name not in ("paper", "adaptive") and "extends" not in PRESETS[name]]
DIGITS = {"name": "digits", "n": 20, "train_n": 20}


def planned(data, *variants):
    """Plan a configuration; what is wrong with it is one line and nothing else."""
    Path("t.toml").write_bytes(data if isinstance(data, bytes) else data.encode())
    try:
        request = sections.request("t.toml", dict(variants))
        work = make(*request.parts, name=request.name)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1 and 0 < len(str(error)) <= 2000
        assert "t.toml" in str(error)
        return None
    assert work.plan.cells
    return work


# Altered presets.


def nodes(value, path=()):
    """Yield the path of every table, list and value in a configuration."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(inside, (*path, key))


def holder(body, path):
    for key in path[:-1]:
        body = body[key]
    return body, path[-1]


def alter(draw, body):
    """Change one node of a configuration in place."""
    paths = list(nodes(body))
    if not paths:
        return
    inside, key = holder(body, draw(st.sampled_from(paths)))
    operation = draw(st.sampled_from(["replace", "replace", "delete", "duplicate", "rename", "insert", "wrap", "move"]))
    if operation == "replace":
        inside[key] = draw(hostile.values)
    elif operation == "delete":
        del inside[key]
    elif operation == "wrap":
        inside[key] = [inside[key]] if draw(st.booleans()) else {draw(st.sampled_from(hostile.NAMES)): inside[key]}
    elif operation == "move":
        inside[key] = copy.deepcopy(_at(body, draw(st.sampled_from(paths))))
    elif isinstance(inside, list):
        inside.insert(key, copy.deepcopy(inside[key]) if operation == "duplicate" else draw(hostile.values))
    else:
        name = draw(st.one_of(st.sampled_from(hostile.NAMES), st.sampled_from(sorted(KEYS)), st.text(max_size=6)))
        inside[name] = inside.pop(key) if operation == "rename" else draw(hostile.values)


def _at(body, path):
    inside, key = holder(body, path)
    return inside[key]


KEYS = {
    *sections.Config.model_fields,
    *sections.DatasetConfig.model_fields,
    *sections.RunConfig.model_fields,
    *sections.AttackConfig.model_fields,
    *sections.DefenseConfig.model_fields,
    *Schedule.model_fields,
    *("schema", "extends", "variants", "default", "include", "preset"),
}


@st.composite
def altered(draw):
    body = tomllib.loads(PRESETS[draw(st.sampled_from(SMALL))])
    if "include" not in body and draw(st.integers(0, 9)):
        body["dataset"] = {**DIGITS, **{key: body["dataset"][key] for key in ("subset",) if key in body["dataset"]}}
    variants = []
    for kind, names in body.get("variants", {}).items():
        variants += [(kind, name) for name in names if draw(st.integers(0, 3)) == 0]
    for _ in range(draw(st.integers(1, 2))):
        alter(draw, body)
    return hostile.document(body), variants


@cases(0.4)
@given(altered())
def test_an_altered_preset_is_planned_or_refused_in_one_line(drawn):
    text, variants = drawn
    planned(text, *variants)


# Configurations made from the models and the registry.


def parameters(entry):
    """Return a strategy of parameters that a method knows, with values that their types take."""
    properties = entry.parameters.model_json_schema().get("properties", {})
    return st.fixed_dictionaries({}, optional={name: of_schema(each) for name, each in properties.items()})


def of_schema(schema):
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    sound = st.one_of(*map(of_type, kinds))
    return st.one_of(sound, sound, st.lists(sound, min_size=1, max_size=2))


def of_type(schema):
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    low = int(schema.get("minimum", 0))
    return {
        "integer": st.integers(low, low + 3),
        "number": st.floats(0.015625, 0.5, width=16),
        "boolean": st.booleans(),
        "string": st.sampled_from(["8/255", "0.25"]),
    }.get(schema.get("type"), st.sampled_from(["8/255", 0.5]))


def tables(kinds, word, more):
    known_entries = chain.from_iterable(registry.entries(kind).values() for kind in kinds)
    entries = [entry for entry in known_entries if entry.available]

    def of(entry):
        known = st.tuples(parameters(entry), st.fixed_dictionaries({}, optional=more))
        name = "art:SquareAttack" if entry.kind == "library" else entry.name
        return known.map(lambda parts: {word: name, **parts[0], **parts[1]})

    return st.lists(st.sampled_from(entries).flatmap(of), min_size=1, max_size=2)


recipes = st.sampled_from(["standard", "fgsm-at", "pgd-at"])
schedules = st.fixed_dictionaries({}, optional={"epochs": st.integers(0, 9), "lr": st.just(0.5), "drops": st.just([])})
accesses = st.sampled_from([["static"], ["adaptive"], ["static", "adaptive"]])
attackers = {"eps": st.sampled_from(["8/255", 0.1, [0.1, "1/9"]]), "access": accesses, "eot": st.integers(1, 9)}
configurations = st.fixed_dictionaries(
    {
        "schema": st.just(1),
        "name": st.just("t"),
        "dataset": st.fixed_dictionaries(
            {key: st.just(value) for key, value in DIGITS.items()},
            optional={"subset": st.sampled_from(["first", "stratified"]), "image_size": st.sampled_from([8, [8, 16]])},
        ),
        "models": tables(["network"], "arch", {}),
        "defenses": st.one_of(
            tables(["recipe"], "use", {"train": schedules}),
            tables(["test-time"], "use", {"base": st.one_of(recipes, st.lists(recipes, min_size=1, max_size=2))}),
        ),
        "attacks": tables(["attack", "library"], "use", attackers),
    },
    optional={
        "seeds": st.lists(st.integers(0, 9), min_size=1, max_size=3),
        "worst_case": st.booleans(),
        "train": schedules,
        "attack": st.fixed_dictionaries({}, optional={"pgd": st.just({"steps": 3}), "eot": st.integers(1, 3)}),
        "run": st.fixed_dictionaries({}, optional={"batch": st.integers(1, 9), "timeout": st.sampled_from(["9m", 60])}),
        "variants": st.just({"scale": {"tiny": {"dataset": {"n": 10}}}}),
    },
)


@st.composite
def generated(draw):
    body = copy.deepcopy(draw(configurations))
    for _ in range(draw(st.integers(0, 2))):
        alter(draw, body)
    return hostile.document(body)


@cases(0.3)
@given(generated())
def test_a_configuration_from_the_models_is_planned_or_refused_in_one_line(text):
    planned(text)


def test_sound_configurations_are_mostly_planned():
    # Else the properties above would try a few early refusals again and again.
    outcomes = []

    @cases(0.1)
    @given(configurations)
    def plan(body):
        outcomes.append(planned(hostile.document(body)) is not None)

    plan()
    assert sum(outcomes) > len(outcomes) / 2


# Raw texts.


@st.composite
def damaged(draw):
    # Of digits, so that what stays sound is planned to the end.
    text = re.sub(
        '(?m)^name = "(cifar|svhn|tiny|caltech)[a-z0-9_]*"$',
        'name = "digits"',
        draw(st.sampled_from(sorted(PRESETS.values()))),
    )
    data = bytearray(re.sub(r"(?m)^(n|train_n) = [0-9_]+$", r"\1 = 20", text).encode())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 1, 5, 100, 10_000])))
        piece = st.one_of(
            st.binary(max_size=4),
            st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"'''", b"=", b".", b"\n", b"\r", b"\0", b"#", b"_"]),
            st.sampled_from([b"[" * 3000, b"a." * 3000, b"9" * 5000, b"\xff\xfe", b"\xef\xbb\xbf", b"inf", b"nan"]),
            hostile.values.map(lambda value: hostile.text(value).encode()),
        )
        data[start:end] = draw(piece)
    return bytes(data)


@cases(0.2)
@given(damaged())
def test_a_damaged_text_is_planned_or_refused_in_one_line(data):
    planned(data)


# The command line.

FLAGS = (
    "--n",
    "--seed",
    "--shard",
    "--only",
    "--epochs",
    "--time-budget",
    "--data",
    "--store",
    "--scale",
    "--protocol",
)
words = st.lists(
    st.tuples(
        st.sampled_from([*FLAGS, "--device", "--executor"]),
        st.one_of(
            st.sampled_from(
                [*hostile.TEXTS, "1/2", "3/2", "0/0", "1/" + "9" * 5000, "*", "[", "[!]", "**" * 50, "(a+)+$"]
            ),
            st.sampled_from(hostile.INTS).map(str),
            st.sampled_from(hostile.FLOATS).map(str),
            st.sampled_from(hostile.NAMES),
        ),
    )
    | st.tuples(
        st.just("--set"),
        st.builds(
            "{}={}".format,
            st.sampled_from(["attacks.pgd.steps", "dataset.n", "defenses.jpeg", "seeds", "run", 'a."b=c"', "x..y", ""]),
            st.sampled_from([*hostile.TEXTS, "{a = [", "[1, 2]", "{}", "[[[]]]", "1e999", "-inf", "0x10"]),
        ),
    ),
    max_size=3,
)


@cases(0.1)
@given(words)
def test_flags_are_planned_with_or_refused_in_one_line(drawn_words):
    body = {"schema": 1, "name": "t", "dataset": DIGITS, "models": [{"arch": "small-cnn"}]}
    body |= {"defenses": [{"use": "standard"}, {"use": "jpeg"}], "attacks": [{"use": "pgd"}]}
    Path("t.toml").write_text(hostile.document(body))
    line = ["plan", "t.toml", *(f"{flag}={value}" for flag, value in drawn_words)]
    try:
        args = parsers("run_bench.py")[0].parse_args(line)
        with progress.shown(args, None) as args.display:
            _, work = options.work(args)
        assert work.plan.cells or "--shard" in str(line)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) <= 2000


# A method's file.


EXPRESSIONS = ["x.y", "f()", "9**9**9", "-" * 3000, "'a' % 1", "{**a}", "lambda: 1", "[i for i in 1]", "'__import__'"]


@st.composite
def sources(draw):
    path = draw(st.sampled_from(sorted([*ROOT.glob("attacks/[!_]*.py"), *ROOT.glob("defenses/[!_]*.py")])))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, min(len(lines) - 1, 60)))
        line = lines[at]
        new = draw(st.sampled_from(EXPRESSIONS))
        lines[at] = draw(
            st.sampled_from(
                [
                    line * 2,
                    "",
                    line.replace("=", "=="),
                    line.replace(",", ""),
                    "\0",
                    "@x\n",
                    line.replace("=", f"= {new} #", 1),
                ]
            )
        )
    return path, "".join(lines)


@cases(0.2)
@given(sources())
def test_a_damaged_method_is_read_or_refused_in_one_line(drawn):
    original, text = drawn
    Path("m.py").write_text(text, encoding="utf-8")
    entry = next(entry for entry in registry._all().entries if entry.path == original)
    try:
        damaged = registry.find(entry.kind, f"m.py:{entry.symbol}")
        assert damaged.defaults() is not None and damaged.code_sha
    except UsageError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) <= 2000
