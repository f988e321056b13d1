"""The figures: one file each, drawn from the store, written as PNG and PDF with the JSON of their numbers.

A file ``some_name.py`` here is the figure ``some-name``: the first line of its docstring says what it shows, and its
``draw(source)`` returns the picture with its numbers, or raises ``Missing`` where the store lacks what it needs.
"""

from __future__ import annotations

import ast
import importlib
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.report.leaderboard.tables import Board, build
from bench.store.files import is_regular
from bench.store.outputs import move_foreign_aside, write_into
from bench.store.planned import PlannedTable
from bench.store.records import with_distances
from bench.store.working_store import Store
from bench.types import CellResult, MethodError, UsageError, shortened, text_of
from bench.visible import json_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = Path(__file__).parent
STYLE = _HERE / "crossfire.mplstyle"
_log = logging.getLogger("crossfire")

#: Inches: the text width of a page and the width of one of its two columns. Letters have the same size in both.
WIDTHS = {"page": 7.0, "column": 3.25}
#: Letters of a name that a figure has room for.
_MAX_NAME_LETTERS = 100
#: Letters of the reason why a figure failed.
_MAX_REASON_LETTERS = 400
#: Inches of the longer side. Programs do not show larger pictures.
_MAX_INCHES = 120


class NotDrawn(Exception):
    """A figure is not drawn; the message says why, in one line."""


class Missing(NotDrawn):
    """The store does not hold what a figure needs; the message says what, and how to get it."""


class Failed(NotDrawn):
    """The results are there and cannot be drawn: they name what this installation does not know, or an error came."""


class Drawing(NamedTuple):
    figure: Figure
    #: All numbers of the picture, for the JSON file beside it.
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """The input of figures: results, their store, and the folder of image sets."""

    board: Board
    store: Store
    data_folder: Path | None = None
    #: Whether published numbers are drawn beside the measured ones.
    paper: bool = False
    #: Whether folders, weights and Python files that the results name may be opened.
    trusted: bool = False
    #: Inches: the width of a figure.
    width: float = WIDTHS["page"]

    @property
    def results(self) -> list[CellResult]:
        return list(self.board.results.values())


def source_of(
    results: Sequence[CellResult],
    store: Store,
    *,
    planned: Iterable[PlannedTable] = (),
    data_folder: Path | None = None,
    paper: bool = False,
    trusted: bool = False,
    width: float = WIDTHS["page"],
) -> Source:
    """Return the input of figures; names of cells that are longer than a line are shortened in the middle.

    Distances of images that results lack are taken from the records of the store.
    """
    whole = (with_distances(each, store) for each in results)
    return Source(build(map(_with_short_names, whole), planned), store, data_folder, paper, trusted, width)


def _with_short_names(result: CellResult) -> CellResult:
    names = result.names.model_dump()
    short = {field: shortened(name, _MAX_NAME_LETTERS) for field, name in names.items()}
    return result if short == names else result.model_copy(update={"names": result.names.model_copy(update=short)})


def summaries() -> dict[str, str]:
    """Return the summary of every figure by its name, read without importing it."""
    summary_of = {}
    for path in sorted(_HERE.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        summary_of[path.stem.replace("_", "-")] = text.splitlines()[0].rstrip(".")
    return summary_of


def draw(name: str, source: Source, out: Path) -> list[Path]:
    """Draw one figure and return its files: ``name.png``, ``name.pdf``, ``name.json``.

    The same results give the same bytes on one machine.

    Raises:
        Missing: the store does not hold what the figure needs.
        Failed: it cannot be drawn. No file has changed.
        UsageError: the files cannot be written.
    """
    files = drawn(name, lambda: _drawing(name, source))
    _move_foreign_aside(name, out)
    # The JSON file comes first. It marks the pictures as ours, even if writing them fails.
    for suffix, data in files.items():
        write_into(out / f"{name}.{suffix}", data)
    return [out / f"{name}.{suffix}" for suffix in ("png", "pdf", "json")]


def drawn(name: str, make: Callable[[], Drawing]) -> dict[str, bytes]:
    """Return the files of a figure by their suffixes: ``png``, ``pdf``, ``json``.

    Raises:
        Missing: what it needs is not there.
        Failed: it cannot be drawn.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with pyplot.style.context(str(STYLE)), warnings.catch_warnings(record=True) as raised:
        try:
            files = _rendered(name, make())
        except NotDrawn:
            raise
        # One figure that fails does not cost the others.
        except Exception as error:
            _log.debug("figure %s", name, exc_info=True)
            raise Failed(_reason(error)) from error
        finally:
            pyplot.close("all")
    # Matplotlib warns of glyphs that the font lacks, and of names that are too long for the page.
    for message in dict.fromkeys(str(warning.message) for warning in raised):
        _log.warning("figure %s: %s", name, message)
    return files


def _reason(error: Exception) -> str:
    """Return why a figure failed, in one line."""
    if isinstance(error, UsageError | MethodError):
        text = text_of(error)
    elif isinstance(error, MemoryError):
        text = "memory ran out"
    else:
        text = f"{type(error).__name__}: {text_of(error)}"
    return shortened(" ".join(text.split()), _MAX_REASON_LETTERS)


def _drawing(name: str, source: Source) -> Drawing:
    module = importlib.import_module(f"bench.report.figures.{name.replace('-', '_')}")
    drawing: Drawing = module.draw(source)
    return drawing


def _rendered(name: str, drawing: Drawing) -> dict[str, bytes]:
    """Return the files of a figure by their suffixes."""
    from matplotlib import pyplot

    if (side := max(drawing.figure.get_size_inches())) > _MAX_INCHES:
        raise Missing(f"it would be {side:,.0f} inches long; name fewer cells, or take leaderboard --format html")
    numbers = json_text({"schema": 1, "figure": name, **drawing.numbers}, indent=1) + "\n"
    files = {"json": numbers.encode()}
    # Without dates and versions, the same results give the same bytes.
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    }
    # After each picture Matplotlib sets the layout again, to what the style says where the figure has none.
    with pyplot.rc_context({"figure.constrained_layout.use": False}):
        for suffix, fields in metadata.items():
            buffer = BytesIO()
            drawing.figure.savefig(buffer, format=suffix, metadata=fields)
            files[suffix] = buffer.getvalue()
    return files


def _move_foreign_aside(name: str, out: Path) -> None:
    """Move somebody else's files of these names aside; a picture is ours if its JSON file names the figure."""
    numbers = out / f"{name}.json"
    move_foreign_aside(numbers, lambda head: f'"figure": "{name}"'.encode() in head)
    for suffix in ("png", "pdf"):
        move_foreign_aside(out / f"{name}.{suffix}", lambda _: is_regular(numbers))
