"""The attacks of other libraries, each as a function of a case; imported when first called for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attacks.advlib import _stand_ins

EPS = 8 / 255


class Case(NamedTuple):
    """A network as it is and in the fast layout, with images that it classifies rightly."""

    name: str
    net: nn.Module
    fast: nn.Module
    x: Tensor
    y: Tensor


def torchattacks(name: str, **parameters: Any) -> Callable[[Case], Tensor]:
    import torchattacks as package

    return lambda case: getattr(package, name)(case.net, **parameters)(case.x, case.y)


def torchattacks_to_least_likely(name: str, **parameters: Any) -> Callable[[Case], Tensor]:
    import torchattacks as package

    def run(case: Case) -> Tensor:
        attack = getattr(package, name)(case.net, **parameters)
        attack.set_mode_targeted_least_likely(quiet=True)
        return attack(case.x, case.y)

    return run


def least_likely(case: Case) -> Tensor:
    """Return the class that the network finds least likely of each image."""
    with torch.no_grad():
        return case.net(case.x).argmin(1)


def foolbox(name: str, eps: float | None, **parameters: Any) -> Callable[[Case], Tensor]:
    import foolbox as package

    def run(case: Case) -> Tensor:
        model = package.PyTorchModel(case.net, bounds=(0, 1), device=case.x.device)
        return getattr(package.attacks, name)(**parameters)(model, case.x, case.y, epsilons=eps)[1]

    return run


def advlib(name: str, **parameters: Any) -> Callable[[Case], Tensor]:
    # The package itself cannot be imported without what the adapter puts in the place of missing ones.
    with _stand_ins():
        from adv_lib import attacks as package

    return lambda case: getattr(package, name)(case.net, case.x, case.y, **parameters).detach()


def advlib_to_least_likely(name: str, **parameters: Any) -> Callable[[Case], Tensor]:
    with _stand_ins():
        from adv_lib import attacks as package

    attack = getattr(package, name)
    return lambda case: attack(case.net, case.x, least_likely(case), targeted=True, **parameters).detach()


def art(name: str, **parameters: Any) -> Callable[[Case], Tensor]:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    def run(case: Case) -> Tensor:
        device = "gpu" if case.x.is_cuda else "cpu"
        shape, loss = tuple(case.x.shape[1:]), nn.CrossEntropyLoss()
        net = PyTorchClassifier(case.net, loss, shape, 10, clip_values=(0.0, 1.0), device_type=device)
        attack = getattr(evasion, name)(net, batch_size=len(case.x), **parameters)
        return torch.from_numpy(attack.generate(case.x.cpu().numpy(), case.y.cpu().numpy())).to(case.x.device)

    return run


def official(**parameters: Any) -> Callable[[Case], Tensor]:
    from pyautoattack.autopgd_base import APGDAttack

    return lambda case: APGDAttack(case.net, device=case.x.device, **parameters).perturb(case.x, case.y)


def official_square(queries: int) -> Callable[[Case], Tensor]:
    from pyautoattack.square import SquareAttack

    def run(case: Case) -> Tensor:
        attack = SquareAttack(case.net, eps=EPS, n_queries=queries, resc_schedule=True, device=case.x.device)
        return attack.perturb(case.x, case.y)

    return run


def official_ensemble(
    steps: int, targets: int, queries: int, norm: str = "Linf", eps: float = EPS
) -> Callable[[Case], Tensor]:
    from pyautoattack import AutoAttack

    def run(case: Case) -> Tensor:
        ensemble = AutoAttack(case.net, norm=norm, eps=eps, seed=0, device=case.x.device)
        for part in (ensemble.apgd, ensemble.apgd_targeted, ensemble.fab):
            part.n_iter = steps
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
        ensemble.square.n_queries = queries
        return ensemble.run_standard_evaluation(case.x, case.y, batch_size=len(case.x))[0]

    return run
