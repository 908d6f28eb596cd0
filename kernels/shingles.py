"""Shingles of texts: hashes of all runs of n words or n characters; `reference_shingles.py` specifies them.

Texts are valid UTF-8 and case-folded but for ASCII letters, which are folded here. Code points have a class each, and
words are made by these rules (after Unicode Standard Annex 29): SINGLE characters, of scripts written without spaces,
are words of their own, a MARK belongs to what stands before it, and what has no class separates words.
"""

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd_bytes import BLOCK, copy_bytes
from nearhash.kernels.words import SPACE, code_point, size_of, words_of
from nearhash.kernels.xxh3 import xxh3

_BLANK, _CASE = np.uint8(32), np.uint8(32)


@jit_inline
def _folded(byte, fold):
    return byte | _CASE if fold and np.uint8(65) <= byte <= np.uint8(90) else byte


@jit_inline
def _characters(source, count, fold, classes, buffer, starts):
    """Write the characters of a text, runs of white space as one blank and none at the ends, and where each starts."""
    written, characters, at = 0, 0, 0
    pending = False
    while at < count:
        lead = source[at]
        size = size_of(lead)
        kind = np.int64(classes[code_point(simd.offset(source, at), size)])
        if kind == SPACE:
            pending = characters > 0
            at += size
            continue
        if pending:
            buffer[written] = _BLANK
            starts[characters] = written
            written, characters, pending = written + 1, characters + 1, False
        starts[characters] = written
        characters += 1
        if size == 1:
            buffer[written] = _folded(lead, fold)
        else:
            copy_bytes(simd.offset(buffer, written), simd.offset(source, at), size)
        written += size
        at += size
    starts[characters] = written
    return characters, written


@jit
def shingle_texts(text, bounds, ngram, by_word, fold, classes, secret, buffer, starts, indptr, tokens):
    """Shingles of n texts text[bounds[i]:bounds[i + 1]] as CSR (indptr, tokens); returns how many.

    text (m,) uint8; bounds and indptr (n + 1,) int64; by_word: of words, otherwise of characters; fold: lower-case
    ASCII letters; classes (0x110000,) uint8; secret: that of XXH3. Scratch for the longest text of b bytes: buffer (2
    b + SLACK,) uint8, starts (b + 2,) int64. tokens uint64: room for one more than bytes of all texts, fewer if the
    caller knows.
    """
    block = np.empty(BLOCK, np.uint8)
    indptr[0], found = 0, 0
    gap = 1 if by_word else 0  # between two words stands a blank, which belongs to neither
    for row in range(bounds.shape[0] - 1):
        source, count = simd.pointer(text, bounds[row]), bounds[row + 1] - bounds[row]
        line, marks = simd.pointer(buffer, 0), simd.pointer(starts, 0)
        if by_word:
            readable = text.shape[0] - bounds[row]
            units, written = words_of(
                source, count, readable, fold, simd.pointer(classes, 0), simd.pointer(block, 0), line, marks
            )
            written -= units > 0
        else:
            units, written = _characters(source, count, fold, simd.pointer(classes, 0), line, marks)
        if units > 0 and units < ngram:
            tokens[found] = xxh3(line, written, simd.pointer(secret, 0))
            found += 1
        for i in range(units - ngram + 1):
            size = starts[i + ngram] - gap - starts[i]
            tokens[found] = xxh3(simd.offset(line, starts[i]), size, simd.pointer(secret, 0))
            found += 1
        indptr[row + 1] = found
    return found
