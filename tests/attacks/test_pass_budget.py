"""No attack has an image seen more often than ``max_passes``; what it takes is counted inside the network itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import MethodError, Threat
from bench.evaluation.budget import RAN_OUT, PassBudget
from bench.evaluation.defense import deploy
from bench.evaluation.target import Meter, NetworkTarget, Truth
from bench.keys import EVALUATION_VERSION, attack_key, identity, key_of, seed_of
from bench.process.isolation import frozen, seed_generators
from tests.attacks.driving import FEW, THREATS, Case, right
from tests.attacks.test_adapters import need
from tests.report.fabricate import result

ATTACKS = [name for name, entry in registry.entries("attack").items() if entry.available]
#: One of each library, with what ends it soon.
LIBRARY_ATTACKS: list[tuple[str, Threat, dict[str, Any]]] = [
    ("torchattacks:MIFGSM", THREATS["linf"], {"steps": 5}),
    ("foolbox:L2DeepFoolAttack", Threat(norm="l2", eps=None), {"steps": 5}),
    ("foolbox:BoundaryAttack", Threat(norm="l2", eps=None), {"steps": 60}),
    ("art:DeepFool", Threat(norm="l2", eps=None), {"max_iter": 4}),
    ("advlib:ddn", Threat(norm="l2", eps=None), {"steps": 15}),
    ("secml:FMN", Threat(norm="l2", eps=None), {"num_steps": 15}),
]


class Seen(nn.Module):
    """Counts the images that a network sees forwards, and those that a gradient other than zero comes back for."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.count = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x)
        logits = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._backward)
        return logits * 1.0

    def _backward(self, grad: Tensor) -> None:
        self.count += int(grad.any(1).sum())


class Attacked(NamedTuple):
    images: Tensor
    seen: int
    passes: Tensor
    notes: list[str]


def attacked(
    case: Case, use: str, threat: Threat, most: int | None, *, step: str | None = None, eot: int = 1, **parameters: Any
) -> Attacked:
    prefix, _, name = use.partition(":")
    entry = registry.find("library" if name else "attack", prefix)
    arguments = entry.arguments(parameters) | ({"name": name} if name else {})
    net, truth = Seen(case.net).eval(), Truth(case.x, case.y)
    ref = None if step is None else registry.find("test-time", step).ref({})
    defense = deploy(net, ref)
    defense.seed("defense")
    with torch.no_grad():
        classes = case.net(case.x[:1]).shape[1]
    with torch.random.fork_rng(devices=[]), frozen(net), Meter(net, len(case.x), None, most) as meter:
        seed_generators(0)
        budget = None
        if most is not None:
            budget = PassBudget(most, meter, truth, threat, classes, random=defense.draws is not None)
        target = NetworkTarget(
            *(defense.surrogate, meter, torch.arange(len(case.x))),
            base=net,
            smooth=(lambda tau: net) if step is None else defense.smooth,
            seed=0,
            num_classes=classes,
            batch=64,
            truth=truth,
            draws=defense.draws,
            draws_averaged=eot,
            budget=budget,
        )
        # What a call costs is measured before the attack begins.
        net.count = 0

        def run(x: Tensor, y: Tensor, threat: Threat) -> object:
            return entry.load()(target, x, y, threat, **arguments)

        images = (run if budget is None else budget.ending(run))(case.x.clone(), case.y, threat)
        assert isinstance(images, Tensor)
        return Attacked(
            images,
            net.count,
            meter.forwards_of + meter.backwards_of,
            [*target.notes, *(budget.notes if budget else [])],
        )


def first(case: Case, n: int) -> Case:
    return Case(case.net, case.x[:n], case.y[:n])


def assert_keeps_to_it(case: Case, use: str, threat: Threat, **parameters: Any) -> None:
    natural = attacked(first(case, 1), use, threat, None, **parameters)
    for most in (1, 7, 50):
        under = attacked(first(case, 1), use, threat, most, **parameters)
        assert under.seen <= most and int(under.passes) <= most
        if natural.seen <= most:
            assert torch.equal(under.images, natural.images)
    several = first(case, 5)
    together = attacked(several, use, threat, 7, **parameters)
    assert int(together.passes.max()) <= 7 and together.seen <= 35
    natural, ample = (attacked(several, use, threat, most, **parameters) for most in (None, 10**6))
    assert torch.equal(natural.images, ample.images)
    assert natural.seen == ample.seen


@pytest.mark.parametrize("name", ATTACKS)
def test_a_registered_attack_keeps_to_its_budget_and_is_the_same_below_it(plain: Case, name: str) -> None:
    norm = registry.find("attack", name).meta["norms"][0]
    bounded = registry.find("attack", name).meta.get("bounded", True)
    assert_keeps_to_it(plain, name, THREATS[norm] if bounded else Threat(norm=norm, eps=None), **FEW.get(name, {}))


@pytest.mark.parametrize(("use", "threat", "parameters"), LIBRARY_ATTACKS, ids=[row[0] for row in LIBRARY_ATTACKS])
def test_so_does_one_of_a_library(plain: Case, use: str, threat: Threat, parameters: dict[str, Any]) -> None:
    need(use)
    assert_keeps_to_it(plain, use, threat, **parameters)


def test_a_library_that_loops_until_it_succeeds_ends(plain: Case) -> None:
    need("art:HopSkipJump")
    settings = {"max_iter": 2, "max_eval": 100, "init_eval": 10}
    several = attacked(first(plain, 3), "art:HopSkipJump", Threat(norm="l2", eps=None), 7, **settings)
    assert 0 < several.seen <= 21


@pytest.mark.parametrize(
    ("name", "step", "eot"),
    [
        ("pgd", "tpap", 1),
        ("square", "resize-pad", 3),
        ("pgd", "resize-pad", 3),
        ("smoothed-pgd", "feature-squeezing", 1),
    ],
)
def test_passes_of_a_step_and_of_averaged_draws_count(plain: Case, name: str, step: str, eot: int) -> None:
    more = {"step": step, "eot": eot, **FEW[name]}
    for most in (13, 50):
        under = attacked(first(plain, 1), name, THREATS["linf"], most, **more)
        assert 0 < under.seen <= most
        assert int(under.passes) <= most
    natural, ample = (attacked(first(plain, 3), name, THREATS["linf"], most, **more) for most in (None, 10**6))
    assert torch.equal(natural.images, ample.images)


def test_a_purification_differentiated_twice_counts_every_pass(plain: Case) -> None:
    for most in (13, 50):
        more = {"step": "tpap", **FEW["second-order-apgd"]}
        assert 0 < attacked(first(plain, 1), "second-order-apgd", THREATS["linf"], most, **more).seen <= most


def test_a_budget_below_one_evaluation_is_refused(plain: Case) -> None:
    with pytest.raises(MethodError, match="max_passes = 2: a single evaluation takes 3 passes"):
        attacked(first(plain, 1), "pgd", THREATS["linf"], 2, step="tpap")


@pytest.mark.parametrize("name", ["ddn", "fmn", "cw"])
def test_more_passes_never_find_a_farther_image(plain: Case, name: str) -> None:
    case, before = first(plain, 12), torch.full((12,), torch.inf)
    for most in (5, 11, 23, 10**6):
        images = attacked(case, name, Threat(norm="l2", eps=None), most, **FEW[name]).images
        moved = (images - case.x).flatten(1).norm(dim=1)
        distance = torch.where(right(case.net, images, case.y), torch.inf, moved)
        assert bool((distance <= before + 1e-6).all())
        before = distance
    assert bool(before.isfinite().all())


def test_a_budget_is_part_of_the_key_and_no_part_of_the_seed() -> None:
    ref = result(clean=[True], adversarial=[False]).cell.attack
    assert ref
    budgeted = ref.model_copy(update={"max_passes": 9})
    assert "max_passes" not in ref.model_dump_json()
    assert attack_key(ref) != attack_key(budgeted) == key_of(identity(budgeted), version=EVALUATION_VERSION)
    assert seed_of(ref) == seed_of(budgeted)


class Far(nn.Module):
    """Linear logits of two classes that no change within an eps of 1/100 makes equal."""

    def __init__(self) -> None:
        super().__init__()
        self.far = nn.Parameter(torch.tensor(9.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, mean - self.far], 1)


def flagged(net: nn.Module, name: str, most: int, *, label: int = 0, **parameters: Any) -> list[str]:
    x = torch.full((3, 1, 6, 6), 0.5)
    case = Case(net.eval(), x, torch.full((3,), label))
    return attacked(case, name, Threat(eps="1/100"), most, **parameters).notes


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(
    ("name", "parameters", "most"),
    [
        ("pgd", {"steps": 10}, 20),
        ("mi-fgsm", {"steps": 10}, 20),
        ("square", {"queries": 30}, 30),
        # One forward more than two passes a step: within a hundredth of its passes.
        ("apgd-ce", {"steps": 100}, 201),
        ("apgd-ce", {"steps": 100}, 200),
        ("noise", {}, 1),
    ],
)
def test_an_attack_whose_passes_suffice_has_no_flag(
    name: str, parameters: dict[str, Any], most: int, label: int
) -> None:
    assert RAN_OUT not in flagged(Far(), name, most, label=label, **parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "most"),
    [
        ("pgd", {"steps": 10}, 18),
        ("pgd", {"steps": 10}, 19),
        ("mi-fgsm", {"steps": 10}, 18),
        ("square", {"queries": 30}, 29),
        ("apgd-ce", {"steps": 100}, 197),
        ("apgd-ce", {"steps": 10}, 20),
        ("cascade", {}, 150),
        ("autoattack", {"version": "standard"}, 300),
    ],
)
def test_one_whose_passes_end_has_one_where_images_stand_and_none_where_all_are_broken(
    name: str, parameters: dict[str, Any], most: int
) -> None:
    if name in ("cascade", "autoattack"):
        pytest.importorskip("pyautoattack")
    assert RAN_OUT in flagged(Far(), name, most, **parameters)
    assert RAN_OUT not in flagged(Far(), name, most, label=1, **parameters)
