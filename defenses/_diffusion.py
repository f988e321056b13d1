"""Building blocks of diffusion: noise added in closed form, and removed step by step."""

from torch import Tensor, nn

from bench.api import MethodError


def noise_schedule(net: nn.Module) -> Tensor:
    """Return the buffer ``alpha_bar`` (T + 1,) of a score network, which may be wrapped.

    Raises:
        MethodError: it has none.
    """
    for name, buffer in net.named_buffers():
        if name.rpartition(".")[2] == "alpha_bar":
            return buffer
    raise MethodError("the network has no noise schedule alpha_bar, so it is no score network, such as unet")


def diffused(x: Tensor, noise: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """Return x_t = sqrt(alpha_bar) * x_0 + sqrt(1 - alpha_bar) * noise (Ho et al., 2020, eq. 4).

    Args:
        x: x_0 (N, C, H, W), in the scale of the diffusion.
        noise: standard normal, shaped as ``x``.
        alpha_bar: the share of the signal in the variance, in [0, 1]: a number, or one that broadcasts against ``x``.
    """
    return alpha_bar**0.5 * x + (1 - alpha_bar) ** 0.5 * noise


def reverse_step(x: Tensor, predicted: Tensor, now: float, then: float, noise: Tensor | None) -> Tensor:
    """Return x_s of x_t, s < t (Song et al., 2021, eq. 12).

    With ``noise`` it is a draw from the posterior of DDPM given the predicted x_0 (eta = 1), without it DDIM (eta = 0).

    Args:
        x: x_t (N, C, H, W).
        predicted: the noise that is predicted in it.
        now: alpha_bar of t, in (0, 1).
        then: alpha_bar of s, above that; 1 is an image without noise.
        noise: standard normal, shaped as ``x``.
    """
    x_0 = (x - (1 - now) ** 0.5 * predicted) / now**0.5
    variance = 0.0 if noise is None else (1 - then) / (1 - now) * (1 - now / then)
    mean = then**0.5 * x_0 + max(1 - then - variance, 0.0) ** 0.5 * predicted
    return mean if noise is None or variance == 0 else mean + variance**0.5 * noise


def reverse_times(start: int, steps: int) -> list[int]:
    """Return the steps of a reverse process from ``start`` to 0, about evenly spaced: at most ``steps`` + 1 of them."""
    count = min(steps, start)
    return [start * (count - i) // count for i in range(count + 1)] if count else [0]
