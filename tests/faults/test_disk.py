"""A disk that is full, read-only or broken: one line, exit code 2, nothing half-written, and the next run continues."""

import resource
import signal

import pytest

from tests.faults import child
from tests.schedule import small


class FileSizes:
    """The operating system refuses to make any file larger than this: a true short write, in the middle of a file."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert small.run(folder) == 0
    return small.outcome(folder)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda store: child.At(store, 5, "ENOSPC", ever_after=True), "No space left on device"),
        (lambda store: child.At(store, 60, "ENOSPC", ever_after=True), "No space left on device"),
        (lambda store: child.At(store, 90, "EROFS", ever_after=True), "Read-only file system"),
        (lambda store: child.At(store, 90, "EACCES", ever_after=True), "Permission denied"),
        (lambda store: child.At(store, 110, "EIO", ever_after=True), "Input/output error"),
        (lambda store: FileSizes(20_000), "File too large"),
    ],
    ids=["full at the start", "full later", "read-only", "no longer ours", "broken", "full within a file"],
)
def test_a_store_that_cannot_be_written(undisturbed, tmp_path, fault, says):
    store = tmp_path / "store"
    process = child.start(tmp_path, small.command_line(tmp_path, "--quiet"), fault(store))
    assert child.finish(process) == 2, child.errors(tmp_path)
    # That a store cannot be locked any more is a warning.
    said = [line for line in child.errors(tmp_path).splitlines() if line.strip() and "warning: " not in line]
    assert len(said) == 1 and "cannot be written" in said[0] and says in said[0]
    assert small.run(tmp_path) == 0
    assert small.outcome(tmp_path) == undisturbed
