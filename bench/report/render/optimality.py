"""The ranking of attacks by optimality: in a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from bench.report.leaderboard.optimality import OnNetwork, RankedAttack
from bench.report.render.markdown import escape_markdown, grid
from bench.types import NORMS
from bench.visible import visible

_HEADS = ("attack", "optimality", "median distance", "broken, %", "passes", "ms", "networks")
#: What stands below it.
LEGEND = (
    "Optimality (AttackBench): the area between clean accuracy and the attack's curve of robust accuracy over budgets, "
    "as a share of that of the nearest wrong images that any attack found; 100 % is the best of these attacks on every "
    "image, and the mean is over networks. Median distance and broken are of images that are right clean; passes and "
    "milliseconds are for an image."
)
_WIDTH = 100
_NONE = "no attack without a budget: give ddn, fmn or another attack that minimises a norm neither eps nor target"


def as_markdown(ranked: Sequence[RankedAttack]) -> str:
    """Return a table for each data set and norm."""
    lines: list[str] = []
    for title, group in _groups(ranked):
        heads = map(escape_markdown, _HEADS)
        rows = [[escape_markdown(each.attack), *_cells(each)] for each in group]
        lines += [f"### {escape_markdown(title)}", "", *grid(list(heads), rows, "l" + "r" * (len(_HEADS) - 1)), ""]
    return "\n".join([*lines, LEGEND if ranked else _NONE]) + "\n"


def as_text(ranked: Sequence[RankedAttack]) -> str:
    """Return a table for each data set and norm, in columns of equal width."""
    lines: list[str] = []
    for title, group in _groups(ranked):
        rows = [_HEADS, *((visible(each.attack), *_cells(each)) for each in group)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [visible(title), ""]
        for name, *numbers in rows:
            padded = [each.rjust(width) for each, width in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        lines.append("")
    return "\n".join([*lines, *wrap(LEGEND if ranked else _NONE, _WIDTH)]) + "\n"


def as_json(ranked: Sequence[RankedAttack]) -> str:
    """Return all attacks, each with its networks."""
    attacks = [{**_numbers(each), "networks": [_local(one) for one in each.networks]} for each in ranked]
    return json.dumps({"schema": 1, "attacks": attacks}, indent=1, allow_nan=False) + "\n"


def as_csv(ranked: Sequence[RankedAttack]) -> str:
    """Return a row for each attack on each network, and one of all its networks, whose ``model`` is empty."""
    out = io.StringIO()
    names = ("dataset", "norm", "attack", "model", "network", "defense", "access")
    more = ("optimality", "median_distance", "broken", "passes_per_example", "seconds_per_example", "of_networks")
    writer = csv.DictWriter(out, (*names, *more), restval="", lineterminator="\n")
    writer.writeheader()
    for each in ranked:
        writer.writerow(_numbers(each))
        for one in each.networks:
            writer.writerow({"dataset": each.dataset, "norm": each.norm, "attack": each.attack, **_local(one)})
    return out.getvalue()


FORMATS: Mapping[str, Callable[[Sequence[RankedAttack]], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
}


def _groups(ranked: Sequence[RankedAttack]) -> list[tuple[str, list[RankedAttack]]]:
    grouped = groupby(ranked, lambda each: (each.dataset, each.norm))
    return [(f"{dataset} · {NORMS[norm]}", list(group)) for (dataset, norm), group in grouped]


def _cells(each: RankedAttack) -> list[str]:
    seconds = each.seconds
    return [
        _text(each.optimality and 100 * each.optimality, "{:.1f} %"),
        _text(each.median_distance, "{:.4g}"),
        _text(each.broken and 100 * each.broken, "{:.1f}"),
        _text(each.passes, "{:,.0f}"),
        _text(seconds and 1000 * seconds, "{:.3g}"),
        f"{len(each.networks)} of {each.of}",
    ]


def _text(value: float | None, shape: str) -> str:
    return "–" if value is None else shape.format(value)


def _numbers(each: RankedAttack) -> dict[str, Any]:
    return {
        "dataset": each.dataset,
        "norm": each.norm,
        "attack": each.attack,
        "optimality": each.optimality,
        "median_distance": each.median_distance,
        "broken": each.broken,
        "passes_per_example": each.passes,
        "seconds_per_example": each.seconds,
        "of_networks": each.of,
    }


def _local(one: OnNetwork) -> dict[str, Any]:
    alone = RankedAttack(one.dataset, one.norm, one.attack, [one], 1)
    place = {"model": one.model, "network": one.network, "defense": one.defense, "access": one.access}
    shared = ("dataset", "norm", "attack", "of_networks")
    return {**place, **{name: value for name, value in _numbers(alone).items() if name not in shared}}
