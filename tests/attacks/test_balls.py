"""Balls within the box against an optimiser, all subsets of values, and moments that are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from attacks import _balls
from bench.api import Threat
from bench.evaluation.target import Meter, NetworkTarget
from tests.attacks.driving import Case

RADII = {"l2": 0.8, "l1": 2.0}


def changes(side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, side, side, generator=generator, dtype=torch.float64)
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", RADII)
def test_the_nearest_point_of_ball_and_box_is_that_of_an_optimiser(norm: str) -> None:
    x, delta = changes(4)
    # Each image has a radius of its own; the last one's holds the whole box.
    radius = RADII[norm] * torch.tensor([0.0, 0.3, 0.7, 1.0, 1.5, 99.0], dtype=torch.float64)
    nearest = _balls.nearest_in_ball(delta, x, radius, norm)
    assert bool((_balls.distance(nearest, norm) <= radius * (1 + 1e-9) + 1e-12).all())
    assert bool((x + nearest >= 0).all()) and bool((x + nearest <= 1).all())
    for image, wanted, found, limit in zip(x.numpy(), delta.numpy(), nearest.numpy(), radius.tolist(), strict=True):
        image, wanted = image.ravel(), wanted.ravel()
        inside = {
            "l2": lambda point, limit=limit: limit**2 - (point**2).sum(),
            # Positive and negative parts, so that the constraint is smooth.
            "l1": lambda parts, limit=limit: limit - parts.sum(),
        }[norm]
        at = (lambda parts: parts[:16] - parts[16:]) if norm == "l1" else (lambda point: point)
        bounds = [*zip(-image, 1 - image, strict=True)]
        if norm == "l1":
            bounds = [(0, high) for _, high in bounds] + [(0, -low) for low, _ in bounds]
        solved = minimize(
            lambda point, at=at, wanted=wanted: ((at(point) - wanted) ** 2).sum(),
            np.zeros(len(bounds)),
            bounds=bounds,
            constraints={"type": "ineq", "fun": inside},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert ((found.ravel() - wanted) ** 2).sum() == pytest.approx(solved.fun, abs=1e-6)


def test_the_nearest_point_in_l0_is_the_best_of_all_subsets() -> None:
    x, delta = changes(3)
    for most in (0, 1, 4, 9):
        nearest = _balls.nearest_in_ball(delta, x, torch.full((6,), float(most), dtype=torch.float64), "l0")
        free = (x + delta).clamp(0, 1) - x
        for found, wanted, moved in zip(nearest, delta.flatten(1), free.flatten(1), strict=True):
            best = min(
                float(
                    (
                        torch.zeros(9, dtype=torch.float64).index_put(
                            (torch.tensor(kept, dtype=torch.int64),), moved[list(kept)]
                        )
                        - wanted
                    )
                    .square()
                    .sum()
                )
                for kept in itertools.combinations(range(9), most)
            )
            assert float((found.flatten() - wanted).square().sum()) == pytest.approx(best, abs=1e-12)
            assert int((found != 0).sum()) <= most


def test_a_start_in_l1_is_uniform_in_the_ball(plain: Case) -> None:
    x, eps, values = torch.full((20000, 1, 2, 2), 0.5), 0.4, 4
    with Meter(plain.net, len(x)) as meter:
        target = NetworkTarget(plain.net, meter, torch.arange(len(x)), seed=0, num_classes=10, batch=64)
        delta = (_balls.uniform_start(target, x, Threat(norm="l1", eps="2/5")) - x).flatten(1)
    # Of a Dirichlet distribution, which the sizes of such a point have.
    assert float(delta.abs().sum(1).max()) <= eps * (1 + 1e-5)
    assert float(delta.mean()) == pytest.approx(0, abs=0.003)
    assert float(delta.abs().mean()) == pytest.approx(eps / (values + 1), rel=0.02)
    assert float(delta.square().mean()) == pytest.approx(2 * eps**2 / ((values + 1) * (values + 2)), rel=0.03)


def test_a_sparse_sign_moves_the_largest_values_by_the_same_amount() -> None:
    grad = torch.tensor([[0.1, -3.0, 0.0, 2.0], [0.1, -3.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]).view(3, 1, 2, 2)
    step = _balls.sparse_sign(grad, torch.tensor([0.0, 0.5, 0.5])).flatten(1)
    assert torch.equal(step, torch.tensor([[0.0, -1.0, 0.0, 0.0], [0.0, -0.5, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]]))
