"""Values that nobody means, and TOML texts that hold them."""

import datetime
import math
from itertools import chain
from typing import Any

from hypothesis import strategies as st

from bench import registry
from bench.config import overlay

NAMES = [
    *chain.from_iterable(map(registry.entries, ("attack", "library", "recipe", "test-time", "network"))),
    *overlay.presets(),
    *("digits", "cifar10", "static", "adaptive", "transfer", "linf", "l2", "auto", "cpu", "first", "preset", "tiny"),
]
TEXTS = [
    *("", " ", ".", "..", "/", "~", "~nobody-here/x", "a" * 300, "a" * 4100, "9" * 5000, "9" * 4000, "a\nb", "a\0b"),
    *(
        "\x1b[2J",
        "\u202eabc",
        "\ufeff",
        "é" * 70,
        "💥",
        "١٢٣",
        "1e99999999",
        "1e-99999999",
        "1/0",
        "8/255",
        "inf",
        "nan",
    ),
    *("1e400h", "9" * 400 + "h", "90s", "0s", "-1s", "0x10", "true", "1_0", "[", "pgd[", "pgd[steps=", "pgd[steps=3]"),
    *("pgd[steps=" + "9" * 5000 + "]", "jpeg@pgd-at", "art:", "art:Gone", "art:SquareAttack", "timm:", "timm:x", ":"),
    *("torchvision:resnet18", "robustbench:x", "weights:", "weights:/dev/zero", "weights:gone.pt", "weights:a\0.pt"),
    *("folder:", "folder:/dev", "folder:.", "parquet:/proc", "parquet:" + "a" * 5000, "folder:~nobody-here", "x.py:f"),
    *(".py:", "/dev/zero.py:f", "a\0.py:f", "quick.toml", "/dev/zero", "%s%n{0}{x.__class__}", "__import__('os')"),
]
INTS = [-(2**70), -(2**63) - 1, -(2**63), -1, 0, 1, 2, 3, 7, 255, 10**5, 10**9, 2**31, 2**62, 2**63, 2**64, 10**30]
FLOATS = [0.0, -0.0, 0.5, 1.0, -0.1, 0.031, 1e308, -1e308, 5e-324, 1e16, math.inf, -math.inf, math.nan]
TIMES = [datetime.date(2020, 1, 1), datetime.time(1, 2), datetime.datetime(2020, 1, 1, 0, 0)]


class Raw:
    """A piece of TOML text, left alone by what alters configurations."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Raw({self.text[:40]!r}, {len(self.text)})"


LONG = [
    *(Raw("[" * depth + "1" + "]" * depth) for depth in (2, 11, 40, 3000)),
    *(Raw("{a = " * depth + "1" + "}" * depth) for depth in (11, 3000)),
    *(Raw(f"[{', '.join([word] * 600)}]") for word in ("0.5", "1", "true", "'static'", "'standard'", "[]", "{}")),
    Raw(f"[{', '.join(map(str, range(1, 601)))}]"),
]

scalars = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(TEXTS),
    st.sampled_from(INTS),
    st.sampled_from(FLOATS),
    st.sampled_from([True, False, *TIMES]),
    st.text(max_size=8),
)
#: Any value that a TOML text can hold, and numbers that it cannot.
values = st.one_of(
    scalars,
    st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=5)), inner)
        ),
        max_leaves=6,
    ),
    st.sampled_from(LONG),
    st.builds(list),
    st.builds(dict),
)


def text(value: Any) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {text(inside)}" for key, inside in value.items()) + "}"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    # "inf" and "nan" are TOML's own words for them.
    return repr(value)


def quoted(word: str) -> str:
    safe = "".join(
        letter if " " <= letter <= "~" and letter not in '"\\' else f"\\U{ord(letter):08x}" for letter in word
    )
    return f'"{safe}"'


def document(body: dict[str, Any]) -> str:
    return "".join(f"{quoted(key)} = {text(value)}\n" for key, value in body.items())
