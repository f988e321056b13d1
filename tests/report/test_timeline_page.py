"""The page of lines in a real browser: what the filters leave, where links lead, and which marks look alike."""

import pytest

from bench.report.timeline.page import render
from tests.report.fabricate import outcomes
from tests.report.test_compare import flipped
from tests.report.test_page import browser, playwright, pytestmark  # noqa: F401
from tests.report.test_timeline import N, at, committed, repository, timeline  # noqa: F401

HIGH = outcomes(0.6, N)
LOW = flipped(HIGH, 45, 5)
#: Two lines that change, and one that does not.
LINES = {("standard", "pgd"): 2, ("pgd-at", "fgsm"): 4, ("pgd-at", "pgd"): 9}


@pytest.fixture
def page(browser, tmp_path):  # noqa: F811
    results = []
    for (defense, attack), changed in LINES.items():
        about = {"defense": defense, "recipe": defense, "attack": attack}
        results += [at(i, HIGH if i < changed else LOW, **about) for i in range(6)]
    file = tmp_path / "page.html"
    file.write_text(render(timeline(results, tmp_path)))
    opened, wrong = browser.new_page(viewport={"width": 390, "height": 700}), []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(file.as_uri())
    yield opened
    assert wrong == []
    opened.close()


def listed(page):
    """The lines of the changes in the list that can be seen."""
    return [name.split("/")[2:4] for name in page.locator("#changes li a:visible").all_inner_texts()]


def cards(page):
    names = page.locator("figure:visible").evaluate_all(
        "all => all.map(each => [each.parentNode.parentNode.dataset.row, each.dataset.name])"
    )
    return sorted([row.split()[-1], name.split("/")[0]] for row, name in names)


@pytest.mark.parametrize(
    ("search", "left"),
    [
        ("", list(LINES)),
        ("fgsm", [("pgd-at", "fgsm")]),
        ("standard", [("standard", "pgd")]),
        ("pgd-at pgd/", [("pgd-at", "pgd")]),
        ("nothing of this name", []),
    ],
)
def test_the_list_of_changes_shows_those_of_the_lines_that_the_search_leaves(page, search, left):
    page.fill("#search", search)
    assert cards(page) == sorted(map(list, left))
    expected = [list(each) for each in left if LINES[each] < 6]
    assert sorted(listed(page)) == sorted(expected)
    assert page.locator("#changes").is_visible() == bool(expected)
    assert page.locator("#changes article:visible").count() == len(expected)
    assert page.locator("#nothing").is_visible() == (not left)
    # Every link that is left leads to a card that is in view afterwards.
    for link in page.locator("#changes li a:visible").all():
        link.click()
        assert page.locator("figure:target").is_visible()
        assert page.locator("figure:target").evaluate("each => each.getBoundingClientRect().top") < 700


def test_an_address_of_a_line_that_the_filters_hide_clears_them(page):
    to_fgsm = page.locator("#changes a", has_text="/fgsm/").get_attribute("href")
    page.fill("#search", "standard")
    page.check("#changed")
    assert cards(page) == [["standard", "pgd"]]
    page.evaluate("to => { location.hash = to; }", to_fgsm)
    page.wait_for_function("document.querySelector('figure:target')?.checkVisibility()")
    assert cards(page) == sorted(map(list, LINES))
    assert page.locator("#search").input_value() == ""
    assert not page.locator("#changed").is_checked()


def test_marks_of_a_step_of_drift_and_of_uncommitted_changes_all_look_different(browser, repository):  # noqa: F811
    names = [committed(repository, f"change {i}", i) for i in range(13)]
    step = [at(i, HIGH if i < 6 else LOW, commit=name) for i, name in enumerate(names)]
    step.append(at(13, flipped(LOW, 40, 0), commit=names[-1], dirty=True))
    bits = [HIGH]
    for seed in range(12):
        bits.append(flipped(bits[-1], 3, 0, seed=seed))
    drift = [at(i, each, commit=name, attack="fgsm") for i, (name, each) in enumerate(zip(names, bits, strict=True))]
    file = repository / "page.html"
    file.write_text(render(timeline([*step, *drift], repository)))
    opened = browser.new_page()
    opened.goto(file.as_uri())
    look = {}
    for kind in ("worse", "worse drift", "worse dirty"):
        mark = opened.locator(f'.plot .mark[class="mark {kind}"]').first
        look[kind] = mark.evaluate(
            "each => ['', '::before', '::after'].map(part => { const s = getComputedStyle(each, part);"
            " return [s.content, s.backgroundImage, s.backgroundColor, s.clipPath]; })"
        )
    opened.close()
    assert len({repr(each) for each in look.values()}) == 3
    # A ring of its own, around the sign of the change.
    assert "radial-gradient" in look["worse dirty"][0][1]
    assert "none" == look["worse"][0][1] == look["worse drift"][0][1]
    assert look["worse dirty"][1] == look["worse"][1]
