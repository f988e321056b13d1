"""The same attack of other libraries on the same network and images, example by example.

Their known defects are allowed for: foolbox calls a black image a success of CW; torchattacks has no binary search.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks._balls import distance
from attacks._official import SkipBroken
from attacks._square import _moved_mass as moved_mass
from attacks._steps import budget
from bench.api import Threat
from bench.evaluation.target import Meter, NetworkTarget
from bench.process.isolation import frozen
from tests.attacks.driving import Case, drive, right

EPS, STEP = 0.15, 0.03
LINF = Threat(eps="15/100")
ONE_IN_A_HUNDRED = 1
PACKAGE_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def torchattacks_of(case: Case, name: str, **parameters: object) -> Tensor:
    package = pytest.importorskip("torchattacks", exc_type=ImportError)
    with frozen(case.net):
        return getattr(package, name)(case.net, **parameters)(case.x, case.y).detach()


def foolbox_of(case: Case, name: str, eps: float | None, **parameters: object) -> Tensor:
    package = pytest.importorskip("foolbox")
    with frozen(case.net):
        model = package.PyTorchModel(case.net, bounds=(0, 1), device="cpu")
        raw, x_adv, is_adv = getattr(package.attacks, name)(**parameters)(model, case.x, case.y, epsilons=eps)
    failed = ~is_adv | (raw.flatten(1).amax(1) == 0)
    return torch.where(failed[:, None, None, None], case.x, x_adv) if eps is None else x_adv


def art_of(case: Case, name: str, **parameters: object) -> Tensor:
    evasion = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

    with frozen(case.net):
        loss = torch.nn.CrossEntropyLoss()
        shape = tuple(case.x.shape[1:])
        net = PyTorchClassifier(case.net, loss, shape, 10, clip_values=(0.0, 1.0), device_type="cpu")
        x_adv = getattr(evasion, name)(net, **parameters).generate(case.x.numpy(), case.y.numpy())
    return torch.from_numpy(x_adv)


@pytest.fixture(scope="module")
def colour(robust: Case) -> Case:
    """The robust network on three equal channels: torchattacks' TI-FGSM takes no other number."""

    class Grey(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True)

    return Case(torch.nn.Sequential(Grey(), robust.net).eval(), robust.x.expand(-1, 3, -1, -1).clone(), robust.y)


def robust_count(case: Case, images: Tensor) -> int:
    return int(right(case.net, images, case.y).sum())


def mean_l2(case: Case, images: Tensor) -> float:
    return float((images - case.x).flatten(1).norm(dim=1).mean())


def test_fgsm_is_the_peers_fgsm(robust: Case) -> None:
    ours = drive(robust.net, "fgsm", robust.x, robust.y, LINF).images
    for theirs in (
        torchattacks_of(robust, "FGSM", eps=EPS),
        foolbox_of(robust, "LinfFastGradientAttack", EPS),
        art_of(robust, "FastGradientMethod", eps=EPS),
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_pgd_is_the_peers_pgd(robust: Case) -> None:
    ours = drive(
        robust.net, "pgd", robust.x, robust.y, LINF, steps=10, step_size="3/100", start="clean", rule="last-iterate"
    ).images
    for theirs in (
        torchattacks_of(robust, "PGD", eps=EPS, alpha=STEP, steps=10, random_start=False),
        foolbox_of(robust, "LinfPGD", EPS, abs_stepsize=STEP, steps=10, random_start=False),
        art_of(robust, "ProjectedGradientDescent", eps=EPS, eps_step=STEP, max_iter=10, verbose=False),
    ):
        # Round-off turns the sign of a gradient of nearly zero here and there; the verdicts are the same.
        assert float(((ours - theirs).abs() > 1e-6).float().mean()) < 0.01
        assert torch.equal(right(robust.net, ours, robust.y), right(robust.net, theirs, robust.y))


def test_pgd_in_l2_is_the_peers_pgd(robust: Case) -> None:
    ours = drive(
        robust.net,
        "pgd",
        robust.x,
        robust.y,
        Threat(norm="l2", eps=1),
        steps=10,
        step_size="1/5",
        start="clean",
        rule="last-iterate",
    ).images
    for theirs in (
        torchattacks_of(robust, "PGDL2", eps=1.0, alpha=0.2, steps=10, random_start=False),
        foolbox_of(robust, "L2PGD", 1.0, abs_stepsize=0.2, steps=10, random_start=False),
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert torch.equal(right(robust.net, ours, robust.y), right(robust.net, theirs, robust.y))


def test_mi_fgsm_is_the_peers_mi_fgsm(robust: Case) -> None:
    ours = drive(robust.net, "mi-fgsm", robust.x, robust.y, LINF, step_size="3/100", rule="last-iterate").images
    theirs = torchattacks_of(robust, "MIFGSM", eps=EPS, alpha=STEP, steps=10, decay=1.0)
    assert float(((ours - theirs).abs() > 1e-6).float().mean()) < 0.01
    assert torch.equal(right(robust.net, ours, robust.y), right(robust.net, theirs, robust.y))


def test_ti_fgsm_is_the_peers_ti_fgsm(colour: Case) -> None:
    ours = drive(
        colour.net, "ti-dim", colour.x, colour.y, LINF, steps=10, step_size="3/100", kernel=5, diversity=0.0
    ).images
    theirs = torchattacks_of(
        colour, "TIFGSM", eps=EPS, alpha=STEP, steps=10, decay=1.0, len_kernel=5, diversity_prob=0.0
    )
    assert float(((ours - theirs).abs() > 1e-6).float().mean()) < 0.01
    assert torch.equal(right(colour.net, ours, colour.y), right(colour.net, theirs, colour.y))


def test_ti_dim_is_as_strong_as_the_peers(colour: Case) -> None:
    common = {"eps": EPS, "alpha": STEP, "steps": 10, "decay": 1.0, "len_kernel": 3}
    torch.manual_seed(0)
    theirs = torchattacks_of(colour, "TIFGSM", **common, diversity_prob=0.7, resize_rate=0.9)
    ours = drive(
        colour.net, "ti-dim", colour.x, colour.y, LINF, steps=10, step_size="3/100", kernel=3, diversity=0.7
    ).images
    assert robust_count(colour, ours) <= robust_count(colour, theirs) + ONE_IN_A_HUNDRED


def test_ddn_is_as_strong_as_the_peers(robust: Case) -> None:
    theirs = foolbox_of(robust, "DDNAttack", None, steps=100, init_epsilon=1.0, gamma=0.05)
    ours = drive(robust.net, "ddn", robust.x, robust.y, Threat(norm="l2", eps=None), steps=100, levels=None).images
    assert robust_count(robust, ours) <= robust_count(robust, theirs) + ONE_IN_A_HUNDRED
    assert mean_l2(robust, ours) <= 1.03 * mean_l2(robust, theirs)


def least(case: Case, images: Tensor, norm: str) -> Tensor:
    """The distance of each image, infinite where it is not misclassified."""
    return distance(images - case.x, norm).masked_fill(right(case.net, images, case.y), torch.inf)


@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "l0"])
@pytest.mark.parametrize("preset", [None, "reference"])
def test_fmn_comes_as_near_as_the_peers(robust: Case, norm: str, preset: str | None) -> None:
    threat = Threat(norm=norm, eps=None)
    ours = least(robust, drive(robust.net, "fmn", robust.x, robust.y, threat, steps=60, preset=preset).images, norm)
    foolbox_name = {"l2": "L2FMNAttack", "linf": "LInfFMNAttack", "l1": "L1FMNAttack", "l0": "L0FMNAttack"}[norm]
    for use in ("advlib:fmn", f"foolbox:{foolbox_name}"):
        theirs = least(robust, drive(robust.net, use, robust.x, robust.y, threat, steps=60).images, norm)
        assert float(ours.median()) <= 1.02 * float(theirs.median())
        assert int(ours.isinf().sum()) <= int(theirs.isinf().sum())


def test_fmn_comes_near_the_least_of_longer_searches(robust: Case) -> None:
    threat, some = Threat(norm="l2", eps=None), Case(robust.net, robust.x[:50], robust.y[:50])
    ours = least(some, drive(some.net, "fmn", some.x, some.y, threat, steps=200).images, "l2")
    theirs = [
        least(some, drive(some.net, use, some.x, some.y, threat, num_steps=600).images, "l2")
        for use in ("advlib:alma", "advlib:pdgd")
    ]
    assert float(ours.median()) <= 1.02 * float(torch.minimum(*theirs).median())


def test_sigma_zero_is_the_peers_sigma_zero(robust: Case) -> None:
    threat = Threat(norm="l0", eps=None)
    ours = least(robust, drive(robust.net, "sigma-zero", robust.x, robust.y, threat, steps=100).images, "l0")
    theirs = drive(robust.net, "advlib:sigma_zero", robust.x, robust.y, threat, num_steps=100).images
    theirs = least(robust, theirs, "l0")
    assert bool(theirs.isfinite().any())
    # Round-off carries some images over another way.
    assert float((ours == theirs).float().mean()) >= 0.8
    assert float(ours.median()) <= 1.02 * float(theirs.median())


def test_cw_is_as_strong_as_the_peers(robust: Case) -> None:
    theirs = foolbox_of(robust, "L2CarliniWagnerAttack", None, binary_search_steps=6, steps=60, initial_const=0.1)
    for early in (False, True):
        ours = drive(
            robust.net,
            "cw",
            robust.x,
            robust.y,
            Threat(norm="l2", eps=None),
            steps=60,
            searches=6,
            first_c=0.1,
            abort_early=early,
        ).images
        assert robust_count(robust, ours) <= robust_count(robust, theirs) + ONE_IN_A_HUNDRED
        assert mean_l2(robust, ours) <= 1.03 * mean_l2(robust, theirs)


def test_cw_without_a_search_is_the_peers_cw(robust: Case) -> None:
    # Off the edges of the box: torchattacks cannot move a pixel that is 0 or 1.
    robust = robust._replace(x=0.05 + 0.9 * robust.x)
    theirs = torchattacks_of(robust, "CW", c=1, kappa=0, steps=50, lr=0.02)
    ours = drive(
        robust.net,
        "cw",
        robust.x,
        robust.y,
        Threat(norm="l2", eps=None),
        steps=50,
        searches=1,
        first_c=1.0,
        learning_rate=0.02,
        abort_early=False,
    ).images
    assert robust_count(robust, ours) <= robust_count(robust, theirs) + ONE_IN_A_HUNDRED
    both = ~right(robust.net, ours, robust.y) & ~right(robust.net, theirs, robust.y)
    distances = [(images - robust.x).flatten(1).norm(dim=1)[both] for images in (ours, theirs)]
    # It stops where the sum over its batch rises, so some images end elsewhere; most take the very same path.
    ratio = distances[0] / distances[1]
    assert float(((ratio - 1).abs() < 1e-3).float().mean()) >= 0.6
    assert float(ratio.mean()) <= 1.0


class SameStart(NetworkTarget):
    """Draws from the global generator, in the order in which pyautoattack does."""

    #: What the package draws once more and throws away for each start of a run.
    discarded = 0

    def rows(self, index: Tensor) -> NetworkTarget:
        view = super().rows(index)
        view.__class__ = SameStart
        return view

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        return (high - low) * torch.rand(like.shape) + low

    def normal(self, like: Tensor) -> Tensor:
        noise, *_ = (torch.randn(like.shape) for _ in range(1 + self.discarded))
        return noise


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.15), ("l2", 0.9), ("l1", 1.2)])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t"])
def test_apgd_breaks_the_images_that_its_authors_code_breaks(
    robust: Case, monkeypatch: pytest.MonkeyPatch, name: str, norm: str, eps: float
) -> None:
    # At each of three radii.
    monkeypatch.setattr(SameStart, "discarded", 3 if norm == "l1" else 0)
    base = pytest.importorskip("pyautoattack.autopgd_base")
    common = {"n_iter": 50, "norm": PACKAGE_NORM[norm], "eps": eps, "seed": 7, "device": "cpu"}
    common |= {"use_largereps": norm == "l1"}
    with frozen(robust.net), torch.random.fork_rng(devices=[]):
        if name == "apgd-ce":
            theirs = base.APGDAttack(robust.net, n_restarts=2, **common).perturb(robust.x, robust.y)
        else:
            theirs = base.APGDAttack_targeted(robust.net, n_target_classes=3, **common).perturb(robust.x, robust.y)
    settings = {"restarts": 2} if name == "apgd-ce" else {"targets": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        threat = Threat(norm=norm, eps=eps)
        ours = drive(robust.net, name, robust.x, robust.y, threat, steps=50, kind=SameStart, **settings).images
    correct = right(robust.net, ours, robust.y), right(robust.net, theirs, robust.y)
    assert 0 < int(correct[1].sum()) < 100
    assert torch.equal(*correct)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.15), ("l2", 0.9), ("l1", 1.2)])
@pytest.mark.parametrize("name", ["APGDAttack", "APGDAttack_targeted"])
def test_the_package_breaks_the_same_images_when_broken_ones_are_spared(
    robust: Case, name: str, norm: str, eps: float
) -> None:
    base = pytest.importorskip("pyautoattack.autopgd_base")
    x_adv, passes = [], []
    for net in (robust.net, skipping := SkipBroken(robust.net)):
        attack = getattr(base, name)(net, n_iter=50, norm=PACKAGE_NORM[norm], eps=eps, seed=7, device="cpu")
        attack.use_largereps = norm == "l1"
        attack.n_target_classes = 3
        if net is skipping:
            attack.attack_single_run = skipping.skipping(attack)
        with frozen(robust.net), torch.random.fork_rng(devices=[]), Meter(robust.net) as meter:
            x_adv.append(attack.perturb(robust.x, robust.y))
        passes.append(meter.forwards)
    correct = [right(robust.net, images, robust.y) for images in x_adv]
    assert 0 < int(correct[0].sum()) < 100
    assert torch.equal(*correct)
    assert float(distance(x_adv[1] - robust.x, norm).max()) <= eps * (1 + 1e-5)
    assert passes[1] < passes[0]


@pytest.mark.parametrize(("norm", "eps"), [("linf", "15/100"), ("l2", "9/10")])
def test_square_is_as_strong_as_its_authors_code(plain: Case, norm: str, eps: str) -> None:
    package = pytest.importorskip("pyautoattack.square")
    threat, counts = Threat(norm=norm, eps=eps), []  # type: ignore[arg-type]
    for seed in range(3):
        with frozen(plain.net), torch.random.fork_rng(devices=[]):
            attack = package.SquareAttack(
                plain.net,
                norm=PACKAGE_NORM[norm],
                eps=budget(threat),
                n_queries=300,
                seed=seed,
                resc_schedule=True,
                device="cpu",
                verbose=False,
            )
            theirs = attack.perturb(plain.x, plain.y)
        ours = drive(plain.net, "square", plain.x, plain.y, threat, queries=300, seed=seed).images
        counts.append((robust_count(plain, ours), robust_count(plain, theirs)))
    ours_mean, theirs_mean = np.mean(counts, axis=0)
    # Three runs of a random search on 100 images: the means agree to a few images.
    assert 5 < ours_mean <= theirs_mean + 3


@pytest.mark.parametrize("side", [1, 3, 5, 8, 13])
def test_a_square_of_l2_holds_the_authors_hill_and_valley(side: int) -> None:
    package = pytest.importorskip("pyautoattack.square")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(side)
        theirs = package.SquareAttack(None, norm="L2", eps=1.0, device="cpu").eta(side)
    x, corner = torch.zeros(2, 1, side, side), torch.zeros(2, 6)
    # The two ways in which it may lie, with the sign of the one channel up.
    corner[:, 4], corner[:, 5] = torch.tensor([0.1, 0.9]), 0.9
    moved = moved_mass(x, x, corner, side, eps=2.0) / 2
    assert any(torch.allclose(each[0], theirs, atol=1e-6) for each in moved)
    assert torch.allclose(moved[1, 0], moved[0, 0].T)


def test_autoattack_is_its_authors_package_and_takes_no_more_passes(plain: Case) -> None:
    package = pytest.importorskip("pyautoattack")
    x, y = plain.x[:12], plain.y[:12]
    eps = 0.14
    ours = drive(plain.net, "autoattack", x, y, Threat(eps="14/100"), version="standard")
    counted = 0

    def count(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
        nonlocal counted
        counted += len(inputs[0])

    with frozen(plain.net), torch.random.fork_rng(devices=[]):
        hook = plain.net.register_forward_hook(count)
        ensemble = package.AutoAttack(plain.net, eps=eps, seed=0, version="standard")
        theirs, _ = ensemble.run_standard_evaluation(x, y, batch_size=64)
        hook.remove()
    correct = right(plain.net, ours.images, y), right(plain.net, theirs, y)
    assert int((correct[0] != correct[1]).sum()) <= 1, "only the seed differs"
    assert float(ours.forwards.sum()) < counted
    assert math.isclose(float((ours.images - x).abs().max()), eps, abs_tol=1e-6)
    assert not [note for note in ours.notes if note.startswith("autoattack-dynamic")]
