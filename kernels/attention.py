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
    GROUP,
    add_group,
    add_one,
    score_group,
    score_one,
    square_rows,
)
from nearhash.kernels.simd_softmax import (
    FACTOR,
    FACTOR_SQUARED,
    LOWEST,
    QUERIES,
    SPREAD,
    SQUARES,
    STATE,
    TOP,
    TOTAL,
    fold_samples,
    fold_scores,
)

_ZERO, _ONE, _NOTHING = np.float32(0.0), np.float32(1.0), np.float32(-np.inf)


@jit_inline
def _padded(queries):
    """Queries with zeros behind them up to a multiple of LANES dimensions and of GROUP queries."""
    count, dim = queries.shape
    wide = -(-dim // LANES) * LANES
    result = np.zeros((-(-count // GROUP) * GROUP, wide), np.float32)
    for query in range(count):
        for i in range(dim):
            result[query, i] = queries[query, i]
    return result


@jit_inline
def _starting_state():
    state = np.zeros((STATE, QUERIES), np.float32)
    for query in range(QUERIES):
        state[TOP, query] = LOWEST
    return state


@jit
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


@jit
def _add(rows, weights, count, addresses, ahead, present, factors, sums):
    """Add the weighted rows of a block to sums (count, wide), which are multiplied by factors before."""
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
def _scale_lines(lines, count, scales, which):
    """Multiply the lines (count, BLOCK) by scales[which], (2, BLOCK)."""
    for query in range(count):
        line, factors = pointer(lines, query * BLOCK), pointer(scales, which * BLOCK)
        for i in range(BLOCK):
            line[i] *= factors[i]


@jit_inline
def _shift(addresses, side, value_at, values):
    """Addresses of the values of the keys at addresses[side] (2, BLOCK)."""
    for i in range(BLOCK):
        values[side, i] = addresses[side, i] + value_at


@jit_inline
def _write_result(queries, sums, state, out, lse):
    """Output and log-sum-exp of what was summed."""
    for query in range(queries.shape[0]):
        total = state[TOTAL, query]
        inverse = _ONE / total if total != 0 else _ZERO
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
    # Addresses of a block and of the next one, by turns: beyond the end those of the last token stand for them.
    keys, values = np.empty((2, BLOCK), np.int64), np.empty((2, BLOCK), np.int64)
    scales = np.empty((2, BLOCK), np.float32)
    side = 0
    for start in range(first - BLOCK, last, BLOCK):
        other, present = 1 - side, min(BLOCK, last - start)
        for i in range(BLOCK if last > first else 0):
            keys[other, i] = token_address(rows, pages, min(start + BLOCK + i, last - 1))
        _shift(keys, other, rows.value_at, values)
        if start >= first:
            here, ahead = pointer(keys, side * BLOCK), pointer(keys, other * BLOCK)
            _score(rows, lines, count, here, ahead, scores)
            if rows.scales_at > 0:
                for i in range(present):
                    both = token_scales(rows, pages, start + i)
                    scales[0, i], scales[1, i] = both[0], both[1]
                _scale_lines(scores, count, scales, 0)
            for query in range(count):
                for i in range(present, BLOCK):
                    scores[query, i] = _NOTHING
                fold_scores(pointer(scores, query * BLOCK), pointer(state, query))
            if rows.scales_at > 0:
                _scale_lines(scores, count, scales, 1)
            here, ahead = pointer(values, side * BLOCK), pointer(values, other * BLOCK)
            _add(rows, scores, count, here, ahead, present, pointer(state, FACTOR * QUERIES), sums)
        side = other
    _write_result(queries, sums, state, out, lse)


@jit
def attend_tokens(rows, queries, pages, positions, probabilities, out, lse, moments):
    """Attention estimated from tokens that were included with known probabilities.

    positions (n,) int32, those of a sample and with p = 1 those that are always read; probabilities p (n,) float32, in
    (0, 1]; the rest as in `attend_dense`. out and lse are the Horvitz-Thompson estimates: with weights
    ``w = exp(s) / p`` of the logits s, ``out = sum w v / D`` and ``lse = ln D``, ``D = sum w``. moments (g, dim + 2)
    float32, for `merge_samples`: with ``c = (1 - p) (w / D)^2``, sum c v (dim of them), sum c, and sum c |v|^2.
    """
    (count, dim), total = queries.shape, positions.shape[0]
    lines, state = _padded(queries), _starting_state()
    sums, spreads = np.zeros(lines.shape, np.float32), np.zeros(lines.shape, np.float32)
    scores, parts = np.empty((lines.shape[0], BLOCK), np.float32), np.empty((lines.shape[0], BLOCK), np.float32)
    keys, values = np.empty((2, BLOCK), np.int64), np.empty((2, BLOCK), np.int64)
    scales, norms, chances = np.empty((2, BLOCK), np.float32), np.zeros(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    side = 0
    for start in range(-BLOCK, total, BLOCK):
        other, present = 1 - side, min(BLOCK, total - start)
        for i in range(BLOCK if total > 0 else 0):
            keys[other, i] = token_address(rows, pages, np.int64(positions[min(start + BLOCK + i, total - 1)]))
        _shift(keys, other, rows.value_at, values)
        if start >= 0:
            here, ahead = pointer(keys, side * BLOCK), pointer(keys, other * BLOCK)
            _score(rows, lines, count, here, ahead, scores)
            here, ahead = pointer(values, side * BLOCK), pointer(values, other * BLOCK)
            sampled = False
            for i in range(BLOCK):
                chances[i] = probabilities[start + i] if i < present else _ONE
                sampled |= chances[i] < _ONE
            if sampled:
                square_rows(rows, here, present, dim, pointer(norms, 0))
            if rows.scales_at > 0:
                for i in range(present):
                    both = token_scales(rows, pages, np.int64(positions[start + i]))
                    scales[0, i], scales[1, i] = both[0], both[1]
                    norms[i] *= both[1] * both[1]
                _scale_lines(scores, count, scales, 0)
            for query in range(count):
                for i in range(present, BLOCK):
                    scores[query, i] = _NOTHING
                fold_samples(
                    pointer(scores, query * BLOCK), pointer(state, query), pointer(chances, 0), pointer(norms, 0),
                    pointer(parts, query * BLOCK),
                )  # fmt: skip
            if rows.scales_at > 0:
                _scale_lines(scores, count, scales, 1)
                _scale_lines(parts, count, scales, 1)
            _add(rows, scores, count, here, ahead, present, pointer(state, FACTOR * QUERIES), sums)
            # Without sampled tokens nothing is added, but what was summed before is multiplied.
            present = present if sampled else 0
            _add(rows, parts, count, here, here, present, pointer(state, FACTOR_SQUARED * QUERIES), spreads)
        side = other
    _write_result(queries, sums, state, out, lse)
    for query in range(count):
        total_mass = np.float64(state[TOTAL, query])
        inverse = 1.0 / (total_mass * total_mass) if total_mass > 0 else 0.0
        for i in range(dim):
            moments[query, i] = spreads[query, i] * inverse
        moments[query, dim] = state[SPREAD, query] * inverse
        moments[query, dim + 1] = state[SQUARES, query] * inverse


@jit_inline
def _shares(lses, query, shares):
    """Share of each part in the sum of exponentials, and the logarithm of this sum, -inf of no tokens."""
    top, total = _NOTHING, 0.0
    for part in range(lses.shape[0]):
        top = max(top, lses[part, query])
    for part in range(lses.shape[0]):
        # A part without tokens counts nothing even where all others are without, too.
        less = np.float64(lses[part, query]) - np.float64(top)
        shares[part] = np.exp(less) if lses[part, query] != _NOTHING else 0.0
        total += shares[part]
    if total != 0:
        for part in range(lses.shape[0]):
            shares[part] /= total
    return np.float32(np.float64(top) + np.log(total)) if total != 0 else _NOTHING


@jit
def merge(outputs, lses, out, lse):
    """Merge the results of disjoint parts of the tokens: outputs (p, g, dim), lses (p, g) -> out (g, dim), lse (g,).

    With m the greatest log-sum-exp, ``out = sum exp(l - m) o / sum exp(l - m)``; parts without tokens count nothing.
    """
    parts, count, dim = outputs.shape
    shares = np.empty(parts)
    for query in range(count):
        lse[query] = _shares(lses, query, shares)
        for i in range(dim):
            out[query, i] = _ZERO
        for part in range(parts):
            share = np.float32(shares[part])
            for i in range(dim if share != 0 else 0):
                out[query, i] += share * outputs[part, query, i]


@jit
def merge_samples(outputs, lses, moments, out, lse, variance):
    """As `merge` for parts of a sample with their moments (p, g, dim + 2); also the variance (g,) of the outputs.

    ``V = sum (1 - p) / p^2 a^2 |v - out|^2`` with a = exp(s) / D: the variance, summed over the dimensions, that the
    sample itself shows. Of a part without sampled tokens the moments are 0.
    """
    parts, count, dim = outputs.shape
    shares = np.empty(parts)
    merge(outputs, lses, out, lse)
    for query in range(count):
        _shares(lses, query, shares)
        square, total = 0.0, 0.0
        for i in range(dim):
            square += np.float64(out[query, i]) * np.float64(out[query, i])
        for part in range(parts):
            along = 0.0
            for i in range(dim):
                along += np.float64(out[query, i]) * np.float64(moments[part, query, i])
            spread, squares = moments[part, query, dim], moments[part, query, dim + 1]
            total += shares[part] * shares[part] * (square * spread - 2.0 * along + squares)
        variance[query] = max(total, 0.0)  # rounding may leave less than nothing
