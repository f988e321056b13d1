"""What ``doctor FILE`` says: what a checkpoint holds, which network fits, and the lines of TOML to paste."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import command
from bench.display.base import Display
from bench.types import UsageError, listed, shown
from bench.visible import visible

if TYPE_CHECKING:
    from bench.models.checkpoints.candidates import Candidate
    from bench.models.checkpoints.contents import StateDict
    from bench.models.checkpoints.summary import Layer, Summary

_IMAGES = (".npz", ".npy", ".png", ".jpg", ".jpeg", ".parquet", ".mat")
#: Values beside the weights that are shown, and state dicts.
_MOST_VALUES, _MOST_STATES = 8, 6


def main(args: argparse.Namespace) -> int:
    """Print what a checkpoint holds.

    Raises:
        UsageError: it is no checkpoint, or one that cannot be read.
    """
    from bench.models import weights

    name = args.file if args.file.startswith("weights:") else f"weights:{args.file}"
    _require_checkpoint(Path(args.file))
    path = weights.find(name)
    display: Display = args.display
    with display.phase("loading torch"):
        from bench.models.checkpoints import contents, files, hashes, reading
    with display.phase(f"reading {path.name}"):
        content = reading.read(path)
        states = contents.state_dicts(content)
        sha = weights.sha256(path)
        card = hashes.exported(path)
    _say("file", f"{path}, {files.size(path):,} bytes, SHA-256 {sha[:16]}")
    if card is not None:
        _say("exported", _exported(card))
    if not states:
        raise UsageError(f"{path} holds no state dict of a network{contents.instead(content)}")
    if (values := _values(content, states)) != "":
        _say("beside", values)
    if len(states) > 1:
        names = listed((shown(state.name) for state in states), _MOST_STATES)
        _say("state dicts", f"{len(states)}: {names}; key in the [[defenses]] entry chooses one")
    for state in states[:_MOST_STATES]:
        _print_state(state, content, name, state.name if len(states) > 1 else None, display)
    return 0


def _require_checkpoint(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix == ".toml":
        raise UsageError(f"{path} is a configuration; {command.name()} plan {path} checks it")
    if suffix in _IMAGES:
        raise UsageError(f"{path} looks like images; doctor takes a checkpoint (.safetensors, .pt, .pth, .ckpt)")


def _say(title: str, text: str) -> None:
    print(visible(f"{title:<14} {text}"))


def _exported(card: Mapping[str, Any]) -> str:
    """Return what the card beside exported weights says that they are."""
    epochs = f"epoch {shown(card.get('epoch'), 20)} of {shown(card.get('epochs_planned'), 20)}"
    return f"{shown(card.get('name'))[1:-1]}, {epochs}, training {shown(card.get('key'))[1:13]}; its hashes are right"


def _values(content: Any, states: Sequence[StateDict]) -> str:
    """Return what lies beside the state dicts: numbers and texts as they are, the rest by name."""
    if not isinstance(content, Mapping) or states[0].name is None:
        return listed(map(shown, states[0].beside), _MOST_VALUES)
    names = {str(state.name).partition(".")[0] for state in states}
    others = [(name, value) for name, value in content.items() if name not in names]
    return listed((_value(name, value) for name, value in others), _MOST_VALUES)


def _value(name: object, value: object) -> str:
    text = shown(name)[1:-1] if isinstance(name, str) else shown(name)
    # A number of NumPy is shown as one of Python.
    plain = value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value
    return f"{text} = {shown(plain, 40)}" if isinstance(plain, str | int | float) else text


def _print_state(state: StateDict, content: Any, name: str, key: str | None, display: Display) -> None:
    from bench.models.checkpoints import candidates, normalising, summary

    shape = summary.of(state)
    _say("state dict", "the file itself" if state.name is None else shown(state.name))
    _say("  tensors", f"{shape.tensors:,}, {shape.parameters:,} parameters, {', '.join(shape.dtypes)}")
    if shape.prefix:
        _say("  prefix", f"{shown(shape.prefix)}, taken off when it is loaded")
    _say("  classes", _layer(shape.classes, "the last linear layer, {}"))
    _say("  channels", _layer(shape.channels, "the first convolution, {}"))
    if shape.normalisation is not None:
        _say("  normalises", f"{normalising.described(shape.normalisation)}, inside the file")
    if (problem := summary.problem(state)) is not None:
        _say("  unusable", problem)
    fitting = _fitting(state, shape, candidates.stated_name(content), display)
    none = "no network of Crossfire, and none of torchvision or timm that was tried"
    _say("  fits", f"{', '.join(map(_described, fitting)) or none} (by names and shapes)")
    print(visible(_toml(fitting, name, key), lines=True))


def _layer(layer: Layer | None, words: str) -> str:
    if layer is None:
        return "not known"
    sizes = "x".join(map(str, layer.shape))
    return f"{layer.number}, by {words.format(f'{shown(layer.name)[1:-1]} ({sizes})')}"


def _fitting(state: StateDict, shape: Summary, stated: str | None, display: Display) -> list[Candidate]:
    from bench.models.checkpoints import candidates

    with display.phase("comparing with Crossfire's networks"):
        fitting = [each for each in candidates.of_crossfire(state, shape) if each is not None]
    if fitting:
        return fitting
    with display.phase("looking for networks of torchvision and timm"):
        names = candidates.of_libraries(state, shape, stated)
    with display.phase("comparing with networks of torchvision and timm", len(names)) as progress:
        for index, arch in enumerate(names):
            progress(index, arch)
            if candidates.fits_library(arch, state, shape):
                fitting.append(candidates.Candidate(arch, {}))
    return fitting


def _described(candidate: Candidate) -> str:
    params = ", ".join(f"{name} = {value}" for name, value in candidate.params.items())
    size = candidate.image_size
    return candidate.arch + (f" ({params})" if params else "") + (f" for images of {size}x{size}" if size else "")


def _toml(fitting: Sequence[Candidate], name: str, key: str | None) -> str:
    """Return the entries of a configuration that use a state dict on the first network that fits."""
    file = name.removeprefix("weights:")
    # The network of a package is found by its name alone, and a home folder is another on another machine.
    source = f"weights:{os.path.abspath(file)}" if os.path.lexists(file) else name
    lines = ["", "[[models]]"]
    if fitting:
        size = fitting[0].image_size
        lines.append(f"arch = {_quoted(fitting[0].arch)}" + (f"  # for images of {size}x{size}" if size else ""))
        lines += [f"{key} = {value}" for key, value in fitting[0].params.items()]
    else:
        lines.append('arch = "FILE.py:FACTORY"  # the function or class that makes your network')
    lines += ["", "[[defenses]]", f"use = {_quoted(source)}"]
    lines += [f"key = {_quoted(key)}"] if key is not None else []
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
