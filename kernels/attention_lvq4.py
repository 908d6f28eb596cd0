"""Keys in 4 bits a dimension, in pages that are scanned for all queries of a group at once.

A key k is coded less the mean m of its head, which leaves softmax as it is: ``k - m = lower + step c``, c from 0 to 15,
with lower and step of its own (LVQ: Aguerrebere et al., VLDB 2023). With the query rounded to int8, ``q = t r``, the
logit is ``t (lower sum(r) + step <r, c>)``: integer dot products, 64 at a time.

A page holds PAGE tokens in blocks of 16. A block has a cache line for each 8 dimensions: bytes 4 i to 4 i + 3 of line j
are those of token i, byte b with the code of dimension 8 j + b in its low half and of 8 j + 4 + b in its high half. So
a lane of 32 bits belongs to one token, and no sum runs across lanes. Behind the blocks: lower, step and the norm of the
value, bfloat16, PAGE each. That is dim / 2 + 6 bytes a token.
"""

import numpy as np

from nearhash.kernels.attention_rows import PAGE, bfloat16_bits
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.query_bytes import SCALE, SUM, quantise
from nearhash.kernels.simd import bits_float, float_bits, offset, pointer
from nearhash.kernels.simd_attention import GROUP, halves_at
from nearhash.kernels.simd_attention_codes import BLOCK, GROUP_TOKENS, scan_nibbles, scan_nibbles_one
from nearhash.kernels.simd_bytes import bytes_at

LOWER, STEP, NORM = range(3)
NUMBERS = 3
LEVELS = np.float32(15.0)

_S16, _ONE, _LOW = np.uint64(16), np.uint64(1), np.uint64(0xFFFF)
_SIGN, _LARGEST = np.uint64(0x8000), np.uint64(0x7F7F)  # of bfloat16: sign, and greatest finite number


def page_bytes(dim: int) -> int:
    """Bytes of a page of codes of `dim` dimensions, a multiple of 8."""
    return PAGE * (dim // 2 + 2 * NUMBERS)


def norms_at(dim: int) -> int:
    """Byte of a page where the norms of the values start, bfloat16."""
    return PAGE * (dim // 2 + 2 * NORM)


@jit_inline
def _outward(value, up):
    """Bits of the bfloat16 next to a finite float32, not below it if `up`, else not above it; finite."""
    bits = float_bits(value)
    high = bits >> _S16
    if (bits & _LOW) != 0 and ((high & _SIGN) == 0) == up:
        high += _ONE
    if (high & ~_SIGN) > _LARGEST:
        high = (high & _SIGN) | _LARGEST
    return high


@jit_inline
def value_norm(value, dim):
    """Bits of the norm of `dim` floats at a pointer as bfloat16, finite."""
    total = 0.0
    for i in range(dim):
        total += np.float64(value[i]) * np.float64(value[i])
    return min(bfloat16_bits(np.float32(min(np.sqrt(total), 3.3e38))), _LARGEST)


@jit
def encode(pages, first, keys, values, mean):
    """Write the codes of the tokens from position `first` on: keys and values (n, dim), mean (dim,), all float32."""
    count, dim = keys.shape
    for i in range(count):
        page, slot = pages[(first + i) // PAGE], (first + i) % PAGE
        key, lower, upper = pointer(keys, i * dim), np.float32(np.inf), np.float32(-np.inf)
        for j in range(dim):
            value = key[j] - mean[j]
            lower, upper = min(lower, value), max(upper, value)
        low_bits = _outward(lower, False)
        lower = bits_float(low_bits << _S16)
        step_bits = _outward(min((upper - lower) / LEVELS, np.float32(3.3e38)), True)
        step = bits_float(step_bits << _S16)
        inverse = np.float32(1.0) / step if step > 0 else np.float32(0.0)
        if not np.isfinite(inverse):  # of a denormal step: all are lower
            step_bits, inverse = np.uint64(0), np.float32(0.0)
        codes = bytes_at(page + (slot // BLOCK) * (BLOCK * dim // 2) + 4 * (slot % BLOCK))
        for line in range(dim // 8):
            for byte in range(4):
                at = 8 * line + byte
                low = np.floor((key[at] - mean[at] - lower) * inverse + np.float32(0.5))
                high = np.floor((key[at + 4] - mean[at + 4] - lower) * inverse + np.float32(0.5))
                pair = np.int64(min(low, LEVELS)) | np.int64(min(high, LEVELS)) << 4
                codes[64 * line + byte] = np.uint8(pair)
        numbers = halves_at(page + PAGE * dim // 2)
        numbers[LOWER * PAGE + slot] = np.uint16(low_bits)
        numbers[STEP * PAGE + slot] = np.uint16(step_bits)
        numbers[NORM * PAGE + slot] = np.uint16(value_norm(pointer(values, i * dim), dim))


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
        page, slot = pages[token // PAGE], token % PAGE
        codes, further = bytes_at(page + slot * (dim // 2)), min(token + GROUP_TOKENS, last - 1)
        ahead = bytes_at(pages[further // PAGE] + (further % PAGE) // GROUP_TOKENS * GROUP_TOKENS * (dim // 2))
        own = offset(halves_at(page + PAGE * dim // 2), slot)
        for query in range(0, count, GROUP):
            values, factors = pointer(rounded, query * dim), pointer(constants, query * 2)
            out = pointer(logits, query * room + token)
            if count - query >= GROUP:
                scan_nibbles(codes, ahead, own, dim // 8, values, factors, out, room)
            elif count - query == 1:
                scan_nibbles_one(codes, ahead, own, dim // 8, values, factors, out, room)
            else:
                scan_nibbles(codes, ahead, own, dim // 8, values, factors, pointer(spare, 0), GROUP_TOKENS)
                for i in range(count - query):
                    for j in range(GROUP_TOKENS):
                        out[i * room + j] = spare[i, j]
            ahead = codes  # asked for once
