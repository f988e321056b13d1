"""The passes that a method states are numbers that a plan can reckon with."""

import pytest

from bench import registry
from bench.schedule.predict import passes_of


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
