"""What holds for every registered attack; a new one is covered by being registered."""

from __future__ import annotations

import copy
import random
import sys
from itertools import chain, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import MethodError, Threat
from bench.draws import Draws
from bench.evaluation.target import Meter, NetworkTarget
from bench.process.isolation import frozen
from tests.attacks.driving import CHEAP, FEW, THREATS, Case, Constant, Driven, Scaled, assert_within, drive, right

#: AutoAttack draws once for a whole batch, so that an image's result depends on the others.
JOINT = {"autoattack", "cascade"}
# Attacks on purifications refuse any other function; they are tested with the purifiers.
NORMS = {
    name: entry.meta["norms"]
    for name, entry in registry.entries("attack").items()
    if entry.available and not entry.meta.get("purifiers_only")
}
PAIRS = list(chain.from_iterable(product([name], norms) for name, norms in NORMS.items()))
ATTACKS = [pytest.param(name, norm, id=f"{name}-{norm}") for name, norm in PAIRS]
every_attack = pytest.mark.parametrize(("name", "norm"), ATTACKS)


def cheap(net: nn.Module, name: str, x: Tensor, y: Tensor, threat: Threat, **more: object) -> Driven:
    return drive(net, name, x, y, threat, **{**FEW.get(name, {}), **more})


def threats_for(name: str, norm: str) -> list[Threat]:
    """The test's threat of this norm, and an unbounded one where the attack minimises the norm itself."""
    bounded = registry.find("attack", name).meta.get("bounded", True)
    return [THREATS[norm]] if bounded else [THREATS[norm], Threat(norm=norm, eps=None)]


@every_attack
def test_keeps_to_the_box_and_the_ball_and_leaves_its_inputs_alone(plain: Case, name: str, norm: str) -> None:
    for threat in threats_for(name, norm):
        x, y = plain.x[:20].clone(), plain.y[:20].clone()
        x_adv = cheap(plain.net, name, x, y, threat).images
        assert_within(x_adv, x, threat)
        assert torch.equal(x, plain.x[:20])
        assert torch.equal(y, plain.y[:20])


@every_attack
def test_breaks_more_than_noise_does(plain: Case, name: str, norm: str) -> None:
    if registry.find("attack", name).meta.get("needs") == "nothing":
        pytest.skip("it is the floor itself")
    noise = plain.x + torch.where(
        torch.rand(plain.x.shape, generator=torch.Generator().manual_seed(0)) < 0.5, -0.2, 0.2
    )
    floor = int(right(plain.net, noise.clamp(0, 1), plain.y).sum())
    x_adv = drive(plain.net, name, plain.x, plain.y, THREATS[norm], **CHEAP.get(name, {})).images
    assert int(right(plain.net, x_adv, plain.y).sum()) < floor


@every_attack
def test_leaves_the_network_and_the_process_alone(plain: Case, name: str, norm: str) -> None:
    before = copy.deepcopy(plain.net.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    tracer = sys.gettrace()
    plain.net[1].train()
    cheap(plain.net, name, plain.x[:8], plain.y[:8], THREATS[norm])
    assert plain.net[1].training
    plain.net.eval()
    assert sys.gettrace() is tracer
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert torch.is_grad_enabled()
    for key, value in plain.net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.requires_grad and parameter.grad is None for parameter in plain.net.parameters())
    assert not any(module._forward_hooks for module in plain.net.modules())


@every_attack
def test_same_seed_same_images(plain: Case, name: str, norm: str) -> None:
    once, again = (cheap(plain.net, name, plain.x[:10], plain.y[:10], THREATS[norm], seed=5).images for _ in range(2))
    assert torch.equal(once, again)


@every_attack
def test_an_image_does_not_depend_on_its_company(plain: Case, name: str, norm: str) -> None:
    if name in JOINT:
        pytest.skip("the package draws once for a whole batch")
    # In double precision, so that a sum taken in another order does not turn a sign.
    net = copy.deepcopy(plain.net).double()
    x, y = plain.x[:12].double(), plain.y[:12]
    together = cheap(net, name, x, y, THREATS[norm]).images
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = cheap(net, name, x[order], y[order], THREATS[norm], images=order, batch=5).images
    assert torch.allclose(shuffled, together[order], atol=1e-6)
    alone = cheap(net, name, x[3:4], y[3:4], THREATS[norm], images=torch.tensor([3])).images
    assert torch.allclose(alone, together[3:4], atol=1e-6)


@every_attack
def test_images_already_misclassified_stay_so(plain: Case, name: str, norm: str) -> None:
    wrong = (plain.y[:10] + 1) % 10
    for threat in threats_for(name, norm):
        x_adv = cheap(plain.net, name, plain.x[:10], wrong, threat).images
        assert_within(x_adv, plain.x[:10], threat)
        if registry.find("attack", name).meta.get("needs") != "nothing":
            assert not bool(right(plain.net, x_adv, wrong).any())
        if not registry.find("attack", name).meta.get("bounded", True):
            assert torch.allclose(x_adv, plain.x[:10], atol=1e-5), "the nearest misclassified image is the image itself"


@every_attack
def test_a_budget_of_nearly_nothing_changes_nearly_nothing(plain: Case, name: str, norm: str) -> None:
    if norm == "corruption":
        pytest.skip("corruptions have no budget")
    x, y = plain.x[:4], plain.y[:4]
    for eps in ("0", "1/1000000"):
        x_adv = cheap(plain.net, name, x, y, Threat(norm=norm, eps=eps)).images
        # A transport budget is a share of the image's mass, which is about 20 here.
        assert float((x_adv - x).abs().max()) <= (1e-4 if norm == "wasserstein" else 2e-6)


@every_attack
def test_no_nan_where_gradients_vanish_or_images_are_flat(plain: Case, name: str, norm: str) -> None:
    y = plain.y[:3]
    flat = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8), torch.full((1, 8, 8), 0.5)])
    saturated = Scaled(plain.net, 1e5)
    for net, x in ((plain.net, flat), (saturated, plain.x[:3])):
        for threat in threats_for(name, norm):
            assert_within(cheap(net, name, x, y, threat).images, x, threat)


@every_attack
def test_nothing_breaks_a_constant_network(plain: Case, name: str, norm: str) -> None:
    net, x = Constant(), plain.x[:2]
    threat = Threat(norm=norm, eps=None) if norm == "flow" else THREATS[norm]
    rightly, wrongly = torch.zeros(len(x), dtype=torch.int64), torch.ones(len(x), dtype=torch.int64)
    x_adv = cheap(net, name, x, rightly, threat).images
    assert_within(x_adv, x, threat)
    assert bool(right(net, x_adv, rightly).all())
    if not registry.find("attack", name).meta.get("bounded", True):
        assert torch.equal(x_adv, x), "what fails returns the image"
    assert_within(cheap(net, name, x, wrongly, threat).images, x, threat)


@every_attack
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 3, 20, 30), (1, 3, 200, 300)], ids=str)
def test_any_channels_and_sizes(name: str, norm: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(shape, generator=generator)
    conv, head = nn.Conv2d(shape[1], 8, 3, 2 if shape[2] < 100 else 6), nn.Linear(32, 5)
    for weight in (*conv.parameters(), *head.parameters()):
        weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), head).eval()
    with torch.no_grad():
        y = net(x).argmax(1)
    threat = Threat(norm="l2", eps=10) if norm == "l2" else THREATS[norm]
    fewer = {"queries": 40} if name == "rays" else {}
    assert_within(cheap(net, name, x, y, threat, **fewer).images, x, threat)


@every_attack
def test_the_network_never_sees_more_images_than_the_device_holds(plain: Case, name: str, norm: str) -> None:
    few = FEW.get(name, {})
    if not few:
        pytest.skip("it takes one pass at most")
    batches: list[int] = []
    hook = plain.net.register_forward_hook(lambda _module, inputs, _logits: batches.append(len(inputs[0])))
    # The driver looks at one image, to count the classes.
    drive(plain.net, name, plain.x[:17], plain.y[:17], THREATS[norm], batch=5, **few)
    hook.remove()
    assert max(batches) == 5


@every_attack
def test_a_random_function_gets_every_pass(plain: Case, name: str, norm: str) -> None:
    if name == "autoattack":
        pytest.skip("the package decides for itself")
    driven = cheap(plain.net, name, plain.x[:6], plain.y[:6], THREATS[norm], draws=Draws())
    assert_within(driven.images, plain.x[:6], THREATS[norm])
    assert len(set(driven.forwards.tolist())) == 1, "no image may be dropped after one success"


@every_attack
def test_a_bounded_attack_refuses_an_unbounded_threat_in_one_line(plain: Case, name: str, norm: str) -> None:
    if not registry.find("attack", name).meta.get("bounded", True) or norm in ("flow", "corruption"):
        pytest.skip("it needs no budget")
    with frozen(plain.net), Meter(plain.net, 2) as meter:
        target = NetworkTarget(plain.net, meter, torch.arange(2), seed=0, num_classes=10, batch=2)
        with pytest.raises(Exception, match="set eps") as error:
            registry.find("attack", name).load()(target, plain.x[:2], plain.y[:2], Threat(norm=norm, eps=None))
    assert type(error.value).__name__ == "MethodError"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(NORMS))
def test_it_runs_on_as_many_classes_as_it_states_and_raises_on_fewer(name: str) -> None:
    least = registry.find("attack", name).meta.get("min_classes", 2)
    for classes in range(2, 5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.ReLU(), nn.Linear(16, classes)).eval()
            x = torch.rand(3, 3, 8, 8)
        y = net(x).argmax(1)
        if classes >= least:
            cheap(net, name, x, y, THREATS[NORMS[name][0]])
            continue
        with pytest.raises(MethodError, match=f"needs {least} classes, the network has {classes}"):
            cheap(net, name, x, y, THREATS[NORMS[name][0]])


@pytest.mark.parametrize(
    "name", [name for name in sorted(NORMS) if registry.find("attack", name).meta.get("targetable")]
)
def test_with_a_target_it_runs_on_as_many_classes_as_it_states_for_that(name: str) -> None:
    meta = registry.find("attack", name).meta
    least = meta.get("min_classes_targeted") or meta.get("min_classes", 2)
    for classes in range(2, 5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.ReLU(), nn.Linear(16, classes)).eval()
            x = torch.rand(3, 3, 8, 8)
        y = net(x).argmax(1)
        goal = (y + 1) % classes
        if classes >= least:
            cheap(net, name, x, y, THREATS[NORMS[name][0]], goal=goal)
            continue
        with pytest.raises(MethodError, match=f"needs {least} classes, the network has {classes}"):
            cheap(net, name, x, y, THREATS[NORMS[name][0]], goal=goal)
