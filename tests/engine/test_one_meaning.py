"""A method counts only if the parameters that are read belong to the code that runs."""

import pytest

from bench import registry
from bench.methods.tree import meanings, parsed
from bench.types import UsageError

HEAD = "from bench.api import attack, defense\nimport sys\n"
METHOD = '@attack(norms=("linf",), passes="none")\ndef ev(target, x, y, threat, *, a: int = {}):\n    return {}\n'
GOOD = METHOD.replace("ev", "good").format(3, 3)


def write(folder, below, above=""):
    path = folder / "method.py"
    path.write_text(HEAD + above + METHOD.format(1, 1) + below + GOOD)
    return path


SEEN = {
    "the same decorator": METHOD.format(2, 2),
    "a function": "def ev(): ...\n",
    "a class": "class ev: ...\n",
    "an assignment": "ev = print\n",
    "one of several targets": "a, (b, *ev) = 1, (2, 3)\n",
    "an annotated assignment": "ev: object = 1\n",
    "an augmented assignment": "ev += 1\n",
    "an import": "import os as ev\n",
    "a submodule": "import ev.part\n",
    "an import from": "from os import path as ev\n",
    "for": "for ev in (): pass\n",
    "with": "with open('x') as ev: pass\n",
    "except": "try: pass\nexcept ValueError as ev: pass\n",
    "match": "match 1:\n    case {'a': [ev, *_]}: pass\n",
    "walrus": "print([ev := 1 for _ in ()])\n",
    "del": "del ev\n",
    "under if": "if True:\n    def ev(): ...\n",
    "under else in try": "try:\n    pass\nfinally:\n    if 0: pass\n    else:\n        ev = 1\n",
    "in a case": "match 1:\n    case 1:\n        ev = 2\n",
    "a type": "type ev = int\n",
}


@pytest.mark.parametrize("below", SEEN.values(), ids=SEEN)
def test_a_name_with_two_meanings_is_no_method_and_the_rest_of_the_file_is(tmp_path, below):
    try:
        path = write(tmp_path, below)
        parsed(path.read_bytes())
    except ValueError:
        pytest.skip("this version of Python does not have that statement")
    with pytest.raises(UsageError) as caught:
        registry.find("attack", f"{path}:ev")
    assert f"{path}:4: ev is given another meaning in line " in str(caught.value) and "\n" not in str(caught.value)
    assert registry.find("attack", f"{path}:good").defaults() == {"a": 3}


@pytest.mark.parametrize(
    "below",
    [
        "def other(ev):\n    ev = 1\n",
        "class Other:\n    ev = 1\n",
        "b = [ev for ev in ()], lambda ev: ev\n",
        "other = ev\n",
        "print(ev)\n",
        "ev.note = 1\n",
        "ev: object\n",
    ],
)
def test_what_does_not_touch_the_name_is_no_second_meaning(tmp_path, below):
    path = write(tmp_path, below.replace("print", "id"))
    assert registry.find("attack", f"{path}:ev").load()(None, None, None, None) == 1


@pytest.mark.parametrize("wraps", ["functools.wraps(f)", "id"])
def test_a_method_with_decorators_of_its_own_is_what_they_make(tmp_path, wraps):
    text = "import functools\ndef twice(f):\n    def inner(*a, **k):\n        return 2 * f(*a, **k)\n"
    text += "    return functools.wraps(f)(inner)\n" if wraps != "id" else "    return inner\n"
    path = tmp_path / "method.py"
    path.write_text(HEAD + text + METHOD.format(1, 1).replace("\ndef ev", "\n@twice\ndef ev"))
    assert registry.find("attack", f"{path}:ev").load()(None, None, None, None) == 2


def test_a_comment_above_a_method_changes_nothing_for_who_loaded_it_before(tmp_path):
    path = write(tmp_path, "")
    first = registry.find("attack", f"{path}:ev").load()
    path.write_text("# A comment.\n\n" + path.read_text())
    assert registry.find("attack", f"{path}:ev").load() is first


def test_a_name_of_two_methods_is_said_with_what_to_write_instead(tmp_path):
    path = tmp_path / "method.py"
    path.write_text(HEAD + METHOD.replace("ev", "big_push").format(1, 1) + METHOD.replace("ev", "bigPush").format(2, 2))
    with pytest.raises(UsageError, match="write big_push or bigPush after the colon"):
        registry.find("attack", f"{path}:big-push")
    assert registry.find("attack", f"{path}:bigPush").load()(None, None, None, None) == 2


@pytest.mark.parametrize("kind", ["attack", "library", "recipe", "test-time", "network"])
def test_every_shipped_method_is_what_was_read_of_it(kind):
    for entry in registry.entries(kind).values():
        if entry.available:
            assert entry.load().__name__ == entry.symbol


def test_very_many_branches_are_read():
    text = "if 0: a = 0\n" + "".join(f"elif {n}: a = {n}\n" for n in range(1, 500))
    assert len(meanings(parsed(text.encode()))["a"]) == 500
