"""Attention from a priority sample of the tokens: codes are scanned, tokens drawn, then read and summed."""

import numpy as np

from nearhash.kernels.attention import attend_tokens, merge_samples
from nearhash.kernels.attention_code_scan import scan
from nearhash.kernels.attention_sampling import CHUNK, around, draw_times, exponentiate, mix, open_chunks, select
from nearhash.kernels.jit import jit

SCANNED = 4 * CHUNK  # tokens whose logits are still in the second-level cache when their exponentials are taken

_ONE = np.float32(1.0)


@jit
def choose(
    asked, head, start, stop, scratch, code_pages, norms_at, count, first, last, temperature, floor, key, budget,
    positions, probabilities,
):  # fmt: skip
    """The tokens to read of `count`, in order: a sample of those in first <= position < last, and all others.

    Asks for the queries ``start <= q < stop`` of a head, see `attention_code_scan.scan`. scratch (g + 2, room) float32:
    estimated logits, and two rows for the weights and times. positions int32 and probabilities float32, with room for
    ``count - (last - first) + min(budget, last - first)``, which is returned. floor > 0; the rest as in `mix`,
    `draw_times` and `select`.
    """
    group, taken = scratch.shape[0] - 2, 0
    for i in range(first):
        positions[i], probabilities[i] = i, _ONE
    if last > first and budget > 0:
        logits, weights, times = scratch[:group], scratch[group], scratch[group + 1]
        tops, totals, factors = open_chunks(group, first, last)
        here, end = around(first, last)
        while here < end:
            until = min(here + SCANNED - here % SCANNED, end)
            scan(asked, head, start, stop, code_pages, max(here, first), min(until, last), logits)
            exponentiate(logits, first, last, here, until, temperature, tops, totals, factors)
            here = until
        total = mix(logits, code_pages, norms_at, first, last, temperature, tops, totals, factors, weights)
        draw_times(weights, total, first, last, floor, key, times)
        taken = select(times, weights, first, last, budget, positions[first:], probabilities[first:])
    for i in range(count - last):
        positions[first + taken + i], probabilities[first + taken + i] = last + i, _ONE
    return first + taken + count - last


@jit
def attend_priority(
    rows, asked, head, start, stop, queries, pages, count, first, last, scratch, code_pages, norms_at, temperature,
    floor, key, budget, out, lse, variance,
):  # fmt: skip
    """Attention over `count` tokens, estimated from `budget` of those in first <= position < last and all others.

    queries (g, dim) float32, times the scale of the logits, which the codes are asked for by number as in `choose`;
    pages and code_pages: int64 addresses of the pages of keys and values and of their codes. out (g, dim), lse (g,) and
    variance (g,) float32: see `attend_tokens` and `merge_samples`. Returns how many tokens were read.
    """
    group, dim = queries.shape
    most = count - (last - first) + min(budget, last - first)
    positions, probabilities = np.empty(most, np.int32), np.empty(most, np.float32)
    reads = choose(
        asked, head, start, stop, scratch, code_pages, norms_at, count, first, last, temperature, floor, key, budget,
        positions, probabilities,
    )  # fmt: skip
    outputs, lses = np.empty((1, group, dim), np.float32), np.empty((1, group), np.float32)
    moments = np.empty((1, group, dim + 2), np.float32)
    attend_tokens(rows, queries, pages, positions, probabilities, outputs[0], lses[0], moments[0])
    merge_samples(outputs, lses, moments, out, lse, variance)
    return reads
