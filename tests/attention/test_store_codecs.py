"""Stores with codes of each kind: what is read follows from them, what comes out of it does not depend on them."""

import numpy as np
import pytest
from head_data import clustered

from nearhash.attention import KVStore
from nearhash.attention.codes import make_codes
from nearhash.attention.store_head import StoreHead
from nearhash.errors import InvalidArgumentError

CODECS = ("lvq4", "pq4", "simhash", "simhash512")
BYTES = {"lvq4": 64 // 2 + 6, "pq4": 64 // 4 + 2, "simhash": 256 // 8 + 4, "simhash512": 512 // 8 + 4}
COUNT, HEADS, DIM, GROUP = 1100, 2, 64, 3


@pytest.fixture(scope="module")
def data():
    keys, values, queries = map(np.stack, zip(*(clustered(COUNT, DIM, GROUP, seed) for seed in (3, 4)), strict=True))
    return keys, values, queries.reshape(-1, DIM) * np.float32(np.sqrt(DIM))  # a store puts the scale in


def filled(data, codec, **options):
    store = KVStore(HEADS, DIM, codec=codec, **options)
    store.append(data[0], data[1])
    return store


@pytest.mark.parametrize("codec", CODECS)
def test_a_budget_of_all_tokens_is_dense_attention(data, codec):
    store = filled(data, codec)
    dense, all_of_them = store.attend(data[2], "dense"), store.attend(data[2], budget=1.0)
    assert all_of_them.output == pytest.approx(dense.output, abs=1e-5)
    assert all_of_them.lse == pytest.approx(dense.lse, abs=1e-5)
    assert (all_of_them.reads == COUNT).all()
    assert store.info()["index_bytes_per_token"] == BYTES[codec]


@pytest.mark.parametrize("codec", CODECS)
def test_logits_by_codes_are_near_the_true_ones(data, codec):
    store = filled(data, codec)
    store.attend(data[2])
    for head in range(HEADS):
        view, queries = StoreHead(store, head), data[2][head * GROUP : (head + 1) * GROUP]
        true = queries @ data[0][head].T
        errors = view.logits(queries) - true
        assert errors.std() < {"lvq4": 0.12, "pq4": 0.5, "simhash": 0.45, "simhash512": 0.35}[codec] * true.std()
        assert abs(errors.mean()) < 0.1 * true.std()  # that of the mean key is there, too
        norms = np.linalg.norm(data[1][head], axis=1)
        assert view.value_norms(np.arange(COUNT)) == pytest.approx(norms, rel=0.01)


@pytest.mark.parametrize("codec", CODECS)
def test_threads_pieces_and_forks_change_no_bit(data, codec):
    keys, values, queries = data
    one, two = filled(data, codec, threads=1), filled(data, codec, threads=2)
    for step in range(3):
        found = one.attend(queries, budget=100, step=step)
        for other in (two, one.fork()):
            again = other.attend(queries, budget=100, step=step)
            assert np.array_equal(found.output, again.output)
            assert np.array_equal(found.lse, again.lse)
        one.append(keys[:, step : step + 150], values[:, step : step + 150])
        for i in range(150):
            two.append(keys[:, step + i : step + i + 1], values[:, step + i : step + i + 1])
    assert one.info()["coded"] == COUNT + 300 - 16


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("options", [{"budget": 0.25}, {"budget": 60, "temperature": 2.0, "floor": 0.5}, {"eps": 0.3}])
def test_what_is_retrieved_is_what_attention_reads(data, codec, options):
    keys, values, queries = data
    store = filled(data, codec, seed=5)
    found, parts = store.attend(queries, step=2, **options), store.retrieve(queries, step=2, **options)
    assert [(part.head, part.first, part.last) for part in parts] == [(0, 0, GROUP), (1, GROUP, 2 * GROUP)]
    for head, first, last, positions, logs in parts:
        assert (np.diff(positions) > 0).all()
        assert (logs <= 0).all()
        if "eps" not in options:
            assert len(positions) == found.reads[head]
        logits = queries[first:last] @ keys[head, positions].T / np.sqrt(DIM) - logs
        masses = np.exp(logits - found.lse[first:last, None])
        assert masses.sum(axis=1) == pytest.approx(np.ones(GROUP), abs=1e-3)
        assert masses @ values[head, positions] == pytest.approx(found.output[first:last], abs=2e-3)


@pytest.mark.parametrize("codec", ["", "lvq5", "simhash96", "simhash0", "simhash100000", None, 4])
def test_other_codecs_are_refused(codec):
    with pytest.raises(InvalidArgumentError, match="codec: expected"):
        KVStore(1, 64, codec=codec)


@pytest.mark.parametrize("codec", CODECS)
def test_keys_of_any_size_and_number_have_codes(codec):
    for dim in (8, 24):
        for keys in (np.zeros((1, 300, dim)), np.full((1, 300, dim), 1e15), np.full((1, 300, dim), 1e-30)):
            store = KVStore(1, dim, codec=codec)
            store.append(keys, np.ones_like(keys))
            result = store.attend(np.full((2, dim), 1e3), budget=10, sink=0, local=1)
            assert result.output == pytest.approx(np.ones((2, dim)), abs=1e-4)
    store = KVStore(1, 8, codec=codec)
    assert store.attend(np.ones((1, 8))).lse == -np.inf
    store.append(np.ones((1, 2, 8)), np.ones((1, 2, 8)))
    assert store.attend(np.ones((1, 8)), budget=1, sink=0, local=0).output == pytest.approx(np.ones((1, 8)))


def test_product_codes_are_learned_from_a_seeded_sample():
    keys = np.random.default_rng(0).standard_normal((6000, 16)).astype(np.float32)
    one, again, other = (make_codes("pq4", 16, seed).train(keys) for seed in (0, 0, 1))
    assert np.array_equal(one.codewords, again.codewords)
    assert not np.array_equal(one.codewords, other.codewords)
