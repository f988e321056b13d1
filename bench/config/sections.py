"""A configuration: TOML to checked words. Every method, parameter and value is checked here, before any work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    ValidationError,
    model_validator,
)

from bench import registry
from bench.config import overlay, overrides
from bench.config.network_keys import channel_means, channel_stds, output_name
from bench.config.overrides import Setting
from bench.types import MAX_WORD, NETWORK_KEYS, ConfigurationError, Interpolation, Norm, UsageError, located, shown

Section = TypeVar("Section", bound=BaseModel)


def seconds(text: object) -> float:
    """Return a time such as ``"90s"``, ``"9m"``, ``"2h"`` or ``90`` in seconds.

    Raises:
        ValueError: the text is no such time, or not above zero.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|)", shown(text) if isinstance(text, int | float) else str(text))
    duration = 0.0 if match is None else float(match[1]) * {"s": 1, "": 1, "m": 60, "h": 3600}[match[2]]
    if not 0 < duration <= _LONGEST_S:
        raise ValueError(f"{shown(text)} is no time such as 90s, 9m or 2h, of at most ten years")
    return duration


_LONGEST_S = 10 * 365 * 24 * 3600
Duration = Annotated[float, BeforeValidator(seconds)]


def _not_empty(value: object) -> object:
    if value == []:
        raise ValueError("an empty list asks for nothing; name at least one, or leave it out")
    return value


def _batch(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST):
        return value
    raise ValueError(f"{shown(value)} is neither 'auto' nor a number of images, at least 1")


#: Of images, epochs and the like: far above what anyone can have.
_MOST = 10**9
Some = BeforeValidator(_not_empty)
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Method(BaseModel):
    """A section that also holds the parameters of the method it names."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _no_empty_sweep(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value == []:
                raise ValueError(f"{name} = []: an empty list sweeps over nothing; give it values, or leave it out")
        return self

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _texts(value: object) -> object:
    """Folders and labels that are numbers may be written as numbers."""
    bare = isinstance(value, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    return [str(each) for each in value] if bare and isinstance(value, list) else value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"'{twice[0]}' is given twice")
    return names


def _both(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


class DatasetConfig(_Section):
    name: str
    n: int | None = Field(None, gt=0, le=_MOST)
    #: By default, stratified where the order of the images may mean something, else the first.
    subset: Literal["first", "stratified"] | None = None
    train_n: int | None = Field(None, gt=0, le=_MOST)
    #: The names of the classes in the order of their labels; by default the set's own.
    classes: Annotated[tuple[str, ...], BeforeValidator(_texts), AfterValidator(_distinct)] = Field(
        (), min_length=2, max_length=100_000
    )
    #: 3 for RGB, 1 for grey; by default a named set's own, and of another set 1 where all its files are grey.
    channels: Literal[1, 3] | None = None
    image_size: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    #: A number is the length of the shorter side, two are height and width; of the result the center is cropped.
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    #: The crop's share of what the image is resized to, instead of ``resize``.
    crop_pct: float | None = None
    #: ``torchvision:NAME`` or ``timm:NAME``, whose card says how to resize and crop, or ``model``: the networks' own.
    preprocessing: Annotated[str, Field(min_length=1, max_length=MAX_WORD)] | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        return _both(self.image_size)

    @model_validator(mode="after")
    def _is_prepared_in_one_way(self) -> Self:
        if self.preprocessing is not None:
            both = [key for key in ("resize", "crop", "crop_pct", "interpolation") if key in self.model_fields_set]
            if both:
                raise ValueError(f"preprocessing takes {both[0]} from the card: leave out one of the two")
            return self
        if self.crop is None and (self.resize is not None or self.crop_pct is not None):
            raise ValueError("resize and crop_pct need crop, the size that is cut out; image_size alone crops nothing")
        if self.crop is not None and (self.resize is None) == (self.crop_pct is None):
            raise ValueError("crop needs one of resize and crop_pct, such as resize = 256")
        if self.crop is not None and self.size not in (None, _both(self.crop)):
            raise ValueError(f"image_size = {shown(self.image_size)} contradicts crop = {shown(self.crop)}")
        return self


class ModelConfig(_Method):
    arch: str
    #: Of the images that the network expects, which is then given (images - mean) / std.
    mean: Annotated[str | None, BeforeValidator(channel_means)] = None
    std: Annotated[str | None, BeforeValidator(channel_stds)] = None
    #: Which of several outputs holds the logits.
    output: Annotated[str | None, BeforeValidator(output_name)] = None
    #: The network returns one number for an image, the logit of the second of two classes.
    one_logit: Annotated[bool, Strict()] = False

    @model_validator(mode="after")
    def _one_of_a_pair(self) -> Self:
        if (self.mean is None) != (self.std is None):
            only, other = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{only} is given without {other}; a network that expects normalised images needs both")
        if reserved := sorted((self.model_extra or {}).keys() & NETWORK_KEYS.values()):
            raise ValueError(f"unknown key '{reserved[0]}'; it is {reserved[0].rpartition('.')[2]} in a configuration")
        return self

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the network, and under names that none of its own can have those that surround it."""
        around = {name: getattr(self, key) for key, name in NETWORK_KEYS.items()}
        return super().params | {name: value for name, value in around.items() if value not in (None, False)}


class DefenseConfig(_Method):
    use: str
    base: Annotated[str | list[str] | None, Some] = None
    train: dict[str, Any] = {}


class AttackConfig(_Method):
    use: str
    eps: Annotated[Any, Some] = None
    norm: Norm | None = None
    access: list[Literal["static", "adaptive", "transfer"]] = Field(["static", "adaptive"], min_length=1, max_length=3)
    source: Annotated[str | list[str] | None, Some] = None
    source_seed: Seed | None = None
    #: Overrides of the source's training, as a defense has them: other epochs, another rate.
    source_train: dict[str, Any] = {}
    eot: int = Field(20, ge=1, le=_MOST)


class RunConfig(_Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: Annotated[Literal["auto"] | int, BeforeValidator(_batch)] = "auto"
    #: Seconds, or a text such as ``30m``, that a cell may take, training apart.
    timeout: Duration | None = None
    #: What the ray executor requests for each task: processors (by default the threads of this process), and GPUs or a
    #: fraction of one (by default one where the device is a GPU).
    cpus: int | None = Field(None, gt=0, le=_MOST)
    gpus: float | None = Field(None, ge=0, le=_MOST)


@dataclass(frozen=True)
class _Source:
    """What a configuration was read from; ``within`` is the file that includes it, if one does.

    It is not compared: it does not change the request.
    """

    layered: overlay.Layered = field(compare=False)
    within: str = field(default="", compare=False)

    def where(self, key_path: Sequence[str | int]) -> str:
        return self.within + self.layered.where(key_path)


class Config(_Section):
    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=200)
    summary: str = ""
    seeds: list[Seed] = Field([0], min_length=1, max_length=10_000)
    #: Attacks on one deployed function run cheapest first, each on what the earlier ones left: columns are running
    #: worst cases.
    worst_case: bool = False
    dataset: DatasetConfig
    models: list[ModelConfig] = Field(min_length=1)
    defenses: list[DefenseConfig] = Field(min_length=1)
    attacks: list[AttackConfig] = Field(min_length=1)
    #: What all attacks, or all recipes, are given that know it; tables inside are for one of them.
    attack: dict[str, Any] = {}
    train: dict[str, Any] = {}
    #: Beside the leaderboard, write the tables and figures of the TPAP paper.
    paper: bool = False
    run: RunConfig = RunConfig()
    _source: _Source | None = PrivateAttr(None)

    def located(self, *key_path: str | int) -> AbstractContextManager[None]:
        """Return a context in which errors are reported with the file that they come from.

        Args:
            key_path: of the key whose value is checked inside, from the top of the file; none for the entire file.
        """
        return located(self._source.where(key_path) if self._source else self.name, ConfigurationError)


class _Collection(_Section):
    """Several configurations as one plan, in which what they share is done once."""

    schema_: Literal[1] = Field(alias="schema")
    name: str
    summary: str = ""
    include: list[str] = Field(min_length=1, max_length=200)
    run: RunConfig = RunConfig()


class Request(NamedTuple):
    """A preset or a file: a name, how to run, and its configurations."""

    name: str
    run: RunConfig
    parts: tuple[Config, ...]
    #: The variants applied to the files, such as ``scale tiny``: chosen, or the default that a file names.
    variants: tuple[str, ...] = ()

    @property
    def paper(self) -> bool:
        """Whether the tables and figures of the TPAP paper are wanted."""
        return any(part.paper for part in self.parts)


def request(
    name_or_file: str,
    variants: Mapping[str, str] | None = None,
    *,
    epochs: int | None = None,
    settings: Sequence[Setting] = (),
) -> Request:
    """Return every checked configuration of a preset or a TOML file; one that ``include``s others has several.

    Args:
        name_or_file: a preset, or a file that ends with ``.toml``.
        variants: of each kind of variant the one that is wanted, such as ``{"scale": "tiny"}``; see :func:`load`.
        epochs: of every training, instead of the configuration's ``[train]``.
        settings: what else is changed, in every configuration that has the entry which is named.

    Raises:
        UsageError: as :func:`load`; a configuration has another ``[run]`` than the one that includes it; or a setting
            names an entry that no configuration has.
    """
    file = overlay.read(name_or_file, {})
    name, changes = file.path.name, _Changes(variants or {}, epochs, tuple(settings))
    if "include" not in file.body:
        only = _loaded(name_or_file, changes)
        _require_used([only], changes)
        return Request(only.config.name, only.config.run, (only.config,), only.variants)
    of_run = [each for each in settings if each.path[0] == "run"]
    layers, _ = overrides.applied(file.body, of_run)
    file = file._replace(layers=(*file.layers, *layers))
    collection = _validated(_Collection, file.body, _Source(file))
    with located(f"{name}: include"):
        loaded = [_loaded(each, changes, within=f"{name}: include: ") for each in collection.include]
    _require_used(loaded, changes)
    parts = tuple(each.config for each in loaded)
    for part in parts:
        if part.run != collection.run:
            raise UsageError(f"{name} includes {part.name}, whose [run] differs from its own; give both the same")
    over = tuple(dict.fromkeys(chain.from_iterable(each.variants for each in loaded)))
    return Request(collection.name + changes.suffix, collection.run, parts, over)


def load(name_or_file: str, variants: Mapping[str, str] | None = None, *, epochs: int | None = None) -> Config:
    """Return the checked configuration of a preset or of a TOML file.

    A file that ``extends`` another is laid over it: tables are merged key by key, lists are replaced. So are its
    variants: the requested entry of every table ``[variants.KIND]`` is merged over the result. An entry that is not
    requested applies only if a file names it, as in ``default = {scale = "full"}``; see
    :func:`bench.config.overlay.read`. The name of a configuration ends with the requested variants.

    Raises:
        UsageError: no such preset, file or variant, not TOML, or a key or value that is not allowed.
    """
    return _loaded(name_or_file, _Changes(variants or {}, epochs)).config


class _Changes(NamedTuple):
    """What a command changes in the files that it reads."""

    variants: Mapping[str, str]
    epochs: int | None = None
    settings: tuple[Setting, ...] = ()

    @property
    def suffix(self) -> str:
        """What the name of a configuration ends with."""
        epochs = [] if self.epochs is None else [f"{self.epochs}-epochs"]
        return "".join(f".{each}" for each in [*self.variants.values(), *epochs])


class _Loaded(NamedTuple):
    config: Config
    #: Such as ``scale tiny``.
    variants: tuple[str, ...]
    body: Mapping[str, Any]
    #: Settings that name an entry which it does not have.
    unused: Sequence[Setting]


def _loaded(name_or_file: str, changes: _Changes, within: str = "") -> _Loaded:
    layered = overlay.read(name_or_file, changes.variants, alone=True)
    if changes.epochs is not None:
        override = overlay.Layer("--epochs", {"train": {"epochs": changes.epochs}})
        layered = layered._replace(layers=(*layered.layers, override))
    layers, unused = overrides.applied(layered.body, changes.settings)
    layered = layered._replace(layers=(*layered.layers, *layers))
    body, source = layered.body, _Source(layered, within)
    config = _validated(Config, {**body, "name": str(body.get("name", "")) + changes.suffix}, source)
    config._source = source
    over = tuple(f"{kind} {name}" for kind, name in sorted(layered.variants.items()))
    return _Loaded(config, over, body, unused)


def _require_used(loaded: Sequence[_Loaded], changes: _Changes) -> None:
    """Raises UsageError: a setting names an entry that no configuration has."""
    for each in changes.settings:
        if all(each in one.unused for one in loaded):
            raise overrides.nowhere([one.body for one in loaded], each)


def _validated(kind: type[Section], body: Mapping[str, Any], source: _Source) -> Section:
    try:
        section = kind.model_validate(body)
    except ValidationError as error:
        where = source.where(error.errors()[0]["loc"])
        raise ConfigurationError(registry.explain(error, where=where, known=_known_keys(error, kind))) from None
    for key, value in body.items():
        with located(source.where([key]), ConfigurationError):
            registry.require_numbers(value, getattr(section, {"schema": "schema_"}.get(key, key)), key)
    return section


def _known_keys(error: ValidationError, kind: type[BaseModel]) -> Iterable[str]:
    sections: dict[str, type[BaseModel]] = {
        "dataset": DatasetConfig,
        "models": ModelConfig,
        "defenses": DefenseConfig,
        "attacks": AttackConfig,
        "run": RunConfig,
    }
    key_path = error.errors()[0]["loc"]
    section = sections.get(str(key_path[0]), kind) if len(key_path) > 1 else kind
    return (field.alias or name for name, field in section.model_fields.items())
