"""Killed anywhere, the same command ends with the results of a run that nobody disturbed."""

import os
import random
import time

import pytest

from bench.store.files import write_atomically
from tests.faults import child
from tests.schedule import small

#: Kills at random moments; more before a release.
KILLS = int(os.environ.get("CROSSFIRE_KILLS", "30"))
#: The small run with one attack less: every kind of work is left.
TEXT = small.CONFIG.replace('[[attacks]]\nuse = "fgsm"\neps = "0.1"\n\n', "")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The outcome of a run left alone, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = child.start(folder, small.command_line(folder, text=TEXT))
    # The first to be started waits for the server that forks them to load torch.
    started = time.monotonic()
    assert child.finish(process) == 0, child.errors(folder)
    return small.outcome(folder), time.monotonic() - started


def _write(path, data):
    write_atomically(path, data)


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_file_is_old_or_new_whatever_step_of_its_write_kills(tmp_path, before):
    seen = set()
    for step in range(1, 9):
        path = tmp_path / str(step) / "file"
        if before is not None:
            path.parent.mkdir()
            path.write_bytes(before)
        process = child.CONTEXT.Process(target=_killed_writing, args=(path, step))
        process.start()
        ended = child.finish(process)
        held = path.read_bytes() if path.exists() else None
        assert held in (before, b"after" * 1000)
        seen.add((ended, held))
    # Some steps killed it before the rename and some after, and the last is past its end.
    assert {held for code, held in seen if code} == {before, b"after" * 1000}
    assert (0, b"after" * 1000) in seen


def _killed_writing(path, step):
    child.At(path.parent, step)()
    _write(path, b"after" * 1000)
    os._exit(0)


def test_killed_at_every_few_steps_of_a_run(undisturbed, tmp_path):
    # Each attempt gets further than the one before, so that the kills fall on every kind of write.
    for attempt in range(40):
        fault = child.At(tmp_path / "store", 4 + 9 * attempt)
        code = child.finish(child.start(tmp_path, small.command_line(tmp_path, text=TEXT), fault))
        if code == 0:
            break
        assert code == -9, child.errors(tmp_path)
    assert code == 0 and attempt > 5
    assert small.outcome(tmp_path) == undisturbed[0]
    assert len(small.events(tmp_path, "done")) <= 2 * len(undisturbed[0])


def test_killed_at_thirty_random_moments(undisturbed, tmp_path):
    outcome, seconds = undisturbed
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    killed = attempts = 0
    while killed < KILLS:
        folder = tmp_path / str(attempts)
        folder.mkdir()
        code = None
        # Killed again and again, until the same command gets through.
        while code != 0:
            process = child.start(folder, small.command_line(folder, text=TEXT))
            process.join(draw.uniform(0, seconds) if killed < KILLS else None)
            process.kill()
            code = child.finish(process)
            assert code in (0, -9), (seed, child.errors(folder))
            killed += code == -9
        assert small.outcome(folder) == outcome, seed
        attempts += 1
        assert attempts < 2 * KILLS, "hardly any run was killed before it had ended"
