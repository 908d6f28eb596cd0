"""Multi-index hashing: exact Hamming search through tables of substrings (Norouzi, Punjani & Fleet, CVPR 2012).

Codes are cut into m substrings and each has a direct table from its value to the slots of the rows with that value. If
two codes differ in at most m s + a bits, a < m, then one of the first a + 1 substrings differs in at most s bits or one
of the others in at most s - 1 (their proposition 1). So looking at all values s = 0, 1, 2, ... bits away from the
query's, table by table, finds everything within a radius that grows by one with each table.
"""

import numpy as np

from nearhash.kernels.hamming import offer_slots
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.select import keep_least
from nearhash.kernels.simd import count_keys, offset, pointer, prefetch
from nearhash.kernels.simd_hamming import lowest_bit

MAX_SUBSTRING = 24  # bits; a table has an entry for each value
CANDIDATES = 4096  # room for slots to be measured
_PROBES = 32  # entries of a table that are read before their slots are: the reads wait for memory together

# Costs in tenths of a nanosecond, on one core of a server; a row of a scan costs ROW_COST for each of its words.
PROBE_COST, CANDIDATE_COST, ROW_COST = 60, 120, 1

_ONE, _S32, _ALL, _LOW6 = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(63)
_S6 = np.uint64(6)


@jit_inline
def substring(code, first, bits):
    """`bits` <= 24 bits from bit `first` on of the code at a pointer to uint64, the lowest bit of a word first."""
    word, shift = first >> 6, first & 63
    value = code[word] >> np.uint64(shift)
    if shift + bits > 64:
        value |= code[word + 1] << np.uint64(64 - shift)
    return value & ((_ONE << np.uint64(bits)) - _ONE)


@jit
def build_table(rows, first, bits, starts, slots):
    """Sort rows (n, w) uint64 by a substring, ties by slot: starts (2**bits + 1,) and slots (n,), int32."""
    words = rows.shape[1]
    starts[:] = 0
    for row in range(rows.shape[0]):
        starts[np.int64(substring(pointer(rows, row * words), first, bits)) + 1] += 1
    total = 0
    for value in range(starts.shape[0] - 1):  # starts[v + 1] becomes where v begins, and below moves on to its end
        count = starts[value + 1]
        starts[value + 1] = total
        total += count
    for row in range(rows.shape[0]):
        value = np.int64(substring(pointer(rows, row * words), first, bits)) + 1
        slots[starts[value]] = row
        starts[value] += 1


@jit_inline
def choose(n, s):
    """Binomial coefficient, of a size that fits int64 for n <= 24."""
    result = 1
    for i in range(s):
        result = result * (n - i) // (i + 1)
    return result if s <= n else 0


@jit_inline
def next_pattern(pattern):
    """The next larger uint64 with as many bits set (Gosper); not for zero."""
    lowest = pattern & (~pattern + _ONE)
    ripple = pattern + lowest
    return ripple | (((pattern ^ ripple) >> np.uint64(2)) >> np.uint64(lowest_bit(lowest)))


@jit_inline
def gather(slots, low, high, seen, candidates, found):
    """Append the unseen of slots[low:high] to candidates and mark them; all are pointers. Returns how many there are.

    Stops where CANDIDATES are there: (found, next position).
    """
    while low < high and found < CANDIDATES:
        slot = np.uint64(slots[low])
        bit = _ONE << (slot & _LOW6)
        word = np.int64(slot >> _S6)
        old = seen[word]
        seen[word] = old | bit
        candidates[found] = np.int32(slot)
        found += 1 if old & bit == 0 else 0
        low += 1
    return found, low


@jit
def search_tables(
    queries, rows, cuts, origins, starts, slots, k, flips, budget, mask, labels, windows, seen, keys, sizes, done
):
    """The k nearest of each query among the rows in the tables, where that is cheap enough.

    queries (q, w), rows (n, w) uint64; cuts (m + 1,) int64: bits at which substrings begin; table j is
    starts[origins[j] : origins[j + 1]] and slots[j], both int32, slots (m, t) for the first t <= n rows. flips: -1 for
    exact search, else no more than that many bits of a substring are changed once k rows were found. budget: cost
    at which to give up. mask, labels, windows: filter, see `scan.passes`; seen (t / 64 + 1,) uint64, all zero.
    keys (q, capacity) uint64, sizes (q,) int64: pools as in `hamming.scan_codes`; done (q,) uint8: 1 where the answer
    is there, 0 where the query has to be scanned. Returns the cost of all queries.
    """
    words, capacity, tables, tabled = rows.shape[1], keys.shape[1], cuts.shape[0] - 1, slots.shape[1]
    fresh, lows, highs = np.empty(CANDIDATES + 1, np.int32), np.empty(_PROBES, np.int64), np.empty(_PROBES, np.int64)
    candidates, marks, base = pointer(fresh, 0), pointer(seen, 0), pointer(rows, 0)
    spent = 0
    for query in range(queries.shape[0]):
        code, pool, size, bound = pointer(queries, query * words), pointer(keys, query * capacity), 0, _ALL
        cost, found, overflow, weight, finished, given_up = 0, 0, False, 0, False, False
        while not finished and not given_up:
            for table in range(tables):
                bits = cuts[table + 1] - cuts[table]
                probes = choose(bits, weight)
                if cost + probes * PROBE_COST > budget or weight > bits:
                    given_up = True
                    break
                cost += probes * PROBE_COST
                value = substring(code, cuts[table], bits)
                entries, members = pointer(starts, origins[table]), pointer(slots, table * tabled)
                pattern, measured = (_ONE << np.uint64(weight)) - _ONE, found
                for first in range(0, probes, _PROBES):
                    count = min(_PROBES, probes - first)
                    for i in range(count):
                        entry = np.int64(value ^ pattern)
                        lows[i], highs[i] = entries[entry], entries[entry + 1]
                        prefetch(offset(members, lows[i]))
                        if weight > 0:
                            pattern = next_pattern(pattern)
                    for i in range(count):
                        low = lows[i]
                        while low < highs[i]:
                            found, low = gather(members, low, highs[i], marks, candidates, found)
                            if found == CANDIDATES:
                                size, bound = offer_slots(
                                    code, base, words, candidates, measured, found,
                                    query, mask, labels, windows, k, pool, size, capacity, bound,
                                )  # fmt: skip
                                cost += (found - measured) * CANDIDATE_COST
                                found, measured, overflow = 0, 0, True
                size, bound = offer_slots(
                    code, base, words, candidates, measured, found,
                    query, mask, labels, windows, k, pool, size, capacity, bound,
                )  # fmt: skip
                cost += (found - measured) * CANDIDATE_COST
                radius = tables * weight + table  # everything at this distance or nearer was seen
                if size >= k and count_keys(pool, size, (np.uint64(radius + 1) << _S32) - _ONE) >= k:
                    finished = True
                    break
            if weight == flips and size >= k:
                finished = True
            weight += 1
        if overflow:
            seen[:] = np.uint64(0)
        else:
            for i in range(found):
                seen[fresh[i] >> 6] = np.uint64(0)
        sizes[query] = keep_least(pool, size, k, k) if finished else 0
        done[query] = finished
        spent += cost
    return spent + 0 * (fresh[0] + lows[0] + highs[0])
