r"""Text from elsewhere, made safe to show: what would not be seen, or would steer a terminal, becomes an escape.

Names, notes and error messages may hold anything: terminal sequences, overrides of the writing direction, line breaks,
halves of surrogate pairs. Shown is ``\x1b`` or ``\u202e``; accents, ideographs, emoji and every blank stay.
"""

from __future__ import annotations

import json
import re
import unicodedata
from itertools import pairwise
from typing import Any

# Categories Cc, Cf, Cs, Zl and Zp of Unicode, what it calls default ignorable, and what it says is no character.
_HIDDEN = (
    *((0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD)),
    *((0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xD800, 0xDFFF), (0xFDD0, 0xFDEF)),
    *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0xFFFE, 0xFFFF), (0x110BD, 0x110BD)),
    *((0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0x1FFFE, 0x1FFFF)),
    *((plane << 16 | 0xFFFE, plane << 16 | 0xFFFF) for plane in range(2, 14)),
    *((0xE0000, 0xE0FFF), (0xEFFFE, 0xEFFFF), (0xFFFFE, 0xFFFFF), (0x10FFFE, 0x10FFFF)),
)
_PICTURES = r"\u2190-\u2bff\U0001f000-\U0001faff"
_BEFORE_SELECTOR = rf"[0-9#*\xa9\xae\u203c\u2049\u2122\u2139\u3030\u303d\u3297\u3299{_PICTURES}]"
# These make one picture of several characters: a joiner between two, and the mark for colour.
_JOINS = re.compile(
    rf"(?:(?<=[{_PICTURES}])|(?<={_BEFORE_SELECTOR}\ufe0f))\u200d(?=[{_PICTURES}])|(?<={_BEFORE_SELECTOR})\ufe0f"
)


def _none_of(seen: str) -> re.Pattern[str]:
    # As what is not seen, printable ASCII first: text that holds nothing hidden is passed over several times faster.
    ends = [(low - 1, high + 1) for low, high in _HIDDEN]
    between = (f"{chr(high)}-{chr(low)}" for (_, high), (low, _) in pairwise(ends) if high <= low)
    return re.compile(f"[^ -~{seen}{''.join(between)}]")


_ONE_LINE = _none_of("")
_LINES = _none_of("\n\t")
_NUMBERS = (int, float)
#: Scripts with letters that look like those of Latin.
_LOOK_ALIKE = frozenset({"ARMENIAN", "CHEROKEE", "COPTIC", "CYRILLIC", "GREEK", "LISU"})
#: Letters of Latin that look like plain ones of it, but the dotless i of Turkish, which honest names have.
_PLAIN_LOOKING = frozenset("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢɑɡɩȷǀꞁ")
#: What stands in names besides letters and digits.
_OF_NAMES = " .-'’"
#: Words that say something of a result, or stand between names.
_OURS = re.compile(
    r"\b(?:and|by|more|not|nobody|somebody|repeated|predictions?|verified|consistent|outcomes|plausible|checked|compared|"
    r"withdrawn|superseded|replaced|precision|holds?|run|file|upper|bound|white-box|adaptive|static|worst|best|rank|null|"
    r"nan|none)\b",
    re.IGNORECASE,
)
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return text with an escape such as ``\x1b`` or ``\u202e`` for every character that would not be seen as itself.

    The result can be encoded as UTF-8, and to escape it again changes nothing.

    Args:
        text: anything.
        lines: whether line feeds and tabs stay, as in a traceback; a name or a message is one line.
    """
    if text.isascii() and text.isprintable():
        return text
    return (_LINES if lines else _ONE_LINE).sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    if _JOINS.match(match.string, match.start()):
        return match[0]
    code = ord(match[0])
    if (name := _NAMED.get(match[0])) is not None:
        return name
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def distinct(who: str) -> str:
    r"""Return a name with an escape such as ``\u0410`` for letters that look like those of Latin within a word of it.

    So no name is shown as another one for a letter of Cyrillic or Greek, or a small capital. A word without letters of
    Latin stays. Letters that are the same but for their width or style, such as fullwidth ones, become plain ones.
    """
    return "".join(_distinct_word(word) for word in re.split(r"(\W+)", _plain(who)))


def _plain(who: str) -> str:
    return visible(unicodedata.normalize("NFKC", who))


def _distinct_word(word: str) -> str:
    names = [unicodedata.name(letter, "") for letter in word]
    if not any(name.startswith("LATIN ") for name in names):
        return word
    return "".join(
        f"\\u{ord(letter):04x}" if name.partition(" ")[0] in _LOOK_ALIKE or letter in _PLAIN_LOOKING else letter
        for letter, name in zip(word, names, strict=True)
    )


def quoted(who: str) -> str:
    """Return a name in quotes, none of which is within it: so it ends where it ends."""
    mark = '"' if "'" in who else "'"
    return mark + who.replace(mark, f"\\x{ord(mark):02x}") + mark


def named(who: str) -> str:
    """Return a name as it stands among words of ours, none of which it can pass for.

    Look-alikes are as :func:`distinct` has them. In quotes is a name that has anything but letters, digits, spaces,
    dots, hyphens and apostrophes, or one of the words in which is said what is known of a result.
    """
    plain, shown = _plain(who), distinct(who)
    is_name = all(letter in _OF_NAMES or unicodedata.category(letter)[0] in "LMN" for letter in plain)
    is_bare = plain.strip("'’") == plain
    return shown if is_name and is_bare and not _OURS.search(plain) else quoted(shown)


def without_surrogates(text: str) -> str:
    """Return text of which every character is one.

    Raises:
        ValueError: it holds half of a surrogate pair, which no file of UTF-8 can.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{visible(text)!r} holds half of a character (a lone surrogate)") from None
    return text


def visible_values(value: Any) -> Any:
    """Return data of lists and dictionaries with every text in it made visible, line feeds and tabs kept."""
    if isinstance(value, str):
        return visible(value, lines=True)
    if isinstance(value, dict):
        # Most are numbers, and a call for each would take longer than all else.
        return {
            visible_values(name): inner if type(inner) in _NUMBERS else visible_values(inner)
            for name, inner in value.items()
        }
    return [visible_values(inner) for inner in value] if isinstance(value, list | tuple) else value


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return JSON that holds nothing hidden and reads back as it was given, lone surrogates too.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return _LINES.sub(_json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    return match[0] if _JOINS.match(match.string, match.start()) else json.dumps(match[0])[1:-1]
