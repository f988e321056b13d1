"""A run on a cluster whose machines die at work has the results of one process, each computed once."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import torch

from bench.cli import main
from bench.config import sections
from bench.keys import cell_key
from bench.process.ending import Control
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import UsageError
from tests.schedule import small

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'crossfire-bench[ray]'")

# Each method touches a file when it begins, then waits for another file. Meanwhile the test kills its machine.
METHODS = '''
import ctypes, os, signal, time
from pathlib import Path

import torch.nn.functional as F

from bench.api import Target, Threat, attack, defense

HERE = Path(__file__).parent
STEPS = []


def pause(name):
    while not (HERE / f"go-{name}").exists():
        (HERE / f"at-{name}").touch()
        time.sleep(0.05)


def begin(name):
    with open(HERE / f"begun-{name}", "a") as file:
        file.write("begun, ")


@defense(kind="recipe")
def patient(step, x, y):
    """Learns, and waits in its second epoch."""
    STEPS.append(step)
    if len(STEPS) > 3:
        pause("training")
    return F.cross_entropy(step.net(x), y)


@attack(norms=("linf",), passes="1 forward")
def slow(target, x, y, threat, *, name: str = "attack"):
    """Moves at random after the pause."""
    pause(name)
    target(x)
    return (x + float(threat.eps) * (2 * target.uniform(x) - 1)).clamp(0, 1)


@attack(norms=("linf",), passes="1 forward")
def deadly(target, x, y, threat):
    """Ends its process."""
    begin("deadly")
    ctypes.string_at(0)


@attack(norms=("linf",), passes="1 forward")
def greedy(target, x, y, threat):
    """Kills its worker, as Ray does when memory runs short."""
    begin("greedy")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


@attack(norms=("linf",), passes="1 forward")
def endless(target, x, y, threat):
    """Sleeps in C and holds the GIL."""
    begin("endless")
    ctypes.PyDLL(None).sleep(1000)
'''
# With suites, in which a set continues from another.
CONFIG = (
    f"""
schema = 1
name = "cluster"
worst_case = true
{small.DIGITS}"""
    + """
[train]
epochs = 2
batch = 50

[[defenses]]
use = "{folder}/mine.py:patient"

[[defenses]]
use = "bit-depth"
base = "{folder}/mine.py:patient"

[[attacks]]
use = "fgsm"
eps = "0.1"
access = ["static"]

[[attacks]]
use = "{folder}/mine.py:{attack}"
eps = "0.1"
access = ["static"]
"""
)
LEAD = """
import sys
from bench.schedule import ray
ray._RETRIES = 1
# A busy machine may keep the head from answering for seconds.
ray._HEAD = 15.0
from bench.cli import main
from bench.process.ending import Control
sys.exit(main(sys.argv[1:]))
"""


def small_node(**more):
    return {"include_dashboard": False, "object_store_memory": 80 * 2**20, **more}


@pytest.fixture(scope="module")
def cluster():
    """A head without processors: all work runs on machines that a test can kill."""
    from ray.cluster_utils import Cluster

    # Ray notices a dead node within seconds, and does not take a slow one for dead.
    system = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args=small_node(num_cpus=0, _system_config=system))
    cluster.machine = cluster.add_node(**small_node(num_cpus=1))
    yield cluster
    for node in cluster.list_all_nodes():
        # A graceful end would wait half a minute for a head that is gone.
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    # The helper processes of a killed machine outlive it.
    for pid in rays(os.getpgrp()):
        os.kill(pid, signal.SIGKILL)


def rays(group):
    """Return the Ray processes of a process group: command line by pid."""
    command_lines = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if os.getpgid(pid) != group:
                continue
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        # Programs and scripts of Ray, not what other tests run with its folder on their path.
        if words[0].startswith("ray::") or any(word.startswith("/") and "/ray/" in word for word in words):
            command_lines[pid] = " ".join(words)[:80]
    return command_lines


def descendants(pid):
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            yield child
            yield from descendants(child)


def configured(folder, *, attack="slow", more=""):
    (folder / "mine.py").write_text(METHODS)
    return small.write(folder, CONFIG.format(folder=folder, attack=attack) + more)


def go(folder, *names):
    for name in names:
        (folder / f"go-{name}").touch()


def started(config, store, address):
    argv = ["run", config, "--executor", "ray", "--store", str(store), "--device", "cpu", "--report", f"{store}-report"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": address}
    return subprocess.Popen(
        [sys.executable, "-c", LEAD, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def await_mark(run, path):
    while not path.exists():
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.05)


def test_machines_die_in_a_training_and_in_an_attack_and_nothing_is_lost_or_done_twice(cluster, tmp_path):
    config = configured(tmp_path)
    with started(config, tmp_path / "store", cluster.address) as run:
        for name in ("training", "attack"):
            await_mark(run, tmp_path / f"at-{name}")
            cluster.remove_node(cluster.machine, allow_graceful=False)
            go(tmp_path, name)
            cluster.machine = cluster.add_node(**small_node(num_cpus=1))
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    for event in ("done", "trained", "crafted"):
        times = Counter((each["key"], each.get("images")) for each in small.events(tmp_path, event))
        assert times and set(times.values()) == {1}, event
    before = small.outcome(tmp_path)
    (tmp_path / "store").rename(tmp_path / "store of ray")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["run", config, "--store", str(tmp_path / "store"), "--report", str(tmp_path / "report")]) == 0
    torch.set_num_threads(threads)
    assert small.outcome(tmp_path) == before


#: Harmful attacks, and the number of attempts at each.
HARMS = {"deadly": 1, "endless": 1, "greedy": 2}


def test_what_kills_its_process_or_never_comes_back_fails_alone(cluster, tmp_path):
    go(tmp_path, "training", "attack")
    more = f'''
[[attacks]]
use = "{tmp_path}/mine.py:endless"
eps = "0.1"
access = ["static"]

[[attacks]]
use = "{tmp_path}/mine.py:greedy"
eps = "0.1"
access = ["static"]

[[attacks]]
use = "pgd"
eps = "0.1"
steps = 1
access = ["static"]

[run]
timeout = "10s"
'''
    with started(configured(tmp_path, attack="deadly", more=more), tmp_path / "store", cluster.address) as run:
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 3, output
    results = {(each.names.defense, each.names.attack): each for each in Store(tmp_path / "store").results()}
    failures = {name: each.error.message for name, each in results.items() if each.status == "failed"}
    errors = {harm: {error for (_, name), error in failures.items() if harm in name} for harm in HARMS}
    assert errors["deadly"] == {f"ended the process ({signal.strsignal(signal.SIGSEGV)})"}
    assert errors["endless"] == {"took longer than timeout = 10 s; the next run continues from what is finished"}
    assert all(error.startswith("Ray lost its task, also when it was run again: ") for error in errors["greedy"])
    # Later sets skip the failed one and continue from the one before it.
    done = {attack for (_, attack), each in results.items() if each.status == "done"}
    assert done == {"clean", "fgsm", "pgd"} and len(failures) == 2 * len(HARMS)
    for harm, attempts in HARMS.items():
        assert (tmp_path / f"begun-{harm}").read_text() == attempts * "begun, ", "for all rows that need it"


def test_the_head_restarts_and_the_run_ends_with_one_line_and_goes_on_elsewhere(cluster, tmp_path):
    go(tmp_path, "training")
    config = configured(tmp_path)
    with started(config, tmp_path / "store", cluster.address) as run:
        await_mark(run, tmp_path / "at-attack")
        cluster.head_node.kill_gcs_server(check_alive=False)
        cluster.head_node.start_gcs_server()
        output, _ = run.communicate(timeout=120)
    assert run.returncode == 2
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "the Ray cluster was lost" in line and "the same command continues" in line and "Traceback" not in output
    assert small.events(tmp_path, "trained")
    go(tmp_path, "attack")
    assert small.run(tmp_path, text=Path(config).read_text()) == 0
    assert len(small.events(tmp_path, "trained")) == 1


def test_a_run_on_a_cluster_ends_when_asked_and_leaves_nothing(tmp_path):
    go(tmp_path, "training")
    with started(configured(tmp_path), tmp_path / "store", "") as run:
        await_mark(run, tmp_path / "at-attack")
        groups = {os.getpgid(pid) for pid in descendants(run.pid)} - {os.getpgrp()}
        assert any(map(rays, groups))
        while not list(Store(tmp_path / "store").results()):
            assert run.poll() is None
            time.sleep(0.2)
        # Ray needs a moment to report the result to the leader.
        time.sleep(2)
        run.send_signal(signal.SIGTERM)
        output, _ = run.communicate(timeout=120)
    assert run.returncode == 143
    counted = re.search(r"(\d+) of \d+ cells are done; the same command continues from here", output.replace("\n", " "))
    assert 0 < int(counted[1]) <= len(list(Store(tmp_path / "store").results()))
    assert all(result.status == "done" for result in Store(tmp_path / "store").results())
    until = time.monotonic() + 30
    while left := list(chain.from_iterable(rays(group).items() for group in groups)):
        assert time.monotonic() < until, left
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("address", "says"), [("127.0.0.1:1", "no Ray cluster answers there"), ("a machine", "address")]
)
def test_where_no_cluster_answers(tmp_path, monkeypatch, capsys, address, says):
    go(tmp_path, "training", "attack")
    monkeypatch.setenv("RAY_ADDRESS", address)
    argv = ["run", configured(tmp_path), "--executor", "ray", "--store", str(tmp_path / "store"), "--device", "cpu"]
    assert main(argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: RAY_ADDRESS={address}: ") and says in line


def test_a_task_that_no_machine_can_hold():
    from bench.schedule import ray as executor

    machines = [{"CPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]
    executor._require_fit(machines, {"CPU": 4, "GPU": 1.0})
    with pytest.raises(UsageError, match="asks for 64 CPUs and 0 GPUs, but the machines of the cluster have 1 CPUs"):
        executor._require_fit(machines, {"CPU": 64, "GPU": 0.0})
    with pytest.raises(UsageError, match=r"asks for 1 CPUs and 1\.5 GPUs"):
        executor._require_fit(machines, {"CPU": 1, "GPU": 1.5})


def test_a_machine_with_other_code_refuses(tmp_path, monkeypatch):
    from bench.schedule import ray as executor

    monkeypatch.chdir(tmp_path)
    work = make(sections.load(configured(tmp_path)))
    threads = torch.get_num_threads()
    context = executor.WorkerContext(tmp_path / "store", None, (), "cpu", None, None, threads, (), tmp_path, None)
    planned = work.plan.cells[-1]
    control = Control()
    executor._prepared(context, planned, control)
    attack = planned.cell.attack
    for update in (
        {"attack": attack.model_copy(update={"attack": attack.attack.model_copy(update={"code_sha": "0"})})},
        {"step": planned.cell.step.model_copy(update={"code_sha": "0"})},
    ):
        cell = planned.cell.model_copy(update=update)
        with pytest.raises(UsageError, match="another version of the code"):
            executor._prepared(context, planned.model_copy(update={"cell": cell, "key": cell_key(cell)}), control)
    with pytest.raises(UsageError, match="another version of the code"):
        executor._prepared(context, planned.model_copy(update={"key": "0" * 64}), control)
