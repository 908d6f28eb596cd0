"""What the kernel of `alignment.py` computes, in plain NumPy: every pair looks at all pairs before it."""

import numpy as np
from numpy.typing import NDArray

CONTINUES, RESUMES, CHANGES = range(3)


def total_of(positions: NDArray[np.int64], gains: NDArray[np.int64], gap: int, change: int) -> int:
    """What an alignment is worth; gains (n, m), positions (n,) with -1 for none."""
    total, last, shift = 0, -1, 0
    for token in np.flatnonzero(positions >= 0).tolist():
        own = int(positions[token]) - token
        total += int(gains[token, positions[token]])
        total -= change if own != shift else gap if token != last + 1 else 0
        last, shift = token, own
    return total


def align(gains: NDArray[np.int64], window: int, gap: int, change: int) -> NDArray[np.int64]:
    """Positions (n,) of the best chain; gains (n, m), 0 where tokens are not alike.

    Of equal totals a pair prefers to continue a run, then to resume its shift, then to change it; in each case the
    chain that came to its total first; of chains that did so with the same token, that of the least shift in
    magnitude, then of the lower position. The whole alignment is the best chain by the same rule.
    """
    pairs = [(i, p) for i, p in np.argwhere(gains > 0).tolist() if abs(p - i) <= window]
    totals: list[int] = []
    parents: list[int] = []

    def order(pair: int) -> tuple[int, int, int, int]:
        i, p = pairs[pair]
        return -totals[pair], i, abs(p - i), p

    for i, p in pairs:
        options = []
        if p == i:  # the run before the first token
            options.append((0 if i == 0 else -gap, CONTINUES if i == 0 else RESUMES, (0, -1, 0, 0), -1))
        options.append((-change, CHANGES, (0, -1, 0, 0), -1))
        for before in range(len(totals)):
            j, q = pairs[before]
            if j == i:
                continue
            if q - j == p - i:
                kind, cost = (CONTINUES, 0) if j == i - 1 else (RESUMES, gap)
            else:
                kind, cost = CHANGES, change
            options.append((totals[before] - cost, kind, order(before), before))
        total, _, _, parent = min(options, key=lambda option: (-option[0], option[1], option[2]))
        totals.append(total + int(gains[i, p]))
        parents.append(parent)
    positions: NDArray[np.int64] = np.full(len(gains), -1, np.int64)
    end = min(range(len(totals)), key=order, default=-1)
    if end >= 0 and totals[end] <= 0:
        end = -1
    while end >= 0:
        positions[pairs[end][0]] = pairs[end][1]
        end = parents[end]
    return positions
