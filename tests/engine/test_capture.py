"""What can be captured, and that a captured function does what it did before; graphs are simulated on the CPU."""

import random

import pytest
import torch
from torch.nn import functional as F

from bench.process import capture
from bench.process.capture import Captured, HostReads, differing
from tests.simulated_graphs import simulate

CPU = torch.device("cpu")


def values():
    return torch.rand(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: float(x.sum()), "_local_scalar_dense"),
        (lambda x: bool((x > 0.5).any()), "_local_scalar_dense"),
        (lambda x: x[x[:, 0] > 0.5], "index"),
        (lambda x: x.masked_select(x > 0.5), "masked_select"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: torch.where(x > 0.5), "nonzero"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.index_put_((x[:, 0] >= 0,), x * 2), "index_put_"),
        (lambda x: x.add(torch.tensor([1.0, 2.0, 3.0])), "lift_fresh"),
        (lambda x: x.to("meta"), "_to_copy"),
    ],
)
def test_what_waits_for_the_host_is_named(operation, name):
    with HostReads() as reads:
        operation(values())
    assert reads.found == [name] and name in reads.why


class Read(torch.autograd.Function):
    """The identity, whose gradient is read by the host."""

    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, grad):
        return grad * float(grad.sum())


def test_what_a_backward_pass_reads_is_seen():
    x = values().requires_grad_()
    with HostReads() as reads:
        Read.apply(x).sum().backward()
    assert reads.found == ["_local_scalar_dense"]


def test_what_a_graph_can_repeat_is_not_named():
    x, index, y = values().requires_grad_(), torch.tensor([2, 0]), torch.tensor([0, 1, 2, 0])
    with HostReads() as reads:
        F.cross_entropy(x, y).backward()
        with torch.no_grad():
            moved = x[index].clone()
            moved[moved > 0.5] = 0.0
            moved[index[:1] * 0] = 1.0
            torch.where(x > 0.5, x, 0.0).index_select(0, index)
            torch.full((1,), 2**40)
            x.mul_(2.0).add_(torch.tensor(1.0))
    assert reads.found == [] and reads.why is None


def doubled(x, y):
    return x * 2 + y, (x * y).sum()


@pytest.fixture(params=["as it is", "captured"])
def simulated(request, monkeypatch):
    if request.param == "captured":
        simulate(monkeypatch)
    return request.param == "captured"


def test_a_captured_function_returns_what_it_did(simulated):
    function = Captured(doubled, CPU)
    for seed in range(4):
        x, y = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(seed))
        for one, other in zip(function(x, y), doubled(x, y), strict=True):
            assert torch.equal(one, other)
    assert function.captured is simulated
    assert function.why == (None if simulated else "there are no graphs on cpu")


def test_its_results_stay_where_they_are_and_may_be_its_next_arguments(monkeypatch):
    simulate(monkeypatch)
    function = Captured(lambda x: (x * 2,), CPU)
    (first,) = function(torch.ones(3))
    (second,) = function(first)
    assert first is second and torch.equal(first, torch.full((3,), 4.0))


def test_python_runs_only_while_it_is_prepared(monkeypatch):
    simulate(monkeypatch)
    calls = []
    function = Captured(lambda x: (calls.append(0), (x + 1,))[1], CPU)
    for _ in range(9):
        function(torch.zeros(2))
    # Once to look, thrice to warm up, once to capture.
    assert len(calls) == 1 + capture.WARM_UP + 1


def test_tensors_that_it_changes_are_changed_at_every_replay(monkeypatch):
    simulate(monkeypatch)
    count = torch.zeros((), dtype=torch.int64)
    function = Captured(lambda: (count.add_(1),)[:0], CPU)
    function.prepare()
    assert function.captured
    count.zero_()
    for _ in range(5):
        function()
    assert int(count) == 5


def test_a_function_that_reads_values_runs_as_it_is(monkeypatch):
    simulate(monkeypatch)

    def branching(x):
        return (x if float(x.sum()) > 0 else -x,)

    function = Captured(branching, CPU)
    assert torch.equal(function(torch.full((2,), -1.0))[0], torch.ones(2))
    assert torch.equal(function(torch.full((2,), 3.0))[0], torch.full((2,), 3.0))
    assert not function.captured and "_local_scalar_dense" in function.why


def test_a_function_that_draws_in_python_is_not_replayed(monkeypatch):
    simulate(monkeypatch)
    draws = random.Random(0)
    function = Captured(lambda x: (x + draws.random(),), CPU)
    function(torch.zeros(2))
    assert not function.captured and "differs by" in function.why


def test_an_error_of_a_capture_is_a_reason(monkeypatch):
    simulate(monkeypatch)

    def failing(*_args, **_settings):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", failing)
    function = Captured(doubled, CPU)
    x, y = values(), values()
    assert torch.equal(function(x, y)[0], x * 2 + y)
    assert function.why == "capturing failed: operation not permitted when stream is capturing"


def test_an_error_of_the_function_is_not_hidden(monkeypatch):
    simulate(monkeypatch)
    with pytest.raises(RuntimeError, match="must match"):
        Captured(doubled, CPU)(torch.zeros(2), torch.zeros(3))


def test_results_differ_by_more_than_round_off():
    x = values()
    assert differing([x], [x.clone()]) is None
    assert differing([x], [x * (1 + 1e-3)]) is None
    assert "differs by 0.1" in differing([x], [x + 0.1])
    assert "differs by nan" in differing([x], [x * torch.nan])
    assert "shape or type" in differing([x], [x.double()])
    assert differing([x * torch.nan], [x * torch.nan]) is not None
