"""Parameters of hash functions from counter-based random numbers.

A stream is named by (seed, stream): the same two numbers give the same values on every machine, in any order of
drawing. All come from Philox4x32-10, see `nearhash.kernels.philox`.
"""

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.kernels.philox import philox_words


def check_seed(seed: object) -> int:
    """A seed as a whole number in [0, 2**64)."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= int(seed) < 1 << 64:
        raise InvalidArgumentError(f"seed: expected a whole number in [0, 2**64), got {seed!r}")
    return int(seed)


def words32(seed: int, stream: int, count: int) -> NDArray[np.uint32]:
    """The first `count` words of 32 bits of a stream."""
    out = np.empty((-(-count // 4), 4), np.uint32)
    philox_words(np.uint64(seed), np.uint64(stream), np.uint64(0), out)
    return out.reshape(-1)[:count]


def words64(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """The first `count` words of 64 bits of a stream: two words of 32 bits each, the low one first."""
    pairs = words32(seed, stream, 2 * count).reshape(-1, 2).astype(np.uint64)
    words: NDArray[np.uint64] = pairs[:, 0] | (pairs[:, 1] << np.uint64(32))
    return words


def uniforms(seed: int, stream: int, count: int) -> NDArray[np.float64]:
    """`count` float64 in the open interval (0, 1), multiples of 2**-53 plus 2**-54."""
    numbers = (words64(seed, stream, count) >> np.uint64(11)).astype(np.float64)
    return (numbers + 0.5) * 2.0**-53


def signs(seed: int, stream: int, count: int) -> NDArray[np.float32]:
    """`count` float32, each +1 or -1: the top bits of the stream's words."""
    chosen: NDArray[np.float32] = np.where(words32(seed, stream, count) >> np.uint32(31), np.float32(-1), np.float32(1))
    return chosen


def normals(seed: int, stream: int, count: int) -> NDArray[np.float64]:
    """`count` float64 of the standard normal distribution, by Box and Muller.

    The only values here that go through a logarithm and a sine, so equal to the last bit only where these are.
    """
    half = -(-count // 2)
    numbers = uniforms(seed, stream, 2 * half).reshape(2, half)
    radius, angle = np.sqrt(-2 * np.log(numbers[0])), 2 * np.pi * numbers[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
