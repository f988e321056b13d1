"""Free what no plan needs."""

from __future__ import annotations

import argparse
import json
from collections import Counter

from bench.cli import options
from bench.display.base import Display
from bench.visible import visible

SUMMARY = "what no plan needs: lists it; deletes it only with --yes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plans", nargs="+", metavar="PRESET|FILE.toml", help="the plans to keep everything for")
    options.variants(parser)
    options.store(parser)
    parser.add_argument("--data", type=options.path, metavar="DIR", help="where to look for image sets first")
    parser.add_argument("--n", type=options.number, metavar="N", help="test images, as they were given to run")
    parser.add_argument("--seed", type=options.number, metavar="N", help="the seed, as it was given to run")
    parser.add_argument("--yes", action="store_true", help="delete")
    parser.add_argument("--json", action="store_true")


def main(args: argparse.Namespace) -> int:
    from bench.schedule.gc import delete, garbage
    from bench.schedule.plan import make

    store = options.working_store(args)
    display: Display = args.display
    with display.phase("planning"):
        works = [
            make(*options.request(args, each).parts, data_folder=options.data_folder(args), n=args.n, seed=args.seed)
            for each in args.plans
        ]
    with display.phase("looking through the store"):
        classified = garbage(works, store)
    if args.yes:
        with display.phase("deleting"), store.writing():
            delete(classified.unneeded)
    if args.json:
        unneeded = [
            {"path": str(each.path), "what": each.what, "bytes": each.size, "left": False}
            for each in classified.unneeded
        ]
        left = [
            {"path": str(each.path), "what": each.why, "bytes": each.size, "left": True} for each in classified.left
        ]
        print(json.dumps(unneeded + left, indent=2))
        return 0
    for each in classified.unneeded:
        print(visible(f"{each.size / 1e6:>10.2f} MB  {each.what:<16} {each.path}"))
    kinds = ", ".join(f"{kind} x {count}" for kind, count in Counter(each.what for each in classified.unneeded).items())
    total = sum(each.size for each in classified.unneeded) / 1e6
    done = "deleted" if args.yes else "would be deleted; --yes deletes"
    print(f"{total:.2f} MB: {kinds}; {done}" if classified.unneeded else "nothing that the plans do not need")
    for other in classified.left:
        print(visible(f"left: {other.why}: {other.path}"))
    return 0
