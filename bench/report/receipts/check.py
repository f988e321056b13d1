"""A receipt checked: what it claims, its images and, with weights, its predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.report.receipts import images, repeat, verdict
from bench.report.receipts.claims import contradictions
from bench.report.receipts.read import opened
from bench.report.receipts.verdict import Finding, Report
from bench.report.receipts.weights import Hashes


def checked(
    path: Path,
    weights: Sequence[str],
    device: str,
    data_folder: Path | None,
    *,
    are_shared: bool = False,
    sample: int | None = None,
    trusted: bool = False,
    check: Callable[[], None] = lambda: None,
    hashes: Hashes | None = None,
) -> Report:
    """Return what was found of a receipt.

    Args:
        path: of the file.
        weights: files, folders of exported weights, or names such as ``pyautoattack``, to predict again with; nothing
            is predicted without.
        device: ``cpu``, ``cuda`` or ``auto``, to predict on.
        data_folder: where to look for image sets first.
        are_shared: whether the weights are given for several receipts: those of others are passed over.
        sample: how many images are predicted at least, by chance; ``None`` for all.
        trusted: whether folders and files of Python code that the receipt names may be opened.
        check: called between batches.
        hashes: of files of weights, where some are known already.

    Raises:
        NoReceipt: the file is none that can be read.
        UsageError: the weights are not its own, or a network or step is not here, not trusted, or does not fit.
    """
    receipt, arrays = opened(path)
    own = repeat.own_weights(receipt, weights, are_shared=are_shared, hashes=hashes) if weights else None
    findings = verdict.of_claims(contradictions(receipt.claims, arrays))
    if any(each.state == "refuted" for each in findings):
        # What contradicts itself is not asked anything more.
        return Report(receipt, tuple(findings))
    cell = receipt.result.cell
    findings += verdict.of_budget(receipt, arrays)
    findings += [*verdict.of_names(receipt), *verdict.of_date(receipt), *verdict.of_passes(receipt)]
    findings += images.compared(receipt, arrays, data_folder, trusted=trusted)
    findings += images.trained(receipt, data_folder, trusted=trusted)
    findings.append(repeat.code(cell, trusted=trusted))
    if own is None:
        unasked = Finding("weights", "not checked", "predictions not repeated, costs not counted: give --weights FILE")
        return Report(receipt, (*findings, unasked))
    if own.finding.state == "refuted":
        return Report(receipt, (*findings, own.finding))
    # Loaded here: torch is not needed to refuse what contradicts itself.
    from bench.evaluation.device import device_named

    here = device_named(device, f"--device {device}")
    asked = repeat.repeated(receipt, arrays, own.paths, here, data_folder, sample=sample, trusted=trusted, check=check)
    return Report(receipt, (*findings, own.finding, *asked.findings), asked.accuracy, asked.predicted)
