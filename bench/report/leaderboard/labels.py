"""What defenses and attacks are called in a table, so that no two things go by one name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from bench.differences import short
from bench.keys import sha256_hex
from bench.types import CellResult, Measured, TrainRef, listed, usage
from bench.visible import visible

Params = Mapping[str, Any]

#: Parameters that a label may name.
MAX_LABEL_PARAMS = 3
#: Letters that these may take.
_LONGEST = 200
#: Fields that a note on two namesakes lists.
_MAX_FIELDS = 6


def shortest_name(what: Literal["defense", "attack"], results: Sequence[Measured]) -> str:
    """Return the shortest of the names that configurations gave to the same defense or attack.

    One with the name of its method goes before others: these may have come from another row.
    """
    method = _method(what, results[0])
    return min({str(getattr(r.names, what)) for r in results}, key=lambda name: (method not in name, len(name), name))


def _method(what: Literal["defense", "attack"], result: Measured) -> str:
    cell = result.cell
    if what == "attack":
        return cell.attack.attack.name if cell.attack is not None else ""
    if cell.step is not None:
        return cell.step.name
    return cell.model.weights.recipe.name if isinstance(cell.model.weights, TrainRef) else ""


def unique(names: Mapping[str, tuple[str, Params]]) -> dict[str, str]:
    """Tell things of one name apart: by the few parameters that differ, or else by the first digits of their key."""
    namesakes: dict[str, list[str]] = defaultdict(list)
    for each, (name, _) in names.items():
        namesakes[name].append(each)
    labels: dict[str, str] = {}
    for name, group in namesakes.items():
        params = [names[each][1] for each in group]
        keys = _differing(params)
        shown = [visible(",".join(f"{key}={own[key]}" for key in keys if own.get(key) is not None)) for own in params]
        plain = len(keys) <= MAX_LABEL_PARAMS and len(set(shown)) == len(group) and max(map(len, shown)) <= _LONGEST
        for each, about in zip(group, shown, strict=True):
            if len(group) > 1 and not plain:
                labels[each] = f"{name} #{sha256_hex(each)[:4]}"
            elif len(group) > 1 and about:
                labels[each] = f"{name[:-1]},{about}]" if name.endswith("]") else f"{name}[{about}]"
            else:
                labels[each] = name
    return {each: labels[each] for each in names}


def distinctions(labels: Mapping[str, str], content: Callable[[str], Mapping[str, Any]]) -> dict[str, str]:
    """Return what distinguishes things that only the digits of their key tell apart: the fields in which they differ.

    Args:
        labels: from :func:`unique`.
        content: returns all that one is made of, as data.
    """
    namesakes: dict[str, list[str]] = defaultdict(list)
    for each, label in labels.items():
        if label.endswith(suffix := f" #{sha256_hex(each)[:4]}"):
            namesakes[label.removesuffix(suffix)].append(each)
    texts: dict[str, str] = {}
    for group in namesakes.values():
        fields = [dict(_fields(content(each))) for each in group]
        keys = _differing(fields)
        for each, own in zip(group, fields, strict=True):
            parts = (f"{key} {short(own.get(key))}" for key in keys)
            texts[each] = visible(listed(parts, _MAX_FIELDS, noun="field"))
    return texts


def _fields(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested data, each with the names that lead to it."""
    for name, value in content.items():
        where = path if name == "params" else f"{path} {name}".strip()
        if isinstance(value, Mapping):
            yield from _fields(value, where)
        else:
            yield where, value


def _differing(params: Sequence[Params]) -> list[str]:
    """Return the names of the parameters that not all have with the same value."""
    names = set(chain.from_iterable(params))
    return sorted(name for name in names if len({str(own.get(name)) for own in params}) > 1)


def attack_params(r: Measured) -> Params:
    """Return the parameters of an attack that may distinguish it from a namesake."""
    if (attack := r.cell.attack) is None:
        return {}
    params = {k: v for k, v in attack.attack.params.items() if k != "rule"}
    used = {name: value for name, value in usage(attack).items() if name in ("max_passes", "craft_precision")}
    return {**params, **used}


def defense_params(r: CellResult) -> Params:
    """Return the parameters of a recipe, its training and a step that may distinguish them from a namesake."""
    weights, step = r.cell.model.weights, r.cell.step.params if r.cell.step else {}
    if not isinstance(weights, TrainRef):
        return step
    return {**weights.schedule.model_dump(), "images": weights.data.n, **weights.recipe.params, **step}
