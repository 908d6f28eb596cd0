"""Keys of bands, sorting and connected components against their specification."""

import numpy as np
import pytest

from nearhash.kernels import bands, radix, reference_bands, threads, union_find


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize(
    ("count", "k", "number", "rows"), [(0, 4, 2, 2), (1, 1, 1, 1), (7, 20, 3, 6), (33, 128, 9, 13)]
)
def test_band_keys(dtype, count, k, number, rows):
    rng = np.random.default_rng(k)
    values = rng.integers(0, np.iinfo(dtype).max, (count, k), dtype, endpoint=True)
    out = np.full((count, number), 0xDEAD, np.uint64)
    bands.band_keys(values, number, rows, np.uint64(2**63 + 5), out)
    np.testing.assert_array_equal(out, reference_bands.band_keys(values, number, rows, 2**63 + 5))
    assert len(np.unique(out)) == out.size  # also those of one value in all bands


def test_only_the_values_of_a_band_decide_its_key():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2**32, (1, 12), np.uint32)
    same = np.repeat(values, 12, axis=0)
    same[np.arange(12), np.arange(12)] ^= np.uint32(1) << rng.integers(0, 32, 12, np.uint32)
    out, one = np.empty((12, 3), np.uint64), np.empty((1, 3), np.uint64)
    bands.band_keys(same, 3, 4, np.uint64(1), out)
    bands.band_keys(values, 3, 4, np.uint64(1), one)
    assert ((out == one) == (np.arange(12)[:, None] // 4 != np.arange(3))).all()


def keys_of(kind, count):
    rng = np.random.default_rng(count)
    keys = rng.integers(0, 2**64, count, np.uint64, endpoint=False)
    if kind == "few":
        keys = keys[rng.integers(0, min(count, 3), count)] if count else keys
    elif kind == "low":
        keys >>= np.uint64(40)
    elif kind == "sorted":
        keys.sort()
    elif kind == "descending":
        keys[::-1].sort()
    elif kind == "one digit":
        keys = (keys & np.uint64(0x7FF)) << np.uint64(22)
    return keys


@pytest.mark.parametrize("kind", ["random", "few", "low", "sorted", "descending", "one digit"])
@pytest.mark.parametrize("count", [0, 1, 2, 24, 25, 300, 4096, 4097, 20_000])
@pytest.mark.parametrize("low_bit", [0, 16])
def test_sort_pairs(kind, count, low_bit):
    keys, numbers = keys_of(kind, count), np.arange(count, dtype=np.int32)
    expected = reference_bands.sort_pairs(keys, numbers, low_bit)
    radix.sort_pairs(keys, numbers, np.full(count, 0xDEAD, np.uint64), np.full(count, -7, np.int32), low_bit)
    np.testing.assert_array_equal(keys, expected[0])
    np.testing.assert_array_equal(numbers, expected[1])


def edges_of(kind, count):
    rng = np.random.default_rng(count)
    if kind == "sparse":
        return rng.integers(0, count, (count // 2, 2))
    if kind == "dense":
        return rng.integers(0, count, (3 * count, 2))
    path = rng.permutation(count) if kind == "mixed path" else np.arange(count)[::-1]
    return np.stack([path[:-1], path[1:]], axis=1)


@pytest.mark.parametrize("kind", ["sparse", "dense", "mixed path", "descending path"])
@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_components(kind, count):
    edges = edges_of(kind, count)
    expected = reference_bands.components(count, edges)
    parent = np.arange(count)
    assert union_find.components(parent, edges) == len(np.unique(expected))
    np.testing.assert_array_equal(parent, expected)


def test_components_in_any_order_and_in_parts():
    rng = np.random.default_rng(3)
    edges, expected = rng.integers(0, 5000, (3000, 2)), np.arange(5000)
    number = union_find.components(expected, edges)
    shuffled = rng.permutation(edges)[:, ::-1].astype(np.int32)
    parent = np.arange(5000, dtype=np.int32)
    for part in np.array_split(shuffled, 7):
        assert union_find.components(parent, np.ascontiguousarray(part)) >= number
    np.testing.assert_array_equal(parent, expected)
    assert union_find.components(parent, np.empty((0, 2), np.int32)) == number
    joined = sum(union_find.unite(parent, shuffled) for _ in range(2))
    assert joined == 0


def test_no_nodes():
    assert union_find.components(np.empty(0, np.int64), np.empty((0, 2), np.int64)) == 0


def unite_by_threads(parent, edges, chunk):
    joined = []
    threads.run_chunks(lambda a, b: joined.append(union_find.unite(parent, edges[a:b])), len(edges), 4, chunk)
    return sum(joined)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("kind", ["path", "star", "random", "pairs of paths"])
def test_threads_join_at_once(kind, dtype):
    """All threads work on the same few roots all the time, again and again."""
    count, rng = 20_000, np.random.default_rng(5)
    nodes = rng.permutation(count)
    if kind == "path":
        edges = np.stack([nodes[:-1], nodes[1:]], axis=1)
    elif kind == "star":
        edges = np.stack([np.full(count, nodes[0]), nodes], axis=1)
    elif kind == "random":
        edges = rng.integers(0, count, (count * 2 // 3, 2))
    else:
        edges = np.stack([nodes[:-2], nodes[2:]], axis=1)
    expected = np.arange(count, dtype=dtype)
    number = union_find.components(expected, edges)
    for turn in range(20):
        edges = rng.permutation(edges)
        parent = np.arange(count, dtype=dtype)
        joined = unite_by_threads(parent, edges, 64 << turn % 4)
        assert (parent <= np.arange(count)).all()
        assert joined == count - number
        assert union_find.flatten(parent) == number
        np.testing.assert_array_equal(parent, expected)
