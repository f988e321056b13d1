"""Over how many draws attacks average their gradients, where the defense does not draw and any number is the same.

A configuration states one number for all defenses. Of one that does not draw it is in the key and means nothing, so it
is read as that which others state of the attack: else whoever writes another would get a column of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from bench.keys import Keys
from bench.report.submissions.read import Entry
from bench.types import AttackRef


def as_others_state(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries whose attacks average over as many draws as the same attack on defenses that draw.

    Where there is none, over the most that any states.
    """
    entries = list(entries)
    drawing: dict[str, set[int]] = defaultdict(set)
    others: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        attack, metrics = entry.result.cell.attack, entry.result.metrics
        if attack is not None and metrics is not None and entry.result.cell.step is not None:
            (others if metrics.robust_mean is None else drawing)[_called(attack)].add(attack.eot)
    keys = Keys()
    return [_as_others(entry, drawing, others, keys) for entry in entries]


def _called(attack: AttackRef) -> str:
    return attack.model_dump_json(include={"attack": {"name", "params"}, "threat": True, "target": True})


def _as_others(entry: Entry, drawing: dict[str, set[int]], others: dict[str, set[int]], keys: Keys) -> Entry:
    result = entry.result
    cell, metrics = result.cell, result.metrics
    attack = cell.attack
    # Only an adaptive attacker sees a step that could draw.
    if attack is None or metrics is None or cell.access != "adaptive" or metrics.robust_mean is not None:
        return entry
    called = _called(attack)
    known = drawing.get(called) or others.get(called, {attack.eot})
    eot = attack.eot if attack.eot in known and called in drawing else max(known)
    if eot == attack.eot or keys.of(cell) != result.key:
        return entry
    after = tuple(each.model_copy(update={"eot": eot}) for each in attack.after)
    cell = cell.model_copy(update={"attack": attack.model_copy(update={"eot": eot, "after": after})})
    return entry._replace(result=result.model_copy(update={"cell": cell, "key": keys.of(cell)}))
