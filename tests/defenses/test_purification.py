"""TPAP and its relatives, which climb or descend a loss at test time."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.evaluation.target import Meter
from bench.registry import entries
from bench.types import MethodError

BETA = 8 / 255


def purified(made, x):
    return made.deployed.change(x)


def sign_of(net, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), x)[0].sign()


@pytest.fixture
def linear():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 4))
    weight = torch.randn(4, 1728, generator=torch.Generator().manual_seed(0)) / 40
    # Pixels that no class sees.
    weight[:, ::7] = 0
    net[1].weight.data = weight
    nn.init.zeros_(net[1].bias)
    return net.eval()


def test_tpap_is_one_fgsm_step_on_the_predicted_label(put, base, x):
    expected = (x + BETA * sign_of(base, x, base(x).argmax(1))).clamp(0, 1)
    made = put("tpap", base)
    assert torch.allclose(purified(made, x), expected, atol=1e-7)
    assert torch.allclose(made.deployed(x), base(expected), atol=1e-5)


def test_tpap_moves_by_beta_or_not_at_all(put, linear, x):
    inner = x * 0.8 + 0.1
    move = (purified(put("tpap", linear), inner) - inner).flatten(1)
    assert torch.allclose(move[:, ::7], torch.zeros(1))
    seen = torch.ones(1728, dtype=torch.bool)
    seen[::7] = False
    assert torch.allclose(move[:, seen].abs(), torch.tensor(BETA), atol=1e-6)


def test_tpap_raises_the_loss_of_the_predicted_label(put, linear, x):
    label = linear(x).argmax(1)
    before = F.cross_entropy(linear(x), label, reduction="none")
    after = F.cross_entropy(linear(purified(put("tpap", linear), x)), label, reduction="none")
    assert bool((after > before).all())


def test_tpap_costs_two_forwards_and_one_backward(put, base, x):
    made = put("tpap", base)
    with Meter(base, len(x)) as meter, torch.no_grad():
        made.deployed(x)
    assert (meter.forwards, meter.backwards) == (2 * len(x), len(x))


def test_the_gradient_of_tpap_is_the_true_one_inside_the_box(put, base, x):
    inner = (x * 0.8 + 0.1).requires_grad_()
    label = base(inner).argmax(1)

    def composed(images):
        (grad,) = torch.autograd.grad(F.cross_entropy(base(images), label, reduction="sum"), images, create_graph=True)
        return base(images + BETA * grad.sign())

    y = torch.zeros(len(x), dtype=torch.int64)
    (expected,) = torch.autograd.grad(F.cross_entropy(composed(inner), y), inner)
    (found,) = torch.autograd.grad(F.cross_entropy(put("tpap", base).surrogate(inner), y), inner)
    assert torch.allclose(found, expected, atol=1e-6)


def test_tpap_in_steps_stays_in_its_ball_and_takes_the_first_label(put, base, x):
    params = {"beta": "0.1", "steps": 4, "step_size": "0.06"}
    label, current = base(x).argmax(1), x
    for _ in range(4):
        current = current + 0.06 * sign_of(base, current, label)
        current = torch.minimum(torch.maximum(current, x - 0.1), x + 0.1).clamp(0, 1)
    found = purified(put("tpap", base, **params), x)
    assert torch.allclose(found, current, atol=1e-6)
    assert float((found - x).abs().max()) <= 0.1 + 1e-6


def test_many_steps_share_one_budget(put, base, x):
    one, five = (purified(put("tpap", base, steps=steps), x) for steps in (1, 5))
    assert float((five - x).abs().max()) <= BETA + 1e-6
    assert not torch.equal(one, five)


def test_descending_is_the_opposite_step(put, linear, x):
    inner = x * 0.8 + 0.1
    up, down = (purified(put("tpap", linear, direction=way), inner) for way in ("ascend", "descend"))
    assert torch.allclose(up - inner, inner - down, atol=1e-6)


def test_the_label_that_is_climbed(put, base, x):
    least = (x + BETA * sign_of(base, x, base(x).argmin(1))).clamp(0, 1)
    assert torch.allclose(purified(put("tpap", base, label="least-likely"), x), least, atol=1e-7)
    made, truth = put("tpap", base, label="true"), torch.tensor([0, 1, 2, 3, 4, 0])
    with pytest.raises(MethodError, match="labels"):
        made.deployed(x)
    made.deployed.labels = truth
    oracle = base((x + BETA * sign_of(base, x, truth)).clamp(0, 1))
    assert torch.allclose(made.deployed(x), oracle, atol=1e-5)


@pytest.mark.parametrize("params", [{"label": "random"}, {"random_start": True}])
def test_random_variants_own_a_generator(put, base, x, params):
    made = put("tpap", base, **params)
    first = made.deployed(x)
    assert not torch.equal(made.deployed(x), first)
    assert torch.equal(made.seed().deployed(x), first)


def test_a_random_start_is_uniform_in_the_ball(put, base):
    grey = torch.full((4, 3, 24, 24), 0.5)
    made = put("tpap", base, random_start=True, step_size="1/1000000")
    move = (purified(made, grey) - grey).flatten() / BETA
    assert float(move.abs().max()) <= 1 + 1e-4
    assert float(move.mean()) == pytest.approx(0, abs=0.03)
    assert float(move.var()) == pytest.approx(1 / 3, abs=0.03)


def test_the_anti_adversary_confirms_the_prediction(put, base, x):
    label, current = base(x).argmax(1), x
    for _ in range(2):
        current = (current - 0.15 * sign_of(base, current, label)).clamp(0, 1)
    assert torch.allclose(purified(put("anti-adversary", base), x), current, atol=1e-6)
    assert torch.equal(base(current).argmax(1), label)


def test_the_hedge_climbs_the_loss_of_all_classes(put, linear, x):
    made = put("hedge", linear, radius="1/20", steps=30, step_size="1/200")
    inner = x * 0.8 + 0.1

    def all_losses(images):
        return -linear(images).log_softmax(1).sum(1)

    found = purified(made, inner)
    assert float((found - inner).abs().max()) <= 0.05 + 1e-6
    assert bool((all_losses(found) > all_losses(inner)).all())
    # With enough steps on a convex loss it ends on the faces of the ball, wherever it started.
    ends = (found - inner).abs().flatten(1)
    seen = torch.ones(1728, dtype=torch.bool)
    seen[::7] = False
    assert float((ends[:, seen] > 0.05 - 1e-4).float().mean()) > 0.8


PURIFIERS = pytest.mark.parametrize(
    "name", [name for name, e in entries("test-time").items() if e.meta.get("purifier")]
)


@PURIFIERS
@pytest.mark.parametrize("tau", [1e-4, 1e-1])
def test_the_smooth_form_has_the_deployed_values(put, base, x, name, tau):
    made = put(name, base)
    expected = made.deployed(x)
    smooth = made.seed().step.smooth(base, tau)
    assert torch.allclose(smooth(x.clone().requires_grad_()), expected, atol=1e-5)
    with torch.no_grad():
        made.seed()
        assert torch.allclose(smooth(x), expected, atol=1e-5)


@PURIFIERS
def test_the_smooth_form_with_a_flat_sign_is_bpda(put, base, x, name):
    y = torch.zeros(len(x), dtype=torch.int64)
    made = put(name, base)
    grads = []
    for function in (made.surrogate, made.step.smooth(base, 1e12)):
        made.seed()
        leaf = x.clone().requires_grad_()
        grads += torch.autograd.grad(F.cross_entropy(function(leaf), y), leaf)
    assert torch.allclose(*grads, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_smooth_gradient_is_that_of_the_smoothed_steps(put, base, x, steps):
    # The same steps written out, with the whole graph kept.
    net, inner, tau = base.double(), (x[:2] * 0.8 + 0.1).double().requires_grad_(), 0.5
    y, label = torch.zeros(2, dtype=torch.int64), net(inner).argmax(1)
    current = inner
    for _ in range(steps):
        p = net(current).softmax(1).gather(1, label[:, None])
        (slope,) = torch.autograd.grad(((1 - p) / p).log().sum(), current, create_graph=True)
        soft = torch.tanh(slope / (tau * slope.detach().abs().mean((1, 2, 3), keepdim=True)))
        current = current + BETA / steps * (soft + (slope.sign() - soft).detach())
    (expected,) = torch.autograd.grad(F.cross_entropy(net(current), y), inner)
    tpap = put("tpap", net, steps=steps)
    (bpda,) = torch.autograd.grad(F.cross_entropy(tpap.surrogate(inner), y), inner)
    (found,) = torch.autograd.grad(F.cross_entropy(tpap.step.smooth(net, tau)(inner), y), inner)
    assert float((expected - bpda).norm()) > 1e-3 * float(bpda.norm())
    assert float((found - expected).norm()) < 1e-6 * float((expected - bpda).norm())


def test_the_smooth_gradient_survives_a_saturated_softmax(put, base, x):
    class Sure(torch.nn.Module):
        def forward(self, images):
            return 200 * base(images)

    sure, gradients = Sure(), []
    for kind in (torch.float32, torch.float64):
        base.to(kind)
        leaf = x.to(kind).requires_grad_()
        for function in (put("tpap", sure).step.smooth(sure, 0.5), put("tpap", sure).surrogate):
            (grad,) = torch.autograd.grad(function(leaf)[:, 0].sum() - function(leaf)[:, 1].sum(), leaf)
            gradients.append(grad.double())
    single, exact = gradients[0] - gradients[1], gradients[2] - gradients[3]
    assert float((single - exact).norm()) < 1e-2 * float(exact.norm())


def test_memory_grows_by_one_image_a_step(put, base, x):
    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor.detach()
            alive.add(self)

    def held(steps):
        smooth = put("tpap", base, steps=steps).step.smooth(base.requires_grad_(False), 0.5)
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            logits = smooth(x.clone().requires_grad_())
        assert logits.requires_grad
        return sum(kept.tensor.nbytes for kept in alive)

    alive = weakref.WeakSet()
    once = held(1)
    assert not alive
    assert held(9) - once == 8 * x.nbytes
