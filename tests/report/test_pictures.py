"""Figures that show images: classes by name, whatever the names, and every size legible at both widths."""

import hashlib
import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from safetensors.torch import save

from bench import registry
from bench.cli import main
from bench.data import data_ref, open_set
from bench.evaluation.chunks import write_chunk
from bench.evaluation.craft import Crafted
from bench.keys import Keys, attack_key, training_key
from bench.models.build import build, network_ref
from bench.report import figures
from bench.report.figures._network import running
from bench.report.figures._plot import WRONG
from bench.report.figures.loss_surface import Surface, _draw_surfaces, surface
from bench.report.render.class_names import class_labels
from bench.report.render.html import render
from bench.report.render.outside import images as images_of
from bench.report.render.samples import samples
from bench.report.sets.pictures import _folders
from bench.store import cards
from bench.store.files import write_atomically
from bench.store.working_store import Store
from bench.types import AttackRef, Cell, DataRef, ModelRef, Schedule, Threat, TrainRef
from tests.data.image_files import encode, noise, write_parquet
from tests.report.fabricate import method, outcomes, result
from tests.report.layout import faults, written

N, SIDE = 12, 8
PAGE, COLUMN = figures.WIDTHS.values()
LONG = "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias of the deep ocean, number "


def model_of(store: Store, data: DataRef, name: str, epochs: int = 1) -> ModelRef:
    """Return a small network of random weights by some name, which the store has as trained."""
    recipe, network = registry.find("recipe", "fgsm-at").ref({}), network_ref("small-cnn", {})
    trained = TrainRef(recipe=recipe, schedule=Schedule(epochs=epochs), data=data, seed=0)
    model = ModelRef(network=network.model_copy(update={"name": name}), weights=trained)
    torch.manual_seed(0)
    weights = save(build(network, data.num_classes, data.image_shape).state_dict())
    folder = store.training(training_key(model))
    write_atomically(folder / "weights.safetensors", weights)
    cards.write(folder, {"weights_sha256": hashlib.sha256(weights).hexdigest()})
    return model


def attacked(store: Store, data: DataRef, model: ModelRef, name: str, number: int, *, defense="net", size=0.1):
    """Return the white-box and static cell of an attack that adds noise of a size, whose images the store has."""
    params = {"steps": number}
    attack = AttackRef(
        model=model, step=None, attack=method("attack", "pgd", params), threat=Threat(eps="1/4"), data=data, seed=0
    )
    image_set, rows = images_of(data, None, trusted=True)
    x = torch.tensor(image_set.at(rows)[0]).float() / 255
    moved = x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(number)).sign()
    write_chunk(
        store.adversarial(attack_key(attack)) / f"000000-{N:06d}.safetensors",
        Crafted(moved.clamp(0, 1), torch.ones(N), torch.ones(N), 0.1, [], N),
    )
    step = registry.find("test-time", "tpap").ref({})
    for title, put, access in ((defense, None, "white-box"), (f"tpap@{defense}", step, "static")):
        cell = Cell(data=data, model=model, step=put, access=access, attack=attack, seed=0)
        made = result(title, name, clean=[True] * N, adversarial=outcomes(0.5, N), access=access, forwards=number)
        yield made.model_copy(update={"cell": cell, "key": Keys().of(cell)})


def photos(folder, names):
    """Write a set of grey noise with classes of these names, and return its reference."""
    images = [encode(noise(i, SIDE, SIDE, 1)) for i in range(N)]
    write_parquet(folder / "test.parquet", images, [i % len(names) for i in range(N)], names=list(names))
    return data_ref(open_set(f"parquet:{folder}", "test", folder=None, channels=1))


def gallery(folder, names, labels, *, network="small-cnn", **more):
    """Return the input of figures: a network under attacks of these names, on images of classes of these names."""
    store, data = Store(folder / "store"), photos(folder / "photos", names)
    model = model_of(store, data, network)
    results = []
    for number, label in enumerate(labels, start=1):
        results += attacked(store, data, model, label, number, **more)
    return figures.source_of(results, store, trusted=True)


def drawing(name, source, width):
    """Return a figure as it would be saved, with its numbers."""
    module = import_module(f"bench.report.figures.{name.replace('-', '_')}")
    with plt.style.context(str(figures.STYLE)):
        return module.draw(replace(source, width=width))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize(("width", "count", "letters"), [(PAGE, 2, 5), (COLUMN, 12, 120), (PAGE, 60, 120)])
def test_a_gallery_of_any_size_is_legible(tmp_path, monkeypatch, width, count, letters):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = [f"{letter}-{LONG}"[: letters - 1] + letter for letter in "abcd"]
    labels = [f"{LONG[:letters]} {number}" for number in range(count)]
    drawn = drawing("attack-gallery", gallery(tmp_path, names, labels), width)
    assert faults(drawn.figure) == []
    assert drawn.figure.get_figwidth() <= width + 1e-6 and drawn.figure.get_figheight() < 11
    shown = len({row["attack"] for row in drawn.numbers["images"]})
    assert shown == min(count, 10 if width == PAGE else 4)
    said = " ".join(" ".join(each.text.split()) for each in written(drawn.figure))
    assert (f"{shown} of {count} attacks" in said) == (shown < count)


def test_only_a_wrong_class_is_coloured_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = ("ant", "bee", "cow", "$x_1$")
    drawn = drawing("attack-gallery", gallery(tmp_path, names, ["first", "second"], size=0.2), 7.0)
    texts = written(drawn.figure)
    wrong = [row for row in drawn.numbers["images"] if row["predicted"] != row["class"]]
    clean_right = sum(each.colour != WRONG and each.text in names for each in texts)
    assert wrong and [each.text for each in texts if each.text.startswith("true class:")] == [
        f"true class:\n{row['class_name']}" for row in drawn.numbers["images"][::2]
    ]
    coloured = [each.text for each in texts if each.colour == WRONG]
    assert all(text.startswith("wrong:") for text in coloured)
    # Of each image there are the clean one and two attacked ones.
    assert len(coloured) + clean_right == 3 * len(drawn.numbers["images"]) // 2
    assert {row["predicted_name"] for row in wrong} <= {text.split()[-1] for text in coloured}
    assert [each.colour for each in texts if each.text.startswith(("first", "second"))] == ["#1c1e21"] * 2


def test_how_many_times_larger_is_what_the_numbers_say(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drawn = drawing("attack-gallery", gallery(tmp_path, "abcd", ["pgd"], size=0.01), 3.25)
    times = [each.text for each in written(drawn.figure) if each.text.startswith("×")]
    assert times == [f"×{0.5 / row['linf']:.0f}" for row in drawn.numbers["images"]]
    none = drawing("attack-gallery", gallery(tmp_path / "none", "abcd", ["pgd"], size=0), 3.25)
    assert [each.text for each in written(none.figure)].count("no change") == 4
    tiny = drawing("attack-gallery", gallery(tmp_path / "tiny", "abcd", ["pgd"], size=0.001), 3.25)
    assert [each.text for each in written(tiny.figure)].count("< 0.5/255") == 4


@pytest.mark.parametrize(
    ("name", "width", "letters"),
    [("grad-cam", COLUMN, 120), ("tsne", PAGE, 5), ("tsne", COLUMN, 120)],
)
def test_what_the_network_sees_is_legible_with_any_names(tmp_path, monkeypatch, name, width, letters):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = [f"{LONG[: letters - 1]}{letter}" for letter in "abcd"]
    source = gallery(tmp_path, names, [LONG[:letters]], defense=f"{LONG[:letters]}")
    drawn = drawing(name, source, width)
    assert faults(drawn.figure) == []
    assert drawn.figure.get_figwidth() <= width + 1e-6
    # Names that begin alike stay apart, by their numbers.
    texts = {" ".join(each.text.split()) for each in written(drawn.figure)}
    assert any(text.startswith("gray-box (static)") for text in texts)
    assert any("gray-box (static): 50.0 %; adaptive: not measured" in text for text in texts)
    shown = drawn.numbers["classes"] if name == "tsne" else {row["class"] for row in drawn.numbers["maps"]}
    for label in set(shown):
        assert any(names[label] in text or f"({label})" in text for text in texts), (label, texts)


def test_classes_have_the_names_of_their_set_and_numbers_where_it_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drawn = drawing("tsne", gallery(tmp_path, ("_ant", "bee", "cow"), ["pgd"]), 7.0)
    assert drawn.numbers["class_names"] == {"0": "_ant", "1": "bee", "2": "cow"}
    assert {"_ant", "bee", "cow"} <= {each.text for each in written(drawn.figure)}
    assert class_labels(("0", "1", "2")) == ("class\xa00", "class\xa01", "class\xa02")
    numbers = drawing("grad-cam", gallery(tmp_path / "numbers", "012", ["pgd"]), 7.0)
    assert {"true class:\nclass\xa00", "true class:\nclass\xa01"} <= {each.text for each in written(numbers.figure)}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("n01698640 American alligator", "n02129165 lion"), ("American alligator", "lion")),
        (("n01698640", "n02129165"), ("n01698640", "n02129165")),
        (("n02129165 lion", "lion cub"), ("n02129165 lion", "lion cub")),
        (("crane", "ant", "crane"), ("crane\xa0(0)", "ant", "crane\xa0(2)")),
        (("", "a\u202eb\n"), ("class\xa00", "a\\u202eb\\n")),
        ((), ()),
    ],
)
def test_labels_of_classes(names, labels):
    assert class_labels(names) == labels


def test_a_method_that_has_gone_ends_one_figure_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = gallery(tmp_path, "abc", ["pgd"])
    (bare, stepped) = source.results
    gone = stepped.cell.step.model_copy(update={"name": "tpap-of-old"})
    renamed = stepped.model_copy(update={"cell": stepped.cell.model_copy(update={"step": gone})})
    renamed = renamed.model_copy(update={"key": Keys().of(renamed.cell)})
    for each in (bare, renamed):
        source.store.put(each)
    words = ["figures", "--store", str(source.store.root), "--out", str(tmp_path / "out"), "--trust"]
    assert main([*words, "attack-gallery"]) == 0
    capsys.readouterr()
    assert main([*words, "grad-cam"]) == 3
    said = capsys.readouterr().err
    assert "grad-cam: " in said and "tpap-of-old" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "hurt", "said", "kind"),
    [
        ("attack-gallery", "weights", "not in this store, or not whole", figures.Missing),
        ("attack-gallery", "network", "net-of-old", figures.Failed),
        ("loss-surface", "network", "net-of-old", figures.Failed),
        ("grad-cam", "forward", "cannot take images of 1x8x8", figures.Missing),
    ],
)
def test_a_network_that_cannot_be_used_is_one_clear_line(tmp_path, monkeypatch, name, hurt, said, kind):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = gallery(tmp_path, "abc", ["pgd"], network="net-of-old" if hurt == "network" else "small-cnn")
    if hurt == "weights":
        (source.store.training(training_key(source.results[0].cell.model)) / "weights.safetensors").write_bytes(b"")
    if hurt == "forward":
        monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: x.reshape(7, 7))
    with pytest.raises(kind, match=said) as caught:
        drawing(name, source, 7.0)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_what_a_network_raises_on_images_is_one_line():
    with pytest.raises(figures.Failed, match="^tpap cannot be run on these images: first second$"), running("tpap"):
        raise RuntimeError("first\nsecond")


def test_an_attack_whose_images_have_gone_is_not_counted_as_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = gallery(tmp_path, "abc", ["first", "second", "third"])
    missing = next(r for r in source.results if r.names.attack == "second")
    for path in source.store.adversarial(attack_key(missing.cell.attack)).iterdir():
        path.unlink()
    drawn = drawing("attack-gallery", source, 7.0)
    assert {row["attack"] for row in drawn.numbers["images"]} == {"first", "third"}
    assert any("2 of 3 attacks" in " ".join(each.text.split()) for each in written(drawn.figure))
    assert json.dumps(drawn.numbers) and np.isfinite([row["l2"] for row in drawn.numbers["images"]]).all()


def test_the_page_names_the_classes_of_its_images(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = gallery(tmp_path, ("ant", "</script>", "x" * 120), ["pgd"])
    page = render(source.board, source.store, trusted=True)
    sampled = samples(source.results, source.store, trusted=True)
    first = next(iter(sampled.values()))
    assert len(first.classes) == 8 and {"ant", "</script>"} < set(first.classes) and max(map(len, first.classes)) <= 60
    assert first.url in page and "\\u003c/script\\u003e" in page


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("ant", "bee"), True),
        (("St. Bernard", "jack-o'-lantern"), True),
        (("great white shark, white shark, man-eater, man-eating shark, Carcharodon caharias (a fish)", "tench"), True),
        (("Ant", "ant"), False),
        (("..", "ant"), False),
        (("ant.", "bee"), False),
        (("a/b", "ant"), False),
        (("", "ant"), False),
        (("\u4e00" * 100, "ant"), False),
    ],
)
def test_folders_of_exported_pictures_are_classes_where_every_system_takes_their_names(names, kept, tmp_path):
    folders = _folders(names)
    assert folders == (list(names) if kept else ["00000", "00001"])
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(folders)


@pytest.mark.parametrize(("width", "count"), [(PAGE, 4), (COLUMN, 2), (COLUMN, 1)])
def test_surfaces_of_networks_of_long_names_are_legible(width, count):
    steps = np.linspace(0, 1, 3)
    flat = Surface(steps, np.full((3, 3), 2000.0), np.zeros((3, 3)))
    with plt.style.context(str(figures.STYLE)):
        figure = _draw_surfaces([(f"{LONG}{number}", flat) for number in range(count)], width)
    assert faults(figure) == []
    assert figure.get_figwidth() <= width + 1e-6


def test_networks_without_a_surface_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(surface.__kwdefaults__, "points", 3)
    store, data = Store(tmp_path / "store"), photos(tmp_path / "photos", "abc")
    results = []
    for epochs in range(1, 6):
        model = model_of(store, data, "small-cnn", epochs)
        results += attacked(store, data, model, "pgd", 1, defense=f"net{epochs}")
    drawn = drawing("loss-surface", figures.source_of(results, store, trusted=True), COLUMN)
    assert faults(drawn.figure) == [] and len(drawn.numbers["networks"]) == 2
    assert "2 of 5 networks" in " ".join(" ".join(each.text.split()) for each in written(drawn.figure))
