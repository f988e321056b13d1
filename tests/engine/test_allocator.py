"""Freed memory is kept: pages are not faulted in anew for every large block."""

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
FAULTS = """
import ctypes, resource, sys
from bench.process.allocator import keep_freed_memory

keeps = sys.argv[1] == "keep" and keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size, faults = 64 * 2**20, []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = c.malloc(size)
    ctypes.memset(block, 1, size)
    c.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(keeps, *faults)
"""


def faults(what, **variables):
    """Return whether memory is kept, and the pages faulted in by the same block of 64 MiB, five times."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = [sys.executable, "-c", FAULTS, what]
    said = subprocess.run(run, cwd=ROOT, env=plain | variables, capture_output=True, text=True, check=True).stdout
    keeps, *counts = said.split()
    return keeps == "True", [int(count) for count in counts]


@glibc
def test_a_block_that_is_freed_and_needed_again_costs_no_page_twice():
    pages = 64 * 2**20 // resource.getpagesize()
    keeps, kept = faults("keep")
    # Huge pages are one fault for many, so the first time may be cheap.
    assert keeps and max(kept[1:]) < pages // 512
    _, given_back = faults("default")
    assert min(given_back[1:]) >= pages // 512


@glibc
@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_what_the_user_sets_up_stays(name):
    value = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1", "LD_PRELOAD": ""}.get(name, "1")
    assert not faults("keep", **{name: value})[0]
