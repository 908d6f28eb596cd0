"""Members of hash buckets, and draws from them; `reference_buckets.py` specifies it.

keys (n, tables) uint64 of slots 0 .. n - 1; alive (n,) uint8. order (tables, m) int32 has the slots that were sorted
last, by (key, slot); slots from `built` on are in no order yet.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline

_ONE, _LAST = np.uint64(1), np.uint64(2**64 - 1)


@jit_inline
def _first_at_least(keys, order, table, key):
    """Position in the order of a table of the first slot whose key is at least `key`."""
    first, length = 0, order.shape[1]
    while length > 0:
        half = (length + 1) >> 1
        first += half if keys[order[table, first + half - 1], table] < key else 0
        length -= half
    return first


@jit_inline
def _fresh_members(keys, built, alive, table, key, out, found):
    """Append the unsorted slots of a table that have this key and are alive to out; returns how many there are then."""
    for slot in range(built, keys.shape[0]):
        out[found] = slot
        found += alive[slot] if keys[slot, table] == key else 0
    return found


@jit
def draw_members(keys, order, built, whole, alive, own, tables, uniforms, slots, sizes):
    """A member of the bucket of each draw: slots (m,) int32, -1 from empty buckets, and sizes (m,) int64 of those.

    own (m,) uint64: key of the bucket in table tables[i] (m,) int64; uniforms (m,) float64 in (0, 1) choose the member,
    living ones in ascending order. whole: all slots of `order` are alive, so that a bucket need not be read.
    """
    space = np.empty(keys.shape[0] + 1, np.int32)
    for i in range(own.shape[0]):
        table, key = tables[i], own[i]
        begin, end = _first_at_least(keys, order, table, key), order.shape[1]
        if key != _LAST:
            end = _first_at_least(keys, order, table, key + _ONE)
        listed = 0
        if not whole:
            for position in range(begin, end):
                space[listed] = order[table, position]
                listed += alive[order[table, position]]
            end = begin
        listed = _fresh_members(keys, built, alive, table, key, space, listed)
        found = end - begin + listed
        sizes[i], slots[i] = found, -1
        if found > 0:
            pick = min(np.int64(uniforms[i] * found), found - 1)
            slots[i] = order[table, begin + pick] if pick < end - begin else space[pick - (end - begin)]
