"""The function under attack: frozen, cut to what the device holds, every pass counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import draws
from bench.api import Gradient, MethodError
from bench.draws import Draws
from bench.models.logits import harder, precise
from bench.process.capture import is_plain

if TYPE_CHECKING:
    from bench.evaluation.replays import Replays


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
                self._counts[part] += times
            self._pending.clear()
        return self._counts


class Meter:
    """Counts the images that a classifier sees forwards and backwards.

    While ``rows`` is set, counts also go to those images; a batch of another length is counted in the totals only.
    ``check`` is called at every pass; an exception that it raises ends the work at once.
    """

    def __init__(self, net: nn.Module, images: int = 0, check: Callable[[], None] | None = None) -> None:
        self.forwards = 0
        self.backwards = 0
        self.rows: Tensor | None = None
        self._forwards_of, self._backwards_of = _Tally(images), _Tally(images)
        self._check = check
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
        self._count(False, n, rows)
        if logits.requires_grad:
            logits.register_hook(lambda _: self._count(True, n, rows))  # type: ignore[no-untyped-call]

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
    float32. A library forms its own batches, so an oracle gets, and a margin uses, the label of the nearest clean
    image.
    """

    def __init__(self, net: nn.Module, truth: Truth | None, margin: float = 0.0) -> None:
        super().__init__()
        self.net = net
        self.truth = truth
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        labels = None
        if self.truth is not None and (self.margin or hasattr(self.net, "labels")):
            distances = torch.cdist(x.detach().flatten(1).float(), self.truth.images.flatten(1))
            labels = self.truth.labels[distances.argmin(1)]
            set_oracle_labels(self.net, labels)
        images = x.float()
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
        margin: by how much, relative to the largest, the true logit is raised, so that what an attack takes for a
            success is one by more than round-off (:func:`bench.models.logits.round_off`).
        replays: records passes that recur; without it every one is launched kernel by kernel.
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
        replays: Replays | None = None,
    ) -> None:
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
        self._shared = _Shared(seed=seed, batch=batch)

    @property
    def module(self) -> nn.Module:
        self._meter.rows = None
        self._say("a library calls its network by itself")
        return Counted(self._net, self._truth, self._margin).eval()

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
        return view

    def smooth(self, tau: float) -> NetworkTarget:
        if self._smooth is None:
            raise MethodError("this defense has no purification to differentiate a second time")
        view = self._copy()
        view._net = self._smooth(tau).eval()
        return view

    def purified(self, x: Tensor) -> Tensor:
        received: list[Tensor] = []
        hook = self._base.register_forward_pre_hook(lambda _module, inputs: received.append(inputs[0].detach()))

        def one(s: slice) -> tuple[Tensor]:
            with torch.no_grad():
                self._forward(x[s], s)
            if received[-1].shape != x[s].shape:
                raise MethodError(f"the defense hands on images {tuple(received[-1].shape)}, not {tuple(x[s].shape)}")
            return (received[-1],)

        try:
            return torch.cat([part for (part,) in self._in_batches(len(x), one)])
        finally:
            hook.remove()

    def _copy(self) -> NetworkTarget:
        view = object.__new__(NetworkTarget)
        view.__dict__.update(self.__dict__)
        view._latest = None
        return view

    def rows(self, index: Tensor) -> NetworkTarget:
        # Attacks ask at every step, and images rarely fall.
        version = -1 if index.is_inference() else index._version
        if self._latest is not None and self._latest[0] is index and self._latest[1] == version >= 0:
            return self._latest[2]
        view = self._copy()
        view._images = self._images[index]
        view._rows = self._rows[index]
        self._latest = index, version, view
        return view

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            self._say("the attack differentiates its network by itself")
            return self._mean(x, slice(0, len(x)))

        def one(s: slice) -> tuple[Tensor]:
            if self._draws_averaged > 1:
                return (self._mean(x[s], s).detach(),)
            (logits,) = self._run(None, lambda x, labels: (self._answer(x, labels),), x[s].detach(), s)
            return (logits.detach(),)

        return torch.cat([part for (part,) in self._in_batches(len(x), one)])

    def gradient(self, x: Tensor, loss: Callable[..., Tensor], *args: Tensor) -> Gradient:
        # Laid out in memory as the images are, whatever the network prefers: attacks mix the two at every step.
        grad = torch.empty_like(x)

        def one(s: slice) -> tuple[Tensor, Tensor]:
            total: tuple[Tensor, ...] = ()
            for _ in range(self._draws_averaged):
                draw = self._run(loss, partial(self._differentiated, loss), x[s].detach(), s, *(arg[s] for arg in args))
                total = tuple(a + b for a, b in zip(total, draw, strict=True)) if total else draw
            if self._draws_averaged > 1:
                total = tuple(value / self._draws_averaged for value in total)
            grad[s] = total[0]
            return total[1], total[2]

        parts = list(self._in_batches(len(x), one))
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

    def _mean(self, x: Tensor, s: slice) -> Tensor:
        logits = self._forward(x, s)
        for _ in range(self._draws_averaged - 1):
            logits = logits + self._forward(x, s)
        return logits / self._draws_averaged if self._draws_averaged > 1 else logits

    def _forward(self, x: Tensor, s: slice) -> Tensor:
        labels = self._begin(len(x), s)
        logits = self._answer(x, labels)
        self._draws.images = None
        return logits

    def _run(
        self,
        loss: Callable[..., Tensor] | None,
        function: Callable[..., tuple[Tensor, ...]],
        x: Tensor,
        s: slice,
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
                (self._net, loss, bare, torch.is_grad_enabled()),
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

    def _begin(self, n: int, s: slice) -> Tensor | None:
        """Make the pass of ``n`` images one of the rows ``s``; return their labels if logits are to be made harder."""
        # The whole is not sliced: a meter knows the same rows again by the tensor.
        rows = self._rows if (s.start, s.stop) == (0, len(self._rows)) else self._rows[s]
        self._meter.rows = rows if n == len(rows) else None
        self._draws.images = None if self._meter.rows is None else self._images[s]
        if self._truth is None or self._meter.rows is None:
            return None
        labels = self._truth.labels[self._meter.rows.to(self._truth.labels.device)]
        set_oracle_labels(self._net, labels)
        return labels if self._margin else None

    def _answer(self, x: Tensor, labels: Tensor | None) -> Tensor:
        logits = precise(self._net(x), x)
        if logits.shape != (len(x), self.num_classes):
            raise MethodError(f"the network returned {tuple(logits.shape)}, not ({len(x)}, {self.num_classes})")
        return logits if labels is None else harder(logits, labels, self._margin)

    def _differentiated(
        self, loss: Callable[..., Tensor], x: Tensor, labels: Tensor | None, *args: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient of the summed loss, logits and losses."""
        images = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._answer(images, labels)
            values = loss(logits, *args)
            if not values.requires_grad:
                raise MethodError("no gradient reaches the images: the attacked function detaches them")
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


class _Shared:
    """What all row views of one target have in common."""

    def __init__(self, seed: int | Tensor, batch: int) -> None:
        self.seed = seed
        self.batch = batch
        self.calls = 0

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
