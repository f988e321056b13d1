"""Which attacks a row needs before it is ranked, where the keeper of a leaderboard says so by patterns.

Without that a row needs every attack that another row has, so whoever brings an attack asks all others for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from types import MappingProxyType
from typing import NamedTuple

from bench import registry
from bench.outcomes import Outcomes
from bench.report.leaderboard.labels import attack_params
from bench.report.leaderboard.patterns import matches, with_threat
from bench.types import Measured, MethodRef, UsageError, threat_text
from bench.visible import visible


class Policy(NamedTuple):
    """What a leaderboard of many people goes by.

    Attributes:
        required: patterns of the attacks that a row needs before it is ranked, for all tables, or behind ``NAME: `` for
            those of a set of images; without any, all that another row has.
        broken_too: which images survived in other measurements on a row, by the key of one of its results.
    """

    required: Sequence[str] = ()
    broken_too: Mapping[str, Sequence[Outcomes]] = MappingProxyType({})


#: Every attack of a table is needed, and each cell was measured once: so in a store of one's own.
ALL_ATTACKS = Policy()

#: A threat, by its text, and the id of an attack.
Column = tuple[str, str]

#: Columns of which a row needs one, once for each pattern, for each threat; under one that is not there all are needed.
Required = Mapping[str, Sequence[frozenset[Column]]]


def of_set(patterns: Iterable[str], dataset: str) -> list[str]:
    """Return the patterns that are for the tables of a set of images, without its name."""
    split = [_split(pattern) for pattern in patterns]
    return [attack for name, attack in split if matches(name, [dataset])]


def _split(pattern: str) -> tuple[str, str]:
    """Return of which sets of images a pattern is, itself a pattern, and that of the attack."""
    before, colon, after = pattern.partition(": ")
    return (before.strip(), after.strip()) if colon else ("*", pattern)


def required(
    patterns: Sequence[str],
    attacks: Mapping[str, Mapping[str, str]],
    results: Mapping[Column, Sequence[Measured]],
) -> Required:
    """Return the columns of which a row needs one, once for each pattern.

    One column is enough: else a variant of an attack that somebody else ran would be asked of all. It is one of the
    threat where the pattern has any there, and of another threat where it has some there alone. A pattern without any
    is met by no row.

    Args:
        patterns: of names, of labels, or of names with all parameters, alone or with a threat.
        attacks: the labels of the attacks that count by their ids, for each threat.
        results: those of each threat and attack.
    """
    if not patterns:
        return {}
    names: dict[Column, Names] = {}
    for group, own in attacks.items():
        names |= {(group, attack): Names.of(label, results[group, attack][0]) for attack, label in own.items()}
    found = [frozenset(each for each in names if names[each].match(pattern)) for pattern in dict.fromkeys(patterns)]
    sets: dict[str, list[frozenset[Column]]] = {}
    for group in attacks:
        here = [frozenset(column for column in columns if column[0] == group) for columns in found]
        if any(here) or not any(found):
            sets[group] = [own or columns for own, columns in zip(here, found, strict=True)]
    return sets


def in_order(
    attacks: Mapping[str, dict[str, str]], needed: Required, rows: Mapping[Column, Collection[str]]
) -> dict[str, dict[str, str]]:
    """Return the attacks of each threat, first of those under which some row has all that it needs.

    Tables are ranked by their first threat.

    Args:
        attacks: labels by id, for each threat, in the order in which they were.
        needed: what a row needs.
        rows: those of each column that counts.
    """
    return dict(
        sorted(attacks.items(), key=lambda each: (each[0] not in needed, not _complete(needed.get(each[0], ()), rows)))
    )


def _complete(sets: Iterable[Collection[Column]], rows: Mapping[Column, Collection[str]]) -> set[str]:
    """Return the rows that have one column of each set."""
    met = [set(chain.from_iterable(rows[column] for column in columns)) for columns in sets]
    return set.intersection(*met) if met else set()


def described(needed: Required, attacks: Mapping[str, Mapping[str, str]]) -> str:
    """Return what a row needs to be ranked under the first threat, in words; empty where that is every attack."""
    group = next(iter(attacks), "")

    def named(column: Column) -> str:
        label = attacks[column[0]][column[1]]
        return label if column[0] == group else f"{label} {column[0]}"

    return " and ".join(" or ".join(sorted(map(named, columns))) for columns in needed.get(group, ()))


def lacking_lines(patterns: Iterable[str], needed: Required) -> Iterator[str]:
    """Yield a line on each pattern that no attack of a table matches, so that none of its rows is ranked."""
    for sets in islice(needed.values(), 1):
        for pattern, columns in zip(dict.fromkeys(patterns), sets, strict=True):
            if not columns:
                yield f"no row is ranked: a row needs an attack {visible(pattern)}, and none here was attacked with it"


class Names(NamedTuple):
    """What an attack under a threat may be asked for by.

    Attributes:
        plain: its name and its label, where it has the parameters that it has by default or of one of its presets.
        whole: its name with all parameters.
        has_limit: whether images had a number of passes at most, which a pattern has to name.
    """

    plain: tuple[str, ...]
    whole: tuple[str, ...]
    has_limit: bool

    @classmethod
    def of(cls, label: str, result: Measured) -> Names:
        attack = result.cell.attack
        assert attack is not None
        group, name = threat_text(attack.threat), attack.attack.name
        params = visible(",".join(f"{key}={value}" for key, value in sorted(attack_params(result).items())))
        has_limit = attack.max_passes is not None
        is_plain = not has_limit and attack.craft_precision == "auto" and _has_usual_parameters(attack.attack)
        plain = [with_threat(each, group) for each in ((name, label) if is_plain else ())]
        return cls(tuple(chain.from_iterable(plain)), tuple(with_threat(f"{name}[{params}]", group)), has_limit)

    def match(self, pattern: str) -> bool:
        """Say whether the attack is one that a pattern asks for."""
        is_meant = not self.has_limit or "max_passes" in pattern
        return matches(pattern, self.plain) or (is_meant and matches(pattern, self.whole))


def _has_usual_parameters(attack: MethodRef) -> bool:
    """Say whether an attack has the parameters of its default or of a preset, but for which iterate it keeps."""
    try:
        entry = registry.entry_of(attack)
        presets: Iterable[Mapping[str, object]] = ({}, *(entry.meta.get("presets") or {}).values())
        usual = [entry.spelled_out(settings) for settings in presets]
    except UsageError:
        # An attack that is not here has a mark of its own.
        return True
    given = {key: value for key, value in attack.params.items() if key != "rule"}
    return any(all(key in own and str(own[key]) == str(value) for key, value in given.items()) for own in usual)


def unmatched(patterns: Iterable[str], attacks: Iterable[tuple[str, Measured]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the patterns that match no attack, each with what may be named instead.

    These are attacks of the name with which the pattern begins; where there is none, all labels.

    Args:
        patterns: as of :class:`Policy`.
        attacks: results, each with the label of its attack.
    """
    first = {
        (result.names.dataset, label, result.cell.attack): result
        for label, result in attacks
        if result.cell.attack is not None
    }
    known = [(dataset, Names.of(label, result)) for (dataset, label, _), result in first.items()]
    for pattern in dict.fromkeys(patterns):
        name, attack = _split(pattern)
        own = [names for dataset, names in known if matches(name, [dataset])]
        if not any(names.match(attack) for names in own):
            begin = f"{attack.split()[0].partition('*')[0].casefold()}["
            alike = {(names.plain or names.whole)[2] for names in own if names.whole[0].startswith(begin)}
            yield pattern, sorted(alike or {label for _, label, _ in first})
