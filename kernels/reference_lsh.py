"""Specification of cross-polytope hashes, their probing order and hash tables, in NumPy."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.cross_polytope import DIMENSION, FIRST, ROTATION
from nearhash.kernels.reference_dense import hadamard
from nearhash.kernels.reference_hashes import fmix64


def projections(vectors: NDArray[Any], signs: NDArray[Any], plan: NDArray[Any]) -> list[list[NDArray[np.float32]]]:
    """What each function of each table reads: [table][function] (n, D) float32, for vectors (n, dim)."""
    padded = np.zeros((len(vectors), signs.shape[3]), np.float32)
    padded[:, : vectors.shape[1]] = vectors
    result = []
    for table in signs:
        rotated = []
        for rounds in table:
            values = padded
            for own in rounds:
                values = hadamard(values * own)
            rotated.append(values)
        result.append([rotated[f[ROTATION]][:, f[FIRST] : f[FIRST] + f[DIMENSION]] for f in plan])
    return result


def hash_rows(vectors: NDArray[Any], signs: NDArray[Any], plan: NDArray[Any]) -> NDArray[np.uint64]:
    """Keys (n, tables)."""
    keys = np.zeros((len(vectors), len(signs)), np.uint64)
    for table, functions in enumerate(projections(vectors, signs, plan)):
        for values in functions:
            dim = values.shape[1]
            nearest = np.abs(values).argmax(axis=1)
            negative = values[np.arange(len(values)), nearest] < 0
            keys[:, table] = keys[:, table] * np.uint64(2 * dim) + (nearest + dim * negative).astype(np.uint64)
    return keys


def probe(vector: NDArray[Any], signs: NDArray[Any], plan: NDArray[Any]) -> list[tuple[np.float32, int, int]]:
    """All buckets of all tables of one unit vector as (score, table, key), the best first."""
    buckets = []
    scale = np.float32(1) / np.float32(signs.shape[3]) ** 3
    for table, functions in enumerate(projections(vector[None], signs, plan)):
        choices = []
        for values in functions:
            most = np.abs(values[0]).max()
            gaps = np.concatenate([most - values[0], most + values[0]])
            scores = gaps * gaps * scale
            choices.append([(scores[v], v) for v in np.argsort(scores, kind="stable")])
        for rank, digits in enumerate(itertools.product(*choices)):
            score, key = np.float32(0), 0
            for (own, vertex), values in zip(digits, functions, strict=True):
                score, key = score + own, key * 2 * values.shape[1] + int(vertex)
            buckets.append((score, table, rank, key))
    return [(score, table, key) for score, table, _, key in sorted(buckets)]


def table(keys: NDArray[np.uint64], shift: int, buckets: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """starts (buckets + 1,) and entries (n,) of a table of slots 0, 1, ... with these keys."""
    places = keys if shift == 0 else fmix64(keys) >> np.uint64(shift)
    entries = np.argsort(places, kind="stable").astype(np.int32)
    counts = np.bincount(places.astype(np.int64), minlength=buckets)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), entries
