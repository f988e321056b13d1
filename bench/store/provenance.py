"""Where a number was made: commit, machine, device, packages."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import bench
from bench.store.git import git
from bench.types import Provenance

if TYPE_CHECKING:
    import torch

_ROOT = Path(bench.__file__).resolve().parent.parent
_DISTRIBUTION = "crossfire-bench"
_PACKAGES = ("torch", "torchvision", "numpy", "pyautoattack", "adversarial-robustness-toolbox")


def provenance(device: torch.device, layout: str = "", craft_precision: Literal["", "bf16"] = "") -> Provenance:
    """Return the provenance of a result finished now on a device.

    Args:
        device: that measured.
        layout: how the network was laid out in memory.
        craft_precision: ``bf16`` where gradients in bfloat16 led the attack.
    """
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    commit, dirty = source()
    return Provenance(
        commit=commit,
        dirty=dirty,
        machine=platform.node(),
        device=f"{device.type}: {name}",
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        packages=_versions(),
        layout=layout,
        deterministic=bool(torch.backends.cudnn.deterministic) or device.type == "cpu",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        harness=_measured_by(Path.cwd()),
        craft_precision=craft_precision,
    )


def source() -> tuple[str | None, bool]:
    """Return the commit that is measured, and whether anything was edited since; no commit outside a checkout.

    It is that of the repository around the current folder, in which one's own methods and tables are; in a checkout of
    Crossfire and outside of any repository it is the commit of the harness. Edits of the harness count for either.
    """
    return _source(Path.cwd())


@cache
def _source(folder: Path) -> tuple[str | None, bool]:
    top = own_repository(folder)
    if top is None:
        return harness()
    commit = git(top, "rev-parse", "HEAD")
    return commit, commit is not None and (_is_edited(top) or harness()[1])


@cache
def own_repository(folder: Path) -> Path | None:
    """Return the root of the repository around a folder; ``None`` of none, and of the one that the harness is from."""
    top = git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top) == _ROOT:
        return None
    # Worktrees of one repository have this folder in common.
    shared = [git(each, "rev-parse", "--path-format=absolute", "--git-common-dir") for each in (Path(top), _ROOT)]
    return None if _is_checkout() and shared[0] == shared[1] else Path(top)


@cache
def harness() -> tuple[str | None, bool]:
    """Return the commit of this code and whether it was edited since; no commit outside a checkout."""
    if not _is_checkout():
        return None, False
    return git(_ROOT, "rev-parse", "HEAD"), _is_edited(_ROOT)


@cache
def _is_checkout() -> bool:
    return git(_ROOT, "rev-parse", "--show-toplevel") == str(_ROOT)


def _is_edited(top: Path) -> bool:
    # Results of a run before this one may wait for their commit.
    return bool(git(top, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results/runs"))


@cache
def _measured_by(folder: Path) -> str:
    """Return the commit of the harness, or its version; empty where the commit that is measured is its own."""
    commit, edited = harness()
    if commit is not None:
        own = own_repository(folder)
        return "" if own is None else commit + (" and edits" if edited else "")
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
