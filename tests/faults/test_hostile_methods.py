"""Methods whose errors, prints, warnings and parameters hold anything: their own cells say so, and nothing steers."""

import pytest

from bench.cli import main
from bench.store.working_store import Store
from bench.visible import visible
from tests.schedule import small

METHODS = r'''
import logging, sys, warnings
from bench.api import attack

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Odd(Exception):
    pass

Odd.__name__ = "Odd\x1b[31m\n"

@attack(norms=("linf",), passes="0")
def mute(target, x, y, threat):
    """Its error cannot say what it is."""
    raise Mute()

@attack(norms=("linf",), passes="0")
def odd(target, x, y, threat):
    """Its error \x1b[31m steers."""
    raise Odd("\x1b]52;c;x\x07\udcff\u202e\nnext line")

@attack(norms=("linf",), passes="0")
def huge(target, x, y, threat):
    """Its error is long."""
    raise ValueError("x" * 10**7)

@attack(norms=("linf",), passes="0")
def loud(target, x, y, threat, *, mode: str = "[red]\u00e9"):
    """It prints, logs and closes what is not its own."""
    print("\x1b[2J\udc80")
    sys.stderr.write("\x1b[2J\n")
    logging.getLogger("crossfire").warning("one\x1b[31m\nerror: two")
    logging.getLogger("elsewhere").warning("\x1b[31m")
    warnings.warn("\x1b[31m")
    sys.stdout.close()
    return x
'''


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "methods.py").write_text(METHODS)
    text = small.CONFIG.replace("n = 140", "n = 24").replace("epochs = 2", "epochs = 1").partition("[[defenses]]")[0]
    text += '[[defenses]]\nuse = "standard"\n'
    for name in ("mute", "odd", "huge", "loud"):
        text += f'[[attacks]]\nuse = "{folder}/methods.py:{name}"\neps = "0.1"\n'
    return folder, text


def test_a_method_steers_nothing_by_what_it_says(ran, capsys):
    folder, text = ran
    assert small.run(folder, text=text) == 3
    for shown in capsys.readouterr():
        assert visible(shown, lines=True) == shown
        assert not any(line.startswith("error: two") for line in shown.splitlines())
    results = {r.names.attack: r for r in Store(folder / "store").results()}
    said = {name.partition("@")[0]: (r.error.kind, r.error.message) for name, r in results.items() if r.error}
    assert said["odd"] == (r"Odd\x1b[31m\n", r"\x1b]52;c;x\x07\udcff\u202e")
    assert said["mute"][0] == "MethodError" and "raised Mute, whose text cannot be made" in said["mute"][1]
    assert said["huge"][0] == "ValueError" and len(said["huge"][1]) <= 10_000
    assert {r.status for name, r in results.items() if name in ("clean", "loud")} == {"done"}
    assert sum(path.stat().st_size for path in folder.rglob("cells/*.json")) < 10**6
    for key in (r.key for r in results.values()):
        assert main(["show", key, "--store", str(folder / "store")]) == 0
    assert main(["show", "--log", "--store", str(folder / "store")]) == 0
    out, err = capsys.readouterr()
    assert err == "" and visible(out, lines=True) == out and "[red]" in out
