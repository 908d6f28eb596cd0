"""Keys as product codes of 4 bits, in pages that are scanned by look-ups in registers for a group of queries.

A key less the mean of its head has a code of 4 bits for each of m sub-quantisers (kernels/product_codes.py). The inner
products of a query with the 16 codewords of each are rounded to 8 bits with a step common to all, and the logit is the
sum of m of them (Andre et al., "Cache locality is not enough", VLDB 2015).

A page holds the codes in blocks (attention_blocks.py, which are those of simd_tables.py too) and then the norms of the
values, bfloat16: m / 2 + 2 bytes a token, m a multiple of 8.
"""

import numpy as np

from nearhash.kernels.attention_blocks import AHEAD, code_address, copy_logits, norm_bits, put_codes
from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.jit import jit
from nearhash.kernels.simd import greatest_float, least_float, offset, pointer
from nearhash.kernels.simd_attention import halves_at
from nearhash.kernels.simd_attention_codes import GROUP_TOKENS, scan_products, scan_products_one
from nearhash.kernels.simd_bytes import bytes_at
from nearhash.kernels.simd_tables import GROUP, MANY_QUERIES, quantise_line, table_line

LEVELS = 16


def page_bytes(subs: int) -> int:
    """Bytes of a page of codes of `subs` sub-quantisers, a multiple of 8."""
    return PAGE * (subs // 2 + 2)


def norms_at(subs: int) -> int:
    """Byte of a page where the norms of the values start, bfloat16."""
    return PAGE * (subs // 2)


@jit
def encode(pages, first, codes, values):
    """Write the tokens from position `first` on: codes (n, m) uint8 from 0 to 15, values (n, dim) float32."""
    (count, subs), dim = codes.shape, values.shape[1]
    for i in range(count):
        page, slot = pages[(first + i) // PAGE], (first + i) % PAGE
        put_codes(page, slot, subs, pointer(codes, i * subs))
        norms = halves_at(page + PAGE * subs // 2)
        norms[slot] = np.uint16(norm_bits(pointer(values, i * dim), dim))


@jit
def scan(pages, queries, bounds, codewords, first, last, logits):
    """Estimated logits of the tokens ``first <= position < last``, less ``<q, mean>``, the same for all tokens.

    queries (g, dim) float32, times the scale of the logits; sub-quantiser j covers the dimensions ``bounds[j] <= i <
    bounds[j + 1]``, bounds (m + 1,) int32, with codewords (dim, 16) float32; logits (g, room) float32 as in
    `attention_lvq4.scan`.
    """
    (count, dim), room, subs = queries.shape, logits.shape[1], bounds.shape[0] - 1
    tables = np.zeros((count + MANY_QUERIES, subs, LEVELS), np.uint8)
    constants, products = np.zeros((count + MANY_QUERIES, 2), np.float32), np.empty((subs, LEVELS), np.float32)
    for query in range(count):
        vector, widest, base = pointer(queries, query * dim), np.float32(0.0), 0.0
        for sub in range(subs):
            start, line = np.int64(bounds[sub]), pointer(products, sub * LEVELS)
            size = np.int64(bounds[sub + 1]) - start
            table_line(offset(vector, start), pointer(codewords, start * LEVELS), size, np.float32(1.0), line)
            least = least_float(line, LEVELS)
            widest = max(widest, greatest_float(line, LEVELS) - least)
            base += least
        scale = widest / np.float32(255.0)
        inverse = np.float32(1.0) / scale if scale > 0 else np.float32(0.0)
        if not np.isfinite(inverse):  # of a denormal step: all codewords are alike
            scale, inverse = np.float32(0.0), np.float32(0.0)
        constants[query, 0], constants[query, 1] = scale, np.float32(base)
        for sub in range(subs):
            line = pointer(products, sub * LEVELS)
            out = pointer(tables, (query * subs + sub) * LEVELS)
            quantise_line(line, least_float(line, LEVELS), inverse, out)
    spare = np.empty((MANY_QUERIES, GROUP_TOKENS), np.float32)  # for the last queries, if they are not MANY_QUERIES
    start = first - first % GROUP_TOKENS
    for token in range(start, last if last > first else start, GROUP_TOKENS):
        codes, groups = bytes_at(code_address(pages, token, subs)), subs // GROUP
        further = min(token + AHEAD * GROUP_TOKENS, last - 1)
        ahead = bytes_at(code_address(pages, further - further % GROUP_TOKENS, subs))
        for query in range(0, count, MANY_QUERIES):
            table, factors = pointer(tables, query * subs * LEVELS), pointer(constants, query * 2)
            out = pointer(logits, query * room + token)
            if count - query >= MANY_QUERIES:
                scan_products(codes, ahead, groups, table, factors, out, room)
            elif count - query == 1:
                scan_products_one(codes, ahead, groups, table, factors, out, room)
            else:
                scan_products(codes, ahead, groups, table, factors, pointer(spare, 0), GROUP_TOKENS)
                copy_logits(pointer(spare, 0), count - query, out, room)
            ahead = codes  # asked for once
