from torch import Tensor, nn

from bench.api import Budget, Count, Draws, Fraction, defense
from defenses._gradients import Preprocessed, identity, sign_steps, uniform_start


@defense(kind="test-time", base="pgd-at", randomised=True, purifier=True)
class Hedge:
    """Hedge defense (Wu et al., 2021): sign steps from a random start that maximise the cross-entropy of all classes.

    The summed loss falls slowest along the true class, so maximising it leaves the other classes faster.

    Args:
        radius: the L∞ budget of the purification.
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
        self.eps, self.alpha = float(radius), float(step_size)
        self.steps = steps
        self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, lambda x: self._purify(base, x), identity)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the identity as the derivative of the purification (BPDA).

        It is random, so attackers average its gradient over draws.
        """
        return self.wrap(base)

    def smooth(self, base: nn.Module, tau: float) -> nn.Module:
        """Return the deployed function with the gradient of the purification, its sign smoothed over ``tau``."""
        return Preprocessed(base, lambda x: self._purify(base, x, tau))

    def _purify(self, base: nn.Module, x: Tensor, tau: float | None = None) -> Tensor:
        def loss_fn(x_purified: Tensor) -> Tensor:
            return -base(x_purified).log_softmax(1).sum()

        x_init = uniform_start(x, self.eps, self.draws)
        return sign_steps(x, loss_fn, alpha=self.alpha, steps=self.steps, eps=self.eps, x_init=x_init, tau=tau)
