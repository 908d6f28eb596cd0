"""Words of a text in UTF-8, found 64 bytes at a time; `reference_shingles.py` specifies them.

Of each block two masks are made: which bytes belong to words, and at which a word begins although the byte before
belongs to one. ASCII is classed by comparisons of whole vectors; other characters, whose first bytes a third mask
shows, by a table. Where the first mask changes, and where the second one says so, words end and begin.
"""

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit_inline
from nearhash.kernels.simd_bytes import BLOCK, WORD_STEP, ascii_words, copy_bytes, copy_word, first_bytes
from nearhash.kernels.simd_hamming import lowest_bit

SEPARATOR, WORD, SINGLE, MARK, SPACE = 0, 1, 2, 3, 4
SLACK = WORD_STEP  # bytes that may be written behind the words
_BLANK, _ZERO, _ONE, _TOP = np.uint8(32), np.uint64(0), np.uint64(1), np.uint64(63)


@jit_inline
def size_of(lead):
    """Bytes of the character of UTF-8 that begins with byte `lead`."""
    if lead < 0x80:
        return 1
    return 2 if lead < 0xE0 else (3 if lead < 0xF0 else 4)


@jit_inline
def code_point(source, size):
    """The character of `size` bytes at a pointer."""
    value = np.int64(source[0])
    if size == 1:
        return value
    value &= 0x7F >> size
    for i in range(1, size):
        value = (value << 6) | (np.int64(source[i]) & 0x3F)
    return value


@jit_inline
def _above(bits, place):
    """What `bits << place` loses, place 1 to 63."""
    return bits >> np.uint64(64 - place)


@jit_inline
def _mark_others(source, heads, classes, before, within, forced, next_within, next_forced):
    """Add characters beyond ASCII, which begin at the bits `heads`, to the masks of this block and the next.

    before: whether the byte before the block belongs to a word.
    """
    while heads:
        place = lowest_bit(heads)
        heads &= heads - _ONE
        here = simd.offset(source, place)
        size = size_of(here[0])
        kind = classes[code_point(here, size)]
        if kind in (SEPARATOR, SPACE):
            continue
        shift, bits, after = np.uint64(place), np.uint64((1 << size) - 1), np.uint64(1 << size)
        within |= bits << shift
        inside = ((within << _ONE) | before) >> shift & _ONE
        single = kind == SINGLE
        if single:
            forced |= _ONE << shift
        elif kind == MARK and inside and forced >> shift & _ONE:
            forced &= ~(_ONE << shift)  # it belongs to the single character before it, what follows does not
            single = True
        if single:
            forced |= after << shift
        if place + size >= 64:  # a character is never at place 0 then
            next_within |= _above(bits, place)
            next_forced |= _above(after, place) if single else _ZERO
    return within, forced, next_within, next_forced


@jit_inline
def _put(source, size, readable, fold, target):
    """Copy a word and a blank behind it; `readable` bytes may be read from `source` on."""
    if size + WORD_STEP <= readable:
        copy_word(target, source, size, fold)
    else:
        for i in range(size):
            byte = source[i]
            upper = fold and np.uint8(65) <= byte <= np.uint8(90)
            target[i] = byte | np.uint8(32) if upper else byte
    target[size] = _BLANK


@jit_inline
def words_of(source, count, readable, fold, classes, block, line, starts):
    """Write the words of a text, a blank behind each, and where each starts; returns how many, and bytes written.

    source: `count` bytes of UTF-8 at a pointer, from which `readable` may be read; fold: lower-case ASCII letters;
    classes (0x110000,) uint8 and block (64,) uint8 for scratch, pointers; line: room for 4/3 of the bytes and SLACK.
    starts: room for one more than words; the last has what the next word's would be.
    """
    written, words, begin = 0, 0, 0
    next_within, next_forced, before = _ZERO, _ZERO, _ZERO
    for at in range(0, count, BLOCK):
        here = simd.offset(source, at)
        if count - at < BLOCK:
            for i in range(BLOCK):
                block[i] = np.uint8(0)
            copy_bytes(block, here, count - at)
            here = block
        within, forced = ascii_words(here) | next_within, next_forced
        next_within, next_forced = _ZERO, _ZERO
        heads = first_bytes(here)
        if heads:
            within, forced, next_within, next_forced = _mark_others(
                here, heads, classes, before, within, forced, next_within, next_forced
            )
        shifted = (within << _ONE) | before
        begins, ends = within & (~shifted | forced), shifted & (~within | forced)
        if not before and begins:
            begin = at + lowest_bit(begins)
            begins &= begins - _ONE
        while ends:
            end = at + lowest_bit(ends)
            ends &= ends - _ONE
            _put(simd.offset(source, begin), end - begin, readable - begin, fold, simd.offset(line, written))
            starts[words] = written
            written, words = written + end - begin + 1, words + 1
            if begins:
                begin = at + lowest_bit(begins)
                begins &= begins - _ONE
        before = within >> _TOP
    if before:
        _put(simd.offset(source, begin), count - begin, readable - begin, fold, simd.offset(line, written))
        starts[words] = written
        written, words = written + count - begin + 1, words + 1
    starts[words] = written
    return words, written
