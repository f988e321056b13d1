"""What the docstring of a method says of it and of its parameters, in Google's layout."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

_SECTION = re.compile(r"\n(?=(?:Args|Returns|Raises):)")
_ARGUMENTS = re.compile(r"\nArgs:\n((?:    .*\n?|\n)+)")


class Docstring(NamedTuple):
    """A docstring in its parts, each in Markdown and, but for the body, in one line."""

    summary: str
    body: str
    #: What each argument means, by its name.
    arguments: dict[str, str]


def read(doc: str) -> Docstring:
    """Return the parts of a docstring; one without sections is a summary and a body."""
    text = re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(doc))
    summary, _, body = _SECTION.split(text)[0].strip().partition("\n")
    arguments: dict[str, str] = {}
    match = _ARGUMENTS.search(text)
    if match is not None:
        for item in re.split(r"\n(?=    \S)", "\n" + match[1].rstrip()):
            name, colon, meaning = item.strip().partition(":")
            if colon:
                arguments[name] = re.sub(r"\s+", " ", meaning).strip()
    return Docstring(summary.strip(), body.strip(), arguments)
