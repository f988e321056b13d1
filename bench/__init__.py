"""The harness: it crosses defenses with attacks, measures, and reports. It names no attack and no defense."""

import os
import sys

# Python looks on PYTHONPATH first: a json.py there would replace Python's own.
_LIBRARY = os.path.dirname(os.__file__)
sys.path.sort(key=lambda folder: folder not in (_LIBRARY, f"{_LIBRARY}/lib-dynload"))

from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from bench.report.frame import load_results

__all__ = ["load_results"]


def __getattr__(name: str) -> Any:
    # Pandas is only paid for by those who ask for it.
    if name == "load_results":
        from bench.report.frame import load_results

        return load_results
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
