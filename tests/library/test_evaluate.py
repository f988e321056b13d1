"""From Python: the same engine, keys and numbers as the command line, and a process that is left as it was."""

import asyncio
import copy
import json
import logging
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bench
from bench.api import Draws
from bench.cli import main
from bench.data import open_set
from bench.store.working_store import Store
from bench.types import UsageError

PGD = ("pgd", {"steps": 4})


class Purifier:
    """Rounds pixels to a few levels; the gradient is passed straight through."""

    def __init__(self, levels):
        self.levels = levels

    def wrap(self, base):
        return Rounded(base, self.levels)

    def surrogate(self, base):
        return Rounded(base, self.levels)


class HalfAStep:
    def wrap(self, base):
        return base


class Rounded(nn.Module):
    def __init__(self, base, levels):
        super().__init__()
        self.base, self.levels = base, levels

    def forward(self, x):
        rounded = (x * self.levels).round() / self.levels
        return self.base(x + (rounded - x).detach())


@pytest.fixture(scope="module")
def digits():
    test = open_set("digits", "test", folder=None)
    return torch.tensor(np.array(test.images)).float() / 255, torch.tensor(np.array(test.labels))


@pytest.fixture(scope="module")
def net():
    train = open_set("digits", "train", folder=None)
    x, y = torch.tensor(np.array(train.images)).float() / 255, torch.tensor(np.array(train.labels))
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(classifier.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(classifier(x), y).backward()
        optimizer.step()
    return classifier


@pytest.fixture(scope="module")
def evaluation(net, digits, tmp_path_factory):
    x, y = digits
    return bench.evaluate(
        Purifier(8), x[:40], y[:40], base=net, attacks=PGD, eps="0.1", store=tmp_path_factory.mktemp("store")
    )


def test_the_numbers_are_those_of_a_hand_made_attack_with_a_closed_form(digits):
    x, y = digits
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    linear[1].weight.data[2:] = 0
    linear[1].bias.data[:] = torch.tensor([0.0, 0.0] + [-100.0] * 8)
    two, labels = x[y < 2], y[y < 2]
    # The margin of a linear classifier of two classes falls by eps times the l1 norm of the weights, within the box.
    direction = (linear[1].weight[1] - linear[1].weight[0]).detach() * (1 - 2 * labels[:, None])
    moved = (two.flatten(1) + 0.05 * direction.sign()).clamp(0, 1)
    truth = float((linear(moved.view_as(two)).argmax(1) == labels).double().mean())
    result = bench.evaluate(linear, two, labels, attacks="pgd", eps="0.05", progress=False)
    (row,) = result.frame[result.frame["attack"] == "pgd"].itertuples()
    assert row.clean_accuracy == float((linear(two).argmax(1) == labels).double().mean())
    assert row.robust_accuracy == pytest.approx(truth, abs=1e-9) and row.eps == "1/20"


def test_keys_and_numbers_are_those_of_the_command_line(net, digits, tmp_path, monkeypatch, capsys):
    x, y = digits
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    from bench.models.small_cnn import small_cnn

    torch.save(small_cnn(10, in_channels=1, image_size=(8, 8)).state_dict(), "net.pt")
    (tmp_path / "own.toml").write_text(
        'schema = 1\nname = "own"\n[dataset]\nname = "digits"\n[[models]]\narch = "small-cnn"\n'
        '[[defenses]]\nuse = "weights:net.pt"\n[[defenses]]\nuse = "jpeg"\nbase = "weights:net.pt"\nquality = 50\n'
        '[[attacks]]\nuse = "fgsm"\neps = "0.1"\n'
    )
    assert main(["run", "own.toml", "--n", "30", "--store", "cli", "--quiet"]) == 0
    step = ("jpeg", {"quality": 50})
    call = {"base": "small-cnn", "weights": "net.pt", "attacks": "fgsm", "eps": "0.1", "n": 30, "progress": False}
    by_name = bench.evaluate(step, "digits", store="py", **call)
    from defenses.jpeg import Jpeg

    # The images of a set are the set, and an instance of its class is the registered step.
    by_arrays = bench.evaluate(Jpeg(quality=50), [*x], y, store="arrays", **{**call, "n": None})
    cli = bench.load_results("cli").set_index("key")
    python = by_name.frame.set_index("key")
    assert set(python.index) == set(cli.index) and len(cli) == 5
    columns = ["dataset", "model", "defense", "attack", "access", "accuracy_under_attack", "mean_l2"]
    pd.testing.assert_frame_equal(cli[columns].sort_index(), python[columns].sort_index())
    whole = bench.evaluate(step, "digits", store="whole", **{**call, "n": None})
    assert {r.key for r in by_arrays.results} == {r.key for r in whole.results}


def test_a_step_is_attacked_with_and_without_being_seen_and_judged(evaluation):
    accesses = set(evaluation.frame[evaluation.frame["attack"] != "clean"]["access"])
    assert accesses == {"white-box", "static", "adaptive"}
    assert evaluation.verdict.startswith("purifier: ") and "Sequential" in evaluation.verdict
    assert set(evaluation.frame["defense"]) == {"purifier", "Sequential"}
    assert {(r.cell.step and r.cell.step.params["levels"]) for r in evaluation.results} == {None, 8}


def test_what_is_saved_is_what_commands_read(evaluation, tmp_path, capsys):
    assert evaluation.save(tmp_path / "kept") == tmp_path / "kept"
    assert main(["leaderboard", "--store", str(tmp_path / "kept"), "--format", "json"]) == 0
    board = json.loads(capsys.readouterr().out)
    assert {cell["key"] for cell in board["cells"]} == {r.key for r in evaluation.results}
    adaptive = next(r for r in evaluation.results if r.cell.access == "adaptive")
    assert main(["show", adaptive.key, "--store", str(tmp_path / "kept")]) == 0
    shown = capsys.readouterr().out
    assert "cannot be run again from here: live:images, live:Sequential, live:purifier" in shown
    # Adversarial sets are there too: nothing is computed again.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.safetensors")}
    # Of the network alone, of it with every step taken for a static attacker, and of the step.
    assert len(before) == 3
    assert evaluation.save(tmp_path / "kept")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_configuration_cannot_name_what_ended_with_its_process(tmp_path, capsys):
    (tmp_path / "t.toml").write_text(
        'schema = 1\nname = "t"\n[dataset]\nname = "digits"\n[[models]]\narch = "live:Sequential"\n'
        '[[defenses]]\nuse = "weights:live:Sequential"\n[[attacks]]\nuse = "pgd"\n'
    )
    assert main(["run", str(tmp_path / "t.toml"), "--store", str(tmp_path / "s"), "--verify", "100%"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "was a Python object and ended with its process" in line


def test_the_table_is_safe_html_without_script(net, digits):
    x, y = digits
    named = copy.deepcopy(net)
    result = bench.evaluate(named, x[:10], y[:10], attacks=PGD, progress=False, name="a (b)")
    tags = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append(tag)
            assert not any(name.startswith("on") for name, _ in attributes)

    html = result._repr_html_()
    Tags().feed(html)
    assert "table" in tags and not {"script", "html", "body", "iframe", "link"} & set(tags)
    assert "a (b)" in html and "a (b)" in repr(result) and "worst case" not in html.partition("<table")[0]


def test_the_process_and_the_network_are_left_as_they_were(net, digits):
    x, y = digits
    net.train()
    net[0].weight.requires_grad_(False)
    handlers = list(logging.getLogger("crossfire").handlers)
    weights = copy.deepcopy(net.state_dict())
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    cudnn = torch.backends.cudnn.deterministic
    threads = torch.get_num_threads()
    kept = x[:10].clone()
    bench.evaluate(net, x[:10], y[:10], attacks=[PGD, "art:FastGradientMethod"], progress=False, seed=7)
    assert net.training and net[2].training and not net[0].weight.requires_grad and net[4].weight.requires_grad
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate() and torch.equal(kept, x[:10])
    assert torch.backends.cudnn.deterministic == cudnn and torch.get_num_threads() == threads
    assert logging.getLogger("crossfire").handlers == handlers
    net[0].weight.requires_grad_(True)
    net.eval()


def test_settings_of_the_caller_change_no_number(net, digits):
    x, y = digits
    plain = bench.evaluate(net, x[:10], y[:10], attacks=PGD, eps=8 / 255, progress=False)
    assert {r.cell.attack.threat.eps for r in plain.results if r.cell.attack} == {Fraction(8, 255)}
    store = bench.evaluate(net, x[:1], y[:1], attacks=PGD, progress=False).store
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu"):
            again = bench.evaluate(net, x[:10], y[:10], attacks=PGD, eps="8/255", store=store / "other", progress=False)
            assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert [(r.key, r.metrics) for r in again.results] == [(r.key, r.metrics) for r in plain.results]


def test_a_network_that_expects_normalised_images_is_given_them(net, digits):
    x, y = digits
    inside = nn.Sequential(Shifted(), net).eval()
    # It draws nothing: what a network is called decides random numbers.
    attack = {"attacks": "mi-fgsm", "eps": "0.15", "progress": False}
    one = bench.evaluate(inside, x[:40], y[:40], **attack)
    two = bench.evaluate(net, x[:40], y[:40], mean=[0.1], std=torch.tensor([0.5]), **attack)
    bare = bench.evaluate(net, x[:40], y[:40], **attack)
    assert bare.results[-1].metrics.mean_l2 != one.results[-1].metrics.mean_l2
    assert [r.metrics.accuracy_under_attack for r in one.results] == [
        r.metrics.accuracy_under_attack for r in two.results
    ]
    with pytest.raises(UsageError, match="mean is given without std"):
        bench.evaluate(net, x[:20], y[:20], attacks=PGD, mean=0.1, progress=False)


class Shifted(nn.Module):
    def forward(self, x):
        return (x - 0.1) / 0.5


def test_bench_cannot_be_called_from_inside_and_works_afterwards(net, digits):
    x, y = digits

    def nested(target, x, y, threat):
        bench.evaluate(net, x, y, attacks=PGD, progress=False)

    result = bench.evaluate(net, x[:4], y[:4], attacks=nested, progress=False)
    (row,) = result.frame[result.frame["status"] == "failed"].itertuples()
    assert "cannot call bench itself" in row.error
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(bench.evaluate, net, x[:4], y[:4], attacks=PGD, progress=False) for _ in range(2)]
    assert len({call.result().results[-1].key for call in calls}) == 1


def test_a_key_changes_with_weights_code_and_state_and_with_nothing_else(net, digits):
    x, y = digits

    def key(subject, **more):
        results = bench.evaluate(subject, x[:10], y[:10], attacks=PGD, progress=False, **more).results
        return results[-1].key

    first = key(net)
    assert key(copy.deepcopy(net).train()) == first
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[4].bias[0] += 1e-6
    assert key(other) != first
    wider = copy.deepcopy(net)
    wider[0].padding_mode = "circular"
    assert key(wider) != first
    assert key(Purifier(8), base=net) == key(Purifier(8), base=net) != key(Purifier(4), base=net)
    assert key(net, seed=1) != first


class Mean(nn.Module):
    """The mean of networks that it holds in a list of Python's, or of torch's."""

    def __init__(self, nets):
        super().__init__()
        self.nets = nets

    def forward(self, x):
        return torch.stack([net(x) for net in self.nets]).mean(0)


def test_a_module_that_torch_does_not_see_is_refused_before_it_runs(net, digits):
    x, y = digits[0][:8], digits[1][:8]
    hidden = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    before = copy.deepcopy(hidden.state_dict())

    def called(x):
        return hidden(x)

    bare = nn.Module()
    bare.forward = called
    for subject in (Mean([hidden]), Mean((hidden,)), Mean([hidden.forward]), bare):
        with pytest.raises(UsageError, match="uses a module that is no part of it"):
            bench.evaluate(subject, x, y, attacks=PGD, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in hidden.state_dict().items()) and hidden.training
    listed = bench.evaluate(Mean(nn.ModuleList([net])), x, y, attacks="fgsm", progress=False)
    alone = bench.evaluate(net, x, y, attacks="fgsm", progress=False)
    assert listed.frame["accuracy_under_attack"].tolist() == alone.frame["accuracy_under_attack"].tolist()


def test_a_key_holds_what_a_local_module_means_now(digits, tmp_path, monkeypatch):
    (tmp_path / "settings_of_a_test.py").write_text("SIGN, UNUSED = 1.0, 0\n\ndef sign():\n    return SIGN\n")
    (tmp_path / "nets_of_a_test.py").write_text(
        "from torch import nn\nimport settings_of_a_test\n\n\nclass Signed(nn.Module):\n"
        "    def __init__(self, net):\n        super().__init__()\n        self.net = net\n\n"
        "    def forward(self, x):\n        return self.net(x) * settings_of_a_test.sign()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import nets_of_a_test
    import settings_of_a_test

    x, y = digits[0][:8], digits[1][:8]
    signed = nets_of_a_test.Signed(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))

    def evaluated():
        result = bench.evaluate(signed, x, y, attacks="fgsm", progress=False)
        with torch.no_grad():
            clean = (signed(x).argmax(1) == y).float().mean().item()
        assert result.results[0].metrics.clean_accuracy == pytest.approx(clean)
        return result.results[0].key

    first = evaluated()
    settings_of_a_test.UNUSED = 1
    assert evaluated() == first
    settings_of_a_test.SIGN = -1.0
    assert evaluated() != first


def test_a_network_without_gradients_has_its_clean_accuracy_and_attacks_on_labels(net, digits):
    class NoGradient(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            with torch.no_grad():
                return self.net(x)

    x, y = digits[0][:8], digits[1][:8]
    attacks = ("rays", {"queries": 20})
    frame = bench.evaluate(NoGradient(), x, y, attacks=attacks, progress=False).frame.set_index("attack")
    assert frame["status"].tolist() == ["done", "done"]
    with torch.no_grad():
        assert frame.loc["clean", "clean_accuracy"] == (net.eval()(x).argmax(1) == y).float().mean().item()


def test_an_attack_may_be_a_function_with_parameters_of_its_own(net, digits):
    x, y = digits

    def to_grey(target, x, y, threat, *, share=1.0):
        """Move every pixel towards grey."""
        eps = float(threat.eps)
        return (x + share * (0.5 - x).clamp(-eps, eps)).clamp(0, 1)

    result = bench.evaluate(
        net, x[:20], y[:20], attacks=[to_grey, (to_grey, {"share": 0.5})], eps="0.2", progress=False
    )
    moved = result.frame[result.frame["attack"].str.startswith("to-grey")].set_index("attack")["mean_linf"]
    assert moved["to-grey[share=1.0]"] == pytest.approx(0.2, abs=1e-6)
    assert moved["to-grey[share=0.5]"] == pytest.approx(0.1, abs=1e-6)

    def too_far(target, x, y, threat):
        return (x + 0.5).clamp(0, 1)

    failed = bench.evaluate(net, x[:20], y[:20], attacks=too_far, eps="0.2", progress=False)
    (row,) = failed.frame[failed.frame["status"] == "failed"].itertuples()
    assert "budget" in row.error or "eps" in row.error


def test_a_random_defense_given_as_an_object_draws_for_itself(net, digits):
    x, y = digits

    class Noisy(Purifier):
        def __init__(self):
            super().__init__(8)
            self.draws = Draws()

        def wrap(self, base):
            return Noise(base, self.draws)

        surrogate = wrap

    class Noise(nn.Module):
        def __init__(self, base, draws):
            super().__init__()
            self.base, self.draws = base, draws

        def forward(self, x):
            return self.base(x + 0.1 * self.draws.normal(x))

    result = bench.evaluate(Noisy(), x[:16], y[:16], base=net, attacks={"use": "fgsm", "eot": 2}, progress=False)
    flags = {tuple(r.flags) for r in result.results if r.cell.step is not None}
    assert all("randomised" in each and "not-deterministic" not in each for each in flags)


def interrupted(target, x, y, threat):
    """Ctrl-C arrives while it works; what it reads of the surroundings is no part of its key."""
    if "INTERRUPTED" in os.environ:
        signal.raise_signal(signal.SIGINT)
    return x


def test_ctrl_c_keeps_what_is_finished_and_the_same_call_continues(net, digits, tmp_path, monkeypatch):
    x, y = digits
    call = {"attacks": ["fgsm", interrupted], "store": tmp_path, "progress": False}
    whole = bench.evaluate(net, x[:20], y[:20], **{**call, "store": tmp_path / "whole"})
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setenv("INTERRUPTED", "yes")
    try:
        with pytest.raises(KeyboardInterrupt) as interrupt:
            bench.evaluate(net, x[:20], y[:20], **call)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "2 of 3 cells are finished and kept" in interrupt.value.__notes__[0]
    assert len(list(Store(tmp_path).results())) == 2
    monkeypatch.delenv("INTERRUPTED")
    again = bench.evaluate(net, x[:20], y[:20], **call)
    assert [r.key for r in again.results] == [r.key for r in whole.results]
    assert [r.metrics for r in again.results] == [r.metrics for r in whole.results]


def test_it_works_inside_a_running_event_loop_and_with_a_loader(net, digits):
    x, y = digits
    data = torch.utils.data.TensorDataset(x[:30], y[:30])
    arrays = bench.evaluate(net, x[:30].numpy(), y[:30].tolist(), attacks=PGD, progress=False)

    async def inside():
        loader = torch.utils.data.DataLoader(data, batch_size=8)
        return bench.evaluate(net, loader, attacks=PGD, progress=False)

    keys = {r.key for r in arrays.results}
    assert {r.key for r in asyncio.run(inside()).results} == keys
    assert {r.key for r in bench.evaluate(net, data, attacks=PGD, progress=False).results} == keys
    last = (x[:30] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert {r.key for r in bench.evaluate(net, last, y[:30], attacks=PGD, progress=False).results} == keys


def with_nan(net):
    broken = copy.deepcopy(net)
    with torch.no_grad():
        broken[0].weight[0, 0, 0, 0] = torch.nan
    return broken


def with_variance(value):
    """A network whose batch norm has one such variance."""
    subject = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    subject[1].running_var[2] = value
    return subject


def test_what_is_wrong_is_one_line_and_says_what_would_be_right(net, digits):
    x, y = digits
    x, y = x[:8], y[:8]
    nan = x.clone()
    nan[0, 0, 0, 0] = torch.nan
    cases = {
        "divide by 255": (net, x * 255, y),
        "look normalised": (net, (x - 0.5) / 0.3, y),
        "NaN": (net, nan, y),
        "labels are missing": (net, x),
        "8 images and 7 labels": (net, x, y[:7]),
        "give layout": (net, torch.rand(2, 3, 8, 3), y[:2]),
        "add a channel": (net, x[:, 0], y),
        "quantize = True": (net, x * 0.9, y),
        "label 10 is none of the 10 classes": (net, x, y + 10 - y),
        "take argmax": (net, x, F.one_hot(y)),
        "give whole numbers": (net, x, y.float()),
        "holds no image": (net, x[:0], y[:0]),
        "cannot take float32 images of 3x8x8": (net, x.expand(-1, 3, -1, -1), y),
        "is a class: give an instance": (Purifier, x, y),
        "it needs wrap(base) and surrogate(base)": (HalfAStep(), x, y),
        "give it as base = net": (Purifier(8), x, y),
        "needs weights = FILE": ("resnet18", x, y),
        "call net.float()": (copy.deepcopy(net).double(), x, y),
        "did you mean 'jpeg'": ("jpg", x, y),
        "holds TorchScript": (torch.jit.trace(net, x), x, y),
        "lazy parameters": (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), x, y),
        "network 'live:Sequential': 1 of the 36 numbers of 0.weight are NaN": (with_nan(net), x, y),
        "1 of the 4 numbers of 1.running_var are no variances": (with_variance(float("inf")), x, y),
        "None is no network": (None, x, y),
    }
    for words, call in cases.items():
        on_net = {"base": net} if call[0] == "jpg" or isinstance(call[0], HalfAStep) else {}
        with pytest.raises(bench.UsageError) as error:
            bench.evaluate(*call, attacks=PGD, progress=False, **on_net)
        assert words in str(error.value) and "\n" not in str(error.value), (words, str(error.value))
    settings = {
        "did you mean 'pgd'": {"attacks": "pgdd"},
        "attacks is empty": {"attacks": []},
        "unknown key 'step'": {"attacks": {"use": "pgd", "step": 3}},
        "did you mean '8/255'": {"attacks": PGD, "eps": 8},
        "static": {"attacks": PGD, "access": "white"},
        "'auto', 'cpu' or 'cuda'": {"attacks": PGD, "device": "gpu"},
        "neither 'auto' nor a number": {"attacks": PGD, "batch": 0},
        "greater than or equal to 0": {"attacks": PGD, "seed": -1},
    }
    for words, more in settings.items():
        with pytest.raises(UsageError) as error:
            bench.evaluate(net, x, y, progress=False, **more)
        assert words in str(error.value) and "\n" not in str(error.value), (words, str(error.value))


def test_the_package_is_imported_without_torch_and_pandas():
    code = "import sys, bench; bench.__all__; assert not {'torch', 'pandas'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
