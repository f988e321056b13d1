"""Text from elsewhere made safe to show, against Python's own copy of the Unicode tables."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.keys import canonical_json, sha256_hex
from bench.types import CellError, Names, UsageError, listed
from bench.visible import json_text, visible, visible_values

ANY_TEXT = st.text(st.characters(exclude_categories=[]))


def is_hidden(mark: str) -> bool:
    code = ord(mark)
    no_character = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return unicodedata.category(mark) in ("Cc", "Cf", "Cs", "Zl", "Zp") or no_character


def test_every_character_of_unicode_that_is_not_seen_is_escaped_and_no_letter_or_sign_is():
    for code in range(0x110000):
        mark = chr(code)
        shown = visible(mark)
        if is_hidden(mark):
            assert shown.isascii() and shown.isprintable() and shown != mark, hex(code)
        elif shown != mark and unicodedata.category(mark) != "Cn":
            # Also the characters that Unicode ignores by default, such as Hangul fillers and variation selectors.
            blank = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810)}
            assert code in blank or 0xFE00 <= code <= 0xFE0F or 0xE0000 <= code < 0xE1000, hex(code)


@pytest.mark.parametrize(
    "text",
    [
        "jpeg[quality=50]@pgd-at", "é è ñ Å", "中文 日本語 한국어", "ε = 8/255, ±0.5 – 95 %", "العربية עברית",
        "👩‍👩‍👧", "❤️‍🔥", "🏳️‍🌈", "👩🏽‍🚀", "1️⃣", "🇩🇪", "a\u00a0b\u2003c", "e\u0301",
    ],
)  # fmt: skip
def test_what_is_seen_stays(text):
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]8;;http://evil\x07link\x1b]8;;\x07", r"\x1b]8;;http://evil\x07link\x1b]8;;\x07"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("a\r\n\tb", r"a\r\n\tb"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u200db\u2028c\ufeff", r"a\u200db\u2028c\ufeff"),
        ("\udc80\ud800", r"\udc80\ud800"),
        ("\ufffe\U000e0041", r"\ufffe\U000e0041"),
        ("x\ufe0f\u200d👩", r"x\ufe0f\u200d👩"),
    ],
)
def test_what_is_not_seen_is_an_escape(text, shown):
    assert visible(text) == shown


def test_of_lines_only_feeds_and_tabs_stay():
    assert visible("a\n\tb\r\x0b\x85\u2028", lines=True) == "a\n\tb" + r"\r\x0b\x85\u2028"


@given(ANY_TEXT)
def test_what_is_shown_can_be_written_and_stays_what_it_is(text):
    shown = visible(text)
    assert visible(shown.encode().decode()) == shown
    assert len(shown.splitlines()) <= 1


@given(st.recursive(ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=8))
def test_json_reads_back_as_it_was_given_and_hides_nothing(value):
    text = json_text(value)
    text.encode()
    assert visible(text) == text
    # Readers of JSON join two adjacent surrogates into one character.
    value_read = json.loads(json.dumps(value))
    assert json.loads(text) == value_read


def test_values_deep_in_data_are_made_visible():
    assert visible_values({"a\x1b": ["\u202e", {"b": "c\nd"}], "n": 1}) == {
        r"a\x1b": [r"\u202e", {"b": "c\nd"}],
        "n": 1,
    }


def test_names_and_errors_hold_nothing_hidden_wherever_they_come_from():
    names = Names(dataset="a\nb", model="\x1b[2J", defense="\udcff", attack="\u202e", access="static")
    assert str(names) == r"a\nb/\x1b[2J/\udcff/\u202e/static"
    error = CellError(kind="E\x07", message="one\ntwo\ud800", traceback="line\n  \x1b]52;c;aGk=\x07")
    assert (error.kind, error.message) == (r"E\x07", r"one\ntwo\ud800")
    assert error.traceback == "line\n  " + r"\x1b]52;c;aGk=\x07"
    assert str(UsageError("a\nb\x1b\udc80")) == r"a\nb\x1b\udc80"


@given(ANY_TEXT)
def test_any_text_can_be_hashed_and_kept(text):
    kept = canonical_json({"text": text}).encode()
    assert canonical_json(json.loads(kept)).encode() == canonical_json(json.loads(json.dumps({"text": text}))).encode()
    assert len(sha256_hex(text)) == 64


@pytest.mark.parametrize(
    ("entries", "line"),
    [([], ""), ("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c and 1 more"), (range(1239), "0, 1, 2 and 1,236 more")],
)
def test_many_entries_are_the_first_and_how_many_more(entries, line):
    assert listed(entries, 3) == line


def test_the_others_have_a_noun_and_the_named_stand_apart():
    assert listed(["a b", "c"], 1, between="; ", noun="field") == "a b and 1 more field"
    assert listed("abc", 1, noun="field") == "a and 2 more fields"
    assert listed(["a", "b", "c"], 2, between="; ") == "a; b and 1 more"
