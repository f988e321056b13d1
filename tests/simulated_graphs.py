"""CUDA graphs on a CPU: every operation is recorded while it is captured, and done again on the same tensors later.

As on a GPU, a capture leaves no trace in the tensors that were there before, Python runs once, and a replay reads and
writes the memory that the capture did.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.process import capture


def tensors(values):
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


class Recorder(TorchDispatchMode):
    def __init__(self, tape):
        super().__init__()
        self.tape, self.made, self.before = tape, set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        values = [*args, *(kwargs.get(each.name) for each in func._schema.arguments[len(args) :])]
        for argument, value in zip(func._schema.arguments, values, strict=True):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for each in tensors(value):
                    storage = each.untyped_storage()
                    if storage.data_ptr() not in self.made and storage.data_ptr() not in self.before:
                        self.before[storage.data_ptr()] = storage, storage.clone()
        results = func(*args, **kwargs)
        known = {each.untyped_storage().data_ptr() for each in tensors((args, kwargs))}
        self.made |= {each.untyped_storage().data_ptr() for each in tensors(results)} - known - self.before.keys()
        # Kept alive by the tape, so that no memory is given out twice.
        self.tape.append((func, args, kwargs, results))
        return results


class Graph:
    def __init__(self):
        self.tape = []

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, results in self.tape:
                for old, new in zip(tensors(results), tensors(func(*args, **kwargs)), strict=True):
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.detach().copy_(new)


@contextmanager
def recording(graph, stream=None, capture_error_mode="global"):
    with Recorder(graph.tape) as recorder:
        yield
    for storage, before in recorder.before.values():
        storage.copy_(before)


class Stream:
    def wait_stream(self, other):
        pass


def simulate(monkeypatch):
    """Let the CPU record graphs, for one test."""
    monkeypatch.setattr(capture, "graphs", lambda device: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
