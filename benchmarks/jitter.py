"""A data set larger than its source: the images of MNIST many times over, each copy moved a little and grainy."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.cache import load_array, save_array
from benchmarks.datasets import Dataset
from benchmarks.distances import pair_distances
from benchmarks.truth import Truth

SIDE = 28
SHIFT = 1  # pixels at most, in both directions
GRAIN = 16.0  # standard deviation, of 255, where there is ink
STEP = 10_000  # images made at once
DEPTH = 10
LAYOUT = 1  # raised when the arrays change, so that an older file is not read


def jittered_mnist(folder: Path, copies: int, queries: int) -> tuple[Dataset, Truth]:
    """``mnist-784`` `copies` times over, mapped from a file in `folder`, and its test images as queries.

    Every copy of an image is moved by -1, 0 or 1 pixels in each direction and has noise of its own where there is ink;
    values stay whole numbers from 0 to 255. Copies are no duplicates of each other, and queries are images of which
    no copy is in the base.
    """
    source = datasets.load("mnist-784")
    path = folder / f"mnist-jittered-{copies}-{LAYOUT}.npy"
    if not path.is_file():
        _write(path, source.base, copies)
    base: NDArray[np.float32] = np.load(path, mmap_mode="r")
    dataset = Dataset(f"mnist-784 x {copies}, jittered", base, source.queries[:queries], "l2")
    truth = folder / f"mnist-jittered-{copies}-{LAYOUT}-neighbors-{queries}.npy"
    if not truth.is_file():
        save_array(truth, _exhaustive(dataset))
    ids = load_array(truth)
    return dataset, Truth(ids, pair_distances(base, dataset.queries, ids, "l2"))


def jittered(images: NDArray[np.float32], copy: int, first: int) -> NDArray[np.float32]:
    """Images (n, 784), the first of them number `first`, as they are in one copy."""
    random = np.random.Generator(np.random.Philox(key=[copy, first]))
    moves = random.integers(-SHIFT, SHIFT + 1, (len(images), 2))
    framed = np.pad(images.reshape(-1, SIDE, SIDE), ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    moved = np.empty((len(images), SIDE, SIDE), np.float32)
    for down in range(-SHIFT, SHIFT + 1):
        for right in range(-SHIFT, SHIFT + 1):
            here = (moves == (down, right)).all(axis=1)
            top, left = SHIFT - down, SHIFT - right
            moved[here] = framed[here, top : top + SIDE, left : left + SIDE]
    noise = random.standard_normal(moved.shape, np.float32) * np.float32(GRAIN)
    return np.rint(np.clip(moved + noise * (moved > 0), 0, 255)).reshape(len(images), -1)


def _write(path: Path, images: NDArray[np.float32], copies: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    shape = (copies * len(images), images.shape[1])
    with temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for copy in range(copies):
            for first in range(0, len(images), STEP):
                jittered(images[first : first + STEP], copy, first).tofile(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def blocks(base: NDArray[np.float32], step: int = 20_000) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, rows) of a mapped array, copied a block at a time."""
    for first in range(0, len(base), step):
        yield first, np.array(base[first : first + step])


def _exhaustive(dataset: Dataset) -> NDArray[np.int64]:
    """The nearest of each query, block by block; the nearest few of each block measured again in float64."""
    import faiss

    ids = np.empty((len(dataset.queries), 0), np.int64)
    for first, block in blocks(dataset.base):
        _, found = faiss.knn(dataset.queries, block, DEPTH + 16)
        ids = np.concatenate([ids, found + first], axis=1)
        distances = pair_distances(dataset.base, dataset.queries, ids, dataset.metric)
        order = np.lexsort((ids, distances), axis=1)[:, : DEPTH + 16]
        ids = np.take_along_axis(ids, order, axis=1)
    return ids[:, :DEPTH]
