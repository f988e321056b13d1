"""Copy finished work between a store and a remote."""

from __future__ import annotations

import argparse
import sys

from bench.cli import options
from bench.display.base import Display
from bench.visible import visible

_MOST_NAMED = 20

SUMMARY = "carry finished work between the store and s3://, gs://, sftp://, another folder, ..."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url",
        type=options.named,
        metavar="URL",
        help="any address that fsspec knows; for s3:// install s3fs, and so on",
    )
    options.store(parser)


def main(args: argparse.Namespace) -> int:
    from bench.report.misstated import Misstated
    from bench.store.remote import sync
    from bench.types import UsageError

    display: Display = args.display
    store = options.working_store(args)
    store.check_writable()
    store.warn_of_strangers()
    misstated = Misstated()
    with display.phase("carrying files") as at:
        fetched, sent, damaged = sync(
            store, args.url, lambda name: at(0, name), lambda result: misstated.look([result])
        )
    print(f"fetched {fetched.files} files ({fetched.size / 1e6:.2f} MB)")
    print(f"sent {sent.files} files ({sent.size / 1e6:.2f} MB)")
    for note in misstated.notes():
        print(f"warning: of what was fetched, {visible(note)}", file=sys.stderr)
    if len(damaged) > 1:
        for text in damaged[:_MOST_NAMED]:
            print(f"warning: {text}", file=sys.stderr)
        raise UsageError(f"{len(damaged)} files there are damaged or not what they are called; the rest was carried")
    if damaged:
        raise UsageError(damaged[0])
    return 0
