"""Resizing and cropping as torchvision and timm do it: every pixel against their own transforms."""

import importlib.metadata
import io
import shutil
import sys

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import models

from bench.cli import main
from bench.config.sections import load
from bench.data import cards, data_ref, open_ref, open_set, rows_of
from bench.data.memo import cache_folder
from bench.keys import identity
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import Preprocessing, UsageError
from tests.data.image_files import noise, write_parquet
from tests.data.test_configured_sets import METHODS

#: Height and width: landscape, portrait, smaller than any crop, a square, exactly a crop, one pixel wide and high.
SIZES = [(300, 401), (403, 277), (97, 131), (256, 256), (224, 224), (1, 23), (23, 1), (500, 333), (232, 235)]


def smooth(seed, height, width):
    """An image whose pixels are like their neighbors, as in a photograph, with noise on top."""
    coarse = Image.fromarray(noise(seed, 7, 9)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(coarse) // 2 + noise(seed + 1, height, width) // 2


def file_of(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs of all sizes and kinds in two classes, and their paths in the order of the classes."""
    images = [Image.fromarray(smooth(index, *size)) for index, size in enumerate(SIZES)]
    files = [(file_of(image, "JPEG" if index % 2 else "PNG"), index) for index, image in enumerate(images)]
    turned = Image.Exif()
    turned[0x0112] = 6
    files += [(file_of(images[0], "JPEG", exif=turned), 20), (file_of(images[1].convert("L"), "JPEG"), 21)]
    rgba = images[0].copy()
    rgba.putalpha(images[1].convert("L").resize(images[0].size))
    files += [(file_of(rgba, "PNG"), 22), (file_of(images[1].quantize(32), "PNG"), 23)]
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for index, (data, number) in enumerate(files):
        path = folder / "val" / f"class{index * 2 // len(files)}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return folder, paths


def prepared(photos, how, **options):
    """The pixels of the photographs in the order of their paths."""
    name = f"folder:{photos[0]}"
    images = open_set(
        name,
        "test",
        folder=None,
        image_size=how.size,
        interpolation=how.interpolation,
        preprocessing=how.preprocessing,
        **options,
    )
    return images.at(np.arange(len(photos[1])))[0]


def loaded(path):
    return Image.open(path).convert("RGB")


@pytest.mark.parametrize(
    "weights",
    [
        "ResNet50_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
        "Inception_V3_Weights.IMAGENET1K_V1",
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",
    ],
)
def test_every_pixel_is_that_of_torchvisions_own_transform(photos, weights):
    # With this mean and deviation its last step, to normalise, changes nothing.
    theirs = models.get_weight(weights).transforms(mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = np.stack([np.rint(theirs(loaded(path)).numpy() * 255).astype(np.uint8) for path in photos[1]])
    assert np.array_equal(prepared(photos, cards.read(f"torchvision:{weights}")), expected)


@pytest.mark.parametrize(
    "name",
    [
        "resnet50.a1_in1k",
        "resnet50.tv_in1k",
        "convnext_tiny.fb_in22k_ft_in1k_384",
        "deepseek_vit_412m.deepseek_v4_flash_vision_exp",
        "vit_base_patch16_sapiens2.fb",
    ],
)
def test_every_pixel_is_that_of_timms_own_transform(photos, name):
    config = resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    theirs = create_transform(**config, is_training=False, normalize=False)
    expected = np.stack([theirs(loaded(path)).numpy() for path in photos[1]])
    assert np.array_equal(prepared(photos, cards.read(f"timm:{name}")), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("crop", "crop_pct"), [(224, 0.875), (200, 0.93), ((96, 160), 0.9), ((160, 96), 1.0)])
def test_numbers_in_the_configuration_are_those_of_timm(photos, interpolation, crop, crop_pct):
    theirs = create_transform(crop, interpolation=interpolation, crop_pct=crop_pct, normalize=False)
    ours = prepared(photos, cards.resizing(crop, crop_pct=crop_pct, interpolation=interpolation))
    assert all(np.array_equal(x, theirs(loaded(path)).numpy()) for x, path in zip(ours, photos[1], strict=True))


def cell_of(tmp_path, photos, dataset, arch="small-cnn"):
    methods = METHODS.replace('arch = "small-cnn"\nchannels = 4\nhidden = 8', f'arch = "{arch}"')
    methods = methods.replace('use = "standard"', f'use = "weights:{tmp_path / "net.safetensors"}"')
    file = tmp_path / "my.toml"
    file.write_text(f'schema = 1\nname = "my"\n[dataset]\nname = "folder:{photos[0]}"\n{dataset}\n{methods}')
    return make(load(str(file)), lenient=True).plan.cells[0].cell


def test_a_card_and_the_same_numbers_are_the_same_images(tmp_path, photos):
    by_hand = cell_of(tmp_path, photos, "resize = 256\ncrop = 224").data
    card = cell_of(tmp_path, photos, 'preprocessing = "torchvision:resnet18"').data
    own = cell_of(tmp_path, photos, 'preprocessing = "model"\nimage_size = 224', "torchvision:resnet18").data
    assert card == by_hand == own and by_hand.prepared == "resized to 256 (bilinear), center crop 224"
    assert by_hand.image_shape == (3, 224, 224)
    bicubic = cell_of(tmp_path, photos, 'crop = 224\ncrop_pct = 0.875\ninterpolation = "bicubic"').data
    assert bicubic.prepared == "resized to 256 (bicubic), center crop 224"
    assert bicubic.data_sha != by_hand.data_sha
    squashed = cell_of(tmp_path, photos, "resize = [64, 48]\ncrop = [64, 32]").data
    assert squashed.prepared == "squashed to 64x48 (bilinear), center crop 64x32"
    for ref in (by_hand, squashed):
        assert sorted(rows_of(open_ref(ref, folder=None), ref)) == list(range(len(photos[1])))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("resize = 256", "need crop"),
        ("crop_pct = 0.9", "need crop"),
        ("crop = 224", "crop needs one of resize and crop_pct, such as resize = 256"),
        ("crop = 224\nresize = 256\ncrop_pct = 0.9", "crop needs one of resize and crop_pct"),
        ("crop = 300\nresize = 256", "crop = 300 is larger than resize = 256, from which it is cut"),
        ("crop = [224, 300]\nresize = 256", "crop = \\(224, 300\\) is larger than resize = 256"),
        ("crop = 0\nresize = 256", "crop = 0: height and width must be whole numbers of at least 1"),
        ("crop = 8\nresize = -8", "resize = -8: a side must be at least 1"),
        ("crop = 8\nresize = 1000000000", "resize = 1000000000: "),
        ("crop = 8\ncrop_pct = 0", "crop_pct = 0.0: a share above 0 and up to 1 is needed"),
        ("crop = 8\ncrop_pct = 1.2", "crop_pct = 1.2: a share above 0 and up to 1 is needed"),
        ('crop = 8\nresize = 9\ninterpolation = "cubic"', "interpolation"),
        ("crop = 224\nresize = 256\nimage_size = 225", "image_size = 225 contradicts crop = 224"),
        ('preprocessing = "model"', "small-cnn has no card; give resize, crop and interpolation instead"),
        ('preprocessing = "resnet50"', "'torchvision:' or 'timm:' with the name of a network or of weights is needed"),
        ('preprocessing = "timm:resnet50"\ncrop = 8', "preprocessing takes crop from the card"),
        ('preprocessing = "timm:resnet50"\ninterpolation = "nearest"', "takes interpolation from the card"),
        ('preprocessing = "timm:resnet50"\nimage_size = 8', "image_size = 8 contradicts the card: resized to 235"),
        ('preprocessing = "timm:resnet5"', "unknown timm model 'resnet5'; did you mean 'resnet50'?"),
        ('preprocessing = "timm:resnet50.a1_in2k"', "unknown timm weights.*did you mean 'resnet50.a1_in1k'?"),
        ('preprocessing = "torchvision:resnet5"', "unknown torchvision network 'resnet5'; did you mean 'resnet50'?"),
        ('preprocessing = "torchvision:ResNet50_Weights.V3"', "torchvision has no weights ResNet50_Weights.V3"),
        ('preprocessing = "torchvision:fcn_resnet50"', "no image classifier: its card has no resize and center crop"),
        ('preprocessing = "timm:hf-hub:timm/resnet18.a1_in1k"', "is not read; name the same weights as timm does"),
        ('preprocessing = "timm:volo_d5_512"', "the card of timm:volo_d5_512 cannot be followed: crop_pct = 1.15"),
    ],
)
def test_what_contradicts_itself_or_a_card_is_one_line(tmp_path, photos, dataset, message):
    with pytest.raises(UsageError, match=message) as error:
        cell_of(tmp_path, photos, dataset)
    assert str(error.value).startswith("my.toml") and "\n" not in str(error.value)


def test_the_card_of_networks_must_be_one(tmp_path, photos):
    # Version 1 of these weights was tested at 256, version 2 at 232.
    with pytest.raises(UsageError, match=r"cards differ, torchvision:ResNet50_Weights.IMAGENET1K_V1 \(resized to 256"):
        cell_of(tmp_path, photos, 'preprocessing = "model"', "torchvision:resnet50")
    networks = [("torchvision:resnet18", {}), ("timm:resnet50.a1_in1k", {})]
    with pytest.raises(UsageError, match="cards differ"):
        cards.of_networks(networks)
    assert cards.of_networks(networks[:1] * 2) == cards.read("torchvision:resnet18")
    assert cards.of_networks([("torchvision:resnet50", {"pretrained": True})]) == cards.read("torchvision:resnet50")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crop_pct", 1.5, "crop_pct = 1.5"),
        ("crop_pct", "nan", "crop_pct = 'nan'"),
        ("interpolation", "random", "unknown interpolation 'random'"),
        ("input_size", (3, 0, 0), "crop = "),
        ("input_size", (3, 10**6, 10**6), "images of 1,000,000 x 1,000,000 pixels: at most"),
        ("input_size", (3, 7.5, 7.5), "crop = "),
        ("crop_mode", "whole", "resize = "),
    ],
)
def test_a_card_that_makes_no_sense_is_one_line(monkeypatch, field, value, message):
    card = timm.models.get_pretrained_cfg("resnet50.a1_in1k")
    monkeypatch.setattr(card, field, value)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: card)
    with pytest.raises(UsageError, match=f"the card of timm:resnet50.a1_in1k cannot be followed: {message}"):
        cards.read("timm:resnet50.a1_in1k")


def test_a_card_that_was_read_is_remembered(monkeypatch):
    names = ["timm:resnet50.a1_in1k", "torchvision:vit_b_16", "timm:deepseek_vit_412m.deepseek_v4_flash_vision_exp"]
    first = [cards.read(name) for name in names]
    monkeypatch.setattr(cards, "_timm", None)
    monkeypatch.setattr(cards, "_torchvision", None)
    assert [cards.read(name) for name in names] == first
    monkeypatch.setattr(cards, "version", lambda library: "another")
    with pytest.raises(UsageError, match="TypeError"):
        cards.read(names[0])


def test_an_absent_package_says_how_to_install_it_and_a_broken_one_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="the card of timm:resnet50 cannot be read .ModuleNotFoundError: .*timm"):
        cards.read("timm:resnet50")
    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", absent)
    with pytest.raises(UsageError, match="the card of timm:resnet50 needs a package: pip install timm"):
        cards.read("timm:resnet50")


def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)


def test_only_the_images_that_are_used_are_opened(tmp_path, photos):
    folder = tmp_path / "photos"
    shutil.copytree(photos[0], folder)
    name, how = f"folder:{folder}", {"image_size": (32, 32), "preprocessing": Preprocessing(resize=40)}
    few = open_set(name, "test", folder=None, n=4, channels=3, **how)
    all_of_them = open_set(name, "test", folder=None, channels=3, **how)
    ref = data_ref(few)
    assert few.images.shape == (4, 3, 32, 32) and ref.n == 4 and ref.classes_present is None
    pixels, labels = all_of_them.at(few.part.rows)
    assert np.array_equal(few.images, pixels) and np.array_equal(few.labels, labels)
    # A view of the map, not a copy.
    assert np.shares_memory(few.at(few.part.rows)[0], few.images)
    paths = sorted(folder.rglob("*.png"))
    for row in set(range(len(paths))) - set(few.part.rows.tolist()):
        paths[row].write_bytes(b"not an image")
    shutil.rmtree(cache_folder())
    assert open_ref(ref, folder=None).sha == few.sha
    paths[few.part.rows[0]].write_bytes(paths[few.part.rows[1]].read_bytes())
    with pytest.raises(UsageError, match="the images are not those that the plan was made for"):
        open_ref(ref, folder=None)


def test_a_table_of_images_is_the_same_set_as_their_folder(tmp_path, photos):
    labels = [int(path.parent.name[-1]) for path in photos[1]]
    names = ["class0", "class1"]
    write_parquet(tmp_path / "test.parquet", [path.read_bytes() for path in photos[1]], labels, names=names)
    how = {"image_size": (32, 32), "preprocessing": Preprocessing(resize=40)}
    for options in ({}, {"n": 5}, {"n": 5, "subset": "first"}, {"n": 5, "classes": ("class1", "class0")}):
        table, folder = (
            data_ref(open_set(name, "test", folder=None, **how, **options))
            for name in (f"parquet:{tmp_path}", f"folder:{photos[0]}")
        )
        assert identity(table) == identity(folder) and table.n == options.get("n", len(labels))
        assert open_ref(table, folder=None).sha == table.data_sha


def test_tables_and_plans_say_what_was_done_to_images(tmp_path, photos, capsys):
    text = f'schema = 1\nname = "my"\n[dataset]\nname = "folder:{photos[0]}"\nresize = 18\ncrop = 16\nn = 4\n'
    (tmp_path / "my.toml").write_text(text + METHODS)
    shutil.copytree(photos[0] / "val", photos[0] / "train")
    said = "images are resized to 18 (bilinear), center crop 16"
    store = ["--store", str(tmp_path / "store")]
    assert main(["plan", str(tmp_path / "my.toml"), *store]) == 0
    assert f"folder:{photos[0]}: {said}" in capsys.readouterr().out
    assert main(["run", str(tmp_path / "my.toml"), *store]) == 0
    assert f"! {said}" in capsys.readouterr().out
    result = next(iter(Store(tmp_path / "store").results()))
    assert result.cell.data.preprocessing == result.cell.model.weights.data.preprocessing == Preprocessing(resize=18)
    assert main(["show", result.key, *store]) == 0
    assert "resize 18" in capsys.readouterr().out


def test_an_image_that_cannot_be_resized_is_one_line(tmp_path):
    for label, size in enumerate([(2, 60_000), (30, 30)]):
        path = tmp_path / f"class{label}" / "a.png"
        path.parent.mkdir()
        Image.new("L", size).save(path)
    how = {"image_size": (224, 224), "preprocessing": Preprocessing(resize=256)}
    with pytest.raises(UsageError, match=r"class0/a.png: an image of 60,000 x 2 pixels would be resized to 7,680,000"):
        open_set(f"folder:{tmp_path}", "test", folder=None, **how)
