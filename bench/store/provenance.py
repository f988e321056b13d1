"""Where a number was made: commit, machine, device, packages."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import bench
from bench.store.git import git
from bench.types import Provenance

if TYPE_CHECKING:
    import torch

_ROOT = Path(bench.__file__).resolve().parent.parent
_PACKAGES = ("torch", "torchvision", "numpy", "pyautoattack", "adversarial-robustness-toolbox")


def provenance(device: torch.device, layout: str = "") -> Provenance:
    """Return the provenance of a result finished now on a device, from a network laid out in memory in some way."""
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
    )


@cache
def source() -> tuple[str | None, bool]:
    """Return the commit of this code and whether it was edited since; no commit outside a checkout."""
    if git(_ROOT, "rev-parse", "--show-toplevel") != str(_ROOT):
        return None, False
    # Results of a run before this one may wait for their commit.
    changed = git(_ROOT, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results/runs")
    return git(_ROOT, "rev-parse", "HEAD"), bool(changed)


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
