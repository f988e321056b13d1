"""Frost: parts of photographs over images, and where the photographs come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from attacks import _corruptions
from attacks._frost import PHOTOGRAPHS
from bench import registry
from bench.api import MethodError
from bench.cli import main
from bench.methods import sources
from bench.types import UsageError
from tests.attacks.photographs import write_photographs
from tests.attacks.test_corruptions import assert_levels, channels_last, corrupt, images, target_of


def attack() -> registry.Entry:
    return registry.find("attack", "corruption")


@pytest.fixture
def packaged(tmp_path, monkeypatch) -> Path:
    """The folder of an installed package of that name, which fails as soon as it is imported."""
    folder = write_photographs(tmp_path / "site" / "imagecorruptions" / "frost")
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


@pytest.fixture
def without_package(monkeypatch) -> None:
    monkeypatch.setattr(sources, "find_top", lambda name: None)


@pytest.mark.parametrize(("side", "severity"), [(32, 1), (32, 5), (64, 3), (128, 5)])
def test_frost_is_a_sum_with_a_part_of_a_resized_photograph(tmp_path, side: int, severity: int) -> None:
    folder = write_photographs(tmp_path, (360, 275))
    x = images(6, side)
    share, frozen, scale = _corruptions.constants("frost", severity, side)
    uniform, expected = target_of(x).uniform(torch.empty(6, 3)).double().numpy(), []
    for image, (which, row, column) in zip(channels_last(x), uniform, strict=True):
        pixels = np.asarray(Image.open(folder / PHOTOGRAPHS[int(5 * which)]))[..., :3].astype(float)
        # The middle of a pixel stays the middle of a pixel.
        places = ((np.arange(int(length * scale)) + 0.5) / scale - 0.5 for length in pixels.shape[:2])
        grid = np.meshgrid(*places, indexing="ij")
        small = np.stack([scipy.ndimage.map_coordinates(pixels[..., c], grid, order=1) for c in range(3)], 2)
        top, left = int(row * (len(small) - side)), int(column * (small.shape[1] - side))
        part = np.rint(small[top : top + side, left : left + side])
        expected.append(share * image + frozen * part / 255)
    assert len({int(5 * which) for which, _, _ in uniform}) > 1
    assert_levels(corrupt(x, "frost", severity, photographs=str(folder)), np.stack(expected), share=0.01)


def test_a_photograph_that_is_too_small_is_enlarged_and_a_grey_image_has_a_grey_one(tmp_path) -> None:
    folder = write_photographs(tmp_path, (60, 40))
    wide = torch.zeros(3, 3, 50, 220)
    frozen = corrupt(wide, "frost", 5, photographs=str(folder))
    assert (frozen > 0).double().mean() > 0.9 and len(frozen.unique()) > 50
    grey = corrupt(torch.zeros(3, 1, 32, 32), "frost", 5, photographs=str(folder))
    assert grey.shape == (3, 1, 32, 32) and float(grey.max()) > 0


def test_photographs_come_from_the_installed_package_which_is_not_imported(packaged) -> None:
    arguments = attack().arguments({"kind": "frost"})
    assert Path(arguments["photographs"]) == packaged
    assert corrupt(images(2), "frost", 3, photographs=arguments["photographs"]).shape == (2, 3, 32, 32)
    assert attack().arguments({"kind": "fog"})["photographs"] == ""


def test_what_the_photographs_show_is_part_of_the_key_and_where_they_are_counts_only_for_frost(packaged) -> None:
    frost, fog = (attack().ref({"kind": kind}) for kind in ("frost", "fog"))
    assert frost.params == {"kind": "frost", "severity": 3}
    own = str(packaged)
    named = attack().ref({"kind": "frost", "photographs": own})
    assert named.params["photographs"] == own and named.code_sha == frost.code_sha
    assert attack().ref({"kind": "fog", "photographs": own}) == fog
    (packaged / "notes.txt").write_text("not read")
    assert attack().ref({"kind": "frost"}) == frost
    write_photographs(packaged, seed=1)
    assert attack().ref({"kind": "frost"}).code_sha != frost.code_sha
    assert attack().ref({"kind": "fog"}) == fog


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (
            ("package",),
            "kind = 'frost' needs the photographs of a package: pip install --no-deps imagecorruptions; or name a "
            'folder that has frost1.png, frost2.png, frost3.png, frost4.jpg, frost5.jpg: photographs = "DIR"',
        ),
        (("folder",), "photographs: no folder "),
        (("frost2.png", "frost5.jpg"), "has no frost2.png, frost5.jpg"),
    ],
)
def test_photographs_that_are_not_there_are_one_line(tmp_path, without_package, missing, line: str) -> None:
    folder = tmp_path / "photographs"
    if missing[0] not in ("package", "folder"):
        write_photographs(folder)
        for name in missing:
            (folder / name).unlink()
    params = {"kind": "frost"} | ({} if missing == ("package",) else {"photographs": str(folder)})
    with pytest.raises(UsageError) as caught:
        attack().ref(params)
    assert str(caught.value).startswith("attack corruption: ") and line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


CONFIG = """
schema = 1
name = "my"
[dataset]
name = "digits"
n = 20
[[models]]
arch = "small-cnn"
channels = 4
hidden = 8
[train]
epochs = 0
[[defenses]]
use = "standard"
[[attacks]]
use = "corruption"
kind = ["fog", "frost"]
"""


def test_a_run_with_frost_says_at_once_what_is_missing_and_runs_with_the_folder(
    tmp_path, without_package, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(CONFIG)
    assert main(["run", "my.toml", "--store", "store", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "pip install --no-deps imagecorruptions" in said and "Traceback" not in said
    write_photographs(tmp_path / "photographs")
    Path("my.toml").write_text(CONFIG + 'photographs = "photographs"\n')
    assert main(["run", "my.toml", "--store", "store", "--device", "cpu"]) == 0
    assert "kind=frost" in capsys.readouterr().out


def test_a_damaged_photograph_is_one_line(tmp_path) -> None:
    (write_photographs(tmp_path) / "frost3.png").write_bytes(b"no image")
    with pytest.raises(MethodError) as caught:
        corrupt(images(2), "frost", 1, photographs=str(tmp_path))
    assert "frost3.png cannot be read: " in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_files_that_are_asked_for_are_those_that_are_read() -> None:
    assert tuple(attack().meta["folders"]["photographs"]["files"]) == PHOTOGRAPHS
