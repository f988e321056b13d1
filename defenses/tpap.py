import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Budget, Count, Fraction, Literal, MethodError, defense
from defenses._gradients import borrow


@defense(kind="test-time", base="fgsm-at")
class Tpap:
    """TPAP, test-time purification (Tang and Zhang, CVPR 2024): one FGSM step up the loss of the predicted label.

    F(x) = f(clamp(x + beta * sign(grad CE(f(x), argmax f(x))))), on a network f that FGSM training has overfitted. The
    label and the gradient share one pass: two forwards and one backward per image.

    Args:
        beta: the Linf budget of the purification.
        steps: sign steps, each projected on the ball round the image and on the box.
        step_size: length of a step; beta / steps by default.
        label: whose loss is climbed: the predicted class of the received image, the least likely, a random one, or the
            true one (an oracle: set ``labels`` on the module before each call).
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
        self.size = (-1 if direction == "descend" else 1) * (float(step_size) if step_size else float(beta / steps))
        self.label = label
        self.random_start = random_start
        if label == "random" or random_start:
            self.rng = torch.Generator()

    def wrap(self, base: nn.Module) -> nn.Module:
        return _Purified(self, base)

    def surrogate(self, base: nn.Module) -> nn.Module:
        return self.wrap(base)


class _Purified(nn.Module):
    """The move is a constant to gradients, as the derivative of the sign makes it (BPDA with the identity)."""

    labels: Tensor | None = None

    def __init__(self, step: Tpap, base: nn.Module) -> None:
        super().__init__()
        self.step, self.base = step, base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(borrow(self._purified(x), x))

    def _purified(self, x: Tensor) -> Tensor:
        step = self.step
        # Callers run the deployed network without gradients, or in inference mode; purification needs its own.
        with torch.inference_mode(False), torch.enable_grad():
            origin = x.detach().clone()
            current = origin
            if step.random_start:
                noise = torch.rand(origin.shape, generator=step.rng).to(origin) * 2 - 1
                current = (origin + step.beta * noise).clamp(0.0, 1.0)
            label = None
            for _ in range(step.steps):
                leaf = current.detach().requires_grad_()
                logits = self.base(leaf)
                label = self._label(logits.detach()) if label is None else label
                (grad,) = torch.autograd.grad(F.cross_entropy(logits, label, reduction="sum"), leaf)
                moved = current + step.size * grad.sign()
                within = torch.minimum(torch.maximum(moved, origin - step.beta), origin + step.beta)
                current = within.clamp(0.0, 1.0)
        return current

    def _label(self, logits: Tensor) -> Tensor:
        if self.step.label == "predicted":
            return logits.argmax(1)
        if self.step.label == "least-likely":
            return logits.argmin(1)
        if self.step.label == "random":
            return torch.randint(logits.shape[1], (len(logits),), generator=self.step.rng).to(logits.device)
        if self.labels is None or len(self.labels) != len(logits):
            raise MethodError("tpap with label = 'true' is an oracle; nobody set the labels of this batch")
        return self.labels
