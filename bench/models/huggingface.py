"""Image classifiers of the Hugging Face hub, or in a folder that ``save_pretrained`` wrote; none of their code runs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.keys import sha256_hex
from bench.methods.sources import content
from bench.registry import unknown
from bench.types import Scalar, UsageError, first_line, shown, text_of

if TYPE_CHECKING:
    from bench.models.libraries import Opened

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PIXELS = 255


def reference(arch: str, name: str, params: Mapping[str, Scalar], code: str) -> tuple[dict[str, Scalar], str]:
    """Return the parameters and the hash of the code of a classifier, by which its weights are known.

    A name of the hub gets the commit that ``revision`` means: what is in the local cache, else what the hub says. Of a
    folder, the hash is that of its files too.

    Args:
        arch: the network, for what is said.
        name: of the hub, or a folder.
        params: of the configuration.
        code: the hash of the library.

    Raises:
        UsageError: a parameter other than ``revision``, or a name that is neither here nor on the hub.
    """
    is_folder = Path(name).is_dir()
    known = () if is_folder else ("revision",)
    if surplus := sorted(params.keys() - set(known)):
        raise UsageError(f"network '{arch}': {unknown('parameter', surplus[0], known)}")
    if is_folder:
        return {}, sha256_hex(code, *_hashes(arch, Path(name)))
    if name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UsageError(f"network '{arch}': there is no folder {name}")
    return {"revision": _commit(arch, name, str(params.get("revision", "main")))}, code


def _hashes(arch: str, folder: Path) -> list[str]:
    """Return the name and the hash of each file that is read of a model.

    Raises:
        UsageError: the folder holds no model.
    """
    names = {path.name for path in (*folder.glob("*.safetensors"), *folder.glob("*.json"))}
    if "config.json" not in names:
        raise UsageError(f"network '{arch}': the folder {folder} has no config.json, as save_pretrained writes it")
    return [f"{name} {content(str(folder / name), (Path(),))}" for name in sorted(names)]


@cache
def _commit(arch: str, name: str, revision: str) -> str:
    if _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants

    kept = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / revision
    try:
        commit = kept.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        with _one_line(arch, ", which is no folder here,"):
            commit = HfApi().model_info(name, revision=revision, timeout=20).sha or ""
    if not _COMMIT.fullmatch(commit):
        raise UsageError(f"network '{arch}': the hub's commit of {shown(revision)} cannot be read; give it as revision")
    return commit


def open_network(name: str, params: dict[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> Opened:
    """Return a classifier with its weights, which are downloaded where they are not in the local cache.

    Args:
        name: of the hub, or a folder.
        params: ``revision``, the commit of a model of the hub.
        num_classes: length of a row of logits.
        image_shape: channels, height and width of the images.

    Raises:
        UsageError: its files are not to be had, it is no image classifier, needs code of its own, or is for other
            classes or channels.
    """
    arch = f"huggingface:{name}"
    with _one_line(arch):
        transformers = import_module("transformers")
        its_log = import_module("transformers.utils.logging")
        its_log.set_verbosity_error()
        its_log.disable_progress_bar()
    if failed := _FAILED.get((name, params.get("revision"))):
        raise UsageError(failed)
    try:
        config = _here_or_downloaded(arch, transformers.AutoConfig.from_pretrained, name, params)
        _require_same(arch, config, num_classes, image_shape[0])
        # Otherwise weights of half precision stay so.
        wanted = {"dtype": "float32", "use_safetensors": True, "output_loading_info": True}
        classifier = transformers.AutoModelForImageClassification.from_pretrained
        net, loaded = _here_or_downloaded(arch, classifier, name, {**params, **wanted})
    except UsageError as error:
        # To ask the hub again takes half a minute, for each cell.
        _FAILED[name, params.get("revision")] = str(error)
        raise
    if missing := sorted(loaded["missing_keys"]):
        raise UsageError(f"network '{arch}': its weights lack {missing[0]}, so it is no trained image classifier")
    return _normalised(arch, net, name, params, image_shape[0])


_FAILED: dict[tuple[str, str | None], str] = {}


def _here_or_downloaded(arch: str, load: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> Any:
    arguments = {**arguments, "trust_remote_code": False}
    try:
        return load(name, **arguments, local_files_only=True)
    except Exception:
        if Path(name).is_dir():
            with _one_line(arch):
                return load(name, **arguments, local_files_only=True)
    with _one_line(arch):
        return load(name, **arguments)


def _require_same(arch: str, config: Any, num_classes: int, channels: int) -> None:
    if config.num_labels != num_classes:
        raise UsageError(
            f"network '{arch}' tells {config.num_labels} classes apart, the images have {num_classes}; choose a model "
            "that was trained on their classes"
        )
    own = getattr(config, "num_channels", channels)
    if own != channels:
        raise UsageError(
            f"network '{arch}' takes images of {own} channels, these have {channels}; see [dataset] channels"
        )


def _normalised(arch: str, net: Any, name: str, params: Mapping[str, Any], channels: int) -> Opened:
    from bench.models.libraries import Opened

    try:
        read = import_module("transformers.image_processing_base").ImageProcessingMixin.get_image_processor_dict
        card, _ = _here_or_downloaded(arch, read, name, params)
    except UsageError:
        problem = f"network '{arch}' has no preprocessor_config.json; give mean and std in its [[models]] entry"
        return Opened(net, None, output="logits", problem=problem)
    try:
        normalisation = _of_card(card, channels)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        problem = f"network '{arch}': its card's mean and std cannot be read; give both in its [[models]] entry"
        return Opened(net, None, output="logits", problem=problem)
    return Opened(net, normalisation, output="logits")


def _of_card(card: Mapping[str, Any], channels: int) -> Any:
    """Return the normalisation of images in [0, 1] that a card describes for pixel values; ``None`` if it has none.

    Raises:
        ValueError: it is for other channels.
    """
    from bench.models.adapted import Normalisation

    factor = float(card.get("rescale_factor") or 1 / _PIXELS) * _PIXELS if card.get("do_rescale", True) else _PIXELS
    # The factor is written with few digits.
    factor = 1.0 if abs(factor - 1) < 1e-3 else factor
    offset = 1.0 if card.get("rescale_offset") else 0.0
    mean, std = [0.0], [1.0]
    if card.get("do_normalize", True):
        mean, std = ([float(number) for number in card[key]] for key in ("image_mean", "image_std"))
    if factor == 1.0 and not offset and not card.get("do_normalize", True):
        return None
    if not {len(mean), len(std)} <= {1, channels} or not all(map(isfinite, (*mean, *std, factor))) or min(std) <= 0:
        raise ValueError("there is not one number for each channel, or one that cannot divide images")
    return Normalisation(tuple((m + offset) / factor for m in mean), tuple(s / factor for s in std))


@contextmanager
def _one_line(arch: str, beside: str = "") -> Iterator[None]:
    """Turn whatever the libraries raise into one line.

    Args:
        arch: the network, for what is said.
        beside: what is said of it first.

    Raises:
        UsageError: they raised something.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(f"network '{arch}': transformers cannot be imported: {text_of(error)}") from error
    except Exception as error:
        logging.getLogger("crossfire").debug("%s", arch, exc_info=True)
        first = first_line(error) or type(error).__name__
        raise UsageError(f"network '{arch}'{beside} cannot be had: {type(error).__name__}: {first}") from error
