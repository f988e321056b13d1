"""A wrong command gets one line and exit code 2, before any work starts."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from bench.cli import VERBS, main
from tests.engine import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["rnu"], "unknown verb 'rnu'; did you mean 'run'?"),
        (["run", "quik"], "unknown preset 'quik'; did you mean 'quick'?"),
        (["run", "gone.toml"], "no configuration file gone.toml"),
        (["run", "--n", "0"], "--n 0"),
        (["run", "--n", "501"], "500 test images"),
        (["run", "--n", "many"], "invalid int value: 'many'"),
        (["run", "--n", "٣"], "--n: invalid int value: '٣'; it takes digits from 0 to 9 alone"),
        (["plan", "--seed", "1_000"], "invalid int value: '1_000'"),
        (["gc", "quick", "--n", " 5"], "invalid int value: ' 5'"),
        (["train", "--epochs", "9" * 5000], "invalid int value: '999"),
        (["plan", "--shard", "٣/4"], "is no part such as 1/8"),
        (["run", "--time-budget", "٣s"], "no time such as 90s"),
        (["run", "--verify", "٣%"], "is no share such as 2%"),
        (["compare", "a", "b", "--min-effect", "1_0"], "is no number of points"),
        (["run", "--nn", "3"], "unknown option '--nn'; did you mean '--n'? (see run_bench.py run --help)"),
        (["--nosuch"], "unknown option '--nosuch'"),
        (["--quite", "run"], "unknown option '--quite'; did you mean '--quiet'? (see run_bench.py --help)"),
        (["--stor=x"], "option '--stor' stands before its verb; right is: run_bench.py run … --stor …"),
        (["--n", "5", "plan", "quick"], "option '--n' stands before its verb; right is: run_bench.py plan … --n …"),
        (["gc", "--ye"], "required: PRESET"),
        (["gc", "--yse"], "unknown option '--yse'; did you mean '--yes'?"),
        (["compare", "--formt", "md"], "unknown option '--formt'; did you mean '--format'?"),
        (["-x"], "unknown option '-x'"),
        # A negative value belongs to the option before it, which says what it takes.
        (["run", "--time-budget", "-5m"], "argument --time-budget: '-5m' is no time such as 90s, 9m or 2h"),
        (["bisect", "a", "b", "--cell", "c", "--time-budget", "-1h30m"], "argument --time-budget: '-1h30m' is no time"),
        (["run", "--time", "-5m"], "argument --time-budget: '-5m' is no time"),
        (["run", "--verify", "-2%"], "argument --verify: '-2%' is no share such as 2% or 0.02"),
        (["run", "--shard", "-1/3"], "argument --shard: '-1/3' is no part such as 1/8, ..., 8/8"),
        (["run", "--n", "-1e3"], "argument --n: invalid int value: '-1e3'"),
        (["compare", "a", "b", "--min-effect", "-1%"], "argument --min-effect: '-1%' is no number of points"),
        (["compare", "a", "b", "--same-within", "-.5x"], "argument --same-within: '-.5x' is no number of points"),
        (["leaderboard", "--eps", "-8/255"], "--eps '-8/255': a budget is from 0 to 1,000,000"),
        (["export", "weights", "--part-size", "-15MB"], "argument --part-size: '-15MB' is no size such as 15MB"),
        (["run", "-5m"], "'-5m': no option that takes a value stands before it (see run_bench.py run --help)"),
        (["run", "--quiet", "-5m"], "'-5m': no option that takes a value stands before it"),
        (["run", "--device", "tpu"], "tpu"),
        (["run", "--executor", "slurm"], "slurm"),
        (["run", "--time-budget", "soon"], "no time such as 90s"),
        (["run", "--only", "nothing-like-it"], "no cell matches"),
        (["run", "--data", "/no/such/folder"], "no such folder"),
        (["show", "123", "--store", "/no/such/store"], "no cell"),
        (["list", "atacks"], "atacks"),
        (["plan", "--only", "a", "--n", "5", "--only=b"], "argument --only: it is given twice, and takes one pattern"),
    ],
)
def test_one_line_and_exit_code_2(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err and captured.err.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("store", ["/dev/null", "file", "file/below", "link/below"])
def test_no_verb_that_writes_to_a_store_takes_what_is_no_folder(store, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    config = tiny.write(tmp_path)
    errors = set()
    for argv in (["plan", config], ["run", config], ["train", config], ["gc", config], ["sync", "elsewhere"]):
        assert main([*argv, "--store", store]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and "Traceback" not in captured.err
        errors.add(captured.err.splitlines()[-1])
    assert len(errors) == 1 and errors.pop().startswith(f"error: the store {store} cannot be ")


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_that_no_verb_has_is_said_before_what_else_is_wrong(verb, capsys):
    for argv in ([verb, "--nosuch=1"], [verb, "x", "--nosuch", "-5"], ["--nosuch", verb]):
        assert main(argv) == 2
        assert capsys.readouterr().err.startswith("error: unknown option '--nosuch'")


def test_what_looks_like_an_option_may_be_a_value_or_come_after_two_dashes(capsys):
    for argv, says in (
        (["run", "--n", "-5"], "--n -5"),
        (["run", "--", "--nosuch"], "unknown preset '--nosuch'"),
        (["run", "--only", "-a b", "--n", "-1"], "--n -1"),
    ):
        assert main(argv) == 2
        assert says in capsys.readouterr().err


def test_cuda_where_there_is_none(capsys, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert main(["run", tiny.write(tmp_path), "--device", "cuda", "--store", str(tmp_path / "store")]) == 2
    assert "error: --device cuda: torch sees no CUDA device" in capsys.readouterr().err
    argv = ["run", tiny.write(tmp_path, '[run]\ndevice = "cuda"\n'), "--store", str(tmp_path / "store")]
    assert main(argv) == 2
    assert 'error: tiny.toml: run.device = "cuda": torch sees no CUDA device' in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_store(capsys, tmp_path):
    (tmp_path / "store").mkdir(mode=0o500)
    assert main(["run", tiny.write(tmp_path), "--store", str(tmp_path / "store")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_store_that_is_a_file(capsys, tmp_path):
    (tmp_path / "store").write_text("")
    assert main(["run", tiny.write(tmp_path), "--store", str(tmp_path / "store")]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_help_and_list_import_no_torch():
    for argv in (["--help"], ["list"], ["run", "--help"], ["leaderboard", "--help"]):
        code = (
            "import sys; from bench.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_list_names_everything_that_the_design_fixes(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == ["attacks", "defenses", "datasets", "models", "presets"]
    names = {kind: {row["name"] for row in rows} for kind, rows in listed.items()}
    assert names["attacks"] >= set(
        [
            "fgsm",
            "pgd",
            "cw",
            "ddn",
            "sta",
            "fwa",
            "autoattack",
            "ti-dim",
            "mi-fgsm",
            "apgd-ce",
            "apgd-t",
            "square",
            "art:<Class>",
        ]
    )
    assert names["defenses"] >= set(
        [
            "standard",
            "fgsm-at",
            "fgsm-rs",
            "pgd-at",
            "trades",
            "mart",
            "tpap",
            "jpeg",
            "bit-depth",
            "median",
            "gaussian-blur",
            "tvm",
            "resize-pad",
            "pixel-deflection",
            "quilting",
            "wavelet",
            "feature-squeezing",
            "hedge",
            "anti-adversary",
        ]
    )
    assert names["datasets"] == set(
        [
            "digits",
            "cifar10",
            "cifar100",
            "svhn",
            "tiny_imagenet",
            "caltech101",
            "cifar10-c",
            "cifar100-c",
            "imagenet-c",
        ]
    )
    assert names["models"] >= set(["resnet18", "vgg16", "wrn-34-10", "small-cnn", "small-resnet"])
    assert names["presets"] >= {"quick", "cifar10-reference"}
    assert all(row["summary"] and isinstance(row["available"], bool) for row in chain.from_iterable(listed.values()))


def test_every_verb_has_help(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
    assert "--time-budget" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["compare", "a.json", "--", "--"], ["sync", "--", "--"], ["plan", "--", "--"]])
def test_two_dashes_twice_are_one_line(argv, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().err == "error: '--' is given twice; a file of that name is ./--\n"
