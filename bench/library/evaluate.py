"""One call from a network, or a defense on one, and images to an honest table."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.display import choice
from bench.display.base import Display
from bench.display.console import plain_console
from bench.keys import attack_key
from bench.library import request
from bench.library.images import Layout
from bench.process.isolation import isolated
from bench.report.frame import load_results
from bench.report.leaderboard.tables import Board, Table, build
from bench.report.render import terminal, text
from bench.report.render.html import fragment
from bench.schedule.plan import Work
from bench.schedule.run import Runner
from bench.store import files, inventory, planned
from bench.store.planned import PlannedTable
from bench.store.working_store import Store
from bench.types import Access, CellResult, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

#: Of a table in a notebook that is shown as text.
_WIDTH = 120
#: A call puts settings of the process aside, so there is one at a time.
_one_at_a_time = threading.Lock()
_here = threading.local()


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What :func:`evaluate` measured.

    Attributes:
        results: one for each cell: the clean evaluation, and each attack under each access.
        store: the folder of the store that holds them, with one row per image and the adversarial images.
    """

    results: tuple[CellResult, ...]
    store: Path
    _tables: tuple[PlannedTable, ...] = field(repr=False)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The cells as a DataFrame, with the columns of :func:`bench.load_results`."""
        return load_results(self.results)

    @property
    def verdict(self) -> str:
        """What the leaderboard concludes, a line for each test-time step; of a bare network, what it withstands.

        A line ends with the reasons for which its number is an upper bound only, where there are some.
        """
        return "\n".join(chain.from_iterable(map(_conclusions, self._board.tables)))

    @cached_property
    def _board(self) -> Board:
        return build(self.results, self._tables)

    def save(self, store: str | Path) -> Path:
        """Copy results, records and adversarial images into a working store, which is made if necessary.

        Commands read them there: ``leaderboard --store DIR``, ``show KEY --store DIR``, ``compare``. Results that the
        store has already stay.

        Args:
            store: its folder.

        Returns:
            The folder.

        Raises:
            UsageError: the store cannot be written, or the one to copy from is gone.
        """
        source, target = Store(self.store), Store(Path(store).expanduser())
        target.check_writable()
        if source.root.resolve() != target.root.resolve():
            with target.writing():
                for result in self.results:
                    _copy(source, target, result)
        planned.keep(target, self._tables, partly=True)
        target.remember()
        return target.root

    def __repr__(self) -> str:
        out = StringIO()
        plain_console(out, _WIDTH).print(terminal.leaderboard(self._board, width=_WIDTH))
        return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())

    def _repr_html_(self) -> str:
        return fragment(self._board)


def evaluate(
    net_or_defense: nn.Module | str | object,
    images: object,
    labels: object = None,
    *,
    base: nn.Module | str | None = None,
    weights: str | Path | None = None,
    attacks: object = ("pgd", "autoattack"),
    eps: str | float | None = None,
    norm: str | None = None,
    access: Access | Iterable[Access] | None = None,
    n: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    batch: int | str = "auto",
    store: str | Path | None = None,
    progress: bool = True,
    quantize: bool = False,
    layout: Layout | None = None,
    num_classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    name: str | None = None,
    images_name: str = "images",
    data: str | Path | None = None,
) -> Evaluation:
    """Attack a network, or a test-time defense on one, and measure what it withstands.

    The engine, the audit of every adversarial image, the records and the keys are those of the command line. What is
    finished in the store is not computed again, so the same call continues where an interrupted one ended.

    Args:
        net_or_defense: a ``torch.nn.Module`` from images (N, C, H, W) float32 in [0, 1] to logits, normalising inside;
            or the name of a network, with ``weights``; or a test-time step on ``base``: an instance with ``wrap`` and
            ``surrogate``, a name such as ``"jpeg"`` or ``"path.py:Name"``, a pair ``("jpeg", {"quality": [50, 75]})``,
            or a list of these. The classifier under a step is evaluated beside it, and attacks on the step are static
            and adaptive.
        images: a tensor or array (N, C, H, W) or (N, H, W, C), uint8 or floats in [0, 1]; a ``DataLoader`` or other
            iterable of (images, labels); a ``Dataset``; or the name of a set, such as ``"digits"``.
        labels: whole numbers (N,), where ``images`` has none itself.
        base: the classifier under a test-time step: a module, or the name of a network, with ``weights``.
        weights: the file with the state dict of a network that is given by name.
        attacks: names, pairs of a name and its parameters, tables as in ``[[attacks]]`` of a configuration, such as
            ``{"use": "pgd", "steps": 50}``, or functions ``f(target, x, y, threat, *, ...)``; one or a list.
        eps: the budget, as text or a number: ``"8/255"``, 8 / 255. Without ``norm`` it is that of the attacks that keep
            to L-infinity. By default 8/255, and 1/2 in L2.
        norm: ``"linf"`` or ``"l2"``, for all attacks; by default each has its own.
        access: what the attacker of a test-time step sees: ``"static"`` the classifier, ``"adaptive"`` all of it; by
            default both are run.
        n: how many images, the first ones; all by default.
        seed: of every random draw, at least 0.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        batch: images at a time; ``"auto"`` takes what fits.
        store: the folder of a working store, to continue from and to keep. By default one that ends with this process.
        progress: show bars, or lines where there is no terminal.
        quantize: round images that are no multiples of 1/255, which are refused otherwise.
        layout: ``"NCHW"`` or ``"NHWC"``, where the shape does not tell.
        num_classes: of a network given by name; by default the largest label and one.
        mean: of a network that expects normalised images: it is given (image - mean) / std; one number, or one for each
            channel, for pixels in [0, 1].
        std: goes with ``mean``.
        name: of the network or step in tables; by default that of its class.
        images_name: of the images in tables.
        data: the folder where named sets are looked for first.

    Returns:
        The results, as a DataFrame (``.frame``), a table in a notebook, a verdict, and a store.

    Raises:
        UsageError: an argument is not what it should be; one line says what would be.
    """
    folder = None if data is None else Path(data)
    with undisturbed(progress=progress) as display, ExitStack() as stack:
        entries = request.attack_entries(attacks, eps=eps, norm=norm, access=access, stack=stack)
        with display.phase("reading the images and the network"):
            asked = request.subject(net_or_defense, base=base, weights=weights, name=name, stack=stack)
            dataset = request.images_of(
                images,
                labels,
                asked,
                n=n,
                layout=layout,
                quantize=quantize,
                num_classes=num_classes,
                images_name=images_name,
                data_folder=folder,
                stack=stack,
            )
            asked = asked.normalised(mean, std)
            config, work = request.planned(
                asked, dataset, entries, seed=seed, batch=batch, data_folder=folder, device=device
            )
        root = temporary_store() if store is None else Path(store).expanduser()
        runs_on = request.device_named(device)
        return _run(work, Store(root), runs_on, None if batch == "auto" else config.run.batch, display)


def _run(work: Work, store: Store, device: torch.device, batch: Any, display: Display) -> Evaluation:
    store.check_writable()
    tables = planned.tables_of(work.plan.name, work.requested)
    planned.keep(store, tables, partly=True)
    runner = Runner(work, store, device, batch, lambda: None, display)
    total = len(work.plan.cells)
    with runner.at_work():
        _check_network(runner)
        try:
            with display.run(work.plan.name, total, f"; device {device}"):
                results = runner.run()
        except KeyboardInterrupt as interrupt:
            done = sum(store.finished(each) is not None for each in work.plan.cells)
            interrupt.add_note(f"{done} of {total} cells are finished and kept; the same call continues")
            raise
    return Evaluation(tuple(results), store.root, tuple(tables))


def _check_network(runner: Runner) -> None:
    """Raises UsageError: the network cannot be built, or its weights cannot be used."""
    try:
        runner.check_weights()
    except UsageError as error:
        # There is one network, so this says nothing.
        raise UsageError(str(error).removeprefix("no cell can be measured: ")) from None


@contextmanager
def undisturbed(*, progress: bool) -> Iterator[Display]:
    """Put the settings of the process aside, so that they change no number, and restore them afterwards.

    Raises:
        UsageError: it is inside another such block of the same thread.
    """
    if getattr(_here, "busy", False):
        raise UsageError("a defense or an attack that is evaluated cannot call bench itself")
    mode = choice.default_mode() if progress else "none"
    with _one_at_a_time, choice.shown(mode) as display, isolated("bench.evaluate"):
        _here.busy = True
        try:
            with torch.inference_mode(False), torch.enable_grad():
                _set_defaults()
                yield display
        finally:
            _here.busy = False


def _set_defaults() -> None:
    """Give torch and NumPy the settings that they begin with, as a command has them."""
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    for device in ("cpu", "cuda"):
        torch.set_autocast_enabled(device, False)
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")


def _copy(source: Store, target: Store, result: CellResult) -> None:
    """Copy a result with its records and, before it, its adversarial images."""
    key = result.key
    if (known := target.get(key)) is not None and known.status == "done" and target.has_records(known):
        return
    if result.cell.attack is not None:
        attack = attack_key(result.cell.attack)
        for chunk in inventory.chunks(source.adversarial(attack)):
            target.make_folder(target.adversarial(attack))
            _copy_file(chunk, target.adversarial(attack) / chunk.name)
    if result.records_sha is not None:
        _copy_file(source.records(key), target.records(key))
    target.put(result)


def _copy_file(source: Path, target: Path) -> None:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}; evaluate again") from None
    files.write_atomically(target, data)


def _conclusions(table: Table) -> Iterator[str]:
    """Yield what a table concludes of its test-time steps; of a table without any, what its network withstands."""
    yield from table.verdicts
    threats = [each for each in table.threats if each.threat is not None]
    for each in threats:
        if each.unjudged:
            yield f"{each.defense}, {each.group}: no verdict, for {each.unjudged}"
    if any({"static", "adaptive"} & each.evaluated_attacks.keys() for each in threats):
        return
    for each in threats:
        worst, count = each.worst["any"], len(each.attacks)
        if worst.number is None:
            yield f"{each.defense}, {each.group}: no attack finished"
            continue
        remarks = ", ".join(filter(None, (text.interval(worst), *worst.footnotes)))
        attacks = f"{count} attack{'s' * (count > 1)}"
        yield f"{each.defense}: {100 * worst.number:.1f} % survive {attacks} ({each.group}: {remarks})"


@cache
def temporary_store() -> Path:
    """Return the store of calls that name none; it ends with this process."""
    root, process = tempfile.mkdtemp(prefix="crossfire-"), os.getpid()

    def remove() -> None:
        # A fork ends too, and the store is not its own.
        if os.getpid() == process:
            shutil.rmtree(root, ignore_errors=True)

    atexit.register(remove)
    return Path(root)
