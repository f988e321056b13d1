"""What a run keeps of its work: adversarial images in chunks, and one row per example."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save
from torch import Tensor, nn

from bench.evaluation.craft import Crafted
from bench.evaluation.goals import ANY
from bench.evaluation.predict import Answer
from bench.store import chunk_file, files
from bench.store.files import write_atomically
from bench.store.records import RECORD_COLUMNS, TARGET_COLUMN, numbers_column, read_columns, texts_column
from bench.store.seals import arrays_digest
from bench.types import DISTANCE_NORMS, Threat

_log = logging.getLogger("crossfire")
_CLEAN = {"clean": "iu", "clean_share": "f", "clean_margin": "f"}


def write_chunk(path: Path, crafted: Crafted) -> None:
    """Keep a chunk of an adversarial set with what it took."""
    tensors = {
        "images": crafted.images.cpu().contiguous(),
        "forwards": crafted.forwards,
        "backwards": crafted.backwards,
    }
    if crafted.goals is not None:
        tensors["goals"] = crafted.goals
    about = {"seconds": repr(crafted.seconds), "notes": json.dumps(crafted.notes), "batch": str(crafted.batch)}
    # Detects a chunk that was moved to the path of another.
    about["of"] = chunk_file.chunk_id(path)
    digest = arrays_digest({name: value.numpy() for name, value in tensors.items()}, about)
    write_atomically(path, save(tensors, {**about, "sha256": digest}))


def read_chunk(path: Path, x: Tensor, threat: Threat) -> Crafted | None:
    """Return what an attack under a threat made of images (n, C, H, W) and is kept; ``None`` where nothing is or, with
    a warning, where it does not count.
    """
    try:
        kept = chunk_file.read(path, x.cpu().numpy(), threat)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s does not count and is made again: %s", path, error)
        return None
    # Copies, for what was read is not to be written to.
    images = torch.from_numpy(kept.images.copy())
    forwards, backwards = torch.from_numpy(kept.forwards.copy()), torch.from_numpy(kept.backwards.copy())
    goals = None if kept.goals is None else torch.from_numpy(kept.goals.copy())
    return Crafted(images, forwards, backwards, kept.seconds, kept.notes, kept.batch, goals)


@dataclass
class Records:
    """What the deployed function answered, example by example, and seconds in all.

    Per example: the label by :func:`majority`, the share of draws that an attack did not break, the mean margin, the
    distances that the image moved in four norms, the passes that moved it, and its target class or -1.
    """

    labels: list[Tensor] = field(default_factory=list)
    share: list[Tensor] = field(default_factory=list)
    margins: list[Tensor] = field(default_factory=list)
    linf: list[Tensor] = field(default_factory=list)
    l2: list[Tensor] = field(default_factory=list)
    l1: list[Tensor] = field(default_factory=list)
    l0: list[Tensor] = field(default_factory=list)
    forwards: list[Tensor] = field(default_factory=list)
    backwards: list[Tensor] = field(default_factory=list)
    goals: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    notes: set[str] = field(default_factory=set)

    def add(self, answer: Answer, y: Tensor, x: Tensor, crafted: Crafted) -> None:
        """Add a chunk: what was answered, the true labels (N,), the clean images, and what was crafted from them."""
        delta = (crafted.images.to(x.device) - x).flatten(1)
        goals = torch.full_like(y, ANY) if crafted.goals is None else crafted.goals.to(y)
        self.goals.append(goals.cpu())
        self.labels.append(majority(answer.labels, torch.where(goals == ANY, y, goals)).cpu())
        self.share.append(answer.unbroken.float().mean(0).cpu())
        self.margins.append(answer.margins.mean(0).cpu())
        self.linf.append(delta.abs().amax(1).cpu())
        self.l2.append(delta.norm(dim=1).cpu())
        self.l1.append(delta.abs().sum(1).cpu())
        self.l0.append((delta != 0).sum(1).cpu())
        self.forwards.append(crafted.forwards)
        self.backwards.append(crafted.backwards)
        self.seconds += crafted.seconds
        self.notes |= set(crafted.notes)

    @property
    def targeted(self) -> bool:
        """Whether an image has a target class."""
        return any(bool((goals != ANY).any()) for goals in self.goals)

    def column(self, name: str) -> np.ndarray:
        return torch.cat(getattr(self, name)).numpy()

    def mean(self, name: str) -> float:
        return float(torch.cat(getattr(self, name)).double().mean())


def majority(labels: Tensor, y: Tensor) -> Tensor:
    """Return, of labels (draws, N), that of ``y`` (N,) where more than half give it, else the other that most give.

    Of several others given as often it is the first class.
    """
    votes = nn.functional.one_hot(labels, int(max(labels.max(), y.max())) + 1).sum(0)
    right = votes.gather(1, y[:, None])[:, 0] * 2 > len(labels)
    return torch.where(right, y, votes.scatter(1, y[:, None], -1).argmax(1))


class Clean(NamedTuple):
    """Clean labels (n,), shares of right draws (n,) and margins (n,)."""

    labels: np.ndarray
    share: np.ndarray
    margins: np.ndarray

    @classmethod
    def of(cls, records: Records) -> Clean:
        return cls(records.column("labels"), records.column("share"), records.column("margins"))


def write_records(path: Path, images: Tensor, hashes: Iterable[str], y: Tensor, clean: Clean, records: Records) -> str:
    """Write one Parquet row per example: row number, hash of pixels, answers, distances, passes, seconds.

    Of a targeted attack each also has its target class.

    Returns:
        The SHA-256 of the file.
    """
    n, truth = len(y), y.cpu().numpy()
    numbers = {
        "index": images.cpu().numpy(),
        "label": truth,
        "clean": clean.labels,
        "clean_share": clean.share,
        "clean_margin": clean.margins,
        "adversarial": records.column("labels"),
        "adversarial_share": records.column("share"),
        "adversarial_margin": records.column("margins"),
        "robust": (clean.share > 0.5) & (records.column("share") > 0.5),
        **{name: records.column(name) for name in (*DISTANCE_NORMS, "forwards", "backwards")},
        "seconds": np.full(n, records.seconds / n),
        **({TARGET_COLUMN: records.column("goals")} if records.targeted else {}),
    }
    arrays = {name: numbers_column(values) for name, values in numbers.items()}
    arrays["input_sha"] = texts_column(list(hashes))
    columns = (*RECORD_COLUMNS, *([TARGET_COLUMN] if records.targeted else []))
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays([arrays[name] for name in columns], names=columns)
    pq.write_table(table, sink, write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def read_clean(path: Path, n: int) -> Clean | None:
    """Return the clean answers among the records; ``None`` where there are none or, with a warning, not whole ones."""
    try:
        return Clean(*read_columns(path, n, _CLEAN).values())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if files.lacks(error):
            raise
        _log.warning("%s does not count: %s", path, str(error).partition("\n")[0])
        return None
