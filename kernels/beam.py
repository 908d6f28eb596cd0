"""Beam search over a graph of codes.

One step takes the nearest candidate that has not been expanded, gathers those of its neighbours that were not
seen before, asks for their codes and measures them; then those that are near enough go into the sorted pool.
Gathering first turns a chain of cache misses into one wave of them.
"""

import numpy as np

from nearhash.kernels.codes import distance, estimate, prefetch_row
from nearhash.kernels.jit import jit_inline
from nearhash.kernels.pool import EMPTY_KEY, FLAG, insert_at, key_distance, key_slot, make_key
from nearhash.kernels.simd import offset, prefetch

PREFETCH_AHEAD = 6
LAST_SLOT = 2**31 - 1


@jit_inline
def _away(scheme, buffer, constants, by_query, rows, node):
    if by_query:
        return estimate(scheme, buffer, constants, rows, node)
    return distance(scheme, buffer, constants, rows, node)


@jit_inline
def beam_search(
    scheme, buffer, constants, by_query, rows, line, neighbours, degree, entry, seen, epoch, fresh, pool, beam,
    expanded, limit, nearest, reach, wanted,
):  # fmt: skip
    """Walk from `entry` towards what was made ready; returns (pool size, number of expanded, of measured).

    scheme, see codes.py; by_query, a constant: whether a query was made ready, and `estimate` tells how far nodes are,
    or a row, and `distance` does. Arrays are pointers: rows, the codes; neighbours (n, degree) int32, -1 after the
    last; seen (n,) uint8, equal to `epoch` where visited; fresh (degree,) int32 scratch; pool (beam,) uint64, result,
    ascending; expanded (limit,) uint64, keys in order of expansion, the first `limit` of them.

    By query only: the walk ends where no node is left within `reach` times the distance of the `nearest`-th one found
    (Al-Jazzazi et al., "Distance adaptive beam search for provably accurate graph-based nearest neighbor search", 2025;
    their (1 + gamma), squared like the distances), and what is farther is not kept once there are `wanted` >= nearest.
    An infinite reach leaves it to the beam.
    """
    width = scheme.width
    seen[entry] = epoch
    pool[0] = make_key(_away(scheme, buffer, constants, by_query, rows, entry), entry)
    size, cursor, steps, measured = 1, 0, 0, 1
    while cursor < size:
        key = pool[cursor]
        if key & FLAG:
            cursor += 1
            continue
        edge = EMPTY_KEY
        if by_query and size >= nearest:
            bound = reach * key_distance(pool[nearest - 1])
            if key_distance(key) > bound:
                break
            if size >= wanted and bound < np.inf:  # not so of NaN, an infinite reach times zero
                edge = make_key(bound, LAST_SLOT)
        pool[cursor] = key | FLAG
        if steps < limit:
            expanded[steps] = key
        steps += 1

        links = offset(neighbours, key_slot(key) * degree)
        count = 0
        for j in range(degree):
            node = links[j]
            if node < 0:
                break
            fresh[count] = node
            count += 1 if seen[node] != epoch else 0
            seen[node] = epoch
        for j in range(min(PREFETCH_AHEAD, count)):
            prefetch_row(rows, width, line, np.int64(fresh[j]))
        if cursor + 1 < size:  # the node that most likely comes next
            following = offset(neighbours, key_slot(pool[cursor + 1]) * degree)
            for j in range(0, degree, 16):
                prefetch(offset(following, j))

        cursor += 1
        measured += count
        for j in range(count):
            if j + PREFETCH_AHEAD < count:
                prefetch_row(rows, width, line, np.int64(fresh[j + PREFETCH_AHEAD]))
            node = np.int64(fresh[j])
            candidate = make_key(_away(scheme, buffer, constants, by_query, rows, node), node)
            if candidate <= edge and (size < beam or candidate < pool[beam - 1]):
                position = insert_at(pool, size, beam, candidate)
                size += 1 if size < beam else 0
                cursor = min(cursor, position)
    return size, steps, measured
