from torch import Tensor, nn

from bench.api import Budget, Count, Draws, Fraction, Literal, MethodError, defense
from defenses._gradients import Preprocessed, PseudoLabelLoss, identity, sign_steps, uniform_start


@defense(kind="test-time", base="fgsm-at", purifier=True, relies_on="catastrophic-overfitting")
class Tpap:
    """TPAP, test-time purification (Tang and Zhang, CVPR 2024): one FGSM step on the predicted label.

    F(x) = f(clamp(x + beta * sign(grad CE(f(x), argmax f(x))))), on a network f with catastrophic overfitting from FGSM
    training. The label and the gradient share one pass: two forwards and one backward per image. The derivative of the
    sign is zero, so that of the purification is the identity, except at pixels clamped to 0 or 1; the surrogate keeps
    the identity there, too.

    Args:
        beta: the L∞ budget of the purification.
        steps: sign steps, each projected onto the ball around the image and onto [0, 1].
        step_size: length of a step; beta / steps by default.
        label: the label whose loss is maximised: the predicted class of the received image, the least likely one, a
            random one, or the true one. The true one is an oracle for ablations: the caller sets ``labels`` on the
            deployed module before each batch, as the engine does.
        direction: ``ascend`` maximises the loss of the label; ``descend`` minimises it.
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
        self.alpha = (-1 if direction == "descend" else 1) * float(step_size or beta / steps)
        self.label = label
        self.random_start = random_start
        if label == "random" or random_start:
            self.draws = Draws()

    def wrap(self, base: nn.Module) -> nn.Module:
        deployed = Preprocessed(base, lambda x: self._purify(base, x, deployed.labels), identity)
        deployed.labels = None
        return deployed

    def surrogate(self, base: nn.Module) -> nn.Module:
        return self.wrap(base)

    def smooth(self, base: nn.Module, tau: float) -> nn.Module:
        """Return the deployed function with the gradient of the purification, its sign smoothed over ``tau``."""
        deployed = Preprocessed(base, lambda x: self._purify(base, x, deployed.labels, tau))
        deployed.labels = None
        return deployed

    def _purify(self, base: nn.Module, x: Tensor, true_labels: Tensor | None, tau: float | None = None) -> Tensor:
        loss = PseudoLabelLoss(base, lambda logits: self._choose_labels(logits, true_labels))
        return sign_steps(
            x,
            loss.cross_entropy,
            alpha=self.alpha,
            steps=self.steps,
            eps=self.beta,
            x_init=uniform_start(x, self.beta, self.draws) if self.random_start else None,
            tau=tau,
            backward_loss_fn=loss.log_odds,
        )

    def _choose_labels(self, logits: Tensor, true_labels: Tensor | None) -> Tensor:
        if self.label == "predicted":
            return logits.argmax(1)
        if self.label == "least-likely":
            return logits.argmin(1)
        if self.label == "random":
            return (self.draws.uniform(logits[:, 0]) * logits.shape[1]).long()
        if true_labels is None or len(true_labels) != len(logits):
            raise MethodError("tpap with label = 'true' is an oracle; nobody set the labels of this batch")
        return true_labels
