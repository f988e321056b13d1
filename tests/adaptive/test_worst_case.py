"""Worst-case mode: the verdict for every image is that of the whole suite, at less than its price."""

import base64
from functools import reduce
from operator import and_

import pyarrow.parquet as pq
import pytest

from bench.config import sections
from bench.evaluation.craft import SURVIVORS_ONLY
from bench.keys import EVALUATION_VERSION, attack_key, identity, key_of
from bench.report.leaderboard.tables import build
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import jsonable
from tests.schedule import small

# Attacks that draw nothing, so that they do the same to an image alone as in company. Dearest first.
ATTACKS = """
[[attacks]]
use = "apgd-dlr"
eps = "0.05"
steps = 5
access = ["adaptive"]

[[attacks]]
use = "square"
eps = "0.05"
queries = 1
access = ["adaptive"]

[[attacks]]
use = "mi-fgsm"
eps = "0.05"
steps = 4
access = ["adaptive"]

[[attacks]]
use = "fgsm"
eps = "0.05"
"""
HEAD = small.CONFIG[: small.CONFIG.index("[[attacks]]")]
FAILING = '''
from bench.api import Draws, Target, Threat, attack


@attack(norms=("linf",), passes="2 forwards")
def failing(target, x, y, threat):
    """Fails at once."""
    raise ValueError("not today")
'''


def suite(text):
    return text.replace('name = "small"', 'name = "small"\nworst_case = true')


def without_draws(text):
    # Its start is drawn, and draws come from the key, which differs with the company.
    return text.replace('[[attacks]]\nuse = "square"\neps = "0.05"\nqueries = 1\naccess = ["adaptive"]\n', "").replace(
        '[[attacks]]\nuse = "apgd-dlr"\neps = "0.05"\nsteps = 5\naccess = ["adaptive"]\n',
        '[[attacks]]\nuse = "ddn"\nnorm = "l2"\neps = "0.5"\nsteps = 5\naccess = ["adaptive"]\n'
        '[[attacks]]\nuse = "cw"\nnorm = "l2"\neps = "0.5"\nsteps = 4\nsearches = 2\naccess = ["adaptive"]\n',
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Results by name, once with every attack on all images and once as a suite, and the folder of the suite."""
    runs = []
    for text in (without_draws(HEAD + ATTACKS), suite(without_draws(HEAD + ATTACKS))):
        folder = tmp_path_factory.mktemp("run")
        assert small.run(folder, text=text) == 0
        runs.append({str(result.names): result for result in Store(folder / "store").results()})
    return *runs, folder


def robust(result):
    clean, attacked = (base64.b64decode(bits) for bits in (result.clean_bits, result.adversarial_bits))
    return int.from_bytes(clean, "big") & int.from_bytes(attacked, "big")


@pytest.mark.parametrize("attacks", [("fgsm", "mi-fgsm"), ("ddn", "cw")])
@pytest.mark.parametrize("defense", ["fgsm-at/{}/white-box", "tpap/{}/adaptive"])
def test_the_last_attack_leaves_what_survives_all_of_them(both, attacks, defense):
    separate, suite, _ = both
    names = [f"digits/small-cnn/{defense.format(attack)}" for attack in attacks]
    expected = [reduce(and_, (robust(separate[name]) for name in names[: i + 1])) for i in range(len(names))]
    assert [robust(suite[name]) for name in names] == expected
    assert 0 < expected[-1].bit_count() < separate[names[0]].cell.data.n


def test_broken_images_cost_nothing_more_and_stay_as_they_are(both):
    separate, suite, folder = both
    store = Store(folder / "store")
    before, after = (suite[f"digits/small-cnn/tpap/{attack}/adaptive"] for attack in ("fgsm", "mi-fgsm"))
    assert SURVIVORS_ONLY in after.flags
    assert SURVIVORS_ONLY not in before.flags
    first, then = (pq.read_table(store.records(each.key)).to_pandas() for each in (before, after))
    broken = first.adversarial != first.label
    assert ((then.forwards == 0) == broken).all()
    assert (then.adversarial[broken] == first.adversarial[broken]).all()
    alone = separate["digits/small-cnn/tpap/mi-fgsm/adaptive"]
    assert after.cost.flops_per_example < alone.cost.flops_per_example


def test_a_static_set_and_the_first_attack_are_those_of_any_run(both):
    separate, suite, _ = both
    for name in ("tpap/fgsm/static", "tpap/fgsm/adaptive", "fgsm-at/fgsm/white-box"):
        assert suite[f"digits/small-cnn/{name}"].key == separate[f"digits/small-cnn/{name}"].key
    name = "digits/small-cnn/tpap/mi-fgsm/adaptive"
    assert suite[name].key != separate[name].key


def test_the_table_says_what_was_spared(both):
    _, suite, _ = both
    (table,) = build(suite.values()).tables
    (note,) = [note for note in table.notes if note.startswith("worst-case mode")]
    shares = [
        1 - suite[f"digits/small-cnn/{before}"].metrics.accuracy_under_attack
        for before in ("tpap/fgsm/adaptive", "tpap/ddn/adaptive", "fgsm-at/ddn/white-box")
    ]
    assert f"spared {100 * sum(shares) / 3:.0f} % of them" in note


def test_cheapest_first_but_black_boxes_last(tmp_path):
    work = make(sections.load(small.write(tmp_path, suite(HEAD + ATTACKS))))
    sets = [cell.cell.attack for cell in work.plan.cells if cell.cell.access == "adaptive"]
    assert [each.attack.name for each in sets] == ["fgsm", "mi-fgsm", "apgd-dlr", "square"]
    assert [[link.attack.name for link in each.after] for each in sets] == [
        [each.attack.name for each in sets[:i]] for i in range(4)
    ]
    assert [each.previous for each in sets] == [None, *sets[:3]]


def test_on_a_bare_network_an_attack_that_is_static_too_runs_apart(both, tmp_path):
    work = make(sections.load(small.write(tmp_path, suite(HEAD + ATTACKS))))
    sets = [cell.cell.attack for cell in work.plan.cells if cell.cell.access == "white-box" and cell.cell.attack]
    after = {each.attack.name: [link.attack.name for link in each.after] for each in sets}
    assert after == {"fgsm": [], "mi-fgsm": [], "apgd-dlr": ["mi-fgsm"], "square": ["mi-fgsm", "apgd-dlr"]}
    # So the worst case is that of the last column of the suite and of the one that ran apart.
    _, results, _ = both
    cells = [results[f"digits/small-cnn/fgsm-at/{attack}/white-box"] for attack in ("fgsm", "mi-fgsm")]
    (table,) = build(results.values()).tables
    (summary,) = [each for each in table.threats if each.defense == "fgsm-at" and "L∞" in each.group]
    assert summary.worst["white-box"].number == reduce(and_, map(robust, cells)).bit_count() / cells[0].cell.data.n


def test_keys_are_those_of_the_text(tmp_path):
    work = make(sections.load(small.write(tmp_path, suite(HEAD + ATTACKS))))
    for planned in work.plan.cells:
        assert planned.key == key_of(identity(planned.cell), version=EVALUATION_VERSION)
        assert planned.cell.attack is None or ("after" in jsonable(planned.cell.attack)) == bool(
            planned.cell.attack.after
        )
    keys = [attack_key(p.cell.attack) for p in work.plan.cells if p.cell.access == "adaptive"]
    assert len(set(keys)) == len(keys)


def test_an_attack_that_fails_does_not_stop_the_suite(tmp_path):
    (tmp_path / "mine.py").write_text(FAILING)
    more = f'\n[[attacks]]\nuse = "{tmp_path}/mine.py:failing"\neps = "0.05"\naccess = ["adaptive"]\n'
    assert small.run(tmp_path, "--only", "tpap", text=suite(HEAD + ATTACKS + more)) == 3
    results = {r.names.attack: r for r in Store(tmp_path / "store").results() if r.names.access == "adaptive"}
    assert results["failing"].error.message == "not today"
    assert {name: each.status for name, each in results.items() if name != "failing"} == dict.fromkeys(
        ("fgsm", "mi-fgsm", "apgd-dlr", "square"), "done"
    )
    assert robust(results["mi-fgsm"]) & ~robust(results["fgsm"]) == 0
    assert robust(results["square"]) & ~robust(results["apgd-dlr"]) == 0
    assert any("earlier-attack-failed" in each.flags for each in results.values())


RANDOM = '''
import torch
from torch import nn

from bench.api import Draws, Target, Threat, attack, defense


class Tosses(nn.Module):
    """Right with the chance that the upper left pixel says; it is black in every digit, and those are safe."""

    def __init__(self, base, draws):
        super().__init__()
        self.base, self.draws = base, draws

    def forward(self, x):
        logits = self.base(x)
        light = x[:, 0, 0, 0]
        keep = self.draws.uniform(light) < torch.where(light > 0, light, 1.0)
        return torch.where(keep[:, None], logits, -logits)


@defense(kind="test-time", randomised=True)
class Coin:
    def __init__(self):
        self.draws = Draws()

    def wrap(self, base):
        return Tosses(base, self.draws)

    def surrogate(self, base):
        return Tosses(base, self.draws)


def lit(x, light):
    out = x.clone()
    out[:, 0, 0, 0] = light
    return out


@attack(norms=("linf",), passes="1 forward")
def first(target, x, y, threat):
    """Every other image is seldom right, the others often."""
    target(x)
    return torch.where((target.uniform(x)[:, :1, :1, :1] < 0.5), lit(x, 0.1), lit(x, 0.9))


@attack(norms=("linf",), passes="2 forwards")
def second(target, x, y, threat):
    """Any image is right as often as not."""
    target(x)
    return lit(x, 0.5)
'''


def test_of_a_random_function_the_strongest_image_stays(tmp_path):
    (tmp_path / "mine.py").write_text(RANDOM)
    head = HEAD.partition("[[defenses]]")[0].replace("epochs = 2", "epochs = 12").replace("n = 100", "n = 800")
    text = f'{head}\n[[defenses]]\nuse = "{tmp_path}/mine.py:Coin"\nbase = "standard"\n'
    for name in ("first", "second"):
        text += f'[[attacks]]\nuse = "{tmp_path}/mine.py:{name}"\neps = 1.0\naccess = ["adaptive"]\n'
    assert small.run(tmp_path, text=suite(text)) == 0
    store = Store(tmp_path / "store")
    results = {r.names.attack: r for r in store.results() if r.cell.attack}
    before, after = (pq.read_table(store.records(results[name].key)).to_pandas() for name in ("first", "second"))
    low, high = (abs(before.linf - light) < 0.01 for light in (0.1, 0.9))
    assert min(low.sum(), high.sum()) > 40
    tried, stays = after.forwards > 0, abs(after.linf - before.linf) < 0.01
    # Images that were wrong in all five draws are left alone: of the weak ones hardly any.
    assert tried[high].mean() > tried[low].mean() > 0.1
    # An even chance of a right answer takes the place of nine in ten, and seldom that of one in ten.
    assert stays[tried & low].mean() > 0.5
    assert stays[tried & high].mean() < 0.3


def test_nothing_is_attacked_where_nothing_is_left(tmp_path):
    text = HEAD + ATTACKS.replace('"0.05"', "1.0")
    assert small.run(tmp_path, "--only", "white-box", "--n", "20", text=suite(text)) == 0
    results = {r.names.attack: r for r in Store(tmp_path / "store").results() if r.cell.attack and not r.cell.step}
    assert results["square"].metrics.robust_accuracy == 0
    assert min(each.cost.forwards_per_example for each in results.values()) == 0
