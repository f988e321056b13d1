"""The user's image files: only regular files are read, and any error of a reader becomes one line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.types import UsageError

#: A tree of more folders than this is refused; links may make endless ones.
MOST_FOLDERS = 50_000


def regular(path: Path) -> Path:
    """Return the path of a file that can be opened without waiting.

    Raises:
        UsageError: there is none, or it is a folder, a pipe or a device, or a link to one.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not a regular file")
    return path


@contextmanager
def one_line(prefix: str) -> Iterator[None]:
    """Turn any error of reading a file into one line that begins with ``prefix``.

    Libraries raise anything over damaged files, and no list of it is complete.

    Raises:
        UsageError: as raised inside, or in place of any other exception.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        message = str(error).strip().partition("\n")[0]
        raise UsageError(f"{prefix} ({type(error).__name__}{': ' if message else ''}{message})") from None


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder under ``folder``, links followed, with the sorted names of what it holds but folders.

    A link to one of its own parent folders has nothing new, and is not followed.

    Raises:
        UsageError: there are more than ``MOST_FOLDERS`` folders.
    """
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    seen = 0
    while waiting:
        here, above = waiting.pop()
        try:
            status = here.stat()
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            # As os.walk has it: what cannot be listed holds nothing.
            continue
        if (known := (status.st_dev, status.st_ino)) in above:
            continue
        if (seen := seen + 1) > MOST_FOLDERS:
            raise UsageError(
                f"{folder} has over {MOST_FOLDERS:,} folders, or links that lead to folders again and again"
            )
        folders = {entry.name for entry in entries if _is_folder(entry)}
        yield here, [entry.name for entry in entries if entry.name not in folders]
        waiting += [(here / name, above | {known}) for name in sorted(folders, reverse=True)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
