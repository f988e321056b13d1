"""Whether adversarial images keep to their threat: one check for those just crafted and for those read back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.types import DISTANCE_NORMS, Norm, Threat, eps_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Round-off allowed in a ball: absolute in L∞, relative in L2 and L1; none in L0, which counts.
LINF_SLACK = 1e-6
L2_SLACK = 1e-4
#: How far from a whole number a pixel of 8 bit is, times 255.
_ON_A_LEVEL = 1e-3


def broken_rule(x_adv: Tensor | np.ndarray, x: Tensor | np.ndarray, threat: Threat) -> str | None:
    """Return how images break their threat, such as ``left the box [0, 1] by 8``; ``None`` if they keep to it.

    They must be finite, in [0, 1] and, under L∞, L2, L1 and L0 with a budget, in the ball. A flow or a transport plan
    cannot be recovered from the image; those attacks are checked in their own tests.

    Args:
        x_adv: adversarial images float32 (N, C, H, W), N at least 1: tensors, or arrays of NumPy.
        x: clean images in [0, 1], of the same kind and shape.
        threat: norm and budget.
    """
    highest, lowest = float(x_adv.max()), float(x_adv.min())
    if not (math.isfinite(highest) and math.isfinite(lowest)):
        # NaN - NaN and inf - inf are NaN, which is not 0.
        return f"returned a value that is not finite, at image {_worst(x_adv - x_adv != 0, len(x))}"
    if max(-lowest, highest - 1.0) > LINF_SLACK:
        at = _worst(x_adv if highest - 1.0 >= -lowest else -x_adv, len(x))
        return f"left the box [0, 1] by {max(-lowest, highest - 1.0):.3g}, at image {at}"
    if not has_ball(threat):
        return None
    assert threat.eps is not None
    moved, limit = x_adv - x, farthest_allowed(threat.norm, float(threat.eps))
    if threat.norm == "linf":
        farthest = max(float(moved.max()), -float(moved.min()))
    elif threat.norm == "l2":
        moved = (moved * moved).reshape(len(x), -1).sum(1)
        farthest = math.sqrt(float(moved.max()))
    elif threat.norm == "l1":
        moved = abs(moved).reshape(len(x), -1).sum(1)
        farthest = float(moved.max())
    else:
        moved = (1.0 * (moved != 0)).reshape(len(x), -1).sum(1)
        farthest = float(moved.max())
    if farthest <= limit:
        return None
    return (
        f"left its budget: {threat.norm} distance {farthest:.6g} above eps {eps_text(threat.eps)}, at image "
        f"{_worst(abs(moved), len(x))}"
    )


def farthest_allowed(norm: Norm, eps: float) -> float:
    """Return the largest distance that counts as within a budget, with room for round-off."""
    if norm == "l0":
        return eps
    return eps + LINF_SLACK if norm == "linf" else eps * (1 + L2_SLACK) + LINF_SLACK


def has_ball(threat: Threat) -> bool:
    """Say whether images can be checked against the budget of a threat."""
    return threat.eps is not None and threat.norm in DISTANCE_NORMS


def rounding_explains(x_adv: Tensor | np.ndarray, x: Tensor | np.ndarray, threat: Threat) -> str:
    """Return the end of the line about images that left their budget, if rounding to 8 bit may be the reason.

    It may be where every value is one of 8 bit, and the distance above the budget is what rounding adds at most.
    """
    if threat.eps is None or threat.norm not in ("linf", "l2"):
        return ""
    levels = x_adv * 255
    inside = float(x_adv.max()) <= 1 and float(x_adv.min()) >= 0
    if not inside or float(abs(levels - levels.round()).max()) > _ON_A_LEVEL:
        return ""
    moved, half = x_adv - x, 0.5 / 255
    if threat.norm == "linf":
        farthest, most = float(abs(moved).max()), half
    else:
        squares = (moved * moved).reshape(len(x), -1)
        farthest, most = math.sqrt(float(squares.sum(1).max())), half * math.sqrt(squares.shape[1])
    if farthest > float(threat.eps) + most + LINF_SLACK:
        return ""
    return "; its images are of 8 bit, and rounding can explain that: save floats"


def _worst(values: Tensor | np.ndarray, n: int) -> int:
    """Return which of ``n`` images has the largest value."""
    flat = (1.0 * values).reshape(n, -1)
    return int(flat.argmax()) // int(flat.shape[1])
