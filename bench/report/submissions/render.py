"""The tables of a public leaderboard in every format: the numbers as ever, and beside them whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from bench.report.leaderboard.tables import Board
from bench.report.render import export, html
from bench.report.render.markdown import escape_markdown, grid, markdown
from bench.report.render.people import Contributions, Item, Listed, Person, Source, names
from bench.report.submissions.aside import Differing, Superseded
from bench.report.submissions.merge import Merged, under_one_name
from bench.report.submissions.read import REPEATED, Entry, Submissions, person

_HEADS = ("defense", "attacker", "attacks", "measured by", "when", "known", "submissions")
_HASH_DIGITS = 12
_COUNTS_TOO = "; what it broke counts in the worst case as well"


def contributions(submissions: Submissions, merged: Merged) -> Contributions:
    """Return who measured what, and what does not count and why."""
    sources = {key: _sources(entries) for key, entries in merged.sources.items()}
    people = {person(entry.who) for entry in chain.from_iterable(merged.sources.values())}
    folders = {entry.folder for entry in submissions.entries}
    facts = (_counted(len(folders), "submission"), _counted(len(people), "person", "people"))
    return Contributions(facts, sources, tuple(each for each in _lists(submissions, merged) if each.items))


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def _sources(entries: Iterable[Entry]) -> tuple[Source, ...]:
    """Return where a result is from; who has it in two folders is named once."""
    people: dict[str, Person] = {}
    sources: list[Source] = []
    for entry in entries:
        who = people.setdefault(person(entry.who), Person(entry.who, entry.said.link, entry.said.paper))
        sources.append(_source(entry, who))
    return tuple(sources)


def _source(entry: Entry, who: Person) -> Source:
    return Source(
        who,
        entry.finished[:10],
        entry.words,
        entry.state in REPEATED,
        entry.result.cell.access if entry.result.cell.attack else "",
        entry.file,
        entry.sha256,
        entry.state == "repeated in half",
    )


def _lists(submissions: Submissions, merged: Merged) -> Iterator[Listed]:
    yield Listed(
        "Measured differently",
        "The same cells by others, with other outcomes, and seeds by others. Tables show the one that is known best "
        "(predictions repeated, then receipts, then run files), of equals the lowest accuracy, and the seeds of one "
        "submission.",
        tuple(differing_item(each) for each in merged.differing),
    )
    yield Listed(
        "Withdrawn",
        "Taken back, by those who measured them or by those who keep this leaderboard.",
        tuple(
            Item(
                f"SHA-256 {each.withdrawal.sha256[:_HASH_DIGITS]}" if each.entry is None else _named(each.entry),
                "" if each.entry is None else each.entry.who,
                f"{each.withdrawal.reason} ({each.withdrawal.date})",
                is_struck=True,
            )
            for each in merged.withdrawn
        ),
    )
    yield Listed(
        "Superseded",
        "Earlier results of the same submissions, and those that another one replaces.",
        tuple(map(superseded_item, merged.superseded)),
    )
    yield Listed(
        "One name",
        "Folders under one name count as those of one person. A name is what people write, so none of them replaces "
        "results of another or adds seeds to its rows; whoever merges looks that all are theirs.",
        tuple(
            Item(", ".join(folders), who, f"{len(folders):,} folders under one name, counted as one person")
            for who, folders in under_one_name(submissions.entries).items()
        ),
    )
    yield Listed(
        "Not replaced",
        "What a submission says that it replaces, and is somebody else's, known better, or of another folder. Results "
        "of both are used.",
        tuple(Item(file, "", why) for file, why in merged.unreplaced),
    )
    yield Listed(
        "Like what was withdrawn",
        "Results with the outcomes of one that was withdrawn. A copy whose seconds were altered cannot be told from a "
        "second measurement, so whoever keeps this leaderboard has to withdraw it as well, or not.",
        tuple(Item(file, "", why) for file, why in merged.like_withdrawn),
    )
    yield Listed(
        "Left out",
        "Files, and results and flags of files, that are not used.",
        tuple(Item(file, "", why) for file, why in (*submissions.left_out, *merged.remarks, *submissions.remarks)),
    )


def differing_item(differing: Differing) -> Item:
    """Return what is said of a result that others measured otherwise."""
    entry, ranked = differing.entry, differing.ranked
    beside = "" if ranked is None else f"; in the tables {_accuracy(ranked)} by {ranked.who} ({ranked.words})"
    too = _COUNTS_TOO if differing.counts_too else ""
    why = f"{differing.why}{beside}; this one: {entry.words}{too}"
    return Item(f"{_named(entry)}, {_accuracy(entry)}", entry.who, why)


def superseded_item(superseded: Superseded) -> Item:
    """Return what took the place of a result, and what the tables show of that cell where it is something else."""
    entry, by = superseded.entry, superseded.by
    shown = superseded.shown
    what = f"{_named(entry)}, {_accuracy(entry)}"
    words = f"of {entry.finished[:10]}; now {_accuracy(by)} of {by.finished[:10]}, {by.file}"
    if shown is None:
        words += ", which is not in the tables"
    elif shown is not by:
        words += f"; in the tables {_accuracy(shown)} by {shown.who} ({shown.words})"
    return Item(what, entry.who, words + (_COUNTS_TOO if superseded.counts_too else ""))


def _named(entry: Entry) -> str:
    return f"{entry.result.names} ({entry.file}, {entry.sha256[:_HASH_DIGITS]})"


def _accuracy(entry: Entry) -> str:
    metrics = entry.result.metrics
    if metrics is None:
        return "failed"
    under_attack = metrics.accuracy_under_attack
    return f"{100 * (metrics.clean_accuracy if under_attack is None else under_attack):.1f} %"


def as_html(board: Board, people: Contributions) -> str:
    """Return the page."""
    return html.render(board, people=people)


def as_markdown(board: Board, people: Contributions) -> str:
    """Return the tables, below them who measured what, and what does not count."""
    parts = [markdown(board)]
    for table in board.tables:
        rows = [
            (line.defense, line.access, line.attacks, names(line.people, _linked), line.dates, line.words, line.folders)
            for line in people.measured(board, table)
        ]
        parts.append(f"### {escape_markdown(f'Who measured what: {table.title}')}\n")
        escaped = ([*map(escape_markdown, row[:3]), row[3], *map(escape_markdown, row[4:])] for row in rows)
        parts.append("\n".join(grid(_HEADS, escaped, "l" * len(_HEADS))) + "\n")
    for listed in people.lists:
        parts += [f"### {escape_markdown(listed.title)}\n", f"{escape_markdown(listed.about)}\n"]
        parts.append("\n".join(map(_item, listed.items)) + "\n")
    return "\n".join(parts)


def _linked(each: Person) -> str:
    name = escape_markdown(each.name)
    # Of an address only brackets end the link.
    link = each.link and each.link.replace("(", "%28").replace(")", "%29")
    return f"[{name}]({link})" if link else name


def _item(item: Item) -> str:
    what = escape_markdown(item.what)
    return f"- {f'~~{what}~~' if item.is_struck else what}" + escape_markdown(
        f"{', ' if item.who else ''}{item.who}: {item.why}"
    )


def as_csv(board: Board, people: Contributions) -> str:
    """Return the rows, with who measured them and what is known."""
    return export.comma_separated(board, lambda row: {"measured by": people.by(row)})


def as_json(board: Board, people: Contributions) -> str:
    """Return the tables, of each cell who measured it, and lists of what does not count."""
    body = export.payload(board)
    for cell in body["cells"]:
        cell["measured"] = [_as_object(source) for source in people.sources.get(cell["key"], ())]
    for listed in people.lists:
        body[listed.title.lower().replace(" ", "_")] = [
            {"what": item.what, "who": item.who, "why": item.why} for item in listed.items
        ]
    return export.written(body)


def _as_object(source: Source) -> dict[str, Any]:
    who = source.person
    return {
        "by": who.name,
        "link": who.link,
        "paper": who.paper,
        "date": source.date,
        "known": source.words,
        "repeated": source.is_repeated,
        "file": source.file,
        "sha256": source.sha256,
    }


#: Every format by its name.
FORMATS: Mapping[str, Callable[[Board, Contributions], str]] = {
    "html": as_html,
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
}
