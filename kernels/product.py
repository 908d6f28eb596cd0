"""Exact scores of many queries at once: a matrix product with the selection fused behind each tile.

Rows are taken in blocks that stay in the second-level cache, transposed into panels, and multiplied with twelve queries
at a time in registers; a row of scores is compared with the worst one kept, 64 at a time, while it is in the
first-level cache. The matrix of scores is never written out.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.pool import key_distance
from nearhash.kernels.scan import L2, offer, passes
from nearhash.kernels.simd import (
    PRODUCT_QUERIES,
    PRODUCT_ROWS,
    any_below,
    dot,
    offset,
    pointer,
    product_tile,
)

GROUP = 64  # scores tested at once by any_below
BLOCK = 256  # rows; a multiple of GROUP and of PRODUCT_ROWS


@jit_inline
def _transpose(rows, dim, count, panel):
    """Rows as columns of a (dim, PRODUCT_ROWS) panel, zeros for those that are missing; pointers."""
    for j in range(dim):
        for i in range(count):
            panel[j * PRODUCT_ROWS + i] = rows[i * dim + j]
        for i in range(count, PRODUCT_ROWS):
            panel[j * PRODUCT_ROWS + i] = np.float32(0.0)


@jit
def select_by_product(queries, count, rows, first, metric, mask, labels, windows, pools, sizes):
    """Offer rows to the pools of `count` queries by the scores of a matrix product; returns the greatest norm.

    queries (q, dim) float32, q a multiple of PRODUCT_QUERIES, of which `count` are wanted; rows (n, dim) float32, slots
    ``first .. first + n``; score |x|^2 - 2 <q, x> for L2, else -<q, x>; mask, labels, windows as in `scan.passes`;
    pools (count, k) uint64 and sizes (count,) int64, updated.
    """
    total, dim = rows.shape
    capacity = pools.shape[1]
    scale = np.float32(-2.0 if metric == L2 else -1.0)
    panels = np.empty(BLOCK * dim, np.float32)
    bias, scores = np.zeros(BLOCK, np.float32), np.empty((PRODUCT_QUERIES, BLOCK), np.float32)
    longest = np.float32(0.0)
    for start in range(0, total, BLOCK):
        stop = min(start + BLOCK, total)
        used = (stop - start + PRODUCT_ROWS - 1) // PRODUCT_ROWS
        for i in range(used):
            row = start + i * PRODUCT_ROWS
            source, panel = pointer(rows, row * dim), pointer(panels, i * PRODUCT_ROWS * dim)
            _transpose(source, dim, min(PRODUCT_ROWS, stop - row), panel)
        for i in range(stop - start):
            vector = pointer(rows, (start + i) * dim)
            square = dot(vector, vector, dim)
            longest = max(longest, square)
            if metric == L2:
                bias[i] = square
        for query in range(0, count, PRODUCT_QUERIES):
            for i in range(used):
                product_tile(
                    pointer(queries, query * dim), dim, pointer(panels, i * PRODUCT_ROWS * dim), dim,
                    pointer(scores, i * PRODUCT_ROWS), BLOCK,
                )  # fmt: skip
            for lane in range(min(PRODUCT_QUERIES, count - query)):
                this = query + lane
                line = pointer(scores, lane * BLOCK)
                for group in range(0, stop - start, GROUP):
                    threshold = np.float32(np.inf)
                    if sizes[this] == capacity:
                        threshold = key_distance(pools[this, capacity - 1])
                        if not any_below(offset(line, group), pointer(bias, group), scale, threshold):
                            continue
                    for j in range(group, min(group + GROUP, stop - start)):
                        score = bias[j] + scale * scores[lane, j]
                        # Cheap test first: the calls behind it cost more than the whole group.
                        if score <= threshold and passes(this, first + start + j, mask, labels, windows):
                            offer(pools, sizes, this, score, first + start + j)
    return np.sqrt(longest)
