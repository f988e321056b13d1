"""The methods of a cell, part by part, and how two cells differ."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.keys import sha256_hex
from bench.types import AttackRef, Cell, CellResult, Earlier, Kind, MethodRef, ModelRef, TrainRef, threat_text, usage

#: The new name of a method by its part and old name: ``{("attack", "pgd"): "pgd-linf"}``.
Renames = Mapping[tuple[str, str], str]

#: Prefix of the parts of the model that a transferred attack was crafted on.
SOURCE = "source "
#: The setting that lists the earlier attacks of a suite, and the prefix of their parameters.
_AFTER = "after"
#: Beginnings of fields of a cell that are those of its methods and its threat, and among these copies of others.
_METHODS = ("step", "model.network.", "attack")
_COPIES = ("attack.model.", "attack.data.", "attack.step.")
#: What the beginnings of other fields mean.
_BEGINNINGS = {"data.": "dataset", "model.weights.data.": "training set", "model.weights.": "training"}
#: Letters of a value in a line, and digits of a hash.
_LONGEST = 60
_HASH_DIGITS = 8
_HASH = re.compile("[0-9a-f]{32,}")


class UsedMethod(NamedTuple):
    """A method as a cell uses it: its name, its settings, and the hash of its code."""

    name: str
    settings: Mapping[str, Any]
    code: str


class Changed(NamedTuple):
    """A parameter that has another value in the head; ``None`` where a side has no such parameter."""

    part: str
    method: str
    parameter: str
    base: Any
    head: Any

    def __str__(self) -> str:
        values = ["none" if value is None else str(value) for value in (self.base, self.head)]
        return f"{self.method}: {self.parameter} {' -> '.join(values)}"


def methods_by_part(cell: Cell, renames: Renames | None = None) -> dict[str, UsedMethod]:
    """Return the methods of a cell by their part, renamed ones under their new names.

    The parts are network, recipe or weights, step and attack; where an attack is transferred also source network and
    source recipe or source weights.
    """
    methods = _of_model(cell.model)
    if cell.step is not None:
        methods["step"] = _used_step(cell.step)
    if (attack := cell.attack) is not None:
        settings = {**attack.attack.params, **_used_as(attack), **_suite_settings(attack, renames or {})}
        methods["attack"] = UsedMethod(attack.attack.name, settings, attack.attack.code_sha)
        if attack.model != cell.model:
            methods |= {f"{SOURCE}{part}": method for part, method in _of_model(attack.model).items()}
    if not renames:
        return methods
    return {
        part: method._replace(name=renames.get((part.removeprefix(SOURCE), method.name), method.name))
        for part, method in methods.items()
    }


def _of_model(model: ModelRef) -> dict[str, UsedMethod]:
    network, weights = _used_network(model.network), model.weights
    if not isinstance(weights, TrainRef):
        file = {"file": f"#{weights.sha256[:16]}"}
        return {"network": network, "weights": UsedMethod(weights.name, file, weights.sha256)}
    schedule = {f"schedule.{key}": value for key, value in weights.schedule.model_dump(mode="json").items()}
    data = weights.data
    images = f"{data.subset} {data.n} (#{data.indices_sha[:8]} of #{data.data_sha[:8]})"
    settings = {**weights.recipe.params, **schedule, "training images": images}
    return {"network": network, "recipe": UsedMethod(weights.recipe.name, settings, weights.recipe.code_sha)}


def _used(method: MethodRef) -> UsedMethod:
    return UsedMethod(method.name, method.params, method.code_sha)


def _used_step(step: MethodRef) -> UsedMethod:
    """Return a test-time step; what its score is made of counts as its own."""
    if step.score is None:
        return _used(step)
    inside = _of_model(step.score)
    settings = {f"score.{part}": method.name for part, method in inside.items()}
    for part, method in inside.items():
        settings |= {f"score.{part}.{key}": value for key, value in method.settings.items()}
    sha = sha256_hex(step.code_sha, *(method.code for method in inside.values()))
    return UsedMethod(step.name, {**step.params, **settings}, sha)


def _used_network(network: MethodRef) -> UsedMethod:
    """Return a network; the parameters of an ensemble include those of its members, by their number."""
    settings = dict(network.params)
    for number, member in enumerate(network.members, start=1):
        settings |= {f"{number}.{key}": value for key, value in {"network": member.name, **member.params}.items()}
    return UsedMethod(network.name, settings, network.code_sha)


def _used_as(attack: Earlier | AttackRef) -> dict[str, int | str]:
    """Return how an attack is used, also in what precision where that is left to the device: a value to compare."""
    return {"craft_precision": attack.craft_precision, **usage(attack)}


def _suite_settings(attack: AttackRef, renames: Renames) -> dict[str, Any]:
    """Return the earlier attacks of a suite, and their parameters."""
    counts: Counter[str] = Counter()
    settings: dict[str, Any] = {}
    for earlier in attack.after:
        name = renames.get(("attack", earlier.attack.name), earlier.attack.name)
        counts[name] += 1
        prefix = f"{_AFTER} {name}" if counts[name] == 1 else f"{_AFTER} {name} ({counts[name]})"
        settings |= {f"{prefix}: {key}": value for key, value in {**earlier.attack.params, **_used_as(earlier)}.items()}
    return {_AFTER: ", ".join(counts.elements()) or None, **settings}


def all_methods(cell: Cell) -> Iterator[tuple[str, UsedMethod]]:
    """Yield every method of a cell with its part, including a transfer's source and a suite's earlier attacks."""
    for part, method in methods_by_part(cell).items():
        own = {key: value for key, value in method.settings.items() if not key.startswith(_AFTER)}
        yield part.removeprefix(SOURCE), method._replace(settings=own)
    for earlier in cell.attack.after if cell.attack else ():
        settings = {**earlier.attack.params, **_used_as(earlier)}
        yield "attack", UsedMethod(earlier.attack.name, settings, earlier.attack.code_sha)


def methods_of(value: Cell | AttackRef) -> Iterator[MethodRef]:
    """Yield every method whose code the key of a cell or an adversarial set holds; some come several times."""
    yield from _methods_of_model(value.model)
    if value.step is not None:
        yield value.step
        if value.step.score is not None:
            yield from _methods_of_model(value.step.score)
    if isinstance(value, AttackRef):
        yield value.attack
        yield from (earlier.attack for earlier in value.after)
    elif value.attack is not None:
        yield from methods_of(value.attack)


def _methods_of_model(model: ModelRef) -> Iterator[MethodRef]:
    yield from model.network.members or (model.network,)
    if isinstance(model.weights, TrainRef):
        yield model.weights.recipe
        if model.weights.chosen_by is not None:
            yield model.weights.chosen_by


def changed_code(old: Cell, new: Cell) -> list[MethodRef]:
    """Return the methods of the new cell that the old one has too, by kind and name, but with other code."""
    before = _code_by_method(old)
    unlike = {
        (ref.kind, ref.name): ref
        for ref in methods_of(new)
        if ref.code_sha not in before.get((ref.kind, ref.name), {ref.code_sha})
    }
    return list(unlike.values())


def _code_by_method(cell: Cell) -> dict[tuple[Kind, str], set[str]]:
    code: dict[tuple[Kind, str], set[str]] = defaultdict(set)
    for ref in methods_of(cell):
        code[ref.kind, ref.name].add(ref.code_sha)
    return code


def changed(old: Cell, new: Cell, renames: Renames | None = None) -> tuple[Changed, ...]:
    """Return the parameters in which the methods of two cells differ. The cells have the same parts."""
    old_methods, new_methods = methods_by_part(old, renames), methods_by_part(new)
    changes: list[Changed] = []
    for part, before in old_methods.items():
        after = new_methods[part]
        for key in dict.fromkeys((*before.settings, *after.settings)):
            # An attack that only one of the suites has shows in the list of their attacks.
            in_one_suite = key.startswith(f"{_AFTER} ") and not (key in before.settings and key in after.settings)
            if before.settings.get(key) != after.settings.get(key) and not in_one_suite:
                changes.append(Changed(part, after.name, key, before.settings.get(key), after.settings.get(key)))
    return tuple(changes)


def code_changes(old: CellResult, new: CellResult) -> Iterator[str]:
    """Yield a line for every method of a pair whose code changed."""
    new_methods = methods_by_part(new.cell)
    for part, before in methods_by_part(old.cell).items():
        if _is_other_code(part, before, new_methods[part]):
            yield f"code of {new_methods[part].name} changed"


def _is_other_code(part: str, old: UsedMethod, new: UsedMethod) -> bool:
    # Weights have a hash of their file there.
    return part.removeprefix(SOURCE) != "weights" and old.code != new.code


def differences(old: Cell, new: Cell) -> Iterator[str]:
    """Yield a line for each difference between two cells, except in their code, in the words of tables."""
    if (old.data.indices_sha, old.data.n) != (new.data.indices_sha, new.data.n):
        lists = [f"{data.subset} {data.n} (#{data.indices_sha[:4]})" for data in (old.data, new.data)]
        yield f"other example lists: {' against '.join(lists)}"
    elif old.data.data_sha != new.data.data_sha:
        yield f"other images: data #{old.data.data_sha[:4]} against #{new.data.data_sha[:4]}"
    yield from other_threat(old, new)
    yield from _other_methods(old, new)
    yield from _other_fields(old, new)


def changes(old: Cell, new: Cell) -> Iterator[str]:
    """Yield a line for each difference between two cells of one question: code, parameters, threat, and what else.

    The cells have the same parts, of which one may have another name.
    """
    before, after = methods_by_part(old), methods_by_part(new)
    for part, method in before.items():
        if method.name != after[part].name:
            yield f"{part}: {method.name} -> {after[part].name}"
    of_parts = [after[part].name for part, method in before.items() if _is_other_code(part, method, after[part])]
    within = [ref.name for ref in changed_code(old, new)]
    yield from (f"code of {name} changed" for name in dict.fromkeys((*of_parts, *within)))
    yield from map(str, changed(old, new))
    yield from other_threat(old, new, "->")
    yield from _other_fields(old, new, "->")


def _other_fields(old: Cell, new: Cell, between: str = "against") -> Iterator[str]:
    """Yield a line for each field of two cells that differs and is none of their methods, threats or images."""
    old_fields, new_fields = (dict(_flat(cell.model_dump(mode="json"))) for cell in (old, new))
    for field in sorted(old_fields.keys() | new_fields.keys()):
        before, after = old_fields.get(field), new_fields.get(field)
        # The seed of what only one side has goes without saying.
        of_missing = field.endswith(".seed") and None in (before, after)
        if before != after and not _is_covered(field) and not of_missing:
            yield f"{_in_words(field)}: {short(before)} {between} {short(after)}"


def other_threat(old: Cell, new: Cell, between: str = "against") -> Iterator[str]:
    """Yield a line if the threats of two cells differ, with a word that stands between the two."""
    threats = [threat_text(cell.attack.threat) if cell.attack else "none" for cell in (old, new)]
    if threats[0] != threats[1]:
        yield f"threat: {f' {between} '.join(threats)}"


def attack_apart(attack: AttackRef) -> str:
    """Return an attack as a table tells its column from others: whatever the access lets it keep or average."""
    params = sorted((key, str(value)) for key, value in attack.attack.params.items() if key != "rule")
    used = {name: value for name, value in usage(attack).items() if name != "eot"}
    return f"{attack.attack.name} {params} {used}"


def _other_methods(old: Cell, new: Cell) -> Iterator[str]:
    """Yield a line for each method that only one of two cells has, and for each parameter of one that both have."""
    before, after = methods_by_part(old), methods_by_part(new)
    for part in dict.fromkeys((*before, *after)):
        one, two = before.get(part), after.get(part)
        if one is None or two is None or one.name != two.name:
            yield f"{part}: {_against(one and one.name, two and two.name)}"
            continue
        for key in dict.fromkeys((*one.settings, *two.settings)):
            if one.settings.get(key) != two.settings.get(key):
                yield f"{two.name}: {key} {_against(one.settings.get(key), two.settings.get(key))}"


def _against(old: object, new: object) -> str:
    return f"{short(old)} against {short(new)}"


def _is_covered(field: str) -> bool:
    """Say whether a field is code, or repeats what another line says."""
    images = ("data.indices_sha", "data.n", "data.subset", "data.data_sha")
    own = tuple(f"model.weights.{name}" for name in ("name", "sha256", "recipe.", "schedule.", *images))
    is_seed = field.endswith(".seed") and ".params." not in field and not field.startswith(_COPIES)
    is_of_method = field.startswith((*_METHODS, *own)) and not is_seed
    return field in images or field.endswith("code_sha") or is_of_method


def _in_words(field: str) -> str:
    """Return what a field that belongs to no method is called."""
    for beginning, words in _BEGINNINGS.items():
        if field.startswith(beginning):
            field = f"{words} {field.removeprefix(beginning)}"
            break
    return field.replace(".params.", " ").replace(".", " ").replace("_", " ")


def short(value: object) -> str:
    """Return a value for a line: of a hash the first digits, of a long text the beginning."""
    text = "none" if value is None else str(value)
    if _HASH.fullmatch(text):
        return f"#{text[:_HASH_DIGITS]}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
