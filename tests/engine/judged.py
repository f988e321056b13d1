"""Networks and test-time steps whose answers are hard to judge, as a user's own file."""

import torch
from torch import nn
from torch.nn import functional as F

from bench.api import Draws, attack, defense
from bench.models.small_cnn import small_cnn


class Rounded(nn.Module):
    """A small network that rounds its logits to the precision ``through``, then returns them as ``returned``."""

    def __init__(self, returned, through, **shape):
        super().__init__()
        self.net = small_cnn(10, channels=4, hidden=16, **shape)
        self.returned, self.through = returned, through

    def forward(self, x):
        return self.net(x).to(self.through).to(self.returned)


def rounded(num_classes, *, in_channels: int = 3, image_size: int = 32, returned: str = "float32", through: str = ""):
    shape = {"in_channels": in_channels, "image_size": image_size}
    return Rounded(getattr(torch, returned), getattr(torch, through or returned), **shape)


def halved(num_classes, *, in_channels: int = 3, image_size: int = 32):
    return small_cnn(10, in_channels=in_channels, image_size=image_size, channels=4, hidden=16).half()


class Step(nn.Module):
    def __init__(self, base, answer):
        super().__init__()
        self.base, self.answer = base, answer

    def forward(self, x):
        return self.answer(self, x)


class Own:
    """Base of the steps below: deployed and surrogate function are the same."""

    def wrap(self, base):
        return Step(base, self.answer)

    def surrogate(self, base):
        return self.wrap(base)


@defense(kind="test-time")
class Remembers(Own):
    """Returns the logits of the base for an image that it sees first, and their negatives afterwards."""

    def __init__(self):
        self.seen = set()

    def answer(self, step, x):
        logits, new = step.base(x), []
        for image in x:
            name = image.detach().numpy().tobytes()
            new.append(name not in self.seen)
            self.seen.add(name)
        return torch.where(torch.tensor(new)[:, None], logits, -logits)


@defense(kind="test-time")
class Drifts(Own):
    """Doubles the logits after a few calls, whatever the size of the batches."""

    def __init__(self, *, after: int = 3):
        self.calls, self.after = 0, after

    def answer(self, step, x):
        self.calls += 1
        return step.base(x) * (1 if self.calls <= self.after else 2)


@defense(kind="test-time")
class Normalises(Own):
    """Subtracts the mean image of the batch: an answer depends on the other images."""

    def answer(self, step, x):
        return step.base(x - x.mean(0, keepdim=True) + 0.5)


@defense(kind="test-time")
class Alters(Own):
    """Darkens its input images in place."""

    def answer(self, step, x):
        return step.base(x.mul_(0.9) if not x.requires_grad else x * 0.9)


@defense(kind="test-time")
class Halves(Own):
    """Returns logits in half precision."""

    def answer(self, step, x):
        return step.base(x).half()


@defense(kind="test-time", randomised=True)
class Coin(Own):
    """Returns the true class with a known probability, else the next; the logits of the base do not count."""

    def __init__(self, *, chance: float = 0.5):
        self.draws, self.chance = Draws(), chance

    def answer(self, step, x):
        truth = (x.flatten(1)[:, 0] * 255).round().long()
        right = self.draws.uniform(x[:, 0, 0, 0]) < self.chance
        labels = torch.where(right, truth, (truth + 1) % 3)
        return F.one_hot(labels, 3).float() + 0 * step.base(x)[:, :3]


@defense(kind="test-time", randomised=True)
class Cheats(Own):
    """Declares itself randomised, but draws from the global generator."""

    def __init__(self):
        self.draws = Draws()

    def answer(self, step, x):
        return step.base(x + 0.1 * torch.randn(x.shape))


@attack(norms=("l2",), bounded=False, needs="labels", passes="32 forwards")
def bisect(target, x, y, threat):
    """Bisects a line for the nearest adversarial example, down to the precision of floats."""
    good, bad = torch.zeros(len(x)), torch.ones(len(x))
    other = 1 - x
    for _ in range(30):
        middle = (good + bad) / 2
        broken = target(torch.lerp(x, other, middle[:, None, None, None])).argmax(1) != y
        good, bad = torch.where(broken, good, middle), torch.where(broken, middle, bad)
    x_adv = torch.lerp(x, other, bad[:, None, None, None])
    return torch.where((target(x_adv).argmax(1) != y)[:, None, None, None], x_adv, x)
