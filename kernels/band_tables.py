"""Tables of band keys: for each band the keys of a run of consecutive slots, sorted, and where they begin.

Of a key the highest 48 bits are kept, as `high` and `low`, so an entry takes 10 bytes. A directory over the first
`bits` bits of the keys, with 8 to 16 entries for each of its places, takes another half byte at most and finds an
entry with two cache misses.
"""

import numpy as np

from nearhash.kernels.bands import band_keys
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.radix import sort_pairs
from nearhash.kernels.simd import offset, pointer, prefetch

KEPT_FROM = 16  # the lowest bits of a key, which are not kept
_KEEP = np.uint64(KEPT_FROM)
_HIGH, _LOW = np.uint64(32), np.uint64(0xFFFF)
_WORD = np.uint64(32)


@jit_inline
def _fill_starts(high, count, bits, starts):
    """Where the entries of each place of the directory begin, and at the end of `starts` how many there are."""
    shift, place = np.uint64(32 - bits), 0
    for i in range(count):
        own = np.int64(np.uint64(high[i]) >> shift)
        while place <= own:
            starts[place] = i
            place += 1
    while place <= 1 << bits:
        starts[place] = count
        place += 1


@jit
def fill_bands(keys, first_band, last_band, first_slot, bits, high, low, slots, starts):
    """Fill some bands of a table from the keys of consecutive slots.

    keys (n, bands) uint64; high (bands, n) uint32, low (bands, n) uint16, slots (bands, n) int32: entries in the order
    of (key, slot); starts (bands, 2**bits + 1) int32. Writes the rows of these bands.
    """
    count = keys.shape[0]
    own, numbers = np.empty(count, np.uint64), np.empty(count, np.int32)
    spare_keys, spare_numbers = np.empty(count, np.uint64), np.empty(count, np.int32)
    for band in range(first_band, last_band):
        for i in range(count):
            own[i] = keys[i, band]
            numbers[i] = first_slot + i
        sort_pairs(own, numbers, spare_keys, spare_numbers, KEPT_FROM)
        for i in range(count):
            high[band, i] = own[i] >> _HIGH
            low[band, i] = (own[i] >> _KEEP) & _LOW
            slots[band, i] = numbers[i]
        _fill_starts(pointer(high, band * count), count, bits, pointer(starts, band * starts.shape[1]))


@jit_inline
def _before(high, low, i, other_high, other_low):
    """Whether entry i has a key below another."""
    return high[i] < other_high or (high[i] == other_high and low[i] < other_low)


@jit_inline
def _equal(high, low, i, other_high, other_low):
    return high[i] == other_high and low[i] == other_low


@jit
def merge_bands(older, newer, first_band, last_band, bits, high, low, slots, starts):
    """Merge some bands of two tables.

    older and newer: (high, low, slots) of tables, the slots of `newer` all above those of `older`; the rest as in
    `fill_bands`, for both together.
    """
    count, more = older[0].shape[1], newer[0].shape[1]
    total = count + more
    for band in range(first_band, last_band):
        left_high, left_low = pointer(older[0], band * count), pointer(older[1], band * count)
        right_high, right_low = pointer(newer[0], band * more), pointer(newer[1], band * more)
        left_slots, right_slots = pointer(older[2], band * count), pointer(newer[2], band * more)
        i = j = 0
        for at in range(total):
            if j < more and (i == count or _before(right_high, right_low, j, left_high[i], left_low[i])):
                high[band, at], low[band, at], slots[band, at] = right_high[j], right_low[j], right_slots[j]
                j += 1
            else:
                high[band, at], low[band, at], slots[band, at] = left_high[i], left_low[i], left_slots[i]
                i += 1
        _fill_starts(pointer(high, band * total), total, bits, pointer(starts, band * starts.shape[1]))


@jit
def keep_bands(table, first_band, last_band, first_slot, renumbered, bits, high, low, slots, starts):
    """Copy the entries of some bands that stay, with new slots.

    table: (high, low, slots) of slots from `first_slot` on; renumbered (n,) int32, ascending but for -1: the new slot
    of each, -1 for none. The rest as in `fill_bands`, for those that stay.
    """
    for band in range(first_band, last_band):
        kept = 0
        for i in range(table[0].shape[1]):
            slot = renumbered[table[2][band, i] - first_slot]
            if slot >= 0:
                high[band, kept], low[band, kept], slots[band, kept] = table[0][band, i], table[1][band, i], slot
                kept += 1
        _fill_starts(pointer(high, band * kept), kept, bits, pointer(starts, band * starts.shape[1]))


@jit
def read_keys(table, first_band, last_band, first, last, keys):
    """Write the keys, as far as they are kept, of slots first to last to keys (last - first, bands)."""
    for band in range(first_band, last_band):
        for i in range(table[0].shape[1]):
            slot = table[2][band, i]
            if first <= slot < last:
                keys[slot - first, band] = (np.uint64(table[0][band, i]) << _HIGH) | (
                    np.uint64(table[1][band, i]) << _KEEP
                )


@jit
def intact(table, starts, band, first_slot, bits, seen):
    """Whether one band is as `fill_bands` leaves it, for any keys: sorted, every slot once, the directory right.

    table: (high, low, slots); seen (n,) uint8, overwritten.
    """
    high, low, slots = table
    count = high.shape[1]
    seen[:] = 0
    for i in range(count):
        slot = np.int64(slots[band, i]) - first_slot
        if slot < 0 or slot >= count or seen[slot]:
            return False
        seen[slot] = 1
        if i > 0:
            if high[band, i] < high[band, i - 1]:
                return False
            if high[band, i] == high[band, i - 1]:
                if low[band, i] < low[band, i - 1]:
                    return False
                if low[band, i] == low[band, i - 1] and slots[band, i] < slots[band, i - 1]:
                    return False
    expected = np.empty(starts.shape[1], np.int32)
    _fill_starts(pointer(high, band * count), count, bits, pointer(expected, 0))
    return (expected == starts[band]).all()


@jit_inline
def _look_up(own, bands, count, places, bits, high, low, starts, lower, upper):
    """Where the entries of the keys of one query are, everything as pointers; returns how many there are."""
    shift = np.uint64(32 - bits)
    # All bands take one step before any takes the next, so that their cache misses overlap.
    for band in range(bands):
        prefetch(offset(starts, band * places + np.int64((own[band] >> _WORD) >> shift)))
    for band in range(bands):
        place = band * places + np.int64((own[band] >> _WORD) >> shift)
        lower[band], upper[band] = starts[place], starts[place + 1]
        prefetch(offset(high, band * count + lower[band]))
    found = 0
    for band in range(bands):
        highs, lows = offset(high, band * count), offset(low, band * count)
        wanted_high = np.uint32(own[band] >> _HIGH)
        wanted_low = np.uint16((own[band] >> _KEEP) & _LOW)
        begin, stop = np.int64(lower[band]), np.int64(upper[band])
        end = stop
        while end - begin > 16:
            middle = (begin + end) >> 1
            if _before(highs, lows, middle, wanted_high, wanted_low):
                begin = middle + 1
            else:
                end = middle
        while begin < end and _before(highs, lows, begin, wanted_high, wanted_low):
            begin += 1
        # Equal keys are few, but for what is in every set: their number is found in steps that double.
        beyond, step = begin, 1
        while beyond + step <= stop and _equal(highs, lows, beyond + step - 1, wanted_high, wanted_low):
            beyond += step
            step *= 2
        while step > 1:
            step >>= 1
            if beyond + step <= stop and _equal(highs, lows, beyond + step - 1, wanted_high, wanted_low):
                beyond += step
        lower[band], upper[band] = begin, beyond
        found += beyond - begin
    return found


@jit
def look_up(keys, high, low, starts, bits, first, last):
    """Where the entries of each key are.

    keys (q, bands) uint64; high, low and starts of a table; first and last (q, bands) int32: on return the entries of
    the band with the same 48 bits, none where both are equal. Returns (q,) int64 how many there are in all bands.
    """
    bands, count, places = keys.shape[1], high.shape[1], starts.shape[1]
    totals = np.zeros(keys.shape[0], np.int64)
    for query in range(keys.shape[0]):
        at = query * bands
        totals[query] = _look_up(
            pointer(keys, at), bands, count, places, bits, pointer(high, 0), pointer(low, 0), pointer(starts, 0),
            pointer(first, at), pointer(last, at),
        )  # fmt: skip
    return totals


@jit
def look_up_one(values, rows, seed, high, low, slots, starts, out, size):
    """Append the slots that share a band with one sketch, once for each band; returns the new size.

    values (1, k): a sketch, see `nearhash.kernels.bands.band_keys` for it, rows and seed; high, low, slots, starts: a
    table; out (c,) uint64, filled up to `size`. Where c is too small nothing is appended and -1 returned.
    """
    bands, bits = high.shape[0], 0
    while (1 << bits) + 1 < starts.shape[1]:
        bits += 1
    keys = np.empty((1, bands), np.uint64)
    first, last = np.empty((1, bands), np.int32), np.empty((1, bands), np.int32)
    band_keys(values, bands, rows, seed, keys)
    found = look_up(keys, high, low, starts, bits, first, last)[0]
    if size + found > out.shape[0]:
        return -1
    for band in range(bands):
        for i in range(first[0, band], last[0, band]):
            out[size] = np.uint64(slots[band, i])
            size += 1
    return size


@jit
def collect(first, last, begin, stop, slots, above, out, size):
    """Append ``query << 32 | slot`` of what `look_up` found for queries begin to stop.

    slots (bands, n) int32 of the table; above (q,) int32: only slots greater than this; out uint64, large enough for
    everything found and filled up to `size`. Returns the new size.
    """
    bands = first.shape[1]
    target = pointer(out, 0)
    for query in range(begin, stop):
        high, least = np.uint64(query) << _WORD, above[query]
        for band in range(bands):
            for i in range(first[query, band], last[query, band]):
                slot = slots[band, i]
                if slot > least:
                    target[size] = high | np.uint64(slot)
                    size += 1
    return size
