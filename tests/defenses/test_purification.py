"""TPAP and related purifiers, which maximise or minimise a loss at test time."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.evaluation.target import Meter
from bench.registry import entries
from bench.types import MethodError

BETA = 8 / 255


def purify(defense, x):
    return defense.deployed.transform(x)


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


def test_tpap_is_one_fgsm_step_on_the_predicted_label(deploy_defense, base, x):
    expected = (x + BETA * sign_of(base, x, base(x).argmax(1))).clamp(0, 1)
    defense = deploy_defense("tpap", base)
    assert torch.allclose(purify(defense, x), expected, atol=1e-7)
    assert torch.allclose(defense.deployed(x), base(expected), atol=1e-5)


def test_tpap_moves_by_beta_or_not_at_all(deploy_defense, linear, x):
    x_inside = x * 0.8 + 0.1
    move = (purify(deploy_defense("tpap", linear), x_inside) - x_inside).flatten(1)
    assert torch.allclose(move[:, ::7], torch.zeros(1))
    used_pixels = torch.ones(1728, dtype=torch.bool)
    used_pixels[::7] = False
    assert torch.allclose(move[:, used_pixels].abs(), torch.tensor(BETA), atol=1e-6)


def test_tpap_raises_the_loss_of_the_predicted_label(deploy_defense, linear, x):
    label = linear(x).argmax(1)
    before = F.cross_entropy(linear(x), label, reduction="none")
    after = F.cross_entropy(linear(purify(deploy_defense("tpap", linear), x)), label, reduction="none")
    assert bool((after > before).all())


def test_tpap_costs_two_forwards_and_one_backward(deploy_defense, base, x):
    defense = deploy_defense("tpap", base)
    with Meter(base, len(x)) as meter, torch.no_grad():
        defense.deployed(x)
    assert (meter.forwards, meter.backwards) == (2 * len(x), len(x))


def test_the_gradient_of_tpap_is_the_true_one_inside_the_box(deploy_defense, base, x):
    x_inside = (x * 0.8 + 0.1).requires_grad_()
    label = base(x_inside).argmax(1)

    def purified_logits(images):
        (grad,) = torch.autograd.grad(F.cross_entropy(base(images), label, reduction="sum"), images, create_graph=True)
        return base(images + BETA * grad.sign())

    y = torch.zeros(len(x), dtype=torch.int64)
    (expected,) = torch.autograd.grad(F.cross_entropy(purified_logits(x_inside), y), x_inside)
    (actual,) = torch.autograd.grad(F.cross_entropy(deploy_defense("tpap", base).surrogate(x_inside), y), x_inside)
    assert torch.allclose(actual, expected, atol=1e-6)


def test_tpap_in_steps_stays_in_its_ball_and_takes_the_first_label(deploy_defense, base, x):
    params = {"beta": "0.1", "steps": 4, "step_size": "0.06"}
    label, expected = base(x).argmax(1), x
    for _ in range(4):
        expected = expected + 0.06 * sign_of(base, expected, label)
        expected = torch.minimum(torch.maximum(expected, x - 0.1), x + 0.1).clamp(0, 1)
    x_purified = purify(deploy_defense("tpap", base, **params), x)
    assert torch.allclose(x_purified, expected, atol=1e-6)
    assert float((x_purified - x).abs().max()) <= 0.1 + 1e-6


def test_many_steps_share_one_budget(deploy_defense, base, x):
    one_step, five_steps = (purify(deploy_defense("tpap", base, steps=steps), x) for steps in (1, 5))
    assert float((five_steps - x).abs().max()) <= BETA + 1e-6
    assert not torch.equal(one_step, five_steps)


def test_descending_is_the_opposite_step(deploy_defense, linear, x):
    x_inside = x * 0.8 + 0.1
    up, down = (purify(deploy_defense("tpap", linear, direction=way), x_inside) for way in ("ascend", "descend"))
    assert torch.allclose(up - x_inside, x_inside - down, atol=1e-6)


def test_the_label_whose_loss_is_maximised(deploy_defense, base, x):
    expected = (x + BETA * sign_of(base, x, base(x).argmin(1))).clamp(0, 1)
    assert torch.allclose(purify(deploy_defense("tpap", base, label="least-likely"), x), expected, atol=1e-7)
    defense, true_labels = deploy_defense("tpap", base, label="true"), torch.tensor([0, 1, 2, 3, 4, 0])
    with pytest.raises(MethodError, match="labels"):
        defense.deployed(x)
    defense.deployed.labels = true_labels
    oracle = base((x + BETA * sign_of(base, x, true_labels)).clamp(0, 1))
    assert torch.allclose(defense.deployed(x), oracle, atol=1e-5)


@pytest.mark.parametrize("params", [{"label": "random"}, {"random_start": True}])
def test_random_variants_own_a_generator(deploy_defense, base, x, params):
    defense = deploy_defense("tpap", base, **params)
    first = defense.deployed(x)
    assert not torch.equal(defense.deployed(x), first)
    assert torch.equal(defense.seed().deployed(x), first)


def test_a_random_start_is_uniform_in_the_ball(deploy_defense, base):
    grey = torch.full((4, 3, 24, 24), 0.5)
    defense = deploy_defense("tpap", base, random_start=True, step_size="1/1000000")
    move = (purify(defense, grey) - grey).flatten() / BETA
    assert float(move.abs().max()) <= 1 + 1e-4
    assert float(move.mean()) == pytest.approx(0, abs=0.03)
    assert float(move.var()) == pytest.approx(1 / 3, abs=0.03)


def test_the_anti_adversary_confirms_the_prediction(deploy_defense, base, x):
    label, expected = base(x).argmax(1), x
    for _ in range(2):
        expected = (expected - 0.15 * sign_of(base, expected, label)).clamp(0, 1)
    assert torch.allclose(purify(deploy_defense("anti-adversary", base), x), expected, atol=1e-6)
    assert torch.equal(base(expected).argmax(1), label)


def test_the_hedge_raises_the_loss_of_all_classes(deploy_defense, linear, x):
    defense = deploy_defense("hedge", linear, radius="1/20", steps=30, step_size="1/200")
    x_inside = x * 0.8 + 0.1

    def all_losses(images):
        return -linear(images).log_softmax(1).sum(1)

    x_purified = purify(defense, x_inside)
    assert float((x_purified - x_inside).abs().max()) <= 0.05 + 1e-6
    assert bool((all_losses(x_purified) > all_losses(x_inside)).all())
    # With enough steps on a convex loss it ends on the faces of the ball from any start.
    distance = (x_purified - x_inside).abs().flatten(1)
    used_pixels = torch.ones(1728, dtype=torch.bool)
    used_pixels[::7] = False
    assert float((distance[:, used_pixels] > 0.05 - 1e-4).float().mean()) > 0.8


PURIFIERS = pytest.mark.parametrize(
    "name", [name for name, e in entries("test-time").items() if e.meta.get("purifier")]
)


@PURIFIERS
@pytest.mark.parametrize("tau", [1e-4, 1e-1])
def test_the_smooth_form_has_the_deployed_values(deploy_defense, base, x, name, tau):
    defense = deploy_defense(name, base)
    expected = defense.deployed(x)
    smooth = defense.seed().step.smooth(base, tau)
    assert torch.allclose(smooth(x.clone().requires_grad_()), expected, atol=1e-5)
    with torch.no_grad():
        defense.seed()
        assert torch.allclose(smooth(x), expected, atol=1e-5)


@PURIFIERS
def test_the_smooth_form_with_a_flat_sign_is_bpda(deploy_defense, base, x, name):
    y = torch.zeros(len(x), dtype=torch.int64)
    defense = deploy_defense(name, base)
    grads = []
    for function in (defense.surrogate, defense.step.smooth(base, 1e12)):
        defense.seed()
        leaf = x.clone().requires_grad_()
        grads += torch.autograd.grad(F.cross_entropy(function(leaf), y), leaf)
    assert torch.allclose(*grads, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_smooth_gradient_is_that_of_the_smoothed_steps(deploy_defense, base, x, steps):
    # The same steps written out, with the full graph.
    net, tau = base.double(), 0.5
    x_inside = (x[:2] * 0.8 + 0.1).double().requires_grad_()
    y, label = torch.zeros(2, dtype=torch.int64), net(x_inside).argmax(1)
    x_purified = x_inside
    for _ in range(steps):
        p = net(x_purified).softmax(1).gather(1, label[:, None])
        (grad,) = torch.autograd.grad(((1 - p) / p).log().sum(), x_purified, create_graph=True)
        smooth_sign = torch.tanh(grad / (tau * grad.detach().abs().mean((1, 2, 3), keepdim=True)))
        x_purified = x_purified + BETA / steps * (smooth_sign + (grad.sign() - smooth_sign).detach())
    (expected,) = torch.autograd.grad(F.cross_entropy(net(x_purified), y), x_inside)
    tpap = deploy_defense("tpap", net, steps=steps)
    (bpda,) = torch.autograd.grad(F.cross_entropy(tpap.surrogate(x_inside), y), x_inside)
    (actual,) = torch.autograd.grad(F.cross_entropy(tpap.step.smooth(net, tau)(x_inside), y), x_inside)
    assert float((expected - bpda).norm()) > 1e-3 * float(bpda.norm())
    assert float((actual - expected).norm()) < 1e-6 * float((expected - bpda).norm())


def test_the_smooth_gradient_survives_a_saturated_softmax(deploy_defense, base, x):
    class Sure(torch.nn.Module):
        def forward(self, images):
            return 200 * base(images)

    sure, gradients = Sure(), []
    for dtype in (torch.float32, torch.float64):
        base.to(dtype)
        leaf = x.to(dtype).requires_grad_()
        for function in (deploy_defense("tpap", sure).step.smooth(sure, 0.5), deploy_defense("tpap", sure).surrogate):
            (grad,) = torch.autograd.grad(function(leaf)[:, 0].sum() - function(leaf)[:, 1].sum(), leaf)
            gradients.append(grad.double())
    single, exact = gradients[0] - gradients[1], gradients[2] - gradients[3]
    assert float((single - exact).norm()) < 1e-2 * float(exact.norm())


def test_memory_grows_by_one_image_a_step(deploy_defense, base, x):
    class SavedTensor:
        def __init__(self, tensor):
            self.tensor = tensor.detach()
            saved.add(self)

    def saved_bytes(steps):
        smooth = deploy_defense("tpap", base, steps=steps).step.smooth(base.requires_grad_(False), 0.5)
        with torch.autograd.graph.saved_tensors_hooks(SavedTensor, lambda saved_tensor: saved_tensor.tensor):
            logits = smooth(x.clone().requires_grad_())
        assert logits.requires_grad
        return sum(saved_tensor.tensor.nbytes for saved_tensor in saved)

    saved = weakref.WeakSet()
    one_step = saved_bytes(1)
    assert not saved
    assert saved_bytes(9) - one_step == 8 * x.nbytes
