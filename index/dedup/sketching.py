"""Documents as sketches, and sketches as band keys."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.dedup.settings import Settings
from nearhash.kernels.bands import band_keys
from nearhash.kernels.threads import run_chunks

SIGNATURE = np.dtype(np.uint16)


def empty_signatures(count: int, settings: Settings) -> NDArray[np.uint16]:
    return np.empty((count, settings.k), SIGNATURE)


def sketch_utf8(
    text: NDArray[np.uint8], offsets: NDArray[np.int64], settings: Settings, threads: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Sketches (n, k) of documents, and how many shingles each has, repetitions included."""
    sizes = np.empty(len(offsets) - 1, np.int64)
    sketches: NDArray[np.uint16] = settings.minhash.sketch_utf8(
        text, offsets, settings.shingler, threads, sizes=sizes
    ).values
    return sketches, sizes


def band_keys_of(sketches: NDArray[Any], settings: Settings, threads: int) -> NDArray[np.uint64]:
    """Keys (n, bands) of sketches (n, k)."""
    keys = np.empty((len(sketches), settings.bands), np.uint64)
    seed = np.uint64(settings.seed)
    bands, rows = settings.bands, settings.rows
    run_chunks(
        lambda first, last: band_keys(sketches[first:last], bands, rows, seed, keys[first:last]),
        len(sketches), threads, 4096,
    )  # fmt: skip
    return keys
