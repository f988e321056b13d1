"""Worst-case mode: the verdict for every image is that of the whole suite, at less than its price."""

import base64
from functools import reduce
from operator import and_

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from bench import config
from bench.evaluate import DRAWS, SURVIVORS_ONLY, Step, _survivors
from bench.keys import EVALUATION_VERSION, key_of
from bench.report.board import build
from bench.schedule.plan import attack_key, make
from bench.store import Store
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
from bench.api import Target, Threat, attack


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
    """Results by name, once with every attack on all images and once as a suite, and the folder of the latter."""
    found = []
    for text in (without_draws(HEAD + ATTACKS), suite(without_draws(HEAD + ATTACKS))):
        folder = tmp_path_factory.mktemp("run")
        assert small.run(folder, text=text) == 0
        found.append({str(result.names): result for result in Store(folder / "store").results()})
    return *found, folder


def robust(result):
    clean, attacked = (base64.b64decode(bits) for bits in (result.clean_bits, result.adversarial_bits))
    return int.from_bytes(clean, "big") & int.from_bytes(attacked, "big")


@pytest.mark.parametrize("attacks", [("fgsm", "mi-fgsm"), ("ddn", "cw")])
@pytest.mark.parametrize("defense", ["fgsm-at/{}/white-box", "tpap/{}/adaptive"])
def test_the_last_attack_leaves_what_survives_all_of_them(both, attacks, defense):
    whole, suite, _ = both
    names = [f"digits/small-cnn/{defense.format(attack)}" for attack in attacks]
    expected = [reduce(and_, (robust(whole[name]) for name in names[: i + 1])) for i in range(len(names))]
    assert [robust(suite[name]) for name in names] == expected
    assert 0 < expected[-1].bit_count() < whole[names[0]].cell.data.n


def test_broken_images_cost_nothing_more_and_stay_as_they_are(both):
    whole, suite, folder = both
    store = Store(folder / "store")
    before, after = (suite[f"digits/small-cnn/tpap/{attack}/adaptive"] for attack in ("fgsm", "mi-fgsm"))
    assert SURVIVORS_ONLY in after.flags
    assert SURVIVORS_ONLY not in before.flags
    first, then = (pq.read_table(store.records(each.key)).to_pandas() for each in (before, after))
    assert ((then.forwards == 0) == ~first.robust).all()
    assert (then.adversarial[~first.robust] == first.adversarial[~first.robust]).all()
    alone = whole["digits/small-cnn/tpap/mi-fgsm/adaptive"]
    assert after.cost.flops_per_example < alone.cost.flops_per_example


def test_a_static_set_and_the_first_attack_are_those_of_any_run(both):
    whole, suite, _ = both
    for name in ("tpap/fgsm/static", "tpap/fgsm/adaptive", "fgsm-at/fgsm/white-box"):
        assert suite[f"digits/small-cnn/{name}"].key == whole[f"digits/small-cnn/{name}"].key
    name = "digits/small-cnn/tpap/mi-fgsm/adaptive"
    assert suite[name].key != whole[name].key


def test_the_table_says_what_was_spared(both):
    _, suite, _ = both
    (table,) = build(suite.values()).tables
    (note,) = [note for note in table.notes if note.startswith("worst-case mode")]
    shares = [
        1 - suite[f"digits/small-cnn/{before}"].metrics.robust_accuracy
        for before in ("tpap/fgsm/adaptive", "tpap/ddn/adaptive", "fgsm-at/ddn/white-box")
    ]
    assert f"spared {100 * sum(shares) / 3:.0f} % of them" in note


def test_cheapest_first_but_black_boxes_last(tmp_path):
    work = make(config.load(small.write(tmp_path, suite(HEAD + ATTACKS))))
    sets = [cell.cell.attack for cell in work.plan.cells if cell.cell.access == "adaptive"]
    assert [each.attack.name for each in sets] == ["fgsm", "mi-fgsm", "apgd-dlr", "square"]
    assert [[link.attack.name for link in each.after] for each in sets] == [
        [each.attack.name for each in sets[:i]] for i in range(4)
    ]
    assert [each.previous for each in sets] == [None, *sets[:3]]


def test_keys_are_those_of_the_text(tmp_path):
    work = make(config.load(small.write(tmp_path, suite(HEAD + ATTACKS))))
    for planned in work.plan.cells:
        assert planned.key == key_of(jsonable(planned.cell), version=EVALUATION_VERSION)
        assert planned.cell.attack is None or ("after" in jsonable(planned.cell.attack)) == bool(
            planned.cell.attack.after
        )
    keys = [attack_key(p.cell.attack) for p in work.plan.cells if p.cell.access == "adaptive"]
    assert len(set(keys)) == len(keys)


def test_an_attack_that_fails_does_not_stop_the_suite(tmp_path):
    (tmp_path / "mine.py").write_text(FAILING)
    more = f'\n[[attacks]]\nuse = "{tmp_path}/mine.py:failing"\neps = "0.05"\naccess = ["adaptive"]\n'
    assert small.run(tmp_path, "--only", "tpap", text=suite(HEAD + ATTACKS + more)) == 3
    found = {r.names.attack: r for r in Store(tmp_path / "store").results() if r.names.access == "adaptive"}
    assert found["failing"].error.message == "not today"
    assert {name: each.status for name, each in found.items() if name != "failing"} == dict.fromkeys(
        ("fgsm", "mi-fgsm", "apgd-dlr", "square"), "done"
    )
    assert robust(found["mi-fgsm"]) & ~robust(found["fgsm"]) == 0
    assert robust(found["square"]) & ~robust(found["apgd-dlr"]) == 0
    assert any("earlier-attack-failed" in each.flags for each in found.values())


class Coin(nn.Module):
    """Right by the toss of a coin, more often for lighter images."""

    def __init__(self, rng):
        super().__init__()
        self.rng = rng

    def forward(self, x):
        right = torch.rand(len(x), generator=self.rng) < x[:, 0, 0, 0]
        return torch.stack([right.float(), (~right).float()], 1)


def test_a_random_function_is_not_broken_by_one_lucky_answer():
    rng = torch.Generator()
    step = Step(Coin(rng), Coin(rng), rng)
    x = torch.linspace(0, 1, 200)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    y = torch.zeros(200, dtype=torch.int64)
    left = _survivors(step, step.deployed, x, y, x, 64, seed=("coin",))
    # An image that is right with chance p is broken, clean or attacked, with chance 1 - (1 - (1 - p)^k)^2.
    p = x[:, 0, 0, 0]
    expected = float(((1 - (1 - p) ** DRAWS) ** 2).sum())
    assert abs(len(left) - expected) < 4 * 200**0.5 / 2
    assert set(range(180, 200)) <= set(left.tolist())


def test_nothing_is_attacked_where_nothing_is_left(tmp_path):
    text = HEAD + ATTACKS.replace('"0.05"', "1.0")
    assert small.run(tmp_path, "--only", "white-box", "--n", "20", text=suite(text)) == 0
    found = {r.names.attack: r for r in Store(tmp_path / "store").results() if r.cell.attack and not r.cell.step}
    assert found["square"].metrics.robust_accuracy == 0
    assert min(each.cost.forwards_per_example for each in found.values()) == 0
