"""The losses of an epoch, read while it runs without a device that waits for the reader."""

from __future__ import annotations

import torch
from torch import Tensor


class LossReader:
    """Reads losses as batches write them.

    On CUDA a look asks for a copy and returns what the look before asked for. So the device always has batches queued,
    and the host, which waits for the earlier copy, never runs further ahead than two looks.

    Args:
        losses: of the batches of an epoch (S,), written in place.
    """

    def __init__(self, losses: Tensor) -> None:
        behind = losses.device.type == "cuda"
        #: Batches between two looks.
        self.every = 20 if behind else 1
        #: The last loss that was read; NaN before the first.
        self.last = float("nan")
        self._losses = losses
        self._copy = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=behind)
        self._copied = torch.cuda.Event() if behind else None  # type: ignore[no-untyped-call]
        self.begin(0)

    def begin(self, step: int) -> None:
        """Begin an epoch whose first ``step`` losses are known."""
        self._seen = self._asked = step

    def read(self, step: int, *, wait: bool) -> list[tuple[int, float]]:
        """Return batches and losses that are new, of the first ``step``: all of them if ``wait``."""
        if wait or self._copied is None or self.last != self.last:
            until, values = step, self._losses
        else:
            self._copied.synchronize()
            until, values = self._asked, self._copy
        new = list(enumerate(values[self._seen : until].tolist(), self._seen))
        self._seen = max(self._seen, until)
        self.last = new[-1][1] if new else self.last
        if self._copied is not None:
            self._copy[:step].copy_(self._losses[:step], non_blocking=True)
            self._copied.record()
            self._asked = step
        return new
