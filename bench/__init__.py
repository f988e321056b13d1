"""The harness: it crosses defenses with attacks, measures, and reports. It names no attack and no defense."""

import importlib
import os
import sys

# Python looks on PYTHONPATH first: a json.py there would replace Python's own.
_LIBRARY = os.path.dirname(os.__file__)
sys.path.sort(key=lambda folder: folder not in (_LIBRARY, f"{_LIBRARY}/lib-dynload"))

from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from bench.library.craft import attack
    from bench.library.evaluate import Evaluation, evaluate
    from bench.report.frame import load_records, load_results
    from bench.types import UsageError

__all__ = ["Evaluation", "UsageError", "attack", "evaluate", "load_records", "load_results"]

#: Where each is defined. Pandas and torch are only paid for by those who ask for what needs them.
_MODULES = {
    "Evaluation": "bench.library.evaluate",
    "UsageError": "bench.types",
    "attack": "bench.library.craft",
    "evaluate": "bench.library.evaluate",
    "load_records": "bench.report.frame",
    "load_results": "bench.report.frame",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
