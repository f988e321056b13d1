"""How the images of a pretrained network are prepared, as the library that offers its weights says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from pydantic import ValidationError

from bench.data.foreign import one_line
from bench.data.memo import cache_folder, recall, remember
from bench.data.resizing import Resizing, Size
from bench.data.room import require_size
from bench.data.rows import listed
from bench.keys import sha256_hex
from bench.registry import unknown
from bench.types import Interpolation, Preprocessing, UsageError, shown

#: Of these libraries cards are read.
LIBRARIES = ("torchvision", "timm")
_INSTEAD = "give resize, crop and interpolation instead"


def resizing(
    crop: int | Size,
    *,
    resize: int | Size | None = None,
    crop_pct: float | None = None,
    crop_mode: str = "center",
    interpolation: str = "bilinear",
    fill: tuple[int, ...] | None = None,
) -> Resizing:
    """Return how images are resized and cropped.

    Args:
        crop: height and width of the result, or one number for both.
        resize: length of the shorter side before the crop, or height and width of the resized image.
        crop_pct: the crop's share of what is resized to, in (0, 1]; instead of ``resize``.
        crop_mode: ``"center"``, ``"squash"`` or ``"border"``; see :class:`bench.types.Preprocessing`.
        interpolation: of the resizing.
        fill: color of the border, three values of 0 to 255.

    Raises:
        UsageError: a value is out of range, or the crop is larger than what it is cut from.
    """
    size = (crop, crop) if isinstance(crop, int) else (crop[0], crop[1])
    if not all(isinstance(side, int) for side in size) or min(size) < 1:
        raise UsageError(f"crop = {shown(crop)}: height and width must be whole numbers of at least 1")
    require_size(size)
    if interpolation not in get_args(Interpolation):
        raise UsageError(unknown("interpolation", interpolation, get_args(Interpolation)))
    if resize is None:
        resize = _enlarged(size, crop_pct, keeps_ratio=crop_mode == "center")
    sides = (resize, resize) if isinstance(resize, int) else resize
    if min(sides) < 1:
        raise UsageError(f"resize = {shown(resize)}: a side must be at least 1")
    if crop_mode != "border" and (size[0] > sides[0] or size[1] > sides[1]):
        raise UsageError(f"crop = {shown(crop)} is larger than resize = {shown(resize)}, from which it is cut")
    try:
        preprocessing = Preprocessing.model_validate({"resize": resize, "crop_mode": crop_mode, "fill": fill})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"resize = {shown(resize)}: {reason}") from None
    return Resizing(size, interpolation, preprocessing)  # type: ignore[arg-type]


def _enlarged(size: Size, crop_pct: float | None, *, keeps_ratio: bool) -> int | Size:
    # What timm has where its card says nothing.
    share = 0.875 if crop_pct is None else crop_pct
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise UsageError(f"crop_pct = {shown(share)}: a share above 0 and up to 1 is needed, such as 0.875")
    height, width = (math.floor(side / share) for side in size)
    return height if height == width and keeps_ratio else (height, width)


def read(name: str) -> Resizing:
    """Return what the card of pretrained weights says.

    Args:
        name: ``torchvision:`` or ``timm:`` with the name of a network, for its default weights, or with that of
            weights as the library writes it, such as ``torchvision:ResNet50_Weights.IMAGENET1K_V1`` or
            ``timm:resnet50.a1_in1k``.

    Raises:
        UsageError: the library is not installed or does not know the name, or the card is not that of a classifier.
    """
    library, _, model = name.partition(":")
    if library not in LIBRARIES or not model:
        raise UsageError(
            f"preprocessing = {shown(name)}: 'torchvision:' or 'timm:' with the name of a network or of weights is "
            "needed, or 'model'"
        )
    return next(iter(_cards(library, model, every=False).values()))


def of_networks(networks: Iterable[tuple[str, Mapping[str, Any]]]) -> Resizing:
    """Return the one card of all these networks, each the name and the parameters of a ``[[models]]`` entry.

    Raises:
        UsageError: a network has none, or they differ.
    """
    cards: dict[Resizing, str] = {}
    for name, params in networks:
        library, _, model = name.partition(":")
        if library not in LIBRARIES or not model:
            raise UsageError(f'preprocessing = "model": {name} has no card; {_INSTEAD}')
        # Weights of another file may be any of those that the library offers under this name.
        for weights, card in _cards(library, model, every=not params.get("pretrained")).items():
            cards.setdefault(card, f"{library}:{weights}")
    if len(cards) > 1:
        ways = listed([f"{name} ({card.words})" for card, name in cards.items()], 3)
        raise UsageError(f'preprocessing = "model": cards differ, {ways}; name the one that is meant')
    return next(iter(cards))


def _cards(library: str, model: str, *, every: bool) -> dict[str, Resizing]:
    """Return the card of weights, or of a network's default weights, by their name; with ``every``, of all it has."""
    try:
        release = version(library)
    except PackageNotFoundError:
        raise UsageError(f"the card of {library}:{model} needs a package: pip install {library}") from None
    # A library that is installed and cannot be imported raises anything.
    with one_line(f"the card of {library}:{model} cannot be read"):
        numbers = _numbers(library, release, model, every=every)
    cards: dict[str, Resizing] = {}
    for weights, card in numbers.items():
        try:
            cards[weights] = resizing(**card)
        except UsageError as error:
            raise UsageError(f"the card of {library}:{weights} cannot be followed: {error}; {_INSTEAD}") from None
    return cards


def _numbers(library: str, release: str, model: str, *, every: bool) -> dict[str, dict[str, Any]]:
    """Return what cards say, by the name of the weights; remembered, since the libraries take seconds to load."""
    memo = cache_folder() / "cards" / f"{sha256_hex(library, release, model, str(every))}.json"
    with suppress(OSError, ValueError, KeyError):
        return dict(recall(memo)["cards"])
    cards = _torchvision(model, every=every) if library == "torchvision" else _timm(model, every=every)
    remember(memo, {"cards": cards})
    return cards


def _torchvision(model: str, *, every: bool) -> dict[str, dict[str, Any]]:
    from torchvision import models

    network, _, weights = model.partition("_Weights.")
    try:
        offered = [models.get_weight(model)] if weights else list(models.get_model_weights(network))
    except (ValueError, KeyError):
        if not weights:
            raise UsageError(unknown("torchvision network", model, models.list_models())) from None
        raise UsageError(f"torchvision has no weights {model}; such as ResNet50_Weights.IMAGENET1K_V1") from None
    if not offered:
        raise UsageError(f"torchvision:{model} has no pretrained weights, and so no card; {_INSTEAD}")
    if not weights and not every:
        offered = [models.get_model_weights(network).DEFAULT]
    return {str(each): _of_transforms(model, each.transforms()) for each in offered}


def _of_transforms(model: str, transforms: Any) -> dict[str, Any]:
    crop, resize = (_one_number(getattr(transforms, name, None)) for name in ("crop_size", "resize_size"))
    # Transforms for detection, segmentation and video have none of these, or two numbers.
    if crop is None or resize is None:
        raise UsageError(f"torchvision:{model} is no image classifier: its card has no resize and center crop")
    return {"crop": crop, "resize": resize, "interpolation": transforms.interpolation.value}


def _one_number(value: object) -> int | None:
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], int) else None


def _timm(model: str, *, every: bool) -> dict[str, dict[str, Any]]:
    import timm

    if ":" in model:
        raise UsageError(
            f"the card of timm:{model} is not read; name the same weights as timm does, such as "
            f"'timm:resnet50.a1_in1k', or {_INSTEAD}"
        )
    library: Any = timm
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        raise UsageError(unknown("timm model", model, timm.list_models()))
    tagged = timm.list_pretrained(f"{name}.*")
    if tag and model not in tagged:
        raise UsageError(unknown("timm weights", model, tagged))
    names = tagged if every and tagged and not tag else [model]
    cards = {each: library.models.get_pretrained_cfg(each) for each in names}
    if None in cards.values():
        raise UsageError(f"timm:{model} has no pretrained weights, and so no card; {_INSTEAD}")
    resolve = library.data.resolve_data_config
    return {name: _of_config(resolve(pretrained_cfg=card.to_dict())) for name, card in cards.items()}


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    card = {name: config[name] for name in ("crop_pct", "crop_mode", "interpolation")}
    padded = config["crop_mode"] == "border"
    fill = tuple(round(255 * level) for level in config["mean"]) if padded else None
    return {**card, "crop": tuple(config["input_size"][1:]), "fill": fill}
