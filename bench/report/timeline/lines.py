"""Points, and the lines that join them: only what one question, protocol, machine and device measured is one lane."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import NamedTuple

from bench.differences import differences
from bench.keys import Keys
from bench.outcomes import Outcomes
from bench.report.comparison.pairing import pair
from bench.report.leaderboard.summaries import threat_text
from bench.report.timeline.places import Origin
from bench.store.latest import protocol
from bench.store.runs import Run
from bench.types import Cell, CellResult, Cost, UsageError

#: Results of one page.
MAX_RESULTS = 500_000
#: Cells on each side that are searched for the old one of a new question, and places at which that is done.
_MAX_CANDIDATES, _MAX_BEGINNINGS = 500, 200
#: Words at a break.
_MAX_WORDS = 4


class Point(NamedTuple):
    """One result at one place of the axis."""

    place: int
    #: Accuracy under attack with its 95 % interval, in [0, 1]; ``None`` where the cell failed.
    share: float | None
    low: float | None
    high: float | None
    #: ``None`` where the cell failed or they were not kept; such a point is tested against none.
    outcomes: Outcomes | None
    n: int
    cost: Cost | None
    threads: int
    finished: str
    #: The first line of the error, where the cell failed.
    error: str
    #: Where it was measured, if it was not measured here but holds here too: its code did not change.
    carried_from: Origin | None


class Asked(NamedTuple):
    """What a key stands for."""

    result: CellResult
    question: str
    protocol: str


class _Entry(NamedTuple):
    origin: Origin
    key: str
    hardware: tuple[str, str]
    point: Point


@dataclass
class Lane:
    """Points that may be joined and tested against each other, in the order of their places."""

    machine: str
    device: str
    protocol: str
    #: Of its latest result.
    cell: Cell
    #: How it differs from the lane before it in its line.
    words: tuple[str, ...] = ()
    #: The lane before it goes on, so that it stands beside that one; else the line has a break.
    is_beside: bool = False
    points: list[Point] = field(default_factory=list)
    #: What changed at a point without a break: parameters, names, code; by its index.
    remarks: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.machine}, {self.device}, protocol {self.protocol}"


@dataclass
class Line:
    """One row of a table under one attack, over all commits; lanes stand in the order in which they begin."""

    dataset: str
    model: str
    defense: str
    attack: str
    access: str
    threat: str
    seed: int
    lanes: list[Lane]
    #: Tells it from another line of the same name.
    mark: str = ""

    @property
    def name(self) -> str:
        return "/".join((self.dataset, self.model, self.defense, self.about))

    @property
    def about(self) -> str:
        """The attack with its threat, access and seed."""
        threat = f" {self.threat}" if self.threat else ""
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{self.attack}/{self.access}{threat}{seed}{self.mark}"


class Collected:
    """Results of many runs, kept in little room; two that are one measurement are kept once."""

    def __init__(self, only: str | None = None) -> None:
        self.asked: dict[str, Asked] = {}
        #: When the first result of each place was finished.
        self.finished: dict[Origin, str] = {}
        self.notes: list[str] = []
        self._only = only
        self._keys = Keys()
        self._entries: dict[tuple[Origin, str, tuple[str, str]], _Entry] = {}
        self._foreign = 0

    def add(self, run: Run) -> None:
        """Take the results of a run.

        Raises:
            UsageError: there are too many.
        """
        for r in run.results:
            if self._only is None or r.names.match(self._only):
                self._add(r, run)
        if len(self._entries) > MAX_RESULTS:
            raise UsageError(f"more than {MAX_RESULTS:,} results; name fewer sources, or fewer cells with --only")

    def _add(self, r: CellResult, run: Run) -> None:
        if not self._knows(r):
            self._foreign += 1
            return
        origin = Origin.of(r.provenance, run.source)
        self._keep(r, origin, None)
        if run.commit is not None and run.commit != origin.commit and not origin.dirty:
            self._keep(r, Origin(run.commit, dirty=False), origin)

    def _knows(self, r: CellResult) -> bool:
        """Say whether the key of a result stands for what it measured, as far as others have that key too."""
        known = self.asked.get(r.key)
        if known is None:
            self.asked[r.key] = Asked(r, self._keys.comparison_key(r.cell), protocol(r, self._keys))
            return True
        if known.result.cell != r.cell:
            return False
        if known.result.provenance.finished < r.provenance.finished:
            self.asked[r.key] = known._replace(result=r)
        return True

    def _keep(self, r: CellResult, origin: Origin, carried_from: Origin | None) -> None:
        hardware = (r.provenance.machine, r.provenance.device)
        name = (origin, r.key, hardware)
        point = _point(r, carried_from)
        known = self._entries.get(name)
        # What was measured at the place itself goes before what was carried to it, and then the last one counts.
        if known is None or _weight(known.point) < _weight(point):
            self._entries[name] = _Entry(origin, r.key, hardware, point)
        if carried_from is None:
            self.finished[origin] = min(r.provenance.finished, self.finished.get(origin, r.provenance.finished))
        else:
            self.finished.setdefault(origin, r.provenance.finished)

    @property
    def measurements(self) -> int:
        """How many results there are, without those that hold for further commits."""
        return sum(entry.point.carried_from is None for entry in self._entries.values())

    def left_out(self) -> Iterator[str]:
        """Yield a line on what was left out."""
        if self._foreign:
            yield f"{self._foreign:,} result{'s' * (self._foreign > 1)} left out: the key is that of another cell"

    def lines(self, numbers: Mapping[Origin, int]) -> list[Line]:
        """Return the lines, given the place of each origin."""
        by_question: dict[str, list[tuple[_Entry, Asked]]] = defaultdict(list)
        for entry in self._entries.values():
            asked = self.asked[entry.key]
            placed = entry._replace(point=entry.point._replace(place=numbers[entry.origin]))
            by_question[asked.question].append((placed, asked))
        for entries in by_question.values():
            entries.sort(key=lambda each: (each[0].point.place, _weight(each[0].point), each[0].key))
        histories = _chained([_Question(entries) for entries in by_question.values()])
        lines = [_line(history) for history in histories]
        _tell_apart(lines)
        return sorted(lines, key=lambda line: (line.dataset, line.model, line.defense, line.name))


def _weight(point: Point) -> tuple[bool, str]:
    return point.carried_from is None, point.finished


def _point(r: CellResult, carried_from: Origin | None) -> Point:
    metrics = r.metrics
    return Point(
        place=-1,
        share=metrics.accuracy_under_attack if metrics else None,
        low=metrics.ci_low if metrics else None,
        high=metrics.ci_high if metrics else None,
        outcomes=r.outcomes_under_attack,
        n=r.cell.data.n,
        cost=r.cost,
        threads=r.provenance.threads,
        finished=r.provenance.finished,
        error=f"{r.error.kind}: {r.error.message}".splitlines()[0] if r.error else "",
        carried_from=carried_from,
    )


class _Question:
    """One cell without the code of its methods, over all places."""

    def __init__(self, entries: list[tuple[_Entry, Asked]]) -> None:
        self.entries = entries
        places = [entry.point.place for entry, _ in entries]
        self.first, self.last = min(places), max(places)
        #: How it begins: the question that it continues, and whether the two are tested against each other.
        self.after: _Question | None = None
        self.joined = False
        self.words: tuple[str, ...] = ()

    @property
    def begin(self) -> CellResult:
        return self.entries[0][1].result

    @property
    def end(self) -> CellResult:
        return self.entries[-1][1].result


def _chained(questions: Sequence[_Question]) -> list[list[_Question]]:
    """Return for each line its questions in their order: where one ends, another of its name may go on.

    One that a comparison of two runs would pair, with a renamed method or another parameter, is joined. Other weights,
    images or budgets under the same name only stand in the same line.
    """
    beginnings = sorted(questions, key=lambda question: question.first)
    ended: list[_Question] = []
    running = list[_Question]()
    taken: set[int] = set()
    for count, (place, group) in enumerate(groupby(beginnings, key=lambda question: question.first)):
        new = list(group)
        ended += [each for each in running if each.last < place]
        running = [each for each in running if each.last >= place] + new
        free = [each for each in ended if id(each) not in taken][-_MAX_CANDIDATES:]
        if 0 < count <= _MAX_BEGINNINGS and free:
            _continue(free, new[:_MAX_CANDIDATES])
        taken |= {id(each.after) for each in new if each.after is not None}
    followers = {id(each.after): each for each in questions if each.after is not None}
    lines = []
    for first in (each for each in beginnings if each.after is None):
        line = [first]
        while (follower := followers.get(id(line[-1]))) is not None:
            line.append(follower)
        lines.append(line)
    return lines


def _continue(free: Sequence[_Question], new: Sequence[_Question]) -> None:
    """Let new questions continue those that ended."""
    of_key = {each.end.key: each for each in free}
    begun = {each.begin.key: each for each in new}
    for match in pair([each.end for each in free], [each.begin for each in new]).pairs:
        old, question = of_key[match.old.key], begun[match.new.key]
        # Other weights are another network, whatever the file is called.
        others = any(change.part.endswith("weights") for change in match.changed)
        question.after, question.joined = old, not others
        question.words = tuple(map(str, (*match.renamed, *match.changed)))[:_MAX_WORDS]
    by_name = {_name(each.end): each for each in free}
    followed = {id(each.after) for each in new}
    for question in (each for each in new if each.after is None):
        old_of_name = by_name.get(_name(question.begin))
        if old_of_name is not None and id(old_of_name) not in followed:
            question.after = old_of_name
            followed.add(id(old_of_name))
            question.words = tuple(differences(old_of_name.end.cell, question.begin.cell))[:_MAX_WORDS]


def _name(r: CellResult) -> tuple[str, int]:
    return str(r.names), r.cell.seed


def _line(history: Sequence[_Question]) -> Line:
    """Return the line of questions that follow each other."""
    lanes: dict[tuple[int, tuple[str, str], str], Lane] = {}
    block = 0
    begins: dict[int, tuple[str, ...]] = {}
    for question in history:
        if question.after is not None and not question.joined:
            block += 1
            begins[block] = question.words
        seen: set[tuple[int, tuple[str, str], str]] = set()
        for entry, asked in question.entries:
            name = (block, entry.hardware, asked.protocol)
            lane = lanes.get(name)
            if lane is None:
                lane = lanes[name] = Lane(*entry.hardware, asked.protocol, asked.result.cell)
            if question.joined and name not in seen and lane.points:
                lane.remarks[len(lane.points)] = question.words
            seen.add(name)
            _append(lane, entry.point)
            lane.cell = asked.result.cell
    _say_breaks(list(lanes.items()), begins)
    names, cell = history[-1].end.names, history[-1].end.cell
    return Line(
        dataset=names.dataset,
        model=names.model,
        defense=names.defense,
        attack=names.attack,
        access=names.access,
        threat=threat_text(cell.attack.threat) if cell.attack else "",
        seed=cell.seed,
        lanes=list(lanes.values()),
    )


def _append(lane: Lane, point: Point) -> None:
    """Add a point; of two at one place, as by two versions of the code, the last one counts."""
    if lane.points and lane.points[-1].place == point.place:
        lane.points[-1] = point
    else:
        lane.points.append(point)


def _say_breaks(
    lanes: Sequence[tuple[tuple[int, tuple[str, str], str], Lane]], begins: Mapping[int, tuple[str, ...]]
) -> None:
    """Give each lane the words that say how it differs from the one that began before it."""
    in_order = sorted(lanes, key=lambda each: each[1].points[0].place)
    for (old_name, old), (new_name, new) in zip(in_order, in_order[1:], strict=False):
        words = list(begins.get(new_name[0], ())) if old_name[0] != new_name[0] else []
        if (old.machine, old.device) != (new.machine, new.device):
            words.append(f"other machine: {new.machine}, {new.device}")
        if old.protocol != new.protocol:
            words.append(f"protocol {new.protocol} instead of {old.protocol}")
        new.words = tuple(words)
        new.is_beside = old.points[-1].place >= new.points[0].place


def _tell_apart(lines: Iterable[Line]) -> None:
    """Mark lines of one name with a number, in the order in which they begin."""
    namesakes: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        namesakes[line.name].append(line)
    for number, line in chain.from_iterable(enumerate(group, start=1) for group in namesakes.values()):
        line.mark = f" ({number})" if number > 1 else ""
