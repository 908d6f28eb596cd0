"""Keys as the signs of random projections, in pages that are scanned for all queries of a group at once.

A key k less the mean m of its head has B bits (kernels/simhash.py). Of two vectors at the angle a each bit differs with
probability a / pi (Goemans and Williamson 1995; Charikar, STOC 2002), so with h bits different the logit is taken for
``|q| |k - m| cos(pi h / B)``.

A page holds B / 64 planes of PAGE uint64, plane w with word w of every token; then the norms of the centred keys and
those of the values, bfloat16, PAGE each: B / 8 + 4 bytes a token.
"""

import numpy as np

from nearhash.kernels.attention_blocks import copy_logits, norm_bits
from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.jit import jit
from nearhash.kernels.simd import dot, offset, pointer
from nearhash.kernels.simd_attention import GROUP, halves_at, words_at
from nearhash.kernels.simd_attention_codes import GROUP_TOKENS, scan_signs, scan_signs_one


def page_bytes(bits: int) -> int:
    """Bytes of a page of codes of `bits` bits, a multiple of 64."""
    return PAGE * (bits // 8 + 4)


def norms_at(bits: int) -> int:
    """Byte of a page where the norms of the values start, bfloat16."""
    return PAGE * (bits // 8 + 2)


@jit
def encode(pages, first, codes, keys, values, mean):
    """Write the tokens from position `first` on: codes (n, B / 64) uint64 of the keys less the mean.

    keys and values (n, dim), mean (dim,) float32, for the norms.
    """
    (count, words), dim = codes.shape, keys.shape[1]
    centred = np.empty(dim, np.float32)
    for i in range(count):
        page, slot = pages[(first + i) // PAGE], (first + i) % PAGE
        planes, numbers = words_at(page), halves_at(page + 8 * words * PAGE)
        for word in range(words):
            planes[word * PAGE + slot] = codes[i, word]
        for j in range(dim):
            centred[j] = keys[i, j] - mean[j]
        numbers[slot] = np.uint16(norm_bits(pointer(centred, 0), dim))
        numbers[PAGE + slot] = np.uint16(norm_bits(pointer(values, i * dim), dim))


@jit
def scan(pages, queries, codes, first, last, logits):
    """Estimated logits of the tokens ``first <= position < last``, less ``<q, mean>``, the same for all tokens.

    queries (g, dim) float32, times the scale of the logits, and their codes (g, B / 64) uint64; logits (g, room)
    float32 as in `attention_lvq4.scan`.
    """
    (count, words), dim, room = codes.shape, queries.shape[1], logits.shape[1]
    bits, lengths = np.zeros((count + GROUP, words), np.uint64), np.zeros(count + GROUP, np.float32)
    for query in range(count):
        vector = pointer(queries, query * dim)
        lengths[query] = np.sqrt(dot(vector, vector, dim))
        for word in range(words):
            bits[query, word] = codes[query, word]
    spare = np.empty((GROUP, GROUP_TOKENS), np.float32)  # for the last queries, if they are not GROUP
    start = first - first % GROUP_TOKENS
    for token in range(start, last if last > first else start, GROUP_TOKENS):
        page, slot = pages[token // PAGE], token % PAGE
        planes, norms = offset(words_at(page), slot), offset(halves_at(page + 8 * words * PAGE), slot)
        ahead = offset(words_at(pages[min(token + PAGE, last - 1) // PAGE]), slot)
        for query in range(0, count, GROUP):
            values, factors = pointer(bits, query * words), pointer(lengths, query)
            out = pointer(logits, query * room + token)
            if count - query >= GROUP:
                scan_signs(planes, ahead, norms, words, values, factors, out, room)
            elif count - query == 1:
                scan_signs_one(planes, ahead, norms, words, values, factors, out, room)
            else:
                scan_signs(planes, ahead, norms, words, values, factors, pointer(spare, 0), GROUP_TOKENS)
                copy_logits(pointer(spare, 0), count - query, out, room)
            ahead = planes  # asked for once
