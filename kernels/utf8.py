"""Runs of characters beyond ASCII in texts in UTF-8: what a normalisation may change, taken out and put back.

A *run* is all bytes from 128 on between two of ASCII, with the byte of ASCII before it, to which a mark may belong.
"""

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd_bytes import BLOCK, copy_bytes, high_bytes
from nearhash.kernels.simd_hamming import lowest_bit

_ZERO, _ONE, _TOP = np.uint64(0), np.uint64(1), np.uint64(63)
LINE = np.uint8(10)  # nothing normalises to a line feed, and it takes no mark: it separates runs


@jit_inline
def _high(text, at, last):
    """Mask of bytes from 128 on, of the 64 at `at` as far as they come before `last`."""
    if at + BLOCK <= text.shape[0]:
        mask = high_bytes(simd.pointer(text, at))
        left = last - at
        return mask & ((_ONE << np.uint64(left)) - _ONE) if left < BLOCK else mask
    mask = _ZERO
    for i in range(last - at):
        mask |= np.uint64(text[at + i] >> np.uint8(7)) << np.uint64(i)
    return mask


@jit_inline
def _note(text, begin, first, number, starts):
    """Start of a run whose first byte from 128 on is at `begin`, in a text from `first` on."""
    if number < starts.shape[0]:
        starts[number] = begin - 1 if begin > first and text[begin - 1] != LINE else begin


@jit
def find_runs(text, bounds, starts, stops):
    """How many runs n texts text[bounds[i]:bounds[i + 1]] have; their places, as far as there is room, int64."""
    found = 0
    for row in range(bounds.shape[0] - 1):
        first, last = bounds[row], bounds[row + 1]
        before = _ZERO
        for at in range(first, last, BLOCK):
            high = _high(text, at, last)
            shifted = (high << _ONE) | before
            begins, ends = high & ~shifted, ~high & shifted
            if before and ends:  # of a run of an earlier block
                if found <= stops.shape[0]:
                    stops[found - 1] = at + lowest_bit(ends)
                ends &= ends - _ONE
            while begins:
                _note(text, at + lowest_bit(begins), first, found, starts)
                begins &= begins - _ONE
                if ends and found < stops.shape[0]:
                    stops[found] = at + lowest_bit(ends)
                ends &= ends - _ONE
                found += 1
            before = high >> _TOP
        if last > first and text[last - 1] >= np.uint8(128) and found <= stops.shape[0]:
            stops[found - 1] = last
    return found


@jit
def gather_runs(text, starts, stops, out):
    """Copy n runs, each with a line feed behind it; out: room for all."""
    written = 0
    for i in range(starts.shape[0]):
        size = stops[i] - starts[i]
        copy_bytes(simd.pointer(out, written), simd.pointer(text, starts[i]), size)
        out[written + size] = LINE
        written += size + 1


@jit
def replace_runs(text, bounds, starts, stops, changed, out, out_bounds):
    """Texts with other bytes for their runs: out, and its bounds (n + 1,) int64; returns how many bytes.

    changed: what is put in place of run i, each with a line feed behind it. out: room for all of text and changed.
    """
    written, taken, run = 0, 0, 0
    out_bounds[0] = 0
    for row in range(bounds.shape[0] - 1):
        at, last = bounds[row], bounds[row + 1]
        while run < starts.shape[0] and starts[run] < last:
            size = starts[run] - at
            copy_bytes(simd.pointer(out, written), simd.pointer(text, at), size)
            written += size
            while changed[taken] != LINE:
                out[written] = changed[taken]
                written, taken = written + 1, taken + 1
            taken += 1
            at, run = stops[run], run + 1
        copy_bytes(simd.pointer(out, written), simd.pointer(text, at), last - at)
        written += last - at
        out_bounds[row + 1] = written
    return written
