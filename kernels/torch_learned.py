"""Weights of groups of elements, one set for each band of bits, learned by descent of a gradient in Torch.

Bits of band j are signs of random projections of vectors whose group g was multiplied by w[j, g], so both codes agree
in all `rows` bits of the band with probability ``(1 - theta_j / pi)^rows``, theta_j the angle of the weighted vectors
(Charikar, STOC 2002). Nothing has to be relaxed: this chance is what is maximised for pairs that match.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_EDGE = 1e-6  # an angle has no derivative where the cosine is 1
_LEAST_CHANCE = 1e-6
_BATCH_ELEMENTS, _LEAST_BATCH, _MOST_BATCH = 1 << 24, 16, 256


def batch_size(groups: int) -> int:
    """Pairs of a step, so that products of all left with all right records, group by group, take 64 MiB."""
    return min(_MOST_BATCH, max(_LEAST_BATCH, math.isqrt(_BATCH_ELEMENTS // groups)))


def learn(
    start: NDArray[np.float32],
    vectors: NDArray[np.float32],
    columns: NDArray[np.int64],
    bounds: NDArray[np.int64],
    pairs: NDArray[np.int64],
    labels: NDArray[np.bool_],
    components: NDArray[np.int64],
    order: NDArray[np.int64],
    rows: int,
    records: int,
    cost: float,
    rate: float,
    report: Callable[[int, float], None],
) -> NDArray[np.float32]:
    """Weights (bands, groups) float32 after descent from `start`, their logarithms.

    vectors (n, dim) float32; columns (dim,) elements sorted by group, group g being
    ``columns[bounds[g]:bounds[g + 1]]``; pairs (m, 2) rows, labels (m,) whether they match; components (n,): equal for
    rows known to match; order (epochs, m): the pairs in the order of each epoch; rows: bits of a band; records: size
    of the collection for which `cost` is paid per candidate and record. Calls ``report(epoch, loss)`` after each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of products would depend on how they are shared out
    try:
        logs = torch.from_numpy(start.copy()).requires_grad_(True)
        optimizer = torch.optim.Adam([logs], lr=rate)
        parts = [torch.from_numpy(vectors[:, columns[a:b]]) for a, b in pairwise(bounds)]
        squares = torch.stack([part.square().sum(dim=1) for part in parts])  # (groups, n)
        ends, matching, entity = torch.from_numpy(pairs), torch.from_numpy(labels), torch.from_numpy(components)
        size = batch_size(len(parts))
        for epoch in range(len(order)):
            total = 0.0
            for chosen in torch.from_numpy(order[epoch]).split(size):
                weights = torch.exp(2 * logs)  # squared
                loss = _loss(weights, parts, squares, ends[chosen], matching[chosen], entity, rows, records, cost)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(chosen)
            report(epoch, total / order.shape[1])
        learned: NDArray[np.float32] = torch.exp(logs - logs.max(dim=1, keepdim=True).values).detach().numpy()
        return learned
    finally:
        torch.set_num_threads(threads)


def _loss(weights, parts, squares, pairs, labels, components, rows, records, cost):
    """Cross-entropy of the pairs' labels and the cost of candidates; `weights` are squared."""
    left, right = pairs[:, 0], pairs[:, 1]
    products = torch.stack([part[left] @ part[right].T for part in parts])  # (groups, batch, batch)
    lengths = (weights @ squares[:, left])[:, :, None] * (weights @ squares[:, right])[:, None]
    cosines = torch.einsum("jg,gbc->jbc", weights, products) / torch.sqrt(lengths + 1e-12)
    angles = torch.acos(cosines.clamp(-1 + _EDGE, 1 - _EDGE))
    agree = torch.exp(rows * torch.log1p(-angles / math.pi))  # (bands, batch, batch)
    missed = torch.log1p(-agree).sum(dim=0)  # logarithm of the chance that no band agrees
    found = -torch.expm1(missed)
    own = torch.where(labels, -torch.log(found.diagonal() + _LEAST_CHANCE), -missed.diagonal())
    others = components[left][:, None] != components[right][None]
    candidates = records * (found * others).sum() / others.sum().clamp(min=1)
    return own.mean() + cost * candidates


def encode(vectors: Any, projections: NDArray[np.float32]) -> Any:
    """Codes (n, bits // 8) uint8 of a tensor (n, dim) float32 on its device: signs of the products."""
    matrix = torch.from_numpy(projections).to(vectors.device)
    bits = (vectors @ matrix.T >= 0).view(len(vectors), len(projections) // 8, 8)
    weights = 1 << torch.arange(8, dtype=torch.int32, device=vectors.device)
    return (bits * weights).sum(dim=2).to(torch.uint8)
