"""The page at every size in a real browser: nothing is cut, nothing lies on anything, and headings stay in view."""

import random

import pytest

from bench.report.render.html import write_report
from tests.report.fabricate import outcomes, result
from tests.report.test_page import CONTRAST, browser, playwright, pytestmark  # noqa: F401

IMAGES = 50
#: Rows, columns, letters of each name, data sets: every size of each, and the long names with each width of a table.
SIZES = {
    "one number": (1, 1, 5, 1),
    "one row of a hundred attacks": (1, 100, 120, 1),
    "six sets of long names": (8, 8, 120, 6),
    "eight rows of 24 attacks": (8, 24, 5, 1),
    "sixty rows": (60, 8, 5, 1),
    "four hundred rows": (400, 1, 120, 1),
}
WIDTHS = (390, 1400, 2200)

FAULTS = """() => {
  const faults = [], root = document.documentElement;
  const seen = (node) => node.checkVisibility();
  const text = (node) => { const range = document.createRange(); range.selectNodeContents(node); return range.getBoundingClientRect(); };
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const apart = (what, nodes, box) => {
    const boxes = nodes.filter((node) => seen(node) && node.textContent.trim()).map((node) => [box(node), node.textContent.trim().slice(0, 30)]).sort((a, b) => a[0].left - b[0].left);
    boxes.forEach(([a, one], i) => { for (let j = i + 1; j < boxes.length && boxes[j][0].left < a.right; j++) if (meet(a, boxes[j][0])) faults.push(`${what}: '${one}' lies on '${boxes[j][1]}'`); });
    return boxes.length;
  };
  const all = (query, place = document) => [...place.querySelectorAll(query)];
  if (root.scrollWidth > innerWidth) faults.push(`the page is ${root.scrollWidth} wide`);
  let counted = 0;
  for (const node of all("body *")) {
    if (!seen(node) || node.closest("svg, select, option")) continue;
    counted++;
    const { overflowX } = getComputedStyle(node);
    if (node.clientWidth && node.scrollWidth > node.clientWidth + 1 && !["auto", "scroll"].includes(overflowX)) faults.push(`${node.tagName}.${node.className} is cut: ${node.scrollWidth} in ${node.clientWidth}`);
    const box = node.getBoundingClientRect();
    if (box.width && !node.parentNode.closest(".scroll, .index") && (box.right > innerWidth + 1 || box.left < -1)) faults.push(`${node.tagName}.${node.className} ends at ${box.right}`);
  }
  for (const table of all("table")) {
    counted += apart("headings", all("thead th, thead td", table), text);
    for (const row of all("tbody tr", table).slice(0, 12)) apart("a row", [...row.cells], text);
    apart("names", all("tbody .pin", table).slice(0, 40), (node) => node.getBoundingClientRect());
    const shown = new Map();
    for (const row of all("tbody tr", table)) {
      const name = row.querySelector(".pin span").textContent.trim();
      if ((shown.get(name) ?? row.dataset.defense) !== row.dataset.defense) faults.push(`two defenses are '${name}'`);
      shown.set(name, row.dataset.defense);
    }
    const heads = new Map();
    for (const head of all(".heads [data-kind=attack]", table)) {
      const name = head.dataset.group + head.textContent.trim();
      if (heads.has(name)) faults.push(`two attacks are '${name}'`);
      heads.set(name, 1);
    }
  }
  for (const svg of all("svg")) {
    apart("a chart", all("text", svg), (node) => node.getBoundingClientRect());
    for (const label of all(".name", svg)) for (const mark of all("circle", svg)) if (meet(label.getBoundingClientRect(), mark.getBoundingClientRect())) faults.push(`'${label.textContent}' lies on a mark`);
    const names = all(".name", svg).map((node) => node.textContent);
    if (new Set(names).size < names.length) faults.push(`two labels are alike: ${names}`);
    if (names.some((name) => name.includes("…"))) faults.push(`a label is cut: ${names}`);
  }
  const links = all(".index a").map((node) => node.textContent);
  if (new Set(links).size < links.length) faults.push(`two links are alike: ${links}`);
  return [counted, [...new Set(faults)].slice(0, 8)];
}"""  # noqa: E501

#: Scrolls to the middle of the first table, and says whether its headings and its first column are still seen.
IN_VIEW = """async () => {
  const scroll = document.querySelector("section .scroll"), table = scroll.firstElementChild;
  const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  if (table.offsetHeight > innerHeight - 200) scroll.scrollIntoView();
  await frame();
  const inside = scroll.scrollHeight > scroll.clientHeight + 1 && getComputedStyle(scroll).overflowY !== "visible";
  const room = inside ? scroll.clientHeight : innerHeight;
  scroll.scrollTop = scroll.scrollHeight / 2;
  scroll.scrollLeft = scroll.scrollWidth / 2;
  if (!inside && table.offsetHeight > room) scrollBy(0, table.offsetHeight / 2);
  await frame();
  const hit = (node, dx) => { const box = node.getBoundingClientRect(); const found = document.elementFromPoint(box.left + dx, box.top + box.height / 2); return node.contains(found); };
  const heads = hit(table.querySelector(".heads .pin"), 12);
  const row = [...table.tBodies[0].rows].find((row) => row.getBoundingClientRect().top > table.tHead.getBoundingClientRect().bottom - 1);
  return { heads, names: hit(row.querySelector(".pin"), 12), tall: table.offsetHeight > room, wide: table.offsetWidth > scroll.clientWidth + 1 };
}"""  # noqa: E501


def cells(rows, columns, letters, sets):
    """Results of so many rows, columns and sets, with names that begin and end alike."""
    rng = random.Random(rows)
    long = letters > 20
    for dataset in range(sets):
        for row in range(rows):
            name = named("defense[steps=10,step_size=2/255,schedule=cosine,noise=0.25,seed=", row, letters, long)
            step = f"step-{row}" if row % 3 == 2 else None
            clean = outcomes(0.9, IMAGES, row)
            for column in range(columns):
                attack = named(
                    "attack[loss=margin,restarts=5,schedule=linear,momentum=0.75,steps=", column, letters, long
                )
                for access in ("static", "adaptive") if step else (None,):
                    yield result(
                        name,
                        attack,
                        clean=clean,
                        adversarial=outcomes(rng.random(), IMAGES, row * column),
                        recipe=f"recipe-{row}",
                        step=step,
                        access=access,
                        eps="8/255" if 3 * column <= 2 * columns else "4/255",
                        dataset=named("images-", dataset, letters, long),
                        attack_params={"index": column},
                        flags=("no-op",) if rng.random() < 0.1 else (),
                    )


def named(beginning, index, letters, long):
    """Return a name of so many letters, whose index is in the middle if it is long."""
    return f"{beginning}{index},{'x' * letters}"[:letters] if long else f"{beginning[0]}-{index}"


@pytest.fixture(scope="module", params=SIZES)
def opened(request, browser, tmp_path_factory):  # noqa: F811
    rows, columns, letters, sets = SIZES[request.param]
    path = write_report(cells(rows, columns, letters, sets), tmp_path_factory.mktemp("report"))
    page = browser.new_page()
    page.goto(path.as_uri())
    yield page
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_or_lies_on_anything_and_headings_stay_in_view(opened, width):
    opened.set_viewport_size({"width": width, "height": 900})
    opened.emulate_media(color_scheme="dark" if width == 1400 else "light")
    opened.wait_for_timeout(50)
    counted, faults = opened.evaluate(FAULTS)
    assert faults == [] and counted > 20
    view = opened.evaluate(IN_VIEW)
    assert view["heads"] and view["names"], view
    opened.evaluate("scrollTo(0, 0); for (const each of document.querySelectorAll('.scroll')) each.scrollTo(0, 0)")
