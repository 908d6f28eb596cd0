"""The least of many: selection by counting.

A heap costs a mispredicted branch for almost every candidate. Counting how many keys lie below a bound costs a
comparison and an addition for each, eight or sixteen at a time, so bisection for the bound beats every method that
moves keys around, and then one pass moves those that are wanted.
"""

import numpy as np

from nearhash.kernels.jit import jit_inline
from nearhash.kernels.simd import (
    count_floats,
    count_keys,
    greatest_float,
    greatest_key,
    least_float,
    least_key,
    offset,
)
from nearhash.kernels.simd_tables import BLOCK, append_keys, keep_keys, mask_at_most

LARGEST = np.float32(3.4e38)  # takes every score but inf

_ONE = np.uint64(1)


@jit_inline
def keep_least(keys, size, want, most):
    """Keep the least of `size` distinct uint64 at the pointer `keys`, in their order, and forget the rest.

    Returns how many are left: at least `want` and at most `most`, if there are so many. Equal numbers ask for an exact
    selection, others save steps.
    """
    if size <= most:
        return size
    low, high = least_key(keys, size), greatest_key(keys, size)
    # Invariant: fewer than `want` keys are < low, or none; at least `want` are <= high.
    count = size
    while count > most and low < high:
        middle = low + ((high - low) >> _ONE)
        count_low = count_keys(keys, size, middle)
        if count_low >= want:
            high, count = middle, count_low
        else:
            low = middle + _ONE
    return keep_keys(keys, size, high)


@jit_inline
def collect_least(scores, numbers, size, want, keys):
    """Keys of the `want` least of `size` float32 scores, to the pointer `keys`; returns how many.

    numbers: 0, 1, 2, ... int32; the slot of a key is the position of its score; ties go to the lower one. Scores are
    at most LARGEST, and inf from `size` up to the next multiple of 16; keys has room for 16 more than `size`. All as
    pointers.
    """
    high = np.float32(LARGEST)
    if size > want:
        low, high = least_float(scores, size), greatest_float(scores, size)
        for _ in range(24):  # more do not pay: what is left is selected by keys
            middle = low + (high - low) * np.float32(0.5)
            count = count_floats(scores, size, middle)
            if count >= want:
                high = middle
                if count <= want + (want >> 2) + 4:
                    break
            else:
                low = middle
    found = 0
    for first in range(0, size, BLOCK):
        mask = mask_at_most(offset(scores, first), high)
        if mask != 0:
            found = append_keys(offset(scores, first), mask, offset(numbers, first), keys, found)
    return keep_least(keys, found, want, want)
