"""How classes of a set are called in pictures and pages: their names where the set has them, else their numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from bench.visible import visible

#: The number of a synset, which ImageNet's folders and Tiny-ImageNet's lists write before its words.
_WORDNET_NUMBER = re.compile(r"n\d{8}[ _-]+(?=\S)")


def class_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return how each class is shown, on one line and with nothing hidden; no two are the same.

    Where all names begin with a number of WordNet, such as ``n02129165 lion``, only the words are left. A bare number
    becomes ``class 3``, as does an empty name with the number of its class. Names that would look the same get the
    number of their class.

    Args:
        names: of the classes, in their order.
    """
    numbered = all(map(_WORDNET_NUMBER.match, names))
    words = [visible(_WORDNET_NUMBER.sub("", name, count=1) if numbered else name).strip() for name in names]
    labels = [_label(word, number) for number, word in enumerate(words)]
    counts = Counter(labels)
    return tuple(label if counts[label] == 1 else f"{label}\xa0({number})" for number, label in enumerate(labels))


def _label(word: str, number: int) -> str:
    # Blanks that do not break keep a number beside its word.
    if not word:
        return f"class\xa0{number}"
    return f"class\xa0{word}" if word.isdecimal() else word
