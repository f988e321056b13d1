"""What the documents tell a reader to type works as it stands."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench import registry
from bench.config import sections
from bench.data import open_set
from bench.evaluation.craft import audit
from bench.evaluation.defense import deploy
from bench.evaluation.target import Meter, NetworkTarget
from bench.models.build import build, network_ref
from bench.schedule.plan import make
from bench.schedule.run import Runner
from bench.store.working_store import Store
from bench.types import Threat, UsageError

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|toml)\n# (\S+\.(?:py|toml))\n(.*?)^```", re.MULTILINE | re.DOTALL)
ADDING = [ROOT / "docs" / f"add-{kind}.md" for kind in ("an-attack", "a-defense", "a-network", "a-dataset")]
NETWORKS = (ROOT / "docs" / "add-a-network.md").read_text(encoding="utf-8")
SNIPPETS = BLOCK.findall("\n".join(path.read_text(encoding="utf-8") for path in ADDING))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Every snippet that begins with the name of its file, written to that file."""
    for _, name, text in SNIPPETS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


class Silent:
    def cells(self, done, total, failed=0): ...

    def work(self, *_): ...


def make_photos(folder):
    for split, count in (("train", 30), ("test", 8)):
        for label, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng(index).integers(0, 100, (32, 32, 3)) + 150 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{index}.png")


def test_the_attack_is_found_and_keeps_its_contract(written):
    entry = registry.find("attack", "attacks/sign_noise.py:sign_noise")
    assert entry.name == "sign-noise" and entry.summary.endswith(".") and entry.available
    x, y = torch.rand(5, 3, 8, 8), torch.arange(5) % 2
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval().requires_grad_(False)
    threat = Threat(eps="8/255")
    with Meter(net, 5) as meter:
        target = NetworkTarget(net, meter, torch.arange(5), seed=0, num_classes=2, batch=2)
        x_adv = entry.load()(target, x, y, threat)
    audit(x_adv, x, threat, entry.name)
    assert not torch.equal(x_adv, x) and meter.forwards == 0


def test_the_step_is_found_and_is_what_it_says(written):
    entry = registry.find("test-time", "defenses/mirror_mean.py:MirrorMean")
    base = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    step = deploy(base, entry.ref({}))
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(step.deployed(x), (base(x) + base(x.flip(3))) / 2)
    torch.testing.assert_close(step.surrogate(x), step.deployed(x))


def test_the_purifier_rounds_and_its_surrogate_has_the_gradient_of_the_rounded_image(written):
    entry = registry.find("test-time", "defenses/few_levels.py:FewLevels")
    base = nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.Sigmoid()).eval()
    step = deploy(base, entry.ref({"levels": 3}))
    x = torch.rand(4, 3, 8, 8, requires_grad=True)
    near = torch.where(x < 0.25, 0.0, torch.where(x < 0.75, 0.5, 1.0)).detach().requires_grad_()
    torch.testing.assert_close(step.deployed(x), base(near))
    torch.testing.assert_close(step.surrogate(x), base(near))
    (through,) = torch.autograd.grad(step.surrogate(x).sum(), x)
    (wanted,) = torch.autograd.grad(base(near).sum(), near)
    torch.testing.assert_close(through, wanted)


def test_the_table_runs_from_images_to_results(written):
    make_photos(written / "photos")
    work = make(sections.load("my-table.toml"))
    results = Runner(work, Store(written / "store"), torch.device("cpu"), None, lambda: None, Silent()).run()
    cells = {(result.cell.model.weights.recipe.name, result.cell.step and result.cell.step.name) for result in results}
    step = "defenses/mirror_mean.py:MirrorMean"
    assert cells == {("defenses/noise_at.py:noise_at", None), ("standard", step)}
    assert {result.names.attack for result in results} == {"clean", "sign-noise"}
    assert [result.error for result in results] == [None] * len(results)
    assert all(result.metrics.n == 16 for result in results)


def run(folder, name):
    work = make(sections.load(name))
    return Runner(work, Store(folder / "store"), torch.device("cpu"), None, lambda: None, Silent()).run()


def test_networks_of_ones_own_run(written):
    results = run(written, "my-networks.toml")
    assert [result.error for result in results] == [None] * len(results)
    assert {(result.names.model, result.names.defense) for result in results} == {
        (model, defense)
        for model, defense in itertools.product(("nets.py:TwoHeads", "nets.py:plain + small-cnn"), ("standard", "jpeg"))
    }


def test_weights_for_each_member_are_measured_as_they_are(written):
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.manual_seed(seed)
        torch.save({"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}, written / name)
    results = run(written, "as-it-is.toml")
    files = [torch.load(written / name) for name in ("a.pt", "b.pt")]
    x, y = (torch.from_numpy(each[:100]) for each in digits())
    logits = sum(x.flatten(1).float() / 255 @ file["1.weight"].T + file["1.bias"] for file in files) / 2
    expected = (logits.argmax(1) == y).float().mean().item()
    (accuracy,) = {result.metrics.clean_accuracy for result in results}
    assert accuracy == pytest.approx(expected)


def digits():
    images = open_set("digits", "test", folder=None)
    return np.array(images.images), np.array(images.labels)


def test_the_ensemble_is_one_network(written):
    (text,) = (text for text in re.findall(r"^```toml\n(.*?)^```", NETWORKS, re.M | re.S) if not text.startswith("# "))
    start = (written / "my-networks.toml").read_text().partition("[[models]]")[0]
    rows = '[[defenses]]\nuse = "standard"\n[[attacks]]\nuse = "fgsm"\n'
    (written / "ensemble.toml").write_text(f"{start}{text}{rows}")
    (network,) = {planned.cell.model.network for planned in make(sections.load("ensemble.toml")).plan.cells}
    assert network.name == "2 x resnet18 + nets.py:TwoHeads" and network.params == {"combine": "probabilities"}


def test_the_line_about_two_outputs_is_the_one_that_is_printed(written):
    text = " ".join(re.search(r"^```text\n(.*?)^```", NETWORKS, re.M | re.S)[1].split())
    with pytest.raises(UsageError) as caught:
        build(network_ref("nets.py:TwoHeads", {}), 10, (1, 8, 8))
    assert str(caught.value) == text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    if not document.exists():
        pytest.skip(f"{document.name} is not written yet")
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in link:
            assert (document.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document):
    if not document.exists():
        pytest.skip(f"{document.name} is not written yet")
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    own = {name for _, name, _ in SNIPPETS}
    for name in set(re.findall(r"`((?:bench|attacks|defenses|tests|docs)/[\w/.-]*)`", text)) - own:
        assert (ROOT / name).exists(), f"{document.name} names {name}"
