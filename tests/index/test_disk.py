"""DiskIndex: what it answers, what it refuses, what it leaves on the disk."""

import gc
import os
import re
import threading

import numpy as np
import pytest
from conftest import DIM, METRICS, recall

import nearhash as nh
from nearhash import where
from nearhash.errors import (
    ClosedError,
    DimensionError,
    DtypeError,
    DuplicateIdError,
    InvalidArgumentError,
    MetricError,
    NearhashError,
    ReadOnlyError,
    UnknownIdError,
)
from nearhash.index import disk_lists

MEMORY = 1 << 24
COUNT = 1500
CODECS = {"f32": "float32", "f16": "float16", "u8": "uint8", "i8": "int8"}


class Rows:
    """Vectors that can only be cut into slices of rows, as those of h5py."""

    def __init__(self, array):
        self._array, self.shape, self.largest = array, array.shape, 0

    def __getitem__(self, part):
        assert isinstance(part, slice)
        self.largest = max(self.largest, part.stop - part.start)
        return self._array[part]


@pytest.fixture(scope="module")
def pair(base, labels, tmp_path_factory):
    """pair(metric): a disk index over `base` and the exact one, made once."""
    cache = {}
    folder = tmp_path_factory.mktemp("disk")

    def get(metric):
        if metric not in cache:
            attributes = {"color": np.arange(COUNT) % 7}
            disk = nh.DiskIndex.build(
                folder / metric, base, metric, labels=labels, attributes=attributes, lists=60, memory=MEMORY
            )
            flat = nh.FlatIndex(DIM, metric)
            flat.add(base, labels=labels, attributes=attributes)
            cache[metric] = disk, flat
        return cache[metric]

    return get


def same(found, expected):
    return np.array_equal(found.ids, expected.ids) and np.array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("metric", METRICS)
def test_recall_grows_with_effort_and_distances_are_exact(pair, queries, metric):
    disk, flat = pair(metric)
    truth = flat.search(queries, COUNT)
    order = np.argsort(truth.ids, axis=1)
    exact = np.take_along_axis(truth.distances, order, axis=1)
    recalls = []
    for probes in (1, 4, 16):
        hits = disk.search(queries, 10, probes=probes)
        assert np.array_equal(hits.distances, np.take_along_axis(exact, hits.ids, axis=1))
        assert (np.diff(hits.distances, axis=1) >= 0).all()
        assert all(len(set(row)) == 10 for row in hits.ids.tolist())
        recalls.append(recall(hits.ids, truth.ids[:, :10]))
    assert recalls[0] < recalls[2] >= 0.95
    assert same(disk.search(queries, 10, probes=1000, prune=0), flat.search(queries, 10)), "all lists: everything"


@pytest.mark.parametrize("metric", METRICS)
def test_threads_batches_and_portions_do_not_change_results(pair, queries, metric, monkeypatch):
    disk, _ = pair(metric)
    whole = disk.search(queries, 7, threads=1, probes=5)
    for threads in (2, 5):
        assert same(disk.search(queries, 7, threads=threads, probes=5), whole)
    for i in (0, 17):
        assert np.array_equal(disk.search(queries[i], 7, probes=5).ids, whole.ids[i : i + 1])
    before = disk.traffic
    monkeypatch.setattr(disk_lists, "PORTION", 3 * disk_lists.PAGE)
    assert same(disk.search(queries, 7, threads=2, probes=5), whole)
    assert disk.traffic.nbytes - before.nbytes <= disk.disk_bytes, "a list that several queries want is read once"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "filters",
    [
        {"allow": np.arange(5)},
        {"allow": np.arange(700, 712)},
        {"window": (100, 130)},
        {"window": (-np.inf, 3), "allow": np.arange(0, COUNT, 2)},
        {"where": where.eq("color", 3)},
        {"where": where.eq("color", 3) & where.range("color", 0, 2)},
        {"allow": np.arange(0)},
    ],
    ids=["five", "a dozen", "window", "few of a window", "where", "nothing", "none"],
)
def test_filters_give_all_that_match(pair, queries, metric, filters):
    disk, flat = pair(metric)
    expected = flat.search(queries, 15, **filters)
    for probes in (1, 8):
        found = disk.search(queries, 15, probes=probes, **filters)
        assert np.array_equal(found.ids >= 0, expected.ids >= 0), "min(k, matches) of them"
        allowed = set(flat.search(queries[:1], COUNT, **filters).ids[0].tolist())
        assert set(found.ids.ravel().tolist()) <= allowed | {-1}
    assert same(disk.search(queries, 15, probes=1000, prune=0, **filters), expected)
    # No more matches than lists to be read: their lists are read instead, and the answer is exact.
    few = disk.search(queries, 15, probes=32, **filters)
    assert same(few, expected) or (expected.ids >= 0).all()


def test_windows_differ_between_queries(pair, queries):
    disk, flat = pair("l2")
    windows = np.stack([np.arange(40) * 30.0, np.arange(40) * 30.0 + np.arange(40)], axis=1)
    assert same(disk.search(queries, 5, window=windows, probes=1000, prune=0), flat.search(queries, 5, window=windows))


def test_more_wanted_than_there_is(pair, queries):
    disk, flat = pair("l2")
    assert same(disk.search(queries[:2], 1600, probes=1), flat.search(queries[:2], 1600))


def test_pruning_reads_less(pair, queries):
    disk, _ = pair("l2")
    nbytes = []
    for prune in (0, 2, 8, 50):
        before = disk.traffic
        for query in queries:
            disk.search(query, 1, probes=16, prune=prune)
        nbytes.append(disk.traffic.nbytes - before.nbytes)
        if prune == 0:
            assert disk.traffic.reads - before.reads == 16 * len(queries)
    assert nbytes == sorted(nbytes, reverse=True)
    assert nbytes[-1] < nbytes[0] / 2


def test_facts(pair, base, labels):
    disk, flat = pair("cosine")
    info = disk.info()
    assert len(disk) == COUNT
    assert np.array_equal(disk.ids, np.arange(COUNT))
    assert info["size"] == COUNT
    assert info["kind"] == "disk"
    assert info["labelled"]
    assert info["attributes"] == ["color"]
    assert info["nbytes"] == disk.nbytes
    assert info["disk_bytes"] == disk.disk_bytes
    assert info["disk_bytes"] % 4096 == 0
    assert COUNT <= info["entries"] <= 8 * COUNT
    assert info["lists"] == disk.lists
    some = np.array([3, 1499, 0, 77])
    assert np.array_equal(disk.vectors(some), flat.vectors(some))
    assert np.array_equal(disk.attributes(some)["color"], some % 7)
    with pytest.raises(UnknownIdError):
        disk.vectors([COUNT])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("metric", METRICS)
def test_codecs(tmp_path, codec, metric):
    rng = np.random.default_rng(3)
    base = rng.integers(-100 if codec == "i8" else 0, 100, (400, 11))
    if metric == "cosine" and codec in ("u8", "i8"):
        with pytest.raises(InvalidArgumentError, match="codec"):
            nh.DiskIndex.build(tmp_path / "x", base, metric, codec=codec)
        return
    disk = nh.DiskIndex.build(tmp_path / "x", base, metric, codec=codec, lists=20, memory=MEMORY)
    flat = nh.FlatIndex(11, metric)
    flat.add(base)
    expected = flat.search(base[:9].astype(np.float32), 5)
    found = disk.search(base[:9], 5, probes=20, prune=0)
    if codec == "f16" and metric == "cosine":
        np.testing.assert_allclose(found.distances, expected.distances, atol=2e-3)
    else:
        assert same(found, expected)
    assert disk.disk_bytes >= 400 * 11 * {"f32": 4, "f16": 2}.get(codec, 1)
    np.testing.assert_allclose(disk.vectors([7, 3]), flat.vectors([7, 3]), rtol=1e-3)


def test_given_ids(tmp_path, base):
    ids = np.arange(COUNT)[::-1] * 10**12 + 5
    disk = nh.DiskIndex.build(tmp_path / "x", base, ids=ids, lists=30, memory=MEMORY)
    assert np.array_equal(disk.search(base[:50], 1).ids[:, 0], ids[:50])
    assert np.array_equal(nh.load(tmp_path / "x").ids, ids)
    assert np.array_equal(disk.search(base[:1], 3, allow=ids[[7, 3]]).ids[0, 2:], [-1])
    assert np.array_equal(disk.vectors(ids[[9, 2]]), base[[9, 2]])


@pytest.mark.parametrize(
    "base",
    [
        np.ones((1, 1)),
        np.zeros((5, 3)),
        np.ones((300, 4)),
        np.repeat(np.eye(6), 50, axis=0),
        np.concatenate([np.ones((200, 2)), np.arange(80).reshape(40, 2)]),
    ],
    ids=["one vector", "zeros", "equal vectors", "six vectors many times", "equal vectors and others"],
)
@pytest.mark.parametrize("metric", METRICS)
def test_odd_vectors(tmp_path, base, metric):
    disk = nh.DiskIndex.build(tmp_path / "x", base, metric, lists=min(8, len(base)), memory=MEMORY)
    flat = nh.FlatIndex(base.shape[1], metric)
    flat.add(base)
    queries = np.concatenate([base[:3], base[:1] + 1])
    for k in (1, 4, 400):
        found = disk.search(queries, k, probes=100, prune=0)
        assert same(found, flat.search(queries, k))
        assert np.array_equal(disk.search(queries, k).ids >= 0, found.ids >= 0)


def test_no_query(pair):
    disk, _ = pair("ip")
    assert disk.search(np.empty((0, DIM)), 4).ids.shape == (0, 4)


def test_a_query_of_length_zero_and_a_long_one(pair):
    disk, flat = pair("ip")
    queries = np.stack([np.zeros(DIM), np.full(DIM, 1e6)])
    assert same(disk.search(queries, 3, probes=1000, prune=0), flat.search(queries, 3))


def test_same_bytes_from_any_source_and_number_of_threads(tmp_path, base):
    np.save(tmp_path / "base.npy", base)
    slices = Rows(base)
    sources = {
        "array": (base, 1),
        "two threads": (base, 2),
        "five threads": (base, 5),
        "map": (np.load(tmp_path / "base.npy", mmap_mode="r"), 2),
        "slices": (slices, 2),
        "other dtype": (base.astype(np.float64), 2),
        "list": (base.tolist(), 2),
        "columns": (np.asfortranarray(base), 2),
    }
    files = set()
    for name, (vectors, threads) in sources.items():
        nh.DiskIndex.build(tmp_path / name, vectors, "ip", lists=80, threads=threads, memory=MEMORY, seed=5).close()
        files.add((tmp_path / name).read_bytes())
    assert len(files) == 1
    nh.DiskIndex.build(tmp_path / "x", base, "ip", lists=80, memory=MEMORY, seed=6).close()
    assert (tmp_path / "x").read_bytes() not in files


def test_large_vectors_come_in_small_slices(tmp_path):
    rows = Rows(np.random.default_rng(0).standard_normal((6000, 64)).astype(np.float32))
    nh.DiskIndex.build(tmp_path / "x", rows, lists=50, memory=MEMORY).close()
    assert rows.largest * 64 * 4 <= MEMORY / 16


def test_lists_are_of_similar_length(tmp_path):
    rng = np.random.default_rng(0)
    # Nine tenths of the vectors in a thousandth of the space.
    base = np.concatenate([rng.standard_normal((4500, 8)) * 0.1, rng.standard_normal((500, 8)) * 10])
    disk = nh.DiskIndex.build(tmp_path / "x", base, lists=100, memory=MEMORY)
    counts = disk._file.layout.counts
    assert np.bincount(disk._homes).max() <= 2.5 * 50, "members"
    assert counts.max() <= 4 * 50, "with those of other lists"
    assert counts.sum() > 1.2 * 5000, "there are some"


def test_searches_side_by_side(pair, queries):
    disk, _ = pair("l2")
    expected = disk.search(queries, 5, probes=6)
    failed = []

    def search():
        for _ in range(20):
            if not same(disk.search(queries, 5, probes=6, threads=1), expected):
                failed.append(1)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# --- reading ---


def evict(disk):
    """Drop the file from the page cache."""
    os.sync()
    os.posix_fadvise(disk._file._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("threads", [1, 3])
def test_from_a_cold_cache(pair, queries, threads):
    disk, _ = pair("l2")
    expected = disk.search(queries, 5)
    evict(disk)
    assert same(disk.search(queries, 5, threads=threads), expected)


def test_file_systems_that_cannot_say_what_is_cached(pair, queries, monkeypatch):
    disk, _ = pair("l2")
    expected = disk.search(queries, 5)
    real, asked = os.preadv, []

    def preadv(descriptor, buffers, position, *flags):
        if flags:
            asked.append(flags)
            raise OSError(95, "Operation not supported")
        return real(descriptor, [memoryview(buffers[0])[:1000]], position)  # and reads come in pieces

    monkeypatch.setattr(os, "preadv", preadv)
    assert same(disk.search(queries, 5, threads=1), expected)
    assert len(asked) == 1, "it is not asked again"
    disk._file._waits = False


def test_errors_of_the_disk_are_raised(pair, queries, monkeypatch):
    disk, _ = pair("l2")

    def preadv(*arguments):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        with pytest.raises(OSError, match="Input/output"):
            disk.search(queries, 5)
    assert disk.search(queries, 5).ids.min() >= 0


# --- life ---


def test_it_does_not_change(pair, tmp_path):
    disk, _ = pair("l2")
    for call in (lambda: disk.add(np.ones(DIM)), lambda: disk.remove([0]), disk.compact, lambda: disk.save(tmp_path)):
        with pytest.raises(ReadOnlyError, match="does not change"):
            call()
    assert len(disk) == COUNT


def test_closing(tmp_path, base):
    with nh.DiskIndex.build(tmp_path / "x", base, lists=10, memory=MEMORY) as disk:
        assert disk.search(base[0], 1).ids[0, 0] == 0
    for _ in range(2):
        disk.close()
    for call in (lambda: disk.search(base[0]), lambda: disk.vectors([0])):
        with pytest.raises(ClosedError):
            call()
    assert len(disk) == COUNT


def test_descriptors_are_given_back(tmp_path, base):
    nh.DiskIndex.build(tmp_path / "x", base, lists=10, memory=MEMORY)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        nh.DiskIndex.open(tmp_path / "x").search(base[0])
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_replaced_file_lives_on_for_those_who_have_it_open(tmp_path, base, queries):
    old = nh.DiskIndex.build(tmp_path / "x", base, lists=20, memory=MEMORY)
    expected = old.search(queries, 5)
    new = nh.DiskIndex.build(tmp_path / "x", base[:100], lists=5, memory=MEMORY)
    assert same(old.search(queries, 5), expected)
    assert len(new) == 100


# --- refusal ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vectors": np.ones(5)}, DimensionError, "vectors"),
        ({"vectors": np.ones((0, 5))}, DimensionError, "vectors"),
        ({"vectors": 7}, DimensionError, "vectors"),
        ({"vectors": np.ones((5, 0))}, InvalidArgumentError, "dim"),
        ({"vectors": np.array([["a"]])}, DtypeError, "vectors"),
        ({"metric": "l1"}, MetricError, "metric"),
        ({"codec": "pq4"}, InvalidArgumentError, "codec"),
        ({"codec": "u8"}, DtypeError, "whole numbers"),
        ({"codec": "f16", "vectors": np.full((4, 2), 1e5)}, InvalidArgumentError, "65504"),
        ({"ids": [1, 2]}, InvalidArgumentError, "ids"),
        ({"ids": np.zeros(COUNT, int)}, DuplicateIdError, "ids"),
        ({"labels": np.full(COUNT, np.nan)}, InvalidArgumentError, "labels"),
        ({"attributes": {"color": np.ones(3, int)}}, InvalidArgumentError, "color"),
        ({"lists": 0}, InvalidArgumentError, "lists"),
        ({"lists": COUNT + 1}, InvalidArgumentError, "lists"),
        ({"replicas": 0}, InvalidArgumentError, "replicas"),
        ({"seed": -1}, InvalidArgumentError, "seed"),
        ({"threads": 0}, InvalidArgumentError, "threads"),
        ({"memory": 1000}, InvalidArgumentError, "memory"),
    ],
    ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_cannot_be(tmp_path, base, arguments, error, message):
    with pytest.raises(error, match=message):
        nh.DiskIndex.build(tmp_path / "x", **{"vectors": base, "memory": MEMORY, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_bad_value_far_into_the_vectors_is_found_before_anything_is_written(tmp_path):
    base = np.ones((9000, 64), np.float32)
    base[8000, 3] = np.nan
    with pytest.raises(
        InvalidArgumentError, match=r"nan in row \d+, column 3 \(counted from row [\d,]+ on\)"
    ) as caught:
        nh.DiskIndex.build(tmp_path / "x", base, memory=MEMORY)
    row, first = (
        int(re.search(text, str(caught.value))[1].replace(",", "")) for text in (r"row (\d+)", r"row ([\d,]+) on")
    )
    assert row + first == 8000
    assert list(tmp_path.iterdir()) == []


def test_vectors_that_are_fewer_than_they_say(tmp_path, base):
    rows = Rows(base)
    rows.shape = (COUNT + 9, DIM)
    with pytest.raises(DimensionError, match="rows"):
        nh.DiskIndex.build(tmp_path / "x", rows, memory=MEMORY)


def test_a_folder_that_is_not_there(tmp_path, base):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        nh.DiskIndex.build(tmp_path / "no" / "x", base, memory=MEMORY)


@pytest.mark.parametrize("effort", [{"probes": 0}, {"probes": 1.5}, {"prune": -1}, {"prune": np.nan}, {"prune": "all"}])
def test_efforts_that_cannot_be(pair, queries, effort):
    with pytest.raises(InvalidArgumentError, match=next(iter(effort))):
        pair("l2")[0].search(queries, **effort)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_build_that_is_stopped_leaves_what_was_there(tmp_path, base, share):
    nh.DiskIndex.build(tmp_path / "x", base[:50], lists=3, memory=MEMORY).close()
    before = (tmp_path / "x").read_bytes()

    def progress(done, total):
        assert 0 < done <= total
        if done >= share * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nh.DiskIndex.build(tmp_path / "x", base, lists=40, memory=MEMORY, progress=progress)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == before


def test_progress_reaches_its_end(tmp_path, base):
    seen = []
    nh.DiskIndex.build(tmp_path / "x", base, lists=40, memory=MEMORY, progress=lambda *step: seen.append(step))
    assert seen == sorted(seen)
    assert seen[-1] == (5 * COUNT, 5 * COUNT)


def test_open_wants_a_disk_index(tmp_path, base):
    flat = nh.FlatIndex(DIM)
    flat.add(base)
    flat.save(tmp_path / "flat")
    with pytest.raises(NearhashError, match="lists"):
        nh.DiskIndex.open(tmp_path / "flat")
    with pytest.raises(FileNotFoundError):
        nh.DiskIndex.open(tmp_path / "no")
