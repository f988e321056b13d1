"""A budget of passes: how often an attack may have each image seen, and which iterate an image keeps once it is spent.

AttackBench (Cinà et al., AAAI 2025) compares attacks at equal cost: forwards and backwards of an image together are at
most so many. Here this holds for each image exactly, whatever the attack, by what :class:`~.target.Meter` counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.store.audit import LINF_SLACK, farthest_allowed, has_ball
from bench.types import DISTANCE_NORMS, MethodError, Norm, Threat

if TYPE_CHECKING:
    from bench.evaluation.target import Meter, Truth


#: Calls in a row that are refused before some are answered the other way round.
_PATIENCE = 100
#: An attack that asks for at most this share of its passes more has run whole: APGD takes one forward more than two
#: passes a step.
_SPARE = 0.01
#: Note of an attack that images survived whose passes ended before it had run whole on them.
RAN_OUT = "ran-out-of-passes"


class Exhausted(BaseException):
    """No image of an attack may be seen again; not an ``Exception``, since libraries go on after those."""


class PassBudget:
    """The passes that an attack may take for each image, and the best iterate of each that was evaluated.

    An image whose next pass would go over keeps its last logits and gets a gradient of zero; one that was never
    evaluated is shown as right. A library may loop until an answer changes: after a hundred calls without any pass
    every third one is answered the other way round, so that it goes on to the next image.

    With an eps the best iterate is the one within the threat whose margin is largest: of several successes the
    clearest, since static images are judged by another function than the attacked one. Without an eps it is the
    success nearest to the image.

    Once no image may be seen again, the attack may ask for a hundredth of its passes more, of which it gets none. If it
    returns by then it has run whole; else it is ended. The note :data:`RAN_OUT` says that an image stood on which it
    had not run whole. With a random function every image stands, as far as an attack can know.

    Args:
        passes: forwards and backwards of the base classifier that an image may take.
        meter: counts them, and was given the same number.
        truth: clean images (N, C, H, W) and labels (N,).
        threat: what an iterate must keep to.
        num_classes: length of a row of logits.
        random: whether the attacked function is, so that a success proves nothing.
        check: called when a pass is refused; what it raises ends the attack.
    """

    def __init__(
        self,
        passes: int,
        meter: Meter,
        truth: Truth,
        threat: Threat,
        num_classes: int,
        *,
        random: bool = False,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.passes = passes
        #: Words for the result.
        self.notes: list[str] = []
        self._meter = meter
        self._truth = truth
        self._threat = threat
        self._random = random
        self._check = check
        self._last = F.one_hot(truth.labels, num_classes).to(truth.images.dtype)
        self._best = truth.images.clone()
        self._best_score = truth.images.new_full((len(truth.images),), -torch.inf)
        self._broken = torch.zeros_like(truth.labels, dtype=torch.bool)
        self._refused = torch.zeros_like(self._broken)
        self._passes_refused = torch.zeros_like(truth.labels)
        self._has_ended = False
        self._calls_since = 0
        self._goals: Tensor | None = None
        self._batch: Tensor | None = None
        self._idle_calls = 0

    def aim(self, goals: Tensor) -> None:
        """Judge iterates by the class (N,) that each image is to be given; those so far no longer count."""
        self._goals = goals
        self._best_score.fill_(-torch.inf)
        self._broken.fill_(False)

    def fits(self, rows: Tensor, passes: int) -> Tensor:
        """Return which elements of ``rows`` (N,), images that may occur several times, may take so many passes more."""
        return torch.zeros_like(rows, dtype=torch.bool) if self._has_ended else self._meter.fits(rows, passes)

    def rows_of(self, nearest: Tensor) -> Tensor:
        """Return which clean image each of a library's batch comes from (N,), given the nearest ones.

        Far from all of them, as random starts are, several may be nearest to the same: then the order is that of the
        last batch of that length that told all of its images apart, or of all images.
        """
        if not bool(repeats(nearest).any()):
            self._batch = nearest
        elif self._batch is not None and len(self._batch) == len(nearest):
            return self._batch
        elif len(nearest) == len(self._refused):
            return torch.arange(len(nearest), device=nearest.device)
        return nearest

    def logits(
        self,
        x: Tensor,
        rows: Tensor,
        passes: int,
        evaluate: Callable[[slice | Tensor], Tensor],
        *,
        tracked: bool = True,
    ) -> Tensor:
        """Return logits (N, classes) of images, the last ones where an image may not be seen again.

        Args:
            x: images (N, C, H, W).
            rows: which clean image each comes from (N,).
            passes: that one image takes.
            evaluate: returns the logits of a selection of ``x``.
            tracked: whether these are logits of the attacked function, and not of a part of it.

        Raises:
            Exhausted: no image of the attack may be seen again.
            MethodError: passes were more than stated.
        """
        fits = self.fits(rows, passes)
        if bool(fits.all()):
            return self._evaluated(x, rows, slice(None), evaluate, tracked=tracked)
        chosen = fits.nonzero()[:, 0]
        evaluated = self._evaluated(x, rows, chosen, evaluate, tracked=tracked) if len(chosen) else None
        self._idle_calls = 0 if len(chosen) else self._idle_calls + 1
        logits = self._last[rows]
        if self._idle_calls > _PATIENCE and self._idle_calls % 3 == 0:
            logits = self._reversed(logits, rows)
        if torch.is_grad_enabled() and x.requires_grad:
            logits = logits + 0.0 * x.flatten(1)[:, :1]
        self._refuse(rows[~fits], passes)
        return logits if evaluated is None else logits.index_put((chosen,), evaluated)

    def _evaluated(
        self,
        x: Tensor,
        rows: Tensor,
        chosen: slice | Tensor,
        evaluate: Callable[[slice | Tensor], Tensor],
        *,
        tracked: bool,
    ) -> Tensor:
        self._meter.rows = rows[chosen]
        logits = evaluate(chosen)
        self.note(x[chosen].detach(), logits.detach(), rows[chosen], tracked=tracked)
        return logits

    def note(self, x: Tensor, logits: Tensor, rows: Tensor, *, tracked: bool = True) -> None:
        """Keep the logits (N, classes) of images that were evaluated, and the images where they are the best so far.

        Raises:
            MethodError: an image took more passes than it may.
        """
        if self._meter.is_over(rows):
            raise MethodError(
                f"max_passes = {self.passes} cannot be kept: the attacked function takes more passes at one call than "
                "at another"
            )
        latest = repeats(rows.flip(0)).flip(0) == 0
        self._last[rows[latest]] = logits[latest].to(self._last)
        if tracked:
            self._keep_best(x.to(self._best), logits, rows)

    def ending(self, attack: Callable[[Tensor, Tensor, Threat], object]) -> Callable[[Tensor, Tensor, Threat], object]:
        """Return an attack that ends once no image may be seen again, and gives such images their best iterates.

        A library may take it for an error that logits of an image stay what they are: it ends there, with a note.
        """

        def run(x: Tensor, y: Tensor, threat: Threat) -> object:
            is_whole = False
            try:
                returned = attack(x, y, threat)
                is_whole = True
            except Exhausted:
                pass
            except Exception:
                if not bool(self._refused.any()):
                    raise
                if not self._has_ended:
                    self.notes.append("raised-without-passes")
            self.notes.extend([RAN_OUT] if bool(self._ran_out(is_whole=is_whole).any()) else [])
            if not is_whole or self._has_ended:
                return self._best
            if not isinstance(returned, Tensor) or returned.shape != self._best.shape:
                return returned
            replaced = self._refused & (self._best_score > -torch.inf)
            return (
                torch.where(replaced[:, None, None, None], self._best, returned) if bool(replaced.any()) else returned
            )

        return run

    def refuse_gradient(self, rows: Tensor, passes: int) -> None:
        """Count passes that a gradient takes beyond an evaluation as refused, of images that were to have one."""
        self._passes_refused.index_add_(0, rows, torch.full_like(rows, passes))

    def _ran_out(self, *, is_whole: bool) -> Tensor:
        """Return the images (N,) that stand, on which an attack that returned, or did not, has not run whole."""
        stands = ~self._broken if not self._random else torch.ones_like(self._broken)
        if is_whole:
            return stands & (self._passes_refused > _SPARE * self.passes)
        rows = torch.arange(len(stands), device=stands.device)
        return stands & (self._refused | ~self._meter.fits(rows, 1))

    def _refuse(self, rows: Tensor, passes: int) -> None:
        """Refuse some images the passes that each was to take.

        Raises:
            Exhausted: none may be seen again. Where an eps is given each has an iterate to return by then: an attack
                that evaluates only images out of its threat, as one that transforms them does, ends by itself.
        """
        if self._check is not None:
            self._check()
        self._refused[rows] = True
        self._passes_refused.index_add_(0, rows, torch.full_like(rows, passes))
        if not self._has_ended:
            self._has_ended = self._is_over()
        self._calls_since += self._has_ended
        is_cut = self._has_ended and bool(self._ran_out(is_whole=True).any())
        if is_cut or self._calls_since > _SPARE * self.passes:
            raise Exhausted

    def _is_over(self) -> bool:
        """Say whether no image may be seen again."""
        over = self._refused | ~self._meter.fits(torch.arange(len(self._refused), device=self._refused.device), 1)
        if self._threat.eps is not None:
            over &= self._best_score > -torch.inf
            if not self._random:
                over |= self._broken
        return bool(over.all())

    def _reversed(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return logits that are wrong where those given are right, and right where they are wrong."""
        labels, classes = self._truth.labels[rows], logits.shape[1]
        is_adv = logits.argmax(1) != labels
        return F.one_hot(torch.where(is_adv, labels, (labels + 1) % classes), classes).to(logits)

    def _keep_best(self, x: Tensor, logits: Tensor, rows: Tensor) -> None:
        classes = self._truth.labels[rows] if self._goals is None else self._goals[rows]
        margins, is_adv = _margin(logits, classes), logits.argmax(1) != classes
        if self._goals is not None:
            margins, is_adv = -margins, ~is_adv
        moved = _length(x - self._truth.images[rows], self._threat.norm)
        flat = x.flatten(1)
        score = -moved if self._threat.eps is None else margins
        within = (flat.amin(1) >= -LINF_SLACK) & (flat.amax(1) <= 1 + LINF_SLACK) & moved.isfinite()
        if has_ball(self._threat):
            assert self._threat.eps is not None
            # Half of the room for round-off, as the audit measures again.
            eps = float(self._threat.eps)
            within &= moved <= (eps + farthest_allowed(self._threat.norm, eps)) / 2
        if self._threat.eps is None:
            within &= is_adv
        score = torch.where(within, score.to(self._best_score), -torch.inf)
        better = (score > self._best_score[rows]).nonzero()[:, 0]
        better = better[score[better].argsort(descending=True, stable=True)]
        better = better[repeats(rows[better]) == 0]
        self._best[rows[better]] = x[better]
        self._best_score[rows[better]] = score[better]
        self._broken[rows[better]] = is_adv[better]


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest other logit minus the true one, shape (N,)."""
    true_logit = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - true_logit


def _length(moved: Tensor, norm: Norm) -> Tensor:
    """Return how far each image moved (N,): in its norm, and in L2 where a change has none."""
    flat = moved.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    if norm == "l1":
        return flat.abs().sum(1)
    if norm == "l0":
        return (flat != 0).sum(1).to(flat.dtype)
    assert norm == "l2" or norm not in DISTANCE_NORMS
    return flat.square().sum(1).sqrt()


def repeats(rows: Tensor) -> Tensor:
    """Return for each element (N,) how often the same value came before it."""
    ordered, order = rows.sort(stable=True)
    first = torch.searchsorted(ordered, ordered)
    repeats = torch.empty_like(order)
    repeats[order] = torch.arange(len(rows), device=rows.device) - first
    return repeats
