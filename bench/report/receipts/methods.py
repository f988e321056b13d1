"""What the registry here knows of the methods in a result: which parameters and norms they have, and which draw."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bench import registry
from bench.keys import DRAWS, canonical_json
from bench.methods.sources import find_top
from bench.report.receipts import form
from bench.report.render.outside import require_own as require_named
from bench.store.audit import L2_SLACK, LINF_SLACK, farthest_allowed, has_ball
from bench.types import (
    NETWORK_KEYS,
    AttackRef,
    CellResult,
    MethodRef,
    Scalar,
    UsageError,
    eps_text,
    listed,
    shown,
)

#: What surrounds a network is no parameter of its own.
_AROUND = frozenset(NETWORK_KEYS.values())
_DEFINED = re.compile(r"^(?:class |def )?(\w+)(?=\(|:| =)", re.MULTILINE)
#: Parameters that a line names.
_NAMED = 5


def require_own(ref: MethodRef, *, trusted: bool) -> None:
    """Raises UsageError: a method is not Crossfire's own, or is to read a file here, and that is not trusted."""
    require_named(ref, trusted=trusted)
    paths = [value for value in ref.params.values() if isinstance(value, str) and os.path.lexists(value)]
    if paths and not trusted:
        raise UsageError(f"{ref.name} is to read {shown(paths[0])}, which is not opened; if that is right, add --trust")


def impossible(result: CellResult, *, has_images: bool = False) -> Iterator[str]:
    """Yield what a result states of its methods that none with this code can be.

    That is their parameters, their draws, how many gradients an attack averages, and its norm and budget.

    Args:
        result: that may be forged.
        has_images: whether its images are there, so that mean distances need not be held against the budget.
    """
    attack = result.cell.attack
    if attack is None:
        return
    if (wrong := wrong_threat(attack)) is not None and wrong.same_code:
        yield f"a run here would refuse its attack: {wrong.line}"
    averaged = max(attack.eot, *(each.eot for each in attack.after), 1)
    if attack.step is None and averaged > 1:
        yield f"its attack averages {averaged} gradients (eot), and it sees no test-time step, so a run takes one"
    if not has_images:
        yield from _beyond_budget(result)
    for ref in form.methods_of(result.cell):
        if (why := wrong_parameters(ref, same_code=True)) is not None:
            yield why
    yield from _of_draws(result)


def _beyond_budget(result: CellResult) -> Iterator[str]:
    """Yield a mean distance that no images within the budget have: it is at most the largest that one image may."""
    metrics, attack = result.metrics, result.cell.attack
    if metrics is None or attack is None or attack.threat.eps is None or not has_ball(attack.threat):
        return
    norm, eps = attack.threat.norm, attack.threat.eps
    most = farthest_allowed(norm, float(eps))
    if norm == "l0":
        # So many values change, by 1 at most.
        most = math.sqrt(math.floor(most))
    # No image is farther in L2 than in L1.
    name, mean = ("mean_linf", metrics.mean_linf) if norm == "linf" else ("mean_l2", metrics.mean_l2)
    if mean > most * (1 + L2_SLACK) + LINF_SLACK:
        yield f"{name} = {mean:g}, and images within {norm} {eps_text(eps)} have at most {most:.4g}"


class WrongThreat(NamedTuple):
    """Why an attack cannot have its threat, and whether that is known of the very code that is stated."""

    line: str
    same_code: bool


def wrong_threat(attack: AttackRef) -> WrongThreat | None:
    """Return why an attack of Crossfire cannot have its norm or its budget; ``None`` where it can, or is not here."""
    from bench.config import expand

    for ref in (attack.attack, *(each.attack for each in attack.after)):
        if (entry := own_entry(ref)) is None:
            continue
        if (why := expand.wrong_threat(entry, ref.name, attack.threat)) is not None:
            return WrongThreat(why, _is_same(entry, ref, ref.params))
    return None


def unknown_threat(attack: AttackRef) -> str | None:
    """Return the name of an attack of which nothing here says which norms it keeps to; ``None`` if there is none."""
    refs = (attack.attack, *(each.attack for each in attack.after))
    return next((ref.name for ref in refs if own_entry(ref) is None), None)


def attack_not_here(attack: AttackRef) -> str | None:
    """Return the name of an attack that neither Crossfire nor an installed library has; ``None`` if there is none."""
    refs = (attack.attack, *(each.attack for each in attack.after))
    return next((ref.name for ref in refs if not _is_here(ref)), None)


def _is_here(ref: MethodRef) -> bool:
    entry = own_entry(ref)
    if entry is None or entry.requires is None or entry.kind != "library":
        return entry is not None
    package = registry.imported_as(entry.requires)
    return package is not None and ref.name.partition(":")[2] in _defined_in(package)


@cache
def _defined_in(package: str) -> frozenset[str]:
    """Return the names of what the modules of a package define: it is read and not imported."""
    spec = find_top(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = chain.from_iterable(Path(folder).rglob("*.py") for folder in folders)
    return frozenset(
        chain.from_iterable(_DEFINED.findall(file.read_bytes().decode(errors="replace")) for file in files)
    )


def own_entry(ref: MethodRef) -> registry.Entry | None:
    """Return a method of Crossfire that is here, for which no file that a parameter names is opened."""
    try:
        require_named(ref, trusted=False)
        return registry.entry_of(ref)
    except UsageError:
        return None


def _of_draws(result: CellResult) -> Iterator[str]:
    """Yield how a result says that its defense was asked, where it cannot be."""
    metrics, step = result.metrics, result.cell.step
    if metrics is None:
        return
    has_draws = metrics.robust_mean is not None
    asked = f"majority-of-{DRAWS}" if has_draws else "deterministic"
    if metrics.protocol != asked:
        shares = "robust accuracies over draws" if has_draws else "no robust accuracy over draws"
        yield f"its protocol is {shown(metrics.protocol)}, and with {shares} it is '{asked}'"
    if has_draws and step is None:
        yield "it states robust accuracies over draws, and it has no test-time step that could draw"
    if step is not None and not has_draws and is_random(step):
        yield f"{step.name} answers at random, and no robust accuracy over its draws is stated"


def is_random(step: MethodRef) -> bool:
    """Say whether a test-time step of Crossfire, with the code that it has here, always draws."""
    entry = own_entry(step)
    return entry is not None and bool(entry.meta.get("randomised")) and entry.code_sha == step.code_sha


def wrong_parameters(ref: MethodRef, *, same_code: bool) -> str | None:
    """Return how the parameters of a method of Crossfire are not those that its code here gives a reference.

    Each reference spells out every parameter, so that one that lacks some, or writes them otherwise, is of no run.

    Args:
        ref: the method.
        same_code: whether to look at methods whose code here is that of the reference, or at the others.

    Returns:
        ``None`` where they are as they should be, or the method is not here, or not Crossfire's own.
    """
    if (entry := own_entry(ref)) is None:
        return None
    params = {name: value for name, value in ref.params.items() if ref.kind != "network" or name not in _AROUND}
    why = _wrong(entry, ref.name, params)
    return why if why is not None and _is_same(entry, ref, params) == same_code else None


def _is_same(entry: registry.Entry, ref: MethodRef, params: Mapping[str, Scalar]) -> bool:
    """Say whether a method has here the code of a reference, as far as that is known; parameters may name more code."""
    if entry.code_sha == ref.code_sha:
        return True
    try:
        require_own(ref, trusted=False)
        return entry.ref(params, name=ref.name).code_sha == ref.code_sha
    except UsageError:
        return False


def _wrong(entry: registry.Entry, name: str, params: Mapping[str, Scalar]) -> str | None:
    """Return how parameters are not as a reference spells them out; ``None`` where they are."""
    try:
        here = entry.spelled_out(params)
    except UsageError as error:
        return f"a run here would refuse its parameters: {error}"
    if lacking := [each for each in here if each not in params]:
        return f"its {name} lacks {listed(lacking, _NAMED)}, which a run always states"
    for each, value in params.items():
        if each not in here or canonical_json(value) != canonical_json(here[each]):
            return f"its {name} has {each} = {shown(value)}, which a run writes {shown(here.get(each))}"
    return None
