"""Which cells pair when a parameter, a name or a path is another in the head."""

from functools import partial

from bench.keys import sha256_hex
from bench.methods.syntax import syntax
from bench.report.comparison import pairing
from bench.report.comparison.pairing import pair
from bench.types import CellResult, Earlier, Schedule, WeightsRef
from tests.report.fabricate import method, result

LATER = "2026-11-23T10:00:00+00:00"
CLEAN = [True] * 8
cell = partial(result, clean=CLEAN)
new = partial(result, clean=CLEAN, finished=LATER, commit="b" * 40)
SIDES = ((cell, 1), (new, 1001))
jpeg = partial(cell, "jpeg", step="jpeg")
new_jpeg = partial(new, "jpeg", step="jpeg")


def edits(paired):
    """Pairs as (label of the base, label of the head, what is other)."""
    return [
        (p.old.names.defense, p.new.names.defense, [str(each) for each in (*p.renamed, *p.changed)])
        for p in paired.pairs
    ]


def reasons(paired):
    return [each.why for each in paired.unpaired]


def with_attack(r: CellResult, **update) -> CellResult:
    """A result of another attack reference, with a key of its own."""
    changed = r.cell.model_copy(update={"attack": r.cell.attack.model_copy(update=update)})
    return r.model_copy(update={"cell": changed, "key": sha256_hex(changed.model_dump_json())})


def with_model(r: CellResult, **update) -> CellResult:
    """A result of another base classifier, attacked itself."""
    model = r.cell.model.model_copy(update=update)
    attack_ref = r.cell.attack.model_copy(update={"model": model}) if r.cell.attack else None
    changed = r.cell.model_copy(update={"model": model, "attack": attack_ref})
    return r.model_copy(update={"cell": changed, "key": sha256_hex(changed.model_dump_json())})


def test_the_parameter_of_a_step_is_told():
    paired = pair([jpeg(step_params={"quality": 75})], [new_jpeg(step_params={"quality": 10})])
    assert edits(paired) == [("jpeg", "jpeg", ["jpeg: quality 75 -> 10"])]
    assert (paired.unpaired, paired.only_head) == ((), ())


def test_the_parameter_of_an_adaptively_attacked_step_is_told_once():
    paired = pair(
        [jpeg(step_params={"quality": 75}, access="adaptive")],
        [new_jpeg(step_params={"quality": 10}, access="adaptive")],
    )
    assert edits(paired) == [("jpeg", "jpeg", ["jpeg: quality 75 -> 10"])]


def test_parameters_of_recipe_and_schedule_are_told():
    paired = pair(
        [cell("pgd-at", recipe="pgd-at", recipe_params={"steps": 10})],
        [new("pgd-at", recipe="pgd-at", recipe_params={"steps": 7}, epochs=12)],
    )
    assert edits(paired) == [("pgd-at", "pgd-at", ["pgd-at: steps 10 -> 7", "pgd-at: schedule.epochs 24 -> 12"])]


def test_fewer_training_images_are_told():
    (p,) = pair([cell(train_n=500)], [new(train_n=400)]).pairs
    assert [(each.method, each.parameter) for each in p.changed] == [("standard", "training images")]
    assert p.changed[0].base.startswith("first 500 (#")
    assert p.changed[0].head.startswith("first 400 (#")


def test_a_parameter_that_came_and_one_that_went_are_told():
    paired = pair([jpeg(step_params={"quality": 75})], [new_jpeg(step_params={"q": 75, "subsampling": 2})])
    assert edits(paired)[0][2] == [
        "jpeg: quality 75 -> none",
        "jpeg: q none -> 75",
        "jpeg: subsampling none -> 2",
    ]


def test_another_file_of_weights_by_the_same_name_is_told():
    base, head = (
        with_model(r, weights=WeightsRef(name="weights:net.safetensors", sha256=sha256_hex(sha)))
        for r, sha in ((cell("net"), "1"), (new("net"), "2"))
    )
    hashes = [sha256_hex(sha)[:16] for sha in "12"]
    assert edits(pair([base], [head]))[0][2] == [f"weights:net.safetensors: file #{hashes[0]} -> #{hashes[1]}"]


def test_other_images_budgets_norms_and_seeds_never_pair():
    base = cell(attack_params={"steps": 20})
    for other in ({"rows": "x"}, {"dataset": "svhn"}, {"eps": "4/255"}, {"norm": "l2"}, {"seed": 1}):
        paired = pair([base], [new(attack_params={"steps": 10}, **other)])
        assert (paired.pairs, len(paired.unpaired), len(paired.only_head)) == ((), 1, 1)


def test_swept_values_pair_by_what_their_labels_show():
    def row(make, quality, kept):
        return make(f"jpeg[quality={quality}]", step="jpeg", step_params={"quality": quality, "subsampling": kept})

    paired = pair([row(cell, 50, 0), row(cell, 75, 0)], [row(new, 75, 2), row(new, 50, 2)])
    assert sorted(edits(paired)) == [
        (f"jpeg[quality={q}]", f"jpeg[quality={q}]", ["jpeg: subsampling 0 -> 2"]) for q in (50, 75)
    ]


def test_a_label_that_began_to_show_its_default_is_the_same_row():
    paired = pair(
        [jpeg(step_params={"quality": 75})],
        [new("jpeg[quality=10]", step="jpeg", step_params={"quality": 10})],
    )
    assert edits(paired) == [("jpeg", "jpeg[quality=10]", ["jpeg: quality 75 -> 10"])]


def test_the_default_among_swept_rows_is_the_one_left():
    # 50 is asked for in both; the other row is the default, which the label shows to tell them apart.
    def rows(make, default):
        return [make(f"jpeg[quality={q}]", step="jpeg", step_params={"quality": q}) for q in (50, default)]

    paired = pair(rows(cell, 75), rows(new, 10))
    assert sorted(edits(paired)) == [
        ("jpeg[quality=50]", "jpeg[quality=50]", []),
        ("jpeg[quality=75]", "jpeg[quality=10]", ["jpeg: quality 75 -> 10"]),
    ]


def test_where_several_could_be_meant_none_is_taken():
    def rows(make, values):
        return [make(f"jpeg[quality={q}]", step="jpeg", step_params={"quality": q}) for q in values]

    paired = pair(rows(cell, [75]), rows(new, [10, 20]))
    assert paired.pairs == ()
    assert len(paired.only_head) == 2
    ((first, *others),) = reasons(paired)
    assert "no telling which" in first
    assert [line.partition(": ")[2] for line in others] == ["jpeg: quality 75 -> 10", "jpeg: quality 75 -> 20"]


def test_of_several_cells_of_one_label_the_nearest_pair():
    def rows(make, step_size):
        return [
            make(attack_params={"steps": steps, "restarts": restarts, "step_size": step_size})
            for steps, restarts in ((10, 1), (40, 5))
        ]

    paired = pair(rows(cell, "1/255"), rows(new, "2/255"))
    assert [edits(paired)[i][2] for i in (0, 1)] == [["pgd: step_size 1/255 -> 2/255"]] * 2


def test_thousands_of_cells_of_one_label_are_not_each_held_against_each(monkeypatch):
    """Work grows with the number of cells, not with its square, and what cannot be told apart does not pair."""
    many, each_against_each = 150, 150 * 150
    compared = []
    for owner, name in ((pairing, "changed"), (pairing, "differences"), (pairing._MethodNames, "may_be_renamed")):
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *arguments, real=real: (compared.append(arguments), real(*arguments))[1]
        )
    swept = pair(*([make(attack_params={"steps": k}) for k in range(first, first + many)] for make, first in SIDES))
    renamed = pair(*([named(make(), f"{make is new}-{k}") for k in range(many)] for make, _ in SIDES))
    assert len(compared) < each_against_each / 2
    for paired in (swept, renamed):
        assert (len(paired.pairs), len(paired.unpaired), len(paired.only_head)) == (0, many, many)


def test_an_earlier_attack_of_a_suite_with_another_parameter_is_told():
    def suite(make, steps, *more):
        earlier = [method("attack", "fgsm"), method("attack", "pgd", {"steps": steps}), *more]
        return with_attack(make(attack="apgd-ce"), after=tuple(Earlier(attack=each) for each in earlier))

    assert edits(pair([suite(cell, 10)], [suite(new, 7)]))[0][2] == ["apgd-ce: after pgd: steps 10 -> 7"]
    longer = pair([suite(cell, 10)], [suite(new, 10, method("attack", "square", {"queries": 100}))])
    assert edits(longer)[0][2] == ["apgd-ce: after fgsm, pgd -> fgsm, pgd, square"]


def named(r: CellResult, name: str, code: str = "one file") -> CellResult:
    """The attack of a result under another name, with a code hash that does not know its name."""
    attack = r.cell.attack.attack.model_copy(update={"name": name, "code_sha": sha256_hex(code)})
    return with_attack(r, attack=attack).model_copy(update={"names": r.names.model_copy(update={"attack": name})})


def test_a_renamed_attack_is_the_same_attack():
    paired = pair([named(cell(), "pgd-old")], [named(new(), "pgd-linf")])
    assert edits(paired)[0][2] == ["attack renamed: pgd-old -> pgd-linf"]
    assert (paired.unpaired, paired.only_head) == ((), ())


def test_a_renamed_attack_is_the_same_in_the_suites_of_others_too():
    def suite(make, name):
        first = named(make(), name)
        return [first, with_attack(make(attack="square"), after=(Earlier(attack=first.cell.attack.attack),))]

    paired = pair(suite(cell, "pgd-old"), suite(new, "pgd-linf"))
    assert [each[2] for each in edits(paired)] == [["attack renamed: pgd-old -> pgd-linf"], []]


def test_a_renamed_recipe_and_step_are_the_same():
    def deployed(make, recipe, step):
        r = make(step, step=step, recipe=recipe, step_params={"quality": 75})
        weights = r.cell.model.weights
        weights = weights.model_copy(
            update={"recipe": weights.recipe.model_copy(update={"code_sha": sha256_hex("recipe")})}
        )
        r = with_model(r, weights=weights)
        changed = r.cell.model_copy(update={"step": r.cell.step.model_copy(update={"code_sha": sha256_hex("step")})})
        return r.model_copy(update={"cell": changed, "key": sha256_hex(changed.model_dump_json())})

    paired = pair([deployed(cell, "plain", "jpeg-old")], [deployed(new, "ordinary", "jpeg-new")])
    assert edits(paired)[0][2] == ["recipe renamed: plain -> ordinary", "step renamed: jpeg-old -> jpeg-new"]


def test_another_method_never_passes_for_a_renamed_one():
    # Other code; both in the table before; both registered; two classes of one library; two functions of one file.
    other = pair([named(cell(), "pgd-old")], [named(new(), "pgd-linf", code="other")])
    assert (other.pairs, len(other.unpaired)) == ((), 1)
    assert reasons(other) == [
        ("perhaps renamed: digits/small-cnn/standard/pgd-linf/white-box has the same parameters and other code",)
    ]
    both = [named(cell(), "pgd-old"), named(cell(), "pgd-linf")]
    assert len(pair(both, [named(new(), "pgd-linf")]).unpaired) == 1
    for old, late in (("fgsm", "mi-fgsm"), ("art:A", "art:B"), ("a.py:one", "art:A")):
        paired = pair([named(cell(), old)], [named(new(), late)])
        assert (paired.pairs, reasons(paired)) == ((), [()]), (old, late)


def test_two_functions_of_files_are_perhaps_one_that_was_renamed():
    """Their code has one hash, be it one function that was renamed or two of one file that did not change."""
    for late, code, shared in (
        ("a.py:two", "code", "code; so would another method of the same file"),
        ("b.py:two", "code", "code; so would another method of the same file"),
        ("a.py:two", "other", "other code"),
    ):
        paired = pair([named(cell(), "a.py:one", code="code")], [named(new(), late, code=code)])
        hint = f"perhaps renamed: digits/small-cnn/standard/{late}/white-box has the same parameters and {shared}"
        assert (paired.pairs, reasons(paired)) == ((), [(hint,)])
    # The base had both: the one that is left is no other name of the one that went.
    both = [named(cell(), "a.py:one"), named(cell(), "a.py:two")]
    assert reasons(pair(both, [named(new(), "a.py:two")])) == [()]


def test_the_hash_of_a_file_tells_a_renamed_method_only_where_it_is_the_only_one():
    one = b"@attack()\ndef one(x):\n    return x\n"
    other = b"@attack()\ndef other(x):\n    return -x\n"
    renamed = [text.replace(b"one", b"two") for text in (one, one + other)]
    assert syntax(one).sha == syntax(renamed[0]).sha
    assert syntax(one + other).sha != syntax(renamed[1]).sha


def test_a_name_that_two_could_have_had_is_nobodys():
    paired = pair([named(cell(), "one"), named(cell(), "two")], [named(new(), "three")])
    assert paired.pairs == ()
    assert len(paired.unpaired) == 2


def test_a_file_that_lies_elsewhere_holds_the_same_method():
    paired = pair([named(cell(), "old/mine.py:pgd")], [named(new(), "new/mine.py:pgd")])
    assert edits(paired)[0][2] == ["attack renamed: old/mine.py:pgd -> new/mine.py:pgd"]


def test_equal_images_under_another_path_are_the_same():
    def at(make, folder, **more):
        r = make(**more)
        data = r.cell.data.model_copy(update={"name": folder})
        weights = r.cell.model.weights.model_copy(
            update={"data": r.cell.model.weights.data.model_copy(update={"name": folder})}
        )
        r = with_model(r, weights=weights)
        r = with_attack(r, data=data)
        changed = r.cell.model_copy(update={"data": data})
        return r.model_copy(
            update={
                "cell": changed,
                "key": sha256_hex(changed.model_dump_json()),
                "names": r.names.model_copy(update={"dataset": folder}),
            }
        )

    paired = pair([at(cell, "folder:/a")], [at(new, "folder:/b")])
    assert edits(paired) == [("standard", "standard", [])]
    changed = pair([at(cell, "folder:/a", epochs=24)], [at(new, "folder:/b", epochs=12)])
    assert edits(changed)[0][2] == ["standard: schedule.epochs 24 -> 12"]


def test_in_a_store_of_both_sides_what_was_made_last_counts():
    old, last = jpeg(step_params={"quality": 75}), new_jpeg(step_params={"quality": 10})
    paired = pair([old], [old, last])
    assert edits(paired) == [("jpeg", "jpeg", []), ("jpeg", "jpeg", ["jpeg: quality 75 -> 10"])]
    assert paired.only_head == ()
    # Measured again, the old setting is one that the head's own plan has.
    again = new_jpeg(step_params={"quality": 75})
    assert len(pair([old], [again, last]).only_head) == 1


def test_every_schedule_field_is_a_parameter():
    fields = set(Schedule.model_fields)
    (p,) = pair([cell()], [with_model(new(), weights=new().cell.model.weights.model_copy(update={"schedule": Schedule(
        epochs=2, batch=1, lr=1, momentum=0.5, weight_decay=1, schedule="one-cycle", cycles=2, drops=(0.5,),
        drop_factor=0.5, augment="flip", ema=0.5, holdout=1, bf16=True, channels_last=True, compile=True,
        measure_every=3)}))]).pairs  # fmt: skip
    assert {each.parameter.removeprefix("schedule.") for each in p.changed} == fields - {"optimizer"}
