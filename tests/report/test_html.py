import html.parser
import json
import re

import pytest

from bench.report.render.html import write_report
from bench.types import CellError, UsageError
from tests.report.fabricate import outcomes, result, story

VOID = {"wbr", "meta", "link", "input", "br", "img"}


class Page(html.parser.HTMLParser):
    """The tags of a page, balanced, and the text of each table cell."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.urls, self.handlers, self.cells = [], [], [], [], []
        #: Inside what is only shown where a table scrolls.
        self.seen = False
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.seen = ("seen" in (dict(attrs).get("class") or "").split()) or self.seen
        self.urls += [value for name, value in attrs if name in ("src", "href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.seen = self.seen and tag != "small"

    def handle_data(self, data):
        if not self.seen and self.cells and ("td" in self.open or "th" in self.open):
            self.cells[-1] += data


def page_of(results, tmp_path):
    text = write_report(results, tmp_path / "report").read_text(encoding="utf-8")
    details = json.loads(re.search(r'<script type="application/json" id="details">(.*?)</script>', text, re.S)[1])
    return text, Page(text), details


def test_a_number_has_both_measures_in_its_cell_and_in_its_hint(tmp_path):
    clean = [i < 4 for i in range(10)]
    harmed = result("tpap", step="tpap", clean=clean, adversarial=[1 <= i < 8 for i in range(10)])
    text, page, details = page_of([harmed, result("plain", recipe="plain", clean=clean)], tmp_path)
    cells = [cell.strip() for cell in page.cells]
    row = cells.index("tpap")
    assert cells[row : row + 5] == ["tpap", "gray-box (static)", "40.0", "70.0 (30.0)", "30.0"]
    assert "70.0" in cells[row + 5 :], "the heat map has the accuracy under attack alone"
    hint = "accuracy under attack, 95 % 39.7 to 89.2, robust accuracy 30.00 %"
    assert text.count(f'title="{hint}"') == 2
    assert details["cells"][harmed.key]["metrics"]["accuracy_under_attack"] == 0.7
    assert 'title="right when clean and under every attack of the row"' in text


def test_one_page_with_tables_heat_map_and_scatter_that_needs_nothing_else(tmp_path):
    text, page, _ = page_of(story(), tmp_path)
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]
    assert page.urls == ["data:,"]
    assert "http" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert page.tags.count("table") == 2
    assert page.tags.count("svg") == 1
    cells = [cell.strip() for cell in page.cells]
    row = cells.index("tpap")
    assert cells[row : row + 7] == ["tpap", "gray-box (static)", "98.4", "41.8", "97.0", "41.8", "–"]


def test_every_cell_can_be_opened_with_all_that_is_known_of_it(tmp_path):
    failed = result(attack="cw", clean=[True] * 500, status="failed", flags=("no-op",))
    results = [*story(), failed]
    text, _, details = page_of(results, tmp_path)
    assert set(details["cells"]) == {r.key for r in results}
    linked = {key for keys in re.findall(r'data-keys="([^"]*)"', text) for key in keys.split()}
    assert linked == set(details["cells"])
    one = details["cells"][failed.key]
    assert one["error"] == {
        "kind": "MethodError",
        "message": "pgd returned NaN for 3 of 8 images",
        "traceback": "Traceback",
    }
    assert one["flags"] == ["no-op"]
    assert details["shared"][one["provenance"]]["packages"]["torch"] == "2.15.0"
    pgd = next(cell for cell in details["cells"].values() if cell["title"][3] == "pgd")
    assert pgd["attack"]["rule"] == "any-iterate"


def test_names_cannot_leave_their_place(tmp_path):
    nasty = '</script><script>alert("&1")</script><img src=x onerror=alert(2)>'
    text, page, details = page_of([result(nasty, clean=[True] * 4, step="x", dataset=nasty, label=nasty)], tmp_path)
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert page.handlers == []
    assert nasty not in text
    assert next(iter(details["cells"].values()))["title"][2] == nasty


def test_a_note_is_said_and_others_are_counted(tmp_path):
    clean = [i < 8 for i in range(10)]
    steps = [
        result(f"d{i}", step=f"s{i}", access=access, clean=clean, adversarial=[j < 2 for j in range(10)])
        for i in range(3)
        for access in ("static", "adaptive")
    ]
    for count, more in ((4, "and 1 more note<"), (6, "and 2 more notes<")):
        text, _, _ = page_of(steps[:count], tmp_path)
        assert text.count('<p class="note">') == count // 2 - 1 and more in text.replace("</span>", "<")


def test_the_page_is_the_same_every_time(tmp_path):
    first = write_report(story(), tmp_path / "a").read_bytes()
    assert write_report(reversed(story()), tmp_path / "b").read_bytes() == first


@pytest.mark.parametrize("results", [[], [result(clean=[True])], [result(attack=None, clean=[True, False])]])
def test_few_results_make_a_page_too(tmp_path, results):
    page_of(results, tmp_path)


def names_of_marks(text):
    return re.findall(r'<text class="name"[^>]*>([^<]*)</text>', text)


def test_marks_in_one_place_share_a_label_and_a_static_attacker_alone_is_named_too(tmp_path):
    cells = [
        *(
            result(name, clean=[True] * 100, adversarial=outcomes(share, 100), recipe=name)
            for name, share in (("one", 0.3), ("other", 0.3), ("third", 0.8))
        ),
        result("jpeg", step="jpeg", access="static", clean=[True] * 100, adversarial=outcomes(0.5, 100)),
    ]
    assert sorted(names_of_marks(page_of(cells, tmp_path)[0])) == ["jpeg", "one, other", "third"]


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file.* cannot be written"):
        write_report(story(), tmp_path / "file" / "report")


def test_of_a_large_table_the_page_shows_a_part_and_says_so(tmp_path):
    clean = [True] * 8
    many = [
        result(f"defense-{i}", clean=clean, adversarial=outcomes(0.5, 8), recipe=f"r{i}", eps=eps)
        for i in range(320)
        for eps in ("4/255", "8/255")
    ]
    wide = [
        result("bare", clean=clean, attack_params={"steps": i}, dataset="other", seed=seed)
        for i in range(130)
        for seed in range(2)
    ]
    text, page, details = page_of([*many, *wide], tmp_path)
    assert "csv, md and json have all: the first 300 of 320 rows, the most robust first" in text
    assert "csv, md and json have all: the first 107 of 137 columns" in text
    assert len(re.findall('<tr [^>]*data-defense="defense-', text)) == 340, "300 in the table and 40 in its heat map"
    assert re.search(r'class="num" data-keys="[^"]*" data-more="220"', text), "a worst case of 260 cells opens to 40"
    linked = {key for keys in re.findall(r'data-keys="([^"]*)"', text) for key in keys.split()}
    assert linked == set(details["cells"])
    assert len(text) < 3e6


def test_a_page_that_comes_out_too_large_shows_less(tmp_path, monkeypatch):
    failed = [
        result(f"defense-{i}", recipe=f"r{i}", clean=[True], status="failed").model_copy(
            update={"error": CellError(kind="E", message="x" * 4_000, traceback="y" * 40_000)}
        )
        for i in range(60)
    ]
    page, _, details = page_of(failed, tmp_path)
    assert len(details["cells"]) == 60
    assert {len(cell["error"]["traceback"]) for cell in details["cells"].values()} == {4_004}, "the end of it"
    monkeypatch.setattr("bench.report.render.html._MAX_PAGE_BYTES", len(page) // 2)
    text, _, details = page_of(failed, tmp_path)
    assert len(text.encode()) <= len(page) // 2
    assert 0 < len(details["cells"]) < 60
    assert f"the first {len(details['cells'])} of 60 rows" in text


def elements_of_sections(text):
    """The elements of each section of a page, apart for those that are laid out while it scrolls and while it loads."""
    counts = {"lazy": [], "": []}
    for name, body in re.findall(r'<section(?: class="(lazy)")? id=.*?>(.*?)</section>', text, re.S):
        counts[name].append(len(Page(body).tags))
    return counts


def test_what_is_laid_out_while_the_page_scrolls_is_little_at_a_time(tmp_path):
    clean = [True] * 8
    cells = [
        result(
            f"defense-{i}",
            clean=clean,
            recipe=f"r{i}",
            dataset=f"{rows} x {columns}",
            attack_params={"steps": steps},
            flags=("flagged",),
        )
        for rows, columns in ((3, 2), (9, 10), (10, 24))
        for i in range(rows)
        for steps in range(columns)
    ]
    text, _, _ = page_of(cells, tmp_path)
    counts = elements_of_sections(text)
    assert len(counts["lazy"]) == 2 and max(counts["lazy"]) < 1_000
    assert len(counts[""]) == 1 and counts[""][0] > 1_000, "a large one is laid out before anyone scrolls"
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert re.findall(r"([^{}]*)\{[^{}]*content-visibility[^{}]*\}", style) == ["\n.lazy "]
    assert re.search(r"\.lazy \{[^}]*contain-intrinsic-size", style), "a section has a height before it is laid out"
    assert set(re.findall(r"<td[^>]*>\s*<(\w+)", text)) == {"span"}, "a button costs twice as much"


def test_of_very_many_tables_the_page_shows_the_first_and_names_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.report.render.view._MAX_TABLES", 3)
    text, _, _ = page_of([result(clean=[True], dataset=f"data-{i}") for i in range(5)], tmp_path)
    assert text.count("<section") == 3
    left_out = re.search(r"Left out, csv, md and json have them: (.*?)\.</p>", text)[1]
    assert re.findall(r"data-\d", left_out) == ["data-3", "data-4"]


def test_a_page_of_somebody_else_is_moved_aside(tmp_path, caplog):
    page = tmp_path / "index.html"
    page.write_text("<!doctype html><title>My thesis</title>")
    assert b"Crossfire leaderboard" in write_report(story(), tmp_path).read_bytes()
    (aside,) = set(tmp_path.iterdir()) - {page}
    assert "My thesis" in aside.read_text() and aside.name in caplog.text
    write_report(story(), tmp_path)
    assert set(tmp_path.iterdir()) == {page, aside}
