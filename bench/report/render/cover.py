"""The attacks that a worst case needs: in a terminal, as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate, chain
from textwrap import wrap

from bench.report.leaderboard.cover import Cover
from bench.report.render.markdown import escape_markdown, grid
from bench.visible import visible

_HEADS = ("attack", "broken first", "left", "passes so far")
#: What stands below it.
LEGEND = (
    "Greedy cover: the next attack is the one that breaks the most images that are still right for its passes on "
    "these, until none breaks another. Counts are over all deployed networks of the table, white-box and adaptive, and "
    "their seeds, of images that are right clean; passes are forwards and backwards for one of these. Other networks "
    "may need other attacks."
)
_WIDTH = 100
_NONE = "no attack to compare: give several attacks under one threat, without worst_case and target"


def as_markdown(covers: Sequence[Cover]) -> str:
    """Return a table for each table of results and threat."""
    lines: list[str] = []
    for cover in covers:
        rows = [[escape_markdown(name), *numbers] for name, *numbers in _rows(cover)]
        lines += [f"### {escape_markdown(_title(cover))}", "", *grid(list(_HEADS), rows, "lrrr"), ""]
        lines += [f"- {escape_markdown(remark)}" for remark in _remarks(cover)] + [""]
    return "\n".join([*lines, LEGEND if covers else _NONE]) + "\n"


def as_text(covers: Sequence[Cover]) -> str:
    """Return a table for each table of results and threat, in columns of equal width."""
    lines: list[str] = []
    for cover in covers:
        rows = [list(_HEADS), *([visible(name), *numbers] for name, *numbers in _rows(cover))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [visible(_title(cover)), ""]
        for name, *numbers in rows:
            padded = [each.rjust(width) for each, width in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        remarks = (wrap(visible(remark), _WIDTH) for remark in _remarks(cover))
        lines += ["", *chain.from_iterable(remarks), ""]
    return "\n".join([*lines, *wrap(LEGEND if covers else _NONE, _WIDTH)]) + "\n"


def as_json(covers: Sequence[Cover]) -> str:
    """Return every cover with its steps; passes are sums over images."""
    return json.dumps({"schema": 1, "covers": [asdict(each) for each in covers]}, indent=1, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[Cover]], str]] = {"md": as_markdown, "json": as_json}


def _title(cover: Cover) -> str:
    return f"{cover.table} · {cover.threat} · {cover.networks:,} deployed network{'s' * (cover.networks != 1)}"


def _rows(cover: Cover) -> list[list[str]]:
    taken = accumulate(step.passes for step in cover.steps)
    return [
        [step.attack, f"{step.broken:,}", f"{step.left:,}", _each(cover, passes)]
        for step, passes in zip(cover.steps, taken, strict=True)
    ]


def _each(cover: Cover, passes: float) -> str:
    return f"{passes / cover.right:,.1f}" if cover.right else "–"


def _remarks(cover: Cover) -> list[str]:
    remarks = [
        f"Right clean: {cover.right:,}. All attacks that are compared, each on all of these images: "
        f"{_each(cover, cover.passes)} passes."
    ]
    for names, what in (
        (cover.idle, "Break no other image"),
        (cover.partial, "Not compared, as some network lacks them"),
        (cover.after_others, "Not compared, as worst_case gave them only what other attacks had left"),
        (cover.averaged, "Priced by their mean over all images, as their records are not there"),
    ):
        remarks += [f"{what}: {', '.join(names)}."] if names else []
    return remarks
