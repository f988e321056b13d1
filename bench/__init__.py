"""The harness: it crosses defenses with attacks, measures, and reports. It names no attack and no defense."""

from typing import Any

__all__ = ["load_results"]


def __getattr__(name: str) -> Any:
    # Pandas is only paid for by those who ask for it.
    if name == "load_results":
        from bench.report.frame import load_results

        return load_results
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
