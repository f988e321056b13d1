"""Published numbers beside measured ones, as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from bench.report.leaderboard.published import NOT_KNOWN, Beside
from bench.report.render import text
from bench.report.render.markdown import escape_markdown, grid
from bench.visible import json_text, visible


def as_text(rows: Iterable[Beside]) -> str:
    """Return the comparison for a terminal."""
    rows = list(rows)
    if not rows:
        return "nothing was measured\n"
    names = [f"{row.defense}/{row.access} {row.what}" for row in rows]
    lines = ["measured  published  deviation  robust"]
    last_title = ""
    for name, row in zip(names, rows, strict=True):
        title = f"{row.dataset} · {row.model} · {row.n:,} images"
        if title != last_title:
            lines += ["", title, *([row.incomplete] if row.incomplete else [])]
            last_title = title
        lines.append(
            f"{row.measured:8.4g}  {_text(row.published):>9}  {_signed(row.deviation):>9}  {_robust(row):>6}  {name}"
        )
    known = sum(row.published is not None for row in rows)
    lines += [
        "",
        f"{known} of {len(rows)} numbers are published; accuracies in percent, costs as in the leaderboard. Measured "
        "and published alike are accuracy under attack: right under the attack, whatever the clean answer. robust: "
        "robust accuracy, right clean as well, as measured.",
    ]
    lines += [f"published: {source}" for source in dict.fromkeys(row.source for row in rows if row.source)]
    for name, row in zip(names, rows, strict=True):
        lines += [f"reference for {name}: {reference}" for reference in row.references]
    return "\n".join(map(visible, lines)) + "\n"


def as_markdown(rows: Iterable[Beside]) -> str:
    """Return the comparison as a table of Markdown."""
    heads = (
        "data set, network, images, defense, access, number, measured, published, deviation, robust accuracy, source, "
        "others"
    )
    return "\n".join(grid(heads.split(", "), map(_markdown_cells, rows), "llrlllrrrrll")) + "\n"


def _markdown_cells(row: Beside) -> list[str]:
    cells = [
        row.dataset,
        row.model,
        f"{row.n:,} ({row.incomplete})" if row.incomplete else f"{row.n:,}",
        row.defense,
        text.access_words(row.access),
        row.what,
        f"{row.measured:.4g}",
        _text(row.published),
        _signed(row.deviation),
        _robust(row),
        row.source or "",
        "; ".join(row.references),
    ]
    return list(map(escape_markdown, cells))


def as_json(rows: Iterable[Beside]) -> str:
    """Return the comparison as JSON."""
    body = {"schema": 1, "numbers": [asdict(row) for row in rows]}
    return json_text(body, indent=1) + "\n"


def _robust(row: Beside) -> str:
    return "" if row.robust_accuracy is None else f"{row.robust_accuracy:.4g}"


def _text(number: float | None) -> str:
    return NOT_KNOWN if number is None else f"{number:.4g}"


def _signed(number: float | None) -> str:
    return "" if number is None else f"{number:+.3g}"
