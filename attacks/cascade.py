from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attacks._apgd import LossFn, Objective, apgd, apgd_run, dlr, targeted_dlr
from attacks._balls import dual_norm
from attacks._official import run_ensemble
from attacks._square import square_search
from attacks._steps import budget, cross_entropy, margin, per_image
from bench.api import Count, Target, Threat, attack

#: The likeliest other classes, whose slopes are compared.
CANDIDATES = 9
#: So many classes are aimed at before an image is given up.
CERTAIN = 2
#: An image is given up if its slope promises to close its margin only with more than this share of eps on top.
HOPELESS = 0.3
#: Images that need at most this share of eps on top get so many more towards classes, so many times as long.
NEAR = 0.1
LONG_RUNS, LONGER = 3, 3
#: How far apart two runs end is seen on at least so many images. Another one may break an image by chance if its
#: margin is at most so many times as far from zero; so many more are run at most.
SEEN_ROUGH = 16
CHANCE, RESTARTS = 4.0, 10
#: Gradients are to be trusted where the margin rises by at least and at most so many times what the slope of the clean
#: image promises.
LEAST_RISE, MOST_RISE = 0.1, 4.0
#: And where the slope at the best iterate promises at least so many times the rise so far. Near a maximum of the loss
#: it is less, and then says nothing of how far the boundary is.
LEAST_SLOPE = 0.5
#: An image that needs at most this share of eps on top is not decided by gradients: all of AutoAttack gets it. In L2
#: such images gain less than this from runs that are longer still.
UNDECIDED = {"linf": 0.02, "l2": 0.01}
#: The Square search of an image that needs at most this share of eps on top is so many times as long. In L2 most images
#: are not given up, and squares find little that gradients do not.
LONG_SEARCH = {"linf": HOPELESS, "l2": NEAR}
LONGER_SEARCH = 10
#: The share of the pixels in its first squares, as Square has it by default, and where it begins at the best iterate.
FIRST_FRACTION, FIRST_FRACTION_FROM_BEST = 0.8, 0.1
#: So many searches from the best iterate, at most.
SEARCHES_FROM_BEST = 3
#: Runs towards the class that a search without gradients came nearest to.
SECOND_CHANCES = 2
#: Where gradients are masked on this share of the images that are left, they are trusted on none.
DISTRUSTED = 0.1


@attack(
    norms=("linf", "l2"),
    requires="pyautoattack",
    passes="12 + 3 x (steps + 2) + queries forwards + 10 + 3 x (steps + 1) backwards (where an image is given up), "
    "fewer where it breaks, more where it stays near, and those of AutoAttack on top where its gradients are masked",
    most="12 + (3 + targets) x (steps + 2) + 15 x (3 x steps + 2) + 70 x queries + long_steps + 1 "
    "+ targets x (4 x long_steps + 2) + long_queries forwards + 10 + (3 + targets) x (steps + 1) "
    "+ 15 x (3 x steps + 1) + long_steps + 1 + targets x (2 x long_steps + 1) backwards",
    early_exit="misclassified",
)
def cascade(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: Count = 30,
    targets: Count = 9,
    queries: Count = 100,
    long_steps: Count = 100,
    long_queries: Count = 5000,
) -> Tensor:
    """Short runs instead of AutoAttack's long ones, on the images that are left, and none where it is in vain.

    First Auto-PGD on the DLR loss. Then the slopes towards the nine likeliest other classes order these by
    (z_i - z_y) / ||grad(z_i - z_y)||, in the L1 norm for L∞ and the L2 norm for L2, which is minus the distance if the
    network were linear (as MALT does: Melamed et al., 2024), and Auto-PGD on the targeted DLR loss goes from the
    nearest on. After two of them an image is given up once, by the slope at its best iterate, another 0.3 eps would not
    close its margin. Images that then need at most 0.1 eps get five runs three times as long, two on the cross-entropy
    and three towards the nearest classes.

    Where the loss is rough, which of several runs succeeds is luck. So it is seen how far apart those two end, in
    shares of the rise of the margin, in the median over images, at least the 16 nearest. Images whose margin is at most
    four times as far from zero get up to ten more.

    This trusts gradients, so that is checked by a short Square search, ten times as long on images that were not given
    up, in L2 on those that need at most 0.1 eps. Gradients are *masked* where they vanish, where the margin rises by
    less than a tenth of what the slope of the clean image promises or by more than four times that, where the slope at
    the best iterate promises less than half of that rise again, and where the search comes nearer than all runs, also
    than two more towards the class that it came near to; if it breaks any image, they are on all that were not given
    up. Such images, and those that need luck, get short Square searches that begin at the best iterate with small
    squares, up to three, while one of them breaks any. Masked images that still stand get all of standard AutoAttack,
    and so do those that need at most 0.02 eps on top, in L2 0.01; then, if searches from the best iterate broke any,
    these again. Where a tenth of the images that are left is masked, not counting those on which the longer search came
    nearer, all of them get it. The note ``masked-gradients`` says that it was a tenth or more.

    With a random function nothing is given up: every image runs through the DLR loss and the two likeliest classes,
    three times as long.

    Args:
        target: the function under attack.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: L∞ or L2 with its budget.
        steps: of each run.
        targets: classes that are aimed at, at most; there are nine candidates.
        queries: of the short Square search of an image that is given up.
        long_steps: of APGD and FAB in the AutoAttack of images that need it.
        long_queries: of Square there.

    Returns:
        Images shaped as ``x``, within the threat: the first success, else the iterate of largest margin.

    Raises:
        MethodError: the threat is unbounded.
    """
    if budget(threat) == 0:
        return x.clone()
    untargeted: LossFn = dlr if target.num_classes > 2 else margin
    towards: LossFn = targeted_dlr if target.num_classes > 3 else _difference
    if target.stochastic:
        likeliest = _others(target(x), y, min(CERTAIN, target.num_classes - 1))
        aims = [Objective(towards, torch.stack((y, each), 1)) for each in likeliest.unbind(1)]
        return apgd(target, x, y, threat, [Objective(untargeted, y), *aims], LONGER * steps)
    search = _begin(target, x, y, threat)
    _climb(search, target, Objective(untargeted, y), steps, search.left)
    classes = _nearest_classes(search, target)[:, :targets]
    aims = [Objective(towards, torch.stack((y, each), 1)) for each in classes.unbind(1)]
    for k, aim in enumerate(aims):
        _climb(search, target, aim, steps, search.needs <= (torch.inf if k < CERTAIN else HOPELESS))
    by_chance = _restart(search, target, LONGER * steps, search.needs <= HOPELESS)
    for aim in aims[:LONG_RUNS]:
        _climb(search, target, aim, LONGER * steps, search.needs <= NEAR)
    masked = _masked(search, target, steps, queries)
    if _are_many(masked, search.left):
        target.notes.append("masked-gradients")
    uncertain = masked | by_chance
    finds_more = _search_from_best(search, target, uncertain, LONGER_SEARCH * queries)
    rows = (search.left & (masked | (search.needs <= UNDECIDED[threat.norm]))).nonzero().flatten()
    if len(rows):
        view = target.rows(rows)
        x_adv = run_ensemble(view, x[rows], y[rows], threat, "standard", long_steps, targets, long_queries)
        # What the ensemble does not break it leaves as it is.
        is_changed = (x_adv != x[rows]).flatten(1).any(1)
        search.x_best[rows[is_changed]] = x_adv[is_changed]
        search.left[rows[is_changed]] = False
    if finds_more:
        _search_from_best(search, target, uncertain, LONGER_SEARCH * queries)
    return search.x_best


@dataclass
class _Search:
    """What is known of each image: a row in every tensor.

    Attributes:
        x: the images (N, C, H, W).
        y: their labels (N,).
        threat: what iterates keep to.
        clean_margin: of the image itself.
        promised: by how much its slope lets the margin rise within eps.
        x_best: the first success, else the iterate of largest margin.
        best_margin: of that iterate.
        slope: by how much the slope there lets the margin rise within eps.
        needs: the share of eps on top that would close the margin, by the slope at that iterate.
        left: whether it is not broken.
    """

    x: Tensor
    y: Tensor
    threat: Threat
    clean_margin: Tensor
    promised: Tensor
    x_best: Tensor
    best_margin: Tensor
    slope: Tensor
    needs: Tensor
    left: Tensor


def _begin(target: Target, x: Tensor, y: Tensor, threat: Threat) -> _Search:
    gradient = target.gradient(x, margin, y)
    slope = budget(threat) * dual_norm(gradient.grad, threat.norm)
    return _Search(
        x=x,
        y=y,
        threat=threat,
        clean_margin=gradient.loss,
        promised=slope,
        x_best=x.clone(),
        best_margin=gradient.loss.clone(),
        slope=slope.clone(),
        needs=torch.zeros_like(gradient.loss),
        left=gradient.logits.argmax(1) == y,
    )


def _climb(search: _Search, target: Target, objective: Objective, steps: int, which: Tensor) -> Tensor:
    """Run Auto-PGD on the images of ``which`` (N,) that are left.

    Returns the margin of each where it ended (N,), NaN where it was not run or broke.
    """
    reached = torch.full_like(search.best_margin, torch.nan)
    rows = (search.left & which).nonzero().flatten()
    if len(rows) == 0:
        return reached
    objective = objective._replace(args=objective.args[rows])
    run = apgd_run(target.rows(rows), search.x[rows], search.y[rows], search.threat, objective, steps)
    broken = rows[run.is_adv]
    search.x_best[broken], search.left[broken] = run.x_best[run.is_adv], False
    rows, x_adv = rows[~run.is_adv], run.x_best[~run.is_adv]
    if len(rows) == 0:
        return reached
    gradient = target.rows(rows).gradient(x_adv, margin, search.y[rows])
    reached[rows] = gradient.loss
    slope = budget(search.threat) * dual_norm(gradient.grad, search.threat.norm)
    nearer = gradient.loss >= search.best_margin[rows]
    rows = rows[nearer]
    search.x_best[rows], search.best_margin[rows] = x_adv[nearer], gradient.loss[nearer]
    search.slope[rows] = slope[nearer]
    search.needs[rows] = (-gradient.loss / slope.clamp_min(1e-30))[nearer]
    return reached


def _restart(search: _Search, target: Target, steps: int, which: Tensor) -> Tensor:
    """Run on the cross-entropy from other starts, again while that may break an image of ``which`` (N,) by chance.

    Where the loss is rough, runs end at margins that differ, and which of them succeeds is luck. By how much is seen on
    the images that are nearest, in shares of the rise of the margin: few runs of one image say little. Returns the
    images (N,) on which it was luck.
    """
    objective, nearest = Objective(cross_entropy, search.y), _nearest(search, which)
    first, second = (_climb(search, target, objective, steps, nearest) for _ in range(2))
    apart = ((first - second).abs() / _rise(search)).nanmedian().nan_to_num(0.0)
    by_chance = which & _may_break(search, apart)
    for _ in range(RESTARTS):
        which = by_chance & _may_break(search, apart)
        if not bool(which.any()):
            break
        _climb(search, target, objective, steps, which)
    return by_chance


def _nearest(search: _Search, which: Tensor) -> Tensor:
    """Return those of the images ``which`` (N,) that are left and near, at least :data:`SEEN_ROUGH` where there are."""
    needs = torch.where(search.left & which, search.needs, torch.inf)
    last = needs.sort().values[:SEEN_ROUGH][-1]
    return needs <= last.clamp(NEAR, torch.finfo(needs.dtype).max)


def _may_break(search: _Search, apart: Tensor) -> Tensor:
    """Return the images (N,) that are left and no farther from success than another run may end elsewhere."""
    return search.left & (-search.best_margin <= CHANCE * apart * _rise(search))


def _rise(search: _Search) -> Tensor:
    return (search.best_margin - search.clean_margin).clamp_min(1e-30)


def _nearest_classes(search: _Search, target: Target) -> Tensor:
    """Return for each image the likeliest other classes (N, K); of images that are left the nearest by slope first."""
    rows = search.left.nonzero().flatten()
    count = min(CANDIDATES, target.num_classes - 1)
    classes = search.y[:, None].repeat(1, count)
    if len(rows) == 0:
        return classes
    view = target.rows(rows)
    x, y = search.x[rows], search.y[rows]
    likeliest = _others(view(x), y, count)
    nearness = []
    for each in likeliest.unbind(1):
        gradient = view.gradient(x, _difference, torch.stack((y, each), 1))
        nearness.append(gradient.loss / dual_norm(gradient.grad, search.threat.norm).clamp_min(1e-30))
    classes[rows] = likeliest.gather(1, torch.stack(nearness, 1).argsort(dim=1, descending=True, stable=True))
    return classes


def _masked(search: _Search, target: Target, steps: int, queries: int) -> Tensor:
    """Return which images (N,) are left and on which gradients are not to be trusted; some fall on the way."""
    near = search.left & (search.needs <= HOPELESS)
    left_by_gradients = search.left.clone()
    found = _Found(search.x.clone(), torch.full_like(search.best_margin, -torch.inf), search.y.clone())
    longer = search.left & (search.needs <= LONG_SEARCH[search.threat.norm])
    _search_at_random(search, target, found, search.left & ~longer, queries)
    _search_at_random(search, target, found, longer, LONGER_SEARCH * queries)
    is_beaten = bool((left_by_gradients & ~search.left).any())
    # Runs may have aimed at other classes than the search came near to, and where an image is far from breaking the DLR
    # loss has its maximum elsewhere than the margin.
    aim = Objective(_difference, torch.stack((search.y, found.classes), 1))
    behind = search.left & (found.margins > search.best_margin)
    for _ in range(SECOND_CHANCES):
        _climb(search, target, aim, steps, behind)
        behind = search.left & (found.margins > search.best_margin)
    rise = search.best_margin - search.clean_margin
    as_promised = (rise >= LEAST_RISE * search.promised) & (rise <= MOST_RISE * search.promised)
    as_promised &= search.slope >= LEAST_SLOPE * rise
    # A search of so many queries comes a little nearer on some images of any network.
    masked = search.left & ((behind & ~longer) | (search.promised <= 0) | ~as_promised)
    search.x_best = torch.where(per_image(behind, search.x), found.images, search.x_best)
    if _are_many(masked, search.left):
        return search.left.clone()
    return masked | (search.left & near if is_beaten else behind)


def _are_many(masked: Tensor, left: Tensor) -> bool:
    return bool(masked.any()) and int(masked.sum()) >= DISTRUSTED * int(left.sum())


class _Found(NamedTuple):
    """Where a search without gradients ended on each image, the margin there, and the class that it came nearest to."""

    images: Tensor
    margins: Tensor
    classes: Tensor


def _search_at_random(search: _Search, target: Target, found: _Found, which: Tensor, queries: int) -> None:
    rows = which.nonzero().flatten()
    if len(rows) == 0:
        return
    view, y = target.rows(rows), search.y[rows]
    x_adv, _ = square_search(view, search.x[rows], y, search.threat, queries, FIRST_FRACTION)
    logits = view(x_adv)
    found.images[rows], found.margins[rows] = x_adv, margin(logits, y)
    found.classes[rows] = _others(logits, y, 1)[:, 0]
    is_adv = logits.argmax(1) != y
    search.x_best[rows[is_adv]], search.left[rows[is_adv]] = x_adv[is_adv], False


def _search_from_best(search: _Search, target: Target, which: Tensor, queries: int) -> bool:
    """Search for squares from the best iterate of the images of ``which`` (N,) that are left, while that breaks any.

    Gradients that are masked or rough end beside what a few random changes find. Returns whether any broke.
    """
    for attempt in range(SEARCHES_FROM_BEST):
        rows = (search.left & which).nonzero().flatten()
        if len(rows) == 0:
            return attempt > 0
        view, start = target.rows(rows), search.x_best[rows]
        x_adv, margins = square_search(
            view, search.x[rows], search.y[rows], search.threat, queries, FIRST_FRACTION_FROM_BEST, start
        )
        search.x_best[rows], search.left[rows] = x_adv, margins <= 0
        if not bool((margins > 0).any()):
            return attempt > 0
    return True


def _others(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """Return the likeliest classes (N, count) that are not the true one."""
    return logits.scatter(1, y[:, None], -torch.inf).topk(count).indices


def _difference(logits: Tensor, classes: Tensor) -> Tensor:
    """Return z_t - z_y of each row; ``classes`` (N, 2) are y and t."""
    true_logit, target_logit = logits.gather(1, classes).unbind(1)
    return target_logit - true_logit
