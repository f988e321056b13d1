"""Gradients in bfloat16 lead an attack; what counts as a success is judged in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from bench import registry
from bench.api import Threat
from bench.cli import main
from bench.cli.plan import _print_faster
from bench.config import expand, sections
from bench.differences import changed
from bench.draws import Draws
from bench.evaluation.cost import convolution_flops
from bench.evaluation.craft import Crafted, craft
from bench.evaluation.precision import KEEPING, is_led_in_bf16
from bench.evaluation.target import Meter, NetworkTarget, Truth
from bench.keys import EVALUATION_VERSION, attack_key, identity, key_of, seed_of
from bench.models.bf16 import COMPARED, LeadingBf16
from bench.process.isolation import frozen
from bench.report.comparison.compare import compare
from bench.schedule import plan
from bench.schedule.estimate import Node
from bench.store.history import Recorded
from bench.store.working_store import Store
from bench.types import AttackRef, Cell, CellResult, Earlier, MethodError, UsageError
from tests.attacks.driving import THREATS, Case
from tests.report.fabricate import result

STEPS = 6
LATER = "2026-11-23T10:00:00+00:00"


def reference(name: str, threat: Threat, classes: int = 10, **params: Any) -> AttackRef:
    made = result(clean=[True], adversarial=[False]).cell.attack
    assert made
    data = made.data.model_copy(update={"num_classes": classes})
    attack = registry.find("attack", name).ref(params)
    return made.model_copy(update={"attack": attack, "threat": threat, "data": data, "craft_precision": "bf16"})


def crafted(ref: AttackRef, net: nn.Module, x: Tensor, y: Tensor) -> Crafted:
    return craft(ref, net, x, y, torch.arange(len(x)), key=seed_of(ref), batch=64)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


class Flipped(nn.Module):
    """Two classes: the second is above by 0.0028 at (1, 1), below by 0.0078 once weights round to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        # As wide as the image is the layer that reads it, and nothing rounds there.
        self.reads, self.linear = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.reads.weight = nn.Parameter(torch.eye(3)[:, :2].clone())
        self.linear.weight = nn.Parameter(torch.tensor([[1.0045, -1.0038, 0.0], [1.0035, -1.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.reads(x.flatten(1)))


@pytest.mark.parametrize(
    ("before", "reads"),
    [
        (nn.Flatten(), nn.Linear(12, 8)),
        (nn.Identity(), nn.Conv2d(3, 8, 2)),
        # Two patches: the layer is as wide as neither the channels nor the pixels of an image.
        (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 6))), nn.Linear(6, 4)),
    ],
)
def test_steps_that_bfloat16_would_lose_are_seen(before: nn.Module, reads: nn.Linear | nn.Conv2d) -> None:
    # Around 0.9 neighbours are 1/256 apart. The first layer gives 1000 (x - 0.9) eight times, the second their mean.
    answer = nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        reads.weight.fill_(1000 / reads.weight[0].numel())
        answer.weight.fill_(1 / 8)
        assert reads.bias is not None
        reads.bias.fill_(-900.0)
    leading = LeadingBf16(nn.Sequential(before, reads, nn.Flatten(), answer), (3, 2, 2)).eval()
    x = torch.full((3, 3, 2, 2), 0.9) + torch.tensor([0.0, 1e-3, -5e-4])[:, None, None, None]
    with torch.no_grad(), leading.leading():
        logits = leading(x)
    torch.testing.assert_close(logits, torch.tensor([0.0, 1.0, -0.5])[:, None].expand(3, 2), rtol=0.0, atol=0.01)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert bool((leading.net(x).float() - logits).abs().amax() > 0.4)


def test_another_layer_as_wide_as_an_image_gets_what_is_before_it_in_float32() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 3, 3), nn.Conv2d(3, 4, 2), nn.Flatten()).eval()
    x = torch.rand(2, 3, 6, 6)
    leading = LeadingBf16(net, x.shape[1:]).eval()
    with torch.no_grad(), leading.leading():
        logits = leading(x)
    assert logits.dtype == torch.float32 and not net[0]._forward_hooks and not net[0]._forward_pre_hooks
    torch.testing.assert_close(logits, net(x), rtol=0.0, atol=0.02)


@pytest.mark.parametrize(("rule", "forwards"), [("any-iterate", 2 * STEPS + 2), ("last-iterate", STEPS)])
def test_an_image_that_only_rounding_breaks_is_not_given_up(rule: str, forwards: int) -> None:
    net, x, y = Flipped().eval(), torch.ones(1, 1, 1, 2), torch.tensor([1])
    with torch.no_grad():
        assert net(x).argmax(1) == 1
        with torch.autocast("cpu", torch.bfloat16):
            assert net(x).argmax(1) == 0
    ref = reference("pgd", Threat(norm="linf", eps="1/100"), classes=2, steps=STEPS, start="clean", rule=rule)
    made = crafted(ref, net, x, y)
    # Every answer of bfloat16 is wrong, and is asked again only where the attack would stop at it; the clean image is
    # asked once in each, for how far the two differ.
    assert made.backwards.tolist() == [STEPS] and made.forwards.tolist() == [forwards]


@pytest.mark.parametrize(
    ("name", "norm", "params"),
    [
        ("pgd", "linf", {"steps": STEPS}),
        ("mi-fgsm", "linf", {"steps": STEPS, "rule": "any-iterate"}),
        ("apgd-ce", "linf", {"steps": STEPS}),
        ("ddn", "l2", {"steps": 3 * STEPS}),
    ],
)
def test_what_is_given_up_is_broken_in_float32(robust: Case, name: str, norm: str, params: dict[str, Any]) -> None:
    threat = Threat(norm="l2", eps=None) if norm == "l2" else THREATS[norm]
    made = crafted(reference(name, threat, **params), robust.net, robust.x, robust.y)
    given_up = (made.images != robust.x).flatten(1).any(1) if norm == "l2" else made.backwards < params["steps"]
    with torch.no_grad():
        wrong = robust.net(made.images).argmax(1) != robust.y
    assert int(given_up.sum()) > 10 and bool(wrong[given_up].all())
    # As many as in float32 but for images at the boundary.
    full = crafted(
        reference(name, threat, **params).model_copy(update={"craft_precision": "float32"}), robust.net, *robust[1:]
    )
    with torch.no_grad():
        assert int((robust.net(full.images).argmax(1) != robust.y).sum()) - int(wrong.sum()) <= 2


@torch.no_grad()
def at_the_boundary(leading: LeadingBf16, case: Case, far: Tensor) -> Tensor:
    """Return points between images that the network has right and ``far``, the first ones that bfloat16 has wrong."""
    right, wrong = torch.zeros(len(far), 1, 1, 1), torch.ones(len(far), 1, 1, 1)
    for _ in range(12):
        middle = (right + wrong) / 2
        with leading.leading():
            breaks = (leading(torch.lerp(case.x, far, middle)).argmax(1) != case.y)[:, None, None, None]
        right, wrong = torch.where(breaks, right, middle), torch.where(breaks, middle, wrong)
    return torch.lerp(case.x, far, wrong)


def test_the_gradient_is_autocasts_and_doubtful_logits_are_float32(robust: Case) -> None:
    y, leading = robust.y, LeadingBf16(robust.net, robust.x.shape[1:]).eval()
    other = robust.x.roll(1, 0)
    # A third right, a third at the boundary of bfloat16, and a third mostly of other classes.
    third = torch.arange(len(y))[:, None, None, None] % 3
    x = torch.where(third == 0, robust.x, torch.where(third == 1, at_the_boundary(leading, robust, other), other))
    with frozen(leading), Meter(leading, len(x)) as meter:
        options: dict[str, Any] = {"seed": 0, "num_classes": 10, "batch": 64, "truth": Truth(x, y)}
        target = NetworkTarget(leading, meter, torch.arange(len(x)), leading=leading, **options)
        own = target.gradient(x, cross_entropy, y)
        leaf = x.clone().requires_grad_()
        assert isinstance(robust.net, nn.Sequential)
        first, *others = robust.net
        read = first(leaf)
        with torch.autocast("cpu", torch.bfloat16):
            (wanted,) = torch.autograd.grad(cross_entropy(nn.Sequential(*others)(read).float(), y).sum(), leaf)
        with torch.no_grad(), leading.leading():
            low = leading(x)
        with torch.no_grad():
            full = robust.net(x)
        assert (own.grad - wanted).norm() <= 2**-5 * wanted.norm()
        wrong = low.argmax(1) != y
        assert 0 < int(wrong.sum()) < len(y)
        errors, largest = (low - full)[:COMPARED], full[:COMPARED].abs().amax(1)
        share = ((errors.amax(1) - errors.amin(1)) / largest).max()
        margin = low.gather(1, y[:, None])[:, 0] - low.scatter(1, y[:, None], -torch.inf).amax(1)
        doubtful = margin.abs() <= 3 * share * low.abs().amax(1).clamp_min(largest.median())
        assert 0 < int((doubtful & wrong).sum()) < int(wrong.sum())
        torch.testing.assert_close(own.logits[doubtful], full[doubtful])
        torch.testing.assert_close(own.loss[doubtful], cross_entropy(full, y)[doubtful])
        # A rounding of 2^-8 tells which is which.
        assert (own.logits[~doubtful] - full[~doubtful]).norm() > 1e-4 * full[~doubtful].norm()
        assert torch.equal((full.argmax(1) != y)[~doubtful], wrong[~doubtful])
        compared = 2 * (torch.arange(len(x)) < COMPARED)
        assert meter.forwards_of.tolist() == (1 + doubtful.long() + compared).tolist() and meter.backwards == len(x)
        # Evaluations are float32, and a library that runs the network by itself is refused.
        torch.testing.assert_close(target(x), full)
        with pytest.raises(MethodError, match='craft_precision = "bf16"'):
            _ = target.module


def test_a_random_function_is_confirmed_on_the_same_draws(robust: Case) -> None:
    class Noisy(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.draws = net, Draws()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x + 0.3 * self.draws.normal(x))
            return logits

    def logits(base: nn.Module) -> Tensor:
        net, leading = Noisy(base), base if isinstance(base, LeadingBf16) else None
        net.draws.begin(3)
        options: dict[str, Any] = {"seed": 0, "num_classes": 10, "batch": 32, "truth": Truth(robust.x, robust.y)}
        with frozen(net), Meter(base, len(robust.x)) as meter:
            target = NetworkTarget(
                *(net, meter, torch.arange(len(robust.x))),
                base=base,
                draws=net.draws,
                draws_averaged=2,
                leading=leading,
                **options,
            )
            target.gradient(robust.x, cross_entropy, robust.y)
            return target.gradient(robust.x, cross_entropy, robust.y).logits

    low, full = logits(LeadingBf16(robust.net, robust.x.shape[1:]).eval()), logits(robust.net)
    wrong = low.argmax(1) != robust.y
    assert 3 < int(wrong.sum()) < 90
    torch.testing.assert_close(low[wrong], full[wrong])
    torch.testing.assert_close(low, full, rtol=0.0, atol=0.3)


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "ddn"])
def test_a_budget_of_passes_counts_what_confirms(robust: Case, name: str) -> None:
    norm = registry.find("attack", name).meta["norms"][0]
    threat = Threat(norm="l2", eps=None) if name == "ddn" else THREATS[norm]
    ref = reference(name, threat, steps=20).model_copy(update={"max_passes": 9})
    made = crafted(ref, robust.net, robust.x[:20], robust.y[:20])
    passes = made.forwards + made.backwards
    assert int(passes.max()) == 9


def test_auto_has_the_key_of_before_and_every_precision_the_same_draws() -> None:
    low = reference("pgd", THREATS["linf"])
    auto, full = (low.model_copy(update={"craft_precision": each}) for each in ("auto", "float32"))
    assert "craft_precision" not in auto.model_dump_json() and "craft_precision" in low.model_dump_json()
    for ref in (low, auto, full):
        assert attack_key(ref) == key_of(identity(ref), version=EVALUATION_VERSION)
        assert seed_of(ref) == seed_of(low)
    assert len({attack_key(ref) for ref in (low, auto, full)}) == 3


def columns(tmp_path: Path, shared: str, *attacks: str) -> dict[str, str]:
    entries = "".join(f"[[attacks]]\n{attack}\n" for attack in attacks)
    head = 'schema = 1\nname = "t"\n[dataset]\nname = "digits"\n[[models]]\narch = "small-cnn"\n'
    path = tmp_path / "t.toml"
    path.write_text(f'{head}[[defenses]]\nuse = "standard"\n[attack]\n{shared}\n{entries}')
    config = sections.load(str(path))
    return {each.label: each.craft_precision for each in expand.attacks(config)}


def test_a_column_says_what_its_configuration_says(tmp_path: Path) -> None:
    attacks = ('use = "pgd"', 'use = "square"', 'use = "autoattack"', 'use = "torchattacks:PGD"')
    # What none of our gradients lead has nothing to choose.
    rest = {name: "auto" for name in ("square", "autoattack", "torchattacks:PGD")}
    for shared, expected in (("", {"pgd": "auto"}), ("auto", {"pgd": "auto"}), ("bf16", {"pgd bf16": "bf16"})):
        found = columns(tmp_path, f'craft_precision = "{shared}"' if shared else "", *attacks)
        assert found == {**expected, **rest}
    assert columns(tmp_path, 'craft_precision = "float32"', *attacks) == {"pgd": "float32", **rest}
    both = columns(tmp_path, "", 'use = "pgd"', 'use = "pgd"\ncraft_precision = "bf16"')
    assert both == {"pgd": "auto", "pgd bf16": "bf16"}
    apart = columns(tmp_path, "", 'use = "pgd"', 'use = "pgd"\ncraft_precision = "float32"')
    assert apart == {"pgd[craft_precision=auto]": "auto", "pgd[craft_precision=float32]": "float32"}


@pytest.mark.parametrize(
    ("use", "why"), [("torchattacks:PGD", "is run by a library"), ("autoattack", "is run by"), ("square", "takes no")]
)
def test_bf16_of_an_attack_that_has_none_is_refused(tmp_path: Path, use: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"craft_precision: {use} {why}"):
        columns(tmp_path, "", f'use = "{use}"\ncraft_precision = "bf16"')


def convolutional(width: int) -> nn.Module:
    """Return a network of 2 x 9 x 32^2 x width x (3 + width) FLOPs in convolutions of 32 x 32 pixels, and few more."""
    convolutions = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()


# 18,432 x 50 x 53 = 48.8 million, and 18,432 x 52 x 55 = 52.7 million; 59.7 in convolutions and 98.4 in what follows.
SMALL, LARGE = convolutional(50), convolutional(52)
MOSTLY_LINEAR = nn.Sequential(
    nn.Conv2d(3, 12, 9, padding=4), nn.Flatten(), nn.Linear(12 * 32**2, 4000), nn.Linear(4000, 10)
)


@pytest.mark.parametrize(
    ("precision", "attack", "net", "has", "led"),
    [
        ("auto", "pgd", LARGE, True, True),
        ("auto", "pgd", LARGE, False, False),
        ("auto", "pgd", SMALL, True, False),
        ("auto", "pgd", MOSTLY_LINEAR, True, False),
        ("auto", "sta", LARGE, True, False),
        ("float32", "pgd", LARGE, True, False),
        ("bf16", "sta", SMALL, False, True),
    ],
)
def test_auto_takes_what_is_faster_and_breaks_as_many(
    monkeypatch: pytest.MonkeyPatch, precision: str, attack: str, net: nn.Module, has: bool, led: bool
) -> None:
    monkeypatch.setattr("bench.evaluation.precision.has_units", lambda device: has and device == "cpu")
    ref = reference(attack, THREATS["linf"]).model_copy(update={"craft_precision": precision})
    assert is_led_in_bf16(ref, net, (3, 32, 32), torch.device("cpu")) == led


@pytest.mark.parametrize(
    "other",
    [
        {"max_passes": 100},
        {"target": 3},
        {"threat": Threat(norm="l1", eps="12")},
        {"step": registry.find("test-time", "jpeg").ref({})},
    ],
    ids=str,
)
def test_auto_leads_only_what_was_measured(monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]) -> None:
    monkeypatch.setattr("bench.evaluation.precision.has_units", lambda device: True)
    plain = reference("pgd", THREATS["linf"]).model_copy(update={"craft_precision": "auto"})
    led = [
        is_led_in_bf16(each, LARGE, (3, 32, 32), torch.device("cpu"))
        for each in (plain, plain.model_copy(update=other))
    ]
    assert led == [True, False]


def test_flops_in_convolutions() -> None:
    inside = 2 * 9 * 32**2 * 50 * 53
    assert convolution_flops(SMALL, (3, 32, 32)) == (inside, inside + 2 * 50 * 10)
    inside = 2 * 81 * 32**2 * 3 * 12
    assert convolution_flops(MOSTLY_LINEAR, (3, 32, 32)) == (inside, inside + 2 * 12 * 32**2 * 4000 + 2 * 4000 * 10)


def test_attacks_that_auto_leads_are_ours_and_step_along_gradients() -> None:
    entries = registry.entries("attack")
    assert all(expand.steps_along_gradients(entries[name]) for name in KEEPING)


@pytest.mark.parametrize("has", [True, False])
def test_what_led_is_recorded_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has: bool
) -> None:
    monkeypatch.setattr("bench.evaluation.precision.has_units", lambda device: has)
    # A network for digits gains nothing from bfloat16.
    monkeypatch.setattr("bench.evaluation.precision._LEAST_FLOPS", 0)
    monkeypatch.chdir(tmp_path)
    columns(tmp_path, "", 'use = "pgd"', 'use = "pgd"\ncraft_precision = "bf16"', 'use = "square"\nqueries = 20')
    run = ["run", "t.toml", "--n", "20", "--set", "train.epochs=1", "--set", "run.device=cpu", "--store", "store"]
    assert main(run) == 0
    says = f"{1 + has} of 4 results: gradients in bfloat16 led the attack, float32 judged it"
    assert says in " ".join(capsys.readouterr().out.split())
    results = {each.names.attack: each for each in Store(tmp_path / "store").results()}
    assert {name: each.provenance.craft_precision for name, each in results.items()} == {
        **{"clean": "", "pgd": "bf16" if has else "", "pgd bf16": "bf16", "square": ""},
    }
    assert {name: each.craft_precision for name, each in results.items()} == {
        **{"clean": None, "pgd": "bf16" if has else "float32", "pgd bf16": "bf16", "square": "float32"},
    }
    assert not any("bf16" in flag for each in results.values() for flag in each.flags)
    # Whatever the device would choose now, what is measured again is led as it was.
    monkeypatch.setattr("bench.evaluation.precision.has_units", lambda device: not has)
    assert main([*run, "--verify", "1.0"]) == 0


def test_a_set_keeps_the_precision_in_which_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.evaluation.precision._LEAST_FLOPS", 0)
    monkeypatch.chdir(tmp_path)
    columns(tmp_path, "", 'use = "pgd"\nsteps = 5')
    run = ["run", "t.toml", "--n", "200", "--set", "train.epochs=1", "--set", "run.device=cpu", "--store"]

    def has_units(here: bool) -> None:
        monkeypatch.setattr("bench.evaluation.precision.has_units", lambda device: here)

    for begun_with, name in ((True, "begun in bfloat16"), (False, "begun in float32")):
        has_units(begun_with)
        assert main([*run, name]) == 0
        *_, last = sorted(tmp_path.glob(f"{name}/attack/*/*.safetensors"))
        before = last.read_bytes()
        for path in (last, *tmp_path.glob(f"{name}/cells/*.json"), *tmp_path.glob(f"{name}/records/*")):
            path.unlink()
        has_units(not begun_with)
        assert main([*run, name]) == 0
        assert [each.craft_precision for each in Store(tmp_path / name).results() if each.cell.attack] == [
            "bf16" if begun_with else "float32"
        ]
        assert load(last.read_bytes())["images"].equal(load(before)["images"])


def test_another_precision_is_called_by_its_name_in_a_suite_too() -> None:
    cell = result(clean=[True], adversarial=[False]).cell

    def led_by(precision: str) -> Cell:
        earlier = Earlier(attack=registry.find("attack", "fgsm").ref({}), craft_precision=precision)
        assert cell.attack
        attack = cell.attack.model_copy(update={"craft_precision": precision, "after": (earlier,)})
        return cell.model_copy(update={"attack": attack})

    lines = sorted(str(each) for each in changed(led_by("auto"), led_by("float32")))
    assert lines == ["pgd: after fgsm: craft_precision auto -> float32", "pgd: craft_precision auto -> float32"]


def test_a_precision_that_the_cell_does_not_ask_for_is_refused() -> None:
    made = result(clean=[True] * 4, adversarial=[True, True, False, False])
    assert made.cell.attack
    attack = made.cell.attack.model_copy(update={"craft_precision": "float32"})
    body = made.model_dump(mode="json", by_alias=True)
    body["provenance"]["craft_precision"] = "bf16"
    CellResult.model_validate(body)
    for cell in (made.cell.model_copy(update={"attack": attack}), made.cell.model_copy(update={"attack": None})):
        with pytest.raises(ValueError, match="asks for float32"):
            CellResult.model_validate({**body, "cell": cell.model_dump(mode="json")})


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_comparison_says_where_bf16_led_one_side_only(side: str) -> None:
    both: dict[str, Any] = {"clean": [True] * 4, "adversarial": [True, True, False, False]}
    full, low = result(**both, commit="a" * 40), result(**both, commit="b" * 40, forwards=21.0, finished=LATER)
    provenance = low.provenance.model_copy(update={"craft_precision": "bf16"})
    pair = [full, low.model_copy(update={"provenance": provenance})]
    base, head = pair if side == "head" else reversed(pair)
    made = compare(Recorded("base", [base]), Recorded("head", [head]))
    said = f"1 cell: gradients in bfloat16 led the attack in the {side} only; a difference may be one of precision"
    assert said in made.notes and not made.times
    # Whatever costs more in the head: another precision is no worse defense.
    assert made.costs and not any(change.regression for change in made.costs)


@pytest.mark.parametrize(
    ("device", "use", "long"),
    [("cuda", "pgd", True), ("cpu", "pgd", True), ("cuda", "square", True), ("cuda", "pgd", False)],
)
def test_a_long_plan_on_a_gpu_says_that_bf16_would_be_faster(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    use: str,
    long: bool,
) -> None:
    monkeypatch.setattr("bench.models.bf16.has_units", lambda _: True)
    columns(tmp_path, "", f'use = "{use}"')
    work = plan.make(sections.load(str(tmp_path / "t.toml")), n=20)
    node = Node("k", "attack", use, use, False, 1.0, 1e4 if long else 1.0)
    _print_faster(work, [node], device)
    says = "craft_precision=bf16" in capsys.readouterr().out
    assert says == (device == "cuda" and use == "pgd" and long)
    if says:
        # The line can be followed as it is.
        plan_of = ["plan", str(tmp_path / "t.toml"), "--n", "20", "--store", str(tmp_path / "store")]
        assert main([*plan_of, "--set", "attack.craft_precision=bf16"]) == 0
        assert "pgd bf16" in capsys.readouterr().out
