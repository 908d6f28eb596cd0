"""Scans and tables of binary codes against sorting all distances."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from numba import njit

from nearhash.index.arrays import aligned_empty
from nearhash.kernels import hamming, multi_index, reference_hamming, simd_hamming
from nearhash.kernels.simd import pointer

NO_MASK, NO_LABELS, NO_WINDOWS = np.empty(0, np.uint8), np.empty(0), np.empty((0, 2))
EVERYTHING = NO_MASK, NO_LABELS, NO_WINDOWS
SHAPES = [(1, 700), (4, 64), (4, 1100), (5, 65), (9, 130), (16, 63), (3, 1)]


def codes(seed, count, words, spread=64):
    """Random codes; with few distinct bits where `spread` is small, so that there are many ties."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 2 ** min(spread, 63), (count, words), np.int64).astype(np.uint64)
    return low | (rng.integers(0, 2, (count, words)).astype(np.uint64) << np.uint64(63))


def filters(seed, count, queries, kind):
    rng = np.random.default_rng(seed)
    mask = (rng.random(count) < 0.5).astype(np.uint8) if kind in ("mask", "both") else NO_MASK
    labels, windows = NO_LABELS, NO_WINDOWS
    if kind in ("window", "both"):
        labels = rng.integers(0, 20, count).astype(float)
        windows = np.sort(rng.integers(0, 21, (queries, 2)), axis=1).astype(float)
    allowed = np.ones((queries, count), bool) if not len(mask) else np.tile(mask.astype(bool), (queries, 1))
    if len(windows):
        allowed &= (labels >= windows[:, :1]) & (labels < windows[:, 1:])
    return (mask, labels, windows), allowed


def pools(queries, words, k):
    keys = np.full((queries, hamming.pool_capacity(k)), 12345, np.uint64)
    return keys, np.zeros(queries, np.int64), np.full(queries, 64 * words + 1, np.int64)


def unpacked(keys, sizes, k):
    slots, distances = np.full((len(keys), k), 99, np.int32), np.full((len(keys), k), np.nan, np.float32)
    hamming.unpack_codes(keys, sizes, slots, distances)
    return slots, distances


def block_for(words):
    block = aligned_empty((hamming.block_words(words),), np.uint64)
    block[:] = 0xDEADBEEF
    return block


@njit
def call_transpose(rows, block):
    simd_hamming.transpose_rows(pointer(rows, 0), rows.shape[1], pointer(block, 0))


@njit
def call_block(query, block, words, bound, out):
    return simd_hamming.hamming_block(pointer(query, 0), pointer(block, 0), words, bound, pointer(out, 0))


@njit
def call_rows(query, rows, bound, out):
    return simd_hamming.hamming_rows(pointer(query, 0), pointer(rows, 0), rows.shape[1], bound, pointer(out, 0))


@njit
def call_rows4(query, rows, bound, out):
    return simd_hamming.hamming_rows4(pointer(query, 0), pointer(rows, 0), bound, pointer(out, 0))


@njit
def call_distance(x, y):
    return simd_hamming.hamming(pointer(x, 0), pointer(y, 0), x.shape[0])


@pytest.mark.parametrize("words", [1, 2, 3, 4, 7, 8, 13])
def test_blocks(words):
    rows, asked = codes(words, 64, words), codes(words + 50, 1, words)
    block, out = np.full((words + 1, 64), 7, np.uint64), np.full(65, 7, np.uint64)
    call_transpose(rows, block)
    assert np.array_equal(block[:-1], reference_hamming.transposed(rows))
    assert (block[-1] == 7).all()
    away = reference_hamming.distances(asked, rows)[0]
    for bound in (0, int(away.min()), int(away.min()) + 1, int(np.median(away)), 64 * words + 1):
        steps = [
            lambda bound: call_block(asked[0], block, words, bound, out),
            lambda bound: call_rows(asked[0], rows, bound, out),
        ]
        if words == 4:
            steps.append(lambda bound: call_rows4(asked[0], rows, bound, out))
        for step in steps:
            out[:] = 7
            near = int(step(bound))
            assert [near >> i & 1 for i in range(64)] == (away < bound).tolist()
            assert np.array_equal(out[:64], away if near else np.full(64, 7))
            assert out[64] == 7
    assert [call_distance(asked[0], row) for row in rows] == away.tolist()


def test_distances_of_the_extremes():
    for words in (1, 4, 6, 512):
        none, all_ones = np.zeros(words, np.uint64), np.full(words, 2**64 - 1, np.uint64)
        assert call_distance(none, all_ones) == 64 * words
        assert call_distance(all_ones, all_ones) == 0


@pytest.mark.parametrize("kind", ["none", "mask", "window", "both"])
@pytest.mark.parametrize(("words", "count"), SHAPES)
def test_scan(words, count, kind):
    rows, asked = codes(1, count, words, spread=3), codes(2, 9, words, spread=3)
    parts, allowed = filters(3, count, 9, kind)
    away, k = reference_hamming.distances(asked, rows), 12
    keys, sizes, bounds = pools(9, words, k)
    cut = count // 3
    for first, last in ((0, cut), (cut, cut), (cut, count)):
        hamming.scan_codes(asked, rows, first, last, k, *parts, block_for(words)[: 128 * words], keys, sizes, bounds)
    if kind == "none" and count > keys.shape[1]:
        assert (bounds < 64 * words + 1).all(), "a bound learned in one block must help in the next"
    assert (bounds >= np.sort(away, axis=1)[:, :k].max(axis=1)).all()
    slots, distances = unpacked(keys, sizes, k)
    for query in range(9):  # a single query takes another way, once a block is full
        one, one_size, one_bound = pools(1, words, k)
        own = parts[0], parts[1], parts[2][query : query + 1]
        alone = asked[query : query + 1].copy()
        hamming.scan_codes(alone, rows, 0, count, k, *own, block_for(words)[: 128 * words], one, one_size, one_bound)
        assert np.array_equal(unpacked(one, one_size, k)[0][0], slots[query])
    listed, listed_sizes, _ = pools(9, words, k)
    everything = np.random.default_rng(0).permutation(count).astype(np.int32)
    for query in range(9):
        hamming.scan_code_slots(asked, query, rows, everything, k, *parts, listed, listed_sizes)
        expected = reference_hamming.nearest(away[query], allowed[query], k)
        assert slots[query, : len(expected)].tolist() == expected.tolist()
        assert distances[query, : len(expected)].tolist() == away[query, expected].tolist()
        assert (slots[query, len(expected) :] == -1).all()
        assert np.isinf(distances[query, len(expected) :]).all()
    assert np.array_equal(unpacked(listed, listed_sizes, k)[0], slots), "the order of the slots must not matter"


@pytest.mark.parametrize("order", ["falling", "rising", "equal"])
def test_scan_of_adversarial_orders(order):
    """Every row nearer than all before it, so that each is taken; or all at one distance, so that the first stay."""
    bits = {"falling": range(256, 0, -1), "rising": range(256), "equal": [100] * 400}[order]
    packed = np.array([[i < b for i in range(256)] for b in bits])
    rows = np.packbits(packed, axis=1, bitorder="little").view(np.uint64)
    asked, k = np.zeros((1, 4), np.uint64), 3
    keys, sizes, bounds = pools(1, 4, k)
    hamming.scan_codes(asked, rows, 0, len(rows), k, *EVERYTHING, block_for(4), keys, sizes, bounds)
    expected = np.argsort(list(bits), kind="stable")[:k]
    assert unpacked(keys, sizes, k)[0][0].tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["none", "both"])
@pytest.mark.parametrize(("words", "count"), SHAPES)
def test_range(words, count, kind):
    rows, asked = codes(4, count, words, spread=3), codes(5, 6, words, spread=3)
    parts, allowed = filters(6, count, 6, kind)
    away = reference_hamming.distances(asked, rows)
    for bound in (1, int(np.median(away)) + 1, 64 * words + 1):
        counts = np.zeros((6, bound), np.int64)
        hamming.count_within(asked, rows, bound, *parts, block_for(words), counts)
        places = np.concatenate([[0], np.cumsum(counts)])[:-1].reshape(counts.shape)
        slots, distances = np.full(counts.sum(), 99, np.int32), np.full(counts.sum(), np.nan, np.float32)
        hamming.place_within(asked, rows, bound, *parts, block_for(words), places, slots, distances)
        start = 0
        for query in range(6):
            expected = reference_hamming.within(away[query], allowed[query], bound - 1)
            stop = start + len(expected)
            assert slots[start:stop].tolist() == expected.tolist()
            assert distances[start:stop].tolist() == away[query, expected].tolist()
            start = stop
        assert start == counts.sum()


@njit
def call_substring(row, first, bits):
    return multi_index.substring(pointer(row, 0), first, bits)


@njit
def patterns(bits, weight):
    found = [(np.uint64(1) << np.uint64(weight)) - np.uint64(1)]
    for _ in range(1, multi_index.choose(bits, weight)):
        found.append(multi_index.next_pattern(found[-1]))
    return found


def test_patterns_are_all_numbers_of_a_weight():
    for bits, weight in ((1, 1), (5, 1), (5, 2), (5, 5), (12, 4), (24, 2)):
        expected = sorted(sum(1 << i for i in chosen) for chosen in combinations(range(bits), weight))
        assert [int(pattern) for pattern in patterns(bits, weight)] == expected
    assert multi_index.choose(3, 4) == 0


@pytest.mark.parametrize(("first", "bits"), [(0, 1), (0, 13), (60, 9), (63, 2), (40, 24), (64, 8), (183, 9)])
def test_table(first, bits):
    rows = codes(7, 500, 3)
    rows[:50] = rows[0]
    assert [int(call_substring(row, first, bits)) for row in rows] == reference_hamming.substring(
        rows, first, bits
    ).tolist()
    starts, slots = np.full((1 << bits) + 1, 77, np.int32), np.full(500, 77, np.int32)
    multi_index.build_table(rows, first, bits, starts, slots)
    expected = reference_hamming.table(rows, first, bits)
    assert np.array_equal(starts, expected[0])
    assert np.array_equal(slots, expected[1])


def made_tables(rows, bits, substrings):
    cuts = np.arange(substrings + 1, dtype=np.int64) * bits // substrings
    tables = [reference_hamming.table(rows, a, b - a) for a, b in pairwise(cuts)]
    origins = np.concatenate([[0], np.cumsum([len(starts) for starts, _ in tables])])
    starts, slots = (np.concatenate(part) for part in zip(*tables, strict=True))
    return cuts, origins, starts, slots.reshape(substrings, len(rows))


@pytest.mark.parametrize("kind", ["none", "both"])
@pytest.mark.parametrize(("bits", "substrings"), [(64, 5), (64, 64), (128, 9), (256, 22)])
def test_search_of_tables(bits, substrings, kind):
    """Exact whatever the radius, with ties; a budget too small or too few matches send a query to the scan."""
    rng, words, count, k = np.random.default_rng(bits), bits // 64, 900, 7
    rows = codes(8, count, words)
    for i in range(450):  # neighbours at up to 6 bits
        rows[450 + i] = rows[i // 10 * 10]
        for bit in rng.integers(0, bits, i % 7).tolist():
            rows[450 + i, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    asked = rows[rng.integers(0, 45, 20) * 10]
    parts, allowed = filters(9, count, 20, kind)
    away = reference_hamming.distances(asked, rows)
    tables, seen = made_tables(rows, bits, substrings), np.zeros(count // 64 + 1, np.uint64)
    for flips, budget in ((-1, 2**60), (-1, 300_000), (-1, 0), (0, 2**60)):
        keys, sizes, _ = pools(20, words, k)
        done = np.full(20, 9, np.uint8)
        cost = multi_index.search_tables(
            asked, rows, *tables, k, flips, budget, *parts, seen, keys, sizes, done
        )  # fmt: skip
        assert cost >= 0
        assert set(done.tolist()) <= {0, 1}
        assert not seen.any()
        if budget == 0:
            assert not done.any()
        if budget == 2**60 and kind == "none" and substrings < 64:
            assert done.all()
        slots, distances = unpacked(keys, sizes, k)
        for query in np.flatnonzero(done):
            expected = reference_hamming.nearest(away[query], allowed[query], k)
            if flips < 0:
                assert slots[query].tolist() == expected.tolist()
            else:
                assert (distances[query] >= away[query, expected]).all()
                assert allowed[query, slots[query]].all()
            assert distances[query].tolist() == away[query, slots[query]].tolist()


def test_more_candidates_than_there_is_room_for():
    rows = np.zeros((3 * multi_index.CANDIDATES, 1), np.uint64)
    rows[5000:] = 1
    tables, seen = made_tables(rows, 64, 3), np.zeros(len(rows) // 64 + 1, np.uint64)
    keys, sizes, _ = pools(2, 1, 4)
    done = np.zeros(2, np.uint8)
    asked = np.array([[1], [0]], np.uint64)
    multi_index.search_tables(asked, rows, *tables, 4, -1, 2**60, *EVERYTHING, seen, keys, sizes, done)
    assert done.all()
    assert not seen.any()
    assert unpacked(keys, sizes, 4)[0].tolist() == [[5000, 5001, 5002, 5003], [0, 1, 2, 3]]
