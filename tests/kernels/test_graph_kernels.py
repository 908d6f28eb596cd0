"""Beam search, pruning and batch insertion against plain Python."""

import numba
import numpy as np
import pytest

from nearhash.index.arrays import aligned_empty
from nearhash.index.codecs import make_codec
from nearhash.kernels import beam, codes, grow, prune, reference
from nearhash.kernels import walk as walk_kernels
from nearhash.kernels.pool import key_slot, make_key
from nearhash.kernels.scan import L2
from nearhash.kernels.simd import pointer

ENDLESS = np.float32(np.inf)
MODEL = make_codec("f32", 3, has_extra=False).model


@numba.njit
def walk(model, rows, query, neighbours, entry, width, limit, by_query, nearest=1, reach=ENDLESS, wanted=1):
    scheme, table = model
    buffer, constants = codes.query_buffer(scheme), np.empty(codes.CONSTANTS, np.float32)
    if by_query:
        asked = pointer(rows, query * rows.shape[1])
        codes.prepare_query(scheme, pointer(table, 0), asked, L2, pointer(buffer, 0), pointer(constants, 0))
    else:
        codes.prepare(scheme, pointer(table, 0), pointer(rows, 0), query, pointer(buffer, 0), pointer(constants, 0))
    seen, fresh = np.zeros(len(rows), np.uint8), np.full(neighbours.shape[1], -9, np.int32)
    pool, expanded = np.full(width, np.uint64(0xDEAD)), np.full(limit, np.uint64(0xDEAD))
    size, steps, measured = beam.beam_search(
        scheme, pointer(buffer, 0), pointer(constants, 0), by_query, pointer(rows, 0), 16, pointer(neighbours, 0),
        neighbours.shape[1], entry, pointer(seen, 0), np.uint8(1), pointer(fresh, 0), pointer(pool, 0), width,
        pointer(expanded, 0), limit, nearest, reach, wanted,
    )  # fmt: skip
    steps = min(steps, limit)
    return [key_slot(key) for key in pool[:size]], [key_slot(key) for key in expanded[:steps]], seen.sum(), measured


@numba.njit
def prune_list(model, rows, node, distances, candidates, alpha, degree, parents):
    scheme, table = model
    buffer, constants = codes.query_buffer(scheme), np.empty(codes.CONSTANTS, np.float32)
    keys = np.empty(len(candidates), np.uint64)
    for i in range(len(candidates)):
        keys[i] = make_key(distances[candidates[i]], candidates[i])
    kept = np.full(degree, -9, np.int32)
    count = prune.robust_prune(
        scheme, pointer(table, 0), pointer(buffer, 0), pointer(constants, 0), pointer(rows, 0), node, pointer(keys, 0),
        len(keys), alpha, degree, pointer(parents, 0), pointer(kept, 0),
    )  # fmt: skip
    return kept[:count]


def grid_rows(count, rng):
    """Points with small integer coordinates: distances are exact in float32, and there are many ties and duplicates."""
    rows = aligned_empty((count, 16), np.float32)
    rows[...] = 0
    rows[:, :3] = rng.integers(0, 6, (count, 3))
    return rows


def pairwise(rows):
    return ((rows[:, None].astype(np.float64) - rows[None]) ** 2).sum(-1).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_beam_search(seed):
    rng = np.random.default_rng(seed)
    count, degree = int(rng.integers(2, 200)), int(rng.integers(1, 20))
    rows = grid_rows(count, rng)
    neighbours = rng.integers(0, count, (count, degree)).astype(np.int32)
    for node in range(count):  # rows of all lengths, -1 after the last
        neighbours[node, rng.integers(0, degree + 1) :] = -1
    away = pairwise(rows)
    for width in (1, 2, 7, 64, 300):
        query, entry = (int(x) for x in rng.integers(0, count, 2))
        expected, order = reference.beam_search(away[query], neighbours, entry, width)
        for by_query in (False, True):
            found, expanded, seen, measured = walk(MODEL, rows, query, neighbours, entry, width, 400, by_query)
            assert found == expected
            assert expanded == order
            assert measured == seen


@pytest.mark.parametrize("seed", range(8))
def test_a_walk_ends_where_nothing_is_within_reach(seed):
    rng = np.random.default_rng(seed)
    count, degree = int(rng.integers(20, 200)), int(rng.integers(3, 12))
    rows = grid_rows(count, rng)
    neighbours = rng.integers(0, count, (count, degree)).astype(np.int32)
    away, shorter = pairwise(rows), 0
    for reach in (1.0, 1.2, 2.0, 1e6):
        for nearest, wanted in ((1, 1), (4, 4), (4, 9), (300, 300)):
            query, entry = (int(x) for x in rng.integers(0, count, 2))
            found, expanded, seen, measured = walk(
                MODEL, rows, query, neighbours, entry, 64, 400, True, nearest, np.float32(reach), wanted
            )
            expected, order = reference.beam_search(away[query], neighbours, entry, 64, nearest, reach, wanted)
            assert found == expected
            assert expanded == order
            assert measured == seen
            shorter += len(order) < len(reference.beam_search(away[query], neighbours, entry, 64)[1])
    assert shorter > 3


@numba.njit
def epochs(seen, state, count):
    return [walk_kernels.next_epoch(seen, state) for _ in range(count)]


def test_a_new_epoch_marks_nothing_as_seen():
    """The counter has one byte: when it starts again, all marks of the round before are gone."""
    state = np.zeros(1, np.uint8)
    assert [int(e) for e in epochs(np.zeros(3, np.uint8), state, 254)] == list(range(1, 255))
    seen = np.array([1, 254, 255], np.uint8)
    assert [int(e) for e in epochs(seen, state, 1)] == [255]
    assert seen.tolist() == [1, 254, 255]
    assert [int(e) for e in epochs(seen, state, 2)] == [1, 2]
    assert seen.tolist() == [0, 0, 0]


def test_beam_search_records_no_more_than_its_limit():
    rows = grid_rows(50, np.random.default_rng(0))
    neighbours = np.roll(np.arange(50, dtype=np.int32), -1)[:, None].copy()
    found, expanded, _, _ = walk(MODEL, rows, 0, neighbours, 0, 50, 5, False)
    assert sorted(found) == list(range(50))
    assert expanded == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(12))
def test_robust_prune(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 120))
    rows, away = grid_rows(count, rng), None
    away = pairwise(rows)
    node = int(rng.integers(count))
    others = np.array([i for i in range(count) if i != node], np.int32)
    candidates = others[np.lexsort((others, away[node, others]))]
    parents = np.full(count, -1, np.int32)
    for degree in (2, 5, 32):
        children = rng.choice(others, min(degree // 2, len(others)), replace=False)
        parents[:] = -1
        parents[children] = node
        for alpha in (1.0, 1.1, 2.0):
            kept = prune_list(MODEL, rows, node, away[node], candidates, np.float32(alpha), degree, parents).tolist()
            assert kept == reference.robust_prune(away, node, candidates.tolist(), alpha, degree, parents)
            assert set(children.tolist()) <= set(kept), "a child was pruned"


def test_duplicates_take_one_place():
    rows = grid_rows(40, np.random.default_rng(1))
    rows[:30] = rows[0]
    away = pairwise(rows)
    order = np.lexsort((np.arange(40), away[0]))
    candidates = order[order != 0].astype(np.int32)
    kept = prune_list(MODEL, rows, 0, away[0], candidates, np.float32(1.1), 20, np.full(40, -1, np.int32))
    assert (kept < 30).sum() == 1


def test_nothing_to_prune():
    rows = grid_rows(2, np.random.default_rng(1))
    empty = np.empty(0, np.int32)
    assert (
        len(prune_list(MODEL, rows, 0, np.zeros(2, np.float32), empty, np.float32(1), 4, np.full(2, -1, np.int32))) == 0
    )


def test_links_are_appended_or_pruned():
    """Each target takes its sources: a row with room gets them behind its own, a full one is pruned again."""
    rng = np.random.default_rng(4)
    count, degree = 60, 4
    rows = grid_rows(count, rng)
    away = pairwise(rows)
    neighbours = np.full((count, degree), -1, np.int32)
    neighbours[7, :2] = [1, 2]
    neighbours[9] = [3, 4, 5, 6]
    parents = np.full(count, -1, np.int32)
    parents[[5, 30]] = 9
    pairs = np.array([(7 << 32) | 20, (7 << 32) | 21, (9 << 32) | 30, (9 << 32) | 31], np.uint64)
    before = neighbours.copy()
    grow.link_batch(MODEL, rows, neighbours, pairs, np.array([0, 2, 4]), 0, 2, np.float32(1.1), parents)
    assert neighbours[7].tolist() == [1, 2, 20, 21]
    sources = np.array([3, 4, 5, 6, 30, 31])
    candidates = sources[np.lexsort((sources, away[9, sources]))].tolist()
    expected = reference.robust_prune(away, 9, candidates, 1.1, degree, parents)
    assert neighbours[9].tolist() == expected + [-1] * (degree - len(expected))
    untouched = np.delete(np.arange(count), [7, 9])
    assert np.array_equal(neighbours[untouched], before[untouched])


def test_parents_have_room_and_descend_when_neighbours_have_not():
    neighbours = np.full((8, 2), -1, np.int32)
    neighbours[2:, 0] = 0  # everybody's nearest is node 0
    parents = np.array([-1, 0, -1, -1, -1, -1, -1, -1], np.int32)
    children = np.array([1, 0, 0, 0, 0, 0, 0, 0], np.int32)
    heirs = np.array([1, -1, -1, -1, -1, -1, -1, -1], np.int32)
    extra = np.full((6, 2), -9, np.int32)
    nodes = np.arange(2, 8, dtype=np.int32)
    added = grow.choose_parents(neighbours, nodes, parents, children, heirs, 2, extra)
    assert parents[2] == 0  # the last room of node 0
    assert added == 5
    assert extra[:added].tolist() == [[parents[node], node] for node in nodes[1:]]
    assert np.bincount(parents[1:], minlength=8).max() <= 2
    for node in nodes:  # every chain of parents ends at the root
        steps = 0
        while node != 0:
            node, steps = parents[node], steps + 1
            assert steps < 8
