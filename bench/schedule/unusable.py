"""Weights, networks and methods that cannot be used: which cells fail of them, and why, is said before any work."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.evaluation.passes import counted_params, passes_of, with_smallest_numbers
from bench.keys import models_of, training_key
from bench.models import live, weights
from bench.models.build import build
from bench.schedule.plan import Work, too_few_classes
from bench.types import (
    AttackRef,
    DataRef,
    MethodError,
    MethodRef,
    ModelRef,
    PlannedCell,
    UsageError,
    WeightsRef,
    listed,
)

if TYPE_CHECKING:
    from torch import nn

    from bench.schedule.units import Problem

_log = logging.getLogger("crossfire")
#: Rows and columns that a line names; more would not be read.
_NAMED = 5
#: The share of its passes from which on a run counts as whole: APGD has one forward more than two passes a step.
_ENOUGH = 0.99


Attempt = Callable[[str, Callable[[], str | None]], str | None]


def _call(_key: str, find: Callable[[], str | None]) -> str | None:
    return find()


def _drop(_model: ModelRef, _net: nn.Module) -> None:
    pass


def checked(work: Work, attempt: Attempt = _call, keep: Callable[[ModelRef, nn.Module], None] = _drop) -> Work:
    """Return a plan that also knows which weights files do not fit their networks, with a warning of each.

    Each file is loaded once to find out; torch is imported.

    Args:
        work: the plan.
        attempt: is given the training key of a classifier and what finds out, and returns what that returns, or why it
            could not be found out in time.
        keep: is given each network that can be used, as it was read.

    Raises:
        UsageError: every requested cell needs a weights file that cannot be used.
    """
    unusable: dict[str, str] = {}
    seen: set[int] = set()
    for planned in work.plan.cells:
        for model in models_of(planned.cell):
            if id(model) in seen or not isinstance(model.weights, WeightsRef):
                continue
            seen.add(id(model))
            if (key := training_key(model)) not in work.unusable:
                problem = attempt(key, partial(_problem, model, work, planned.cell.data, keep))
                unusable |= {} if problem is None else {key: problem}
    checked_work = replace(work, unusable={**work.unusable, **unusable})
    if unusable:
        warn(checked_work, unusable)
    return checked_work


def _problem(model: ModelRef, work: Work, data: DataRef, keep: Callable[[ModelRef, nn.Module], None]) -> str | None:
    from bench.process.isolation import isolated

    assert isinstance(model.weights, WeightsRef)
    try:
        with isolated(f"network {model.network.name}"):
            if live.is_live(model.weights.name):
                net = build(model.network, data.num_classes, data.image_shape)
                weights.check_finite(f"network '{model.network.name}'", net)
                return None
            path = work.weights_files[model.weights.sha256]
            loaded = weights.classifier(model, data, path)
            weights.check_finite(path, loaded.net)
            for remark in loaded.remarks:
                _log.warning("%s", remark)
            keep(model, loaded.net)
    except UsageError as error:
        return str(error)
    except MethodError:
        # A factory that breaks its contract fails its own cells, which say why.
        return None
    return None


def warn(work: Work, unusable: Mapping[str, str]) -> None:
    """Warn of weights files that cannot be used: which rows and columns of a plan need them, and why they fail.

    Args:
        work: the plan, which knows of them.
        unusable: why each of them cannot be used, by the training key of the classifier that needs it.

    Raises:
        UsageError: every requested cell needs a weights file that cannot be used.
    """
    _require_any(work)
    places: dict[str, list[str]] = defaultdict(list)
    for planned in work.plan.cells:
        cell, names = planned.cell, planned.names
        score = None if cell.step is None else cell.step.score
        own = [cell.model] if score is None else [cell.model, score]
        if (why := next(filter(None, (unusable.get(training_key(model)) for model in own)), None)) is not None:
            places[why].append(f"row {names.model}/{names.defense}")
        elif cell.attack is not None and (why := unusable.get(training_key(cell.attack.model))) is not None:
            places[why].append(f"column {names.attack}")
    _warn_of_certain(places)


def warn_of_classes(work: Work) -> None:
    """Warn of attacks that need more classes than the images of a plan have.

    Raises:
        UsageError: no requested cell can be measured.
    """
    places: dict[str, list[str]] = defaultdict(list)
    for planned in work.plan.cells:
        if (why := too_few_classes(planned.cell)) is not None:
            places[why].append(f"column {planned.names.attack}")
    if places:
        _require_any(work)
        _warn_of_certain(places)


def warn_of_passes(work: Work) -> None:
    """Warn in one line of attacks whose ``max_passes`` end them before they have done what their settings say."""
    short: dict[str, str | None] = {}
    for planned in work.plan.cells:
        attack, name = planned.cell.attack, f"{planned.names.attack}/{planned.cell.access}"
        if attack is not None and attack.max_passes is not None and short.get(name) is None:
            short[name] = _cut_short(attack)
    if places := [f"{name} {why}" for name, why in short.items() if why is not None]:
        _log.warning(
            "max_passes ends attacks before their end, which their settings plan for: column %s; give settings that "
            "fit, such as fewer steps, or more passes",
            listed(places, _NAMED),
        )


def _cut_short(attack: AttackRef) -> str | None:
    """Return how many of its passes an attack may do, where that is too few for its run; ``None`` if it is not known.

    What a test-time step takes is not known before it is measured, so these are at least so many.
    """
    meta, most = registry.entry_of(attack.attack).meta, attack.max_passes
    formula, params = str(meta.get("least") or meta.get("passes")), counted_params(attack)
    whole, one_step = passes_of(formula, params), passes_of(formula, with_smallest_numbers(params))
    if most is None or whole is None or one_step is None or formula.startswith("at most") or meta.get("purifiers_only"):
        return None
    step = attack.step
    draws = attack.eot if step is not None and _is_averaged(step, meta) else 1
    if most >= _ENOUGH * draws * sum(whole):
        return None
    taken = f"{'at least ' * (step is not None)}{draws * sum(whole):,.0f} passes"
    is_none = most < draws * sum(one_step)
    return f"after {most:,} of {taken}" + (f" (a single step takes {draws * sum(one_step):,.0f})" if is_none else "")


def _is_averaged(step: MethodRef, meta: Mapping[str, Any]) -> bool:
    return bool(registry.entry_of(step).meta.get("randomised") and meta.get("averages_draws", True))


def _require_any(work: Work) -> None:
    """Raises UsageError: no requested cell can be measured."""
    reasons = [work.why_not(planned.cell) for planned in work.requested]
    if None in reasons:
        return
    first, *others = dict.fromkeys(map(str, reasons))
    more = f" (and {len(others)} more such reasons)" if others else ""
    raise UsageError(f"no cell can be measured: {first}{more}")


def _warn_of_certain(places: Mapping[str, list[str]]) -> None:
    for why, rows_or_columns in places.items():
        _log.warning("%s will fail (%d cells): %s", _named(rows_or_columns), len(rows_or_columns), why)


def warn_of(failing: Iterable[tuple[PlannedCell, Problem]]) -> None:
    """Warn of cells that fail of what was found while measuring: which rows and columns they are in, and why."""
    places: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for planned, (why, certain, of_attack) in failing:
        names = planned.names
        where = f"column {names.attack}" if of_attack else f"row {names.model}/{names.defense}"
        places[why, certain].append(where)
    for (why, certain), rows_or_columns in places.items():
        _log.warning(
            "%s %s fail (%d cells): %s",
            _named(rows_or_columns),
            "will" if certain else "may",
            len(rows_or_columns),
            why,
        )


def _named(places: list[str]) -> str:
    return listed(dict.fromkeys(places), _NAMED)
