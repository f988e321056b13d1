"""What a random defense is worth to who asks it once, and to who may ask again (DiffBreak; Kassis et al., 2024)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from statistics import fmean

from bench import registry
from bench.report.leaderboard.summaries import DefenseCells
from bench.types import Access, CellResult, Metrics, UsageError


def queries_of(metrics: Metrics) -> int:
    """Return how often the deployed function was asked for each image."""
    majority = re.fullmatch(r"majority-of-([0-9]{1,9})", metrics.protocol)
    return int(majority[1]) if majority else 1


def query_lines(cells: DefenseCells) -> Iterator[str]:
    """Yield for each access and threat what is left of a random defense by one query, and by many.

    It is of the attack that leaves the fewest right answers to one query; means over seeds.
    """
    strongest: dict[tuple[Access, str], tuple[float, list[CellResult]]] = {}
    for (access, threat, _), results in cells.cells.items():
        known = [r for r in results if r.metrics is not None and r.metrics.robust_mean is not None]
        if known:
            once = fmean(r.metrics.robust_mean or 0.0 for r in known if r.metrics is not None)
            least = strongest.get((access, threat))
            strongest[access, threat] = (once, known) if least is None or once < least[0] else least
    for (access, threat), (once, known) in strongest.items():
        metrics = [r.metrics for r in known if r.metrics is not None]
        asked, attack = queries_of(metrics[0]), known[0].cell.attack
        seen_by, averaged = "gray-box" if access == "static" else access, ""
        if access == "adaptive" and attack is not None and _averages_draws(attack.attack.name):
            averaged = f", gradients averaged over {attack.eot} draws"
        yield (
            f"{cells.name}, {threat}, {seen_by} {known[0].names.attack}{averaged}: right when clean and under attack "
            f"by one query {100 * once:.1f} %, by the majority of {asked} queries "
            f"{100 * fmean(m.robust_accuracy for m in metrics):.1f} %, by each of {asked} queries "
            f"{100 * fmean(m.robust_worst or 0.0 for m in metrics):.1f} %"
        )


@cache
def _averages_draws(attack: str) -> bool:
    """Say whether an attack is known to take as many draws as the configuration sets; of other libraries none is."""
    try:
        return bool(registry.find("attack", attack).meta.get("averages_draws", True))
    except UsageError:
        return False
