import torch
from torch import Tensor, nn

from bench.api import Count, Draws, NonNegative, Probability, defense
from defenses._gradients import Before


@defense(kind="test-time", randomised=True)
class Tvm:
    """Total variation minimisation (Guo et al., 2018): keep a random set of pixels, fill in the smoothest image.

    z = argmin 1/2 * |m * (z - x)|^2 + weight * TV(z), where m keeps each pixel (all its channels) with probability
    ``keep`` and TV is the isotropic total variation of each channel; solved by the primal-dual method of Chambolle and
    Pock (2011), all images at once.

    Args:
        keep: probability of a pixel to count.
        weight: of the total variation.
        steps: of the solver.
    """

    def __init__(self, *, keep: Probability = 0.5, weight: NonNegative = 0.03, steps: Count = 100) -> None:
        self.keep, self.weight, self.steps = keep, weight, steps
        self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, self._filled)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, differentiated through the solver (and to be averaged over masks)."""
        return self.wrap(base)

    def _filled(self, x: Tensor) -> Tensor:
        kept = self.draws.uniform(x[:, :1]) < self.keep
        return smoothest(x, kept.to(x.dtype), self.weight, self.steps).clamp(0.0, 1.0)


def smoothest(x: Tensor, mask: Tensor, weight: float, steps: int) -> Tensor:
    """Return argmin over z of 1/2 * |mask * (z - x)|^2 + weight * TV(z), per image and channel."""
    # The discrete gradient has a squared norm of at most 8, so these steps converge.
    tau = sigma = 8**-0.5
    z, ahead = x, x
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        down[..., :-1, :] += sigma * (ahead[..., 1:, :] - ahead[..., :-1, :])
        right[..., :, :-1] += sigma * (ahead[..., :, 1:] - ahead[..., :, :-1])
        # The tiny term gives flat regions a derivative, zero, where a plain root has none.
        length = (down**2 + right**2 + 1e-20).sqrt()
        shrink = weight / length.clamp_min(max(weight, 1e-12))
        down, right = down * shrink, right * shrink
        spread = down + right
        spread[..., 1:, :] -= down[..., :-1, :]
        spread[..., :, 1:] -= right[..., :, :-1]
        new = z + tau / (1 + tau * mask) * (spread + mask * (x - z))
        z, ahead = new, 2 * new - z
    return z
