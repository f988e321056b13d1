"""The process that writes to trackers: lines of JSON in, of :class:`bench.schedule.tracking.Tracking`; failures out.

Started as ``python -m bench.schedule.trackers``. A tracker that raises is off from then on, and the others go on. What
was written to one is kept in a ledger in the store, so that nothing is written twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from bench.keys import sha256_hex
from bench.types import text_of

#: Milliseconds and tries of MLflow's client: a server that does not answer is given up soon.
_MLFLOW = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Point(NamedTuple):
    """Numbers of an epoch or a cell: an identity, a curve, the step on it, and the key of the training or the cell."""

    name: str
    series: str
    step: int
    values: Mapping[str, float]
    key: str


class About(NamedTuple):
    """The run: its store, the name of its plan, that name for a folder, an identity, commit and configuration."""

    store: Path
    plan: str
    folder: str
    id: str
    commit: str | None
    config: dict[str, Any]


class Tracker(Protocol):
    """Where points go; anything that it raises turns it off."""

    ledger: Path

    def write(self, points: Sequence[Point]) -> None:
        """Write points so that they are safe when this returns."""

    def close(self) -> None:
        """End the run there."""


class TensorBoard:
    """Event files in the store, which ``tensorboard --logdir`` shows."""

    def __init__(self, about: About) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = about.store / "tensorboard" / about.folder
        self.ledger = folder / "written.jsonl"
        self._writer = EventFileWriter(str(folder))
        self._event, self._summary = Event, Summary
        self._metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._tensor = TensorProto
        if not self.ledger.exists():
            config = json.dumps({"plan": about.plan, "commit": about.commit, **about.config}, indent=2)
            self._add(0, [self._text("configuration", "    " + config.replace("\n", "\n    "))])

    def _text(self, tag: str, text: str) -> Any:
        tensor = self._tensor(dtype="DT_STRING", string_val=[text.encode()])
        return self._summary.Value(tag=tag, metadata=self._metadata, tensor=tensor)

    def _add(self, step: int, values: Sequence[Any]) -> None:
        import time

        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            scalars = [
                self._summary.Value(tag=f"{point.series}/{name}", simple_value=value)
                for name, value in point.values.items()
            ]
            self._add(point.step, [*scalars, self._text(f"{point.series}/key", point.key)])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; offline where no account is known, unless ``WANDB_MODE`` says otherwise."""

    def __init__(self, about: About) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "crossfire")
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if _has_account() else "offline")
        config = {"plan": about.plan, "commit": about.commit, **about.config}
        settings = wandb.Settings(console="off", silent=True, save_code=False)
        self._run = wandb.init(
            project=project, id=about.id, name=about.plan, resume="allow", mode=mode, config=config, settings=settings
        )
        self._run.define_metric("train/*", step_metric="epoch")
        self._run.define_metric("cells/*", step_metric="seed")
        self.ledger = _ledger(about, "wandb", f"{os.environ.get('WANDB_BASE_URL')} {project}")

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            step = "epoch" if point.series.startswith("train/") else "seed"
            named = {f"{point.series}/{name}": value for name, value in point.values.items()}
            self._run.log({step: point.step, f"{point.series}/key": point.key, **named})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of Trackio, in its own folder on this machine (``TRACKIO_DIR``)."""

    def __init__(self, about: About) -> None:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", "crossfire")
        config = {"plan": about.plan, "commit": about.commit, **about.config}
        name = f"{about.plan} {about.id}"
        self._run = trackio.init(project=project, name=name, resume="allow", config=config, embed=False)
        self._module = trackio
        self.ledger = _ledger(about, "trackio", f"{os.environ.get('TRACKIO_DIR')} {project}")

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            named = {f"{point.series}/{name}": value for name, value in point.values.items()}
            self._module.log({**named, f"{point.series}/key": point.key}, step=point.step)

    def close(self) -> None:
        self._module.finish()


class MLflow:
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` says; by default a file in the current folder."""

    def __init__(self, about: About) -> None:
        for name, value in _MLFLOW.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Metric, RunTag

        self._client = MlflowClient()
        self._metric, self._tag = Metric, RunTag
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "crossfire")
        there = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if there is None else there.experiment_id
        runs = self._client.search_runs([number], filter_string=f"tags.crossfire = '{about.id}'")
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            tags = {"crossfire": about.id, "mlflow.source.git.commit": str(about.commit)}
            self._run = self._client.create_run(number, run_name=about.plan, tags=tags).info.run_id
            self._client.log_dict(self._run, about.config, "configuration.json")
        self.ledger = _ledger(about, "mlflow", f"{get_tracking_uri()} {experiment}")

    def write(self, points: Sequence[Point]) -> None:
        import time

        now = int(time.time() * 1000)
        for point in points:
            series = "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in point.series)
            metrics = [self._metric(f"{series}/{name}", value, now, point.step) for name, value in point.values.items()]
            tag = self._tag(f"{series}/key {point.step}"[:250], point.key)
            self._client.log_batch(self._run, metrics=metrics, tags=[tag])

    def close(self) -> None:
        self._client.set_terminated(self._run)


_OPEN: dict[str, Callable[[About], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def _has_account() -> bool:
    import wandb

    try:
        return bool(wandb.login(prompt=False))
    except Exception:
        return False


def _ledger(about: About, name: str, where: str) -> Path:
    return about.store / "trackers" / f"{name}-{sha256_hex(where)[:12]}-{about.folder}.jsonl"


class Ledger:
    """The names of what a tracker has, one a line; shared by all processes that write to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: set[str] = set()
        self._read = 0

    def lacks(self, points: Sequence[Point]) -> bool:
        """Return whether one may be missing; what other processes wrote since the last look is not known."""
        return any(point.name not in self._names for point in points)

    @contextmanager
    def missing(self, points: Sequence[Point]) -> Iterator[list[Point]]:
        """Yield the points that are not there, and note them once the block has written them."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            # Some network folders know no locks: two processes may then write a point each.
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(self._read)
            self._names |= {line.decode(errors="replace").strip() for line in file}
            missing = [point for point in points if point.name not in self._names]
            yield missing
            file.write("".join(f"{point.name}\n" for point in missing).encode())
            self._names |= {point.name for point in missing}
            self._read = file.tell()


class _Guarded:
    """A tracker that is off once it has failed, which is said once."""

    def __init__(self, name: str, about: About, say: Callable[[dict[str, str]], None]) -> None:
        self._name, self._say = name, say
        self._tracker: Tracker | None = None
        self._ledger: Ledger | None = None
        with self._guarded():
            self._tracker = _OPEN[name](about)
            self._ledger = Ledger(self._tracker.ledger)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            self._tracker = None
            self._say(
                {"failed": self._name, "why": " ".join(f"{type(error).__name__}: {text_of(error)}".split())[:300]}
            )

    def write(self, points: Sequence[Point]) -> None:
        if self._tracker is not None and self._ledger is not None and self._ledger.lacks(points):
            with self._guarded(), self._ledger.missing(points) as missing:
                if missing:
                    self._tracker.write(missing)

    def close(self) -> None:
        if self._tracker is not None:
            with self._guarded():
                self._tracker.close()


def _epochs(store: Path, key: str, series: str) -> list[Point]:
    """Return the finished epochs of a training as its log has them."""
    try:
        lines = (store / "train" / key / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    points = []
    for line in lines:
        # The last line may be written just now.
        with suppress(ValueError):
            row = json.loads(line)
            step = row.pop("epoch")
            points.append(Point(f"train/{key}/{step}", series, step, dict(_numbers(row)), key))
    return points


def _numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)


def points_of(content: Mapping[str, Any], store: Path) -> list[Point]:
    """Return the points that a line is about."""
    if "training" in content:
        return _epochs(store, content["training"], content["series"])
    key = content["cell"]
    return [Point(f"cells/{key}", content["series"], content["step"], content["values"], key)]


def main(lines: TextIO, out: TextIO) -> None:
    """Write what the lines say to every tracker, until they end."""

    def say(content: dict[str, str]) -> None:
        # Nobody may listen any more.
        with suppress(OSError, ValueError):
            print(json.dumps(content), file=out, flush=True)

    first = json.loads(next(lines))
    store = Path(first["store"])
    about = About(store, first["plan"], first["folder"], first["id"], first["commit"], first["config"])
    trackers = [_Guarded(name, about, say) for name in first["trackers"]]
    for line in lines:
        points = points_of(json.loads(line), store)
        for tracker in trackers:
            tracker.write(points)
    for tracker in trackers:
        tracker.close()
    say({"ended": "all"})


if __name__ == "__main__":
    # What packages print is for nobody.
    listener = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    main(sys.stdin, listener)
