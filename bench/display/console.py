"""The console: tables, colours and bars on a terminal, and plain text elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from bench.display.streams import Stream
from bench.visible import visible

#: Smallest width of a layout in columns: in fewer, tables would be cut to nothing.
_NARROWEST, _WIDEST = 40, 1000


class _AsItIs:
    """A stream for a console, which adds its own colours and cursor movements to text that is already visible."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write_as_it_is(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Console(Console):
    """A console on which text is text: no markup in it, no emoji codes, and nothing hidden."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text, lines=True), style, control)


def console(*, stderr: bool = False, terminal: bool | None = None) -> Console:
    """Return a console on standard output or error, even where the environment states an impossible size.

    Args:
        stderr: on standard error.
        terminal: whether it is a terminal; by default as it looks.
    """
    stream = sys.stderr if stderr else sys.stdout
    file = _AsItIs(stream) if isinstance(stream, Stream) else stream
    surroundings = {name: value for name, value in os.environ.items() if name not in _SIZES or _is_size(value)}
    sized = _Console(
        file=cast(TextIO, file),
        stderr=stderr,
        force_terminal=terminal,
        markup=False,
        emoji=False,
        highlight=False,
        _environ=surroundings,
    )
    # A console whose width is set no longer follows its window, so it is set only where it must be.
    if not _NARROWEST <= sized.width <= _WIDEST:
        sized.width = min(max(sized.width, _NARROWEST), _WIDEST)
    return sized


def plain_console(file: TextIO, width: int) -> Console:
    """Return a console that writes plain text of some width to a stream, whatever the surroundings say."""
    return _Console(
        file=file,
        width=width,
        force_terminal=False,
        # Else it would show in a notebook what is to be a text.
        force_jupyter=False,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
        _environ={},
    )


_SIZES = ("COLUMNS", "LINES", "JUPYTER_COLUMNS", "JUPYTER_LINES")


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
