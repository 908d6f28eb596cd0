"""Attention of the queries of a group over the tokens of one KV head, read once for all of them.

Online softmax over blocks of tokens (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et
al., "FlashAttention", NeurIPS 2022). Tokens may be a range, or a sample in which token i was included with probability
p_i: its weight exp(s_i) is then divided by p_i (Horvitz and Thompson 1952), so that sums over the sample are unbiased
for sums over all tokens, and the sample also tells the error of the output.

Parts of the tokens may be attended to apart and merged by their log-sum-exp.
"""

import numpy as np

from nearhash.kernels.attention_rows import token_address, token_scales
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import LANES, offset, pointer
from nearhash.kernels.simd_attention import (
    BLOCK,
    FACTOR,
    GROUP,
    LOWEST,
    QUERIES,
    STATE,
    TOP,
    TOTAL,
    add_group,
    add_one,
    fold_scores,
    score_group,
    score_one,
)

_ONE, _NOTHING = np.float32(1.0), np.float32(-np.inf)


@jit_inline
def _padded(queries):
    """Queries with zeros behind them up to a multiple of LANES dimensions and of GROUP queries."""
    count, dim = queries.shape
    wide = -(-dim // LANES) * LANES
    result = np.zeros((-(-count // GROUP) * GROUP, wide), np.float32)
    result[:count, :dim] = queries
    return result


@jit_inline
def _starting_state():
    state = np.zeros((STATE, QUERIES), np.float32)
    state[TOP] = LOWEST
    return state


@jit_inline
def _score(rows, queries, count, addresses, ahead, scores):
    """Scores (count, BLOCK) of a block: GROUP queries at a time, and what is left over of them."""
    dim, wide = rows.dim, queries.shape[1]
    wanted = ahead
    for query in range(0, count, GROUP):
        line, out = pointer(queries, query * wide), pointer(scores, query * BLOCK)
        if count - query == 1:
            score_one(rows, line, addresses, wanted, dim, out)
        else:
            score_group(rows, line, addresses, wanted, dim, out)
        wanted = addresses  # asked for once


@jit_inline
def _add(rows, weights, count, addresses, ahead, present, factors, sums):
    """Add the weighted rows of a block to sums (count, wide)."""
    dim, wide = rows.dim, sums.shape[1]
    wanted = ahead
    for query in range(0, count, GROUP):
        line, out, factor = pointer(weights, query * BLOCK), pointer(sums, query * wide), offset(factors, query)
        if count - query == 1:
            add_one(rows, line, addresses, wanted, present, dim, factor, out)
        else:
            add_group(rows, line, addresses, wanted, present, dim, factor, out)
        wanted = addresses


@jit_inline
def _scale_lines(lines, count, scales):
    """Multiply the lines (count, BLOCK) by scales (BLOCK,)."""
    for query in range(count):
        for i in range(BLOCK):
            lines[query, i] *= scales[i]


@jit_inline
def _fill_values(addresses, values, value_at):
    for i in range(BLOCK):
        values[i] = addresses[i] + value_at


@jit_inline
def _write_result(queries, sums, state, out, lse):
    """Output and log-sum-exp of what was summed."""
    for query in range(queries.shape[0]):
        total = state[TOTAL, query]
        inverse = _ONE / total if total > 0 else (total if np.isnan(total) else np.float32(0.0))
        for i in range(queries.shape[1]):
            out[query, i] = sums[query, i] * inverse
        lse[query] = state[TOP, query] + np.log(total) if total != 0 else _NOTHING


@jit
def attend_dense(rows, queries, pages, first, last, out, lse):
    """Attention over the tokens ``first <= position < last``.

    rows: scheme; queries (g, dim) float32, g <= 16, times the scale of the logits; pages (p,) int64 addresses; out
    (g, dim) and lse (g,) float32: output and log-sum-exp of the logits, 0 and -inf of no tokens.
    """
    count = queries.shape[0]
    lines, state = _padded(queries), _starting_state()
    sums, scores = np.zeros(lines.shape, np.float32), np.empty((lines.shape[0], BLOCK), np.float32)
    keys, values = np.empty((2, BLOCK), np.int64), np.empty((2, BLOCK), np.int64)
    key_scales, value_scales = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for i in range(BLOCK):
        keys[0, i] = token_address(rows, pages, min(first + i, last - 1)) if last > first else 0
    side = 0
    for start in range(first, last, BLOCK):
        present = min(BLOCK, last - start)
        for i in range(BLOCK):
            keys[1 - side, i] = token_address(rows, pages, min(start + BLOCK + i, last - 1))
        _fill_values(keys[side], values[side], rows.value_at)
        _fill_values(keys[1 - side], values[1 - side], rows.value_at)
        here, ahead = pointer(keys, side * BLOCK), pointer(keys, (1 - side) * BLOCK)
        _score(rows, lines, count, here, ahead, scores)
        if rows.scales_at > 0:
            for i in range(BLOCK):
                scales = token_scales(rows, pages, min(start + i, last - 1))
                key_scales[i], value_scales[i] = scales[0], scales[1]
            _scale_lines(scores, count, key_scales)
        for query in range(count):
            scores[query, present:] = _NOTHING
            fold_scores(pointer(scores, query * BLOCK), pointer(state, query))
        if rows.scales_at > 0:
            _scale_lines(scores, count, value_scales)
        _add(
            rows, scores, count, pointer(values, side * BLOCK), pointer(values, (1 - side) * BLOCK), present,
            pointer(state, FACTOR * QUERIES), sums,
        )  # fmt: skip
        side = 1 - side
    _write_result(queries, sums, state, out, lse)


@jit
def merge(outputs, lses, out, lse):
    """Merge the results of disjoint parts of the tokens: outputs (p, g, dim), lses (p, g) -> out (g, dim), lse (g,).

    With m the greatest log-sum-exp, ``out = sum exp(l - m) o / sum exp(l - m)``; parts without tokens count nothing.
    """
    parts, count, dim = outputs.shape
    for query in range(count):
        top, total = _NOTHING, 0.0
        for part in range(parts):
            top = max(top, lses[part, query])
        out[query, :] = 0
        for part in range(parts):
            if lses[part, query] == _NOTHING:
                continue
            weight = np.exp(np.float64(lses[part, query]) - np.float64(top))
            total += weight
            for i in range(dim):
                out[query, i] += np.float32(weight) * outputs[part, query, i]
        if total > 0:
            for i in range(dim):
                out[query, i] /= np.float32(total)
        lse[query] = np.float32(np.float64(top) + np.log(total)) if total != 0 else _NOTHING
