"""HammingIndex: scan and tables give what sorting all distances gives, through changes, filters and files."""

import math
import tracemalloc

import numpy as np
import pytest
from hostile import damaged, extreme, inconsistent
from hypothesis import given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash import where
from nearhash.errors import (
    CorruptIndexError,
    DimensionError,
    DtypeError,
    DuplicateIdError,
    InvalidArgumentError,
    UnknownIdError,
)
from nearhash.index import hamming, hamming_tables
from nearhash.index.storage import read_file, write_file
from nearhash.kernels import multi_index

METHODS = ["auto", "scan", "multi-index"]
# And tables without recourse to a scan, which for the few codes of tests would nearly always be cheaper.
WAYS = [*METHODS, "tables"]
BITS = [8, 64, 72, 256, 1000]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """A method to search by."""
    if request.param != "tables":
        return request.param
    monkeypatch.setattr(hamming_tables, "scan_cost", lambda rows: 2**60)
    return "multi-index"


def groups(bits, count, seed, noise=0.02):
    """Codes around a few random ones, so that there are near neighbours and ties."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).integers(0, 256, (max(1, count // 25), bits // 8)).astype(np.uint8)
    noisy = np.packbits(rng.random((count, bits)) < noise, axis=1)
    return centres[rng.integers(0, len(centres), count)] ^ noisy


def distances(queries, codes):
    return np.unpackbits(queries[:, None] ^ codes[None], axis=-1).sum(-1, dtype=np.int64)


def expected(queries, codes, k, allowed=None):
    """(ids, distances) of the k nearest, -1 and inf where there are fewer; allowed (q, n)."""
    away = distances(queries, codes).astype(float)
    if allowed is not None:
        away[~np.broadcast_to(allowed, away.shape)] = np.inf
    away = np.concatenate([away, np.full((len(away), k), np.inf)], axis=1)
    order = np.argsort(away, axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(away, order, 1)
    return np.where(np.isinf(near), -1, order), near


def assert_exact(hits, queries, codes, k, allowed=None):
    ids, near = expected(queries, codes, k, allowed)
    assert np.array_equal(hits.distances, near)
    assert np.array_equal(hits.ids, ids)
    assert hits.distances.dtype == np.float32
    assert hits.ids.dtype == np.int64


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bits", BITS)
def test_search_is_exact(bits, way, threads):
    codes, queries = groups(bits, 900, 0), groups(bits, 30, 1)
    index = nh.HammingIndex(bits, method=way)
    assert index.add(codes).tolist() == list(range(900))
    for asked in (queries, queries[:2], queries[0]):
        for k in (1, 10, 1000):
            hits = index.search(asked, k=k, threads=threads)
            assert_exact(hits, np.atleast_2d(asked), codes, k)
    assert (index.info()["tables"] > 0) == (way == "multi-index")


def test_filters(way):
    codes, queries = groups(128, 2000, 0), groups(128, 40, 1)
    labels = np.random.default_rng(5).permutation(2000)
    index = nh.HammingIndex(128, method=way)
    index.add(codes, labels=labels, attributes={"color": labels % 7})
    windows = np.stack([np.arange(40) * 10, np.arange(40) * 10 + np.arange(40) * 40], axis=1)
    inside = (labels >= windows[:, :1]) & (labels < windows[:, 1:])
    assert_exact(index.search(queries, k=10, window=windows), queries, codes, 10, inside)
    for share in (0.003, 0.03, 0.5):
        mask = np.random.default_rng(0).random(2000) < share
        for allow in (mask, np.flatnonzero(mask)):
            assert_exact(index.search(queries, k=10, allow=allow), queries, codes, 10, mask[None])
    assert_exact(index.search(queries, k=10, where=where.eq("color", 3)), queries, codes, 10, (labels % 7 == 3)[None])


def test_tables_follow_the_codes(way, monkeypatch):
    codes = groups(64, 1500, 0, 0.01)
    queries = np.concatenate([codes[5:15], codes[1000:1010], codes[1150:1160]])  # some are added after the tables
    index, have = nh.HammingIndex(64, method=way), 0
    made = []
    tables = hamming_tables.Tables.__init__
    monkeypatch.setattr(hamming_tables.Tables, "__init__", lambda *a: made.append(len(a[1])) or tables(*a))
    for count in (1000, 100, 100, 300):
        index.add(codes[have : have + count])
        have += count
        assert_exact(index.search(queries, k=5, threads=1), queries, codes[:have], 5)
        assert_exact(index.search(queries, k=5, threads=2), queries, codes[:have], 5)
    assert made == ([1000, 1500] if way == "multi-index" else []), "a scan of so few is faster"
    index.remove(np.arange(0, 300))
    left = np.arange(1500) >= 300
    assert_exact(index.search(queries, k=5), queries, codes, 5, left[None])
    index.remove(np.arange(300, 600))  # compacts
    assert index.info()["deleted"] == 0
    assert_exact(index.search(queries, k=5), queries, codes, 5, (np.arange(1500) >= 600)[None])


def test_codes_after_the_tables_fill_up_what_these_lack(way):
    """Fewer than k codes are in the tables: those that came later belong to the result, however far they are."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, (12, 8), np.uint8)
    codes[10:] = ~codes[:2]
    index = nh.HammingIndex(64, method=way)
    index.add(codes[:10])
    index.search(codes[:1], k=1)
    index.add(codes[10:])
    for allow in (None, np.array([3, 10, 11]), np.array([10])):
        allowed = np.ones(12, bool) if allow is None else np.isin(np.arange(12), allow)
        assert_exact(index.search(codes[:5], k=12, allow=allow), codes[:5], codes, 12, allowed[None])


def test_tables_are_made_where_they_pay(monkeypatch):
    monkeypatch.setattr(hamming, "_LEAST_ROWS", 1000)
    near, far = groups(64, 20_000, 0, 0.01), np.random.default_rng(0).integers(0, 256, (20_000, 32)).astype(np.uint8)
    for codes, bits, pays in ((near, 64, True), (far, 256, False)):
        index = nh.HammingIndex(bits)
        index.add(codes)
        index.search(codes[:1], k=1)
        assert (index.info()["tables"] > 0) == pays
    assert hamming_tables.substrings_for(256, 2**16) == 16
    assert hamming_tables.substrings_for(256, 10**9) == 11, "none is longer than 24 bits"
    assert hamming_tables.substrings_for(8, 1) == 8


@pytest.mark.parametrize(("bits", "substrings", "count"), [(64, 4, 2**16), (256, 16, 1000), (60, 5, 2**20)])
def test_the_estimated_cost_is_that_of_all_radii_up_to_a_distance(bits, substrings, count):
    """Each radius is one more table at one weight: ``radius = substrings * weight + table``."""
    length = bits // substrings
    for distance in (0, 1, substrings - 1, substrings, 2 * substrings + 3):
        probes = sum(math.comb(length, radius // substrings) for radius in range(distance + 1))
        each = multi_index.PROBE_COST + multi_index.CANDIDATE_COST * count / 2**length
        estimate = hamming_tables.estimated_cost(bits, substrings, count, distance)
        assert estimate == pytest.approx(probes * each)


def test_flips_trade_recall_for_speed():
    codes, queries = groups(128, 6000, 0, 0.12), groups(128, 60, 1, 0.12)
    index = nh.HammingIndex(128)
    index.add(codes)
    away = np.sort(distances(queries, codes), axis=1)[:, :10]
    recalls = []
    for flips in (0, 1, 2, None):
        hits = index.search(queries, k=10, flips=flips)
        assert (hits.ids >= 0).all(), "never fewer than asked for"
        assert np.array_equal(hits.distances, np.take_along_axis(distances(queries, codes), hits.ids, 1))
        recalls.append((hits.distances <= away[:, -1:]).mean())
        assert np.array_equal(hits.ids, index.search(queries, k=10, flips=flips, threads=1).ids)
    assert recalls[0] < 0.99
    assert sorted(recalls) == recalls
    assert recalls[-1] == 1
    few = index.search(queries, k=10, flips=0, allow=np.arange(700))
    assert np.isin(few.ids, np.arange(700)).all()
    with pytest.raises(InvalidArgumentError, match="flips"):
        index.search(queries, flips=-1)
    with pytest.raises(InvalidArgumentError, match="flips"):
        nh.HammingIndex(64, method="scan").search(np.zeros(8, np.uint8), flips=1)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bits", BITS)
def test_range_search(bits, threads):
    codes, queries = groups(bits, 800, 0), groups(bits, 9, 1)
    index = nh.HammingIndex(bits)
    index.add(codes, labels=np.arange(800))
    away = distances(queries, codes)
    for radius in (0, float(np.median(away)) + 0.5, np.inf):
        for arguments, allowed in (({}, slice(None)), ({"window": (100, 300)}, slice(100, 300))):
            hits = index.range_search(queries, radius, threads=threads, **arguments)
            assert hits.indptr[-1] == len(hits.ids) == len(hits.distances)
            for i in range(9):
                part = slice(hits.indptr[i], hits.indptr[i + 1])
                own = np.arange(800)[allowed]
                own = own[away[i, own] <= radius]
                own = own[np.argsort(away[i, own], kind="stable")]
                assert hits.ids[part].tolist() == own.tolist()
                assert hits.distances[part].tolist() == away[i, own].tolist()
    assert index.range_search(queries, -1).ids.tolist() == []
    assert index.range_search(np.empty((0, bits // 8), np.uint8), 3).indptr.tolist() == [0]
    assert nh.HammingIndex(bits).range_search(queries[0], 3).indptr.tolist() == [0, 0]
    for bad in (np.nan, None, "3", True):
        with pytest.raises(InvalidArgumentError, match="radius"):
            index.range_search(queries, bad)


def test_ids_codes_and_vectors():
    codes = groups(72, 30, 0)
    index = nh.HammingIndex(72)
    ids = np.arange(30) * 10 + 5
    assert index.add(codes, ids=ids).tolist() == ids.tolist()
    assert np.array_equal(index.codes(ids[3:6]), codes[3:6])
    assert np.array_equal(index.vectors(ids[3:6]), np.unpackbits(codes[3:6], axis=1))
    assert index.search(codes[7], k=1).ids.tolist() == [[int(ids[np.flatnonzero((codes == codes[7]).all(1))[0]])]]
    assert index.bits == index.dim == 72
    assert index.metric == index.info()["metric"] == "hamming"
    with pytest.raises(DuplicateIdError):
        index.add(codes[:1], ids=[15])
    with pytest.raises(UnknownIdError):
        index.remove([1])


def test_bad_arguments():
    for bits in (0, -8, 12, 32_776, 8.0, True, "64", None):
        with pytest.raises(InvalidArgumentError, match=r"bits|dim"):
            nh.HammingIndex(bits)
    for bad in ("fast", None, 3):
        with pytest.raises(InvalidArgumentError, match="method"):
            nh.HammingIndex(64, method=bad)
    for bad in (0, 2, 65, 3.0, "5"):
        with pytest.raises(InvalidArgumentError, match="substrings"):
            nh.HammingIndex(64, substrings=bad)
    index = nh.HammingIndex(64)
    with pytest.raises(DimensionError, match=r"vectors: expected shape \(n, 8\)"):
        index.add(np.zeros((3, 64), np.uint8))
    for bad in ([[0.5] * 8], [[256] * 8], [[-1] * 8], [["a"] * 8], np.zeros((1, 8), bool)):
        with pytest.raises(DtypeError, match="vectors"):
            index.add(bad)
    with pytest.raises(DtypeError, match="queries"):
        index.search(np.zeros((1, 8), np.float32))
    with pytest.raises(InvalidArgumentError, match="k: "):
        index.search(np.zeros(8, np.uint8), k=0)
    assert len(index) == 0
    assert index.add([[1, 2, 3, 4, 5, 6, 7, 255]]).tolist() == [0]


def test_empty_indexes_and_queries():
    for method in METHODS:
        index = nh.HammingIndex(64, method=method)
        hits = index.search(np.zeros((2, 8), np.uint8), k=3)
        assert hits.ids.tolist() == [[-1] * 3] * 2
        assert np.isinf(hits.distances).all()
        assert index.add(np.empty((0, 8), np.uint8)).tolist() == []
        index.add(np.zeros((2, 8), np.uint8))
        assert index.search(np.empty((0, 8), np.uint8), k=3).ids.shape == (0, 3)
        assert index.search(np.zeros(8, np.uint8), k=3).ids.tolist() == [[0, 1, -1]]
        index.remove([0, 1])
        assert index.search(np.zeros(8, np.uint8), k=3).ids.tolist() == [[-1] * 3]


def test_an_addition_that_fails_changes_nothing():
    codes = groups(64, 50, 0)
    index = nh.HammingIndex(64)
    index.add(codes)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add(codes, progress=stop)
    assert len(index) == 50
    assert_exact(index.search(codes, k=3), codes, codes, 3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "compact", "search"]), st.integers(0, 2**31))), st.data())
def test_any_sequence_of_changes(steps, data):
    bits, method = data.draw(st.sampled_from([8, 40, 128])), data.draw(st.sampled_from(METHODS))
    index, codes, alive = nh.HammingIndex(bits, method=method), np.empty((0, bits // 8), np.uint8), []
    for step, seed in steps:
        rng = np.random.default_rng(seed)
        if step == "add":
            new = groups(bits, int(rng.integers(0, 60)), seed)
            alive += index.add(new).tolist()
            codes = np.concatenate([codes, new])
        elif step == "remove" and alive:
            gone = rng.choice(alive, rng.integers(1, len(alive) + 1), replace=False)
            index.remove(gone)
            alive = sorted(set(alive) - set(gone.tolist()))
        elif step == "compact":
            index.compact()
        elif step == "search":
            queries = groups(bits, 3, seed + 1)
            allowed = np.isin(np.arange(len(codes)), alive)[None]
            assert_exact(index.search(queries, k=5), queries, codes, 5, allowed)
        assert len(index) == len(alive)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("bits", [72, 256])
def test_files(tmp_path, bits, mmap):
    codes, queries = groups(bits, 500, 0), groups(bits, 20, 1)
    index = nh.HammingIndex(bits, method="multi-index", substrings=20)
    index.add(codes, labels=np.arange(500))
    index.search(queries)
    index.save(tmp_path / "x")
    before = (tmp_path / "x").read_bytes()
    again = nh.load(tmp_path / "x", mmap=mmap)
    assert type(again) is nh.HammingIndex
    assert (again.bits, again.method, again.substrings) == (bits, "multi-index", 20)
    assert_exact(again.search(queries, k=7), queries, codes, 7)
    again.add(queries)
    again.remove([0])
    allowed = (np.arange(520) > 0)[None]
    assert_exact(again.search(queries, k=7), queries, np.concatenate([codes, queries]), 7, allowed)
    assert (tmp_path / "x").read_bytes() == before


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("hamming") / "small"
    index = nh.HammingIndex(40)
    index.add(groups(40, 40, 0), labels=np.arange(40))
    index.remove([11])
    index.save(path)
    return path


def refused(path):
    try:
        nh.load(path)
    except CorruptIndexError:
        return True
    return False


def test_hostile_files(small_file, tmp_path):
    target = tmp_path / "x"
    for description, content in damaged(small_file.read_bytes(), every=97):
        target.write_bytes(content)
        assert refused(target), description
    header, tensors = read_file(small_file, mmap=False)
    for description, other_header, other_tensors in inconsistent(header, tensors):
        write_file(target, other_header, other_tensors)
        harmless = description.startswith(("header 'next_id' =", "tensor 'labels' missing"))
        assert refused(target) or harmless, description
    for description, other_header, other_tensors in extreme(header, tensors):
        write_file(target, other_header, other_tensors)
        if not refused(target):
            index = nh.load(target)
            for method in METHODS:
                index.method, index._plan = method, None
                hits = index.search(groups(index.bits, 5, 1), k=50)
                assert np.isin(hits.ids, [*index.ids.tolist(), -1]).all(), description
                index.range_search(groups(index.bits, 5, 1), index.bits)
    padded = {**tensors, "codes": tensors["codes"] | np.uint64(1 << 40)}
    write_file(target, header, padded)
    assert refused(target), "distances would exceed the number of bits"


def test_memory_is_accounted_for_and_comes_back():
    codes = groups(256, 4000, 0)
    index = nh.HammingIndex(256, method="multi-index")
    index.add(codes)
    scanning = index.nbytes
    assert scanning < 4000 * (32 + 24)
    tracemalloc.start()
    index.search(codes[:1], k=1, threads=1)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert abs((index.nbytes - scanning) / grown - 1) < 0.2
    index.remove(np.arange(3000))
    assert index.nbytes < scanning / 3
