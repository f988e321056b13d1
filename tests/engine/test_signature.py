"""A small interpreter reads signatures: it agrees with Python, and never runs code of the file."""

import ast
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import UnionType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import api, registry
from bench.methods import signature, tree
from bench.types import UsageError
from tests.fuzz import cases

ROOT = Path(__file__).parents[2]
NAMES = {name: getattr(api, name) for name in api.__all__} | {"int": int, "tuple": tuple, "str": str, "float": float}


def node(text):
    return ast.parse(text, mode="eval").body


def line(call, *args):
    with pytest.raises(UsageError) as caught:
        call(*args)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Agreement with Python.

numbers = st.one_of(
    st.integers(0, 2**40).map(str),
    st.floats(0, 1e9).map(repr),
    st.builds("Fraction({}, {})".format, st.integers(0, 999), st.integers(1, 999)),
    st.sampled_from(["Fraction('8/255')", "Fraction(0.5)", "True", "0"]),
)
arithmetic = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner),
        st.builds("(-{})".format, inner),
    ),
    max_leaves=6,
)
values = st.recursive(
    st.one_of(arithmetic, st.text(max_size=5).map(repr), st.sampled_from(["None", "False", "'a' 'b'", "'a' + 'b'"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(inner, max_size=3).map(lambda items: "(" + "".join(f"{item}, " for item in items) + ")"),
        st.lists(inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"'k{i}': {item}" for i, item in enumerate(items)) + "}"
        ),
    ),
    max_leaves=8,
)


@cases(2)
@given(values)
def test_what_has_a_value_has_the_one_that_python_gives_it(text):
    try:
        value = signature.value(node(text))
    except signature.Unreadable:
        # Python refuses it too, or a key cannot hold the number.
        return
    # eval is safe here: the grammar above generated the text.
    wanted = eval(text, {"__builtins__": {}, "Fraction": Fraction})
    assert repr(value) == repr(wanted)


@pytest.mark.parametrize(
    "text",
    ["20", "-1", "0.003", "Fraction(8, 255)", "('linf', 'l2')", "{'slow': {'steps': 500}}", "1e-3", "2**20", "8 / 255"],
)
def test_what_methods_write_is_read(text):
    assert signature.value(node(text)) == eval(text, {"__builtins__": {}, "Fraction": Fraction})


@pytest.mark.parametrize(
    "text",
    [
        "int",
        "Count",
        "Budget | None",
        "Literal['a', 'b', 3, -1, None, True]",
        "Annotated[int, Field(ge=1, le=9)]",
        "Annotated[Budget | None, Field(lt=1)]",
        "tuple[int, ...]",
        "tuple[int, float]",
        "Literal['a'] | int | None",
        "None",
    ],
)
def test_a_type_is_the_one_that_python_makes_of_it(text):
    wanted = eval(text, {"__builtins__": {}, **NAMES})
    for value in (signature.annotation(node(text)), signature.annotation(node(repr(text)))):
        assert repr(value) == repr(wanted) and type(value) is type(wanted)
    assert isinstance(signature.annotation(node("int | None")), UnionType)


# Nothing runs.

FIRE = "__import__('os').mkdir({fired!r})"
HOSTILE = {
    "call": FIRE,
    "attribute": "Fraction.__init__.__globals__['sys'].modules['os'].mkdir({fired!r})",
    "decorator of the api": "attack.__globals__['__builtins__']['__import__']('os').mkdir({fired!r})",
    "subclasses": "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__"
    ".__globals__['mkdir']({fired!r})",
    "lambda": f"(lambda: {FIRE})()",
    "comprehension": f"[{FIRE} for _ in (1,)]",
    "generator": f"tuple({FIRE} for _ in (1,))",
    "walrus": f"(x := {FIRE})",
    "f-string": f"f'{{{{{FIRE}}}}}'".replace("'os'", '"os"'),
    "format string": "'{{0.__class__}}'.format(attack)",
    "percent": "'%s' % (attack,)",
    "star": f"(*[{FIRE}],)",
    "dict of": f"{{{{**{FIRE}}}}}",
    "conditional": f"{FIRE} if True else 1",
    "boolean": f"None or {FIRE}",
    "comparison": f"1 < {FIRE}",
    "subscript": f"{{{{'a': 1}}}}[{FIRE}]",
    "slice": f"'abc'[:{FIRE}]",
    "await": f"[await {FIRE}]",
    "yield": f"(yield {FIRE})",
    "call of a call": f"Field(default_factory=lambda: {FIRE})",
    "field's keywords": f"Field(**{{{{'default': {FIRE}}}}})",
    "fraction of": f"Fraction({FIRE})",
    "in a literal": f"Literal[{FIRE}]",
    "in annotated": f"Annotated[int, {FIRE}]",
    "text as a type": 'Annotated["' + FIRE + '", 1]',
    "union": f"int | {FIRE}",
    "set": f"{{{{{FIRE}}}}}",
}
POSITIONS = {
    "annotation": "@attack(norms=('linf',), passes='')\ndef f(t, x, y, h, *, n: {} = 1): ...\n",
    "text annotation": "@attack(norms=('linf',), passes='')\ndef f(t, x, y, h, *, n: {!r} = 1): ...\n",
    "default": "@attack(norms=('linf',), passes='')\ndef f(t, x, y, h, *, n: int = {}): ...\n",
    "keyword": "@attack(norms=('linf',), passes={})\ndef f(t, x, y, h): ...\n",
    "argument": "@attack({}, norms=('linf',), passes='')\ndef f(t, x, y, h): ...\n",
    "keywords": "@attack(norms=('linf',), passes='', **{})\ndef f(t, x, y, h): ...\n",
    "in a class": "@defense(kind='test-time')\nclass f:\n    def __init__(self, *, n: {0} = {0}): ...\n",
    "library": "@library(prefix='own', requires={})\ndef f(t, x, y, h, *, name: str): ...\n",
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_expression_runs_when_a_signature_is_read(tmp_path, position, hostile):
    fired, path = tmp_path / "fired", tmp_path / "mine.py"
    path.write_text(POSITIONS[position].format(HOSTILE[hostile].format(fired=str(fired))))
    message = line(registry.find, "attack", f"{path}:f")
    assert not fired.exists()
    assert str(path) in message and "literals" in message or "is not valid Python" in message


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.mkdir({fired!r})\n",
        "class C:\n    import os\n    os.mkdir({fired!r})\n",
        f"@(lambda f: {FIRE})\n@attack(norms=('linf',), passes='')\ndef f(t, x, y, h): ...\n",
        f"@attack(norms=('linf',), passes='')(lambda f: {FIRE})\ndef f(t, x, y, h): ...\n",
        f"@defense(kind='test-time')\nclass f(metaclass={FIRE}):\n    n = {FIRE}\n",
        f"def f(num_classes, width: int = {FIRE}): ...\n",
        f"def f(num_classes, width: {FIRE!r} = 8): ...\n",
        f"f = {FIRE}\n",
    ],
)
def test_no_statement_runs_when_a_file_is_read(tmp_path, text):
    fired, path = tmp_path / "fired", tmp_path / "mine.py"
    path.write_text("'''Mine.'''\n" + text.format(fired=str(fired)))
    for kind in ("attack", "test-time", "network"):
        try:
            registry.find(kind, f"{path}:f").defaults()
        except UsageError as error:
            assert len(str(error).splitlines()) == 1
    assert not fired.exists()


def test_looking_for_a_package_runs_none(tmp_path, monkeypatch):
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "__init__.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'fired')!r})\n")
    (tmp_path / "strange" / "inside.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "mine.py"
    path.write_text(
        "import strange.inside\n@attack(norms=('linf',), passes='', requires='strange.inside')\ndef f(): ...\n"
    )
    entry = registry.find("attack", f"{path}:f")
    assert entry.available and entry.code_sha
    assert registry.sources.find_module("strange.inside").origin == str(tmp_path / "strange" / "inside.py")
    assert registry.sources.find_module("strange.gone") is None
    assert not (tmp_path / "fired").exists() and "strange" not in sys.modules


def test_bench_evaluates_no_text():
    # Names of figures and verbs are looked up; no other text becomes code.
    for path in ROOT.glob("bench/**/*.py"):
        for each in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = each.func.id if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) else ""
            assert name not in ("eval", "exec", "compile", "__import__"), f"{path}:{each.lineno}"


# One line for any wrong text.


@pytest.mark.parametrize(
    ("default", "says"),
    [
        ("9**9**9", "is too large"),
        ("'a' * 10**9", "'a' * 10 ** 9 is none"),
        ("1e999", "finite"),
        ("2**63", "64 bits"),
        (f"0x{'f' * 100_000}", "an expression is no text, finite number of 64 bits"),
        ("1 / 0", "division by zero"),
        ("Fraction('1e99999999')", "between 1e-300 and 1e300"),
        ("Fraction(1, 0)", "Fraction"),
        ("(-1) ** 0.5", "(-1) ** 0.5 is no text"),
        ("'\\ud800'", "is no text"),
        ("b'x'", "is no text"),
        ("1j", "is no text"),
        ("..." + "", "is no text"),
        ("1" + " + 1" * 200, "more than 50 nested expressions"),
        ("Field(default_factory=1)", "Field(default_factory = ...) is none"),
        ("{1: 2}", "the keys of a dict are texts"),
        ("os.getpid()", "os.getpid() is none"),
        ("0", "default of n of f: Input should be greater than or equal to 1"),
    ],
)
def test_a_default_that_is_none_is_one_line_with_its_place(tmp_path, default, says):
    path = tmp_path / "mine.py"
    path.write_text(f"\n@attack(norms=('linf',), passes='')\ndef f(t, x, y, h, *, n: Count = {default}): ...\n")
    message = line(registry.find, "attack", f"{path}:f")
    assert f"{path}:3: " in message and says in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("@attack(norms=('l7',), passes='')\ndef f(): ...", ":1: @attack of f: its keywords must be literals"),
        ("@attack(norms=5, passes='')\ndef f(): ...", "norms: Input should be a valid tuple"),
        ("@attack(passes='')\ndef f(): ...", "norms: Field required"),
        ("@attack(norms=('l2',), passes='', speed=3)\ndef f(): ...", "speed: Extra inputs are not permitted"),
        ("@defense(kind='tset-time')\nclass f: ...", "kind: Input should be 'recipe', 'test-time' or 'score-recipe'"),
        ("@defense(kind='recipe', inner='gone')\ndef f(): ...", "inner = 'gone' names no parameter of f"),
        *(
            (f"@attack(norms=('l2',), passes='', folders={declared})\ndef f(*, d: str = '', k: int = 1): ...", says)
            for declared, says in [
                ("{'d': {'choice': {'k': '1'}, 'files': ['a'], 'package': '../b'}}", ":1: folders: d: package: String"),
                ("{'d': {'choice': {'k': '1'}, 'package': 'b'}}", ":1: folders: d: files: Field required"),
                ("{'d': {'choice': {'k': '1'}, 'files': [], 'package': 'b'}}", ":1: folders: d: files: Tuple should"),
                ("{'d': {'file': 'a'}}", ":1: folders: d: choice: Field required"),
                ("{'d': {'choice': {'l': '1'}, 'files': ['a'], 'package': 'b'}}", ":1: folders: l is no parameter"),
                ("{'e': {'choice': {'k': '1'}, 'files': ['a'], 'package': 'b'}}", ":1: folders: e is no parameter"),
            ]
        ),
        ("@attack(norms=('l2',), passes='')\ndef f(*, _n: int = 1): ...", "cannot have a parameter _n; rename it"),
        ("@attack(norms=('l2',), passes='')\ndef f(*, model_dump: int = 1): ...", "cannot have a parameter model_dump"),
        (
            "@attack(norms=('l2',), passes='')\ndef f(*, n: Annotated[str, Field(gt=1)] = 'a'): ...",
            "the parameters of f make no schema",
        ),
        *(
            (f"@attack(norms=('l2',), passes='')\ndef f(*, n: Annotated[{kind}, Field({bound})]): ...", says)
            for kind, bound, says in [
                ("int", "gt='x'", "parameter n of f: Field(gt = 'x'): gt is a number"),
                ("float", "le=True", "parameter n of f: Field(le = True): le is a number"),
                ("int", "multiple_of=0", "parameter n of f: Field(multiple_of = 0): multiple_of is a number above 0"),
                (
                    "str",
                    "pattern='['",
                    "parameter n of f: Field(pattern = '['): pattern is a regular expression; unclosed character class",
                ),
                ("int", "pattern=3", "parameter n of f: Field(pattern = 3): pattern is a text"),
                (
                    "str",
                    "max_length=-1",
                    "parameter n of f: Field(max_length = -1): max_length is a whole number, 0 or more",
                ),
                (
                    "str",
                    "min_length=1.5",
                    "parameter n of f: Field(min_length = 1.5): min_length is a whole number, 0 or more",
                ),
                ("int", "gt=0.5", "the parameters of f make no schema: 'gt' must be coercible to an integer"),
            ]
        ),
        (
            "@attack(norms=('l2',), passes='')\ndef f(*, " + ", ".join(f"n{i}: int = 1" for i in range(501)) + "): ...",
            "f has 501 parameters, over 500",
        ),
    ],
)
def test_a_decorator_or_schema_that_is_wrong_is_one_line(tmp_path, text, says):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert says in line(registry.find, "attack", f"{path}:f")


def test_a_bound_that_fits_no_value_is_one_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "@attack(norms=('l2',), passes='')\ndef f(*, n: Annotated[tuple[int, ...], Field(gt=1)], m: tuple[int, ...]"
        " = (1, 2)): ..."
    )
    entry = registry.find("attack", f"{path}:f")
    assert "attack f: " in line(entry.ref, {"n": [1]})
    path.write_text("@attack(norms=('l2',), passes='')\ndef f(*, m: tuple[int, ...] = (1, 2)): ...")
    assert "attack f: params.m" in line(registry.find("attack", f"{path}:f").ref, {})


SOURCES = {
    "neg": b"x = " + b"-" * 10**5 + b"1",
    "terms": b"x = 1" + b" + 1" * 10**5,
    "few terms": b"x = 1" + b" + 1" * 900,
    "brackets": b"x = " + b"(" * 10**4,
    "attributes": b"x = a" + b".a" * 10**5,
    "lambdas": b"x = " + b"lambda: " * 10**4 + b"1",
    "elifs": b"if a: pass\n" + b"elif a: pass\n" * 10**4,
    "null": b"x = 1\x00",
    "utf-16": "x = 1".encode("utf-16"),
    "latin-1 undeclared": "x = 'é'".encode("latin-1"),
    "unknown encoding": b"# coding: no-such\nx = 1",
    "long encoding": b"# coding: " + b"a" * 5000 + b"\nx = 1",
    "too long": b"#" * (tree.MOST_BYTES + 1),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_cannot_be_parsed_is_one_line(tmp_path, name):
    method = b"\n@attack(norms=('linf',), passes='')\ndef f(t, x, y, h): ...\n"
    path = tmp_path / "mine.py"
    path.write_bytes(SOURCES[name] + method)
    # Some parse but are too deep to hash; the hash is computed when a plan uses the method.
    message = line(lambda: registry.find("attack", f"{path}:f").ref({}))
    assert f"{path} is not valid Python: " in message and len(message) < 500
    (tmp_path / "helper.py").write_bytes(SOURCES[name])
    path.write_bytes(b"import helper" + method)
    assert "helper.py is not valid Python: " in line(registry.find("attack", f"{path}:f").ref, {})


def test_a_declared_encoding_and_a_byte_order_mark_are_pythons_own(tmp_path):
    path = tmp_path / "mine.py"
    method = "@attack(norms=('linf',), passes='')\ndef f(t, x, y, h, *, rule: str = 'é'): ...\n"
    path.write_bytes(b"# coding: latin-1\n" + method.encode("latin-1"))
    assert registry.find("attack", f"{path}:f").ref({}).params == {"rule": "é"}
    path.write_bytes(b"\xef\xbb\xbf" + method.encode())
    assert registry.find("attack", f"{path}:f").ref({}).params == {"rule": "é"}


def test_what_is_no_file_among_the_methods_is_said_and_left_out(tmp_path, monkeypatch, caplog):
    for folder in ("attacks", "defenses", "bench/models"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "attacks" / "folder.py").mkdir()
    (tmp_path / "attacks" / "loop.py").symlink_to(tmp_path / "attacks" / "loop.py")
    (tmp_path / "attacks" / "gone.py").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "attacks" / "pipe.py")
    (tmp_path / "attacks" / "good.py").write_text("@attack(norms=('l2',), passes='')\ndef good(): ...\n")
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    for cached in (registry.entries, registry._all):
        cached.cache_clear()
    try:
        assert list(registry.entries("attack")) == ["good"]
    finally:
        for cached in (registry.entries, registry._all):
            cached.cache_clear()
    for name in ("folder", "loop", "gone", "pipe"):
        assert f"{name}.py is a folder, a broken link or no regular file" in caplog.text


@pytest.mark.parametrize("name", ["a" * 400, "a\0b", "folder", "loop", "pipe", "/dev/zero", "~nobody-here/x", ""])
def test_a_file_of_ones_own_that_is_none_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("folder.py").mkdir()
    Path("loop.py").symlink_to("loop.py")
    os.mkfifo("pipe.py")
    for kind in ("attack", "recipe", "test-time", "network"):
        assert "no file" in line(registry.find, kind, f"{name}.py:f")


def test_every_source_of_a_method_is_read_within_bounds(tmp_path, caplog):
    with (tmp_path / "vast.bin").open("wb") as file:
        file.truncate(2**40)
    path = tmp_path / "mine.py"
    path.write_text(
        f"import {'a' * 300}\nimport os\nos.open('/dev/zero', 0), open('/proc/kmsg'), open('/proc/self/mem')\n"
        "open('vast.bin')\n"
        f"import_module({'b' * 5000!r}), import_module('c\\0d'), import_module('')\n"
        "@attack(norms=('linf',), passes='', attacks=())\ndef f(t, x, y, h): ...\n".replace(", attacks=()", "")
    )
    assert registry.find("attack", f"{path}:f").ref({}).code_sha
    assert "vast.bin: a method reads this file, which has over 17,179,869,184 bytes" in caplog.text


def test_plan_ends_with_one_line_and_without_a_traceback(tmp_path):
    fired = tmp_path / "fired"
    (tmp_path / "mine.py").write_text(POSITIONS["default"].format(FIRE.format(fired=str(fired))))
    (tmp_path / "t.toml").write_text(
        'schema = 1\nname = "t"\n[dataset]\nname = "digits"\nn = 10\n[[models]]\narch = "small-cnn"\n'
        f'[[defenses]]\nuse = "standard"\n[[attacks]]\nuse = "{tmp_path}/mine.py:f"\n'
    )
    argv = [sys.executable, str(ROOT / "run_bench.py"), "plan", "t.toml"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    # On a slow machine progress lines come before it.
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr and not fired.exists()
    assert last.startswith("error: t.toml: attacks[0]")
    assert f"{tmp_path}/mine.py:2: parameter n of f: annotations and defaults must be " in last
