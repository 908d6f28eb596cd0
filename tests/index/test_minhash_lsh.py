"""MinHashLSH: against brute force over the sketches, against a dict under any sequence of changes, in files."""

import threading
from functools import partial
from itertools import pairwise

import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import nearhash as nh
from nearhash.errors import (
    CorruptIndexError,
    DuplicateIdError,
    InvalidArgumentError,
    SketchMismatchError,
    UnknownIdError,
)
from nearhash.hashing.sketches import Sketches, unpacked
from nearhash.index import minhash_lsh, minhash_tables

BANDS, ROWS, K = 6, 3, 24
make = partial(nh.MinHashLSH, threshold=0.5, k=K, bands=BANDS, rows=ROWS)
DTYPES = {32: np.uint32, 16: np.uint16}


def random_values(count, bits=32, seed=0, families=10, k=K):
    """Sketches whose values agree for a part: a family shares each value with probability .7."""
    rng = np.random.default_rng(seed)
    shape = k if bits >= 8 else -(-k * bits // 8)
    dtype = DTYPES.get(bits, np.uint8)
    high = np.iinfo(dtype).max
    centres = np.random.default_rng(99).integers(0, high, (families, shape), dtype, endpoint=True)
    own = rng.integers(0, high, (count, shape), dtype, endpoint=True)
    return np.where(rng.random((count, shape)) < 0.7, centres[rng.integers(0, families, count)], own)


def sketches(index, values):
    return Sketches(values, index.minhash.header)


def brute_force(queries, values, bits=32, threshold=0.5, verify=True):
    """(q, n) estimates, NaN where a pair is no match."""
    left, right = unpacked(queries, bits)[:, None], unpacked(values, bits)[None]
    same = left == right
    banded = same[:, :, : BANDS * ROWS].reshape(*same.shape[:2], BANDS, ROWS).all(axis=3).any(axis=2)
    chance = 0 if bits == 32 else 2.0**-bits
    estimate = np.clip((same.mean(axis=2) - chance) / (1 - chance), 0, 1)
    matches = banded & (estimate >= threshold) if verify else banded
    return np.where(matches, estimate if verify else 0, np.nan)


def assert_matches(found, expected, ids, verify=True):
    """`found` are the numbers of `expected`, best first, then in the order of `ids`."""
    assert len(found.indptr) == len(expected) + 1
    assert found.indptr[0] == 0
    assert found.indptr[-1] == len(found.ids) == len(found.similarities)
    for query, row in enumerate(expected):
        slots = np.flatnonzero(~np.isnan(row))
        slots = slots[np.lexsort((slots, -row[slots]))]
        part = slice(found.indptr[query], found.indptr[query + 1])
        np.testing.assert_array_equal(found.ids[part], ids[slots])
        if verify:
            np.testing.assert_allclose(found.similarities[part], row[slots], rtol=1e-6)
        else:
            assert np.isnan(found.similarities[part]).all()


def all_pairs(index, **arguments):
    blocks = list(index.pairs(**arguments))
    parts = [np.concatenate([block[i] for block in blocks]) if blocks else np.empty(0) for i in range(3)]
    return [tuple(pair) for pair in zip(*(part.tolist() for part in parts), strict=True)]


# --- queries ---


@pytest.mark.parametrize("bits", [32, 16, 8, 4, 2, 1])
@pytest.mark.parametrize("verify", [True, False])
def test_query_against_brute_force(bits, verify):
    index, values, queries = make(bits=bits), random_values(700, bits), random_values(60, bits, seed=1)
    ids = np.random.default_rng(3).permutation(5000)[:700]
    for part in np.array_split(np.arange(700), [300, 301, 330]):
        index.add(sketches(index, values[part]), ids=ids[part])
    expected = brute_force(queries, values, bits, 0.5, verify)
    assert 200 < np.isfinite(expected).sum() < 0.8 * expected.size
    assert_matches(index.query(sketches(index, queries), verify=verify), expected, ids, verify)
    if verify:
        expected = brute_force(queries, values, bits, 0.8)
        assert_matches(index.query(sketches(index, queries), threshold=0.8), expected, ids)


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize("few", [256, 3])
def test_a_single_query_finds_what_a_batch_finds(monkeypatch, bits, few):
    monkeypatch.setattr(minhash_lsh, "_FEW", few)
    monkeypatch.setattr(minhash_tables, "_SMALL", 1)
    index, values = make(bits=bits), random_values(700, bits)
    queries = np.concatenate([random_values(30, bits, seed=1), values[:20]])
    for part in np.array_split(np.arange(700), [440, 640]):
        index.add(sketches(index, values[part]), ids=9000 - part)
    assert len(index._tables.runs) > 1
    assert len(index.query(sketches(index, queries[:1])).ids) >= few or few > 3
    for removed in ([], list(range(8900, 8950))):
        index.remove(removed)
        for arguments in ({}, {"verify": False}, {"threshold": 0.8}, {"threshold": 0.0}):
            whole = index.query(sketches(index, queries), **arguments)
            for i in range(len(queries)):
                one = index.query(sketches(index, queries[i : i + 1]), **arguments)
                part = slice(whole.indptr[i], whole.indptr[i + 1])
                assert (one.indptr.tolist(), one.indptr.dtype) == ([0, len(one.ids)], whole.indptr.dtype)
                np.testing.assert_array_equal(one.ids, whole.ids[part], strict=True)
                np.testing.assert_array_equal(one.similarities, whole.similarities[part], strict=True)
    nothing = make(bits=bits).query(sketches(index, queries[:1]))
    assert (nothing.indptr.tolist(), len(nothing.ids), len(nothing.similarities)) == ([0, 0], 0, 0)


def test_values_that_do_not_fill_bytes():
    index, values = nh.MinHashLSH(0.5, 21, bands=7, rows=3, bits=2), random_values(300, 2, k=21)
    values[:, -1] &= 3  # 21 values of 2 bits
    index.add(sketches(index, values))
    fields = unpacked(values, 2)[:, :21]
    same = fields[:, None] == fields[None]
    banded = same.reshape(300, 300, 7, 3).all(axis=3).any(axis=2)
    estimate = np.clip((same.mean(axis=2) - 0.25) / 0.75, 0, 1)
    expected = np.where(banded & (estimate >= 0.5), estimate, np.nan)
    assert_matches(index.query(sketches(index, values)), expected, np.arange(300))


@pytest.mark.parametrize("verify", [True, False])
def test_pairs_against_brute_force(verify):
    index, values = make(), random_values(500)
    for part in np.array_split(values, [200, 204]):
        index.add(sketches(index, part))
    index.remove([3, 250, 499])
    matrix = brute_force(values, values, verify=verify)
    live = np.setdiff1d(np.arange(500), [3, 250, 499])
    expected = {(i, j) for i in live for j in live if i < j and not np.isnan(matrix[i, j])}
    found = all_pairs(index, verify=verify)
    assert len(found) == len(expected) > 500
    assert {(i, j) for i, j, _ in found} == expected
    if verify:
        assert all(similarity == np.float32(matrix[i, j]) for i, j, similarity in found)
        assert found == sorted(found, key=lambda pair: (pair[0], -pair[2], pair[1]))


def test_the_same_for_any_threads_and_in_any_batches(monkeypatch):
    values, queries = random_values(3000), random_values(200, seed=1)
    one, many = make(threads=1), make(threads=4)
    one.add(sketches(one, values))
    monkeypatch.setattr(minhash_lsh, "_ADDED", 700)
    monkeypatch.setattr(minhash_lsh, "_QUERIES", 7)
    monkeypatch.setattr(minhash_lsh, "MAX_QUERIES", 64)
    monkeypatch.setattr(minhash_tables, "_LARGE", 1)
    many.add(sketches(many, values))
    whole = one.query(sketches(one, queries), threads=1)
    for found in (many.query(sketches(many, queries), threads=4), many.query(sketches(many, queries), threads=1)):
        for array, expected in zip(found, whole, strict=True):
            np.testing.assert_array_equal(array, expected)
    assert all_pairs(one, threads=1) == all_pairs(many, threads=3)


def test_one_by_one_is_as_all_at_once(tmp_path):
    values = random_values(1200)
    single, bulk = make(), make()
    for row in values:
        single.add(sketches(single, row[None]))
    bulk.add(sketches(bulk, values))
    assert len(single.info()["runs"]) <= np.log2(1200)
    for array, expected in zip(single.query(sketches(single, values)), bulk.query(sketches(bulk, values)), strict=True):
        np.testing.assert_array_equal(array, expected)
    single.merge(make())  # nothing to take
    assert len(single) == 1200


def test_runs_halve_in_size(monkeypatch):
    monkeypatch.setattr(minhash_tables, "_SMALL", 1)
    index, values = make(), random_values(700)
    for part in np.array_split(np.arange(700), [100, 170, 230, 500, 510, 600]):
        index.add(sketches(index, values[part]))
        sizes = [run.size for run in index._tables.runs]
        assert all(older >= 2 * newer for older, newer in pairwise(sizes))
    assert len(sizes) > 1


def test_views_of_arrays_and_empty_batches():
    index, values = make(), random_values(100)
    readonly = np.asfortranarray(values)
    readonly.flags.writeable = False
    index.add(sketches(index, readonly))
    assert index.add(sketches(index, values[:0])).size == 0
    assert len(index.query(sketches(index, values[:0])).ids) == 0
    assert_matches(index.query(sketches(index, readonly)), brute_force(values, values), np.arange(100))
    assert all_pairs(make()) == []
    assert make().query(sketches(index, values)).indptr.tolist() == [0] * 101


def test_memory():
    index = nh.MinHashLSH(0.5, 128, keep_sketches=False)
    values = np.random.default_rng(0).integers(0, 2**32, (20_000, 128), np.uint32)
    index.add(sketches(index, values))
    assert index.sketch_nbytes == 0
    assert index.nbytes <= 12 * index.bands * len(index)
    with pytest.raises(InvalidArgumentError, match="verify"):
        index.query(sketches(index, values[:1]))
    with pytest.raises(InvalidArgumentError, match="verify"):
        index.pairs()
    assert index.query(sketches(index, values[:3]), verify=False).ids.tolist() == [0, 1, 2]
    kept = nh.MinHashLSH(0.5, 128)
    kept.add(sketches(kept, values))
    assert kept.sketch_nbytes == values.nbytes
    assert kept.nbytes == index.nbytes + values.nbytes


def test_the_s_curve_of_an_index():
    index = nh.MinHashLSH(0.5, 64, keep_sketches=False)
    rng, pairs = np.random.default_rng(7), 2000
    for s in (0.2, 0.4, 0.5, 0.6, 0.8):
        left, right = rng.integers(0, 2**32, (2, pairs, 64), np.uint32)
        right = np.where(rng.random((pairs, 64)) < s, left, right)
        ids = index.add(sketches(index, left))
        found = index.query(sketches(index, right), verify=False)
        assert np.isin(found.ids, ids).all()
        expected = float(index.banding.collision_probability(s))
        assert abs(len(found.ids) / pairs - expected) <= 3 * np.sqrt(expected * (1 - expected) / pairs)


# --- changes ---


def test_remove_and_compact():
    index, values = make(), random_values(400)
    index.add(sketches(index, values))
    index.remove(np.arange(0, 100))  # a quarter: still marks only
    assert index.info()["deleted"] == 100
    expected = brute_force(values, values)
    expected[:, :100] = np.nan
    assert_matches(index.query(sketches(index, values)), expected, np.arange(400))
    index.remove([100])
    assert index.info()["deleted"] == 0
    assert len(index) == 299
    expected[:, 100] = np.nan
    assert_matches(index.query(sketches(index, values)), expected, np.arange(400))
    with pytest.raises(UnknownIdError):
        index.remove([399, 100])
    assert len(index) == 299
    index.remove(index.ids)
    assert len(index) == index._tables.nbytes == len(index.info()["runs"]) == 0
    assert index.add(sketches(index, values[:2])).tolist() == [400, 401]
    index.compact()
    assert index.ids.tolist() == [400, 401]


def test_compacting_several_runs(tmp_path):
    index, fresh, values = make(), make(), random_values(1300)
    for first, last in ((0, 1000), (1000, 1300)):
        index.add(sketches(index, values[first:last]))
    gone = np.arange(100, 250)
    index.remove(gone)
    index.compact()
    assert index.info()["runs"] == [850, 300]
    fresh.add(sketches(fresh, np.delete(values, gone, axis=0)), ids=np.delete(np.arange(1300), gone))
    index.save(tmp_path / "index.nh")
    assert all_pairs(index) == all_pairs(nh.load(tmp_path / "index.nh")) == all_pairs(fresh)
    for own in (index, fresh):
        own.add(sketches(own, values[:200]))
    assert all_pairs(index) == all_pairs(fresh)


def test_merge():
    values = random_values(600)
    left, right = make(), make()
    left.add(sketches(left, values[:350]))
    right.add(sketches(right, values[350:]), ids=np.arange(350, 600))
    left.remove([7])
    right.remove([400, 599])
    before = all_pairs(right)
    left.merge(right)
    assert all_pairs(right) == before
    gone = [7, 400, 599]
    expected = brute_force(values, values)
    expected[:, gone] = np.nan
    assert_matches(left.query(sketches(left, values)), expected, np.arange(600))
    right.add(sketches(right, values[:5]), ids=[1000, 1001, 3, 1002, 1003])
    size = len(left)
    for other in (right, left):
        with pytest.raises(DuplicateIdError):
            left.merge(other)
    assert len(left) == size
    assert_matches(left.query(sketches(left, values)), expected, np.arange(600))


@pytest.mark.parametrize("change", [{"seed": 2}, {"k": 32}, {"bits": 16}, {"method": "classic"}])
def test_sketches_of_another_kind(change):
    index, other = make(), make(**change)
    values = np.zeros((3, other._form.values.shape[1]), other._form.values.dtype)
    for call in (index.add, index.query, lambda _: index.merge(other)):
        with pytest.raises(SketchMismatchError):
            call(sketches(other, values))
    assert len(index) == 0


def test_sketches_of_other_shingles(tmp_path):
    index, values = make(), random_values(20)
    header = index.minhash.header
    words, letters = ({**header, "shingles": {"unit": unit}} for unit in ("word", "char"))
    index.add(Sketches(values, header))
    index.query(Sketches(values, letters))  # nothing is known yet
    with pytest.raises(DuplicateIdError):
        index.add(Sketches(values, letters), ids=np.arange(20))
    index.add(Sketches(values, words))
    index.save(tmp_path / "index.nh")
    other = make()
    other.add(Sketches(values, letters), ids=np.arange(50, 70))
    for own in (index, nh.load(tmp_path / "index.nh")):
        for call in (own.add, own.query):
            with pytest.raises(SketchMismatchError, match="shingles"):
                call(Sketches(values, letters))
        with pytest.raises(SketchMismatchError, match="shingles"):
            own.merge(other)
        own.add(Sketches(values, header))
        assert len(own) == 60


def test_sketches_with_values_of_another_shape():
    index = make()
    for values in (np.zeros((2, K + 1), np.uint32), np.zeros((2, K), np.uint16), np.zeros(K, np.uint32)):
        with pytest.raises(InvalidArgumentError, match="sketches"):
            index.add(Sketches(values, index.minhash.header))


def test_torch_sketches():
    torch = pytest.importorskip("torch")
    index, values = make(bits=8), random_values(50, 8)
    index.add(Sketches(torch.from_numpy(values), index.minhash.header))
    assert_matches(index.query(sketches(index, values)), brute_force(values, values, 8), np.arange(50))


@pytest.mark.parametrize("change", [{"rows": 2}, {"keep_sketches": False}])
def test_merging_what_is_banded_otherwise(change):
    with pytest.raises(SketchMismatchError, match=next(iter(change)) if "keep_sketches" in change else "banding"):
        make().merge(make(**change))


def test_a_failing_addition_changes_nothing(monkeypatch):
    index, values = make(), random_values(300)
    index.add(sketches(index, values[:100]))
    monkeypatch.setattr(minhash_lsh, "_ADDED", 50)
    expected = all_pairs(index)

    def stop(done, total):
        assert total == 200
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add(sketches(index, values[100:]), progress=stop)
    with pytest.raises(DuplicateIdError):
        index.add(sketches(index, values[100:102]), ids=[200, 99])
    monkeypatch.setattr(index._points, "append", lambda new: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.add(sketches(index, values[:100][::-1]))
    monkeypatch.undo()
    assert len(index) == 100
    assert all_pairs(index) == expected
    seen = []
    index.add(sketches(index, values[100:]), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(200, 200)]
    assert_matches(index.query(sketches(index, values)), brute_force(values, values), np.arange(300))


def test_pairs_are_those_of_the_time_of_the_call(monkeypatch):
    monkeypatch.setattr(minhash_lsh, "MAX_QUERIES", 16)
    index, values = make(), random_values(200)
    index.add(sketches(index, values))
    index.remove([5])
    expected = all_pairs(index)
    blocks = index.pairs()
    found = [next(blocks)]
    index.remove(np.arange(20, 60))
    index.compact()
    index.add(sketches(index, values))
    found += blocks
    assert [pair for block in found for pair in zip(*(part.tolist() for part in block), strict=True)] == expected


def test_queries_while_the_index_changes():
    index, values = make(), random_values(400)
    index.add(sketches(index, values[:200]))
    errors, done = [], threading.Event()

    def query():
        while not done.is_set():
            found = index.query(sketches(index, values[:50]))
            starts = found.indptr[:-1][np.diff(found.indptr) > 0]
            if not (found.similarities[starts] == 1).all() or np.diff(found.indptr).min() < 1:
                errors.append(found)

    threads = [threading.Thread(target=query) for _ in range(2)]
    for thread in threads:
        thread.start()
    for first in range(200, 400, 10):
        ids = index.add(sketches(index, values[first : first + 10]))
        index.remove(ids[:5])
    done.set()
    for thread in threads:
        thread.join()
    assert not errors


class AgainstDict(RuleBasedStateMachine):
    """Any sequence of changes leaves what a dict of id to sketch says."""

    @initialize(keep=st.booleans())
    def start(self, keep):
        self.index, self.kept, self.next_id, self.order = make(keep_sketches=keep), {}, 0, []
        self.verify = keep

    @rule(count=st.integers(0, 400), seed=st.integers(0, 5))
    def add(self, count, seed):
        values = random_values(count, seed=seed)
        ids = self.index.add(sketches(self.index, values))
        assert ids.tolist() == list(range(self.next_id, self.next_id + count))
        self.next_id += count
        self.kept.update(zip(ids.tolist(), values, strict=True))

    @rule(gap=st.integers(0, 3), seed=st.integers(0, 5))
    def add_with_ids(self, gap, seed):
        ids = self.next_id + np.array([gap + 2, gap])
        values = random_values(2, seed=seed)
        self.index.add(sketches(self.index, values), ids=ids)
        self.kept.update(zip(ids.tolist(), values, strict=True))
        self.next_id += gap + 3

    @rule(share=st.floats(0, 1), seed=st.integers(0, 9))
    def remove(self, share, seed):
        ids = [i for i in self.kept if np.random.default_rng((seed, i)).random() < share * share]
        self.index.remove(ids)
        for i in ids:
            del self.kept[i]

    @rule(seed=st.integers(0, 5))
    def put_back(self, seed):
        if self.next_id and 0 not in self.kept:
            values = random_values(1, seed=seed)
            self.index.add(sketches(self.index, values), ids=[0])
            self.kept[0] = values[0]

    @rule(count=st.integers(0, 300), seed=st.integers(0, 5))
    def merge(self, count, seed):
        other, values = make(keep_sketches=self.verify), random_values(count, seed=seed)
        ids = np.arange(self.next_id, self.next_id + count)
        other.add(sketches(other, values), ids=ids)
        if count > 2:
            other.remove(ids[1:2])
        self.index.merge(other)
        self.kept.update((i, row) for i, row in zip(ids.tolist(), values, strict=True) if count <= 2 or i != ids[1])
        self.next_id = max([self.next_id, *(i + 1 for i in self.kept)])

    @rule()
    def compact(self):
        self.index.compact()

    @invariant()
    def queries_answer_as_brute_force(self):
        if not hasattr(self, "index"):
            return
        assert len(self.index) == len(self.kept)
        assert self.index.ids.tolist() == list(self.kept)
        queries = random_values(5, seed=6)
        values = np.array(list(self.kept.values()), np.uint32).reshape(-1, K)
        expected = brute_force(queries, values, verify=self.verify)
        ids = np.array(list(self.kept), np.int64)
        assert_matches(self.index.query(sketches(self.index, queries), verify=self.verify), expected, ids, self.verify)


TestAgainstDict = AgainstDict.TestCase
TestAgainstDict.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


# --- files ---


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("bits", [32, 2])
def test_files(tmp_path, mmap, bits):
    index, values = make(bits=bits, ngram=3, unit="char"), random_values(700, bits)
    for part in np.array_split(values, [400]):
        index.add(sketches(index, part))
    index.remove([5, 600])
    path, again = tmp_path / "index.nh", tmp_path / "again.nh"
    index.save(path)
    loaded = nh.load(path, mmap=mmap)
    assert loaded.info() == {**index.info(), "nbytes": loaded.nbytes, "sketch_nbytes": loaded.sketch_nbytes}
    loaded.save(again)
    assert path.read_bytes() == again.read_bytes()
    for changed in (index, loaded):
        changed.add(sketches(changed, values[:300]))
        changed.remove(np.arange(100, 120))
    assert all_pairs(loaded) == all_pairs(index)
    assert path.read_bytes() == again.read_bytes()
    empty = make(keep_sketches=False)
    empty.save(path)
    assert len(nh.load(path)) == 0


def small_file(tmp_path):
    index = make()
    index.add(sketches(index, random_values(300)))
    index.add(sketches(index, random_values(20, seed=1)))
    index.remove([4])
    path = tmp_path / "index.nh"
    index.save(path)
    return path


def test_damaged_files(tmp_path):
    path = small_file(tmp_path)
    target = tmp_path / "damaged.nh"
    for _, contents in hostile.damaged(path.read_bytes(), every=1999):
        target.write_bytes(contents)
        with pytest.raises(CorruptIndexError):
            nh.load(target)


def test_perfect_files_around_wrong_contents(tmp_path):
    path = small_file(tmp_path)
    header, tensors = hostile.read_file(path)
    target = tmp_path / "wrong.nh"

    def refused(header, tensors):
        hostile.write_file(target, header, tensors)
        with pytest.raises(CorruptIndexError):
            nh.load(target)

    for name in header:
        refused({key: value for key, value in header.items() if key != name}, tensors)
        for value in (None, -1, "x", [], 2**70, 1.5):
            if value != header[name]:
                refused({**header, name: value}, tensors)
    for name, value in (("runs", 0), ("runs", 1), ("runs", 3), ("runs", True), ("next_id", 1), ("k", 32), ("bands", 5)):
        refused({**header, name: value}, tensors)
    refused({**header, "sketches": {**header["sketches"], "seed": 2}}, tensors)
    for name, array in tensors.items():
        refused(header, {key: value for key, value in tensors.items() if key != name})
        refused(header, {**tensors, name: array[:-1]})
        refused(header, {**tensors, name: array.astype(np.float32)})
        if name.partition(".")[0] in ("high", "slots", "starts"):
            for bad in (-1, 0, 1, array.shape[1], 2**31 - 1):
                wrong = array.copy()
                wrong[3, 2] = np.array(bad).astype(array.dtype)
                if wrong[3, 2] != array[3, 2]:
                    refused(header, {**tensors, name: wrong})
    nh.load(path)


# --- arguments and texts ---


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: nh.MinHashLSH(1.5), "threshold"),
        (lambda: nh.MinHashLSH("x"), "threshold"),
        (lambda: nh.MinHashLSH(bands=4), "rows"),
        (lambda: nh.MinHashLSH(bands=0, rows=4), "bands"),
        (lambda: nh.MinHashLSH(bands=30, rows=5), "bands"),
        (lambda: nh.MinHashLSH(weights=(0, 0)), "weights"),
        (lambda: nh.MinHashLSH(weights=3), "weights"),
        (lambda: nh.MinHashLSH(threads=0), "threads"),
        (lambda: nh.MinHashLSH(keep_sketches=1), "keep_sketches"),
        (lambda: nh.MinHashLSH(ngram=0), "ngram"),
        (lambda: nh.MinHashLSH(unit="line"), "unit"),
        (lambda: nh.MinHashLSH(seed=-1), "seed"),
        (lambda: nh.MinHashLSH(k=0), "k"),
        (lambda: nh.MinHashLSH(method="x"), "method"),
        (lambda: nh.MinHashLSH(bits=3), "bits"),
        (lambda: make().add(np.zeros((1, K), np.uint32)), "sketches"),
        (lambda: make().add(sketches(make(), random_values(2)), ids=[1, 1]), "ids"),
        (lambda: make().add(sketches(make(), random_values(2)), ids=[1]), "ids"),
        (lambda: make().query(sketches(make(), random_values(2)), threshold=-0.1), "threshold"),
        (lambda: make().query(sketches(make(), random_values(2)), verify=None), "verify"),
        (lambda: make().query(sketches(make(), random_values(2)), threads=-1), "threads"),
        (lambda: make().pairs(threshold=2), "threshold"),
        (lambda: make().merge(3), "other"),
    ],
)
def test_bad_arguments(call, name):
    with pytest.raises(InvalidArgumentError, match=name):
        call()


def test_parameters_from_the_threshold():
    index = nh.MinHashLSH(0.8, 128)
    assert (index.bands, index.rows) == (9, 13)
    assert nh.MinHashLSH(0.8, 128, weights=(0.1, 0.9)).banding.midpoint < index.banding.midpoint
    assert nh.MinHashLSH(0.5, 128, bits=1).rows > nh.MinHashLSH(0.5, 128).rows


def test_texts():
    words = [f"word{i}" for i in range(400)]
    texts = [" ".join(words[i : i + 100]) for i in range(0, 300, 50)]
    near = texts[2].replace("word150", "other")
    index = nh.MinHashLSH(0.7, ngram=3)
    assert index.add_texts([*texts, near, "", ""]).tolist() == list(range(9))
    found = index.query_texts([texts[2], "", "nothing of this"])
    assert found.indptr.tolist() == [0, 2, 4, 4]
    assert found.ids.tolist() == [2, 6, 7, 8]
    assert found.similarities[0] == 1
    assert 0.85 < found.similarities[1] < 1
    assert [(i, j) for i, j, _ in all_pairs(index)] == [(2, 6), (7, 8)]
