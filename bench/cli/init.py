"""A configuration to start from, or a repository for a public leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli import command, options
from bench.cli.schema import FILE_NAME, schema_text
from bench.types import UsageError

SUMMARY = "writes a commented configuration to start from, with its JSON Schema, or the files of a public leaderboard"
#: Bytes of a schema that are the same whatever is installed.
_TITLE = 80
_TEMPLATE = Path(__file__).with_name("my-table.toml")
#: What asks for a public leaderboard instead, and where its files lie here and in the new repository.
_LEADERBOARD = "leaderboard"
_PUBLIC = Path(__file__).with_name("public")
_FILES = {
    "README.md": "README.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "workflow.yml": ".github/workflows/leaderboard.yml",
    "gitignore": ".gitignore",
    "withdrawn.toml": "submissions/withdrawn.toml",
    "submission.toml": "example/submission.toml",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        nargs="?",
        type=options.path,
        default=Path(_TEMPLATE.name),
        metavar="FILE|leaderboard",
        help="default: my-table.toml; leaderboard: the files of a public leaderboard from pull requests",
    )
    parser.add_argument(
        "folder", nargs="?", type=options.path, metavar="DIR", help="of init leaderboard; default: leaderboard"
    )


def main(args: argparse.Namespace) -> int:
    from bench.store.outputs import move_foreign_aside, new_file, write_into

    file: Path = args.file
    if str(file) == _LEADERBOARD:
        return _init_leaderboard(args.folder or Path(_LEADERBOARD))
    if args.folder is not None:
        raise UsageError(f"init takes one file, or init leaderboard DIR; what is {args.folder}?")
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


def _init_leaderboard(folder: Path) -> int:
    """Write the files of a repository that has none of them yet."""
    from bench.store.outputs import new_file, require_new

    paths = {name: folder / path for name, path in _FILES.items()}
    for path in paths.values():
        require_new(path, option="init")
    version = command.version().rpartition(" ")[2]
    for name, path in paths.items():
        text = (_PUBLIC / name).read_text(encoding="utf-8")
        if name == "workflow.yml":
            text = text.replace("crossfire-bench==VERSION", f"crossfire-bench=={version}")
        with new_file(path, option="init") as new:
            new.write(text.encode())
        print(path)
    print(f"{folder}: put it on GitHub, and let Pages come from its Actions; {paths['README.md']} says more")
    return 0
