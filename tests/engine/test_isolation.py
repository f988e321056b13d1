"""A method cannot change the results of later methods, whatever it damages."""

import copy
import itertools
import os
import random
import re
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bench.schedule.run
from bench.api import MethodError
from bench.cli import main
from bench.evaluation.measure import Measure
from bench.process import isolation
from bench.process.isolation import checksums, frozen, isolated, seal
from bench.store.working_store import Store
from tests.engine import poison, tiny

ROOT = Path(__file__).resolve().parents[2]
POISON = Path(__file__).with_name("poison.py")
UNDONE = (
    "hook", "pre-hook", "global-hook", "module", "forward", "class", "call", "kind", "parameter", "train", "functional",
    "builtin", "inference", "grad", "autocast", "saved", "denormals", "dtype", "device", "flags", "threads", "process",
    "random",
)  # fmt: skip
SAID = {
    "data": "was changed", "state-dict": "was changed", "no-grad": "was changed", "one-bit": "was changed",
    "swapped": "was changed", "sys-exit": "asked to end the process: SystemExit(0)",
    "os-exit": "asked to end the process: SystemExit(0)", "abort": "asked to end the process: SystemExit(1)",
    "posix-exit": "asked to end the process: SystemExit(0)",
    "interrupt": "raised: KeyboardInterrupt()", "generator-exit": "raised: GeneratorExit()",
    "own": "raised: Mine(no exception)", "child": "the parent goes on",
}  # fmt: skip


def config(folder, attacks, steps=""):
    """Write the tiny run on the undefended network, with these attacks before its own."""
    text = tiny.CONFIG.replace("epochs = 2", "epochs = 10").replace("batch = 50", "batch = 10")
    head, _, usual = text.replace("fgsm-at", "standard").partition("\n[[attacks]]")
    head = head.replace('\n[[defenses]]\nuse = "tpap"\nbeta = "0.1"\n', steps)
    more = "".join(f'\n[[attacks]]\nuse = "{POISON}:harm"\neps = "0.1"\ndamage = "{damage}"\n' for damage in attacks)
    path = folder / "these.toml"
    path.write_text(f"{head}{more}\n[[attacks]]{usual}")
    return str(path)


def run(folder, attacks, steps=""):
    folder.mkdir(exist_ok=True)
    folders = ["--store", str(folder / "store"), "--report", str(folder / "report")]
    code = main(["run", config(folder, attacks, steps), *folders])
    return code, {f"{r.names.defense}/{r.names.attack}": r for r in Store(folder / "store").results()}


def outcome(result):
    return result.status, result.clean_bits, result.adversarial_bits, result.metrics, result.flags


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), [])[1]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """One run in which every damage comes before the attacks of the tiny run."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    process = (torch.get_num_threads(), Path.cwd(), sys.stdout)
    code, results = run(tmp_path_factory.mktemp("poisoned"), [*UNDONE, *SAID])
    assert {number: signal.getsignal(number) for number in before} == before
    assert (torch.get_num_threads(), Path.cwd(), sys.stdout) == process
    return code, results


def result_of(results, damage):
    (result,) = (r for name, r in results.items() if re.search(rf"harm\b.*damage={damage}\]", name))
    return result


def test_what_comes_after_is_what_it_is_alone(alone, poisoned):
    code, results = poisoned
    assert code == 3
    for name, result in alone.items():
        assert outcome(results[name]) == outcome(result), name
        assert result.status == "done"
    assert alone["standard/fgsm"].metrics.clean_accuracy > 0.1, "the network has learnt something that can be lost"


@pytest.mark.parametrize("damage", UNDONE)
def test_what_can_be_undone_is(alone, poisoned, damage):
    result = result_of(poisoned[1], damage)
    assert result.status == "done", result.error
    assert result.adversarial_bits == alone["standard/fgsm"].adversarial_bits


@pytest.mark.parametrize("damage", SAID)
def test_what_cannot_be_undone_fails_its_own_cell_in_one_line(poisoned, damage):
    result = result_of(poisoned[1], damage)
    assert result.status == "failed"
    assert SAID[damage] in result.error.message and "\n" not in result.error.message


HARMS = ("data", "hook", "module", "forward", "class", "sys-exit", "interrupt", "dtype")


@pytest.fixture(scope="module")
def harmed(tmp_path_factory):
    """One run in which every damaging defense comes before the undefended network."""
    steps = "".join(
        f'\n[[defenses]]\nuse = "{POISON}:Harming"\nbase = "standard"\ndamage = "{damage}"\nwhen = "{when}"\n'
        for when, damage in itertools.product(("wrap", "answer"), HARMS)
    )
    return run(tmp_path_factory.mktemp("harmed"), [], steps)


@pytest.mark.parametrize("when", ["wrap", "answer"])
@pytest.mark.parametrize("damage", HARMS)
def test_a_defense_that_changes_the_network_fails_alone(alone, harmed, damage, when):
    code, results = harmed
    assert code == 3
    cells = [r for name, r in results.items() if f"damage={damage}" in name and f"when={when}" in name]
    assert cells and {result.status for result in cells} == {"done" if damage == "dtype" else "failed"}
    for name, result in alone.items():
        assert outcome(results[name]) == outcome(result), name


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_checksum_sees_every_bit_and_every_exchange(dtype):
    net = small().to(dtype)
    before, weight = checksums(net), net[3].weight.data
    assert checksums(net) == before
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        position = tuple(int(torch.randint(n, (), generator=generator)) for n in weight.shape)
        bit = int(torch.randint(8 * weight.element_size() - 1, (), generator=generator))
        old = weight.clone()
        weight.view(integers)[position] ^= 1 << bit
        now = checksums(net)
        assert {name for name in before if now[name] != before[name]} == {"parameter 3.weight"}
        weight.copy_(old)
    weight[0], weight[1] = weight[1].clone(), weight[0].clone()
    assert checksums(net) != before


def test_sums_of_many_pieces_are_those_of_each():
    generator = torch.Generator().manual_seed(0)
    pieces = [
        torch.randint(-(2**31), 2**31, (n,), generator=generator).to(dtype)
        for dtype in (torch.int8, torch.int32)
        for n in (5, 0, 1, 3000)
    ]
    assert isolation._sums(pieces) == [sum(int(b) * (2 * i + 1) for i, b in enumerate(each)) for each in pieces]


def test_a_checksum_does_not_depend_on_who_asks_and_sees_the_layout():
    net = small()
    before = checksums(net)
    with torch.inference_mode():
        assert checksums(net) == before
    net.to(memory_format=torch.channels_last)
    assert checksums(net) != before, "kernels take sums in another order then"


def test_a_tensor_that_is_no_parameter_counts_too():
    net = small()
    net.scale = torch.ones(3)
    with pytest.raises(MethodError, match="the network's tensor scale was changed"), frozen(net):
        net.scale *= 0


def test_a_sealed_network_is_compared_with_what_it_was_when_sealed(monkeypatch):
    net, read = small(), []
    sums = seal(net)
    monkeypatch.setattr(isolation, "checksums", lambda each: read.append(each) or checksums(each))
    with frozen(net):
        assert not read, "its numbers are known"
    assert read == [net] and checksums(net) == sums
    net[3].bias.data[0] += 1
    with pytest.raises(MethodError, match=r"the network's parameter 3\.bias was changed"), frozen(net):
        pass
    other = copy.deepcopy(net)
    with frozen(other):
        assert read[-1] is other, "a copy is another network"
    gone = id(net)
    del net
    read.clear()
    assert gone not in isolation._SEALS


@pytest.mark.parametrize("damage", ["hook", "module", "forward", "class", "call", "kind", "parameter"])
def test_a_strict_look_refuses_what_a_lenient_one_undoes(damage):
    net = small()
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    wanted = net.eval()(x)
    with frozen(net):
        poison.rewired(net, damage)
    assert torch.equal(net(x), wanted)
    with pytest.raises(MethodError, match=r"of the network|was replaced"), frozen(net, strict=True):
        poison.rewired(net, damage)
    assert torch.equal(net(x), wanted)


def test_hooks_and_gradients_of_parameters_go():
    net = small()
    with frozen(net):
        net[3].weight.requires_grad_(True).register_hook(lambda grad: grad * 0)
        net[3].weight.grad = torch.ones(3, 64)
    assert net[3].weight.grad is None
    net(torch.rand(2, 1, 6, 6)).sum().backward()
    assert net[3].weight.grad.abs().sum() > 0


def state():
    """Return the state of this process that a method might change and Python can read."""
    return (
        random.getstate(), tuple(np.random.get_state()[1]), torch.get_rng_state().tolist(), os.getcwd(),
        dict(os.environ), [path for path in sys.path if path != "/nowhere"],
        list(warnings.filters), np.geterr(), torch.get_default_dtype(),
        torch.get_default_device(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled(),
        torch.autocast_increment_nesting() and torch.autocast_decrement_nesting(), torch.get_num_threads(),
        (torch.tensor(1e-40) * 1).item(), torch._C._autograd._top_saved_tensors_default_hooks(False),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.deterministic, torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.conv.fp32_precision, torch.is_anomaly_enabled(),
        torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(), sys.stdout, sys.getrecursionlimit(),
        signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), signal.getitimer(signal.ITIMER_REAL),
        torch.nn.functional.cross_entropy, torch.sign, torch.Tensor.sign, max, os._exit, os.abort,
    )  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        "functional",
        "builtin",
        "inference",
        "grad",
        "autocast",
        "saved",
        "denormals",
        "dtype",
        "device",
        "flags",
        "threads",
        "process",
        "random",
    ],
)
def test_the_process_is_as_it_was(damage):
    before = state()
    with isolated("it"):
        poison.settings(damage)
    assert state() == before
    assert sys.path[-1] == "/nowhere" or damage != "process", "what was added may be needed later, and hides nothing"
    with pytest.raises(ZeroDivisionError), isolated("it"):
        poison.settings(damage)
        _ = 1 / 0
    assert state() == before


def test_no_weight_that_was_cast_outlives_the_autocast_that_a_method_leaves_entered():
    layer, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)

    def under_autocast():
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x).item()

    with isolated("it"):
        torch.autocast("cpu", torch.bfloat16).__enter__()
        under_autocast()
    for weight in (0.5, 2.0):
        nn.init.constant_(layer.weight, weight)
        assert under_autocast() == weight


def test_code_that_draws_from_the_global_generators_draws_the_same_each_time():
    def drawn():
        with isolated("it", seed=5):
            return random.random(), np.random.rand(), torch.rand(()).item()

    first = drawn()
    torch.manual_seed(9)
    assert drawn() == first


def test_a_second_process_that_a_method_makes_does_not_go_on_with_the_run(tmp_path):
    reader, writer = os.pipe()
    with isolated("it"):
        child = os.fork()
    if child == 0:
        os.write(writer, b"still here")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 70
    os.close(writer)
    assert os.read(reader, 100) == b""
    os.close(reader)


def limits():
    return {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}


def test_limits_of_resources_and_the_mask_of_new_files_are_as_they_were():
    before, mask = limits(), os.umask(0o027)
    try:
        with isolated("it"):
            os.umask(0o777)
            for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
                resource.setrlimit(limit, (0, resource.getrlimit(limit)[1]))
        assert limits() == before
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)


def test_a_hard_limit_that_cannot_be_raised_again_is_said(monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_CORE)

    def refused(_number, wanted):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", refused)
    with pytest.raises(MethodError, match="it lowered RLIMIT_"), isolated("it"):
        limits = (7, 7)


@pytest.mark.parametrize("name", ["time", "perf_counter", "monotonic_ns", "process_time"])
def test_a_clock_that_was_replaced_comes_back_and_is_said(name, monkeypatch):
    before = getattr(time, name)
    # It restores the clock for the other tests when this one fails.
    monkeypatch.setattr(time, name, before)
    with pytest.raises(MethodError, match=rf"it replaced time\.{name}, by which"), isolated("it"):
        setattr(time, name, lambda: 0)
    assert getattr(time, name) is before


@pytest.mark.parametrize(("owner", "name"), [(time, "sleep"), (os, "getpid"), (os, "umask"), (signal, "signal")])
def test_functions_of_the_system_that_were_replaced_come_back(owner, name, monkeypatch):
    before = getattr(owner, name)
    monkeypatch.setattr(owner, name, before)
    with isolated("it"):
        setattr(owner, name, lambda *_: 0)
    assert getattr(owner, name) is before


@pytest.mark.parametrize("number", [1, 2])
def test_a_stream_that_is_closed_or_replaced_is_said_and_one_that_comes_back_is_not(number):
    kept, nowhere = os.dup(number), os.open("/dev/zero", os.O_WRONLY)
    name = ("standard output", "standard error")[number - 1]
    try:
        with isolated("it"):
            os.dup2(nowhere, number)
            os.dup2(kept, number)
        with pytest.raises(MethodError, match=f"it closed or replaced {name}, of which"), isolated("it"):
            os.dup2(nowhere, number)
        os.dup2(kept, number)
        with pytest.raises(MethodError, match=f"it closed or replaced {name}, of which"), isolated("it"):
            os.close(number)
        # A descriptor that was closed before may now belong to any file.
        with isolated("it"):
            os.dup2(nowhere, number)
    finally:
        os.dup2(kept, number)
        os.close(kept)
        os.close(nowhere)


def test_ctrl_c_of_the_user_is_no_methods_fault():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), isolated("it"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_child_process_and_a_pool_work_inside(tmp_path):
    import multiprocessing

    with isolated("it"), multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]


@pytest.mark.parametrize("where", ["craft", "measure"])
def test_no_number_stands_on_weights_that_change_behind_the_back_of_a_call(alone, tmp_path, monkeypatch, where):
    """A thread that a method leaves behind may change weights after the last check, before the result is stored."""
    done = []

    def zeroed_once(net, wanted):
        if wanted and not done:
            done.append(True)
            for parameter in net.parameters():
                parameter.data.zero_()

    def crafting(ref, base, *args, **kwargs):
        crafted = craft(ref, base, *args, **kwargs)
        zeroed_once(base, where == "craft")
        return crafted

    def measuring(self, planned, classifier, *rest):
        result = measured(self, planned, classifier, *rest)
        zeroed_once(classifier.net, where == "measure" and planned.cell.attack is not None)
        return result

    craft, measured = bench.schedule.run.craft, Measure.cell
    monkeypatch.setattr(bench.schedule.run, "craft", crafting)
    monkeypatch.setattr(Measure, "cell", measuring)
    code, results = run(tmp_path, [])
    failed = [result for result in results.values() if result.status == "failed"]
    assert code == 3 and len(failed) == 1
    assert "were changed meanwhile" in failed[0].error.message
    for name, result in alone.items():
        assert results[name].status == "failed" or outcome(results[name]) == outcome(result), name


SWALLOWS = '''
from bench.api import attack


@attack(norms=("linf",), passes="1 forward")
def deaf(target, x, y, threat):
    """Swallows the first three exceptions, then returns its images."""
    swallowed = 0
    while swallowed < 3:
        try:
            target(x)
        except BaseException:
            swallowed += 1
    return x
'''


def test_time_that_runs_out_counts_also_for_who_swallows_it(tmp_path):
    (tmp_path / "deaf.py").write_text(SWALLOWS)
    text = tiny.CONFIG.replace("epochs = 2", "epochs = 1")
    more = f'\n[[attacks]]\nuse = "{tmp_path}/deaf.py:deaf"\neps = "0.1"\n\n[run]\ntimeout = "1s"\n'
    (tmp_path / "t.toml").write_text(text + more)
    folders = ["--store", str(tmp_path / "store"), "--report", str(tmp_path / "report")]
    assert main(["run", str(tmp_path / "t.toml"), "--only", "/fgsm-at/deaf/", *folders]) == 3
    (result,) = (r for r in Store(tmp_path / "store").results() if r.names.attack.startswith("deaf"))
    assert "longer than timeout = 1 s" in result.error.message
