"""The parts of a key besides parameters: syntax, helpers, versions of packages, data files."""

import importlib.metadata
import subprocess
import sys

import pytest

from bench import registry
from bench.methods import canonical, sources
from bench.types import UsageError

ATTACK = '''
"""What the file is about."""

import torch  # the usual
from helper import step

from bench.api import Count, Threat, attack


@attack(norms=("linf",), passes="1 forwards", requires=None)
def mine(target, x, y, threat: Threat, *, steps: Count = 3, images: str = "", rule: str = "a"):
    """One line.

    More.
    """
    label = f"{steps:.2f} 'steps'" "tail"
    return x + step(x, 'a') * 0.5 if label else x
'''

REFORMATTED = '''
import torch
from helper import step
from bench.api import Count, Threat, attack

# A comment.
@attack(
    norms=("linf",), passes='1 forwards',
    requires=None,
)
def mine(
    target, x, y, threat: Threat, *, steps: Count = 3, images: str = '', rule: str = "a"
):
    """Another line."""

    label = (f"{steps:.2f} 'steps'"
             "tail")  # here too
    """A string that stands alone does nothing."""
    return (x + step(x, "a") * 5e-1 if label else x)
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(ATTACK)
    (tmp_path / "helper.py").write_text("def step(x, how):\n    return x\n")
    return tmp_path


def entry(folder, name="mine"):
    return registry.find("attack", f"{folder / 'mine.py'}:{name}")


def sha(folder, **params):
    return entry(folder).ref(params).code_sha


def test_comments_docstrings_layout_and_quotes_change_nothing(folder):
    before = sha(folder)
    (folder / "mine.py").write_text(REFORMATTED)
    assert sha(folder) == before
    (folder / "mine.py").write_text(REFORMATTED.replace("\n", "\r\n"))
    assert sha(folder) == before


@pytest.mark.parametrize("read", ["mine.__doc__", "__doc__", "getattr(mine, '__doc__')"])
def test_docstrings_count_in_a_file_that_may_read_them_and_other_texts_do_not(folder, read):
    reads = f'"""Half."""\n{ATTACK}\n\ndef label():\n    x = 1\n    """Alone."""\n    return {read}\n'
    (folder / "mine.py").write_text(reads)
    before = sha(folder)
    (folder / "mine.py").write_text(reads.replace("Alone", "Said") + "# Said.\n")
    assert sha(folder) == before
    (folder / "mine.py").write_text(reads.replace("Half", "Whole"))
    assert sha(folder) != before
    (folder / "mine.py").write_text(reads.replace(read, "mine.doc"))
    without = sha(folder)
    (folder / "mine.py").write_text(reads.replace(read, "mine.doc").replace("Half", "Whole"))
    assert sha(folder) == without


def test_the_name_of_a_method_is_no_part_of_its_code(folder):
    before = sha(folder)
    (folder / "mine.py").write_text(ATTACK.replace("def mine", "def yours"))
    assert entry(folder, "yours").ref({}).code_sha == before
    # A caller by that name would call another function.
    (folder / "mine.py").write_text(ATTACK.replace("def mine", "def yours") + "\nalias = yours\n")
    other = entry(folder, "yours").ref({}).code_sha
    (folder / "mine.py").write_text(ATTACK + "\nalias = mine\n")
    assert sha(folder) != other


def test_of_two_methods_in_a_file_the_names_count(folder):
    second = ATTACK.partition("@attack")[2].replace("def mine", "def yours").replace("0.5", "0.25")
    both = f"{ATTACK}\n@attack{second}"
    (folder / "mine.py").write_text(both)
    before = sha(folder)
    # Each now runs the code of the other.
    swapped = both.replace("def mine", "def x").replace("def yours", "def mine").replace("def x", "def yours")
    (folder / "mine.py").write_text(swapped)
    assert sha(folder) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("'a'", "'b'"),
        ("x +", "x -"),
        ("Count = 3", "Count = 4"),
        ("steps: Count", "steps: int"),
        (".2f", ".3f"),
        ("else x", "else None"),
        ("    label", "    pass\n    label"),
        ("x + step", "x + 1 + step"),
        ("target, x", "target, /, x"),
    ],
)
def test_what_runs_otherwise_has_another_hash(folder, old, new):
    before = sha(folder)
    assert old in ATTACK
    (folder / "mine.py").write_text(ATTACK.replace(old, new, 1))
    assert sha(folder) != before


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("import helper", "helper.py"),
        ("from helper import step", "helper.py"),
        ("from .helper import step", "helper.py"),
        ("from . import helper", "helper.py"),
        ("import parts.deep", "parts/deep.py"),
        ("from parts import deep", "parts/deep.py"),
        ("from parts.deep import x", "parts/__init__.py"),
        ("def f():\n    import helper", "helper.py"),
        ("import importlib\nhelper = importlib.import_module('helper')", "helper.py"),
        ("import via", "helper.py"),
        ("import elsewhere", "../elsewhere.py"),
        ("import shared.part", "../shared/part.py"),
        ("from shared import part", "../shared/__init__.py"),
    ],
)
def test_every_local_source_counts(tmp_path, monkeypatch, line, file):
    folder = tmp_path / "own"
    (folder / "parts").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    for name in ("parts/__init__.py", "parts/deep.py", "helper.py", "unrelated.py", "../elsewhere.py",
                 "../shared/__init__.py", "../shared/part.py"):  # fmt: skip
        (folder / name).write_text("x = 1\n")
    (folder / "via.py").write_text("from helper import x\n")
    (folder / "mine.py").write_text(ATTACK.replace("from helper import step", line))
    # On Python's path, not next to the file.
    monkeypatch.syspath_prepend(str(tmp_path))
    before = sha(folder)
    (folder / "unrelated.py").write_text("x = 2\n")
    assert sha(folder) == before
    (folder / file).write_text("# x\nx = 1\n")
    assert sha(folder) == before
    (folder / file).write_text("x = 2\n")
    assert sha(folder) != before


def test_a_stranger_of_the_same_name_is_not_the_helper(folder, tmp_path_factory, monkeypatch):
    before = sha(folder)
    other = tmp_path_factory.mktemp("other")
    (other / "helper.py").write_text("x = 3\n")
    monkeypatch.syspath_prepend(str(other))
    assert sha(folder) == before


def test_a_helper_that_is_not_python_is_one_line(folder):
    (folder / "helper.py").write_text("def f(:\n")
    with pytest.raises(UsageError, match=r"helper\.py is not valid Python"):
        sha(folder)


def released(monkeypatch, **versions):
    """Pretend that packages have other versions."""
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name.replace("-", "_")) or real(name))


@pytest.mark.parametrize(
    ("kind", "name", "package"),
    [
        ("attack", "autoattack", "pyautoattack"),
        ("library", "art", "adversarial_robustness_toolbox"),
        ("test-time", "jpeg", "pillow"),
        ("test-time", "gaussian-blur", "torchvision"),
    ],
)
def test_the_version_of_a_package_behind_a_method_counts(monkeypatch, kind, name, package):
    registry._all.cache_clear()
    registry.entries.cache_clear()
    before, other = registry.find(kind, name).code_sha, registry.find("attack", "pgd").code_sha
    released(monkeypatch, **{package: "99.1"})
    registry._all.cache_clear()
    registry.entries.cache_clear()
    assert registry.find(kind, name).code_sha != before
    assert registry.find("attack", "pgd").code_sha == other


def test_torch_numpy_and_the_build_of_a_release_do_not_count(folder, monkeypatch):
    (folder / "mine.py").write_text(ATTACK.replace("import torch", "import torch, numpy, torchvision.ops"))
    released(monkeypatch, torchvision="0.99.0+cpu")
    before = sha(folder)
    released(monkeypatch, torchvision="0.99.0+cu128", torch="99", numpy="99")
    assert sha(folder) == before
    released(monkeypatch, torchvision="0.99.1+cu128")
    assert sha(folder) != before


def test_a_package_imported_under_another_name_is_found(folder, monkeypatch):
    assert sources.version("PIL").partition(" ")[0] == "pillow"
    # A name that is in no table is looked up in the installed packages.
    assert sources.version("dateutil") == f"python-dateutil {importlib.metadata.version('python-dateutil')}"
    assert sources.version("no_such_package_at_all") is None


def test_a_file_that_a_parameter_names_counts(folder, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    plain = sha(folder)
    for directory, name in ((elsewhere, "a.npy"), (folder, "b.npy"), (elsewhere, str(folder / "c.npy"))):
        assert sha(folder, images=name) == plain
        (directory / name).write_bytes(b"1111")
        before = sha(folder, images=name)
        assert before != plain
        (directory / name).write_bytes(b"1112")
        assert sha(folder, images=name) != before
    assert sha(folder) == plain


def test_a_folder_that_a_parameter_names_is_its_names_and_contents(folder, monkeypatch):
    data = folder / "data"
    (data / "deep").mkdir(parents=True)
    (data / "deep" / "1.npy").write_bytes(b"1")
    shas = [sha(folder, images="data")]
    (data / "deep" / "1.npy").write_bytes(b"2")
    shas.append(sha(folder, images="data"))
    (data / "deep" / "1.npy").rename(data / "2.npy")
    shas.append(sha(folder, images="data"))
    assert len(set(shas)) == 3
    monkeypatch.setattr(sources, "MOST_FILES", 1)
    (data / "3.npy").write_bytes(b"2")
    with pytest.raises(UsageError, match="over 1 files; name a part"):
        sha(folder, images="data")


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ('open("saved.npy")', "saved.npy"),
        ('open("saved")', "saved"),
        ('open("worker.py").read()', "worker.py"),
        ('NAME + "saved.npy"', "saved.npy"),
        ('open("data/saved.npy")', "data/saved.npy"),
        ('FOLDER / "data" / "saved.npy"', "data/saved.npy"),
        ('FOLDER / "data" / f"{1}.npy"', "data/1.npy"),
        ('os.path.join(FOLDER, "data", "saved.npy")', "data/saved.npy"),
        ('Path("data", "saved.npy")', "data/saved.npy"),
    ],
)
def test_a_file_that_a_source_names_counts(folder, text, file):
    (folder / "helper.py").write_text(f"saved = lambda: {text}\n")
    (folder / "data").mkdir()
    (folder / file).write_bytes(b"1111")
    before = sha(folder)
    (folder / file).write_bytes(b"1112")
    assert sha(folder) != before


def test_a_text_that_no_file_can_be_called_is_none(folder):
    before = sha(folder)
    (folder / "helper.py").write_text(f"TEXTS = open({'a.b' * 300!r}), open({'a' * 260 + '.'!r}), open('a\\0.b')\n")
    assert sha(folder) != before
    assert sha(folder, images="a" * 300 + "/b.npy") == sha(folder, images="\0") == sha(folder)


def test_words_that_are_choices_are_no_files(folder, monkeypatch):
    text = ATTACK.replace("import Count,", "import Count, Literal,").replace("rule: str", 'rule: Literal["a", "b"]')
    (folder / "mine.py").write_text(text)
    monkeypatch.chdir(folder)
    before = sha(folder, rule="b")
    (folder / "b").write_text("a file by chance\n")
    assert sha(folder, rule="b") == before


# Written by hand: every version of Python must give these texts.
FORMS = {
    "x: int = 1": "Module(body=[AnnAssign(annotation=Name(id='int'),simple=1,target=Name(id='x'),value=int 1)])",
    "def f(*, a=None): 'doc'": (
        "Module(body=[FunctionDef(args=arguments(kw_defaults=[NoneType None],kwonlyargs=[arg(arg='a')]),name='f')])"
    ),
    "{**a}": "Module(body=[Expr(value=Dict(keys=[None],values=[Name(id='a')]))])",
    "f'{a:>{w}}' 'b' u'c'": (
        "Module(body=[Expr(value=JoinedStr([FormattedValue(conversion=-1,format_spec=JoinedStr([str '>',"
        "FormattedValue(conversion=-1,value=Name(id='w'))]),value=Name(id='a')),str 'bc']))])"
    ),
    "class A[T]: ..." if sys.version_info >= (3, 12) else "class A: ...": (
        "Module(body=[ClassDef(body=[Expr(value=ellipsis Ellipsis)],name='A',type_params=[TypeVar(name='T')])])"
        if sys.version_info >= (3, 12)
        else "Module(body=[ClassDef(body=[Expr(value=ellipsis Ellipsis)],name='A')])"
    ),
    "class B: ...": "Module(body=[ClassDef(body=[Expr(value=ellipsis Ellipsis)],name='B')])",
}


@pytest.mark.parametrize("text", FORMS)
def test_the_canonical_form_of_syntax(text):
    import ast

    assert canonical.canonical(ast.parse(text)) == FORMS[text]


def test_hashing_every_method_imports_none():
    code = (
        "import sys\nfrom bench import registry\n"
        "for kind in ('attack', 'library', 'recipe', 'test-time', 'network'):\n"
        "    for entry in registry.entries(kind).values(): entry.code_sha\n"
        "assert not {'torch', 'art', 'sklearn', 'matplotlib', 'pandas', 'attacks'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=registry._ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("layout", ["target", "link"])
def test_a_package_counts_by_its_version_wherever_it_was_installed(tmp_path, monkeypatch, layout):
    """As ``pip install --target`` and tools that link to one copy of a package lay it out."""
    real = tmp_path / ("site" if layout == "target" else "cache/site-packages")
    package = real / "farmed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VALUE = 1\n")
    (tmp_path / "own.py").write_text("VALUE = 1\n")
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    if layout == "link":
        (site / "farmed").symlink_to(package)
    else:
        (site / "farmed-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(site))
    sources._installed_in.cache_clear()
    try:
        assert sources.is_installed(site / "farmed" / "__init__.py")
        assert not sources.is_installed(tmp_path / "own.py")
    finally:
        monkeypatch.undo()
        sources._installed_in.cache_clear()
