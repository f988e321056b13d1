"""Unknown options of a command: reported before any other error, with the nearest option of its verb."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import chain

from bench.cli import command
from bench.registry import unknown
from bench.types import UsageError

#: Words that argparse does not take for options: numbers, a lone dash, anything with a blank.
_VALUE = re.compile(r"-(\d+|\d*\.\d+)?|.*\s.*", re.DOTALL)

_WITHOUT_VERB = ("-h", "--help", "-V", "--version")


def require_options(command_line: Sequence[str], verbs: Mapping[str, argparse.ArgumentParser]) -> None:
    """Check that every word which looks like an option is one of the verb that comes first.

    Args:
        command_line: the arguments of the command.
        verbs: the parser of each verb.

    Raises:
        UsageError: an option is none of the verb, or comes before it.
    """
    verb = command_line[0] if command_line[0] in verbs else None
    own = set(chain.from_iterable(_options(verbs[name]) for name in ([verb] if verb else verbs)))
    own |= set() if verb else set(_WITHOUT_VERB)
    for word in command_line:
        if word == "--":
            return
        if not word.startswith("-") or _VALUE.fullmatch(word):
            continue
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        if not any(option == name or (name.startswith("--") and option.startswith(name)) for option in own):
            help_of = f"{command.name()} {verb}" if verb else command.name()
            raise UsageError(f"{unknown('option', word.partition('=')[0], own)} (see {help_of} --help)")
        if verb is None and name not in _WITHOUT_VERB:
            meant = next((each for each in command_line if each in verbs), "run")
            raise UsageError(f"option '{name}' stands before its verb; right is: {command.name()} {meant} … {name} …")


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return list(chain.from_iterable(action.option_strings for action in parser._actions))
