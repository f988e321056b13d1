"""Options of a command as they are spelled: an unknown one is reported before any other error, with the nearest one."""

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

#: Values that argparse takes for options: no option begins with a digit.
_NEGATIVE = re.compile(r"-\.?\d.*")

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
            if _NEGATIVE.fullmatch(word):
                raise UsageError(f"'{word}': no option that takes a value stands before it (see {help_of} --help)")
            raise UsageError(f"{unknown('option', word.partition('=')[0], own)} (see {help_of} --help)")
        if verb is None and name not in _WITHOUT_VERB:
            meant = next((each for each in command_line if each in verbs), "run")
            raise UsageError(f"option '{name}' stands before its verb; right is: {command.name()} {meant} … {name} …")


def with_values(command_line: Sequence[str], verbs: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """Return a command line in which a negative value, such as ``-5m``, belongs to the option before it.

    Then the option says what is wrong with it; argparse would take it for an option of its own.

    Args:
        command_line: the arguments of the command.
        verbs: the parser of each verb.
    """
    if command_line[0] not in verbs:
        return list(command_line)
    verb = verbs[command_line[0]]
    takes_one = list(chain.from_iterable(each.option_strings for each in verb._actions if each.nargs is None))
    joined: list[str] = []
    for at, word in enumerate(command_line):
        if word == "--":
            return joined + list(command_line[at:])
        before = joined[-1] if joined else ""
        takes_it = before.startswith("--") and any(each.startswith(before) for each in takes_one)
        if takes_it and _NEGATIVE.fullmatch(word):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return list(chain.from_iterable(action.option_strings for action in parser._actions))
