"""Passes are counted exactly, and dropping broken images changes no verdict."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bench.api import Threat
from bench.evaluation.target import NetworkTarget
from tests.attacks.driving import Case, Constant, drive, right

LINF, L2 = Threat(eps="15/100"), Threat(norm="l2", eps=None)
L1, L0 = Threat(norm="l1", eps=4), Threat(norm="l0", eps=None)
FLOW, WASSERSTEIN = Threat(norm="flow", eps=None), Threat(norm="wasserstein", eps="1/200")

#: Attack, threat, settings, forwards, backwards: what an image costs that never breaks.
FORMULAS = [
    ("fgsm", LINF, {}, 1, 1),
    ("pgd", LINF, {"steps": 7}, 7, 7),
    ("pgd", LINF, {"steps": 7, "restarts": 3}, 24, 21),
    ("pgd", LINF, {"steps": 7, "loss": "kl"}, 8, 7),
    ("pgd", L1, {"steps": 7, "restarts": 3}, 24, 21),
    ("mi-fgsm", LINF, {"steps": 7}, 7, 7),
    ("ti-dim", LINF, {"steps": 7}, 7, 7),
    ("apgd-ce", LINF, {"steps": 12, "restarts": 2}, 26, 24),
    ("apgd-dlr", LINF, {"steps": 12, "restarts": 2}, 26, 24),
    ("apgd-dlr", L1, {"steps": 12, "restarts": 2}, 30, 24),
    ("apgd-t", LINF, {"steps": 12, "targets": 3}, 1 + 3 * 13, 3 * 12),
    ("apgd-t", L1, {"steps": 12, "targets": 3}, 1 + 3 * 15, 3 * 12),
    ("second-order-apgd", LINF, {"steps": 12, "widths": 2}, 26, 24),
    ("label-aware-apgd", LINF, {"steps": 6, "targets": 3}, 1 + 2 * 5 * 7, 2 * 5 * 6),
    ("inverse-purification", LINF, {"steps": 5, "inversions": 4, "restarts": 2}, 27, 10),
    ("smoothed-pgd", LINF, {"steps": 5, "samples": 3, "restarts": 2}, 40, 30),
    ("square", LINF, {"queries": 30}, 30, 0),
    ("square", LINF, {"queries": 30, "restarts": 2}, 60, 0),
    ("rays", LINF, {"queries": 30}, 30, 0),
    ("rays", LINF, {"queries": 30, "restarts": 2}, 60, 0),
    ("cw", L2, {"steps": 9, "searches": 4, "abort_early": False}, 36, 36),
    ("ddn", L2, {"steps": 11}, 11, 11),
    ("fmn", L1, {"steps": 11}, 11, 11),
    ("sigma-zero", L0, {"steps": 11}, 11, 11),
    ("sta", FLOW, {"steps": 11}, 11, 11),
    ("fwa", WASSERSTEIN, {"steps": 6}, 6, 6),
]


@pytest.mark.parametrize(("name", "threat", "settings", "forwards", "backwards"), FORMULAS)
def test_an_image_that_never_breaks_costs_exactly_the_formula(
    plain: Case, name: str, threat: Threat, settings: dict, forwards: int, backwards: int
) -> None:
    # A bias that no attack overcomes, and a gradient that does not vanish.
    class AlwaysClass0(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e-3 * plain.net(x) + nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 10)

    driven = drive(AlwaysClass0(), name, plain.x[:7], torch.zeros(7, dtype=torch.int64), threat, batch=3, **settings)
    assert driven.forwards.tolist() == [forwards] * 7
    assert driven.backwards.tolist() == [backwards] * 7


@pytest.mark.parametrize(("name", "threat", "settings", "forwards", "backwards"), FORMULAS)
def test_no_image_costs_more_than_the_formula(
    robust: Case, name: str, threat: Threat, settings: dict, forwards: int, backwards: int
) -> None:
    driven = drive(robust.net, name, robust.x, robust.y, threat, **settings)
    assert float(driven.forwards.max()) <= forwards
    assert float(driven.backwards.max()) <= backwards


class MisclassifiedOnce(NetworkTarget):
    """Remembers which images were ever seen misclassified, and checks that none of them is paid for again."""

    broken: set[int] = set()

    def rows(self, index: Tensor) -> NetworkTarget:
        view = super().rows(index)
        view.__class__ = MisclassifiedOnce
        return view

    def gradient(self, x, loss, *args):
        assert not self.broken & set(self._images.tolist())
        gradient = super().gradient(x, loss, *args)
        is_adv = gradient.logits.argmax(1) != self.labels[self._images]
        self.broken |= set(self._images[is_adv].tolist())
        return gradient


@pytest.mark.parametrize("name", ["pgd", "mi-fgsm", "apgd-ce", "apgd-t"])
def test_a_broken_image_is_paid_for_no_more(robust: Case, name: str) -> None:
    MisclassifiedOnce.labels, MisclassifiedOnce.broken = robust.y, set()
    settings = {"apgd-t": {"targets": 2, "steps": 20}, "apgd-ce": {"steps": 20}}.get(name, {"steps": 20})
    driven = drive(robust.net, name, robust.x, robust.y, LINF, kind=MisclassifiedOnce, **settings)
    assert 10 < len(MisclassifiedOnce.broken) < 90
    correct = right(robust.net, driven.images, robust.y)
    assert not bool(correct[sorted(MisclassifiedOnce.broken)].any())
    cheapest = float(driven.backwards.min())
    assert cheapest < float(driven.backwards.mean()) < float(driven.backwards.max())


@pytest.mark.parametrize("name", ["pgd", "mi-fgsm"])
def test_dropping_changes_no_verdict(robust: Case, name: str) -> None:
    # A full run of k steps ends at iterate k; an image breaks under any-iterate if it does at one of them.
    net = copy.deepcopy(robust.net).double()
    x, y = robust.x.double(), robust.y
    settings = {"step_size": "1/50", **({"start": "clean"} if name == "pgd" else {})}
    ever = ~right(net, x, y)
    for steps in range(1, 13):
        ends = drive(net, name, x, y, LINF, steps=steps, rule="last-iterate", **settings)
        assert float(ends.forwards.sum()) == 100 * steps
        ever |= ~right(net, ends.images, y)
    driven = drive(net, name, x, y, LINF, steps=12, rule="any-iterate", **settings)
    assert 10 < int(ever.sum()) < 90
    assert torch.equal(~right(net, driven.images, y), ever)
    assert float(driven.forwards.sum()) < 100 * 12


@pytest.mark.parametrize("rule", ["any-iterate", "last-iterate"])
def test_restarts_never_lose_a_success(robust: Case, rule: str) -> None:
    is_adv = [
        ~right(
            robust.net, drive(robust.net, "pgd", robust.x, robust.y, LINF, steps=4, restarts=n, rule=rule)[0], robust.y
        )
        for n in (1, 2, 4)
    ]
    assert not bool((is_adv[0] & ~is_adv[1]).any())
    assert not bool((is_adv[1] & ~is_adv[2]).any())
    assert int(is_adv[2].sum()) > int(is_adv[0].sum())


def test_an_undefended_network_costs_a_fraction(plain: Case) -> None:
    driven = drive(plain.net, "pgd", plain.x, plain.y, Threat(eps="1/5"), steps=20)
    assert float(driven.backwards.mean()) <= 0.2 * 20


def test_cw_leaves_an_image_once_it_is_within_the_budget(robust: Case) -> None:
    bounded = Threat(norm="l2", eps=2)
    settings = {"steps": 60, "searches": 3, "first_c": 1.0, "learning_rate": 0.05}
    some, all_ = (drive(robust.net, "cw", robust.x, robust.y, threat, **settings) for threat in (bounded, L2))
    assert float(some.backwards.sum()) < 0.8 * float(all_.backwards.sum())
    near = (all_.images - robust.x).flatten(1).norm(dim=1) <= 2
    within = ~right(robust.net, all_.images, robust.y) & near
    assert torch.equal(~right(robust.net, some.images, robust.y), within)


def test_a_constant_network_costs_a_searching_attack_no_more_than_its_steps() -> None:
    x, y = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(3, dtype=torch.int64)
    driven = drive(Constant(), "cw", x, y, L2, steps=40, searches=3)
    assert float(driven.backwards.max()) <= 3 * 40 / 2, "the search stalls at once"
