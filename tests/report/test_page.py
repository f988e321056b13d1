"""The page in a real browser, where there is one."""

import os
import shutil

import pytest

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


def test_columns_sort_from_the_best_and_back(page):
    head = page.locator("section[data-dataset=digits] .heads button", has_text="clean").first
    head.click()
    assert rows(page)[0][0] == "fgsm-at"
    head.click()
    assert rows(page)[0][0] == "pgd-at"
    page.locator("section[data-dataset=digits] .heads button", has_text="defense").click()
    assert [name for name, _ in rows(page)] == sorted(name for name, _ in rows(page))


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


def test_columns_can_be_put_away(page):
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_sideways_scrolling(browser, address, scheme):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".num").first.click()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.close()


def test_text_stands_out_in_both_themes(browser, address):
    """WCAG 2.1 AA: at least 4.5 to 1 between text and what lies behind it."""
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        page.goto(address)
        assert page.evaluate(CONTRAST) == [], scheme
        page.close()
