"""Git, asked by its command line: an answer, or nothing where there is no git, no repository or no such name."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(folder: Path, *arguments: str) -> str | None:
    """Return what ``git ARGUMENTS`` prints in a folder, stripped; ``None`` if it fails."""
    output = git_bytes(folder, *arguments)
    # Names of files may be of any encoding.
    return None if output is None else os.fsdecode(output).strip()


def git_bytes(folder: Path, *arguments: str, given: bytes = b"") -> bytes | None:
    """Return the bytes that ``git ARGUMENTS`` prints in a folder, given its standard input; ``None`` if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], input=given, capture_output=True, timeout=60)
    # A name with a NUL is a ValueError.
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
