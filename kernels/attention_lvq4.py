"""Keys in 4 bits a dimension, in pages that are scanned for all queries of a group at once.

A key k is coded less the mean m of its head, which leaves softmax as it is: ``k - m = lower + step c``, c from 0 to 15,
with lower and step of its own (LVQ: Aguerrebere et al., VLDB 2023). With the query rounded to int8, ``q = t r``, the
logit is ``t (lower sum(r) + step <r, c>)``: integer dot products, 64 at a time.

A page holds the codes in blocks (attention_blocks.py) and then lower, step and the norm of the value, bfloat16, PAGE
each: dim / 2 + 6 bytes a token.
"""

import numpy as np

from nearhash.kernels.attention_blocks import AHEAD, code_address, copy_logits, norm_bits, outward, put_codes
from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.jit import jit
from nearhash.kernels.query_bytes import SCALE, SUM, quantise
from nearhash.kernels.simd import bits_float, greatest_float, least_float, offset, pointer
from nearhash.kernels.simd_attention import GROUP, halves_at
from nearhash.kernels.simd_attention_codes import GROUP_TOKENS, scan_nibbles, scan_nibbles_one
from nearhash.kernels.simd_bytes import bytes_at

LOWER, STEP, NORM = range(3)
NUMBERS = 3
LEVELS = 15

_S16 = np.uint64(16)
_HALF, _MOST = np.float32(0.5), np.float32(3.3e38)


def page_bytes(dim: int) -> int:
    """Bytes of a page of codes of `dim` dimensions, a multiple of 8."""
    return PAGE * (dim // 2 + 2 * NUMBERS)


def norms_at(dim: int) -> int:
    """Byte of a page where the norms of the values start, bfloat16."""
    return PAGE * (dim // 2 + 2 * NORM)


@jit
def encode(pages, first, keys, values, mean):
    """Write the codes of the tokens from position `first` on: keys and values (n, dim), mean (dim,), all float32."""
    count, dim = keys.shape
    centred, codes = np.empty(dim, np.float32), np.empty(dim, np.uint8)
    for i in range(count):
        page, slot = pages[(first + i) // PAGE], (first + i) % PAGE
        key, rest = pointer(keys, i * dim), pointer(centred, 0)
        for j in range(dim):
            rest[j] = key[j] - mean[j]
        low_bits = outward(least_float(rest, dim), False)
        lower = bits_float(low_bits << _S16)
        step_bits = outward(min((greatest_float(rest, dim) - lower) / np.float32(LEVELS), _MOST), True)
        step = bits_float(step_bits << _S16)
        inverse = np.float32(1.0) / step if step > 0 else np.float32(0.0)
        if not np.isfinite(inverse):  # of a denormal step: all are lower
            step_bits, inverse = np.uint64(0), np.float32(0.0)
        packed = pointer(codes, 0)
        for j in range(dim):
            packed[j] = np.uint8(min(np.int32((rest[j] - lower) * inverse + _HALF), LEVELS))
        put_codes(page, slot, dim, packed)
        numbers = halves_at(page + PAGE * dim // 2)
        numbers[LOWER * PAGE + slot] = np.uint16(low_bits)
        numbers[STEP * PAGE + slot] = np.uint16(step_bits)
        numbers[NORM * PAGE + slot] = np.uint16(norm_bits(pointer(values, i * dim), dim))


@jit
def scan(pages, queries, first, last, logits):
    """Estimated logits of the tokens ``first <= position < last``, less ``<q, mean>``, the same for all tokens.

    queries (g, dim) float32, times the scale of the logits; logits (g, room) float32, where token i has column i: those
    of all groups of 64 tokens that hold one of the range are written, so room is a multiple of 64.
    """
    (count, dim), room = queries.shape, logits.shape[1]
    rounded, constants = np.zeros((count + GROUP, dim), np.int8), np.zeros((count + GROUP, 2), np.float32)
    numbers = np.empty(8, np.float32)
    for query in range(count):
        vector, largest = pointer(queries, query * dim), np.float32(0.0)
        for i in range(dim):
            largest = max(largest, abs(vector[i]))
        quantise(vector, vector, dim, False, largest, pointer(rounded, query * dim), numbers)
        constants[query, 0], constants[query, 1] = numbers[SCALE], numbers[SUM]
    spare = np.empty((GROUP, GROUP_TOKENS), np.float32)  # for the last queries, if they are not GROUP
    start = first - first % GROUP_TOKENS
    for token in range(start, last if last > first else start, GROUP_TOKENS):
        further = min(token + AHEAD * GROUP_TOKENS, last - 1)
        codes = bytes_at(code_address(pages, token, dim))
        ahead = bytes_at(code_address(pages, further - further % GROUP_TOKENS, dim))
        own = offset(halves_at(pages[token // PAGE] + PAGE * dim // 2), token % PAGE)
        for query in range(0, count, GROUP):
            values, factors = pointer(rounded, query * dim), pointer(constants, query * 2)
            out = pointer(logits, query * room + token)
            if count - query >= GROUP:
                scan_nibbles(codes, ahead, own, dim // 8, values, factors, out, room)
            elif count - query == 1:
                scan_nibbles_one(codes, ahead, own, dim // 8, values, factors, out, room)
            else:
                scan_nibbles(codes, ahead, own, dim // 8, values, factors, pointer(spare, 0), GROUP_TOKENS)
                copy_logits(pointer(spare, 0), count - query, out, room)
            ahead = codes  # asked for once
