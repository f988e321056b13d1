"""Which cells of a comparison a change of methods can have touched, by their code hashes and parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bench.differences import changed_code
from bench.report.comparison.pairing import Pair
from bench.types import listed

#: What else can change a number, below the line that counts cells.
BESIDE = "no hash holds the harness itself, torch, numpy and files that no source names"
#: Methods that a line names.
_NAMED = 6


class Touched(NamedTuple):
    """How many of the cells that both sides have can have changed, and by which methods, named once each."""

    cells: int
    can_have_changed: int
    code: tuple[str, ...]
    parameters: tuple[str, ...]

    @property
    def words(self) -> str:
        """It in one line."""
        parts = [f"{what} of {listed(names, _NAMED)}" for what, names in self._changed if names]
        if not self.can_have_changed:
            return f"no method changed its code or parameters: none of {self.cells:,} cells can have changed by that"
        what, cannot = " and ".join(parts) or "methods", self.cells - self.can_have_changed
        count = f"{self.can_have_changed:,} of {self.cells:,} cells"
        return f"{what} changed: {count} can have changed by that, {cannot:,} cannot"

    @property
    def _changed(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("code", self.code), ("parameters", self.parameters)


def touched(pairs: Iterable[Pair]) -> Touched:
    """Return what a change can have touched of some pairs; a cell that several machines measured counts once."""
    cells, unlike = set[str](), dict[str, Pair]()
    for p in pairs:
        cells.add(p.old.key)
        if p.old.key != p.new.key:
            unlike[p.old.key] = p
    code: dict[str, None] = {}
    parameters: dict[str, None] = {}
    for p in unlike.values():
        code |= {ref.name: None for ref in changed_code(p.old.cell, p.new.cell)}
        parameters |= {each.method: None for each in p.changed}
    return Touched(len(cells), len(unlike), tuple(sorted(code)), tuple(sorted(parameters)))
