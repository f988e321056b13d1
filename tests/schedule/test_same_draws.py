"""Edits between two runs on one store: what is measured again, and with which random numbers."""

import shutil

import pytest

from bench.config import sections
from bench.keys import Keys, comparison_key, seed_of, training_key, version_of
from bench.keys import key_of as key_under
from bench.report.leaderboard.tables import build
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import DataRef, jsonable
from tests.schedule import small

ATTACK = '''
from bench.api import attack

@attack(norms=("linf",), passes="1 forwards")
def scatter(target, x, y, threat, *, steps: int = 1):
    """Uniform noise."""
    return (x + target.uniform(x, -float(threat.eps), float(threat.eps))).clamp(0.0, 1.0)
'''

RECIPE = '''
from torch.nn import functional as F

from bench.api import defense

@defense(kind="recipe")
def noisy(step, x, y):
    """Training on noise."""
    return F.cross_entropy(step.net(x + 0.1 * step.normal(x)), y)
'''

STEP = '''
from torch import nn

from bench.api import Draws, defense

class Noisy(nn.Module):
    def __init__(self, base, draws):
        super().__init__()
        self.base, self.draws = base, draws

    def forward(self, x):
        return self.base(x + 0.1 * self.draws.normal(x))

@defense(kind="test-time", randomised=True, base="standard")
class Noise:
    """Noise added at the door."""

    def __init__(self):
        self.draws = Draws()

    def wrap(self, base):
        return Noisy(base, self.draws)

    surrogate = wrap
'''

FILES = {"scatter.py": ATTACK, "noisy.py": RECIPE, "noise.py": STEP}

CONFIG = (
    f"""
schema = 1
name = "own"
{small.DIGITS}"""
    + """
[train]
epochs = 1
batch = 50

[[defenses]]
use = "{folder}/noisy.py:noisy"

[[defenses]]
use = "{folder}/noise.py:Noise"
base = "{folder}/noisy.py:noisy"

[[attacks]]
use = "{folder}/scatter.py:scatter"
eps = "0.3"
access = ["static", "adaptive"]
"""
)


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder):
    assert small.run(folder, text=CONFIG.format(folder=folder)) == 0
    return small.events(folder, "done", "crafted", "trained")


def answers(folder):
    """Return the bits of every result, by name and protocol; keys left out."""
    return {
        str(r.names): (r.clean_bits, r.adversarial_bits, r.metrics.mean_l2) for r in Store(folder / "store").results()
    }


def test_a_comment_measures_and_trains_nothing_again(folder):
    before = len(run(folder))
    for name, text in FILES.items():
        (folder / name).write_text(f"# A comment.\n{text}\n")
    assert len(run(folder)) == before


def test_code_that_differs_meets_the_same_random_numbers(folder):
    before = len(run(folder))
    first = answers(folder)
    shutil.move(folder / "store", folder / "first")
    for name, text in FILES.items():
        (folder / name).write_text(text + "\nCHANGED = 1\n")
    assert len(run(folder)) == before
    assert answers(folder) == first
    old, new = ({r.key for r in Store(folder / each).results()} for each in ("first", "store"))
    assert not old & new
    old, new = ({path.name for path in (folder / each / "train").iterdir()} for each in ("first", "store"))
    assert not old & new


def test_a_method_of_another_name_or_place_meets_the_same_random_numbers(folder):
    run(folder)
    first = answers(folder)
    shutil.move(folder / "store", folder / "first")
    (folder / "scatter.py").unlink()
    (folder / "moved.py").write_text(ATTACK.replace("scatter", "strewn"))
    text = CONFIG.replace("scatter.py:scatter", "moved.py:strewn").format(folder=folder)
    assert small.run(folder, text=text) == 0
    assert {name.replace("strewn", "scatter"): bits for name, bits in answers(folder).items()} == first


def test_results_of_the_first_protocol_are_said_kept_and_measured_anew(folder, capsys):
    run(folder)
    store = Store(folder / "store")
    results = list(store.results())
    for result in results:
        # Tables order results by the second, so the old ones need an earlier one.
        earlier = result.provenance.model_copy(update={"finished": "2026-01-01T00:00:00+00:00"})
        key = key_under(jsonable(result.cell), version=1)
        old = result.model_copy(update={"key": key, "provenance": earlier})
        store.cell_file(result.key).unlink()
        store.put(old)
    capsys.readouterr()
    run(folder)
    output = capsys.readouterr().out
    assert (
        f"{len(results)} results of an older evaluation protocol are kept, shown as such, and not used here" in output
    )
    versions = sorted(version_of(r.key, r.cell) for r in store.results())
    assert versions == [1] * len(results) + [2] * len(results)
    # The tables show the new results instead of the old ones. The order of lines is that in which cells were finished.
    assert {frozenset(table.notes) for table in build(store.results()).tables} == {
        frozenset(table.notes) for table in build(r for r in store.results() if version_of(r.key, r.cell) == 2).tables
    }
    run(folder)
    assert "older evaluation protocol" not in capsys.readouterr().out


def test_the_attack_that_chooses_an_epoch_is_part_of_the_key(tmp_path):
    def weights(holdout):
        text = small.CONFIG.replace("epochs = 2", f"epochs = 2\nholdout = {holdout}")
        (model,) = {
            training_key(planned.cell.model): planned.cell.model
            for planned in make(sections.load(small.write(tmp_path, text))).plan.cells
        }.values()
        return model

    assert weights(0).weights.chosen_by is None
    chosen = weights(10)
    attack = chosen.weights.chosen_by
    assert (attack.name, attack.params["steps"]) == ("pgd", 20)
    other = attack.model_copy(update={"code_sha": "0"})
    edited_pgd = chosen.model_copy(update={"weights": chosen.weights.model_copy(update={"chosen_by": other})})
    assert training_key(edited_pgd) != training_key(chosen)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    plan = make(sections.load(small.write(tmp_path_factory.mktemp("plan")))).plan
    return [planned.cell for planned in plan.cells]


def moved(value, **names):
    """Return a part of a cell whose images and weights have other names."""
    if isinstance(value, DataRef):
        return value.model_copy(update=names)
    if isinstance(value, tuple):
        return value
    fields = {name: getattr(value, name) for name in getattr(type(value), "model_fields", ())}
    return value.model_copy(update={k: moved(v, **names) for k, v in fields.items()}) if fields else value


def edited(value):
    """Return a part of a cell as if all its methods had other code."""
    if isinstance(value, tuple):
        return tuple(map(edited, value))
    if "code_sha" in getattr(type(value), "model_fields", ()):
        return value.model_copy(update={"code_sha": "0" * 64})
    fields = {name: getattr(value, name) for name in getattr(type(value), "model_fields", ())}
    return value.model_copy(update={k: edited(v) for k, v in fields.items()}) if fields else value


def test_the_same_images_under_another_path_have_the_same_keys(cells):
    for cell in cells:
        other = moved(cell, name="folder:/elsewhere")
        assert other != cell and other.model.weights.data.name == "folder:/elsewhere"
        assert Keys().of(other) == Keys().of(cell)
        assert training_key(other.model) == training_key(cell.model)
        assert comparison_key(other) == comparison_key(cell) and seed_of(other) == seed_of(cell)
        assert Keys().of(moved(cell, data_sha="0")) != Keys().of(cell)
        assert seed_of(moved(cell, data_sha="0")) != seed_of(cell)


def test_other_code_has_another_key_and_asks_the_same(cells):
    for cell in cells:
        other = edited(cell)
        assert Keys().of(other) != Keys().of(cell)
        assert comparison_key(other) == comparison_key(cell) and seed_of(other) == seed_of(cell)
        if cell.attack is not None:
            assert seed_of(other.attack) == seed_of(cell.attack)
            assert seed_of(cell.attack) != seed_of(cell.attack.model_copy(update={"seed": 7}))
    assert len({seed_of(cell) for cell in cells}) == len({comparison_key(cell) for cell in cells}) == len(cells)


def test_keys_of_the_first_protocol_are_known_as_such(cells):
    for cell in cells:
        assert version_of(Keys().of(cell), cell) == 2
        assert version_of(key_under(jsonable(cell), version=1), cell) == 1
        assert version_of(key_under(jsonable(cell), version=2), cell) is None
