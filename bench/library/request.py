"""From the arguments of a call to a configuration and its plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from bench import registry
from bench.config.sections import AttackConfig, Config
from bench.data import memory, open_set
from bench.library import images as own_images
from bench.library import methods
from bench.library.images import LabelledImages
from bench.models import live
from bench.models.adapted import plain
from bench.process.isolation import frozen, isolated
from bench.schedule import plan
from bench.schedule.plan import Work
from bench.types import PlannedCell, RunPlan, UsageError, first_line, shown

#: What the plans of calls are called in a store.
PLAN = "python"


@dataclass(frozen=True)
class Subject:
    """What is evaluated, as a configuration says it.

    Attributes:
        arch: of the base classifier.
        base: its weights.
        steps: the entries of the test-time steps on it.
        net: the base classifier, where it was handed over.
        shown: what tables call parts of names, where that is shorter.
    """

    arch: str
    base: str
    steps: list[methods.Entry]
    net: nn.Module | None
    shown: Mapping[str, str]
    #: Further keys of its ``[[models]]`` entry.
    keys: Mapping[str, Any] = field(default_factory=dict)

    def normalised(self, mean: object, std: object) -> Subject:
        """Return it as a network that is given (image - mean) / std; itself where both are ``None``."""
        given = {"mean": mean, "std": std}
        keys = {key: _plain(value) for key, value in given.items() if value is not None}
        return replace(self, keys=keys) if keys else self


def _plain(value: object) -> object:
    """Return numbers of a tensor, an array or a tuple as a list."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.reshape(-1).tolist()
    return list(value) if isinstance(value, tuple) else value


def subject(
    net_or_defense: object,
    *,
    base: object,
    weights: str | Path | None,
    name: str | None,
    stack: ExitStack,
) -> Subject:
    """Return what is to be evaluated.

    Raises:
        UsageError: it is neither a network nor a test-time step on one.
    """
    all_of_them = methods.listed(net_or_defense)
    steps = [each for each in all_of_them if methods.is_step(each) or methods.is_step_name(each)]
    if not steps:
        if base is not None and not isinstance(net_or_defense, nn.Module | str | list | tuple | dict):
            methods.step_entry(net_or_defense, name, stack)
        if base is not None:
            raise UsageError("base is the classifier under a test-time step, and a network was given; leave base out")
        if len(all_of_them) != 1:
            raise UsageError(f"one network is evaluated at a time, and {len(all_of_them)} were given")
        return _classifier(all_of_them[0], weights, name, stack, [])
    if len(steps) < len(all_of_them):
        raise UsageError("a list is of test-time steps alone; the network under them is base")
    if base is None:
        raise UsageError("a test-time step stands on a classifier: give it as base = net")
    own_name = name if len(steps) == 1 else None
    entries = [methods.step_entry(each, own_name, stack) for each in steps]
    return _classifier(base, weights, None, stack, entries)


def _classifier(
    net: object, weights: str | Path | None, name: str | None, stack: ExitStack, steps: list[methods.Entry]
) -> Subject:
    if isinstance(net, nn.Module):
        if weights is not None:
            raise UsageError("weights belong to a network given by name; this one has its weights already")
        net = plain(net)
        called = methods.network_name(net, name)
        arch = stack.enter_context(live.offered(net, called))
        label = f"weights:{Path(arch).name}"
        return Subject(arch, f"weights:{arch}", steps, net, {f"@{label}": "", label: called, arch: called})
    if not isinstance(net, str):
        if isinstance(net, type):
            raise UsageError(f"{net.__name__} is a class: give an instance of it, {net.__name__}()")
        raise UsageError(
            f"{shown(net)} is no network: give a torch.nn.Module, or the name of a network with weights = FILE"
        )
    if weights is None:
        raise UsageError(f"network '{net}' needs weights = FILE, a state dict as .safetensors, .pt or .pth")
    return Subject(net, f"weights:{weights}", steps, None, {})


def attack_entries(
    attacks: object, *, eps: object, norm: str | None, access: str | Iterable[str] | None, stack: ExitStack
) -> list[methods.Entry]:
    """Return the ``[[attacks]]`` entries of some attacks.

    A budget without a norm is one of L-infinity: attacks that keep to another norm have their own.
    """
    entries = _distinct(attacks, stack)
    if not entries:
        raise UsageError("attacks is empty: name at least one, such as 'pgd'")
    if access is not None:
        accesses = [access] if isinstance(access, str) else list(access)
        entries = [{"access": accesses, **entry} for entry in entries]
    return [_with_budget(each, eps, norm) for each in entries]


def _distinct(attacks: object, stack: ExitStack) -> list[methods.Entry]:
    """Return the entries of attacks; a function that is there several times is registered once."""
    given = attacks if isinstance(attacks, list | tuple) and not _is_pair(attacks) else [attacks]
    known: dict[int, str] = {}
    return [methods.attack_entry(each, stack, known) for each in given]


def _is_pair(value: list[Any] | tuple[Any, ...]) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping)


def _with_budget(entry: methods.Entry, eps: object, norm: str | None) -> methods.Entry:
    body = {**entry} if norm is None else {"norm": norm, **entry}
    if eps is not None and "eps" not in body:
        is_linf = body.get("norm", methods.own_norm(body["use"])) == "linf"
        body |= {"eps": eps} if norm is not None or is_linf else {}
    if "eps" in body:
        each = body["eps"]
        body["eps"] = [_exact(one) for one in each] if isinstance(each, list | tuple) else _exact(each)
    return body


def _exact(eps: object) -> object:
    """Return the budget that a number means: 8 / 255, which no float is, where it is the float nearest to that."""
    if not isinstance(eps, float):
        return eps
    levels = round(eps * 255) if 0 <= eps <= 1 else 0
    return f"{levels}/255" if levels / 255 == eps else float(eps)


def images_of(
    images: object,
    labels: object,
    asked: Subject,
    *,
    n: int | None,
    layout: str | None,
    quantize: bool,
    num_classes: int | None,
    images_name: str,
    data_folder: Path | None,
    stack: ExitStack,
) -> methods.Entry:
    """Return the ``[dataset]`` section of the images of a call."""
    if isinstance(images, str):
        if labels is not None:
            raise UsageError(f"dataset {images} has labels itself: leave labels out")
        if asked.net is not None:
            test = open_set(images, "test", folder=data_folder, n=1)
            classes_of(asked.net, np.zeros((1, *test.images.shape[1:]), np.float32), asked.arch)
        return {"name": images, "n": n}
    own = own_images.read(images, labels, layout=layout, rounding=quantize, n=n)
    return own_set(own, asked, n=n, num_classes=num_classes, images_name=images_name, stack=stack)


def own_set(
    own: LabelledImages,
    asked: Subject,
    *,
    n: int | None,
    num_classes: int | None,
    images_name: str,
    stack: ExitStack,
    exact: bytes | None = None,
) -> methods.Entry:
    """Return the ``[dataset]`` section of images that were handed over.

    Raises:
        UsageError: the network does not take them, a label is none of its classes, or a step needs more to train on.
    """
    for step in asked.steps:
        _require_trained(step)
    if asked.net is not None:
        classes = classes_of(asked.net, own.pixels[:1].astype(np.float32) / 255, asked.arch)
        if num_classes not in (None, classes):
            raise UsageError(f"num_classes = {num_classes}, but the network tells {classes} classes apart")
    else:
        classes = num_classes or int(own.labels.max()) + 1
    own_images.require_classes(own.labels, classes)
    called = methods.checked_name(images_name, "images")
    test = memory.image_set(called, own.pixels, own.labels, classes, exact)
    return {"name": stack.enter_context(memory.offered(test)), "n": n, "subset": "first"}


def _require_trained(step: methods.Entry) -> None:
    """Raises UsageError: a step stands on a score network that would have to be trained."""
    entry = registry.entries("test-time").get(str(step["use"]))
    score = None if entry is None else step.get("score", entry.meta.get("score"))
    if isinstance(score, str) and not score.startswith("weights:"):
        raise UsageError(
            f"{step['use']}: '{score}' is trained on images, and these were handed over without any; give its weights, "
            "as in score = 'weights:FILE'"
        )


def classes_of(net: nn.Module, image: np.ndarray[Any, Any], arch: str) -> int:
    """Return how many classes a network tells apart, given one image float32 (1, C, H, W).

    Raises:
        UsageError: it cannot take the image, or returns no row of logits.
    """
    name = arch.removeprefix(registry.LIVE)
    parameter = next(net.parameters(), None)
    x = torch.from_numpy(image).to(parameter.device if parameter is not None else "cpu")
    try:
        with isolated(f"network {name}"), frozen(net), torch.no_grad():
            logits = net(x)
    except Exception as error:
        message = first_line(error) or type(error).__name__
        other = sorted({str(each.dtype) for each in net.parameters()} - {"torch.float32"})
        more = f"; its weights are {', '.join(other)}: call net.float()" if other else ""
        shape = "x".join(map(str, image.shape[1:]))
        raise UsageError(f"network '{name}' cannot take float32 images of {shape}: {message}{more}") from None
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != 1:
        kind = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UsageError(
            f"network '{name}' returns {kind} for one image, not logits (1, classes); wrap it in a module that does"
        )
    return int(logits.shape[1])


def planned(
    asked: Subject,
    dataset: methods.Entry,
    attacks: list[methods.Entry],
    *,
    seed: int,
    batch: int | str,
    data_folder: Path | None,
    device: str | torch.device,
) -> tuple[Config, Work]:
    """Return the configuration that a call means, and its plan with the names that tables show.

    Raises:
        UsageError: a name or value that is not allowed.
    """
    body = {
        "schema": 1,
        "name": PLAN,
        "seeds": [seed],
        "dataset": dataset,
        "models": [{"arch": asked.arch, **asked.keys}],
        # A step is judged against the classifier under it, so that is always there.
        "defenses": [{"use": asked.base}, *({**step, "base": asked.base} for step in asked.steps)],
        "attacks": attacks,
        "run": {"batch": batch},
    }
    try:
        config = Config.model_validate(body)
    except ValidationError as error:
        known = AttackConfig.model_fields if error.errors()[0]["loc"][:1] == ("attacks",) else Config.model_fields
        raise UsageError(registry.explain(error, known=known)) from None
    for key, value in body.items():
        registry.require_numbers(value, getattr(config, {"schema": "schema_"}.get(key, key)), key)
    try:
        work = plan.make(config, data_folder=data_folder)
    except UsageError as error:
        # There is no file that the line could name.
        raise UsageError(str(error).removeprefix(f"{PLAN}: ")) from None
    return config, replace(
        work,
        plan=RunPlan(name=PLAN, cells=tuple(_renamed(work.plan.cells, asked.shown))),
        requested=tuple(_renamed(work.requested, asked.shown)),
    )


def _renamed(cells: Iterable[PlannedCell], words: Mapping[str, str]) -> Iterable[PlannedCell]:
    for each in cells:
        names = each.names.model_dump()
        for word, short in words.items():
            names |= {key: names[key].replace(word, short) for key in ("model", "defense")}
        yield each.model_copy(update={"names": type(each.names)(**names)})


def device_named(device: str | torch.device) -> torch.device:
    """Return the device of a call; ``auto`` takes a GPU where there is one.

    Raises:
        UsageError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise UsageError(f"device = {shown(device)}: it is 'auto', 'cpu' or 'cuda'") from None
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"device = '{chosen}': it is 'auto', 'cpu' or 'cuda'")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device = '{chosen}': torch sees no CUDA device here; use 'cpu' or 'auto'")
    return chosen
