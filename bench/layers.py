"""TOML files laid over one another: presets, the files that extend them, and the variants that they hold."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import registry
from bench.types import UsageError

PRESETS = Path(__file__).parent / "presets"


def presets() -> dict[str, str]:
    """Return the summary of every preset by name."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(PRESETS.glob("*.toml"))}
    return {name: str(tomllib.loads(text).get("summary", "")) for name, text in texts.items()}


def chosen(name_or_file: str, variants: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
    """Return a file with one variant of every kind laid over it: the one asked for, or the first.

    Raises:
        UsageError: as :func:`read`; or there is no such variant.
    """
    path, body = read(name_or_file)
    kinds = body.pop("variants", {})
    for kind, wanted in variants.items():
        if wanted not in kinds.get(kind, {}):
            raise UsageError(f"{path.name}: {registry.unknown(kind, wanted, kinds.get(kind, {}))}")
    for kind, tables in kinds.items():
        body = merge(body, tables[variants.get(kind, next(iter(tables)))])
    return path, body


def read(name_or_file: str, *above: str) -> tuple[Path, dict[str, Any]]:
    """Return a TOML file laid over the one that it extends; ``above`` are those that lie on it."""
    if name_or_file in above:
        raise UsageError(f"{name_or_file} extends itself: {' -> '.join([*above, name_or_file])}")
    path = Path(name_or_file)
    if path.suffix != ".toml":
        path = PRESETS / f"{name_or_file}.toml"
        if name_or_file not in presets():
            raise UsageError(registry.unknown("preset", name_or_file, presets()))
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no configuration file {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not a readable TOML file: {error}") from None
    if (under := body.pop("extends", None)) is not None:
        body = merge(read(under, *above, name_or_file)[1], body)
    return path, body


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged
