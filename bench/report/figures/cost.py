"""What each defense costs: seconds and FLOPs, to train for an epoch and to test 10,000 images."""

from __future__ import annotations

from matplotlib import pyplot as plt

from bench.report.figures import Drawing, Source
from bench.report.figures._plot import INK, WIDTH, name_rows, need, tables
from bench.report.leaderboard.published import published
from bench.report.leaderboard.tables import COSTS

_SHOWN = COSTS[:4]
_TITLES = {
    "train_seconds": "train an epoch,\ns",
    "train_tflop": "train an epoch,\nTFLOP",
    "test_seconds": "test 10,000 images,\ns",
    "test_tflop": "test 10,000 images,\nTFLOP",
}


def draw(source: Source) -> Drawing:
    found = tables(source, lambda table: any(s.cost for s in table.standings))
    need(found, "no cell in the store has a measured cost")
    rows = [max(2, len({s.defense for s in table.standings})) for table in found]
    figure, axes = plt.subplots(
        len(found), 4, figsize=(WIDTH, sum(0.65 + 0.22 * n for n in rows)), squeeze=False, height_ratios=rows
    )
    numbers = []
    for line, table in zip(axes, found, strict=True):
        costs = {s.defense: s.cost for s in table.standings if s.cost}
        names = list(costs)
        lines = {each.defense: each for each in reversed(table.lines)}
        papers = {
            (name, c.column.id): known[0]
            for name in names
            for c in COSTS
            if (known := published(source.board, table, lines[name], c.column))
        }
        body = [
            {
                "defense": name,
                **{c.column.id: c.number(cost) for c in COSTS},
                "published": {c.column.id: papers[name, c.column.id] for c in COSTS if (name, c.column.id) in papers},
            }
            for name, cost in costs.items()
        ]
        for axis, shown in zip(line, _SHOWN, strict=True):
            values = [shown.number(costs[name]) for name in names]
            axis.barh(
                range(len(names)),
                [value or 0 for value in values],
                color="#0072B2" if "train" in shown.column.id else "#009E73",
                height=0.62,
            )
            printed = [papers.get((name, shown.column.id)) for name in names]
            top = max((value for value in [*values, *printed] if value), default=1.0)
            for y, (value, paper) in enumerate(zip(values, printed, strict=True)):
                text = "–" if value is None else f"{value:.3g}"
                if paper is not None:
                    text += f" (paper {paper:.4g})"
                    axis.plot([paper], [y], "D", color=INK, markerfacecolor="white", markersize=3.5, zorder=3)
                axis.text(max(value or 0, paper or 0) + 0.07 * top, y, text, va="center", fontsize=6.5, color=INK)
            name_rows(axis, names if axis is line[0] else [""] * len(names))
            axis.set(xlim=(0, (2.0 if any(printed) else 1.35) * top), ylim=(len(names) - 0.4, -0.6))
            axis.set_xticks([])
            axis.tick_params(length=0)
            axis.grid(False)
            axis.spines["bottom"].set_visible(False)
            # Two lines of room for the name of the table, which may be wider than the first panel.
            axis.set_title(f"\n\n{_TITLES[shown.column.id]}", fontsize=7, fontweight="normal")
        line[0].annotate(
            table.title,
            (0, 1),
            (0, 30),
            xycoords="axes fraction",
            textcoords="offset points",
            fontweight="bold",
            fontsize=9,
        ).set_in_layout(False)
        numbers.append({"dataset": table.dataset, "model": table.model, "defenses": body})
    return Drawing(figure, {"units": "FLOPs count 2 per multiply-add", "tables": numbers})
