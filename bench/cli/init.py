"""A configuration to start from."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli import command, options
from bench.cli.schema import FILE_NAME, schema_text
from bench.types import UsageError

SUMMARY = "writes a commented configuration to start from, and the JSON Schema by which editors complete it"
#: Bytes of a schema that are the same whatever is installed.
_TITLE = 80
_TEMPLATE = Path(__file__).with_name("my-table.toml")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        type=options.path,
        default=Path(_TEMPLATE.name),
        metavar="FILE",
        help="default: my-table.toml",
    )


def main(args: argparse.Namespace) -> int:
    from bench.store.outputs import move_foreign_aside, new_file, write_into

    file: Path = args.file
    if file.suffix != ".toml":
        raise UsageError(f"{file}: the name of a configuration file ends with .toml")
    text = _TEMPLATE.read_text(encoding="utf-8").replace("COMMAND", command.called()).replace("FILE.toml", file.name)
    with new_file(file, option="init") as new:
        new.write(text.encode())
    schema_file, schema = file.with_name(FILE_NAME), schema_text().encode()
    move_foreign_aside(schema_file, lambda head: schema.startswith(head[:_TITLE]))
    # Made again each time: it lists the methods that are installed now.
    write_into(schema_file, schema, option="init")
    print(f"{file}: what it does is written in it; then: {command.called()} run {file}")
    return 0
