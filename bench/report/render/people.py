"""What a leaderboard of many people says besides its numbers: who measured what, and what does not count and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from bench.report.leaderboard.tables import Board, Table, TableRow
from bench.report.render import text
from bench.types import listed, threat_text

#: Names that stand below a row, and letters of each; submissions and attacks of a line.
_NAMES, _NAME_LETTERS = 3, 24
_FOLDERS, _ATTACKS = 6, 12
#: People of a line of whom what is known is said one by one.
_PEOPLE = 4


class Person(NamedTuple):
    """Somebody, with a page of theirs and that of their paper; both begin with https."""

    name: str
    link: str | None = None
    paper: str | None = None


class Source(NamedTuple):
    """Where a result is from.

    Attributes:
        person: who measured it.
        date: when.
        words: what is known of it.
        is_repeated: whether its predictions were made again here.
        access: of an attacked result, what the attacker saw; empty of a clean one, which is no receipt.
        file: of the submissions.
        sha256: of the receipt or the file.
        are_halved: whether its predictions were made again with weights in half precision.
    """

    person: Person
    date: str
    words: str
    is_repeated: bool
    access: str
    file: str
    sha256: str
    are_halved: bool = False


class Measured(NamedTuple):
    """Cells of a row that the same people measured, and of which the same is known."""

    defense: str
    access: str
    attacks: str
    people: tuple[Person, ...]
    dates: str
    words: str
    #: Of submissions.
    folders: str


class Item(NamedTuple):
    """A result that does not count: what it is, who gave it, and why it does not."""

    what: str
    who: str
    why: str
    is_struck: bool = False


class Listed(NamedTuple):
    """Results of one kind that do not count: the title, what it means, and the results."""

    title: str
    about: str
    items: tuple[Item, ...]


class Contributions(NamedTuple):
    """What a leaderboard of many people says besides.

    Attributes:
        facts: about all of it, a few words each.
        sources: of each result that tables show, by its key: the one whose numbers they are first.
        lists: what does not count.
    """

    facts: tuple[str, ...]
    sources: Mapping[str, tuple[Source, ...]]
    lists: tuple[Listed, ...]

    def measured(self, board: Board, table: Table) -> list[Measured]:
        """Return who measured what of a table, a line for cells of a row that have all in common."""
        cells: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for row in table.rows:
            for key in dict.fromkeys(row.keys):
                own, result = self.sources.get(key, ()), board.results[key]
                # A clean cell belongs to every access.
                if own and key not in cells[row.defense, result.names.access, *_common(own)]:
                    cells[row.defense, result.names.access, *_common(own)].append(key)
        called = {
            key: _called(board, key, has_threat=text.has_several_threats(table)) for key in chain(*cells.values())
        }
        return [
            self._line(called, defense, access, people, words, keys)
            for (defense, access, people, words), keys in cells.items()
        ]

    def _line(
        self,
        called: Mapping[str, str],
        defense: str,
        access: str,
        people: tuple[Person, ...],
        words: str,
        keys: list[str],
    ) -> Measured:
        sources = list(chain.from_iterable(self.sources[key] for key in keys))
        dates = sorted({source.date for source in sources})
        attacks = list(dict.fromkeys(called[key] for key in keys))
        folders = sorted({source.file.partition("/")[0] for source in sources})
        return Measured(
            defense,
            text.access_words(access),
            listed(attacks, _ATTACKS),
            people,
            dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
            words,
            listed(folders, _FOLDERS),
        )

    def by(self, row: TableRow) -> str:
        """Return who measured the cells of a row, and how many under its access were repeated and how."""
        own = [sources for key in dict.fromkeys(row.keys) if (sources := self.sources.get(key))]
        # The numbers of a gap are of another row, too.
        own = [sources for sources in own if sources[0].access == row.access] or own
        if not own:
            return ""
        people = Counter(source.person.name for source in chain.from_iterable(own))
        known = _repeated(own)
        return f"{listed((_short(name) for name, _ in people.most_common()), _NAMES)} · {known}"

    def of(self, key: str) -> dict[str, Any] | None:
        """Return what the details of a cell say; ``None`` of one that nobody gave."""
        own = self.sources.get(key)
        if not own:
            return None
        return {
            "by": names(tuple(dict.fromkeys(source.person for source in own))),
            "checked": "; ".join(dict.fromkeys(source.words for source in own)),
            "files": ", ".join(dict.fromkeys(source.file for source in own)),
            "SHA-256": ", ".join(dict.fromkeys(source.sha256 for source in own)),
        }


def _short(name: str) -> str:
    """Return the beginning of a long name; one in quotes keeps both."""
    if len(name) <= _NAME_LETTERS:
        return name
    end = name[-1] if name[0] in "'\"" else ""
    return f"{name[: _NAME_LETTERS - 1 - len(end)]}…{end}"


def _repeated(cells: Sequence[tuple[Source, ...]]) -> str:
    """Return how many of some cells, given by who measured them, were predicted again, in a few words."""
    repeated = [sources for sources in cells if any(source.is_repeated for source in sources)]
    if not repeated:
        return "not repeated"
    known = "repeated" if len(repeated) == len(cells) else f"{len(repeated):,} of {len(cells):,} repeated"
    halved = sum(all(source.are_halved for source in own if source.is_repeated) for own in repeated)
    if not halved:
        return known
    return f"{known}, {'' if halved == len(repeated) else f'{halved:,} '}in half precision"


def _called(board: Board, key: str, *, has_threat: bool) -> str:
    """Return the label of an attack, with its threat if a table has several."""
    label, attack = board.labels[key][1], board.results[key].cell.attack
    return f"{label} {threat_text(attack.threat)}" if has_threat and attack is not None else label


def names(people: tuple[Person, ...], form: Callable[[Person], str] = lambda person: person.name) -> str:
    """Return some people in one phrase, each in a form of a format."""
    written = [form(person) for person in people]
    return " and ".join([*([", ".join(written[:-1])] if len(written) > 1 else []), written[-1]])


def _common(sources: tuple[Source, ...]) -> tuple[tuple[Person, ...], str]:
    people = tuple(dict.fromkeys(source.person for source in sources))
    words = Counter(source.words for source in sources)
    if len(words) == 1:
        return people, next(iter(words))
    if len(sources) <= _PEOPLE:
        return people, " · ".join(f"{source.person.name}: {source.words}" for source in sources)
    return people, " · ".join(f"{count:,} of {len(sources):,}: {each}" for each, count in words.most_common())
