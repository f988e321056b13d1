"""Adversarial images rounded to 8 bit, as picture files hold them, and what the rounding does to them."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from bench.report.sets.kept import Array, Part
from bench.store.audit import broken_rule, has_ball
from bench.types import Threat, eps_text


class Rounding:
    """Counts, part by part, what rounding changes, and how many rounded images are out of their budget."""

    def __init__(self, threat: Threat) -> None:
        self._threat = threat
        self.changed = 0
        self.outside = 0
        self.total = 0

    def of(self, part: Part) -> Array:
        """Return the adversarial images of a part as uint8 (k, C, H, W), each value rounded to the nearest."""
        pixels = np.asarray(part.adversarial * 255).round().clip(0, 255).astype(np.uint8)
        as_read = pixels.astype(np.float32) / 255
        clean = part.clean.astype(np.float32) / 255
        for i in range(len(pixels)):
            one = slice(i, i + 1)
            self.changed += not np.array_equal(as_read[one], part.adversarial[one])
            self.outside += broken_rule(as_read[one], clean[one], self._threat) is not None
        self.total += len(pixels)
        return pixels

    def __str__(self) -> str:
        return (
            f"8 bit is not what was judged: rounding changes {self.changed:,} of {self.total:,} images, and "
            f"{self._consequence()}; npz keeps every bit"
        )

    def _consequence(self) -> str:
        eps = self._threat.eps
        if eps is None or not has_ball(self._threat):
            return "they have no budget to be checked against"
        budget = f"their budget of {self._threat.norm} {eps_text(eps)}"
        return f"{self.outside:,} are then outside {budget}" if self.outside else f"all are still inside {budget}"


def png(pixels: Array) -> bytes:
    """Return pixels uint8 (C, H, W), of one channel or three, as the bytes of a PNG file."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()
