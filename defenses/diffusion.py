from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.api import Count, Draws, Literal, MethodError, Probability, defense
from defenses._diffusion import diffused, noise_schedule, reverse_step, reverse_times
from defenses._gradients import Preprocessed, bpda


@defense(kind="test-time", randomised=True, score="denoiser", score_network="unet")
class Diffusion:
    """DiffPure, diffusion purification (Nie et al., ICML 2022): noise is added, and removed by a trained denoiser.

    The image, scaled to [-1, 1], is diffused to the step t* * T in closed form and taken back to 0 by DDPM (Ho et al.,
    2020) or DDIM (Song et al., 2021); then it is clamped to [0, 1] and classified. The gradient is the true one through
    every step; at pixels that are clamped the surrogate keeps that of the value before, which does not vanish. The
    backward pass computes each step again, with the same noise, so memory grows by one image per step.

    Args:
        t_star: how far an image is diffused, as a share of all steps; at 0 it stays as it is.
        steps: of the reverse process, evenly spaced; as many as there are from t* down, if those are fewer.
        sampler: ``ddpm`` draws new noise at each step of the reverse process, ``ddim`` none after the first.
    """

    def __init__(
        self, *, t_star: Probability = 0.1, steps: Count = 10, sampler: Literal["ddpm", "ddim"] = "ddpm"
    ) -> None:
        self.t_star, self.steps = t_star, steps
        self.sampler = sampler
        self.draws = Draws()
        self.score: nn.Module | None = None

    def use_score(self, net: nn.Module) -> None:
        """Take the network that predicts noise, frozen and in evaluation mode; call it first."""
        # Read once: a device would have to be waited for at each step.
        self.alpha_bar = noise_schedule(net).tolist()
        self.score = net

    def wrap(self, base: nn.Module) -> nn.Module:
        return Preprocessed(base, self._purify)

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return the deployed function, differentiated through every step and straight through the clamping.

        It is random, so attackers average its gradient over draws.
        """
        return self.wrap(base)

    def _purify(self, x: Tensor) -> Tensor:
        if self.score is None:
            raise MethodError("diffusion needs a network that predicts noise: nobody called its use_score")
        start = round(self.t_star * (len(self.alpha_bar) - 1))
        times = reverse_times(start, self.steps)
        if start == 0:
            return x
        x_t = diffused(2 * x - 1, self.draws.normal(x).to(x.dtype), self.alpha_bar[start])
        for now, then in zip(times, times[1:], strict=False):
            is_random = self.sampler == "ddpm" and then > 0
            draw = self.draws.repeatable() if is_random else None
            # What a step computes is not kept but computed again; what it draws must then be the same.
            x_t = checkpoint(self._step, x_t, now, then, draw, use_reentrant=False, preserve_rng_state=False)
        purified = (x_t + 1) / 2
        return bpda(purified.clamp(0.0, 1.0), purified)

    def _step(self, x_t: Tensor, now: int, then: int, draw: Callable[[Tensor], Tensor] | None) -> Tensor:
        assert self.score is not None
        predicted = self.score(x_t, torch.full((len(x_t),), now, device=x_t.device))
        noise = None if draw is None else draw(x_t).to(x_t.dtype)
        return reverse_step(x_t, predicted, self.alpha_bar[now], self.alpha_bar[then], noise)
