"""What kernels ask of compressed vectors.

A codec (index/codecs) gives every vector a row of `width` elements in a C-ordered array of codes. Kernels know it by
its `Model`: a *scheme*, a NamedTuple of whole numbers whose type says which codec it is, and an array of float32
parameters (means, codewords, signs) that only the preparation of a query reads. The functions below are Numba
overloads on the type of the scheme, so one walk or scan serves all codecs at no cost; every scheme has the fields

- ``dim``: dimension of the vectors;
- ``width``: elements of a row;
- ``query_bytes``: size of the buffer of a prepared query, which starts on a cache line (`query_buffer`).

A query is made ready once and measured against many rows:

- `prepare` takes the vector of a row; `distance` is then the squared Euclidean distance of two rows as they are read
  back, including their extra coordinates, and zero for equal rows. Graphs are built, pruned and walked with it.
- `prepare_query` takes a float32 vector; `estimate` is then its distance from a row in the terms of a metric of
  kernels/scan.py: L2, the squared Euclidean distance (the extra coordinate of the query being 0), or DOT, minus the
  inner product. Of codecs with an error bound, `slack` is how much larger than the true distance that may be.

Preparations differ: what `prepare` made ready is for `distance` alone. All steps take pointers and numbers.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from nearhash.kernels import float8, float_rows, lvq, lvq4, pq8, rabitq
from nearhash.kernels.jit import INLINE_OPTIONS, jit, jit_inline
from nearhash.kernels.simd import offset, pointer, prefetch

CONSTANTS = 8  # float32 numbers of a prepared query, beside its buffer
_LINE = 64
# How far ahead of a scan to ask for rows, see kernels/scan.py.
_AHEAD_BYTES = 2048

_CODECS: dict[type, Any] = {
    float_rows.F32: float_rows,
    float_rows.F16: float_rows,
    float8.Float8: float8,
    lvq.LVQ8: lvq,
    lvq4.LVQ4: lvq4,
    pq8.PQ8: pq8,
    rabitq.RaBitQ: rabitq,
}


class Model(NamedTuple):
    """What kernels know of a codec.

    scheme: a NamedTuple of int64, see the module; parameters (any,) float32, C-ordered.
    """

    scheme: Any
    parameters: NDArray[np.float32]


def prepare(scheme, parameters, rows, slot, buffer, constants):
    """Make the vector of row `slot` ready for `distance`."""
    raise NotImplementedError("compiled by Numba")


def distance(scheme, buffer, constants, rows, slot):
    """Squared Euclidean distance (estimate) of a prepared vector and row `slot`, float32 >= 0."""
    raise NotImplementedError("compiled by Numba")


def prepare_query(scheme, parameters, vector, metric, buffer, constants):
    """Make a float32 vector ready for `estimate` under a metric (L2 or DOT of kernels/scan.py)."""
    raise NotImplementedError("compiled by Numba")


def estimate(scheme, buffer, constants, rows, slot):
    """Distance (estimate) of a prepared query and row `slot` in the terms of its metric, float32."""
    raise NotImplementedError("compiled by Numba")


def slack(scheme, buffer, constants, rows, slot):
    """`estimate` less this is a lower bound of the true distance, with the probability that the codec states."""
    raise NotImplementedError("compiled by Numba")


def _resolve(declaration):
    """Compile `declaration` as the function of that name of the module that holds the type of the scheme."""
    name = declaration.__name__

    def with_parameters(scheme, parameters, source, position, buffer, constants):
        function = getattr(_CODECS[scheme.instance_class], name)
        return lambda scheme, parameters, source, position, buffer, constants: function(
            scheme, parameters, source, position, buffer, constants
        )

    def without(scheme, buffer, constants, rows, slot):
        function = getattr(_CODECS[scheme.instance_class], name, None)
        if function is None:
            return None
        return lambda scheme, buffer, constants, rows, slot: function(scheme, buffer, constants, rows, slot)

    generic = with_parameters if name.startswith("prepare") else without
    overload(declaration, jit_options=INLINE_OPTIONS)(generic)


for _declaration in (prepare, distance, prepare_query, estimate, slack):
    _resolve(_declaration)


@jit_inline
def query_buffer(scheme):
    """A new buffer for a prepared query: uint8, on a cache line."""
    raw = np.empty(scheme.query_bytes + _LINE, np.uint8)
    return raw[-raw.ctypes.data % _LINE :]


@jit_inline
def prefetch_row(rows, width, line_elements, slot):
    """Ask for all cache lines of a row; `line_elements`, a power of two, is 64 bytes counted in elements."""
    start = slot * width
    for line in range(0, width, line_elements):
        prefetch(offset(rows, start + line))
    if width & (line_elements - 1):  # such a row may end in one line more
        prefetch(offset(rows, start + width - 1))


@jit_inline
def estimate_rows(scheme, buffer, constants, rows, itemsize, first, last, out):
    """Write the estimates of rows ``first <= i < last`` to ``out[0]`` and on; all arrays as pointers."""
    row_bytes = scheme.width * itemsize
    lines, ahead = (row_bytes + _LINE - 1) // _LINE, max(1, _AHEAD_BYTES // row_bytes)
    step = max(1, _LINE // itemsize)
    for row in range(first, last):
        for line in range(lines):
            prefetch(offset(rows, (row + ahead) * scheme.width + line * step))
        out[row - first] = estimate(scheme, buffer, constants, rows, row)


@jit
def estimate_all(model, queries, metric, rows, first, last, out):
    """Estimates of queries (q, dim) float32 and rows ``first <= i < last`` of (n, width), to out (q, last - first)."""
    scheme, parameters = model
    space, constants = query_buffer(scheme), np.empty(CONSTANTS, np.float32)
    for query in range(queries.shape[0]):
        buffer, numbers = pointer(space, 0), pointer(constants, 0)
        vector = pointer(queries, query * queries.shape[1])
        prepare_query(scheme, pointer(parameters, 0), vector, metric, buffer, numbers)
        results = pointer(out, query * out.shape[1])
        estimate_rows(scheme, buffer, numbers, pointer(rows, 0), rows.itemsize, first, last, results)


@jit
def slack_all(model, queries, metric, rows, first, last, out):
    """`slack` for what `estimate_all` estimates; codecs with an error bound only."""
    scheme, parameters = model
    space, constants = query_buffer(scheme), np.empty(CONSTANTS, np.float32)
    for query in range(queries.shape[0]):
        buffer, numbers = pointer(space, 0), pointer(constants, 0)
        vector = pointer(queries, query * queries.shape[1])
        prepare_query(scheme, pointer(parameters, 0), vector, metric, buffer, numbers)
        for row in range(first, last):
            out[query, row - first] = slack(scheme, buffer, numbers, pointer(rows, 0), row)


@jit
def distance_all(model, queries, rows, out):
    """Distances of the vectors of rows `queries` (q, width) and `rows` (n, width), to out (q, n)."""
    scheme, parameters = model
    space, constants = query_buffer(scheme), np.empty(CONSTANTS, np.float32)
    for query in range(queries.shape[0]):
        buffer, numbers = pointer(space, 0), pointer(constants, 0)
        prepare(scheme, pointer(parameters, 0), pointer(queries, 0), query, buffer, numbers)
        for row in range(rows.shape[0]):
            out[query, row] = distance(scheme, buffer, numbers, pointer(rows, 0), row)
