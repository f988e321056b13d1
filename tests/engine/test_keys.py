import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.keys import canonical_json, derive_seed, key_of, sha256_hex

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
