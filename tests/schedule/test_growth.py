"""Under a time budget cells grow chunk by chunk, those first that decide ranks."""

import logging
from operator import attrgetter

from bench.outcomes import Outcomes
from bench.schedule.priority import Priority
from bench.store import history, partial
from bench.store.working_store import Store
from bench.types import PartialResult, PlannedCell
from tests.report.fabricate import result

N = 1024


def cell(recipe, right, attack="pgd", **more):
    """Return a whole result that keeps the first of every block of 128 images, ``right`` of them."""
    adversarial = [i % 128 < right for i in range(N)]
    return result(recipe, attack, recipe=recipe, clean=[True] * N, adversarial=adversarial, **more)


def first(whole, n, seconds=1.0):
    """Return what is known of a cell after its first images."""
    clean, attacked = (
        Outcomes.decode(each, N).first(n).encode() for each in (whole.clean_bits, whole.adversarial_bits)
    )
    outcomes = {"clean_bits": clean, "adversarial_bits": attacked}
    return PartialResult(key=whole.key, names=whole.names, cell=whole.cell, n=n, seconds=seconds, **outcomes)


def race(cells, known, *names):
    """Return some names of cells, by default of their row and attack, in the order in which they come next."""
    plan = [PlannedCell(key=each.key, names=each.names, cell=each.cell) for each in cells]
    priority = Priority(plan)
    for each in known:
        priority.note(each)
    done = {each.key for each in known if not isinstance(each, PartialResult)}
    named = attrgetter(*(f"names.{name}" for name in names or ("defense", "attack")))
    return list(map(named, priority.order(p for p in plan if p.key not in done)))


ROWS = [cell("standard", 0), cell("pgd-at", 64), cell("trades", 66)]


def test_cells_without_images_come_first_in_the_order_of_the_plan():
    assert race(ROWS, [first(ROWS[1], 128)]) == [("standard", "pgd"), ("trades", "pgd"), ("pgd-at", "pgd")]
    assert race(ROWS, []) == [("standard", "pgd"), ("pgd-at", "pgd"), ("trades", "pgd")]


def test_a_row_that_is_settled_waits_until_the_others_are():
    known = [first(each, 128) for each in ROWS]
    assert race(ROWS, known) == [("pgd-at", "pgd"), ("trades", "pgd"), ("standard", "pgd")]
    # Two rows that are ahead of the third, and settled, leave nothing that more images decide.
    settled = [first(cell("standard", 0), 128), first(cell("pgd-at", 64), 128)]
    assert race([ROWS[0], ROWS[1]], settled) == [("standard", "pgd"), ("pgd-at", "pgd")]


def test_of_equally_undecided_rows_the_cheaper_one_goes_first():
    known = [first(ROWS[0], 128), first(ROWS[1], 128, seconds=3.0), first(ROWS[2], 128, seconds=2.0)]
    assert race(ROWS, known)[0] == ("trades", "pgd")


def test_only_the_attack_that_lacks_images_extends_its_row():
    others = [cell(each, right, "fgsm") for each, right in (("standard", 10), ("pgd-at", 70), ("trades", 70))]
    known = [first(each, 128) for each in (*ROWS, *others[:2])] + [first(others[2], 256)]
    order = race([*ROWS, *others], known)
    assert set(order[:3]) == {("pgd-at", "pgd"), ("pgd-at", "fgsm"), ("trades", "pgd")}


def test_a_failed_row_holds_up_nobody():
    failed = result("trades", "pgd", recipe="trades", clean=[True] * N, status="failed")
    order = race([*ROWS[:2], failed], [first(ROWS[0], 128), first(ROWS[1], 128), failed])
    assert order == [("standard", "pgd"), ("pgd-at", "pgd")]


def test_damaged_and_foreign_parts_do_not_count(tmp_path, caplog):
    store = Store(tmp_path)
    whole = ROWS[1]
    partial.put(store, first(whole, 256))
    assert partial.get(store, whole.key).n == 256
    path = partial.path_of(store, whole.key)
    other = partial.path_of(store, ROWS[2].key)
    other.write_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b'"n":256', b'"n":128', 1))
    with caplog.at_level(logging.WARNING, "crossfire"):
        assert not list(partial.read(store))
    assert "cut short or altered" in caplog.text and "it is of" in caplog.text


def test_what_is_kept_of_a_cell_that_is_done_does_not_count(tmp_path):
    store = Store(tmp_path)
    partial.put(store, first(ROWS[1], 256))
    store.put(ROWS[1])
    assert not list(partial.read(store))
    assert history.read(tmp_path).begun == ()


def step(right, attack="pgd", access="adaptive", **more):
    """Return a whole result of JPEG on standard training, as :func:`cell` does of a recipe."""
    adversarial = [i % 128 < right for i in range(N)]
    return result("jpeg", attack, step="jpeg", access=access, clean=[True] * N, adversarial=adversarial, **more)


def test_cells_of_an_open_verdict_come_before_those_that_decide_nothing():
    # Under another threat than the first nobody is ranked, but a verdict is asked.
    more = {"norm": "l2", "eps": "1/2"}
    ranked = [cell("standard", 0), step(128), cell("standard", 0, "fgsm"), step(128, "fgsm")]
    asked = [cell("pgd-at", 64, **more), cell("standard", 64, **more), step(66, **more)]
    order = race([*ranked, *asked], [first(each, 128) for each in (*ranked, *asked)])
    assert order[:2] == [("standard", "pgd"), ("jpeg", "pgd")]
    decided = [*asked[:2], step(128, **more)]
    order = race([*ranked, *decided], [first(each, 128) for each in (*ranked, *decided)])
    assert order == [(each.names.defense, each.names.attack) for each in (*ranked, *decided)]


def test_static_cells_with_fewer_images_come_first_while_verdict_or_gap_is_open():
    cells = [cell("standard", 40), step(41), step(42, access="static")]
    known = [first(cells[0], 256), first(cells[1], 256), first(cells[2], 128, seconds=0.5)]
    assert next(iter(race(cells, known, "access"))) == "static"
    decided = [cells[0], step(128), step(60, access="static")]
    known = [first(decided[0], 256), first(decided[1], 256), first(decided[2], 128, seconds=0.5)]
    assert race(decided, known, "access") == ["white-box", "adaptive", "static"]


def test_what_only_the_base_is_attacked_with_does_not_keep_a_verdict_open():
    cells = [cell("standard", 0), cell("standard", 0, "fgsm"), step(128)]
    known = [first(cells[0], 128), first(cells[1], 128), first(cells[2], 128)]
    assert race(cells, known) == [("standard", "pgd"), ("standard", "fgsm"), ("jpeg", "pgd")]
