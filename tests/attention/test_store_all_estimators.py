"""Stores attend by any estimator: as it does over arrays, with an index that follows what becomes of the store."""

import numpy as np
import pytest
from head_data import clustered

from nearhash.attention import KVStore
from nearhash.attention.estimators import NAMES, make_estimator
from nearhash.attention.estimators.base import exact_tokens
from nearhash.attention.heads import ArrayHead
from nearhash.errors import InvalidArgumentError
from nearhash.kernels.attention_sampling import sampling_key

COUNT, DIM = 700, 32
SETTINGS = {"magicpig": {"K": 4, "L": 20}, "socket": {"K": 6, "L": 10}, "hash_topk": {"bits": 64}}
OTHERS = [name for name in NAMES if name != "priority"]


@pytest.fixture(scope="module")
def data():
    keys, values, queries = clustered(COUNT, DIM, 2)
    values *= 2.0 ** (np.arange(COUNT)[:, None] % 4) / np.linalg.norm(values, axis=1, keepdims=True)
    return keys, values, queries  # with norms of values that the codes hold without rounding


def filled(data):
    store = KVStore(1, DIM, seed=3)
    store.append(data[0][None], data[1][None])
    return store


@pytest.mark.parametrize("name", OTHERS)
def test_a_store_attends_as_the_estimator_does(data, name):
    keys, values, queries = data
    store, options = filled(data), SETTINGS.get(name, {})
    key = int(sampling_key(3, 4, 2, 0))
    head, always = ArrayHead(keys, values), exact_tokens(COUNT, 8, 40)
    wanted = make_estimator(name, **options).attend(head, queries, 60, always, key)
    found = store.attend(queries, name, 60, 8, 40, 1.0, step=4, layer=2, **options)
    assert found.output == pytest.approx(wanted.output, abs=1e-4)
    assert found.lse == pytest.approx(wanted.lse, abs=1e-4)
    assert found.reads.tolist() == [wanted.reads]
    assert found.error == pytest.approx(wanted.error, rel=0.01, nan_ok=True)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_retrieved_is_what_is_read(data, name):
    keys, values, queries = data
    store, options = filled(data), {"scale": 1.0, **SETTINGS.get(name, {})}
    parts = filled(data).retrieve(queries, name, 60, 8, 40, **options)
    found = store.attend(queries, name, 60, 8, 40, **options)
    assert [(part.first, part.last) for part in parts] == ([(0, 1), (1, 2)] if name == "magicpig" else [(0, 2)])
    assert len(np.unique(np.concatenate([part.positions for part in parts]))) == found.reads[0]
    for _, first, last, positions, logs in parts:
        logits = queries[first:last] @ keys[positions].T - logs
        masses = np.exp(logits - found.lse[first:last, None])
        assert masses @ values[positions] == pytest.approx(found.output[first:last], abs=1e-4)


@pytest.mark.parametrize("name", ["magicpig", "quest", "hash_topk", "socket", "hashevict"])
def test_indexes_follow_the_store(data, name):
    keys, values, queries = data
    store, options = filled(data), SETTINGS.get(name, {})
    store.attend(queries, name, 20, **options)
    assert store.info()["estimator_nbytes"] > 0
    store.append(keys[None, :30], values[None, :30])  # later tokens are read, or taken in
    branch = store.fork()
    first = store.attend(queries, name, 20, sink=0, local=0, **options)
    assert np.array_equal(branch.attend(queries, name, 20, sink=0, local=0, **options).output, first.output)
    store.truncate(COUNT - 1)
    assert store.info()["estimator_nbytes"] == 0
    assert branch.info()["estimator_nbytes"] > 0
    store.attend(queries, name, 20, **options)


def test_a_fork_evicts_for_itself(data):
    store = filled(data)
    store.attend(data[2], "hashevict", 100)
    branch = store.fork()
    branch.attend(data[2], "hashevict", 5, sink=0, local=0)
    assert branch.attend(data[2], "hashevict", 100, sink=0, local=0).reads == 5
    assert store.attend(data[2], "hashevict", 100, sink=0, local=0).reads == 100


def test_unknown_estimators_and_options_are_refused(data):
    store = filled(data)
    for ask in (store.attend, store.retrieve):
        with pytest.raises(InvalidArgumentError, match="estimator: expected one of priority, dense"):
            ask(data[2], "oracle")
        with pytest.raises(InvalidArgumentError, match="K: the estimator 'uniform' has options none"):
            ask(data[2], "uniform", K=3)
        with pytest.raises(InvalidArgumentError, match="L: expected"):
            ask(data[2], "magicpig", L=1)
