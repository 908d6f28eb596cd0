"""Search in lists whose entries are rows of codes, each measured by itself (kernels/codes.py).

The slower sibling of `lists.scan_lists`, for codecs that have no tables: floats, LVQ, product codes of 8 bits.
"""

import numpy as np

from nearhash.kernels.coarse import lead_least
from nearhash.kernels.codes import estimate, estimate_rows, prepare_query
from nearhash.kernels.fastscan import settle, take
from nearhash.kernels.jit import jit
from nearhash.kernels.lists import STEP_ROOM, label_range, least_score, list_bits, set_stop, sort_pairs
from nearhash.kernels.predicate import SCRATCH, WORDS
from nearhash.kernels.scan import L2
from nearhash.kernels.select import LARGEST
from nearhash.kernels.simd import dot, pointer
from nearhash.kernels.simd_tables import BLOCK, CONSTANTS, CUTOFF, THRESHOLD, mask_at_most

STEP = 64  # entries measured before any is looked at
_BLOCKS = STEP // BLOCK


@jit
def search_row_lists(
    queries, codec, lists, centroids, metric, chosen, near, reach, restriction, want, numbers, buffers, constants,
    squares, keys, sizes,
):  # fmt: skip
    """Scan the chosen lists of a batch of queries for the entries of the least estimates.

    queries (q, dim) float32; codec, a `codes.Model`, with buffers (q, query_bytes) uint8 and numbers (q,
    codes.CONSTANTS) float32 for what it makes of queries; everything else as for `lists.search_lists`. The score of an
    entry is its estimate.
    """
    count, probes = chosen.shape
    scheme, parameters = codec
    dim, width, itemsize = queries.shape[1], lists.codes.shape[1], lists.codes.itemsize
    factor = np.float32(-2.0 if metric == L2 else -1.0)
    limit = keys.shape[1] - STEP_ROOM
    for query in range(count if reach.fresh else 0):
        if near < probes:
            lead_least(pointer(chosen, query * probes), probes, near)
        prepare_query(
            scheme, pointer(parameters, 0), pointer(queries, query * dim), metric,
            pointer(buffers, query * buffers.shape[1]), pointer(numbers, query * numbers.shape[1]),
        )  # fmt: skip
        squares[query] = dot(pointer(queries, query * dim), pointer(queries, query * dim), dim)
        sizes[query], reach.stops[query] = 0, near
        constants[query, THRESHOLD] = constants[query, CUTOFF] = LARGEST
    most = count * (max(near, probes - near) if reach.fresh else probes)
    pair_lists, pair_queries = np.empty(most, np.int32), np.empty(most, np.int32)
    pair_scores, counts = np.empty(most, np.float32), np.empty(lists.sizes.shape[0] + 1, np.int32)
    found, masks, words = np.empty(STEP, np.float32), np.empty(_BLOCKS, np.uint16), np.empty(1, np.uint64)
    has_bits = restriction.program.shape[0] > 0 or restriction.sparse
    has_allowed = restriction.allowed.shape[0] > 0 and not restriction.sparse
    has_windows = restriction.windows.shape[0] > 0
    program, operands, columns = (
        pointer(restriction.program, 0), pointer(restriction.operands, 0), pointer(lists.columns, 0)
    )  # fmt: skip
    stack, allowed = np.empty(SCRATCH, np.uint64), pointer(restriction.allowed, 0)
    for round_ in range(0 if reach.fresh else 1, 2):
        begin = near if reach.fresh and round_ == 1 else 0
        pairs = sort_pairs(
            chosen, begin, reach.stops, lists.sizes.shape[0], pair_lists, pair_queries, pair_scores, counts
        )  # fmt: skip
        scanned, passing = -1, True
        for pair in range(pairs):
            number, query = np.int64(pair_lists[pair]), np.int64(pair_queries[pair])
            size, base = lists.sizes[number], lists.starts[number] * BLOCK
            if has_bits and number != scanned:
                if (size + 63) // 64 > words.shape[0]:
                    words = np.empty((size + 63) // 64 + 1, np.uint64)
                passing = list_bits(
                    program, restriction.program.shape[0] // WORDS, operands, columns, lists.columns.shape[1], base,
                    size, pointer(lists.slots, base), allowed, restriction.sparse, pointer(stack, 0), pointer(words, 0),
                )  # fmt: skip
                scanned = number
            if not passing or size == 0:
                continue
            score = pair_scores[pair] - centroids.bias[number]
            apart = squares[query] + centroids.squares[number] - np.float32(2.0) * (score / factor)
            gap = np.sqrt(max(apart, np.float32(0.0)))
            least = least_score(metric, score, gap, centroids.radius[number], squares[query])
            if metric == L2:
                least += squares[query]  # estimates are whole distances
            if least > constants[query, CUTOFF]:
                continue
            first, last = 0, size
            if has_windows:
                low, high = restriction.windows[query, 0], restriction.windows[query, 1]
                first, last = label_range(pointer(lists.labels, base), size, low, high)
            pool, own = pointer(keys, query * keys.shape[1]), pointer(constants, query * CONSTANTS)
            for start in range(first // BLOCK * BLOCK, last, STEP):
                end = min(start + STEP, last)
                buffer = pointer(buffers, query * buffers.shape[1])
                own_numbers, rows = pointer(numbers, query * numbers.shape[1]), pointer(lists.codes, base * width)
                if has_bits:
                    for row in range(start, end):
                        found[row - start] = np.inf
                        if (words[row >> 6] >> np.uint64(row & 63)) & np.uint64(1):
                            found[row - start] = estimate(scheme, buffer, own_numbers, rows, row)
                else:
                    estimate_rows(scheme, buffer, own_numbers, rows, itemsize, start, end, pointer(found, 0))
                for i in range(end - start, STEP):
                    found[i] = np.inf
                some = 0
                for block in range(_BLOCKS):
                    mask = mask_at_most(pointer(found, block * BLOCK), own[THRESHOLD])
                    masks[block] = mask
                    some |= mask
                if some == 0:
                    continue
                sizes[query] = take(
                    pointer(masks, 0), pointer(found, 0), _BLOCKS, start, first, last,
                    pointer(lists.slots, base + start), pointer(words, 0), has_bits, allowed, has_allowed, pool,
                    sizes[query],
                )  # fmt: skip
                if sizes[query] > limit:
                    sizes[query] = settle(pool, sizes[query], want, want + (want >> 2), own)
        for query in range(count):
            own = pointer(constants, query * CONSTANTS)
            pool = pointer(keys, query * keys.shape[1])
            sizes[query] = settle(pool, sizes[query], want, want, own)
            own[CUTOFF] = own[THRESHOLD]
            if round_ == 0:
                base = np.float32(0.0) if metric == L2 else reach.offset
                set_stop(chosen, query, near, pool, sizes[query], base, reach)
