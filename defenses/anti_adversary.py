from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Budget, Count, Fraction, defense
from defenses._gradients import Before, identity, log_odds, sign_steps, smooth_sign_steps


@defense(kind="test-time", base="pgd-at", purifier=True)
class AntiAdversary:
    """Anti-adversary layer (Alfarra et al., 2022): sign steps down the loss of the predicted label, TPAP's opposite.

    Args:
        steps: sign steps, each clamped to the box.
        step_size: their length.
    """

    def __init__(self, *, steps: Count = 2, step_size: Budget = Fraction(3, 20)) -> None:
        self.steps, self.size = steps, float(step_size)

    def wrap(self, base: nn.Module) -> nn.Module:
        return Before(base, lambda x: self._confirmed(base, x), identity)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function with the identity as the derivative of the move (BPDA)."""
        return self.wrap(base)

    def smooth(self, base: nn.Module, tau: float) -> nn.Module:
        """Return the deployed function with the gradient of the move, its sign smoothed over ``tau``."""
        return Before(base, lambda x: self._confirmed(base, x, tau))

    def _confirmed(self, base: nn.Module, x: Tensor, tau: float | None = None) -> Tensor:
        chosen: list[Tensor] = []

        def loss(images: Tensor) -> Tensor:
            logits = base(images)
            if not chosen:
                chosen.append(logits.detach().argmax(1))
            return F.cross_entropy(logits, chosen[0], reduction="sum")

        def unsaturated(images: Tensor) -> Tensor:
            return log_odds(base(images), chosen[0]).sum()

        how = {"size": -self.size, "steps": self.steps}
        if tau is None:
            return sign_steps(x, loss, **how)
        return smooth_sign_steps(x, loss, tau=tau, climbed=unsaturated, **how)
