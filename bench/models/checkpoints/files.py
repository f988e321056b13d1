"""Where weights trained elsewhere lie, and their hash: one file, or an index of shards. torch is not imported."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.keys import sha256_hex
from bench.models.checkpoints import formats, hashes
from bench.registry import unknown
from bench.store.files import Unreadable, file_sha256, read
from bench.store.reading import document
from bench.types import UsageError, listed, shown

#: Networks that come inside packages, by the name of the package.
_INSIDE = {"pyautoattack": "examples/model_test.pt"}
_INDEX = ".safetensors.index.json"
#: The one file of weights in a folder of Hugging Face's layout that has no index.
_WHOLE = "model.safetensors"
#: One of several files of weights: the name of the network, and how many there are.
_PART = re.compile(r"(?P<net>.+)-[0-9]+-of-(?P<parts>[0-9]+)\.safetensors")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
_KINDS = ".safetensors, .pt, .pth, .ckpt, .bin or .pth.tar files"
_MAX_INDEX_BYTES = 64 * 2**20
#: Files that a line names.
_NAMED = 3


def find(name: str) -> Path:
    """Return the file of ``weights:<file>`` or ``weights:<package>``; of sharded weights it is their index.

    ``~`` is the home folder. A folder stands for the one index of shards in it, or for its ``model.safetensors``, and
    one of several shards for the index beside it.

    Raises:
        UsageError: no such file, or not one that can be read safely.
    """
    source = name.removeprefix("weights:")
    if source in _INSIDE:
        return _inside(name, source)
    path = Path(os.path.expanduser(source))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"{name}: no file {absolute(path)}{_nearest(path)}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {absolute(path)} cannot be read: {reason(error)}") from None
    if stat.S_ISDIR(mode):
        return _index_in(name, path)
    if not stat.S_ISREG(mode):
        raise UsageError(f"{name}: {absolute(path)} is no plain file; weights are {_KINDS}")
    if not is_index(path) and path.suffix.lower() not in _SUFFIXES:
        kind = formats.of_suffix(path)
        raise UsageError(f"{name}: weights are {_KINDS}, not '{path.suffix}'{f' ({kind})' if kind else ''}")
    return _index_of(name, path) or path


def _index_of(name: str, path: Path) -> Path | None:
    """Return the index beside a file that is one of several; ``None`` of any other."""
    net = _net_of_part(path.name)
    if net is None:
        return None
    index = path.with_name(net + _INDEX)
    if not index.is_file():
        raise UsageError(
            f"{name}: {absolute(path)} is one of several shards of weights, and their index {index.name} is not beside "
            "it"
        )
    return index


def _inside(name: str, package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(f"{name} needs a package: pip install {package}")
    path = Path(spec.origin).parent / _INSIDE[package]
    if not path.is_file():
        raise UsageError(f"{name}: the installed {package} comes without its example network {_INSIDE[package]}")
    return path


def _nearest(path: Path) -> str:
    """Return a hint at the file of the most similar name beside one that is missing."""
    try:
        beside = [each.name for each in path.parent.iterdir() if each.suffix.lower() in _SUFFIXES]
    except (OSError, ValueError):
        return ""
    question = unknown("file", path.name, beside).partition("did you mean")
    return f"; did you mean{question[2]}" if question[1] else ""


def _index_in(name: str, folder: Path) -> Path:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"{name}: {absolute(folder)} cannot be read: {reason(error)}") from None
    indices = [each for each in names if each.endswith(_INDEX)]
    if len(indices) == 1:
        index = folder / indices[0]
        if _WHOLE in names and _WHOLE not in _weight_map(index).values():
            raise UsageError(
                f"{name}: {absolute(folder)} holds two answers, {_WHOLE} and the parts of {indices[0]}: name one of "
                "the two files, or remove one"
            )
        return index
    if indices:
        raise UsageError(f"{name}: {absolute(folder)} holds several indices of shards: name one of {_few(indices)}")
    if _WHOLE in names:
        return folder / _WHOLE
    raise UsageError(f"{name}: {absolute(folder)} {_without_index(names)}")


def _without_index(names: list[str]) -> str:
    """Return what is wrong with a folder of such files, which has neither an index nor a file of all weights."""
    weights = [each for each in names if Path(each).suffix.lower() in _SUFFIXES]
    alone = [each for each in weights if _net_of_part(each) is None]
    if weights and not alone:
        return f"holds parts of weights, such as {_few(weights[:1])}, without their index {_few(_indices_of(weights))}"
    inside = f"name a file in it, such as {_few(alone[:1])}" if alone else f"weights are {_KINDS}"
    return f"is a folder without an index of shards (*{_INDEX}); {inside}"


def _indices_of(parts: list[str]) -> list[str]:
    """Return the names of the indices that some parts need."""
    return sorted({f"{_net_of_part(each)}{_INDEX}" for each in parts})


def _net_of_part(name: str) -> str | None:
    """Return the name of the network of which a file has a part, by its name; ``None`` of a file that has all."""
    match = _PART.fullmatch(name)
    return None if match is None or int(match["parts"][:9]) == 1 else match["net"]


def is_index(path: Path) -> bool:
    """Say whether a file is the index of sharded weights, by its name."""
    return path.name.endswith(_INDEX)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a weights file; of an index that of all its shards, in whatever files they lie.

    Raises:
        UsageError: the index, or a shard, is missing or not as it should be, or a file is not the one whose hash is
            stated beside it.
        OSError: a file cannot be read.
        bench.store.files.Unreadable: a file is no regular one, or cannot be read.
    """
    stated = stated_hashes(path)
    digests = []
    for file in _files(path):
        digests.append(file_sha256(file))
        hashes.require(file, digests[-1], stated)
    return sha256_hex("shards", *sorted(digests)) if is_index(path) else digests[0]


def stated_hashes(path: Path) -> Mapping[str, str]:
    """Return the hashes of files by name that the index of weights and the card beside them state; there may be none.

    Raises:
        UsageError: they are no hashes, those of the card are not those of the index, or the card is damaged or does not
            list the files of these weights.
    """
    by_card = dict(hashes.of_files(path, [file.name for file in _files(path)]))
    metadata = _index(path).get("metadata") if is_index(path) else None
    if not isinstance(metadata, dict) or "sha256" not in metadata:
        return by_card
    by_index = hashes.checked(path, metadata["sha256"])
    for name in by_card.keys() & by_index.keys():
        if by_card[name] != by_index[name]:
            raise UsageError(f"{path} and the card beside it state different hashes of {shown(name)}")
    return by_card | by_index


def shards(index: Path) -> list[Path]:
    """Return the files of sharded weights, which lie beside their index.

    Raises:
        UsageError: the index cannot be read, names files elsewhere, or shards are missing or too many.
    """
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    for name in names:
        if not re.fullmatch(r"[^/\\\0]+\.safetensors", name):
            raise UsageError(f"{index} names {shown(name)}: shards are .safetensors files beside their index")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UsageError(f"{index}: {len(missing)} of its {len(names)} shards are missing: {_few(missing)}")
    numbered = re.compile(re.escape(index.name.removesuffix(_INDEX)) + r"-\d+-of-\d+\.safetensors")
    surplus = sorted(each for each in os.listdir(index.parent) if numbered.fullmatch(each) and each not in names)
    if surplus:
        raise UsageError(
            f"{index} does not name {_few(surplus)}, which lies beside it: remove it, or restore the index"
        )
    return [index.parent / name for name in names]


def require_shards_whole(index: Path) -> None:
    """Raises UsageError: a shard cannot be read, or the tensors in it are not those that the index says."""
    from safetensors import SafetensorError, safe_open

    stated = Counter(_weight_map(index).items())
    present = Counter[tuple[str, str]]()
    for shard in shards(index):
        try:
            with safe_open(shard, framework="numpy") as file:
                present.update((tensor, shard.name) for tensor in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise UsageError(f"{shard} is no readable weights file: {first_line(error)}") from None
    for difference, words in ((stated - present, "lacks"), (present - stated, "holds, against its index,")):
        for tensor, name in sorted(difference):
            raise UsageError(f"{index.parent / name} {words} the tensor {shown(tensor)}")


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = _index(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise UsageError(f"{index} is no index of shards: its weight_map, from tensors to files, is missing or empty")
    return weight_map


def _index(index: Path) -> dict[str, Any]:
    """Return what an index of shards says; of what is none, nothing."""
    try:
        body = document(read(index, _MAX_INDEX_BYTES))
    except Unreadable as error:
        raise UsageError(f"{index} cannot be read: {error}") from None
    except ValueError as error:
        raise UsageError(f"{index} is no readable index of shards: {first_line(error)}") from None
    return body if isinstance(body, dict) else {}


def size(path: Path) -> int:
    """Return how many bytes weights take on disk, all shards together."""
    return sum(each.stat().st_size for each in _files(path))


def _files(path: Path) -> list[Path]:
    return shards(path) if is_index(path) else [path]


def _few(names: list[str]) -> str:
    return listed((shown(name).strip("'") for name in names), _NAMED)


def absolute(path: Path) -> str:
    """Return where a path leads from the current folder."""
    try:
        return os.path.abspath(path)
    except OSError:  # the current folder is gone
        return str(path)


def reason(error: Exception) -> str:
    """Return what an error says, without the path."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, without the codes that colour it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0]
    return text[:200] or type(error).__name__
