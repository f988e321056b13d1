"""Which commit is measured next: over histories of numbers, of which the answer is known."""

from math import log2

import pytest

from bench.schedule.candidates import Candidates


class Line:
    """A history in a line: commits are numbers."""

    def between(self, old, new):
        return [str(each) for each in range(int(old) + 1, int(new) + 1)]

    def halving(self, goods, bad):
        first, last = max(map(int, goods)), int(bad)
        by_share = sorted(range(first + 1, last + 1), key=lambda each: abs(each - (first + last) / 2))
        return [str(each) for each in by_share]


def search(culprit, broken, total=1000, why=lambda _: "no module m"):
    """Return the last commit before the change, the first after it, and how many were measured."""
    candidates, goods, bad, measured = Candidates(Line()), ["0"], str(total), 0
    while (commit := candidates.next(goods, bad)) is not None:
        measured += 1
        assert measured <= total and commit not in candidates.why
        if int(commit) in broken:
            candidates.why[commit] = why(commit)
        elif int(commit) < culprit:
            goods.append(commit)
        else:
            bad = commit
    return int(goods[-1]), int(bad), measured


@pytest.mark.parametrize("length", [0, 1, 7, 100, 600])
@pytest.mark.parametrize("culprit", [1, 199, 200, 300, 500, 801, 1000])
def test_a_broken_stretch_costs_about_two_halvings(length, culprit):
    broken = range(200, 200 + length)
    good, bad, measured = search(culprit, broken)
    # Of the commits that can be measured, the nearest on either side of the change.
    assert good == max(each for each in range(culprit) if each not in broken)
    assert bad == min(each for each in range(culprit, 1001) if each not in broken)
    assert measured <= 2 * log2(1000) + 2


def test_numbers_and_hashes_in_a_reason_do_not_make_it_another():
    _, _, measured = search(300, range(200, 800), why=lambda each: f"line {each} of 06c551b9d{int(each) % 10} fails")
    assert measured <= 2 * log2(1000) + 2


def test_commits_that_fail_each_in_a_way_of_its_own_are_all_tried():
    good, bad, measured = search(25, range(10, 40), 50, why=lambda each: "x" * int(each))
    assert (good, bad) == (9, 40) and measured >= 30


def test_a_commit_that_works_between_two_that_fail_alike_is_found():
    good, bad, _ = search(52, {30, 50, 55, 70}, 100)
    assert (good, bad) == (51, 52)
