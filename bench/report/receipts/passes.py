"""Whether the passes that a result states can be those of its attack, by what the registry says that this takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bench import registry
from bench.report.render.outside import require_own
from bench.types import AttackRef, CellResult, MethodRef, Passes, Scalar, UsageError

#: Access to the function that is judged: an image that stays right took all passes.
_OWN = ("white-box", "adaptive")
#: The share of what is expected below which passes are too few: round-off may end the work on an image or two early.
_ENOUGH = 0.99
#: How many times the forwards that are expected there may be, and how many more: starts of their own are commentary
#: in formulas, and an attack that bfloat16 leads asks in float32 again at every step.
_MOST_FORWARDS, _MORE_FORWARDS = 2, 2
#: Fewer classes than these leave out a part of a suite.
_LEAST_CLASSES = 4


class _Least(NamedTuple):
    """The passes that each of some images takes at least."""

    passes: Passes
    images: int


def remark(result: CellResult) -> str | None:
    """Return why the passes that a result states are not those of its attack, in one line.

    ``None`` where they can be, or where nothing is known of the attack: it is not here, comes from a library, or states
    no passes that can be computed. Few passes are explained where images break early, so only those that stayed right
    are counted then.
    """
    attack, cost = result.cell.attack, result.cost
    if attack is None or cost is None:
        return None
    stated = Passes(cost.forwards_per_example, cost.backwards_per_example)
    said = f"it says {_number(stated.forwards)} forwards and {_number(stated.backwards)} backwards an image"
    most = attack.max_passes
    if most is not None and sum(stated) > most * (1 + 1e-9):
        return f"{said}, and max_passes = {most:,} allows {most:,} together"
    name, n = attack.attack.name, result.cell.data.n
    for least in _least(result, attack):
        needed = Passes(*(each * least.images / n for each in least.passes))
        if not _is_enough(stated, needed, counts_backwards=not _goes_past(result, attack, stated)):
            each = f"{_number(least.passes.forwards)} and {_number(least.passes.backwards)}"
            which = "each image" if least.images == n else f"each of {least.images:,} images that stayed right"
            return f"{said}, and {name} with its settings takes {each} for {which}"
    if (upper := _most(result, attack)) is not None and _is_more(stated, upper):
        return f"{said}, and {name} with its settings takes at most {_number(upper.forwards)} and " + _number(
            upper.backwards
        )
    return None


def _most(result: CellResult, attack: AttackRef) -> Passes | None:
    """Return the passes of the base classifier that an image takes at most; ``None`` where that is not known."""
    from bench.evaluation.passes import counted_params, passes_of

    meta = _meta(attack) or {}
    formula, is_random = meta.get("most") or meta.get("passes"), _is_random(result)
    is_stated = _is_stated(result, attack, is_random=is_random, is_suite=meta.get("early_exit") == "suite")
    if not isinstance(formula, str) or not is_stated or meta.get("purifiers_only"):
        return None
    asked, cost = passes_of(formula, counted_params(attack)), result.defense_cost
    if asked is None or attack.step is None:
        return asked
    if cost is None or attack.step.score is not None:
        return None
    # A step asks the base classifier itself, for every draw that is averaged.
    draws = attack.eot if is_random else 1
    forwards, backwards = draws * asked.forwards, draws * asked.backwards
    within = max(cost.test_forwards, 1)
    return Passes(within * forwards, cost.test_backwards * forwards + within * backwards)


def _is_more(stated: Passes, upper: Passes) -> bool:
    has_more = stated.forwards > (_MOST_FORWARDS * upper.forwards + _MORE_FORWARDS) / _ENOUGH
    return has_more or stated.backwards > upper.backwards / _ENOUGH


def undecided(result: CellResult) -> str | None:
    """Return why nothing here says how many passes the attack of a result takes, in one line; ``None`` if it is known.

    It is known also where any number will do: under a budget, and of a search that stalls.
    """
    from bench.evaluation.passes import counted_params, passes_of

    attack = result.cell.attack
    if attack is None or result.cost is None:
        return None
    name = attack.attack.name
    if (meta := _meta(attack)) is None:
        return f"{name} is not Crossfire's own, so nothing here says what it takes"
    formula = _formula(meta)
    if formula is not None and _is_open(formula, meta, attack):
        return None
    is_stated = _is_stated(result, attack, is_random=_is_random(result), is_suite=meta.get("early_exit") == "suite")
    if formula is None or not is_stated or passes_of(formula, counted_params(attack)) is None:
        return f"nothing here says what {name} with its settings takes"
    return None


def _is_enough(stated: Passes, needed: Passes, *, counts_backwards: bool) -> bool:
    is_enough = stated.forwards >= _ENOUGH * needed.forwards
    return is_enough and (not counts_backwards or stated.backwards >= _ENOUGH * needed.backwards)


def _goes_past(result: CellResult, attack: AttackRef, stated: Passes) -> bool:
    """Say whether a run may pass nothing back though its attack follows gradients, as its file states.

    A gradient of zero is passed back and counted as any other, and where none reaches the images the attack fails. Only
    a step may offer one that is zero and never goes through the network, which no step of Crossfire does.
    """
    is_stated = "zero-gradient" in result.flags and result.cell.access in _OWN and not stated.backwards
    return is_stated and attack.step is not None and not _is_own(attack.step)


def _is_own(method: MethodRef) -> bool:
    try:
        require_own(method, trusted=False)
    except UsageError:
        return False
    return True


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def _least(result: CellResult, attack: AttackRef) -> list[_Least]:
    """Return what all images, and those that stayed right, take at least, as far as it is known."""
    from bench.evaluation.passes import counted_params, passes_of

    meta = _meta(attack) or {}
    formula, early_exit = _formula(meta), meta.get("early_exit")
    if formula is None or _is_open(formula, meta, attack):
        return []
    is_random = _is_random(result)
    is_averaged = is_random and bool(meta.get("averages_draws", True)) and not meta.get("purifiers_only")
    if not _is_stated(result, attack, is_random=is_random, is_suite=early_exit == "suite"):
        return []
    params = counted_params(attack)
    whole, once = passes_of(formula, params), passes_of(formula, _with_one_start(params))
    if whole is None or once is None:
        return []
    if is_averaged:
        whole = Passes(*(attack.eot * each for each in whole))
    found: list[_Least] = []
    if not attack.after and (early_exit is None or is_averaged):
        found.append(_Least(whole, result.cell.data.n))
    elif not attack.after and attack.attack.params.get("rule") == "last-iterate":
        # Between two starts it leaves the images that broke.
        found.append(_Least(once, result.cell.data.n))
    # Of a static set nothing says which images broke on the network alone; those of one class have no way to break.
    if result.cell.access in _OWN and not isinstance(attack.target, int):
        found.append(_Least(whole, sum(result.robust_outcomes or ())))
    return found


def _meta(attack: AttackRef) -> Mapping[str, Any] | None:
    """Return what an attack of Crossfire states of itself; ``None`` of others."""
    try:
        return registry.entry_of(attack.attack).meta if _is_own(attack.attack) else None
    except UsageError:
        return None


def _formula(meta: Mapping[str, Any]) -> str | None:
    formula = meta.get("least") or meta.get("passes")
    return formula if isinstance(formula, str) else None


def _is_open(formula: str, meta: Mapping[str, Any], attack: AttackRef) -> bool:
    """Say whether an attack may be over at any time: a search that stalls is, and a budget cuts every one short."""
    return formula.startswith("at most") or meta.get("early_exit") == "stalled" or attack.max_passes is not None


def _is_random(result: CellResult) -> bool:
    """Say whether the attack saw a defense that draws."""
    attack, metrics = result.cell.attack, result.metrics
    return attack is not None and attack.step is not None and metrics is not None and metrics.robust_mean is not None


def _is_stated(result: CellResult, attack: AttackRef, *, is_random: bool, is_suite: bool) -> bool:
    """Say whether an attack states what it takes here: a suite does so for its standard version and enough classes."""
    params = attack.attack.params
    if "targets" in params and result.cell.data.num_classes < _LEAST_CLASSES:
        return False
    return not is_suite or not (is_random or params.get("version") == "rand")


def _with_one_start(params: dict[str, Scalar]) -> dict[str, Scalar]:
    return params | ({"restarts": 1} if "restarts" in params else {})
