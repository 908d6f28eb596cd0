"""Which lists of a partition index a query should read: those with the nearest centroids."""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.panels import products
from nearhash.kernels.pool import key_distance, key_slot, make_key
from nearhash.kernels.select import LARGEST, collect_least, keep_least
from nearhash.kernels.simd import (
    PRODUCT_QUERIES,
    PRODUCT_ROWS,
    count_keys,
    greatest_key,
    least_key,
    multiply_add,
    offset,
    pointer,
)

_ONE = np.uint64(1)
_SCORE_BITS, _REST = np.uint64(32), np.uint64(0xFFFFFFFF)  # of a key: below its score
_CHAINS = 4


@jit_inline
def _overlaps(low, high, first, last):
    """Whether labels from `low` to `high`, both included, have some in the window [first, last)."""
    return low < last and high >= first


@jit
def nearest_centroids(queries, panels, bias, factor, windows, lows, highs, chosen):
    """Keys of the nearest centroids of each query.

    queries (q, dim) float32; panels (p, dim, PRODUCT_ROWS) of the centroids; bias (c,) float32, c the number of
    centroids; the score of a centroid is ``bias + factor <q, c>``. windows (q, 2) float64, or none: lists whose labels,
    lows[i] to highs[i] (c,) float64, all lie outside come last. chosen (q, probes) uint64, probes <= c: keys (see
    pool.py) with scores and numbers of centroids, not in order.
    """
    dim, count, probes = queries.shape[1], bias.shape[0], chosen.shape[1]
    stride = panels.shape[0] * PRODUCT_ROWS
    scores, keys = np.empty(PRODUCT_QUERIES * stride, np.float32), np.empty(count + 16, np.uint64)
    numbers = np.arange(stride).astype(np.int32)
    for first in range(0, queries.shape[0], PRODUCT_QUERIES):
        group = min(PRODUCT_QUERIES, queries.shape[0] - first)
        products(
            pointer(queries, first * dim), group, dim, pointer(panels, 0), panels.shape[0], pointer(scores, 0), stride
        )
        for query in range(group):
            line = offset(pointer(scores, 0), query * stride)
            for i in range(count):
                score = bias[i] + factor * line[i]
                line[i] = score if score < LARGEST else LARGEST  # overflow, inf or NaN: last, but a list that there is
            if windows.shape[0] > 0:
                low, high = windows[first + query, 0], windows[first + query, 1]
                for i in range(count):
                    if not _overlaps(lows[i], highs[i], low, high):
                        line[i] = LARGEST
            for i in range(count, stride):
                line[i] = np.float32(np.inf)
            collect_least(line, pointer(numbers, 0), count, probes, pointer(keys, 0))
            for i in range(probes):
                chosen[first + query, i] = keys[i]


@jit
def refine_centroids(queries, estimates, numbers, centroids, bias, factor, candidates, keys, chosen):
    """As `nearest_centroids`, of those centroids only whose estimated scores are the least `candidates`.

    estimates (q, m) float32, m a multiple of 16, inf from the number of centroids on; numbers (m,) int32: 0, 1, ...;
    centroids (c, dim); keys (m + 16,) uint64, scratch; probes <= candidates <= c. Scores have the same bits as there.
    """
    dim, count, probes = queries.shape[1], bias.shape[0], chosen.shape[1]
    pool, rows = pointer(keys, 0), pointer(centroids, 0)
    for query in range(queries.shape[0]):
        vector, line = pointer(queries, query * dim), pointer(estimates, query * estimates.shape[1])
        found = collect_least(line, pointer(numbers, 0), count, candidates, pool)
        for first in range(0, found, _CHAINS):
            # Sums of several centroids at once: each is a chain of additions that wait for each other.
            last = found - 1
            a = offset(rows, key_slot(keys[first]) * dim)
            b = offset(rows, key_slot(keys[min(first + 1, last)]) * dim)
            c = offset(rows, key_slot(keys[min(first + 2, last)]) * dim)
            d = offset(rows, key_slot(keys[min(first + 3, last)]) * dim)
            sum_a = sum_b = sum_c = sum_d = np.float32(0.0)
            for i in range(dim):
                value = vector[i]
                sum_a, sum_b = multiply_add(value, a[i], sum_a), multiply_add(value, b[i], sum_b)
                sum_c, sum_d = multiply_add(value, c[i], sum_c), multiply_add(value, d[i], sum_d)
            for lane, total in enumerate((sum_a, sum_b, sum_c, sum_d)):
                if first + lane < found:
                    number = key_slot(keys[first + lane])
                    score = bias[number] + factor * total
                    keys[first + lane] = make_key(score if score < LARGEST else LARGEST, number)
        keep_least(pool, found, probes, probes)
        for i in range(probes):
            chosen[query, i] = keys[i]


@jit
def choose_spill(vectors, centroids, first, near, weight, second):
    """The second list of each vector: among the lists `near`, the least ``|r'|^2 + weight <r', r>^2 / |r|^2``.

    vectors (n, dim) and centroids (c, dim) float32; first (n,) int32, with residuals r; near (n, m) uint64 keys of
    lists; second (n,) int32, result: -1 where there is no other list.
    """
    dim = vectors.shape[1]
    for row in range(vectors.shape[0]):
        home = np.int64(first[row])
        square = np.float32(0.0)
        for i in range(dim):
            residual = vectors[row, i] - centroids[home, i]
            square += residual * residual
        best, winner = np.float32(np.inf), -1
        for j in range(near.shape[1]):
            other = key_slot(near[row, j])
            if other == home:
                continue
            own, along = np.float32(0.0), np.float32(0.0)
            for i in range(dim):
                residual = vectors[row, i] - centroids[other, i]
                own += residual * residual
                along += residual * (vectors[row, i] - centroids[home, i])
            # Divided first: the square of an inner product overflows for large numbers and vanishes for small ones.
            loss = own + (weight * along * (along / square) if square > 0 else np.float32(0.0))
            if winner < 0 or loss < best or (loss == best and other < winner):
                best, winner = loss, other
        second[row] = winner


@jit_inline
def lead_least(keys, size, want):
    """Bring the least `want` of `size` distinct keys at a pointer to the front; the order is not specified else."""
    low, high = least_key(keys, size), greatest_key(keys, size)
    while low < high:
        middle = low + ((high - low) >> _ONE)
        if count_keys(keys, size, middle) >= want:
            high = middle
        else:
            low = middle + _ONE
    front = 0
    for i in range(size):
        key = keys[i]
        if key <= high:
            keys[i] = keys[front]
            keys[front] = key
            front += 1


@jit_inline
def lead_within(keys, size, before, least, most):
    """Bring to the front those of `size` keys at a pointer whose lists are worth to be read, and return how many.

    Of all lists by rising score, `before` of which come before these, the i-th is worth it while
    ``(score - least) sqrt(i) <= most``, least being the first one's. How far the next list is beyond the first, against
    how far the neighbours are, says how many neighbours are still to be expected there, and so does its rank; the
    product of both says more than either (word vectors and images: 15-25% fewer lists for a recall of .96, half as many
    for a recall of .7 of the worst hundredth of all queries).
    """
    if size == 0:
        return 0
    low, high = least_key(keys, size) >> _SCORE_BITS, greatest_key(keys, size) >> _SCORE_BITS
    # Invariant: scores below `low` are worth it, those above `high` are not; -1 steps below the least.
    low, high = np.int64(low) - 1, np.int64(high)
    while low < high:
        middle = low + ((high - low + 1) >> 1)
        bound = (np.uint64(middle) << _SCORE_BITS) | _REST
        rank = before + count_keys(keys, size, bound)
        if (key_distance(bound) - least) * np.sqrt(np.float32(rank)) <= most:
            low = middle
        else:
            high = middle - 1
    bound, front = (np.uint64(low) << _SCORE_BITS) | _REST, 0
    for i in range(size):
        key = keys[i]
        if key <= bound:
            keys[i] = keys[front]
            keys[front] = key
            front += 1
    return front


@jit_inline
def kth_score(keys, size, k):
    """Score of the k-th least of `size` keys at a pointer, inf if there are fewer."""
    if size < k:
        return np.float32(np.inf)
    low, high = least_key(keys, size) >> _SCORE_BITS, greatest_key(keys, size) >> _SCORE_BITS
    while low < high:
        middle = low + ((high - low) >> _ONE)
        if count_keys(keys, size, (middle << _SCORE_BITS) | _REST) >= k:
            high = middle
        else:
            low = middle + _ONE
    return key_distance((low << _SCORE_BITS) | _REST)
