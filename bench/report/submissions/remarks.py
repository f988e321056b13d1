"""What stands below a table of many people's results: a network or a measurement that has several names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from bench import registry
from bench.keys import training_key
from bench.report.leaderboard.tables import Board, Table
from bench.report.submissions.merge import Merged
from bench.report.submissions.read import REPEATED, Entry
from bench.types import CellResult, TrainRef, listed, threat_text

_DIGITS = 8
#: Names that a line has.
_NAMED = 6
_UNSEEDED = {"weights": {"seed"}}


def said_below(board: Board, merged: Merged) -> Board:
    """Return tables with what is remarkable of the receipts behind their numbers below each."""
    tables = [replace(table, notes=(*table.notes, *_remarks(board, table, merged.sources))) for table in board.tables]
    return replace(board, tables=tuple(tables))


def _remarks(board: Board, table: Table, sources: Mapping[str, tuple[Entry, ...]]) -> Iterator[str]:
    keys = dict.fromkeys(chain.from_iterable(row.keys for row in table.rows))
    shown = {key: own for key in keys if (own := sources.get(key))}
    yield from _one_network(board, shown)
    yield from _one_measurement(board, shown)


def _one_network(board: Board, shown: Mapping[str, tuple[Entry, ...]]) -> Iterator[str]:
    """Yield which rows, or seeds of a row, are of one file of weights: one network that is called two things."""
    recipes: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    said: set[str] = set()
    for key, own in shown.items():
        model = own[0].result.cell.model
        if not isinstance(model.weights, TrainRef):
            # Who measured a file of weights names it by its hash: it is one row.
            continue
        label = board.labels[key][0]
        for sha256 in _fingerprints(own):
            recipes[sha256][model.model_dump_json(exclude=_UNSEEDED)].add(label)
            seeds[sha256, label].add(model.weights.seed)
            if all(entry.state not in REPEATED for entry in own):
                said.add(label)
    for sha256, by_recipe in recipes.items():
        if len(by_recipe) > 1:
            names = sorted(chain.from_iterable(by_recipe.values()))
            words = listed([f"{name} (as is said)" if name in said else name for name in names], _NAMED)
            yield f"one network under {len(by_recipe):,} recipes: {words} are of the same weights {sha256[:_DIGITS]}"
    for (sha256, label), several in seeds.items():
        if len(several) > 1:
            numbers = listed(map(str, sorted(several)), _NAMED)
            yield f"{label}: seeds {numbers} are one network, of the same weights {sha256[:_DIGITS]}"


def _fingerprints(own: Iterable[Entry]) -> set[str]:
    """Return the SHA-256 of the weights of the network that answers, as receipts of one cell have it."""
    keys = ((dict(entry.trained), training_key(entry.result.cell.model)) for entry in own)
    return {trained[key] for trained, key in keys if key in trained}


def _one_measurement(board: Board, shown: Mapping[str, tuple[Entry, ...]]) -> Iterator[str]:
    """Yield which attacks, budgets or accesses of a row have the same adversarial images, where honest ones do not."""
    alike: dict[tuple[str, int, str], dict[str, CellResult]] = defaultdict(dict)
    for key, own in shown.items():
        result = own[0].result
        if _has_images_of_its_own(result):
            for images in {entry.images for entry in own if entry.images}:
                alike[board.labels[key][0], result.cell.seed, images][key] = result
    lines: dict[str, None] = {}
    for (label, _, _), results in alike.items():
        lines |= dict.fromkeys(_alike(board, label, results))
    yield from lines


def _alike(board: Board, label: str, results: Mapping[str, CellResult]) -> Iterator[str]:
    """Yield a line where cells of a row, which have the same adversarial images, are of several attacks or accesses."""
    threats = {key: threat_text(r.cell.attack.threat) for key, r in results.items() if r.cell.attack}
    # Where every image breaks, an attack that stops at these ends alike however long it might have run.
    has_survivors = any(r.metrics and r.metrics.accuracy_under_attack for r in results.values())
    if len(results) < 2 or not (len(set(threats.values())) > 1 or has_survivors):
        return
    accesses = sorted({r.cell.access for r in results.values()})
    names = sorted({f"{board.labels[key][1]} {threat}" for key, threat in threats.items()})
    where = f"{label}, {' and '.join(accesses)}"
    yield f"{where}: one measurement, with the same adversarial images: {listed(names, _NAMED)}"


def _has_images_of_its_own(result: CellResult) -> bool:
    """Say whether no other attack, budget or step count gives the same images: not of suites and of least distances."""
    attack, metrics = result.cell.attack, result.metrics
    if attack is None or metrics is None or attack.after or attack.threat.eps is None or not metrics.mean_linf:
        return False
    known = registry.entries("attack").get(attack.attack.name)
    return known is None or known.meta.get("bounded") is not False
