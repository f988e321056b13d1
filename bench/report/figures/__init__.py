"""The figures: one file each, drawn from the store, written as PNG and PDF with the JSON of their numbers.

A file ``some_name.py`` here is the figure ``some-name``: the first line of its docstring says what it shows, and its
``draw(source)`` returns the picture with its numbers, or raises ``Missing`` where the store lacks what it needs.
"""

from __future__ import annotations

import ast
import importlib
import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.report.leaderboard.tables import Board, build
from bench.store.files import is_regular
from bench.store.outputs import move_foreign_aside, write_into
from bench.store.planned import PlannedTable
from bench.store.working_store import Store
from bench.types import CellResult, shortened
from bench.visible import json_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = Path(__file__).parent
STYLE = _HERE / "crossfire.mplstyle"
_log = logging.getLogger("crossfire")


#: Letters that a figure has room for, where a name has more.
_LONGEST_NAME = 100
#: Inches of the longer side, beyond which there is no picture that a program would show.
_LARGEST = 120


class Missing(Exception):
    """The store does not hold what a figure needs; the text says what, and how to make it."""


class Drawing(NamedTuple):
    figure: Figure
    #: Everything that the picture shows, as JSON.
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What figures are drawn from: results, the store they are from, and where images may be found."""

    board: Board
    store: Store
    data_folder: Path | None = None
    #: Whether published numbers are drawn beside the measured ones.
    paper: bool = False
    #: Whether folders, weights and Python files that the results name may be opened.
    trusted: bool = False

    @property
    def results(self) -> list[CellResult]:
        return list(self.board.results.values())


def source_of(
    results: Sequence[CellResult],
    store: Store,
    *,
    asked: Iterable[PlannedTable] = (),
    data_folder: Path | None = None,
    paper: bool = False,
    trusted: bool = False,
) -> Source:
    """Return what figures are drawn from; a name of a cell that is longer than a line is cut in its middle."""
    return Source(build(map(_short_named, results), asked), store, data_folder, paper, trusted)


def _short_named(result: CellResult) -> CellResult:
    given = result.names.model_dump()
    short = {what: shortened(name, _LONGEST_NAME) for what, name in given.items()}
    return result if short == given else result.model_copy(update={"names": result.names.model_copy(update=short)})


def summaries() -> dict[str, str]:
    """Return every figure with what it shows, read without importing it."""
    found = {}
    for path in sorted(_HERE.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem.replace("_", "-")] = text.splitlines()[0].rstrip(".")
    return found


def draw(name: str, source: Source, out: Path) -> list[Path]:
    """Draw one figure and return its files: ``name.png``, ``name.pdf``, ``name.json``.

    The same results give the same bytes on one machine.

    Raises:
        Missing: the store does not hold what the figure needs.
        UsageError: the files cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    module = importlib.import_module(f"bench.report.figures.{name.replace('-', '_')}")
    with pyplot.style.context(str(STYLE)), warnings.catch_warnings(record=True) as said:
        try:
            drawing: Drawing = module.draw(source)
            if (side := max(drawing.figure.get_size_inches())) > _LARGEST:
                raise Missing(
                    f"it would be {side:,.0f} inches long; name fewer cells, or take leaderboard --format html"
                )
            files = _write(name, drawing, out)
        finally:
            pyplot.close("all")
    # Of the glyphs that the font lacks, and of names too long for the page.
    for text in dict.fromkeys(str(each.message) for each in said):
        _log.warning("figure %s: %s", name, text)
    return files


def _write(name: str, drawing: Drawing, out: Path) -> list[Path]:
    from io import BytesIO

    _move_foreign_aside(name, out)
    # First, since they say whose the pictures are, also where the rest is not written any more.
    numbers = json_text({"schema": 1, "figure": name, **drawing.numbers}, indent=1) + "\n"
    write_into(out / f"{name}.json", numbers.encode())
    # Dates and versions would make every file another one.
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    }
    for kind, about in metadata.items():
        buffer = BytesIO()
        drawing.figure.savefig(buffer, format=kind, metadata=about)
        write_into(out / f"{name}.{kind}", buffer.getvalue())
    return [out / f"{name}.{kind}" for kind in (*metadata, "json")]


def _move_foreign_aside(name: str, out: Path) -> None:
    """Move somebody else's files of these names aside; a picture is ours if the numbers beside it say so."""
    numbers = out / f"{name}.json"
    move_foreign_aside(numbers, lambda head: f'"figure": "{name}"'.encode() in head)
    for kind in ("png", "pdf"):
        move_foreign_aside(out / f"{name}.{kind}", lambda _: is_regular(numbers))
