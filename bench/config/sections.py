"""A configuration: TOML to checked words. Every method, parameter and value is checked here, before any work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    JsonValue,
    PrivateAttr,
    Strict,
    ValidationError,
    model_validator,
)

from bench import registry
from bench.config import overlay, overrides
from bench.config.network_keys import channel_means, channel_stds, files, one_or_several, output_name
from bench.config.overrides import Setting
from bench.types import (
    INITIAL_SHA,
    MAX_MEMBERS,
    MAX_WORD,
    NETWORK_KEYS,
    ConfigurationError,
    CraftPrecision,
    Interpolation,
    Norm,
    UsageError,
    located,
    shown,
)

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
Duration = Annotated[float, BeforeValidator(seconds, json_schema_input_type=float | str)]


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
#: Units, for the reference of the configuration and its JSON Schema.
_IMAGES: dict[str, JsonValue] = {"unit": "images"}
_PIXELS: dict[str, JsonValue] = {"unit": "pixels"}
_PerChannel = float | str | list[float | str]
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


def _small_letters(value: object) -> object:
    """Other libraries write Linf and L2."""
    return value.lower() if isinstance(value, str) else value


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
    """The images."""

    name: str = Field(
        description="a named set (`list datasets`), of common corruptions with its part, such as `cifar10-c:fog:3`; or "
        "`folder:DIR` or `parquet:DIR`"
    )
    n: int | None = Field(None, gt=0, le=_MOST, description="test images; all by default", json_schema_extra=_IMAGES)
    subset: Literal["first", "stratified"] | None = Field(
        None,
        description="which `n` images: the first, or of each class its share; by default stratified where the order of "
        "the images may mean something, else the first",
    )
    train_n: int | None = Field(
        None,
        gt=0,
        le=_MOST,
        description="training images, chosen as `subset` says; all by default",
        json_schema_extra=_IMAGES,
    )
    classes: Annotated[
        tuple[str, ...], BeforeValidator(_texts, json_schema_input_type=list[str | int]), AfterValidator(_distinct)
    ] = Field(
        (),
        min_length=2,
        max_length=100_000,
        description="the names of the classes in the order of their labels; by default the set's own",
    )
    channels: Literal[1, 3] | None = Field(
        None,
        description="3 for RGB, 1 for grey; by default a named set's own, of another set 1 where every file is grey",
    )
    image_size: int | tuple[int, int] | None = Field(
        None,
        description="height and width, or one number for both, of every image after resizing; by default the set's own",
        json_schema_extra=_PIXELS,
    )
    interpolation: Interpolation = Field("bilinear", description="how images of another size are resized")
    resize: int | tuple[int, int] | None = Field(
        None,
        description="before `crop`: the length of the shorter side, or height and width",
        json_schema_extra=_PIXELS,
    )
    crop: int | tuple[int, int] | None = Field(
        None,
        description="height and width, or one number for both, of the center that is cut out after resizing",
        json_schema_extra=_PIXELS,
    )
    crop_pct: float | None = Field(
        None, description="instead of `resize`: the crop's share of what the image is resized to"
    )
    preprocessing: Annotated[str, Field(min_length=1, max_length=MAX_WORD)] | None = Field(
        None,
        description="`torchvision:NAME` or `timm:NAME`, whose card says how to resize and crop, or `model`: the "
        "networks' own",
    )

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
    """A network; its parameters are further keys, and a list sweeps."""

    arch: Annotated[str | list[Any], BeforeValidator(one_or_several, json_schema_input_type=str | list[Any])] = Field(
        description="a network (`list models`), `FILE.py:FACTORY`, or a name of a library, such as `timm:resnet18`; a "
        "list of these, or of tables with an `arch` and its parameters, is an ensemble"
    )
    mean: Annotated[str | None, BeforeValidator(channel_means, json_schema_input_type=_PerChannel)] = Field(
        None,
        description="of a network that expects normalised images: it is given (image - mean) / std; one number, or one "
        "for each channel, for pixels in [0, 1]",
    )
    std: Annotated[str | None, BeforeValidator(channel_stds, json_schema_input_type=_PerChannel)] = Field(
        None, description="goes with `mean`"
    )
    output: Annotated[str | None, BeforeValidator(output_name, json_schema_input_type=str | int)] = Field(
        None, description="which of several outputs holds the logits: the name of a field, or its place in a tuple"
    )
    one_logit: Annotated[bool, Strict()] = Field(
        False, description="the network returns one number for an image: the logit of the second of two classes"
    )
    initial_weights: Annotated[
        str | list[str] | None, BeforeValidator(files, json_schema_input_type=str | list[str])
    ] = Field(
        None,
        description="a file of weights that training starts with, and that `epochs = 0` leaves as they are; of an "
        "ensemble a list with a file for each member",
    )
    initial_key: str | None = Field(
        None,
        description="of initial weights whose file holds several state dicts: which one is meant, such as `ema`",
    )
    combine: Literal["logits", "probabilities"] | None = Field(
        None, description="what an ensemble takes the mean of; of logits by default"
    )
    _members: tuple[ModelConfig, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if (self.mean is None) != (self.std is None):
            only, other = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{only} is given without {other}; a network that expects normalised images needs both")
        if reserved := sorted((self.model_extra or {}).keys() & {*NETWORK_KEYS.values(), INITIAL_SHA}):
            raise ValueError(f"unknown key '{reserved[0]}', which is a name inside of results")
        if isinstance(self.arch, list):
            self._members = self._ensemble(self.arch)
        elif self.combine is not None or isinstance(self.initial_weights, list):
            key = "combine" if self.combine is not None else "a list of initial_weights"
            raise ValueError(f"{key} belongs to an ensemble, a list of networks such as arch = ['resnet18', 'vgg16']")
        return self

    def _ensemble(self, networks: list[Any]) -> tuple[ModelConfig, ...]:
        """Return the members; ``initial_weights`` go to them in order.

        Raises:
            ValueError: there are too few or too many networks or files, or one that is no network.
        """
        if not 2 <= len(networks) <= MAX_MEMBERS:
            raise ValueError(f"arch lists {len(networks)} networks; an ensemble has 2 to {MAX_MEMBERS}")
        if "weights" in (self.model_extra or {}):
            raise ValueError("the weights of the networks of an ensemble are initial_weights = ['a.pt', 'b.pt']")
        members = [_member(index, each) for index, each in enumerate(networks)]
        if self.initial_weights is None:
            return tuple(members)
        if isinstance(self.initial_weights, str) or len(self.initial_weights) != len(members):
            raise ValueError(
                f"initial_weights of an ensemble is a list with a file for each of its {len(members)} networks; one "
                "file with the weights of all is a row, use = 'weights:FILE'"
            )
        files = zip(members, self.initial_weights, strict=True)
        return tuple(member.model_copy(update={"initial_weights": file}) for member, file in files)

    @property
    def members(self) -> tuple[ModelConfig, ...]:
        """The networks of an ensemble; none where the entry is a network."""
        return self._members

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the network, and under names that none of its own can have those that surround it."""
        around = {name: getattr(self, key) for key, name in NETWORK_KEYS.items()}
        # Those of an ensemble are with its members.
        single = {name: value for name, value in around.items() if not isinstance(value, list | bool | None)}
        return super().params | single | ({NETWORK_KEYS["one_logit"]: True} if self.one_logit else {})

    @property
    def params_of_members(self) -> dict[str, Any]:
        """What single members of an ensemble have of their own, by their number and its name."""
        numbered = enumerate(self._members, start=1)
        return dict(chain.from_iterable(each._params_of_member(number) for number, each in numbered))

    def _params_of_member(self, number: int) -> Iterator[tuple[str, Any]]:
        yield from ((f"{number}.{name}", value) for name, value in self.params.items())

    @property
    def title(self) -> str:
        """The name, or the names of the members, for what is said."""
        return " + ".join(str(each.arch) for each in self._members) or str(self.arch)


def _member(index: int, body: object) -> ModelConfig:
    """Return a member of an ensemble.

    Raises:
        ValueError: it is neither a name nor a table that describes one network.
    """
    where = f"arch[{index}]"
    if not isinstance(body, str | dict):
        raise ValueError(f"{where} is the name of a network or a table with its arch, not {shown(body)}")
    try:
        member = ModelConfig.model_validate({"arch": body} if isinstance(body, str) else body)
    except ValidationError as error:
        raise ValueError(registry.explain(error, where=where, known=ModelConfig.model_fields)) from None
    if not isinstance(member.arch, str) or any(isinstance(value, list) for value in member.params.values()):
        raise ValueError(f"{where} is one network with one value of each parameter")
    return member


def _named_network(value: object) -> object:
    """Return the table that the name of a network is short for.

    Raises:
        ValueError: it is neither a name nor a table with one, or lists values.
    """
    body = {"arch": value} if isinstance(value, str) else value
    if body is None or (isinstance(body, dict) and isinstance(body.get("arch"), str)):
        if isinstance(body, dict) and any(isinstance(each, list | dict) for each in body.values()):
            raise ValueError("it is one network with one value of each parameter")
        return body
    raise ValueError(f"{shown(value)} is neither the name of a network nor a table with its arch")


class DefenseConfig(_Method):
    """A row: a training recipe, weights, or a test-time step; its parameters are further keys, and a list sweeps."""

    use: str = Field(
        description="a recipe or test-time step (`list defenses`), `FILE.py:NAME`, or `weights:FILE`, a network that "
        "is trained already"
    )
    base: Annotated[str | list[str] | None, Some] = Field(
        None,
        description="under a test-time step: the recipe or `weights:FILE`, or several; by default the step's own",
    )
    key: Annotated[str | list[str] | None, Some] = Field(
        None,
        description="of a weights file that holds several state dicts: the name of the one that is meant, such as "
        "`ema`; a list makes a row for each",
    )
    train: dict[str, Any] = Field({}, description="of the recipe: other settings than `[train]` has")
    score: Annotated[str | list[str] | None, Some] = Field(
        None,
        description="of a diffusion purifier: the recipe that trains the network which predicts noise, or "
        "`weights:FILE`, or several; by default the step's own",
    )
    score_network: Annotated[
        dict[str, Any] | None, BeforeValidator(_named_network, json_schema_input_type=str | dict[str, Any])
    ] = Field(
        None,
        description="of a diffusion purifier: the network that predicts noise, or a table with its `arch` and its "
        "parameters; by default the step's own",
    )
    score_train: dict[str, Any] = Field(
        {}, description="of the recipe of the score: other settings than `[train]` has, such as `epochs`"
    )


class AttackConfig(_Method):
    """A column; the parameters of the attack are further keys, and a list sweeps."""

    use: str = Field(
        description="an attack (`list attacks`), `FILE.py:NAME`, or `LIBRARY:NAME`, such as `art:SquareAttack`"
    )
    eps: Annotated[Any, Some] = Field(
        None,
        description='the budget, exact, such as `"8/255"`; a list sweeps; by default 8/255 (L∞), 1/2 (L2), 12 (L1) or '
        "1/200 (Wasserstein), and none for an attack that needs none",
        json_schema_extra={"unit": "pixels in [0, 1]"},
    )
    norm: Annotated[Norm | None, BeforeValidator(_small_letters)] = Field(
        None, description="by default the first that the attack keeps to"
    )
    access: list[Literal["static", "adaptive", "transfer"]] = Field(
        ["static", "adaptive"],
        min_length=1,
        max_length=3,
        description="what the attacker sees: the bare network, the defense as deployed, or the network of `source`",
    )
    source: Annotated[str | list[str] | None, Some] = Field(
        None, description="with access `transfer`: the recipe or `weights:FILE` that is attacked instead, or several"
    )
    source_seed: Seed | None = Field(None, description="of the source's training; by default the cell's")
    source_key: str | None = Field(
        None, description="of a source that is a weights file with several state dicts: which one is meant"
    )
    source_train: dict[str, Any] = Field(
        {}, description="of the source's recipe: other settings than `[train]` has, such as `epochs`"
    )
    eot: int = Field(
        20,
        ge=1,
        le=_MOST,
        description="of a random defense under adaptive attack: over how many draws each gradient is averaged",
        json_schema_extra={"unit": "draws"},
    )
    max_passes: int | None = Field(
        None,
        ge=1,
        le=_MOST,
        description="of the base classifier, forwards and backwards together, that the attack may take for an image; "
        "by default without limit",
        json_schema_extra={"unit": "passes"},
    )
    target: Annotated[int | str | list[int | str] | None, Some] = Field(
        None,
        description="the class to reach, the only success: `least-likely`, `second` (the likeliest wrong one), "
        "`random`, or a class by number or name; a list sweeps; by default any wrong class will do",
    )
    craft_precision: CraftPrecision = Field(
        "auto",
        description="what the base classifier computes in where its gradient leads the attack; what counts as a "
        "success is judged in float32. `auto` is `bf16` on a processor with units for it, where that was "
        "measured to break as many images and to be faster, and else `float32`",
    )


class RunConfig(_Section):
    """How to run; none of it changes a number."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a GPU where there is one")
    batch: Annotated[Literal["auto"] | int, BeforeValidator(_batch, json_schema_input_type=Literal["auto"] | int)] = (
        Field(
            "auto",
            description="how many images pass the network at once; halved where memory runs out",
            json_schema_extra=_IMAGES,
        )
    )
    timeout: Duration | None = Field(
        None,
        description="how long a cell may take, training apart, such as `90s`, `30m` or `2h`; by default without limit",
        json_schema_extra={"unit": "seconds"},
    )
    cpus: int | None = Field(
        None,
        gt=0,
        le=_MOST,
        description="on a Ray cluster, for each task; by default the threads of the process that leads",
        json_schema_extra={"unit": "processors"},
    )
    gpus: float | None = Field(
        None,
        ge=0,
        le=_MOST,
        description="on a Ray cluster, for each task: a number, or a fraction of one; by default 1 on a GPU",
        json_schema_extra={"unit": "GPUs"},
    )
    log: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        [], max_length=4, description="where epochs and cells are logged as well; see the page on trackers"
    )


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
    """One table: its rows, its columns, and how they are run."""

    schema_: Literal[1] = Field(alias="schema", description="the version of this format")
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]*$",
        max_length=200,
        description="of the table: small letters, digits, `-`, `_` and `.`",
    )
    summary: str = Field("", description="one line that says what it is for")
    seeds: list[Seed] = Field(
        [0],
        min_length=1,
        max_length=10_000,
        description="every cell is measured once for each, with its own training and its own draws",
    )
    worst_case: bool = Field(
        False,
        description="attacks on one deployed defense run cheapest first, each on what the earlier ones left: columns "
        "are running worst cases",
    )
    dataset: DatasetConfig
    models: list[ModelConfig] = Field(min_length=1)
    defenses: list[DefenseConfig] = Field(min_length=1)
    attacks: list[AttackConfig] = Field(min_length=1)
    attack: dict[str, Any] = Field(
        {}, description="settings for all attacks that know them; a table inside, `[attack.pgd]`, is for one"
    )
    train: dict[str, Any] = Field(
        {}, description="settings for all recipes that know them; a table inside, `[train.pgd-at]`, is for one"
    )
    paper: bool = Field(False, description="beside the leaderboard, write the tables and figures of the TPAP paper")
    run: RunConfig = RunConfig()
    _source: _Source | None = PrivateAttr(None)

    def located(self, *key_path: str | int) -> AbstractContextManager[None]:
        """Return a context in which errors are reported with the file that they come from.

        Args:
            key_path: of the key whose value is checked inside, from the top of the file; none for the entire file.
        """
        return located(self._source.where(key_path) if self._source else self.name, ConfigurationError)


class Collection(_Section):
    """Several configurations as one plan, in which what they share is done once."""

    schema_: Literal[1] = Field(alias="schema")
    name: str
    summary: str = ""
    include: list[str] = Field(min_length=1, max_length=200, description="presets and files that are run as one plan")
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
    collection = _validated(Collection, file.body, _Source(file))
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
