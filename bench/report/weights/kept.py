"""The trainings of a store and the weights that each would keep now, also of one that another process goes on with."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from bench.keys import training_key
from bench.store import cards, files, inventory
from bench.store.inventory import EPOCH, STATE
from bench.store.reading import document
from bench.store.seals import head_metadata
from bench.types import ModelRef, TrainRef, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.store.working_store import Store

_log = logging.getLogger("crossfire")
#: Bytes of the head of a state: names of tensors, and a row for each epoch.
_LARGEST_HEAD = 2**26
#: How often files are looked for that a training replaces at that moment.
_LOOKS = 5
#: The beginning of a key, and how many letters it has at least: fewer also lie in many a name.
_KEY_START = re.compile(r"[0-9a-f]{1,64}", re.IGNORECASE)
_FEWEST_LETTERS = 4


class NotKept(UsageError):
    """The weights of a training are not in the store, or not whole."""


class Training(NamedTuple):
    """A training of a store.

    Attributes:
        key: of the training.
        model: the network and the recipe.
        epochs: that are done.
        batches: of the next one that are done as well.
        log: a row for each epoch.
        is_finished: whether its weights are final.
        is_running: whether a process works on it.
        size: bytes of its weights, with what it continues from where it is not finished.
        lacks: why nothing can be exported; ``None`` if it can.
    """

    key: str
    model: ModelRef
    epochs: int
    batches: int
    log: list[dict[str, Any]]
    is_finished: bool
    is_running: bool
    size: int
    lacks: str | None

    @property
    def ref(self) -> TrainRef:
        assert isinstance(self.model.weights, TrainRef)
        return self.model.weights

    @property
    def name(self) -> str:
        """Image set, network and recipe."""
        return f"{self.ref.data.name}/{self.model.network.name}/{self.ref.recipe.name}"

    @property
    def state(self) -> str:
        """How far it is, in words."""
        if self.is_finished:
            return "finished"
        within = f", {self.batches:,} batches into the next" if self.batches else ""
        return f"{'running' if self.is_running else 'not finished'}{within}"


class Weights(NamedTuple):
    """Weights as a training has them.

    Attributes:
        tensors: by their names in the network.
        sha256: of the file that holds them in the store, or that would if the training ended here.
        epoch: that they are of.
        epochs: that were done.
        card: what the store says of the training.
    """

    tensors: dict[str, Tensor]
    sha256: str
    epoch: int
    epochs: int
    card: dict[str, Any]


class _State(BaseModel):
    """What is read of the metadata of a state."""

    training: TrainRef
    network: dict[str, Any]
    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    best_epoch: int = Field(ge=0)
    log: list[cards.EpochLog]


def trainings(store: Store) -> list[Training]:
    """Return the trainings of a store, by their names; what is damaged, with a warning, is none."""
    found = (_training(store, key) for key in inventory.keys(store.root / "train", ""))
    return sorted((each for each in found if each is not None), key=lambda each: (each.name, each.ref.seed, each.key))


def distinctions(known: list[Training]) -> dict[str, dict[str, Any]]:
    """Return for the key of each training the settings in which those of the same name differ, with its own values."""
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    for each in known:
        by_name.setdefault(each.name, {})[each.key] = _settings(each)
    result: dict[str, dict[str, Any]] = {}
    for group in by_name.values():
        first = next(iter(group.values()))
        known_names = first.keys() | chain.from_iterable(group.values())
        names = {name for name in known_names if any(each.get(name) != first.get(name) for each in group.values())}
        result |= {key: {name: each.get(name) for name in sorted(names)} for key, each in group.items()}
    return result


def _settings(training: Training) -> dict[str, Any]:
    ref, network = training.ref, training.model.network
    # A dump leaves out some defaults.
    schedule = {name: getattr(ref.schedule, name) for name in type(ref.schedule).model_fields}
    return {"seed": ref.seed, "images": ref.data.n, **schedule, **network.params, **ref.recipe.params}


def chosen(known: list[Training], wanted: str | None) -> tuple[list[Training], bool]:
    """Return the trainings that are meant, and whether the key of one was given.

    Args:
        known: all of a store.
        wanted: the beginning of a key, or a part of ``dataset/network/recipe`` or all of it with wildcards.

    Raises:
        UsageError: there is none, or the beginning is that of several keys.
    """
    if not known:
        raise UsageError("no training is in this store: there are no weights to export; train first")
    if wanted is None:
        return known, False
    by_key = [each for each in known if _KEY_START.fullmatch(wanted) and each.key.startswith(wanted.lower())]
    near = "; ".join(f"{each.key[:12]} {each.name}" for each in by_key[:5]) + ("; ..." if len(by_key) > 5 else "")
    is_long = len(wanted) >= _FEWEST_LETTERS
    if is_long and len(by_key) > 1:
        raise UsageError(f"'{wanted}' begins the keys of {len(by_key)} trainings: {near}")
    if is_long and by_key:
        return by_key, True
    matching = [each for each in known if wanted in each.name or fnmatch.fnmatchcase(each.name, wanted)]
    if not matching and by_key:
        raise UsageError(f"'{wanted}': give at least {_FEWEST_LETTERS} letters of a key; those that begin so: {near}")
    if not matching:
        raise UsageError(
            f"'{wanted}': no training has a key that begins so, or a name that matches; they are named like "
            f"{known[0].name}, and export weights --list has all"
        )
    return matching, False


def read(store: Store, training: Training) -> Weights:
    """Return the weights that a training would keep if it ended with its last finished epoch.

    Another process may go on with it: only files that are replaced as a whole are read.

    Raises:
        NotKept: no epoch is finished, or what it has kept is damaged or gone.
    """
    folder = store.training(training.key)
    for _ in range(_LOOKS):
        try:
            card = cards.read(folder, training.key)
            return _within(folder, training) if card is None else _finished(folder, card)
        except FileNotFoundError:
            # It has just begun its next epoch, or ended.
            continue
    raise NotKept(
        f"{training.name} {training.key[:12]}: {training.lacks or 'its weights are not in the store any more'}"
    )


def _finished(folder: Path, card: dict[str, Any]) -> Weights:
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / "weights.safetensors"
    again = "its run, started again, trains it again"
    try:
        data = files.read(path, cards.largest_weights(card))
        if hashlib.sha256(data).hexdigest() != card["weights_sha256"]:
            raise NotKept(f"{path} does not count: cut short or altered since it was written; {again}")
        return Weights(load(data), card["weights_sha256"], card["epoch_kept"], card["epochs"], card)
    except (files.Unreadable, SafetensorError) as error:
        raise NotKept(f"{path} does not count: {error}; {again}") from None


def _within(folder: Path, training: Training) -> Weights:
    """Return the weights of a training that is not finished.

    Raises:
        FileNotFoundError: a file has been replaced.
        NotKept: no epoch is finished, or its state is damaged.
    """
    from bench.training import checkpoint

    try:
        state = checkpoint.read(folder / STATE)
        if state.metadata.get("step"):
            if not state.metadata.get("epoch"):
                raise NotKept(f"{training.name} {training.key[:12]}: no epoch is finished yet")
            state = checkpoint.read(folder / EPOCH)
        about = _about(state.metadata, training.key)
    except (checkpoint.DamagedState, ValueError) as error:
        raise NotKept(f"{training.name} {training.key[:12]}: {error}") from None
    if about.step or not about.epoch:
        raise NotKept(f"{training.name} {training.key[:12]}: no epoch is finished yet")
    tensors = checkpoint.weights(state.tensors)
    has_best = any(name.startswith("best.") for name in state.tensors)
    card = {name: state.metadata[name] for name in ("training", "network", "log")} | {"epochs": about.epoch}
    sha256 = hashlib.sha256(checkpoint.serialised(tensors)).hexdigest()
    return Weights(tensors, sha256, about.best_epoch if has_best else about.epoch, about.epoch, card)


def _about(metadata: Mapping[str, Any], key: str) -> _State:
    """Return what a state says.

    Raises:
        ValueError: it is none, or of an older version, or of another training.
    """
    if "training" not in metadata:
        raise ValueError("its state is of an older version; the same run, continued, says in it what is trained")
    try:
        about = _State.model_validate(metadata)
        model = ModelRef.model_validate({"network": about.network, "weights": about.training})
    except ValidationError as error:
        raise ValueError(f"{'.'.join(map(str, error.errors()[0]['loc']))} is not what a state says") from None
    if training_key(model) != key:
        raise ValueError("its state is that of another training")
    return about


def _training(store: Store, key: str) -> Training | None:
    folder = store.training(key)
    card = cards.read(folder, key)
    if card is not None:
        model = ModelRef.model_validate({"network": card["network"], "weights": card["training"]})
        path, log = folder / "weights.safetensors", list(card.get("log", []))
        kept = files.is_regular(path)
        lacks = None if kept else "its weights are not in the store any more; its run, started again, trains it again"
        size = path.stat().st_size if kept else 0
        return Training(key, model, card["epochs"], 0, log, True, False, size, lacks)
    path = folder / STATE
    if not files.is_regular(path):
        return None
    try:
        metadata = document(head_metadata(path, _LARGEST_HEAD)["state"].encode())
        about = _about(metadata if isinstance(metadata, dict) else {}, key)
        size = path.stat().st_size
    except (FileNotFoundError, KeyError):
        return None
    except ValueError as error:
        _log.warning("%s does not count: %s", path, error)
        return None
    model = ModelRef.model_validate({"network": about.network, "weights": about.training})
    lacks = None if about.epoch else "no epoch is finished yet"
    is_running = store.leases.is_held(f"train-{key}")
    return Training(key, model, about.epoch, about.step, metadata["log"], False, is_running, size, lacks)
