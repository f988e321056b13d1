"""The rows and columns of a table that a configuration describes, each checked against the registry."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from bench import registry
from bench.config.sections import AttackConfig, Config, DefenseConfig
from bench.config.sweeps import MOST, base_label, combinations, labels_of, sweep, towards
from bench.types import (
    Access,
    CraftPrecision,
    MethodRef,
    Norm,
    Scalar,
    Schedule,
    Threat,
    UsageError,
    located,
    shown,
)

#: The attack, with its parameters, that chooses the epoch of an adversarial recipe on images set aside.
CHOOSING: tuple[str, Mapping[str, Any]] = ("pgd", {"steps": 20})

#: The norms that the images of a library are checked in, its default first.
_LIBRARY_NORMS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")
_DEFAULT_EPS: Mapping[Norm, str | None] = {
    "linf": "8/255",
    "l2": "1/2",
    "l1": "12",
    "wasserstein": "1/200",
    "flow": None,
    "corruption": None,
}


class Base(NamedTuple):
    """Where base weights come from: a recipe with its schedule and the preset that distinguishes it, or a file.

    ``key`` is which of the state dicts in the file.
    """

    recipe: MethodRef | None
    schedule: Schedule | None
    weights: str | None
    preset: str | None = None
    key: str | None = None


class Score(NamedTuple):
    """The network of a purifier that predicts noise: its weights, and its name with its parameters."""

    weights: Base
    arch: str
    params: tuple[tuple[str, Scalar], ...]


class Defense(NamedTuple):
    """One row of the table."""

    label: str
    base: Base
    step: MethodRef | None
    score: Score | None = None


class Attack(NamedTuple):
    """One column of the table under one access."""

    label: str
    method: MethodRef
    threat: Threat
    access: Access
    eot: int
    max_passes: int | None
    rule_given: bool
    purifiers_only: bool = False
    source: Base | None = None
    source_seed: int | None = None
    #: As the configuration says it: a class may be given by its name.
    target: str | int | None = None
    craft_precision: CraftPrecision = "auto"


class _Row(NamedTuple):
    """A row with what its label is made of: a name, parameters, and which of these were swept."""

    name: str
    base: Base
    step: MethodRef | None
    params: Mapping[str, Any]
    swept: frozenset[str]
    score: Score | None = None


def defenses(config: Config) -> list[Defense]:
    """Return the rows: every defense with its base, sweeps spread out, duplicates dropped.

    Raises:
        UsageError: a name or value that is not allowed.
    """
    rows: list[_Row] = []
    with config.located("defenses"):
        times = [max(1, len(_listed(each.base))) * max(1, len(_listed(each.score))) for each in config.defenses]
        require_few("defenses", zip((each.params for each in config.defenses), times, strict=True))
        for index, each in enumerate(config.defenses):
            with located(f"defenses[{index}] ({each.use})"):
                step = _step(each.use)
                rows += _classifiers(config, each) if step is None else _deployed(config, each, step)
    shown_of_base = {"preset", "key"}
    labels = labels_of(
        [
            (row.name, {**row.params, "preset": row.base.preset, "key": row.base.key}, row.swept | shown_of_base)
            for row in rows
        ]
    )
    deduplicated: dict[tuple[Base, MethodRef | None, Score | None], Defense] = {}
    for label, row in zip(labels, rows, strict=True):
        deduplicated.setdefault((row.base, row.step, row.score), Defense(label, row.base, row.step, row.score))
    return list(deduplicated.values())


def _step(use: str) -> registry.Entry | None:
    """Return the test-time step of a name; nothing where it is a recipe or weights.

    Raises:
        UsageError: it is no defense.
    """
    if ".py:" in use:
        return registry.find("test-time", use) if _is_file_step(use) else None
    if use.startswith(registry.LIVE):
        return registry.find("test-time", use)
    if (entry := registry.entries("test-time").get(use)) is not None:
        return entry
    if use.startswith("weights:") or use in registry.entries("recipe"):
        return None
    raise UsageError(registry.unknown_method("defense", use, "recipe", "test-time"))


def _classifiers(config: Config, each: DefenseConfig) -> Iterator[_Row]:
    if each.base is not None:
        raise UsageError(f"base belongs to a test-time step; '{each.use}' makes base weights itself")
    _require_no_score(each)
    if not each.use.startswith("weights:"):
        _require_no_key(each)
    for params, swept in sweep(each.params):
        for base in _with_keys(_base(config, each.use, {**each.train, **params}), each):
            yield _Row(base_label(each.use), base, None, {**params, **each.train}, swept)


def _deployed(config: Config, each: DefenseConfig, entry: registry.Entry) -> Iterator[_Row]:
    default = str(entry.meta.get("base") or "standard")
    bases = [(name, _base(config, name, each.train)) for name in _listed(each.base) or [default]]
    if not any(base.weights for _, base in bases):
        _require_no_key(each)
    for name, base in bases:
        label = entry.name if name == default else f"{entry.name}@{base_label(name)}"
        inside = _with_keys(base, each), _scores(config, each, entry), sweep(each.params)
        for chosen, score, (params, swept) in itertools.product(*inside):
            ref = entry.ref(params)
            told = {**ref.params, **each.train, **_told_of(score)}
            always = {"score"} if len(_listed(each.score)) > 1 else set[str]()
            yield _Row(label, chosen, ref, told, swept | always, score)


def _scores(config: Config, each: DefenseConfig, entry: registry.Entry) -> list[Score | None]:
    """Return the score networks that a test-time step is to stand on; nothing for one that has none.

    Raises:
        UsageError: the step has none, or the recipe makes no weights of one.
    """
    default = entry.meta.get("score")
    if default is None:
        _require_no_score(each)
        return [None]
    network = each.score_network or {"arch": str(entry.meta.get("score_network") or "unet")}
    arch, params = str(network["arch"]), {name: value for name, value in network.items() if name != "arch"}
    names = _listed(each.score) or [str(default)]
    weights = [_base(config, name, each.score_train, noun="score", kind="score-recipe") for name in names]
    for name, base in zip(names, weights, strict=True):
        if base.schedule is not None and base.schedule.holdout:
            raise UsageError(
                f"holdout = {base.schedule.holdout} keeps the epoch that is right most often, and '{name}' trains a "
                "score, which classifies nothing: leave it at 0"
            )
    return [Score(base, arch, tuple(sorted(params.items()))) for base in weights]


def _told_of(score: Score | None) -> dict[str, Any]:
    """Return what the name of a row may say of its score."""
    if score is None:
        return {}
    recipe = score.weights.recipe
    told = recipe.name if recipe is not None else base_label(str(score.weights.weights))
    return {"score": told, "score_network": score.arch, **{f"score_network.{key}": each for key, each in score.params}}


def _require_no_score(each: DefenseConfig) -> None:
    given = {"score": each.score, "score_network": each.score_network, "score_train": each.score_train or None}
    if names := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"{names[0]} belongs to a diffusion purifier; '{each.use}' has no score")


def _with_keys(base: Base, each: DefenseConfig) -> list[Base]:
    """Return base weights once for each state dict that is named in their file; those of a recipe as they are."""
    if base.weights is None:
        return [base]
    return [base._replace(key=key) for key in _listed(each.key)] or [base]


def _require_no_key(each: DefenseConfig) -> None:
    if each.key is not None:
        raise UsageError(f"key chooses among the state dicts of a weights file (weights:...); '{each.use}' has none")


def attacks(config: Config) -> list[Attack]:
    """Return the columns: every attack under each requested access, sweeps expanded.

    Args:
        config: the checked configuration.

    Raises:
        UsageError: a name or value that is not allowed.
    """
    columns: list[_Column] = []
    with config.located("attack"):
        _check_shared("attack", ("attack",), config.attack, AttackConfig.model_fields)
    with config.located("attacks"):
        entries = []
        for index, config_entry in enumerate(config.attacks):
            with located(where := f"attacks[{index}] ({config_entry.use})"):
                entries.append((where, *_with_entry(config, config_entry)))
        require_few("attacks", [(_swept(each), len(each.access) + len(_listed(each.source))) for _, each, _ in entries])
        for where, each, entry in entries:
            with located(where):
                columns += _columns(config, each, entry)
    parts = [
        (
            f"{a.label}\n{a.access}",
            {
                **a.method.params,
                "norm": a.threat.norm,
                "eps": str(a.threat.eps),
                "max_passes": a.max_passes,
                "craft_precision": a.craft_precision,
                "preset": preset,
                "file": _place(a.method),
            },
            shown,
        )
        for a, preset, shown in columns
    ]
    labels = [label.replace(f"\n{a.access}", "") for label, (a, _, _) in zip(labels_of(parts), columns, strict=True)]
    return list(
        dict.fromkeys(attack._replace(label=label) for label, (attack, _, _) in zip(labels, columns, strict=True))
    )


class _Column(NamedTuple):
    attack: Attack
    #: The one that distinguishes the attack.
    preset: str | None
    swept: frozenset[str]


def _columns(config: Config, each: AttackConfig, entry: registry.Entry) -> Iterator[_Column]:
    precision = _craft_precision(each, entry)
    for params, swept in sweep(_swept(each)):
        eps, target = params.pop("eps", each.eps), params.pop("target", each.target)
        method = _method(entry, each.use, params)
        preset = _telling(entry, params.get("preset"))
        threat = _threat(entry, each, eps)
        if target is not None:
            _require_targetable(entry, each.use, params)
        label = _attack_label(entry, each.use) + towards(target) + (" bf16" if precision == "bf16" else "")
        ruled = "rule" in params or "rule" in (entry.meta.get("presets") or {}).get(params.get("preset"), {})
        only = bool(entry.meta.get("purifiers_only"))
        attack = Attack(label, method, threat, "static", each.eot, each.max_passes, ruled, only, target=target)
        attack = attack._replace(craft_precision=precision)
        columns = [attack._replace(access=access) for access in each.access if access != "transfer"]
        # A corruption by itself says nothing: its kind and severity are what a budget is elsewhere.
        told = {"preset", *(("kind", "severity") if threat.norm == "corruption" else ())}
        for column in (*columns, *_transfers(config, each, attack)):
            # The name of a targeted attack says its target.
            yield _Column(column, preset, (swept | told) - {"target"})


def _craft_precision(each: AttackConfig, entry: registry.Entry) -> CraftPrecision:
    """Return the precision that leads an attack; ``auto`` of one that nothing of ours leads.

    Raises:
        UsageError: it is to be bfloat16, and nothing of the attack would be.
    """
    if steps_along_gradients(entry):
        return each.craft_precision
    if each.craft_precision == "bf16":
        why = "is run by a library" if entry.kind == "library" or entry.meta.get("requires") else "takes no gradients"
        raise UsageError(
            f'craft_precision: {each.use} {why}, so all of its passes are float32; leave it out, or take "auto"'
        )
    return "auto"


def steps_along_gradients(entry: registry.Entry) -> bool:
    """Say whether an attack gets its gradients from the harness: a library that it needs takes them by itself."""
    is_ours = entry.kind != "library" and not entry.meta.get("requires")
    return is_ours and entry.meta.get("needs", "gradient") == "gradient"


def _require_targetable(entry: registry.Entry, use: str, params: Mapping[str, Any]) -> None:
    """Raises UsageError: the attack cannot aim at a class, or not with these parameters."""
    if not entry.meta.get("targetable"):
        attacks = registry.entries("attack").items()
        able = ", ".join(sorted(name for name, each in attacks if each.meta.get("targetable")))
        raise UsageError(f"target: {use} cannot aim at a class; these can: {able}")
    if params.get("loss") == "kl":
        raise UsageError(
            'target: the loss "kl" only leads away from the clean answer; take "cross-entropy" or "margin"'
        )


def _method(entry: registry.Entry, use: str, params: Mapping[str, Any]) -> MethodRef:
    if not entry.meta.get("reads_images"):
        return entry.ref(params, name=use if entry.kind == "library" else None)
    # The plan adds the hash of the file; its place is no part of what is attacked.
    ref, file = entry.ref(params), use.partition(":")[2]
    if pattern := entry.meta.get("file"):
        file = str(Path(file, pattern.format(**ref.params)))
    return ref.model_copy(update={"file": file})


def _place(method: MethodRef) -> str | None:
    """Return the file of saved images, or the folder in which parameters choose it."""
    if method.file is None or not registry.entry_of(method).meta.get("file"):
        return method.file
    return str(Path(method.file).parent)


def _attack_label(entry: registry.Entry, use: str) -> str:
    if entry.meta.get("reads_images"):
        return f"{entry.name}:{Path(use.partition(':')[2]).name}"
    return use if entry.kind == "library" else entry.name


def _with_entry(config: Config, attack: AttackConfig) -> tuple[AttackConfig, registry.Entry]:
    prefix = attack.use.partition(":")[0]
    is_library = attack.use != prefix and prefix in registry.entries("library")
    entry = registry.find("library" if is_library else "attack", prefix if is_library else attack.use)
    with_shared = _with_shared(config, attack, entry)
    return (_fixed(with_shared, attack, entry) if entry.meta.get("reads_images") else with_shared), entry


def _fixed(with_shared: AttackConfig, own: AttackConfig, entry: registry.Entry) -> AttackConfig:
    """Return an attack whose images are fixed: it is static or transferred, and needs no source.

    Raises:
        UsageError: it asks for what fixed images cannot be.
    """
    if not own.use.partition(":")[2]:
        what, right = ("folder", "DIR") if entry.meta.get("file") else ("file", "adv.npz")
        raise UsageError(f"'{own.use}' names no {what}; right is: {own.use}{right}")
    if "access" in own.model_fields_set and "adaptive" in own.access:
        raise UsageError(
            "saved images adapt to no defense: access is 'static', or 'transfer' if they were made on another network"
        )
    if own.source is not None or own.source_train or own.source_seed is not None:
        raise UsageError("source belongs to an attack that is run; saved images are already made")
    access = [each for each in with_shared.access if each != "adaptive"]
    return with_shared.model_copy(update={"access": access or ["static"], "source": None})


def _swept(each: AttackConfig) -> dict[str, Any]:
    listed = {"eps": each.eps, "target": each.target}
    return {**each.params, **{key: value for key, value in listed.items() if isinstance(value, list)}}


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def require_few(axis: str, entries: Iterable[tuple[Mapping[str, Any], int]]) -> None:
    """Check that an axis of a plan is no longer than a plan can hold, before it is made.

    Args:
        axis: what it is made of, for the message.
        entries: the parameters of each entry, and how often each combination of them is requested.

    Raises:
        UsageError: it is longer.
    """
    count = sum(combinations(params) * times for params, times in entries)
    if count > MOST:
        raise UsageError(f"{axis}: their lists have {count:,} combinations; a plan takes at most {MOST:,}")


def _with_shared(config: Config, config_entry: AttackConfig, entry: registry.Entry) -> AttackConfig:
    """Return an attack with what ``[attack]`` gives to all that know it, and to it by name, below its own words."""
    known = {*AttackConfig.model_fields, *entry.parameters.model_fields}
    is_corruption = entry.meta.get("norms") == ("corruption",)
    if is_corruption:
        known -= {"eps", "norm"}
    if not entry.meta.get("targetable"):
        known -= {"target"}
    if not steps_along_gradients(entry):
        known -= {"craft_precision"}
    presets = entry.meta.get("presets") or {}
    shared = {
        key: value for key, value in config.attack.items() if key in known or (key == "preset" and value in presets)
    }
    named = config.attack.get(entry.name)
    own = named if isinstance(named, dict) else {}
    body = {**shared, **own, **config_entry.model_dump(exclude_unset=True)}
    try:
        attack = AttackConfig.model_validate(body)
        registry.require_numbers(body, attack)
        # It sees nothing, so all defenses on one classifier get the same images.
        unsaid = is_corruption and "access" not in body
        return attack.model_copy(update={"access": ["static"]}) if unsaid else attack
    except ValidationError as error:
        raise UsageError(registry.explain(error, known=AttackConfig.model_fields)) from None


def _telling(entry: registry.Entry, preset: str | None) -> str | None:
    """Return the preset if there are several, so that the name must show it."""
    presets = entry.meta.get("presets") or {}
    return preset if [*presets.values()].count(presets.get(preset)) == 1 and presets.get(preset) else None


def _transfers(config: Config, each: AttackConfig, attack: Attack) -> Iterator[Attack]:
    sources = _listed(each.source)
    if attack.method.file is not None:
        yield from [attack._replace(access="transfer")] if "transfer" in each.access else []
        return
    if ("transfer" in each.access) != bool(sources):
        raise UsageError("access 'transfer' and source, the recipe or weights to attack instead, go together")
    if each.source_train and not sources:
        raise UsageError("source_train changes the training of source, which is missing")
    if each.source_key is not None and not any(source.startswith("weights:") for source in sources):
        raise UsageError("source_key chooses among the state dicts of a source that is a weights file (weights:...)")
    other = "".join(f" {key} {value}" for key, value in each.source_train.items())
    for source in sources:
        base = _base(config, source, each.source_train)
        if base.weights is not None:
            base = base._replace(key=each.source_key)
        key = "" if base.key is None else f" key {base.key}"
        seed = other + ("" if each.source_seed is None else f" seed {each.source_seed}")
        yield attack._replace(
            label=f"{attack.label} from {base_label(source)}{key}{seed}",
            access="transfer",
            source=base,
            source_seed=each.source_seed,
        )


def _threat(entry: registry.Entry, each: AttackConfig, eps: Any) -> Threat:
    norms: Sequence[Norm] = entry.meta.get("norms") or _LIBRARY_NORMS
    minimised = _minimised(entry, each.use)
    norm = each.norm or (minimised if eps is None and minimised else norms)[0]
    if eps is None and minimised:
        threat = Threat(norm=norm, eps=None)
        if (why := wrong_threat(entry, each.use, threat)) is not None:
            raise UsageError(f"{why}: set eps or norm" if norm in norms else why)
        return threat
    if norm not in norms:
        raise UsageError(_not_kept_to(entry, norm, norms))
    if eps is None and norm not in _DEFAULT_EPS:
        raise UsageError(f"{each.use} has no default budget in {norm}: set eps")
    try:
        return Threat(norm=norm, eps=_DEFAULT_EPS[norm] if eps is None else eps)
    except ValidationError as error:
        raise UsageError(registry.explain(error, known=Threat.model_fields)) from None


def wrong_threat(entry: registry.Entry, use: str, threat: Threat) -> str | None:
    """Return why an attack cannot have a threat, in one line; ``None`` where it can.

    Args:
        entry: of the attack, or of the library that has it.
        use: what a configuration calls it.
        threat: its norm and budget.
    """
    norms: Sequence[Norm] = entry.meta.get("norms") or _LIBRARY_NORMS
    if threat.norm not in norms:
        return _not_kept_to(entry, threat.norm, norms)
    if threat.eps is not None:
        return None
    if minimised := _minimised(entry, use):
        is_minimised = threat.norm in minimised
        return None if is_minimised else f"without eps, {use} minimises {' or '.join(minimised)}, not {threat.norm}"
    # Of these norms there are attacks whose default is no budget.
    has_none = threat.norm in _DEFAULT_EPS and _DEFAULT_EPS[threat.norm] is None
    return None if has_none else f"without eps, {use} has no budget in {threat.norm}, and it needs one"


def _not_kept_to(entry: registry.Entry, norm: Norm, norms: Sequence[Norm]) -> str:
    return f"norm '{norm}' is not one that {entry.name} keeps to: {', '.join(norms)}"


def _minimised(entry: registry.Entry, use: str) -> Sequence[Norm]:
    """Return the norms that an attack minimises where it has no budget, its default first; none if it needs one."""
    if entry.kind != "library":
        return () if entry.meta.get("bounded", True) else entry.meta["norms"]
    norms: Sequence[Norm] = (entry.meta.get("minimises") or {}).get(use.partition(":")[2], ())
    return norms


def _is_file_step(use: str) -> bool:
    if ".py:" not in use:
        return False
    try:
        registry.find("test-time", use)
    except UsageError:
        registry.find("recipe", use)
        return False
    return True


def _base(config: Config, use: str, overrides: Mapping[str, Any], *, noun: str = "base", kind: str = "recipe") -> Base:
    """Return where weights come from.

    Args:
        config: the configuration, whose ``[train]`` is laid under the overrides.
        use: a recipe or ``weights:FILE``.
        overrides: settings of the recipe.
        noun: what the weights are, for the error line.
        kind: of the recipe.

    Raises:
        UsageError: there is no such recipe, or a setting is not one of it.
    """
    if use.startswith("weights:"):
        if overrides:
            raise UsageError(f"{use} is trained already; it takes no {', '.join(sorted(overrides))}")
        return Base(None, None, use)
    if ".py:" not in use and use not in registry.entries(kind):
        bases = registry.unknown_method(noun, use, kind)
        raise UsageError(f"{bases}{'' if 'did you mean' in bases else ', or weights:<file>'}")
    entry = registry.find(kind, use)
    own = config.train.get(entry.name)
    own = own if isinstance(own, dict) else {}
    shared = {key: value for key, value in config.train.items() if not isinstance(value, dict)}
    with config.located("train"):
        _check_shared("train", ("recipe", "score-recipe"), config.train, Schedule.model_fields)
    known = {*entry.parameters.model_fields, *Schedule.model_fields, "preset"}
    settings = {**{key: value for key, value in shared.items() if key in known}, **own, **overrides}
    for key in settings:
        if key not in known:
            raise UsageError(registry.unknown("key of train", key, known))
    schedule = {
        **(entry.meta.get("schedule") or {}),
        **{k: v for k, v in settings.items() if k in Schedule.model_fields},
    }
    params = {key: value for key, value in settings.items() if key not in Schedule.model_fields}
    try:
        ref = entry.ref(params)
        checked = Schedule.model_validate(schedule)
        registry.require_numbers(schedule, checked, "train")
        return Base(ref, checked, None, _telling(entry, params.get("preset")))
    except ValidationError as error:
        line = registry.explain(error, where="train", known=Schedule.model_fields)
        of_all = {*error.errors()[0]["loc"]} & config.train.keys() - overrides.keys()
        with config.located("train") if of_all else nullcontext():
            raise UsageError(line) from None


def _check_shared(
    section: str, kinds: tuple[str, ...], settings: Mapping[str, Any], section_keys: Iterable[str]
) -> None:
    """Raises UsageError: a shared section names no such method, or a key that no method of its kinds has."""
    entries = dict(itertools.chain.from_iterable(registry.entries(kind).items() for kind in kinds))
    known = {"preset", *section_keys}.union(*(entry.parameters.model_fields for entry in entries.values()))
    if "preset" in settings and not isinstance(settings["preset"], str):
        raise UsageError(f"[{section}]: preset names one preset for all that have it, not {shown(settings['preset'])}")
    for key, value in settings.items():
        if isinstance(value, dict) and key not in entries:
            raise UsageError(f"[{section}.{key}]: {registry.unknown_method(kinds[0], key, *kinds)}")
        if not isinstance(value, dict) and key not in known:
            raise UsageError(f"[{section}]: {registry.unknown('key', key, known)}{registry.perhaps_in(key)}")
