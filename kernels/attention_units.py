"""Attention of many groups of queries in one call, which threads share by tickets.

A unit is a group of queries and the KV head that they read. With a call for each, threads that come back from a kernel
wait for the interpreter's lock as long as the kernel took: two threads were slower than one at 8,192 tokens of 8 heads.
"""

from nearhash.kernels.attention import attend_dense
from nearhash.kernels.attention_priority import attend_priority
from nearhash.kernels.attention_sampling import sampling_key
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import fetch_add, pointer


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
        reads[unit] = attend_priority(
            rows, asked, head, start, stop, queries[start:stop], pages[head], count, first, last, lines,
            code_pages[head], norms_at, temperature, floor, sampling_key(seed, step, layer, unit), budgets[unit],
            outputs[start:stop], lses[start:stop], variances[start:stop],
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
