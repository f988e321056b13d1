"""The words that run, train, plan and gc have in common."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.display.base import Display, time_left
from bench.store import account
from bench.store.account import spending
from bench.types import UsageError, shown

if TYPE_CHECKING:
    import torch

    from bench.config.overrides import Setting
    from bench.config.sections import Request
    from bench.schedule.plan import Work
    from bench.schedule.progress import Reporter
    from bench.schedule.run import Runner
    from bench.schedule.tracking import Tracking
    from bench.store.working_store import Store
    from bench.types import CellResult

#: Kinds of variants that have a flag of their own.
_VARIANTS = {
    "protocol": "tpap or sound: which settings of attacks and recipes",
    "scale": "full, small or tiny: which sizes",
}


#: float() also takes the digits of other scripts, blanks and underscores.
_PLAIN = re.compile(r"[0-9.eE+-]{1,40}")

#: What Linux takes as one path.
LONGEST_PATH = 4095


class _Once(argparse.Action):
    """Keeps a pattern, and refuses a second one: whoever gives two means both, and the first would go in silence."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "it is given twice, and takes one pattern")
        setattr(namespace, self.dest, values)


def only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        action=_Once,
        metavar="PATTERN",
        help="only cells whose dataset/model/defense/attack/access match",
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="quick", metavar="PRESET|FILE.toml", help="default: quick")
    variants(parser)
    store(parser)
    parser.add_argument("--data", type=path, metavar="DIR", help="where to look for image sets first")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default: the configuration's")
    parser.add_argument("--n", type=number, metavar="N", help="test images, instead of the configuration's")
    only(parser)
    parser.add_argument("--seed", type=number, metavar="N", help="one seed, instead of the configuration's")
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N", help="the I-th of N parts of the plan, as for the tasks of a job array"
    )
    parser.add_argument("--executor", choices=("inline", "ray"), default="inline", help="default: inline, this process")
    time_budget(parser)


def time_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--time-budget", type=_seconds, metavar="9m", help="end cleanly after so long; run again to go on"
    )


def min_effect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-effect",
        type=points,
        default=0.5,
        metavar="POINTS",
        help="least change that counts; default: 0.5 points",
    )


def variants(parser: argparse.ArgumentParser) -> None:
    for kind, help_text in _VARIANTS.items():
        parser.add_argument(f"--{kind}", metavar="NAME", help=f"{help_text}, where the configuration has such variants")
    parser.add_argument("--epochs", type=number, metavar="N", help="of every training, instead of the configuration's")
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting instead of the configuration's, as in attacks.pgd.steps=50; may be repeated",
    )


def request(args: argparse.Namespace, name_or_file: str) -> Request:
    """Return the checked configurations of a preset or file in the variants asked for."""
    from bench.config import sections

    if args.epochs is not None and args.epochs < 0:
        raise UsageError(f"--epochs {args.epochs}: a number of epochs, 0 or more, is needed")
    for option, path in (("n", "dataset.n"), ("seed", "seeds"), ("device", "run.device"), ("epochs", "train.epochs")):
        if getattr(args, option, None) is not None and any(".".join(each.path) == path for each in args.set):
            raise UsageError(f"--{option} and --set {path} say the same; give one of them")
    return sections.request(name_or_file, chosen_variants(args), epochs=args.epochs, settings=args.set)


def chosen_variants(args: argparse.Namespace) -> dict[str, str]:
    """Return the variant of each kind that has a flag, where one was given."""
    return {kind: name for kind in _VARIANTS if (name := getattr(args, kind)) is not None}


def store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", type=path, metavar="DIR", help="default: $CROSSFIRE_STORE, or .crossfire in the current folder"
    )


def trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="store_true",
        help="open the folders of images, weights and Python files that the results name: for results of your own",
    )


def store_root(args: argparse.Namespace) -> Path:
    from bench.store.working_store import default_root

    root: Path = args.store or default_root()
    try:
        root.stat()
    except FileNotFoundError:
        pass
    # Too long a name, a folder below a file, a loop of links, or another user's folder.
    except OSError as error:
        raise UsageError(f"the store {root} cannot be reached: {error.strerror}; choose another with --store") from None
    return root


def working_store(args: argparse.Namespace, *, trusting: bool = True) -> Store:
    """Return the store for a verb that writes to it, or that says what one would write.

    Raises:
        UsageError: it is no folder, and cannot become one.
    """
    from bench.store.working_store import Store

    store = Store(store_root(args), trusting=trusting)
    store.require_folder()
    return store


@spending("planning")
def work(args: argparse.Namespace) -> tuple[Request, Work]:
    """Return what is asked for and its plan, with a warning for each weights file that cannot be used."""
    from bench.data.cache import reported
    from bench.schedule import unusable
    from bench.schedule.plan import make

    chosen = request(args, args.what)
    if chosen.run.log:
        from bench.schedule.tracking import require_packages

        require_packages(chosen.run.log)
    selection = {"n": args.n, "seed": args.seed, "only": args.only, "shard": args.shard}
    # A verification must not use images that were altered in the cache.
    selection["thorough"] = getattr(args, "verify", None) is not None
    with reported(partial(_show_decoding, args.display)):
        planned = make(
            *chosen.parts,
            name=chosen.name,
            data_folder=data_folder(args),
            lenient=True,
            **selection,
        )
    if planned.unusable:
        unusable.warn(planned, planned.unusable)
    unusable.warn_of_classes(planned)
    unusable.warn_of_passes(planned)
    return chosen, planned


def not_written(errors: Sequence[UsageError], of: int) -> int:
    """Say which of several exports were not written, and return the exit code: 3 if any, else 0.

    Raises:
        UsageError: it is the only one.
    """
    if len(errors) == of == 1:
        raise errors[0]
    for each in errors:
        print(f"error: {each}", file=sys.stderr)
    return 3 if errors else 0


def say_time(args: argparse.Namespace) -> None:
    """Print in one line where the time of this process went, if it trained or attacked."""
    if not args.quiet and (line := account.line()) is not None:
        print(line, flush=True)


def _show_decoding(display: Display, done: int, total: int, seconds: float) -> None:
    if done == total:
        display.work("planning", 0, None)
        return
    rate = done / max(seconds, 1e-3)
    display.work("decoding images", done, total, f"{rate:,.0f} images/s, {time_left((total - done) / rate)}")


def data_folder(args: argparse.Namespace) -> Path | None:
    folder: Path | None = args.data
    if folder is not None and not os.path.isdir(folder):
        raise UsageError(f"--data {folder}: no such folder")
    return folder


def device(args: argparse.Namespace, config: Request) -> torch.device:
    """Return the device asked for; ``auto`` takes a GPU where there is one."""
    from bench.evaluation.device import device_named

    if args.device:
        return device_named(args.device, f"--device {args.device}")
    with config.parts[0].located("run", "device"):
        return device_named(config.run.device, f'run.device = "{config.run.device}"')


def runner(
    args: argparse.Namespace, config: Request, work: Work, tracking: Tracking, done: Iterable[str] = ()
) -> Callable[[Reporter], Runner]:
    """Return what makes the runner of this process; with ``--executor ray`` it only leads, and needs no GPU itself.

    Args:
        args: of the command.
        config: what is asked for.
        work: its plan.
        tracking: where epochs and cells are logged as well.
        done: keys of cells known to be done.
    """
    if args.executor == "ray" and registry.imported_as("ray") is None:
        raise UsageError("--executor ray needs a package: pip install 'crossfire-bench[ray]'")
    import torch

    from bench.schedule.run import Runner

    here = torch.device("cpu") if args.executor == "ray" else device(args, config)
    batch = None if config.run.batch == "auto" else config.run.batch
    store = working_store(args)
    control, charge = args.control, args.charge
    return lambda reporter: Runner(
        *(work, store, here, batch, control.check_run, reporter, config.run.timeout),
        control=control,
        lost=charge.lost,
        logs=charge.logs,
        done=set(done),
        tracking=tracking,
        anytime=args.time_budget is not None,
    )


def tracking(config: Request, work: Work, store: Store) -> Tracking:
    """Return what logs epochs and cells where ``[run] log`` says, once it is entered."""
    from bench.schedule.tracking import Tracking
    from bench.store.provenance import source

    if not config.run.log:
        return Tracking((), store.root, plan=work.plan.name, commit=None, config={})
    parts = [part.model_dump(mode="json", exclude_defaults=True) for part in config.parts]
    plain = {"run": config.run.model_dump(mode="json", exclude_defaults=True), "configurations": parts}
    return Tracking(config.run.log, store.root, plan=work.plan.name, commit=source()[0], config=plain)


def where(args: argparse.Namespace, config: Request, runner: Runner) -> str:
    """Return in words on what device, and into what store, a run works."""
    device = runner.device if args.executor == "inline" else f"{args.device or config.run.device} on Ray"
    return f"device {device}; store {runner.store.root.resolve()}"


def execute(args: argparse.Namespace, config: Request, runner: Runner) -> list[CellResult]:
    """Do what is missing of the plan where ``--executor`` says, and return its results."""
    if args.executor == "inline":
        return runner.run()
    from bench.schedule import ray

    return ray.run(runner, device=args.device or config.run.device, cpus=config.run.cpus, gpus=config.run.gpus)


def _seconds(text: str) -> float:
    from bench.config.sections import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def share(text: str) -> float:
    """Return a share such as ``2%`` or ``0.02`` as a fraction."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(%?)", text)
    value = 0.0 if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no share such as 2% or 0.02")
    return value


def points(text: str) -> float:
    """Return a number of percentage points that was given as an argument."""
    try:
        value = float(text) if _PLAIN.fullmatch(text) else -1.0
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no number of points between 0 and 100")
    return value


def number(text: str) -> int:
    """Return a whole number written with the digits 0 to 9 only; the caller checks its range."""
    if not re.fullmatch(r"-?[0-9]{1,100}", text):
        raise argparse.ArgumentTypeError(
            f"invalid int value: {shown(text)}; it takes digits from 0 to 9 alone, at most 100"
        )
    return int(text)


def path(text: str) -> Path:
    """Return the path that a flag names; the caller checks whether it exists."""
    named(text)
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{shown(text)} cannot be a path: it has a byte 0")
    if (length := len(os.fsencode(text))) > LONGEST_PATH:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} cannot be a path: it has {length:,} bytes, and may have at most {LONGEST_PATH:,}"
        )
    return Path(text)


#: Endings of files that results, claims and tables are read from, also in folders.
_READ = (".json", ".receipt", ".toml")


def require_apart(out: Path | None, sources: Iterable[str | Path | None]) -> None:
    """Require that a report replaces nothing that it is made of.

    Args:
        out: the file that it is written to, if to one.
        sources: what is read: files and folders. What is neither, such as a commit, is passed over.

    Raises:
        UsageError: it is one of the files, or a file of results, claims or tables in one of the folders.
    """
    if out is None or not os.path.isfile(out):
        return
    for source in (each for each in sources if each is not None):
        is_it = os.path.isfile(source) and out.samefile(source)
        is_inside = os.path.isdir(source) and Path(source).resolve() in out.resolve().parents
        if is_it or (is_inside and out.suffix.lower() in _READ):
            raise UsageError(f"--out {out} would replace what is read; name another file")


def named(text: str) -> str:
    """Return a path, address or commit as given, but for an empty one: of a variable that is not set, it would be the
    current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty; the current folder is '.'")
    return text


def _setting(text: str) -> Setting:
    from bench.config.overrides import setting

    return setting(text)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no part such as 1/8, ..., 8/8")
    return int(match[1]), int(match[2])
