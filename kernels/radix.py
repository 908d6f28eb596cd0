"""Sorting of pairs by 64-bit keys: least significant digit first, stable, in time that does not depend on the keys."""

import numpy as np

from nearhash.kernels.jit import jit
from nearhash.kernels.simd import pointer

_FEW = 24  # pairs up to which insertion is faster than counting
_SMALL = 4096  # pairs up to which 256 counters a digit are faster than 2,048


@jit
def sort_pairs(keys, numbers, spare_keys, spare_numbers, low_bit):
    """Sort pairs in place by their keys; pairs of equal keys stay in their order.

    keys (n,) uint64; numbers (n,) of any integer type, which go with them; spare_keys and spare_numbers: as large, are
    overwritten. Bits below `low_bit` of the keys are ignored, 0 for none.
    """
    count = keys.shape[0]
    if count <= _FEW:
        shift = np.uint64(low_bit)
        for i in range(1, count):
            key, number, j = keys[i], numbers[i], i
            while j > 0 and keys[j - 1] >> shift > key >> shift:
                keys[j], numbers[j] = keys[j - 1], numbers[j - 1]
                j -= 1
            keys[j], numbers[j] = key, number
        return
    digit_bits = 8 if count <= _SMALL else 11
    digits = (64 - low_bit + digit_bits - 1) // digit_bits
    size = 1 << digit_bits
    mask = np.uint64(size - 1)
    places = np.zeros((digits, size), np.int64)
    for i in range(count):  # all digits are counted in one reading
        key = keys[i] >> np.uint64(low_bit)
        for digit in range(digits):
            places[digit, np.int64(key & mask)] += 1
            key >>= np.uint64(digit_bits)
    source, target = pointer(keys, 0), pointer(spare_keys, 0)
    from_numbers, to_numbers = pointer(numbers, 0), pointer(spare_numbers, 0)
    swapped = False
    for digit in range(digits):
        shift = np.uint64(low_bit + digit * digit_bits)
        if places[digit, np.int64((source[0] >> shift) & mask)] == count:
            continue  # all keys have the same digit
        total = 0
        for value in range(size):
            here = places[digit, value]
            places[digit, value] = total
            total += here
        place = pointer(places, digit * size)
        for i in range(count):
            key = source[i]
            value = np.int64((key >> shift) & mask)
            at = place[value]
            place[value] = at + 1
            target[at] = key
            to_numbers[at] = from_numbers[i]
        source, target = target, source
        from_numbers, to_numbers = to_numbers, from_numbers
        swapped = not swapped
    if swapped:
        for i in range(count):
            keys[i] = spare_keys[i]
            numbers[i] = spare_numbers[i]
