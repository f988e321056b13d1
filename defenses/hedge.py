from torch import Tensor, nn

from bench.api import Budget, Count, Draws, Fraction, defense
from defenses._gradients import Before, identity, sign_steps, smooth_sign_steps, uniform_start


@defense(kind="test-time", base="pgd-at", randomised=True, purifier=True)
class Hedge:
    """Hedge defense (Wu et al., 2021): sign steps up the cross-entropy of all classes at once, from a random start.

    The sum of the losses of all classes falls slowest along the true class, so climbing it leaves the others faster.

    Args:
        radius: the Linf budget of the move.
        steps: sign steps.
        step_size: their length.
    """

    def __init__(
        self,
        *,
        radius: Budget = Fraction(8, 255),
        steps: Count = 20,
        step_size: Budget = Fraction(4, 255),
    ) -> None:
        self.radius, self.steps, self.size = float(radius), steps, float(step_size)
        self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, lambda x: self._hedged(base, x), identity)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the identity as the derivative of the move (BPDA, to be averaged)."""
        return self.wrap(base)

    def smooth(self, base: nn.Module, tau: float) -> nn.Module:
        """Return the deployed function with the gradient of the move, its sign smoothed over ``tau``."""
        return Before(base, lambda x: self._hedged(base, x, tau))

    def _hedged(self, base: nn.Module, x: Tensor, tau: float | None = None) -> Tensor:
        def loss(images: Tensor) -> Tensor:
            return -base(images).log_softmax(1).sum()

        start = uniform_start(x, self.radius, self.draws)
        how = {"size": self.size, "steps": self.steps, "radius": self.radius, "start": start}
        return sign_steps(x, loss, **how) if tau is None else smooth_sign_steps(x, loss, tau=tau, **how)
