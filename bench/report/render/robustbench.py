"""RobustBench's model cards: a JSON for each network and threat, in the folders that their leaderboards are made from.

What a card holds is read from RobustBench 1.1.1 (``ModelInfo``, ``ACC_FIELDS``, ``update_json``,
``list_available_models`` and ``get_leaderboard_bibtex`` of ``robustbench/utils.py``, ``robustbench/eval.py`` and
``robustbench/leaderboard/``), its README ("Adding a new model") and the cards of its folder ``model_info``:

- A card is ``DATASET/THREAT/ID.json``; data set and threat are values of ``robustbench/model_zoo/enums.py``. There are
  leaderboards of ``cifar10`` (``Linf``, ``L2``), ``cifar100`` and ``imagenet`` (``Linf``). Those of common corruptions
  have no attack.
- Accuracies are percent, as text of at most two decimals; ``eps`` is text such as ``8/255`` or ``0.5``.
- ``autoattack_acc`` is the share right clean and under standard AutoAttack, of 10,000 CIFAR or 5,000 ImageNet images.
- ``external`` is a lower robust accuracy by other attacks. A leaderboard is sorted by it where it is there, and by
  ``autoattack_acc`` elsewhere, so a card needs one of them; a field without a value is left out, as ``null`` breaks it.
- ``unreliable`` says that AutoAttack's number is perhaps too high. No field is called ``best_external``.
- The leaderboard's template puts all text into its page as it is, so text is HTML.
- What a paper says (``link``, ``name``, ``authors``, ``venue``, ``reported``) is text, and empty where it is not known;
  ``additional_data`` is true or false, and ``null`` where it is not known.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.keys import EVALUATION_VERSION, sha256_hex
from bench.outcomes import Outcomes, right_in_all
from bench.report.leaderboard.corruption_error import is_imagenet
from bench.report.leaderboard.soundness import RAN_OUT, unsound
from bench.report.leaderboard.summaries import ACCESSES, EXCLUDE_SEED, ThreatSummary
from bench.report.leaderboard.tables import RANKED, Board, Table
from bench.report.render import text
from bench.store.files import Unreadable, read
from bench.store.outputs import write_into
from bench.types import CellResult, DataRef, ModelRef, TrainRef, UsageError, eps_text, listed, shortened
from bench.visible import json_text, visible

#: Their leaderboards by data set and norm, with the budget of each.
BUDGETS = {
    ("cifar10", "linf"): Fraction(8, 255),
    ("cifar10", "l2"): Fraction(1, 2),
    ("cifar100", "linf"): Fraction(8, 255),
    ("imagenet", "linf"): Fraction(4, 255),
}
#: Test images that AutoAttack runs on there.
IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
#: How the norms are called there.
_THREATS = {"linf": "Linf", "l2": "L2"}
#: The attack that has a field of its own, as Crossfire and its authors call it, and its length.
_AUTOATTACK = "autoattack"
_STANDARD = {"steps": 100, "targets": 9, "queries": 5000}
#: Flags by which AutoAttack's authors tell that another evaluation is needed, beside those that mislead any attack.
_UNRELIABLE = frozenset({"autoattack-dynamic", "randomised"})

#: What only a person knows: a value that a card in its place has already is kept.
BY_HAND: Mapping[str, type] = {
    "link": str,
    "name": str,
    "authors": str,
    "additional_data": bool,
    "venue": str,
    "architecture": str,
    "reported": str,
}
_UNKNOWN = "link, name, authors, venue, reported (empty) and additional_data (null)"
_LONGEST_NAME, _LONGEST_BUDGET = 80, 20
_LONGEST_TEXT = 200
_MOST_LABELS, _MOST_ROWS = 10, 3
_MAX_CARD_BYTES = 10**6


@dataclass(frozen=True)
class Card:
    """A model card; ``path`` is ``DATASET/THREAT/ID.json``, of letters that every file system takes."""

    path: str
    fields: Mapping[str, Any]
    #: Why it has no ``autoattack_acc``; empty where it has.
    lacks_autoattack: str


@dataclass(frozen=True)
class Cards:
    """All cards of a leaderboard, sorted by path, and why other rows have none: each reason with the rows."""

    cards: tuple[Card, ...]
    refused: tuple[str, ...]


def model_cards(board: Board) -> Cards:
    """Return a card for each network and test-time step, under each threat that RobustBench has a leaderboard of.

    A card is of one network: a row of several trainings has one for each, named by its seed. Runs of several seeds on
    the same weights count together, an image as robust if it survives all of them. Of several tables of one network the
    one with most images counts, and of these the one of the newest protocol.

    Raises:
        UsageError: there is none; the line says why.
    """
    refused: dict[str, list[str]] = defaultdict(list)
    by_identity: dict[str, list[_Evaluation]] = defaultdict(list)
    for table in board.tables:
        for summary in table.threats:
            for evaluation in _evaluations(board, table, summary):
                if why := evaluation.refusal:
                    refused[why].append(evaluation.called)
                else:
                    by_identity[evaluation.identity].append(evaluation)
    chosen: list[_Evaluation] = []
    for own in by_identity.values():
        own.sort(key=lambda each: (each.n, each.is_current), reverse=True)
        chosen.append(own[0])
        for other in own[1:]:
            refused[f"a card is made of the table of {own[0].n:,} images"].append(f"{other.called}, {other.n:,} images")
    refused["no cell is done"] += (title for title, _ in board.absent)
    reasons = tuple(f"{_listed(rows)}: {why}" for why, rows in refused.items() if rows)
    if not chosen:
        raise UsageError(f"RobustBench has a card for none of these results: {'; '.join(reasons) or 'there are none'}")
    cards = [Card(path, each.fields, each.autoattack[1]) for path, each in zip(_paths(chosen), chosen, strict=True)]
    return Cards(tuple(sorted(cards, key=lambda card: card.path)), reasons)


def as_json(cards: Cards) -> str:
    """Return all cards as one object, by their paths."""
    return json_text({card.path: dict(card.fields) for card in cards.cards}, indent=2) + "\n"


def write(cards: Cards, folder: Path) -> list[Path]:
    """Write the cards below a folder and return their paths. What a person filled in before is kept.

    Raises:
        UsageError: the folder is something else, a file in place of a card is none, or one cannot be written.
    """
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise UsageError(f"--out {folder} is no folder; --format robustbench writes a folder of model cards")
    paths = [folder / card.path for card in cards.cards]
    texts = [json_text(_merged(card, path), indent=2) + "\n" for card, path in zip(cards.cards, paths, strict=True)]
    for path, content in zip(paths, texts, strict=True):
        write_into(path, content.encode())
    return paths


def remarks(cards: Cards) -> Iterator[str]:
    """Yield what a user must know of the cards, a line each: rows without one, what is missing, what to fill in."""
    if cards.refused:
        yield f"no card for {'; '.join(cards.refused)}"
    if lacking := [card for card in cards.cards if card.lacks_autoattack]:
        reasons = Counter(card.lacks_autoattack for card in lacking)
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        yield f"{len(lacking)} of {len(cards.cards)} cards have no autoattack_acc: {why}"
    yield f"fill in what Crossfire cannot know: {_UNKNOWN}; and check architecture, and the file names"


def _merged(card: Card, path: Path) -> dict[str, Any]:
    """Return the fields of a card, with what a person filled in where the card is already there."""
    fields = dict(card.fields)
    try:
        before = json.loads(read(path, _MAX_CARD_BYTES))
    except FileNotFoundError:
        return fields
    except Unreadable as error:
        raise UsageError(f"--out {path} cannot be read: {error}") from None
    except (ValueError, RecursionError):
        before = None
    if not isinstance(before, dict):
        raise UsageError(f"--out {path} is there already and is no model card; move it away, or name another folder")
    for name, kind in BY_HAND.items():
        value = before.get(name)
        if isinstance(value, kind) and value != "":
            fields[name] = value
    return fields


def _listed(rows: Sequence[str]) -> str:
    """Return names of rows without repetition, the first of many."""
    return visible(listed((shortened(name, _LONGEST_TEXT) for name in dict.fromkeys(rows)), _MOST_ROWS))


def _evaluations(board: Board, table: Table, summary: ThreatSummary) -> Iterator[_Evaluation]:
    """Yield a row under one threat, network by network: several seeds of a recipe are several networks."""
    attacked = list(summary.cells.under(summary.group)) if summary.threat else []
    clean = [board.results[key] for key in summary.clean.keys]
    by_model: dict[ModelRef, list[CellResult]] = defaultdict(list)
    for each in attacked or clean:
        by_model[each.cell.model].append(each)
    for model, own in by_model.items():
        under_attack = tuple(own) if attacked else ()
        yield _Evaluation(board, table, summary, model, under_attack, tuple(r for r in clean if r.cell.model == model))


@dataclass(frozen=True)
class _Evaluation:
    """One network, with its test-time step, under one threat: its attacked cells in one table, and its clean ones."""

    board: Board
    table: Table
    summary: ThreatSummary
    model: ModelRef
    attacked: tuple[CellResult, ...]
    clean: tuple[CellResult, ...]

    @property
    def first(self) -> CellResult:
        return (*self.attacked, *self.clean)[0]

    @property
    def called(self) -> str:
        """How a message names it; an image set that RobustBench does not have is named once."""
        base = f"{self.table.dataset}/{self.table.model}"
        if self.dataset is None:
            return base
        group = f"/{self.summary.group}" if self.summary.threat else ""
        seed = f"/seed {self.first.cell.seed}" if len(self.summary.cells.seeds) > 1 else ""
        return f"{base}/{self.summary.defense}{group}{seed}"

    @property
    def n(self) -> int:
        return self.table.n

    @property
    def protocol(self) -> str:
        return self.board.protocols[self.first.key]

    @property
    def is_current(self) -> bool:
        return self.protocol == str(EVALUATION_VERSION)

    @cached_property
    def row(self) -> str:
        """What makes two cards of one row: everything but the seed of its training."""
        step = self.first.cell.step
        threat = self.summary.threat
        parts = (
            self.table.dataset,
            self.model.model_dump_json(exclude=EXCLUDE_SEED),
            step.model_dump_json() if step else "",
            threat.model_dump_json() if threat else "",
        )
        return " ".join(parts)

    @property
    def identity(self) -> str:
        """What makes two evaluations of one network, in tables of other images or an older protocol."""
        return f"{self.row} {self.model.model_dump_json()}"

    @cached_property
    def dataset(self) -> str | None:
        return dataset_of(self.first.cell.data)

    @cached_property
    def seen(self) -> list[CellResult]:
        """The cells whose attacker knew the entire defense."""
        return [r for r in self.attacked if r.cell.access in RANKED]

    @cached_property
    def done(self) -> list[CellResult]:
        """The cells whose outcomes are known, whatever the attacker saw."""
        return [r for r in self.attacked if r.robust_outcomes is not None]

    @cached_property
    def survivors(self) -> Outcomes:
        """Which images are right clean and under every attack."""
        return right_in_all(outcomes for r in self.attacked if (outcomes := r.robust_outcomes) is not None)

    @cached_property
    def refusal(self) -> str:
        """Why there is no card; empty where there is one."""
        threat = self.summary.threat
        if self.dataset is None:
            return "RobustBench has cifar10 and cifar100 (32x32 pixels) and imagenet"
        if threat is None:
            return "measured clean only"
        if (self.dataset, threat.norm) not in BUDGETS or threat.eps is None:
            return f"RobustBench has no leaderboard of {self.dataset} for it"
        if not self.seen:
            return "no attacker knew the entire defense (white-box or adaptive access)"
        if self.external is None and self.autoattack[0] is None:
            lost = all(r.status == "failed" for r in self.seen)
            return "its attacks failed" if lost else "which images were right was not kept"
        return ""

    @cached_property
    def autoattack(self) -> tuple[float | None, str]:
        """The robust accuracy under standard AutoAttack, or why there is none."""
        runs = [r for r in self.seen if r.cell.attack and r.cell.attack.attack.name == _AUTOATTACK]
        if not runs:
            return None, "AutoAttack was not run" + (" by an adaptive attacker" if self.first.cell.step else "")
        reasons = [_shortfall(r, IMAGES[self.dataset or ""]) for r in runs]
        shares = [r.metrics.robust_accuracy for r, why in zip(runs, reasons, strict=True) if r.metrics and not why]
        return (min(shares), "") if shares else (None, reasons[0])

    @cached_property
    def external(self) -> float | None:
        """The share that survives all attacks together, where AutoAttack alone leaves more, or did not run.

        Images that a weaker attacker made count too: a robust accuracy is the lowest that is known. Alone they do not.
        """
        if all(r.robust_outcomes is None for r in self.seen):
            return None
        alone, share = self.autoattack[0], self.survivors.share
        return share if alone is None or float(_percent(share)) < float(_percent(alone)) else None

    @property
    def clean_accuracy(self) -> float:
        """Of a random defense the mean over its seeds."""
        measured = [r.metrics for r in self.clean if r.metrics] or [r.metrics for r in self.attacked if r.metrics]
        return fmean(metrics.clean_accuracy for metrics in measured)

    @cached_property
    def flags(self) -> list[str]:
        """Flags that say that the robust accuracy is an upper bound only; of zero there is none."""
        measured = [(r.metrics.robust_accuracy, r.flags) for r in self.seen if r.metrics]
        if not (self.survivors.count if self.done else min(share for share, _ in measured)):
            return []
        raised = _UNRELIABLE.intersection(chain.from_iterable(flags for _, flags in measured))
        return sorted(raised.union(unsound(measured)))

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the card, in RobustBench's order."""
        alone = self.autoattack[0]
        passes = next((r.defense_cost.test_forwards for r in (*self.clean, *self.attacked) if r.defense_cost), None)
        fields = {
            "link": "",
            "name": "",
            "authors": "",
            "additional_data": None,
            "number_forward_passes": None if passes is None else math.ceil(passes),
            "dataset": self.dataset,
            "venue": "",
            "architecture": _as_html(self.table.model),
            "eps": _budget(self.summary),
            "clean_acc": _percent(self.clean_accuracy),
            "reported": "",
        }
        if alone is not None:
            fields["autoattack_acc"] = _percent(alone)
        if self.external is not None:
            fields["external"] = _percent(self.external)
        fields["footnote"] = " ".join(self._footnotes())
        if self.flags or alone is not None:
            fields["unreliable"] = bool(self.flags)
        return fields

    def _footnotes(self) -> Iterator[str]:
        threat, why = self.summary.threat, self.autoattack[1]
        assert threat is not None and self.dataset is not None
        called = f"{_as_html(self.summary.defense)} on {_as_html(self.table.model)}"
        yield f"Measured with Crossfire: {called}, {_images(self.first.cell.data, self.dataset)}."
        if threat.eps != BUDGETS[self.dataset, threat.norm]:
            theirs = budget(BUDGETS[self.dataset, threat.norm])
            yield f"Evaluated at eps = {_budget(self.summary)} instead of {theirs}."
        if why:
            yield f"No AutoAttack accuracy: {why}."
        if self.external is not None:
            yield f"{_percent(self.external)}% robust accuracy is the worst case over {self._suite()}."
        yield from self._missing()
        if self.flags:
            yield f"The robust accuracy is an upper bound only; flags: {_as_html(', '.join(self.flags))}."
        if any("randomised" in r.flags for r in self.attacked):
            yield "The defense is random: an image is right if most of its answers are."
        backwards = next((r.defense_cost.test_backwards for r in self.done if r.defense_cost), 0)
        if backwards:
            yield f"It takes {backwards:g} backward passes for an image."
        if not self.is_current:
            yield f"That was Crossfire's protocol {_as_html(self.protocol)}; the newest is {EVALUATION_VERSION}."

    def _suite(self) -> str:
        evaluated = {self.board.labels[r.key][1] for r in self.done}
        labels = [label for label in self.summary.labels.values() if label in evaluated]
        shown = listed(map(_as_html, labels), _MOST_LABELS)
        seen_by = {r.cell.access for r in self.done}
        accesses = ", ".join(text.access_words(access) for access in ACCESSES if access in seen_by)
        runs = max(Counter((r.cell.access, self.board.labels[r.key][1]) for r in self.done).values())
        repeated = f", of up to {runs} runs each" if runs > 1 else ""
        return f"{shown} ({accesses} access{repeated})"

    def _missing(self) -> Iterator[str]:
        failed = sum(r.status == "failed" for r in self.attacked)
        lost = len(self.attacked) - failed - len(self.done)
        if failed:
            yield f"{failed} of {len(self.attacked)} attacks failed and do not count."
        if lost:
            yield f"{lost} of {len(self.attacked)} attacks do not count there, as their outcomes were not kept."
        if self.table.incomplete:
            yield f"Its table is {self.table.incomplete}."


def dataset_of(data: DataRef) -> str | None:
    """Return what RobustBench calls an image set, or ``None`` where it is none of theirs, or at another size.

    Crossfire's own ``cifar10`` and ``cifar100`` are theirs at 32x32 pixels. ImageNet lies in a folder of the user's: a
    set of a thousand classes whose path names it.
    """
    if data.name in ("cifar10", "cifar100"):
        return data.name if data.image_shape == (3, 32, 32) else None
    return "imagenet" if is_imagenet(data) else None


def budget(eps: Fraction) -> str:
    """Return a budget as their cards write it: ``8/255``, ``0.5`` and ``0.031``; what is no decimal as a fraction."""
    text = eps_text(eps)
    if text.endswith("/255"):
        return text
    decimal = f"{float(eps):.12f}".rstrip("0").rstrip(".")
    return decimal if Fraction(decimal) == eps else text


def _budget(summary: ThreatSummary) -> str:
    assert summary.threat is not None and summary.threat.eps is not None
    return budget(summary.threat.eps)


def _images(data: DataRef, dataset: str) -> str:
    if dataset != "imagenet" and data.n == IMAGES[dataset]:
        return f"all {data.n:,} test images"
    return f"{'the first' if data.subset == 'first' else 'a stratified sample of'} {data.n:,} test images"


def _shortfall(result: CellResult, images: int) -> str:
    """Return what a run of AutoAttack lacks to be the standard one; empty if nothing."""
    attack = result.cell.attack
    assert attack is not None
    if result.status == "failed":
        return "AutoAttack failed"
    params = attack.attack.params
    version = params.get("version") or ("rand" if "randomised" in result.flags else "standard")
    if version != "standard":
        return f"AutoAttack was run in its version {_as_html(str(version))}"
    other = [name for name, length in _STANDARD.items() if params.get(name) != length]
    if other:
        told = ", ".join(f"{name} {_as_html(str(params.get(name)))} instead of {_STANDARD[name]:,}" for name in other)
        return f"AutoAttack was run with {told}"
    if RAN_OUT in result.flags:
        return "AutoAttack ran out of passes (max_passes)"
    if attack.after:
        return "AutoAttack was run only on images that earlier attacks had left (worst-case mode)"
    if result.cell.data.n < images:
        return f"AutoAttack was run on {result.cell.data.n:,} images, and RobustBench asks for {images:,}"
    return ""


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _as_html(text: str) -> str:
    return html.escape(visible(shortened(text, _LONGEST_TEXT)))


def _paths(evaluations: Sequence[_Evaluation]) -> list[str]:
    """Return a path for each card, no two of them the same where case does not count."""
    rows = Counter(each.row for each in evaluations)
    stems = [_stem(each, is_alone=rows[each.row] == 1) for each in evaluations]
    taken = Counter(stem.lower() for stem in stems)
    return [
        # A name that ends as those that are told apart do gets another such end.
        f"{stem}_{sha256_hex(each.identity)[:12]}.json"
        if taken[stem.lower()] > 1 or re.search("_[0-9a-f]{12}$", stem)
        else f"{stem}.json"
        for stem, each in zip(stems, evaluations, strict=True)
    ]


def _stem(evaluation: _Evaluation, *, is_alone: bool) -> str:
    threat = evaluation.summary.threat
    assert threat is not None and evaluation.dataset is not None
    plain = f"{_plain(evaluation.summary.defense) or 'defense'}_{_plain(evaluation.table.model) or 'network'}"
    if not is_alone and isinstance(evaluation.model.weights, TrainRef):
        plain += f"_seed{evaluation.model.weights.seed}"
    if threat.eps != BUDGETS[evaluation.dataset, threat.norm]:
        plain += f"_eps_{re.sub('[^0-9]', '_', _budget(evaluation.summary))[:_LONGEST_BUDGET]}"
    return f"{evaluation.dataset}/{_THREATS[threat.norm]}/{plain}"


def _plain(name: str) -> str:
    """Return a name in letters that every file system takes, without a dot at its ends."""
    return re.sub(r"[^A-Za-z0-9@.+-]+", "_", name).strip("._-")[:_LONGEST_NAME].rstrip("._-")
