from torch import Tensor
from torch.nn import functional as F

from bench.api import TrainingStep, defense
from defenses._diffusion import diffused, noise_schedule


@defense(
    kind="score-recipe",
    schedule={
        "epochs": 200,
        "batch": 64,
        "lr": 0.1,
        "weight_decay": 0.0,
        "schedule": "one-cycle",
        "ema": 0.995,
        "measure_every": 1_000_000,
    },
)
def denoiser(step: TrainingStep, x: Tensor, y: Tensor) -> Tensor:
    """Training of a noise predictor (Ho et al., 2020, eq. 14): the mean squared error of the noise in diffused images.

    Each image gets a step drawn uniformly from 1 ... T, and noise of that step.

    Args:
        step: the optimiser step; its network is a score network.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,), which are not used.

    Returns:
        The mean squared error over images and pixels, a scalar: 1 for a network that predicts no noise.

    Raises:
        MethodError: the network has no noise schedule.
    """
    alpha_bar = noise_schedule(step.net)
    last = len(alpha_bar) - 1
    t = 1 + (step.uniform(x[:, 0, 0, 0]) * last).long().clamp_max(last - 1)
    noise = step.normal(x)
    x_t = diffused(2 * x - 1, noise, alpha_bar[t][:, None, None, None])
    return F.mse_loss(step.net(x_t, t), noise)
