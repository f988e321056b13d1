"""Layered TOML files: presets, the files that extend them, and their variants."""

from __future__ import annotations

import math
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from bench import registry
from bench.types import UsageError, located, shown

PRESETS = Path(__file__).parent / "presets"
#: A configuration of more bytes than this is refused; 100,000 budgets take 1.2 MB.
MOST_BYTES = 2**22
#: How deeply tables and lists may be nested, and how long a chain of ``extends`` may be.
_DEEPEST = 12
_MOST_LAYERS = 16
LONGEST_KEY, _LONGEST_TEXT = 200, 4_000
#: Whole numbers are those that TOML promises to keep: 64 bits with a sign.
_LARGEST = 2**63
# tomllib takes time and memory by the square of the parts of a dotted key.
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_DOTTED = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{32}}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def presets() -> dict[str, str]:
    """Return the summary of every preset by name."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(PRESETS.glob("*.toml"))}
    return {name: str(tomllib.loads(text).get("summary", "")) for name, text in texts.items()}


class Layer(NamedTuple):
    """One layer of tables; ``name`` is its file, a variant of one, or an option of the command.

    ``changed``: of a layer that repeats lists of the layers below, the key paths that are its own.
    """

    name: str
    body: dict[str, Any]
    changed: tuple[tuple[str | int, ...], ...] | None = None

    def gives(self, key_path: Sequence[str | int]) -> bool:
        """Whether the value of a key comes from this layer."""
        if self.changed is None:
            return _has(self.body, key_path)
        return any(tuple(key_path[: len(own)]) == own for own in self.changed)

    def changes_below(self, key_path: Sequence[str | int]) -> bool:
        """Whether this layer changes something inside a value that another layer gives."""
        return any(own[: len(key_path)] == tuple(key_path) for own in self.changed or () if len(own) > len(key_path))


class Layered(NamedTuple):
    """A TOML file with everything that belongs over and under it."""

    path: Path
    #: Lowest first.
    layers: tuple[Layer, ...]
    #: The variant of each kind that is part of it: requested, or a default.
    variants: dict[str, str]

    @property
    def body(self) -> dict[str, Any]:
        """All layers as one."""
        return reduce(merge, (layer.body for layer in self.layers), {})

    def where(self, key_path: Sequence[str | int] = ()) -> str:
        """Return the name of the file and, of a key that another layer gives, that of the layer.

        Args:
            key_path: of the key, from the top of the file.
        """
        own = self.path.name
        giving = next((layer.name for layer in reversed(self.layers) if layer.gives(key_path)), own)
        below = [layer.name for layer in self.layers if layer.changes_below(key_path)]
        if giving == own and key_path and below:
            return f"{own} with {', '.join(below)}"
        return own if giving == own else f"{own} (from {giving})"


def _has(body: Any, key_path: Sequence[str | int]) -> bool:
    for key in key_path:
        # A list is never merged: one layer gives all of it.
        if isinstance(body, list):
            return True
        if not isinstance(body, dict) or key not in body:
            return False
        body = body[key]
    return True


def read(name_or_file: str, variants: Mapping[str, str], *, alone: bool = False) -> Layered:
    """Return a TOML file, merged over the one that it extends, with the requested variants merged over both.

    A variant that was not chosen applies only where a file names it in ``default``. It then applies to that file, and
    under those that extend it, as if they had been written over the file with its defaults.

    Args:
        name_or_file: a preset, or a file that ends with ``.toml``.
        variants: of each kind of variant the one that is wanted, such as ``{"scale": "tiny"}``.
        alone: one configuration is needed, so none that includes others.

    Raises:
        UsageError: no such preset, file or variant, not such a TOML file, or one that includes others with ``alone``.
    """
    file = _with_defaults(name_or_file, frozenset(variants))
    layers = list(file.layers)
    if alone and any("include" in layer.body for layer in layers):
        raise UsageError(f"{file.path.name} includes others, where one configuration is needed: name those instead")
    for kind, wanted in variants.items():
        _check(kind, wanted, file.kinds, where=file.path.name)
        layers.append(Layer(f"{kind} {wanted}", file.kinds[kind][wanted]))
    return Layered(file.path, tuple(layers), {**file.defaults, **variants})


class _File(NamedTuple):
    path: Path
    layers: tuple[Layer, ...]
    kinds: dict[str, dict[str, dict[str, Any]]]
    defaults: dict[str, str]


def _with_defaults(name_or_file: str, decided: frozenset[str], above: tuple[str, ...] = ()) -> _File:
    """Return a file over the one that it extends, with its defaults of the kinds that are not yet ``decided``."""
    if name_or_file in above:
        raise UsageError(f"{name_or_file} extends itself: {' -> '.join([*above, name_or_file])}")
    if len(above) > _MOST_LAYERS:
        raise UsageError(f"{above[0]} extends a chain of more than {_MOST_LAYERS} files")
    path, body = _parsed(name_or_file)
    own = _variants(body.pop("variants", {}), path)
    named = _defaults(body.pop("default", {}), path)
    if "include" in body and (own or named):
        raise UsageError(f"{path.name} includes others: write variants and their default in those, not in it")
    kinds = own
    inherited: dict[str, str] = {}
    under: tuple[Layer, ...] = ()
    if (extended := body.pop("extends", None)) is not None:
        if not isinstance(extended, str):
            raise UsageError(
                f'{path.name}: extends names one preset or file, as in extends = "quick", not {shown(extended)}'
            )
        with located(f"{path.name}: extends"):
            lower = _with_defaults(extended, decided | named.keys(), (*above, name_or_file))
        kinds = merge(lower.kinds, own)
        inherited, under = lower.defaults, lower.layers
    layers = [*under, Layer(path.name, body)]
    for kind, wanted in inherited.items():
        # The extended file's part of it is already below.
        layers.append(Layer(f"{path.name}, {kind} {wanted}", own.get(kind, {}).get(wanted, {})))
    for kind, wanted in named.items():
        _check(kind, wanted, kinds, where=f"{path.name}: default")
        if kind not in decided:
            layers.append(Layer(f"{path.name}, {kind} {wanted}", kinds[kind][wanted]))
    defaults = {**inherited, **{kind: named[kind] for kind in named if kind not in decided}}
    return _File(path, tuple(layers), kinds, defaults)


def _check(kind: str, wanted: str, kinds: Mapping[str, Mapping[str, Any]], *, where: str) -> None:
    if wanted in kinds.get(kind, {}):
        return
    other = next((each for each, names in kinds.items() if wanted in names), None)
    hint = "" if other is None else f"; '{wanted}' is a {other}"
    raise UsageError(f"{where}: {registry.unknown(kind, wanted, kinds.get(kind, {}))}{hint}")


def _variants(tables: Any, path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    if not isinstance(tables, dict) or not all(
        isinstance(kind, dict) and all(isinstance(body, dict) for body in kind.values()) for kind in tables.values()
    ):
        raise UsageError(f"{path.name}: variants are tables such as [variants.scale.tiny]")
    return tables


def _defaults(names: Any, path: Path) -> dict[str, str]:
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UsageError(
            f'{path.name}: default names variants, as in default = {{ scale = "tiny" }}, not {shown(names)}'
        )
    return names


def _parsed(name_or_file: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name_or_file)
    if path.suffix != ".toml":
        path = PRESETS / f"{name_or_file}.toml"
        if os.path.isfile(name_or_file):
            raise UsageError(f"{name_or_file}: the name of a configuration file ends with .toml")
        if name_or_file not in presets():
            raise UsageError(registry.unknown("preset", name_or_file, presets()))
    return path, parsed(path)


def parsed(path: Path) -> dict[str, Any]:
    """Return a TOML file as tables, lists, texts, finite numbers of 64 bits, true and false.

    Raises:
        UsageError: there is no such file, it is no regular one, too long, not TOML in UTF-8, nested too deeply, or
            holds something that no setting takes: a date, inf, nan, a control character.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        inside = "" if path.is_absolute() else f" in {os.getcwd()}"
        raise UsageError(f"no configuration file {path}{inside}") from None
    # A byte 0 in the name is a ValueError.
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(str(path))} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} has {max(size, len(data)):,} bytes; a configuration has at most {MOST_BYTES:,}")
    try:
        # Editors on Windows begin a file with a byte order mark.
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        if _LONG_DOTTED.search(text):
            raise ValueError("a dotted key of more than 32 parts")
        body = tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{path} is not a readable TOML file: lists or tables are nested too deeply") from None
    except ValueError as error:
        reason = "a number of thousands of digits" if "integer string conversion" in str(error) else error
        raise UsageError(f"{path} is not a readable TOML file: {reason}") from None
    require_plain(body, (), path.name)
    return body


def require_plain(value: Any, key_path: tuple[str | int, ...], where: str) -> None:
    """Check a value from TOML, and those inside it.

    Args:
        value: to check.
        key_path: of the value.
        where: the file, or the option, that it is from.

    Raises:
        UsageError: it is nothing that a setting takes.
    """
    if isinstance(value, dict | list):
        if len(key_path) >= _DEEPEST:
            raise UsageError(f"{_where(key_path, where)}: lists or tables are nested too deeply")
        if isinstance(value, dict) and (
            odd := [key for key in value if len(key) > LONGEST_KEY or _CONTROL.search(key)]
        ):
            raise UsageError(f"{_where(key_path, where)}: {shown(odd[0])} cannot be a key")
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            require_plain(inside, (*key_path, key), where)
        return
    if (problem := _problem(value)) is not None:
        raise UsageError(f"{_where(key_path, where)}: {shown(value)} {problem}")


def _problem(value: Any) -> str | None:
    """Return why no setting takes a single value; ``None`` where one may."""
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT:
            return f"is not a text of at most {_LONGEST_TEXT:,} characters: it has {len(value):,}"
        match = _CONTROL.search(value)
        return (
            None if match is None else f"has a control character, {match[0]!r}; a text has none but tabs and new lines"
        )
    if isinstance(value, int):
        if value >= _LARGEST:
            return "is too large; a whole number is at most 2^63 - 1"
        return None if value >= -_LARGEST else "is too small; a whole number is at least -2^63"
    if isinstance(value, float):
        return None if math.isfinite(value) else "is no finite number"
    return "is a date or time, which no setting takes; write texts in quotes"


def _where(key_path: tuple[str | int, ...], where: str) -> str:
    return f"{where}: {'.'.join(map(str, key_path))}" if key_path else where


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged
