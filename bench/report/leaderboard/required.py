"""Which attacks a row needs before it is ranked, where the keeper of a leaderboard says so by patterns.

Without that a row needs every attack that another row has, so whoever brings an attack asks all others for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from bench.outcomes import Outcomes
from bench.report.leaderboard.labels import attack_params
from bench.report.leaderboard.patterns import matches, with_threat
from bench.types import Measured, threat_text
from bench.visible import visible


class Policy(NamedTuple):
    """What a leaderboard of many people goes by.

    Attributes:
        required: patterns of the attacks that a row needs before it is ranked; without any, all that another row has.
        broken_too: which images survived in other measurements of a cell, by the key of the result that stands for it.
    """

    required: Sequence[str] = ()
    broken_too: Mapping[str, Sequence[Outcomes]] = MappingProxyType({})


#: Every attack of a table is needed, and each cell was measured once: so in a store of one's own.
ALL_ATTACKS = Policy()

#: For each threat, by its text, the attacks of which a row needs one, once for each pattern: ids of columns.
Required = Mapping[str, Sequence[frozenset[str]]]


def required(
    patterns: Iterable[str],
    attacks: Mapping[str, Mapping[str, str]],
    results: Mapping[tuple[str, str], Sequence[Measured]],
) -> Required:
    """Return the attacks of which a row needs one. Threats under which no pattern matches are not there.

    One attack for each pattern is enough: else a variant of it that somebody else ran would be asked of all.

    Args:
        patterns: of names, of labels, or of names with all parameters, alone or with a threat.
        attacks: the labels of the attacks that count by their ids, for each threat.
        results: those of each threat and attack.
    """
    patterns = list(dict.fromkeys(patterns))
    found: dict[str, list[frozenset[str]]] = {}
    for group, labels in attacks.items():
        names = {attack: _names(label, group, results[group, attack][0]) for attack, label in labels.items()}
        sets = [frozenset(each for each in names if matches(pattern, names[each])) for pattern in patterns]
        if any(sets):
            found[group] = [each for each in sets if each]
    return found


def unmatched(patterns: Iterable[str], attacks: Iterable[tuple[str, Measured]]) -> Iterator[str]:
    """Yield the patterns that match no attack of some results, which are given with its labels."""
    known: dict[tuple[str, ...], None] = {}
    for label, result in attacks:
        if (attack := result.cell.attack) is not None:
            known[tuple(_names(label, threat_text(attack.threat), result))] = None
    for pattern in dict.fromkeys(patterns):
        if not any(matches(pattern, names) for names in known):
            yield pattern


def _names(label: str, group: str, result: Measured) -> list[str]:
    """Return what an attack may be asked for by; last its name with all parameters, and the threat."""
    assert result.cell.attack is not None
    name = result.cell.attack.attack.name
    params = visible(",".join(f"{key}={value}" for key, value in sorted(attack_params(result).items())))
    return [*chain.from_iterable(with_threat(each, group) for each in (name, label, f"{name}[{params}]"))]
