import importlib
import importlib.metadata
import types
from fractions import Fraction
from pathlib import Path

import pytest

from bench import registry
from bench.types import MethodRef, UsageError

RAISES = 'raise RuntimeError("reading must not run the file")'

ATTACK = '''
from bench.api import Budget, Count, Fraction, Literal, Target, Threat, attack
{imports}

{raises}

@attack(norms=("l2", "linf"), passes="steps forwards", requires={requires!r}, presets={{"slow": {{"steps": 500}}}})
def big_push(target, x, y, threat: Threat, *, steps: Count = 20, size: Budget = Fraction(8, 255),
             rule: Literal["a", "b"] = "a") -> "Tensor":
    """Push hard (Nobody, 2020): one line.

    More lines.
    """
'''


def write(folder, name="push.py", text=ATTACK, imports="", requires=None, raises=RAISES):
    path = folder / name
    path.write_text(text.format(imports=imports, requires=requires, raises=raises) if text is ATTACK else text)
    return path


def entry_of(path, symbol="big_push", kind="attack"):
    return registry.find(kind, f"{path}:{symbol}")


def line(call, *args, **kwargs):
    with pytest.raises(UsageError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_signature_is_the_schema_and_the_file_is_not_run(tmp_path):
    entry = entry_of(write(tmp_path))
    assert (entry.kind, entry.name, entry.symbol) == ("attack", "big-push", "big_push")
    assert entry.summary == "Push hard (Nobody, 2020): one line."
    assert entry.defaults() == {"steps": 20, "size": "8/255", "rule": "a"}
    assert entry.meta["norms"] == ("l2", "linf")
    assert entry_of(tmp_path / "push.py", "big-push").symbol == "big_push"


def test_a_reference_spells_every_parameter_out(tmp_path):
    entry = entry_of(write(tmp_path))
    ref = entry.ref({"size": 0.5, "preset": "slow"})
    wanted = {"steps": 500, "size": "1/2", "rule": "a"}
    name = f"{entry.path}:big_push"
    assert ref == MethodRef(kind="attack", name=name, params=wanted, code_sha=entry.code_sha)
    assert entry.ref({"preset": "slow", "steps": 3}).params["steps"] == 3
    assert entry.arguments(ref.params) == {"steps": 500, "size": Fraction(1, 2), "rule": "a"}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"stepz": 3}, "attack big-push: unknown key 'stepz'; did you mean 'steps'?"),
        ({"steps": 0}, "attack big-push: steps: input should be greater than or equal to 1, not 0"),
        ({"steps": "many"}, "attack big-push: steps:"),
        ({"rule": "c"}, "attack big-push: rule: input should be 'a' or 'b', not 'c'"),
        ({"size": "eight"}, "is not a number"),
        ({"preset": "slo"}, "unknown preset of attack big-push 'slo'; did you mean 'slow'?"),
    ],
)
def test_a_bad_parameter_is_one_line(tmp_path, params, says):
    assert says in line(entry_of(write(tmp_path)).ref, params)


def test_a_missing_package_is_named(tmp_path):
    entry = entry_of(write(tmp_path, requires="no-such-package"))
    assert not entry.available
    assert line(entry.ref, {}) == "attack big-push needs a package: pip install no-such-package"
    assert entry_of(write(tmp_path, "other.py", requires="scikit-learn")).available


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ("fgsn", "unknown attack 'fgsn'; did you mean 'fgsm'?"),
        ("zzzzzzzz", "there are: "),
        ("gone.py:f", "no file"),
        ("{}:other", "has no other with a crossfire decorator"),
        ("{}:Step", "is of kind test-time, not attack"),
    ],
)
def test_what_is_not_registered_is_one_line(tmp_path, use, says):
    path = write(tmp_path, text="@defense(kind='test-time')\nclass Step:\n    pass\n")
    assert says in line(registry.find, "attack", use.format(path))


def test_a_file_that_is_not_python_is_one_line(tmp_path):
    assert "is not valid Python" in line(entry_of, write(tmp_path, text="def f(:\n"))
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    assert "is not valid Python" in line(entry_of, tmp_path / "bytes.py")


def test_a_default_that_only_running_the_file_could_tell_is_refused(tmp_path):
    text = "import os\n@attack(norms=('linf',), passes='')\ndef f(t, x, y, h, *, n: int = os.getpid()): ...\n"
    path = write(tmp_path, text=text)
    assert f"{path}:3: parameter n of f: annotations and defaults must be literals" in line(entry_of, path, "f")


def test_a_network_of_ones_own_needs_no_decorator(tmp_path):
    path = write(tmp_path, text="def build(num_classes, *, in_channels, width: int = 8): ...\n")
    assert entry_of(path, "build", "network").defaults() == {"width": 8}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """An empty repository instead of the real one."""
    for folder in ("attacks", "defenses", "bench/models"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget():
    for cached in (registry.entries, registry._all):
        cached.cache_clear()


def test_a_name_with_two_meanings_in_one_file_does_not_count_and_the_file_goes_on(house, caplog):
    path = write(house / "attacks")
    path.write_text(path.read_text() + "if True:\n    def big_push(): ...\n" + "big_push = None\n")
    other = ATTACK.replace("big_push", "other")
    path.write_text(path.read_text() + other.format(imports="", requires=None, raises=""))
    twice = f"{path}:8: big_push is given another meaning in line 15"
    assert list(registry.entries("attack")) == ["other"]
    assert caplog.messages == [f"{twice}: it does not count; rename one of them"]
    assert line(registry.find, "attack", "big-push") == line(registry.attack_named, "big-push") == twice


def test_two_methods_of_one_name_are_neither(house, caplog):
    for name in ("a", "b", "c"):
        write(house / "attacks", f"{name}.py")
    write(
        house / "attacks", "other.py", ATTACK.replace("big_push", "other").format(imports="", requires=None, raises="")
    )
    twice = f"attack 'big-push' is registered twice: in {house}/attacks/a.py and {house}/attacks/b.py"
    assert list(registry.entries("attack")) == ["other"]
    assert caplog.messages == [f"{twice}: neither counts; rename one of them"]
    assert line(registry.find, "attack", "big-push") == line(registry.attack_named, "big-push") == twice
    assert line(registry.find, "recipe", "big-push").startswith("unknown recipe 'big-push'")


BROKEN = {
    "syntax": ("x = 1\ndef f(:\n", " is not valid Python: line 2: invalid syntax"),
    "signature": (
        "\n\n@attack(norms=('l2',), passes='')\ndef f(*, n: int = g()): ...\n",
        ":4: parameter n of f: annotations and defaults must be",
    ),
    "decorator": ("@attack(norms=g(), passes='')\ndef f(): ...\n", ":1: @attack of f: its keywords must be"),
    "bytes": ("\0", " is not valid Python: "),
    "40 MB": ("#" * 40_000_001, " is not valid Python: it has 40,000,001 bytes; at most 1,048,576 are read as source"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("folder", ["attacks", "defenses", "bench/models"])
def test_a_file_that_cannot_be_read_is_said_and_left_out_alone(house, folder, kind, caplog):
    write(house / "attacks", "push.py")
    wanted = dict(registry.entries("attack"))["big-push"].code_sha
    text, says = BROKEN[kind]
    broken = write(house / folder, "my_own.py", text)
    forget()
    assert [entry.code_sha for entry in registry.entries("attack").values()] == [wanted]
    (message,) = caplog.messages
    assert message.startswith(f"{broken}{says}") and message.endswith(": its methods are left out")
    assert registry.unread() == ((broken, message.removesuffix(": its methods are left out")),)
    # Any unknown name may be defined in that file.
    for wanted_kind in ("attack", "library", "recipe", "test-time", "network"):
        for name in ("my-own", "my_own", "anything"):
            assert f" (a file left out may define it: {broken}{says}" in line(registry.find, wanted_kind, name)


def test_of_several_files_left_out_the_one_of_that_name_is_said(house):
    for name in ("a", "b_c", "d"):
        write(house / "attacks", f"{name}.py", "def f(:\n")
    (house / "attacks" / "folder.py").mkdir()
    assert line(registry.find, "attack", "b-c").partition("define it: ")[2].startswith(f"{house}/attacks/b_c.py is not")
    assert line(registry.find, "attack", "x").endswith(
        "a.py is not valid Python: line 1: invalid syntax; 3 more are left out)"
    )
    assert line(registry.find, "attack", "folder").endswith("folder.py is a folder, a broken link or no regular file)")


def test_the_files_of_the_house_are_all_read_and_register_something():
    # Methods that the registry leaves out are missing from the tests of all registered methods.
    assert registry.unread() == () and not registry._all().twice
    registered = {entry.path for entry in registry._all().entries}
    for folder in ("attacks", "defenses"):
        files = set(registry._ROOT.joinpath(folder).glob("[!_]*.py"))
        assert files and files <= registered


def test_private_files_register_nothing(house):
    write(house / "attacks", "_helper.py")
    assert not registry.entries("attack")


def test_the_hash_of_the_code_follows_helpers_and_crafted_attacks_and_nothing_else(house):
    attack = write(house / "attacks", "push.py", imports="from attacks._steps import project")
    (house / "attacks" / "_steps.py").write_text("from attacks._deep import x\n")
    (house / "attacks" / "_deep.py").write_text("x = 1\n")
    (house / "attacks" / "_other.py").write_text("x = 1\n")
    recipe = write(
        house / "defenses",
        "adv.py",
        "@defense(kind='recipe', attacks=('push',))\ndef adv(step, x, y): ...\n",
    )

    def hashes():
        return entry_of(attack).code_sha, entry_of(recipe, "adv", "recipe").code_sha

    before = hashes()
    (house / "attacks" / "_other.py").write_text("x = 2\n")
    attack.write_bytes(attack.read_bytes().replace(b"\n", b"\r\n"))
    assert hashes() == before
    for name in ("_deep.py", "_steps.py", "push.py"):
        path = house / "attacks" / name
        path.write_text(path.read_text() + "changed = 1\n")
        after = hashes()
        assert after[0] != before[0] and after[1] != before[1]
        before = after
    recipe.write_text(recipe.read_text() + "changed = 1\n")
    assert hashes()[0] == before[0] and hashes()[1] != before[1]


def test_a_plug_in_is_registered_by_its_entry_point(house, monkeypatch):
    package = house / "plugged_in_attacks.py"
    write(house, package.name)
    monkeypatch.syspath_prepend(str(house))
    importlib.invalidate_caches()
    point = importlib.metadata.EntryPoint("push", "plugged_in_attacks:big_push", "crossfire.attacks")
    points = {"crossfire.attacks": [point], "crossfire.defenses": []}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points[group])
    assert registry.entries("attack")["big-push"].path == package
    forget()
    says = {
        "no_such_module:x": ": no module no_such_module",
        "plugged_in_attacks:gone": f": {package} has no gone with a crossfire decorator",
        "plugged_in_attacks.inside:x": ": no module plugged_in_attacks.inside",
        "sys:x": ": no module sys that lies in a file",
        "": ": no module ",
    }
    points["crossfire.defenses"] = [importlib.metadata.EntryPoint("x", value, "crossfire.defenses") for value in says]
    # Only the broken entry points are left out.
    assert list(registry.entries("attack")) == ["big-push"]
    for (_, message), text in zip(registry.unread(), says.values(), strict=True):
        assert text in message
    assert "plug-in crossfire.defenses 'x': no module no_such_module" in line(registry.find, "recipe", "no-such-module")


def test_loading_gives_the_decorated_object_once(tmp_path):
    path = write(tmp_path, raises="")
    method = entry_of(path).load()
    # The decorator hands back the function itself: parameters and defaults are those of the file.
    assert isinstance(method, types.FunctionType) and method.__module__ != __name__
    assert method.__name__ == "big_push" and method.__kwdefaults__ == {
        "steps": 20,
        "size": Fraction(8, 255),
        "rule": "a",
    }
    assert method(None, None, None, None) is None
    assert entry_of(path).load() is method


def test_the_real_house_loads_whole():
    for kind in ("attack", "recipe", "test-time", "network"):
        assert registry.entries(kind)
        for name, entry in registry.entries(kind).items():
            assert entry.name == name and entry.summary.endswith("."), f"{entry.path}: the first line is no sentence"
            if entry.available:
                assert callable(entry.load())
            for preset in entry.meta.get("presets") or {}:
                entry.arguments({**entry.meta["presets"][preset]})


def test_user_modules_do_not_shadow_packages(tmp_path):
    path = write(tmp_path, "json.py", raises="")
    method = entry_of(path).load()
    assert method.__module__.startswith("crossfire_user_")
    assert Path(importlib.import_module("json").__file__).parent.name == "json"


def test_the_reference_to_a_method_in_a_file_finds_it_again(tmp_path):
    ref = entry_of(write(tmp_path)).ref({})
    assert registry.find(ref.kind, ref.name).code_sha == ref.code_sha
