"""Which cells runs have planned, table by table, so that a table knows what it lacks.

    plans/<name of the plan>/<id of the table>.json

A store holds results, and a table made of them alone would look complete with half of them missing. Every run keeps the
names and keys of its cells before it begins. That takes some 110 bytes a cell, or 11 MB for 100,000 cells, whose
results take 300 MB and more.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import FailFast, Field

from bench.keys import EVALUATION_VERSION, Keys, canonical_json, sha256_hex
from bench.store import files, inventory
from bench.store.files import Unreadable, write_atomically
from bench.store.lease import Busy
from bench.store.reading import document, validated
from bench.store.working_store import Store
from bench.types import Frozen, Images, Key, PlannedCell, ShownCellName, ShownName, Status, jsonable

FORMAT, SCHEMA = "crossfire-plan", 1
_log = logging.getLogger("crossfire")
#: Seconds between two looks at a plan that another run is just writing.
_PATIENCE = 0.1
#: Bytes of the largest file of a plan, which has some 110 for each cell.
_LARGEST = 256 * 2**20


class PlannedTable(Frozen):
    """The cells of one table of a plan.

    ``cells`` are the keys by ``attack/access/seed``, by the name of the defense. ``table`` is the :func:`table_id`.
    """

    plan: ShownName
    table: str = Field(pattern=r"\A[0-9a-f]{16}\z")
    dataset: ShownName
    model: ShownName
    n: Images
    cells: Annotated[dict[ShownName, Annotated[dict[ShownCellName, Key], FailFast()]], FailFast()]

    @property
    def title(self) -> str:
        return f"{self.dataset} · {self.model} · {self.n:,} images"

    @property
    def keys(self) -> dict[str, str]:
        """The defense of each cell by the cell's key."""
        defenses: dict[str, str] = {}
        for defense, cells in self.cells.items():
            defenses |= dict.fromkeys(cells.values(), defense)
        return defenses


class Count(NamedTuple):
    """How many cells of a table are planned, and how many of these are done and failed."""

    #: Called so in the JSON of a table.
    asked: int
    done: int
    failed: int
    #: Of those that are neither, how many are measured on some images.
    begun: int = 0

    @classmethod
    def of(cls, keys: Collection[str], status: Mapping[str, Status], begun: Collection[str] = ()) -> Count:
        """Count the planned cells, from their keys, the status of every known result, and the keys of begun cells."""
        done, failed = (sum(status.get(key) == outcome for key in keys) for outcome in ("done", "failed"))
        return cls(len(keys), done, failed, sum(key in begun and key not in status for key in keys))

    @property
    def incomplete(self) -> str:
        """What a table says that lacks some; nothing where all are done."""
        if self.done == self.asked:
            return ""
        more = {"failed": self.failed, "begun": self.begun}
        said = (f", {count:,} {what}" for what, count in more.items() if count)
        return f"incomplete: {self.done:,} of {self.asked:,} cells{''.join(said)}"


def table_id(data: str, network: str, protocol: str) -> str:
    """Return the id of the table that a cell belongs to, given the canonical text of its images and its network.

    What images and network are called is no part of it: the same cells may be asked for under other names.
    """
    return sha256_hex(data, network, protocol)[:16]


def tables_of(plan: str, cells: Iterable[PlannedCell]) -> list[PlannedTable]:
    """Return the tables of a plan, given its name and all its cells."""
    keys = Keys()
    tables: dict[str, list[PlannedCell]] = defaultdict(list)
    for each in cells:
        texts = (keys.text(each.cell.data), keys.text(each.cell.model.network))
        tables[table_id(*texts, str(EVALUATION_VERSION))].append(each)
    return [
        PlannedTable(
            plan=plan,
            table=table,
            dataset=cells_of_table[0].names.dataset,
            model=cells_of_table[0].names.model,
            n=cells_of_table[0].cell.data.n,
            cells=_named(cells_of_table),
        )
        for table, cells_of_table in tables.items()
    ]


def _named(cells: Iterable[PlannedCell]) -> dict[str, dict[str, str]]:
    named_cells = [
        (each.names.defense, f"{each.names.attack}/{each.names.access}/{each.cell.seed}", each) for each in cells
    ]
    often = Counter((defense, name) for defense, name, _ in named_cells)
    named: dict[str, dict[str, str]] = defaultdict(dict)
    for defense, name, each in named_cells:
        # Two configurations of one plan may call different things the same.
        own = name if often[defense, name] == 1 else f"{name} #{each.key[:8]}"
        named[defense][own] = each.key
    return dict(named)


def keep(
    store: Store, tables: Iterable[PlannedTable], *, partly: bool, check: Callable[[], None] = lambda: None
) -> None:
    """Keep the planned tables of a run. ``check`` is called while another run holds one of the files.

    They replace those of an earlier plan of that name, so that an attack that was dropped is no longer missing. The
    tables of a run of only a part are added to them instead.

    Raises:
        StoreError: the store cannot be written.
    """
    for table in tables:
        path = path_of(store, table)
        while not _says(path, _with_the_rest(path, table, partly=partly)):
            store.make_folder(path.parent)
            try:
                with store.writing(), store.leases.hold(f"plan-{sha256_hex(store.name(path))}"):
                    write_atomically(path, text_of(_with_the_rest(path, table, partly=partly)))
            except Busy:
                check()
                time.sleep(_PATIENCE)


def _with_the_rest(path: Path, table: PlannedTable, *, partly: bool) -> PlannedTable:
    """Return the table to keep: that of a run of only a part, together with the cells that the file has already."""
    if not partly or (before := read_file(path)) is None:
        return table
    known = {name: {**before.cells.get(name, {}), **cells} for name, cells in table.cells.items()}
    return table.model_copy(update={"cells": {**before.cells, **known}})


def _says(path: Path, table: PlannedTable) -> bool:
    try:
        return files.read(path, _LARGEST) == text_of(table)
    except (FileNotFoundError, Unreadable):
        return False


def read(store: Store) -> list[PlannedTable]:
    """Return the planned tables of all runs on a store, without damaged ones, which are warned of."""
    return [table for path in paths(store) if (table := read_file(path)) is not None]


def paths(store: Store) -> Iterator[Path]:
    """Yield the files of planned tables."""
    yield from inventory.named(store.root, "plans", "plan")


def path_of(store: Store, table: PlannedTable) -> Path:
    return store.root / "plans" / re.sub(r"[^A-Za-z0-9_.-]+", "-", table.plan) / f"{table.table}.json"


def text_of(table: PlannedTable) -> bytes:
    """Return the content of the file of a planned table: a line with its hash, and one with the table."""
    body = canonical_json(jsonable(table))
    head = canonical_json({"format": FORMAT, "schema": SCHEMA, "sha256": sha256_hex(body)})
    return f"{head}\n{body}\n".encode()


def read_file(path: Path) -> PlannedTable | None:
    """Return the table in a file of :func:`paths`; ``None`` where it is gone or, with a warning, damaged."""
    try:
        head, _, body = files.read(path, _LARGEST).partition(b"\n")
        header = document(head)
        if not isinstance(header, dict) or not {"schema", "sha256"} <= header.keys():
            raise ValueError("it is no plan that Crossfire wrote: its first line does not begin as one")
        if header["schema"] != SCHEMA or header["sha256"] != sha256_hex(body.rstrip(b"\n")):
            raise ValueError("it was cut short or altered since it was written, or is of another version")
        table = validated(PlannedTable, body)
        if table.table != path.stem:
            raise ValueError("it is of another table")
        return table
    except FileNotFoundError:
        return None
    except ValueError as error:
        why = (str(error).splitlines() or [""])[0]
        _log.warning("%s does not count, so tables may not say what they lack: %s; run the plan again", path, why)
        return None
