"""LVQ-8 codes and distances against their reference and against the error that the paper's formula allows."""

import numpy as np
import pytest

from nearhash.index.arrays import aligned_empty
from nearhash.kernels import codes as protocol
from nearhash.kernels import lvq, reference


def measure(rows, dim, first, second):
    model, out = protocol.Model(lvq.lvq8_scheme(dim), np.zeros(dim, np.float32)), np.full((1, 1), np.nan, np.float32)
    protocol.distance_all(model, rows[first : first + 1], rows[second : second + 1], out)
    return out[0, 0]


def encode(vectors, mean=None, extra=None):
    count, dim = vectors.shape
    rows = aligned_empty((count, lvq.row_bytes(dim)), np.uint8)
    rows[...] = 0xAA
    mean = np.zeros(dim, np.float32) if mean is None else mean
    lvq.encode(vectors, mean, np.zeros(count, np.float32) if extra is None else extra, rows)
    return rows


def hard_vectors(dim, rng):
    vectors = rng.standard_normal((12, dim)).astype(np.float32)
    vectors[0] = 0
    vectors[1] = 3.25  # constant: step 0
    vectors[2] *= 1e12
    vectors[3] *= 1e-12
    vectors[4, 0] = 1e6  # one coordinate dwarfs the rest
    vectors[5] = vectors[6]
    return vectors


@pytest.mark.parametrize("dim", [1, 3, 44, 45, 64, 100, 784])
def test_codes_match_the_reference(dim):
    rng = np.random.default_rng(dim)
    vectors, mean = hard_vectors(dim, rng), rng.standard_normal(dim).astype(np.float32)
    rows = encode(vectors, mean)
    codes, lower, step = reference.lvq_encode(vectors, mean)
    found = rows[:, lvq.HEADER : lvq.HEADER + dim]
    # Contracted multiply-adds may fall on the other side of a rounding boundary.
    assert np.abs(found.astype(int) - codes).max() <= 1
    assert (found != codes).mean() < 0.01
    header = np.ascontiguousarray(rows[:, : lvq.HEADER]).view(np.float32)
    np.testing.assert_allclose(header[:, lvq.LOWER], lower, rtol=1e-6)
    np.testing.assert_allclose(header[:, lvq.STEP], step, rtol=1e-6)
    decoded = reference.lvq_decode(found, header[:, lvq.LOWER], header[:, lvq.STEP])
    np.testing.assert_allclose(header[:, lvq.NORM], (decoded**2).sum(axis=1), rtol=1e-5)
    assert (rows[:, lvq.HEADER + dim :] == 0).all(), "padding must be zero"


@pytest.mark.parametrize("dim", [1, 44, 100, 784])
def test_distance_is_that_of_the_decoded_vectors(dim):
    rng = np.random.default_rng(dim)
    vectors, extra = hard_vectors(dim, rng), rng.standard_normal(12).astype(np.float32)
    rows = encode(vectors, extra=extra)
    header = np.ascontiguousarray(rows[:, : lvq.HEADER]).view(np.float32)
    codes = rows[:, lvq.HEADER : lvq.HEADER + dim]
    decoded = reference.lvq_decode(codes, header[:, lvq.LOWER], header[:, lvq.STEP])
    decoded = np.concatenate([decoded, extra[:, None].astype(np.float64)], axis=1)
    norms = (decoded**2).sum(axis=1)
    for i in range(12):
        for j in range(12):
            expected = ((decoded[i] - decoded[j]) ** 2).sum()
            found = measure(rows, dim, i, j)
            assert found >= 0
            assert abs(found - expected) <= 4e-6 * (norms[i] + norms[j]), (i, j)
    assert measure(rows, dim, 5, 6) == abs(measure(rows, dim, 5, 6))


def test_duplicates_are_at_distance_zero():
    rng = np.random.default_rng(0)
    for dim in (5, 100, 784):
        vectors = np.repeat(rng.standard_normal((4, dim)).astype(np.float32) * 100, 2, axis=0)
        rows = encode(vectors)
        for i in range(0, 8, 2):
            assert measure(rows, dim, i, i + 1) == 0
            assert measure(rows, dim, i, i) == 0


def test_reconstruction_error_is_that_of_a_uniform_quantiser():
    """Rounding to a grid of width `step` leaves an error uniform in +-step/2: variance step^2 / 12 (paper, sec. 4)."""
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((2000, 128)).astype(np.float32)
    rows = encode(vectors)
    header = np.ascontiguousarray(rows[:, : lvq.HEADER]).view(np.float32)
    step = header[:, lvq.STEP].astype(np.float64)
    decoded = reference.lvq_decode(rows[:, lvq.HEADER : lvq.HEADER + 128], header[:, lvq.LOWER], header[:, lvq.STEP])
    error = decoded - vectors
    assert (np.abs(error) <= step[:, None] * 0.5001).all()
    ratio = (error**2).mean() / (step**2 / 12).mean()
    # 256,000 samples of a bounded variable: the standard error of the ratio is about .9 / sqrt(256000) = .002. The two
    # extremes of each vector are exact, which takes 2 of 128 away.
    assert abs(ratio - 126 / 128) < 0.01
    assert abs(error.mean()) < 4 * np.sqrt((step**2 / 12).mean() / error.size)


def test_nothing_to_encode():
    assert encode(np.empty((0, 10), np.float32)).shape == (0, 64)
