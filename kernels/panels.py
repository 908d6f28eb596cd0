"""A matrix that many vectors are multiplied with: its rows as the columns of panels, for the register tiles of simd.py.

Centroids and rotations are kept in this form. Every product is summed in the order of the dimensions, so a query
gets the same bits alone as in a batch.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import (
    LINE_PANELS,
    PRODUCT_QUERIES,
    PRODUCT_ROWS,
    offset,
    pointer,
    product_line,
    product_panel,
    product_tile,
)


def panel_count(rows: int) -> int:
    """Panels that hold `rows` rows."""
    return -(-rows // PRODUCT_ROWS)


@jit
def fill_panels(rows, panels):
    """Write rows (n, dim) float32 to panels (ceil(n / PRODUCT_ROWS), dim, PRODUCT_ROWS), zeros for missing rows."""
    count, dim = rows.shape
    for panel in range(panels.shape[0]):
        first = panel * PRODUCT_ROWS
        present = max(0, min(PRODUCT_ROWS, count - first))
        for j in range(dim):
            for i in range(present):
                panels[panel, j, i] = rows[first + i, j]
            for i in range(present, PRODUCT_ROWS):
                panels[panel, j, i] = np.float32(0.0)


@jit_inline
def products(queries, count, dim, panels, panel_total, out, stride):
    """Inner products of `count` queries and all rows of panels; pointers.

    out: `count` rows of `stride` >= panel_total * PRODUCT_ROWS floats.
    """
    whole = count - count % PRODUCT_QUERIES
    for query in range(0, whole, PRODUCT_QUERIES):
        for panel in range(panel_total):
            product_tile(
                offset(queries, query * dim), dim, offset(panels, panel * dim * PRODUCT_ROWS), dim,
                offset(out, query * stride + panel * PRODUCT_ROWS), stride,
            )  # fmt: skip
    for query in range(whole, count):
        vector, line = offset(queries, query * dim), offset(out, query * stride)
        many = panel_total - panel_total % LINE_PANELS
        for panel in range(0, many, LINE_PANELS):
            product_line(vector, offset(panels, panel * dim * PRODUCT_ROWS), dim, offset(line, panel * PRODUCT_ROWS))
        for panel in range(many, panel_total):
            product_panel(vector, offset(panels, panel * dim * PRODUCT_ROWS), dim, offset(line, panel * PRODUCT_ROWS))


@jit
def multiply(queries, panels, out):
    """``queries @ rows.T`` (q, n) for queries (q, dim) and rows in panels; out (q, panels * PRODUCT_ROWS) float32."""
    products(
        pointer(queries, 0), queries.shape[0], queries.shape[1], pointer(panels, 0), panels.shape[0],
        pointer(out, 0), out.shape[1],
    )  # fmt: skip
