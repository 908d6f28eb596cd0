"""SimHash against its NumPy specification and the angle formula."""

import numpy as np
import pytest

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import SimHash
from nearhash.kernels.reference_dense import simhash


@pytest.mark.parametrize(("dim", "bits"), [(1, 8), (7, 24), (48, 256), (100, 256), (100, 1000), (300, 64)])
def test_specification(dim, bits):
    vectors = np.random.default_rng(0).standard_normal((37, dim)).astype(np.float32)
    vectors[0] = 0
    hasher = SimHash(dim, bits, seed=3)
    codes = hasher.encode(vectors, threads=2)
    assert codes.shape == (37, bits // 8)
    np.testing.assert_array_equal(codes, simhash(vectors, hasher._signs, bits))
    np.testing.assert_array_equal(codes[1:], hasher.encode(vectors[1:] * 1024))
    assert hasher.encode(vectors[:0]).shape == (0, bits // 8)


@pytest.mark.parametrize("method", ["hadamard", "gaussian"])
def test_bits_differ_by_the_angle(method):
    """Share of bits that differ: angle / pi, within 4 standard errors over seeds (bits of one seed may depend)."""
    rng = np.random.default_rng(1)
    for cosine in (0.9, 0.5, 0.0, -0.7):
        x, z = rng.standard_normal((2, 60, 64))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        z -= (z * x).sum(1, keepdims=True) * x
        y = cosine * x + np.sqrt(1 - cosine**2) * z / np.linalg.norm(z, axis=1, keepdims=True)
        shares = []
        for seed in range(40):
            hasher = SimHash(64, 128, seed, method)
            differ = hasher.encode(x) ^ hasher.encode(y)
            shares.append(np.unpackbits(differ, axis=1).mean())
        error = np.std(shares) / np.sqrt(len(shares))
        assert abs(np.mean(shares) - np.arccos(cosine) / np.pi) < 4 * error


def test_bad_input():
    for arguments in ({"dim": 0}, {"dim": 8, "bits": 7}, {"dim": 8, "method": "x"}):
        with pytest.raises(InvalidArgumentError):
            SimHash(**arguments)
    for bad in (np.full((1, 8), np.nan), np.zeros((1, 7))):
        with pytest.raises(InvalidArgumentError):
            SimHash(8, 8).encode(bad)
