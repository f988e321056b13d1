"""Which cells runs were asked for, table by table, so that a table knows what it lacks.

    plans/<name of the plan>/<id of the table>.json

A store holds results, and a table made of them alone would look whole with half of them missing. So every run keeps
what it was asked for before it begins: of a cell its name and key, some 110 bytes, 11 MB for a plan of 100,000 cells
beside the 300 MB and more of their results.
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


class Asked(Frozen):
    """The cells of one table that a plan asks for.

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
    """How many cells of a table were asked for, and how many of these are done and failed."""

    asked: int
    done: int
    failed: int

    @classmethod
    def of(cls, asked: Collection[str], status: Mapping[str, Status]) -> Count:
        """Count, given the keys that were asked for and the status of every known result."""
        return cls(len(asked), *(sum(status.get(key) == each for key in asked) for each in ("done", "failed")))

    @property
    def incomplete(self) -> str:
        """What a table says that lacks some; nothing where all are done."""
        if self.done == self.asked:
            return ""
        return f"incomplete: {self.done:,} of {self.asked:,} cells" + (
            f", {self.failed:,} failed" if self.failed else ""
        )


def table_id(data: str, network: str, protocol: str) -> str:
    """Return the id of the table that a cell belongs to, given the canonical text of its images and its network.

    What images and network are called is no part of it: the same cells may be asked for under other names.
    """
    return sha256_hex(data, network, protocol)[:16]


def asked_for(plan: str, cells: Iterable[PlannedCell]) -> list[Asked]:
    """Return what a plan asks for, table by table."""
    keys = Keys()
    tables: dict[str, list[PlannedCell]] = defaultdict(list)
    for each in cells:
        texts = (keys.text(each.cell.data), keys.text(each.cell.model.network))
        tables[table_id(*texts, str(EVALUATION_VERSION))].append(each)
    return [
        Asked(
            plan=plan,
            table=table,
            dataset=found[0].names.dataset,
            model=found[0].names.model,
            n=found[0].cell.data.n,
            cells=_named(found),
        )
        for table, found in tables.items()
    ]


def _named(cells: Iterable[PlannedCell]) -> dict[str, dict[str, str]]:
    found = [(each.names.defense, f"{each.names.attack}/{each.names.access}/{each.cell.seed}", each) for each in cells]
    often = Counter((defense, name) for defense, name, _ in found)
    named: dict[str, dict[str, str]] = defaultdict(dict)
    for defense, name, each in found:
        # Two configurations of one plan may call different things the same.
        own = name if often[defense, name] == 1 else f"{name} #{each.key[:8]}"
        named[defense][own] = each.key
    return dict(named)


def keep(store: Store, asked: Iterable[Asked], *, partly: bool, check: Callable[[], None] = lambda: None) -> None:
    """Keep what a run was asked for. ``check`` is called while another run holds one of the files.

    It takes the place of what the plan of that name asked for before, so that an attack that was dropped is no longer
    missing. What was only asked for in part is added to it instead.

    Raises:
        StoreError: the store cannot be written.
    """
    for each in asked:
        path = path_of(store, each)
        while not _says(path, _with_the_rest(path, each, partly=partly)):
            store.make_folder(path.parent)
            try:
                with store.writing(), store.leases.hold(f"plan-{sha256_hex(store.name(path))}"):
                    write_atomically(path, text_of(_with_the_rest(path, each, partly=partly)))
            except Busy:
                check()
                time.sleep(_PATIENCE)


def _with_the_rest(path: Path, asked: Asked, *, partly: bool) -> Asked:
    """Return what is to be kept: of what is asked for in part, with what was asked for before."""
    if not partly or (before := read_file(path)) is None:
        return asked
    known = {name: {**before.cells.get(name, {}), **cells} for name, cells in asked.cells.items()}
    return asked.model_copy(update={"cells": {**before.cells, **known}})


def _says(path: Path, asked: Asked) -> bool:
    try:
        return files.read(path, _LARGEST) == text_of(asked)
    except (FileNotFoundError, Unreadable):
        return False


def read(store: Store) -> list[Asked]:
    """Return everything that runs on a store were asked for; with a warning without what is not whole."""
    return [asked for path in paths(store) if (asked := read_file(path)) is not None]


def paths(store: Store) -> Iterator[Path]:
    """Yield the files that say what runs were asked for."""
    yield from inventory.named(store.root, "plans", "plan")


def path_of(store: Store, asked: Asked) -> Path:
    return store.root / "plans" / re.sub(r"[^A-Za-z0-9_.-]+", "-", asked.plan) / f"{asked.table}.json"


def text_of(asked: Asked) -> bytes:
    """Return the file of what was asked for: a line with its hash, and one with itself."""
    body = canonical_json(jsonable(asked))
    head = canonical_json({"format": FORMAT, "schema": SCHEMA, "sha256": sha256_hex(body)})
    return f"{head}\n{body}\n".encode()


def read_file(path: Path) -> Asked | None:
    """Return what a file of :func:`paths` says; ``None`` where it is gone or, with a warning, where it is not whole."""
    try:
        head, _, body = files.read(path, _LARGEST).partition(b"\n")
        about = document(head)
        if not isinstance(about, dict) or not {"schema", "sha256"} <= about.keys():
            raise ValueError("it is no plan that Crossfire wrote: its first line does not begin as one")
        if about["schema"] != SCHEMA or about["sha256"] != sha256_hex(body.rstrip(b"\n")):
            raise ValueError("it was cut short or altered since it was written, or is of another version")
        asked = validated(Asked, body)
        if asked.table != path.stem:
            raise ValueError("it is of another table")
        return asked
    except FileNotFoundError:
        return None
    except ValueError as error:
        why = (str(error).splitlines() or [""])[0]
        _log.warning("%s does not count, so tables may not say what they lack: %s; run the plan again", path, why)
        return None
