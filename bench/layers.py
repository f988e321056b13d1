"""TOML files laid over one another: presets, the files that extend them, and the variants that they hold."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench import registry
from bench.types import UsageError

PRESETS = Path(__file__).parent / "presets"


def presets() -> dict[str, str]:
    """Return the summary of every preset by name."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(PRESETS.glob("*.toml"))}
    return {name: str(tomllib.loads(text).get("summary", "")) for name, text in texts.items()}


class Layered(NamedTuple):
    """A TOML file with everything that belongs over and under it."""

    path: Path
    body: dict[str, Any]
    #: The variant of each kind that is part of it: asked for, or a default.
    variants: dict[str, str]


def read(name_or_file: str, variants: Mapping[str, str]) -> Layered:
    """Return a TOML file, laid over the one that it extends, with the variants that were asked for laid over both.

    A variant that nobody asked for counts only where a file names it in ``default``. It then lies over that file, and
    under those that extend it, as if they had been written over the file with its defaults.

    Args:
        name_or_file: a preset, or a file that ends with ``.toml``.
        variants: of each kind of variant the one that is wanted, such as ``{"scale": "tiny"}``.

    Raises:
        UsageError: no such preset, file or variant, or not such a TOML file.
    """
    found = _with_defaults(name_or_file, frozenset(variants))
    body = found.body
    for kind, wanted in variants.items():
        _check(kind, wanted, found.kinds, where=found.path.name)
        body = merge(body, found.kinds[kind][wanted])
    return Layered(found.path, body, {**found.defaults, **variants})


class _File(NamedTuple):
    path: Path
    body: dict[str, Any]
    kinds: dict[str, dict[str, dict[str, Any]]]
    defaults: dict[str, str]


def _with_defaults(name_or_file: str, decided: frozenset[str], above: tuple[str, ...] = ()) -> _File:
    """Return a file over the one that it extends, with its defaults of the kinds that are not yet ``decided``."""
    if name_or_file in above:
        raise UsageError(f"{name_or_file} extends itself: {' -> '.join([*above, name_or_file])}")
    path, body = _parsed(name_or_file)
    own = _variants(body.pop("variants", {}), path)
    named = _defaults(body.pop("default", {}), path)
    if "include" in body and (own or named):
        raise UsageError(f"{path.name} includes others: variants and their default stand in those, not in it")
    kinds, inherited = own, dict[str, str]()
    if (extended := body.pop("extends", None)) is not None:
        under = _with_defaults(extended, decided | named.keys(), (*above, name_or_file))
        body, kinds, inherited = merge(under.body, body), merge(under.kinds, own), under.defaults
    for kind, wanted in inherited.items():
        # What the extended file has of it already lies underneath.
        body = merge(body, own.get(kind, {}).get(wanted, {}))
    for kind, wanted in named.items():
        _check(kind, wanted, kinds, where=f"{path.name}: default")
        if kind not in decided:
            body = merge(body, kinds[kind][wanted])
    return _File(path, body, kinds, {**inherited, **{kind: named[kind] for kind in named if kind not in decided}})


def _check(kind: str, wanted: str, kinds: Mapping[str, Mapping[str, Any]], *, where: str) -> None:
    if wanted not in kinds.get(kind, {}):
        raise UsageError(f"{where}: {registry.unknown(kind, wanted, kinds.get(kind, {}))}")


def _variants(tables: Any, path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    if not isinstance(tables, dict) or not all(
        isinstance(kind, dict) and all(isinstance(body, dict) for body in kind.values()) for kind in tables.values()
    ):
        raise UsageError(f"{path.name}: variants are tables such as [variants.scale.tiny]")
    return tables


def _defaults(names: Any, path: Path) -> dict[str, str]:
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UsageError(f'{path.name}: default names variants, as in default = {{ scale = "tiny" }}, not {names!r}')
    return names


def _parsed(name_or_file: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name_or_file)
    if path.suffix != ".toml":
        path = PRESETS / f"{name_or_file}.toml"
        if name_or_file not in presets():
            raise UsageError(registry.unknown("preset", name_or_file, presets()))
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no configuration file {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not a readable TOML file: {error}") from None


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged
