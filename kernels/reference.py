"""What the kernels compute, in plain NumPy: their specification, and what tests hold them against."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels import predicate

LVQ_LEVELS = np.float32(255.0)


def dot(query: NDArray[np.float32], row: NDArray[Any]) -> float:
    """Inner product of a float query and a row of any stored type (float16 as itself, not as bits)."""
    return float(query.astype(np.float64) @ row.astype(np.float64))


def squared_l2(query: NDArray[np.float32], row: NDArray[Any]) -> float:
    """Squared Euclidean distance of a float query and a row of any stored type."""
    return float(((query.astype(np.float64) - row.astype(np.float64)) ** 2).sum())


def integer_dot(x: NDArray[Any], y: NDArray[Any]) -> int:
    """Inner product of integer rows; `simd.dot_codes` is this for uint8 codes and an int8 query."""
    return int(x.astype(np.int64) @ y.astype(np.int64))


def integer_squared_l2(x: NDArray[Any], y: NDArray[Any]) -> int:
    """Squared Euclidean distance of integer rows."""
    return int(((x.astype(np.int64) - y.astype(np.int64)) ** 2).sum())


def make_key(distance: float, slot: int) -> int:
    """Pool key: order-preserving bits of the distance above ``slot << 1``."""
    bits = int(np.float32(distance).view(np.uint32))
    ordered = bits ^ 0xFFFFFFFF if bits & 0x80000000 else bits | 0x80000000
    return (ordered << 32) | (slot << 1)


def nearest(distances: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the k smallest distances, ties by position: what a pool of size k holds after all were offered."""
    return np.argsort(distances, kind="stable")[:k]


def lvq_encode(
    vectors: NDArray[np.float32], mean: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """(codes (n, dim), lower (n,), step (n,)) of LVQ-8, eq. 2 of Aguerrebere et al. (VLDB 2023)."""
    centred = vectors - mean
    lower, upper = centred.min(axis=1), centred.max(axis=1)
    step = ((upper - lower) / LVQ_LEVELS).astype(np.float32)
    inverse = np.divide(np.float32(1.0), step, out=np.zeros_like(step), where=step > 0)
    codes = np.floor((centred - lower[:, None]) * inverse[:, None] + np.float32(0.5))
    return np.minimum(codes, LVQ_LEVELS).astype(np.uint8), lower, step


def lvq_decode(codes: NDArray[np.uint8], lower: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, dim) vectors less the mean, as they are read back."""
    decoded: NDArray[np.float64] = lower[:, None].astype(np.float64) + step[:, None].astype(np.float64) * codes
    return decoded


def beam_search(
    distances: NDArray[np.float32],
    neighbours: NDArray[np.int32],
    entry: int,
    beam: int,
    nearest: int = 1,
    reach: float = np.inf,
    wanted: int = 1,
) -> tuple[list[int], list[int]]:
    """(pool, expanded): node numbers by key, and in order of expansion. `distances` (n,) are those to the query.

    It ends where the nearest node that waits is more than `reach` times as far as the `nearest`-th of the pool, and
    once that has `wanted` nodes, those that are so far do not come into it.
    """
    keys = {entry: make_key(distances[entry], entry)}
    pool, seen = [entry], {entry}
    expanded: list[int] = []
    while True:
        waiting = [node for node in pool if node not in expanded]
        if not waiting:
            return pool, expanded
        node, bound, edge = waiting[0], np.float32(np.inf), np.float32(np.inf)
        if len(pool) >= nearest and np.isfinite(reach):
            bound = np.float32(reach) * distances[pool[nearest - 1]]
            edge = bound if len(pool) >= wanted else edge
        if distances[node] > bound:
            return pool, expanded
        expanded.append(node)
        for other in neighbours[node].tolist():
            if other >= 0 and other not in seen:
                seen.add(other)
                if distances[other] > edge:
                    continue
                keys[other] = make_key(distances[other], other)
                pool = sorted([*pool, other], key=keys.__getitem__)[:beam]


def robust_prune(
    pairwise: NDArray[np.float32],
    node: int,
    candidates: list[int],
    alpha: float,
    degree: int,
    parents: NDArray[np.int32],
) -> list[int]:
    """Neighbours of `node` among candidates, which are ordered by distance to it; see ``kernels.prune``."""
    kept: list[int] = []
    waiting = sum(parents[c] == node for c in candidates)
    for candidate in candidates:
        if len(kept) == degree:
            break
        if parents[candidate] == node:
            waiting -= 1
            kept.append(candidate)
        elif len(kept) + waiting < degree and not any(
            np.float32(alpha) * pairwise[candidate, other] <= pairwise[node, candidate] for other in kept
        ):
            kept.append(candidate)
    return kept


def predicate_rows(program: NDArray[np.int64], operands: NDArray[np.int64], columns: NDArray[np.int64]) -> list[bool]:
    """Which rows of columns (c, n) pass; `kernels.predicate` says what a program is."""
    results = []
    for row in columns.T.tolist():
        stack: list[bool] = []
        for operation, column, first, size in program.reshape(-1, 4).tolist():
            own = operands[first : first + size].tolist()
            value = row[column] if operation < predicate.AND else None
            if operation == predicate.RANGE:
                stack.append(own[0] <= value <= own[0] + own[1] % 2**64)
            elif operation == predicate.BITS:
                stack.append(value & own[0] != 0)
            elif operation == predicate.TABLE:
                place = value - own[0]
                stack.append(0 <= place < own[1] and bool(own[2 + place // 64] >> place % 64 & 1))
            elif operation in (predicate.FEW, predicate.SORTED):
                stack.append(value in own)
            elif operation == predicate.NOT:
                stack.append(not stack.pop())
            else:
                last, other = stack.pop(), stack.pop()
                stack.append(last and other if operation == predicate.AND else last or other)
        (result,) = stack
        results.append(result)
    return results


def all_within(rows: NDArray[np.float32], limit: float) -> bool:
    """Whether all values are within +-limit; NaN is not."""
    return bool((np.abs(rows) <= limit).all())


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows divided by their norms; zero rows stay zero."""
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    units: NDArray[np.float64] = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return units
