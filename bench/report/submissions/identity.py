"""On which weights the results of receipts were measured, where these are there in half precision alone.

Anybody can name the hash of somebody's weights. So results that were repeated in half precision are of the weights that
were there, and not of those that these are said to be the rounding of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from bench.keys import training_key
from bench.report.receipts.repeat import needed
from bench.report.submissions.read import Entry


class _Half(NamedTuple):
    """What a receipt states of a network that answers in it: the hashes of its weights, whole and as float16."""

    key: str
    whole: str
    half: str


def identified(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries whose ``trained`` are the weights that were there, with a remark where two state other halves."""
    entries = list(entries)
    of = {id(entry): _halves(entry) for entry in entries}
    repeated = [entry for entry in entries if entry.state == "repeated"]
    whole = set(chain.from_iterable(_answering(entry).values() for entry in repeated))
    in_half = [entry for entry in entries if entry.state == "repeated in half"]
    alone = {each for each in chain.from_iterable(of[id(entry)] for entry in in_half) if each.whole not in whole}
    files: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in entries:
        for each in of[id(entry)]:
            files[each.whole].setdefault(each.half, entry.file)
    return [_identified(entry, of[id(entry)], alone, files) for entry in entries]


def _identified(
    entry: Entry, halves: Iterable[_Half], alone: set[_Half], files: Mapping[str, Mapping[str, str]]
) -> Entry:
    """Return an entry as :func:`identified` does.

    Args:
        entry: of a receipt or a run file.
        halves: what it states of its networks.
        alone: what was repeated in half precision, and with whole weights nowhere.
        files: a file that states a hash in half precision, by that of the whole weights.
    """
    if entry.state == "repeated":
        # With whole weights, of which the half ones were found to be the rounding.
        return entry
    words, trained = entry.words, dict(entry.trained)
    for each in halves:
        if entry.state == "repeated in half" or each in alone:
            trained[each.key] = each.half
        others = [file for half, file in files[each.whole].items() if half != each.half]
        if others:
            words += f"; {others[0]} states other weights in half precision for the same whole ones"
    return entry._replace(words=words, trained=tuple(sorted(trained.items())))


def _answering(entry: Entry) -> dict[str, str]:
    """Return the hashes of the weights of the networks that answer in a result, not of those that were attacked."""
    keys = {training_key(model) for model in needed(entry.result.cell)}
    return {key: sha256 for key, sha256 in entry.trained if key in keys}


def _halves(entry: Entry) -> list[_Half]:
    whole = _answering(entry) if entry.halved else {}
    return [_Half(key, whole[key], half) for key, half in entry.halved if key in whole]
