"""What the kernels of partition indexes compute, in plain NumPy: their specification, and what tests hold them against.

See also ``kernels.reference``. Sums are in float64 where nothing else is said; tests with small whole numbers, where
float32 is exact too, ask for equal results.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.simd_tables import BLOCK, GROUP, LINE

LEVELS = 16


# --- 4-bit codes ---


def blocks_of(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blocks (ceil(n / 16), 8 m) of codes (n, m), as `kernels.simd_tables` describes them; zeros after the last."""
    count, subs = codes.shape
    blocks: NDArray[np.uint8] = np.zeros((-(-count // BLOCK), subs // GROUP * LINE), np.uint8)
    for row in range(count):
        for sub in range(subs):
            group, within = divmod(sub, GROUP)
            place = group * LINE + 4 * (row % BLOCK) + within % 4
            blocks[row // BLOCK, place] |= codes[row, sub] << (4 if within >= 4 else 0)
    return blocks


def look_ups(codes: NDArray[np.uint8], tables: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sums (n,) of the entries of tables (m, 16) that codes (n, m) name."""
    subs = np.arange(codes.shape[1])
    found: NDArray[np.int64] = tables[subs, codes].astype(np.int64).sum(axis=1)
    return found


def quantised_tables(
    query: NDArray[np.float32], bounds: NDArray[np.int32], values: NDArray[np.float32], factor: float
) -> tuple[NDArray[np.uint8], float, float]:
    """Tables (m, 16) of a query, scale and shift: see the formula in `kernels.fastscan`."""
    lines = np.array(
        [factor * (query[first:last].astype(np.float64) @ values[first:last]) for first, last in pairwise(bounds)]
    )
    lows = lines.min(axis=1)
    scale = float((lines.max(axis=1) - lows).max()) / 255
    raised = lines - lows[:, None]
    steps = np.floor(raised / scale + 0.5) if scale > 0 else np.zeros_like(raised)
    return np.minimum(steps, 255).astype(np.uint8), scale, float(lows.sum())


def decoded(codes: NDArray[np.uint8], bounds: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (n, dim) that codes (n, m) stand for."""
    subs = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    vectors: NDArray[np.float32] = values[np.arange(len(values)), codes[:, subs]]
    return vectors


def nearest_codes(
    residuals: NDArray[np.float32], bounds: NDArray[np.int32], values: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Codes (n, m) of residuals (n, dim): the nearest codeword of each sub-quantiser, ties to the lower one."""
    codes: NDArray[np.uint8] = np.empty((len(residuals), len(bounds) - 1), np.uint8)
    for sub, (first, last) in enumerate(pairwise(bounds)):
        differences = residuals[:, first:last, None].astype(np.float64) - values[None, first:last]
        codes[:, sub] = (differences**2).sum(axis=1).argmin(axis=1)
    return codes


def anisotropic_loss(error: NDArray[np.float64], direction: NDArray[np.float64], extra: float) -> float:
    """``|e|^2 + extra <e, u>^2``."""
    return float(error @ error + extra * (error @ direction) ** 2)


# --- lists ---


def least_keys(distances: NDArray[np.float32], slots: NDArray[np.int32], want: int) -> list[int]:
    """The `want` least keys (`reference.make_key`) of distances below inf, ascending."""
    finite = distances < np.inf
    bits = np.ascontiguousarray(distances[finite], np.float32).view(np.uint32).astype(np.uint64)
    ordered = np.where(bits >> np.uint64(31) == 1, bits ^ np.uint64(0xFFFFFFFF), bits | np.uint64(0x80000000))
    keys = (ordered << np.uint64(32)) | (slots[finite].astype(np.uint64) << np.uint64(1))
    least: list[int] = np.sort(keys)[:want].tolist()
    return least


def nearest_centroids(
    query: NDArray[np.float32], centroids: NDArray[np.float32], bias: NDArray[np.float32], factor: float, probes: int
) -> list[int]:
    """Keys of the `probes` centroids of least ``bias + factor <q, c>``, ascending."""
    scores = bias.astype(np.float64) + factor * (centroids.astype(np.float64) @ query)
    return least_keys(scores.astype(np.float32), np.arange(len(centroids), dtype=np.int32), probes)


def second_list_loss(
    vector: NDArray[np.float32], centroids: NDArray[np.float32], home: int, other: int, weight: float
) -> float:
    """``|r'|^2 + weight <r', r>^2 / |r|^2``, the loss of SOAR; r and r' are the residuals to `home` and `other`."""
    own, first = vector.astype(np.float64) - centroids[other], vector.astype(np.float64) - centroids[home]
    square = float(first @ first)
    return float(own @ own) + (weight * float(own @ first) ** 2 / square if square > 0 else 0.0)


def second_list(
    vector: NDArray[np.float32], centroids: NDArray[np.float32], home: int, near: Sequence[int], weight: float
) -> int:
    """The list among `near` with the least loss, -1 if there is none but `home`; ties to the lower number."""
    others = sorted(set(near) - {home})
    losses = [second_list_loss(vector, centroids, home, other, weight) for other in others]
    return others[int(np.argmin(losses))] if others else -1


def least_scores(
    query: NDArray[np.float32], centroids: NDArray[np.float32], radius: NDArray[np.float32], euclidean: bool
) -> NDArray[np.float64]:
    """What no entry of each list is below: ``|x|^2 - 2 <q, x>`` if `euclidean`, else ``-<q, x>``."""
    wide = query.astype(np.float64)
    if not euclidean:
        bounds: NDArray[np.float64] = -(centroids @ wide) - np.linalg.norm(wide) * radius
        return bounds
    gaps = np.linalg.norm(centroids - wide, axis=1) - radius
    squares: NDArray[np.float64] = np.maximum(gaps, 0) ** 2 - wide @ wide
    return squares


def lists_in_reach(scores: Sequence[float], near: int, limit: float, distance: float) -> int:
    """How many of the lists with these scores, ascending, a query reads: the first `near`, and on while it is worth it.

    The i-th is if ``(score - first score) sqrt(i) <= limit * distance``; equal scores count as the last of them.
    """
    if not np.isfinite([limit, distance]).all():
        return len(scores)
    most = np.float32(limit) * np.float32(distance)
    reached = near
    for score in scores[near:]:
        rank = np.float32(sum(other <= score for other in scores))
        if (np.float32(score) - np.float32(scores[0])) * np.sqrt(rank) <= most:
            reached += 1
    return reached


def scan(
    scores: NDArray[np.float32],
    slots: NDArray[np.int32],
    numbers: NDArray[np.int32],
    passing: NDArray[np.bool_],
    rounds: Sequence[Sequence[int]],
    least: NDArray[np.float64],
    want: int,
) -> list[int]:
    """Keys of the best entries, ascending: what `kernels.lists` and `kernels.row_lists` leave of one query.

    Of each entry its score, slot, list and whether it passes all filters; rounds: the lists to read, a round after the
    other; a list whose `least` score is above the worst of `want` keys found in the rounds before is left out.
    """
    keys: list[int] = []
    cutoff = np.inf
    for round_ in rounds:
        read = [number for number in round_ if least[number] <= cutoff]
        chosen = np.isin(numbers, read) & passing
        keys = sorted(keys + least_keys(scores[chosen], slots[chosen], len(scores)))[:want]
        if len(keys) == want:
            cutoff = key_distance(keys[-1])
    return keys


def key_distance(key: int) -> float:
    """Distance of a key, see `reference.make_key`."""
    ordered = key >> 32
    bits = ordered ^ 0x80000000 if ordered & 0x80000000 else ordered ^ 0xFFFFFFFF
    return float(np.array(bits, np.uint32).view(np.float32))
