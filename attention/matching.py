"""Which tokens of a cached prompt stand in for those of a new one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, InvalidArgumentError
from nearhash.hashing.simhash import SimHash
from nearhash.hashing.vectors import as_rows, is_tensor
from nearhash.index.arguments import check_count
from nearhash.index.hamming import HammingIndex
from nearhash.index.metrics import normalised
from nearhash.kernels.alignment import align, count_pairs, pair_products
from nearhash.kernels.threads import resolve_threads, run_chunks

UNIT = 1 << 20
"""Scores and costs are added up as whole numbers of 1 / UNIT, so that ties are ties."""

MOST_PAIRS = 1 << 26  # 12 bytes each

_MARGIN = 3.0  # standard deviations of the Hamming distance at the threshold, to miss one pair in several hundred there
_CHUNK = 4096  # pairs that a thread measures at a time
_LARGEST_COST = 1e9


class TokenMatch(NamedTuple):
    """What each token of a prompt takes over.

    Attributes
    ----------
    positions : (n,) int64
        Position of the token of the reference, -1 for none.
    scores : (n,) float32
        Cosine of the two embeddings, 1 exactly where they are equal, 0 where there is none.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]


def match_tokens(
    reference: ArrayLike,
    prompt: ArrayLike,
    *,
    threshold: float = 1.0,
    gap: float = 1.0,
    change: float = 4.0,
    window: int | None = None,
    bits: int = 256,
    seed: int = 0,
    threads: int | None = None,
) -> TokenMatch:
    """Align a new prompt with a cached one, by runs of tokens with like embeddings.

    Tokens match that are equal; with a threshold below 1 those whose embeddings are alike: found by SimHash codes,
    then measured. The same tokens come many times in a text, so that the best match of one is seldom the only one:
    chosen is, of all alignments, that of the greatest

        sum of cosines - gap * (interruptions) - change * (changes of shift)

    where the shift of a match is its position in the reference less that in the prompt, a change is a match of
    another shift than the one before it (than 0 for the first), and an interruption a match of the same shift whose
    neighbour before it has no match. The sum is the greatest there is; ties are settled as
    `nearhash.kernels.reference_alignment` says. Reference tokens may be taken over several times and in any order.

    The idea is that of SemShareKV (Zhao & Mastorakis 2025), which matches each token for itself, to the nearest by
    hashes of embeddings that are rotated by their position; runs, their costs and the optimum are ours. With
    ``gap=0, change=0`` each token gets its nearest, too.

    Parameters
    ----------
    reference : (m, d) array or tensor
        Embeddings of the tokens of the cached prompt. Decoders' embeddings have a direction in common: subtract the
        mean of the vocabulary from both.
    prompt : (n, d) array or tensor
        Those of the new one.
    threshold : float
        Cosine of like tokens at least, in (0, 1]. At 1 only equal embeddings match, without hashing: identical tokens.
        About 0.7 takes over words of like meaning, too, which saves little more and costs some accuracy: see the guide.
    gap, change : float
        Costs, 0 <= gap <= change <= 1e9, in units of the cosine. A run of a new shift must be longer than `change`
        to pay.
    window : int, optional
        Greatest shift in magnitude; any by default.
    bits : int
        Of the codes, a multiple of 8. At any number of bits a pair at the threshold is missed with a probability of
        about .002, one well above it never; more bits let fewer others through to be measured.
    seed : int
        Of the codes, 0 to 2**64 - 1.
    threads : int, optional
        All cores by default; the result does not depend on it.

    Returns
    -------
    TokenMatch

    Raises
    ------
    DimensionError, DtypeError
        The arrays have another shape or dtype.
    InvalidArgumentError
        A value is not finite or an argument none of the above, or there are more than 2**26 pairs of like tokens within
        the window: time and memory (12 bytes) go with their number.
    """
    threshold = _number(threshold, "threshold", 0.0, 1.0)
    if threshold == 0:
        raise InvalidArgumentError("threshold: expected a number above 0, got 0")
    gap, change = _number(gap, "gap", 0.0, _LARGEST_COST), _number(change, "change", 0.0, _LARGEST_COST)
    if gap > change:
        raise InvalidArgumentError(f"gap: expected at most the cost of a change, {change:g}, got {gap:g}")
    cached, new = _as_tokens(reference, "reference"), _as_tokens(prompt, "prompt")
    if cached.shape[1] != new.shape[1]:
        raise DimensionError(f"prompt: expected {cached.shape[1]} dimensions, as the reference has, got {new.shape[1]}")
    reach = len(cached) + len(new) if window is None else check_count(window, "window", least=0)
    hashes, threads = SimHash(cached.shape[1], bits, seed), resolve_threads(threads)
    match = TokenMatch(np.full(len(new), -1, np.int64), np.zeros(len(new), np.float32))
    if not len(cached) or not len(new):
        return match
    own, rows = _kinds(new)
    other, cached_rows = _kinds(cached)
    starts, likes, scores = _alike(rows, cached_rows, threshold, hashes, threads)
    order = np.argsort(other, kind="stable").astype(np.int32)
    firsts = np.concatenate([[0], np.cumsum(np.bincount(other, minlength=len(cached_rows)))])
    reach = min(reach, len(cached) + len(new))
    pairs = count_pairs(own, starts, likes, firsts, order, reach)
    if pairs > MOST_PAIRS:
        raise InvalidArgumentError(
            f"window: expected one within which at most {MOST_PAIRS:,} pairs of tokens are alike, got {window!r} and "
            f"{pairs:,} pairs or more; a greater threshold has fewer, too"
        )
    gains = np.rint(scores.astype(np.float64) * UNIT).astype(np.int64)
    chosen = np.empty(len(new), np.int64)
    costs = round(gap * UNIT), round(change * UNIT)
    align(own, starts, likes, gains, firsts, order, reach, *costs, pairs, match.positions, chosen)
    found = chosen >= 0
    match.scores[found] = scores[chosen[found]]
    return match


def _as_tokens(values: ArrayLike, name: str) -> NDArray[np.float32]:
    if is_tensor(values):
        tensor: Any = values
        values = tensor.detach().cpu().float().numpy()
    array = np.asarray(values)
    if array.ndim != 2 or not array.shape[1]:
        raise DimensionError(f"{name}: expected shape (tokens, d), got {array.shape}")
    return as_rows(array, array.shape[1], name) + np.float32(0)  # -0 and 0 are the same number


def _kinds(tokens: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Which of the different rows each token is, and these rows in the order in which they first come."""
    numbers: dict[bytes, int] = {}
    kinds = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in tokens], np.int32)
    _, first = np.unique(kinds, return_index=True)
    return kinds, tokens[first]


def _alike(
    rows: NDArray[np.float32], cached: NDArray[np.float32], threshold: float, hashes: SimHash, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """For each row the cached rows like it, ascending: (indptr, rows, cosines)."""
    places = {row.tobytes(): place for place, row in enumerate(cached)}
    equal = np.array([places.get(row.tobytes(), -1) for row in rows], np.int64)
    if threshold == 1:
        left = np.flatnonzero(equal >= 0)
        right, scores = equal[left], np.ones(len(left), np.float32)
    else:
        codes = HammingIndex(hashes.bits, threads)
        codes.add(hashes.encode(cached, threads))
        near = codes.range_search(hashes.encode(rows, threads), candidate_radius(hashes, threshold), threads=threads)
        left, right = np.repeat(np.arange(len(rows)), np.diff(near.indptr)), near.ids
        scores = np.where(right == equal[left], np.float32(1), _cosines(rows, cached, left, right, threads))
        alike = scores >= np.float32(threshold)
        left, right, scores = left[alike], right[alike], scores[alike]
        order = np.lexsort((right, left))
        left, right, scores = left[order], right[order], scores[order]
    indptr = np.searchsorted(left, np.arange(len(rows) + 1))
    return indptr.astype(np.int64), right.astype(np.int32), scores.astype(np.float32)


def candidate_radius(hashes: SimHash, threshold: float) -> int:
    """Bits in which codes of like tokens differ at most: the mean at the threshold and three standard deviations."""
    mean = hashes.bits * (1.0 - float(hashes.collision_probability(threshold)))
    return math.ceil(mean + _MARGIN * hashes.bits * float(np.sqrt(hashes.variance(threshold))))


def _cosines(
    rows: NDArray[np.float32], cached: NDArray[np.float32], left: NDArray[np.int64], right: NDArray[np.int64],
    threads: int,
) -> NDArray[np.float32]:  # fmt: skip
    """Of pairs of rows. Zero vectors are at a right angle to all."""
    units, others = normalised(rows), normalised(cached)
    cosines = np.empty(len(left), np.float32)

    def task(first: int, last: int) -> None:
        pair_products(units, others, left[first:last], right[first:last], cosines[first:last])

    run_chunks(task, len(left), threads, _CHUNK)
    return np.clip(cosines, -1, 1)


def _number(value: Any, name: str, least: float, most: float) -> float:
    fits = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not fits or not least <= value <= most:
        raise InvalidArgumentError(f"{name}: expected a number from {least:g} to {most:g}, got {value!r:.80}")
    return float(value)
