"""Members of hash buckets, and draws from them; `reference_buckets.py` specifies it.

keys (n, tables) uint64 of slots 0 .. n - 1; alive (n,) uint8. order (tables, m) int32 has the slots that were sorted
last, by (key, slot); slots from `built` on are in no order yet.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline


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
def _members(keys, order, built, alive, table, key, out):
    """Slots of a table that have this key and are alive, ascending, to out (n + 1,); returns how many."""
    found, position = 0, _first_at_least(keys, order, table, key)
    while position < order.shape[1] and keys[order[table, position], table] == key:
        slot = order[table, position]
        out[found] = slot
        found += alive[slot]
        position += 1
    for slot in range(built, keys.shape[0]):
        out[found] = slot
        found += alive[slot] if keys[slot, table] == key else 0
    return found


@jit
def draw_members(keys, order, built, alive, own, tables, uniforms, slots, sizes):
    """A member of the bucket of each draw: slots (m,) int32, -1 from empty buckets, and sizes (m,) int64 of those.

    own (m,) uint64: key of the bucket in table tables[i] (m,) int64; uniforms (m,) float64 in (0, 1) choose the member.
    """
    space = np.empty(keys.shape[0] + 1, np.int32)
    for i in range(own.shape[0]):
        found = _members(keys, order, built, alive, tables[i], own[i], space)
        sizes[i] = found
        slots[i] = space[min(np.int64(uniforms[i] * found), found - 1)] if found > 0 else -1
