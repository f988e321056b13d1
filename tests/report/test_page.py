"""The page in a real browser, where there is one."""

import os
import shutil
from itertools import product

import pytest

from bench.report.leaderboard.tables import build
from bench.report.leaderboard.view import View, shown
from bench.report.render.html import write_report
from tests.report.fabricate import outcomes, result, story

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


CONTRAST = """() => {
  const parse = (text) => { const c = document.createElement("canvas").getContext("2d", {willReadFrequently: true}); c.fillStyle = text; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll(".board .num, .board th, .board .access, .heat td, .heat th, .facts, .subtitle, .legend, .index a, summary, .note, footer, figcaption")]
    .filter((node) => node.textContent.trim() && node.checkVisibility())
    .map((node) => { const a = light(parse(getComputedStyle(node).color)), b = light(behind(node)); return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.className + " " + node.textContent.trim().slice(0, 20)]; })
    .filter(([ratio]) => ratio < 4.5);
}"""  # noqa: E501


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    clean = [True] * 500
    more = [
        result("<b>bold</b>", "cw", norm="l2", eps=None, dataset="cifar10", network="resnet18", clean=clean),
        result("standard", "apgd-ce", clean=clean, status="failed"),
        result("pgd-at", "pgd", recipe="pgd-at", eps="4/255", clean=clean, adversarial=outcomes(0.9, 500)),
    ]
    return write_report([*story(), *more], tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong, requested = [], []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: requested.append(request.url))
    opened.goto(address)
    yield opened
    assert wrong == []
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    opened.close()


def rows(page, dataset="digits"):
    return page.locator(f"section[data-dataset={dataset}] .board tbody tr:visible").evaluate_all(
        "rows => rows.map(row => [row.dataset.defense, row.dataset.access])"
    )


def heads(page):
    return [h.split()[0] for h in page.locator("section[data-dataset=digits] .heads th:visible").all_inner_texts()]


SORT = """table => [...table.querySelectorAll(".heads button")].flatMap((button) => [0, 1].map(() => {
  button.click();
  const { label, group } = button.parentNode.dataset;
  return [label ?? "defense", group ?? "", [...table.tBodies[0].rows].map((row) => [row.dataset.defense, row.dataset.access])];
}))"""  # noqa: E501


@pytest.mark.parametrize(
    ("results", "images"), [(story, 500), (lambda: like_the_quick_preset(), 400)], ids=["story", "quick"]
)
def test_a_click_sorts_as_the_command_line_does_from_the_best_and_back(browser, tmp_path, results, images):
    page = browser.new_page()
    cells = [*results(), result("fgsm-at", "pgd", clean=[True] * images, status="failed", norm="l1", eps="9")]
    page.goto(write_report(cells, tmp_path).as_uri())
    orders = page.locator(".board").first.evaluate(SORT)
    assert len(orders) >= 16
    board = build(cells)
    for index, (label, group, order) in enumerate(orders):
        column = label if group in ("", "cost") else f"{label} {group}"
        table = shown(board, View(sort="-" * (index % 2) + column)).tables[0]
        assert order == [[row.defense, row.access] for row in table.rows], (column, index % 2)
    page.close()


def test_what_is_sorted_by_is_seen_among_the_rows_that_are_left(page):
    page.locator("section[data-dataset=digits] .heads button", has_text="pgd").first.click()
    assert rows(page)[-1] == ["standard", "white-box"]
    page.select_option("#access", "static")
    assert rows(page) == [["tpap", "static"], ["jpeg", "static"]]


def test_filters_choose_rows_columns_and_tables(page):
    page.select_option("#access", "adaptive")
    assert rows(page) == [["tpap", "adaptive"], ["jpeg", "adaptive"]]
    assert rows(page, "cifar10") == []
    page.select_option("#access", "")
    page.select_option("#threat", "L∞ ε=4/255")
    assert "fgsm" not in heads(page)
    assert "pgd" in heads(page)
    page.select_option("#threat", "")
    page.select_option("#dataset", "cifar10")
    assert rows(page) == []
    assert rows(page, "cifar10") == [["<b>bold</b>", "white-box"]]
    page.click("#reset")
    assert len(rows(page)) == 7


def test_search_finds_defenses_and_attacks(page):
    page.fill("#search", "tpap")
    assert {name for name, _ in rows(page)} == {"tpap"}
    page.fill("#search", "fgsm")
    assert {name for name, _ in rows(page)} == {"fgsm-at"}
    page.fill("#search", "apgd")
    assert "apgd-ce" in heads(page)
    assert "fgsm" not in heads(page)
    page.fill("#search", "nothing of the kind")
    assert page.locator("#nothing").is_visible()


def test_words_of_a_search_may_be_of_defenses_and_of_attacks(page):
    page.fill("#search", "JPEG  fgsm")
    assert "fgsm" in heads(page) and "pgd" not in heads(page)
    assert {name for name, _ in rows(page)} == {"jpeg"}
    solid = page.locator("section[data-dataset=digits] .mark.solid:not(.away)")
    assert solid.evaluate_all("marks => marks.map(mark => mark.dataset.defense)") == ["jpeg"]
    page.fill("#search", "tpap jpeg")
    assert [name for name, _ in rows(page)] == ["tpap", "tpap", "jpeg", "jpeg"]
    page.fill("#search", "tpap otherwise")
    assert page.locator("#nothing").is_visible()


def test_columns_can_be_put_away(page):
    page.click(".menu summary")
    page.keyboard.press("Escape")
    assert not page.locator(".menu div").is_visible()
    page.click(".menu summary")
    page.uncheck(".menu input[value='training s/epoch']")
    assert "training" in heads(page)
    page.uncheck(".menu input[value='training TFLOP/epoch']")
    assert "training" not in heads(page)


def test_every_number_opens_to_its_cell(page):
    page.locator("tr[data-defense=tpap][data-access=adaptive] .num", has_text="2.6").first.click()
    shown = page.locator("dialog").inner_text()
    for words in (
        "tpap · pgd",
        "adaptive · L∞ ε=8/255 · digits · small-cnn · seed 0",
        "95 % interval",
        "13 of 500 images",
    ):
        assert words in shown
    for words in ("any-iterate", "2.15.0", "cpu: Xeon", "a" * 40):
        assert words in shown
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    for key in ("Enter", "Space"):
        page.locator("tr[data-defense=standard] .num", has_text="98.6").focus()
        page.keyboard.press(key)
        assert "standard · " in page.locator("dialog").inner_text()
        page.keyboard.press("Escape")
    page.locator(".num.failed").first.click()
    assert "pgd returned NaN for 3 of 8 images" in page.locator("dialog").inner_text()


def test_names_stay_text(page):
    assert page.locator("section b", has_text="bold").count() == 0


def test_the_theme_can_be_chosen(page):
    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = ground()
    page.click("#theme")
    assert ground() != light
    page.emulate_media(color_scheme="dark")
    page.click("#theme")
    assert ground() == light


def test_a_long_name_of_an_attack_takes_several_lines_and_not_the_screen(browser, tmp_path):
    names = [f"ti-dim[diversity=0.{i},kernel=1,step_size=3/1000]" for i in range(4)]
    cells = [
        result(attack="ti-dim", attack_params={"i": str(i)}, label=name, clean=[True] * 9)
        for i, name in enumerate(names)
    ]
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(write_report(cells, tmp_path / "long").as_uri())
    heads = page.locator(".board .heads th", has_text="ti-dim")
    assert heads.all_text_contents() == names
    assert sum(heads.nth(i).bounding_box()["width"] for i in range(4)) < 700
    page.close()


def test_a_phone_shows_it_without_sideways_scrolling_and_the_access_below_the_name(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".scroll").first.evaluate("scroll => scroll.scrollLeft = 300")
    names = [name.split() for name in page.locator("section[data-dataset=digits] .board tbody .pin").all_inner_texts()]
    assert ["tpap", "gray-box", "(static)"] in names and ["tpap", "adaptive"] in names
    page.locator(".num").first.click()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.close()


def test_text_stands_out_in_both_themes(browser, address):
    """WCAG 2.1 AA: at least 4.5 to 1 between text and what lies behind it."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(CONTRAST) == [], scheme
    page.close()


FLAGS_OF_CELLS = ("autoattack-dynamic", "autoattack-reduced", "catastrophic-overfitting")


def like_the_quick_preset():
    """Results with the names, threats, accesses and flags of the quick preset, whose table has 25 columns."""
    attacks = [
        *product(("fgsm", "autoattack", "ti-dim", "pgd"), [("linf", "1/4")]),
        *product(("ddn", "cw"), [("l2", "3/2")]),
    ]
    attacks += [("fwa", ("wasserstein", "1/10")), ("sta", ("flow", None))]
    steps = {"tpap": "fgsm-at", "jpeg": "standard", "bit-depth": "standard", "median": "standard"}
    clean = outcomes(0.985, 400)
    for index, defense in enumerate(("pgd-at", "fgsm-at", "fgsm-rs", "standard", *steps)):
        step = defense if defense in steps else None
        for (attack, (norm, eps)), access in product(attacks, ("static", "adaptive") if step else (None,)):
            share = {"static": 0.95, "adaptive": 0.3, None: 0.45}[access]
            yield result(
                defense,
                attack,
                clean=clean,
                adversarial=outcomes(share - 0.01 * index, 400, index),
                access=access,
                recipe=steps.get(defense, defense),
                step=step,
                norm=norm,
                eps=eps,
                flags=FLAGS_OF_CELLS[: len(attack) // 3 - index % 2],
            )


@pytest.fixture(scope="module")
def quick(browser, tmp_path_factory):
    path = write_report(like_the_quick_preset(), tmp_path_factory.mktemp("quick"))
    # As wide as a window of 1400 pixels is beside a scroll bar.
    opened = browser.new_page(viewport={"width": 1385, "height": 900})
    opened.goto(path.as_uri())
    yield opened
    opened.close()


def test_every_column_of_the_quick_preset_is_in_view_at_1400_pixels(quick):
    quick.locator("section .card.fits").first.wait_for()
    heads = quick.locator("section").first.locator(".board .heads th")
    assert heads.count() == 25
    ends = [(box["x"], box["x"] + box["width"]) for box in (heads.nth(i).bounding_box() for i in range(25))]
    assert ends[0][0] >= 0 and ends[-1][1] <= 1385
    sizes = quick.locator(".board tbody td").evaluate_all(
        "cells => cells.map(cell => parseFloat(getComputedStyle(cell).fontSize))"
    )
    assert min(sizes) >= 11.5, "and readable"
    assert not quick.locator("td[data-kind=gap] small").first.is_visible()
    assert quick.locator("section > .legend").get_by_text("hover or click for its interval").is_visible()


def test_digits_of_a_column_are_below_one_another_whatever_marks_they_have(quick):
    ends = quick.locator(".board tbody [data-label=autoattack] .num").evaluate_all(
        """cells => cells.map(cell => {
          const range = document.createRange(), text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
          range.selectNodeContents(text);
          return [Math.round(range.getBoundingClientRect().right), cell.querySelector("sup")?.textContent ?? ""];
        })"""
    )
    assert len({end for end, _ in ends}) == 1
    assert len({marks for _, marks in ends}) > 1


def test_a_verdict_is_a_word_whose_sentence_opens(quick):
    verdict = quick.locator("tr[data-defense=jpeg][data-access=adaptive] [data-kind=verdict] .num").first
    sentence = verdict.get_attribute("title")
    assert verdict.inner_text() == "weaker"
    assert sentence.startswith("weaker than its base (L∞ ε=1/4: ") and "points over standard" in sentence
    assert not quick.get_by_text(f"jpeg: {sentence[:40]}").first.is_visible(), "lines above the table are folded"
    verdict.click()
    assert quick.locator("dialog .conclusion").inner_text() == f"jpeg: {sentence}"
    quick.keyboard.press("Escape")
    quick.get_by_text("verdicts in full").click()
    assert quick.get_by_text(f"jpeg: {sentence[:40]}").first.is_visible()
    quick.get_by_text("verdicts in full").click()


def test_columns_without_anything_in_the_rows_that_are_left_fold_away(quick):
    def kinds():
        heads = quick.locator("section").first.locator(".board .heads [data-kind]:visible")
        return set(heads.evaluate_all("heads => heads.map(head => head.dataset.kind)"))

    assert {"gap", "verdict"} <= kinds()
    quick.select_option("#access", "white-box")
    assert kinds() == {"clean", "attack", "worst", "cost"}
    quick.select_option("#access", "")
    assert {"gap", "verdict"} <= kinds()


PRINTED = """() => ({
  right: Math.max(...[...document.querySelectorAll(".board tr > :last-child, .heat tr > :last-child, svg, .num, p")].filter((node) => node.checkVisibility()).map((node) => node.getBoundingClientRect().right)),
  top: document.querySelector(".board").getBoundingClientRect().top,
  ground: getComputedStyle(document.body).backgroundColor,
  hot: getComputedStyle(document.querySelector(".heat td.hot")).printColorAdjust,
  seen: [...document.querySelectorAll(".filters, #theme, details:not([open])")].filter((node) => node.checkVisibility()).length,
})"""  # noqa: E501


def test_a_printed_page_has_every_column_on_white_and_colours_of_the_heat_map(quick):
    # Two centimetres less than a landscape page of A4.
    quick.set_viewport_size({"width": 1046, "height": 718})
    quick.emulate_media(media="print", color_scheme="dark")
    quick.evaluate("dispatchEvent(new Event('beforeprint'))")
    printed = quick.evaluate(PRINTED)
    quick.evaluate("dispatchEvent(new Event('afterprint'))")
    quick.emulate_media(media="screen", color_scheme="light")
    quick.set_viewport_size({"width": 1385, "height": 900})
    assert 800 < printed["right"] <= 1046
    assert printed["top"] < 300, "the first page has the table"
    assert (printed["ground"], printed["hot"], printed["seen"]) == ("rgb(255, 255, 255)", "exact", 0)


def test_many_tables_can_be_reached_from_the_top(browser, tmp_path):
    tables = [result(clean=[True] * 9, dataset=f"images-{i}") for i in range(6)]
    page = browser.new_page(viewport={"width": 1280, "height": 400})
    page.goto(write_report(tables, tmp_path).as_uri())
    links = page.locator(".index a")
    assert links.all_inner_texts() == [f"images-{i} · small-cnn" for i in range(6)]
    links.nth(4).click()
    top = page.locator("section").nth(4).locator("h2").bounding_box()["y"]
    assert page.locator(".filters").bounding_box()["height"] <= top < 200, "below the bar"
    page.select_option("#dataset", "images-2")
    assert links.locator("visible=true").all_inner_texts() == ["images-2 · small-cnn"]
    page.close()


def test_zero_differs_from_what_was_not_measured_in_the_heat_map(browser, tmp_path):
    clean = [True] * 9
    cells = [
        result("a", "pgd", clean=clean, adversarial=[False] * 9, recipe="a"),
        result("b", "fgsm", clean=clean, recipe="b"),
    ]
    page = browser.new_page()
    page.goto(write_report(cells, tmp_path).as_uri())
    look = "cells => cells.map(cell => [cell.textContent.trim(), getComputedStyle(cell).backgroundColor])"
    grounds = dict(page.locator(".heat tbody td").evaluate_all(look))
    assert grounds["–"] == "rgba(0, 0, 0, 0)" and grounds["0.0"] != grounds["–"]
    page.close()
