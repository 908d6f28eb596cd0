"""Tables of band keys and agreement of sketches against their specification."""

from itertools import pairwise

import numpy as np
import pytest

from nearhash.index.minhash_estimate import jaccard_estimates, least_agreement, zero_fields
from nearhash.index.minhash_tables import Run, candidates
from nearhash.kernels import band_tables, reference_bands
from nearhash.kernels.agreement import count_agreement, match_one, rank_candidates
from nearhash.kernels.bands import band_keys

KINDS = ["random", "few", "equal", "low bits"]


def keys_of(kind, count, bands, seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 2**64, (count, bands), np.uint64)
    if kind == "few":
        keys = rng.choice(rng.integers(0, 2**64, 5, np.uint64), (count, bands))
    elif kind == "equal":
        keys[:] = np.uint64(2**64 - 1)
    elif kind == "low bits":  # the same high part everywhere
        keys = (keys & np.uint64(0xFFFFF)) | np.uint64(7 << 40)
    return keys


def poisoned(bands, count, first_slot):
    run = Run.empty(bands, count, first_slot)
    for array in run[:4]:
        array.fill(77)
    return run


def filled(keys, first_slot=0):
    run = poisoned(keys.shape[1], len(keys), first_slot)
    band_tables.fill_bands(keys, 0, keys.shape[1], first_slot, run.bits, *run[:4])
    return run


def assert_is(run, keys, slots):
    for array, expected in zip(run[:4], reference_bands.table(keys, slots, run.bits), strict=True):
        np.testing.assert_array_equal(array, expected)
    seen = np.full(run.size, 9, np.uint8)
    for band in range(keys.shape[1]):
        assert band_tables.intact(run.table, run.starts, band, run.first_slot, run.bits, seen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 15, 16, 33, 700])
def test_fill_merge_keep_and_read(kind, count):
    keys, first = keys_of(kind, count, 3), 10
    run = filled(keys, first)
    assert_is(run, keys, np.arange(first, first + count))

    parts = [filled(keys[: count // 3], first), filled(keys[count // 3 :], first + count // 3)]
    merged = poisoned(3, count, first)
    band_tables.merge_bands(parts[0].table, parts[1].table, 0, 3, merged.bits, *merged[:4])
    assert_is(merged, keys, np.arange(first, first + count))

    stays = np.random.default_rng(1).random(count) < 0.6
    renumbered = np.where(stays, np.cumsum(stays) + 4, -1).astype(np.int32)
    kept = poisoned(3, int(stays.sum()), 5)
    band_tables.keep_bands(run.table, 0, 3, first, renumbered, kept.bits, *kept[:4])
    assert_is(kept, keys[stays], renumbered[stays])

    low, high = first + count // 4, first + count // 2 + 1
    read = np.full((high - low, 3), 77, np.uint64)
    band_tables.read_keys(run.table, 0, 3, low, high, read)
    np.testing.assert_array_equal(read, keys[low - first : high - first] & ~np.uint64(0xFFFF))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 17, 300])
def test_only_the_bands_asked_for(kind, count):
    keys = keys_of(kind, count, 4)
    run, whole = poisoned(4, count, 0), filled(keys)
    band_tables.fill_bands(keys, 1, 3, 0, run.bits, *run[:4])
    for array, expected in zip(run[:4], whole[:4], strict=True):
        np.testing.assert_array_equal(array[1:3], expected[1:3])
        assert (array[[0, 3]] == 77).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1,), (40,), (900,), (500, 200, 3), (1, 1)])
def test_candidates(kind, sizes):
    keys = keys_of(kind, sum(sizes), 5)
    edges = np.cumsum([0, *sizes])
    runs = tuple(filled(keys[a:b], int(a)) for a, b in pairwise(edges))
    rng = np.random.default_rng(2)
    queries = np.concatenate([keys[rng.integers(0, len(keys), 30)], keys_of(kind, 20, 5, seed=1)])
    queries[:10, 1:] = rng.integers(0, 2**64, (10, 4), np.uint64)
    queries[5:15] ^= np.uint64(0xFF)  # bits that are not kept
    for above in (np.full(50, -1, np.int32), rng.integers(-1, len(keys), 50).astype(np.int32)):
        found = np.concatenate(list(candidates(runs, queries, above)))
        np.testing.assert_array_equal(found, reference_bands.candidates(queries, keys, above))
    assert not list(candidates(runs, queries[:0], above[:0]))
    assert not np.concatenate(list(candidates((), queries, above))).size


def test_look_up_finds_where_equal_keys_are():
    keys = np.sort(keys_of("few", 4000, 2), axis=0)
    run, queries = filled(keys), np.unique(keys)[:, None].repeat(2, axis=1)
    first, last = np.full((2, len(queries), 2), 77, np.int32)
    totals = band_tables.look_up(queries, run.high, run.low, run.starts, run.bits, first, last)
    for band in range(2):
        np.testing.assert_array_equal(first[:, band], np.searchsorted(keys[:, band], queries[:, band]))
        np.testing.assert_array_equal(last[:, band], np.searchsorted(keys[:, band], queries[:, band], side="right"))
    np.testing.assert_array_equal(totals, (last - first).sum(axis=1))


def test_candidates_in_parts(monkeypatch):
    keys = keys_of("few", 200, 3)
    runs, above = (filled(keys),), np.full(20, -1, np.int32)
    whole = np.concatenate(list(candidates(runs, keys[:20], above)))
    monkeypatch.setattr("nearhash.index.minhash_tables._MOST_FOUND", 150)
    parts = list(candidates(runs, keys[:20], above))
    assert 10 < len(parts) <= 20
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def damages(run):
    """What can be wrong with a table; each returns nothing and changes a copy."""

    def swap(array):
        array[1, [3, 4]] = array[1, [4, 3]]

    def put(array, value, at=5):
        array[1, at] = value

    return [
        lambda r: swap(r.high), lambda r: put(r.slots, r.slots[1, 6]),
        lambda r: put(r.slots, -1), lambda r: put(r.slots, 2**31 - 1), lambda r: put(r.starts, 10**6, 0),
        lambda r: put(r.starts, -1, 1), lambda r: put(r.starts, r.size + 1, -1), lambda r: put(r.high, 2**32 - 1),
    ]  # fmt: skip


def test_intact():
    keys = keys_of("random", 100, 2)
    seen = np.empty(100, np.uint8)
    for number in range(len(damages(None))):
        run = filled(keys, 7)
        damages(run)[number](run)
        assert not band_tables.intact(run.table, run.starts, 1, 7, run.bits, seen), number
        assert band_tables.intact(run.table, run.starts, 0, 7, run.bits, seen)
    assert not band_tables.intact(run.table, run.starts, 0, 8, run.bits, seen)
    same = filled(keys_of("equal", 10, 2))
    same.slots[0, [2, 3]] = same.slots[0, [3, 2]]
    assert not band_tables.intact(same.table, same.starts, 0, 0, same.bits, np.empty(10, np.uint8))
    lows = filled(keys_of("low bits", 100, 2))
    lows.low[0, 50] = 0
    assert not band_tables.intact(lows.table, lows.starts, 0, 0, lows.bits, seen)


@pytest.mark.parametrize("bits", [32, 16, 8, 4, 2, 1])
@pytest.mark.parametrize("k", [8, 21, 128])
@pytest.mark.parametrize("share", [0, 0.6, 1])
def test_rank_candidates(bits, k, share):
    rng = np.random.default_rng(k)
    dtype, width = {32: (np.uint32, k), 16: (np.uint16, k), 8: (np.uint8, k)}.get(bits, (np.uint8, -(-k * bits // 8)))
    queries, sketches = rng.integers(0, np.iinfo(dtype).max, (2, 30, width), dtype, endpoint=True)
    if bits < 8 and k * bits % 8:
        queries[:, -1] &= (1 << k * bits % 8) - 1
        sketches[:, -1] &= (1 << k * bits % 8) - 1
    sketches[::2] = np.where(rng.random((15, width)) < 0.6, queries[::2], sketches[::2])
    pairs = rng.integers(0, 30, (2, 500))
    pairs[1, ::3] = pairs[0, ::3]
    entries = np.sort((pairs[0] << 32 | pairs[1]).astype(np.uint64))
    live = np.empty(0, np.uint8) if share == 1 else (rng.random(30) < share).astype(np.uint8)
    for least in (0, 1, k // 2, k):
        expected = reference_bands.rank_candidates(entries, live, queries, sketches, bits, k, least)
        out, parts = np.full(500, 77, np.uint64), []
        for first, last in ((0, 200), (200, 500)):
            count = rank_candidates(entries, first, last, live, queries, sketches, zero_fields(bits), k, least, out)
            assert (out[first + count : last] == 77).all()
            parts.append(out[first : first + count])
        found = np.concatenate(parts)
        np.testing.assert_array_equal(found, expected)
    assert len(expected) == 0 or share > 0


@pytest.mark.parametrize("bits", [32, 16, 8])
@pytest.mark.parametrize("share", [0, 0.6, 1])
def test_match_one(bits, share):
    rng, k, dtype = np.random.default_rng(bits), 21, {32: np.uint32, 16: np.uint16, 8: np.uint8}[bits]
    query, sketches = rng.integers(0, 256, (1, k), dtype), rng.integers(0, 256, (40, k), dtype)
    sketches[::2] = np.where(rng.random((20, k)) < 0.6, query, sketches[::2])
    live = np.empty(0, np.uint8) if share == 1 else (rng.random(40) < share).astype(np.uint8)
    ids, estimates = rng.permutation(100)[:40], rng.random(k + 1)
    for size in (0, 1, 2, 200):
        entries = rng.integers(0, 40, size, np.uint64)
        for least in (0, 1, k // 2, k):
            numbers = reference_bands.rank_candidates(entries, live, query, sketches, bits, k, least)
            numbers = np.sort(numbers) if least else numbers
            work = np.concatenate([entries, np.full(3, 2**40, np.uint64)])
            out_ids, similarities = np.full(size + 3, -7), np.full(size + 3, -7, np.float32)
            count = match_one(
                work, size, live, query, sketches, k, least, ids, estimates, out_ids, similarities
            )  # fmt: skip
            assert (out_ids[count:] == -7).all()
            assert (similarities[count:] == -7).all()
            assert (work[size:] == 2**40).all()
            np.testing.assert_array_equal(out_ids[:count], ids[(numbers & np.uint64(2**31 - 1)).astype(int)])
            expected = estimates[(numbers >> np.uint64(31)).astype(int) & 0x1FFFF].astype(np.float32)
            np.testing.assert_array_equal(similarities[:count], expected if least else np.full(count, np.nan))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_look_up_one(dtype):
    rng = np.random.default_rng(4)
    values = rng.integers(0, 3, (200, 14), dtype)
    keys = np.full((200, 4), 77, np.uint64)
    band_keys(values, 4, 3, np.uint64(9), keys)
    runs = (filled(keys[:120]), filled(keys[120:], 120))
    for number in range(30):
        expected = np.sort(np.nonzero(keys == keys[number])[0])
        out, size = np.full(len(expected) + 5, 10**6, np.uint64), 2
        for run in runs:
            size = band_tables.look_up_one(
                values[number : number + 1], 3, np.uint64(9), *run[:4], out, size
            )  # fmt: skip
        assert size == len(expected) + 2
        assert (out[[0, 1, -3, -2, -1]] == 10**6).all()
        np.testing.assert_array_equal(np.sort(out[2:size]), expected)
        first = np.count_nonzero(expected < 120)
        for room, answer in ((first - 1, -1), (first, first)):
            small = np.full(room, 10**6, np.uint64)
            arguments = (values[number : number + 1], 3, np.uint64(9), *runs[0][:4])
            assert band_tables.look_up_one(*arguments, small, 0) == answer
            assert answer >= 0 or (small == 10**6).all()


def test_estimates():
    assert jaccard_estimates(4, 32).tolist() == [1, 0.75, 0.5, 0.25, 0]
    np.testing.assert_allclose(jaccard_estimates(4, 1), [1, 0.5, 0, 0, 0])
    assert least_agreement(0.5, 128, 32) == 64
    assert least_agreement(0.501, 128, 32) == 65
    assert least_agreement(1, 128, 32) == least_agreement(1, 128, 2) == 128
    assert least_agreement(0.5, 4, 1) == 3
    assert least_agreement(0, 128, 8) == 0


@pytest.mark.parametrize(("k", "bands", "rows"), [(1, 1, 1), (8, 4, 2), (33, 3, 10), (128, 18, 7)])
def test_count_agreement(k, bands, rows):
    rng = np.random.default_rng(k)
    sketches = rng.integers(0, 2**16, (40, k), np.uint16)
    sketches[20:] = np.where(rng.random((20, k)) < 0.9, sketches[:20], sketches[20:])
    left, right = rng.integers(0, 40, (2, 500))
    left[:20], right[:20] = np.arange(20), np.arange(20, 40)
    agreeing, shared = np.full(500, -7), np.full(500, -7)
    count_agreement(sketches, left, right, bands, rows, agreeing, shared)
    expected = reference_bands.count_agreement(sketches, left, right, bands, rows)
    np.testing.assert_array_equal(agreeing, expected[0])
    np.testing.assert_array_equal(shared, expected[1])
    count_agreement(sketches, left[:0], right[:0], bands, rows, agreeing[:0], shared[:0])
