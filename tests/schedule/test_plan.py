"""Plans: keys of many cells at once, and the parts of a job array."""

from itertools import chain

import pytest

from bench.cli import main
from bench.config import sections
from bench.keys import EVALUATION_VERSION, Keys, attack_key, cell_key, identity, key_of
from bench.schedule.plan import make
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
