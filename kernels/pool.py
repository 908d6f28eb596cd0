"""Bounded sorted pools: the best candidates so far, as one array of 64-bit keys.

A key holds the order-preserving bits of the distance in its upper half and ``slot << 1 | flag`` in its lower half.
One integer comparison orders candidates by distance and ties by the lower slot, and one memmove inserts. The
flag is free for the user of the pool: beam search marks expanded candidates with it.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import bits_float, float_bits, offset, pointer, shift_right

EMPTY_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)
FLAG = np.uint64(1)

_SIGN = np.uint64(0x80000000)
_ALL = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ONE = np.uint64(1)


@jit_inline
def make_key(distance, slot):
    """Key of a candidate; distances may be negative, NaN is not allowed."""
    bits = float_bits(distance)
    ordered = bits ^ _ALL if bits & _SIGN else bits | _SIGN
    return (ordered << _HALF) | (np.uint64(slot) << _ONE)


@jit_inline
def key_slot(key):
    """Slot of a key, int64."""
    return np.int64((key & _ALL) >> _ONE)


@jit_inline
def key_distance(key):
    """Distance of a key, float32."""
    ordered = key >> _HALF
    return bits_float(ordered ^ _SIGN if ordered & _SIGN else ordered ^ _ALL)


@jit_inline
def insert_at(pool, size, capacity, key):
    """Insert `key` into the first `size` entries at the pointer `pool`, which ascend, and return its position.

    A full pool (size == capacity) loses its last entry; the caller has checked that `key` is smaller than that one.
    """
    # Binary search without branches to mispredict: the comparison becomes a conditional move.
    position, length = 0, size
    while length > 0:
        half = (length + 1) >> 1
        position += half if pool[position + half - 1] < key else 0
        length -= half
    kept = min(size, capacity - 1)
    shift_right(offset(pool, position), kept - position)
    pool[position] = key
    return position


@jit_inline
def insert(pool, size, capacity, key):
    """`insert_at` for an array."""
    return insert_at(pointer(pool, 0), size, capacity, key)


@jit
def unpack(pool, size, slots, distances):
    """Write the first `size` keys as slots and distances; the rest of the outputs gets -1 and inf."""
    for i in range(size):
        slots[i] = key_slot(pool[i])
        distances[i] = key_distance(pool[i])
    for i in range(size, slots.shape[0]):
        slots[i] = -1
        distances[i] = np.inf
