"""Which images of a list were right, and how far the others had to move: read from a result, combined, counted."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf
from operator import and_
from struct import pack, unpack

_DIGITS = bytes.maketrans(b"\0\1", b"01")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Which of ``n`` images were right, in the order of the image list.

    ``bits`` holds them as one whole number, the first image in the highest bit, because a table combines the outcomes
    of many thousand cells.
    """

    bits: int
    n: int

    @classmethod
    def of(cls, right: Iterable[bool]) -> Outcomes:
        """Return outcomes that are given one by one."""
        digits = bytes(map(bool, right)).translate(_DIGITS)
        return cls(int(digits or b"0", 2), len(digits))

    @classmethod
    def decode(cls, text: str, n: int) -> Outcomes:
        """Return the outcomes of ``n`` images, at least one, from their text in a result.

        Raises:
            ValueError: the text does not hold one outcome for each image.
        """
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("outcomes that are not base64") from None
        if len(data) != -(-n // 8):
            raise ValueError(f"{len(data)} bytes cannot hold exactly {n} outcomes")
        padded = int.from_bytes(data, "big")
        padding = 8 * len(data) - n
        if padded & ((1 << padding) - 1):
            raise ValueError(f"more than {n} outcomes")
        return cls(padded >> padding, n)

    def encode(self) -> str:
        """Return the text that a result keeps: base64, the first image in the highest bit, padded with zeros."""
        size = -(-self.n // 8)
        return base64.b64encode((self.bits << (8 * size - self.n)).to_bytes(size, "big")).decode()

    @property
    def count(self) -> int:
        """How many images were right."""
        return self.bits.bit_count()

    @property
    def share(self) -> float:
        """The share of images that were right, in [0, 1]."""
        return self.count / self.n

    def first(self, n: int) -> Outcomes:
        """Return the outcomes of the first ``n`` images, of which there are as many."""
        return Outcomes(self.bits >> (self.n - n), n)

    def then(self, others: Outcomes) -> Outcomes:
        """Return the outcomes of these images and of others after them."""
        return Outcomes(self.bits << others.n | others.bits, self.n + others.n)

    def __and__(self, other: Outcomes) -> Outcomes:
        """Return which images were right both times."""
        return Outcomes(self.bits & other.bits, self.n)

    def but_not(self, other: Outcomes) -> Outcomes:
        """Return which images were right here and wrong in ``other``."""
        return Outcomes(self.bits & ~other.bits, self.n)

    def __iter__(self) -> Iterator[bool]:
        """Yield for each image whether it was right."""
        return (digit == "1" for digit in f"{self.bits:0{self.n}b}"[: self.n])


def right_in_all(outcomes: Iterable[Outcomes]) -> Outcomes:
    """Return which images were right every time.

    Raises:
        TypeError: there are no outcomes.
    """
    return reduce(and_, outcomes)


@dataclass(frozen=True, slots=True)
class Distances:
    """How far each image is from the nearest one that an attack found to be wrong; infinity where it found none.

    ``values`` are in the order of the image list, in the norm of the attack: of pixels in [0, 1], and in L0 a count.
    """

    values: Sequence[float]

    @classmethod
    def decode(cls, text: str, n: int) -> Distances:
        """Return the distances of ``n`` images from their text in a result.

        Raises:
            ValueError: the text does not hold one distance for each image, or one is negative or no number.
        """
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("distances that are not base64") from None
        if len(data) != 4 * n:
            raise ValueError(f"{len(data)} bytes are not exactly {n} distances")
        values = unpack(f"<{n}f", data)
        # NaN satisfies no comparison.
        if not all(map((0.0).__le__, values)):
            raise ValueError("a distance that is negative or no number")
        return cls(values)

    def encode(self) -> str:
        """Return the text that a result keeps: base64 of little-endian floats of 32 bits."""
        return base64.b64encode(pack(f"<{len(self.values)}f", *self.values)).decode()

    @property
    def unbroken(self) -> Outcomes:
        """Which images no wrong one was found for."""
        return Outcomes.of(map(inf.__eq__, self.values))

    @property
    def farthest(self) -> float:
        """The largest distance that was found; 0 where none was."""
        return max(filter(inf.__ne__, self.values), default=0.0)
