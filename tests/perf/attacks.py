"""How near each attack is to the cost of its passes, and to its peers: ``python -m tests.perf.attacks``.

One run, everything interleaved, medians. The unit is one forward and backward pass to the images, in the fastest
layout, parameters frozen, re-measured round every attack. *over floor* is an attack's time over the passes that its
settings need times the unit; *over peer* that number over the fastest other library's, leaving out one that stopped
before it had taken as many passes. Attacks get the fast layout, as in the harness; peers get the network as it is,
parameters frozen (with trainable ones, as users have them, several are slower still). On a GPU passes that recur are
replayed as graphs where that pays, and *eager* is the same attack without. FWA works out a transport plan at
every step, which costs the same whatever the network, so its time over the floor is largest on the small one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Threat
from bench.data import open_set
from bench.evaluation.budget import PassBudget
from bench.evaluation.goals import goals_of
from bench.evaluation.replays import Replays
from bench.evaluation.target import Meter, NetworkTarget, Truth
from bench.models import weights
from bench.models.bf16 import LeadingBf16, has_units
from bench.models.build import build, network_ref
from bench.models.layout import fast_layout
from bench.process.capture import graphs
from bench.process.isolation import frozen
from bench.registry import find
from bench.store.provenance import provenance
from bench.types import UsageError
from tests.perf.peers import (
    EPS,
    Case,
    advlib,
    advlib_to_least_likely,
    art,
    foolbox,
    least_likely,
    official,
    official_ensemble,
    official_square,
    torchattacks,
    torchattacks_to_least_likely,
)

RESULTS = Path(__file__).resolve().parents[2] / "results" / "perf"
SCHEMA = 3
STEP = 2 / 255
LINF = Threat()
L2 = Threat(norm="l2", eps=None)
L2_BALL = Threat(norm="l2", eps="1/2")
L1 = Threat(norm="l1", eps=12)
L0 = Threat(norm="l0", eps=None)
FLOW = Threat(norm="flow", eps=None)
MASS = Threat(norm="wasserstein", eps="1/200")


class Row(NamedTuple):
    """One attack to measure: what its settings need, and the same settings in other libraries.

    The settings are those of an entry of ``[[attacks]]``, its ``target`` and ``max_passes`` among them.
    """

    attack: str
    threat: Threat
    settings: dict[str, Any]
    forwards: int
    backwards: int
    peers: dict[str, Callable[[Case], Tensor]]
    slow: bool = False
    images: int | None = None
    networks: tuple[str, ...] = ("small-cnn", "resnet18")


def rows() -> list[Row]:
    every = {"rule": "last-iterate"}
    small = {"eps": EPS, "alpha": STEP, "steps": 10}
    pgd_peers = {
        "torchattacks": torchattacks("PGD", eps=EPS, alpha=STEP, steps=20),
        "foolbox": foolbox("LinfPGD", EPS, abs_stepsize=STEP, steps=20),
        "art": art("ProjectedGradientDescent", eps=EPS, eps_step=STEP, max_iter=20, verbose=False),
    }
    ti_peer = {"torchattacks": torchattacks("TIFGSM", **small, decay=1.0, len_kernel=7, diversity_prob=0.7)}
    apgd_peers = {
        "pyautoattack": official(n_iter=30, eps=EPS, seed=0),
        "torchattacks": torchattacks("APGD", eps=EPS, steps=30),
    }
    apgd_l1 = official(n_iter=30, eps=12.0, norm="L1", use_largereps=True, seed=0)
    square_peers = {
        "pyautoattack": official_square(200),
        "torchattacks": torchattacks("Square", eps=EPS, n_queries=200),
    }
    wasserstein = art("Wasserstein", eps=0.005, eps_step=0.05, max_iter=5, regularization=100, verbose=False)
    official_l2 = official_ensemble(100, 9, 5000, norm="L2", eps=0.5)
    short = {"steps": 10, "targets": 3, "queries": 200}
    return [
        Row(
            "fgsm",
            LINF,
            {},
            1,
            1,
            {
                "torchattacks": torchattacks("FGSM", eps=EPS),
                "foolbox": foolbox("LinfFastGradientAttack", EPS),
                "art": art("FastGradientMethod", eps=EPS),
            },
        ),
        Row("pgd", LINF, {"steps": 20, **every}, 20, 20, pgd_peers),
        Row("pgd", LINF, {"steps": 20}, 20, 20, pgd_peers),
        Row("pgd", LINF, {"steps": 20}, 20, 20, {}, networks=("undefended", "pyautoattack")),
        Row("mi-fgsm", LINF, {"steps": 10, **every}, 10, 10, {"torchattacks": torchattacks("MIFGSM", **small)}),
        Row("ti-dim", LINF, {"steps": 10}, 10, 10, ti_peer),
        Row("apgd-ce", LINF, {"steps": 30}, 31, 30, apgd_peers),
        Row("apgd-ce", L1, {"steps": 30}, 33, 30, {"pyautoattack": apgd_l1}),
        *minimum_norm_rows(),
        *targeted_rows(),
        *budgeted_rows(),
        *bf16_rows(),
        Row("sta", FLOW, {"steps": 30}, 30, 30, {}),
        Row("fwa", MASS, {"steps": 20, **every}, 20, 20, {}),
        Row("square", LINF, {"queries": 200}, 200, 0, square_peers),
        Row("fwa", MASS, {"steps": 5, **every}, 5, 5, {"art": wasserstein}, slow=True, images=4),
        Row("autoattack", LINF, {}, 1, 1, {"pyautoattack": official_ensemble(100, 9, 5000)}, True, 16, ("small-cnn",)),
        Row("autoattack", LINF, {}, 1, 1, {"pyautoattack": official_ensemble(100, 9, 5000)}, True, None, ("trained",)),
        Row("cascade", LINF, {}, 1, 1, {"pyautoattack": official_ensemble(100, 9, 5000)}, True, None, ("trained",)),
        Row("cascade", L2_BALL, {}, 1, 1, {"pyautoattack": official_l2}, True, 32, ("small-cnn",)),
        # Cut short: a robust image takes the whole ensemble some ten thousand passes.
        Row("autoattack", LINF, short, 1, 1, {"pyautoattack": official_ensemble(**short)}, True, 16, ("pyautoattack",)),
    ]


def minimum_norm_rows() -> list[Row]:
    once = {"steps": 50, "searches": 1, "first_c": 1.0, "abort_early": False}
    cw_peers = {
        "torchattacks": torchattacks("CW", c=1, steps=50),
        "foolbox": foolbox(
            "L2CarliniWagnerAttack", None, binary_search_steps=1, steps=50, initial_const=1, abort_early=False
        ),
    }
    fmn_peers = {
        "advlib": advlib("fmn", norm=2.0, steps=50),
        "foolbox": foolbox("L2FMNAttack", None, steps=50),
    }
    return [
        Row("cw", L2, once, 50, 50, cw_peers),
        Row("ddn", L2, {"steps": 50}, 50, 50, {"foolbox": foolbox("DDNAttack", None, steps=50)}),
        Row("fmn", L2, {"steps": 50}, 50, 50, fmn_peers),
        Row("sigma-zero", L0, {"steps": 50}, 50, 50, {"advlib": advlib("sigma_zero", num_steps=50)}),
    ]


def targeted_rows() -> list[Row]:
    """The class is chosen from one more forward pass, as peers choose it."""
    settings = {"steps": 20, "rule": "last-iterate", "target": "least-likely"}
    pgd_peers = {"torchattacks": torchattacks_to_least_likely("PGD", eps=EPS, alpha=STEP, steps=20)}
    fmn_peers = {"advlib": advlib_to_least_likely("fmn", norm=2.0, steps=50)}
    return [
        Row("pgd", LINF, settings, 21, 20, pgd_peers),
        Row("fmn", L2, {"steps": 50, "target": "least-likely"}, 51, 50, fmn_peers),
    ]


def budgeted_rows() -> list[Row]:
    """Beside the rows without a budget, which take as many passes or more."""
    return [
        Row("pgd", LINF, {"steps": 20, "rule": "last-iterate", "max_passes": 40}, 20, 20, {}),
        Row("fmn", L2, {"steps": 50, "max_passes": 50}, 25, 25, {}),
    ]


def bf16_rows() -> list[Row]:
    """Beside the rows in float32, whose floor they are measured against: at most 0.55 of it was aimed at.

    Images that bfloat16 has wrong are evaluated in float32 too, but for those of the last iterate.
    """
    every, led = {"rule": "last-iterate"}, {"craft_precision": "bf16"}
    return [
        Row("pgd", LINF, {"steps": 20, **every, **led}, 20, 20, {}),
        Row("pgd", LINF, {"steps": 20, **led}, 20, 20, {}),
        Row("mi-fgsm", LINF, {"steps": 10, **every, **led}, 10, 10, {}),
        Row("ti-dim", LINF, {"steps": 10, **led}, 10, 10, {}),
        Row("apgd-ce", LINF, {"steps": 30, **led}, 31, 30, {}),
        Row("ddn", L2, {"steps": 50, **led}, 50, 50, {}),
    ]


def why_skipped(row: Row, device: torch.device) -> str | None:
    """Return why the time of a row says nothing on a device, if so."""
    if "craft_precision" in row.settings and not has_units(device.type):
        return "bfloat16 is emulated here"
    return None


def digits_case(device: torch.device, n: int, eps: float = 7 / 255) -> Case:
    """A small CNN trained on FGSM images of digits in low contrast: it keeps about a fifth under PGD."""
    digits = load_digits()
    grey = F.interpolate(torch.from_numpy(digits.images).float()[:, None] / 16, size=32, mode="bilinear")
    x, y = (0.4 + 0.2 * grey).expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(digits.target)
    torch.manual_seed(0)
    net = build(network_ref("small-cnn", {}), 10, (3, 32, 32))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(5):
        for batch in torch.randperm(len(y)).split(64):
            images = x[batch].clone().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(net(images), y[batch]), images)
            loss = F.cross_entropy(net((images + eps * grad.sign()).detach()), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = torch.cat([net.eval()(part).argmax(1) for part in x.split(256)]) == y
    return case("small-cnn" if eps else "undefended", net, x[right][:n], y[right][:n], device)


def undefended_case(device: torch.device, n: int) -> Case:
    """The same network trained on the images themselves."""
    return digits_case(device, n, eps=0.0)


def pyautoattack_case(device: torch.device, n: int) -> Case:
    """The trained ResNet-18 inside pyautoattack, on the first CIFAR-10 test images that it classifies rightly."""
    return trained_case("pyautoattack", weights.find("weights:pyautoattack"), device, n)


def trained_case(name: str, file: Path, device: torch.device, n: int) -> Case:
    """A ResNet-18 with weights from a file, on the first CIFAR-10 test images that it classifies rightly."""
    net, images = build(network_ref("resnet18", {}), 10, (3, 32, 32)).eval(), open_set("cifar10", "test", folder=None)
    weights.load(file, net)
    net.to(device)
    x, y = torch.from_numpy(images.images).float() / 255, torch.from_numpy(images.labels)
    right: list[int] = []
    for rows in torch.arange(len(x)).split(100):
        with torch.no_grad():
            right += rows[net(x[rows].to(device)).argmax(1).cpu() == y[rows]].tolist()
        if len(right) >= n:
            break
    return case(name, net, x[right[:n]], y[right[:n]], device)


def resnet_case(device: torch.device, n: int) -> Case:
    """CIFAR ResNet-18 as initialised, on noise, labels its own predictions: for time only, not for accuracy."""
    torch.manual_seed(0)
    net, x = build(network_ref("resnet18", {}), 10, (3, 32, 32)).eval(), torch.rand(n, 3, 32, 32)
    with torch.no_grad():
        return case("resnet18", net, x, torch.cat([net(part).argmax(1) for part in x.split(64)]), device)


def case(name: str, net: nn.Module, x: Tensor, y: Tensor, device: torch.device) -> Case:
    net = copy.deepcopy(net).to(device).eval().requires_grad_(False)
    x, y = x.to(device), y.to(device)
    return Case(name, net, fast_layout(net, x[:2]).net, x, y)


CASES = {
    "small-cnn": digits_case,
    "undefended": undefended_case,
    "resnet18": resnet_case,
    "pyautoattack": pyautoattack_case,
}


def ours(row: Row, case: Case, replays: Replays | None = None) -> tuple[Tensor, float, float]:
    """Return the images and the forwards and backwards per image."""
    entry = find("attack", row.attack)
    settings = dict(row.settings)
    passes, aimed_at = settings.pop("max_passes", None), settings.pop("target", None)
    leading = (
        LeadingBf16(case.fast, case.x.shape[1:]).eval() if settings.pop("craft_precision", None) == "bf16" else None
    )
    attack = partial(entry.load(), **entry.arguments(settings))
    net = leading or case.fast
    with frozen(net), Meter(net, len(case.x), most=passes) as meter:
        identities = torch.arange(len(case.x), device=case.x.device)
        budget = passes and PassBudget(passes, meter, Truth(case.x, case.y), row.threat, 10)
        options = {"seed": 0, "num_classes": 10, "batch": len(case.x), "replays": None if budget else replays}
        options |= {"leading": leading, "decides": settings.get("rule", "") != "last-iterate"}
        target = NetworkTarget(net, meter, identities, truth=Truth(case.x, case.y), budget=budget, **options)
        aimed = target if aimed_at is None else target.towards(goals_of(target, aimed_at, case.x, case.y))
        run = partial(attack, aimed)
        images = (budget.ending(run) if budget else run)(case.x, case.y, row.threat)
    return images, meter.forwards / len(case.x), meter.backwards / len(case.x)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the time of a call: CPU time of this process on a CPU, which neighbours disturb least, events on a GPU."""
    with quiet():
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            return begin.elapsed_time(end) / 1000
        started = time.process_time()
        run()
        return time.process_time() - started


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def unit(case: Case, device: torch.device) -> tuple[float, float]:
    """Return the seconds of one forward pass, and of one forward and backward pass to the images, of a whole batch."""

    def forward() -> None:
        with torch.no_grad():
            case.fast(case.x)

    def both() -> None:
        images = case.x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(case.fast(images), case.y), images)

    return tuple(statistics.median(seconds(run, device) for _ in range(5)) for run in (forward, both))  # type: ignore[return-value]


def peer_forwards(run: Callable[[Case], Tensor], case: Case) -> tuple[Tensor, float]:
    """Return a peer's images, and how many forward passes it took for each."""
    seen = 0

    def count(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += len(args[0])

    hook = case.net.register_forward_pre_hook(count)
    try:
        return run(case), seen / len(case.x)
    finally:
        hook.remove()


def standing(net: nn.Module, images: Tensor, case: Case, row: Row) -> Tensor:
    """Return which images are right or, of a targeted attack, are not of the class that it is to reach."""
    with torch.no_grad():
        answers = net(images).argmax(1)
    return answers != least_likely(case) if "target" in row.settings else answers == case.y


def timed(
    runs: dict[str, Callable[[], Any]], row: Row, case: Case, repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, Any]]:
    """Return the seconds of each run, these over its floor, and its last result, in an order drawn anew each time."""
    outputs: dict[str, Any] = {}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    floors: dict[str, list[float]] = {name: [] for name in runs}
    shuffled = random.Random(0)
    for _ in range(repeats):
        order = list(runs)
        shuffled.shuffle(order)
        before = unit(case, device)
        for name in order:
            taken[name].append(seconds(lambda name=name: outputs.update({name: runs[name]()}), device))
            after = unit(case, device)
            one, both = ((a + b) / 2 for a, b in zip(before, after, strict=True))
            floors[name].append(taken[name][-1] / (row.backwards * both + (row.forwards - row.backwards) * one))
            before = after
    return taken, floors, outputs


def measure(row: Row, full_case: Case, repeats: int, device: torch.device) -> dict[str, Any]:
    """Return one row of the report: for everyone the median time, over the floor where it has one."""
    case = full_case._replace(x=full_case.x[: row.images], y=full_case.y[: row.images])
    named = {
        "network": case.name,
        "attack": row.attack,
        "norm": row.threat.norm,
        "settings": row.settings,
        "images": len(case.x),
    }
    if (reason := why_skipped(row, device)) is not None:
        return {**named, "skipped": reason}
    replays: list[Replays] = []

    def replaying() -> tuple[Tensor, float, float]:
        # New ones each time, as the harness has them: recording is part of the cost.
        replays.append(Replays(device))
        return ours(row, case, replays[-1])

    on_graphs = graphs(device)
    runs: dict[str, Callable[[], Any]] = {"crossfire": replaying if on_graphs else lambda: ours(row, case)}
    runs |= {"eager": lambda: ours(row, case)} if on_graphs else {}
    runs |= {name: (lambda peer=peer: peer_forwards(peer, case)) for name, peer in row.peers.items()}
    if not row.slow:
        # The first call of all loads kernels and finds memory.
        with quiet():
            for run in runs.values():
                run()
    taken, floors, outputs = timed(runs, row, case, repeats, device)
    _, forwards, backwards = outputs["crossfire"]
    peers = {name: outputs[name] for name in row.peers}
    # Each is judged by the layout that it attacked: in TF32 another one moves images at the boundary back over it.
    robust = {
        name: standing(case.fast if name in ("crossfire", "eager") else case.net, output[0], case, row)
        for name, output in outputs.items()
    }
    over_floor = {name: statistics.median(values) for name, values in floors.items()}
    # Times over a unit taken beside them: a clock that drifts between two libraries favours neither.
    fastest = min((over_floor[name] for name in row.peers if peers[name][1] > 0.9 * forwards), default=None)
    return {
        **named,
        "forwards": forwards,
        "backwards": backwards,
        "peer_forwards": {name: passed for name, (_, passed) in peers.items()},
        "standing": {name: float(is_robust.float().mean()) for name, is_robust in robust.items()},
        "same_verdicts": {
            name: int((is_robust == robust["crossfire"]).sum())
            for name, is_robust in robust.items()
            if name != "crossfire"
        },
        "replayed": replays[-1].replayed if replays else None,
        "not_replayed": replays[-1].reasons if replays else [],
        "seconds": {name: statistics.median(values) for name, values in taken.items()},
        "over_floor": over_floor,
        "over_fastest_peer": None if fastest is None else over_floor["crossfire"] / fastest,
    }


def default_norm(attack: str) -> str:
    """Return the norm of rows that name none."""
    return str(find("attack", attack).meta["norms"][0])


def table(report: dict[str, Any]) -> str:
    made_by = report["provenance"]
    lines = [
        "# Attacks: time over their floor, and over their peers\n",
        f"{made_by['device']}, {made_by['threads']} threads, torch {made_by['packages']['torch']}, "
        f"{made_by['finished']}; made by "
        "`python -m tests.perf.attacks`. Rows of several runs on one machine stand together; each is one run.\n",
        (__doc__ or "").partition("\n\n")[2],
        "| network | images | attack | passes per image | robust | peers robust | over floor | eager "
        "| peers over floor (forwards) | over peer | repeats, commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
        norm = "" if row["norm"] == default_norm(row["attack"]) else f" in {row['norm']}"
        name = row["attack"] + norm + (f" ({settings})" if settings else "")
        if "skipped" in row:
            lines.append(f"| {row['network']} | {row['images']} | {name} | not measured: {row['skipped']} |" + " |" * 7)
            continue
        floor = row["over_floor"]
        forwards = row["peer_forwards"].items()
        peers = ", ".join(f"{name} {floor[name]:.2f} ({passed:.0f})" for name, passed in forwards) or "–"
        robust = ", ".join(
            f"{name} {row['standing'][name]:.2f} ({same}/{row['images']} same)"
            for name, same in row["same_verdicts"].items()
        )
        eager = f"{floor['eager']:.2f}" if "eager" in floor else "–"
        over = "–" if row["over_fastest_peer"] is None else f"{row['over_fastest_peer']:.2f}"
        lines.append(
            f"| {row['network']} | {row['images']} | {name} | {row['forwards']:.1f} + {row['backwards']:.1f} "
            f"| {row['standing']['crossfire']:.2f} | {robust or '–'} | {floor['crossfire']:.2f} | {eager} | {peers} "
            f"| {over} | {row['repeats']}, {(row['commit'] or 'no commit')[:9]} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, and keep it with its JSON in results/perf, beside rows measured there before."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, help="images at once; 32 on a CPU, 512 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--network", choices=(*CASES, "trained"), action="append")
    parser.add_argument("--weights", type=Path, help="of a CIFAR-10 ResNet-18: the network 'trained'")
    parser.add_argument("--attack", action="append", help="only these")
    parser.add_argument("--slow", action="store_true", help="also AutoAttack and the Wasserstein attack of ART")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report")
    args = parser.parse_args()
    if "trained" in (args.network or ()) and not args.weights:
        parser.error("--network trained needs --weights FILE")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    batch = args.batch or (512 if device.type == "cuda" else 32)
    cases = CASES | ({"trained": partial(trained_case, "trained", args.weights)} if args.weights else {})
    measured = []
    for network in args.network or cases:
        chosen = [row for row in rows() if network in row.networks and (args.slow or not row.slow)]
        chosen = [row for row in chosen if args.attack is None or row.attack in args.attack]
        if not chosen:
            continue
        try:
            case = cases[network](device, batch)
        except UsageError as error:
            if args.network:
                parser.error(str(error))
            print(f"{network} is left out: {error}", flush=True)
            continue
        for row in chosen:
            measured.append(measure(row, case, args.repeats, device))
            taken = measured[-1]
            print(network, row.attack, json.dumps(taken.get("over_floor", taken.get("skipped"))), flush=True)
    made_by = provenance(device).model_dump(mode="json")
    name = re.sub(r"[^a-z0-9]+", "-", made_by["device"].lower()).strip("-")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"attacks-{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {"schema": SCHEMA, "rows": []}
    known = before["rows"] if before["schema"] == SCHEMA else []
    known = [{"norm": default_norm(row["attack"]), **row} for row in known]
    same = ("network", "images", "attack", "norm", "settings")
    named = [[row[key] for key in same] for row in measured]
    kept = [row for row in known if [row[key] for key in same] not in named]
    measured = [{**row, "repeats": args.repeats, "commit": made_by["commit"]} for row in measured]
    every = sorted(kept + measured, key=lambda row: [*CASES, "trained"].index(row["network"]))
    report = {"schema": SCHEMA, "provenance": made_by, "rows": every}
    path.write_text(json.dumps(report, indent=2) + "\n")
    path.with_suffix(".md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
