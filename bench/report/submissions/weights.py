"""On which networks a result was measured: where several people trained by one recipe, a row is of one submission."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from bench.keys import Keys, Once, training_key
from bench.report.submissions.read import STATES, Entry, order, person
from bench.types import Cell, ModelRef, TrainRef

_DIGITS = 8


class Network(NamedTuple):
    """The weights of one seed.

    Attributes:
        recipe: the key of the training whatever the seed, or of a file of weights.
        seed: of the cell.
        fingerprint: of the weights.
    """

    recipe: str
    seed: int
    fingerprint: str


#: What a row of a table is of: the images, the recipe, and the step, as text.
Row = tuple[str, str, str]
#: Who gives a result, in which submission; receipts alone are of none.
_Source = tuple[str, str]
#: A result: its file and its key.
_Place = tuple[str, str]


class Groups(NamedTuple):
    """The weights of each entry, and those that tables show.

    Attributes:
        of: the network of each result, and the row that it is of.
        ranked: the fingerprint that tables show by (recipe, seed).
        owners: whose a network is.
        shown: whose seeds a row averages.
        measured: whose a row is: of its network, else of whoever of those that measured it comes first.
    """

    of: Mapping[_Place, tuple[Network, Row]]
    ranked: Mapping[tuple[str, int], str]
    owners: Mapping[Network, Entry]
    shown: Mapping[Row, Entry]
    measured: Mapping[Row, Entry]

    def is_ranked(self, entry: Entry) -> bool:
        """Say whether tables may show an entry: a row is of the same weights, and of the seeds of one submission."""
        return not self.why(entry)

    def why(self, entry: Entry) -> str:
        """Return in which weights an entry differs from those that tables show; empty where it does not."""
        own, row = self.of[_place(entry)]
        ranked = self.ranked[own.recipe, own.seed]
        shown = self.shown[row]
        if _source(self.owners[own._replace(fingerprint=ranked)]) != _source(shown):
            whose = shown.who + (f" in {shown.folder}" if shown.folder else "")
            return f"another seed ({own.seed:,}) of the same recipe, by {entry.who}; a row averages those of {whose}"
        if own.fingerprint == ranked:
            return ""
        return f"other weights of the same recipe ({own.fingerprint[:_DIGITS]}, ranked are {ranked[:_DIGITS]})"

    def row(self, entry: Entry) -> Row:
        """Return the row that an entry is of."""
        return self.of[_place(entry)][1]

    def is_of_owner(self, entries: Iterable[Entry]) -> bool:
        """Say whether one of some entries is of the submission whose seeds their row averages."""
        return any(_source(entry) == _source(self.shown[self.row(entry)]) for entry in entries)

    def is_of_row(self, entries: Iterable[Entry]) -> bool:
        """Say whether one of some entries is of those whose row it is."""
        return any(_source(entry) == _source(self.measured[self.row(entry)]) for entry in entries)

    def may_be_one(self, entry: Entry, other: Entry) -> bool:
        """Say whether two entries are of the same weights, as far as is known: a run file does not name them."""
        own, its = (self.of[_place(each)][0] for each in (entry, other))
        return own == its or (own.recipe == its.recipe and not (_names_weights(entry) and _names_weights(other)))


def groups(entries: Iterable[Entry]) -> Groups:
    """Return which entries were measured on the same weights, and which weights count for each recipe and row.

    Of a recipe the seeds of one submission count, so that nobody adds a seed to what is somebody else's, under no name:
    of two those that :func:`_weight` puts first. Seeds that they lack may be those of another, in rows that they do not
    have.
    """
    entries = sorted(entries, key=order)
    of = _networks(entries)
    members: dict[Network, list[Entry]] = defaultdict(list)
    for entry in entries:
        members[of[_place(entry)][0]].append(entry)
    owners = {network: min(own, key=priority) for network, own in members.items()}
    ranked: dict[tuple[str, int], str] = {}
    for network in _by_weight(members, owners):
        ranked.setdefault((network.recipe, network.seed), network.fingerprint)
    by_row: dict[Row, dict[_Source, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    shown: dict[Row, Entry] = {}
    for entry in entries:
        network, row = of[_place(entry)]
        counting = network._replace(fingerprint=ranked[network.recipe, network.seed])
        # Of a row nothing may be on the weights that count: then it shows nothing.
        shown.setdefault(row, owners[counting])
        if network == counting:
            by_row[row][_source(owners[network])].append(entry)
    measured = dict(shown)
    for row, several in by_row.items():
        best = max(several.values(), key=_weight)
        shown[row] = owners[of[_place(best[0])][0]]
        own = [entry for entry in best if _source(entry) == _source(shown[row])]
        measured[row] = min(own or best, key=priority)
    return Groups(of, ranked, owners, shown, measured)


class Rows:
    """Tells of which row a cell is, whatever its seed and whatever files of weights are called."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._recipes = Once[ModelRef, tuple[str, str]](_recipe)

    def recipe(self, model: ModelRef) -> tuple[str, str]:
        """Return what seeds of a network have in common, and the key of the training of this one."""
        return self._recipes(model)

    def of(self, cell: Cell) -> Row:
        """Return the row of a cell."""
        step = "" if cell.step is None else self._keys.text(cell.step)
        return self._keys.text(cell.data), self.recipe(cell.model)[0], step


def priority(entry: Entry) -> tuple[int, float, bool, str]:
    """Return by what it is decided whose some weights are: who is known best, was merged first, or brought them."""
    return STATES.index(entry.state), entry.arrival, not entry.said.weights, entry.file


def _by_weight(members: Mapping[Network, list[Entry]], owners: Mapping[Network, Entry]) -> Iterator[Network]:
    """Yield the networks of each recipe by submission, those of which the most is known first."""
    own: dict[tuple[str, _Source], dict[int, Network]] = defaultdict(dict)
    for network in sorted(members, key=lambda network: _weight(members[network]), reverse=True):
        # Of two networks of one submission and seed the better known one.
        own[network.recipe, _source(owners[network])].setdefault(network.seed, network)
    networks = [list(seeds.values()) for seeds in own.values()]
    for each in sorted(networks, key=lambda each: _weight(_all(members, each)), reverse=True):
        yield from each


def _all(members: Mapping[Network, list[Entry]], networks: Iterable[Network]) -> list[Entry]:
    return list(chain.from_iterable(members[network] for network in networks))


def _weight(own: Iterable[Entry]) -> tuple[int, float, int, int, int, int, int, str]:
    """Return how well weights are known: those with the best known result come first, of these what was merged first.

    How many results there are costs nothing, so it counts only where git does not tell what was first: most repeated
    ones, those by weights in half precision behind, then receipts, people and cells.
    """
    own = list(own)
    best = min(STATES.index(entry.state) for entry in own)
    states = [entry.state for entry in own]
    receipts = len(states) - states.count("outcomes only")
    people = {person(entry.who) for entry in own}
    first = min(entry.arrival for entry in own if STATES.index(entry.state) == best)
    whole, halved = states.count("repeated"), states.count("repeated in half")
    return -best, -first, whole, halved, receipts, len(people), len(states), min(entry.sha256 for entry in own)


def _networks(entries: Iterable[Entry]) -> dict[_Place, tuple[Network, Row]]:
    """Return the network of each entry, and the row that it is of.

    A receipt names its weights by hash, and so does every result on a file of weights. A run file does not name those
    of a training: they are those of the receipt that answers the same to every clean image under the same step, else
    its own.
    """
    of: dict[_Place, tuple[Network, Row]] = {}
    known: dict[_Answers, str] = {}
    keys, rows = Keys(), Rows()
    runs: dict[tuple[str, str], list[Entry]] = defaultdict(list)

    def put(entry: Entry, fingerprint: str) -> None:
        cell = entry.result.cell
        of[_place(entry)] = Network(rows.recipe(cell.model)[0], cell.seed, fingerprint), rows.of(cell)

    for entry in entries:
        model = entry.result.cell.model
        _, key = rows.recipe(model)
        if not _names_weights(entry):
            runs[entry.file, key].append(entry)
            continue
        fingerprint = dict(entry.trained).get(key, entry.sha256) if isinstance(model.weights, TrainRef) else key
        put(entry, fingerprint)
        known.setdefault(_Answers.of(entry, key, keys), fingerprint)
    for (_, key), of_run in sorted(runs.items()):
        answers = [_Answers.of(entry, key, keys) for entry in of_run if entry.result.clean_bits]
        fingerprint = next((known[each] for each in answers if each in known), of_run[0].sha256)
        for entry in of_run:
            put(entry, fingerprint)
        for each in answers:
            known.setdefault(each, fingerprint)
    return of


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


def _recipe(model: ModelRef) -> tuple[str, str]:
    """Return what seeds of a network have in common, and the key of the training of this one."""
    if not isinstance(model.weights, TrainRef):
        return (text := Keys().text(model)), text
    unseeded = model.model_copy(update={"weights": model.weights.model_copy(update={"seed": 0})})
    return training_key(unseeded), training_key(model)


def _names_weights(entry: Entry) -> bool:
    """Say whether it is known on which weights an entry was measured, as its file says."""
    return entry.state != "outcomes only" or not isinstance(entry.result.cell.model.weights, TrainRef)


def _source(entry: Entry) -> _Source:
    return person(entry.who), entry.folder


def _place(entry: Entry) -> _Place:
    return entry.file, entry.result.key
