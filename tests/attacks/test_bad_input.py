"""What an attack cannot do is refused before any work, in one line."""

from __future__ import annotations

import pytest

from bench.cli import main

HEAD = """
schema = 1
name = "bad"

[dataset]
name = "digits"
n = 10

[[models]]
arch = "small-cnn"

[[defenses]]
use = "standard"

[[attacks]]
"""


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        ('use = "pgd"\nnorm = "wasserstein"', "norm 'wasserstein' is not one that pgd keeps to: linf, l2"),
        ('use = "rays"\nnorm = "l2"', "norm 'l2' is not one that rays keeps to: linf"),
        ('use = "pgd"\nsteps = 0', "greater than or equal to 1, not 0"),
        ('use = "pgd"\nstep_size = -1', "step_size"),
        ('use = "pgd"\neps = 8', "did you mean '8/255'?"),
        ('use = "fwa"\nkernel = 1', "kernel"),
        ('use = "ti-dim"\ndiversity = 1.5', "diversity"),
    ],
)
def test_an_attack_refuses_what_it_cannot_do_in_one_line(tmp_path, capsys, attack: str, says: str) -> None:
    (tmp_path / "bad.toml").write_text(HEAD + attack + "\n")
    assert main(["plan", str(tmp_path / "bad.toml"), "--store", str(tmp_path / "store")]) == 2
    output = capsys.readouterr()
    assert says in " ".join(output.err.split())
    assert "Traceback" not in output.err
    assert not (tmp_path / "store").exists()
