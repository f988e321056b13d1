"""Defenses whose truth is known: the verdict and the flags come out right for each."""

from fractions import Fraction
from itertools import chain

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from bench import draws
from bench.data import open_set
from bench.report.leaderboard.soundness import across
from bench.report.leaderboard.tables import build
from bench.report.receipts.passes import remark
from tests.adaptive.conftest import COST, EPS, HEAD, KNOWN, N, fragile, means, robust, summary_of
from tests.adaptive.known import checkerboard

EPSILON = float(Fraction(EPS))
ALL = ("noise", "pgd", "apgd-t", "square")


@pytest.fixture(scope="module")
def results(known):
    code, run_results = known
    assert code == 3, "the detached step fails in its own cells, and the others go on"
    return run_results


@pytest.fixture(scope="module")
def images():
    data = open_set("digits", "test", folder=None, image_size=None, interpolation="bilinear")
    return torch.from_numpy(data.images[:N].copy()).float() / 255, torch.from_numpy(data.labels[:N].copy())


def truly_robust(images, weight, bias, eps):
    """Return which images no change within eps and the box can break: a linear program with a closed form."""
    x, y = images[0].flatten(1), images[1]
    lower, upper = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    robust_images = torch.ones(len(x), dtype=torch.bool)
    for k in range(10):
        weight_diff = weight[k] - weight[y]
        max_margin = torch.maximum(weight_diff * lower, weight_diff * upper).sum(1) + bias[k] - bias[y]
        robust_images &= (max_margin < 0) | (y == k)
    return robust_images


def cells(results, defense, access, *attacks):
    return [
        each
        for each in results
        if each.names.defense.partition("@")[0] == defense
        and each.names.access == access
        and each.names.attack in (attacks or ALL)
    ]


def survivors(results, defense, access):
    return torch.stack([robust(each) for each in cells(results, defense, access)]).all(0)


@pytest.mark.parametrize(
    ("defense", "linear"), [("weights:means.safetensors", means), ("weights:fragile.safetensors", fragile)]
)
def test_a_linear_network_is_as_robust_as_it_is(results, images, defense, linear):
    truth = truly_robust(images, *linear(), EPSILON)
    measured = survivors(results, defense, "white-box")
    assert bool((measured | ~truth).all()), "nothing breaks what cannot be broken"
    assert int((measured & ~truth).sum()) <= 1
    assert 0.05 < float(truth.float().mean()) < 0.9
    assert all(not each.flags for each in cells(results, defense, "white-box"))


def test_a_step_that_is_robust_by_construction_is_as_robust_as_it_is(results, images):
    weight, bias = fragile()
    board = checkerboard(torch.zeros(1, 1, 8, 8)).flatten()
    truth = truly_robust(images, weight - (weight @ board / 64)[:, None] * board, bias, EPSILON)
    measured = survivors(results, "projected", "adaptive")
    assert bool((measured | ~truth).all())
    assert int((measured & ~truth).sum()) <= 1
    step = summary_of(results, "projected", *ALL)
    assert step.judgement.base == "weights:fragile.safetensors"
    assert step.worst["adaptive"].footnotes == ()
    # What attacked it here would hardly have shown that it falls.
    assert step.judgement.verdict == "upper bound only"
    lacking = ("gradient attacks at one length only", "no black-box attack at two lengths")
    assert step.judgement.reasons == lacking


def test_a_step_that_is_robust_by_construction_holds(run, weights):
    code, results = run(f"""worst_case = true
{HEAD}
[[defenses]]
use = "weights:{weights / "fragile"}.safetensors"
[[defenses]]
use = "{KNOWN}:Projected"
base = "weights:{weights / "fragile"}.safetensors"
[[attacks]]
use = "apgd-t"
eps = "{EPS}"
steps = [10, 20]
targets = 9
[[attacks]]
use = "square"
eps = "{EPS}"
queries = [300, 600]
""")
    assert code == 0
    (table,) = build(results).tables
    step = next(s for s in table.threats if s.defense.partition("@")[0] == "projected")
    assert (step.judgement.verdict, step.judgement.reasons) == ("holds", ())


@pytest.mark.parametrize("defense", ["saturated", "quantised"])
def test_masked_gradients_are_no_robustness(results, defense):
    masked = summary_of(results, defense, "pgd")
    assert masked.worst["adaptive"].number > 0.85, "or there would be nothing to be taken in by"
    assert "upper bound only: transfer-beats-adaptive, zero-gradient" in masked.worst["adaptive"].footnotes
    # The static images undo it already, and an attack without gradients does too.
    assert masked.judgement.verdict == "broken under adaptive attack"
    adaptive_only = [r for r in results if r.names.access != "static" or r.cell.attack is None]
    assert summary_of(adaptive_only, defense, "pgd").judgement.verdict == "upper bound only"
    assert summary_of(adaptive_only, defense, "pgd", "square").judgement.verdict != "holds"
    assert "black-box-beats-gradient" in str(summary_of(results, defense, "pgd", "square").worst["adaptive"].footnotes)


def test_a_loss_that_nothing_saturates_sees_through_saturation(results):
    measured = survivors(results, "saturated", "adaptive")
    base = survivors(results, "weights:means.safetensors", "white-box")
    assert int((measured != base).sum()) <= 1


def test_a_detached_purifier_fails_instead_of_looking_robust(results):
    failed = cells(results, "detached", "adaptive", "pgd", "apgd-t")
    assert [each.status for each in failed] == ["failed"] * 2
    assert all("no gradient reaches the images" in each.error.message for each in failed)
    (square,) = cells(results, "detached", "adaptive", "square")
    assert square.status == "done" and "zero-gradient" in square.flags
    summary = summary_of(results, "detached", *ALL)
    assert summary.judgement.verdict == "broken under adaptive attack"
    assert "without 2 failed" in summary.worst["adaptive"].footnotes


def test_noise_that_is_always_the_same_is_a_shift(results, images):
    noise = 0.2 * draws.normal(0, torch.arange(1), 1, (1, 8, 8)).flatten()
    weight, bias = means()
    truth = truly_robust(images, weight, bias + weight @ noise, EPSILON)
    measured = survivors(results, "leaking", "adaptive")
    assert bool((measured | ~truth).all())
    assert int((measured & ~truth).sum()) <= 1
    assert summary_of(results, "leaking", *ALL).judgement.verdict != "holds"
    assert summary_of(results, "noisy", *ALL).judgement.verdict != "holds"


def test_a_random_step_says_how_it_was_asked(results):
    for each in cells(results, "noisy", "adaptive") + cells(results, "leaking", "static"):
        assert each.metrics.protocol == "majority-of-5"
        assert each.metrics.robust_worst <= each.metrics.robust_mean + 1e-6
        assert "randomised" in each.flags
    same = cells(results, "leaking", "adaptive", "pgd")[0].metrics
    assert same.robust_worst == pytest.approx(same.robust_mean) == pytest.approx(same.robust_accuracy)
    varying = cells(results, "noisy", "adaptive", "pgd")[0].metrics
    assert varying.robust_worst < varying.robust_mean


def test_hidden_randomness_and_probabilities_are_flagged(results):
    for defense, flag in (("secretive", "not-deterministic"), ("probable", "probabilities")):
        assert all(flag in each.flags for each in cells(results, defense, "adaptive"))
        step = summary_of(results, defense, *ALL)
        assert any(mark.startswith("upper bound only") and flag in mark for mark in step.worst["adaptive"].footnotes)
        assert step.judgement.verdict != "holds"


@pytest.mark.parametrize("defense", ["projected", "probable", "leaking"])
def test_random_noise_breaks_least(results, defense):
    least, *others = (cells(results, defense, "adaptive", name)[0].metrics.robust_accuracy for name in ALL)
    assert max(others) < least


def test_a_one_lipschitz_network_keeps_what_it_certifies(run, images, tmp_path):
    weight, bias = means()
    # Rows of norm 1/2: a difference of two logits changes by at most the L2 distance that the image moves.
    scale = 2 * weight.norm(dim=1)
    weight, bias = weight / scale[:, None], bias / scale
    save_file({"1.weight": weight.contiguous(), "1.bias": bias.contiguous()}, tmp_path / "net.safetensors")
    code, results = run(f"""
[dataset]
name = "digits"
n = {N}
[[models]]
arch = "{KNOWN}:linear"
[[defenses]]
use = "weights:{tmp_path / "net.safetensors"}"
[[attacks]]
use = "apgd-t"
norm = "l2"
eps = "0.2"
steps = 30
targets = 9
""")
    assert code == 0
    x, y = images
    logits = F.linear(x.flatten(1), weight, bias)
    gap = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    certified = gap > 0.2
    (cell,) = (each for each in results if each.cell.attack)
    assert bool((robust(cell) | ~certified).all())
    assert 0 < int(certified.sum()) <= int(robust(cell).sum()) < N
    assert cell.flags == ()


def test_queries_that_are_too_few_say_so_and_enough_reach_the_truth(run, weights, images):
    code, results = run(f"""
[dataset]
name = "digits"
n = {N}
[[models]]
arch = "{KNOWN}:linear"
[[defenses]]
use = "weights:{weights / "means.safetensors"}"
[[attacks]]
use = "square"
eps = "{EPS}"
queries = [10, 1500, 3000]
[[attacks]]
use = "square"
eps = "{EPS}"
queries = 10
restarts = 20
""")
    assert code == 0
    by_effort = {}
    for each in results:
        if each.cell.attack:
            params = each.cell.attack.attack.params
            by_effort[params["queries"], params["restarts"]] = each
    survivors_of = {effort: int(robust(each).sum()) for effort, each in by_effort.items()}
    true_count = int(truly_robust(images, *means(), EPSILON).sum())
    # One image needs more luck than most draws have.
    assert all(true_count <= survivors_of[queries, 1] <= true_count + 1 for queries in (1500, 3000))
    assert true_count + 5 < survivors_of[10, 20] < survivors_of[10, 1]

    def flagged(*efforts):
        return set(chain.from_iterable(across([by_effort[effort] for effort in efforts]).values()))

    assert flagged((10, 1), (1500, 1)) == flagged((10, 1), (10, 20)) == {"steps-not-converged"}
    assert flagged((10, 1), (1500, 1), (3000, 1)) == set()


PAST = '''
import torch
from torch.nn.functional import one_hot
from bench.api import defense


class Hard(torch.nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        answers = one_hot(self.base(x).argmax(1), 10).float()
        return answers + 0 * x.flatten(1).sum(1, keepdim=True)


@defense(kind="test-time")
class Past:
    """Offers a gradient that is zero and goes past the network."""

    def wrap(self, base):
        return Hard(base)

    surrogate = wrap
'''


def test_honest_passes_back_are_those_of_the_settings_also_where_gradients_are_zero(known, run, weights, tmp_path):
    _, results = known
    flat = [each for each in results if each.status == "done" and "zero-gradient" in each.flags and each.cell.attack]
    backwards = [each.cost.backwards_per_example for each in flat if each.names.attack in ("pgd", "apgd-t")]
    assert len(backwards) == 4 and min(backwards) > 15
    assert [remark(each) for each in flat] == [None] * len(flat)
    # Half of them are not those of such a run, whatever is stated of it.
    for each in (each for each in flat if each.names.attack == "pgd" and each.names.defense.startswith("quantised")):
        few = each.cost.model_copy(update={"backwards_per_example": each.cost.backwards_per_example / 2})
        assert "pgd with its settings takes" in remark(each.model_copy(update={"cost": few}))
    (tmp_path / "past.py").write_text(PAST, encoding="utf-8")
    base = f"weights:{weights / 'means'}.safetensors"
    step = f'[[defenses]]\nuse = "{tmp_path / "past.py"}:Past"\nbase = "{base}"\n'
    attack = f'[[attacks]]\nuse = "pgd"\neps = "{EPS}"\naccess = ["adaptive"]\n{COST["pgd"]}\n'
    code, past = run(f'{HEAD}[[defenses]]\nuse = "{base}"\n{step}{attack}')
    (one,) = [each for each in past if each.names.access == "adaptive" and each.cell.attack]
    assert code == 0 and "zero-gradient" in one.flags
    assert (one.cost.forwards_per_example > 15, one.cost.backwards_per_example, remark(one)) == (True, 0, None)
    assert "pgd with its settings takes" in remark(one.model_copy(update={"flags": ()}))
