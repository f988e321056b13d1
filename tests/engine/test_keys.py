import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.keys import canonical_json, derive_seed, key_of, sha256_hex, training_key
from bench.types import DataRef, MethodRef, ModelRef, Schedule, TrainRef

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_canonical_json_is_json_and_loses_nothing(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), values, max_size=6), st.randoms(use_true_random=False))
def test_the_order_in_which_a_table_was_written_does_not_matter(table, random):
    items = list(table.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(table)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_a_key_is_never_made_of_a_number_that_json_has_not(value):
    with pytest.raises(ValueError):
        canonical_json(value)


@given(values, values)
def test_another_value_has_another_key(one, other):
    same = canonical_json(one) == canonical_json(other)
    assert (key_of(one, version=1) == key_of(other, version=1)) == same
    assert key_of(one, version=1) != key_of(one, version=2)


@given(st.lists(st.text() | st.binary(), max_size=5), st.lists(st.text() | st.binary(), max_size=5))
def test_where_the_parts_of_a_hash_end_matters(one, other):
    def flat(parts):
        return [part.encode() if isinstance(part, str) else part for part in parts]

    assert (sha256_hex(*one) == sha256_hex(*other)) == (flat(one) == flat(other))


def test_the_hash_is_sha256_over_lengths_and_parts():
    wanted = hashlib.sha256((2).to_bytes(8, "big") + b"ab" + (0).to_bytes(8, "big")).hexdigest()
    assert sha256_hex("ab", b"") == wanted


@given(st.lists(st.text() | st.integers(), min_size=1, max_size=4))
def test_a_seed_is_in_range_and_depends_on_every_word(parts):
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63 and seed == derive_seed(*parts)
    for i in range(len(parts)):
        assert derive_seed(*parts[:i], f"{parts[i]}x", *parts[i + 1 :]) != seed
    assert derive_seed(*parts, "more") != seed


def test_seeds_fill_their_range():
    seeds = np.array([derive_seed("cell", i) for i in range(4000)], dtype=np.float64) / 2**63
    assert len(set(seeds)) == 4000
    assert abs(seeds.mean() - 0.5) < 5 / math.sqrt(12 * 4000)


def key_of_training(**schedule):
    data = DataRef(
        name="noise", split="train", n=9, image_shape=(1, 8, 8), num_classes=4, indices_sha="a", data_sha="b"
    )
    recipe, network = (MethodRef(kind=kind, name=kind, code_sha="c" * 64) for kind in ("recipe", "network"))
    trained = TrainRef(recipe=recipe, schedule=Schedule(**schedule), data=data, seed=0)
    return training_key(ModelRef(network=network, weights=trained))


def test_weights_trained_in_a_precision_that_is_named_keep_their_key():
    # As version 0.2.0 computed them, where `false` was the default.
    named = {"bf16": False, "channels_last": False}
    assert key_of_training(**named) == "9fe6d4ead45d557c4e7636070ef4701382a0e01f9193fba61dffb6a2792d953c"
    assert (
        key_of_training(bf16=True, channels_last=True)
        == "d5da65a75492b15f745eaa9c4f62c564beeb739e1ac878a34609c5ceda33a7d4"
    )
    assert key_of_training() == key_of_training(bf16="auto", channels_last="auto")
    assert len({key_of_training(), key_of_training(bf16=False), key_of_training(**named)}) == 3
