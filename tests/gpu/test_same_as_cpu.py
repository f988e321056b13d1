"""Results on a GPU equal those on a CPU, and do not vary between runs; skipped without a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.cli import main
from bench.evaluation.defense import deploy
from bench.evaluation.replays import Replays
from bench.models.build import build, network_ref
from bench.models.layout import fast_layout
from bench.store.working_store import Store
from bench.training.step import RecipeStep
from tests.attacks.conftest import trained
from tests.attacks.driving import FEW, THREATS, Case, assert_within, drive, right
from tests.attacks.test_contract import JOINT, every_attack
from tests.attacks.test_replays import NEVER
from tests.engine import tiny

GPU = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def case() -> Case:
    """A network and images in double precision: the order of a sum then flips no sign."""
    net, x, y = trained(0.0, 8)
    return Case(net.double(), x[:12].double(), y[:12])


def to_gpu(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).to(GPU)


@every_attack
def test_attacks(case: Case, name: str, norm: str) -> None:
    if name in JOINT:
        case = Case(copy.deepcopy(case.net).float(), case.x.float(), case.y)
    net, settings = to_gpu(case.net), FEW.get(name, {})
    on_cpu = drive(case.net, name, case.x, case.y, THREATS[norm], **settings)
    on_gpu = drive(
        net, name, case.x.to(GPU), case.y.to(GPU), THREATS[norm], images=torch.arange(12).to(GPU), **settings
    )
    assert on_gpu.images.device.type == "cuda"
    assert_within(on_gpu.images.cpu(), case.x, THREATS[norm])
    if name in JOINT:
        # The package draws from each device's own generator.
        assert (
            abs(
                int(right(net, on_gpu.images, case.y.to(GPU)).sum()) - int(right(case.net, on_cpu.images, case.y).sum())
            )
            < 3
        )
    else:
        # The flow attack divides each gradient by its norm, which amplifies round-off over the steps.
        assert torch.allclose(on_gpu.images.cpu(), on_cpu.images, atol=0.05 if norm == "flow" else 1e-5)
        assert torch.equal(right(net, on_gpu.images, case.y.to(GPU)).cpu(), right(case.net, on_cpu.images, case.y))
        assert torch.equal(on_gpu.forwards, on_cpu.forwards)


@every_attack
def test_replayed_passes_change_no_bit(case: Case, name: str, norm: str) -> None:
    net, settings = to_gpu(case.net).float(), FEW.get(name, {})
    x, y, images = case.x.float().to(GPU), case.y.to(GPU), torch.arange(12).to(GPU)
    replays = Replays(GPU, recurs=2, always=True)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        eager = drive(net, name, x, y, THREATS[norm], images=images, batch=5, **settings)
        replayed = drive(net, name, x, y, THREATS[norm], images=images, batch=5, replays=replays, **settings)
    assert torch.equal(eager.images, replayed.images)
    assert torch.equal(eager.forwards, replayed.forwards)
    assert torch.equal(eager.backwards, replayed.backwards)
    assert eager.notes == replayed.notes
    if name not in NEVER:
        assert replays.replayed > 0, replays.reasons


@pytest.mark.parametrize("use", ["art:SquareAttack", "torchattacks:PGD", "foolbox:LinfPGD"])
def test_attacks_of_libraries(case: Case, use: str) -> None:
    if not registry.find("library", use.partition(":")[0]).available:
        pytest.skip("not installed")
    net = to_gpu(case.net).float()
    x, y = case.x.float().to(GPU), case.y.to(GPU)
    crafted = drive(net, use, x, y, THREATS["linf"], images=torch.arange(12).to(GPU))
    assert_within(crafted.images.cpu(), x.cpu(), THREATS["linf"])
    assert int(right(net, crafted.images, y).sum()) < 12


@pytest.mark.parametrize("name", sorted(registry.entries("test-time")))
def test_steps(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 5, 5, generator=generator)
    x = (nn.functional.interpolate(coarse, size=24, mode="bicubic").clamp(0, 1) * 255).round() / 255
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)).eval()
    unet = registry.find("score-network", "unet").load()(channels=4).eval().requires_grad_(False)
    answers, gradients = [], []
    for device in (torch.device("cpu"), GPU):
        base = copy.deepcopy(net).to(device)
        score = copy.deepcopy(unet).to(device)
        step = deploy(base, registry.find("test-time", name).ref({}), lambda: (x * 255).to(torch.uint8), score)
        step.seed("a seed", images=torch.arange(6))
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            answers.append(step.deployed(x.to(device)).cpu())
        leaf = x.to(device).requires_grad_()
        step.seed("a seed", images=torch.arange(6))
        gradients.append(torch.autograd.grad(step.surrogate(leaf).logsumexp(1).sum(), leaf)[0].cpu())
    assert torch.allclose(*answers, atol=1e-3)
    assert bool(torch.isfinite(gradients[1]).all())
    assert nn.functional.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0) > 0.9


@pytest.mark.parametrize("name", sorted(registry.entries("recipe")))
def test_recipes(case: Case, name: str) -> None:
    entry = registry.entries("recipe")[name]
    losses, grads = [], []
    for device in (torch.device("cpu"), GPU):
        net = copy.deepcopy(case.net).to(device).train()
        step = RecipeStep(net, 10)
        step.begin(torch.arange(12).to(device), lambda call: call, torch.zeros((), dtype=torch.float64, device=device))
        loss: Tensor = entry.load()(step, case.x.to(device), case.y.to(device), **entry.arguments({}))
        loss.backward()
        losses.append(loss.item())
        grads.append(torch.cat([p.grad.cpu().flatten() for p in net.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert torch.allclose(grads[1], grads[0], atol=1e-4)


def test_batch_norm_is_folded_though_convolutions_round_to_tf32() -> None:
    torch.manual_seed(0)
    net = build(network_ref("resnet18", {"width": 16}), 10, (3, 32, 32)).eval().to(GPU)
    assert fast_layout(net, torch.rand(4, 3, 32, 32, device=GPU)).folded == 20


def test_a_run_is_the_same_each_time_and_close_to_one_on_a_cpu(tmp_path) -> None:
    outcomes = []
    for name, device in (("one", "cuda"), ("two", "cuda"), ("cpu", "cpu")):
        store = str(tmp_path / name)
        assert (
            main(["run", tiny.write(tmp_path), "--device", device, "--store", store, "--report", store + "/report"])
            == 0
        )
        results = {str(result.names): result for result in Store(tmp_path / name).results()}
        outcomes.append({names: (r.metrics, r.clean_bits, r.adversarial_bits, r.flags) for names, r in results.items()})
        if device == "cuda":
            assert all(r.provenance.deterministic and "folded" in r.provenance.layout for r in results.values())
            assert not any("not-deterministic" in r.flags for r in results.values())
    first, second, on_cpu = outcomes
    assert first == second
    assert first.keys() == on_cpu.keys()
    for names, (metrics, *_) in first.items():
        assert metrics.robust_accuracy == pytest.approx(on_cpu[names][0].robust_accuracy, abs=0.15), names
