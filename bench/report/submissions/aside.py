"""Results that are not in the tables: others are, or somebody took them back."""

from __future__ import annotations

from typing import NamedTuple

from bench.report.submissions.form import Withdrawal
from bench.report.submissions.read import Entry


class Superseded(NamedTuple):
    """A result that another of the same person took the place of, and the one that tables show of that cell.

    ``counts_too`` says, here and of those that differ, that worst cases count what it broke.
    """

    entry: Entry
    by: Entry
    shown: Entry | None = None
    counts_too: bool = False


class Differing(NamedTuple):
    """A result that is not in the tables, since another of the same cell is, and how the two differ."""

    entry: Entry
    ranked: Entry | None
    why: str
    counts_too: bool = False


class Taken(NamedTuple):
    """A result that was withdrawn, and what was said of it."""

    entry: Entry | None
    withdrawal: Withdrawal
