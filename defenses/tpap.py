from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Budget, Count, Draws, Fraction, Literal, MethodError, defense
from defenses._gradients import Before, identity, log_odds, sign_steps, smooth_sign_steps, uniform_start


@defense(kind="test-time", base="fgsm-at", purifier=True, relies_on="catastrophic-overfitting")
class Tpap:
    """TPAP, test-time purification (Tang and Zhang, CVPR 2024): one FGSM step up the loss of the predicted label.

    F(x) = f(clamp(x + beta * sign(grad CE(f(x), argmax f(x))))), on a network f that FGSM training has overfitted. The
    label and the gradient share one pass: two forwards and one backward per image. The derivative of the sign is zero,
    so that of the purification is the identity, but on the faces of the box, where the surrogate keeps the identity.

    Args:
        beta: the Linf budget of the purification.
        steps: sign steps, each projected on the ball round the image and on the box.
        step_size: length of a step; beta / steps by default.
        label: whose loss is climbed: the predicted class of the received image, the least likely, a random one, or the
            true one (an oracle, for ablations: whoever calls the deployed module sets its ``labels`` before, as the
            engine does).
        direction: ``ascend`` leaves the label; ``descend`` goes deeper into it.
        random_start: start from a uniform point of the ball instead of the image.
    """

    def __init__(
        self,
        *,
        beta: Budget = Fraction(8, 255),
        steps: Count = 1,
        step_size: Budget | None = None,
        label: Literal["predicted", "least-likely", "random", "true"] = "predicted",
        direction: Literal["ascend", "descend"] = "ascend",
        random_start: bool = False,
    ) -> None:
        self.beta = float(beta)
        self.steps = steps
        self.size = (-1 if direction == "descend" else 1) * float(step_size or beta / steps)
        self.label = label
        self.random_start = random_start
        if label == "random" or random_start:
            self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        deployed = Before(base, lambda x: self._purified(base, x, deployed.labels), identity)
        deployed.labels = None
        return deployed

    def surrogate(self, base: nn.Module) -> nn.Module:
        return self.wrap(base)

    def smooth(self, base: nn.Module, tau: float) -> nn.Module:
        """Return the deployed function with the gradient of the purification, its sign smoothed over ``tau``."""
        deployed = Before(base, lambda x: self._purified(base, x, deployed.labels, tau))
        deployed.labels = None
        return deployed

    def _purified(self, base: nn.Module, x: Tensor, labels: Tensor | None, tau: float | None = None) -> Tensor:
        chosen: list[Tensor] = []

        def loss(images: Tensor) -> Tensor:
            logits = base(images)
            if not chosen:
                chosen.append(self._label(logits.detach(), labels))
            return F.cross_entropy(logits, chosen[0], reduction="sum")

        def unsaturated(images: Tensor) -> Tensor:
            return log_odds(base(images), chosen[0]).sum()

        start = uniform_start(x, self.beta, self.draws) if self.random_start else None
        how = {"size": self.size, "steps": self.steps, "radius": self.beta, "start": start}
        if tau is None:
            return sign_steps(x, loss, **how)
        return smooth_sign_steps(x, loss, tau=tau, climbed=unsaturated, **how)

    def _label(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        if self.label == "predicted":
            return logits.argmax(1)
        if self.label == "least-likely":
            return logits.argmin(1)
        if self.label == "random":
            return (self.draws.uniform(logits[:, 0]) * logits.shape[1]).long()
        if labels is None or len(labels) != len(logits):
            raise MethodError("tpap with label = 'true' is an oracle; nobody set the labels of this batch")
        return labels
