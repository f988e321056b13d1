"""What every test-time step promises; a new one is tested by being registered."""

import pytest
import torch
from torch import nn

from bench.api import MethodError
from bench.evaluation.defense import deploy
from bench.registry import entries, find

EACH = pytest.mark.parametrize("name", sorted(entries("test-time")))
FIXED = pytest.mark.parametrize(
    "name", [name for name, entry in entries("test-time").items() if not entry.meta.get("randomised")]
)


class Boxed(nn.Module):
    """Passes images on and notes the least and the greatest pixel."""

    def __init__(self, net):
        super().__init__()
        self.net, self.low, self.high = net, 1.0, 0.0

    def forward(self, x):
        self.low, self.high = min(self.low, float(x.detach().min())), max(self.high, float(x.detach().max()))
        return self.net(x)


def logits(made, x, seed=0):
    made.seed(seed)
    with torch.no_grad():
        return made.deployed(x)


@EACH
def test_one_finite_row_of_logits_for_each_image(name, put, base, x):
    for images in (x, x[:1]):
        found = logits(put(name, base), images)
        assert found.shape == (len(images), 5)
        assert found.dtype == torch.float32
        assert bool(torch.isfinite(found).all())


@EACH
def test_randomised_if_and_only_if_declared(name, put, base, x):
    made, declared = put(name, base), bool(entries("test-time")[name].meta.get("randomised"))
    assert hasattr(made.step, "draws") == declared
    first = logits(made, x)
    with torch.no_grad():
        second = made.deployed(x)
    assert torch.equal(first, second) != declared
    assert torch.equal(first, logits(made, x))


@pytest.mark.parametrize("owned", ["self.rng = torch.Generator()", "self.draws = torch.Generator()"])
def test_a_randomised_step_without_draws_is_told_what_to_own(tmp_path, owned):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom bench.api import defense\n\n@defense(kind='test-time', randomised=True)\nclass Noisy:\n"
        f"    def __init__(self):\n        {owned}\n\n    def wrap(self, base):\n        return base\n"
    )
    with pytest.raises(MethodError, match=r"must set self\.draws = Draws\(\), from bench\.api"):
        deploy(torch.nn.Identity(), find("test-time", f"{tmp_path}/mine.py:Noisy").ref({}))


@FIXED
def test_images_do_not_see_their_batch(name, put, base, x):
    made = put(name, base)
    whole = logits(made, x)
    order = torch.tensor([4, 2, 0, 5])
    assert torch.allclose(logits(made, x[order]), whole[order], atol=1e-5)
    assert torch.allclose(logits(made, x[3:4]), whole[3:4], atol=1e-5)


@EACH
def test_the_network_behind_sees_the_box(name, put, base, x):
    extreme = torch.cat([x, torch.zeros_like(x[:1]), torch.ones_like(x[:1]), (x[:1] > 0.5).float()])
    seen = Boxed(base)
    logits(put(name, seen), extreme)
    assert seen.low >= 0.0
    assert seen.high <= 1.0


@EACH
def test_grey_images(name, put, x):
    base = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 3))
    made = put(name, base)
    if hasattr(made.step, "fit"):
        made.step.fit((x[:, :1] * 255).to(torch.uint8))
    assert logits(made, x[:, :1]).shape == (6, 3)


@EACH
def test_odd_image_sizes(name, put, base, x):
    assert logits(put(name, base), x[:2, :, :19, :23]).shape == (2, 5)


@EACH
def test_no_grad_and_inference_mode_give_the_same(name, put, base, x):
    made = put(name, base)
    expected = logits(made, x)
    made.seed()
    with torch.inference_mode():
        found = made.deployed(x.clone())
    assert torch.equal(found, expected)


@EACH
def test_the_surrogate_has_the_deployed_values_and_a_gradient(name, put, base, x):
    made = put(name, base)
    expected = logits(made, x)
    images = (x * 0.9 + 0.05).requires_grad_()
    made.seed()
    assert torch.allclose(made.surrogate(x.clone().requires_grad_()), expected, atol=1e-6)
    (grad,) = torch.autograd.grad(made.surrogate(images).logsumexp(1).sum(), images)
    assert bool(torch.isfinite(grad).all())
    assert bool((grad.flatten(1).abs().amax(1) > 0).all())


@EACH
def test_flat_images_have_finite_gradients(name, put, base):
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 24, 24).clone().requires_grad_()
    (grad,) = torch.autograd.grad(put(name, base).surrogate(images).logsumexp(1).sum(), images)
    assert bool(torch.isfinite(grad).all())


@EACH
def test_nothing_else_is_touched(name, put, base, x):
    made, given = put(name, base), x.clone()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    state = torch.get_rng_state()
    made.deployed(x)
    made.surrogate(x.clone().requires_grad_()).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, given)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not any(module.training for module in base.modules())


@EACH
def test_a_deployed_pass_leaves_no_gradients_behind(name, put, base, x):
    logits(put(name, base), x)
    assert all(parameter.grad is None for parameter in base.parameters())
