import torch
from torch import Tensor, nn

from bench.api import Count, Draws, NonNegative, Probability, defense
from defenses._gradients import Preprocessed


@defense(kind="test-time", randomised=True)
class Tvm:
    """Total variation minimisation (Guo et al., 2018): keep random pixels and reconstruct the smoothest image.

    z = argmin 1/2 * |m * (z - x)|^2 + weight * TV(z), where m keeps each pixel (all its channels) with probability
    ``keep`` and TV is the isotropic total variation of each channel; solved by the primal-dual method of Chambolle and
    Pock (2011), all images at once.

    Args:
        keep: probability that a pixel is kept.
        weight: of the total variation.
        steps: of the solver.
    """

    def __init__(self, *, keep: Probability = 0.5, weight: NonNegative = 0.03, steps: Count = 100) -> None:
        self.keep = keep
        self.weight, self.steps = weight, steps
        self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._reconstruct)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, differentiated through the solver.

        It is random, so attackers average its gradient over masks.
        """
        return self.wrap(base)

    def _reconstruct(self, x: Tensor) -> Tensor:
        mask = self.draws.uniform(x[:, :1]) < self.keep
        return minimise_total_variation(x, mask.to(x.dtype), self.weight, self.steps).clamp(0.0, 1.0)


def minimise_total_variation(x: Tensor, mask: Tensor, weight: float, steps: int) -> Tensor:
    """Return argmin over z of 1/2 * |mask * (z - x)|^2 + weight * TV(z), per image and channel."""
    # The squared norm of the discrete gradient is at most 8, so these primal and dual step sizes converge.
    tau = sigma = 8**-0.5
    z, z_bar = x, x
    dual_y, dual_x = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        dual_y[..., :-1, :] += sigma * (z_bar[..., 1:, :] - z_bar[..., :-1, :])
        dual_x[..., :, :-1] += sigma * (z_bar[..., :, 1:] - z_bar[..., :, :-1])
        # The tiny term makes the derivative zero in flat regions, where that of a plain root is not finite.
        norm = (dual_y**2 + dual_x**2 + 1e-20).sqrt()
        projection = weight / norm.clamp_min(max(weight, 1e-12))
        dual_y, dual_x = dual_y * projection, dual_x * projection
        divergence = dual_y + dual_x
        divergence[..., 1:, :] -= dual_y[..., :-1, :]
        divergence[..., :, 1:] -= dual_x[..., :, :-1]
        z_next = z + tau / (1 + tau * mask) * (divergence + mask * (x - z))
        z, z_bar = z_next, 2 * z_next - z
    return z
