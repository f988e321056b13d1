from typing import Any

import torch
from torch import Tensor

from attacks._adapters import contained
from attacks._official import SkipBroken, authors_package
from attacks._steps import budget, margin, per_image
from bench.api import Count, Literal, Target, Threat, attack

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


@attack(
    norms=("linf", "l2", "l1"),
    requires="pyautoattack",
    passes="at most steps + 1 + targets x (4 x steps + 2) + queries forwards "
    "+ steps + 1 + targets x (2 x steps + 1) backwards (standard, in L1 about as many), none once an image is broken, "
    "one draw of a random function at a time",
    early_exit="suite",
    averages_draws=False,
    presets={"tpap": {"version": "standard"}, "reference": {"version": "standard"}},
)
def autoattack(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    version: Literal["standard", "plus", "rand"] | None = None,
    steps: Count = 100,
    targets: Count = 9,
    queries: Count = 5000,
) -> Tensor:
    """AutoAttack (Croce and Hein, 2020) of its authors' package: APGD-CE, APGD-T, FAB-T and Square, one after another.

    Each attack of the ensemble gets the images that are not yet broken. An image that breaks during Auto-PGD costs no
    more passes; the success rule is the package's, and the same images break in the end. With a random function every
    attack gets every image, and an image keeps the candidate with the largest margin over several draws, since the
    package would drop it after one lucky answer (auto-attack #56, #104, #105). The package's warnings become notes:
    ``autoattack-randomised``, ``-probabilities``, ``-zero-gradient``, ``-square-beats-gradient`` and ``-dynamic`` (the
    function differentiates itself when called). Where the network has too few classes for nine targets they are
    capped, and below four the targeted DLR loss is left out (note ``classes-capped``). Fewer steps, targets or queries
    than the authors' make it another, weaker attack (note ``autoattack-reduced``). In L1 the standard version starts
    APGD-CE five times, aims APGD-T at five classes at most, and has both try larger radii first (Croce and Hein, 2021).

    Args:
        target: the function under attack, as a module.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞, L2 or L1 with its budget.
        version: the package's; by default ``rand`` for a random function and ``standard`` for any other.
        steps: of APGD and FAB.
        targets: classes that APGD-T and FAB-T aim at.
        queries: of Square.

    Returns:
        Images shaped as ``x``, within the threat; the input where no attack succeeded.

    Raises:
        MethodError: the threat is unbounded.
    """
    eps, norm = budget(threat), {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm]
    version = version or ("rand" if target.stochastic else "standard")
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
        batch_size = {"batch_size" if official else "bs": target.batch}
        if target.stochastic:
            runs = ensemble.run_standard_evaluation_individual(x.clone(), y.clone(), **batch_size).values()
        else:
            runs = [ensemble.run_standard_evaluation(x.clone(), y.clone(), **batch_size)]
    text = output.getvalue()
    target.notes.extend(note for words, note in FLAGS.items() if words in text)
    candidates = [run[0] if official else run for run in runs]
    return _largest_margin(target, candidates, y) if target.stochastic else candidates[0]


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
