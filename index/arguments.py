"""Checks of what users pass in. Everything here either returns clean arrays or raises before anything changes."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, DuplicateIdError, InvalidArgumentError, MetricError

METRICS = ("l2", "ip", "cosine")
MAX_DIM = 32_768  # beyond it the 32-bit sums of the integer kernels could overflow
MAX_SLOTS = 2**31 - 2
LARGEST = 1e15  # squared distances of 32,768 such values still fit float32
_LARGEST = np.float32(LARGEST)


def check_dim(dim: int) -> int:
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= MAX_DIM:
        raise InvalidArgumentError(f"dim: expected an integer from 1 to {MAX_DIM:,}, got {dim!r}")
    return int(dim)


def check_metric(metric: str, known: tuple[str, ...] = METRICS) -> str:
    if metric not in known:
        raise MetricError(f"metric: expected one of {', '.join(known)}, got {metric!r}")
    return metric


def check_count(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """An integer argument such as k or a beam width."""
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)
    if not fits or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most:,}"
        raise InvalidArgumentError(f"{name}: expected an integer of at least {least}{upper}, got {value!r}")
    return int(value)


def as_matrix(values: ArrayLike, dim: int, name: str) -> NDArray[Any]:
    """A (n, dim) array of a real dtype; one vector (dim,) becomes one row. Contents are not looked at yet."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name}: expected a float or integer dtype, got {array.dtype}")
    if array.ndim == 1 and array.size == 0:
        return array.reshape(0, dim)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != dim:
        raise DimensionError(f"{name}: expected shape (n, {dim}) or ({dim},), got {np.shape(values)}")
    return array


def as_float32(matrix: NDArray[Any], name: str) -> NDArray[np.float32]:
    """A C-contiguous float32 form; raises if a value is not finite or so large that squared distances overflow."""
    if matrix.dtype == np.float32 and matrix.flags.c_contiguous:
        floats = matrix
    else:
        with np.errstate(over="ignore"):
            floats = np.ascontiguousarray(matrix, dtype=np.float32)
    from nearhash.kernels.rows import all_within  # here, so that a client needs no compiler

    # The kernel takes a twentieth of the time for a single query, and must not be compiled for read-only arrays.
    if not floats.flags.carray or not all_within(floats, _LARGEST):
        check_range(floats, matrix, name, LARGEST)
    return floats


def for_kernels(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy that is C-ordered, aligned and writable.

    A kernel is compiled anew for arrays that are not; users' arrays come in every combination.
    """
    return array if array.flags.carray else np.require(array, requirements=["C", "A", "W"])


def check_range(converted: NDArray[Any], original: NDArray[Any], name: str, largest: float) -> None:
    """Raise if `converted` holds NaN or anything beyond +-`largest`, naming the first bad value of `original`."""
    if not converted.size or converted.dtype.kind != "f":
        return
    # NaN makes both comparisons false; the least and the greatest are found without a temporary array.
    if converted.min() >= -largest and converted.max() <= largest:
        return
    row, column = np.argwhere(~(np.abs(converted) <= largest))[0]
    raise InvalidArgumentError(
        f"{name}: expected finite values of at most {largest:g} in magnitude, "
        f"got {original[row, column]} in row {row}, column {column}"
    )


def as_ids(ids: ArrayLike | None, count: int, first: int) -> NDArray[np.int64]:
    """`count` distinct int64 ids; by default consecutive from `first`."""
    if ids is None:
        return np.arange(first, first + count, dtype=np.int64)
    array = integer_ids(ids, "ids")
    if array.ndim == 0:
        array = array[None]
    if array.ndim != 1 or len(array) != count:
        raise InvalidArgumentError(f"ids: expected shape ({count},), one per vector, got {array.shape}")
    if len(array) and array.min() < 0:
        raise InvalidArgumentError(f"ids: expected ids >= 0 (-1 marks a missing result), got {array.min()}")
    order = np.sort(array)
    repeated = order[1:][order[1:] == order[:-1]]
    if len(repeated):
        raise DuplicateIdError(f"ids: expected distinct ids, got {repeated[0]} more than once")
    return array


def integer_ids(ids: ArrayLike, name: str) -> NDArray[np.int64]:
    """Ids as int64; integers beyond it and other dtypes raise."""
    array = np.asarray(ids)
    if array.size == 0 and array.dtype.kind in "fO":
        return np.zeros(array.shape, np.int64)
    if array.dtype.kind in "fO" and not isinstance(ids, np.ndarray):
        # NumPy makes floats or objects of Python integers that no integer dtype holds together.
        given = np.asarray(ids, dtype=object)
        if all(isinstance(value, int) for value in given.flat):
            raise InvalidArgumentError(f"{name}: expected ids that fit int64, got {max(given.flat, key=abs)}")
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidArgumentError(f"{name}: expected ids that fit int64, got {array.max()}")
    return array.astype(np.int64)


_EXACT = 1 << 53  # integers up to it are float64


def _numbers(values: ArrayLike, name: str) -> NDArray[Any]:
    """Numbers as they come; datetime64 as microseconds since 1970, which float64 holds exactly."""
    array = np.asarray(values)
    if array.dtype.kind == "M":
        times = array.astype("datetime64[us]")
        if np.isnat(array).any() or (times.astype(array.dtype) != array).any():
            raise InvalidArgumentError(f"{name}: expected times in whole microseconds, got NaT or a finer one")
        array = times.astype(np.int64)
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name}: expected numbers or datetime64, got dtype {array.dtype}")
    return array


def as_labels(labels: ArrayLike, count: int) -> NDArray[np.float64]:
    """(count,) float64 labels. NaN, which would belong to no window, and integers that float64 rounds are refused."""
    array = _numbers(labels, "labels")
    if array.ndim == 0:
        array = array[None]
    if array.shape != (count,):
        raise InvalidArgumentError(f"labels: expected shape ({count},), one per vector, got {array.shape}")
    floats = array.astype(np.float64)
    if np.isnan(floats).any():
        raise InvalidArgumentError(
            f"labels: expected numbers, got NaN at position {np.flatnonzero(np.isnan(floats))[0]}"
        )
    if array.dtype.kind in "iu":
        for place in np.flatnonzero(np.abs(floats) >= _EXACT).tolist():
            if int(floats[place]) != int(array[place]):
                raise InvalidArgumentError(
                    f"labels: expected integers that float64 holds, as all up to 2**53, got {array[place]} at position "
                    f"{place}; take them from a nearer origin, or in a coarser unit"
                )
    return floats


def _bounds(array: NDArray[Any]) -> NDArray[np.float64]:
    """Bounds as the least float64 that are not below them: labels, being float64, lie on the same side of both."""
    floats = np.array(array, np.float64, order="C")
    if array.dtype.kind in "iu":
        for place in map(tuple, np.argwhere(np.abs(floats) >= _EXACT).tolist()):
            while int(floats[place]) < int(array[place]):
                floats[place] = np.nextafter(floats[place], np.inf)
    return floats


def as_windows(window: ArrayLike, count: int) -> NDArray[np.float64]:
    """(count, 2) float64 bounds [lo, hi) from one pair for all queries or a pair for each."""
    array = _numbers(window, "window")
    if array.shape == (2,):
        array = np.broadcast_to(array, (count, 2))
    if array.shape != (count, 2):
        raise InvalidArgumentError(f"window: expected (lo, hi) or shape ({count}, 2), got shape {array.shape}")
    array = _bounds(array)
    if np.isnan(array).any():
        raise InvalidArgumentError("window: expected numbers, got NaN (use -inf and inf for open ends)")
    wrong = np.flatnonzero(array[:, 0] > array[:, 1])
    if len(wrong):
        lo, hi = array[wrong[0]]
        raise InvalidArgumentError(f"window: expected lo <= hi, got [{lo}, {hi}) for query {wrong[0]}")
    return array


def check_number(value: Any, name: str, above: float, most: float) -> float:
    """A value that is a number above one and at most another; raises InvalidArgumentError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise InvalidArgumentError(f"{name}: expected a number, got {value!r:.80}")
    if not above < value <= most:
        raise InvalidArgumentError(f"{name}: expected a number above {above:g} and up to {most:g}, got {value!r}")
    return float(value)
