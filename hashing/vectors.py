"""What all hashes of dense vectors ask of their arguments."""

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.kernels.rows import all_within

MAX_DIM = 32_768
LARGEST = 1e15  # three transforms of 32,768 such values still fit float32


def check_whole(value: Any, name: str, least: int, most: int) -> int:
    """An integer argument in [least, most]."""
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)
    if not fits or not least <= value <= most:
        raise InvalidArgumentError(f"{name}: expected an integer from {least:,} to {most:,}, got {value!r}")
    return int(value)


def check_positive(value: Any, name: str) -> float:
    """A finite number above 0."""
    fits = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool | np.bool_)
    if not fits or not 0 < value < np.inf:
        raise InvalidArgumentError(f"{name}: expected a finite number above 0, got {value!r}")
    return float(value)


def is_tensor(values: Any) -> bool:
    """Whether `values` is a Torch tensor; Torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def as_rows(values: ArrayLike, dim: int, name: str) -> NDArray[np.float32]:
    """Vectors (n, dim) or (dim,) of a real dtype as C-ordered float32 rows.

    Raises
    ------
    DtypeError, DimensionError
        For another dtype or shape.
    InvalidArgumentError
        For NaN, infinity or values beyond 1e15 in magnitude.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name}: expected a float or integer dtype, got {array.dtype}")
    rows = array[None] if array.ndim == 1 and array.size else array.reshape(0, dim) if array.shape == (0,) else array
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise DimensionError(f"{name}: expected shape (n, {dim}) or ({dim},), got {array.shape}")
    with np.errstate(over="ignore"):
        # A kernel is compiled anew for arrays that are not aligned, C-ordered and writable.
        floats: NDArray[np.float32] = np.require(rows, np.float32, ["C", "A", "W"])
    if not all_within(floats, np.float32(LARGEST)):
        row, column = np.argwhere(~(np.abs(floats) <= LARGEST))[0]
        raise InvalidArgumentError(
            f"{name}: expected finite values of at most {LARGEST:g} in magnitude, "
            f"got {rows[row, column]} in row {row}, column {column}"
        )
    return floats
