"""Networks and test-time steps whose robustness is known, as a user's own file."""

import torch
from torch import nn

from bench.api import Draws, defense, network


@network()
def linear(num_classes: int, *, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Logits linear in the pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size[0] * image_size[1], num_classes))


class Then(nn.Module):
    """A network with something done before and after it."""

    def __init__(self, base, before=lambda x: x, after=lambda logits: logits):
        super().__init__()
        self.base = base
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self.base(self.before(x)))


def checkerboard(x):
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
    return (1 - 2 * ((rows[:, None] + columns) % 2)).to(x)


@defense(kind="test-time")
class Projected:
    """Removes the checkerboard from each image, which is linear: on a linear network truly robust against it."""

    def wrap(self, base):
        def removed(x):
            board = checkerboard(x)
            return x - (x * board).mean((2, 3), keepdim=True) * board

        return Then(base, removed)

    def surrogate(self, base):
        return self.wrap(base)


@defense(kind="test-time")
class Saturated:
    """Multiplies the logits until the softmax has no gradient; changes no prediction."""

    def wrap(self, base):
        return Then(base, after=lambda logits: 1e5 * logits)

    def surrogate(self, base):
        return self.wrap(base)


@defense(kind="test-time")
class Quantised:
    """Rounds pixels, and offers attackers the derivative of rounding, which is zero."""

    def wrap(self, base):
        return Then(base, lambda x: (x * 15).round() / 15)

    def surrogate(self, base):
        return self.wrap(base)


@defense(kind="test-time")
class Detached:
    """Darkens images by a hundredth, and lets no gradient through."""

    def wrap(self, base):
        return Then(base, lambda x: x.detach() * 0.99)

    def surrogate(self, base):
        return self.wrap(base)


@defense(kind="test-time", randomised=True)
class Leaking:
    """Adds draws that it begins anew at every call, so that the noise is always the same."""

    def __init__(self):
        self.draws = Draws()

    def wrap(self, base):
        def noisy(x):
            self.draws.begin(0)
            return x + 0.2 * self.draws.normal(x[:1])

        return Then(base, noisy)

    def surrogate(self, base):
        return self.wrap(base)


@defense(kind="test-time", randomised=True)
class Noisy:
    """Adds the same noise as the leaking step, drawn anew at every call."""

    def __init__(self):
        self.draws = Draws()

    def wrap(self, base):
        return Then(base, lambda x: x + 0.2 * self.draws.normal(x))

    def surrogate(self, base):
        return self.wrap(base)


@defense(kind="test-time")
class Secretive:
    """Draws from the global generator without saying so."""

    def wrap(self, base):
        return Then(base, lambda x: x + 0.2 * torch.randn(x.shape).to(x))

    def surrogate(self, base):
        return self.wrap(base)


@defense(kind="test-time")
class Probable:
    """Returns probabilities instead of logits; changes no prediction."""

    def wrap(self, base):
        return Then(base, after=lambda logits: logits.softmax(1))

    def surrogate(self, base):
        return self.wrap(base)
