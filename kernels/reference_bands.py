"""NumPy specification of `bands.py`, `band_tables.py`, `agreement.py`, `radix.py` and `union_find.py`."""

import numpy as np

from nearhash.kernels.reference_hashes import fmix64


def band_keys(values, bands, rows, seed):
    """(n, bands) uint64 keys of the bands of sketches (n, k)."""
    golden, bits = 0x9E3779B97F4A7C15, 8 * values.dtype.itemsize
    out = np.empty((len(values), bands), np.uint64)
    for band in range(bands):
        part = values[:, band * rows : (band + 1) * rows].astype(np.uint64)
        key = np.full(len(values), fmix64(np.uint64((seed + golden * (band + 1)) % 2**64)))
        for first in range(0, rows, 64 // bits):
            word = np.zeros(len(values), np.uint64)
            for place, column in enumerate(part.T[first : first + 64 // bits]):
                word |= column << np.uint64(bits * place)
            key = (key ^ word) * np.uint64(golden)
            key ^= key >> np.uint64(32)
        out[:, band] = fmix64(key)
    return out


def sort_pairs(keys, numbers, low_bit):
    """Pairs in the order of their keys without the lowest bits; those of equal keys stay in their order."""
    order = np.argsort(keys >> np.uint64(low_bit), kind="stable")
    return keys[order], numbers[order]


def table(keys, slots, bits):
    """High and low part, slots and directory, each by band, of the keys (n, bands) of ascending slots (n,)."""
    kept = keys >> np.uint64(16)
    order = np.argsort(kept.T, axis=1, kind="stable")
    entries = np.take_along_axis(kept.T, order, axis=1)
    places = np.arange((1 << bits) + 1, dtype=np.uint64) << np.uint64(48 - bits)
    starts = np.array([np.searchsorted(row, places) for row in entries], np.int32).reshape(len(entries), len(places))
    return (
        (entries >> np.uint64(16)).astype(np.uint32),
        (entries & np.uint64(0xFFFF)).astype(np.uint16),
        np.asarray(slots, np.int32)[order],
        starts,
    )


def candidates(queries, keys, above):
    """Ascending ``query << 32 | slot`` of slots > above[query], one for each key whose first 48 bits are the same."""
    found = [
        query << 32 | slot
        for query, own in enumerate(queries)
        for slot in np.nonzero(own >> np.uint64(16) == keys >> np.uint64(16))[0].tolist()
        if slot > above[query]
    ]
    return np.array(found, np.uint64)


def count_agreements(left, left_rows, right, right_rows, bits, k):
    """(p,) int32 how many of k values agree; those of fewer than 8 bits are packed, with zeros behind the last one."""
    x, y = left[left_rows], right[right_rows]
    if bits >= 8:
        return (x == y).sum(axis=1, dtype=np.int32)
    mask = (1 << bits) - 1
    same = sum((((x ^ y) >> shift) & mask == 0).sum(axis=1, dtype=np.int32) for shift in range(0, 8, bits))
    return same - (x.shape[1] * (8 // bits) - k)


def rank_candidates(entries, live, queries, sketches, bits, k, least):
    """Numbers of the matches among candidates, those of one query and slot once."""
    entries = np.unique(entries)
    query, slot = (entries >> np.uint64(32)).astype(int), (entries & np.uint64(2**31 - 1)).astype(int)
    differ = np.zeros(len(entries), int)
    if least:
        differ += k - count_agreements(queries, query, sketches, slot, bits, k)
    numbers = query << 48 | differ << 31 | slot
    alive = live[slot] == 1 if len(live) else np.ones(len(slot), bool)
    return numbers[alive & (differ <= k - least if least else True)].astype(np.uint64)


def components(count, edges):
    """(count,) the lowest node that each is connected to."""
    lowest = np.arange(count)
    for _ in range(count):
        before = lowest.copy()
        for left, right in edges:
            lowest[left] = lowest[right] = min(lowest[left], lowest[right])
        if (lowest == before).all():
            break
    return lowest


def count_agreement(sketches, left, right, bands, rows):
    """How many values, and how many whole bands, two sketches agree on: (agreeing, shared), both (p,)."""
    equal = sketches[left] == sketches[right]
    whole = equal[:, : bands * rows].reshape(len(left), bands, rows).all(axis=2)
    return equal.sum(axis=1), whole.sum(axis=1)
