"""NumPy specification of `buckets.py`."""

import numpy as np


def draw_members(keys, alive, own, tables, uniforms):
    """(slots, sizes) of draws from the living slots that have the key own[i] in table tables[i]."""
    slots, sizes = [], []
    for key, table, uniform in zip(own, tables, uniforms, strict=True):
        members = np.flatnonzero((keys[:, table] == key) & (alive == 1))
        sizes.append(len(members))
        slots.append(members[min(int(uniform * len(members)), len(members) - 1)] if len(members) else -1)
    return np.array(slots, np.int32), np.array(sizes, np.int64)
