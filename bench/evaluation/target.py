"""The function under attack: frozen, cut to what the device holds, every pass counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import draws
from bench.api import Gradient, MethodError
from bench.draws import Draws
from bench.evaluation.budget import repeats
from bench.models.bf16 import COMPARED, LeadingBf16, Rounding
from bench.models.logits import harder, judged, precise
from bench.process.capture import is_plain

if TYPE_CHECKING:
    from bench.evaluation.budget import PassBudget
    from bench.evaluation.replays import Replays


#: Some rows of a batch.
Positions = slice | Tensor


class _Tally:
    """How often each of some images was passed; rows on a GPU are read only when it is asked, so that none waits."""

    #: Passes kept before they are counted, so that memory stays bounded.
    _LIMIT = 1024

    def __init__(self, images: int) -> None:
        self._counts = torch.zeros(images, dtype=torch.int64)
        self._pending: list[tuple[Tensor, int]] = []

    def add(self, rows: Tensor) -> None:
        """Count one pass of the images in these rows, a tensor that is not changed afterwards."""
        last, times = self._pending.pop() if self._pending else (rows, 0)
        if last is not rows:
            self._pending.append((last, times))
            times = 0
        self._pending.append((rows, times + 1))
        if len(self._pending) > self._LIMIT:
            self.counts()

    def counts(self) -> Tensor:
        """Return the passes of each image (N,), on the CPU."""
        if self._pending:
            rows = torch.cat([rows for rows, _ in self._pending]).cpu()
            for part, (_, times) in zip(
                torch.split(rows, [len(each) for each, _ in self._pending]), self._pending, strict=True
            ):
                # A library may have several copies of an image in one batch.
                self._counts.index_add_(0, part, torch.full_like(part, times))
            self._pending.clear()
        return self._counts


#: Why an attack by gradients cannot run, and what to do.
NO_GRADIENT = (
    "no gradient reaches the images: the attacked function detaches them or computes outside of torch; make it a "
    "test-time step whose surrogate has a gradient (BPDA: docs/add-a-defense.md), or attack without gradients "
    "(square, rays)"
)


class Meter:
    """Counts the images that a classifier sees forwards and backwards.

    While ``rows`` is set, counts also go to those images; a batch of another length is counted in the totals only.
    ``check`` is called at every pass; an exception that it raises ends the work at once.

    With ``most``, the passes that an image may take, backwards beyond it give a gradient of zero and are not counted.
    Forwards are for the caller to leave out, and every pass then needs ``rows``.
    """

    def __init__(
        self, net: nn.Module, images: int = 0, check: Callable[[], None] | None = None, most: int | None = None
    ) -> None:
        self.forwards = 0
        self.backwards = 0
        self.rows: Tensor | None = None
        self._forwards_of, self._backwards_of = _Tally(images), _Tally(images)
        self._check = check
        self._most = most
        self._recorded: list[tuple[bool, int]] | None = None
        self._handle = net.register_forward_hook(self._forward)

    @property
    def forwards_of(self) -> Tensor:
        """Forwards of each image (N,), on the CPU."""
        return self._forwards_of.counts()

    @property
    def backwards_of(self) -> Tensor:
        """Backwards of each image (N,), on the CPU."""
        return self._backwards_of.counts()

    def fits(self, rows: Tensor, passes: int) -> Tensor:
        """Return which elements of ``rows`` (N,), images that may occur several times, may take so many passes more."""
        if self._most is None:
            return torch.ones_like(rows, dtype=torch.bool)
        listed = rows.cpu()
        left = self._most - (self.forwards_of + self.backwards_of)[listed]
        return ((repeats(listed) + 1) * passes <= left).to(rows.device)

    def is_over(self, rows: Tensor) -> bool:
        """Say whether any of these images took more passes than it may."""
        spent = (self.forwards_of + self.backwards_of)[rows.cpu()]
        return self._most is not None and bool((spent > self._most).any())

    def close(self) -> None:
        self._handle.remove()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def recording(self) -> Iterator[list[tuple[bool, int]]]:
        """Yield the passes in this block, for :meth:`repeat`, instead of counting them."""
        before, self._recorded = self._recorded, []
        try:
            yield self._recorded
        finally:
            self._recorded = before

    def repeat(self, passes: Sequence[tuple[bool, int]]) -> None:
        """Count passes as if they happened: whether backwards, and of how many images."""
        for is_backward, n in passes:
            if self._check is not None and not is_backward:
                self._check()
            self._count(is_backward, n, self.rows)

    def _forward(self, _module: nn.Module, _inputs: Any, logits: Any) -> None:
        if not isinstance(logits, Tensor):
            return
        if self._check is not None:
            self._check()
        n, rows = len(logits), self.rows
        if self._most is not None and self._recorded is None:
            rows = self._attributed(n, rows)
        self._count(False, n, rows)
        if logits.requires_grad:
            logits.register_hook(partial(self._backward, rows))  # type: ignore[no-untyped-call]

    def _attributed(self, n: int, rows: Tensor | None) -> Tensor:
        """Return the image of each of ``n`` logits; a defense may ask for each of its images several times at once."""
        if rows is not None and n == len(rows):
            return rows
        if rows is None or len(rows) == 0 or n % len(rows):
            raise MethodError(
                f"max_passes cannot be kept: a batch of {n} images is no multiple of those that are attacked"
            )
        return rows.repeat(n // len(rows))

    def _backward(self, rows: Tensor | None, grad: Tensor) -> Tensor | None:
        if self._most is None or self._recorded is not None or rows is None:
            self._count(True, len(grad), rows)
            return None
        fits = self.fits(rows, 1)
        if bool(fits.all()):
            self._count(True, len(grad), rows)
            return None
        kept = rows[fits]
        self._count(True, len(kept), kept)
        return torch.where(fits[:, None], grad, 0.0)

    def _count(self, is_backward: bool, n: int, rows: Tensor | None) -> None:
        if self._recorded is not None:
            self._recorded.append((is_backward, n))
            return
        if is_backward:
            self.backwards += n
        else:
            self.forwards += n
        if rows is not None and len(rows) == n:
            (self._backwards_of if is_backward else self._forwards_of).add(rows)


def set_oracle_labels(function: nn.Module, labels: Tensor) -> None:
    """Tell a deployed function the true labels (N,) of the images it is given next, where it is an oracle."""
    if hasattr(function, "labels"):
        function.labels = labels.clone()


class Truth(NamedTuple):
    """What an oracle may know: clean images (N, C, H, W) and their labels (N,)."""

    images: Tensor
    labels: Tensor

    def rows(self, x: Tensor) -> Tensor:
        """Return which of the clean images is nearest to each of ``x`` (M, C, H, W), shape (M,)."""
        return torch.cdist(x.detach().flatten(1).float(), self.images.flatten(1)).argmin(1)


class _ContiguousGradient(torch.autograd.Function):
    """The identity, whose gradient is laid out in memory as libraries expect: ours comes channels-last."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_context: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()


class Counted(nn.Module):
    """A target as a module; batches are not split, so a library's own graph stays intact too.

    Logits and gradients are contiguous, whatever the layout of the network, and images of other precision become
    float32. A library forms its own batches, so an oracle gets, a margin uses, and a budget counts for, the nearest
    clean image.
    """

    def __init__(
        self,
        net: nn.Module,
        truth: Truth | None,
        margin: float = 0.0,
        budget: PassBudget | None = None,
        passes: int = 1,
    ) -> None:
        super().__init__()
        self.net = net
        self.truth = truth
        self.margin = margin
        self.budget = budget
        self.passes = passes

    def forward(self, x: Tensor) -> Tensor:
        rows = None
        if self.truth is not None and (self.budget is not None or self.margin or hasattr(self.net, "labels")):
            rows = self.truth.rows(x)
        images = x.float()
        if self.budget is None or rows is None:
            return self._answer(images, rows)
        nearest = rows
        return self.budget.logits(
            images,
            self.budget.rows_of(nearest),
            self.passes,
            lambda chosen: self._answer(images[chosen], nearest[chosen]),
        )

    def _answer(self, images: Tensor, rows: Tensor | None) -> Tensor:
        labels = None if rows is None or self.truth is None else self.truth.labels[rows]
        if labels is not None:
            set_oracle_labels(self.net, labels)
        logits = precise(self.net(_ContiguousGradient.apply(images)), images).contiguous()
        return logits if labels is None or not self.margin else harder(logits, labels, self.margin)


class NetworkTarget:
    """The :class:`bench.api.Target` of a classifier.

    Args:
        net: frozen, in evaluation mode; what an attacker may differentiate.
        base: the classifier inside ``net``; ``net`` itself by default.
        smooth: makes the second-order form of ``net`` for a smoothing width, where there is one.
        meter: counts the passes of the base classifier inside ``net``.
        images: int64 identities of the images; random draws depend on them alone.
        seed: of the attack's draws.
        num_classes: length of a row of logits.
        batch: images at a time; halved when the device runs out of memory.
        draws: the random numbers of a function that is random.
        draws_averaged: logits and gradients of a random function are means over this many draws.
        truth: of the same images, for a function that is an oracle, and for ``margin``.
        margin: by how much, relative to the largest, the true logit is raised, or that of a goal lowered, so that what
            an attack takes for a success is one by more than round-off (:func:`bench.models.logits.round_off`).
        goal: the class (N,) that an attack is to reach on each image; ``None`` where any wrong one will do.
        replays: records passes that recur; without it every one is launched kernel by kernel.
        budget: of passes, kept to; it has the same ``truth``.
        leading: the base classifier inside ``net``, where passes with a gradient are to compute in bfloat16. All others
            are float32.
        decides: whether the attack goes by the logits of such a pass. Images whose margin rounding may have given its
            sign (:class:`bench.models.bf16.Rounding`) are then evaluated once more, in float32, and get these logits
            and losses, one forward for each: so no success is one of bfloat16 alone. Of a random function, and under a
            budget, it is those that it has wrong, and under ``goal`` those that reach it.

    Raises:
        MethodError: a single evaluation takes more passes than the budget has.
    """

    def __init__(
        self,
        net: nn.Module,
        meter: Meter,
        images: Tensor,
        *,
        base: nn.Module | None = None,
        smooth: Callable[[float], nn.Module] | None = None,
        seed: int | Tensor,
        num_classes: int,
        batch: int,
        draws: Draws | None = None,
        draws_averaged: int = 1,
        truth: Truth | None = None,
        margin: float = 0.0,
        goal: Tensor | None = None,
        replays: Replays | None = None,
        budget: PassBudget | None = None,
        leading: LeadingBf16 | None = None,
        decides: bool = True,
    ) -> None:
        self.goal = goal
        self.num_classes = num_classes
        self.stochastic = self._random = draws is not None
        self.notes: list[str] = []
        self._net = net
        self._base = net if base is None else base
        self._smooth = smooth
        self._meter = meter
        self._images = images
        self._rows = torch.arange(len(images), device=images.device)
        self._latest: tuple[Tensor, int, NetworkTarget] | None = None
        self._draws = Draws() if draws is None else draws
        self._draws_averaged = draws_averaged
        self._truth = truth
        self._margin = margin
        self._replays = replays
        self._budget = budget
        self._leading = leading
        # A budget keeps the best iterate by the logits of every pass.
        self._confirms = leading is not None and (decides or budget is not None)
        self._tracked = True
        self._kind = "attacked"
        self._shared = _Shared(seed=seed, batch=batch)
        if budget is not None:
            self._measure(budget)

    @property
    def module(self) -> nn.Module:
        if self._leading is not None:
            raise MethodError(
                'craft_precision = "bf16": this attack differentiates its network by itself, in float32; leave it out'
            )
        self._meter.rows = None
        self._say("a library calls its network by itself")
        if self._budget is None:
            return Counted(self._net, self._truth, self._margin).eval()
        return Counted(self._net, self._truth, self._margin, self._budget, self._passes().forward).eval()

    @property
    def batch(self) -> int:
        return self._shared.batch

    @property
    def base(self) -> NetworkTarget:
        view = self._copy()
        view._net = self._base
        view._smooth = None
        view.stochastic = False
        view._draws_averaged = 1
        view._margin = 0.0
        view._tracked = self._net is self._base
        return view

    def smooth(self, tau: float) -> NetworkTarget:
        if self._smooth is None:
            raise MethodError("this defense has no purification to differentiate a second time")
        view = self._copy()
        view._net = self._smooth(tau).eval()
        view._kind = "smooth"
        return view

    def purified(self, x: Tensor) -> Tensor:
        received: list[Tensor] = []
        hook = self._base.register_forward_pre_hook(lambda _module, inputs: received.append(inputs[0].detach()))

        purified = x.detach().clone()

        def evaluate(images: Tensor, at: Positions) -> Tensor:
            with torch.no_grad():
                logits = self._forward(images, at)
            if received[-1].shape != images.shape:
                raise MethodError(f"the defense hands on images {tuple(received[-1].shape)}, not {tuple(images.shape)}")
            purified[at] = received[-1]
            return logits

        try:
            view = self._matching(x)
            for _ in view._in_batches(len(x), lambda s: (view._within_budget(x[s].detach(), s, evaluate, draws=1),)):
                received.clear()
            return purified
        finally:
            hook.remove()

    def _copy(self) -> NetworkTarget:
        view = object.__new__(NetworkTarget)
        view.__dict__.update(self.__dict__)
        view._latest = None
        return view

    def towards(self, goal: Tensor) -> NetworkTarget:
        """Return the same target with the class (N,) that an attack is to reach on each image."""
        view = self._copy()
        view.goal = goal
        return view

    def rows(self, index: Tensor) -> NetworkTarget:
        # Attacks ask at every step, and images rarely fall.
        version = -1 if index.is_inference() else index._version
        if self._latest is not None and self._latest[0] is index and self._latest[1] == version >= 0:
            return self._latest[2]
        view = self._copy()
        view._images = self._images[index]
        view._rows = self._rows[index]
        view.goal = None if self.goal is None else self.goal[index]
        self._latest = index, version, view
        return view

    def __call__(self, x: Tensor) -> Tensor:
        view = self._matching(x)
        if torch.is_grad_enabled() and x.requires_grad:
            self._say("the attack differentiates its network by itself")
            return view._within_budget(x, slice(0, len(x)), view._mean)
        return torch.cat(
            [part for (part,) in view._in_batches(len(x), lambda s: (view._within_budget(x[s], s, view._shown),))]
        )

    def gradient(self, x: Tensor, loss: Callable[..., Tensor], *args: Tensor) -> Gradient:
        # Laid out in memory as the images are, whatever the network prefers: attacks mix the two at every step.
        grad = torch.empty_like(x)
        view = self._matching(x)

        def one(s: slice) -> tuple[Tensor, Tensor]:
            part = view._gradient_within_budget(loss, x[s].detach(), s, *(arg[s] for arg in args))
            grad[s] = part.grad
            return part.logits, part.loss

        parts = list(view._in_batches(len(x), one))
        return Gradient(grad, *(torch.cat(column) for column in zip(*parts, strict=True)))

    def repeated(self, step: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return step(*tensors) if self._replays is None else self._replays(step, step, tensors)

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        return (
            draws.uniform(self._shared.seed, self._images, self._shared.next_call(), like.shape[1:]) * (high - low)
            + low
        )

    def normal(self, like: Tensor) -> Tensor:
        return draws.normal(self._shared.seed, self._images, self._shared.next_call(), like.shape[1:])

    def _matching(self, x: Tensor) -> NetworkTarget:
        """Return the target of these images, where a budget must know which: of a batch it was not made for, too."""
        if self._budget is None or self._truth is None or len(x) == len(self._rows):
            return self
        view = self._copy()
        view._rows = self._truth.rows(x)
        view._images = torch.arange(len(x), device=x.device)
        return view

    def _within_budget(
        self, x: Tensor, s: Positions, evaluate: Callable[[Tensor, Positions], Tensor], draws: int | None = None
    ) -> Tensor:
        """Return the logits ``evaluate(x, s)`` of the rows ``s``; under a budget only of images that have it.

        Args:
            x: images.
            s: their rows.
            evaluate: gives the logits of images in some rows.
            draws: how often it calls the function; by default as often as this averages.
        """
        if self._budget is None:
            return evaluate(x, s)
        at = self._at(s)

        def chosen(which: slice | Tensor) -> Tensor:
            return evaluate(x[which], s if isinstance(which, slice) else at[which])

        passes = self._passes().forward * (self._draws_averaged if draws is None else draws)
        return self._budget.logits(x, self._rows[s], passes, chosen, tracked=self._tracked)

    def _gradient_within_budget(self, loss: Callable[..., Tensor], x: Tensor, s: Positions, *args: Tensor) -> Gradient:
        """Return :meth:`_gradient` of the rows ``s``; under a budget zero for images that lack it.

        An image that has passes for an evaluation is still evaluated.
        """
        if self._budget is None:
            return self._gradient(loss, x, s, *args)
        rows, at = self._rows[s], self._at(s)
        passes = self._passes().gradient + (self._passes().forward if self._confirms else 0)
        fits = self._budget.fits(rows, passes * self._draws_averaged)
        if bool(fits.all()):
            gradient = self._gradient(loss, x, s, *args)
            self._budget.note(x, gradient.logits, rows, tracked=self._tracked)
            return gradient
        grad = torch.zeros_like(x)
        logits, values = x.new_empty(len(x), self.num_classes), x.new_empty(len(x))
        if bool(fits.any()):
            paid = fits.nonzero()[:, 0]
            part = self._gradient(loss, x[paid], at[paid], *(arg[paid] for arg in args))
            self._budget.note(x[paid], part.logits, rows[paid], tracked=self._tracked)
            for whole, own in zip((grad, logits, values), part, strict=True):
                whole[paid] = own
        rest = (~fits).nonzero()[:, 0]
        self._budget.refuse_gradient(rows[rest], (passes - self._passes().forward) * self._draws_averaged)
        logits[rest] = self._within_budget(x[rest], at[rest], self._shown)
        with torch.no_grad():
            values[rest] = loss(logits[rest], *(arg[rest] for arg in args))
        return Gradient(grad, logits, values)

    def _at(self, s: Positions) -> Tensor:
        return torch.arange(s.start, s.stop, device=self._rows.device) if isinstance(s, slice) else s

    def _measure(self, budget: PassBudget) -> None:
        """Measure what calls take, before the attack begins.

        Raises:
            MethodError: one takes more passes than the budget has.
        """
        least = self._passes().forward * self._draws_averaged
        if least > budget.passes:
            raise MethodError(f"max_passes = {budget.passes}: a single evaluation takes {least} passes")
        if self._smooth is not None:
            self.smooth(1.0)._passes()

    def _passes(self) -> _CallPasses:
        """Return what one call of the function takes; measured once, on one image."""
        if self._net is self._base:
            return _CallPasses(1, 2)
        # Not by the network: a smooth one is made anew at every step.
        if self._kind not in self._shared.passes:
            self._shared.passes[self._kind] = self._measured_passes()
        return self._shared.passes[self._kind]

    def _measured_passes(self) -> _CallPasses:
        assert self._truth is not None
        calls, images = self._draws.calls, self._draws.images
        leaf = self._truth.images[:1].clone().requires_grad_()
        set_oracle_labels(self._net, self._truth.labels[:1])
        self._draws.images = None
        with torch.enable_grad(), self._meter.recording() as passes:
            logits = self._net(leaf)
            forward = sum(n for _, n in passes)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), leaf)
        self._draws.calls, self._draws.images = calls, images
        return _CallPasses(forward, sum(n for _, n in passes))

    def _gradient(self, loss: Callable[..., Tensor], x: Tensor, s: Positions, *args: Tensor) -> Gradient:
        total: tuple[Tensor, ...] = ()
        calls = self._draws.calls
        for _ in range(self._draws_averaged):
            draw = self._run(loss, partial(self._differentiated, loss), x, s, *args)
            total = tuple(a + b for a, b in zip(total, draw, strict=True)) if total else draw
        if self._draws_averaged > 1:
            total = tuple(value / self._draws_averaged for value in total)
        return self._confirmed(Gradient(*total), calls, loss, x, s, *args) if self._confirms else Gradient(*total)

    def _confirmed(
        self, gradient: Gradient, calls: int, loss: Callable[..., Tensor], x: Tensor, s: Positions, *args: Tensor
    ) -> Gradient:
        """Return a gradient from bfloat16 with the float32 logits and losses of images that it may have misjudged.

        A random function draws for them what it drew before, from call ``calls`` on.
        """
        at = self._at(s)
        doubtful = torch.arange(len(x), device=x.device)
        # Of a batch that an attack made by itself nothing tells the labels.
        if self._truth is not None and len(x) == len(self._rows[s]):
            goals = None if self.goal is None else self.goal[s]
            margins = judged(gradient.logits, self._truth.labels[self._rows[s]], goals)[1]
            doubtful = doubtful[self._doubtful(gradient.logits, margins)]
        if len(doubtful) == 0:
            return gradient
        self._draws.calls = calls
        logits = self._shown(x[doubtful], at[doubtful] if len(x) == len(at) else s)
        with torch.no_grad():
            values = loss(logits, *(arg[doubtful] for arg in args))
        return gradient._replace(
            logits=gradient.logits.index_put((doubtful,), logits), loss=gradient.loss.index_put((doubtful,), values)
        )

    def _doubtful(self, logits: Tensor, margins: Tensor) -> Tensor:
        """Return of which images (N,) an attack may not go by logits in bfloat16, and by these margins."""
        # A random answer has an error of its own for every draw, and a budget keeps the best iterate by these logits.
        if self._random or self._budget is not None:
            return margins <= 0
        return ~(margins.abs() > self._rounding().bound(logits))

    def _rounding(self) -> Rounding:
        """Return what bfloat16 does to this function, measured once, on clean images."""
        kind = self._kind, self._net is self._base
        if kind not in self._shared.roundings:
            assert self._truth is not None and self._leading is not None
            view, x = self._copy(), self._truth.images[: min(COMPARED, self._shared.batch)]
            view.goal, view._margin = None, 0.0
            view._rows = view._images = torch.arange(len(x), device=x.device)
            with torch.no_grad():
                full = view._forward(x, slice(0, len(x)))
                with self._leading.leading():
                    low = view._forward(x, slice(0, len(x)))
            self._shared.roundings[kind] = Rounding.between(full, low)
        return self._shared.roundings[kind]

    def _shown(self, x: Tensor, s: Positions) -> Tensor:
        """Return the logits of images in the rows ``s``, detached."""
        if self._draws_averaged > 1:
            return self._mean(x, s).detach()
        (logits,) = self._run(None, lambda x, labels: (self._answer(x, labels),), x.detach(), s)
        return logits.detach()

    def _mean(self, x: Tensor, s: Positions) -> Tensor:
        logits = self._forward(x, s)
        for _ in range(self._draws_averaged - 1):
            logits = logits + self._forward(x, s)
        return logits / self._draws_averaged if self._draws_averaged > 1 else logits

    def _forward(self, x: Tensor, s: Positions) -> Tensor:
        labels = self._begin(len(x), s)
        logits = self._answer(x, labels)
        self._draws.images = None
        return logits

    def _run(
        self,
        loss: Callable[..., Tensor] | None,
        function: Callable[..., tuple[Tensor, ...]],
        x: Tensor,
        s: Positions,
        *args: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return ``function(x, labels, *args)``, of the rows ``s``, replayed where it can be."""
        labels = self._begin(len(x), s)
        bare = labels is None
        if self._replays is None or not self._may_replay(loss):
            results = function(x, labels, *args)
        else:
            inputs = (x, *args) if labels is None else (x, *args, labels)
            results = self._replays(
                (self._net, loss, bare, self.goal is None, torch.is_grad_enabled()),
                lambda x, *rest: function(x, None, *rest) if bare else function(x, rest[-1], *rest[:-1]),
                inputs,
                self._net,
                self._meter,
            )
        self._draws.images = None
        return results

    def _may_replay(self, loss: Callable[..., Tensor] | None) -> bool:
        # Also where only the step on the base is random: what that is made of is not known here.
        if self._random:
            return self._say("its network draws random numbers")
        if hasattr(self._net, "labels"):
            return self._say("its network is an oracle")
        return loss is None or is_plain(loss) or self._say("its loss is no function of a module, without closure")

    def _say(self, reason: str) -> bool:
        if self._replays is not None:
            self._replays.say(reason)
        return False

    def _begin(self, n: int, s: Positions) -> Tensor | None:
        """Make the pass of ``n`` images one of the rows ``s``; return the classes that logits are made harder by."""
        # The whole is not sliced: a meter knows the same rows again by the tensor.
        whole = isinstance(s, slice) and (s.start, s.stop) == (0, len(self._rows))
        rows = self._rows if whole else self._rows[s]
        self._meter.rows = rows if n == len(rows) else None
        self._draws.images = None if self._meter.rows is None else self._images[s]
        if self._truth is None or self._meter.rows is None:
            return None
        labels = self._truth.labels[self._meter.rows.to(self._truth.labels.device)]
        set_oracle_labels(self._net, labels)
        if not self._margin:
            return None
        return labels if self.goal is None else self.goal[s]

    def _answer(self, x: Tensor, labels: Tensor | None) -> Tensor:
        logits = precise(self._net(x), x)
        if logits.shape != (len(x), self.num_classes):
            raise MethodError(f"the network returned {tuple(logits.shape)}, not ({len(x)}, {self.num_classes})")
        if labels is None:
            return logits
        return harder(logits, labels, self._margin if self.goal is None else -self._margin)

    def _differentiated(
        self, loss: Callable[..., Tensor], x: Tensor, labels: Tensor | None, *args: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient of the summed loss, logits and losses."""
        images = x.detach().requires_grad_()
        leading = nullcontext() if self._leading is None else self._leading.leading()
        # Backwards too, for a defense may compute its passes anew there.
        with torch.enable_grad(), leading:
            logits = self._answer(images, labels)
            values = loss(logits, *args)
            if not values.requires_grad:
                raise MethodError(NO_GRADIENT)
            (grad,) = torch.autograd.grad(values.sum(), images)
        return grad, logits.detach(), values.detach()

    def _in_batches(self, n: int, one: Callable[[slice], tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
        start, calls = 0, self._draws.calls
        while start < n or start == n == 0:
            s = slice(start, start + next(parts(n - start, self._shared.batch)).stop)
            # Every batch of one pass draws as the first does.
            self._draws.calls = calls
            try:
                yield one(s)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self._replays is not None and self._replays.release():
                    continue
                if self._shared.batch == 1:
                    raise
                self._shared.batch = max(1, min(self._shared.batch, s.stop - s.start) // 2)
                continue
            if n == 0:
                return
            start = s.stop


def parts(n: int, batch: int) -> Iterator[slice]:
    """Cut ``n`` images into as few batches as can be, of about the same length.

    A short last batch would let a kernel take sums in another order, so that bits depended on the batch.
    """
    count = max(1, -(-n // batch))
    for i in range(count):
        yield slice(n * i // count, n * (i + 1) // count)


class _CallPasses(NamedTuple):
    """Passes of the base classifier that one image takes: in one call, and in one with the gradient after it."""

    forward: int
    gradient: int


class _Shared:
    """What all row views of one target have in common."""

    def __init__(self, seed: int | Tensor, batch: int) -> None:
        self.seed = seed
        self.batch = batch
        self.calls = 0
        self.passes: dict[str, _CallPasses] = {}
        self.roundings: dict[tuple[str, bool], Rounding] = {}

    def next_call(self) -> int:
        self.calls += 1
        return self.calls


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that the device, Python or the CPU allocator ran out of memory."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "DefaultCPUAllocator: can't allocate" in str(error)


def auto_batch(image_shape: tuple[int, int, int], device: torch.device) -> int:
    """Return how many images to push through at once: about 128 CIFAR images' pixels on a CPU, 512 on a GPU."""
    channels, height, width = image_shape
    budget = (512 if device.type == "cuda" else 128) * 3 * 32 * 32
    return max(1, min(1024, budget // (channels * height * width)))
