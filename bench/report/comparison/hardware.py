"""What two results must share to be of one machine, and what each machine is called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from bench.types import CellResult


class Hardware(NamedTuple):
    """A machine with one of its devices. Results of two devices differ as those of two machines do."""

    machine: str
    device: str

    @classmethod
    def of(cls, r: CellResult) -> Hardware:
        return cls(r.provenance.machine, r.provenance.device)


def names_of(every: Iterable[Hardware]) -> dict[Hardware, str]:
    """Return what each is called: its machine, with the device in brackets where the machine has several."""
    every = set(every)
    devices: dict[str, set[str]] = defaultdict(set)
    for each in every:
        devices[each.machine].add(each.device)
    return {
        each: f"{each.machine} ({each.device})" if len(devices[each.machine]) > 1 else each.machine for each in every
    }
