"""A folder of submissions by strangers: which result counts, what is said of the others, and what is refused."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.cli import command, main
from bench.keys import training_key
from bench.report.leaderboard.flags import DIFFERS
from bench.report.leaderboard.pareto import cost_front, primary
from bench.report.leaderboard.required import Policy
from bench.report.leaderboard.tables import build
from bench.report.receipts import weights as hashes
from bench.report.receipts.read import name_of
from bench.report.receipts.weights import of_files
from bench.report.render.latex import latex
from bench.report.submissions import merge, read, render
from bench.report.submissions.form import Unusable, https, submission, withdrawals
from bench.report.submissions.identity import identified
from bench.store.history import serialise
from bench.types import CellResult, UsageError
from tests.report.fabricate import outcomes, result
from tests.report.test_html import Page
from tests.report.test_receipts import folder, forged, receipt, with_key, with_outcomes  # noqa: F401

CLEAN = outcomes(0.9, 100)
WEAK, STRONG = outcomes(0.5, 100, 1), outcomes(0.3, 100, 1)


def attacked(adversarial=WEAK, **more):
    return result("standard", "pgd", clean=CLEAN, adversarial=adversarial, **more)


def submit(root, name, *results, file="run.json", **said):
    """Write a run file of a submission; return the SHA-256 of that file."""
    (root / name).mkdir(parents=True, exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in said.items()]
    (root / name / "submission.toml").write_text("".join(lines), encoding="utf-8")
    data = serialise(results).encode()
    (root / name / file).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def withdraw(root, sha256, reason="a mistake"):
    text = f'[[withdrawn]]\nsha256 = "{sha256}"\nreason = {json.dumps(reason)}\ndate = 2026-11-28\n'
    (root / "withdrawn.toml").write_text(text, encoding="utf-8")


def merged(root):
    found = read.read(root, None, command.version())
    return found, merge.merged(found)


def who(merged):
    return {key: [entry.who for entry in entries] for key, entries in merged.sources.items()}


def test_equal_results_of_two_people_are_one_row_measured_by_both(tmp_path):
    submit(tmp_path, "a", attacked(seconds=0.002), who="Ada")
    submit(tmp_path, "b", attacked(seconds=0.003), who="Bob")
    _, both = merged(tmp_path)
    assert who(both) == {attacked().key: ["Ada", "Bob"]} and not both.differing
    assert len(build(both.ranked).tables[0].rows) == 1


def test_differing_results_are_both_said_and_the_less_flattering_counts(tmp_path):
    submit(tmp_path, "a", attacked(WEAK, seconds=0.002), who="Ada")
    submit(tmp_path, "b", attacked(STRONG, seconds=0.003), who="Bob")
    _, both = merged(tmp_path)
    assert who(both) == {attacked().key: ["Bob"]}
    (ranked,), (other,) = both.ranked, both.differing
    assert ranked.metrics.accuracy_under_attack == 0.3 and DIFFERS in ranked.flags
    count = sum(a != b for a, b in zip(WEAK, STRONG, strict=True))
    assert other.entry.who == "Ada" and f"differs at {count} of 100 images attacked and 0 clean" in other.why


@pytest.mark.parametrize(
    ("clean", "adversarial", "marks", "on_clean"),
    [
        (CLEAN, WEAK, {"measured-differently"}, ()),
        (outcomes(0.9, 100, 7), STRONG, {"clean-measured-differently"}, ("clean-measured-differently",)),
    ],
)
def test_only_outcomes_that_differ_are_marked(tmp_path, clean, adversarial, marks, on_clean):
    submit(tmp_path, "a", attacked(STRONG), who="Ada")
    submit(tmp_path, "b", result("standard", "pgd", clean=clean, adversarial=adversarial, seconds=0.003), who="Bob")
    _, both = merged(tmp_path)
    (ranked,) = both.ranked
    assert set(ranked.flags) == marks | {"not-repeated"}
    (table,) = build(both.ranked).tables
    (shown,) = [column.id for column in table.columns if column.kind == "clean"]
    assert table.rows[0].values[shown].footnotes == (*on_clean, "not-repeated")


def test_the_newer_result_of_a_folder_counts_and_the_older_is_listed(tmp_path):
    submit(tmp_path, "a", attacked(STRONG, finished="2026-11-20T10:00:00+00:00"), who="Ada")
    submit(tmp_path, "a", attacked(WEAK, finished="2026-11-21T10:00:00+00:00"), file="second.json", who="Ada")
    _, both = merged(tmp_path)
    assert [each.metrics.accuracy_under_attack for each in both.ranked] == [0.5]
    (older,) = both.superseded
    assert (older.entry.file, older.by.file) == ("a/run.json", "a/second.json") and not both.differing


def test_a_newer_result_in_another_folder_under_one_name_raises_no_number(tmp_path):
    submit(tmp_path, "a1", attacked(STRONG, finished="2026-11-20T10:00:00+00:00"), who="Ada  Lovelace")
    submit(tmp_path, "a2", attacked(WEAK, finished="2026-11-21T10:00:00+00:00"), who="ada lovelace")
    _, both = merged(tmp_path)
    (ranked,), (other,) = both.ranked, both.differing
    assert ranked.metrics.accuracy_under_attack == 0.3 and DIFFERS in ranked.flags
    assert other.entry.file == "a2/run.json" and not both.superseded
    # It lowers one as anybody else's does, whenever it was measured.
    submit(tmp_path, "a3", attacked([False] * 100, finished="2026-11-19T10:00:00+00:00"), who="Ada Lovelace")
    assert [each.metrics.accuracy_under_attack for each in merged(tmp_path)[1].ranked] == [0.0]


def test_a_result_is_replaced_by_its_own_author_alone(tmp_path):
    old = submit(tmp_path, "a", attacked(epochs=4), who="Ada")
    submit(tmp_path, "a", attacked(epochs=8), file="second.json", who="Ada", replaces=[old])
    submit(tmp_path, "m", attacked(epochs=9), who="Mallory", replaces=[old])
    _, both = merged(tmp_path)
    assert [each.entry.file for each in both.superseded] == ["a/run.json"]
    (tmp_path / "a" / "submission.toml").write_text('who = "Ada"\n', encoding="utf-8")
    _, both = merged(tmp_path)
    assert not both.superseded and len(both.ranked) == 3
    assert not both.remarks
    (remark,) = both.unreplaced
    assert remark == ("m/run.json", "would replace a/run.json, which is Ada's: not done")


@pytest.mark.parametrize(
    ("more", "is_done"),
    [
        ({"adversarial": WEAK}, False),
        ({"adversarial": STRONG, "seconds": 0.3}, True),
        ({"adversarial": [False] * 100}, True),
        # Another network, however low its number: a name is what people write, and so nobody's row is struck.
        ({"adversarial": [False] * 100, "epochs": 9}, False),
    ],
)
def test_from_another_folder_only_a_lower_number_of_the_same_cell_replaces(tmp_path, more, is_done):
    old = submit(tmp_path, "a1", attacked(STRONG), who="Ada")
    submit(tmp_path, "a2", attacked(**more), who="Ada", replaces=[old])
    _, both = merged(tmp_path)
    why = "would replace a1/run.json, of another folder, and is no lower number of the same cell: not done"
    assert both.unreplaced == ([] if is_done else [("a2/run.json", why)])
    assert [each.entry.file for each in both.superseded] == (["a1/run.json"] if is_done else [])


def test_what_was_withdrawn_is_struck_and_not_ranked(tmp_path):
    sha256 = submit(tmp_path, "a", attacked(), who="Ada")
    withdraw(tmp_path, sha256, "trained on <b>test</b> images")
    found, both = merged(tmp_path)
    assert not both.ranked
    page = render.as_html(build(both.ranked), render.contributions(found, both))
    assert "<s>digits/small-cnn/standard/pgd/white-box" in page and "trained on &lt;b&gt;test&lt;/b&gt; images" in page


def test_a_copy_of_what_was_withdrawn_is_withdrawn_whenever_it_says_it_was_made(tmp_path):
    sha256 = submit(tmp_path, "a", attacked(finished="2026-11-20T10:00:00+00:00"), who="Ada")
    submit(tmp_path, "b", attacked(finished="2026-11-21T10:00:00+00:00"), who="Ada 3")
    submit(tmp_path, "c", attacked(seconds=0.0031), who="Cem")
    withdraw(tmp_path, sha256)
    _, both = merged(tmp_path)
    assert who(both) == {attacked().key: ["Cem"]}
    assert [each.entry.file for each in both.withdrawn] == ["a/run.json", "b/run.json"]


def test_of_a_copied_file_the_one_who_brought_the_weights_has_it(tmp_path):
    submit(tmp_path, "a", attacked(), who="Ada")
    submit(tmp_path, "z", attacked(), who="Zoe", weights=["net.safetensors"])
    (tmp_path / "z" / "net.safetensors").write_bytes(b"")
    _, both = merged(tmp_path)
    assert who(both) == {attacked().key: ["Zoe"]}


def test_a_copied_file_counts_once(tmp_path):
    submit(tmp_path, "a", attacked(), who="Ada")
    submit(tmp_path, "z", attacked(), who="Zoe")
    _, both = merged(tmp_path)
    assert who(both) == {attacked().key: ["Ada"]}
    assert [each.file for each in both.remarks] == ["z/run.json"]


@pytest.mark.parametrize("name", ["ada", "other"])
def test_what_is_known_better_is_not_displaced_by_what_is_later(submissions, tmp_path, name):
    root, out = tmp_path / "submissions", tmp_path / "verified"
    shutil.copytree(submissions / "ada", root / "ada")
    (root / "other").mkdir()
    (honest,) = read.read(root, None, command.version()).entries
    (root / "other" / "submission.toml").write_text(f'who = "ADA"\nreplaces = "{honest.sha256}"\n', encoding="utf-8")

    def all_right(arrays):
        arrays["predictions_adversarial"][:] = arrays["predictions_clean"][:] = arrays["labels"]

    def later(claims):
        claims["result"]["provenance"]["finished"] = soon
        # So that the weights beside it are not its own, and nothing refutes it.
        claims["trained"], claims["halved"] = dict.fromkeys(claims["trained"], "0" * 64), {}
        with_outcomes(claims, right, right)

    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    right = np.ones(honest.result.cell.data.n, dtype=bool)
    forged(root / "ada" / "fgsm.receipt", root / name / "zz.receipt", claims=later, arrays=all_right)
    assert main(["verify", str(root), "--device", "cpu", "--out", str(out)]) == (name == "ada")
    both = merge.merged(read.read(root, out, command.version()))
    (ranked,) = both.ranked
    assert ranked.metrics.accuracy_under_attack == honest.result.metrics.accuracy_under_attack < 1
    assert [entry.file for entry in both.sources[ranked.key]] == ["ada/fgsm.receipt"] and not both.superseded
    assert [each.entry.file for each in both.differing] == [f"{name}/zz.receipt"]
    why = "would replace ada/fgsm.receipt, of which more is known: not done"
    assert both.unreplaced == ([("other/zz.receipt", why)] if name == "other" else [])


def test_of_two_results_of_one_moment_and_folder_the_one_that_was_merged_first_counts(tmp_path):
    root = tmp_path / "repository" / "submissions"
    root.mkdir(parents=True)
    committed(root.parent, "init", "--quiet", "--initial-branch=main")
    # First by name, and of each pair some hash of a file is the larger one.
    for name, seconds in (("zoe", 0.002), ("ada", 0.003), ("mia", 0.004)):
        result_of = attacked(WEAK if name == "zoe" else STRONG, seconds=seconds)
        submit(root, "all", result_of, file=f"{name}.json", who="Zoe")
        committed(root, "add", "--all")
        committed(root, "commit", "--quiet", "--message", name)
    _, both = merged(root)
    assert [entry.file for entry in both.sources[attacked().key]] == ["all/zoe.json"]
    assert {each.entry.file for each in both.superseded} == {"all/ada.json", "all/mia.json"}


def test_who_withdraws_a_copy_does_not_withdraw_the_original(tmp_path):
    root = tmp_path / "repository" / "submissions"
    root.mkdir(parents=True)
    committed(root.parent, "init", "--quiet", "--initial-branch=main")
    for name, more in (("zoe", {}), ("ada", {"status": "done", "device": "cpu: other"})):
        sha256 = submit(root, name, attacked(**more), who=name)
        committed(root, "add", "--all")
        committed(root, "commit", "--quiet", "--message", name)
    withdraw(root, sha256)
    _, both = merged(root)
    assert [each.entry.file for each in both.withdrawn] == ["ada/run.json"]
    assert who(both) == {attacked().key: ["zoe"]}


def test_a_result_like_one_that_was_withdrawn_counts_and_is_named(tmp_path, capsys):
    sha256 = submit(tmp_path, "a", attacked(seconds=0.002), who="Ada")
    submit(tmp_path, "b", attacked(seconds=0.0020000002), who="Bob")
    withdraw(tmp_path, sha256)
    found, both = merged(tmp_path)
    assert who(both) == {attacked().key: ["Bob"]}
    page = render.as_markdown(build(both.ranked), render.contributions(found, both))
    why = (
        "b/run.json: has the outcomes of a/run.json, which was withdrawn, and counts: if it is a copy, withdraw it too"
    )
    assert f"- {why}" in page
    assert main(["leaderboard", "--submissions", str(tmp_path)]) == 0
    assert "note: b/run.json has the outcomes of a/run.json" in capsys.readouterr().err


def test_what_is_superseded_says_what_the_table_shows(tmp_path):
    submit(tmp_path, "a", attacked(WEAK, finished="2026-11-20T10:00:00+00:00"), who="Ada")
    submit(tmp_path, "a", attacked(CLEAN, finished="2026-11-21T10:00:00+00:00"), file="second.json", who="Ada")
    submit(tmp_path, "b", attacked(STRONG, seconds=0.003), who="Bob")
    found, both = merged(tmp_path)
    page = render.as_markdown(build(both.ranked), render.contributions(found, both))
    (line,) = [line for line in page.splitlines() if "now 90.0 % of 2026-11-21" in line]
    assert line.endswith("in the tables 30.0 % by Bob (run file: outcomes only)")


def fabricated(honest):
    """Return a result beside an honest one: another network, right everywhere, attacked in no passes."""
    body = honest.model_dump(mode="json", by_alias=True)
    for model in (body["cell"]["model"], body["cell"]["attack"]["model"]):
        model["weights"]["schedule"]["epochs"] = 300
    right = np.ones(honest.cell.data.n, dtype=bool)
    with_outcomes({"result": body}, right, right)
    body["cost"] |= {"forwards_per_example": 0.0, "backwards_per_example": 0.0, "flops_per_example": 0.0}
    with_key({"result": body})
    return CellResult.model_validate_json(json.dumps(body))


def test_numbers_that_nobody_repeated_are_marked_and_not_the_best(submissions, tmp_path):
    root, out = tmp_path / "submissions", tmp_path / "verified"
    shutil.copytree(submissions / "ada", root / "ada")
    honest = read.read(root, None, command.version()).entries[0].result
    submit(root, "eve", fabricated(honest), who="Eve")
    assert main(["verify", str(root), "--device", "cpu", "--out", str(out)]) == 0
    found = read.read(root, out, command.version())
    both = merge.merged(found)
    board, people = build(both.ranked), render.contributions(found, both)
    (table,) = board.tables
    first, second = table.rows
    numbers = [row.values["clean"].number for row in (first, second)]
    assert numbers == [1.0, honest.metrics.clean_accuracy]
    marks = {"not-repeated", "not-plausible"}
    for column in (column for column in table.columns if column.unit == "accuracy"):
        assert table.mark(first, column) == ""
        # Of clean answers it says nothing that the passes of the attack cannot be.
        assert marks - set(first.values[column.id].footnotes) == (set() if column.group else {"not-plausible"})
        assert not marks & set(second.values[column.id].footnotes)
    # Nor has it a rank, or a place in the front of the scatter plot.
    assert table.ranking is None
    assert [share for _, share in cost_front(primary(table))] == [honest.metrics.robust_accuracy]
    text = render.as_markdown(board, people)
    assert "| 100.0<sup>ab</sup> |" in text and "**100.0" not in text
    assert "a: not-repeated (the word of those who measured: nobody else made the predictions again)" in text
    for formatted in (render.as_csv(board, people), render.as_html(board, people), latex(board)):
        assert "not-plausible" in formatted
    page = render.as_html(board, people)
    assert page.count('class="mark solid unproven"') == 1 and page.count('class="mark solid"') == 1
    assert 'class="rank"' not in page
    rows = json.loads(render.as_json(board, people))["cells"]
    assert sorted(marks <= set(row["flags"]) for row in rows) == [False, True]


def repeated(root, **of_bob):
    """Return what counts, as if every prediction had been repeated with one file of weights; Bob's as is said."""
    found = read.read(root, None, command.version())
    entries = []
    for entry in found.entries:
        trained = ((training_key(entry.result.cell.model), "a" * 64),)
        known = entry._replace(state="repeated", doubts=(), trained=trained)
        entries.append(known._replace(**of_bob) if entry.who == "Bob" else known)
    return merge.merged(found._replace(entries=entries))


def test_the_page_has_ranks_and_says_which_rows_have_none(tmp_path):
    own = [attacked(STRONG), result("pgd-at", "pgd", recipe="pgd-at", clean=CLEAN, adversarial=WEAK)]
    alone = result("mart", "fgsm", recipe="mart", clean=CLEAN, adversarial=CLEAN)
    submit(tmp_path, "ada", *own, alone, who="Ada")
    found, _ = merged(tmp_path)
    both = repeated(tmp_path)
    board = build(both.ranked, policy=Policy(("pgd",)))
    page = render.as_html(board, render.contributions(found, both))
    rows = re.findall(r'<i class="rank" title="([^"]*)">([^<]*)</i><span>([^<]*)</span>', page)
    by = "rank by robust accuracy, worst case, under L∞ ε=8/255"
    assert [(name, rank) for _, rank, name in rows] == [("pgd-at", "1"), ("standard", "2"), ("mart", "–")]
    assert [words.removesuffix(", not settled") for words, *_ in rows] == [by, by, "no rank"]


def survivors(both):
    (table,) = build(both.ranked, policy=Policy((), both.survivors)).tables
    (row,) = table.rows
    return {column.kind: row.values[column.id].number for column in table.columns if column.unit == "accuracy"}


@pytest.mark.parametrize("is_newer", [False, True])
def test_images_that_were_broken_stay_broken_whichever_number_stands(tmp_path, is_newer):
    other = outcomes(0.25, 100, 9)
    submit(tmp_path, "ada", attacked(STRONG), who="Ada")
    name, more = ("ada", {"file": "later.json"}) if is_newer else ("bob", {})
    submit(tmp_path, name, attacked(other, finished="2026-11-23T10:00:00+00:00"), who=name.title(), **more)
    both = repeated(tmp_path)
    right, first = (np.array(CLEAN) & np.array(each) for each in (other, STRONG))
    numbers = survivors(both)
    # The number of the attack is that of one measurement, of whose row it is; no image that either broke survives.
    assert both.ranked[0].metrics.robust_accuracy == (right if is_newer else first).mean()
    assert numbers["worst"] == (right & first).mean() < min(right.mean(), first.mean())
    lists = [*both.superseded] if is_newer else [*both.differing]
    assert [each.counts_too for each in lists] == [True]
    item = render.superseded_item(lists[0]) if is_newer else render.differing_item(lists[0])
    assert item.why.endswith("; what it broke counts in the worst case as well")


def test_only_repeated_measurements_of_the_same_weights_that_do_not_draw_are_remembered(tmp_path):
    submit(tmp_path, "ada", attacked(STRONG), who="Ada")
    submit(tmp_path, "bob", attacked(WEAK), who="Bob")
    both = repeated(tmp_path)
    (result,) = both.ranked
    assert list(both.survivors) == [result.key]
    (weaker,) = [entry for entry in merged(tmp_path)[0].entries if entry.who == "Bob"]
    for of_bob in (
        {"state": "unchecked"},
        {"trained": ((training_key(result.cell.model), "b" * 64),)},
        {"doubts": ("unknown-attack",)},
        {"are_images_known": False},
        {"result": weaker.result.model_copy(update={"flags": ("randomised",)})},
    ):
        assert repeated(tmp_path, **of_bob).survivors == {}, of_bob
    withdraw(tmp_path, weaker.file_sha256)
    assert repeated(tmp_path).survivors == {}


def test_clean_accuracy_is_that_of_repeated_predictions(submissions, tmp_path):
    root, out = tmp_path / "submissions", tmp_path / "verified"
    shutil.copytree(submissions / "ada", root / "ada")
    assert main(["verify", str(root), "--device", "cpu", "--out", str(out)]) == 0
    honest = read.read(root, out, command.version()).entries[0].result
    clean = honest.cell.model_copy(update={"attack": None})
    body = honest.model_dump(mode="json", by_alias=True) | {"cell": clean.model_dump(mode="json", by_alias=True)}
    right = np.ones(honest.cell.data.n, dtype=bool)
    with_outcomes({"result": body}, right, right)
    body |= {"adversarial_bits": None, "names": body["names"] | {"attack": "clean"}}
    with_key({"result": body})
    # Somebody says that the same network is right everywhere.
    submit(root, "eve", CellResult.model_validate_json(json.dumps(body)), who="Eve")
    both = merge.merged(read.read(root, out, command.version()))
    values = [table.rows[0].values["clean"] for table in build(both.ranked).tables]
    assert [value.number for value in values] == [honest.metrics.clean_accuracy] and not values[0].partial


@pytest.fixture(scope="module")
def plain(submissions, tmp_path_factory):
    """A folder of receipts: Ada's with a report, Mallory's, which is 0 %, and Zoe's, who agrees with Ada."""
    root = tmp_path_factory.mktemp("plain") / "receipts"
    root.mkdir()
    source = submissions / "ada" / "fgsm.receipt"
    shutil.copy(source, root / "m.receipt")
    (honest,) = [e.result for e in read.read(submissions, None, command.version()).entries if e.file.startswith("ada")]
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")

    def wrong(arrays):
        for name in ("predictions_clean", "predictions_adversarial"):
            arrays[name][:] = (arrays["labels"] + 1) % 10

    def zero(claims):
        claims["by"] = "Mallory"
        claims["result"]["provenance"]["finished"] = soon
        none = np.zeros(honest.cell.data.n, dtype=bool)
        with_outcomes(claims, none, none)

    def again(claims):
        claims["by"] = "Zoe"
        claims["result"]["cost"]["seconds_per_example"] *= 2

    forged(source, root / "a.receipt", claims=zero, arrays=wrong)
    forged(source, root / "z.receipt", claims=again)
    weights = submissions / "ada" / "net.safetensors"
    path = root / "m.receipt"
    assert main(["verify", str(path), "--weights", str(weights), "--out", f"{path}.json", "--device", "cpu"]) == 0
    return root, weights, honest


def test_a_verified_receipt_is_not_displaced_by_one_that_nobody_verified(plain, capsys):
    root, _, honest = plain
    capsys.readouterr()
    assert main(["leaderboard", "--receipts", str(root), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    (cell,), (table,) = body["cells"], body["tables"]
    assert cell["accuracy_under_attack"] == honest.metrics.accuracy_under_attack > 0
    # It is said below, and does not mark what is known better.
    assert not {"measured-differently", "clean-measured-differently", "not-repeated"} & set(cell["flags"])
    notes = "\n".join(table["notes"])
    n, right = honest.cell.data.n, honest.metrics
    counts = [round(share * n) for share in (right.accuracy_under_attack, right.clean_accuracy)]
    assert f"{root}/a.receipt, " in notes and "0.0 %, by 'Mallory'" in notes
    assert f"differs at {counts[0]} of {n} images attacked and {counts[1]} clean" in notes
    (measured,) = [note for note in table["notes"] if "measured by" in note]
    assert (
        "Mallory" not in measured and "'Zoe' (1 cell not verified)" in measured and "1 cell verified: holds" in measured
    )
    assert main(["leaderboard", "--receipts", str(root)]) == 0
    assert "older results" not in capsys.readouterr().out


def test_a_refuted_receipt_is_left_out_and_named(plain, tmp_path, capsys):
    root, weights, honest = plain
    shutil.copytree(root, tmp_path / "receipts")
    (tmp_path / "receipts" / "m.receipt.json").unlink()
    (tmp_path / "receipts" / "z.receipt").unlink()
    place = str(tmp_path / "receipts")
    # Nobody has verified any: the lower one counts, and no number is marked for what is so of all.
    assert main(["leaderboard", "--receipts", place, "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["accuracy_under_attack"] == 0 and "not-repeated" not in cell["flags"]
    # The reports of a folder come to lie beside its receipts.
    assert main(["verify", place, "--weights", str(weights), "--device", "cpu", "--out", place]) == 1
    assert "2 receipts: 1 hold, 1 do not hold" in capsys.readouterr().out
    assert main(["leaderboard", "--receipts", place, "--json"]) == 0
    out, error = capsys.readouterr()
    body = json.loads(out)
    line = f"left out: {place}/a.receipt: the report beside it says that it does not hold"
    assert [cell["accuracy_under_attack"] for cell in body["cells"]] == [honest.metrics.accuracy_under_attack]
    assert line in body["tables"][0]["notes"] and f"warning: {line}" in error
    assert not any("Mallory" in note for note in body["tables"][0]["notes"])
    assert main(["leaderboard", "--receipts", f"{place}/a.receipt"]) == 2
    assert f"error: no receipt is left: {place}/a.receipt: the report" in capsys.readouterr().err


def test_a_folder_of_receipts_is_verified_as_its_files_are(plain, tmp_path, capsys):
    root, _, _ = plain
    assert main(["verify", str(root)]) == 0
    assert "3 receipts: 3 hold as far as they were checked" in capsys.readouterr().out
    assert main(["verify", str(root), "--only", "ada"]) == 2
    assert "--only goes with a folder of submissions" in capsys.readouterr().err
    # A stray receipt makes a folder of submissions no plain one.
    shutil.copytree(root, tmp_path / "s" / "ada")
    shutil.copy(root / "m.receipt", tmp_path / "s")
    assert main(["verify", str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 1
    assert "refused  m.receipt: it is a file beside the folders of submissions" in capsys.readouterr().out


def test_one_attack_is_one_column_however_its_file_calls_it(tmp_path):
    other = result("standard", "pgd", clean=CLEAN, adversarial=STRONG, epochs=9, label="pgd[eps=8/255,norm=linf]")
    more = result("standard", "fgsm", clean=CLEAN, attack_params={}, label="fgsm[eps=8/255]")
    longer = result("standard", "pgd", clean=CLEAN, eps="4/255", attack_params={"steps": 50})
    # Within its budget, as every honest one.
    longer = longer.model_copy(update={"metrics": longer.metrics.model_copy(update={"mean_linf": 0.015})})
    submit(tmp_path, "a", attacked(), more, who="Ada")
    submit(tmp_path, "b", other, longer, who="Bob")
    (table,) = build(merged(tmp_path)[1].ranked).tables
    columns = [(column.group, column.label) for column in table.columns if column.kind == "attack"]
    assert columns == [("L∞ ε=8/255", "fgsm"), ("L∞ ε=8/255", "pgd"), ("L∞ ε=4/255", "pgd")]
    # One name under two threats is told apart where it is said who measured what.
    found, both = merged(tmp_path)
    page = render.as_markdown(build(both.ranked), render.contributions(found, both))
    told = [
        line.split(" | ")[2:4] for line in page.partition("Who measured what")[2].splitlines() if "run file" in line
    ]
    assert {(attacks, name) for attacks, name in told} == {
        ("fgsm L∞ ε=8/255", "Ada"),
        ("pgd L∞ ε=8/255", "Ada"),
        ("pgd L∞ ε=8/255", "Bob"),
        ("pgd L∞ ε=4/255", "Bob"),
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Аda Lovelace", "\\u0410da Lovelace"),
        ("Adα", "Ad\\u03b1"),
        ("Ада Ada", "Ада Ada"),
        ("Ａda", "Ada"),
        ("Aᴅa", "A\\u1d05a"),
        ("ᴀᴅᴀ", "\\u1d00\\u1d05\\u1d00"),
        ("Işık Yıldırım", "Işık Yıldırım"),
        ("Zoë 山田 Müller-Lyer", "Zoë 山田 Müller-Lyer"),
    ],
)
def test_a_letter_that_looks_like_another_is_told_from_it(tmp_path, name, shown):
    submit(tmp_path, "a", attacked(), who=name)
    assert [entry.who for entry in merged(tmp_path)[0].entries] == [shown]


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_folder_of_reports_that_is_not_there_is_an_error(tmp_path, capsys, kind):
    submit(tmp_path / "s", "a", attacked(), who="Ada")
    verified = tmp_path / "verified"
    if kind == "file":
        verified.write_text("", encoding="utf-8")
    assert main(["leaderboard", "--submissions", str(tmp_path / "s"), "--verified", str(verified)]) == 2
    error = capsys.readouterr().err
    assert f"error: --verified {verified}: no such folder; verify {tmp_path / 's'} --out {verified} makes it" in error
    if kind == "missing":
        # Also where there is no receipt to report on.
        assert main(["verify", str(tmp_path / "s"), "--out", str(verified)]) == 0
        assert main(["leaderboard", "--submissions", str(tmp_path / "s"), "--verified", str(verified)]) == 0


def committed(root, *arguments, date="2026-11-28T00:00:00"):
    settings = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    environment = {**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    subprocess.run(["git", *settings, *arguments], cwd=root, check=True, capture_output=True, env=environment)


def test_of_a_copied_file_the_one_that_was_merged_first_counts(tmp_path):
    root = tmp_path / "repository" / "submissions"
    root.mkdir(parents=True)
    committed(root.parent, "init", "--quiet", "--initial-branch=main")
    (root / "README.md").write_text("submissions", encoding="utf-8")
    committed(root, "add", "--all")
    committed(root, "commit", "--quiet", "--message", "empty")
    committed(root, "branch", "theirs")
    submit(root, "zoe", attacked(), who="Zoe")
    committed(root, "add", "--all")
    committed(root, "commit", "--quiet", "--message", "Zoe")
    # The copy is first by name, brings weights, and its commit says that it is the oldest of all.
    committed(root, "checkout", "--quiet", "theirs")
    submit(root, "ada", attacked(), who="Ada", weights=["net.safetensors"])
    (root / "ada" / "net.safetensors").write_bytes(b"")
    committed(root, "add", "--all")
    committed(root, "commit", "--quiet", "--message", "Ada", date="2001-01-01T00:00:00")
    committed(root, "checkout", "--quiet", "main")
    committed(root, "merge", "--quiet", "--no-ff", "--no-edit", "theirs")
    found, both = merged(root)
    arrival = {entry.file: entry.arrival for entry in found.entries}
    assert arrival["zoe/run.json"] < arrival["ada/run.json"]
    assert who(both) == {attacked().key: ["Zoe"]} and [each.file for each in both.remarks] == ["ada/run.json"]
    # What is in no commit came later than what is.
    shutil.rmtree(root / "ada")
    submit(root, "bob", attacked(), who="Bob")
    assert who(merged(root)[1]) == {attacked().key: ["Zoe"]}
    # Where git does not tell, the weights do.
    shutil.move(root, tmp_path / "submissions")
    submit(tmp_path / "submissions", "yan", attacked(), who="Yan", weights=["net.safetensors"])
    (tmp_path / "submissions" / "yan" / "net.safetensors").write_bytes(b"")
    assert who(merged(tmp_path / "submissions")[1]) == {attacked().key: ["Yan"]}


def test_a_receipt_that_names_its_owner_otherwise_is_still_theirs(tmp_path, submissions):
    source = submissions / "ada" / "fgsm.receipt"
    for name, said, by in (("ada", "Ada Lovelace", "Ada Lovelace, Turin"), ("zoe", "Zoe", "Zoe")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "submission.toml").write_text(f'who = "{said}"\n', encoding="utf-8")
        forged(source, tmp_path / name / "fgsm.receipt", claims=lambda claims, by=by: claims.update(by=by))
    _, both = merged(tmp_path)
    assert [[entry.who for entry in own] for own in both.sources.values()] == [["Ada Lovelace"]]


def test_a_row_is_of_one_networks_weights(tmp_path):
    other = outcomes(0.9, 100, 5)
    submit(tmp_path, "a", attacked(), result("standard", None, clean=CLEAN), who="Ada")
    submit(tmp_path, "b", result("standard", "fgsm", clean=other, adversarial=STRONG, attack_params={}), who="Bob")
    _, both = merged(tmp_path)
    assert {entry for own in who(both).values() for entry in own} == {"Ada"}
    (unranked,) = both.differing
    assert unranked.entry.who == "Bob" and unranked.why.startswith("other weights of the same recipe")


def test_other_budgets_and_protocols_stand_in_tables_of_their_own(tmp_path):
    submit(tmp_path, "a", attacked(), who="Ada")
    old = result("standard", "fgsm", clean=CLEAN, attack_params={}, version=1)
    submit(tmp_path, "b", attacked(version=1, seconds=0.1), attacked(rows="others"), old, who="Bob")
    _, both = merged(tmp_path)
    assert len(both.ranked) == 3 and len(build(both.ranked).tables) == 3
    # Of one question tables show one protocol, whichever is the later.
    assert [each.why for each in both.differing] == ["measured by an earlier protocol"]


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ([attacked(finished=(datetime.now(UTC) + timedelta(days=3)).isoformat(timespec="seconds"))], "was measured on"),
        ([attacked().model_copy(update={"key": "0" * 64})], "its key is not that of its cell"),
        ([attacked(label="autoattack")], "it is called autoattack, and pgd was measured"),
    ],
)
def test_a_run_file_that_cannot_be_is_left_out_and_the_others_are_shown(tmp_path, capsys, results, why):
    submit(tmp_path / "s", "bad", *results)
    submit(tmp_path / "s", "good", result("standard", None, clean=CLEAN), who="Ada")
    page = tmp_path / "index.html"
    assert main(["leaderboard", "--submissions", str(tmp_path / "s"), "--out", str(page)]) == 3
    assert f"left out: bad/run.json: {results[0].names}: " in capsys.readouterr().err
    assert why in page.read_text(encoding="utf-8") and "Ada · not repeated" in page.read_text(encoding="utf-8")


def test_links_and_files_that_are_none_are_not_read(tmp_path):
    submit(tmp_path / "s", "a", attacked(), who="Ada")
    (tmp_path / "s" / "linked").symlink_to(tmp_path / "s" / "a")
    (tmp_path / "s" / "a" / "linked.json").symlink_to(tmp_path / "s" / "a" / "run.json")
    os.mkfifo(tmp_path / "s" / "a" / "pipe.receipt")
    (tmp_path / "s" / "a" / "deeper").mkdir()
    (tmp_path / "s" / "a" / "code.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    found, _ = merged(tmp_path / "s")
    assert [each.file for each in found.left_out] == [
        "a/code.py",
        "a/deeper",
        "a/linked.json",
        "a/pipe.receipt",
        "linked",
    ]
    assert [entry.file for entry in found.entries] == ["a/run.json"]
    (tmp_path / "s" / "withdrawn.toml").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="it is a link"):
        merged(tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("who = 3", "^who: a text in quotes is needed$"),
        ('who = "' + "x" * 81 + '"', "^who: it has more than 80 characters$"),
        ('who = "  "', "it is empty"),
        ("who = '''\nAda\nBob'''", "^who: it has more than one line$"),
        ('owner = "x"', "^there is no key 'owner'; there are who, link, paper, weights, replaces$"),
        ('weights = "../net.safetensors"', "is no file NAME.safetensors in the folder"),
        ("weights = 3", "^weights: a list is needed$"),
        ('weights = ["a.safetensors", "b"]', "^entry 2 of weights: 'b' is no file NAME"),
        ('weights = "net.pt"', "is no file NAME.safetensors in the folder"),
        ('replaces = ["abc"]', "^entry 1 of replaces: it is no SHA-256, which has 64 characters"),
        ("x = " + "[" * 500, "nested too deeply|no TOML"),
        (".".join("a" * 400) + " = 1", "more than 600 characters"),
        ("x = " + "9" * 5000, "more than 600 characters"),
        ("\n" * 70_000, "70,000 bytes, and at most 65,536"),
        ("who", "it is no TOML"),
    ],
)
def test_what_a_submitter_says_is_refused_in_one_line(tmp_path, text, why):
    path = tmp_path / "submission.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Unusable, match=why) as refused:
        submission(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        *("javascript:alert(1)", "data:text/html,x", "http://example.org", "//example.org", "HTTPS:example.org"),
        *("https://", "https://localhost/", "https://user@example.org/", "https://example.org:99/", "https://1.2.3.4/"),
        *(
            'https://example.org/"onclick="x',
            "https://example.org/<b>",
            "https://example.org/\u202e",
            "https://exämple.org",
        ),
        *("https://example.org/a b", "https://example.org/\nx", "https:\\\\example.org", "https://[::1]/"),
    ],
)
def test_an_address_that_is_none_of_https_is_refused(address):
    with pytest.raises(ValueError):
        https(address)


def test_an_address_stays_as_it_was_given():
    address = "https://Example.org/~ada/x_(y)?a=1&b=%20#top"
    assert https(address) == address


@pytest.mark.parametrize(
    "text",
    [
        "withdrawn = 3",
        '[[withdrawn]]\nsha256 = "x"',
        "[[withdrawn",
        f"[[withdrawn]]\nsha256 = '{'0' * 64}'\nreason = '''a\nb'''\ndate = 2026-11-28\n",
    ],
)
def test_without_knowing_what_was_withdrawn_nothing_is_shown(tmp_path, text):
    submit(tmp_path, "a", attacked())
    (tmp_path / "withdrawn.toml").write_text(text, encoding="utf-8")
    with pytest.raises(Unusable):
        withdrawals(tmp_path / "withdrawn.toml")
    with pytest.raises(UsageError, match="withdrawn.toml: "):
        merged(tmp_path)


def test_what_was_withdrawn_before_must_still_be(tmp_path, capsys):
    root, before, verify = tmp_path / "s", tmp_path / "before.toml", ["verify", str(tmp_path / "s")]
    verify += ["--out", str(tmp_path / "verified"), "--withdrawn", str(before)]
    sha256 = submit(root, "a", attacked(), who="Ada")
    assert main(verify) == 2 and f"--withdrawn {before}: no such file" in capsys.readouterr().err
    withdraw(root, sha256)
    shutil.copy(root / "withdrawn.toml", before)
    assert main(verify) == 0
    withdraw(root, sha256, reason="none")
    assert main(verify) == 1
    assert f"refused  withdrawn.toml: SHA-256 {sha256} (2026-11-28: a mistake) was withdrawn" in capsys.readouterr().out
    (root / "withdrawn.toml").write_text("# none\n", encoding="utf-8")
    assert main(verify) == 1
    assert main(["verify", str(before), "--withdrawn", str(before)]) == 2


def test_a_pull_request_says_what_else_it_takes_back(tmp_path, capsys):
    root, before = tmp_path / "s", tmp_path / "before.toml"
    before.write_text("", encoding="utf-8")
    verify = ["verify", str(root), "--out", str(tmp_path / "verified"), "--withdrawn", str(before), "--only", "cem"]
    sha256 = submit(root, "cem", attacked(), who="Cem")
    submit(root, "zoe", attacked(finished="2026-11-21T10:00:00+00:00"), who="Zoe")
    withdraw(root, sha256)
    assert main(verify) == 0
    line = f"holds  withdrawn.toml: SHA-256 {sha256[:12]} takes back cem/run.json by Cem"
    assert (
        f"{line}; and zoe/run.json by Zoe, with the same measurement (only = true keeps that)\n"
        in capsys.readouterr().out
    )
    path = root / "withdrawn.toml"
    path.write_text(path.read_text(encoding="utf-8") + "only = true\n", encoding="utf-8")
    assert main(verify) == 0
    assert f"{line}\n" in capsys.readouterr().out
    assert who(merged(root)[1]) == {attacked().key: ["Zoe"]}
    # What was there before is not said again, and does not become another.
    shutil.copy(path, before)
    assert main(verify) == 0 and "takes back" not in capsys.readouterr().out
    withdraw(root, sha256)
    assert main(verify) == 1
    # One file in two folders.
    before.write_text("", encoding="utf-8")
    shutil.copy(root / "cem" / "run.json", root / "zoe" / "run.json")
    assert main(verify) == 0
    words = (
        'cem/run.json by Cem, zoe/run.json by Zoe, one file in several folders (only = "FOLDER" takes it back in one)'
    )
    assert words in capsys.readouterr().out
    path.write_text(path.read_text(encoding="utf-8") + 'only = "cem"\n', encoding="utf-8")
    assert who(merged(root)[1]) == {attacked().key: ["Zoe"]}


@pytest.mark.parametrize("only", ["3", '"a/b"', '""', "[true]"])
def test_what_a_withdrawal_is_of_alone_is_true_or_a_folder(tmp_path, only):
    sha256 = submit(tmp_path, "a", attacked())
    withdraw(tmp_path, sha256)
    path = tmp_path / "withdrawn.toml"
    path.write_text(path.read_text(encoding="utf-8") + f"only = {only}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="only of entry 1 of withdrawn: .* is neither true nor the name of a folder"):
        merged(tmp_path)


def test_a_result_is_withdrawn_by_its_receipt_and_by_its_file(submissions, tmp_path):
    root = tmp_path / "submissions"
    shutil.copytree(submissions, root)
    ada = next(e for e in read.read(root, None, command.version()).entries if e.file.startswith("ada"))
    withdraw(root, ada.sha256, "trained on test images")
    first = (root / "withdrawn.toml").read_text(encoding="utf-8")
    withdraw(root, ada.file_sha256, "the file is damaged")
    both = first + (root / "withdrawn.toml").read_text(encoding="utf-8")
    (root / "withdrawn.toml").write_text(both, encoding="utf-8")
    _, both = merged(root)
    assert [(each.entry.file, each.withdrawal.reason) for each in both.withdrawn] == [
        ("ada/fgsm.receipt", "trained on test images"),
        ("ada/fgsm.receipt", "the file is damaged"),
    ]


def test_an_entry_that_takes_back_nothing_is_said(submissions, tmp_path, capsys):
    root = tmp_path / "submissions"
    shutil.copytree(submissions, root)
    entries = {entry.file: entry for entry in read.read(root, None, command.version()).entries}
    of_said = hashlib.sha256((root / "ada" / "submission.toml").read_bytes()).hexdigest()
    right = [entries["ada/fgsm.receipt"].sha256, entries["bob/fgsm.receipt"].file_sha256]
    texts = []
    for sha256 in (*right, of_said, "0" * 64):
        withdraw(root, sha256)
        texts.append((root / "withdrawn.toml").read_text(encoding="utf-8"))
    (root / "withdrawn.toml").write_text("".join(texts), encoding="utf-8")
    capsys.readouterr()
    # As the workflow asks where nothing else is changed: no receipt is looked at.
    only = ("--only", "withdrawn.toml")
    assert main(["verify", str(root), "--device", "cpu", "--out", str(tmp_path / "out"), *only]) == 0
    nothing = "so this entry takes back nothing"
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(
        [
            f"note  withdrawn.toml: SHA-256 {of_said} is that of ada/submission.toml, which is no result, {nothing}",
            f"note  withdrawn.toml: SHA-256 {'0' * 64} is that of no result that is there, {nothing}",
        ]
    )
    assert not list((tmp_path / "out").iterdir())
    assert main(["leaderboard", "--submissions", str(root), "--format", "md"]) == 0
    assert f"note: withdrawn.toml: SHA-256 {'0' * 64} is that of no result" in capsys.readouterr().err


def test_a_new_result_that_was_withdrawn_before_it_came_is_refused(submissions, tmp_path, capsys):
    root = tmp_path / "repository" / "submissions"
    root.mkdir(parents=True)
    (path,) = (submissions / "ada").glob("*.receipt")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    committed(root.parent, "init", "--quiet", "--initial-branch=main")
    submit(root, "zoe", attacked(), who="Zoe")
    withdraw(root, sha256, reason="faked")

    def commit(name):
        committed(root, "add", "--all")
        committed(root, "commit", "--quiet", "--message", name)

    def verified():
        code = main(["verify", str(root), "--device", "cpu", "--out", str(tmp_path / "out"), "--only", "ada"])
        return code, [line for line in capsys.readouterr().out.splitlines() if path.name in line]

    commit("first")
    committed(root, "switch", "--quiet", "--create", "theirs")
    shutil.copytree(submissions / "ada", root / "ada")
    line = f"refused  ada/{path.name}: withdrawn on 2026-11-28: faked; so says withdrawn.toml, and this file is new"
    assert verified() == (1, [line])
    commit("ada")
    (root / "ada" / "notes.md").write_text("more", encoding="utf-8")
    commit("notes")
    # A pull request is looked at as it is merged.
    committed(root, "switch", "--quiet", "main")
    committed(root, "merge", "--quiet", "--no-ff", "--message", "merge", "theirs")
    assert verified() == (1, [line])
    # Who takes back what is there is not refused for it.
    (root / "withdrawn.toml").write_text("", encoding="utf-8")
    commit("none is withdrawn")
    withdraw(root, name_of(path))
    said = f"holds  ada/{path.name}: predictions repeated; withdrawn on 2026-11-28: a mistake"
    assert verified() == (0, [said])
    commit("withdrawn")
    assert verified() == (0, [said])


def test_a_copy_of_what_was_withdrawn_gets_a_line_and_is_refused_where_it_is_new(tmp_path, capsys):
    root = tmp_path / "repository" / "submissions"
    root.mkdir(parents=True)

    def commit(name):
        committed(root, "add", "--all")
        committed(root, "commit", "--quiet", "--message", name)

    def verified(*only):
        code = main(["verify", str(root), "--device", "cpu", "--out", str(tmp_path / "out"), *only])
        return code, [line for line in capsys.readouterr().out.splitlines() if "withdrawn" in line]

    committed(root.parent, "init", "--quiet", "--initial-branch=main")
    sha256 = submit(root, "ada", attacked(), result("standard", "fgsm", clean=CLEAN, adversarial=WEAK), who="Ada")
    commit("ada")
    submit(root, "zoe", attacked(seconds=0.003), who="Zoe")
    commit("zoe")
    # A file of another hash, with one of the results.
    submit(root, "bob", attacked(), who="Bob")
    withdraw(root, sha256)
    why = "withdrawn with ada/run.json, of the same measurement, on 2026-11-28: a mistake (only = true keeps this one)"
    ada = "holds  ada/run.json: 2 results: outcomes only; withdrawn on 2026-11-28: a mistake"
    refused = f"refused  bob/run.json: {why}; so says withdrawn.toml, and this file is new"
    assert verified() == (1, [ada, refused])
    assert verified("--only", "bob") == (1, [refused])
    assert verified("--only", "zoe") == verified("--only", "withdrawn.toml") == (0, [])
    # The page strikes the same.
    assert [each.entry.file for each in merged(root)[1].withdrawn] == ["ada/run.json", "ada/run.json", "bob/run.json"]
    commit("bob")
    submit(root, "eve", attacked(seconds=0.004), who="Eve")
    commit("eve")
    assert verified() == (0, [ada, f"note  bob/run.json: {why}"])
    text = (root / "withdrawn.toml").read_text(encoding="utf-8")
    (root / "withdrawn.toml").write_text(f"{text}only = true\n", encoding="utf-8")
    assert verified() == (0, [ada])


def test_what_was_withdrawn_gets_no_second_reason(tmp_path):
    sha256, path = submit(tmp_path, "a", attacked()), tmp_path / "withdrawn.toml"
    withdraw(tmp_path, sha256, "trained on test images")
    first = path.read_text(encoding="utf-8")
    withdraw(tmp_path, sha256, "a slip, see the new one")
    path.write_text(first + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UsageError, match=f"SHA-256 {sha256} is withdrawn twice"):
        merged(tmp_path)
    withdraw(tmp_path, "0" * 64)
    path.write_text(first + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert [each.entry.file for each in merged(tmp_path)[1].withdrawn if each.entry] == ["a/run.json"]


@pytest.mark.parametrize(("days", "is_refused"), [(-400, False), (0, False), (1, False), (2, True), (40_000, True)])
def test_nothing_is_taken_back_on_a_day_to_come(tmp_path, days, is_refused):
    sha256 = submit(tmp_path, "a", attacked())
    day = datetime.now(UTC).date() + timedelta(days=days)
    withdraw(tmp_path, sha256)
    text = (tmp_path / "withdrawn.toml").read_text(encoding="utf-8").replace("2026-11-28", str(day))
    (tmp_path / "withdrawn.toml").write_text(text, encoding="utf-8")
    if not is_refused:
        assert len(merged(tmp_path)[1].withdrawn) == 1
        return
    with pytest.raises(UsageError, match=f"withdrawn.toml: date of entry 1 of withdrawn: {day} lies ahead") as error:
        merged(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Bob; predictions repeated", "'Bob; predictions repeated'"),
        ("Bob · repeated", "'Bob · repeated'"),
        ("Bob (predictions repeated)", "'Bob (predictions repeated)'"),
        ("Bob, Turin", "'Bob, Turin'"),
        ("Ada and Bob", "'Ada and Bob'"),
        ("Bob 3 of 3 Repeated", "'Bob 3 of 3 Repeated'"),
        ("Bob' (predictions repeated) 'x", "\"Bob' (predictions repeated) 'x\""),
        ('O\'Bob: "repeated"', '"O\'Bob: \\x22repeated\\x22"'),
        ("Bob\uff1b x", "'Bob; x'"),
        ("Zoë-Marie O’Brien St. John 2", "Zoë-Marie O’Brien St. John 2"),
        ("山田 太郎", "山田 太郎"),
    ],
)
def test_a_name_that_could_pass_for_our_words_is_in_quotes(tmp_path, capsys, name, shown):
    root = tmp_path / "submissions"
    submit(root, "a", attacked(), who=name)
    submit(root, "b", attacked(STRONG, seconds=0.003), who="Bob")
    found, both = merged(root)
    assert [entry.who for entry in found.entries if entry.folder == "a"] == [shown]
    (item,) = render.contributions(found, both).lists[0].items
    assert item.who == shown
    submit(root, "c", attacked(STRONG, seconds=0.004), who=name)
    assert main(["leaderboard", "--submissions", str(root), "--format", "csv"]) == 0
    assert f"note: a, c are of one name, {shown}, and count as one person" in capsys.readouterr().err


def test_a_dotless_i_makes_no_other_person(tmp_path):
    submit(tmp_path, "a", attacked(), who="Alice")
    submit(tmp_path, "b", attacked(seconds=0.003), who="Al\N{LATIN SMALL LETTER DOTLESS I}ce")
    assert merge.under_one_name(merged(tmp_path)[0].entries) == {"Alice": ["a", "b"]}


def test_a_long_name_in_quotes_keeps_both_of_them(tmp_path):
    submit(tmp_path, "a", attacked(), who="Bob; predictions repeated by all that were here")
    found, both = merged(tmp_path)
    ((row,),) = (table.rows for table in build(both.ranked).tables)
    assert render.contributions(found, both).by(row) == "'Bob; predictions repe…' · not repeated"


def test_names_and_links_are_escaped_in_every_format(tmp_path):
    name = "<script>x</script>\u202e|*_"
    submit(tmp_path, "a", attacked(), who=name, link="https://example.org/?a=1&b=(2)", paper="https://example.org/p")
    found, both = merged(tmp_path)
    board, people = build(both.ranked), render.contributions(found, both)
    page = Page(render.as_html(board, people))
    assert page.tags.count("script") == 2 and not page.handlers
    assert page.urls[1:] == ["https://example.org/?a=1&b=(2)", "https://example.org/p"]
    markdown = render.as_markdown(board, people)
    assert r"['&lt;script&gt;x&lt;/script&gt;\\u202e\|\*\_'](https://example.org/?a=1&b=%282%29)" in markdown
    assert "\u202e" not in markdown and "<script>" not in markdown
    (cell,) = json.loads(render.as_json(board, people))["cells"]
    assert cell["measured"][0]["by"] == "'<script>x</script>\\u202e|*_'"
    assert "measured by" in render.as_csv(board, people).splitlines()[0]


@pytest.fixture(scope="module")
def submissions(folder, tmp_path_factory):  # noqa: F811
    """Receipts of Ada with the weights of all, and of Bob, who measured the same, with none."""
    root = tmp_path_factory.mktemp("public") / "submissions"
    (root / "ada").mkdir(parents=True)
    (root / "bob").mkdir()
    source = receipt(folder, "standard-fgsm-white-box")
    (root / "ada" / "fgsm.receipt").write_bytes(source.read_bytes())
    (weights,) = (folder / "store" / "train").glob("*/weights.safetensors")
    (root / "ada" / "net.safetensors").write_bytes(weights.read_bytes())
    (root / "ada" / "submission.toml").write_text('who = "Ada"\nweights = "net.safetensors"\n', encoding="utf-8")

    def later(claims):
        claims["by"] = "Bob"
        claims["result"]["cost"]["seconds_per_example"] *= 1.5
        claims["result"]["provenance"]["finished"] = "2026-01-01T00:00:00+00:00"

    forged(source, root / "bob" / "fgsm.receipt", claims=later)
    return root


def known(root, verified):
    found = read.read(root, verified, command.version())
    return {entry.file: entry.words.partition(";")[0] for entry in found.entries}


def test_only_reports_of_this_side_and_version_count(submissions, tmp_path, capsys):
    out = tmp_path / "verified"
    assert main(["verify", str(submissions), "--device", "cpu", "--out", str(out)]) == 0
    # Bob gives no weights, and those of Ada have the hash that his receipt names.
    lines = ["ada/fgsm.receipt: predictions repeated", "bob/fgsm.receipt: predictions repeated"]
    assert capsys.readouterr().out == "".join(f"holds  {line}\n" for line in lines)
    assert known(submissions, out) == dict(line.split(": ") for line in lines)
    assert known(submissions, None)["ada/fgsm.receipt"] == "consistent, not repeated (not yet)"
    # A report is made once.
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(["verify", str(submissions), "--device", "cpu", "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    _, both = merged(submissions)
    assert list(who(both).values()) == [["Bob", "Ada"]]
    # A report of another receipt or version is none.
    (first, second) = sorted(out.iterdir(), key=lambda path: "fgsm" in path.read_text(encoding="utf-8"))
    texts = [path.read_text(encoding="utf-8") for path in (first, second)]
    repeated = next(text for text in texts if "400 of 400" in text or '"accuracy_repeated": 0' in text)
    for path in (first, second):
        path.write_text(repeated, encoding="utf-8")
    assert sorted(words.partition(" (")[0] for words in known(submissions, out).values()) == [
        "consistent, not repeated",
        "predictions repeated",
    ]
    for path in (first, second):
        path.write_text(repeated.replace(command.version(), "crossfire 0.0.1"), encoding="utf-8")
    assert known(submissions, out)["ada/fgsm.receipt"] == "consistent, not repeated (not yet)"


def test_predictions_that_the_weights_do_not_give_are_refused_and_not_shown(submissions, tmp_path, capsys):
    root, out = tmp_path / "submissions", tmp_path / "verified"
    shutil.copytree(submissions, root)

    def all_right(arrays):
        arrays["predictions_adversarial"][:] = arrays["labels"]
        arrays["predictions_clean"][:] = arrays["labels"]

    n = read.read(submissions, None, command.version()).entries[0].result.cell.data.n
    right = np.ones(n, dtype=bool)
    forged(
        root / "bob" / "fgsm.receipt",
        root / "ada" / "fgsm.receipt",
        claims=lambda body: with_outcomes(body, right, right),
        arrays=all_right,
    )
    # Nothing but the weights contradicts it.
    assert "ada/fgsm.receipt" in known(root, None)
    assert main(["verify", str(root), "--device", "cpu", "--only", "ada", "--out", str(out)]) == 1
    assert "refused  ada/fgsm.receipt: it does not hold: " in capsys.readouterr().out
    assert known(root, out) == {"bob/fgsm.receipt": "consistent, not repeated (no weights)"}


@pytest.mark.parametrize(
    ("bound", "value", "why"),
    [("MOST_FILES", 1, "it holds 2 files, and at most 1"), ("MOST_BYTES", 100, "bytes, and at most 100 are read")],
)
def test_a_submission_beyond_the_bounds_is_left_out(tmp_path, monkeypatch, bound, value, why):
    submit(tmp_path, "a", attacked(), who="Ada")
    monkeypatch.setattr(read, bound, value)
    found, _ = merged(tmp_path)
    assert not found.entries and why in found.left_out[0].why


def test_why_a_file_is_left_out_reads_as_a_sentence_behind_its_name(tmp_path):
    submit(tmp_path, "a", attacked(), who="Ada")
    run = (tmp_path / "a" / "run.json").read_bytes()
    (tmp_path / "a" / "cut.json").write_bytes(run[:-40])
    (tmp_path / "a" / "none.receipt").write_bytes(b"nothing")
    lines = {each.file: each.why for each in merged(tmp_path)[0].left_out}
    assert lines["a/cut.json"].startswith("line 2: ")
    assert lines["a/none.receipt"].startswith("it is no receipt that can be read: ")


@pytest.mark.parametrize("bound", ["MOST_SUBMISSIONS", "MOST_BYTES_OF_ALL", "MOST_RESULTS"])
def test_a_folder_beyond_the_bounds_is_refused(tmp_path, monkeypatch, bound):
    submit(tmp_path, "a", attacked())
    submit(tmp_path, "b", attacked())
    monkeypatch.setattr(read, bound, 1)
    with pytest.raises(UsageError):
        merged(tmp_path)


def test_folders_under_one_name_are_said(tmp_path, capsys):
    submit(tmp_path, "one", attacked(), who="Ada")
    submit(tmp_path, "two", attacked(STRONG), who=" ada ")
    submit(tmp_path, "three", attacked(), who="Bob")
    found, both = merged(tmp_path)
    page = render.as_markdown(build(both.ranked), render.contributions(found, both))
    assert "- one, two, Ada: 2 folders under one name, counted as one person" in page
    assert main(["leaderboard", "--submissions", str(tmp_path), "--format", "md"]) == 0
    assert capsys.readouterr().err.count("note: one, two are of one name, Ada, and count as one person") == 1


def test_a_copy_under_no_name_of_its_own_does_not_vanish(tmp_path, submissions):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(submissions / "ada" / "fgsm.receipt", tmp_path / name)
    found, both = merged(tmp_path)
    assert [entry.file for entry in next(iter(both.sources.values()))] == ["one/fgsm.receipt"]
    (remark,) = both.remarks
    assert (
        remark.file == "two/fgsm.receipt" and "the same measurement as one/fgsm.receipt, by the same name" in remark.why
    )
    assert "two/fgsm.receipt" in render.as_markdown(build(both.ranked), render.contributions(found, both))


def test_a_page_says_why_predictions_were_not_repeated_as_it_is_now(tmp_path, submissions, capsys):
    root, out = tmp_path / "submissions", tmp_path / "verified"
    shutil.copytree(submissions / "ada", root / "ada")
    said = root / "ada" / "submission.toml"
    text = said.read_text(encoding="utf-8")
    said.write_text('who = "Ada"\n', encoding="utf-8")
    unnamed = "consistent, not repeated (submission.toml does not name the weights that are there)"
    assert known(root, None) == {"ada/fgsm.receipt": unnamed}
    assert main(["verify", str(root), "--device", "cpu", "--out", str(out)]) == 0
    assert f"ada/fgsm.receipt: {unnamed}" in capsys.readouterr().out
    # With the report of a time without weights, which a pull request of others does not make again.
    (root / "ada" / "net.safetensors").rename(tmp_path / "net.safetensors")
    assert main(["verify", str(root), "--device", "cpu", "--out", str(tmp_path / "none")]) == 0
    assert known(root, tmp_path / "none") == {"ada/fgsm.receipt": "consistent, not repeated (no weights)"}
    (tmp_path / "net.safetensors").rename(root / "ada" / "net.safetensors")
    said.write_text(text, encoding="utf-8")
    for verified in (out, tmp_path / "none"):
        assert known(root, verified) == {"ada/fgsm.receipt": "consistent, not repeated (not yet)"}


def folder_of(root, name, source, weights=None, **changes):
    """Write a submission of one receipt, with other claims, and with a file of weights."""
    (root / name).mkdir(parents=True, exist_ok=True)
    said = f'who = "{name.title()}"\n' + ('weights = "net.safetensors"\n' if weights else "")
    (root / name / "submission.toml").write_text(said, encoding="utf-8")
    if weights:
        shutil.copy(weights, root / name / "net.safetensors")

    def other(claims):
        claims["by"] = name.title()
        claims["result"]["cost"]["seconds_per_example"] *= 1.0 + len(name)
        for field, value in changes.items():
            claims[field] = dict.fromkeys(claims["trained"], value)

    return forged(source, root / name / "fgsm.receipt", claims=other)


def half_of(path, out):
    """Write weights in half precision as NumPy rounds them, and return the file and the hash of its tensors."""
    save_file({name: array.astype(np.float16) for name, array in load_file(path).items()}, out)
    return out, of_files([out])


def rounded(path, out):
    """Write weights whose numbers float16 holds exactly."""
    save_file({name: array.astype(np.float16).astype(np.float32) for name, array in load_file(path).items()}, out)
    return out, of_files([out])


def test_a_false_claim_on_weights_that_somebody_gave_is_refused(submissions, tmp_path, capsys):
    root, out = tmp_path / "submissions", tmp_path / "verified"

    def all_right(arrays):
        arrays["predictions_adversarial"][:] = arrays["predictions_clean"][:] = arrays["labels"]

    shutil.copytree(submissions / "bob", root / "bob")
    right = np.ones(read.read(root, None, command.version()).entries[0].result.cell.data.n, dtype=bool)
    path = root / "bob" / "fgsm.receipt"
    forged(path, path, claims=lambda body: with_outcomes(body, right, right), arrays=all_right)
    verify = ["verify", str(root), "--device", "cpu", "--out", str(out)]
    assert main(verify) == 0 and known(root, out) == {"bob/fgsm.receipt": "consistent, not repeated (no weights)"}
    # The weights come later, and the report is made again.
    shutil.copytree(submissions / "ada", root / "ada")
    said, named = root / "ada" / "submission.toml", (submissions / "ada" / "submission.toml").read_text("utf-8")
    said.write_text('who = "Ada"\n', encoding="utf-8")
    assert main(verify) == 0 and "bob/fgsm.receipt" in known(root, out)
    said.write_text(named, encoding="utf-8")
    assert main(verify) == 1 and known(root, out) == {"ada/fgsm.receipt": "predictions repeated"}
    assert "refused  bob/fgsm.receipt: it does not hold: " in capsys.readouterr().out


def test_a_report_is_made_again_when_the_set_has_come(submissions, tmp_path, capsys):
    out, verify = tmp_path / "out", ["verify", str(submissions), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(verify) == 0
    # As of a time at which the set was not there.
    for path in out.iterdir():
        body = json.loads(path.read_text(encoding="utf-8"))
        (images,) = [each for each in body["findings"] if each["check"] == "images"]
        images["state"] = "not checked"
        path.write_text(json.dumps(body), encoding="utf-8")
    assert {entry.are_images_known for entry in read.read(submissions, out, command.version()).entries} == {False}
    capsys.readouterr()
    assert main(verify) == 0
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == ["predictions repeated"] * 2
    assert {entry.are_images_known for entry in read.read(submissions, out, command.version()).entries} == {True}


def test_weights_that_cannot_be_read_are_said_and_hinder_nobody(submissions, tmp_path, capsys):
    root = tmp_path / "submissions"
    shutil.copytree(submissions / "bob", root / "bob")
    whole = (submissions / "ada" / "net.safetensors").read_bytes()
    folder_of(root, "ann", submissions / "ada" / "fgsm.receipt", submissions / "ada" / "net.safetensors")
    (root / "ann" / "net.safetensors").write_bytes(whole[:-40])
    verify = ["verify", str(root), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(verify) == 0
    lines = capsys.readouterr().out
    assert "ann/fgsm.receipt: consistent, not repeated (net.safetensors: is no readable weights file: " in lines
    assert "bob/fgsm.receipt: consistent, not repeated (no weights)" in lines
    shutil.copytree(submissions / "ada", root / "zoe")
    assert main(verify) == 0
    assert capsys.readouterr().out.count(": predictions repeated\n") == 3


def test_a_file_of_weights_is_hashed_once(submissions, tmp_path, monkeypatch):
    root, hashed = tmp_path / "submissions", []
    shutil.copytree(submissions, root)
    for name in ("cem", "dan"):
        folder_of(root, name, submissions / "ada" / "fgsm.receipt")
    monkeypatch.setattr(hashes, "of_files", lambda paths: hashed.append(paths) or of_files(paths))
    assert main(["verify", str(root), "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    assert hashed == [[root / "ada" / "net.safetensors"]]


def test_half_weights_are_no_proof_of_whole_ones(submissions, tmp_path, capsys):
    """Whoever states the hash of other weights as the rounding of Ada's is refused where hers are there."""
    root, out, source = tmp_path / "submissions", tmp_path / "verified", submissions / "ada" / "fgsm.receipt"
    whole = submissions / "ada" / "net.safetensors"
    half, of_half = half_of(whole, tmp_path / "half.safetensors")
    exact, of_exact = rounded(whole, tmp_path / "exact.safetensors")
    zero = {name: array * np.float16(0) for name, array in load_file(half).items()}
    save_file(zero, tmp_path / "zero.safetensors")
    of_zero = of_files([tmp_path / "zero.safetensors"])
    folder_of(root, "ada", source, whole)
    # Float32 is no half precision, however few digits its numbers have.
    folder_of(root, "eve", source, exact, halved=of_exact, trained="12" * 32)
    folder_of(root, "mallory", source, tmp_path / "zero.safetensors", halved=of_zero)
    folder_of(root, "zoe", source, half, halved=of_half)
    verify = ["verify", str(root), "--device", "cpu", "--out", str(out)]
    assert main(verify) == 1
    lines = dict(line.split("  ", 1)[1].split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines.pop("mallory/fgsm.receipt").startswith("it does not hold: it states a hash of small-cnn in half")
    assert lines == {
        "ada/fgsm.receipt": "predictions repeated",
        "eve/fgsm.receipt": "consistent, not repeated (no weights of its networks)",
        "zoe/fgsm.receipt": "predictions repeated",
    }
    # One that is right in itself is known alone, as what it is.
    shutil.rmtree(root / "ada")
    shutil.rmtree(out)
    code = main(verify)
    assert code == 1
    states = {entry.file: entry.state for entry in read.read(root, out, command.version()).entries}
    assert states == {"eve/fgsm.receipt": "consistent", "zoe/fgsm.receipt": "repeated in half"}


def test_of_half_weights_alone_the_results_are_of_these(submissions, tmp_path):
    root, source = tmp_path / "submissions", submissions / "ada" / "fgsm.receipt"
    for name, half in (("ada", "1a" * 32), ("bob", "1a" * 32), ("mallory", "2b" * 32)):
        folder_of(root, name, source, halved=half)
    entries = {entry.file[:3]: entry for entry in read.read(root, None, command.version()).entries}
    (whole,) = dict(entries["ada"].trained).values()

    def identity(**states):
        known = identified(entries[name]._replace(state=state) for name, state in states.items())
        return {each.file[:3]: next(iter(dict(each.trained).values())) for each in known}, known

    half = {"ada": "repeated in half", "bob": "consistent", "mal": "repeated in half"}
    known, noted = identity(**half)
    assert known == {"ada": "1a" * 32, "bob": "1a" * 32, "mal": "2b" * 32}
    assert all("states other weights in half precision for the same whole ones" in each.words for each in noted)
    # With the whole ones, those of a claim that was not yet looked at again are still none of them.
    known, noted = identity(**half | {"ada": "repeated"})
    assert known == {"ada": whole, "bob": whole, "mal": "2b" * 32}
    assert ["states other" in each.words for each in noted] == [False, True, True]


def test_weights_in_half_precision_are_said_on_the_page(tmp_path, submissions, folder):  # noqa: F811
    root, out, half = tmp_path / "submissions", tmp_path / "verified", tmp_path / "half"
    shutil.copytree(submissions / "ada", root / "ada")
    (key,) = [each.name[:12] for each in (folder / "store" / "train").iterdir()]
    options = ("--store", str(folder / "store"), "--out", str(half), "--half")
    assert main(["export", "weights", key, *options]) == 0
    shutil.copy(half / "model.safetensors", root / "ada" / "net.safetensors")
    code = main(["verify", str(root), "--device", "cpu", "--out", str(out)])
    # Answers are judged as they are.
    words = {"ada/fgsm.receipt": "predictions repeated, with weights in half precision"}
    assert known(root, out) == ({} if code else words)
    # Known less well than with whole weights, and better than if nobody had repeated it.
    assert read.STATES.index("repeated") < read.STATES.index("repeated in half") < read.STATES.index("consistent")
    found = read.read(root, out, command.version())
    assert [entry.state for entry in found.entries] == ([] if code else ["repeated in half"])
    assert code or not {"not-repeated"} & set(merge.merged(found).ranked[0].flags)


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (("no-op", "predictions repeated by all", "zzz"), {"no-op"}),
        (("100-of-target-class", "1-of-target-class"), {"100-of-target-class", "1-of-target-class"}),
        (("101-of-target-class", "007-of-target-class", "0-of-target-class", "9" * 200), set()),
        (("No-op", "no-op ", "no\N{NON-BREAKING HYPHEN}op"), set()),
        (("randomised", "targeted"), {"randomised", "targeted"}),
    ],
)
def test_flags_that_no_run_gives_reach_no_table_and_are_said_once(tmp_path, capsys, flags, kept):
    root = tmp_path / "submissions"
    submit(root, "a", attacked(flags=flags), attacked(flags=flags, seed=1), who="Ada")
    gone = [flag for flag in flags if flag not in kept]
    found, both = merged(root)
    assert {flag for each in both.ranked for flag in each.flags} - {"not-repeated"} == kept
    assert [each.file for each in found.remarks] == ["a/run.json"] * bool(gone) and not found.left_out
    capsys.readouterr()
    assert main(["leaderboard", "--submissions", str(root), "--format", "json"]) == 0
    said = capsys.readouterr()
    for flag in gone:
        assert flag not in said.out.partition('"left_out"')[0]
    assert said.err.count("left out: a/run.json: its flag") == bool(gone)
    if len(gone) == 2:
        assert f"its flags '{gone[0]}', '{gone[1]}', which no run of this version gives" in said.err
    assert main(["verify", str(root), "--out", str(tmp_path / "out")]) == 0
    assert ("; left out: its flag" in capsys.readouterr().out) == bool(gone)


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (("repeated", "repeated"), "Ada · repeated"),
        (("repeated in half", "repeated in half"), "Ada · repeated, in half precision"),
        (("repeated", "repeated in half"), "Ada · repeated, 1 in half precision"),
        (("consistent", "repeated in half"), "Ada · 1 of 2 repeated, in half precision"),
        (("consistent", "consistent"), "Ada · not repeated"),
    ],
)
def test_a_row_says_how_many_of_its_cells_were_repeated_in_half_precision(tmp_path, states, words):
    submit(tmp_path, "a", attacked(), result("standard", "fgsm", clean=CLEAN, adversarial=WEAK), who="Ada")
    found = read.read(tmp_path, None, command.version())
    entries = [entry._replace(state=state) for entry, state in zip(found.entries, states, strict=True)]
    found = found._replace(entries=entries)
    people = render.contributions(found, merge.merged(found))
    # Also what is marked beside numbers that count is of the row.
    (table,) = build(entry.result for entry in entries).tables
    (row,) = table.rows
    assert people.by(row) == words


@pytest.mark.parametrize(
    ("date", "why"),
    [
        ("2999-01-01", "it says that it was measured in the year 2999: the clock of that machine was wrong"),
        ("2199-01-01", "it says that it was measured on 2199-01-01, and today is 20"),
    ],
)
def test_a_date_in_the_future_is_called_so(tmp_path, date, why):
    future = attacked()
    time = {"finished": f"{date}T00:00:00+00:00"}
    submit(tmp_path, "a", future.model_copy(update={"provenance": future.provenance.model_copy(update=time)}))
    (left_out,) = merged(tmp_path)[0].left_out
    assert why in left_out.why


def test_passes_that_the_settings_cannot_give_are_said_on_the_page(tmp_path, submissions):
    root = tmp_path / "submissions"
    (root / "bob").mkdir(parents=True)

    def none_at_all(claims):
        claims["result"]["cost"]["forwards_per_example"] = claims["result"]["cost"]["backwards_per_example"] = 0.0
        claims["result"]["cost"]["flops_per_example"] = 0.0

    forged(submissions / "ada" / "fgsm.receipt", root / "bob" / "fgsm.receipt", claims=none_at_all)
    why = "not plausible: it says 0 forwards and 0 backwards an image, and fgsm with its settings takes 1 and 1"
    found, both = merged(root)
    assert why in found.entries[0].words
    board = build(both.ranked)
    assert why in render.as_markdown(board, render.contributions(found, both))


def test_of_many_people_it_is_counted_what_is_known(tmp_path):
    for index in range(6):
        submit(tmp_path, f"p{index}", attacked(seconds=1 + index), who=f"Person {index}")
    found, both = merged(tmp_path)
    page = render.as_html(build(both.ranked), render.contributions(found, both))
    assert "Person 0, Person 1, Person 2 and 3 more · not repeated" in page


@pytest.mark.parametrize("inside", [".", "ada", "new/reports"])
def test_reports_never_lie_among_the_submissions(submissions, inside, capsys):
    for words in (
        ["leaderboard", "--submissions", str(submissions), "--verified"],
        ["verify", str(submissions), "--out"],
    ):
        assert main([*words, str(submissions / inside)]) == 2
        error = capsys.readouterr().err
        assert (
            f"error: {words[-1] if words[0] == 'leaderboard' else '--out'} {submissions / inside} lies within" in error
        )
        assert "could add reports" in error
