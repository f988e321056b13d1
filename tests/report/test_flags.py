"""Every flag that the code raises has its meaning in the legend, and no meaning is of a flag that nothing raises."""

import re
from pathlib import Path

from bench.report.leaderboard.flags import MEANINGS, OF_ANSWERS, OF_RUNS
from bench.report.leaderboard.soundness import FAILING, MISLEADING

ROOT = Path(__file__).parents[2]
PAGES = ("adaptive.md", "attacks.md", "reading-the-tables.md")

#: How the code raises a flag or a note: added to a set, appended to a list, yielded with its cell, or as a constant.
RAISED = re.compile(
    r'(?:flags\.add|flags \| \{|notes\.append)\(?"([a-z-]+)"|result\.key, "([a-z-]+)"|": "(autoattack-[a-z-]+)"|'
    r"(?:SURVIVORS_ONLY|TARGETED|DIFFERS|CLEAN_DIFFERS|NOT_REPEATED|NOT_PLAUSIBLE|NOT_ALL_SEEDS|IMAGES_NOT_COMPARED|"
    r"UNKNOWN_ATTACK|BUDGET_NOT_CHECKED|NO_BUDGET|BY_OTHERS|OWN_SQUARE)"
    r' = "([a-z-]+)"'
)


def test_each_flag_that_is_raised_is_explained_and_no_other():
    files = [path for folder in ("bench", "attacks", "defenses") for path in (ROOT / folder).rglob("*.py")]
    found = RAISED.findall("\n".join(path.read_text(encoding="utf-8") for path in files))
    raised = {"".join(groups) for groups in found}
    # These are put together, from what training found and from what a step relies on.
    built = {"catastrophic-overfitting", "robust-overfitting", "no-catastrophic-overfitting"}
    assert len(raised) > 15
    assert raised | built | MISLEADING | FAILING == set(MEANINGS)


def test_meanings_are_short_and_the_documentation_knows_their_flags():
    assert max(map(len, MEANINGS.values())) <= 100
    texts = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in PAGES]
    # A row of the documentation may name several endings of AutoAttack's flags.
    pages = "".join(texts).replace("`-", "`autoattack-")
    assert [flag for flag in MEANINGS if flag not in pages] == []


def test_flags_of_how_an_attack_was_run_say_nothing_of_the_function_that_it_attacks():
    assert set(MEANINGS) >= OF_RUNS and OF_RUNS.isdisjoint(MISLEADING | OF_ANSWERS)
