"""Which state dicts a checkpoint holds, and which of them is meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.registry import unknown
from bench.types import UsageError, listed, shown

if TYPE_CHECKING:
    from torch import Tensor

#: Parts of names of what lies beside a network and also holds tensors: optimizers, losses, counters.
_AUXILIARY = re.compile(
    r"(^|[._-])(optim\w*|opt|sched\w*|lr\w*|scaler|amp|criterion\w*|loss\w*|rng\w*|random\w*|hyper\w*|hparams|config|cfg"
    r"|args|callbacks?|loops|metrics?|history|meters?)([._-]|$)",
    re.IGNORECASE,
)
#: How deep state dicts are looked for: ``{"ema": {"module": ...}}`` has two levels.
_LEVELS = 2
#: The name of a state dict that is the file itself, where others lie beside its tensors.
_TOP = "."
#: Names that a line lists.
_NAMED = 8


class StateDict(NamedTuple):
    """Tensors by their names; ``name`` is where they lie in the file, ``None`` if they are all of it.

    ``beside`` are the names of plain values among them, such as an epoch.
    """

    name: str | None
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()


def is_auxiliary(name: str) -> bool:
    """Say whether a name is that of an optimizer, a loss or the like: of training, not of a network."""
    return _AUXILIARY.search(name) is not None


def state_dicts(content: Any) -> list[StateDict]:
    """Return the state dicts in what a file holds, in its order; those of optimizers and the like are no such."""
    if not isinstance(content, Mapping):
        return []
    top = _state_dict(None, content)
    nested = list(_nested(content, "", _LEVELS))
    if not nested:
        return [] if top is None else [top]
    # Single tensors beside a state dict are counters, such as a best accuracy; names of layers have dots.
    if top is not None and any("." in name for name in top.tensors):
        return [top._replace(name=_TOP), *nested]
    return nested


def _nested(content: Mapping[Any, Any], above: str, levels: int) -> Iterator[StateDict]:
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Mapping) or is_auxiliary(name.replace("state_dict", "")):
            continue
        path = f"{above}{name}"
        if (inner := _state_dict(path, value)) is not None:
            yield inner
        elif levels > 1:
            yield from _nested(value, f"{path}.", levels - 1)


def _state_dict(path: str | None, content: Mapping[Any, Any]) -> StateDict | None:
    import torch

    if not all(isinstance(name, str) for name in content):
        return None
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    beside = tuple(name for name in content if name not in tensors)
    return StateDict(path, tensors, beside) if tensors else None


def choose(path: Path, content: Any, key: str | None) -> StateDict:
    """Return the state dict that is meant.

    Args:
        path: of the file, for what is said.
        content: what it holds.
        key: the name of one in the file; ``ema`` also stands for the only one of an average of weights, and the first
            part of the names in a state dict for what they begin.

    Raises:
        UsageError: there is none, or there are several and none is named, or none of that name.
    """
    known = state_dicts(content)
    if not known:
        raise UsageError(f"{path} is not a state dict (names to tensors){instead(content)}")
    if key is not None:
        return _named(path, known, key)
    if len(known) == 1:
        return known[0]
    names = [_quoted(str(each.name)) for each in known]
    there = f"{len(known)} state dicts: {listed(names, _NAMED)}"
    raise UsageError(f"{path} holds {there}; say which with key, such as key = {names[0]}")


def _named(path: Path, known: list[StateDict], key: str) -> StateDict:
    names = {str(each.name): each for each in known if each.name is not None}
    averages = [each for name, each in names.items() if "ema" in re.split(r"[._-]", name.lower())]
    if key in names:
        return names[key]
    if key == "ema" and len(averages) == 1:
        return averages[0]
    if len(known) == 1 and (part := _part(known[0], key)) is not None:
        return part
    if not names:
        raise UsageError(f"{path} holds one state dict without a name, and none called {shown(key)}; leave out key")
    raise UsageError(f"{path}: key: {unknown('state dict', key, names)}")


def _part(state: StateDict, key: str) -> StateDict | None:
    """Return the tensors whose names begin with ``key`` and a dot, named without it."""
    start = f"{key.rstrip('.')}."
    tensors = {name.removeprefix(start): value for name, value in state.tensors.items() if name.startswith(start)}
    return StateDict(start, tensors) if tensors else None


def instead(content: Any) -> str:
    """Return what a file holds that has no state dict, for the end of a line."""
    if not isinstance(content, Mapping):
        return f", but a {type(content).__name__}"
    if not content:
        return ": it is empty"
    if "param_groups" in content:
        return ", but that of an optimizer"
    return f": it holds {listed((_quoted(str(name)) for name in content), _NAMED)}"


def _quoted(name: str) -> str:
    return '"' + shown(name)[1:-1] + '"'
