"""The figures that look inside a network, on toys whose answer is known and on a small real store."""

import base64
import hashlib
import json
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from bench import registry
from bench.data import data_ref, open_set
from bench.evaluation.chunks import write_chunk
from bench.evaluation.craft import Crafted
from bench.keys import Keys, attack_key, training_key
from bench.models.build import build, network_ref
from bench.report import figures
from bench.report.figures import _network, _plot
from bench.report.figures._network import clean_images
from bench.report.figures.grad_cam import saliency
from bench.report.figures.loss_surface import surface
from bench.report.figures.tsne import separability
from bench.report.render.samples import samples
from bench.store import cards
from bench.store.files import write_atomically
from bench.store.working_store import Store
from bench.types import AttackRef, Cell, ModelRef, Schedule, Threat, TrainRef
from tests.report.fabricate import outcomes, result

N = 60


class Toy(nn.Module):
    """Two known maps, their mean, and a linear layer: class 0 is the left half's brightness, class 1 the right's."""

    def __init__(self):
        super().__init__()
        self.halves = nn.Conv2d(2, 2, 1, bias=False)
        self.linear = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.halves.weight.copy_(torch.eye(2)[:, :, None, None])
            self.linear.weight.copy_(torch.eye(2))

    def forward(self, x):
        return self.linear(self.halves(x).mean((2, 3)))


def toy_images():
    x = torch.zeros(2, 2, 8, 8)
    x[:, 0, :, :4] = 1.0
    x[:, 1, :, 4:] = 0.5
    return x


def test_grad_cam_looks_where_the_class_is():
    maps = saliency(Toy().eval(), toy_images(), torch.tensor([0, 1]))
    assert maps.shape == (2, 8, 8)
    left = torch.zeros(8, 8)
    left[:, :4] = 1.0
    torch.testing.assert_close(maps[0], left)
    torch.testing.assert_close(maps[1], 1 - left)


def test_grad_cam_is_the_papers_equation():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4)).eval()
    x = torch.rand(2, 1, 6, 6)
    maps = net[1](net[0](x)).detach().requires_grad_()
    net[3](net[2](maps))[torch.arange(2), torch.tensor([1, 3])].sum().backward()
    expected = torch.relu((maps.grad.mean((2, 3), keepdim=True) * maps).sum(1)).detach()
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(saliency(net, x, torch.tensor([1, 3])), expected)


def test_separability_of_clusters_and_of_noise():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    apart = separability(rng.normal(size=(200, 5)) + 100 * np.eye(4, 5)[labels], labels)
    assert apart["knn_accuracy"] == 1.0
    assert apart["silhouette"] > 0.9
    mixed = separability(rng.normal(size=(200, 5)), labels)
    assert mixed["knn_accuracy"] < 0.45
    assert abs(mixed["silhouette"]) < 0.1


def test_the_surface_of_a_linear_network_is_known():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    measured = surface(net, torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.long), 0.1, points=3)
    for a, step in enumerate(measured.steps):
        assert measured.loss[0, a] == pytest.approx(np.log1p(np.exp(-4 * (0.5 - 0.1 * step))), rel=1e-5)
    assert measured.accuracy.min() == 1.0


def test_the_last_map_is_that_before_the_linear_layers():
    net = build(network_ref("resnet18", {"width": 8}), 10, (3, 32, 32)).eval()
    assert _network.last_map(net, torch.zeros(1, 3, 32, 32)) is net.layer4


def test_images_of_many_classes_come_first():
    scores, labels = torch.tensor([9, 8, 7, 6, 5]), torch.tensor([0, 0, 1, 0, 2])
    assert _network.of_many_classes(scores, labels, 4) == [0, 2, 4, 1]


@pytest.mark.parametrize(
    ("predicted", "goal", "words"),
    [
        (1, None, ""),
        (2, None, "wrong: "),
        (2, 2, "reached: "),
        (1, 2, "missed: "),
        (3, 2, "missed: "),
        (1, 1, "missed: "),
    ],
)
def test_a_targeted_attack_succeeds_only_with_its_class(predicted: int, goal: int | None, words: str) -> None:
    names = ("no", "yes", "maybe", "never")
    images = _network.Images(torch.zeros(1, 1, 2, 2), torch.tensor([1]), names, names)
    shown = images.prediction(0, predicted, 3.0, 6.0, 2, goal=goal)
    assert shown.text == f"{words}{names[predicted]}"
    assert (shown.colour == _plot.WRONG) == (words in ("wrong: ", "reached: "))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store with a network of random weights on digits, two adversarial sets of noise, and a purified defense."""
    store = Store(tmp_path_factory.mktemp("store"))
    images = open_set("digits", "test", folder=None, image_size=(16, 16), interpolation="nearest")
    data = data_ref(images, N)
    recipe = registry.find("recipe", "fgsm-at").ref({})
    network = network_ref("small-cnn", {})
    model = ModelRef(network=network, weights=TrainRef(recipe=recipe, schedule=Schedule(epochs=1), data=data, seed=0))
    torch.manual_seed(0)
    folder, weights = store.training(training_key(model)), save(build(network, 10, data.image_shape).state_dict())
    write_atomically(folder / "weights.safetensors", weights)
    cards.write(folder, {"weights_sha256": hashlib.sha256(weights).hexdigest()})
    x = torch.tensor(images.images[:N]).float() / 255
    results = []
    for name, scale in (("fgsm", 0.1), ("pgd", 0.2)):
        attack = AttackRef(
            model=model,
            step=None,
            attack=registry.find("attack", name).ref({}),
            threat=Threat(eps="1/4"),
            data=data,
            seed=0,
        )
        noise = (x + scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).sign()).clamp(0, 1)
        write_chunk(
            store.adversarial(attack_key(attack)) / f"000000-{N:06d}.safetensors",
            Crafted(noise, torch.ones(N), torch.ones(N), 0.1, [], N),
        )
        for defense, step, access in (
            ("fgsm-at", None, "white-box"),
            ("tpap", registry.find("test-time", "tpap").ref({}), "static"),
        ):
            cell = Cell(data=data, model=model, step=step, access=access, attack=attack, seed=0)
            attacked = result(defense, name, clean=[True] * N, adversarial=outcomes(0.5, N), access=access)
            results.append(attacked.model_copy(update={"cell": cell, "key": Keys().of(cell)}))
    return figures.source_of(results, store)


@pytest.mark.parametrize("name", ["attack-gallery", "grad-cam", "tsne", "loss-surface"])
def test_a_figure_of_a_network_is_drawn_the_same_twice(source, tmp_path, monkeypatch, name):
    monkeypatch.setitem(surface.__kwdefaults__, "points", 3)
    first = [path.read_bytes() for path in figures.draw(name, source, tmp_path / "a")]
    assert [path.read_bytes() for path in figures.draw(name, source, tmp_path / "b")] == first
    assert json.loads(first[2])["figure"] == name


def test_the_gallery_measures_what_it_shows(source, tmp_path):
    body = json.loads(figures.draw("attack-gallery", source, tmp_path)[2].read_text())
    largest = {row["attack"]: row["linf"] for row in body["images"]}
    assert largest == {"fgsm": pytest.approx(0.1), "pgd": pytest.approx(0.2)}


def test_a_purified_network_is_shown_with_what_adaptive_attacks_leave_of_it(source):
    p = _network.purification(source)
    assert p.names["access"] == "static" and p.names["accuracy_under_attack"] == {"static": 0.5, "adaptive": None}
    assert p.title.startswith("gray-box (static)") and "adaptive: not measured" in p.accuracies
    adaptive = []
    for share, attack in ((0.25, p.cell.names.attack), (0.0, "another")):
        made = result("tpap", attack, clean=[True] * N, adversarial=outcomes(share, N), access="adaptive")
        cell = p.cell.cell.model_copy(update={"access": "adaptive"})
        adaptive.append(made.model_copy(update={"cell": cell, "key": attack}))
    p = _network.purification(figures.source_of([*source.results, *adaptive], source.store))
    assert p.names["accuracy_under_attack"] == {"static": 0.5, "adaptive": 0.25}
    assert "gray-box (static): 50.0 %; adaptive: 25.0 %" in p.accuracies


def test_purified_images_are_what_the_network_gets(source):
    p = _network.purification(source)
    received = _network.purified(p, p.images.x)
    moved = (received - p.images.x).abs()
    assert 0 < float(moved.max()) <= 8 / 255 + 1e-6
    deployed = (
        registry.find("test-time", "tpap")
        .load()(beta=registry.find("test-time", "tpap").arguments(p.step.params)["beta"])
        .wrap(p.net)
    )
    torch.testing.assert_close(p.net(received), deployed(p.images.x))


def test_a_step_that_is_fitted_gets_the_training_images(source):
    p = _network.purification(source)._replace(step=registry.find("test-time", "quilting").ref({"patch": 5}))
    trained = p.training()
    assert trained.dtype == torch.uint8 and len(trained) == p.cell.cell.model.weights.data.n
    received = _network.purified(p, p.images.x[:2])
    assert received.shape == (2, 1, 16, 16) and 0 < float((received - p.images.x[:2]).abs().max()) <= 1
    with pytest.raises(figures.Missing, match="trained elsewhere"):
        _network.purified(p._replace(training=None), p.images.x[:2])


def test_the_page_shows_the_images_themselves(source):
    addresses = samples(source.results, source.store)
    assert set(addresses) == {r.key for r in source.results}
    (pgd,) = {addresses[r.key] for r in source.results if r.names.attack == "pgd"}
    sheet = np.asarray(Image.open(BytesIO(base64.b64decode(pgd.url.partition(",")[2])))) / 255
    assert sheet.shape == (2 * 16, 8 * 16)
    clean, attacked = sheet[:16], sheet[16:]
    assert np.abs(attacked - clean).max() == pytest.approx(0.2, abs=1 / 255)
    broken = [r for r in source.results if r.names.attack == "pgd"][0]
    first = [i for i, right in enumerate(broken.robust_outcomes) if not right][:8]
    x = clean_images(source, broken.cell.data).x[:, 0].numpy()
    np.testing.assert_allclose(clean, np.concatenate(x[first], axis=1), atol=1e-6)
    assert pgd.classes == tuple(
        f"class\xa0{label}" for label in clean_images(source, broken.cell.data).y[first].tolist()
    )


def test_images_that_are_not_here_are_left_out(source, tmp_path):
    assert samples(source.results, Store(tmp_path)) == {}
