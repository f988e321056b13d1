"""A figure that is measured in inches from its top left: pictures in columns, with text that has a place of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt

from bench.report.figures._layout import text_height
from bench.report.figures._plot import INK, SOFT
from bench.report.figures._text import fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

_TITLE_POINTS = 8.0
_CAPTION_POINTS = 6.5
_TITLE_LINES = 3
_CAPTION_LINES = 8
#: Inches around everything.
EDGE = 0.06


class Sheet:
    """A figure of a known size, with a title above and a caption below.

    Args:
        width: inches.
        height: inches, between title and caption.
        title: one paragraph, cut after three lines.
        caption: one paragraph.

    Attributes:
        figure: itself.
        top: inches from the top edge to where the title ends.
    """

    def __init__(self, width: float, height: float, title: str, caption: str) -> None:
        inside = width - 2 * EDGE
        title = fitted(title, inside, _TITLE_POINTS, _TITLE_LINES, weight="bold")
        caption = fitted(caption, inside, _CAPTION_POINTS, _CAPTION_LINES)
        self.top = EDGE + text_height(title, _TITLE_POINTS) + 0.04
        below = text_height(caption, _CAPTION_POINTS) + EDGE
        self._size = width, self.top + height + below
        self.figure = plt.figure(figsize=self._size)
        # Everything has its place. Asked for no layout at once, matplotlib takes that of the style when it saves.
        self.figure.set_layout_engine("none")
        self.write(EDGE, EDGE, title, _TITLE_POINTS, ha="left", weight="bold")
        self.write(EDGE, self.top + height, caption, _CAPTION_POINTS, ha="left", color=SOFT)

    def write(self, x: float, y: float, text: str, size: float, *, va: str = "top", **style: Any) -> None:
        """Write text, centred unless ``ha`` says otherwise, from ``y`` inches below the top."""
        width, height = self._size
        style = {"ha": "center", "color": INK, **style}
        self.figure.text(x / width, 1 - y / height, text, fontsize=size, va=va, **style)

    def show(self, x: float, y: float, side: float, image: Tensor) -> Axes:
        """Draw an image (C, H, W) in [0, 1] into a square whose top left corner is at (x, y), and return its axes."""
        from bench.report.figures._network import show

        width, height = self._size
        axes = self.figure.add_axes((x / width, 1 - (y + side) / height, side / width, side / height))
        show(axes, image)
        return axes
