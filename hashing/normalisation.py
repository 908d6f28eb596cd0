"""Unicode normalisation and case folding of texts in UTF-8, at the cost of what is not ASCII in them."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.reference_shingles import normalise
from nearhash.kernels.utf8 import find_runs, gather_runs, replace_runs


def normalised(
    text: NDArray[np.uint8], bounds: NDArray[np.int64], lowercase: bool, form: Literal["NFC", "NFKC"] | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts text[bounds[i]:bounds[i + 1]] with all but ASCII letters folded and normalised, and their bounds.

    No character of ASCII changes under normalisation but by marks that follow it, and `str.casefold` knows no context:
    so runs of other characters, each with the character before it, are normalised alone, all by one call.

    Raises
    ------
    UnicodeDecodeError
        Invalid UTF-8.
    """
    nowhere = np.empty(0, np.int64)
    count = find_runs(text, bounds, nowhere, nowhere)
    if not count:
        return text, bounds
    starts, stops = np.empty(count, np.int64), np.empty(count, np.int64)
    find_runs(text, bounds, starts, stops)
    runs = np.empty(int((stops - starts).sum()) + count, np.uint8)
    gather_runs(text, starts, stops, runs)
    changed = normalise(runs.tobytes().decode(), lowercase, form).encode()
    out = np.empty(int(bounds[-1] - bounds[0]) + len(changed), np.uint8)
    out_bounds = np.empty_like(bounds)
    replace_runs(text, bounds, starts, stops, np.frombuffer(bytearray(changed), np.uint8), out, out_bounds)
    return out, out_bounds
