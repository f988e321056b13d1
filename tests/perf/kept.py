"""Where benchmarks keep figures: ``results/perf/NAME.json``, with machine, commit and what was promised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from bench.store.files import write_atomically
from bench.store.provenance import provenance

RESULTS = Path(__file__).parents[2] / "results" / "perf"

#: What is promised of a figure: at least and at most; ``None`` where only one end counts.
Limits = Mapping[str, tuple[float | None, float | None]]


def missed(figures: Mapping[str, float], limits: Limits) -> list[str]:
    """Return a line for each figure that is not what was promised."""
    lines = []
    for name, (least, most) in limits.items():
        value = figures[name]
        if not ((least is None or value >= least) and (most is None or value <= most)):
            lines.append(f"{name} is {value:.3g}, promised: " + f"{'' if least is None else least} to {most}".strip())
    return lines


def keep(name: str, parts: Mapping[str, Mapping[str, object]]) -> Path:
    """Write the figures of some parts; those of others stay, each with its own provenance."""
    path = RESULTS / f"{name}.json"
    body = json.loads(path.read_text()) if path.exists() else {"schema": 1, "parts": {}}
    made_by = provenance(torch.device("cpu")).model_dump(mode="json")
    body["parts"] |= {part: {"figures": figures, "provenance": made_by} for part, figures in parts.items()}
    write_atomically(path, (json.dumps(body, indent=1, sort_keys=True) + "\n").encode())
    return path
