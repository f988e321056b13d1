"""What is written on a figure, and where: texts that are too small, cut, or over one another."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import NamedTuple
from unittest.mock import patch

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

#: Points: smaller letters cannot be read in print.
LEAST_POINTS = 5.5
#: Pixels that the boxes of two texts may share, and that one may lie outside: their edges are blank.
_EDGE = 1.5


class Written(NamedTuple):
    """A text that was drawn, with the box of its letters in pixels."""

    text: str
    points: float
    colour: object
    box: Bbox


def written(figure: Figure) -> list[Written]:
    """Draw a figure as an image, and return the texts that are visible in it."""
    # As the style saves it; of fewer pixels, letters are rounded to other widths.
    figure.set_dpi(200)
    with _recorded() as texts:
        FigureCanvasAgg(figure).draw()
    return texts


@contextmanager
def _recorded() -> Iterator[list[Written]]:
    texts: list[Written] = []
    draw = Text.draw

    def record(self, renderer):
        if self.get_visible() and self.get_text().strip():
            box = self.get_window_extent(renderer)
            texts.append(Written(self.get_text(), self.get_fontsize(), self.get_color(), box))
        draw(self, renderer)

    with patch.object(Text, "draw", record):
        yield texts


def faults(figure: Figure) -> list[str]:
    """Return what is wrong with the texts of a figure, in words."""
    texts, (width, height) = written(figure), figure.canvas.get_width_height()
    assert texts
    small = [f"{each.text!r} has {each.points:.1f} points" for each in texts if each.points < LEAST_POINTS]
    cut = [
        f"{each.text!r} is cut"
        for each in texts
        if each.box.x0 < -_EDGE or each.box.y0 < -_EDGE or each.box.x1 > width + _EDGE or each.box.y1 > height + _EDGE
    ]
    over = [f"{a.text!r} is over {b.text!r}" for a, b in combinations(texts, 2) if _meet(a.box, b.box)]
    return [*small, *cut, *over]


def _meet(a: Bbox, b: Bbox) -> bool:
    return min(a.x1, b.x1) - max(a.x0, b.x0) > _EDGE and min(a.y1, b.y1) - max(a.y0, b.y0) > _EDGE
