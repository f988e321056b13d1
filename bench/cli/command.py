"""How this command was started, for messages that repeat it, and its version."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

INSTALLED, _CHECKOUT = "crossfire", "run_bench.py"


def name() -> str:
    """Return ``crossfire`` where the installed command was started so, else ``run_bench.py``."""
    return INSTALLED if Path(sys.argv[0]).stem == INSTALLED else _CHECKOUT


def called() -> str:
    """Return the command as it is typed into a shell."""
    return INSTALLED if name() == INSTALLED else f"python {_CHECKOUT}"


def version() -> str:
    """Return the line of ``--version``."""
    try:
        return f"crossfire {importlib.metadata.version('crossfire-bench')}"
    except importlib.metadata.PackageNotFoundError:
        return "crossfire, in a folder that is not installed: pip install -e ."
