"""What each flag of a cell means, in the few words that fit a legend; ``docs/reading-the-tables.md`` says more."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from bench.types import CellResult, Measured

Result = TypeVar("Result", bound=Measured)

#: Flags of results by strangers of which little is known: they are shown with these marks, and are not ranked.
NOT_REPEATED = "not-repeated"
NOT_PLAUSIBLE = "not-plausible"
IMAGES_NOT_COMPARED = "images-not-compared"
NOT_ALL_SEEDS = "not-all-seeds"
UNKNOWN_ATTACK = "unknown-attack"
BUDGET_NOT_CHECKED = "budget-not-checked"
#: Of a measurement by others than those whose row it is.
BY_OTHERS = "by-others"
#: Of an attack that has none: its distances count, and how many images it broke is not ranked.
NO_BUDGET = "no-budget"
#: Of an attack that changed nothing.
NO_OP = "no-op"
UNPROVEN = frozenset(
    {NOT_REPEATED, NOT_PLAUSIBLE, IMAGES_NOT_COMPARED, NOT_ALL_SEEDS, UNKNOWN_ATTACK, BUDGET_NOT_CHECKED, BY_OTHERS}
)
_UNRANKED = UNPROVEN | {NO_BUDGET}
#: Of a result that somebody else measured otherwise, and of one with other outcomes on clean images.
DIFFERS = "measured-differently"
CLEAN_DIFFERS = "clean-measured-differently"
#: What tables of many people say of a result, and no run does.
OF_TABLES = _UNRANKED | {DIFFERS, CLEAN_DIFFERS}

MEANINGS: Mapping[str, str] = {
    "autoattack-dynamic": "AutoAttack warns that the defense computes gradients or changes when it predicts",
    "autoattack-own-square": "Square of Crossfire searched: that of AutoAttack's package cannot run at this image size",
    "autoattack-probabilities": "AutoAttack warns that the defense returns probabilities, which flatten its losses",
    "autoattack-randomised": "AutoAttack warns that the defense draws random numbers",
    "autoattack-reduced": "with fewer steps, targets or queries than its authors': weaker than that of papers",
    "autoattack-square-beats-gradient": "AutoAttack warns that Square broke images that its gradient attacks did not",
    "autoattack-zero-gradient": "AutoAttack warns that gradients are zero",
    "batch-dependent": "answers depend on the other images of the batch",
    "black-box-beats-gradient": "attacks without gradients broke images that gradient attacks did not",
    "budget-not-checked": "nobody saw whether its images keep to it, or are of the corruption that is named",
    "by-others": "measured by others than those whose row it is: what it broke counts in the worst case alone",
    "catastrophic-overfitting": "training left a network that resists FGSM only",
    "classes-capped": "fewer classes than the attack is to aim at",
    "clean-measured-differently": "another submission, of which as much is known, has other clean outcomes",
    "earlier-attack-failed": "an attack before it in its suite failed",
    "images-not-compared": "the set was not there: nobody saw whether the images are its own",
    "loss-not-rising": "the attack never lowered a margin",
    "masked-gradients": "gradients mislead on a tenth of the images or more, which got all of AutoAttack",
    "measured-differently": "another submission, of which as much is known, has other outcomes for it",
    "no-budget": "the attack keeps to no budget, so any image may be its answer; its distances count",
    "no-catastrophic-overfitting": "the step relies on a network that resists FGSM only, and did not get one",
    "no-op": "the attack changed none of the images that it was to break",
    "not-all-seeds": "it was not measured on all seeds of the row",
    "not-plausible": "the passes that are stated are not those of the attack with its settings",
    "not-repeated": "the word of those who measured: nobody else made the predictions again",
    "not-deterministic": "answers differ from call to call with the same draws",
    "probabilities": "the defense returns probabilities, which flatten the losses",
    "raised-without-passes": "the attack raised an error once images had no passes left: each keeps its best iterate",
    "ran-out-of-passes": "images stood when their passes ended (max_passes), before the attack had run whole on them",
    "randomised": "the defense draws random numbers: other draws differ within chance",
    "robust-overfitting": "in training, accuracy under attack fell on test images while it rose on training images",
    "steps-not-converged": "the longest run of an attack still broke more than a shorter one",
    "survives-any-eps": "accuracy stays above chance at a budget of half the pixel range or more",
    "survivors-only": "right under this attack and all before it in its suite; attacks that are also static ran apart",
    "targeted": "counts images whose target class was not reached, an upper bound of what is right",
    "transfer-beats-adaptive": "images made on another network broke more than the best adaptive attack",
    "unknown-attack": "the attack is none that is here: nobody can know what it does",
    "weaker-than-noise": "the attack did less harm than random noise",
    "zero-gradient": "many images have no gradient",
}

#: Those that are about the answers of a defense, to clean images as well as to attacked ones.
OF_ANSWERS = frozenset(
    {
        "batch-dependent",
        "catastrophic-overfitting",
        "clean-measured-differently",
        "images-not-compared",
        "no-catastrophic-overfitting",
        "not-deterministic",
        "not-repeated",
        "probabilities",
        "randomised",
        "robust-overfitting",
    }
)


#: Those that are about how an attack was run, and not about the function that it attacks.
OF_RUNS = frozenset(
    {
        "autoattack-own-square",
        "autoattack-reduced",
        "classes-capped",
        "earlier-attack-failed",
        "raised-without-passes",
        "ran-out-of-passes",
        "survivors-only",
        "targeted",
    }
)

#: A flag that counts images.
_OF_TARGET_CLASS = re.compile("([1-9][0-9]{0,8})-of-target-class")
#: Of a cell that could not be measured, which tables say in a word of their own.
_FAILED = "failed"


def unknown(result: CellResult) -> tuple[str, ...]:
    """Return those flags of a result that no run of this version gives it: an attack of one's own may raise any."""
    return tuple(flag for flag in result.flags if not _is_known(flag, result.cell.data.n))


def _is_known(flag: str, n: int) -> bool:
    counted = _OF_TARGET_CLASS.fullmatch(flag)
    return flag in MEANINGS or flag == _FAILED or (counted is not None and int(counted[1]) <= n)


def in_seeds(results: Sequence[CellResult], flags: Iterable[str] | None = None) -> list[str]:
    """Return the flags of a mean over seeds as notes: one that only some seeds have says how many.

    Args:
        results: of the seeds, also several of one.
        flags: that are asked for; all that the results have unless given.
    """
    seeds: dict[int, set[str]] = defaultdict(set)
    for result in results:
        if result.status == "done":
            seeds[result.cell.seed].update(result.flags)
    failed = chain.from_iterable(result.flags for result in results if result.status != "done")
    asked = {*chain.from_iterable(seeds.values()), *failed} if flags is None else flags
    notes: list[str] = []
    for flag in sorted(asked):
        count = sum(flag in own for own in seeds.values())
        notes.append(f"{flag} in {count:,} of {len(seeds):,} seeds" if 0 < count < len(seeds) else flag)
    return notes


def of_run(flag: str) -> bool:
    """Say whether a flag is about how an attack was run, and not about the function that it attacks."""
    return flag in OF_RUNS or _OF_TARGET_CLASS.fullmatch(flag) is not None


def unproven(notes: Iterable[str]) -> tuple[str, ...]:
    """Return the marks among some notes or flags that say that little is known of a result: it has no rank."""
    return tuple(sorted(_UNRANKED.intersection(map(_flag_of, notes))))


def _flag_of(note: str) -> str:
    """Return the flag in a note on a mean over seeds."""
    return note.partition(" in ")[0] if note.endswith(" seeds") else note


def is_proven(measured: Measured) -> bool:
    """Say whether nothing marks a result as one by a stranger of which little is known; so of every cell of a store."""
    return UNPROVEN.isdisjoint(getattr(measured, "flags", ()))


def is_by_others(measured: Measured) -> bool:
    """Say whether nothing but who measured it keeps a result from counting."""
    return UNPROVEN.intersection(getattr(measured, "flags", ())) == {BY_OTHERS}


def that_count(measured: Iterable[Result]) -> Sequence[Result]:
    """Return the results that numbers over several are made of: where something is proven, that alone, else all."""
    measured = list(measured)
    return [each for each in measured if is_proven(each)] or measured


def explained(note: str) -> str:
    """Return a note on a number, with the meaning in brackets if it is a flag."""
    flag = _flag_of(note)
    if _OF_TARGET_CLASS.fullmatch(flag):
        return f"{note} (images that are of that class cannot be attacked and count as unbroken)"
    return f"{note} ({MEANINGS[flag]})" if flag in MEANINGS else note
