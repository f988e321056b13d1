"""Results as a tidy pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.types import CellResult

if TYPE_CHECKING:
    import pandas as pd


def load_results(source: str | Path | Iterable[CellResult] | None = None) -> pd.DataFrame:
    """Return results with one row for each cell.

    Columns are those of ``cells`` in ``leaderboard --format json``: the names ``dataset model defense attack access``
    (attack is ``clean`` for the clean evaluation); ``norm`` and ``eps`` (text such as ``8/255``; missing where
    unbounded); ``n`` images, ``seed``; as fractions in [0, 1] of all images ``clean_accuracy``,
    ``accuracy_under_attack`` (right under the attack, whatever the clean answer) with its interval ``ci_low ci_high``,
    and ``robust_accuracy`` (right clean and under the attack); ``status`` (``done`` or ``failed``), ``flags``,
    ``error``; ``forwards_per_example backwards_per_example seconds_per_example flops_per_example`` of the attack;
    ``mean_linf mean_l2`` in pixel units of [0, 1]; ``attack_params`` and ``eot``; ``images`` (hash of the image list),
    ``protocol``, ``commit dirty machine device finished``; ``key``. A result of code since edited gives way to the
    newest one.

    Args:
        source: a store, a recorded file, a commit, or results; the default store if left out.

    Raises:
        UsageError: there is nothing of the kind at ``source``.
    """
    import pandas as pd

    from bench.process.collection import no_collection
    from bench.report.leaderboard.tables import build
    from bench.report.render.export import cell_rows
    from bench.store.history import read
    from bench.store.working_store import default_root

    chosen = default_root() if source is None else source
    with no_collection():
        board = build(read(chosen).results if isinstance(chosen, str | Path) else chosen)
    frame = pd.DataFrame(cell_rows(board))
    if "finished" in frame:
        frame["finished"] = pd.to_datetime(frame["finished"], utc=True, format="ISO8601")
    return frame
