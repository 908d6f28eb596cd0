"""What the kernels of the disk index compute, in plain NumPy."""

import numpy as np
from numpy.typing import NDArray

Entry = tuple[float, int]


def choose_closure(
    near: NDArray[np.int32], squares: NDArray[np.float32], centroids: NDArray[np.float32], reach: float, spacing: float,
    most: int,
) -> list[list[int]]:  # fmt: skip
    """Lists of each vector, see ``kernels.closure``; reach and spacing are squared."""
    chosen = []
    for candidates, away in zip(near, squares, strict=True):
        taken: list[int] = []
        for candidate, square in zip(candidates.tolist(), away, strict=True):
            if candidate < 0 or len(taken) == most or square > np.float32(reach) * away[0]:
                break
            gaps = ((centroids[taken] - centroids[candidate]) ** 2).sum(axis=1)
            if not (np.float32(spacing) * gaps < square).any():
                taken.append(candidate)
        chosen.append(taken)
    return chosen


def nearest_entries(entries: list[Entry], k: int) -> list[Entry]:
    """The k least (distance, slot), each once: what ``disk_scan.scan_read`` leaves in a pool."""
    return sorted(set(entries))[:k]
