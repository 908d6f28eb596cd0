"""Alignment of two sequences of tokens of which some are alike: the best chain of runs.

A token i of the prompt may take over position p of the reference; p - i is its shift. Pairs of tokens of one shift that
follow one another are a run. `align` finds the pairs, one for a token or none, of the greatest

    sum of gains  -  gap * (runs at the shift of the run before)  -  change * (runs at another shift)

where "before" the first token of the prompt there is a run at shift 0. It goes through the pairs once: a pair
continues the run that ends before it, or resumes its shift from the best pair there, or follows the best pair of all.
`reference_alignment.py` has the ties.
"""

import numpy as np

from nearhash.kernels.jit import jit
from nearhash.kernels.simd import dot, pointer

_NEVER = -(1 << 62)


@jit
def pair_products(rows, others, left, right, products):
    """Inner products (c,) float32 of rows (u, d) and others (v, d), float32, in the pairs left (c,), right (c,)."""
    dim = rows.shape[1]
    for pair in range(left.shape[0]):
        products[pair] = dot(pointer(rows, left[pair] * dim), pointer(others, right[pair] * dim), dim)


@jit
def count_pairs(kinds, starts, likes, firsts, places, window):
    """Pairs that `align` looks at, counted up to the token with which they exceed 2**31.

    kinds (n,) int32, the kind of each token of the prompt; kind k is like the kinds ``likes[starts[k]:starts[k + 1]]``
    (int32, starts int64) of the reference, where kind r has the ascending positions ``places[firsts[r]:firsts[r + 1]]``
    (int32, firsts int64). Of these the ones at most `window` away count.
    """
    total = 0
    for i in range(kinds.shape[0]):
        for at in range(starts[kinds[i]], starts[kinds[i] + 1]):
            own = places[firsts[likes[at]] : firsts[likes[at] + 1]]
            total += np.searchsorted(own, i + window, "right") - np.searchsorted(own, i - window)
        if total > 1 << 31:
            break
    return total


@jit
def align(kinds, starts, likes, gains, firsts, places, window, gap, change, pairs, positions, chosen):
    """The best chain. Arguments as for `count_pairs`, and

    gains (c,) int64 > 0, one for each of `likes`; gap and change, 0 <= gap <= change, in the same unit; pairs, what
    `count_pairs` says. Writes for each token of the prompt the position of the reference that it takes over
    (positions (n,) int64) and the element of `likes` that allows it (chosen (n,) int64), -1 for none.
    """
    count, shifts = kinds.shape[0], kinds.shape[0] + places.shape[0]
    above = np.empty(pairs, np.int32)  # the pair before each in its chain, -1 for none
    taken, allowed = np.empty(pairs, np.int32), np.empty(pairs, np.int32)
    bounds = np.empty(count + 1, np.int64)
    # By shift: the last pair, its token and total; the pair of the greatest total. Shift s is element s + count.
    last_pair, last_token = np.full(shifts, -1, np.int32), np.full(shifts, -2, np.int64)
    last_total, best_pair = np.full(shifts, _NEVER, np.int64), np.full(shifts, -1, np.int32)
    best_total = np.full(shifts, _NEVER, np.int64)
    if places.shape[0]:
        last_token[count], last_total[count], best_total[count] = -1, 0, 0
    top_pair, top_total, pair = -1, 0, 0
    for i in range(count):
        bounds[i] = pair
        row_pair, row_total, row_away, row_place = -1, _NEVER, 0, 0
        for at in range(starts[kinds[i]], starts[kinds[i] + 1]):
            own = places[firsts[likes[at]] : firsts[likes[at] + 1]]
            for place in own[np.searchsorted(own, i - window) : np.searchsorted(own, i + window, "right")]:
                shift = place - i + count
                total, parent = top_total - change, top_pair
                if best_total[shift] - gap >= total:
                    total, parent = best_total[shift] - gap, best_pair[shift]
                if last_token[shift] == i - 1 and last_total[shift] >= total:
                    total, parent = last_total[shift], last_pair[shift]
                total += gains[at]
                above[pair], taken[pair], allowed[pair] = parent, place, at
                last_pair[shift], last_token[shift], last_total[shift] = pair, i, total
                if total > best_total[shift]:
                    best_total[shift], best_pair[shift] = total, pair
                away = abs(place - i)
                if total > row_total or (
                    total == row_total and (away < row_away or (away == row_away and place < row_place))
                ):
                    row_pair, row_total, row_away, row_place = pair, total, away, place
                pair += 1
        if row_total > top_total:
            top_total, top_pair = row_total, row_pair
    bounds[count] = pair
    positions[:], chosen[:] = -1, -1
    token = count - 1
    while top_pair >= 0:
        while bounds[token] > top_pair:
            token -= 1
        positions[token], chosen[token] = taken[top_pair], allowed[top_pair]
        top_pair = above[top_pair]
