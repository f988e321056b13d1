"""What every test-time step promises; a new one is tested by being registered."""

import pytest
import torch
from torch import nn

from bench.api import MethodError
from bench.evaluation.defense import deploy
from bench.registry import entries, find
from tests.defenses.scores import score_network

EVERY_STEP = pytest.mark.parametrize("name", sorted(entries("test-time")))
DETERMINISTIC_STEPS = pytest.mark.parametrize(
    "name", [name for name, entry in entries("test-time").items() if not entry.meta.get("randomised")]
)


class PixelRange(nn.Module):
    """Calls a network and records the least and the greatest pixel of its input."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.low, self.high = 1.0, 0.0

    def forward(self, x):
        self.low, self.high = min(self.low, float(x.detach().min())), max(self.high, float(x.detach().max()))
        return self.net(x)


def logits(defense, x, seed=0):
    defense.seed(seed)
    with torch.no_grad():
        return defense.deployed(x)


@EVERY_STEP
def test_one_finite_row_of_logits_for_each_image(name, deploy_defense, base, x):
    for images in (x, x[:1]):
        values = logits(deploy_defense(name, base), images)
        assert values.shape == (len(images), 5)
        assert values.dtype == torch.float32
        assert bool(torch.isfinite(values).all())


@EVERY_STEP
def test_randomised_if_and_only_if_declared(name, deploy_defense, base, x):
    defense, declared = deploy_defense(name, base), bool(entries("test-time")[name].meta.get("randomised"))
    assert hasattr(defense.step, "draws") == declared
    first = logits(defense, x)
    with torch.no_grad():
        second = defense.deployed(x)
    assert torch.equal(first, second) != declared
    assert torch.equal(first, logits(defense, x))


@pytest.mark.parametrize("owned", ["self.rng = torch.Generator()", "self.draws = torch.Generator()"])
def test_a_randomised_step_without_draws_gets_an_error_that_says_what_to_set(tmp_path, owned):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom bench.api import defense\n\n@defense(kind='test-time', randomised=True)\nclass Noisy:\n"
        f"    def __init__(self):\n        {owned}\n\n    def wrap(self, base):\n        return base\n"
    )
    with pytest.raises(MethodError, match=r"must set self\.draws = Draws\(\), from bench\.api"):
        deploy(torch.nn.Identity(), find("test-time", f"{tmp_path}/mine.py:Noisy").ref({}))


@DETERMINISTIC_STEPS
def test_images_do_not_see_their_batch(name, deploy_defense, base, x):
    defense = deploy_defense(name, base)
    expected = logits(defense, x)
    order = torch.tensor([4, 2, 0, 5])
    assert torch.allclose(logits(defense, x[order]), expected[order], atol=1e-5)
    assert torch.allclose(logits(defense, x[3:4]), expected[3:4], atol=1e-5)


@EVERY_STEP
def test_the_base_network_receives_pixels_in_the_box(name, deploy_defense, base, x):
    x_extreme = torch.cat([x, torch.zeros_like(x[:1]), torch.ones_like(x[:1]), (x[:1] > 0.5).float()])
    pixel_range = PixelRange(base)
    logits(deploy_defense(name, pixel_range), x_extreme)
    assert pixel_range.low >= 0.0
    assert pixel_range.high <= 1.0


@EVERY_STEP
def test_grey_images(name, deploy_defense, x):
    base = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 3))
    defense = deploy_defense(name, base)
    if hasattr(defense.step, "fit"):
        defense.step.fit((x[:, :1] * 255).to(torch.uint8))
    if hasattr(defense.step, "use_score"):
        defense.step.use_score(score_network(1))
    assert logits(defense, x[:, :1]).shape == (6, 3)


@EVERY_STEP
def test_odd_image_sizes(name, deploy_defense, base, x):
    assert logits(deploy_defense(name, base), x[:2, :, :19, :23]).shape == (2, 5)


@EVERY_STEP
def test_no_grad_and_inference_mode_give_the_same(name, deploy_defense, base, x):
    defense = deploy_defense(name, base)
    expected = logits(defense, x)
    defense.seed()
    with torch.inference_mode():
        values = defense.deployed(x.clone())
    assert torch.equal(values, expected)


@EVERY_STEP
def test_the_surrogate_has_the_deployed_values_and_a_gradient(name, deploy_defense, base, x):
    defense = deploy_defense(name, base)
    expected = logits(defense, x)
    images = (x * 0.9 + 0.05).requires_grad_()
    defense.seed()
    assert torch.allclose(defense.surrogate(x.clone().requires_grad_()), expected, atol=1e-6)
    (grad,) = torch.autograd.grad(defense.surrogate(images).logsumexp(1).sum(), images)
    assert bool(torch.isfinite(grad).all())
    assert bool((grad.flatten(1).abs().amax(1) > 0).all())


@EVERY_STEP
def test_flat_images_have_finite_gradients(name, deploy_defense, base):
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 24, 24).clone().requires_grad_()
    (grad,) = torch.autograd.grad(deploy_defense(name, base).surrogate(images).logsumexp(1).sum(), images)
    assert bool(torch.isfinite(grad).all())


@EVERY_STEP
def test_nothing_else_is_touched(name, deploy_defense, base, x):
    defense, x_copy = deploy_defense(name, base), x.clone()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    state = torch.get_rng_state()
    defense.deployed(x)
    defense.surrogate(x.clone().requires_grad_()).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, x_copy)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not any(module.training for module in base.modules())


@EVERY_STEP
def test_a_deployed_pass_leaves_no_gradients_behind(name, deploy_defense, base, x):
    logits(deploy_defense(name, base), x)
    assert all(parameter.grad is None for parameter in base.parameters())
