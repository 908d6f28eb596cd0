"""`KVStore`: what is appended is attended to, shared, forgotten and refused as it should be."""

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import nearhash as nh
from nearhash.attention import Attention, KVStore, attend_batch, merge
from nearhash.errors import (
    ClosedError,
    DimensionError,
    DtypeError,
    InvalidArgumentError,
    MemoryLimitError,
)

HEADS, GROUP, DIM = 2, 3, 64
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2, "int8": 3e-2}


def tokens(count, seed=0, heads=HEADS, dim=DIM):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((heads, count, dim)).astype(np.float32) for _ in range(2))


def step_queries(seed=0, heads=HEADS, group=GROUP, dim=DIM):
    return 2 * np.random.default_rng(1000 + seed).standard_normal((heads * group, dim)).astype(np.float32)


def exact(queries, keys, values, scale=None):
    """Output and log-sum-exp in float64."""
    heads, _, dim = keys.shape
    group = len(queries) // heads
    scale = dim**-0.5 if scale is None else scale
    logits = scale * np.einsum("hgd,hnd->hgn", queries.reshape(heads, group, dim).astype(float), keys.astype(float))
    top = logits.max(axis=2, keepdims=True, initial=-1e300)
    mass = np.exp(logits - top)
    total = mass.sum(axis=2)
    output = np.einsum("hgn,hnd->hgd", mass, values.astype(float)) / np.maximum(total, 1e-300)[..., None]
    with np.errstate(divide="ignore"):
        lse = np.where(total > 0, top[..., 0] + np.log(total), -np.inf)
    return output.reshape(-1, dim), lse.reshape(-1)


def relative(found, expected):
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


def filled(count, seed=0, **options):
    store = KVStore(HEADS, DIM, **options)
    store.append(*tokens(count, seed))
    return store


# --- attention ---


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 1000])
def test_dense_attention_is_exact(dtype, count):
    store = filled(count, dtype=dtype)
    found = store.attend(step_queries(), estimator="dense")
    output, lse = exact(step_queries(), *tokens(count))
    assert relative(found.output, output).max() < TOLERANCE[dtype]
    assert np.abs(found.lse - lse).max() < TOLERANCE[dtype] * 5
    assert found.reads.tolist() == [count] * HEADS
    assert not found.error.any()


@pytest.mark.parametrize("budget", [1.0, 5000])
def test_a_budget_of_all_tokens_is_dense(budget):
    store = filled(3000)
    found, dense = store.attend(step_queries(), budget=budget), store.attend(step_queries(), estimator="dense")
    assert relative(found.output, dense.output).max() < 1e-5
    assert np.abs(found.lse - dense.lse).max() < 1e-5
    assert found.reads.tolist() == [3000] * HEADS
    assert not found.error.any()


@pytest.mark.parametrize(("group", "dim"), [(1, 8), (4, 128), (16, 64), (17, 64), (40, 16)])
def test_groups_and_dimensions(group, dim):
    keys, values = tokens(700, dim=dim)
    queries = step_queries(group=group, dim=dim)
    store = KVStore(HEADS, dim)
    store.append(keys, values)
    output, lse = exact(queries, keys, values)
    found = store.attend(queries, estimator="dense")
    assert relative(found.output, output).max() < 1e-5
    assert np.abs(found.lse - lse).max() < 1e-5
    sampled = store.attend(queries, budget=600)
    assert np.median(relative(sampled.output, output)) < 0.2
    assert sampled.output.shape == (HEADS * group, dim)


def test_how_much_is_read():
    store = filled(4000)
    for budget, reads in ((0.05, 200), (0.2, 800), (77, 77 + 4 + 16), (0.001, 32 + 4 + 16)):
        assert store.attend(step_queries(), budget=budget).reads.tolist() == [reads] * HEADS
    assert store.attend(step_queries(), budget=50, sink=0, local=0).reads.tolist() == [50] * HEADS
    assert store.attend(step_queries(), budget=50, sink=5000).reads.tolist() == [4000] * HEADS
    assert store.attend(step_queries(), budget=50, local=5000).reads.tolist() == [4000] * HEADS


def test_numerator_and_denominator_are_unbiased():
    """Over many draws: z scores of exp(lse) and of exp(lse) * output, and the variance that the sample tells."""
    store = filled(600)
    output, lse = exact(step_queries(), *tokens(600))
    draws = [store.attend(step_queries(), budget=100, sink=4, local=32, step=step) for step in range(1500)]
    mass = np.exp(np.stack([draw.lse for draw in draws]) - lse)
    sums = mass[..., None] * np.stack([draw.output for draw in draws])
    for samples, expected in ((mass, 1.0), (sums, output)):
        z = (samples.mean(axis=0) - expected) / (samples.std(axis=0) / np.sqrt(len(draws)))
        assert np.abs(z).max() < 4.5  # the greatest of some hundred that are standard normal
        assert (z**2).mean() < 1.5
    squares = np.stack([np.sum((draw.output - output) ** 2, axis=1) for draw in draws])
    told = np.stack([(draw.error * np.linalg.norm(draw.output, axis=1)) ** 2 for draw in draws])
    assert np.allclose(told.mean(axis=0) / squares.mean(axis=0), 1, atol=0.25)


def test_an_error_that_is_wished_for_is_kept():
    keys, values = tokens(4000)
    values += 1.0  # outputs that are not noise alone
    store = KVStore(HEADS, DIM)
    store.append(keys, values)
    output, _ = exact(step_queries(), keys, values)
    errors, reads = [], []
    for step in range(150):
        found = store.attend(step_queries(), budget=64, step=step, eps=0.1, delta=0.1)
        errors.append(relative(found.output, output))
        reads.append(found.reads)
    assert (np.stack(errors) > 0.1).mean() <= 0.12
    assert np.mean(reads) > 64 + 20
    tight = store.attend(step_queries(), budget=64, eps=1e-6)
    assert relative(tight.output, output).max() < 1e-5
    assert (tight.reads == 4000).all(), "everything, each token once"
    assert store.attend(step_queries(), budget=64, eps=1e6).reads.tolist() == [64 + 20] * HEADS


@pytest.mark.parametrize("estimator", ["priority", "dense"])
def test_threads_change_nothing(estimator):
    store = filled(9000)
    first = store.attend(step_queries(), estimator=estimator, threads=1)
    for threads in (2, 3, 16):
        again = store.attend(step_queries(), estimator=estimator, threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_draws_differ_by_step_layer_head_and_seed():
    keys, values = tokens(3000, heads=1)
    keys, values = np.repeat(keys, 2, axis=0), np.repeat(values, 2, axis=0)  # heads that differ by their draws alone
    queries = np.tile(step_queries(heads=1), (2, 1))
    found = []
    for seed, step, layer in ((0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)):
        store = KVStore(2, DIM, seed=seed)
        store.append(keys, values)
        found += store.attend(queries, step=step, layer=layer).output.reshape(2, -1).tolist()
    assert len({tuple(one) for one in found}) == 8


def test_an_empty_store():
    store = KVStore(HEADS, DIM)
    for estimator in ("priority", "dense"):
        found = store.attend(step_queries(), estimator=estimator)
        assert not found.output.any()
        assert np.isneginf(found.lse).all()
        assert found.reads.tolist() == [0, 0]
        assert not found.error.any()


def test_scale():
    store, queries = filled(500), step_queries()
    keys, values = tokens(500)
    output, lse = exact(queries, keys, values, scale=0.3)
    found = store.attend(queries, estimator="dense", scale=0.3)
    assert relative(found.output, output).max() < 1e-5
    assert np.abs(found.lse - lse).max() < 1e-5


def test_parts_are_merged():
    keys, values = tokens(900)
    parts = []
    for first, last in ((0, 300), (300, 900), (900, 900)):
        store = KVStore(HEADS, DIM)
        store.append(keys[:, first:last], values[:, first:last])
        parts.append(store.attend(step_queries(), estimator="dense"))
    found, (output, lse) = merge(*parts), exact(step_queries(), keys, values)
    assert relative(found.output, output).max() < 1e-5
    assert np.abs(found.lse - lse).max() < 1e-5
    assert found.reads.tolist() == [900, 900]
    empty = merge(parts[2], parts[2])
    assert np.isneginf(empty.lse).all()
    assert not empty.output.any()
    first = Attention(
        np.ones((1, 8), np.float32), np.zeros(1, np.float32), np.ones(1, np.int64), np.ones(1, np.float32)
    )
    assert merge(first, first).error == pytest.approx(np.sqrt(0.5))


def test_tokens_that_come_are_attended_to_and_coded_when_they_leave_the_window():
    keys, values = tokens(1200)
    store = KVStore(HEADS, DIM)
    store.append(keys[:, :1000], values[:, :1000])
    store.attend(step_queries())
    assert store.info()["coded"] == 1000
    for position in range(1000, 1200):
        store.append(keys[:, position : position + 1], values[:, position : position + 1], start=position)
    found = store.attend(step_queries(), budget=100, local=64)
    assert store.info()["coded"] == 1200 - 64
    assert found.reads.tolist() == [100 + 4 + 64] * HEADS
    dense = store.attend(step_queries(), estimator="dense")
    assert relative(dense.output, exact(step_queries(), keys, values)[0]).max() < 1e-5
    assert len(store) == 1200


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    keys, values = tokens(300)
    store = KVStore(HEADS, DIM)
    store.append(torch.from_numpy(keys), torch.from_numpy(values).to(torch.float64))
    found = store.attend(torch.from_numpy(step_queries()), estimator="dense")
    assert relative(found.output, exact(step_queries(), keys, values)[0]).max() < 1e-5


# --- change ---


class Forks(RuleBasedStateMachine):
    """Stores that are forked, appended to and truncated, each against arrays of its own."""

    @initialize(dtype=st.sampled_from(list(TOLERANCE)))
    def start(self, dtype):
        self.dtype = dtype
        self.stores = [(KVStore(1, 8, dtype=dtype), *tokens(0, heads=1, dim=8))]
        self.seed = 0

    @rule(which=st.integers(0, 5), count=st.sampled_from([0, 1, 3, 255, 256, 300]))
    def append(self, which, count):
        store, keys, values = self.stores[which % len(self.stores)]
        self.seed += 1
        more = tokens(count, self.seed, heads=1, dim=8)
        assert store.append(*more) == keys.shape[1] + count
        grown = (np.concatenate([keys, more[0]], axis=1), np.concatenate([values, more[1]], axis=1))
        self.stores[which % len(self.stores)] = (store, *grown)

    @rule(which=st.integers(0, 5), share=st.floats(0, 1))
    def truncate(self, which, share):
        store, keys, values = self.stores[which % len(self.stores)]
        kept = int(share * keys.shape[1])
        store.truncate(kept)
        self.stores[which % len(self.stores)] = (store, keys[:, :kept], values[:, :kept])

    @precondition(lambda self: len(self.stores) < 6)
    @rule(which=st.integers(0, 5))
    def fork(self, which):
        store, keys, values = self.stores[which % len(self.stores)]
        self.stores.append((store.fork(), keys, values))

    @precondition(lambda self: len(self.stores) > 1)
    @rule(which=st.integers(0, 5))
    def close(self, which):
        self.stores.pop(which % len(self.stores))[0].close()

    @rule(which=st.integers(0, 5))
    def sample(self, which):
        store, keys, values = self.stores[which % len(self.stores)]
        if keys.shape[1]:
            queries = step_queries(heads=1, dim=8)
            found = store.attend(queries, budget=keys.shape[1])
            assert relative(found.output, exact(queries, keys, values)[0]).max() < 5 * TOLERANCE[self.dtype]

    @invariant()
    def holds_what_it_was_given(self):
        for store, keys, values in self.stores:
            assert len(store) == keys.shape[1]
            found = store.read(0, np.arange(len(store)))
            for mine, theirs in zip(found, (keys, values), strict=True):
                assert np.abs(mine - theirs[0]).max(initial=0) < 2 * TOLERANCE[self.dtype]

    def teardown(self):
        budget = self.stores[0][0]._budget
        for store, _, _ in self.stores:
            store.close()
        assert budget.used == 0


TestForks = Forks.TestCase
TestForks.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_forks_share_memory():
    store = filled(2000)
    store.attend(step_queries())
    held = store.info()["held_bytes"]
    forks = [store.fork() for _ in range(5)]
    assert store.info()["held_bytes"] == held
    forks[0].append(*tokens(1))
    page = 256 * 2 * DIM * 4 * HEADS
    assert store.info()["held_bytes"] == held + page, "the last page was copied"
    store.close()
    assert forks[1].info()["held_bytes"] == held + page, "the others still hold them"
    assert len(forks[0]) == 2001
    for fork in forks:
        fork.close()
    assert forks[0].info()["held_bytes"] == 0


def test_bytes():
    store = filled(2560)
    store.attend(step_queries())
    facts = store.info()
    assert facts["index_bytes_per_token"] == 38 <= 40
    assert store.index_nbytes == 2560 * 38 * HEADS
    assert store.nbytes == facts["held_bytes"] == store.index_nbytes + 2560 * 2 * DIM * 4 * HEADS
    assert filled(2560, dtype="int8").nbytes == 2560 * (2 * DIM + 8) * HEADS


def test_what_does_not_fit_is_refused_and_nothing_is_lost():
    page = 256 * 2 * DIM * 4 * HEADS
    store = KVStore(HEADS, DIM, memory_limit=2 * page + 100_000)
    keys, values = tokens(500)
    store.append(keys, values)
    with pytest.raises(MemoryLimitError, match="memory_limit"):
        store.append(*tokens(600))
    assert len(store) == 500
    fork = store.fork()
    with pytest.raises(MemoryLimitError):
        fork.append(*tokens(1))  # there is room in the last page, but the store holds it, too
    for one in (store, fork):
        assert np.array_equal(one.read(1, np.arange(500))[0], keys[1])
    fork.truncate(256)
    store.append(*tokens(12))  # now nobody else does
    assert len(store) == 512
    del fork, one
    store.truncate(0)
    assert store.info()["held_bytes"] == 0


# --- refusals ---


def test_refused_appends_leave_the_store_as_it_was():
    store = filled(300, dtype="float16")
    keys, values = tokens(5)
    bad = keys.copy()
    bad[1, 3, 7] = np.nan
    large = keys.copy()
    large[0, 0, 0] = 1e6
    for call, error, message in (
        (lambda: store.append(keys, values, start=299), InvalidArgumentError, "start: expected 300"),
        (lambda: store.append(keys, values, start=305), InvalidArgumentError, "start: expected 300"),
        (lambda: store.append(bad, values), InvalidArgumentError, r"keys: expected finite .* nan at \[1, 3, 7\]"),
        (lambda: store.append(keys, bad), InvalidArgumentError, "values: expected finite"),
        (lambda: store.append(large, values), InvalidArgumentError, "float16 holds"),
        (lambda: store.append(keys[:1], values[:1]), DimensionError, "keys: expected shape"),
        (lambda: store.append(keys[..., :8], values), DimensionError, "keys: expected shape"),
        (lambda: store.append(keys[0], values[0]), DimensionError, "keys: expected shape"),
        (lambda: store.append(keys, values[:, :4]), InvalidArgumentError, "values: expected as many"),
        (lambda: store.append(keys.astype(str), values), DtypeError, "keys"),
        (lambda: store.truncate(301), InvalidArgumentError, "length: expected at most 300"),
        (lambda: store.truncate(-1), InvalidArgumentError, "length"),
        (lambda: store.read(2, [0]), InvalidArgumentError, "head"),
        (lambda: store.read(0, [300]), InvalidArgumentError, "positions: expected 0 to 299"),
        (lambda: store.read(0, [-1]), InvalidArgumentError, "positions"),
        (lambda: store.read(0, [0.5]), InvalidArgumentError, "positions"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert len(store) == 300
    assert np.allclose(store.read(1, np.arange(300))[1], tokens(300)[1][1], atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget"),
        ({"budget": 0.0}, "budget"),
        ({"budget": -0.5}, "budget"),
        ({"budget": 1.5}, "budget"),
        ({"budget": float("nan")}, "budget"),
        ({"budget": True}, "budget"),
        ({"estimator": "magic"}, "estimator: expected one of"),
        ({"sink": -1}, "sink"),
        ({"local": 1.5}, "local"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"step": -1}, "step"),
        ({"layer": 2**32}, "layer"),
        ({"temperature": 0.0}, "temperature"),
        ({"floor": 0.0}, "floor"),
        ({"eps": -1.0}, "eps"),
        ({"delta": 2.0}, "delta"),
        ({"colour": 1}, "colour: the estimator 'priority' has options one of temperature, floor"),
        ({"estimator": "dense", "eps": 0.1}, "eps: the estimator 'dense' has options none"),
        ({"threads": 0}, "threads"),
    ],
)
def test_refused_readings(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        filled(10).attend(step_queries(), **options)


@pytest.mark.parametrize(
    ("queries", "error"),
    [
        (np.ones((5, DIM)), DimensionError),
        (np.ones((6, 8)), DimensionError),
        (np.ones((0, DIM)), DimensionError),
        (np.full((6, DIM), np.inf), InvalidArgumentError),
        (np.array([["a"] * DIM] * 6), DtypeError),
    ],
)
def test_refused_queries(queries, error):
    with pytest.raises(error, match="queries"):
        filled(10).attend(queries)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kv_heads": 0}, "kv_heads"),
        ({"head_dim": 12}, "multiple of 8"),
        ({"head_dim": 2**20}, "head_dim"),
        ({"codec": "zip"}, "codec: expected one of"),
        ({"dtype": "float64"}, "dtype: expected one of"),
        ({"seed": -1}, "seed"),
        ({"memory_limit": 0}, "memory_limit"),
        ({"threads": 0}, "threads"),
    ],
)
def test_refused_settings(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        KVStore(**{"kv_heads": 2, "head_dim": 64, **arguments})


def test_a_closed_store():
    with filled(10) as store:
        fork = store.fork()
    for call in (
        lambda: store.append(*tokens(1)),
        lambda: store.attend(step_queries()),
        lambda: store.attend(step_queries(), estimator="dense"),
        store.fork,
        lambda: store.truncate(0),
        lambda: store.read(0, []),
    ):
        with pytest.raises(ClosedError):
            call()
    assert len(fork) == 10
    store.close()


def test_readers_and_a_writer():
    """Attention during appends is that of some number of tokens, whole."""
    store, errors, stop = filled(300), [], threading.Event()

    def read():
        try:
            while not stop.is_set():
                found = store.attend(step_queries(), estimator="dense", threads=1)
                output, _ = exact(
                    step_queries(), *(np.concatenate(all_of, axis=1)[:, : found.reads[0]] for all_of in grown)
                )
                assert relative(found.output, output).max() < 1e-4
                store.attend(step_queries(), threads=2)
        except BaseException as error:
            errors.append(error)

    more = [tokens(20, seed) for seed in range(1, 31)]
    grown = tuple([tokens(300)[i], *(one[i] for one in more)] for i in range(2))
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for one in more:
        store.append(*one)
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors
    assert len(store) == 900


def test_it_is_part_of_the_public_face():
    assert nh.attention.KVStore is KVStore
    assert "KVStore" in dir(nh.attention)
    assert "tokens=7" in repr(filled(7))


@pytest.mark.parametrize("estimator", ["priority", "dense", "uniform"])
def test_a_batch_is_its_sequences_one_by_one(estimator):
    rng = np.random.default_rng(1)
    stores = []
    for row, count in enumerate((900, 0, 5, 4200)):
        stores.append(KVStore(2, 16, seed=row))
        stores[-1].append(rng.standard_normal((2, count, 16)), rng.standard_normal((2, count, 16)))
    queries = rng.standard_normal((4, 6, 16))
    expected = [store.attend(q, estimator, 50, step=3) for store, q in zip(stores, queries, strict=True)]
    for threads in (1, 3):
        found = attend_batch(stores, queries, estimator, 50, step=3, threads=threads)
        for one, other in zip(expected, found, strict=True):
            assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))
    assert attend_batch([], []) == []


def test_refused_batches():
    stores = [KVStore(1, 8), KVStore(1, 8)]
    with pytest.raises(InvalidArgumentError, match="stores: expected each store once"):
        attend_batch([stores[0], stores[0]], np.ones((2, 1, 8)))
    with pytest.raises(InvalidArgumentError, match="queries: expected those of 2 stores, got 1"):
        attend_batch(stores, np.ones((1, 1, 8)))
    stores[1].close()
    with pytest.raises(ClosedError):
        attend_batch(stores, np.ones((2, 1, 8)))
    stores[0].append(np.ones((1, 1, 8)), np.ones((1, 1, 8)))  # its lock was given back
