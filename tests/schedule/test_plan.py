"""Plans: keys of many cells at once, and the parts of a job array."""

from itertools import chain, product

import numpy as np
import pytest
from PIL import Image

from bench.cli import main
from bench.config import sections
from bench.keys import EVALUATION_VERSION, Keys, attack_key, cell_key, identity, key_of
from bench.schedule.plan import make
from tests.attacks.test_adapters import need
from tests.schedule import small


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    text = small.CONFIG.replace('schema = 1\nname = "small"', 'schema = 1\nname = "small"\nseeds = [0, 1]')
    text += '\n[[defenses]]\nuse = "jpeg"\nquality = [50, 75]\n\n[[defenses]]\nuse = "bit-depth"\nbase = "fgsm-at"\n'
    return sections.load(small.write(tmp_path_factory.mktemp("plan"), text))


def test_keys_made_together_are_those_made_alone(configuration):
    keys = Keys()
    for planned in make(configuration).plan.cells:
        assert planned.key == key_of(identity(planned.cell), version=EVALUATION_VERSION) == cell_key(planned.cell)
        if planned.cell.attack is not None:
            alone = key_of(identity(planned.cell.attack), version=EVALUATION_VERSION)
            assert keys.of(planned.cell.attack) == alone == attack_key(planned.cell.attack)


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_shards_are_the_plan_cut_once(configuration, n):
    all_keys = [planned.key for planned in make(configuration).plan.cells]
    parts = [[planned.key for planned in make(configuration, shard=(i, n)).plan.cells] for i in range(1, n + 1)]
    assert sorted(chain.from_iterable(parts)) == sorted(all_keys)
    assert all(part == [key for key in all_keys if key in set(part)] for part in parts)
    assert n > 3 or max(map(len, parts)) <= 2 * min(map(len, parts))


@pytest.mark.parametrize("n", [2, 3, 7])
def test_no_two_shards_make_the_same_adversarial_set(configuration, n):
    sets = [
        {
            attack_key(planned.cell.attack)
            for planned in make(configuration, shard=(i, n)).plan.cells
            if planned.cell.attack
        }
        for i in range(1, n + 1)
    ]
    assert sum(map(len, sets)) == len(set.union(*sets))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none(shard, capsys):
    assert main(["plan", f"--shard={shard}"]) == 2
    assert "is no part such as 1/8" in capsys.readouterr().err


def test_shards_on_one_store_make_the_whole(tmp_path):
    assert small.run(tmp_path, "--shard", "1/2") == small.run(tmp_path, "--shard", "2/2") == 0
    before = len(small.events(tmp_path, "done", "crafted", "trained"))
    assert small.run(tmp_path) == 0
    assert len(small.events(tmp_path, "done", "crafted", "trained")) == before


def test_the_name_of_a_cell_as_it_is_printed_picks_that_cell(tmp_path):
    text = small.CONFIG.replace("n = 140", "n = 20") + '\n[[defenses]]\nuse = "jpeg"\nquality = [50, 90]\n'
    name = "digits/small-cnn/jpeg[quality=90]/clean/static"
    assert small.run(tmp_path, "--only", name, text=text) == 0
    assert [event["cell"] for event in small.events(tmp_path, "done")] == [name]


def test_a_static_set_is_made_once_for_every_step_on_its_network(tmp_path):
    steps = "".join(
        f'\n[[defenses]]\nuse = "{name}"\nbase = "fgsm-at"\n'
        for name in ("jpeg", "bit-depth", "median", "gaussian-blur")
    )
    text = small.CONFIG.replace("n = 140", "n = 20") + steps
    assert small.run(tmp_path, "--only", "*/static", text=text) == 0
    # Five steps, two attacks: one set for each attack.
    assert len(small.events(tmp_path, "crafted")) == 2
    assert len(small.events(tmp_path, "done")) == 5 * 3
    assert len(small.events(tmp_path, "trained")) == 1


def few_classes(folder, *attacks, classes="ab"):
    """Write a table whose images have two classes, or as many as are named, and return its path."""
    rng = np.random.default_rng(0)
    for split, label in product(("train", "test"), classes):
        (folder / "set" / split / label).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "set" / split / label / f"{i}.png")
    head = small.CONFIG.partition("[[defenses]]")[0].replace('name = "digits"\nn = 140\ntrain_n = 100', "SET")
    text = head.replace("SET", f'name = "folder:{folder / "set"}"\nn = 8\ntrain_n = 8')
    text += '[[defenses]]\nuse = "standard"\n'
    return small.write(folder, text + "".join(f'[[attacks]]\nuse = "{each}"\neps = "0.1"\n' for each in attacks))


@pytest.mark.parametrize(("attack", "least"), [("apgd-t", 4), ("apgd-dlr", 3)])
def test_an_attack_that_needs_more_classes_is_said_to_fail_before_any_work(tmp_path, caplog, capsys, attack, least):
    table, store = few_classes(tmp_path, "fgsm", attack), ["--store", str(tmp_path / "store"), "--device", "cpu"]
    why = f"{attack} needs {least} classes or more, and the images have 2"
    assert main(["plan", table, *store]) == 3
    assert f"column {attack} will fail (1 cells): {why}" in caplog.text
    assert f"/{attack}/" not in capsys.readouterr().out
    caplog.clear()
    assert main(["run", table, *store, "--report", str(tmp_path / "report")]) == 3
    lines = [record.getMessage() for record in caplog.records]
    assert lines.index(f"column {attack} will fail (1 cells): {why}") == 0
    # The clean cell and the other attack are measured.
    assert sum(line.startswith("failed: ") for line in lines) == 1
    capsys.readouterr()
    assert main(["run", table, *store, "--only", f"/{attack}/"]) == 2
    assert f"error: no cell can be measured: {why}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("classes", "fails"), [("abc", True), ("abcd", False)])
def test_classes_that_only_a_targeted_loss_needs_are_said_before_any_work(tmp_path, capsys, classes, fails):
    """The targeted DLR loss divides by the third and the fourth largest logit, the other one by the third."""
    table = few_classes(tmp_path, "apgd-dlr", classes=classes)
    arguments = [table, "--store", str(tmp_path / "store"), "--only", "*/apgd-dlr*", "--device", "cpu"]
    assert main(["plan", *arguments]) == 0
    with open(table, "a") as file:
        file.write('steps = 2\ntarget = "least-likely"\n')
    capsys.readouterr()
    assert main(["run", *arguments, "--report", str(tmp_path / "report")]) == (2 if fails else 0)
    why = "no cell can be measured: apgd-dlr needs 4 classes or more with a target, and the images have 3"
    assert (f"error: {why}\n" in capsys.readouterr().err) == fails
    assert (tmp_path / "store").exists() != fails


@pytest.mark.parametrize(
    ("use", "params", "classes", "least"),
    [
        ("torchattacks:APGDT", "", "abc", 4),
        ("torchattacks:APGD", 'loss = "dlr"', "ab", 3),
        ("torchattacks:APGD", "", "ab", None),
        ("torchattacks:AutoAttack", "", "abc", 4),
        ("torchattacks:AutoAttack", 'version = "rand"', "ab", 3),
        ("torchattacks:AutoAttack", 'version = "rand"', "abc", None),
        ("torchattacks:JSMA", "", "abcd", 10),
        ("advlib:alma", "", "ab", 3),
        # Its DLR loss takes the three largest logits and, towards a class, four.
        ("advlib:apgd", "", "ab", 3),
        ("advlib:apgd", "", "abc", None),
        ("advlib:apgd", 'loss_function = "ce"', "ab", None),
        ("advlib:apgd_targeted", "", "abc", 4),
        ("advlib:apgd_targeted", 'loss_function = "ce"', "ab", None),
        ("advlib:apgd_targeted", 'loss_function = "ce"\nnum_targets = 3', "abc", 4),
        ("advlib:apgd_targeted", "num_targets = 3", "abcd", None),
        ("advlib:apgd_targeted", "num_targets = 9", "abcd", 10),
        ("art:AutoProjectedGradientDescent", 'loss_type = "difference_logits_ratio"', "ab", 3),
        ("art:AutoProjectedGradientDescent", 'loss_type = "cross_entropy"', "ab", None),
    ],
)
def test_so_are_those_of_an_attack_of_a_library(tmp_path, capsys, use, params, classes, least):
    need(use)
    table = few_classes(tmp_path, use, classes=classes)
    with open(table, "a") as file:
        file.write(f"{params}\n")
    code = main(["plan", table, "--store", str(tmp_path / "store"), "--only", f"*/{use}*"])
    said = capsys.readouterr().err
    assert code == (0 if least is None else 2)
    why = f"{use} needs {least} classes or more, and the images have {len(classes)}\n"
    assert (why in said) == (least is not None)


@pytest.mark.parametrize(("most", "code"), [(2, 3), (3, 0)])
def test_a_budget_below_one_evaluation_of_a_defense_is_said_in_the_plan(tmp_path, caplog, most, code):
    # TPAP takes a forward and a backward pass for its own step, and answers with another.
    text = small.CONFIG.partition("[[attacks]]")[0]
    text += f'[[attacks]]\nuse = "fgsm"\neps = "0.1"\naccess = ["adaptive"]\nmax_passes = {most}\n'
    assert main(["plan", small.write(tmp_path, text), "--store", str(tmp_path / "store"), "--device", "cpu"]) == code
    line = "column fgsm may fail (1 cells): max_passes = 2: a single evaluation of tpap takes 3 passes"
    assert (line in caplog.text) == (most < 3)


#: What an image that stays right takes with these settings, counted by hand; what a single step takes; and the budget
#: from which on no line is needed: a hundredth less will do.
@pytest.mark.parametrize(
    ("settings", "whole", "one_step", "enough"),
    [
        ('use = "fgsm"', 2, 2, 2),
        ('use = "pgd"\nsteps = 10', 20, 2, 20),
        ('use = "pgd"\nsteps = 10\nrestarts = 3\nstart = "clean"', 20, 2, 20),
        ('use = "apgd-ce"\nsteps = 100', 201, 3, 199),
        # Of the nine wrong classes no more than nine are aimed at: 1 + 9 x 11 + 9 x 10.
        ('use = "apgd-t"\nsteps = 10\ntargets = 20', 190, 4, 189),
        ('use = "square"\nqueries = 300', 300, 1, 297),
    ],
)
def test_a_budget_that_ends_an_attack_early_is_said_before_any_work(
    tmp_path, caplog, settings, whole, one_step, enough
):
    def warnings(most):
        caplog.clear()
        text = small.CONFIG.partition("[[attacks]]")[0].partition('[[defenses]]\nuse = "tpap"')[0]
        text += f'[[attacks]]\n{settings}\neps = "0.1"\nmax_passes = {most}\n'
        assert main(["plan", small.write(tmp_path, text), "--store", str(tmp_path / "store"), "--device", "cpu"]) == 0
        return [record.getMessage() for record in caplog.records if "max_passes" in record.getMessage()]

    assert warnings(enough) == []
    (line,) = warnings(enough - 1)
    assert f"/white-box after {enough - 1} of {whole} passes" in line
    if one_step > 1:
        (line,) = warnings(one_step - 1)
        assert f" (a single step takes {one_step})" in line


def test_a_budget_counts_the_draws_that_are_averaged(tmp_path, caplog):
    text = small.CONFIG.partition("[[attacks]]")[0] + '[[defenses]]\nuse = "resize-pad"\nbase = "fgsm-at"\n'
    text += '[[attacks]]\nuse = "pgd"\neps = "0.1"\nsteps = 5\neot = 4\nmax_passes = 10\n'
    path, store = small.write(tmp_path, text), str(tmp_path / "store")
    assert main(["plan", path, "--store", store, "--only", "*/resize-pad@fgsm-at/*", "--device", "cpu"]) == 0
    (line,) = (each.getMessage() for each in caplog.records if "max_passes" in each.getMessage())
    # The static attack fits; the adaptive one takes 4 x (5 + 5).
    assert line == (
        "max_passes ends attacks before their end, which their settings plan for: column pgd/adaptive after 10 of at "
        "least 40 passes; give settings that fit, such as fewer steps, or more passes"
    )
