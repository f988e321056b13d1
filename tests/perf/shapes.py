"""Configurations that grow as those of users do: in budgets, attacks, rows, seeds, suites, sources, weights files.

Each returns the text of a configuration whose plan has about as many cells as asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bench import registry

_HEAD = """
schema = 1
name = "large"
seeds = {seeds}
worst_case = {chained}

[dataset]
name = "digits"
n = 100

[[models]]
arch = "small-cnn"
"""
_STEPS = ("bit-depth", "jpeg", "median", "gaussian-blur", "wavelet")


def budgets(cells: int, folder: Path) -> str:
    """One attack under many budgets on six rows: 11 cells a budget."""
    return _text(_rows(), [_attack("pgd", eps=[f"{i}/1000000" for i in range(1, 1 + cells // 11)])])


def attacks(cells: int, folder: Path) -> str:
    """Many tables of attacks, one of them swept, some of another library if it is there, on six rows: 11 cells each."""
    count = cells // 44
    tables = [_attack("pgd", steps=i) for i in range(1, 1 + 2 * count)]
    tables.append(_attack("mi-fgsm", steps=list(range(1, 1 + count))))
    other = "apgd-ce" if registry.imported_as("torchattacks") is None else "torchattacks:PGD"
    return _text(_rows(), [*tables, *(_attack(other, steps=i) for i in range(1, 1 + count))])


def rows(cells: int, folder: Path) -> str:
    """Many trainings, each with and without a step: 8 cells a training."""
    count = cells // 8
    defenses = [f'\n[[defenses]]\nuse = "standard"\n[defenses.train]\nepochs = {i}\n' for i in range(1, 1 + count)]
    defenses += [f'\n[[defenses]]\nuse = "jpeg"\n[defenses.train]\nepochs = {i}\n' for i in range(1, 1 + count)]
    return _text(defenses, [_attack("pgd"), _attack("fgsm")])


def seeds(cells: int, folder: Path) -> str:
    """Many seeds of six rows under two attacks: 28 cells a seed."""
    return _text(_rows(), [_attack("pgd"), _attack("fgsm")], seeds=range(cells // 28))


def suites(cells: int, folder: Path) -> str:
    """Worst-case suites of twenty attacks under many budgets on six rows: 220 cells a budget."""
    swept = [f"{i}/1000000" for i in range(1, 1 + cells // 220)]
    names = ("pgd", "mi-fgsm")
    tables = [_attack(name, steps=list(range(1, 11)), eps=swept) for name in names]
    return _text(_rows(), tables, chained=True)


def sources(cells: int, folder: Path) -> str:
    """Attacks transferred from many trainings of another network to six rows: 6 cells a source."""
    tables = [
        _attack("pgd", access=["transfer"], source="standard", source_seed=seed) for seed in range(1, 1 + cells // 6)
    ]
    return _text(_rows(), tables)


def weights(cells: int, folder: Path) -> str:
    """A step on many files of weights: 9 cells a file."""
    files = []
    for i in range(cells // 9):
        files.append(folder / f"{i}.safetensors")
        save_file({"bias": np.full(1, i, dtype=np.float32)}, files[-1])
    defense = f'\n[[defenses]]\nuse = "jpeg"\nbase = {json.dumps([f"weights:{file}" for file in files])}\n'
    return _text([defense], [_attack(name) for name in ("pgd", "fgsm", "mi-fgsm", "apgd-ce")])


SHAPES: Mapping[str, Callable[[int, Path], str]] = {
    shape.__name__: shape for shape in (budgets, attacks, rows, seeds, suites, sources, weights)
}


def _rows() -> list[str]:
    return ['\n[[defenses]]\nuse = "fgsm-at"\n', *(_step(name) for name in _STEPS)]


def _step(name: str) -> str:
    return f'\n[[defenses]]\nuse = "{name}"\nbase = "fgsm-at"\n'


def _attack(use: str, **words: object) -> str:
    return f'\n[[attacks]]\nuse = "{use}"\n' + "".join(f"{key} = {json.dumps(value)}\n" for key, value in words.items())


def _text(
    defenses: Iterable[str], attacks: Iterable[str], *, seeds: Iterable[int] = (0,), chained: bool = False
) -> str:
    return "".join([_HEAD.format(seeds=list(seeds), chained=str(chained).lower()), *defenses, *attacks])
