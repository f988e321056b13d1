"""Targeted attacks: the least distance to a class on a linear network, and the same attacks of other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor

from attacks._balls import distance
from bench import registry
from bench.api import Threat
from bench.process.isolation import frozen
from tests.attacks.driving import FEW, THREATS, Case, Linear, drive, right

TARGETABLE = sorted(name for name, entry in registry.entries("attack").items() if entry.meta.get("targetable"))


@pytest.fixture(scope="module")
def linear() -> tuple[Linear, Tensor, Tensor, Tensor]:
    """Ten classes, linear in 3 x 6 x 6 pixels, eight images far from the box, and for each a class to reach."""
    generator = torch.Generator().manual_seed(3)
    net = Linear(torch.randn(10, 108, generator=generator), torch.zeros(10))
    x = 0.5 + 0.05 * torch.randn(8, 3, 6, 6, generator=generator)
    with torch.no_grad():
        order = net(x).argsort(1, descending=True)
    return net, x, order[:, 0], order[torch.arange(8), torch.arange(1, 9)]


def cell_of(net: Linear, x: Tensor, goal: int) -> tuple[np.ndarray, np.ndarray]:
    """Return A and b of A d >= b: the changes d of an image for which the logit of the goal is the largest."""
    others = [each for each in range(len(net.weight)) if each != goal]
    rows, logits = net.weight.detach().double(), net(x[None])[0].detach().double()
    return (rows[goal] - rows[others]).numpy(), (logits[others] - logits[goal]).numpy()


def least_l2(net: Linear, x: Tensor, goal: int) -> float:
    """The least norm in a polyhedron (Lawson and Hanson, 1974, algorithm LDP)."""
    a, b = cell_of(net, x, goal)
    e, f = np.vstack([a.T, b]), np.append(np.zeros(a.shape[1]), 1.0)
    residual = e @ nnls(e, f)[0] - f
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


def least_linf(net: Linear, x: Tensor, goal: int) -> float:
    """The least r with |d_j| <= r for all j, d in the polyhedron."""
    a, b = cell_of(net, x, goal)
    n = a.shape[1]
    within = np.vstack([np.hstack([sign * np.eye(n), -np.ones((n, 1))]) for sign in (1, -1)])
    reached = np.hstack([-a, np.zeros((len(a), 1))])
    bounds = [(None, None)] * n + [(0, None)]
    limits = np.append(np.zeros(2 * n), -b)
    return float(linprog(np.append(np.zeros(n), 1), np.vstack([within, reached]), limits, bounds=bounds).fun)


@pytest.mark.parametrize(
    ("use", "norm", "parameters"),
    [
        ("ddn", "l2", {"steps": 300, "levels": None}),
        ("fmn", "l2", {"steps": 300}),
        ("fmn", "linf", {"steps": 300}),
        ("cw", "l2", {"steps": 300, "searches": 9, "first_c": 0.1}),
    ],
)
def test_it_finds_the_least_change_towards_a_class(linear, use, norm, parameters) -> None:
    net, x, y, goal = linear
    images = drive(net, use, x, y, Threat(norm=norm, eps=None), goal=goal, **parameters).images
    with torch.no_grad():
        assert torch.equal(net(images).argmax(1), goal)
    least = {"l2": least_l2, "linf": least_linf}[norm]
    bound = torch.tensor([least(net, image, int(aimed_at)) for image, aimed_at in zip(x, goal, strict=True)])
    ratio = distance(images - x, norm) / bound
    assert float(ratio.min()) > 0.999, "nothing is nearer than the nearest image of that class"
    assert float(ratio.median()) < 1.03
    assert float(ratio.max()) < 1.1


@pytest.mark.parametrize("use", TARGETABLE)
def test_an_image_counts_once_its_class_is_reached_and_keeps_its_draws_in_any_batch(plain: Case, use: str) -> None:
    x, y = plain.x[:24], plain.y[:24]
    goal = (y + 1 + torch.arange(24) % 9) % 10
    norm = registry.find("attack", use).meta["norms"][0]
    threat = THREATS[norm].model_copy(
        update={"eps": None if not registry.find("attack", use).meta.get("bounded", True) else THREATS[norm].eps * 2}
    )
    images = drive(plain.net, use, x, y, threat, goal=goal, **FEW.get(use, {})).images
    with torch.no_grad():
        reached = plain.net(images).argmax(1) == goal
    anything = drive(plain.net, use, x, y, threat, **FEW.get(use, {})).images
    assert int(reached.sum()) >= 8, "more than the two or three that chance would give"
    assert not right(plain.net, images, y)[reached].any()
    assert not torch.equal(images, anything)
    half = torch.arange(12, 24)
    alone = drive(plain.net, use, x[half], y[half], threat, goal=goal[half], images=half, **FEW.get(use, {})).images
    torch.testing.assert_close(alone, images[half], rtol=0, atol=1e-5)


def foolbox_of(case: Case, goal: Tensor, name: str, eps: float | None, **parameters: object) -> Tensor:
    package = pytest.importorskip("foolbox")
    with frozen(case.net):
        model = package.PyTorchModel(case.net, bounds=(0, 1), device="cpu")
        criterion = package.criteria.TargetedMisclassification(goal)
        attack = getattr(package.attacks, name)(**parameters)
        x_adv = attack(model, case.x, criterion, epsilons=eps)[1]
    # Its CW returns a black image where it finds nothing.
    black = x_adv.flatten(1).amax(1) == 0
    return torch.where(black[:, None, None, None], case.x, x_adv)


def test_targeted_pgd_is_foolboxs(robust: Case) -> None:
    goal = (robust.y + 1) % 10
    settings = {"steps": 10, "step_size": "3/100", "start": "clean", "rule": "last-iterate"}
    ours = drive(robust.net, "pgd", robust.x, robust.y, Threat(eps="15/100"), goal=goal, **settings).images
    theirs = foolbox_of(robust, goal, "LinfPGD", 0.15, abs_stepsize=0.03, steps=10, random_start=False)
    assert float(((ours - theirs).abs() > 1e-6).float().mean()) < 0.01
    with torch.no_grad():
        reached = robust.net(ours).argmax(1) == goal
        assert torch.equal(reached, robust.net(theirs).argmax(1) == goal)
    assert 0 < int(reached.sum()) < len(reached)


@pytest.mark.parametrize(
    ("use", "norm", "name", "theirs"),
    [
        ("ddn", "l2", "DDNAttack", {"steps": 100, "init_epsilon": 1.0}),
        ("fmn", "linf", "LInfFMNAttack", {"steps": 100}),
        (
            "cw",
            "l2",
            "L2CarliniWagnerAttack",
            {"steps": 60, "binary_search_steps": 6, "initial_const": 0.1, "stepsize": 0.05},
        ),
    ],
)
def test_a_targeted_search_ends_as_near_as_foolboxs(robust: Case, use: str, norm: str, name: str, theirs: dict) -> None:
    case = Case(robust.net, robust.x[:25], robust.y[:25])
    goal = (case.y + 1) % 10
    own = {"steps": 60, "searches": 6, "first_c": 0.1, "learning_rate": 0.05} if use == "cw" else {"steps": 100}
    ours = drive(case.net, use, case.x, case.y, Threat(norm=norm, eps=None), goal=goal, **own).images
    others = foolbox_of(case, goal, name, None, **theirs)
    with torch.no_grad():
        reached, reached_by_others = (case.net(images).argmax(1) == goal for images in (ours, others))
    assert int((reached_by_others & ~reached).sum()) <= 1
    both = reached & reached_by_others
    assert int(both.sum()) > 12
    nearest, farther = (distance(images - case.x, norm)[both].median() for images in (ours, others))
    assert float(nearest) < 1.03 * float(farther)
