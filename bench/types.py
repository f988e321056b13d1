"""The words of the harness as frozen data: what a cell is and what it yields.

Nothing here imports torch, so plans, leaderboards and comparisons start at once.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    ValidationInfo,
    model_validator,
)

from bench.outcomes import Distances, Outcomes
from bench.visible import visible, without_surrogates

Norm = Literal["linf", "l2", "l1", "l0", "wasserstein", "flow", "corruption"]
Access = Literal["white-box", "static", "adaptive", "transfer"]
Kind = Literal["attack", "recipe", "test-time", "network", "score-recipe", "score-network"]
Status = Literal["done", "failed"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Scalar = str | int | float | bool | None

#: Norms in which two images have a distance.
DISTANCE_NORMS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")
#: Common corruptions that a mean corruption error counts (Hendrycks and Dietterich, 2019), as their files are called.
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
SEVERITIES = (1, 2, 3, 4, 5)


#: A message keeps the first and the last of a longer text.
_LONGEST_MESSAGE = 2000
_LONGEST_NUMBER = 100
#: What such a number is at most as the fraction that it is kept as.
_LONGEST_FRACTION = 500
#: Numbers beyond ten to this power, or so near to zero, are refused: hardly a float holds them.
_HIGHEST_POWER = 300
_FURTHEST = 10**_HIGHEST_POWER


class UsageError(Exception):
    """Something the user gave is wrong. One line that says what, where and what would be right.

    It is one line whatever it repeats of what was given: what is not seen is escaped (see :mod:`bench.visible`), and a
    text of more than 2,000 characters is cut in its middle.
    """

    def __init__(self, line: object = "") -> None:
        super().__init__(shortened(visible(str(line).strip()), _LONGEST_MESSAGE))


class ConfigurationError(UsageError):
    """What a configuration asks for cannot be; the line names its file and the key."""


class StoreError(UsageError):
    """The store cannot be written: the run ends, everything finished is kept, and the same command continues."""


class UnknownMethod(UsageError):
    """No method has this name, or has it any more."""


@contextmanager
def located(where: str, kind: type[UsageError] = UsageError) -> Iterator[None]:
    """Let the line about what the user gave wrong begin with where it stands, such as a file or a key.

    More special errors stay as they are: they are located already, or no place in what was given is to blame.

    Args:
        where: it stands.
        kind: the error that is raised.
    """
    try:
        yield
    except UsageError as error:
        if type(error) not in (UsageError, UnknownMethod):
            raise
        raise kind(f"{where}: {error}") from None


class MethodError(Exception):
    """An attack, a defense or a network broke its contract; its own cell fails and the others go on."""


class Ending(BaseException):
    """What ends work from outside: a signal, a time limit, a lost lease. No ``Exception``, so that no method takes it
    for a failure of its own, and a base class of its own, so that none can be taken for it.
    """


def shortened(text: str, most: int) -> str:
    """Return a text of at most ``most`` characters: of a longer one the beginning and the end."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail - 5]} ... {text[-tail:]}"


def text_of(error: BaseException) -> str:
    """Return what an error says; that of a method runs code of its own to say it, which may fail as well."""
    try:
        return str(error)
    except Exception:
        return f"{type(error).__name__}, whose text cannot be made"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, and the next if the first announces it; empty if it says nothing."""
    lines = [line.strip() for line in text_of(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return " ".join(lines[:2])
    return lines[0] if lines else ""


def shown(value: object, most: int = 100) -> str:
    """Return any value as a message may repeat it: its ``repr``, of at most ``most`` characters, and never an error."""
    try:
        return shortened(repr(value), most)
    # A number of more digits than Python writes out, or lists too deep in one another.
    except Exception:
        return f"a value of type {type(value).__name__}"


def listed(entries: Iterable[object], most: int, *, between: str = ", ", noun: str = "") -> str:
    """Return entries in one line: the first of them, and how many more there are, as in ``a, b and 3 more``.

    Args:
        entries: what is listed, none of which holds ``between``.
        most: so many are named.
        between: what stands between two.
        noun: what one of them is, said of those that are not named.
    """
    texts = list(map(str, entries))
    more = len(texts) - most
    kind = f" {noun}{'s' * (more != 1)}" if noun else ""
    return between.join(texts[:most]) + (f" and {more:,} more{kind}" if more > 0 else "")


def exact(value: object) -> Fraction:
    """Return ``value`` (``"8/255"``, ``0.25``, ``1``) as the fraction that its text means.

    A float is read through its shortest decimal text, so 0.031 is 31/1000 and never 8/255.

    Raises:
        ValueError: the text is no number, or one of more than 100 characters, or it is not within 1e-300 to 1e300.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Fraction):
        raise ValueError(f"{shown(value)} is not a number such as 0.25 or '8/255'")
    return _exact(value)


@lru_cache(maxsize=4096)
def _exact(value: str | float | Fraction) -> Fraction:
    too_far = f"{shown(value)} is not a number of at most 100 characters between 1e-300 and 1e300"
    # As a fraction, a number with a long exponent would be written out digit by digit.
    text = "" if isinstance(value, int | Fraction) else "".join(str(value).split())
    power = re.search(r"[eE]([+-]?\d+(?:_\d+)*)$", text[:_LONGEST_NUMBER])
    longest = _LONGEST_FRACTION if re.fullmatch(r"-?[0-9]+(/[0-9]+)?", text) else _LONGEST_NUMBER
    if len(text) > longest or (power is not None and abs(int(power[1])) > _HIGHEST_POWER):
        raise ValueError(too_far)
    try:
        number = Fraction(value) if isinstance(value, int | Fraction) else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{shown(value)} is not a number such as 0.25 or '8/255'") from None
    if number and not Fraction(1, _FURTHEST) <= abs(number) <= _FURTHEST:
        raise ValueError(too_far)
    return number


@lru_cache
def eps_text(eps: Fraction) -> str:
    """Return a budget as the field writes it: 6/255 and not 2/85, but 1/4."""
    steps = eps * 255
    return f"{steps}/255" if steps.denominator == 1 and eps.denominator > 10 else str(eps)


# The bounds of what a result may say, wherever it was made. They are wide: what lies beyond was not measured, and is
# what sums, fractions and tables would break on.
MAX_IMAGES = 50_000_000
#: Images of a result that keeps a distance for each, which takes four bytes.
MAX_DISTANCES = 1_000_000
MAX_FLAGS = 100
MAX_PARAMS = 1_000
_MAX_MESSAGE, _MAX_TRACEBACK = 10_000, 200_000
_MAX_TEXT = 10_000
_MAX_SUITE = 1_000
_MAX_CONDITIONS = 100
MAX_MEMBERS = 100
_MAX_CLASSES = 30_000
_MAX_PACKAGES = 1_000
MAX_EPS = 10**6
#: Room for the 64 bits of the seeds that there are.
_MAX_WHOLE = 2**64
_MAX_FLOAT = 1e300
MAX_SECONDS = MAX_PASSES = 1e12
#: Of accuracies that are compared; some are means in single precision.
_ROUND_OFF = 1e-6
#: The context of a validation after which whoever asked looks for contradictions: they are claims, to be refuted.
AS_CLAIMS = "claims"

_MAX_NAME, _MAX_CELL_NAME = 5_000, 20_000
MAX_WORD = 200

#: A path may be part of it.
Name = Annotated[str, Field(max_length=_MAX_NAME)]
Word = Annotated[str, Field(max_length=MAX_WORD)]


def _shown(most: int, *, lines: bool = False) -> BeforeValidator:
    def show(text: object) -> object:
        # One that is too long is refused as any other.
        known = isinstance(text, str) and len(text) <= most
        return shortened(visible(str(text), lines=lines), most) if known else text

    return BeforeValidator(show)


# Text that is read and never computed with: nothing in it is hidden, wherever it came from.
ShownName = Annotated[str, Field(max_length=_MAX_NAME), _shown(_MAX_NAME)]
#: Of names and what tells them apart.
ShownCellName = Annotated[str, Field(max_length=_MAX_CELL_NAME), _shown(_MAX_CELL_NAME)]
ShownWord = Annotated[str, Field(max_length=MAX_WORD), _shown(MAX_WORD)]
ShownMessage = Annotated[str, Field(max_length=_MAX_MESSAGE), _shown(_MAX_MESSAGE)]
ShownTraceback = Annotated[str, Field(max_length=_MAX_TRACEBACK), _shown(_MAX_TRACEBACK, lines=True)]

Key = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
Digest = Annotated[str, Field(max_length=128)]
Images = Annotated[int, Field(gt=0, le=MAX_IMAGES)]
Whole = Annotated[int, Field(ge=-_MAX_WHOLE, le=_MAX_WHOLE)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Side = Annotated[int, Field(ge=1, le=100_000)]
#: Of one channel of a pixel.
Level = Annotated[int, Field(ge=0, le=255)]
Classes = Annotated[int, Field(ge=1, le=1_000_000)]
#: Base64 of a bit for each image.
Bits = Annotated[str, Field(max_length=MAX_IMAGES // 6 + 8)]
#: Base64 of a float of 32 bits for each image.
DistanceText = Annotated[str, Field(max_length=6 * MAX_DISTANCES)]
Draws = Annotated[int, Field(ge=1, le=1_000_000)]
#: Of forwards and backwards of an image; ``None`` is no limit.
MaxPasses = Annotated[int | None, Field(ge=1, le=10**9)]
Share = Annotated[float, Field(ge=0, le=1)]
Distance = Annotated[float, Field(ge=0, le=1e6)]
#: Targets that are chosen for each image.
AIMS = ("least-likely", "random", "second")
#: What the base classifier computes in where it leads an attack; success is always judged in float32.
CraftPrecision = Literal["auto", "float32", "bf16"]
#: The class that an attack is to reach: by the logits of the attacked function, by chance, or one for all images.
AimedAt = Literal["least-likely", "random", "second"] | Annotated[int, Field(ge=0, lt=1_000_000)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
Flops = Annotated[float, Field(ge=0, le=1e30)]
PassCount = Annotated[float, Field(ge=0, le=MAX_PASSES)]
Rate = Annotated[float, Field(le=1e9)]


def _parameters(params: dict[str, Scalar]) -> dict[str, Scalar]:
    for name, value in params.items():
        if isinstance(value, str):
            bounded = len(without_surrogates(value)) <= _MAX_TEXT
        elif isinstance(value, float):
            bounded = abs(value) <= _MAX_FLOAT
        else:
            bounded = value is None or abs(value) <= _MAX_WHOLE
        if not bounded:
            raise ValueError(f"{shown(name)} = {shown(value)} is out of bounds")
    return params


def _time(text: str) -> str:
    form = re.fullmatch(r"(\d{4})-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00", text, re.ASCII)
    if form is not None and not 1900 <= int(form[1]) < 2200:
        raise ValueError(f"it says that it was measured in the year {form[1]}: the clock of that machine was wrong")
    if form is None:
        raise ValueError(f"{shown(text)} is not a time such as 2026-11-22T10:00:00+00:00")
    datetime.fromisoformat(text)
    return text


Params = Annotated[dict[Name, Scalar], FailFast(), Field(max_length=MAX_PARAMS), AfterValidator(_parameters)]
Time = Annotated[str, Field(max_length=40), AfterValidator(_time)]
ExactFraction = Annotated[Fraction, BeforeValidator(exact), PlainSerializer(str, return_type=str)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Passes(NamedTuple):
    """How often a classifier is run for one image."""

    forwards: float
    backwards: float


class Threat(Frozen):
    """What the attacker may change: a norm and a budget; pixels always stay in [0, 1].

    ``eps`` is exact. ``None`` means unbounded, for attacks that minimise the norm themselves. L0 counts the values that
    change: three in a pixel of three channels. Common corruptions have a severity, which is a parameter of the attack,
    and no budget.
    """

    norm: Norm = "linf"
    eps: ExactFraction | None = Fraction(8, 255)

    @model_validator(mode="after")
    def _in_range(self) -> Threat:
        if self.eps is None:
            return self
        if self.norm == "corruption":
            raise ValueError("common corruptions have a severity and no eps: leave eps out")
        if self.eps < 0:
            raise ValueError(f"eps = {self.eps} is negative")
        if self.norm not in ("l2", "l1", "l0") and self.eps > 1:
            is_pixel_value = self.eps <= 255 and self.eps.denominator == 1
            hint = f"; pixels are in [0, 1], did you mean '{self.eps}/255'?" if is_pixel_value else ""
            raise ValueError(f"eps = {self.eps} is above 1{hint}")
        if self.eps > MAX_EPS:
            raise ValueError(f"eps = {shown(str(self.eps))} is above {MAX_EPS:,}")
        return self


#: What a norm is called in tables.
NORMS: dict[Norm, str] = {
    "linf": "L∞",
    "l2": "L2",
    "l1": "L1",
    "l0": "L0",
    "wasserstein": "Wasserstein",
    "flow": "flow",
    "corruption": "common corruptions",
}


def threat_text(threat: Threat) -> str:
    """Return a threat as tables write it: ``L∞ ε=8/255``, or ``flow unbounded`` where there is no budget."""
    if threat.norm == "corruption":
        return NORMS[threat.norm]
    budget = "unbounded" if threat.eps is None else f"ε={eps_text(threat.eps)}"
    return f"{NORMS[threat.norm]} {budget}"


class MethodRef(Frozen):
    """One attack, recipe, test-time step or network with every parameter spelled out.

    ``members`` are the networks of an ensemble. ``file`` is where saved images lie that an attack reads; it is not part
    of any key, as their hash is a parameter. ``score`` is the network, with its weights, that a diffusion purifier
    predicts noise with.
    """

    kind: Kind
    name: Name
    params: Params = {}
    code_sha: Digest
    members: Annotated[tuple[MethodRef, ...], FailFast()] = Field(
        (), max_length=MAX_MEMBERS, exclude_if=lambda members: not members
    )
    file: Name | None = Field(None, exclude_if=lambda file: file is None)
    score: ModelRef | None = Field(None, exclude_if=lambda score: score is None)

    @property
    def use(self) -> str:
        """What a configuration calls it."""
        return self.name if self.file is None else f"{self.name}:{self.file}"

    def __hash__(self) -> int:
        return hash((self.kind, self.name, frozenset(self.params.items()), self.code_sha, self.members))

    @model_validator(mode="after")
    def _is_flat(self) -> MethodRef:
        if any(member.members or member.kind != "network" for member in self.members):
            raise ValueError("a member of an ensemble is a network, and no ensemble")
        if self.score is not None and (self.kind, self.score.network.kind) != (
            "test-time",
            "score-network",
        ):
            raise ValueError("only a test-time step has a score, which is a score network")
        return self


class Preprocessing(Frozen):
    """How an image is resized and then cropped in its center, as torchvision and timm do it.

    ``resize`` is the length of the shorter side, or height and width. ``center`` keeps the ratio of the sides and
    covers ``resize``, ``squash`` resizes both sides, and ``border`` keeps the ratio, fits into ``resize`` and pads with
    the color ``fill``.
    """

    resize: Side | tuple[Side, Side]
    crop_mode: Literal["center", "squash", "border"] = "center"
    fill: tuple[Level, Level, Level] | None = Field(None, exclude_if=lambda fill: fill is None)

    @model_validator(mode="after")
    def _is_complete(self) -> Preprocessing:
        if self.crop_mode != "center" and isinstance(self.resize, int):
            raise ValueError(f"{self.crop_mode} needs the height and the width of resize")
        if (self.crop_mode == "border") != (self.fill is not None):
            raise ValueError("a color to fill with belongs to border")
        return self

    def words(self, size: tuple[int, int], interpolation: Interpolation) -> str:
        """Return what is done to images, as a table says it: ``resized to 256 (bicubic), center crop 224``."""
        crop, resize = _sides(size), self.resize
        to = f"{resize if isinstance(resize, int) else _sides(resize)} ({interpolation})"
        if self.crop_mode == "border":
            return f"fitted into {to}, padded to {crop}"
        return f"{'squashed' if self.crop_mode == 'squash' else 'resized'} to {to}, center crop {crop}"


def _sides(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


#: Keys of ``[[models]]`` that surround a network, and the names of its parameters that keep them: with a dot, none of
#: these can be a parameter of its factory.
NETWORK_KEYS = {
    "mean": "input.mean",
    "std": "input.std",
    "output": "output.field",
    "one_logit": "output.one_logit",
    "initial_weights": "initial.weights",
    "initial_key": "initial.key",
}
#: The hash of the initial weights.
INITIAL_SHA = "initial.sha256"


class DataRef(Frozen):
    """An exact list of images: which set, which split, which rows, after which resizing.

    ``classes`` is the order of the classes where the user gave one, and ``classes_present`` how many of them have an
    image in the list, where that is not all. ``preprocessing`` is how images came to ``image_shape`` where they were
    not merely resized to it; ``data_sha`` then is of the images in the list, and else of the split.
    """

    name: Name
    split: Literal["train", "test"]
    n: Images
    subset: Literal["first", "stratified"] = "first"
    image_shape: tuple[Side, Side, Side]
    num_classes: Classes
    classes: Annotated[tuple[Name, ...], FailFast()] = Field(
        (), max_length=_MAX_CLASSES, exclude_if=lambda classes: not classes
    )
    classes_present: Classes | None = Field(None, exclude_if=lambda count: count is None)
    interpolation: Interpolation = "bilinear"
    preprocessing: Preprocessing | None = Field(None, exclude_if=lambda preprocessing: preprocessing is None)
    indices_sha: Digest
    data_sha: Digest

    @property
    def prepared(self) -> str | None:
        """What was done to the images before they were cropped, if they were, as a table says it."""
        size = self.image_shape[1:]
        return None if self.preprocessing is None else self.preprocessing.words(size, self.interpolation)


class Schedule(Frozen):
    """How a recipe is trained: stochastic gradient descent with momentum, lr dropped at fractions of the run.

    ``one-cycle`` raises lr linearly to its value at half the run and lowers it to zero; several ``cycles`` do so in
    equal parts of the run, each to half the peak of the one before (triangular2 of Smith, 2017). ``ema`` is the
    decay of an average of the weights, which then is what is kept. ``holdout`` training images are set aside, and
    the epoch that is most robust (accurate, without an adversary) on them is kept; at 0 it is the last. ``bf16``,
    ``channels_last`` and ``compile`` are ways to compute: they change the last digits, so they are part of the name
    of the weights. That of weights trained with ``auto`` leaves open what the device made of it, which their card
    says.
    ``measure_every`` is how seldom the log has accuracies on watched images; it does not influence the weights.
    """

    epochs: int = Field(100, ge=0, le=1_000_000, description="0 keeps the weights that the network is made with")
    batch: int = Field(128, gt=0, le=MAX_IMAGES, description="of a step", json_schema_extra={"unit": "images"})
    optimizer: Literal["sgd"] = Field("sgd", description="stochastic gradient descent")
    lr: Rate = Field(0.01, gt=0, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of the gradient")
    weight_decay: Rate = Field(1e-3, ge=0, description="L2 penalty on all weights")
    schedule: Literal["multistep", "one-cycle"] = Field(
        "multistep", description="the rate drops at `drops`, or rises linearly until half the run and falls to zero"
    )
    cycles: int = Field(
        1,
        ge=1,
        le=1_000,
        description="of `one-cycle`: how often the rate rises and falls, each time to half the peak of the time before",
        exclude_if=lambda cycles: cycles == 1,
    )
    drops: Annotated[tuple[float, ...], FailFast()] = Field(
        (0.75, 0.9), max_length=1_000, description="where the rate drops, as rising fractions of the run"
    )
    drop_factor: float = Field(0.1, gt=0, le=1, description="what the rate is multiplied with at each drop")
    augment: Literal["none", "flip", "crop-flip"] = Field(
        "none", description="of training images: mirrored, and shifted by up to 4 pixels"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of an average of the weights, which then is kept; 0 is none")
    holdout: int = Field(
        0,
        ge=0,
        le=MAX_IMAGES,
        description="training images set aside; the epoch that is most robust on them is kept, at 0 the last",
        json_schema_extra={"unit": "images"},
    )
    bf16: bool | Literal["auto"] = Field(
        "auto",
        description="compute in bfloat16; changes the last digits; `auto` is true on CUDA",
        exclude_if=lambda value: value == "auto",
    )
    channels_last: bool | Literal["auto"] = Field(
        "auto",
        description="lay images out channels-last; changes the last digits; `auto` is true on CUDA",
        exclude_if=lambda value: value == "auto",
    )
    compile: bool = Field(False, description="use torch.compile; changes the last digits")
    measure_every: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="epochs between two measurements of the curves in the log, and the first and the last; "
        "by default every epoch of up to 10,000 images, of more at most 3 % of the passes",
        json_schema_extra={"unit": "epochs"},
        exclude_if=lambda epochs: epochs is None,
    )

    @model_validator(mode="after")
    def _drops_are_fractions(self) -> Schedule:
        if any(not 0 < drop < 1 for drop in self.drops) or list(self.drops) != sorted(self.drops):
            raise ValueError(f"drops = {list(self.drops)} must be rising fractions of the run, such as [0.75, 0.9]")
        return self

    @model_validator(mode="after")
    def _cycles_are_of_a_cycle(self) -> Schedule:
        if self.cycles > 1 and self.schedule != "one-cycle":
            raise ValueError(f'cycles = {self.cycles} is of schedule = "one-cycle", not of "{self.schedule}"')
        if self.cycles > max(self.epochs, 1):
            raise ValueError(f"cycles = {self.cycles} is above epochs = {self.epochs}; a cycle takes an epoch or more")
        return self


class TrainRef(Frozen):
    """Weights as the recipe that makes them, so that they have a name before they exist.

    ``chosen_by`` is the attack under which the epoch that is kept was the most robust, where an adversarial recipe sets
    images aside.
    """

    recipe: MethodRef
    schedule: Schedule
    data: DataRef
    seed: Whole
    chosen_by: MethodRef | None = Field(None, exclude_if=lambda attack: attack is None)


class WeightsRef(Frozen):
    """Weights trained elsewhere, by the SHA-256 of their file; ``key`` is which of its state dicts, if one is named."""

    name: Name
    sha256: Digest
    key: Name | None = Field(None, exclude_if=lambda key: key is None)


class ModelRef(Frozen):
    """A base classifier, or the score of a purifier: a network and where its weights come from."""

    network: MethodRef
    weights: TrainRef | WeightsRef


# A step has a score, which is made of methods itself.
MethodRef.model_rebuild()


class Earlier(Frozen):
    """An attack that a later one of the same suite leaves the broken images of."""

    attack: MethodRef
    eot: Draws = 1
    max_passes: MaxPasses = Field(None, exclude_if=lambda passes: passes is None)
    target: AimedAt | None = Field(None, exclude_if=lambda target: target is None)
    craft_precision: CraftPrecision = Field("auto", exclude_if=lambda precision: precision == "auto")


class AttackRef(Frozen):
    """What makes one adversarial set: an attack with access to a function, under a threat, on a list of images.

    ``step`` is the test-time step inside the attacked function, or ``None`` for the bare classifier, so that one
    static set serves every test-time step on that classifier. ``eot`` is how many gradients are averaged, and
    ``max_passes`` how many forwards and backwards of the base classifier together an image may take. ``after`` are the
    attacks that went before in worst-case mode: images that they broke stay as they left them. ``target`` is the
    class that a targeted attack is to reach; nothing else is a success of it. ``craft_precision`` is what the base
    classifier computes in where a gradient leads the attack; ``auto`` leaves it to the device, and the provenance of
    the result says what it was.
    """

    model: ModelRef
    step: MethodRef | None
    attack: MethodRef
    threat: Threat
    data: DataRef
    seed: Whole
    eot: Draws = 1
    max_passes: MaxPasses = Field(None, exclude_if=lambda passes: passes is None)
    target: AimedAt | None = Field(None, exclude_if=lambda target: target is None)
    craft_precision: CraftPrecision = Field("auto", exclude_if=lambda precision: precision == "auto")
    # An attack on its own has the text, and so the key, that it had before there were suites.
    after: Annotated[tuple[Earlier, ...], FailFast()] = Field(
        (), max_length=_MAX_SUITE, exclude_if=lambda earlier: not earlier
    )

    @property
    def previous(self) -> AttackRef | None:
        """The set that this one continues from, where it is one of a suite."""
        if not self.after:
            return None
        last = self.after[-1]
        return self.continuing(last, self.after[:-1])

    def continuing(self, attack: Earlier, after: tuple[Earlier, ...]) -> AttackRef:
        """Return the set of another attack of the same suite, with those that went before that."""
        return self.model_copy(update={**dict(attack), "after": after})


def usage(attack: Earlier | AttackRef) -> dict[str, int | str]:
    """Return how an attack is used, beyond its own parameters, in the words of a configuration."""
    given: dict[str, int | str | None] = {"max_passes": attack.max_passes, "target": attack.target}
    given["craft_precision"] = None if attack.craft_precision == "auto" else attack.craft_precision
    return {"eot": attack.eot, **{name: value for name, value in given.items() if value is not None}}


class Cell(Frozen):
    """One measurement: a deployed defense, on a list of images, clean or under an attack on these images."""

    data: DataRef
    model: ModelRef
    step: MethodRef | None
    access: Access
    attack: AttackRef | None
    seed: Whole

    @model_validator(mode="after")
    def _on_the_same_images(self) -> Cell:
        if self.attack is not None and self.attack.data is not self.data and self.attack.data != self.data:
            raise ValueError("the attacked images are not those of the cell")
        return self


class Names(Frozen):
    """How a cell is called in tables. Not part of any key."""

    dataset: ShownName
    model: ShownName
    defense: ShownName
    attack: ShownName
    access: Access

    def __str__(self) -> str:
        return "/".join((self.dataset, self.model, self.defense, self.attack, self.access))

    def match(self, pattern: str) -> bool:
        """Say whether ``dataset/model/defense/attack/access`` holds a text, or matches it with wildcards."""
        return pattern in str(self) or fnmatch.fnmatchcase(str(self), pattern)


class Metrics(Frozen):
    """Accuracies are fractions in [0, 1] of all ``n`` images. Distances are means over them, in pixel units of [0, 1].

    ``clean_accuracy``: right without an attack. ``accuracy_under_attack``: right under the attack, whatever the clean
    answer; of a clean cell the clean accuracy. ``robust_accuracy``: right clean *and* under the attack, so it is at
    most either. ``ci_low`` and ``ci_high``: Wilson's 95 % interval of ``accuracy_under_attack``. These three are
    ``None`` in a result of before they were kept whose outcomes are not kept either. A random defense is right on an
    image if most of its draws are, in each of these.
    """

    n: Images
    clean_accuracy: Share
    accuracy_under_attack: Share | None
    robust_accuracy: Share
    ci_low: Share | None
    ci_high: Share | None
    mean_linf: Distance
    mean_l2: Distance
    #: ``deterministic``, or ``majority-of-k``: a random defense is asked k times, and an image is right if most are.
    protocol: Word = "deterministic"
    #: Robust accuracy of a random defense: the mean over its draws, and counting only images right in every draw.
    robust_mean: Share | None = None
    robust_worst: Share | None = None

    @model_validator(mode="after")
    def _possible(self, info: ValidationInfo) -> Metrics:
        _require_none(self.contradictions(), info)
        return self

    def contradictions(self) -> Iterator[str]:
        """Yield what they say against each other."""
        attacked = self.accuracy_under_attack
        if self.robust_accuracy > min(self.clean_accuracy, 1.0 if attacked is None else attacked) + _ROUND_OFF:
            yield "robust_accuracy is above clean_accuracy or accuracy_under_attack"
        if attacked is None or self.ci_low is None or self.ci_high is None:
            if not attacked is self.ci_low is self.ci_high:
                yield "accuracy_under_attack, ci_low and ci_high: some are there and some are not"
        elif not self.ci_low - _ROUND_OFF <= attacked <= self.ci_high + _ROUND_OFF:
            yield "accuracy_under_attack is not between ci_low and ci_high"
        if (self.robust_worst or 0.0) > min(self.robust_accuracy, self.robust_mean or 0.0) + _ROUND_OFF:
            yield "robust_worst is above robust_accuracy or robust_mean"


class Cost(Frozen):
    """Passes and time per example, warm-up excluded; FLOPs count 2 per multiply-add (see bench/evaluation/cost.py)."""

    forwards_per_example: PassCount
    backwards_per_example: PassCount
    seconds_per_example: Seconds
    flops_per_example: Flops | None
    peak_memory_bytes: Count | None


class DefenseCost(Frozen):
    """What a defense costs by itself: to train for an epoch, and to test once per image."""

    params: Count
    train_flops_per_epoch: Flops | None
    train_seconds_per_epoch: Seconds | None
    test_flops: Flops
    test_seconds: Seconds
    test_forwards: PassCount
    test_backwards: PassCount


class Provenance(Frozen):
    """Where a number was made. None of it is part of a key.

    Attributes:
        commit: of the repository in which it was measured: one's own, or a checkout of Crossfire.
        harness: the commit or version of Crossfire, where ``commit`` is not its own.
        craft_precision: ``bf16`` where gradients in bfloat16 led the attack on some of the images; else empty.
    """

    commit: ShownWord | None
    dirty: bool
    machine: ShownName
    device: ShownName
    threads: int = Field(ge=0, le=1_000_000)
    python: ShownWord
    packages: Annotated[dict[ShownWord, ShownWord], FailFast()] = Field(max_length=_MAX_PACKAGES)
    layout: ShownWord = ""
    deterministic: bool
    finished: Time
    # Absent where it is empty, so that versions before it can read what they could have written.
    harness: Annotated[ShownWord, Field(exclude_if=lambda value: not value)] = ""
    craft_precision: Annotated[Literal["", "bf16"], Field(exclude_if=lambda value: not value)] = ""

    @property
    def where(self) -> str:
        """Machine and device; of a receipt, which names no machine, the device alone."""
        return f"{self.machine} ({self.device})" if self.machine else self.device


class CellError(Frozen):
    kind: ShownWord
    message: ShownMessage
    traceback: ShownTraceback

    @classmethod
    def of(cls, error: BaseException, message: str, traceback: str) -> CellError:
        """Return what is kept of an error, cut to what a result may hold."""
        return cls(
            kind=shortened(type(error).__name__, MAX_WORD),
            message=shortened(message, _MAX_MESSAGE),
            traceback=shortened(traceback, _MAX_TRACEBACK),
        )


class CorruptionCount(Frozen):
    """How many images of one common corruption at one severity a clean cell has, and how many of them are right."""

    kind: Word
    severity: Literal[1, 2, 3, 4, 5]
    n: Images
    right: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _possible(self) -> CorruptionCount:
        if self.right > self.n:
            raise ValueError(f"{self.kind} at severity {self.severity}: {self.right} of {self.n} images are right")
        return self


class CellResult(Frozen):
    """What one cell gave. Outcomes and distances are texts (:class:`~bench.outcomes.Outcomes`, :class:`~.Distances`).

    What contradicts itself is refused: a result is done and has metrics, or it failed and has an error; outcomes are as
    many as images and say what the metrics say; distances are finite where the outcome under attack is wrong.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    key: Key
    names: Names
    cell: Cell
    status: Status
    error: CellError | None = None
    metrics: Metrics | None = None
    clean_bits: Bits | None = None
    adversarial_bits: Bits | None = None
    #: Of an attack without a budget, in the norm of its threat; older results have none.
    distances: DistanceText | None = Field(None, exclude_if=lambda text: text is None)
    #: Of a clean cell on a set of common corruptions; older results have none.
    by_corruption: Annotated[tuple[CorruptionCount, ...], FailFast()] = Field(
        (), max_length=_MAX_CONDITIONS, exclude_if=lambda counts: not counts
    )
    flags: Annotated[tuple[ShownWord, ...], FailFast()] = Field((), max_length=MAX_FLAGS)
    #: SHA-256 of the file with one row per example.
    records_sha: Key | None = None
    cost: Cost | None = None
    defense_cost: DefenseCost | None = None
    provenance: Provenance

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> CellResult:
        _require_none(self.contradictions(), info)
        return self

    def contradictions(self) -> Iterator[str]:
        """Yield what its parts say against each other.

        Raises:
            ValueError: outcomes or distances are none of as many images.
        """
        if self.names.access != self.cell.access:
            yield f"it is called {self.names.access} and was measured {self.cell.access}"
        if self.provenance.craft_precision and (
            self.cell.attack is None or self.cell.attack.craft_precision == "float32"
        ):
            yield "gradients in bfloat16 led its attack, and it has none, or one that asks for float32"
        done = self.status == "done"
        if (self.metrics is not None, self.error is not None) != (done, not done):
            contradiction = "no metrics, or an error" if done else "metrics, or no error"
            yield f"it is {self.status} and has {contradiction}"
        if self.metrics is not None:
            yield from _of_outcomes(self.metrics, self.cell, self.clean_bits, self.adversarial_bits)
        elif (self.clean_bits, self.adversarial_bits, self.distances) != (None, None, None):
            yield "it failed and has outcomes"
        if self.distances is not None:
            yield from _of_distances(self.cell, self.distances, self.adversarial_bits)
        if self.by_corruption:
            yield from _of_counts(self.cell, self.metrics, self.by_corruption)

    @classmethod
    def failed(cls, planned: PlannedCell, error: CellError, provenance: Provenance) -> CellResult:
        """Return the result of a cell that could not be measured."""
        cell = {"key": planned.key, "names": planned.names, "cell": planned.cell}
        return cls(**cell, status="failed", error=error, flags=("failed",), provenance=provenance)

    @property
    def craft_precision(self) -> Literal["float32", "bf16"] | None:
        """What led the attack, as far as a gradient did; ``None`` of a clean cell."""
        if self.cell.attack is None:
            return None
        return "bf16" if "bf16" in (self.cell.attack.craft_precision, self.provenance.craft_precision) else "float32"

    @property
    def clean_outcomes(self) -> Outcomes | None:
        """Which images were right clean; ``None`` where it was not kept."""
        return None if self.clean_bits is None else Outcomes.decode(self.clean_bits, self.cell.data.n)

    @property
    def outcomes_under_attack(self) -> Outcomes | None:
        """Which images were right under the attack, in a clean cell clean; ``None`` where it was not kept."""
        if self.cell.attack is None:
            return self.clean_outcomes
        return None if self.adversarial_bits is None else Outcomes.decode(self.adversarial_bits, self.cell.data.n)

    @property
    def broken_at(self) -> Distances | None:
        """How far each image is from the nearest wrong one, of an attack without a budget; ``None`` where not kept."""
        return None if self.distances is None else Distances.decode(self.distances, self.cell.data.n)

    @property
    def robust_outcomes(self) -> Outcomes | None:
        """Which images were right clean and under the attack; ``None`` where either was not kept."""
        clean, attacked = self.clean_outcomes, self.outcomes_under_attack
        return None if clean is None or attacked is None else clean & attacked


class PartialResult(Frozen):
    """What an attacked cell gave on its first images, while the others are not measured yet.

    Outcomes are as in a :class:`CellResult`, of the first ``n`` images of the list, in its order.
    """

    key: Key
    names: Names
    cell: Cell
    n: Images
    clean_bits: Bits
    adversarial_bits: Bits
    #: What the attack on these images and their predictions took.
    seconds: Seconds
    #: As in :class:`Provenance`.
    craft_precision: Literal["", "bf16"] = Field("", exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _consistent(self) -> PartialResult:
        if self.cell.attack is None or self.names.access != self.cell.access:
            raise ValueError("a part of a cell that is not attacked, or is called otherwise than it was measured")
        if self.n >= self.cell.data.n:
            raise ValueError(f"a part of {self.n} images in a cell of {self.cell.data.n}")
        for bits in (self.clean_bits, self.adversarial_bits):
            Outcomes.decode(bits, self.n)
        return self

    @property
    def cost(self) -> None:
        """What it costs is known of a whole cell only."""
        return None

    @property
    def outcomes_under_attack(self) -> Outcomes:
        """Which of its images were right under the attack."""
        return Outcomes.decode(self.adversarial_bits, self.n)

    @property
    def robust_outcomes(self) -> Outcomes:
        """Which of its images were right clean and under the attack."""
        return Outcomes.decode(self.clean_bits, self.n) & self.outcomes_under_attack


#: A cell that was measured, whole or in part.
Measured = CellResult | PartialResult


def _require_none(contradictions: Iterable[str], info: ValidationInfo) -> None:
    """Raises ValueError: there is a contradiction, and nobody else looks for them."""
    for why in contradictions:
        if info.context != AS_CLAIMS:
            raise ValueError(why)


def _of_outcomes(metrics: Metrics, cell: Cell, clean_bits: str | None, adversarial_bits: str | None) -> Iterator[str]:
    """Yield that metrics are of other images than the cell, or which outcomes say otherwise than they do."""
    n = cell.data.n
    if metrics.n != n:
        yield f"metrics of {metrics.n} images in a cell of {n}"
    clean = Outcomes.decode(clean_bits, n) if clean_bits is not None else None
    attacked = clean if cell.attack is None else None
    if adversarial_bits is not None:
        attacked = Outcomes.decode(adversarial_bits, n)
    both = clean & attacked if clean is not None and attacked is not None else None
    for name, right in (("clean_accuracy", clean), ("accuracy_under_attack", attacked), ("robust_accuracy", both)):
        stated = getattr(metrics, name)
        if right is not None and stated is not None and abs(stated - right.share) > _ROUND_OFF:
            yield f"{name} = {stated}, but {right.count} of {n} outcomes are right"


def _of_distances(cell: Cell, distances: str, adversarial_bits: str | None) -> Iterator[str]:
    """Yield that distances are not of an attack that searches for the least, or are other than its outcomes."""
    threat = None if cell.attack is None else cell.attack.threat
    if threat is None or threat.eps is not None or threat.norm not in DISTANCE_NORMS:
        yield "distances, but no attack that minimises a norm without a budget"
    n = cell.data.n
    unbroken = Distances.decode(distances, n).unbroken
    if adversarial_bits is None:
        yield "distances without outcomes under attack"
    elif unbroken != Outcomes.decode(adversarial_bits, n):
        yield "distances are finite for other images than those that are wrong under attack"


def _of_counts(cell: Cell, metrics: Metrics | None, counts: tuple[CorruptionCount, ...]) -> Iterator[str]:
    """Yield that counts by corruption are not of a clean cell, or are of other images than its metrics."""
    if cell.attack is not None or metrics is None:
        yield "counts by corruption, but no clean cell that was measured"
        return
    n, right = sum(count.n for count in counts), sum(count.right for count in counts)
    if n != metrics.n or abs(right / n - metrics.clean_accuracy) > _ROUND_OFF:
        yield (
            f"counts by corruption say that {right} of {n} images are right; clean_accuracy = {metrics.clean_accuracy} "
            f"of {metrics.n}"
        )
    if len({(count.kind, count.severity) for count in counts}) < len(counts):
        yield "counts by corruption have one at one severity twice"


class PlannedCell(Frozen):
    key: Key
    names: Names
    cell: Cell


class RunPlan(Frozen):
    """Everything that a configuration asks for, in the order in which it will be done."""

    name: str
    cells: tuple[PlannedCell, ...]


def jsonable(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True)
