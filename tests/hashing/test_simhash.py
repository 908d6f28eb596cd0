"""SimHash against its NumPy specification and the angle formula."""

import numpy as np
import pytest

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
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


@pytest.mark.parametrize(
    ("method", "dim", "bits"), [("hadamard", 100, 256), ("hadamard", 60, 200), ("gaussian", 8, 64)]
)
def test_variance(method, dim, bits):
    """Variance over seeds of the share of bits that agree: within 10% of the formula, over 4 cosines together."""
    rng, ratios = np.random.default_rng(2), []
    for cosine in (0.9, 0.5, 0.0, -0.7):
        a, b = np.linalg.qr(rng.standard_normal((dim, 2)))[0].T
        pair = np.stack([a, cosine * a + np.sqrt(1 - cosine**2) * b])
        shares = []
        for seed in range(600):
            codes = SimHash(dim, bits, seed, method).encode(pair, threads=1)
            shares.append(1 - np.unpackbits(codes[0] ^ codes[1]).mean())
        ratios.append(np.var(shares) / SimHash(dim, bits, 0, method).variance(cosine))
    assert abs(np.mean(ratios) - 1) < 0.1


def test_estimates():
    hasher = SimHash(8, 16)
    codes = np.array([[0, 0], [255, 0], [255, 255]], np.uint8)
    np.testing.assert_allclose(hasher.angle(codes[:1], codes), [0, np.pi / 2, np.pi])
    np.testing.assert_allclose(hasher.similarity(codes[0], codes), [1, 0, -1], atol=1e-12)
    np.testing.assert_allclose(hasher.collision_probability([1, 0, -1]), [1, 0.5, 0])
    with pytest.raises(DimensionError, match="codes_b"):
        hasher.angle(codes, codes[:, :1])
    with pytest.raises(DtypeError, match="codes_a"):
        hasher.angle(codes.astype(int), codes)
    with pytest.raises(InvalidArgumentError, match="cosine"):
        hasher.variance(1.1)


@pytest.mark.parametrize(("dim", "bits"), [(1, 8), (100, 256), (100, 264), (300, 1000)])
def test_tensors_get_the_same_bits(dim, bits):
    torch = pytest.importorskip("torch")
    vectors = np.random.default_rng(3).standard_normal((33, dim)).astype(np.float32)
    vectors[0] = 0
    hasher = SimHash(dim, bits, seed=9)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        codes = hasher.encode(torch.from_numpy(vectors).to(device))
        assert codes.device.type == device
        np.testing.assert_array_equal(codes.cpu().numpy(), hasher.encode(vectors))
    for bad in (torch.full((1, dim), torch.nan), torch.zeros((1, dim + 1)), torch.zeros((1, dim), dtype=torch.bool)):
        with pytest.raises(InvalidArgumentError, match="X"):
            hasher.encode(bad)
