"""The words of the harness as frozen data: what a cell is and what it yields.

Nothing here imports torch, so plans, leaderboards and comparisons start at once.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

Norm = Literal["linf", "l2", "wasserstein", "flow"]
Access = Literal["white-box", "static", "adaptive", "transfer"]
Kind = Literal["attack", "recipe", "test-time", "network"]
Status = Literal["done", "failed"]
Scalar = str | int | float | bool | None


#: A message keeps the first and the last of a longer text.
_LONGEST_MESSAGE = 2000
_LONGEST_NUMBER = 100
#: Numbers beyond ten to this power, or so near to zero, are refused: hardly a float holds them.
_HIGHEST_POWER = 300
_FURTHEST = 10**_HIGHEST_POWER


class UsageError(Exception):
    """Something the user gave is wrong. One line that says what, where and what would be right.

    It is one line whatever it repeats of what was given: a line break is written as a
    backslash and an n, and a text of more than 2,000 characters is cut in its middle.
    """

    def __init__(self, line: object = "") -> None:
        super().__init__(shortened("\\n".join(str(line).splitlines()), _LONGEST_MESSAGE))


class StoreError(UsageError):
    """The store cannot be written: the run ends, everything finished is kept, and the same command goes on."""


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


def shown(value: object, most: int = 100) -> str:
    """Return any value as a message may repeat it: its ``repr``, of at most ``most`` characters, and never an error."""
    try:
        return shortened(repr(value), most)
    # A number of more digits than Python writes out, or lists too deep in one another.
    except Exception:
        return f"a value of type {type(value).__name__}"


def exact(value: object) -> Fraction:
    """Return ``value`` (``"8/255"``, ``0.25``, ``1``) as the fraction that its text means.

    A float is read through its shortest decimal text, so 0.031 is 31/1000 and never 8/255.

    Raises:
        ValueError: the text is no number, or one of more than 100 characters, or it is not within 1e-300 to 1e300.
    """
    no_number = f"{shown(value)} is not a number such as 0.25 or '8/255'"
    too_far = f"{shown(value)} is not a number of at most 100 characters between 1e-300 and 1e300"
    if isinstance(value, bool) or not isinstance(value, str | int | float | Fraction):
        raise ValueError(no_number)
    # As a fraction, a number with a long exponent would be written out digit by digit.
    text = "" if isinstance(value, int | Fraction) else "".join(str(value).split())
    power = re.search(r"[eE]([+-]?\d+(?:_\d+)*)$", text[:_LONGEST_NUMBER])
    if len(text) > _LONGEST_NUMBER or (power is not None and abs(int(power[1])) > _HIGHEST_POWER):
        raise ValueError(too_far)
    try:
        found = Fraction(value) if isinstance(value, int | Fraction) else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(no_number) from None
    if found and not Fraction(1, _FURTHEST) <= abs(found) <= _FURTHEST:
        raise ValueError(too_far)
    return found


@lru_cache
def eps_text(eps: Fraction) -> str:
    """Return a budget as the field writes it: 6/255 and not 2/85, but 1/4."""
    steps = eps * 255
    return f"{steps}/255" if steps.denominator == 1 and eps.denominator > 10 else str(eps)


ExactFraction = Annotated[Fraction, BeforeValidator(exact), PlainSerializer(str, return_type=str)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Passes(NamedTuple):
    """How often a classifier is run for one image."""

    forwards: float
    backwards: float


class Threat(Frozen):
    """What the attacker may change: a norm and a budget; pixels always stay in [0, 1].

    ``eps`` is exact. ``None`` means unbounded, for attacks that minimise the norm themselves.
    """

    norm: Norm = "linf"
    eps: ExactFraction | None = Fraction(8, 255)

    @model_validator(mode="after")
    def _in_range(self) -> Threat:
        if self.eps is None:
            return self
        if self.eps < 0:
            raise ValueError(f"eps = {self.eps} is negative")
        if self.norm != "l2" and self.eps > 1:
            hint = f"; pixels are in [0, 1], did you mean '{self.eps}/255'?" if self.eps <= 255 else ""
            raise ValueError(f"eps = {self.eps} is above 1{hint}")
        return self


class MethodRef(Frozen):
    """One attack, recipe, test-time step or network with every parameter spelled out."""

    kind: Kind
    name: str
    params: dict[str, Scalar] = {}
    code_sha: str


class DataRef(Frozen):
    """An exact list of images: which set, which split, which rows, after which resizing.

    ``classes`` is the order of the classes where the user gave one, and ``classes_present`` how many of them have an
    image in the list, where that is not all.
    """

    name: str
    split: Literal["train", "test"]
    n: int = Field(gt=0)
    subset: Literal["first", "stratified"] = "first"
    image_shape: tuple[int, int, int]
    num_classes: int
    classes: tuple[str, ...] = Field((), exclude_if=lambda given: not given)
    classes_present: int | None = Field(None, exclude_if=lambda count: count is None)
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    indices_sha: str
    data_sha: str


class Schedule(Frozen):
    """How a recipe is trained: stochastic gradient descent with momentum, lr dropped at fractions of the run.

    ``one-cycle`` raises lr linearly to its value at half the run and lowers it to zero. ``ema`` is the decay of an
    average of the weights, which then is what is kept. ``holdout`` training images are set aside, and the epoch that is
    most robust (accurate, without an adversary) on them is kept; at 0 it is the last. ``bf16``, ``channels_last`` and
    ``compile`` are ways to compute: they change the last digits, so they are part of the name of the weights.
    """

    epochs: int = Field(100, ge=0)
    batch: int = Field(128, gt=0)
    optimizer: Literal["sgd"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-3, ge=0)
    schedule: Literal["multistep", "one-cycle"] = "multistep"
    drops: tuple[float, ...] = (0.75, 0.9)
    drop_factor: float = Field(0.1, gt=0, le=1)
    augment: Literal["none", "flip", "crop-flip"] = "none"
    ema: float = Field(0.0, ge=0, lt=1)
    holdout: int = Field(0, ge=0)
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _drops_are_fractions(self) -> Schedule:
        if any(not 0 < drop < 1 for drop in self.drops) or list(self.drops) != sorted(self.drops):
            raise ValueError(f"drops = {list(self.drops)} must be rising fractions of the run, such as [0.75, 0.9]")
        return self


class TrainRef(Frozen):
    """Weights as the recipe that makes them, so that they have a name before they exist.

    ``chosen_by`` is the attack under which the epoch that is kept was the most robust, where an adversarial recipe sets
    images aside.
    """

    recipe: MethodRef
    schedule: Schedule
    data: DataRef
    seed: int
    chosen_by: MethodRef | None = Field(None, exclude_if=lambda attack: attack is None)


class WeightsRef(Frozen):
    """Weights trained elsewhere, by the SHA-256 of their file."""

    name: str
    sha256: str


class ModelRef(Frozen):
    """A base classifier: a network and where its weights come from."""

    network: MethodRef
    weights: TrainRef | WeightsRef


class Earlier(Frozen):
    """An attack that a later one of the same suite leaves the broken images of."""

    attack: MethodRef
    eot: int = 1


class AttackRef(Frozen):
    """What makes one adversarial set: an attack with access to a function, under a threat, on a list of images.

    ``step`` is the test-time step inside the attacked function, or ``None`` for the bare classifier, so that one
    static set serves every test-time step on that classifier. ``eot`` is how many gradients are averaged. ``after`` are
    the attacks that went before in worst-case mode: images that they broke stay as they left them.
    """

    model: ModelRef
    step: MethodRef | None
    attack: MethodRef
    threat: Threat
    data: DataRef
    seed: int
    eot: int = 1
    # An attack on its own has the text, and so the key, that it had before there were suites.
    after: tuple[Earlier, ...] = Field((), exclude_if=lambda earlier: not earlier)

    @property
    def previous(self) -> AttackRef | None:
        """The set that this one goes on from, where it is one of a suite."""
        if not self.after:
            return None
        last = self.after[-1]
        return self.model_copy(update={"attack": last.attack, "eot": last.eot, "after": self.after[:-1]})


class Cell(Frozen):
    """One measurement: a deployed defense, on a list of images, clean or under one attack."""

    data: DataRef
    model: ModelRef
    step: MethodRef | None
    access: Access
    attack: AttackRef | None
    seed: int


class Names(Frozen):
    """How a cell is called in tables. Not part of any key."""

    dataset: str
    model: str
    defense: str
    attack: str
    access: Access

    def __str__(self) -> str:
        return "/".join((self.dataset, self.model, self.defense, self.attack, self.access))


class Metrics(Frozen):
    """Accuracies are fractions in [0, 1] of all ``n`` images. Distances are means over them, in pixel units of [0, 1].

    ``clean_accuracy``: right without an attack. ``accuracy_under_attack``: right under the attack, whatever the clean
    answer; of a clean cell the clean accuracy. ``robust_accuracy``: right clean *and* under the attack, so it is at
    most either. ``ci_low`` and ``ci_high``: Wilson's 95 % interval of ``accuracy_under_attack``. These three are
    ``None`` in a result of before they were kept whose outcomes are not kept either. A random defense is right on an
    image if most of its draws are, in each of these.
    """

    n: int
    clean_accuracy: float
    accuracy_under_attack: float | None
    robust_accuracy: float
    ci_low: float | None
    ci_high: float | None
    mean_linf: float
    mean_l2: float
    #: ``deterministic``, or ``majority-of-k``: a random defense is asked k times, and an image is right if most are.
    protocol: str = "deterministic"
    #: Robust accuracy of a random defense: the mean over its draws, and counting only images right in every draw.
    robust_mean: float | None = None
    robust_worst: float | None = None


class Cost(Frozen):
    """Passes and time per example, warm-up excluded; FLOPs count 2 per multiply-add (see bench/cost.py)."""

    forwards_per_example: float
    backwards_per_example: float
    seconds_per_example: float
    flops_per_example: float | None
    peak_memory_bytes: int | None


class DefenseCost(Frozen):
    """What a defense costs by itself: to train for an epoch, and to test once per image."""

    params: int
    train_flops_per_epoch: float | None
    train_seconds_per_epoch: float | None
    test_flops: float
    test_seconds: float
    test_forwards: float
    test_backwards: float


class Provenance(Frozen):
    """Where a number was made. None of it is part of a key."""

    commit: str | None
    dirty: bool
    machine: str
    device: str
    threads: int
    python: str
    packages: dict[str, str]
    layout: str = ""
    deterministic: bool
    finished: str


class CellError(Frozen):
    kind: str
    message: str
    traceback: str


class CellResult(Frozen):
    """What one cell gave. Per-example outcomes are bit lists (``keys.pack_bits``) in the order of the image list."""

    schema_: int = Field(1, alias="schema")
    key: str
    names: Names
    cell: Cell
    status: Status
    error: CellError | None = None
    metrics: Metrics | None = None
    clean_bits: str | None = None
    adversarial_bits: str | None = None
    flags: tuple[str, ...] = ()
    #: SHA-256 of the file with one row per example.
    records_sha: str | None = None
    cost: Cost | None = None
    defense_cost: DefenseCost | None = None
    provenance: Provenance

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="null")


class PlannedCell(Frozen):
    key: str
    names: Names
    cell: Cell


class RunPlan(Frozen):
    """Everything that a configuration asks for, in the order in which it will be done."""

    name: str
    cells: tuple[PlannedCell, ...]


def jsonable(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True)
