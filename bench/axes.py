"""The axes of a table: what rows and columns a configuration asks for, each checked against the registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from bench import registry
from bench.config import AttackConfig, Config
from bench.sweeps import MOST, combinations, labels_of, sweep
from bench.types import Access, MethodRef, Norm, Schedule, Threat, UsageError, shown

#: The attack, with its parameters, that chooses the epoch of an adversarial recipe on images set aside.
CHOOSING: tuple[str, Mapping[str, Any]] = ("pgd", {"steps": 20})


class Base(NamedTuple):
    """Where base weights come from: a recipe with its schedule and the preset that tells it apart, or a file."""

    recipe: MethodRef | None
    schedule: Schedule | None
    weights: str | None
    preset: str | None = None


class Defense(NamedTuple):
    """One row of the table."""

    label: str
    base: Base
    step: MethodRef | None


class Attack(NamedTuple):
    """One column of the table under one access."""

    label: str
    method: MethodRef
    threat: Threat
    access: Access
    eot: int
    rule_given: bool
    purifiers_only: bool = False
    source: Base | None = None
    source_seed: int | None = None


def defenses(config: Config) -> list[Defense]:
    """Return the rows: every defense with its base, sweeps spread out, duplicates dropped."""
    rows: list[tuple[str, Base, MethodRef | None]] = []
    parts: list[tuple[str, Mapping[str, Any], frozenset[str]]] = []
    recipes = registry.entries("recipe")
    require_few("defenses", [(each.params, max(1, len(_listed(each.base)))) for each in config.defenses])
    for index, each in enumerate(config.defenses):
        where = f"defenses[{index}] ({each.use})"
        step_entry = registry.entries("test-time").get(each.use)
        if step_entry is None and _is_file_step(each.use):
            step_entry = registry.find("test-time", each.use)
        if step_entry is None:
            if not each.use.startswith("weights:") and ".py:" not in each.use and each.use not in recipes:
                raise UsageError(f"{where}: {registry.unknown_method('defense', each.use, 'recipe', 'test-time')}")
            if each.base is not None:
                raise UsageError(f"{where}: base belongs to a test-time step; '{each.use}' makes base weights itself")
            for params, swept in sweep(each.params):
                base = _base(config, each.use, {**each.train, **params}, where)
                label = _base_label(each.use)
                rows.append((label, base, None))
                parts.append((label, {**params, **each.train, "preset": base.preset}, swept | {"preset"}))
            continue
        default = str(step_entry.meta.get("base") or "standard")
        for name in _listed(each.base) or [default]:
            base = _base(config, name, each.train, where)
            label = step_entry.name if name == default else f"{step_entry.name}@{_base_label(name)}"
            for params, swept in sweep(each.params):
                ref = step_entry.ref(params)
                rows.append((label, base, ref))
                parts.append((label, {**ref.params, **each.train, "preset": base.preset}, swept | {"preset"}))
    labels = labels_of(parts)
    found: dict[tuple[Base, MethodRef | None], Defense] = {}
    for label, (_, base, step) in zip(labels, rows, strict=True):
        found.setdefault((base, step), Defense(label, base, step))
    return list(found.values())


def attacks(config: Config) -> list[Attack]:
    """Return the columns: every attack under each access asked for, sweeps spread out."""
    found: list[tuple[Attack, str | None, frozenset[str]]] = []
    _check_shared("attack", "attack", config.attack, AttackConfig.model_fields)
    asked = [
        _with_entry(config, given, f"attacks[{index}] ({given.use})") for index, given in enumerate(config.attacks)
    ]
    require_few("attacks", [(_swept(each), len(each.access) + len(_listed(each.source))) for each, _, _ in asked])
    for each, entry, where in asked:
        for params, swept in sweep(_swept(each)):
            eps = params.pop("eps", each.eps)
            is_library = entry.kind == "library"
            method = entry.ref(params, name=each.use if is_library else None)
            preset = _telling(entry, params.get("preset"))
            norms: Sequence[Norm] = entry.meta.get("norms") or ("linf", "l2")
            norm = each.norm or norms[0]
            if norm not in norms:
                raise UsageError(f"{where}: norm '{norm}' is not one that {entry.name} keeps to: {', '.join(norms)}")
            threat = _threat(norm, eps, bounded=bool(entry.meta.get("bounded", True)), where=where)
            label = each.use if is_library else entry.name
            ruled = "rule" in params or "rule" in (entry.meta.get("presets") or {}).get(params.get("preset"), {})
            attack = Attack(label, method, threat, "static", each.eot, ruled, bool(entry.meta.get("purifiers_only")))
            columns = [attack._replace(access=access) for access in each.access if access != "transfer"]
            columns += _transfers(config, each, attack, where)
            found += [(column, preset, swept | {"preset"}) for column in columns]
    parts = [
        (
            f"{a.label}\n{a.access}",
            {**a.method.params, "norm": a.threat.norm, "eps": str(a.threat.eps), "preset": preset},
            shown,
        )
        for a, preset, shown in found
    ]
    labels = [label.replace(f"\n{a.access}", "") for label, (a, _, _) in zip(labels_of(parts), found, strict=True)]
    return list(
        dict.fromkeys(attack._replace(label=label) for label, (attack, _, _) in zip(labels, found, strict=True))
    )


def _with_entry(config: Config, given: AttackConfig, where: str) -> tuple[AttackConfig, registry.Entry, str]:
    prefix = given.use.partition(":")[0]
    is_library = given.use != prefix and prefix in registry.entries("library")
    try:
        entry = registry.find("library" if is_library else "attack", prefix if is_library else given.use)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return _with_shared(config, given, entry, where), entry, where


def _swept(each: AttackConfig) -> dict[str, Any]:
    return {**each.params, **({"eps": each.eps} if isinstance(each.eps, list) else {})}


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def require_few(axis: str, asked: Iterable[tuple[Mapping[str, Any], int]]) -> None:
    """Check that an axis of a plan is no longer than a plan can hold, before it is made.

    Args:
        axis: what it is made of, for the message.
        asked: the parameters of each entry, and how often each combination of them is asked for.

    Raises:
        UsageError: it is longer.
    """
    count = sum(combinations(params) * times for params, times in asked)
    if count > MOST:
        raise UsageError(f"{axis}: their lists have {count:,} combinations; a plan takes at most {MOST:,}")


def _with_shared(config: Config, given: AttackConfig, entry: registry.Entry, where: str) -> AttackConfig:
    """Return an attack with what ``[attack]`` gives to all that know it, and to it by name, below its own words."""
    words = {*AttackConfig.model_fields, *entry.parameters.model_fields}
    presets = entry.meta.get("presets") or {}
    shared = {
        key: value for key, value in config.attack.items() if key in words or (key == "preset" and value in presets)
    }
    named = config.attack.get(entry.name)
    own = named if isinstance(named, dict) else {}
    body = {**shared, **own, **given.model_dump(exclude_unset=True)}
    try:
        attack = AttackConfig.model_validate(body)
        registry.require_numbers(body, attack, where)
        return attack
    except ValidationError as error:
        raise UsageError(registry.explain(error, where=where, known=AttackConfig.model_fields)) from None


def _telling(entry: registry.Entry, preset: str | None) -> str | None:
    """Return the preset if it is one of several different ones, so that it must stand beside the name."""
    presets = entry.meta.get("presets") or {}
    return preset if [*presets.values()].count(presets.get(preset)) == 1 and presets.get(preset) else None


def _transfers(config: Config, each: AttackConfig, attack: Attack, where: str) -> Iterator[Attack]:
    sources = _listed(each.source)
    if ("transfer" in each.access) != bool(sources):
        raise UsageError(f"{where}: access 'transfer' and source, the recipe or weights to attack instead, go together")
    if each.source_train and not sources:
        raise UsageError(f"{where}: source_train changes the training of source, which is missing")
    other = "".join(f" {key} {value}" for key, value in each.source_train.items())
    for source in sources:
        seed = other + ("" if each.source_seed is None else f" seed {each.source_seed}")
        yield attack._replace(
            label=f"{attack.label} from {_base_label(source)}{seed}",
            access="transfer",
            source=_base(config, source, each.source_train, where),
            source_seed=each.source_seed,
        )


def _threat(norm: Norm, eps: Any, *, bounded: bool, where: str) -> Threat:
    if eps is None and not bounded:
        return Threat(norm=norm, eps=None)
    defaults = {"linf": "8/255", "l2": "1/2", "wasserstein": "1/200", "flow": None}
    try:
        return Threat(norm=norm, eps=defaults[norm] if eps is None else eps)
    except ValidationError as error:
        raise UsageError(registry.explain(error, where=where, known=Threat.model_fields)) from None


def _base_label(use: str) -> str:
    """Return a recipe's name, a file's name for weights, and the function's for a recipe in a user's own file."""
    if use.startswith("weights:"):
        return f"weights:{Path(use.removeprefix('weights:')).name}"
    return use.rpartition(".py:")[2]


def _is_file_step(use: str) -> bool:
    if ".py:" not in use:
        return False
    try:
        registry.find("test-time", use)
    except UsageError:
        registry.find("recipe", use)
        return False
    return True


def _base(config: Config, use: str, overrides: Mapping[str, Any], where: str) -> Base:
    if use.startswith("weights:"):
        if overrides:
            raise UsageError(f"{where}: {use} is trained already; it takes no {', '.join(sorted(overrides))}")
        return Base(None, None, use)
    if ".py:" not in use and use not in registry.entries("recipe"):
        bases = registry.unknown_method("base", use, "recipe")
        raise UsageError(f"{where}: {bases}{'' if 'did you mean' in bases else ', or weights:<file>'}")
    entry = registry.find("recipe", use)
    own = config.train.get(entry.name)
    own = own if isinstance(own, dict) else {}
    shared = {key: value for key, value in config.train.items() if not isinstance(value, dict)}
    _check_shared("train", "recipe", config.train, Schedule.model_fields)
    known = {*entry.parameters.model_fields, *Schedule.model_fields, "preset"}
    given = {**{key: value for key, value in shared.items() if key in known}, **own, **overrides}
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: {registry.unknown('key of train', key, known)}")
    schedule = {**(entry.meta.get("schedule") or {}), **{k: v for k, v in given.items() if k in Schedule.model_fields}}
    params = {key: value for key, value in given.items() if key not in Schedule.model_fields}
    try:
        ref = entry.ref(params)
        made = Schedule.model_validate(schedule)
        registry.require_numbers(schedule, made, f"{where}: train")
        return Base(ref, made, None, _telling(entry, params.get("preset")))
    except ValidationError as error:
        raise UsageError(registry.explain(error, where=f"{where}: train", known=Schedule.model_fields)) from None


def _check_shared(section: str, kind: str, given: Mapping[str, Any], words: Iterable[str]) -> None:
    """Raises UsageError: a shared section names no such method, or a key that no method of its kind has."""
    entries = registry.entries(kind)
    known = {"preset", *words, *(key for entry in entries.values() for key in entry.parameters.model_fields)}
    if "preset" in given and not isinstance(given["preset"], str):
        raise UsageError(f"[{section}]: preset names one preset for all that have it, not {shown(given['preset'])}")
    for key, value in given.items():
        if isinstance(value, dict) and key not in entries:
            raise UsageError(f"[{section}.{key}]: {registry.unknown_method(kind, key, kind)}")
        if not isinstance(value, dict) and key not in known:
            raise UsageError(f"[{section}]: {registry.unknown('key', key, known)}{registry.perhaps_in(key)}")
