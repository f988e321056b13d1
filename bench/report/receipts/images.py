"""Whether the clean images and labels of a receipt are those of the set that it names, and what it was trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from bench.data import ImageSet, named_as, select
from bench.data.rows import sha_of_rows
from bench.report.receipts import form
from bench.report.receipts.datasets import trained_on
from bench.report.receipts.read import Arrays, Receipt
from bench.report.receipts.verdict import Finding, named
from bench.report.render.outside import require_images
from bench.types import DataRef, UsageError


def compared(receipt: Receipt, arrays: Arrays, folder: Path | None, *, trusted: bool) -> list[Finding]:
    """Return what a comparison with the set on this machine showed.

    Args:
        receipt: whose claims do not contradict its arrays.
        arrays: of the receipt.
        folder: where to look for named sets first.
        trusted: whether a folder that the receipt names may be opened.
    """
    data = receipt.result.cell.data
    try:
        require_images(data, folder, trusted=trusted)
        images = named_as(data, folder=folder)
    except UsageError as error:
        return [Finding("images", "not checked", f"not checked against the set: {error}{_repeated(arrays)}")]
    return _compared(receipt, arrays, images)


def _compared(receipt: Receipt, arrays: Arrays, images: ImageSet) -> list[Finding]:
    data, rows = receipt.result.cell.data, arrays[form.ROWS]
    here = f"{data.name} {data.split} on this machine"
    try:
        pixels, labels = images.at(rows)
    except (KeyError, IndexError):
        return [Finding("images", "refuted", f"it has rows that {here} does not have")]
    if pixels.shape != arrays[form.CLEAN].shape:
        return [Finding("images", "refuted", f"its images are of another shape than those of {here}")]
    n, findings = len(rows), []
    other = np.flatnonzero((pixels != arrays[form.CLEAN]).reshape(n, -1).any(1))
    if other.size:
        line = f"{other.size:,} of {n:,} clean images are not those of {here}: image {named(other.tolist())}"
        findings.append(Finding("images", "refuted", line, tuple(other.tolist())))
    mislabelled = np.flatnonzero(np.asarray(labels) != arrays[form.LABELS])
    if mislabelled.size:
        line = f"{mislabelled.size:,} of {n:,} labels are not those of {here}: image {named(mislabelled.tolist())}"
        findings.append(Finding("images", "refuted", line, tuple(mislabelled.tolist())))
    if not findings and not np.array_equal(rows, select(images, data.n, data.subset)):
        line = f"its images are not the {data.n:,} that '{data.subset}' takes from {here}: they were chosen"
        findings.append(Finding("images", "refuted", line))
    if not findings and images.sha != data.data_sha:
        line = f"its {n:,} images are those of {here}, but it was measured on a set whose other images differ"
        findings.append(Finding("images", "refuted", line))
    return findings or [Finding("images", "holds", f"{n:,} clean images and labels are those of {here}")]


def trained(receipt: Receipt, folder: Path | None, *, trusted: bool) -> list[Finding]:
    """Return what a comparison of the training images that a receipt names with the sets here showed.

    They are not in it: their number, their rows and the hash of all are compared. Nothing where no network was trained.

    Args:
        receipt: whose claims do not contradict its arrays.
        folder: where to look for named sets first.
        trusted: whether a folder that the receipt names may be opened.
    """
    return [_trained(data, folder, trusted=trusted) for data in trained_on(receipt.result.cell)]


def _trained(data: DataRef, folder: Path | None, *, trusted: bool) -> Finding:
    what = f"{data.n:,} images of {data.name} {data.split}"
    try:
        require_images(data, folder, trusted=trusted)
        images = named_as(data, folder=folder)
        rows = select(images, data.n, data.subset)
    except UsageError as error:
        return Finding("training", "said", f"it says that it was trained on {what}: {error}")
    if images.sha != data.data_sha:
        line = f"it says that it was trained on {what}, and those on this machine are others"
        return Finding("training", "refuted", line)
    if sha_of_rows(rows) != data.indices_sha:
        line = f"it says that it was trained on {what}, and names other rows than '{data.subset}' takes from them"
        return Finding("training", "refuted", line)
    return Finding("training", "holds", f"{what} on this machine have the hash of those that it says it was trained on")


def _repeated(arrays: Arrays) -> str:
    """Return the end of a line that says how many clean images are the same as another; empty if none is."""
    hashes = {hashlib.sha256(image.tobytes()).digest() for image in arrays[form.CLEAN]}
    count = len(arrays[form.CLEAN]) - len(hashes)
    return f"; {count:,} of its images are the same as another" if count else ""
