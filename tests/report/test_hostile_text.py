"""Names, parameters, notes and errors that hold what steers a terminal, a spreadsheet or a page, in every format."""

import csv
import html.parser
import io
import json
import re

import pytest
from rich.console import Console

from bench.cli import main
from bench.report import figures, paper_page
from bench.report.comparison.compare import compare
from bench.report.comparison.render import FORMATS as COMPARISONS
from bench.report.leaderboard.published import beside
from bench.report.leaderboard.tables import build
from bench.report.render import published
from bench.report.render.export import FORMATS
from bench.report.render.html import render
from bench.report.render.terminal import leaderboard
from bench.store.history import Recorded
from bench.store.working_store import Store
from bench.types import CellError
from bench.visible import visible
from tests.report.fabricate import outcomes, result, stored

KINDS = {
    "colour": "\x1b[31mred\x1b[0m",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "c1": "\x9b2J\x90q\x9c",
    "delete": "a\x7f\x08\x08b",
    "lines": "one\ntwo\r\nthree\x0b\x0c\x85four\u2028\u2029five",
    "override": "\u202egnp.exe\u202c\u2066x\u2069\u200e\u061c",
    "zero width": "a\u200bb\u2060c\ufeffd\u00ade",
    "tags": "ok\U000e0041\U000e007f",
    "surrogate": "half\ud83d and \udcff",
    "no character": "a\ufffe\ufdd0\U0010ffff",
    "formula": '=HYPERLINK("http://evil.example","x")',
    "formulas": "@SUM(1+1)*cmd|' /C calc'!A0",
    "tab": "\t=1+1",
    "wide": "\uff1d1+1",
    "markup": "[red]x[/red][link=http://evil.example]y[/link]:smile:[/]",
    "page": '"><script>alert(1)</script><!--',
    "page end": "</script></style></title>{{ 7 * 7 }}{% raw %}",
    "latex": r"\input{/etc/passwd}$x$ \\ & % # ~ ^ ^^41 {",
    "mathtext": r"$\frac{1}{$ and $\nonsense{x}$",
    "markdown": "# x | y\n---\n- [a](http://evil.example) ![i](j) `c` **b** ~~s~~",
    "item": "1. one",
    "ideographs": "防御 é ε 👩‍👩‍👧 ❤️",
    "empty": "",
    "blank": "   ",
}


def everywhere(text, n=40):
    """Results with a text in each place that a stored result has for one, but for those that say what it is."""
    clean, attacked = outcomes(0.9, n), outcomes(0.4, n, 1)
    encodable = text.encode("utf-8", "replace").decode()
    common = {
        "clean": clean,
        "dataset": encodable,
        "network": encodable,
        "machine": text,
        "device": text,
        "commit": text,
    }
    params = {"mode": encodable, "steps": 7}
    results = [
        result(text, None, **common, step="jpeg", step_params=params),
        result(text, "pgd", adversarial=attacked, label=text, attack_params=params, flags=(text,), **common),
        result(text, "fgsm", adversarial=attacked, label=f"{text}2", attack_params={}, flags=(text,), **common),
        result(f"{text} step", "pgd", adversarial=attacked, label=text, step="jpeg", step_params=params, **common),
        result(
            f"{text} step", "pgd", adversarial=attacked, label=text, step="jpeg", step_params={"mode": ""}, **common
        ),
    ]
    failed = result(text, "cw", label="cw", status="failed", flags=("failed", text), **common)
    error = CellError(kind=text, message=text, traceback=f"Traceback\n{text}")
    results.append(failed.model_copy(update={"error": error}))
    names = [r.names.model_copy(update={"dataset": visible(text), "model": visible(text)}) for r in results]
    return [r.model_copy(update={"names": name}) for r, name in zip(results, names, strict=True)]


def assert_harmless(text):
    text.encode()
    assert visible(text, lines=True) == text
    assert "\x1b" not in text


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def text(request):
    return request.param


@pytest.fixture(scope="module")
def board(text):
    return build(everywhere(text))


@pytest.mark.parametrize("kind", [*FORMATS, "html"])
def test_nothing_hidden_reaches_a_file(board, kind):
    text = render(board) if kind == "html" else FORMATS[kind](board)
    assert_harmless(text)
    assert "\t" not in text


def test_json_keeps_what_it_was_given(board, text):
    document = json.loads(FORMATS["json"](board))
    assert {cell["status"] for cell in document["cells"]} == {"done", "failed"}
    assert {cell["dataset"] for cell in document["cells"]} == {visible(text)}


def test_csv_begins_no_formula_and_keeps_its_columns(board):
    rows = list(csv.reader(io.StringIO(FORMATS["csv"](board))))
    assert len({len(row) for row in rows}) == 1
    for cell in (cell for row in rows for cell in row):
        assert not cell.strip().startswith(("=", "@", "\uff1d", "\uff20", "\uff0b", "\uff0d", "+")), cell
        assert not cell.strip().startswith("-") or float(cell) < 0


def test_markdown_keeps_its_columns_and_makes_no_link_or_tag(board):
    text = FORMATS["md"](board)
    widths = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in text.splitlines() if line.startswith("| ")]
    assert len(set(widths)) == 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[\[\]`]|<(?!/?(?:u|sup)>)", text)
    assert all(line.startswith(("### ", "| ", "- ", "**", "")) for line in text.splitlines())


def test_latex_is_balanced_and_calls_nothing_of_its_own(board):
    text = FORMATS["tex"](board)
    assert r"\input" not in text and "^^" not in text
    # What is left without line ends and escapes is syntax.
    syntax = re.sub(r"\\[^a-z]", "", text)
    assert syntax.count("{") == syntax.count("}")
    assert syntax.count("$") % 2 == 0


class Tags(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.scripts, self.seen = 0, set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.scripts += tag == "script"
        assert not any(name.startswith("on") for name, _ in attrs)


def test_the_page_has_its_own_scripts_only_and_its_data_reads_back(board):
    page = render(board)
    assert Tags(page).scripts == 2 and "49" not in re.findall(r"<title>(.*?)</title>", page)
    data = json.loads(re.search(r'<script type="application/json" id="details">(.*?)</script>', page, re.S)[1])
    assert_harmless(json.dumps(data, ensure_ascii=False))


@pytest.mark.parametrize("text", [KINDS["link"], KINDS["lines"], KINDS["surrogate"], KINDS["markup"]])
def test_the_terminal_shows_text_as_text(tmp_path, capsys, text):
    results = everywhere(text)
    stored(tmp_path, results)
    failed = next(r.key for r in results if r.error)
    for words in (["leaderboard"], ["show", failed], ["show", failed, "--json"], ["leaderboard", "--paper"]):
        assert main([*words, "--store", str(tmp_path)]) == 0
        assert_harmless(shown := "".join(capsys.readouterr()))
        assert "[red]" not in text or "[red]x[/red]" in shown


def test_a_library_user_s_own_console_gets_harmless_names(board):
    out = io.StringIO()
    Console(file=out, width=200).print(leaderboard(board, width=200))
    assert_harmless(out.getvalue())


@pytest.mark.parametrize("kind", COMPARISONS)
def test_a_comparison_is_harmless(text, kind):
    old, new = everywhere(text), everywhere(text)
    comparison = compare(Recorded(f"base{text}", old), Recorded(f"head{text}", new[:-2]), 0.5, allow_lost=False)
    assert_harmless(COMPARISONS[kind](comparison))


def test_the_paper_s_numbers_are_harmless(board):
    rows = beside(board)
    for form in (published.as_text, published.as_markdown, published.as_json):
        assert_harmless(form(rows))


def test_the_page_of_the_paper_is_harmless(tmp_path, monkeypatch, text):
    def nothing(name, source, out):
        raise figures.Missing(f"no {text}")

    monkeypatch.setattr(figures, "draw", nothing)
    source = figures.source_of(everywhere(text), Store(tmp_path), paper=True)
    (page,) = paper_page.write(source, tmp_path / "out")
    assert_harmless(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["surrogate", "mathtext", "ideographs"])
def test_figures_are_drawn_with_any_names(tmp_path, kind):
    source = figures.source_of(everywhere(KINDS[kind]), Store(tmp_path))
    for name in ("accuracy-heatmap", "cost"):
        try:
            _, _, numbers = figures.draw(name, source, tmp_path / "out")
        except figures.Missing:
            continue
        assert_harmless(numbers.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("x;=cmd", "x;'=cmd"), ("x; +1", "x;' +1"), ('a;"@b', "a;'\"@b"), ("=1;-2", "'=1;'-2"), ("a; b-c", "a; b-c")],
)
def test_csv_begins_no_formula_where_semicolons_end_a_cell(text, shown):
    board = build([result(text, None, clean=outcomes(0.5, 40))])
    (row,) = csv.DictReader(io.StringIO(FORMATS["csv"](board)))
    assert row["defense"] == shown
