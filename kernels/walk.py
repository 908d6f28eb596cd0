"""Search a graph: beam search over codes, then exact distances of what it found."""

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.beam import beam_search
from nearhash.kernels.codes import CONSTANTS, prepare, query_buffer
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.pool import insert_at, key_slot, make_key, unpack
from nearhash.kernels.scan import passes, row_distance
from nearhash.kernels.simd import pointer

RERANK_AHEAD = 4


@jit_inline
def next_epoch(seen, state):
    """A value that no entry of `seen` has: the set of visited nodes is emptied by counting, not by writing."""
    epoch = np.int64(state[0]) + 1
    if epoch == 256:
        seen[:] = 0
        epoch = 1
    state[0] = epoch
    return np.uint8(epoch)


@jit
def search_batch(
    model, codes, encoded, neighbours, entry, seen, state, beams, rerank,
    vectors, queries, metric, offset, mask, labels, windows, slots, distances, matches,
):  # fmt: skip
    """Approximate neighbours of a batch of queries.

    model, codes (n, width) and encoded queries (q, width), see codes.py; neighbours (n, degree) int32; seen (n,) and
    state (1,) uint8 scratch of the calling thread; beams (q,) int64 pool sizes; rerank, how many of the nearest
    candidates that pass the filter are measured exactly; vectors (n, v) float32 with v >= d; queries (q, d) float32;
    metric and offset as in scan.row_distance; mask, labels, windows as in scan.passes.
    Results: slots (q, k) int32 and distances (q, k) float32, -1 and inf where fewer were found; matches (q,) int64,
    the number of candidates in the pool that pass the filter.
    """
    degree, stride = neighbours.shape[1], vectors.shape[1]
    line = 64 // codes.itemsize
    vector_dim, k = queries.shape[1], slots.shape[1]
    rows, base, links = pointer(codes, 0), pointer(vectors, 0), pointer(neighbours, 0)
    code_queries, float_queries = pointer(encoded, 0), pointer(queries, 0)
    scheme, table = model[0], pointer(model[1], 0)
    buffer, constants = query_buffer(scheme), np.empty(CONSTANTS, np.float32)
    fresh, pool = np.empty(degree, np.int32), np.empty(max(1, beams.max()) if len(beams) else 1, np.uint64)
    best, unused = np.empty(k, np.uint64), np.empty(1, np.uint64)
    lines = (vector_dim + 15) // 16
    for query in range(queries.shape[0]):
        prepare(scheme, table, code_queries, query, pointer(buffer, 0), pointer(constants, 0))
        size, _ = beam_search(
            scheme, pointer(buffer, 0), pointer(constants, 0), rows, line, links, degree, entry,
            pointer(seen, 0), next_epoch(seen, state), pointer(fresh, 0), pointer(pool, 0), beams[query],
            pointer(unused, 0), 0,
        )  # fmt: skip
        # Keep what passes the filter at the front of the pool, then measure its nearest ones.
        found = 0
        for i in range(size):
            if passes(query, key_slot(pool[i]), mask, labels, windows):
                pool[found] = pool[i]
                found += 1
        matches[query] = found
        chosen = min(found, rerank)
        vector = simd.offset(float_queries, query * vector_dim)
        for i in range(min(RERANK_AHEAD, chosen)):
            _prefetch_vector(base, stride, lines, key_slot(pool[i]))
        count = 0
        for i in range(chosen):
            if i + RERANK_AHEAD < chosen:
                _prefetch_vector(base, stride, lines, key_slot(pool[i + RERANK_AHEAD]))
            slot = key_slot(pool[i])
            exact = row_distance(vector, simd.offset(base, slot * stride), vector_dim, metric, offset, np.float32(1.0))
            key = make_key(exact, slot)
            if count < k or key < best[k - 1]:
                insert_at(pointer(best, 0), count, k, key)
                count += 1 if count < k else 0
        unpack(best, count, slots[query], distances[query])


@jit_inline
def _prefetch_vector(base, stride, lines, slot):
    for line in range(lines):
        simd.prefetch(simd.offset(base, slot * stride + line * 16))
