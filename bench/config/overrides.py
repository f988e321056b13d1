"""Settings given beside a file, as ``--set attacks.pgd.steps=50`` gives them: a dotted path, and a TOML value."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any, NamedTuple

from bench import registry
from bench.config import overlay
from bench.types import UsageError, shown

#: Lists of tables, and the key of an entry that names it.
_NAMED_BY = {"models": "arch", "defenses": "use", "attacks": "use"}
_FLAG = "--set"


class Setting(NamedTuple):
    """One setting as it was given: its text, the keys of its path and its value."""

    text: str
    path: tuple[str, ...]
    value: Any


def setting(text: str) -> Setting:
    """Return what ``KEY=VALUE`` means.

    Args:
        text: the path in TOML's dotted keys, so that a key with other letters may stand in quotes; behind the first
            ``=`` that ends a path, a TOML value. Any other text is taken as it is: ``run.device=cpu`` needs no quotes.

    Raises:
        UsageError: there is no ``=``, the path is none, or the value is nothing that a setting takes.
    """
    for key, value in _splits(text):
        path = _path(key)
        if path is not None:
            overlay.require_plain(chosen := _value(value.strip()), (), f"{_FLAG} {shown(text)}")
            return Setting(text, path, chosen)
    raise UsageError(f"{_FLAG} {shown(text)}: KEY=VALUE is needed, such as attacks.pgd.steps=50 or dataset.n=1000")


def _splits(text: str) -> Iterator[tuple[str, str]]:
    """Yield a path and a value for each ``=``: in quotes, a key may hold one."""
    position = text.find("=")
    while position >= 0:
        yield text[:position], text[position + 1 :]
        position = text.find("=", position + 1)


def _path(key: str) -> tuple[str, ...] | None:
    if not key.strip() or len(key) > overlay.LONGEST_KEY or "\n" in key:
        return None
    try:
        body: Any = tomllib.loads(f"{key} = 0")
    except ValueError:
        return None
    path = []
    while isinstance(body, dict):
        (part,) = body
        path.append(part)
        body = body[part]
    return tuple(path)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def applied(body: Mapping[str, Any], settings: Sequence[Setting]) -> tuple[list[overlay.Layer], list[Setting]]:
    """Return a layer for each setting that applies to a configuration, and those that do not.

    An entry of a list is addressed by its name (``attacks.pgd``: all entries of that name) or its number
    (``attacks.0``). A setting does not apply where no entry has that name: of several configurations another may.

    Args:
        body: all layers of the configuration below the settings, as one.
        settings: in the order in which they were given; a later one wins.

    Raises:
        UsageError: a path leads through something that is no table, or to a number that the list does not have.
    """
    layers: list[overlay.Layer] = []
    elsewhere: list[Setting] = []
    below = deepcopy(dict(body))
    for each in settings:
        places = list(_places(below, each))
        if not places:
            elsewhere.append(each)
        for place in places:
            _put(below, place, each)
        top = each.path[0]
        if places:
            layers.append(overlay.Layer(f"{_FLAG} {each.text}", {top: deepcopy(below[top])}, tuple(places)))
    return layers, elsewhere


def nowhere(bodies: Iterable[Mapping[str, Any]], unused: Setting) -> UsageError:
    """Return the error of a setting that none of several configurations has an entry for."""
    section, name, *_ = unused.path
    entries = chain.from_iterable(body.get(section, ()) for body in bodies)
    names = {str(entry.get(_NAMED_BY[section])) for entry in entries if isinstance(entry, dict)}
    return UsageError(f"{_FLAG} {unused.text}: {registry.unknown(f'entry of {section}', name, names)}")


def _places(body: Mapping[str, Any], each: Setting) -> Iterator[tuple[str | int, ...]]:
    """Yield the key paths that a setting means: several where entries of a list have one name."""
    section, *rest = each.path
    entries = body.get(section)
    if section not in _NAMED_BY or not rest or not isinstance(entries, list):
        yield each.path
        return
    name, *inside = rest
    if not inside:
        raise UsageError(f"{_FLAG} {each.text}: a key of the entry is missing, as in {section}.{name}.KEY=VALUE")
    if name.isascii() and name.isdecimal():
        if int(name) >= len(entries):
            raise UsageError(f"{_FLAG} {each.text}: {section} has {len(entries)} entries, numbered from 0")
        yield (section, int(name), *inside)
        return
    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and entry.get(_NAMED_BY[section]) == name:
            yield (section, index, *inside)


def _put(body: Any, place: Sequence[str | int], each: Setting) -> None:
    for key in place[:-1]:
        below = body.setdefault(key, {}) if isinstance(body, dict) else body[key]
        if not isinstance(below, dict | list):
            raise UsageError(f"{_FLAG} {each.text}: {key} is {shown(below)}, not a table")
        body = below
    if not isinstance(body, dict):
        raise UsageError(f"{_FLAG} {each.text}: {place[-2]} is a list; give all of it, as in {place[-2]}=[...]")
    body[place[-1]] = each.value
