"""Keys of ``[[models]]`` that say what a network expects of images and what it returns."""

from __future__ import annotations

from fractions import Fraction

from bench.types import exact, shown

#: No image has more channels.
_MOST_CHANNELS = 1_000
#: Far below any that divides images, and far above what single precision takes for zero.
_LEAST_STD = Fraction(1, 1_000_000)
_LONGEST_NAME = 200


def channel_means(value: object) -> str:
    """Return the means of normalised images in [0, 1] as text: one number, or one for each channel.

    Raises:
        ValueError: a value is no number from 0 to 1.
    """
    return _texts([_number("mean", each, least=Fraction(0)) for each in _listed("mean", value)])


def channel_stds(value: object) -> str:
    """Return the standard deviations of normalised images in [0, 1] as text: one number, or one for each channel.

    Raises:
        ValueError: a value is no number from a millionth to 1.
    """
    return _texts([_number("std", each, least=_LEAST_STD) for each in _listed("std", value)])


def output_name(value: object) -> str:
    """Return which of several outputs holds the logits: the name of a field, or its place in a tuple, as text.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LONGEST_NAME:
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME:
        return value
    raise ValueError(f"{shown(value)} is neither the name of an output, such as 'logits', nor its place, such as 0")


def one_or_several(value: object) -> object:
    """Return a network, or the list of an ensemble's, as it is.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, str | list):
        return value
    raise ValueError(
        f"{shown(value)} is neither the name of a network, such as 'resnet18', nor a list of an ensemble's"
    )


def files(value: object) -> object:
    """Return the name of a file, or a list of such names, as it is.

    Raises:
        ValueError: the value is neither, or empty.
    """
    names = value if isinstance(value, list) else [value]
    if names and all(isinstance(name, str) and name for name in names):
        return value
    raise ValueError(f"{shown(value)} is neither the name of a file nor a list of them")


def _listed(key: str, value: object) -> list[object]:
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= _MOST_CHANNELS:
        raise ValueError(f"{key} is one number, or a list with one for each channel")
    return values


def _number(key: str, value: object, *, least: Fraction) -> Fraction:
    number = _quotient(value)
    if number < least:
        raise ValueError(f"{key} = {shown(value)} is below {float(least):g}, and images are in [0, 1]")
    if number > 1:
        scaled = f" (here '{value}/255')" if number <= 255 and isinstance(value, int | float) else ""
        raise ValueError(
            f"{key} = {shown(value)} is above 1, and images are in [0, 1]; divide mean and std by 255{scaled}, also a "
            "std of 1"
        )
    return number


def _quotient(value: object) -> Fraction:
    """Return a number; a text may divide one by another, as in ``125.3/255``."""
    over, slash, under = value.partition("/") if isinstance(value, str) else (value, "", "")
    if not slash or "/" in under:
        return exact(value)
    number, divisor = exact(over), exact(under)
    if not divisor:
        raise ValueError(f"{shown(value)} divides by zero")
    return number / divisor


def _texts(numbers: list[Fraction]) -> str:
    return " ".join(repr(float(number)) for number in numbers)
