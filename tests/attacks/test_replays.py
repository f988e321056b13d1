"""Passes that recur are recorded and replayed, and nothing else differs: here on a CPU, where a replay is a call."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.draws import Draws
from bench.evaluation.replays import HELD, Replays
from bench.evaluation.target import Meter, NetworkTarget
from bench.process.capture import is_plain
from bench.process.isolation import frozen
from tests.attacks.driving import FEW, THREATS, Case, Driven, drive
from tests.attacks.test_contract import every_attack

CPU = torch.device("cpu")
#: Attacks whose passes a library makes, or that make none.
NEVER = {"autoattack", "corruption", "noise"}


def same(one: Driven, other: Driven) -> bool:
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, other, strict=True))


@every_attack
@pytest.mark.parametrize("batch", [64, 7])
def test_images_passes_and_notes_are_those_without_replays(robust: Case, name: str, norm: str, batch: int) -> None:
    # Some of these images fall and some stay, so the active set shrinks.
    settings: dict[str, Any] = {"batch": batch, **FEW.get(name, {})}
    x, y = robust.x[:30], robust.y[:30]
    replays = Replays(CPU, recurs=2)
    plain = drive(robust.net, name, x, y, THREATS[norm], **settings)
    assert same(drive(robust.net, name, x, y, THREATS[norm], replays=replays, **settings), plain)
    if batch == 7:
        # All at once, an attack may have fewer steps of one shape than recur.
        assert (replays.replayed > 0) == (name not in NEVER)
    assert len(replays._held) <= HELD


@pytest.mark.parametrize("name", sorted(set(registry.entries("attack")) - {"autoattack"}))
def test_a_random_network_is_never_replayed(robust: Case, name: str) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.draws = robust.net, Draws()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + 0.05 * self.draws.normal(x))

    def run(replays: Replays | None) -> Driven:
        net = Noisy()
        norm = registry.find("attack", name).meta["norms"][0]
        settings = {"replays": replays, "draws": net.draws, **FEW.get(name, {})}
        return drive(net, name, robust.x[:8], robust.y[:8], THREATS[norm], **settings)

    replays = Replays(CPU, recurs=2)
    assert same(run(replays), run(None))
    if name not in NEVER:
        assert "its network draws random numbers" in replays.reasons


class Branching(nn.Module):
    """A network that looks at its images before it answers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if float(x.detach().mean()) > 0.3 else 2 * self.net(x)


class Counting(nn.Module):
    """A network whose answer depends on how often it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return self.net(x) * (1 + self.asked % 3)


class Oracle(nn.Module):
    """A network that is told the labels."""

    labels: Tensor | None = None

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Drawing(nn.Module):
    """A network that draws from the global generator, and says so to nobody."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.01 * torch.rand_like(x))


def hooked(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    net[0].register_forward_hook(lambda *_: None)  # type: ignore[index]
    return net


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (Branching, "it waits for the host or has shapes that depend on values (_local_scalar_dense)"),
        (Counting, "its network changes itself while it answers"),
        (Oracle, "its network is an oracle"),
        (Drawing, "its network draws random numbers"),
        (hooked, "hooks are on its network"),
    ],
)
def test_a_network_that_is_no_fixed_function_is_called_as_it_is(robust: Case, wrap: Any, reason: str) -> None:
    x, y = robust.x[:10], robust.y[:10]

    def run(replays: Replays | None) -> Driven:
        torch.manual_seed(0)
        return drive(wrap(robust.net), "pgd", x, y, THREATS["linf"], steps=6, rule="last-iterate", replays=replays)

    replays = Replays(CPU, recurs=2)
    with_, without = run(replays), run(None)
    assert torch.equal(with_.forwards, without.forwards) and torch.equal(with_.backwards, without.backwards)
    if wrap not in (Counting, Drawing):
        # These two are asked once more, to see whether they can be recorded.
        assert same(with_, without)
    assert replays.replayed == 0 and replays.reasons == [reason]


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y, reduction="none")


class Unhashable:
    """A loss that is no function, and is equal to others."""

    def __eq__(self, other: object) -> bool:
        return True

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return _loss(logits, y)


def test_only_a_loss_of_a_module_without_closure_is_recorded(robust: Case) -> None:
    x, y, weight = robust.x[:5], robust.y[:5], torch.ones(1)
    closure = lambda logits, y: weight * _loss(logits, y)  # noqa: E731
    assert is_plain(_loss) and not is_plain(closure) and not is_plain(Unhashable()) and not is_plain(len)
    with torch.no_grad():
        loss_of_ones = _loss(robust.net(x), y)
    for loss, replayed in ((_loss, 3), (closure, 0), (Unhashable(), 0)):
        replays = Replays(CPU, recurs=2)
        with frozen(robust.net), Meter(robust.net, 5) as meter:
            options = {"seed": 0, "num_classes": 10, "batch": 5, "replays": replays}
            target = NetworkTarget(robust.net, meter, torch.arange(5), **options)
            for scale in (1.0, 2.0, 3.0, 1.0, 5.0):
                weight.fill_(scale)
                gradient = target.gradient(x, loss, y)
                if loss is closure:
                    assert torch.allclose(gradient.loss, scale * loss_of_ones)
        assert replays.replayed == replayed
        assert meter.forwards_of.tolist() == meter.backwards_of.tolist() == [5] * 5
        assert bool(replays.reasons) == (replayed == 0)


def test_a_meter_is_asked_at_every_replay_and_ends_the_work(robust: Case) -> None:
    class Stop(Exception):
        pass

    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 9:
            raise Stop

    replays = Replays(CPU, recurs=2)
    with frozen(robust.net), Meter(robust.net, 5, check) as meter:
        options = {"seed": 0, "num_classes": 10, "batch": 5, "replays": replays}
        target = NetworkTarget(robust.net, meter, torch.arange(5), **options)
        with pytest.raises(Stop):
            for _ in range(20):
                target.gradient(robust.x[:5], _loss, robust.y[:5])
        assert meter.backwards == 5 * (replays.replayed + 2) < 5 * 9


class Narrow(nn.Module):
    """A network that runs out of memory once it has been asked ``times`` times, at more than ``limit`` images."""

    def __init__(self, net: nn.Module, limit: int, times: int) -> None:
        super().__init__()
        self.net, self.limit, self.times = net, limit, [times]

    def forward(self, x: Tensor) -> Tensor:
        self.times[0] -= 1
        if len(x) > self.limit and self.times[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.net(x)


@pytest.mark.parametrize("times", [1, 2, 3, 4, 6])
def test_memory_that_runs_out_halves_the_batch_and_gives_graphs_back(robust: Case, times: int) -> None:
    x, y, replays = robust.x[:12], robust.y[:12], Replays(CPU, recurs=2)
    settings = {"steps": 9, "rule": "last-iterate", "batch": 12}
    driven = drive(Narrow(robust.net, 5, times), "pgd", x, y, THREATS["linf"], replays=replays, **settings)
    half = drive(Narrow(robust.net, 5, times), "pgd", x, y, THREATS["linf"], **settings)
    assert torch.allclose(driven.images, half.images, atol=1e-6)
    assert driven.forwards.tolist() == driven.backwards.tolist() == [9] * 12
    assert replays.replayed > 0


def test_a_step_is_replayed_on_what_it_is_given_now(robust: Case) -> None:
    replays, calls = Replays(CPU, recurs=2), 0
    with Meter(robust.net, 5) as meter:
        options = {"seed": 0, "num_classes": 10, "batch": 5, "replays": replays}
        target = NetworkTarget(robust.net, meter, torch.arange(5), **options)
        fixed, changing = torch.ones(3), torch.zeros(3)
        for step in range(8):
            if step == 5:
                fixed.mul_(2)
            (changing,) = target.repeated(_halfway, changing, fixed)
            calls += 1
    wanted = torch.zeros(3)
    for step in range(8):
        wanted = (wanted + (1.0 if step < 5 else 2.0)) / 2
    assert torch.equal(changing, wanted)
    assert replays.replayed == calls - 2


def _halfway(here: Tensor, there: Tensor) -> tuple[Tensor]:
    return ((here + there) / 2,)
