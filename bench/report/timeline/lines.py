"""Points, and the lines that join them: only what one question, protocol, machine and device measured is one lane."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice, pairwise
from pathlib import PurePath
from typing import NamedTuple

from bench.differences import changed, differences, methods_by_part
from bench.keys import Keys
from bench.outcomes import Outcomes
from bench.report.comparison.hardware import Hardware, names_of
from bench.report.comparison.pairing import Renamed, pair
from bench.report.timeline.places import Measured, Origin
from bench.store.latest import protocol
from bench.store.runs import Run
from bench.types import Cell, CellResult, Cost, DefenseCost, UsageError, threat_text, usage

#: Results of one page.
MAX_RESULTS = 500_000
#: Cells on each side that are searched for the old one of a new question, and places at which that is done.
_MAX_CANDIDATES, _MAX_BEGINNINGS = 500, 200
#: Lines of one name that a new question is looked for in.
_MAX_RIVALS = 20
#: Sources that are named as their commit is none.
_MAX_SOURCES = 3
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
    #: What the defense costs by itself; of a clean cell.
    own_cost: DefenseCost | None
    threads: int
    finished: str
    #: The first line of the error, where the cell failed.
    error: str
    #: Where it was measured, if it was not measured here but holds here too: its code did not change.
    carried_from: Origin | None

    @property
    def is_without_outcomes(self) -> bool:
        """Say whether it was measured, and the outcomes of its images were not kept."""
        return self.outcomes is None and not self.error


class Asked(NamedTuple):
    """What a key stands for."""

    result: CellResult
    question: str
    protocol: str


class _Entry(NamedTuple):
    origin: Origin
    key: str
    hardware: Hardware
    point: Point


@dataclass
class Lane:
    """Points that may be joined and tested against each other, in the order of their places."""

    machine: str
    device: str
    protocol: str
    #: Of its earliest and its latest result.
    first_cell: Cell
    cell: Cell
    #: How it differs from the lane before it in its line.
    words: tuple[str, ...] = ()
    #: The lane before it goes on, so that it stands beside that one; else the line has a break.
    is_beside: bool = False
    points: list[Point] = field(default_factory=list)
    #: For each point what its key stands for.
    asked: list[Asked] = field(default_factory=list)

    @property
    def hardware(self) -> Hardware:
        return Hardware(self.machine, self.device)

    @property
    def label(self) -> str:
        return f"{self.machine}, {self.device}, protocol {self.protocol}"

    @property
    def threat(self) -> str:
        """The threat under which all its points were measured; empty of a clean cell."""
        return threat_text(self.cell.attack.threat) if self.cell.attack else ""

    def remarks(self, index: int, follows: int | None) -> tuple[str, ...]:
        """Return what changed without a break at a point, since the one that it follows: names and parameters."""
        if follows is None or self.asked[index].question == self.asked[follows].question:
            return ()
        return tuple(_changes(self.asked[follows].result.cell, self.asked[index].result.cell))[:_MAX_WORDS]


def conditions(lanes: Sequence[Lane]) -> list[str]:
    """Return for each lane those of its threat, machine, device and protocol that tell it from others."""
    protocols, threats = {lane.protocol for lane in lanes}, {lane.threat for lane in lanes}
    found: list[str] = []
    for lane, where in zip(lanes, hardware(lanes), strict=True):
        parts = (
            lane.threat if len(threats) > 1 else "",
            where,
            f"protocol {lane.protocol}" if len(protocols) > 1 else "",
        )
        found.append(", ".join(filter(None, parts)))
    return found


def hardware(lanes: Sequence[Lane]) -> list[str]:
    """Return for each lane its machine if there are several, and its device where the machine has several."""
    names = names_of(lane.hardware for lane in lanes)
    if len({lane.machine for lane in lanes}) > 1:
        return [names[lane.hardware] for lane in lanes]
    return [lane.device if len(names) > 1 else "" for lane in lanes]


@dataclass
class Line:
    """One row of a table under one attack, over all commits; lanes stand in the order in which they begin."""

    dataset: str
    model: str
    defense: str
    attack: str
    access: str
    #: The latest one; each lane has its own.
    threat: str
    seed: int
    lanes: list[Lane]
    #: Tells it from another line of the same name.
    mark: str = ""

    @property
    def name(self) -> str:
        return self._name(self.threat)

    def name_of(self, lane: Lane) -> str:
        """Return what a lane is called: as its line, with the threat under which it was measured."""
        return self._name(lane.threat)

    def _name(self, threat: str) -> str:
        return "/".join((self.dataset, self.model, self.defense, self._about(threat)))

    def about_of(self, lane: Lane) -> str:
        """Return the attack of a lane with its threat, access and seed."""
        return self._about(lane.threat)

    def _about(self, threat: str) -> str:
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{self.attack}/{self.access}{' ' if threat else ''}{threat}{seed}{self.mark}"


class Collected:
    """Results of many runs, kept in little room; two that are one measurement are kept once."""

    def __init__(self, only: str | None = None) -> None:
        self.asked: dict[str, Asked] = {}
        #: Of all results, also of those that are not looked at: they tell when a commit was measured.
        self._measured: dict[Origin, Measured] = {}
        #: For each source what is wrong with the commit of a result in it.
        self._wrong: dict[str, str] = {}
        self._only = only
        self._keys = Keys()
        self._entries: dict[tuple[Origin, str, Hardware], _Entry] = {}
        self._foreign = 0

    def add(self, run: Run) -> None:
        """Take the results of a run.

        Raises:
            UsageError: there are too many.
        """
        for r in run.results:
            origin = Origin.of(r.provenance, run.source)
            also = None
            if run.commit is not None and not origin.dirty:
                here = Origin(run.commit, run.dirty)
                also = None if here == origin else here
            self._time(r.provenance.finished, origin, also)
            if self._only is None or r.names.match(self._only):
                self._add(r, run, origin, also)
        if len(self._entries) > MAX_RESULTS:
            raise UsageError(f"more than {MAX_RESULTS:,} results; name fewer sources, or fewer cells with --only")

    def _time(self, finished: str, origin: Origin, also: Origin | None) -> None:
        known = self._measured.get(origin) or Measured(None, finished)
        self._measured[origin] = known.with_own(finished)
        if also is not None:
            known = self._measured.get(also) or Measured(None, finished)
            self._measured[also] = known.with_carried(finished)

    @property
    def measured(self) -> dict[Origin, Measured]:
        """When the results of each place were finished, of those places alone that have a result which is looked at."""
        looked_at = {entry.origin for entry in self._entries.values()}
        return {origin: measured for origin, measured in self._measured.items() if origin in looked_at}

    def _add(self, r: CellResult, run: Run, origin: Origin, also: Origin | None) -> None:
        """Take a result at the place where it was measured, and at another where it holds too."""
        if not self._knows(r):
            self._foreign += 1
            return
        if origin.what_is_wrong:
            self._wrong.setdefault(run.source, origin.what_is_wrong)
        self._keep(r, origin, None)
        if also is not None:
            self._keep(r, also, origin)

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
        hardware = Hardware.of(r)
        name = (origin, r.key, hardware)
        point = _point(r, carried_from)
        known = self._entries.get(name)
        # What was measured at the place itself goes before what was carried to it, and then the last one counts.
        if known is None or _weight(known.point) < _weight(point):
            self._entries[name] = _Entry(origin, r.key, hardware, point)

    @property
    def measurements(self) -> int:
        """How many results there are, without those that hold for further commits."""
        return sum(entry.point.carried_from is None for entry in self._entries.values())

    def left_out(self) -> Iterator[str]:
        """Yield a line on what was left out, and on each source whose commit is none."""
        for source, wrong in islice(self._wrong.items(), _MAX_SOURCES):
            # The page may be published: it names no folders of this machine.
            shown = PurePath(source).name if PurePath(source).is_absolute() else source
            yield f"{shown}: {wrong}; placed by the time of its results"
        if len(self._wrong) > _MAX_SOURCES:
            yield f"the same of {len(self._wrong) - _MAX_SOURCES:,} more sources"
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
        lines = list(map(_line, _histories([_Question(entries) for entries in by_question.values()])))
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
        own_cost=r.defense_cost if r.cell.attack is None else None,
        threads=r.provenance.threads,
        finished=r.provenance.finished,
        error=f"{r.error.kind}: {r.error.message}".splitlines()[0] if r.error else "",
        carried_from=carried_from,
    )


class _Question:
    """One cell without the code of its methods, over all places."""

    def __init__(self, entries: list[tuple[_Entry, Asked]]) -> None:
        self.entries = entries
        committed = [each for each in entries if not each[0].origin.dirty]
        self.committed = {entry.point.place for entry, _ in committed}
        #: Uncommitted changes do not decide where it begins and ends, unless there is nothing else.
        self._deciding = committed or entries
        self.first, self.last = (self._deciding[i][0].point.place for i in (0, -1))
        self.occupied = {(entry.point.place, entry.hardware) for entry, _ in entries}
        #: Questions of one block are joined and tested against each other.
        self.block = 0

    @property
    def cells(self) -> list[Cell]:
        """One for each version of its code."""
        return list({asked.result.key: asked.result.cell for _, asked in self.entries}.values())

    @property
    def begin(self) -> CellResult:
        return self._deciding[0][1].result

    @property
    def end(self) -> CellResult:
        return self._deciding[-1][1].result


#: What its line is called, and the seed.
_Name = tuple[str, int]


class _History:
    """Questions that stand in one line: no two were measured at one place."""

    def __init__(self, question: _Question) -> None:
        self.questions = [question]
        self.first, self.last = question.first, question.last
        self._occupied = set(question.occupied)
        self._blocks = 1

    @property
    def is_committed(self) -> bool:
        """Say whether any of it was measured at a commit."""
        return any(question.committed for question in self.questions)

    def has_room_for(self, question: _Question) -> bool:
        return self._occupied.isdisjoint(question.occupied)

    def before(self, question: _Question) -> _Question:
        """Return the question that was asked last, at a commit, when another begins."""
        begun = [each for each in self.questions if each.first < question.first] or self.questions
        return max(begun, key=lambda each: max((p for p in each.committed if p < question.first), default=-1))

    def add(self, questions: Iterable[_Question], block: int | None) -> None:
        """Add questions that are joined to those of a block; with none they are a block of their own."""
        if block is None:
            block = self._blocks
            self._blocks += 1
        for question in questions:
            question.block = block
            self.questions.append(question)
            self._occupied |= question.occupied
            self.first, self.last = min(self.first, question.first), max(self.last, question.last)

    def go_on_with(self, follower: _History, block: int) -> None:
        """Add a line whose first questions are joined to those of a block; its breaks stay breaks."""
        of_block: dict[int, list[_Question]] = defaultdict(list)
        for question in follower.questions:
            of_block[question.block].append(question)
        joined = follower.questions[0].block
        for own, questions in of_block.items():
            self.add(questions, block if own == joined else None)


def _histories(questions: Sequence[_Question]) -> list[_History]:
    """Return the questions of each line.

    Questions of one name stand in one line unless they were measured at one place. Those that a comparison of two runs
    would pair, because only parameters differ, are joined; other weights, images or budgets are not.
    """
    by_name: dict[_Name, list[_Question]] = defaultdict(list)
    for question in questions:
        by_name[str(question.end.names), question.end.cell.seed].append(question)
    stretches = chain.from_iterable(_split(by_name[name], cuts) for name, cuts in _renamed_at(by_name).items())
    histories: list[_History] = []
    for namesakes in stretches:
        own: list[_History] = []
        in_order = sorted(namesakes, key=lambda question: question.first)
        for _, group in groupby(in_order, key=lambda question: question.first):
            _place_new(list(group), own)
        histories += own
    return _with_renamed(histories)


def _renamed_at(by_name: Mapping[_Name, Sequence[_Question]]) -> dict[_Name, list[int]]:
    """Return for each name the places from which on it begins anew.

    They are the commits at which its cell goes on under another name: one that lacks the old name and has one that was
    not in use. What has the old name later is the cell renamed back, or another one.
    """
    cuts: dict[_Name, list[int]] = {name: [] for name in by_name}
    in_use: dict[_Name, list[_Question]] = {}
    tried = 0
    for place, here in sorted(_with_doubtful_names(by_name).items()):
        gone, begun = in_use.keys() - here.keys(), here.keys() - in_use.keys()
        if gone and begun and tried < _MAX_BEGINNINGS and len(begun) <= _MAX_CANDIDATES:
            tried += 1
            for old, new in _renames(in_use, here):
                if old in gone and new in begun:
                    in_use.pop(old, None)
                    cuts[old].append(place)
                    # Uncommitted changes that had both names cannot stand in one line.
                    if not _occupied(by_name[old], place).isdisjoint(_occupied(by_name[new], place)):
                        cuts[new].append(place)
        in_use |= here
    return cuts


def _with_doubtful_names(by_name: Mapping[_Name, Sequence[_Question]]) -> dict[int, dict[_Name, list[_Question]]]:
    """Return for each commit the names with what was measured, where a method has code that has another name too."""
    names_of_code: dict[tuple[str, str], set[str]] = defaultdict(set)
    code_of_name: dict[_Name, set[tuple[str, str]]] = defaultdict(set)
    for name, namesakes in by_name.items():
        for cell in chain.from_iterable(question.cells for question in namesakes):
            for part, method in methods_by_part(cell).items():
                names_of_code[part, method.code].add(method.name)
                code_of_name[name].add((part, method.code))
    doubtful = {code for code, names in names_of_code.items() if len(names) > 1}
    found: dict[int, dict[_Name, list[_Question]]] = defaultdict(lambda: defaultdict(list))
    for name, codes in code_of_name.items():
        for question in by_name[name] if not doubtful.isdisjoint(codes) else ():
            for place, entries in groupby(question.entries, key=_place_of):
                if place in question.committed:
                    found[place][name].append(_Question(list(entries)))
    return found


def _renames(
    olds: Mapping[_Name, Sequence[_Question]], news: Mapping[_Name, Sequence[_Question]]
) -> set[tuple[_Name, _Name]]:
    """Return the old and new names of what a comparison of two runs would pair."""
    names: dict[int, _Name] = {}
    for name, namesakes in chain(olds.items(), news.items()):
        names |= {id(each): name for each in namesakes}
    before, after = (list(chain.from_iterable(side.values())) for side in (olds, news))
    return {(names[id(old)], names[id(new)]) for old, new in _pairs(before, after)}


def _occupied(questions: Iterable[_Question], before: int) -> set[tuple[int, Hardware]]:
    occupied = chain.from_iterable(question.occupied for question in questions)
    return {each for each in occupied if each[0] < before}


def _place_of(each: tuple[_Entry, Asked]) -> int:
    return each[0].point.place


def _split(questions: Iterable[_Question], cuts: Sequence[int]) -> list[list[_Question]]:
    """Return the questions of one name, in parts where it begins anew."""
    parts: dict[int, list[_Question]] = defaultdict(list)
    for question in questions:
        # Entries stand in the order of their places.
        for part, entries in groupby(question.entries, key=lambda each: bisect_right(cuts, _place_of(each))):
            parts[part].append(_Question(list(entries)))
    return list(parts.values())


def _place_new(new: Sequence[_Question], histories: list[_History]) -> None:
    """Add questions of one name that begin at one place to its lines."""
    left = list(new)
    of_old = {id(old): history for history in histories[-_MAX_RIVALS:] if (old := history.before(new[0]))}
    olds = [history.before(new[0]) for history in of_old.values()]
    for old, question in list(_pairs(olds, new)) if olds else ():
        history = of_old[id(old)]
        if history.has_room_for(question):
            history.add([question], old.block)
            left.remove(question)
    for question in left:
        free = next((each for each in histories[-_MAX_RIVALS:] if each.has_room_for(question)), None)
        if free is None:
            histories.append(_History(question))
        else:
            free.add([question], None)


def _pairs(olds: Sequence[_Question], news: Sequence[_Question]) -> Iterator[tuple[_Question, _Question]]:
    """Yield old and new questions that are one with other parameters, or with a renamed method."""
    of_key = {each.end.key: each for each in olds}
    begun = {each.begin.key: each for each in news}
    for match in pair([each.end for each in olds], [each.begin for each in news]).pairs:
        # Other weights are another network, whatever the file is called.
        if not any(change.part.endswith("weights") for change in match.changed):
            yield of_key[match.old.key], begun[match.new.key]


def _with_renamed(histories: Sequence[_History]) -> list[_History]:
    """Return the lines, where one that ends and one that begins with a renamed method are one line."""
    in_order = sorted(histories, key=lambda history: history.first)
    kept: list[_History] = []
    for count, (place, group) in enumerate(groupby(in_order, key=lambda history: history.first)):
        new = list(group)
        # Nothing follows uncommitted changes.
        ended = [each for each in kept if each.last < place and each.is_committed][-_MAX_CANDIDATES:]
        of_old = {id(each.before(new[0].questions[0])): each for each in ended}
        of_new = {id(each.questions[0]): each for each in new}
        olds = [each.before(new[0].questions[0]) for each in ended]
        news = [each.questions[0] for each in new[:_MAX_CANDIDATES]]
        for old, question in _pairs(olds, news) if 0 < count <= _MAX_BEGINNINGS and olds else ():
            if all(map(of_old[id(old)].has_room_for, of_new[id(question)].questions)):
                of_old[id(old)].go_on_with(of_new.pop(id(question)), old.block)
        kept += of_new.values()
    return kept


def _line(history: _History) -> Line:
    """Return the line of questions."""
    lanes: dict[tuple[int, Hardware, str], Lane] = {}
    placed: list[tuple[_Entry, Asked, _Question]] = []
    for question in history.questions:
        placed += [(entry, asked, question) for entry, asked in question.entries]
    for entry, asked, question in sorted(placed, key=lambda each: each[0].point.place):
        name = (question.block, entry.hardware, asked.protocol)
        lane = lanes.get(name)
        if lane is None:
            lane = lanes[name] = Lane(*entry.hardware, asked.protocol, asked.result.cell, asked.result.cell)
        # Nothing follows uncommitted changes.
        if not entry.origin.dirty or not lane.points:
            lane.cell = asked.result.cell
        _append(lane, entry.point, asked)
    _say_breaks(list(lanes.items()))
    last = max(history.questions, key=lambda question: question.last).end
    return Line(
        dataset=last.names.dataset,
        model=last.names.model,
        defense=last.names.defense,
        attack=last.names.attack,
        access=last.names.access,
        threat=threat_text(last.cell.attack.threat) if last.cell.attack else "",
        seed=last.cell.seed,
        lanes=list(lanes.values()),
    )


def _changes(old: Cell, new: Cell) -> Iterator[str]:
    """Yield a line for each renamed method and changed parameter."""
    methods = methods_by_part(new)
    for part, method in methods_by_part(old).items():
        if method.name != methods[part].name:
            yield str(Renamed(part, method.name, methods[part].name))
    yield from map(str, changed(old, new))


def _append(lane: Lane, point: Point, asked: Asked) -> None:
    """Add a point; of two at one place, as by two versions of the code, the last one counts."""
    if lane.points and lane.points[-1].place == point.place:
        lane.points.pop()
        lane.asked.pop()
    lane.points.append(point)
    lane.asked.append(asked)


def _say_breaks(lanes: Sequence[tuple[tuple[int, Hardware, str], Lane]]) -> None:
    """Give each lane the words that say how it differs from the one that began before it."""
    in_order = sorted(lanes, key=lambda each: each[1].points[0].place)
    for (old_name, old), (new_name, new) in pairwise(in_order):
        words = list(differences(old.cell, new.first_cell))[:_MAX_WORDS] if old_name[0] != new_name[0] else []
        if old.hardware != new.hardware:
            words.append(f"other machine: {new.machine}, {new.device}")
        if old.protocol != new.protocol:
            words.append(f"protocol {old.protocol} against {new.protocol}")
        new.words = tuple(words)
        new.is_beside = old.points[-1].place >= new.points[0].place


def _tell_apart(lines: Iterable[Line]) -> None:
    """Mark lines with a number where a lane of another has the same name, in the order in which they begin.

    How their attack is used is said beside it: two of one name may differ by that.
    """
    numbers: dict[str, int] = defaultdict(int)
    for line in lines:
        names = {line.name, *map(line.name_of, line.lanes)}
        number = 1 + max(numbers[name] for name in names)
        numbers |= dict.fromkeys(names, number)
        attack = line.lanes[-1].cell.attack
        used = {} if attack is None else {name: value for name, value in usage(attack).items() if name != "eot"}
        words = [str(number), *(f"{name}={value}" for name, value in used.items())]
        line.mark = f" ({', '.join(words)})" if number > 1 else ""
