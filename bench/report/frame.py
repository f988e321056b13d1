"""Results as a tidy pandas DataFrame."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from bench.registry import unknown
from bench.store import files
from bench.store.files import Unreadable
from bench.store.records import TARGET_COLUMN, largest_records
from bench.store.working_store import Store, default_root
from bench.types import CellResult, UsageError, eps_text, shown

if TYPE_CHECKING:
    import pandas as pd

#: Of the records, those that :func:`load_records` returns, by their names there.
_RECORDS = {name: name for name in ("index", "label")} | {
    "clean": "clean_prediction",
    "adversarial": "adversarial_prediction",
    TARGET_COLUMN: "target_class",
    **{name: name for name in ("robust", "linf", "l2", "l1", "l0", "forwards", "backwards", "seconds")},
}
_CELL = ("dataset", "model", "defense", "attack", "access", "norm", "eps", "seed")


def load_results(source: str | Path | Iterable[CellResult] | None = None) -> pd.DataFrame:
    """Return results with one row for each cell.

    Columns are those of ``cells`` in ``leaderboard --format json``: the names ``dataset model defense attack access``
    (attack is ``clean`` for the clean evaluation); ``norm`` and ``eps`` (text such as ``8/255``; missing where
    unbounded); ``n`` images, ``seed``; as fractions in [0, 1] of all images ``clean_accuracy``,
    ``accuracy_under_attack`` (right under the attack, whatever the clean answer) with its interval ``ci_low ci_high``,
    and ``robust_accuracy`` (right clean and under the attack); of a random defense ``robust_mean`` and
    ``robust_worst``, the same by one query and by each of its ``queries``, by the majority of which the others count;
    ``status`` (``done`` or ``failed``), ``flags``, ``error``; ``forwards_per_example backwards_per_example
    seconds_per_example flops_per_example`` of the attack;
    ``mean_linf mean_l2`` in pixel units of [0, 1]; ``attack_params``, ``eot``, ``max_passes``, ``target`` and
    ``craft_precision``;
    ``images`` (hash of the image list), ``protocol``, ``commit dirty machine device finished``; ``key``. A result of
    code since edited gives way to the newest one.

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

    chosen = default_root() if source is None else source
    with no_collection():
        board = build(read(chosen).results if isinstance(chosen, str | Path) else chosen)
    frame = pd.DataFrame(cell_rows(board))
    if "finished" in frame:
        frame["finished"] = pd.to_datetime(frame["finished"], utc=True, format="ISO8601")
    return frame


def load_records(store: str | Path | None = None, *, cell: str | Iterable[str] | None = None) -> pd.DataFrame:
    """Return what became of every image, with one row for each image of each cell.

    Columns: ``dataset model defense attack access norm eps seed`` of the cell, as in :func:`load_results`; ``index``,
    the row of the image in its set; ``label``; ``clean_prediction`` and ``adversarial_prediction`` of the deployed
    defense (of a random one that of most draws; in a clean cell both are alike); ``robust``, right clean and under the
    attack; ``linf l2 l1``, how far the attack moved the image, in units of pixels in [0, 1], and ``l0``, how many
    values it changed (older records have no ``l1 l0``); ``target_class``, the one that a targeted attack was to reach,
    -1 where any wrong one would do; ``forwards backwards``, the passes that it took; ``seconds``, the mean of its cell;
    and ``key`` of the cell.

    Args:
        store: the folder of a working store; the default store if left out.
        cell: the start of a key, or a name ``dataset/model/defense/attack/access`` with wildcards such as
            ``*/jpeg/*/adaptive``; or several of these. By default every finished cell.

    Raises:
        UsageError: there is no store, no such cell, or its records are gone or were altered.
    """
    import pandas as pd

    if not isinstance(store, str | Path | None):
        raise UsageError(f"store = {shown(store)}: the folder of a store is needed, as a text or a path")
    root = default_root() if store is None else Path(store)
    if not root.is_dir():
        kind = "is a file, and only stores have" if root.exists() else "is not there, so it has no"
        raise UsageError(f"{root} {kind} records of single images; name the folder of a store")
    source = Store(root)
    wanted = [cell] if isinstance(cell, str) else cell
    done = [result for result in source.results() if result.status == "done"]
    if wanted is not None:
        done = _chosen(done, list(wanted), root)
    frames = [_records(source, result) for result in done]
    columns = [*_CELL, *_RECORDS.values(), "key"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _chosen(results: list[CellResult], wanted: list[str], root: Path) -> list[CellResult]:
    """Return the results that any of some texts name, each once.

    Raises:
        UsageError: one of them names none.
    """
    chosen: dict[str, CellResult] = {}
    for text in wanted:
        named = [r for r in results if r.key.startswith(text) or fnmatchcase(str(r.names), text)]
        if not named:
            names = [str(result.names) for result in results]
            raise UsageError(unknown(f"cell of {root}", text, names))
        chosen |= {result.key: result for result in named}
    return list(chosen.values())


def _records(store: Store, result: CellResult) -> pd.DataFrame:
    """Return the records of one cell.

    Raises:
        UsageError: they are gone, or are not those that were written with the result.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = store.records(result.key)
    try:
        data = files.read(path, largest_records(result.cell.data.n))
    except (FileNotFoundError, Unreadable) as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else str(error)
        raise UsageError(f"the records of {result.names} cannot be read: {path} {why}; run again") from None
    if hashlib.sha256(data).hexdigest() != result.records_sha:
        raise UsageError(f"the records of {result.names} do not count: {path} was altered since; run again")
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    kept = set(file.schema_arrow.names)
    # Older versions kept fewer distances; a target class has only what a targeted attack left.
    shown = [name for kind, name in _RECORDS.items() if kind in kept or kind != TARGET_COLUMN]
    # In this thread, as all records are read: see bench.store.records.
    table = file.read([name for name in _RECORDS if name in kept], use_threads=False)
    frame: pd.DataFrame = table.to_pandas(use_threads=False).rename(columns=_RECORDS).reindex(columns=shown)
    attack = result.cell.attack
    threat = None if attack is None else attack.threat
    eps = None if threat is None or threat.eps is None else eps_text(threat.eps)
    names = {**result.names.model_dump(), "norm": threat and threat.norm, "eps": eps, "seed": result.cell.seed}
    cell = pd.DataFrame({name: [names[name]] * len(frame) for name in _CELL})
    joined: pd.DataFrame = pd.concat([cell, frame.assign(key=result.key)], axis="columns")
    return joined
