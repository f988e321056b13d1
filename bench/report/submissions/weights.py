"""On which weights a result was measured, where several people trained by one recipe and got other weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bench.keys import Keys, training_key
from bench.report.submissions.read import Entry, order, person
from bench.types import TrainRef


class Groups(NamedTuple):
    """The weights of each entry.

    Attributes:
        of: a fingerprint of the weights by (file, training).
        ranked: the one that tables show of each training.
    """

    of: Mapping[tuple[str, str], str]
    ranked: Mapping[str, str]

    def is_ranked(self, entry: Entry) -> bool:
        """Say whether tables may show an entry: those of a row are of the same weights."""
        return not self.why(entry)

    def why(self, entry: Entry) -> str:
        """Return in which weights an entry differs from those that tables show; empty where it does not."""
        key = _training(entry)
        if key is None or (own := self.of[entry.file, key]) == self.ranked[key]:
            return ""
        return f"other weights of the same recipe ({own[:8]}, ranked are {self.ranked[key][:8]})"


def groups(entries: Iterable[Entry]) -> Groups:
    """Return which entries were measured on the same weights, and which weights count for each training.

    A receipt names its weights by hash. A run file does not: its weights are those of the receipt that answers the same
    to every clean image under the same step, else its own.
    """
    own = [entry for entry in sorted(entries, key=order) if _training(entry) is not None]
    of: dict[tuple[str, str], str] = {}
    known: dict[_Answers, str] = {}
    keys = Keys()
    runs: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in own:
        key = _training(entry) or ""
        if entry.state == "outcomes only":
            runs[entry.file, key].append(entry)
        else:
            of[entry.file, key] = dict(entry.trained).get(key, entry.sha256)
            known.setdefault(_Answers.of(entry, key, keys), of[entry.file, key])
    for (file, key), of_run in sorted(runs.items()):
        answers = [_Answers.of(entry, key, keys) for entry in of_run if entry.result.clean_bits]
        of[file, key] = next((known[each] for each in answers if each in known), of_run[0].sha256)
        for each in answers:
            known.setdefault(each, of[file, key])
    members: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in own:
        key = _training(entry) or ""
        members[key][of[entry.file, key]].append(entry)
    return Groups(of, {key: _best(each) for key, each in members.items()})


class _Answers(NamedTuple):
    """To which clean images a network answers right, under a step."""

    training: str
    data: str
    step: str
    bits: str

    @classmethod
    def of(cls, entry: Entry, key: str, keys: Keys) -> _Answers:
        cell = entry.result.cell
        step = "" if cell.step is None else keys.text(cell.step)
        return cls(key, keys.text(cell.data), step, entry.result.clean_bits or "")


def _training(entry: Entry) -> str | None:
    """Return the key of the training of an entry's network; ``None`` where its weights are those of a file."""
    model = entry.result.cell.model
    return training_key(model) if isinstance(model.weights, TrainRef) else None


def _best(members: Mapping[str, list[Entry]]) -> str:
    """Return which weights count: those with the most repeated results, then receipts, people and cells.

    Results that were repeated with weights in half precision come behind those with whole ones. Of equals it is those
    that were merged first, for a hash can be sought.
    """

    def weight(fingerprint: str) -> tuple[int, int, int, int, int, float, str]:
        states = [entry.state for entry in members[fingerprint]]
        receipts = len(states) - states.count("outcomes only")
        people = {person(entry.who) for entry in members[fingerprint]}
        first = min(entry.arrival for entry in members[fingerprint])
        whole, halved = states.count("repeated"), states.count("repeated in half")
        return whole, halved, receipts, len(people), len(states), -first, fingerprint

    return max(members, key=weight)
