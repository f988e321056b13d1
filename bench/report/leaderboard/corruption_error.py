"""Mean corruption error (Hendrycks and Dietterich, 2019): what a defense gets wrong under common corruptions.

The error at each of fifteen corruptions and five severities, averaged. Its authors divide the error at each corruption
by that of an AlexNet on the same images. No such network is part of a table, so the error is not normalised, and the
column says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from bench.types import CORRUPTIONS, SEVERITIES, CellResult

#: What a column with it is called.
LABEL = "mCE, unnormalised"


class Condition(NamedTuple):
    """A corruption at a severity."""

    kind: str
    severity: int


def conditions(attacks: Mapping[str, Sequence[CellResult]]) -> dict[Condition, str]:
    """Return which attack is each condition, given the results of attacks by id.

    A condition that is both computed and in its authors' files is that of the files.
    """
    by_file = sorted(attacks.items(), key=lambda each: _file(each[1]) is not None)
    found = {_condition(results): attack for attack, results in by_file}
    return {condition: attack for condition, attack in found.items() if condition is not None}


def complete(known: Iterable[Condition]) -> list[tuple[int, ...]]:
    """Return the severities that errors can be averaged over: all five, or each that has all fifteen corruptions."""
    known = set(known)
    full = tuple(severity for severity in SEVERITIES if all((kind, severity) in known for kind in CORRUPTIONS))
    return [full] if full == SEVERITIES else [(severity,) for severity in full]


def wanted(severities: Sequence[int]) -> list[Condition]:
    """Return all conditions with some severities."""
    return [Condition(*each) for each in product(CORRUPTIONS, severities)]


def label(severities: Sequence[int]) -> str:
    """Return what a column with the error over some severities is called."""
    return LABEL if tuple(severities) == SEVERITIES else f"{LABEL}, severity {', '.join(map(str, severities))}"


def _file(results: Sequence[CellResult]) -> str | None:
    attack = results[0].cell.attack
    return attack.attack.file if attack is not None else None


def _condition(results: Sequence[CellResult]) -> Condition | None:
    attack = results[0].cell.attack
    # In worst-case mode a column is what all corruptions so far leave.
    if attack is None or attack.threat.norm != "corruption" or attack.after:
        return None
    kind, severity = attack.attack.params.get("kind"), attack.attack.params.get("severity")
    if kind not in CORRUPTIONS or not isinstance(severity, int) or severity not in SEVERITIES:
        return None
    return Condition(str(kind), severity)
