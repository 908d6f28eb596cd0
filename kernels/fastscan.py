"""4-bit codes: blocks, look-up tables, and the scan of a list for several queries at once.

A vector x of a list with centroid c is coded as x = c + r with r read back from a product code of 4 bits for each of
m sub-quantisers (Jegou et al., "Product quantization for nearest neighbor search", PAMI 2011; in registers: Andre et
al., "Cache locality is not enough", VLDB 2015, and Guo et al., "Accelerating large-scale inference with anisotropic
vector quantization", ICML 2020). Sub-quantiser j covers the dimensions ``bounds[j] <= i < bounds[j + 1]`` of the
(projected) residual, which need not be equally many, and holds 16 values for each of them.

An inner product with r is then a sum of m look-ups in tables of 16 numbers that depend on the query only. Tables are
quantised to bytes with one scale for all, so that whole numbers are added: entry t becomes
``round((t - least of its sub-quantiser) / scale)``, and the sum of entries is ``shift + scale * sum of bytes`` with an
error of at most ``m scale / 2``.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.jit import jit_inline
from nearhash.kernels.pool import key_distance
from nearhash.kernels.select import LARGEST, keep_least
from nearhash.kernels.simd import greatest_float, greatest_key, least_float, offset
from nearhash.kernels.simd_tables import BLOCK, THRESHOLD, append_keys, quantise_line, table_line

LEVELS = 16  # values of a code


class Codebook(NamedTuple):
    """Sub-quantisers of a product code.

    bounds (m + 1,) int32, m a multiple of 8; values (dim, 16) float32: row i holds the i-th dimension of the 16
    codewords of the sub-quantiser that covers it.
    """

    bounds: NDArray[np.int32]
    values: NDArray[np.float32]


@jit_inline
def make_tables(query, codebook_bounds, codebook_values, subs, factor, scratch, lows, tables):
    """Tables of a query, ``factor`` times its inner products with all codewords, as bytes; all as pointers.

    scratch (subs, 16) and lows (subs,) float32; tables, subs * 16 bytes in the order of simd_tables. Returns (scale,
    shift).
    """
    widest, shift = np.float32(0.0), np.float32(0.0)
    for sub in range(subs):
        line, first = offset(scratch, sub * LEVELS), codebook_bounds[sub]
        count = codebook_bounds[sub + 1] - first
        table_line(offset(query, first), offset(codebook_values, first * LEVELS), count, factor, line)
        low = least_float(line, LEVELS)
        widest = max(widest, greatest_float(line, LEVELS) - low)
        lows[sub] = low
        shift += low
    scale = widest / np.float32(255.0)
    inverse = np.float32(1.0) / scale if scale > 0 else np.float32(0.0)
    for sub in range(subs):
        quantise_line(offset(scratch, sub * LEVELS), lows[sub], inverse, offset(tables, sub * LEVELS))
    return scale, shift


@jit_inline
def _clip(first, last):
    """Bits `first` to `last` - 1 of 16; both may lie outside."""
    low, high = min(max(first, 0), BLOCK), min(max(last, 0), BLOCK)
    return ((1 << high) - 1) & ~((1 << low) - 1)


@jit_inline
def take(masks, scores, blocks, position, first, last, slots, bits, has_bits, allowed, has_allowed, keys, size):
    """Append the keys of what a scan found in consecutive blocks from entry `position` of a list; returns the new size.

    Only entries ``first <= i < last`` of the list whose bit is set in bits (uint64 words), and whose slot is in allowed
    (uint8), where there are such filters. slots: those of the first block; all as pointers.
    """
    for block in range(blocks):
        mask = np.int64(masks[block])
        if mask == 0:
            continue
        place = position + block * BLOCK
        mask &= _clip(first - place, last - place)
        if has_bits:
            mask &= np.int64((bits[place >> 6] >> np.uint64(place & 63)) & np.uint64(0xFFFF))
        here = offset(slots, block * BLOCK)
        if has_allowed and mask != 0:
            own = np.int64(0)
            for lane in range(BLOCK):  # without branches, which nothing could predict
                own |= np.int64(allowed[here[lane]]) << lane
            mask &= own
        if mask != 0:
            size = append_keys(offset(scores, block * BLOCK), mask, here, keys, size)
    return size


@jit_inline
def settle(keys, size, want, most, constants):
    """Keep the least `want` to `most` keys of a query; returns how many are left and updates its threshold."""
    size = keep_least(keys, size, want, most)
    constants[THRESHOLD] = key_distance(greatest_key(keys, size)) if size >= want else LARGEST
    return size
