"""Git, asked by its command line: an answer, or nothing where there is no git, no repository or no such name."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.types import UsageError

#: Seconds that git may take to check out a commit.
_PATIENCE = 600
#: Seconds that an answer may take.
_SOON = 60
#: Options of git before its command: it runs no hook, and no program that watches files.
_SAFELY = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", "-c", "advice.detachedHead=false")
#: They say which repository is meant, to every git that is started, whatever folder it works in. A hook has them set.
_OF_ANOTHER = frozenset(
    f"GIT_{name}"
    for name in ("DIR", "WORK_TREE", "INDEX_FILE", "COMMON_DIR", "OBJECT_DIRECTORY", "PREFIX", "NAMESPACE")
)


def git(folder: Path, *arguments: str) -> str | None:
    """Return what ``git ARGUMENTS`` prints in a folder, stripped; ``None`` if it fails."""
    output = git_bytes(folder, *arguments)
    # Names of files may be of any encoding.
    return None if output is None else os.fsdecode(output).strip()


def git_bytes(folder: Path, *arguments: str, given: bytes = b"") -> bytes | None:
    """Return the bytes that ``git ARGUMENTS`` prints in a folder, given its standard input; ``None`` if it fails."""
    try:
        done = run_git(folder, *arguments, given=given, patience=_SOON)
    # A name with a NUL is a ValueError.
    except (UsageError, ValueError):
        return None
    return done.stdout if done.returncode == 0 else None


def run_git(
    folder: Path, *arguments: str, given: bytes = b"", patience: float = _PATIENCE
) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder, without hooks and in the language of its manual.

    Args:
        folder: in or above which its repository lies.
        arguments: the command and its own.
        given: its standard input.
        patience: the seconds that it may take.

    Raises:
        UsageError: there is no git here, or it does not end.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    command = ["git", "-C", str(folder), *_SAFELY, *arguments]
    said = {**environment(), "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=patience, env=said, input=given)
    except subprocess.TimeoutExpired:
        raise UsageError(f"git {arguments[0]} in {folder} took over {patience:g} s") from None
    except OSError as error:
        raise UsageError(f"git cannot be started: {error.strerror}") from None
    # Ctrl-C is for every process of the terminal: git has ended by it, and this process is to end as well.
    if done.returncode == -signal.SIGINT:
        raise KeyboardInterrupt
    return done


def environment() -> Mapping[str, str]:
    """Return the environment of this process without what binds git to a repository, as for one started by a hook."""
    return {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER}
