"""Completion of verbs, options, presets and names, for shells."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from bench.cli import command

SUMMARY = "the script that completes commands in bash, zsh or fish"
SHELLS = ("bash", "zsh", "fish")
_HOW = {
    "bash": 'eval "$(crossfire completion bash)"',
    "zsh": "crossfire completion zsh > a file _crossfire in a folder of $fpath",
    "fish": "crossfire completion fish | source",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="; ".join(f"{shell}: {how}" for shell, how in _HOW.items()))


def main(args: argparse.Namespace) -> int:
    import shtab

    from bench.cli import parsers

    top, verbs = parsers(command.INSTALLED)
    for verb in verbs.values():
        for action in verb._actions:
            completed = _completed(action)
            if completed is not None:
                action.complete = completed  # type: ignore[attr-defined]
    print(shtab.complete(top, shell=args.shell))
    return 0


def _completed(action: argparse.Action) -> Mapping[str, Any] | None:
    """Return what an argument is completed with; nothing where its choices, or nothing, are known."""
    import shtab

    if action.metavar == "PRESET|FILE.toml":
        return _configurations()
    if action.metavar == "DIR":
        return shtab.DIRECTORY
    return shtab.FILE if action.metavar == "SOURCE" or "FILE" in str(action.metavar) else None


def _configurations() -> Mapping[str, Any]:
    """Return what completes presets and TOML files, for each shell."""
    from bench.config.overlay import presets

    names, function = " ".join(presets()), "_crossfire_configurations"
    bash = f"""{function}() {{
  compgen -W "{names}" -- "$1"
  compgen -f -X '!*.toml' -- "$1"
  compgen -d -S / -- "$1"
}}"""
    zsh = f"""{function}() {{
  _alternative 'presets:preset:({names})' 'files:file:_files -g "*.toml"'
}}"""
    fish = f"""function {function}
  string split ' ' '{names}'
  __fish_complete_suffix .toml
end"""
    calls = {"bash": function, "zsh": function, "fish": f"({function})"}
    return {**calls, "preamble": {"bash": bash, "zsh": zsh, "fish": fish}}
