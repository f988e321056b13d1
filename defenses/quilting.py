import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Count, MethodError, defense
from defenses._gradients import Preprocessed, identity


@defense(kind="test-time")
class Quilting:
    """Image quilting (Guo et al., 2018): the image is rebuilt from nearest patches of clean training images.

    Where patches overlap, each new one is joined along the minimum error boundary cut (Efros and Freeman, 2001). The
    bank of patches is drawn once from the training images.

    Args:
        patch: side of a patch in pixels.
        overlap: of neighbouring patches in pixels, less than ``patch``.
        bank: number of training patches in the bank.

    Raises:
        MethodError: the overlap is not less than the patch, or there are no training images.
    """

    def __init__(self, *, patch: Count = 5, overlap: Count = 2, bank: Count = 20000) -> None:
        if overlap >= patch:
            raise MethodError(f"quilting: overlap = {overlap} is not less than patch = {patch}")
        self.patch, self.overlap = patch, overlap
        self.bank_size = bank
        self.bank: Tensor | None = None

    def fit(self, images: Tensor) -> None:
        """Draw the bank from training images uint8 (N, C, H, W), the same for the same images; call it first.

        Raises:
            MethodError: a patch is larger than the images.
        """
        if self.patch > min(images.shape[2:]):
            raise MethodError(f"patch = {self.patch} is larger than the images; {min(images.shape[2:])} is the most")
        generator = torch.Generator().manual_seed(0)
        height, width = images.shape[2:]
        tops = torch.randint(height - self.patch + 1, (self.bank_size, 1), generator=generator)
        lefts = torch.randint(width - self.patch + 1, (self.bank_size, 1), generator=generator)
        image = torch.randint(len(images), (self.bank_size,), generator=generator)[:, None, None]
        offsets = torch.arange(self.patch)
        patches = images.permute(0, 2, 3, 1)[image, (tops + offsets)[:, :, None], (lefts + offsets)[:, None, :]]
        self.bank = (patches.float() / 255).permute(0, 3, 1, 2)

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._quilt)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the identity as the derivative of the quilting (BPDA)."""
        return Preprocessed(base, self._quilt, identity)

    def _quilt(self, x: Tensor) -> Tensor:
        if self.bank is None:
            raise MethodError("quilting needs training images: nobody called its fit")
        bank = self.bank.to(x)
        flat_bank = bank.flatten(1)
        half_squared_norms = flat_bank.pow(2).sum(1) / 2
        quilted = x.detach().clone()
        tops, lefts = self._patch_starts(x.shape[2]), self._patch_starts(x.shape[3])
        for row, top in enumerate(tops):
            for column, left in enumerate(lefts):
                window = (..., slice(top, top + self.patch), slice(left, left + self.patch))
                nearest = (x[window].flatten(1) @ flat_bank.T - half_squared_norms).argmax(1)
                patches = bank[nearest]
                error = (quilted[window] - patches).pow(2).sum(1)
                keep = torch.zeros_like(error, dtype=torch.bool)
                if column:
                    keep |= _min_error_cut(error, lefts[column - 1] + self.patch - left)
                if row:
                    keep |= _min_error_cut(error.transpose(1, 2), tops[row - 1] + self.patch - top).transpose(1, 2)
                quilted[window] = torch.where(keep[:, None], quilted[window], patches)
        return quilted

    def _patch_starts(self, size: int) -> list[int]:
        starts = list(range(0, size - self.patch + 1, self.patch - self.overlap))
        return starts if starts[-1] == size - self.patch else [*starts, size - self.patch]


def _min_error_cut(error: Tensor, overlap: int) -> Tensor:
    """Return where the old patch is kept, a mask (N, P, P): left of the minimum error boundary cut.

    The cut is the path of least summed ``error`` (N, P, P) from the top row to the bottom row within the first
    ``overlap`` columns; from row to row it moves by one column at most.
    """
    overlap_error = error[:, :, :overlap]
    cost = [overlap_error[:, 0]]
    for row in range(1, overlap_error.shape[1]):
        least_cost_above = F.pad(cost[-1], [1, 1], value=torch.inf).unfold(1, 3, 1).amin(2)
        cost.append(overlap_error[:, row] + least_cost_above)
    keep = torch.zeros_like(error, dtype=torch.bool)
    columns = torch.arange(error.shape[2], device=error.device)
    cut_column = cost[-1].argmin(1)
    for row in range(overlap_error.shape[1] - 1, -1, -1):
        keep[:, row] = columns < cut_column[:, None]
        if row:
            adjacent = (columns[None, :overlap] - cut_column[:, None]).abs() <= 1
            cut_column = torch.where(adjacent, cost[row - 1], torch.inf).argmin(1)
    return keep
