"""Search a graph: beam search over codes, then finer distances of what it found."""

import numpy as np

from nearhash.kernels.beam import beam_search
from nearhash.kernels.codes import CONSTANTS, prepare_query, query_buffer
from nearhash.kernels.fine import ask_for, fine_distance
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.pool import insert_at, key_slot, make_key, unpack
from nearhash.kernels.scan import L2, passes
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
    model, codes, neighbours, entry, seen, state, beams, rerank, queries, source, fine_queries, metric, bases,
    nearest, reach, mask, labels, windows, slots, distances, matches, measured,
):  # fmt: skip
    """Approximate neighbours of a batch of queries.

    model and codes (n, width), see codes.py; neighbours (n, degree) int32; seen (n,) and state (1,) uint8 scratch of
    the calling thread; beams (q,) int64 pool sizes; rerank, how many of the nearest candidates that pass the filter
    are measured again; queries (q, dim) float32; source, fine_queries (q, dim) float32, metric and bases (q,) float32
    as `fine_distance` takes them; nearest (q,) int64 and reach, float32, as in `beam_search`; mask, labels, windows as
    in scan.passes.
    Results: slots (q, k) int32 and distances (q, k) float32, -1 and inf where fewer were found; matches (q,) int64,
    the number of candidates in the pool that pass the filter; measured (q,) int64, that of the nodes measured.
    """
    degree, line, (count, dim), k = neighbours.shape[1], 64 // codes.itemsize, queries.shape, slots.shape[1]
    rows, links = pointer(codes, 0), pointer(neighbours, 0)
    scheme, table = model[0], pointer(model[1], 0)
    buffer, constants = query_buffer(scheme), np.empty(CONSTANTS, np.float32)
    fresh, pool = np.empty(degree, np.int32), np.empty(max(1, beams.max()) if len(beams) else 1, np.uint64)
    best, unused = np.empty(k, np.uint64), np.empty(1, np.uint64)
    for query in range(count):
        asked = pointer(queries, query * dim)
        prepare_query(scheme, table, asked, L2, pointer(buffer, 0), pointer(constants, 0))
        size, _, measured[query] = beam_search(
            scheme, pointer(buffer, 0), pointer(constants, 0), True, rows, line, links, degree, entry,
            pointer(seen, 0), next_epoch(seen, state), pointer(fresh, 0), pointer(pool, 0), beams[query],
            pointer(unused, 0), 0, nearest[query], reach,
            max(nearest[query], rerank),
        )  # fmt: skip
        # Keep what passes the filter at the front of the pool, then measure its nearest ones.
        found = 0
        for i in range(size):
            if passes(query, key_slot(pool[i]), mask, labels, windows):
                pool[found] = pool[i]
                found += 1
        matches[query] = found
        chosen = min(found, rerank)
        vector = pointer(fine_queries, query * dim)
        for i in range(min(RERANK_AHEAD, chosen)):
            ask_for(source, key_slot(pool[i]), dim)
        taken = 0
        for i in range(chosen):
            if i + RERANK_AHEAD < chosen:
                ask_for(source, key_slot(pool[i + RERANK_AHEAD]), dim)
            slot = key_slot(pool[i])
            key = make_key(fine_distance(source, slot, vector, dim, metric, bases[query]), slot)
            if taken < k or key < best[k - 1]:
                insert_at(pointer(best, 0), taken, k, key)
                taken += 1 if taken < k else 0
        unpack(best, taken, slots[query], distances[query])
