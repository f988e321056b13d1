"""On a cluster of several nodes, one of which dies: the same results as in one process, each made once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bench import config
from bench.schedule.plan import cell_key, make
from bench.schedule.run import Runner
from bench.store import Store
from bench.types import UsageError
from tests.schedule import small

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'crossfire-bench[ray]'")

SLOW = '''
import time
from bench.api import Target, Threat, attack


@attack(norms=("linf",), passes="1 forward")
def slow(target, x, y, threat, *, which: int = 0):
    """Takes its time."""
    time.sleep(0.4)
    target(x)
    return (x + float(threat.eps) * (2 * target.uniform(x) - 1)).clamp(0, 1)
'''


@pytest.fixture(scope="module")
def cluster():
    """A head and two more nodes, each of one processor, in processes of their own."""
    from ray.cluster_utils import Cluster

    # A dead node is noticed within seconds, and a slow one is not taken for dead.
    system = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": system}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.mortal = made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


class Kills:
    """Kills a node when some cells are done."""

    def __init__(self, cluster, after):
        self.cluster, self.after, self.killed = cluster, after, False

    def cells(self, done, total):
        if done >= self.after and not self.killed:
            self.killed = True
            self.cluster.remove_node(self.cluster.mortal, allow_graceful=False)

    def work(self, what, done, total, note=""):
        pass


def runner(folder, reporter):
    (folder / "mine.py").write_text(SLOW)
    more = f'\n[[attacks]]\nuse = "{folder}/mine.py:slow"\nwhich = [0, 1, 2, 3]\neps = "0.1"\n'
    # With suites, in which a set stands on another.
    text = small.CONFIG.replace('name = "small"', 'name = "small"\nworst_case = true') + more
    work = make(config.load(small.write(folder, text)))
    return Runner(work, Store(folder / "store"), torch.device("cpu"), None, lambda: None, reporter)


def test_a_node_dies_and_nothing_is_lost_torn_or_done_twice(cluster, tmp_path_factory):
    from bench.schedule import ray as executor

    here, there = tmp_path_factory.mktemp("inline"), tmp_path_factory.mktemp("ray")
    kills = Kills(cluster, after=3)
    lead = runner(there, kills)
    found = executor.run(lead, device="cpu", cpus=1, gpus=None)
    assert kills.killed
    # The head notices a death by missed heartbeats, which may take longer than the rest of the run.
    noticed = (sum(node["Alive"] for node in ray.nodes()) == 2 or time.sleep(0.5) for _ in range(120))
    assert any(noticed)
    assert [(result.key, result.status) for result in found] == [(cell.key, "done") for cell in lead.work.plan.cells]
    for event in ("done", "trained", "crafted"):
        times = Counter((each["key"], each.get("images")) for each in small.events(there, event))
        assert set(times.values()) == {1}, event
    # The path of the user's file is in the names of its cells.
    (here / "mine.py").write_text(SLOW)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = replace(runner(there, kills), store=Store(here / "store"))
    assert all(result.status == "done" for result in alone.run())
    torch.set_num_threads(threads)
    assert small.outcome(there) == small.outcome(here)
    before = small.events(there, "started")
    executor.run(runner(there, kills), device="cpu", cpus=1, gpus=None)
    assert small.events(there, "started") == before


def test_a_run_on_a_cluster_ends_when_asked_and_says_so(tmp_path):
    (tmp_path / "mine.py").write_text(SLOW)
    text = f'{small.CONFIG}\n[[attacks]]\nuse = "{tmp_path}/mine.py:slow"\nwhich = {[*range(50)]}\neps = "0.1"\n'
    words = [small.write(tmp_path, text), "--executor", "ray", "--store", str(tmp_path / "store"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"}
    with subprocess.Popen(
        [sys.executable, "run_bench.py", "run", *words], stdout=subprocess.PIPE, text=True, env=environment
    ) as run:
        while not [*tmp_path.glob("store/cells/*.json")]:
            assert run.poll() is None
            time.sleep(0.2)
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate(timeout=120)
    assert run.returncode == 143
    assert "the same command goes on from here" in said.replace("\n", " ")


def test_a_task_that_no_machine_can_hold(cluster, tmp_path):
    from bench.schedule import ray as executor

    with pytest.raises(UsageError, match="asks for 64 CPUs and 0 GPUs, but the machines of the cluster have 1 CPUs"):
        executor.run(runner(tmp_path, Kills(cluster, 10**6)), device="cpu", cpus=64, gpus=None)
    with pytest.raises(UsageError, match=r"asks for 1 CPUs and 0\.5 GPUs"):
        executor.run(runner(tmp_path, Kills(cluster, 10**6)), device="cuda", cpus=1, gpus=0.5)


def test_a_machine_with_other_code_refuses(tmp_path, monkeypatch):
    from bench.schedule import ray as executor

    monkeypatch.chdir(tmp_path)
    lead = runner(tmp_path, Kills(None, 10**6))
    place = executor.Place(tmp_path / "store", None, (), "cpu", None, None, torch.get_num_threads(), (), tmp_path, None)
    planned = lead.work.plan.cells[-1]
    executor._prepared(place, planned)
    attack = planned.cell.attack
    for update in (
        {"attack": attack.model_copy(update={"attack": attack.attack.model_copy(update={"code_sha": "0"})})},
        {"step": planned.cell.step.model_copy(update={"code_sha": "0"})},
    ):
        cell = planned.cell.model_copy(update=update)
        with pytest.raises(UsageError, match="another version of the code"):
            executor._prepared(place, planned.model_copy(update={"cell": cell, "key": cell_key(cell)}))
    with pytest.raises(UsageError, match="another version of the code"):
        executor._prepared(place, planned.model_copy(update={"key": "0" * 64}))
