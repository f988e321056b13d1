"""AutoAttack comes as pyautoattack from PyPI, or as autoattack from its authors' repository."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from bench import registry
from bench.api import Threat
from tests.attacks.driving import Case, assert_within, drive, right

#: The interface of the authors' repository, on the code of the package from PyPI.
REPOSITORY = """
import pyautoattack


class AutoAttack(pyautoattack.AutoAttack):
    def __init__(self, model, norm="Linf", eps=0.3, seed=None, verbose=True, attacks_to_run=[],
                 version="standard", is_tf_model=False, device="cuda", log_path=None):
        super().__init__(model, norm=norm, eps=eps, seed=seed, version=version, device=device)
        assert verbose is False

    def run_standard_evaluation(self, x_orig, y_orig, bs=250, return_labels=False, state_path=None):
        return super().run_standard_evaluation(x_orig, y_orig, batch_size=bs)[0]
"""


def without(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in hidden else known(name, *more))


def test_the_authors_repository_will_do(plain: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyautoattack")
    (tmp_path / "autoattack").mkdir()
    (tmp_path / "autoattack" / "__init__.py").write_text(REPOSITORY)
    (tmp_path / "autoattack" / "checks.py").write_text("from pyautoattack.checks import funcs")
    monkeypatch.syspath_prepend(tmp_path)
    without(monkeypatch, "pyautoattack")
    entry = registry.find("attack", "autoattack")
    assert entry.available
    entry.ref({})
    x, y = plain.x[:8], plain.y[:8]
    threat = Threat(eps="1/5")
    driven = drive(plain.net, "autoattack", x, y, threat, steps=5, targets=2, queries=20)
    assert "autoattack" in sys.modules
    assert_within(driven.images, x, threat)
    assert not bool(right(plain.net, driven.images, y).any())
    assert not torch.equal(driven.images, x)


def test_without_either_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pyautoattack", "autoattack")
    entry = registry.find("attack", "autoattack")
    assert not entry.available
    with pytest.raises(Exception, match="pip install pyautoattack") as error:
        entry.ref({})
    assert type(error.value).__name__ == "UsageError"
