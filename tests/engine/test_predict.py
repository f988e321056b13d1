"""The passes that a method states are numbers that a plan can reckon with."""

import json

import pytest

from bench import registry
from bench.cli import main
from bench.schedule.predict import passes_of
from bench.store import Store
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
    found = passes_of(entry.meta["passes"], entry.defaults())
    needs = entry.meta.get("needs", "gradient")
    assert found is not None and (found.forwards >= 1) == (needs != "nothing")
    assert found is not None and (found.backwards > 0) == (needs == "gradient")


def test_images_that_are_wrong_clean_are_not_reckoned_to_be_attacked(tmp_path, capsys):
    attacks = ("small-cnn/fgsm-at/pgd/white-box", "small-cnn/tpap/pgd/adaptive", "small-cnn/fgsm-at/fgsm/white-box")

    def planned():
        capsys.readouterr()
        assert main(["plan", small.write(tmp_path), "--store", str(tmp_path / "store"), "--json"]) == 0
        found = {each["what"]: each["tflop"] for each in json.loads(capsys.readouterr().out)}
        return {name: next(v for what, v in found.items() if what.endswith(name)) for name in attacks}

    before = planned()
    assert small.run(tmp_path, "--only", "*/clean/*") == 0
    right = {r.names.defense: r.metrics.clean_accuracy for r in Store(tmp_path / "store").results()}
    assert all(0 < share < 1 for share in right.values())
    after = planned()
    assert after[attacks[0]] == pytest.approx(before[attacks[0]] / 0.9 * right["fgsm-at"])
    assert after[attacks[1]] == pytest.approx(before[attacks[1]] / 0.9 * right["tpap"])
    assert after[attacks[2]] == before[attacks[2]], "one step is taken whatever the image"
