"""A plan computes costs from the passes that a method declares."""

import json
import warnings

import pytest

from bench import registry
from bench.cli import main
from bench.evaluation.passes import passes_of
from bench.store.working_store import Store
from tests.schedule import small


@pytest.mark.parametrize(
    ("formula", "params", "passes"),
    [
        ("1 forward + 1 backward", {}, (1, 1)),
        ("steps forwards + 2 x steps backwards, fewer where images break early", {"steps": 7}, (7, 14)),
        ("restarts x (steps + 1) - 1 forwards + restarts x steps backwards", {"steps": 20, "restarts": 5}, (104, 100)),
        ("queries forwards, fewer where images break early", {"queries": 5000}, (5000, 0)),
        ("at most 101 + 9 x 102 forwards + 101 backwards (standard), none once broken", {}, (1019, 101)),
        ("as many as the library likes", {}, None),
        ("steps forwards", {"steps": "many"}, None),
        ("__import__('os') forwards", {}, None),
    ],
)
def test_formulas(formula, params, passes):
    assert passes_of(formula, params) == passes


@pytest.mark.parametrize("name", registry.entries("attack"))
def test_every_attack_of_the_zoo_states_what_it_costs(name):
    entry = registry.entries("attack")[name]
    passes = passes_of(entry.meta["passes"], entry.defaults())
    needs = entry.meta.get("needs", "gradient")
    assert passes is not None and (passes.forwards >= 1) == (needs != "nothing")
    assert passes is not None and (passes.backwards > 0) == (needs == "gradient")


def test_images_that_are_wrong_clean_are_not_reckoned_to_be_attacked(tmp_path, capsys):
    attacks = ("small-cnn/fgsm-at/pgd/white-box", "small-cnn/tpap/pgd/adaptive", "small-cnn/fgsm-at/fgsm/white-box")

    def planned():
        capsys.readouterr()
        assert main(["plan", small.write(tmp_path), "--store", str(tmp_path / "store"), "--json"]) == 0
        tflops = {each["what"]: each["tflop"] for each in json.loads(capsys.readouterr().out)}
        return {name: next(v for piece, v in tflops.items() if piece.endswith(name)) for name in attacks}

    before = planned()
    assert small.run(tmp_path, "--only", "*/clean/*") == 0
    right = {r.names.defense: r.metrics.clean_accuracy for r in Store(tmp_path / "store").results()}
    assert all(0 < share < 1 for share in right.values())
    after = planned()
    assert after[attacks[0]] == pytest.approx(before[attacks[0]] / 0.9 * right["fgsm-at"])
    assert after[attacks[1]] == pytest.approx(before[attacks[1]] / 0.9 * right["tpap"])
    assert after[attacks[2]] == before[attacks[2]], "one step is taken whatever the image"


METHODS = """
import warnings

from bench.api import defense

def none(num_classes):
    return None

def loud(num_classes):
    warnings.simplefilter("always")
    warnings.warn("of a network")
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

@defense(kind="recipe")
def bad_recipe(step, x, y):
    warnings.warn("of a recipe")
    raise RuntimeError("no such luck\\nin two lines")

@defense(kind="test-time")
class BadStep:
    def wrap(self, base):
        warnings.warn("of a step")
        raise SystemExit(7)

    def surrogate(self, base):
        return base
"""


def failing(folder):
    """A plan of which two networks cannot be built, and a recipe and a step fail."""
    (folder / "methods.py").write_text(METHODS)
    networks = [f"{folder}/methods.py:{name}" for name in ("none", "loud")] + ["torchvision:nosuch"]
    defenses = ["standard", f"{folder}/methods.py:bad_recipe", f"{folder}/methods.py:BadStep"]
    path = folder / "failing.toml"
    path.write_text(
        'schema = 1\nname = "failing"\n[dataset]\nname = "digits"\nn = 8\ntrain_n = 40\n[train]\nepochs = 1\n'
        + "".join(f'[[models]]\narch = "{each}"\n' for each in networks)
        + "".join(f'[[defenses]]\nuse = "{each}"\n' for each in defenses)
        + '[[attacks]]\nuse = "fgsm"\neps = "0.1"\n'
    )
    return str(path)


@pytest.mark.parametrize("flag", [[], ["--cost"]], ids=["pieces", "costs"])
def test_what_cannot_be_built_or_fails_where_it_is_measured_is_said_with_its_rows(tmp_path, capsys, caplog, flag):
    with warnings.catch_warnings(record=True) as caught:
        assert main(["plan", failing(tmp_path), "--store", str(tmp_path / "store"), *flag]) == 3
    assert [str(each.message) for each in caught if "of a" in str(each.message)] == []
    here = f"{tmp_path}/methods.py"
    messages = {message.split(" fail (")[1]: message for message in caplog.messages if " fail (" in message}
    assert not any("\n" in message for message in messages)
    (none,) = (each for each in messages if "returned NoneType" in each)
    (nosuch,) = (each for each in messages if "unknown torchvision classifier 'nosuch'" in each)
    (recipe,) = (each for each in messages if each.endswith("RuntimeError: no such luck"))
    for why, network in ((none, f"{here}:none"), (nosuch, "torchvision:nosuch")):
        rows = [f"row {network}/{defense}" for defense in ("standard", "bad-recipe", "BadStep")]
        assert messages[why].startswith(f"row {network}/standard, ") and " will fail" in messages[why]
        assert messages[why].count(f"row {network}/") == len(rows)
    assert messages[recipe].startswith(f"row {here}:loud/") and " may fail" in messages[recipe]
    assert f"recipe {here}:bad_recipe fails on grey images" in recipe
    steps = [
        each
        for each in messages
        if f"test-time step {here}:BadStep fails on grey images: {here}:BadStep asked to end" in each
    ]
    assert len(steps) == (0 if flag else 1) and len(messages) == (3 if flag else 4)


def test_a_plan_runs_no_file_of_an_attack(tmp_path, capsys):
    (tmp_path / "attack.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom bench.api import attack\n"
        '@attack(norms=("linf",), passes="1 forward")\ndef mine(target, x, y, threat):\n    return x\n'
    )
    path = small.write(tmp_path, small.ONE + f'[[attacks]]\nuse = "{tmp_path}/attack.py:mine"\neps = "0.1"\n')
    assert main(["plan", path, "--store", str(tmp_path / "store")]) == 0
    assert "/mine/white-box" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()
