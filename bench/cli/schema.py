"""The JSON Schema of a configuration, for editors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.cli import options

SUMMARY = "the JSON Schema of a configuration, with the parameters of every method that is installed here"
FILE_NAME = "crossfire.schema.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=options.path, metavar="FILE", help="default: standard output")


def main(args: argparse.Namespace) -> int:
    text = schema_text()
    if args.out is None:
        print(text, end="")
        return 0
    from bench.store.outputs import write_named

    out: Path = args.out
    if write_named(out, text.encode()):
        print(out)
    return 0


def schema_text() -> str:
    """Return the schema as the text of a file."""
    from bench.config.schema import configuration

    return json.dumps(configuration(), indent=1, ensure_ascii=False) + "\n"
