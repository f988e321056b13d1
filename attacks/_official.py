"""AutoAttack as its authors publish it, run on a target, and a network that skips what is misclassified already."""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from attacks._adapters import contained
from attacks._square import square_search
from attacks._steps import budget, margin, per_image
from bench.api import MethodError, Target, Threat

#: Words of the package's output, and the note that each becomes.
FLAGS = {
    "randomized defense": "autoattack-randomised",
    "probability distribution": "autoattack-probabilities",
    "zero gradient": "autoattack-zero-gradient",
    "Square Attack has decreased": "autoattack-square-beats-gradient",
    "dynamic defense": "autoattack-dynamic",
}
#: Classes that APGD-T aims at in the standard version of L1.
L1_TARGETS = 5
#: Square of Crossfire, not that of the package, had images to search.
OWN_SQUARE = "autoattack-own-square"
#: The package's threshold for "Square Attack has decreased", as a share of the images.
_SQUARE_EXTRA = 0.002

#: ``attack_single_run(x, y, x_init)`` of the package's Auto-PGD: images of best loss, robust mask, losses, adversarial
#: images.
SingleRun = Callable[..., tuple[Any, Any, Any, Tensor]]


class SkipBroken(nn.Module):
    """Repeats the last logits of an image once it is misclassified, so that within a run only the others cost passes.

    An image that was misclassified once counts as broken whatever follows, and images of one run do not influence each
    other, so the run breaks the same images.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._labels: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._labels is None:
            logits: Tensor = self.net(x)
            return logits
        active = ~self._is_adv
        if self._last_logits is None:
            logits = self.net(x)
        else:
            # The package differentiates its loss also when no image is active, so the logits must depend on x.
            logits = self._last_logits + 0.0 * x.flatten(1)[:, :1]
            if bool(active.any()):
                logits = logits.index_put((active,), self.net(x[active]))
        self._last_logits = logits.detach()
        newly_adv = active & (self._last_logits.max(1).indices != self._labels)
        self._first_adv[newly_adv] = x.detach()[newly_adv]
        self._is_adv |= newly_adv
        return logits

    def skipping(self, attack: Any) -> SingleRun:
        """Return ``attack_single_run`` of an Auto-PGD, of images (N, C, H, W) with labels (N,).

        It gives the first misclassified iterate of each. A run at a larger radius than the budget, as in L1, skips
        nothing: a success there is none.
        """
        run = attack.attack_single_run

        def skipping_run(x: Tensor, y: Tensor, x_init: Tensor | None = None) -> tuple[Any, Any, Any, Tensor]:
            if attack.eps > attack.eps_orig:
                return run(x, y, x_init=x_init)
            self._labels = y
            self._first_adv = x.clone()
            self._last_logits = None
            self._is_adv = torch.zeros_like(y, dtype=torch.bool)
            try:
                best, robust, losses, x_adv = run(x, y, x_init=x_init)
            finally:
                self._labels = None
            return best, robust, losses, torch.where(per_image(self._is_adv, x_adv), self._first_adv, x_adv)

        return skipping_run


def authors_package() -> ModuleType:
    """Return pyautoattack, or autoattack where that is installed.

    Raises:
        MethodError: neither is.
    """
    for name in ("pyautoattack", "autoattack"):
        if importlib.util.find_spec(name):
            # The package counts calls of gradients in a global that it never resets.
            checks = importlib.import_module(f"{name}.checks")
            checks.funcs.update(dict.fromkeys(checks.funcs, 0))
            return importlib.import_module(name)
    raise MethodError("autoattack needs a package: pip install pyautoattack")


def run_ensemble(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    version: str | None,
    steps: int,
    targets: int,
    queries: int,
) -> Tensor:
    """Run the ensemble on images (N, C, H, W) with labels (N,), as :func:`attacks.autoattack.autoattack` says.

    Where the package's Square cannot run (:func:`square_runs`), Crossfire's searches what the others left.

    Raises:
        MethodError: the threat is unbounded, the package is not installed, or in L1 its Square cannot run.
    """
    eps, norm = budget(threat), {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm]
    version = version or ("rand" if target.stochastic else "standard")
    is_replaced = version != "rand" and not square_runs(threat.norm, *x.shape[2:])
    if is_replaced and threat.norm == "l1":
        size = "x".join(map(str, x.shape[2:]))
        raise MethodError(
            f"AutoAttack in L1 cannot run on images of {size}: the Square of its package fails at this size; "
            "apgd-ce and apgd-t can"
        )
    seed = int(target.rows(torch.tensor([0], device=x.device)).uniform(x[:1, :1, :1, :1]) * 2**24)
    with contained(x.device, logger="auto-attack") as output:
        package = authors_package()
        official = package.__name__ == "pyautoattack"
        verbosity = {} if official else {"verbose": False}
        net = target.module if target.stochastic else SkipBroken(target.module)
        ensemble = package.AutoAttack(net, norm=norm, eps=eps, seed=seed, version=version, device=x.device, **verbosity)
        if steps < 100 or targets < 9 or queries < 5000:
            target.notes.append("autoattack-reduced")
        _cut(ensemble, steps, targets)
        ensemble.square.n_queries = queries
        if isinstance(net, SkipBroken):
            for member in (ensemble.apgd, ensemble.apgd_targeted):
                member.attack_single_run = net.skipping(member)
        if _cap_classes(ensemble, target.num_classes):
            target.notes.append("classes-capped")
        if is_replaced:
            ensemble.attacks_to_run.remove("square")
        batch_size = {"batch_size" if official else "bs": target.batch}
        if target.stochastic:
            runs = ensemble.run_standard_evaluation_individual(x.clone(), y.clone(), **batch_size).values()
        else:
            runs = [ensemble.run_standard_evaluation(x.clone(), y.clone(), **batch_size)]
    text = output.getvalue()
    target.notes.extend(note for words, note in FLAGS.items() if words in text)
    candidates = [run[0] if official else run for run in runs]
    first_fraction = ensemble.square.p_init
    if is_replaced and not target.stochastic:
        return _with_squares(target, x, y, candidates[0], threat, queries, first_fraction)
    if is_replaced:
        target.notes.append(OWN_SQUARE)
        candidates.append(square_search(target, x, y, threat, queries, first_fraction)[0])
    return _largest_margin(target, candidates, y) if target.stochastic else candidates[0]


def square_runs(norm: str, height: int, width: int) -> bool:
    """Say whether the package's Square can run on images of a size.

    In L2 and L1 it starts from tiles, five or more to a side. It has none on images of fewer than five rows, and where
    tiles of more than one pixel would run past the edge it fails.
    """
    side = height // 5
    if norm == "linf" or side == 1:
        return True
    if side == 0:
        return False
    offset = (height - 5 * side) // 2
    return width < side or all(offset + length // side * side <= length for length in (height, width))


def _with_squares(
    target: Target, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat, queries: int, first_fraction: float
) -> Tensor:
    """Return ``x_adv`` with what Crossfire's Square breaks of the images that stand, which are in it as they came."""
    rows = (x_adv == x).flatten(1).all(1).nonzero().flatten()
    if len(rows):
        rows = rows[target.rows(rows)(x[rows]).argmax(1) == y[rows]]
    if len(rows) == 0:
        return x_adv
    target.notes.append(OWN_SQUARE)
    x_new, margins = square_search(target.rows(rows), x[rows], y[rows], threat, queries, first_fraction)
    # A tie is an error.
    is_adv = margins >= 0
    if int(is_adv.sum()) > _SQUARE_EXTRA * len(x):
        target.notes.append(FLAGS["Square Attack has decreased"])
    x_adv = x_adv.clone()
    x_adv[rows[is_adv]] = x_new[is_adv]
    return x_adv


def _largest_margin(target: Target, candidates: list[Tensor], y: Tensor) -> Tensor:
    """Return for each image the candidate of largest margin; the first of several equal ones."""
    x_best = candidates[0]
    best_margin = margin(target(x_best), y)
    for x_adv in candidates[1:]:
        loss = margin(target(x_adv), y)
        x_best = torch.where(per_image(loss > best_margin, x_adv), x_adv, x_best)
        best_margin = torch.maximum(loss, best_margin)
    return x_best


def _cut(ensemble: Any, steps: int, targets: int) -> None:
    """Set how many steps and targets an ensemble takes; APGD-T gets no more than :data:`L1_TARGETS` in L1."""
    for member in (ensemble.apgd, ensemble.apgd_targeted):
        # Where larger radii come first, the package goes by the second.
        member.n_iter = member.n_iter_orig = steps
    ensemble.fab.n_iter, ensemble.fab.n_target_classes = steps, targets
    larger_radii = ensemble.apgd_targeted.use_largereps
    ensemble.apgd_targeted.n_target_classes = min(targets, L1_TARGETS) if larger_radii else targets


def _cap_classes(ensemble: Any, num_classes: int) -> bool:
    """Fit an ensemble to the number of classes, and say whether that weakened it."""
    max_targets = num_classes - 1
    unfit = {name for name, min_classes in (("apgd-t", 4), ("apgd-dlr", 3)) if num_classes < min_classes}
    capped = ensemble.apgd_targeted.n_target_classes > max_targets or ensemble.fab.n_target_classes > max_targets
    dropped = unfit & set(ensemble.attacks_to_run)
    ensemble.attacks_to_run = [name for name in ensemble.attacks_to_run if name not in unfit]
    ensemble.apgd_targeted.n_target_classes = min(ensemble.apgd_targeted.n_target_classes, max_targets)
    ensemble.fab.n_target_classes = min(ensemble.fab.n_target_classes, max_targets)
    return capped or bool(dropped)
