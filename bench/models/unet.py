import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Count, Literal, score_network

#: The largest beta of the cosine schedule (Nichol and Dhariwal, 2021), and the offset that keeps its first ones from 0.
_LARGEST_BETA, _OFFSET = 0.999, 0.008


def alpha_bars(schedule: str, timesteps: int) -> Tensor:
    """Return the share of the signal in the variance at steps 0 ... T, float64 (T + 1,), from 1 downwards.

    Args:
        schedule: ``linear`` has betas from 1e-4 to 0.02 at 1,000 steps (Ho et al., 2020), of other lengths scaled by
            1,000 / T; ``cosine`` is eq. 17 of Nichol and Dhariwal (2021).
        timesteps: T.
    """
    if schedule == "linear":
        scale = 1000 / timesteps
        betas = torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64)
    else:
        times = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        curve = ((times + _OFFSET) / (1 + _OFFSET) * math.pi / 2).cos() ** 2
        betas = 1 - curve[1:] / curve[:-1]
    signal = (1 - betas.clamp(max=_LARGEST_BETA)).cumprod(0)
    return torch.cat((torch.ones(1, dtype=torch.float64), signal))


class UNet(nn.Module):
    def __init__(self, in_channels: int, channels: int, levels: int, timesteps: int, noise_schedule: str) -> None:
        super().__init__()
        self.register_buffer("alpha_bar", alpha_bars(noise_schedule, timesteps).float())
        self.channels = channels
        time = 4 * channels
        widths = [channels * 2**level for level in range(levels)]
        self.time = nn.Sequential(nn.Linear(channels, time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down = nn.ModuleList(_Block(width, width, time) for width in widths)
        self.narrower = nn.ModuleList(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1) for width in widths[:-1])
        self.middle = _Block(widths[-1], widths[-1], time)
        self.up = nn.ModuleList(_Block(2 * width, width, time) for width in reversed(widths))
        self.wider = nn.ModuleList(nn.Conv2d(2 * width, width, 3, padding=1) for width in reversed(widths[:-1]))
        self.last = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, in_channels, 3, padding=1))
        # It begins by predicting no noise at all, and not by a guess of any size.
        for parameter in self.last[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        steps = torch.ones(len(x), dtype=torch.int64, device=x.device) if t is None else t
        time = self.time(_embedding(steps, self.channels).to(x.dtype))
        h = self.first(x)
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else self.narrower[level - 1](h), time)
            kept.append(h)
        h = self.middle(h, time)
        for level, block in enumerate(self.up):
            skipped = kept.pop()
            if level:
                # To the size of its partner, which may be odd.
                h = self.wider[level - 1](F.interpolate(h, size=skipped.shape[2:]))
            h = block(torch.cat((h, skipped), 1), time)
        noise: Tensor = self.last(h)
        return noise


class _Block(nn.Module):
    """A residual block of two convolutions; the embedding of the step is added between them."""

    def __init__(self, in_channels: int, out_channels: int, time: int) -> None:
        super().__init__()
        self.before = nn.Sequential(_norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.of_time = nn.Sequential(nn.SiLU(), nn.Linear(time, out_channels))
        self.after = nn.Sequential(_norm(out_channels), nn.SiLU(), nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.before(x) + self.of_time(time)[:, :, None, None]
        out: Tensor = self.shortcut(x) + self.after(h)
        return out


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _embedding(t: Tensor, width: int) -> Tensor:
    """Return sines and cosines of the steps (N,) at frequencies from 1 to 1e-4, float32 (N, width)."""
    half = torch.arange((width + 1) // 2, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(10000.0) / max(len(half) - 1, 1) * half)
    return torch.cat((angles.sin(), angles.cos()), 1)[:, :width]


@score_network()
def unet(
    *,
    in_channels: int = 3,
    channels: Count = 32,
    levels: Count = 2,
    timesteps: Count = 1000,
    noise_schedule: Literal["linear", "cosine"] = "cosine",
) -> nn.Module:
    """Small U-Net that predicts the noise in images (Ho et al., 2020), without attention, for digits and CIFAR-10.

    Args:
        in_channels: channels of the images.
        channels: of the highest resolution; each lower one has twice as many.
        levels: resolutions, each half the one before.
        timesteps: T, the steps of the diffusion.
        noise_schedule: how much noise each step has: ``linear`` as in DDPM, from 1e-4 to 0.02, or ``cosine`` (Nichol
            and Dhariwal, 2021). It is kept with the weights.

    Returns:
        A network from noisy images (N, in_channels, H, W) in the scale of the diffusion, and their steps int64 (N,) in
        1 ... T, by default 1, to the noise in them.
    """
    return UNet(in_channels, channels, levels, timesteps, noise_schedule)
