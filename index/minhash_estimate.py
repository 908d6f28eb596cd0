"""Similarity of pairs of sketches, from how many of their values agree."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.agreement import count_agreements
from nearhash.kernels.threads import run_chunks

_PAIRS = 1 << 14  # of a task


def unpacked(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """(n, k) one value in each element; those of fewer than 8 bits come as (n, k * bits / 8) uint8, lowest first."""
    if bits >= 8:
        return values
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (values[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(values), -1)


@cache
def _zero_fields(bits: int) -> NDArray[np.uint8]:
    """(256,) how many values of `bits` < 8 bits in a byte are 0; empty for larger ones."""
    if bits >= 8:
        return np.empty(0, np.uint8)
    return (unpacked(np.arange(256, dtype=np.uint8)[:, None], bits) == 0).sum(axis=1).astype(np.uint8)


def agreements(
    left: NDArray[Any],
    left_rows: NDArray[np.int64],
    right: NDArray[Any],
    right_rows: NDArray[np.int64],
    bits: int,
    threads: int,
) -> NDArray[np.int32]:
    """(p,) how many values of `bits` bits agree in the sketches ``left[left_rows]`` and ``right[right_rows]``."""
    out = np.empty(len(left_rows), np.int32)

    def task(first: int, last: int) -> None:
        count_agreements(
            left, left_rows[first:last], right, right_rows[first:last], _zero_fields(bits), out[first:last]
        )

    run_chunks(task, len(out), threads, _PAIRS)
    return out


def jaccard_estimate(agree: NDArray[Any], k: int, bits: int) -> NDArray[np.float64]:
    """Similarity of sets of whose k values `agree` agree, clipped to [0, 1].

    Values of b bits agree by chance with probability ``C = 2**-b``: ``(agree / k - C) / (1 - C)`` (Li and Koenig 2010).
    """
    chance = 0.0 if bits == 32 else 2.0**-bits
    return np.clip((agree / k - chance) / (1 - chance), 0.0, 1.0)
