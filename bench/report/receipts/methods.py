"""What the registry here knows of the methods in a result whose code is the same: which parameters, and which draw."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from bench import registry
from bench.keys import DRAWS, canonical_json
from bench.report.receipts import form
from bench.report.render.outside import require_own as require_named
from bench.types import NETWORK_KEYS, CellResult, MethodRef, Scalar, UsageError, listed, shown

#: What surrounds a network is no parameter of its own.
_AROUND = frozenset(NETWORK_KEYS.values())
#: Parameters that a line names.
_NAMED = 5


def require_own(ref: MethodRef, *, trusted: bool) -> None:
    """Raises UsageError: a method is not Crossfire's own, or is to read a file here, and that is not trusted."""
    require_named(ref, trusted=trusted)
    paths = [value for value in ref.params.values() if isinstance(value, str) and os.path.lexists(value)]
    if paths and not trusted:
        raise UsageError(f"{ref.name} is to read {shown(paths[0])}, which is not opened; if that is right, add --trust")


def impossible(result: CellResult) -> Iterator[str]:
    """Yield what a result states of its methods that none with this code can be: their parameters, and their draws."""
    if result.cell.attack is None:
        return
    for ref in form.methods_of(result.cell):
        if (why := wrong_parameters(ref, same_code=True)) is not None:
            yield why
    yield from _of_draws(result)


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
    try:
        require_named(step, trusted=False)
        entry = registry.entry_of(step)
    except UsageError:
        return False
    return bool(entry.meta.get("randomised")) and entry.code_sha == step.code_sha


def wrong_parameters(ref: MethodRef, *, same_code: bool) -> str | None:
    """Return how the parameters of a method of Crossfire are not those that its code here gives a reference.

    Each reference spells out every parameter, so that one that lacks some, or writes them otherwise, is of no run.

    Args:
        ref: the method.
        same_code: whether to look at methods whose code here is that of the reference, or at the others.

    Returns:
        ``None`` where they are as they should be, or the method is not here, or not Crossfire's own.
    """
    try:
        # No file that a parameter names is opened for this, so that it does not matter whether there is one.
        require_named(ref, trusted=False)
        entry = registry.entry_of(ref)
    except UsageError:
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
