"""Priority sampling of tokens by what their codes say of them.

A token has the weight ``w = mean over queries of softmax(logits / T) * |v|``, scaled to the sum 1, plus ``floor / n``,
which keeps every probability away from 0. With u uniform in (0, 1] its priority is w / u; the `budget` greatest are
taken, and with t the greatest of the others p = min(1, w / t) is the probability of inclusion (Duffield, Lund and
Thorup, J. ACM 2007): sums of f / p over the sample are unbiased for sums of f. Here its inverse, the time u / w, is
computed, and the least are taken.

u is a function of the position and a key of 64 bits, ``x = position * 0x9E3779B1 + low half`` mixed by two
rounds of shifts and multiplications (the 32-bit finalisers of Wellons' hash prospector) with the high half xored in
between: one mix of 32 bits a token, where Philox costs more than the scan. The key of a draw comes from Philox
(`sampling_key`), so draws of different steps, layers and heads are independent.
"""

import numpy as np

from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.philox import philox
from nearhash.kernels.select import LARGEST, keep_least
from nearhash.kernels.simd import bits_float, count_floats, float_bits, greatest_float, greatest_key, offset, pointer
from nearhash.kernels.simd_attention import halves_at
from nearhash.kernels.simd_attention_codes import BLOCK
from nearhash.kernels.simd_sampling import append_times, arrive, mix_lines
from nearhash.kernels.simd_softmax import LOWEST, exponentials

CHUNK = 8 * PAGE  # tokens whose exponentials are taken while their logits are in the first-level cache

_ZERO, _ONE, _NOTHING = np.float32(0.0), np.float32(1.0), np.float32(-np.inf)
_NO_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)
_S32, _LOW32, _BIT = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1)


@jit
def sampling_key(seed, step, layer, head):
    """Key of 64 bits, uint64, of a draw: integers from 0 on, step < 2^32 and head < 2^32."""
    stream = np.uint64(layer) << _S32 | np.uint64(head)
    low, high, _, _ = philox(np.uint64(step), stream, np.uint64(seed))
    return high << _S32 | low


@jit_inline
def around(first, last):
    """First and last of the whole blocks of 16 that hold the range."""
    return first - first % BLOCK, last + -last % BLOCK


@jit_inline
def _mask_ends(line, first, last, value):
    """Fill what the whole blocks hold beside the range."""
    start, stop = around(first, last)
    for i in range(start, first):
        line[i] = value
    for i in range(last, stop):
        line[i] = value


@jit_inline
def open_chunks(group, first, last):
    """What `exponentiate` keeps of the logits of `group` queries for `mix`: tops and sums so far, tops of chunks."""
    start, stop = around(first, last)
    tops, totals = np.full(group, np.float32(LOWEST)), np.zeros(group)
    return tops, totals, np.empty(((stop - start) // CHUNK + 2, group), np.float32)


@jit
def exponentiate(logits, first, last, here, until, temperature, tops, totals, factors):
    """Replace logits (g, room) of the positions ``here <= position < until`` by exponentials, 0 outside the range.

    To be called for consecutive parts of the whole blocks of 16 around ``first <= position < last``, cut at multiples
    of CHUNK; the rest is that of `open_chunks`.
    """
    count, room = logits.shape
    start = around(first, last)[0]
    inverse = np.float32(1.0 / temperature)
    for query in range(count):
        line = pointer(logits, query * room)
        for i in range(here, first):
            line[i] = _NOTHING
        for i in range(last, until):
            line[i] = _NOTHING
        token = here
        while token < until:
            size = min(CHUNK - token % CHUNK, until - token)
            before = tops[query]
            top = min(max(greatest_float(offset(line, token), size), before), LARGEST)
            total = exponentials(offset(line, token), size, top, inverse)
            totals[query] = totals[query] * np.exp((before - top) * inverse) + total
            tops[query] = factors[token // CHUNK - start // CHUNK, query] = top
            token += size


@jit
def mix(exponentials, code_pages, norms_at, first, last, temperature, tops, totals, factors, weights):
    """Weights, not yet scaled, of the tokens ``first <= position < last``, at least one; returns their sum.

    exponentials (g, room) float32 and the three after the temperature: what `exponentiate` left, factors are
    overwritten; code_pages: addresses of pages in which bfloat16 norms of the values lie from byte `norms_at` on;
    weights (room,) float32. Columns are positions; around the range whole blocks of 16 are written, with 0 outside, so
    room is a multiple of 16.
    """
    count, room = exponentials.shape
    start, stop = around(first, last)
    inverse = np.float32(1.0 / temperature)
    for chunk in range((stop - 1) // CHUNK - start // CHUNK + 1):
        for query in range(count):
            # Without a finite logit all tokens are alike.
            share = 1.0 / (count * totals[query]) if totals[query] > 0 else 0.0
            factors[chunk, query] = np.exp((factors[chunk, query] - tops[query]) * inverse) * share
    token, total = start, 0.0
    while token < stop:
        size = min(PAGE - token % PAGE, stop - token)
        norms = halves_at(code_pages[token // PAGE] + norms_at + 2 * (token % PAGE))
        row = pointer(factors, (token // CHUNK - start // CHUNK) * count)
        total += mix_lines(pointer(exponentials, token), room, count, row, norms, size, pointer(weights, token))
        token += size
    return total


@jit
def draw_times(weights, total, first, last, floor, key, times):
    """Scale weights, whose sum is `total`, to the sum 1 plus floor / n each, and write the times u / w of all tokens.

    weights and times (room,) float32 as in `mix`; times are inf outside the range.
    """
    count = last - first
    start, stop = around(first, last)
    factor, least = np.float32(0.0), np.float32(1.0 / count)  # all alike
    if total > 0 and np.isfinite(total):
        factor, least = np.float32(1.0 / total), np.float32(floor / count)
    arrive(pointer(weights, start), start, stop - start, factor, least, key, pointer(times, start))
    _mask_ends(pointer(times, 0), first, last, np.float32(np.inf))


@jit
def select(times, weights, first, last, budget, positions, probabilities):
    """The `budget` tokens with the least times, ties to the lower position, in order; returns how many.

    positions int32 and probabilities float32, both with room for min(budget, last - first), which is returned unless
    there are fewer finite times: tokens without one are never taken.
    """
    if budget >= last - first:
        for i in range(last - first):
            positions[i], probabilities[i] = first + i, _ONE
        return last - first
    start, stop = around(first, last)
    size, want, here = stop - start, budget + 1, pointer(times, start)
    # The sum of the weights is about 1, so fewer than t tokens are expected to have come by the time t: a first guess.
    # From there by doubling to a bound that is late enough, and by bisection of the bits to one that is hardly later.
    low, high = np.uint64(0), np.float32(want)
    count = count_floats(here, size, high)
    while count < want and high < LARGEST:
        low = float_bits(high) + _BIT
        high = min(high * np.float32(2.0), LARGEST)
        count = count_floats(here, size, high)
    bound, enough = float_bits(high), want + (want >> 2) + 16
    while count > enough and low < bound:
        middle = low + ((bound - low) >> _BIT)
        found = count_floats(here, size, bits_float(middle))
        if found >= want:
            bound, count = middle, found
        else:
            low = middle + _BIT
    keys, high, found = np.empty(count + BLOCK, np.uint64), bits_float(bound), 0
    for i in range(0, size, BLOCK):
        found = append_times(offset(here, i), start + i, high, pointer(keys, 0), found)
    last_key, threshold, taken = _NO_KEY, LARGEST, 0
    if found >= want:
        found = keep_least(pointer(keys, 0), found, want, want)
        last_key = greatest_key(pointer(keys, 0), want)
        threshold = bits_float(last_key >> _S32)
    for i in range(found):
        if keys[i] != last_key:
            position = np.int64(keys[i] & _LOW32)
            positions[taken] = position
            probabilities[taken] = min(weights[position] * threshold, _ONE)
            taken += 1
    return taken
