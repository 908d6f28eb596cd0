"""Attention of many groups of queries in one call, which threads share by tickets.

A unit is a group of queries and the KV head that they read. With a call for each, threads that come back from a kernel
wait for the interpreter's lock as long as the kernel took: two threads were slower than one at 8,192 tokens of 8 heads.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from nearhash.kernels import attention_lvq4, attention_pq4, attention_simhash
from nearhash.kernels.attention import attend_dense
from nearhash.kernels.attention_priority import attend_priority
from nearhash.kernels.attention_sampling import sampling_key
from nearhash.kernels.jit import INLINE_OPTIONS, jit, jit_inline
from nearhash.kernels.simd import fetch_add, pointer

Floats = NDArray[np.float32]


class LVQ4Queries(NamedTuple):
    """What a scan of LVQ codes needs of the queries: themselves, (q_heads, dim)."""

    queries: Floats


class PQ4Queries(NamedTuple):
    """Queries (q_heads, dim), each turned as the keys of its head, and the codebooks of the heads.

    bounds (heads, m + 1) and codewords (heads, dim, 16): see `attention_pq4.scan`.
    """

    queries: Floats
    bounds: NDArray[np.int32]
    codewords: Floats


class SimHashQueries(NamedTuple):
    """Queries (q_heads, dim) and their codes (q_heads, B / 64)."""

    queries: Floats
    codes: NDArray[np.uint64]


AskedOfCodes = LVQ4Queries | PQ4Queries | SimHashQueries


def _scan(asked, head, start, stop, pages, first, last, logits):
    raise NotImplementedError("compiled by Numba")


@overload(_scan, jit_options=INLINE_OPTIONS)
def _scan_overload(asked, head, start, stop, pages, first, last, logits):

    def lvq4(asked, head, start, stop, pages, first, last, logits):
        attention_lvq4.scan(pages, asked.queries[start:stop], first, last, logits)

    def pq4(asked, head, start, stop, pages, first, last, logits):
        bounds, codewords = asked.bounds[head], asked.codewords[head]
        attention_pq4.scan(pages, asked.queries[start:stop], bounds, codewords, first, last, logits)

    def simhash(asked, head, start, stop, pages, first, last, logits):
        attention_simhash.scan(pages, asked.queries[start:stop], asked.codes[start:stop], first, last, logits)

    kinds = {LVQ4Queries.__name__: lvq4, PQ4Queries.__name__: pq4, SimHashQueries.__name__: simhash}
    return kinds[asked.instance_class.__name__]


@jit
def scan(asked, head, start, stop, pages, first, last, logits):
    """Estimated logits of queries ``start <= q < stop`` for tokens of one head, less those of its mean key.

    pages (p,): addresses of its codes; logits (g, room) float32, g >= stop - start: columns are positions, and groups
    of 64 tokens that hold one of ``first <= position < last`` are written.
    """
    _scan(asked, head, start, stop, pages, first, last, logits)


@jit_inline
def _draw_ticket(tickets):
    """The next ticket, or -1 if there is none: tickets (2,) int64, the next one and the end of them."""
    ticket = fetch_add(pointer(tickets, 0), 1)
    return ticket if ticket < tickets[1] else -1


@jit
def attend_priority_units(
    rows, asked, tickets, heads, starts, queries, pages, code_pages, norms_at, count, first, last, temperature, floor,
    seed, step, layer, budgets, scratch, room, outputs, lses, variances, reads,
):  # fmt: skip
    """`attend_priority` for the units that this thread draws tickets for.

    Unit u has the queries ``starts[u] <= q < starts[u + 1]`` of queries (q_heads, dim), reads KV head ``heads[u]``, of
    which pages and code_pages (heads, p) hold the addresses, and takes budgets[u] tokens; its draw has the key
    ``sampling_key(seed, step, layer, u)``. scratch: float32, ``(g + 2) room`` of them for the largest unit, of this
    thread alone. outputs (q_heads, dim), lses (q_heads,), variances (q_heads,) float32 and reads (units,) int64.
    """
    while True:
        unit = _draw_ticket(tickets)
        if unit < 0:
            break
        head, start, stop = heads[unit], starts[unit], starts[unit + 1]
        wide = stop - start + 2
        lines = scratch[: wide * room].reshape((wide, room))
        if last > first:
            _scan(asked, head, start, stop, code_pages[head], first, last, lines)
        key = sampling_key(seed, step, layer, unit)
        reads[unit] = attend_priority(
            rows, queries[start:stop], pages[head], count, first, last, lines, code_pages[head], norms_at, temperature,
            floor, key, budgets[unit], outputs[start:stop], lses[start:stop], variances[start:stop],
        )  # fmt: skip


@jit
def attend_dense_units(rows, tickets, heads, starts, parts, size, queries, pages, count, outputs, lses):
    """`attend_dense` for the parts of units that this thread draws tickets for: ticket ``u parts + i``.

    Part i are the tokens from ``i size`` on, of `count` in all; outputs (units, parts, g, dim) and lses (units, parts,
    g) float32, g queries of the largest unit; the rest as in `attend_priority_units`.
    """
    while True:
        ticket = _draw_ticket(tickets)
        if ticket < 0:
            break
        unit, part = ticket // parts, ticket % parts
        asked, first = queries[starts[unit] : starts[unit + 1]], part * size
        attend_dense(
            rows, asked, pages[heads[unit]], first, min(first + size, count), outputs[unit, part], lses[unit, part]
        )  # fmt: skip
