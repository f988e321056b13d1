"""Whether images fit: the memory and disk space that they take, known before any of them is decoded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.types import UsageError

#: Pixels of the largest images that are taken, whatever the memory.
MOST_PIXELS = 4096**2
#: What a network keeps of a pixel in one pass, at the least: 64 channels in and 64 out, four bytes each.
_PASS_BYTES = 512
#: Test images of a run that take more than this are read from their file where they are needed.
HELD_BYTES = 2**26
_CONTAINER = Path("/sys/fs/cgroup")


def require_size(size: tuple[int, int]) -> None:
    """Raises UsageError: images of this height and width are taken by nothing here."""
    height, width = size
    if min(size) < 1:
        raise UsageError(f"image_size = {list(size)}: height and width must be at least 1")
    if height * width > MOST_PIXELS:
        raise UsageError(
            f"images of {height:,} x {width:,} pixels: at most {MOST_PIXELS:,} pixels are taken; give a smaller "
            "image_size under [dataset]"
        )


def require_room(
    total: int, wanted: int | None, shape: tuple[int, int, int], folder: Path, held: int | None = None
) -> None:
    """Check that images can be decoded and used.

    Args:
        total: images that are decoded.
        wanted: how many of them a run needs; ``None`` for all.
        shape: channels, height and width.
        folder: where they will be kept.
        held: bytes of them above which they are not held in memory; as many as they are by default.

    Raises:
        UsageError: the disk has no room for all of them, or the memory none for those that are wanted and a pass.
    """
    channels, height, width = shape
    each = channels * height * width
    shape_text = f"images of {channels}x{height}x{width}"
    if total * each > (free := _free(folder)):
        raise UsageError(f"{total:,} {shape_text} take {gib(total * each)} in {folder}, which has {gib(free)} free")
    used = total if wanted is None else min(wanted, total)
    if held is not None and used * each > held:
        used = 0
    images_text = f"{used:,} {shape_text}" if used else shape_text
    needed, available = used * each + _PASS_BYTES * height * width, available_memory()
    if needed > available:
        raise UsageError(
            f"{images_text} and a network's pass take at least {gib(needed)} of memory, {gib(available)} are "
            "available; ask for fewer images (n, train_n) or a smaller image_size"
        )


def available_memory() -> int:
    """Return how many bytes of memory a process can still have; where the system does not say, all that there are."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([available, *_of_container()])


def _of_container() -> list[int]:
    try:
        most, now = (int((_CONTAINER / f"memory.{word}").read_text(encoding="ascii")) for word in ("max", "current"))
        counts = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text(encoding="ascii").splitlines())
    # No container, or one without a limit.
    except (OSError, ValueError):
        return []
    # Of files that were read, as of decoded images, the copies in memory are dropped when memory is needed.
    return [max(0, most - now + int(counts.get("inactive_file", 0)))]


def _free(folder: Path) -> int:
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gib(count: int) -> str:
    """Return a number of bytes as a message has it."""
    return f"{count / 2**30:,.1f} GiB"
