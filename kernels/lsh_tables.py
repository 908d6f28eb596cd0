"""Hash tables of an LSH index: buckets as ranges of one array, and search through the best of them.

A table has a power of two of buckets: the keys themselves if they are few, else `bucket_of` their hash. Different keys
may then share a bucket. That costs candidates, never correctness, since every candidate is measured, and it saves
both the keys and the search for them. starts (tables, buckets + 1) int32 and entries (tables, n) int32: bucket b of
table t holds the slots ``entries[t, starts[t, b]:starts[t, b + 1]]``, ascending.
"""

import numpy as np

from nearhash.kernels import codes
from nearhash.kernels.cross_polytope import DIMENSION, best_buckets
from nearhash.kernels.hashes import fmix64
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.pool import key_slot, make_key
from nearhash.kernels.scan import passes
from nearhash.kernels.select import collect_least
from nearhash.kernels.simd import offset, pointer, prefetch

_STARTS_AHEAD, _ENTRIES_AHEAD, _ROWS_AHEAD = 16, 8, 12
_SIX, _63, _ONE = np.uint64(6), np.uint64(63), np.uint64(1)


@jit_inline
def bucket_of(key, shift):
    """Bucket of a key: the key if `shift` is 0, else the upper 64 - shift bits of its hash."""
    return np.int64(key) if shift == 0 else np.int64(fmix64(key) >> np.uint64(shift))


@jit
def merge_table(old_starts, old_entries, keys, shift, first, starts, entries):
    """A table with old_starts (buckets + 1,), old_entries (m,) and new slots first, first + 1, ... of keys (n,) uint64.

    Written: starts (buckets + 1,) and entries (m + n,) int32. New slots stand behind the old ones of their bucket.
    """
    buckets = starts.shape[0] - 1
    starts[:] = 0
    for i in range(keys.shape[0]):
        starts[bucket_of(keys[i], shift) + 1] += 1
    position = 0  # where the next bucket starts; starts[b + 1] becomes where the next new slot of b belongs
    for bucket in range(buckets):
        added = starts[bucket + 1]
        begin, end = old_starts[bucket], old_starts[bucket + 1]
        for i in range(begin, end):
            entries[position + i - begin] = old_entries[i]
        starts[bucket + 1] = position + end - begin
        position += end - begin + added
    for i in range(keys.shape[0]):
        bucket = bucket_of(keys[i], shift)
        entries[starts[bucket + 1]] = first + i
        starts[bucket + 1] += 1


@jit_inline
def collect(shift, count, table_of, key_of, starts, entries, visited, begins, ends, candidates):
    """Distinct slots of `count` buckets, to candidates; returns how many. visited: bits of slots, set for these."""
    width, own = starts.shape[1], entries.shape[1]
    first, slots, seen, out = pointer(starts, 0), pointer(entries, 0), pointer(visited, 0), pointer(candidates, 0)
    for i in range(count):
        begins[i] = np.int64(table_of[i]) * width + bucket_of(key_of[i], shift)
    for i in range(min(count, _STARTS_AHEAD)):
        prefetch(offset(first, begins[i]))
    for i in range(count):
        if i + _STARTS_AHEAD < count:
            prefetch(offset(first, begins[i + _STARTS_AHEAD]))
        place, base = begins[i], np.int64(table_of[i]) * own
        begins[i], ends[i] = base + first[place], base + first[place + 1]
    for i in range(min(count, _ENTRIES_AHEAD)):
        prefetch(offset(slots, begins[i]))
    found = 0
    for i in range(count):
        if i + _ENTRIES_AHEAD < count:
            prefetch(offset(slots, begins[i + _ENTRIES_AHEAD]))
        for j in range(begins[i], ends[i]):
            slot = np.int64(slots[j])
            word, bit = slot >> 6, _ONE << (np.uint64(slot) & _63)
            # Written always, counted if new: no branch to mispredict.
            out[found] = slot
            found += 1 if seen[word] & bit == np.uint64(0) else 0
            seen[word] |= bit
    return found


@jit
def search_tables(
    model, rows, hashed, queries, metric, want_buckets, signs, plan, shift, starts, entries,
    mask, labels, windows, numbers, keys, sizes,
):  # fmt: skip
    """The best candidates of each query among the slots of its best buckets and those that are in no table yet.

    model and rows (n, width) of the codec; hashed (q, any) unit vectors and queries (q, dim) as measured, float32;
    plan, signs: see cross_polytope.py; mask, labels, windows as in `scan.passes`; numbers 0, 1, 2, ... int32, as many
    as there are slots, and vertices in all tables, and 32 more. Written: keys (q, want + 16) uint64, see pool.py, with
    sizes (q,): the `want` candidates of the least estimates, fewer where fewer match.
    """
    scheme, parameters = model
    slots, tables, size, built = rows.shape[0], starts.shape[0], signs.shape[3], entries.shape[1]
    want = keys.shape[1] - 16
    vertices = 0
    for function in range(plan.shape[0]):
        vertices += 2 * plan[function, DIMENSION]
    room = (tables * vertices + 31) // 16 * 16
    padded = np.zeros(size, np.float32)
    scores, singles = np.empty(room, np.float32), np.empty(room + 16, np.uint64)
    bounds = np.empty((tables, plan.shape[0] + 1), np.int64)
    pool, table_of = np.empty(2 * want_buckets + 16, np.uint64), np.empty(2 * want_buckets + 16, np.int32)
    key_of = np.empty(2 * want_buckets + 16, np.uint64)
    begins, ends = np.empty(want_buckets, np.int64), np.empty(want_buckets, np.int64)
    visited, candidates = np.zeros((slots >> 6) + 1, np.uint64), np.empty(slots + 1, np.int32)
    estimates, passing = np.empty(slots + 32, np.float32), np.empty(slots + 32, np.uint64)
    filtered = mask.shape[0] > 0 or windows.shape[0] > 0
    space, constants = codes.query_buffer(scheme), np.empty(codes.CONSTANTS, np.float32)
    line = 64 // rows.itemsize
    for query in range(queries.shape[0]):
        buffer, numeric, codes_at = pointer(space, 0), pointer(constants, 0), pointer(rows, 0)
        for i in range(hashed.shape[1]):
            padded[i] = hashed[query, i]
        count = 0
        if built > 0:  # before that there is no bucket to read
            count = best_buckets(
                want_buckets, signs, plan, padded, scores, numbers, singles, bounds, pool, table_of, key_of
            )
        found = collect(shift, count, table_of, key_of, starts, entries, visited, begins, ends, candidates)
        for i in range(found):
            visited[candidates[i] >> 6] = np.uint64(0)
        for slot in range(built, slots):
            candidates[found] = slot
            found += 1
        if filtered:
            kept = 0
            for i in range(found):
                slot = candidates[i]
                if passes(query, slot, mask, labels, windows):
                    candidates[kept] = slot
                    kept += 1
            found = kept
        codes.prepare_query(
            scheme, pointer(parameters, 0), pointer(queries, query * queries.shape[1]), metric, buffer, numeric
        )
        slot_of, estimated = pointer(candidates, 0), pointer(estimates, 0)
        for i in range(min(found, _ROWS_AHEAD)):
            codes.prefetch_row(codes_at, scheme.width, line, np.int64(slot_of[i]))
        for i in range(found):
            if i + _ROWS_AHEAD < found:
                codes.prefetch_row(codes_at, scheme.width, line, np.int64(slot_of[i + _ROWS_AHEAD]))
            estimated[i] = codes.estimate(scheme, buffer, numeric, codes_at, np.int64(slot_of[i]))
        for i in range(found, (found + 15) // 16 * 16):
            estimated[i] = np.inf
        best = collect_least(estimated, pointer(numbers, 0), found, want, pointer(passing, 0))
        for i in range(best):
            place = key_slot(passing[i])
            keys[query, i] = make_key(estimated[place], np.int64(slot_of[place]))
        sizes[query] = best
