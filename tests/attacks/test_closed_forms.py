"""Attacks against networks on which the best answer is known, and against independent solvers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import torch
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional as F

from attacks import _resizing, sta, ti_dim
from attacks._balls import distance
from bench.api import Threat
from bench.evaluation.target import Meter, NetworkTarget
from tests.attacks.driving import THREATS, Case, Linear, drive, right


@pytest.fixture
def linear() -> tuple[Linear, Tensor, Tensor]:
    """Ten classes, linear in 3 x 6 x 6 pixels, and 20 rightly classified images far from the box."""
    generator = torch.Generator().manual_seed(3)
    net = Linear(torch.randn(10, 108, generator=generator), torch.zeros(10))
    x = 0.5 + 0.05 * torch.randn(20, 3, 6, 6, generator=generator)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def least_l2(net: Linear, x: Tensor, y: Tensor) -> Tensor:
    """The distance to the nearest decision plane: the least |margin| / ||w_i - w_y|| over the other classes."""
    with torch.no_grad():
        logits, weight = net(x), net.weight
        gap = logits.gather(1, y[:, None]) - logits
        width = (weight[None] - weight[y][:, None]).norm(dim=2)
        return (gap / width).scatter(1, y[:, None], torch.inf).amin(1)


def least_of(net: Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The least norm of a change that reaches a decision plane within the box, of images that lie far from the box.

    In L1 and L0 as few values as possible go to the edge of the box, those first that gain most for their price.
    """
    if norm == "l2":
        return least_l2(net, x, y)
    with torch.no_grad():
        logits, weight = net(x), net.weight[None] - net.weight[y][:, None]
        gap = logits.gather(1, y[:, None]) - logits
    if norm == "linf":
        return (gap / weight.abs().sum(2)).scatter(1, y[:, None], torch.inf).amin(1)
    room = torch.where(weight > 0, 1 - x.flatten(1)[:, None], x.flatten(1)[:, None])
    worth = weight.abs() * (room if norm == "l0" else 1)
    order = worth.argsort(2, descending=True)
    gain = (weight.abs() * room).gather(2, order)
    reached = gain.cumsum(2)
    done = (reached < gap[:, :, None]).sum(2)
    if norm == "l0":
        return (done + 1.0).scatter(1, y[:, None], torch.inf).amin(1)
    spent = room.gather(2, order)
    before = (reached - gain).gather(2, done[:, :, None])[:, :, 0]
    rate = weight.abs().gather(2, order).gather(2, done[:, :, None])[:, :, 0].clamp_min(1e-12)
    price = (spent.cumsum(2) - spent).gather(2, done[:, :, None])[:, :, 0] + (gap - before) / rate
    return price.scatter(1, y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "l0"])
@pytest.mark.parametrize(("classes", "scale"), [(2, 1), (10, 1), (10, 10)])
@pytest.mark.parametrize("preset", [None, "reference"])
def test_fmn_comes_within_2_percent_of_the_least_norm(linear, norm: str, classes: int, scale: float, preset) -> None:
    net, x, _ = linear
    net = Linear(scale * net.weight.data[:classes], net.bias.data[:classes])
    with torch.no_grad():
        y = net(x).argmax(1)
    x_adv = drive(net, "fmn", x, y, Threat(norm=norm, eps=None), steps=200, preset=preset).images
    assert not bool(right(net, x_adv, y).any())
    ratio = distance(x_adv - x, norm) / least_of(net, x, y, norm)
    assert float(ratio.min()) >= 1 - 1e-4, "nothing can be nearer than the plane"
    assert float(ratio.median()) <= 1.02


def test_fgsm_is_exact_on_two_classes() -> None:
    weight = torch.randn(1, 48, generator=torch.Generator().manual_seed(0))
    net, x = Linear(torch.cat([-weight, weight]), torch.zeros(2)), torch.full((1, 3, 4, 4), 0.5)
    y = torch.zeros(1, dtype=torch.int64)
    x_adv = drive(net, "fgsm", x, y, Threat(eps="1/10")).images
    assert torch.equal(x_adv, x + 0.1 * weight.sign().view_as(x))
    l2 = drive(net, "fgsm", x, y, Threat(norm="l2", eps="1/10")).images
    assert torch.allclose(l2 - x, (0.1 * weight / weight.norm()).view_as(x), atol=1e-6)


@pytest.mark.parametrize("name", ["pgd", "smoothed-pgd", "mi-fgsm", "apgd-ce", "ti-dim"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_iterated_attacks_reach_the_corner_of_the_ball(name: str, norm: str) -> None:
    # One class against another by a wide margin, so nothing breaks and the best point is known.
    weight = torch.randn(1, 48, generator=torch.Generator().manual_seed(0))
    net, x = Linear(torch.cat([-weight, weight]), torch.tensor([5.0, -5.0])), torch.full((1, 3, 4, 4), 0.5)
    net.weight.data *= 0.3
    plain = {"diversity": 0.0, "kernel": 1} if name == "ti-dim" else {}
    driven = drive(net, name, x, torch.zeros(1, dtype=torch.int64), Threat(norm=norm, eps="1/10"), steps=40, **plain)
    delta = (driven.images - x).flatten(1)
    best = 0.1 * (weight.abs().sum() if norm == "linf" else weight.norm())
    assert float((delta * weight).sum()) >= 0.995 * float(best)


@pytest.mark.parametrize("name", ["pgd", "apgd-ce"])
def test_iterated_attacks_in_l1_move_the_values_that_gain_most_to_the_edge_of_the_box(name: str) -> None:
    weight = torch.randn(1, 48, generator=torch.Generator().manual_seed(0))
    net, x = Linear(torch.cat([-weight, weight]), torch.tensor([9.0, -9.0])), torch.full((1, 3, 4, 4), 0.5)
    y = torch.zeros(1, dtype=torch.int64)
    x_adv = drive(net, name, x, y, Threat(norm="l1", eps="9/4"), steps=100).images
    # Four values go all of the way, half a pixel, and the next a quarter of one.
    largest = weight[0].abs().sort(descending=True).values
    best = 0.5 * largest[:4].sum() + 0.25 * largest[4]
    assert float(((x_adv - x).flatten(1) * weight).sum()) >= 0.98 * float(best)


@pytest.mark.parametrize(
    ("name", "settings", "classes", "scale"),
    [
        ("cw", {"steps": 300}, 10, 1),
        ("cw", {"steps": 300}, 2, 1),
        ("ddn", {"steps": 200, "levels": None}, 2, 1),
        # DDN climbs the cross-entropy, whose gradient mixes in every class that is still likely at the boundary. That
        # is a few percent farther than the nearest plane where logits are small, whatever the steps.
        ("ddn", {"steps": 200, "levels": None}, 10, 3),
        ("ddn", {"steps": 200, "levels": None}, 10, 10),
    ],
)
def test_minimum_norm_attacks_come_within_5_percent_of_the_least_l2(
    linear, name: str, settings: dict, classes: int, scale: float
) -> None:
    net, x, _ = linear
    net = Linear(scale * net.weight.data[:classes], net.bias.data[:classes])
    with torch.no_grad():
        y = net(x).argmax(1)
    x_adv = drive(net, name, x, y, Threat(norm="l2", eps=None), **settings).images
    assert not bool(right(net, x_adv, y).any())
    ratio = (x_adv - x).flatten(1).norm(dim=1) / least_l2(net, x, y)
    assert float(ratio.min()) >= 1 - 1e-4, "nothing can be nearer than the plane"
    assert float(ratio.max()) <= 1.05


@pytest.mark.parametrize("name", ["cw", "ddn", "fmn"])
def test_a_budget_keeps_what_lies_within_it_and_gives_back_the_rest(linear, name: str) -> None:
    net, x, y = linear
    least = least_l2(net, x, y)
    eps = float(least.median()) * 1.1
    x_adv = drive(net, name, x, y, Threat(norm="l2", eps=eps)).images
    distance = (x_adv - x).flatten(1).norm(dim=1)
    reachable = least * 1.06 <= eps
    assert bool((distance <= eps * (1 + 1e-6)).all())
    assert not bool((right(net, x_adv, y) & reachable).any())
    assert torch.equal(x_adv[least > eps], x[least > eps])


def test_a_confident_cw_has_the_margin_it_was_asked_for(linear) -> None:
    net, x, y = linear
    x_adv = drive(net, "cw", x, y, Threat(norm="l2", eps=None), steps=100, confidence=2.0).images
    with torch.no_grad():
        logits = net(x_adv)
    margin = logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]
    assert bool((margin >= 2 - 1e-4).all())


def test_more_searches_never_take_cw_farther(robust: Case) -> None:
    few, more = (
        drive(robust.net, "cw", robust.x[:30], robust.y[:30], Threat(norm="l2", eps=None), steps=40, searches=n).images
        for n in (4, 7)
    )
    far, near = ((images - robust.x[:30]).flatten(1).norm(dim=1) for images in (few, more))
    is_adv = ~right(robust.net, few, robust.y[:30])
    assert bool(is_adv.any())
    assert bool((near[is_adv] <= far[is_adv] + 1e-6).all())


@pytest.mark.parametrize("levels", [16, 256])
def test_ddn_keeps_to_the_grey_levels(plain: Case, levels: int) -> None:
    x_adv = drive(plain.net, "ddn", plain.x[:20], plain.y[:20], Threat(norm="l2", eps=None), levels=levels).images
    moved = (x_adv != plain.x[:20]).flatten(1).any(1)
    grid = x_adv[moved] * (levels - 1)
    assert bool(moved.any())
    assert torch.allclose(grid, grid.round(), atol=1e-4)


def test_ddn_grows_its_norm_by_gamma_while_it_fails() -> None:
    seen: list[Tensor] = []

    class Watched(NetworkTarget):
        def gradient(self, x, loss, *args):
            seen.append(x.clone())
            return super().gradient(x, loss, *args)

    net = Linear(torch.zeros(2, 48), torch.tensor([1.0, 0.0]))
    x, y = torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64)
    net.weight.data[1, 0] = 1e-3
    drive(net, "ddn", x, y, Threat(norm="l2", eps=None), steps=9, levels=None, first_norm=0.1, kind=Watched)
    norms = [float((image - x).norm()) for image in seen]
    assert norms == pytest.approx([0.0, *(0.1 * 1.05**k for k in range(1, 9))], rel=1e-4)


def gain_of_best_plan(x: np.ndarray, weight: np.ndarray, eps: float, kernel: int) -> float:
    """The most that ``weight`` can gain over plans in the window, within the budget, with no pixel above 1."""
    channels, height, width = x.shape
    reach = range(-(kernel // 2), (kernel - 1) // 2 + 1)
    at = np.arange(x.size).reshape(x.shape)
    moves = itertools.product(range(channels), range(height), range(width), reach, reach)
    arcs = [
        (at[c, i, j], at[c, i + a, j + b], math.hypot(a, b))
        for c, i, j, a, b in moves
        if 0 <= i + a < height and 0 <= j + b < width
    ]
    source, sink, cost = (np.array(column) for column in zip(*arcs, strict=True))
    arc = np.arange(len(arcs))
    leave = scipy.sparse.csr_matrix((np.ones(len(arcs)), (source, arc)))
    arrive = scipy.sparse.csr_matrix((np.ones(len(arcs)), (sink, arc)), shape=(x.size, len(arcs)))
    limits = scipy.sparse.vstack([scipy.sparse.csr_matrix(cost[None]), arrive])
    solved = linprog(
        -weight.ravel()[sink], A_ub=limits, b_ub=[eps * x.sum(), *np.ones(x.size)], A_eq=leave, b_eq=x.ravel()
    )
    assert solved.success
    return -solved.fun - float((x * weight).sum())


def transport_cost(x: np.ndarray, x_adv: np.ndarray) -> float:
    """The least cost of moving the mass of ``x`` to where ``x_adv`` has it, channel by channel, anywhere."""
    total, (_, height, width) = 0.0, x.shape
    position = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
    cost = np.linalg.norm(position[:, None] - position[None], axis=2).ravel()
    n = height * width
    leave = scipy.sparse.kron(scipy.sparse.eye(n), np.ones((1, n)))
    arrive = scipy.sparse.kron(np.ones((1, n)), scipy.sparse.eye(n))
    for source, sink in zip(x, x_adv, strict=True):
        sink = sink * (source.sum() / sink.sum())
        solved = linprog(cost, A_eq=scipy.sparse.vstack([leave, arrive]), b_eq=[*source.ravel(), *sink.ravel()])
        assert solved.success
        total += solved.fun
    return total


@pytest.mark.parametrize(
    ("brightest", "kernel", "eps"), [(0.5, 5, 0.02), (0.5, 4, 8 / 255), (1.0, 5, 0.05), (1.0, 3, 0.02)]
)
def test_fwa_gains_within_5_percent_of_a_linear_program(brightest: float, kernel: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(7)
    x = brightest * torch.rand(1, 2, 8, 8, generator=generator)
    weight = torch.randn(128, generator=generator)
    net = Linear(torch.stack([-weight, weight]) * 0.1, torch.tensor([9.0, -9.0]))
    threat = Threat(norm="wasserstein", eps=eps)
    x_adv = drive(net, "fwa", x, torch.zeros(1, dtype=torch.int64), threat, steps=10, kernel=kernel).images
    best = gain_of_best_plan(x[0].double().numpy(), weight.view(2, 8, 8).double().numpy(), eps, kernel)
    gained = float(((x_adv - x).flatten() * weight).sum())
    assert 0.95 * best <= gained <= best * (1 + 1e-3)
    assert torch.allclose(x_adv.sum((2, 3)), x.sum((2, 3)), rtol=1e-5)
    assert transport_cost(x[0].double().numpy(), x_adv[0].double().numpy()) <= eps * float(x.sum()) * (1 + 1e-3)


def test_fwa_looks_at_few_pixels_as_at_all(plain: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # A GPU looks at all of them at once.
    x_adv = []
    for share in (1 / 64, 1.0):
        monkeypatch.setattr("attacks._transport.FIRST_SHARE", share)
        x_adv.append(drive(plain.net, "fwa", plain.x[:8], plain.y[:8], THREATS["wasserstein"], steps=1).images)
    assert torch.allclose(*x_adv, atol=1e-4)


def test_fwa_without_capacity_loses_only_what_no_pixel_can_hold(plain: Case) -> None:
    threat = Threat(norm="wasserstein", eps="1/20")
    kept, clamped = (
        drive(plain.net, "fwa", plain.x[:8], plain.y[:8], threat, steps=5, capacity=capacity).images
        for capacity in (True, False)
    )
    mass = plain.x[:8].sum((2, 3))
    assert torch.allclose(kept.sum((2, 3)), mass, rtol=1e-5)
    assert bool((clamped.sum((2, 3)) <= mass * (1 + 1e-5)).all())


def test_sta_samples_as_another_library_does() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 9, 7, generator=generator)
    flow = 2 * torch.randn(1, 2, 9, 7, generator=generator)
    rows, columns = np.meshgrid(np.arange(9), np.arange(7), indexing="ij")
    source = [rows + flow[0, 1].numpy(), columns + flow[0, 0].numpy()]
    expected = scipy.ndimage.map_coordinates(x[0, 0].numpy(), source, order=1, mode="nearest")
    grid = sta._grid(x)
    assert np.allclose(sta._warp(x, flow, grid)[0, 0].numpy(), expected, atol=1e-5)
    assert torch.allclose(sta._warp(x, torch.zeros_like(flow), grid), x, atol=1e-5)


def test_sta_charges_nothing_for_a_constant_flow_and_each_neighbour_twice() -> None:
    flow = torch.zeros(1, 2, 5, 5)
    pairs = 2 * 5 * 4
    assert float(sta._variation(flow + 3)) == pytest.approx(2 * pairs * 1e-4, rel=1e-3)
    flow[0, 0, 2, 2], flow[0, 1, 2, 2] = 3, 4
    assert float(sta._variation(flow)) == pytest.approx(2 * 4 * 5, rel=1e-2)


def test_sta_moves_pixels_and_keeps_their_values(plain: Case) -> None:
    x, y = plain.x[:50], plain.y[:50]
    x_adv = drive(plain.net, "sta", x, y, Threat(norm="flow", eps=None), steps=60, learning_rate=0.05).images
    is_adv = ~right(plain.net, x_adv, y)
    assert float(is_adv.float().mean()) >= 0.9
    assert torch.equal(x_adv[~is_adv], x[~is_adv])
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    assert bool(((x_adv >= low - 1e-6) & (x_adv <= high + 1e-6)).all())


def test_sta_stays_within_a_displacement_that_bounds_it(plain: Case) -> None:
    x, y = plain.x[:20], plain.y[:20]
    free = drive(plain.net, "sta", x, y, Threat(norm="flow", eps="1/2"), steps=60, learning_rate=0.05).images
    tight = drive(plain.net, "sta", x, y, Threat(norm="flow", eps="1/80"), steps=60, learning_rate=0.05).images
    assert int(right(plain.net, tight, y).sum()) > int(right(plain.net, free, y).sum())
    # A pixel that moves a tenth of a pixel changes by at most that share of each difference with its neighbours.
    step = max(float(x.diff(dim=2).abs().max()), float(x.diff(dim=3).abs().max()))
    assert float((tight - x).abs().max()) <= 2 * 0.1 * step + 1e-5


@pytest.mark.parametrize(("kernel", "centre"), [(3, 0.9570), (5, 0.3579), (7, 0.1592), (15, 0.0293)])
def test_the_kernel_of_ti_dim_is_a_gaussian_that_sums_to_one(kernel: int, centre: float) -> None:
    spot = torch.zeros(1, 1, 33, 33)
    spot[0, 0, 16, 16] = 1
    blur_rows, blur_columns = ti_dim._blur_matrices(spot, kernel)
    weights = (blur_rows @ spot @ blur_columns)[0, 0]
    assert float(weights[16, 16]) == pytest.approx(centre, abs=5e-5)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(weights, weights.flip(0))
    assert torch.allclose(weights, weights.T)


def test_ti_dim_smooths_as_a_zero_padded_convolution_does() -> None:
    grad = torch.randn(2, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    gaussian = torch.exp(-0.5 * torch.linspace(-3, 3, 7) ** 2)
    kernel = (gaussian[:, None] * gaussian) / (gaussian.sum() ** 2)
    expected = F.conv2d(grad, kernel.expand(3, 1, 7, 7), padding=3, groups=3)
    blur_rows, blur_columns = ti_dim._blur_matrices(grad, 7)
    assert torch.allclose(blur_rows @ grad @ blur_columns, expected, atol=1e-5)


def test_ti_dim_resizes_as_another_function_does(plain: Case) -> None:
    x = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with Meter(plain.net, 40) as meter:
        target = NetworkTarget(plain.net, meter, torch.arange(40), seed=0, num_classes=10, batch=40)
        resizing = _resizing.draw(target, x, 2, 0.6, 0.8)
    assert not torch.equal(resizing.resized[:, 0], resizing.resized[:, 1]), "each step draws anew"
    source_rows, source_columns, resized = (field[:, 1] for field in resizing)
    x.requires_grad_()
    index = _resizing.pixel_index(source_rows, source_columns, x)
    x_resized = _resizing.resize(x, index)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad((x_resized * weight).sum(), x)
    assert torch.equal(_resizing.resize_backward(weight, index), grad)
    assert 0.3 < float(resized.float().mean()) < 0.9
    assert torch.equal(x_resized[~resized], x[~resized])
    sides = set()
    for image, image_resized, rows in zip(x[resized], x_resized[resized], source_rows[resized], strict=True):
        filled = (rows < 32).nonzero().flatten()
        side, top = len(filled), int(filled[0])
        left = int((image_resized.abs().sum((0, 1)) > 0).nonzero()[0])
        small = F.interpolate(image[None], size=(side, side), mode="nearest")[0]
        expected = F.pad(small, (left, 32 - side - left, top, 32 - side - top))
        assert torch.equal(image_resized, expected)
        sides.add(side)
    assert min(sides) >= 26
    assert max(sides) <= 32
    assert len(sides) > 3


def test_ti_dim_without_its_parts_is_mi_fgsm(plain: Case) -> None:
    bare, known = (
        drive(plain.net, name, plain.x[:20], plain.y[:20], Threat(eps="1/10"), rule="last-iterate", **parts).images
        for name, parts in (("ti-dim", {"kernel": 1, "diversity": 0.0}), ("mi-fgsm", {}))
    )
    assert torch.allclose(bare, known, atol=1e-6)


def test_ti_dim_refuses_an_even_kernel(plain: Case) -> None:
    with pytest.raises(Exception, match="kernel = 4 must be odd, such as 3"):
        drive(plain.net, "ti-dim", plain.x[:1], plain.y[:1], Threat(), kernel=4)


def test_apgd_t_refuses_three_classes() -> None:
    net, x = Linear(torch.randn(3, 48), torch.zeros(3)), torch.full((1, 3, 4, 4), 0.5)
    with pytest.raises(Exception, match="needs 4 classes, the network has 3: use apgd-ce"):
        drive(net, "apgd-t", x, torch.zeros(1, dtype=torch.int64), Threat())
