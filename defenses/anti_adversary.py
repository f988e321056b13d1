from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Budget, Count, Fraction, defense
from defenses._gradients import Before, identity, sign_steps


@defense(kind="test-time", base="pgd-at")
class AntiAdversary:
    """Anti-adversary layer (Alfarra et al., 2022): sign steps down the loss of the predicted label, TPAP's opposite.

    Args:
        steps: sign steps, each clamped to the box.
        step_size: their length.
    """

    def __init__(self, *, steps: Count = 2, step_size: Budget = Fraction(3, 20)) -> None:
        self.steps, self.size = steps, float(step_size)

    def wrap(self, base: nn.Module) -> nn.Module:
        def confirmed(x: Tensor) -> Tensor:
            chosen: list[Tensor] = []

            def loss(images: Tensor) -> Tensor:
                logits = base(images)
                if not chosen:
                    chosen.append(logits.detach().argmax(1))
                return F.cross_entropy(logits, chosen[0], reduction="sum")

            return sign_steps(x, loss, size=-self.size, steps=self.steps)

        return Before(base, confirmed, identity)

    def surrogate(self, base: nn.Module) -> nn.Module:
        return self.wrap(base)
