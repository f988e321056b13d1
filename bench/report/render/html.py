"""The leaderboard as one page that needs no server: a click on a number shows its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from bench.keys import Once
from bench.report.leaderboard.summaries import ACCESSES
from bench.report.leaderboard.tables import Board, build
from bench.report.render import text
from bench.report.render.names import short_names
from bench.report.render.people import Contributions
from bench.report.render.samples import MAX_SETS, Sample, samples
from bench.report.render.view import views
from bench.store.outputs import move_foreign_aside, write_into
from bench.store.working_store import Store
from bench.types import AttackRef, CellError, CellResult, Cost, Metrics, jsonable, listed, threat_text, usage
from bench.visible import visible, visible_values

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_TEMPLATES = Path(__file__).parent / "templates"
#: Bytes of a page that a browser opens at once and scrolls smoothly.
_MAX_PAGE_BYTES = 14 * 10**6
#: Numbers in the tables of a page. While the page is larger than that, half of them, but not fewer than the minimum.
_MAX_NUMBERS = 8_000
_MIN_NUMBERS = 100
#: Of a piece for another page.
_MAX_FRAGMENT_NUMBERS = 2_000
#: With more tables, a page begins with links to them.
_FEW_TABLES = 2
#: Commits and machines that a line names.
_NAMED = 3
_LINK_LETTERS = 48
#: Letters of a traceback, counted from its end.
_MAX_TRACEBACK_LETTERS = 4_000
#: Of each list of results that do not count, and of who measured what in a table.
_MAX_ITEMS = 300
#: Among the first bytes of every page that Crossfire writes.
_TITLE = b"<title>Crossfire leaderboard</title>"


def write_report(
    results: Iterable[CellResult] | Board,
    out_dir: Path,
    *,
    store: Store | None = None,
    data_folder: Path | None = None,
    trusted: bool = False,
) -> Path:
    """Write the page and return its path, ``out_dir/index.html``.

    Args:
        results: to show.
        out_dir: the folder of the page; created if necessary.
        store: holds adversarial images, some of which the page shows.
        data_folder: where to look for image sets first.
        trusted: whether folders of images that the results name may be opened.

    Raises:
        UsageError: the folder cannot be written.
    """
    page = out_dir / "index.html"
    # Somebody else's folder may be called report, too.
    move_foreign_aside(page, lambda head: _TITLE in head)
    board = results if isinstance(results, Board) else build(results)
    write_into(page, render(board, store, data_folder, trusted=trusted).encode(), option="the report")
    return page


def render(
    board: Board,
    store: Store | None = None,
    data_folder: Path | None = None,
    *,
    trusted: bool = False,
    people: Contributions | None = None,
) -> str:
    """Return the page, of at most about 14 MB, with sample images where ``store`` has them.

    Where the results are many people's, ``people`` says whose, and what does not count.

    Of large tables it shows the first rows and columns with their details, and says how many there are.
    """
    numbers, sets = _MAX_NUMBERS, MAX_SETS
    pictures = partial(samples, store=store, data_folder=data_folder, trusted=trusted) if store else None
    while True:
        page = _page(board, pictures, numbers, sets, people)
        if len(page.encode(errors="replace")) <= _MAX_PAGE_BYTES or numbers < _MIN_NUMBERS:
            return page
        numbers, sets = numbers // 2, sets // 2


def _page(
    board: Board,
    pictures: Callable[..., dict[str, Sample]] | None,
    numbers: int,
    sets: int,
    people: Contributions | None,
) -> str:
    """Return the page with at most ``numbers`` numbers and the images of ``sets`` adversarial sets."""
    tables, left_out = views(board, numbers)
    columns = [head.column for head in chain.from_iterable(view["heads"] for view in tables)]
    accesses = {row.access for row in chain.from_iterable(table.rows for table in board.tables if table.has_access)}
    results = _results(board, tables)
    page = template("leaderboard.html").render(
        live=True,
        board=board,
        tables=tables,
        index=_index(tables),
        facts=[*(people.facts if people else ()), *_facts(board)],
        people=people,
        most_items=_MAX_ITEMS,
        datasets=sorted({view["table"].dataset for view in tables}),
        models=sorted({view["table"].network for view in tables}),
        threats=list(dict.fromkeys(c.group for c in columns if c.group not in ("", "cost"))),
        access=text.access,
        accesses=[(access, text.access_words(access)) for access in ACCESSES if access in accesses],
        optional=list(dict.fromkeys(c.label for c in columns if c.kind != "clean")),
        left_out=left_out,
        # Inside the data hidden characters are JSON escapes, which the script would read back.
        details=visible_values(_details(board, results, pictures(results, limit=sets) if pictures else {}, people)),
        absent=text.absent(board),
        foot=text.page_foot(columns, board.tables),
    )
    return visible(page, lines=True)


def fragment(board: Board) -> str:
    """Return the tables as a piece of HTML for a page of somebody else's, such as a notebook: no script, own styles."""
    tables, _ = views(board, _MAX_FRAGMENT_NUMBERS)
    piece = template("fragment.html").render(
        live=False,
        people=None,
        tables=tables,
        access=text.access,
        absent=text.absent(board),
        foot=text.foot(board.tables),
    )
    return visible(piece, lines=True)


def _index(tables: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the titles of tables, and what links to them say; none where a reader sees all tables at once."""
    if len(tables) <= _FEW_TABLES:
        return {}
    titles: list[str] = []
    counts: dict[str, int] = {}
    for view in tables:
        title = view["title"]
        counts[title] = counts.get(title, 0) + 1
        titles.append(title if counts[title] == 1 else f"{title} ({counts[title]})")
    return short_names(titles, _LINK_LETTERS)


def template(name: str) -> Template:
    """Return a template of this package; what it is given is escaped."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    return environment


def _results(board: Board, tables: Sequence[Mapping[str, Any]]) -> list[CellResult]:
    """Return the results that numbers of the page lead to."""
    keys: set[str] = set()
    for view in tables:
        points = view["scatter"]["points"] if view["scatter"] else ()
        for number in (*chain.from_iterable(cells for _, cells in view["rows"]), *points):
            keys.update(number.keys.split())
    return [result for key, result in board.results.items() if key in keys]


def _facts(board: Board) -> list[str]:
    """Return the number of cells and their provenance, a few words each."""
    provenance = [result.provenance for result in board.results.values()]
    if not provenance:
        return []
    failed = sum(result.status == "failed" for result in board.results.values())
    commits = sorted({(p.commit or "no commit")[:10] + ("+edits" if p.dirty else "") for p in provenance})
    machines = sorted({p.where for p in provenance})
    facts = [
        f"{len(provenance):,} cell{'s' * (len(provenance) > 1)}" + (f", {failed} failed" if failed else ""),
        f"{'commit' if len(commits) == 1 else f'{len(commits)} commits:'} {listed(commits, _NAMED)}",
        listed(machines, _NAMED),
        f"finished {max(p.finished for p in provenance)[:16].replace('T', ' ')} UTC",
    ]
    return facts + ([f"{board.superseded} older results of code since edited left out"] if board.superseded else [])


class _SharedParts:
    """Parts that many cells have in common: each is kept once, and cells refer to it by its index."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self._indices: dict[str, int] = {}
        self._json = Once(BaseModel.model_dump_json)

    def index(self, part: BaseModel | None) -> int | None:
        if part is None:
            return None
        return self._index(type(part).__name__ + self._json(part), partial(jsonable, part))

    def index_of_sample(self, sample: Sample | None) -> int | None:
        return None if sample is None else self._index(sample.url, sample._asdict)

    def _index(self, identity: str, value: Callable[[], Any]) -> int:
        if identity not in self._indices:
            self._indices[identity] = len(self.parts)
            self.parts.append(value())
        return self._indices[identity]


def _details(
    board: Board, results: Iterable[CellResult], pictures: Mapping[str, Sample], people: Contributions | None
) -> dict[str, Any]:
    """Return results as data for the script of the page."""
    shared = _SharedParts()
    cells = {}
    for r in results:
        defense, attack_label = board.labels[r.key]
        attack = r.cell.attack
        cells[r.key] = {
            "title": [r.names.dataset, r.names.model, defense, attack_label, text.access_words(r.names.access)],
            "status": r.status,
            "seed": r.cell.seed,
            "flags": r.flags,
            "metrics": _numbers(r.metrics) if r.metrics else None,
            "attack": _parameters(attack) if attack else None,
            "threat": threat_text(attack.threat) if attack else None,
            "defense": shared.index(r.cell.model),
            "step": shared.index(r.cell.step),
            "images": shared.index(r.cell.data),
            "cost": _numbers(r.cost) if r.cost else None,
            "own_cost": shared.index(r.defense_cost),
            "provenance": shared.index(r.provenance),
            "error": _error(r.error) if r.error else None,
            "sample": shared.index_of_sample(pictures.get(r.key)),
            "measured": people.of(r.key) if people else None,
        }
    return {"shared": shared.parts, "cells": cells}


def _numbers(part: Metrics | Cost) -> dict[str, Any]:
    """Return numbers to the seven digits that a float of an image has; the details show five."""
    numbers = jsonable(part).items()
    return {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in numbers}


def _error(error: CellError) -> dict[str, Any]:
    trace = error.traceback
    end = trace if len(trace) <= _MAX_TRACEBACK_LETTERS else f"[…]\n{trace[-_MAX_TRACEBACK_LETTERS:]}"
    return {**jsonable(error), "traceback": end}


def _parameters(attack: AttackRef) -> dict[str, Any]:
    after = {"after": ", ".join(earlier.attack.name for earlier in attack.after)} if attack.after else {}
    return {**attack.attack.params, **usage(attack), **after, "code": attack.attack.code_sha[:12]}
