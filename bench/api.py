"""Everything that an attack, a defense or a network may use of the harness.

A method is one file with one decorated object; its keyword-only parameters are its schema. The registry reads the
decorator and the signature from the syntax tree, so decorators take literals only and nothing is imported to list.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

from pydantic import Field

from bench.draws import Draws
from bench.types import ExactFraction, MethodError, Norm, Threat

if TYPE_CHECKING:
    from torch import Tensor, nn

    Loss = Callable[..., Tensor]

__all__ = [
    "Annotated",
    "Budget",
    "Count",
    "DeployedStep",
    "Draws",
    "Field",
    "Fraction",
    "Gradient",
    "Literal",
    "MethodError",
    "NonNegative",
    "Positive",
    "Probability",
    "Target",
    "Threat",
    "TrainingStep",
    "attack",
    "defense",
    "library",
    "network",
    "score_network",
]

Count = Annotated[int, Field(ge=1)]
Budget = Annotated[ExactFraction, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]

Method = TypeVar("Method", bound=Callable[..., Any])


class Gradient(NamedTuple):
    """``grad`` of the summed loss, shaped as the images; ``logits`` (N, classes); ``loss`` (N,). All detached."""

    grad: Tensor
    logits: Tensor
    loss: Tensor


class Target(Protocol):
    """The function under attack, with its passes counted.

    It is in evaluation mode with frozen parameters. Batches of any length are cut to what the device holds, so an
    attack may work on all its images at once and drop those already broken. Logits are float32 as the images are. To an
    attack that stops at the boundary the true logit is shown higher by round-off, so that its successes are real ones.
    """

    num_classes: int
    """The length of a row of logits."""

    stochastic: bool
    """Predictions vary from call to call: one success proves nothing, so no image may be dropped after one."""

    goal: Tensor | None
    """The class (N,) that each image is to be given; ``None`` where any but the true one will do.

    Only an attack that is declared to be ``targetable`` is given one. It is never the true class.
    """

    notes: list[str]
    """Short dashed words that an attack leaves for the result, such as a flag raised by a library."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of images (N, C, H, W) in [0, 1]; differentiable if ``x`` requires grad.

        Where the function is random they are means over draws, so that nothing is judged by one lucky answer.
        """

    def gradient(self, x: Tensor, loss: Loss, *args: Tensor) -> Gradient:
        """Return the gradient of ``loss(logits, *args)`` (one value per image) at ``x``: one forward, one backward.

        Where ``craft_precision`` is ``bf16`` all three come from bfloat16, but for logits and losses of images that
        rounding may have made right or wrong: one forward more.

        Tensors in ``args`` have one row per image. Where the function is random all three are means over draws.
        """

    def repeated(self, step: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return ``step(*tensors)`` of a step that an attack takes again and again; a GPU may record and replay it.

        ``step`` is a function of a module, without closure, of tensors alone. It changes none of them, reads nothing
        back, and no gradient flows through it.
        """

    @property
    def base(self) -> Target:
        """The base classifier inside a deployed defense, as a separate target; the same function without a step."""

    def smooth(self, tau: float) -> Target:
        """Return the deployed values with the second-order gradient of the purification, its sign smoothed over tau.

        ``tau`` is in units of an image's mean slope.

        Raises:
            MethodError: the function has no purification that can be smoothed.
        """

    def purified(self, x: Tensor) -> Tensor:
        """Return what the base classifier is finally given when the function gets ``x``, shaped as ``x``.

        Raises:
            MethodError: the step hands on images of another shape.
        """

    def rows(self, index: Tensor) -> Target:
        """Return the target of these rows (positions or a mask): counts and random draws stay with their images."""

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform draws in [low, high) shaped as ``like``; they depend on the image, not on its batch."""

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal draws shaped as ``like``; they depend on the image, not on its batch."""

    @property
    def batch(self) -> int:
        """How many images the device holds at once, for libraries that cut batches themselves."""

    @property
    def module(self) -> nn.Module:
        """The same function as a module, for libraries that want one."""


class TrainingStep(Protocol):
    """One optimiser step as a recipe sees it.

    On a GPU the step of a recipe is recorded once and replayed for every batch: its operations on tensors are repeated,
    its Python is not. So a recipe keeps no state from batch to batch and draws its random numbers from the step, not
    from ``random`` or numpy: that would be frozen. A comparison of the first batches notices it only where it shows in
    their losses or weights, so what a recipe does from a later epoch on must not be decided in Python: it is computed
    from ``progress``, as in ``weight * (step.progress >= 0.5)``. A recipe that is noticed, and one that reads values of
    tensors to decide what to do, runs without a recording, which is slower.
    """

    net: nn.Module
    """The network, in training mode; perhaps wrapped, so that its own attributes are not those of this module."""

    progress: Tensor
    """The share of the training's batches that are done, in [0, 1): a float64 scalar on the device."""

    def attack(
        self, name: str, x: Tensor, y: Tensor, threat: Threat, *, mode: Literal["eval", "train"] = "eval", **params: Any
    ) -> Tensor:
        """Return adversarial images of a registered attack on the network as it is now.

        In ``mode`` ``train`` batch norm crafts with the statistics of the batch and updates its running ones.
        """

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform draws in [low, high) shaped as ``like``, the same after a resume."""

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal draws shaped as ``like``, the same after a resume."""


class DeployedStep(Protocol):
    """A test-time step. A randomised one also has ``draws``, an instance of ``Draws``.

    One that learns from training images has ``fit(images)``, called first with uint8 (N, C, H, W). A wrapped module
    with an attribute ``labels`` is an oracle: it is given the true labels (N,) before each batch.

    One that is declared with a ``score`` has ``use_score(net)``, called before ``wrap``: the trained network, frozen
    and in evaluation mode, from images (N, C, H, W) in the scale of the diffusion and steps (N,) to the noise in them.

    A purifier, which moves images by a gradient, may also have ``smooth(base, tau) -> nn.Module``: the deployed values
    with the gradient of the purification in it, where the sign's derivative is that of ``tanh(g / (tau * mean|g|))``,
    the mean over each image.
    """

    def wrap(self, base: nn.Module) -> nn.Module:
        """Return what is deployed: images in [0, 1] to logits, callable under ``torch.no_grad``."""

    def surrogate(self, base: nn.Module) -> nn.Module:
        """Return what an adaptive attacker differentiates: the deployed values, with a usable gradient."""


def _unchanged(method: Method) -> Method:
    return method


def attack(
    *,
    norms: tuple[Norm, ...],
    needs: Literal["gradient", "scores", "labels", "nothing"] = "gradient",
    passes: str,
    least: str | None = None,
    most: str | None = None,
    early_exit: Literal["misclassified", "suite", "stalled"] | None = None,
    averages_draws: bool = True,
    bounded: bool = True,
    purifiers_only: bool = False,
    targetable: bool = False,
    min_classes: int = 2,
    min_classes_targeted: int | None = None,
    requires: str | None = None,
    folders: dict[str, dict[str, Any]] | None = None,
    presets: dict[str, dict[str, Any]] | None = None,
) -> Callable[[Method], Method]:
    """Register ``f(target, x, y, threat, *, ...) -> Tensor`` as an attack; underscores in its name become dashes.

    Args:
        norms: threat norms it can keep to, the default first.
        needs: what it requires of the target.
        passes: its cost per image as a formula over its parameters, such as ``"steps forwards + steps backwards"``.
        least: what an image that stays right takes at least, as such a formula, where ``passes`` says ``at most``.
            Claims of others are held against it; it changes no result either.
        most: what an image takes at most, as such a formula, where that is far more than ``passes``, which most take.
        early_exit: when it stops working on an image before its last step: once the image is ``misclassified``, once
            one attack of a ``suite`` has had it misclassified, or once the search for it has ``stalled``. From
            ``passes``, ``early_exit`` and ``averages_draws`` a cost is predicted; they change no result.
        averages_draws: on a random function it takes as many draws a step as the configuration sets; ``False``
            where it takes one.
        purifiers_only: it attacks the purification, so it is left out against any other defense.
        targetable: it aims at the classes ``target.goal``, where there are any; success is that class alone.
        min_classes: the fewest classes that it can be used with; on images of fewer, its cells fail before any work.
        min_classes_targeted: the same where it aims at a class, if it then needs more.
        bounded: it keeps to ``threat.eps``; ``False`` where it minimises the norm itself.
        requires: a package it cannot do without, named as pip names it.
        folders: for parameters that name a folder of data, by their name: the ``choice`` of other parameters that needs
            it, without which it does not count; the ``files`` that are read; and ``package``, the folder of an
            installed package that is taken where none is named, as in ``"imagecorruptions/frost"``. The attack is
            given the folder that is found, and what its files contain is part of the key.
        presets: named sets of parameters, chosen by ``preset = "name"``.

    It returns a candidate for every image and the image itself where it found none. It leaves its inputs, the
    network and the global random state alone, and draws only from the target.
    """
    return _unchanged


def library(
    *,
    prefix: str,
    requires: str | None = None,
    passes: str | None = None,
    minimises: dict[str, tuple[Norm, ...]] | None = None,
    min_classes: dict[str, int] | None = None,
    wrong_classes: dict[str, str] | None = None,
    norms: tuple[Norm, ...] | None = None,
    reads_images: bool = False,
    file: str = "",
) -> Callable[[Method], Method]:
    """Register ``f(target, x, y, threat, *, name, **parameters) -> Tensor`` as the adapter ``prefix:<name>``.

    Args:
        prefix: before the colon.
        requires: a package it cannot do without, named as pip names it.
        passes: as for :func:`attack`, where all that it adapts cost the same.
        minimises: the attacks that minimise a norm, each with the norms that it can minimise, its default first.
            Without an eps these are unbounded.
        min_classes: the attacks that need more classes than two, each with the fewest that it can be used with; with a
            parameter as a configuration names it, ``"apgd[loss_function=ce]"``, for that value of it.
        wrong_classes: the attacks that aim at so many wrong classes as a parameter says, each with its name.
        norms: threat norms that its images are checked in, the default first; L∞, L2, L1 and L0 unless given.
        reads_images: ``name`` is a file of adversarial images. The harness reads it, and checks it against the images
            of the cell; the function is given ``images``, those that belong to ``x``, shaped and typed as ``x``, and
            has the parameter ``sha256``, and may have ``array``, that :mod:`attacks.images` has. Such images adapt to
            nothing, so they are static or transferred.
        file: where ``name`` is a folder, which of its files is meant, from the parameters: ``"{kind}.npy"``. With a
            parameter ``severity`` such a file has the images of the set five times.
    """
    return _unchanged


def defense(
    *,
    kind: Literal["recipe", "test-time", "score-recipe"],
    base: str = "standard",
    randomised: bool = False,
    purifier: bool = False,
    relies_on: Literal["catastrophic-overfitting"] | None = None,
    score: str | None = None,
    score_network: str = "unet",
    attacks: tuple[str, ...] = (),
    inner: str | None = None,
    schedule: dict[str, Any] | None = None,
    requires: str | None = None,
    presets: dict[str, dict[str, Any]] | None = None,
) -> Callable[[Method], Method]:
    """Register a training recipe ``f(step, x, y, *, ...) -> scalar loss`` or a class with ``wrap`` and ``surrogate``.

    Args:
        kind: ``"recipe"`` makes base weights; ``"test-time"`` wraps a base classifier when deployed;
            ``"score-recipe"`` makes weights of a score network, which predicts noise and classifies nothing.
        base: the recipe under a test-time step unless the configuration says otherwise.
        randomised: a test-time step that draws; it must then own ``draws``, a ``Draws``.
        purifier: a test-time step that moves each image by a gradient of the network's own.
        relies_on: the regime of training without which the step does not do what it is for; missed, it is flagged.
        score: of a step that stands on a score network besides the classifier: the recipe that trains it unless the
            configuration says otherwise.
        score_network: of such a step: that network unless the configuration says otherwise.
        attacks: registered attacks that a recipe crafts with; their code counts as its own.
        inner: the parameter of a recipe that names the attack it crafts with, as ``name[parameter=value, ...]``.
        schedule: a recipe's default schedule, where it differs from ``Schedule()``.
        requires: a package it cannot do without, named as pip names it.
        presets: named sets of parameters, chosen by ``preset = "name"``.
    """
    return _unchanged


def network() -> Callable[[Method], Method]:
    """Register ``f(num_classes, *, in_channels, ...) -> nn.Module``: images in [0, 1] to logits."""
    return _unchanged


def score_network() -> Callable[[Method], Method]:
    """Register ``f(*, in_channels, ...) -> nn.Module``, which predicts noise (Ho et al., 2020, eq. 14).

    It takes noisy images (N, C, H, W) in the scale of the diffusion, -1 to 1 without noise, and their steps int64 (N,)
    in 1 ... T, by default 1, and returns the noise in them, shaped as they are. Its buffer ``alpha_bar`` (T + 1,) is
    the share of the signal in the variance at each step, from 1 downwards.
    """
    return _unchanged
