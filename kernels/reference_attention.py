"""What the kernels of attention must compute, in NumPy: tests compare against these."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def attend(queries: NDArray[Any], keys: NDArray[Any], values: NDArray[Any]) -> tuple[Floats, Floats]:
    """Output (g, d) and log-sum-exp (g,) of softmax attention; queries (g, d) hold the scale of the logits."""
    return attend_sample(queries, keys, values, np.ones(len(keys)))[:2]


def attend_sample(
    queries: NDArray[Any], keys: NDArray[Any], values: NDArray[Any], probabilities: NDArray[Any]
) -> tuple[Floats, Floats, Floats]:
    """Output, log-sum-exp and variance (g,) from tokens that were included with the given probabilities (n,).

    Horvitz and Thompson's estimates of numerator and denominator, and for the variance of their ratio
    ``sum (1 - p) / p^2 a^2 |v - o|^2`` with a = exp(s) / D.
    """
    group, dim = queries.shape
    if len(keys) == 0:
        return np.zeros((group, dim)), np.full(group, -np.inf), np.zeros(group)
    keys, values, p = (np.asarray(array, np.float64) for array in (keys, values, probabilities))
    logits = queries.astype(np.float64) @ keys.T  # [g, n]
    top = np.maximum(logits.max(axis=1, keepdims=True), np.finfo(np.float64).min)
    weights = np.exp(logits - top) / p
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[:, 0]
    total = np.where(total > 0, total, 1.0)
    output = weights @ values / total
    distances = ((values[None] - output[:, None]) ** 2).sum(axis=2)
    return output, lse, ((1 - p) * (weights / total) ** 2 * distances).sum(axis=1)


def merge(outputs: NDArray[Any], lses: NDArray[Any]) -> tuple[Floats, Floats]:
    """Output (g, d) and log-sum-exp (g,) of all tokens from those of disjoint parts, (p, g, d) and (p, g)."""
    top = lses.max(axis=0) if len(lses) else np.full(lses.shape[1], -np.inf)
    weights = np.exp(lses - np.where(np.isfinite(top), top, 0.0)).astype(np.float64)
    total = weights.sum(axis=0)
    with np.errstate(divide="ignore"):
        lse = np.where(np.isfinite(top), top, 0.0) + np.log(total)
    output = (weights[..., None] * outputs).sum(axis=0) / np.where(total > 0, total, 1.0)[:, None]
    return output, lse


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Finite float32 rounded to 8 significant bits, ties to even."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded: NDArray[np.uint64] = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def int8(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows as int8 with a scale of their own, max |x| / 127, as they are read back."""
    scale = (np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0)).astype(np.float32)
    usable = np.isfinite(inverse)
    scale, inverse = np.where(usable, scale, np.float32(0)), np.where(usable, inverse, np.float32(0))
    codes: NDArray[np.float32] = np.floor(rows * inverse + np.float32(0.5))
    return codes * scale


def lvq4(keys: NDArray[np.float32], mean: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Codes (n, d), lower (n,) and step (n,) of keys (n, d): key - mean is lower + step * code, both numbers bfloat16.

    lower is rounded down and step up, so that the codes reach from the least to the greatest coordinate.
    """
    centred = keys - mean
    lower = _outward(centred.min(axis=1), False)
    with np.errstate(over="ignore"):
        step = _outward(np.minimum((centred.max(axis=1) - lower) / np.float32(15), np.float32(3.3e38)), True)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(step > 0, np.float32(1) / step, np.float32(0))
    step, inverse = (np.where(np.isfinite(inverse), array, np.float32(0)) for array in (step, inverse))
    codes = np.floor((centred - lower[:, None]) * inverse[:, None] + np.float32(0.5))
    return np.minimum(codes, 15).astype(np.uint8), lower, step


def _outward(values: NDArray[np.float32], up: bool) -> NDArray[np.float32]:
    """The bfloat16 numbers next to `values`, not below them if `up`, else not above; finite."""
    bits = values.view(np.uint32)
    away = ((bits & 0xFFFF) != 0) & ((bits >> 31 == 0) == up)
    high = (bits >> 16) + away
    high = np.minimum(high & 0x7FFF, 0x7F7F) | (high & 0x8000)
    words: NDArray[np.uint32] = (high << 16).astype(np.uint32)
    return words.view(np.float32)


def rounded_queries(queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Queries (g, d) as int8 numbers and the scale (g,) of each, max |q| / 127."""
    scale = (np.abs(queries).max(axis=1) / np.float32(127)).astype(np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
    scale, inverse = (np.where(np.isfinite(inverse), array, np.float32(0)) for array in (scale, inverse))
    return np.floor(queries * inverse[:, None] + np.float32(0.5)).astype(np.int64), scale


def lvq4_logits(queries: NDArray[np.float32], codes: NDArray[Any], lower: NDArray[Any], step: NDArray[Any]) -> Floats:
    """Logits (g, n) of queries rounded to int8 and coded keys, less <q, mean>."""
    rounded, scale = rounded_queries(queries)
    products = lower * rounded.sum(axis=1)[:, None].astype(np.float64) + step * (rounded @ codes.T.astype(np.int64))
    logits: Floats = scale[:, None].astype(np.float64) * products
    return logits


def simhash_logits(
    queries: NDArray[Any], query_codes: NDArray[np.uint64], codes: NDArray[np.uint64], norms: NDArray[Any]
) -> Floats:
    """Logits (g, n) ``|q| |k| cos(pi h / B)`` of queries (g, d) and codes (n, B / 64), h bits of which differ."""
    differ = query_codes[:, None, :] ^ codes[None]
    counts = np.unpackbits(np.ascontiguousarray(differ).view(np.uint8), axis=2).sum(axis=2)
    turns = counts / (64 * codes.shape[1])
    logits: Floats = np.linalg.norm(queries.astype(np.float64), axis=1)[:, None] * norms * np.cos(np.pi * turns)
    return logits


def pq4_logits(queries: NDArray[Any], bounds: NDArray[Any], codewords: NDArray[Any], codes: NDArray[Any]) -> Floats:
    """Logits (g, n) by tables rounded to 8 bits of codes (n, m), see `attention_pq4.scan`."""
    logits = np.zeros((len(queries), len(codes)))
    for query, line in zip(queries.astype(np.float64), logits, strict=True):
        products = query[:, None] * codewords
        tables = np.array([products[a:b].sum(axis=0) for a, b in pairwise(bounds)])
        least = tables.min(axis=1, keepdims=True)
        step = (tables - least).max() / 255
        rounded = np.minimum(255, np.floor((tables - least) / step + 0.5)) if step > 0 else np.zeros_like(tables)
        line[:] = least.sum() + step * np.take_along_axis(rounded, codes.T.astype(np.int64), axis=1).sum(axis=0)
    return logits


_MASK = 0xFFFFFFFF


def uniforms(positions: NDArray[Any], key: int) -> NDArray[np.float32]:
    """Numbers in (0, 1], a function of the position and a key of 64 bits: see `attention_sampling`."""
    x = (positions.astype(np.uint64) * 0x9E3779B1 + (key & _MASK)) & _MASK
    for rounds, word in (
        (((16, 0x21F0AAAD), (15, 0x735A2D97), (15, 1)), key >> 32),
        (((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)), 0),
    ):
        for shift, factor in rounds:
            x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(_MASK)
        x ^= np.uint64(word)
    return (x.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)


def weights(logits: NDArray[Any], norms: NDArray[Any], temperature: float, floor: float) -> Floats:
    """Sampling weights (n,) from estimated logits (g, n): mean softmax times norm, scaled to sum 1, plus floor / n."""
    scaled = logits.astype(np.float64) / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    mixed = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0) * norms
    total = mixed.sum()
    return mixed / total + floor / len(mixed) if total > 0 else np.full(len(mixed), 1 / len(mixed))


def priority_sample(
    weights: NDArray[np.float32], uniforms: NDArray[np.float32], budget: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices, ascending, of the `budget` greatest w / u, ties to the lower, and their inclusion probabilities.

    With t the (budget + 1)-th greatest, p = min(1, w / t) (Duffield, Lund and Thorup, "Priority sampling for
    estimation of arbitrary subset sums", J. ACM 2007). Here in terms of u / w, of which the least are taken.
    """
    if budget >= len(weights):
        return np.arange(len(weights)), np.ones(len(weights), np.float32)
    times = uniforms / weights
    order = np.argsort(times, kind="stable")
    chosen = np.sort(order[:budget])
    return chosen, np.minimum(weights[chosen] * times[order[budget]], np.float32(1))
