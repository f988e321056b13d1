import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Count, MethodError, defense
from defenses._gradients import Before, identity


@defense(kind="test-time")
class Quilting:
    """Image quilting (Guo et al., 2018): the image is sewn anew from its nearest patches of clean training images.

    Patches overlap; where they do, each new one is cut in along the path of least squared difference (Efros and
    Freeman, 2001). The bank of patches is drawn once from the training images.

    Args:
        patch: side of a patch.
        overlap: of neighbouring patches, less than a patch.
        bank: how many training patches there are to choose from.

    Raises:
        MethodError: the overlap is not less than the patch, or no training images were given.
    """

    def __init__(self, *, patch: Count = 5, overlap: Count = 2, bank: Count = 20000) -> None:
        if overlap >= patch:
            raise MethodError(f"quilting: overlap = {overlap} is not less than patch = {patch}")
        self.patch, self.overlap, self.size = patch, overlap, bank
        self.bank: Tensor | None = None

    def fit(self, images: Tensor) -> None:
        """Draw the bank from training images uint8 (N, C, H, W), the same for the same images; call it first.

        Raises:
            MethodError: a patch is larger than the images.
        """
        if self.patch > min(images.shape[2:]):
            raise MethodError(f"patch = {self.patch} is larger than the images; {min(images.shape[2:])} is the most")
        generator = torch.Generator().manual_seed(0)
        tops, lefts = (
            torch.randint(size - self.patch + 1, (self.size, 1), generator=generator) for size in images.shape[2:]
        )
        rows = torch.randint(len(images), (self.size,), generator=generator)[:, None, None]
        span = torch.arange(self.patch)
        chosen = images.permute(0, 2, 3, 1)[rows, (tops + span)[:, :, None], (lefts + span)[:, None, :]]
        self.bank = (chosen.float() / 255).permute(0, 3, 1, 2)

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, self._quilted)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the identity as the derivative of the change (BPDA)."""
        return Before(base, self._quilted, identity)

    def _quilted(self, x: Tensor) -> Tensor:
        if self.bank is None:
            raise MethodError("quilting needs training images: nobody called its fit")
        bank = self.bank.to(x)
        flat = bank.flatten(1)
        half = flat.pow(2).sum(1) / 2
        out = x.detach().clone()
        for row, top in enumerate(self._starts(x.shape[2])):
            for column, left in enumerate(self._starts(x.shape[3])):
                window = (..., slice(top, top + self.patch), slice(left, left + self.patch))
                nearest = (x[window].flatten(1) @ flat.T - half).argmax(1)
                new = bank[nearest]
                seen = (out[window] - new).pow(2).sum(1)
                keep = torch.zeros_like(seen, dtype=torch.bool)
                if column:
                    keep |= _cut(seen, self._starts(x.shape[3])[column - 1] + self.patch - left)
                if row:
                    across = self._starts(x.shape[2])[row - 1] + self.patch - top
                    keep |= _cut(seen.transpose(1, 2), across).transpose(1, 2)
                out[window] = torch.where(keep[:, None], out[window], new)
        return out

    def _starts(self, size: int) -> list[int]:
        starts = list(range(0, size - self.patch + 1, self.patch - self.overlap))
        return starts if starts[-1] == size - self.patch else [*starts, size - self.patch]


def _cut(error: Tensor, overlap: int) -> Tensor:
    """Return (N, P, P): the pixels left of the cheapest path down the first ``overlap`` columns, which stay old."""
    strip = error[:, :, :overlap]
    costs = [strip[:, 0]]
    for line in range(1, strip.shape[1]):
        before = F.pad(costs[-1], [1, 1], value=torch.inf).unfold(1, 3, 1).amin(2)
        costs.append(strip[:, line] + before)
    keep = torch.zeros_like(error, dtype=torch.bool)
    columns = torch.arange(error.shape[2], device=error.device)
    at = costs[-1].argmin(1)
    for line in range(strip.shape[1] - 1, -1, -1):
        keep[:, line] = columns < at[:, None]
        if line:
            near = (torch.arange(overlap, device=error.device)[None] - at[:, None]).abs() <= 1
            at = torch.where(near, costs[line - 1], torch.inf).argmin(1)
    return keep
