from torch import Tensor, nn

from bench.api import Budget, Count, Fraction, defense
from defenses._gradients import Preprocessed, PseudoLabelLoss, identity, sign_steps


@defense(kind="test-time", base="pgd-at", purifier=True)
class AntiAdversary:
    """Anti-adversary layer (Alfarra et al., 2022): sign steps that minimise the loss of the predicted label.

    TPAP maximises that loss.

    Args:
        steps: sign steps, each clamped to [0, 1].
        step_size: their length.
    """

    def __init__(self, *, steps: Count = 2, step_size: Budget = Fraction(3, 20)) -> None:
        self.steps, self.alpha = steps, float(step_size)

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, lambda x: self._purify(base, x), identity)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the identity as the derivative of the purification (BPDA)."""
        return self.wrap(base)

    def smooth(self, base: nn.Module, tau: float) -> nn.Module:
        """Return the deployed function with the gradient of the purification, its sign smoothed over ``tau``."""
        return Preprocessed(base, lambda x: self._purify(base, x, tau))

    def _purify(self, base: nn.Module, x: Tensor, tau: float | None = None) -> Tensor:
        loss = PseudoLabelLoss(base, lambda logits: logits.argmax(1))
        return sign_steps(
            x, loss.cross_entropy, alpha=-self.alpha, steps=self.steps, tau=tau, backward_loss_fn=loss.log_odds
        )
