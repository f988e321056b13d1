"""The preset asks enough of every defense for its verdicts to mean something."""

import pytest

from bench import registry
from bench.config import sections
from bench.report.leaderboard.verdicts import lacking
from bench.schedule.plan import make
from tests.report.fabricate import result

CLEAN = [True] * 10


def planned_by(preset, eps="1/10"):
    """Make up results of every adaptive cell at one budget of a preset or file, by defense."""
    results = {}
    for each in make(sections.load(preset), n=10).plan.cells:
        attack, step = each.cell.attack, each.cell.step
        if attack is None or str(attack.threat.eps) != eps or each.cell.access not in ("white-box", "adaptive"):
            continue
        draws = step is not None and bool(registry.find("test-time", step.name).meta.get("randomised"))
        template = result(clean=CLEAN, adversarial=CLEAN, flags=("randomised",) if draws else ())
        results.setdefault(each.names.defense, []).append(
            template.model_copy(update={"cell": each.cell, "names": each.names})
        )
    return results


@pytest.fixture(scope="module")
def planned():
    return planned_by("adaptive")


@pytest.mark.parametrize("left_out", [set(), {"cascade"}, {"square"}])
def test_the_shortest_suite_could_deny_that_a_step_holds_too(left_out):
    results = planned_by("verdict")["jpeg@pgd-at"]
    assert len(results) > 5
    fewer = [each for each in results if each.cell.attack.attack.name not in left_out]
    assert bool(lacking(fewer)) == bool(left_out)


def test_the_shortest_suite_is_the_same_in_l2(tmp_path):
    file = tmp_path / "l2.toml"
    file.write_text('schema = 1\nname = "l2"\nextends = "verdict"\n[attack]\nnorm = "l2"\neps = "9/10"\n')
    results = planned_by(str(file), "9/10")["jpeg@pgd-at"]
    assert {each.cell.attack.threat.norm for each in results} == {"l2"}
    assert len(results) == len(planned_by("verdict")["jpeg@pgd-at"])
    assert lacking(results) == ()


def test_every_defense_is_attacked_by_what_could_deny_that_it_holds(planned):
    assert {"tpap", "anti-adversary", "hedge", "jpeg", "resize-pad"} <= {name.partition("[")[0] for name in planned}
    for defense, results in planned.items():
        assert lacking(results) == (), defense


@pytest.mark.parametrize("left_out", [{"square", "rays"}, {"pgd", "smoothed-pgd"}])
def test_and_less_would_not_do(planned, left_out):
    for defense, results in planned.items():
        fewer = [each for each in results if each.cell.attack.attack.name not in left_out]
        assert lacking(fewer), defense


def test_longer_runs_come_later_and_queries_last(planned):
    for defense, results in planned.items():
        order = [each.cell.attack.attack for each in sorted(results, key=lambda r: len(r.cell.attack.after))]
        names = [each.name for each in order]
        assert names.index("square") > max(i for i, name in enumerate(names) if name == "smoothed-pgd"), defense
        steps = [each.params["steps"] for each in order if each.name == "smoothed-pgd"]
        assert steps == sorted(steps), defense
