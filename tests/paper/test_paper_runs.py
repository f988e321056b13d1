"""The whole paper, run at tiny scale through the command line, so that none of its presets can rot."""

import json
import os
from itertools import chain

import pytest

from bench.cli import main
from bench.config import expand, sections
from bench.config.overrides import setting
from bench.schedule.plan import make
from tests.paper import stand_in

#: Whether all presets are run, as before a release.
ALL = os.environ.get("CROSSFIRE_PAPER") == "all"
#: Less than the tiny scale takes: what comes out under its name does not depend on it, except where images are large.
N = 10
LESS = [
    *("attack.eot=1", "defenses.hedge.steps=1", "defenses.tvm.steps=5", "defenses.quilting.bank=50"),
    *([] if ALL else ["dataset.image_size=16"]),
]
OPTIONS = ["--scale", "tiny", "--n", str(N), *chain.from_iterable(("--set", each) for each in LESS)]
INCLUDED = [part.name for part in sections.request("paper").parts]
#: These differ from others in settings alone, or take longest. They are planned here, and run with all.
AT_RELEASE = (
    *("paper-cifar100", "paper-svhn", "paper-tiny-imagenet", "paper-caltech101", "paper-as-shipped"),
    "paper-substitution",
)
RUN = [name for name in INCLUDED if ALL or name not in AT_RELEASE]
#: The sections of the page that nothing else fills.
SECTIONS = {"paper-as-shipped": "Attacks as shipped", "paper-caltech101": "Large images"}
NAMED = {
    "paper-cifar10",
    "paper-cifar100",
    "paper-svhn",
    "paper-tiny-imagenet",
    "paper-caltech101",
    "paper-ablation",
    "paper-substitution",
    "paper-preprocessing",
    "paper-cost",
    "paper-overfitting",
    "paper",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("CROSSFIRE_OFFLINE", "1")
        yield stand_in.write(folder)


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The file of the presets that are run."""
    file = tmp_path_factory.mktemp("asked") / "paper.toml"
    file.write_text(f'schema = 1\nname = "paper"\ninclude = {json.dumps(RUN)}\n')
    return str(file)


@pytest.fixture(scope="module")
def paper_run(data, paper, tmp_path_factory):
    """The folder of a run of the tiny paper, with its store and its report."""
    folder = tmp_path_factory.mktemp("ran")
    arguments = ["--data", str(data), "--store", str(folder / "store"), "--report", str(folder / "report")]
    with pytest.MonkeyPatch.context() as patch:
        # Estimating the time of a thousand such small cells takes half as long as running them.
        patch.setattr("bench.schedule.progress._LOG_EVERY", float("inf"))
        assert main(["run", paper, *OPTIONS, *arguments]) == 0
    return folder


def plan(name, data, **variants):
    settings = [setting(each) for each in LESS]
    without = {*INCLUDED} - {"paper-preprocessing"}
    used = [each for each in settings if each.path[0] != "defenses" or name not in without]
    request = sections.request(name, {"scale": "tiny", **variants}, settings=used)
    return make(*request.parts, name=request.name, data_folder=data, n=N).plan


def test_the_presets_that_a_reader_looks_for_are_there():
    assert {*INCLUDED, "paper"} >= NAMED


@pytest.mark.parametrize("protocol", ["tpap", "sound"])
def test_the_paper_is_its_presets_with_shared_work_done_once(data, protocol):
    paper_keys = [cell.key for cell in plan("paper", data, protocol=protocol).cells]
    plans = [plan(name, data, protocol=protocol) for name in INCLUDED]
    preset_keys = [cell.key for cell in chain.from_iterable(preset_plan.cells for preset_plan in plans)]
    assert len(paper_keys) == len(set(paper_keys)) < len(preset_keys)
    assert set(paper_keys) == set(preset_keys)


def test_the_protocols_share_only_what_both_mean(data):
    tpap, sound = (
        {cell.key: cell.names for cell in plan("paper-cifar10", data, protocol=protocol).cells}
        for protocol in ("tpap", "sound")
    )
    shared = {str(tpap[key]) for key in tpap.keys() & sound.keys()}
    assert {name.split("/")[2] for name in shared} == {"standard"}
    assert not {name.split("/")[3] for name in shared} & {"ddn[preset=tpap]", "pgd[preset=tpap]"}
    # Two cells with one name would share one cell of a table.
    different = {str(names) for key, names in tpap.items() if key not in sound}
    clash = different & {str(names) for key, names in sound.items() if key not in tpap}
    assert not clash


def test_full_scale_is_what_the_paper_trains(data):
    request = sections.request("paper-cifar10")
    (part,) = request.parts
    assert [model.arch for model in part.models] == ["resnet18", "vgg16", "wrn-34-10"]
    schedules = {row.base.schedule for row in expand.defenses(part)}
    assert {(s.epochs, s.batch, s.lr, s.weight_decay, s.drops) for s in schedules} == {
        (100, 128, 0.01, 1e-3, (0.75, 0.9))
    }
    longer = sections.request("paper-cifar10", epochs=150)
    assert {row.base.schedule.epochs for row in expand.defenses(longer.parts[0])} == {150}


def test_everything_runs_and_comes_out_under_its_name(data, paper_run):
    page = (paper_run / "report" / "paper" / "README.md").read_text(encoding="utf-8")
    titles = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert titles == [
        "Motivation table",
        "Main tables",
        "Large images",
        "Preprocessing",
        "Cost",
        "Ablation",
        "Substitution",
        "Perturbation pictures",
        "Training curves",
        "Grad-CAM",
        "t-SNE",
        "Attacks as shipped",
    ]
    left_out = {name.removeprefix("paper-").replace("-", "_") for name in {*INCLUDED} - {*RUN}}
    for name in stand_in.SIZES.keys() - left_out:
        assert f"### {name.replace('_', chr(92) + '_')} · " in page
    sections = page.split("\n## ")[1:]
    missing = {section.splitlines()[0] for section in sections if "Not measured yet" in section}
    assert missing == {title for name, title in SECTIONS.items() if name not in RUN}
    assert "trained on 20 images of cifar10 for 1 epochs" in page


def test_a_second_run_finds_everything_done(data, paper, paper_run, capsys):
    arguments = [paper, *OPTIONS, "--data", str(data), "--store", str(paper_run / "store")]
    assert main(["run", *arguments, "--only", "paper-has-no-such-cell"]) == 2
    capsys.readouterr()
    stored = {path.stem for path in (paper_run / "store" / "cells").glob("*.json")}
    assert stored == {cell.key for cell in plan(paper, data).cells}
    assert all(
        json.loads(path.read_text())["status"] == "done" for path in (paper_run / "store" / "cells").glob("*.json")
    )
