"""Search in the lists of a partition index.

The lists that a batch of queries wants are taken in the order of the lists, so that codes are read once for several
queries, in two rounds: the nearest few lists of every query first, whose scores give a threshold that almost
everything in the second round fails at once.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from nearhash.kernels.coarse import kth_score, lead_least, lead_within
from nearhash.kernels.fastscan import make_tables, settle, take
from nearhash.kernels.jit import INLINE_OPTIONS, jit, jit_inline
from nearhash.kernels.pool import key_distance, key_slot
from nearhash.kernels.predicate import ROWS, SCRATCH, WORDS, block_bits
from nearhash.kernels.scan import L2
from nearhash.kernels.select import LARGEST
from nearhash.kernels.simd import dot, least_key, offset, pointer, prefetch
from nearhash.kernels.simd_tables import (
    BLOCK,
    CONSTANTS,
    CUTOFF,
    DISTANCE,
    LINE,
    MANY_BLOCKS,
    MANY_QUERIES,
    OFFSET,
    ONE_BLOCKS,
    SCALE,
    SHIFT,
    THRESHOLD,
    scan_block,
    scan_many,
    scan_one,
)

# Keys that a step of a scan may append to a pool, 64, or overwrite behind them; a pool holds those and some more beyond
# twice the wanted ones.
STEP_ROOM = 80
POOL_SLACK = STEP_ROOM + 64
_AHEAD_LINES = 128  # of the list that comes next
_SAMPLES = 128  # groups of 64 rows that tell how many pass a predicate


class Lists(NamedTuple):
    """Lists of a partition index, each a run of blocks of 16 entries in arrays that all share.

    starts (c,) int64, first block of each list; sizes (c,) int64, entries of it; slots (blocks * 16,) int32; codes
    (blocks, bytes) uint8; bias (blocks * 16,) float32, inf where there is no entry; rescale and error (blocks * 16,)
    float32, or None for codes without them; labels (blocks * 16,) float64, ascending in each list, or empty; columns
    (a, blocks * 16) int64 attributes.
    """

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    slots: NDArray[np.int32]
    codes: NDArray[np.uint8]
    bias: NDArray[np.float32]
    rescale: NDArray[np.float32] | None
    error: NDArray[np.float32] | None
    labels: NDArray[np.float64]
    columns: NDArray[np.int64]


class Centroids(NamedTuple):
    """What the search knows of each list: squared norm of the centroid, offset of its scores, radius; (c,) float32."""

    squares: NDArray[np.float32]
    bias: NDArray[np.float32]
    radius: NDArray[np.float32]


class Restriction(NamedTuple):
    """Which entries may answer; an empty array restricts nothing.

    allowed (n,) uint8, by slot; labels in [windows[q, 0], windows[q, 1]) (q, 2) float64; program and operands of a
    predicate (kernels/predicate.py). sparse: allowed forbids so much that it is worth to look at it before scores.
    """

    allowed: NDArray[np.uint8]
    windows: NDArray[np.float64]
    program: NDArray[np.int64]
    operands: NDArray[np.int64]
    sparse: bool


class Reach(NamedTuple):
    """How far each query reads on, and what is carried from one scan to the next over other lists of the same numbers.

    limits (q,) float32: after the nearest lists, further ones are read while ``(score - least score of a list) sqrt(i)
    <= limit * (distance of the k-th best entry so far)``, see `coarse.lead_within`; inf for all that were chosen.
    offset: of distances to scores where these are inner products. stops (q,) int64: how many lists are read. fresh:
    whether this is the first scan; later ones go on with its tables, stops, and best entries.
    """

    limits: NDArray[np.float32]
    offset: np.float32
    k: int
    stops: NDArray[np.int64]
    fresh: bool


def factors(array, at):
    """Pointer to element `at` of an array, or 0 for None."""
    raise NotImplementedError("compiled by Numba")


def moved(address, count):
    """`address` moved by `count` elements; 0 stays 0."""
    raise NotImplementedError("compiled by Numba")


@overload(factors, jit_options=INLINE_OPTIONS)
def _factors(array, at):
    if isinstance(array, types.Array):
        return lambda array, at: pointer(array, at)
    return lambda array, at: 0


@overload(moved, jit_options=INLINE_OPTIONS)
def _moved(address, count):
    if isinstance(address, types.CPointer):
        return lambda address, count: offset(address, count)
    return lambda address, count: 0


@jit_inline
def label_range(labels, size, low, high):
    """Entries of a list with low <= label < high, as (first, last); labels ascend, a pointer."""
    first, length = 0, size
    while length > 0:
        half = (length + 1) >> 1
        first += half if labels[first + half - 1] < low else 0
        length -= half
    last, length = first, size - first
    while length > 0:
        half = (length + 1) >> 1
        last += half if labels[last + half - 1] < high else 0
        length -= half
    return first, last


@jit_inline
def sort_pairs(chosen, first, stops, lists, numbers, queries, scores, counts):
    """The pairs of query q and list in ``chosen[q, first : stops[q]]`` in the order of the lists; returns how many.

    chosen (q, p) uint64 keys of lists; numbers, queries int32 and scores float32 (pairs,), results; counts (lists + 1,)
    int32 scratch.
    """
    if chosen.shape[0] == 1:
        for i in range(first, stops[0]):
            numbers[i - first], queries[i - first] = key_slot(chosen[0, i]), 0
            scores[i - first] = key_distance(chosen[0, i])
        return max(0, stops[0] - first)
    counts[:] = 0
    total = 0
    for query in range(chosen.shape[0]):
        total += max(0, stops[query] - first)
        for i in range(first, stops[query]):
            counts[key_slot(chosen[query, i]) + 1] += 1
    for i in range(lists):
        counts[i + 1] += counts[i]
    for query in range(chosen.shape[0]):
        for i in range(first, stops[query]):
            number = key_slot(chosen[query, i])
            place = counts[number]
            numbers[place], queries[place], scores[place] = number, query, key_distance(chosen[query, i])
            counts[number] = place + 1
    return total


@jit_inline
def set_stop(chosen, query, near, keys, size, base, reach):
    """Decide how many lists a query reads, after the first `near` of its `chosen`; those come to the front.

    keys, a pointer, and size: its best entries so far; base: of distances to their scores.
    """
    probes = chosen.shape[1]
    reach.stops[query] = probes
    distance = base + kth_score(keys, size, reach.k)
    if near < probes and reach.limits[query] < LARGEST and distance < LARGEST:
        least = key_distance(least_key(pointer(chosen, query * probes), near))
        rest = pointer(chosen, query * probes + near)
        most = reach.limits[query] * distance
        reach.stops[query] = near + lead_within(rest, probes - near, near, least, most)


@jit_inline
def least_score(metric, score, distance, radius, square):
    """Least score an entry of a list can have: by the triangle inequality, by Cauchy and Schwarz for inner products.

    score, factor * <q, c>; distance of query and centroid; radius of the list; square of the query's norm.
    """
    if metric == L2:
        gap = max(distance - radius, np.float32(0.0))
        return gap * gap - square
    return score - np.sqrt(square) * radius


@jit_inline
def _scan_blocks(
    codes, groups, tables, which, bias, rescale, error, constants, found, masks,
    position, blocks, first, last, slots, bits, has_bits, allowed, has_allowed, keys, size, want, limit,
):  # fmt: skip
    """Scan `blocks` blocks of a list, from entry `position` on, for one query; returns the size of its pool."""
    block = 0
    while block < blocks:
        at = block * BLOCK
        factors = moved(rescale, at)
        step = ONE_BLOCKS if block + ONE_BLOCKS <= blocks else 1
        if has_bits and not any_bits(bits, position + at, step):
            block += step
            continue
        if step == ONE_BLOCKS:
            hit = scan_one(
                offset(codes, block * groups * LINE), groups, tables, which, offset(bias, at), factors,
                moved(error, at), constants, found, masks,
            )  # fmt: skip
        else:
            hit = scan_block(
                offset(codes, block * groups * LINE), groups, tables, which, offset(bias, at), factors,
                moved(error, at), constants, found, masks,
            )  # fmt: skip
        if hit:
            size = take(
                masks, found, step, position + at, first, last, offset(slots, at), bits, has_bits, allowed, has_allowed,
                keys, size,
            )  # fmt: skip
            if size > limit:
                size = settle(keys, size, want, want + (want >> 2), constants)
        block += step
    return size


@jit_inline
def list_bits(program, length, operands, columns, stride, base, size, slots, allowed, has_allowed, stack, words):
    """Which entries of a list may answer, as bits of words; returns whether any does. All as pointers.

    program of `length` steps, none if 0, over columns of `stride` entries, of which the list has `size` from `base` on;
    allowed by slot, if has_allowed.
    """
    found = np.uint64(0)
    for start in range(0, size, ROWS):
        count = min(ROWS, size - start)
        bits = np.uint64(0xFFFFFFFFFFFFFFFF)
        if length > 0:
            bits = block_bits(program, length, operands, columns, stride, base + start, count, stack)
        if has_allowed:
            own, here = np.uint64(0), offset(slots, start)
            for i in range(count):
                own |= np.uint64(allowed[here[i]]) << np.uint64(i)
            bits &= own
        words[start // ROWS] = bits
        found |= bits
    return found != 0


@jit_inline
def any_bits(words, position, blocks):
    """Whether any of the entries of `blocks` blocks from entry `position` on, a multiple of 16, may answer."""
    for block in range(blocks):
        place = position + block * BLOCK
        if (words[place >> 6] >> np.uint64(place & 63)) & np.uint64(0xFFFF):
            return True
    return False


@jit
def scan_lists(
    lists, centroids, metric, chosen, near, reach, squares, tables, constants, restriction, want, keys, sizes
):  # fmt: skip
    """Scan the chosen lists of a batch of queries for the entries of the least scores.

    chosen (q, p) uint64: keys of lists, the first `near` of each row the nearest, sorted further as `reach` asks;
    squares (q,) float32 squared norms of the queries; tables (q, bytes) uint8 and constants (q, CONSTANTS) float32 with
    SCALE and SHIFT, see fastscan.py; keys (q, 2 want + POOL_SLACK) uint64, result: at least the least `want` of each
    query, in no order; sizes (q,) int64.
    """
    count, probes = chosen.shape
    groups = lists.codes.shape[1] // LINE
    limit = keys.shape[1] - STEP_ROOM
    factor = np.float32(-2.0 if metric == L2 else -1.0)
    most = count * (max(near, probes - near) if reach.fresh else probes)
    numbers, queries, scores = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.float32)
    counts = np.empty(lists.sizes.shape[0] + 1, np.int32)
    found = np.empty(MANY_QUERIES * max(MANY_BLOCKS, ONE_BLOCKS) * BLOCK, np.float32)
    masks, words = np.empty(64, np.uint16), np.empty(1, np.uint64)
    which, numbers_here = np.empty(MANY_QUERIES, np.int32), np.empty((MANY_QUERIES, CONSTANTS), np.float32)
    has_bits = restriction.program.shape[0] > 0 or restriction.sparse
    has_allowed = restriction.allowed.shape[0] > 0 and not restriction.sparse
    has_windows = restriction.windows.shape[0] > 0
    allowed, all_tables = pointer(restriction.allowed, 0), pointer(tables, 0)
    wanted, here = pointer(which, 0), pointer(numbers_here, 0)
    has_factors = lists.rescale is not None
    program, operands = pointer(restriction.program, 0), pointer(restriction.operands, 0)
    length, columns, stack = (
        restriction.program.shape[0] // WORDS,
        pointer(lists.columns, 0),
        np.empty(SCRATCH, np.uint64),
    )
    if reach.fresh:
        for query in range(count):
            sizes[query], reach.stops[query] = 0, near
            constants[query, THRESHOLD] = constants[query, CUTOFF] = LARGEST
    for round_ in range(0 if reach.fresh else 1, 2):
        begin = near if reach.fresh and round_ == 1 else 0
        pairs = sort_pairs(chosen, begin, reach.stops, lists.sizes.shape[0], numbers, queries, scores, counts)
        pair = 0
        while pair < pairs:
            number = np.int64(numbers[pair])
            end = pair + 1
            while end < pairs and numbers[end] == number:
                end += 1
            if end < pairs:
                start = lists.starts[numbers[end]]
                blocks = (lists.sizes[numbers[end]] + BLOCK - 1) // BLOCK
                following, numbers_ahead = (
                    pointer(lists.codes, start * groups * LINE),
                    pointer(lists.bias, start * BLOCK),
                )
                for line in range(min(blocks * groups, _AHEAD_LINES)):
                    prefetch(offset(following, line * LINE))
                for line in range(min(blocks, _AHEAD_LINES // 8)):
                    prefetch(offset(numbers_ahead, line * BLOCK))
            size, base = lists.sizes[number], lists.starts[number] * BLOCK
            codes, slots = pointer(lists.codes, lists.starts[number] * groups * LINE), pointer(lists.slots, base)
            bias, rescale, error = pointer(lists.bias, base), factors(lists.rescale, base), factors(lists.error, base)
            if has_bits:
                if (size + 63) // 64 > words.shape[0]:
                    words = np.empty((size + 63) // 64 + 1, np.uint64)  # steps may reach beyond the list
                if not list_bits(
                    program, length, operands, columns, lists.columns.shape[1], base, size, slots, allowed,
                    restriction.sparse, pointer(stack, 0), pointer(words, 0),
                ):  # fmt: skip
                    pair = end
                    continue
            # Taken here and not before the loops: Numba frees an array after its last use, pointers to it or not.
            bits, mask_pointer, score_pointer = pointer(words, 0), pointer(masks, 0), pointer(found, 0)
            while pair < end:
                # The next few queries that can still win something here, each with its constants for this list.
                waiting = 0
                while pair < end and waiting < MANY_QUERIES:
                    query = np.int64(queries[pair])
                    score = scores[pair] - centroids.bias[number]  # factor <q, c>
                    pair += 1
                    apart = squares[query] + centroids.squares[number] - np.float32(2.0) * (score / factor)
                    distance = np.sqrt(max(apart, np.float32(0.0)))
                    least = least_score(metric, score, distance, centroids.radius[number], squares[query])
                    if size == 0 or least > constants[query, CUTOFF]:
                        continue
                    which[waiting] = query
                    for i in range(CONSTANTS):
                        numbers_here[waiting, i] = constants[query, i]
                    numbers_here[waiting, OFFSET] = score if has_factors else score + constants[query, SHIFT]
                    numbers_here[waiting, DISTANCE] = distance
                    waiting += 1
                if waiting == 0:
                    continue
                blocks = 0
                if waiting + 1 >= MANY_QUERIES and not has_windows:
                    # One more query costs less than scanning for three one by one: the last one fills the gap.
                    for lane in range(waiting, MANY_QUERIES):
                        which[lane] = which[waiting - 1]
                        for i in range(CONSTANTS):
                            numbers_here[lane, i] = numbers_here[waiting - 1, i]
                        numbers_here[lane, THRESHOLD] = -np.float32(np.inf)
                    # The last step may reach into the next list, whose entries are beyond `size`.
                    blocks = (size + BLOCK - 1) // BLOCK
                    for block in range(0, blocks, MANY_BLOCKS):
                        at = block * BLOCK
                        if has_bits and not any_bits(bits, at, MANY_BLOCKS):
                            continue
                        if not scan_many(
                            offset(codes, block * groups * LINE), groups, all_tables, wanted, offset(bias, at),
                            moved(rescale, at), moved(error, at), here, score_pointer, mask_pointer,
                        ):  # fmt: skip
                            continue
                        for lane in range(waiting):
                            query = np.int64(which[lane])
                            sizes[query] = take(
                                offset(mask_pointer, lane * MANY_BLOCKS),
                                offset(score_pointer, lane * MANY_BLOCKS * BLOCK), MANY_BLOCKS, at, 0, size,
                                offset(slots, at), bits, has_bits, allowed, has_allowed,
                                pointer(keys, query * keys.shape[1]), sizes[query],
                            )  # fmt: skip
                            if sizes[query] > limit:
                                local = offset(here, lane * CONSTANTS)
                                pool = pointer(keys, query * keys.shape[1])
                                sizes[query] = settle(pool, sizes[query], want, want + (want >> 2), local)
                for lane in range(waiting):
                    query = np.int64(which[lane])
                    first, last = 0, size
                    if has_windows:
                        low, high = restriction.windows[query, 0], restriction.windows[query, 1]
                        first, last = label_range(pointer(lists.labels, base), size, low, high)
                    from_block, to_block = max(blocks, first // BLOCK), (last + BLOCK - 1) // BLOCK
                    at, pool = from_block * BLOCK, pointer(keys, query * keys.shape[1])
                    if first < last:
                        sizes[query] = _scan_blocks(
                            offset(codes, from_block * groups * LINE), groups, all_tables, offset(wanted, lane),
                            offset(bias, at), moved(rescale, at), moved(error, at), offset(here, lane * CONSTANTS),
                            score_pointer, mask_pointer, at, to_block - from_block, first, last, offset(slots, at),
                            bits, has_bits, allowed, has_allowed, pool, sizes[query], want, limit,
                        )  # fmt: skip
                    constants[query, THRESHOLD] = numbers_here[lane, THRESHOLD]
        # Exactly the wanted ones: what is left out of the next round must not depend on the order of this one.
        for query in range(count):
            pool = pointer(keys, query * keys.shape[1])
            sizes[query] = settle(pool, sizes[query], want, want, pointer(constants, query * CONSTANTS))
            constants[query, CUTOFF] = constants[query, THRESHOLD]
            if round_ == 0:
                base = squares[query] if metric == L2 else reach.offset
                set_stop(chosen, query, near, pool, sizes[query], base, reach)


@jit
def passing_share(program, operands, columns, count):
    """Share of `count` > 0 rows that pass a predicate, as a sample spread over them says; at least half a row of it.

    program, operands, columns as in predicate.py.
    """
    stack, passing, seen = np.empty(SCRATCH, np.uint64), 0, 0
    stride = max(ROWS, count // _SAMPLES // ROWS * ROWS)
    for start in range(0, count, stride):
        rows = min(ROWS, count - start)
        bits = block_bits(
            pointer(program, 0), program.shape[0] // WORDS, pointer(operands, 0), pointer(columns, 0), columns.shape[1],
            start, rows, pointer(stack, 0),
        )  # fmt: skip
        seen += rows
        for i in range(rows):
            passing += np.int64((bits >> np.uint64(i)) & np.uint64(1))
    return max(0.5, passing) / seen


@jit
def prepare_tables(coded, queries, codebook, factor, tables, constants, squares):
    """Tables and numbers of queries, see `scan_lists`.

    coded (q, c) float32, the part of each query that codes are about; queries (q, dim) float32 whole.
    """
    subs, dim = codebook.bounds.shape[0] - 1, queries.shape[1]
    scratch, lows = np.empty(subs * 16, np.float32), np.empty(subs, np.float32)
    for query in range(queries.shape[0]):
        scale, shift = make_tables(
            pointer(coded, query * coded.shape[1]), pointer(codebook.bounds, 0), pointer(codebook.values, 0), subs,
            factor, pointer(scratch, 0), pointer(lows, 0), pointer(tables, query * tables.shape[1]),
        )  # fmt: skip
        constants[query, SCALE], constants[query, SHIFT] = scale, shift
        vector = pointer(queries, query * dim)
        squares[query] = dot(vector, vector, dim)


@jit
def search_lists(
    queries, coded, codebook, lists, centroids, metric, chosen, near, reach, restriction, want, tables, constants,
    squares, keys, sizes,
):  # fmt: skip
    """`prepare_tables` and `scan_lists` for lists in any order; the nearest `near` of `chosen` come to its front."""
    factor = np.float32(-2.0 if metric == L2 else -1.0)
    if reach.fresh:
        for query in range(chosen.shape[0]):
            if near < chosen.shape[1]:
                lead_least(pointer(chosen, query * chosen.shape[1]), chosen.shape[1], near)
        prepare_tables(coded, queries, codebook, factor, tables, constants, squares)
    scan_lists(
        lists, centroids, metric, chosen, near, reach, squares, tables, constants, restriction, want, keys, sizes
    )  # fmt: skip
