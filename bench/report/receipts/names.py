"""Whether a cell is called in tables what it is: no key holds its names, so whoever gives it away may write any.

A name is read as :mod:`bench.config.expand` writes it: that of a method, words on its target or its source, and in
brackets parameters, each of which must be that of the cell. What a user chose freely, the name of a file or a folder of
weights or images, and of a class, is taken as it is, as long as it is a plain word.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bench import registry
from bench.config.sweeps import base_label, format_value, is_of_folder, towards
from bench.methods.declarations import dashed
from bench.report.receipts.methods import own_entry
from bench.types import (
    NETWORK_KEYS,
    AttackRef,
    Cell,
    CellResult,
    MethodRef,
    ModelRef,
    PlannedCell,
    TrainRef,
    WeightsRef,
    exact,
    shortened,
)

#: What a file, a folder or a class may be called in a name, where the cell does not say it.
_PLAIN = re.compile(r"[\w.+'-]+(?: [\w.+'-]+)*")
#: The same in the middle of a name, where words follow.
_WORD = re.compile(r"[\w.+'-]+")
#: Words of a class, which only the images know: each begins with a letter.
_CLASS = re.compile(r"\(?[^\W\d_][\w.,()'/&-]*(?: \(?[^\W\d_][\w.,()'/&-]*)*")
#: What follows a target in a name, and so is in that of no class; attacks are not, either.
_AFTER_CLASS = frozenset({"from", "to", "bf16", "key", "seed"})
#: What stands between two parameters; a value may have a comma.
_NEXT = re.compile(r",(?=[\w.-]+=)")
#: What follows the source of a transfer: words of which each has a value.
_SOURCE_WORDS = re.compile(r" ([\w.]+) (\[[^\]]*\]|\S+)")
_LONGEST = 200

#: The texts that a parameter may have in a name, by its own.
_Stated = Mapping[str, set[str]]


class _Label(NamedTuple):
    name: str
    #: What is in its brackets; ``None`` without any.
    inside: str | None


def misnamed(result: CellResult | PlannedCell) -> Iterator[str]:
    """Yield names in tables that are not those of what was measured, or is to be."""
    names, cell = result.names, result.cell
    if names.dataset != cell.data.name:
        yield f"it is called a cell of {_short(names.dataset)}, and its images are of {cell.data.name}"
    yield from _of_network(names.model, cell.model.network)
    yield from _of_defense(names.defense, cell)
    yield from _of_attack(names.attack, cell)


def beside_presets(result: CellResult | PlannedCell) -> Iterator[str]:
    """Yield what a name does not say of the preset in it: that another value was given for one of its parameters.

    So does a run's own table. Nothing is said of methods whose code here is another, as their presets may be.
    """
    cell, names = result.cell, result.names
    weights, attack = cell.model.weights, cell.attack
    recipe = weights.recipe if isinstance(weights, TrainRef) else None
    # Where it does not see the defense, an attack takes every step whatever its rule.
    ruled = set[str]() if cell.access in ("white-box", "adaptive") else {"rule"}
    for label, ref, besides in (
        (names.defense, recipe, set[str]()),
        (names.attack, None if attack is None else attack.attack, ruled),
    ):
        entry = None if ref is None else own_entry(ref)
        if ref is None or entry is None or entry.code_sha != ref.code_sha:
            continue
        told = dict(part.partition("=")[::2] for part in _parts(_split(label).inside or ""))
        settings = (entry.meta.get("presets") or {}).get(told.get("preset"), {})
        values = entry.spelled_out(settings)
        for key in sorted(settings.keys() & values.keys() - told.keys() - besides):
            if not _is_same(mine := _text(ref.params.get(key)), preset := _text(values[key])):
                yield f"{told['preset']} of {ref.name} has {key} = {preset} here, and {key} = {mine} was measured"


def _short(label: str) -> str:
    return shortened(label, _LONGEST)


def _split(label: str) -> _Label:
    """Return the name of a label and what is in the brackets at its end, which may have brackets themselves."""
    if not label.endswith("]"):
        return _Label(label, None)
    depth = 0
    for at in range(len(label) - 1, -1, -1):
        depth += (label[at] == "]") - (label[at] == "[")
        if depth == 0:
            return _Label(label[:at], label[at + 1 : -1])
    return _Label(label, None)


def _parts(inside: str) -> Iterator[str]:
    """Yield the parameters in brackets, as ``key=value``."""
    first = 0
    for comma in _NEXT.finditer(inside):
        before = inside[first : comma.start()]
        if before.count("[") == before.count("]"):
            yield before
            first = comma.end()
    yield inside[first:]


def _of_parameters(label: _Label, stated: _Stated, owner: str, whole: str) -> Iterator[str]:
    """Yield the parameters in the brackets of a label that are not those of the cell."""
    if label.inside is None:
        return
    for part in _parts(label.inside):
        key, _, value = part.partition("=")
        if not stated.get(key):
            yield f"it is called {_short(whole)}, and {owner} has no {_short(key) or 'parameter without a name'}"
        elif not any(_is_same(value, known) for known in stated[key]):
            yield f"it is called {_short(whole)}, and its {key} is {_short(' or '.join(sorted(stated[key])))}"


def _is_same(text: str, known: str) -> bool:
    """Say whether two texts mean one value: a budget may be written as a fraction and as a decimal."""
    if text == known:
        return True
    if text.split() != [text]:
        # A number with blanks in it is one number here, and may be read as two.
        return False
    try:
        return exact(text) == exact(known)
    except ValueError:
        return False


def _text(value: object) -> str:
    # As a configuration, which is a list, has it.
    return str(list(value)) if isinstance(value, tuple) else format_value(value)


def _stated(*sources: Mapping[str, object]) -> dict[str, set[str]]:
    known: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        for name, value in source.items():
            known[name].add(_text(value))
    return dict(known)


def _names_of(ref: MethodRef) -> set[str]:
    """Return what a method may be called: a file's by its symbol, and by the name that this is registered under."""
    symbol = ref.name.rpartition(".py:")[2]
    return {ref.name, symbol, dashed(symbol), ref.name.removeprefix(registry.LIVE)}


def _presets(ref: MethodRef | None, inside: str | None) -> set[str]:
    """Return the presets of a method; where nothing here knows them, the one that is named if it is a plain word."""
    if ref is None:
        return set()
    if (entry := own_entry(ref)) is not None:
        return set(entry.meta.get("presets") or {})
    return _named("preset", inside)


def _named(key: str, inside: str | None) -> set[str]:
    """Return a plain word that a name gives for something that no cell holds."""
    values = (part.partition("=")[2] for part in _parts(inside or "") if part.startswith(f"{key}="))
    return {value for value in values if _WORD.fullmatch(value)}


def _of_network(label: str, network: MethodRef) -> Iterator[str]:
    parts = _split(label)
    if parts.name != network.name:
        yield f"it is called a cell of {_short(label)}, and its network is {network.name}"
        return
    around = {value: key for key, value in NETWORK_KEYS.items()}
    sources: list[Mapping[str, object]] = [network.params]
    for number, member in enumerate(network.members, start=1):
        by_alias = {around[name]: value for name, value in member.params.items() if name in around}
        sources += [member.params, {f"{number}.{name}": value for name, value in (member.params | by_alias).items()}]
    yield from _of_parameters(parts, _stated(*sources), network.name, label)


def _of_defense(label: str, cell: Cell) -> Iterator[str]:
    parts, step = _split(label), cell.step
    if not _is_defense(parts.name, cell):
        yield f"it is called {_short(label)}, and {_defense_text(cell)} was measured"
        return
    stated = _stated(*_parameters(cell.model), *([] if step is None else [step.params, _of_score(step)]))
    weights = cell.model.weights
    stated["preset"] = _presets(weights.recipe if isinstance(weights, TrainRef) else None, parts.inside)
    yield from _of_parameters(parts, stated, parts.name, label)


def _is_defense(text: str, cell: Cell) -> bool:
    """Say whether a text names a recipe or weights, or a step and, unless that is its own, its base."""
    if cell.step is None:
        return _is_base(text, cell.model)
    name, at, base = text.partition("@")
    if name not in _names_of(cell.step):
        return False
    return _is_base(base, cell.model) if at else _is_default(cell.step, cell.model)


def _defense_text(cell: Cell) -> str:
    if cell.step is None:
        return _source_text(cell.model)
    is_own = _is_default(cell.step, cell.model)
    return cell.step.name if is_own else f"{cell.step.name}@{_source_text(cell.model)}"


def _is_default(step: MethodRef, model: ModelRef) -> bool:
    """Say whether a step may be called without its base: a recipe, and as far as it is known that of the step."""
    if not isinstance(model.weights, TrainRef):
        return False
    entry = own_entry(step)
    return entry is None or str(entry.meta.get("base") or "standard") in _names_of(model.weights.recipe)


def _is_base(text: str, model: ModelRef) -> bool:
    if isinstance(model.weights, TrainRef):
        return text in _names_of(model.weights.recipe)
    return text in (base_label(model.weights.name), model.weights.name) or _is_folder(text, model)


def _is_folder(text: str, model: ModelRef) -> bool:
    """Say whether a name may be that of the folder of a file which is called so in every folder.

    It may not be that of another network than the one whose weights they are.
    """
    kind, _, folder = text.partition(":")
    weights, network = model.weights, model.network
    file = weights.name.removeprefix("weights:") if isinstance(weights, WeightsRef) else "/"
    is_lost = "/" not in file and is_of_folder(file)
    if not is_lost or kind != "weights" or _PLAIN.fullmatch(folder) is None:
        return False
    own = {each.name for each in network.members or (network,)}
    return folder in own or folder not in registry.entries("network")


def _parameters(model: ModelRef) -> list[Mapping[str, object]]:
    """Return what is known of how a network came to its weights."""
    weights = model.weights
    if isinstance(weights, TrainRef):
        return [weights.recipe.params, dict(weights.schedule)]
    return [] if weights.key is None else [{"key": weights.key}]


def _of_score(step: MethodRef) -> Mapping[str, object]:
    """Return what a name may say of the network that a step predicts noise with."""
    if step.score is None:
        return {}
    network, weights = step.score.network, step.score.weights
    told = weights.recipe.name if isinstance(weights, TrainRef) else base_label(weights.name)
    inner = {f"score_network.{name}": value for name, value in network.params.items()}
    return {"score": told, "score_network": network.name, **inner}


def _of_attack(label: str, cell: Cell) -> Iterator[str]:
    attack = cell.attack
    if attack is None:
        if label != "clean":
            yield f"it is called {_short(label)}, and clean was measured"
        return
    parts, method = _split(label), attack.attack
    entry = own_entry(method)
    reads_images = entry is not None and bool(entry.meta.get("reads_images"))
    name = parts.name
    if cell.access == "transfer" and not reads_images:
        name, _, source = name.rpartition(" from ")
        if not name or not _is_source(source, attack.model):
            yield f"it is called {_short(label)}, and its images were made on {_source_text(attack.model)}"
            return
    if not _is_attack(name, attack, reads_images=reads_images):
        yield f"it is called {_short(label)}, and {_attack_text(attack)} was measured"
        return
    stated = _of_use(attack, cell.access) | {"preset": _presets(method, parts.inside)}
    # Of a file of images only its content is known.
    stated |= {"file": _named("file", parts.inside)} if reads_images else {}
    yield from _of_parameters(parts, stated, method.name, label)


def _of_use(attack: AttackRef, access: str) -> dict[str, set[str]]:
    """Return what a name may say of the parameters of an attack, and of how it is used."""
    threat = attack.threat
    eps = None if threat.eps is None else str(threat.eps)
    used: dict[str, object] = {"norm": threat.norm, "eps": eps, "craft_precision": attack.craft_precision}
    used |= {} if attack.max_passes is None else {"max_passes": attack.max_passes}
    stated = _stated(attack.attack.params, used)
    if access in ("static", "transfer") and "rule" in stated:
        # Where it does not see the defense it takes every step, whatever the rule of its namesakes.
        stated["rule"] |= {"any-iterate"} if "last-iterate" in stated["rule"] else set()
    return stated


def _attack_text(attack: AttackRef) -> str:
    return f"{attack.attack.name}{towards(attack.target)}{' bf16' if attack.craft_precision == 'bf16' else ''}"


def _is_attack(text: str, attack: AttackRef, *, reads_images: bool) -> bool:
    """Say whether a text names an attack with its target and the precision that leads it."""
    if attack.craft_precision == "bf16":
        if not text.endswith(" bf16"):
            return False
        text = text.removesuffix(" bf16")
    method, target = attack.attack, attack.target
    if isinstance(target, int):
        text, _, word = text.rpartition(" to class ")
        if not _is_class(word, target, attack.data.classes):
            return False
    else:
        end = towards(target)
        if not text.endswith(end):
            return False
        text = text.removesuffix(end)
    if reads_images:
        prefix, _, file = text.partition(":")
        return prefix == method.name and _PLAIN.fullmatch(file) is not None
    return text in _names_of(method)


def _is_class(word: str, target: int, classes: tuple[str, ...]) -> bool:
    """Say whether a word may be that of a class: its number, or its name as far as the cell has it."""
    if word == str(target) or classes:
        return word == str(target) or word in classes[target : target + 1]
    if _CLASS.fullmatch(word) is None:
        return False
    words = word.split()
    return _AFTER_CLASS.isdisjoint(words) and registry.entries("attack").keys().isdisjoint(words)


def _source_text(model: ModelRef) -> str:
    weights = model.weights
    return weights.recipe.name if isinstance(weights, TrainRef) else base_label(weights.name)


def _is_source(text: str, model: ModelRef) -> bool:
    """Say whether a text names the network that was attacked instead, and what differs in its training."""
    weights = model.weights
    if isinstance(weights, TrainRef):
        known = _names_of(weights.recipe)
    else:
        known = {base_label(weights.name), weights.name}
        word = re.match(rf"weights:{_WORD.pattern}", text)
        known |= {word[0]} if word is not None and _is_folder(word[0], model) else set()
    rest = next((text[len(each) :] for each in sorted(known, key=len, reverse=True) if text.startswith(each)), None)
    if rest is None or _SOURCE_WORDS.sub("", rest):
        return False
    stated = _stated(*_parameters(model))
    said = _SOURCE_WORDS.findall(rest)
    if isinstance(weights, TrainRef):
        stated |= {"seed": {str(weights.seed)}, "preset": _presets(weights.recipe, None)}
    else:
        # Weights trained elsewhere have none, and a configuration may give one.
        stated["seed"] = {value for key, value in said if key == "seed" and value.isdecimal()}
    return all(any(_is_same(value, each) for each in stated.get(key, ())) for key, value in said)
