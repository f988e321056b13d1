"""Processes that run a command and are made to fail; forked from one that has torch, so that each starts at once."""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "bench.cli.run",
        "bench.report.render.html",
        "bench.report.render.terminal",
        "bench.schedule.run",
        "sklearn.datasets",
        "torch._dynamo",
    ]
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def start(
    folder: Path, words: list[str], fault: Callable[[], None] | None = None, *, supervised: bool = False
) -> BaseProcess:
    """Start a command; what it prints goes to ``out`` and ``err`` in ``folder``.

    A supervised one does its work in a process beside it, as those that are started from a shell.
    """
    process = CONTEXT.Process(target=_main, args=(str(folder), words, fault, supervised))
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 120) -> int:
    """Return the exit code; a negative one is the signal that killed the process."""
    process.join(seconds)
    assert process.exitcode is not None, f"the command did not end within {seconds:g} seconds"
    return process.exitcode


def errors(folder: Path) -> str:
    return (folder / "err").read_text()


def _main(folder: str, words: list[str], fault: Callable[[], None] | None, supervised: bool) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    import torch

    from bench.cli import main

    # Many of these run at once.
    torch.set_num_threads(1)
    if fault is not None:
        fault()
    if supervised:
        sys.argv = ["run_bench.py", *words]
    code = main(None if supervised else words)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class At:
    """A fault at the n-th operation that changes a folder: the process is killed, or the operation fails.

    Python announces each to its audit hooks before it is done, so every step of every write counts, and the harness
    itself has no code for faults.
    """

    def __init__(self, folder: Path, n: int, fault: str = "kill", *, ever_after: bool = False) -> None:
        self.folder = str(folder)
        self.n = n
        self.fault = fault
        self.ever_after = ever_after

    def __call__(self) -> None:
        operations = 0

        def hook(event: str, args: tuple[object, ...]) -> None:
            nonlocal operations
            if event == "open":
                changes = isinstance(args[2], int) and bool(args[2] & _WRITES)
            else:
                changes = event in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.utime")
            if not (changes and isinstance(args[0], str | os.PathLike) and os.fspath(args[0]).startswith(self.folder)):
                return
            operations += 1
            if operations == self.n or (self.ever_after and operations > self.n):
                if self.fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                code = getattr(errno, self.fault)
                raise OSError(code, os.strerror(code), os.fspath(args[0]))

        sys.addaudithook(hook)
