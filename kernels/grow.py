"""Insert batches of nodes into a graph: the kernels of the deterministic parallel build.

After ParlayANN (Manohar et al., PPoPP 2024): all nodes of a batch search the graph as it was before the batch and write
only their own rows; then the reverse links are grouped by target, and each target takes its own. No step
depends on how the work is cut, so neither does the graph.

Every node but the first has a parent, an earlier node whose link to it is never pruned. The parents form a tree that
hangs on the entry point, so every node can be reached, whatever else is pruned.
"""

import numpy as np

from nearhash.kernels.beam import beam_search
from nearhash.kernels.codes import CONSTANTS, distance, prepare, query_buffer
from nearhash.kernels.jit import jit
from nearhash.kernels.pool import insert, make_key
from nearhash.kernels.prune import robust_prune
from nearhash.kernels.simd import pointer
from nearhash.kernels.walk import next_epoch

_NO_END = np.float32(np.inf)


@jit
def insert_batch(model, codes, neighbours, entry, nodes, first, last, seen, state, beam, alpha, parents):
    """Find and write the neighbours of ``nodes[first:last]``, none of which is linked from the graph yet.

    model and codes (n, width), see codes.py.
    """
    degree = neighbours.shape[1]
    line = 64 // codes.itemsize
    rows, links, parent = pointer(codes, 0), pointer(neighbours, 0), pointer(parents, 0)
    scheme, table = model[0], pointer(model[1], 0)
    buffer, constants = query_buffer(scheme), np.empty(CONSTANTS, np.float32)
    limit = 4 * beam
    fresh, pool, expanded = np.empty(degree, np.int32), np.empty(beam, np.uint64), np.empty(limit, np.uint64)
    kept = np.empty(degree, np.int32)
    for i in range(first, last):
        node = np.int64(nodes[i])
        prepare(scheme, table, rows, node, pointer(buffer, 0), pointer(constants, 0))
        size, steps, _ = beam_search(
            scheme, pointer(buffer, 0), pointer(constants, 0), False, rows, line, links, degree, entry,
            pointer(seen, 0), next_epoch(seen, state), pointer(fresh, 0), pointer(pool, 0), beam,
            pointer(expanded, 0), limit, 1, _NO_END, 1,
        )  # fmt: skip
        # Everything in the pool was expanded; the early steps of the walk add the long links. A walk too long to
        # be recorded leaves the pool.
        candidates = pointer(pool, 0)
        if steps <= limit:
            candidates, size = pointer(expanded, 0), steps
            expanded[:steps].sort()
        count = robust_prune(
            scheme, table, pointer(buffer, 0), pointer(constants, 0), rows, node, candidates, size, alpha, degree,
            parent, pointer(kept, 0),
        )  # fmt: skip
        for j in range(degree):
            neighbours[node, j] = kept[j] if j < count else -1


@jit
def choose_parents(neighbours, nodes, parents, children, heirs, most, extra):
    """Give each of `nodes` a parent with fewer than `most` children; returns how many links to add for it.

    parents, children, heirs (n,) int32. The nearest neighbour with room becomes the parent. Where none has, the search
    goes down from the nearest to a descendant that has; that one is not a neighbour yet, so the link
    (parent, node) is written to extra (m, 2) int32.
    """
    added = 0
    for i in range(nodes.shape[0]):
        node = nodes[i]
        parent = np.int32(-1)
        for j in range(neighbours.shape[1]):
            candidate = neighbours[node, j]
            if candidate < 0:
                break
            if children[candidate] < most:
                parent = candidate
                break
        if parent < 0:
            nearest = neighbours[node, 0]
            parent = heirs[nearest]
            while children[parent] >= most:
                parent = heirs[parent]
            heirs[nearest] = parent  # the next one starts here instead of at the top
            extra[added, 0] = parent
            extra[added, 1] = node
            added += 1
        parents[node] = parent
        children[parent] += 1
        heirs[parent] = node
    return added


@jit
def link_batch(model, codes, neighbours, pairs, starts, first, last, alpha, parents):
    """Add reverse links: for each group of pairs its sources become neighbours of its target.

    pairs (m,) uint64, ``target << 32 | source``, ascending and distinct; group g is ``starts[g]:starts[g + 1]``; groups
    ``first <= g < last``. A row that overflows is pruned again.
    """
    degree = neighbours.shape[1]
    rows, parent = pointer(codes, 0), pointer(parents, 0)
    scheme, table = model[0], pointer(model[1], 0)
    buffer, constants = query_buffer(scheme), np.empty(CONSTANTS, np.float32)
    kept, candidates = np.empty(degree, np.int32), np.empty(2 * degree, np.uint64)
    source_bits = np.uint64(0xFFFFFFFF)
    for group in range(first, last):
        begin, end = starts[group], starts[group + 1]
        target = np.int64(pairs[begin] >> np.uint64(32))
        present = 0
        while present < degree and neighbours[target, present] >= 0:
            present += 1
        if present + (end - begin) <= degree:
            for i in range(begin, end):
                neighbours[target, present] = np.int32(pairs[i] & source_bits)
                present += 1
            continue
        prepare(scheme, table, rows, target, pointer(buffer, 0), pointer(constants, 0))
        size = present + end - begin
        if size > len(candidates):
            candidates = np.empty(size, np.uint64)
        for i in range(size):
            node = (
                np.int64(neighbours[target, i]) if i < present else np.int64(pairs[begin + i - present] & source_bits)
            )
            away = distance(scheme, pointer(buffer, 0), pointer(constants, 0), rows, node)
            insert(candidates, i, size, make_key(away, node))
        count = robust_prune(
            scheme, table, pointer(buffer, 0), pointer(constants, 0), rows, target, pointer(candidates, 0),
            size, alpha, degree, parent, pointer(kept, 0),
        )  # fmt: skip
        for j in range(degree):
            neighbours[target, j] = kept[j] if j < count else -1
