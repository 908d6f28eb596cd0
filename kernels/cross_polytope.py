"""Cross-polytope hashes of unit vectors and the order in which neighbouring buckets are worth a look.

A vector, padded with zeros to a power of two `size`, goes through three rounds of random signs and Hadamard transform,
which is close to a random rotation (Andoni, Indyk, Laarhoven, Razenshteyn & Schmidt, NIPS 2015, sec. 5). A hash
function of dimension D reads D elements of a rotation: vertex ``i`` of the cross-polytope if ``x_i`` has the greatest
magnitude and is not negative, ``D + i`` if it is negative; the first of equals. The key of a table is the number with
the vertices of its functions as digits, the first the highest, in base 2 D.

A `plan` (functions, 3) int64 says of each function of a table the rotation within the table, the first element and D.
So one kernel serves cross-polytopes, each with a rotation of its own, and hyperplanes: D = 1, many to a rotation.

Multiprobe: vertex v of a function has the gap ``max |x| - x_i`` or ``max |x| + x_i``, and a bucket scores the sum of
the squared gaps of its digits (sec. 5, after Lv et al., VLDB 2007); the own bucket scores 0. The best buckets over all
tables are found without a heap: first the best vertices, then, table by table, all sums up to a bound that falls.
"""

import numpy as np

from nearhash.kernels.hadamard import signed_hadamard
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.pool import key_distance, key_slot, make_key
from nearhash.kernels.select import LARGEST, collect_least, keep_least
from nearhash.kernels.simd import greatest_float, least_float, offset, pointer

ROUNDS = 3
ROTATION, FIRST, DIMENSION = 0, 1, 2
_TOP = np.uint64(0xFFFFFFFF00000000)
_SHIFT = np.uint64(1)


@jit_inline
def rotate(padded, signs, values, size):
    """Three rounds for `size` floats at `padded`, to `values`; signs (3, size); pointers. Norms grow by size^(3/2)."""
    signed_hadamard(padded, signs, values, size)
    signed_hadamard(values, offset(signs, size), values, size)
    signed_hadamard(values, offset(signs, 2 * size), values, size)


@jit_inline
def vertex_of(values, dim):
    """Nearest vertex of `dim` floats at a pointer."""
    most = max(greatest_float(values, dim), -least_float(values, dim))
    i = 0
    while abs(values[i]) != most:
        i += 1
    return i + dim if values[i] < np.float32(0.0) else i


@jit_inline
def vertex_scores(values, dim, scale, scores):
    """Squared gaps, times `scale`, of the 2 `dim` vertices; pointers."""
    most = max(greatest_float(values, dim), -least_float(values, dim))
    negative = offset(scores, dim)
    for i in range(dim):
        near, far = most - values[i], most + values[i]
        scores[i] = near * near * scale
        negative[i] = far * far * scale
    # The own vertex scores 0; its opposite never does, even for the zero vector, all of whose vertices are as near.


@jit
def hash_rows(vectors, signs, plan, keys):
    """Keys (n, tables) uint64 of unit vectors (n, dim) float32; signs (tables, rotations, 3, size), plan as above."""
    dim, size, rotations = vectors.shape[1], signs.shape[3], signs.shape[1]
    padded, space = np.zeros(size, np.float32), np.empty(size, np.float32)
    for row in range(vectors.shape[0]):
        values = pointer(space, 0)
        for i in range(dim):
            padded[i] = vectors[row, i]
        for table in range(keys.shape[1]):
            rotated, key = np.int64(-1), np.uint64(0)
            for function in range(plan.shape[0]):
                if plan[function, ROTATION] != rotated:
                    rotated = plan[function, ROTATION]
                    place = (table * rotations + rotated) * ROUNDS * size
                    rotate(pointer(padded, 0), pointer(signs, place), values, size)
                own = plan[function, DIMENSION]
                vertex = vertex_of(offset(values, plan[function, FIRST]), own)
                key = key * np.uint64(2 * own) + np.uint64(vertex)
            keys[row, table] = key


@jit_inline
def sort_few(keys, size):
    """Insertion sort of `size` uint64 at a pointer."""
    for i in range(1, size):
        key, j = keys[i], i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key


@jit_inline
def all_scores(padded, signs, plan, tables, scores):
    """Scores of all vertices of all functions of all tables, one after the other; returns how many. signs an array."""
    size, rotations = signs.shape[3], signs.shape[1]
    scale = np.float32(1.0) / (np.float32(size) * np.float32(size) * np.float32(size))
    space = np.empty(size, np.float32)
    at = 0
    for table in range(tables):
        values, rotated = pointer(space, 0), np.int64(-1)
        for function in range(plan.shape[0]):
            if plan[function, ROTATION] != rotated:
                rotated = plan[function, ROTATION]
                rotate(pointer(padded, 0), pointer(signs, (table * rotations + rotated) * ROUNDS * size), values, size)
            own = plan[function, DIMENSION]
            vertex_scores(offset(values, plan[function, FIRST]), own, scale, offset(scores, at))
            at += 2 * own
    return at


@jit_inline
def compact(pool, count, want, table_of, key_of):
    """Keep the best `want` of the buckets found, in their order; returns how many are left."""
    kept = keep_least(pool, count, want, want)
    for i in range(kept):
        old = key_slot(pool[i])
        table_of[i], key_of[i] = table_of[old], key_of[old]
        pool[i] = (pool[i] & _TOP) | (np.uint64(i) << _SHIFT)
    return kept


@jit_inline
def best_buckets(want, signs, plan, padded, scores, numbers, singles, bounds, pool, table_of, key_of):
    """The best `want` buckets of a unit vector: pool (score and place), table_of, key_of; returns how many.

    Arrays: padded (size,), the vector and zeros behind it; scores and numbers with room for all vertices of all
    tables, in multiples of 16, numbers counting from 0; singles 16 more; bounds (tables, functions + 1) int64; pool,
    table_of and key_of with room for 2 want + 16. They are in order of (table, ranks of the digits), not of scores;
    among equal scores earlier ones in that order are taken.
    """
    tables, functions = bounds.shape[0], plan.shape[0]
    total = all_scores(padded, signs, plan, tables, pointer(scores, 0))
    for i in range(total, (total + 15) // 16 * 16):
        scores[i] = np.inf
    # A bucket that is among the best has no digit whose score alone is worse than `want` single changes.
    wanted = min(total, want + tables * functions)
    chosen = collect_least(pointer(scores, 0), pointer(numbers, 0), total, wanted, pointer(singles, 0))
    place, first = 0, 0
    for table in range(tables):
        for function in range(functions):
            bounds[table, function] = place
            first += 2 * plan[function, DIMENSION]
            start = place
            while place < chosen and key_slot(singles[place]) < first:
                place += 1
            if place - start > 48:
                singles[start:place].sort()
            else:
                sort_few(pointer(singles, start), place - start)
        bounds[table, functions] = place
    limit, count = np.float32(LARGEST), 0
    rank, sums, digits = np.empty(functions, np.int64), np.empty(functions, np.float32), np.empty(functions, np.uint64)
    found, first = pointer(pool, 0), 0
    for table in range(tables):
        depth = 0
        rank[0], sums[0], digits[0] = bounds[table, 0], np.float32(0.0), np.uint64(0)
        base = first
        while depth >= 0:
            at, stop = rank[depth], bounds[table, depth + 1]
            score = np.float32(LARGEST)
            if at < stop:
                score = sums[depth] + key_distance(singles[at])
            if at >= stop or score > limit:
                depth -= 1
                if depth >= 0:
                    rank[depth] += 1
                    base -= 2 * plan[depth, DIMENSION]
                continue
            own = np.uint64(2 * plan[depth, DIMENSION])
            key = digits[depth] * own + np.uint64(key_slot(singles[at]) - base)
            if depth + 1 < functions:
                base += 2 * plan[depth, DIMENSION]
                depth += 1
                rank[depth], sums[depth], digits[depth] = bounds[table, depth], score, key
                continue
            rank[depth] += 1
            found[count] = make_key(score, count)
            table_of[count], key_of[count] = table, key
            count += 1
            if count == 2 * want:
                count = compact(found, count, want, table_of, key_of)
                worst = found[0]
                for i in range(1, count):
                    worst = max(worst, found[i])
                limit = key_distance(worst)
        for function in range(functions):
            first += 2 * plan[function, DIMENSION]
    return compact(found, count, want, table_of, key_of)


@jit
def probe_rows(vectors, signs, plan, tables, scores, table_of, key_of):
    """The best buckets of unit vectors (q, dim) float32 by (score, table, ranks of the digits).

    Outputs (q, want): scores float32, table_of int32, key_of uint64; rows where there are fewer end in inf, -1, 0.
    """
    want, size = scores.shape[1], signs.shape[3]
    vertices = 0
    for function in range(plan.shape[0]):
        vertices += 2 * plan[function, DIMENSION]
    room = (tables * vertices + 31) // 16 * 16
    padded = np.zeros(size, np.float32)
    space, numbers, singles = (
        np.empty(room, np.float32),
        np.arange(room).astype(np.int32),
        np.empty(room + 16, np.uint64),
    )
    bounds = np.empty((tables, plan.shape[0] + 1), np.int64)
    pool, found_tables = np.empty(2 * want + 16, np.uint64), np.empty(2 * want + 16, np.int32)
    found_keys = np.empty(2 * want + 16, np.uint64)
    for row in range(vectors.shape[0]):
        for i in range(vectors.shape[1]):
            padded[i] = vectors[row, i]
        count = best_buckets(want, signs, plan, padded, space, numbers, singles, bounds, pool, found_tables, found_keys)
        pool[:count].sort()
        for i in range(want):
            if i < count:
                place = key_slot(pool[i])
                scores[row, i], table_of[row, i] = key_distance(pool[i]), found_tables[place]
                key_of[row, i] = found_keys[place]
            else:
                scores[row, i], table_of[row, i], key_of[row, i] = np.inf, -1, 0
