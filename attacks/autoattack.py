from torch import Tensor

from attacks._official import run_ensemble
from bench.api import Count, Literal, Target, Threat, attack


@attack(
    norms=("linf", "l2", "l1"),
    requires="pyautoattack",
    passes="at most steps + 1 + targets x (4 x steps + 2) + queries forwards "
    "+ steps + 1 + targets x (2 x steps + 1) backwards (standard, in L1 about as many), none once an image is broken, "
    "one draw of a random function at a time",
    least="steps + 1 + queries forwards + steps backwards, those of APGD-CE and Square",
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

    The package's Square fails in L2 and L1 on images of fewer than five rows, and of 12x12, 14x14, 18x18, 19x19, 24x24
    and other sizes that its tiles run past. There, in L2, the attack ``square`` runs last in its place, with as many
    queries (note ``autoattack-own-square``).

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
        MethodError: the threat is unbounded, or in L1 the images have a size at which the package's Square fails.
    """
    return run_ensemble(target, x, y, threat, version, steps, targets, queries)
