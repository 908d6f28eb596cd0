"""Kernels of the disk index against their references."""

import numpy as np
import pytest

from nearhash.kernels.closure import choose_closure
from nearhash.kernels.disk_scan import scan_read
from nearhash.kernels.pool import EMPTY_KEY
from nearhash.kernels.reference_disk import choose_closure as closure_reference
from nearhash.kernels.reference_disk import nearest_entries
from nearhash.kernels.scan import DOT, L2, unpack_pools

NOTHING = (np.empty(0, np.uint8), np.empty(0), np.empty((0, 2)))


@pytest.mark.parametrize(("count", "dim", "most"), [(0, 3, 2), (1, 1, 1), (37, 5, 3), (200, 17, 8)])
def test_closure(count, dim, most):
    rng = np.random.default_rng(dim)
    # Whole numbers: sums are exact in any order, and ties are frequent.
    centroids = rng.integers(-3, 4, (30, dim)).astype(np.float32)
    vectors = rng.integers(-3, 4, (count, dim)).astype(np.float32)
    squares = ((vectors[:, None] - centroids) ** 2).sum(-1)
    near = np.argsort(squares, axis=1, kind="stable")[:, :12].astype(np.int32)
    squares = np.take_along_axis(squares, near, axis=1)
    near[::5, 7:] = -1
    sizes = set()
    for reach, spacing in [(2.25, 1.69), (4, 1), (1, 1), (1e9, 1e9), (1e30, 0.5)]:
        chosen = np.full((count, most), 99, np.int32)
        choose_closure(near, squares, centroids, np.float32(reach), np.float32(spacing), chosen)
        expected = closure_reference(near, squares, centroids, reach, spacing, most)
        assert [[number for number in row if number >= 0] for row in chosen.tolist()] == expected
        assert all(row == sorted(row, key=lambda number: number < 0) for row in chosen.tolist()), "-1 only at the end"
        sizes |= {len(row) for row in expected}
    assert count < 30 or sizes == set(range(1, most + 1))


def lists_in_memory(rng, dtype, dim, lists, total):
    """A buffer of lists in which some slots stand several times, each time with the same vector."""
    vectors = rng.integers(0, 9, (total, dim)).astype(dtype)
    counts = rng.integers(0, 12, lists)
    counts[0] = 0
    slots = [rng.choice(total, count, replace=False).astype(np.int32) for count in counts]
    buffer = np.zeros(1 << 16, np.uint8)
    row_starts, slot_starts, position = [], [], 0
    for own in slots:
        rows = vectors[own]
        buffer[position : position + rows.nbytes] = rows.reshape(-1).view(np.uint8)
        row_starts.append(position // vectors.itemsize)
        position += -(-rows.nbytes // 64) * 64
        buffer[position : position + 4 * len(own)] = own.view(np.uint8)
        slot_starts.append(position // 4)
        position += -(-4 * len(own) // 64) * 64
    return vectors, slots, buffer, np.array(row_starts), np.array(slot_starts), counts.astype(np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int8])
@pytest.mark.parametrize("metric", [L2, DOT])
def test_scan_of_lists(dtype, metric):
    rng = np.random.default_rng(7)
    dim, lists, total, k = 5, 9, 40, 6
    vectors, slots, buffer, row_starts, slot_starts, counts = lists_in_memory(rng, dtype, dim, lists, total)
    rows = buffer.view(np.uint16 if dtype == np.float16 else dtype)
    queries = rng.integers(0, 9, (8, dim)).astype(np.float32)
    mask = (rng.random(total) < 0.7).astype(np.uint8)
    labels, windows = rng.random(total), np.sort(rng.random((8, 2)), axis=1)
    which = np.array([0, 2, 3, 7])
    wanted = [rng.permutation(lists)[:size] for size in (lists, 3, 1, 5)]
    indptr, numbers = np.cumsum([0] + [len(part) for part in wanted]), np.concatenate(wanted)
    floats = vectors.astype(np.float32)
    for filters in (NOTHING, (mask, *NOTHING[1:]), (mask, labels, windows)):
        pools, sizes = np.full((8, k), EMPTY_KEY), np.zeros(8, np.int64)
        for part in (range(2), range(2, 4), range(4)):  # again: nothing may enter twice
            bad = scan_read(
                queries, which, part.start, part.stop, indptr, numbers, rows, buffer.view(np.int32), row_starts,
                slot_starts, counts, total, metric, np.float32(1.0), *filters, pools, sizes,
            )  # fmt: skip
            assert bad == -1
        found, distances = np.full((8, k), 99, np.int32), np.full((8, k), 99, np.float32)
        unpack_pools(pools, sizes, found, distances)
        for i, query in enumerate(which):
            entries = []
            for slot in np.concatenate([slots[number] for number in wanted[i]]).tolist():
                inside = not len(filters[2]) or windows[query, 0] <= labels[slot] < windows[query, 1]
                if inside and (not len(filters[0]) or mask[slot]):
                    gap, dot = ((queries[query] - floats[slot]) ** 2).sum(), queries[query] @ floats[slot]
                    entries.append((float(gap if metric == L2 else 1 - dot), slot))
            expected = nearest_entries(entries, k)
            assert sizes[query] == len(expected)
            assert list(zip(distances[query].tolist(), found[query].tolist(), strict=True))[: len(expected)] == expected
        assert sizes[[1, 4, 5, 6]].tolist() == [0] * 4


@pytest.mark.parametrize("slot", [-1, 40, 2**31 - 1, -(2**31)])
def test_a_slot_that_cannot_be_is_reported(slot):
    rng = np.random.default_rng(7)
    _, _, buffer, row_starts, slot_starts, counts = lists_in_memory(rng, np.float32, 5, 9, 40)
    number = int(np.flatnonzero(counts > 2)[1])
    buffer.view(np.int32)[slot_starts[number] + 1] = slot
    pools, sizes = np.full((1, 3), EMPTY_KEY), np.zeros(1, np.int64)
    bad = scan_read(
        np.zeros((1, 5), np.float32), np.array([0]), 0, 1, np.array([0, 9]), np.arange(9), buffer.view(np.float32),
        buffer.view(np.int32), row_starts, slot_starts, counts, 40, L2, np.float32(0), *NOTHING, pools, sizes,
    )  # fmt: skip
    assert bad == number
