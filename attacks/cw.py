from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attacks._aim import Aim, aim_of
from attacks._steps import ActiveImages, adam_step, l2_norm, per_image
from bench.api import Count, NonNegative, Positive, Target, Threat, attack


@attack(
    norms=("l2",),
    bounded=False,
    passes="searches x steps forwards + searches x steps backwards, fewer where the search for an image stalls",
    early_exit="stalled",
    targetable=True,
    presets={
        "tpap": {"steps": 10, "searches": 4, "confidence": 1.0, "first_c": 1.0, "abort_early": False},
        "reference": {"steps": 1000, "searches": 9},
    },
)
def cw(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 200,
    searches: Count = 9,
    confidence: NonNegative = 0.0,
    first_c: Positive = 1e-3,
    learning_rate: Positive = 0.01,
    abort_early: bool = True,
) -> Tensor:
    """Carlini and Wagner's L2 attack (2017): Adam on norm plus c times a penalty, and a binary search for c.

    It minimises ||x' - x||^2 + c * max(z_y - max_{i != y} z_i + confidence, 0) with x' = (tanh(w) + 1) / 2, for
    ``searches`` values of c per image: half-way between the largest that failed and the smallest that succeeded, ten
    times more while none has. With a target class t the penalty is that of max(max_{i != t} z_i - z_t + confidence, 0),
    and only t is a success. An image keeps its nearest success over all iterates, itself if there is none.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L2; unbounded, or with an eps that a success must keep to, and that ends the search for its image.
        steps: Adam steps for each c.
        searches: values of c.
        confidence: margin, in logits, that a success must have; the paper's kappa.
        first_c: the c tried first.
        learning_rate: Adam's, on w.
        abort_early: every tenth of the steps, leave an image whose objective fell by less than 0.01 % since the last
            check.

    Returns:
        Images shaped as ``x``; the input where no success was found.
    """
    aim, eps = aim_of(target, y), torch.inf if threat.eps is None else float(threat.eps)
    best = _Best(x.clone(), x.new_full((len(x),), torch.inf))
    c = x.new_full((len(x),), first_c)
    lower, upper = torch.zeros_like(c), torch.full_like(c, torch.inf)
    w0 = torch.atanh((2 * x - 1) * 0.999999)
    for _ in range(searches):
        active = (best.l2 > eps).nonzero().flatten() if eps < torch.inf else torch.arange(len(x), device=x.device)
        w = w0[active]
        state = _State(
            active=active,
            x_orig=x[active],
            classes=aim.classes[active],
            c=c[active],
            x_best=best.x[active],
            best_l2=best.l2[active],
            w=w,
            m=torch.zeros_like(w),
            v=torch.zeros_like(w),
            objective=torch.full_like(c[active], torch.inf),
        )
        is_adv = _minimise(target, aim, state, best, eps, steps, confidence, learning_rate, abort_early)
        upper = torch.where(is_adv, torch.minimum(upper, c), upper)
        lower = torch.where(is_adv, lower, torch.maximum(lower, c))
        c = torch.where(upper < torch.inf, (lower + upper) / 2, c * 10)
    succeeded = per_image(best.l2 <= eps, x) & per_image(best.l2 < torch.inf, x)
    return torch.where(succeeded, best.x, x)


@dataclass
class _State(ActiveImages):
    """The variables of the inner minimisation; ``m`` and ``v`` are Adam's moments of ``w``."""

    classes: Tensor
    c: Tensor
    x_best: Tensor
    best_l2: Tensor
    w: Tensor
    m: Tensor
    v: Tensor
    objective: Tensor


class _Best(NamedTuple):
    """The nearest success of each image so far, updated in place, and its L2 distance, infinite where there is none."""

    x: Tensor
    l2: Tensor

    def update(self, state: _State, mask: Tensor) -> None:
        """Take what a minimisation found for the images where ``mask`` is true."""
        self.x[state.active[mask]] = state.x_best[mask]
        self.l2[state.active[mask]] = state.best_l2[mask]


def _minimise(
    target: Target,
    aim: Aim,
    state: _State,
    best: _Best,
    eps: float,
    steps: int,
    confidence: float,
    learning_rate: float,
    abort_early: bool,
) -> Tensor:
    """Minimise the penalised norm at the current c, and return for every image whether some iterate succeeded (N,)."""
    succeeded = torch.zeros(len(best.l2), dtype=torch.bool, device=best.l2.device)
    check_every = max(steps // 10, 1)
    half, one = best.l2.new_tensor(0.5), best.l2.new_tensor(1.0)
    for step in range(1, steps + 1):
        if len(state.active) == 0:
            break
        tanh_w = torch.tanh(state.w)
        x_adv = torch.add(half, tanh_w, alpha=0.5)
        grad_margin, logits, loss = target.rows(state.active).gradient(x_adv, aim.margin, state.classes)
        delta = x_adv - state.x_orig
        l2 = l2_norm(delta)
        is_adv = aim.succeeded(logits, state.classes) & (loss >= confidence)
        succeeded[state.active] |= is_adv
        # Without asking whether any improved: a GPU would wait for the answer at every step.
        improved = is_adv & (l2 < state.best_l2)
        state.x_best = torch.where(per_image(improved, x_adv), x_adv, state.x_best)
        state.best_l2 = torch.where(improved, l2, state.best_l2)
        # Half the objective's gradient by the image, times twice the image's by w, which is (1 - tanh^2) / 2.
        penalty = torch.where(loss < confidence, state.c, 0.0)
        grad = torch.addcmul(delta, grad_margin, per_image(penalty, delta), value=-0.5)
        grad.mul_(torch.addcmul(one, tanh_w, tanh_w, value=-1))
        adam_step(state.w, grad, state.m, state.v, step, learning_rate)
        checks = abort_early and step % check_every == 0
        done = (state.best_l2 <= eps) & (eps < torch.inf)
        if checks:
            objective = l2**2 + state.c * (confidence - loss).clamp_min(0)
            done |= objective > 0.9999 * state.objective
            state.objective = objective
        if (checks or eps < torch.inf) and not target.stochastic and bool(done.any()):
            best.update(state, done)
            state.drop(done)
    best.update(state, torch.ones_like(state.active, dtype=torch.bool))
    return succeeded
