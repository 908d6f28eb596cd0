"""LVQ-4x8 against its reference, and its error against the formula, on every instruction set (see test_levels)."""

import numba
import numpy as np
import pytest

from nearhash.index.arrays import aligned_empty
from nearhash.index.codecs import make_codec
from nearhash.kernels import fine as fine_kernels
from nearhash.kernels import reference_codes
from nearhash.kernels.lvq4 import LOWER, STEP
from nearhash.kernels.scan import DOT, L2
from nearhash.kernels.simd import pointer

DIMS = [1, 2, 3, 15, 16, 31, 32, 33, 34, 63, 100, 131, 784]
NOTHING = np.empty(0, np.uint8), np.empty(0, np.float64), np.empty((0, 2), np.float64)


def encoded(vectors, has_extra=False):
    """(codec, rows, second level)."""
    codec = make_codec("lvq4x8", vectors.shape[1], has_extra)
    codec.train(vectors)
    rows, fine = aligned_empty((len(vectors), codec.width), np.uint8), np.full(vectors.shape, 0xAA, np.uint8)
    rows[...] = 0xAA
    codec.encode(vectors, np.zeros(len(vectors), np.float32), rows)
    codec.encode_fine(vectors, rows, fine)
    return codec, rows, fine


def first_level(codec, rows):
    """(codes (n, dim), lower (n,), step (n,))."""
    header = np.ascontiguousarray(rows[:, : codec.scheme.header]).view(np.float32)
    packed = rows[:, codec.scheme.header : codec.scheme.header + (codec.dim + 1) // 2]
    codes = np.concatenate([packed & 15, packed >> 4], axis=1)[:, : codec.dim]
    return codes, header[:, LOWER], header[:, STEP]


@numba.njit
def measure(source, queries, metric, bases, out):
    for query in range(queries.shape[0]):
        for slot in range(out.shape[1]):
            vector = pointer(queries, query * queries.shape[1])
            fine_kernels.ask_for(source, slot, queries.shape[1])
            out[query, slot] = fine_kernels.fine_distance(
                source, slot, vector, queries.shape[1], metric, bases[query]
            )  # fmt: skip


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("has_extra", [False, True])
def test_second_level_is_that_of_the_reference(dim, has_extra):
    rng = np.random.default_rng(dim)
    vectors = (rng.standard_normal((25, dim)) * rng.uniform(0.1, 50, (25, 1))).astype(np.float32)
    vectors[3] = 0.25  # a step of 0 in some dimensions more than others
    codec, rows, fine = encoded(vectors, has_extra)
    expected, read = reference_codes.lvq4x8_encode(vectors, codec.mean, *first_level(codec, rows))
    np.testing.assert_array_equal(fine, expected)
    np.testing.assert_allclose(codec.decode_fine(rows, fine), read + codec.mean, rtol=1e-5, atol=1e-5)
    step = first_level(codec, rows)[2][:, None]
    assert (np.abs(read + codec.mean - vectors) <= step / 510 + 1e-5 * np.abs(vectors).max()).all()
    assert codec.bytes_per_vector == rows.shape[1] + dim


@pytest.mark.parametrize("metric", [L2, DOT])
@pytest.mark.parametrize("dim", DIMS)
def test_distances_are_those_of_what_is_read_back(metric, dim):
    rng = np.random.default_rng(dim)
    vectors, queries = ((rng.standard_normal((count, dim)) * 3).astype(np.float32) for count in (30, 7))
    codec, rows, fine = encoded(vectors)
    _, read = reference_codes.lvq4x8_encode(vectors, codec.mean, *first_level(codec, rows))
    bases = np.arange(7, dtype=np.float32)
    out = np.full((7, 30), np.nan, np.float32)
    measure(fine_kernels.TwoLevelRows(rows, fine, codec.scheme.header), queries, metric, bases, out)
    expected = reference_codes.distances(queries, read, metric) + (bases[:, None] if metric == DOT else 0)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6 * 9 * dim)


def test_error_is_that_of_the_formula():
    """Evenly spread rests: off by step / 255 / sqrt(12), root mean square; by LVQ-4 alone, step / sqrt(12).

    The least and the greatest coordinate have no rest in the first level, and so the greatest error, half a step, in
    the second.
    """
    vectors = np.random.default_rng(3).standard_normal((4000, 96)).astype(np.float32)
    codec, rows, fine = encoded(vectors)
    step, both, first = first_level(codec, rows)[2][:, None], codec.decode_fine(rows, fine), codec.decode(rows)
    error, coarse = (np.sqrt((((read - vectors) / step) ** 2).mean()) for read in (both, first))
    assert coarse == pytest.approx(np.sqrt((1 - 2 / 96) / 12), rel=0.01)
    assert error == pytest.approx(np.sqrt((1 + 4 / 96) / 12) / 255, rel=0.01)


def test_hard_vectors_are_finite():
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((8, 33)).astype(np.float32)
    for row, scale in ((0, 0), (1, 1e12), (2, 1e-12), (3, 1e-44), (4, 1e15)):
        vectors[row] *= np.float32(scale)
    vectors[5] = 7
    vectors[6, 0] = 1e6
    codec, rows, fine = encoded(vectors)
    read = codec.decode_fine(rows, fine)
    assert np.isfinite(read).all()
    spans = np.ptp(vectors - codec.mean, axis=1)
    assert (np.abs(read - vectors).max(axis=1) <= spans / 15 / 500).all()
    out = np.full((8, 8), np.nan, np.float32)
    source = fine_kernels.TwoLevelRows(rows, fine, codec.scheme.header)
    measure(source, np.ascontiguousarray(vectors - codec.mean), L2, np.zeros(8, np.float32), out)
    assert not np.isnan(out).any()
    assert (out >= 0).all()


def test_nothing_is_encoded_to_nothing():
    codec = make_codec("lvq4x8", 5, has_extra=False)
    codec.train(np.ones((1, 5), np.float32))
    rows, fine = aligned_empty((0, codec.width), np.uint8), np.empty((0, 5), np.uint8)
    codec.encode(np.empty((0, 5), np.float32), np.empty(0, np.float32), rows)
    codec.encode_fine(np.empty((0, 5), np.float32), rows, fine)
    assert codec.decode_fine(rows, fine).shape == (0, 5)


@pytest.mark.parametrize("metric", [L2, DOT])
@pytest.mark.parametrize("dim", [16, 33])
def test_float_rows_are_measured_as_they_are(metric, dim):
    rng = np.random.default_rng(dim)
    rows, queries = (rng.standard_normal((count, dim)).astype(np.float32) for count in (12, 3))
    bases, out = np.full(3, 1, np.float32), np.full((3, 12), np.nan, np.float32)
    measure(fine_kernels.FloatRows(rows), queries, metric, bases, out)
    np.testing.assert_allclose(
        out, reference_codes.distances(queries, rows, metric) + (metric == DOT), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_scan_keeps_the_nearest_that_pass(k, count):
    rng = np.random.default_rng(count)
    vectors = rng.standard_normal((max(count, 1), 20)).astype(np.float32)
    queries = rng.standard_normal((4, 20)).astype(np.float32)
    codec, rows, fine = encoded(vectors)
    rows, fine = rows[:count], fine[:count]
    source, bases = fine_kernels.TwoLevelRows(rows, fine, codec.scheme.header), np.zeros(4, np.float32)
    away = np.full((4, count), np.nan, np.float32)
    measure(source, queries, L2, bases, away)
    labels, windows = rng.permutation(count).astype(np.float64), np.array([[0, 40], [3, 11], [5, 5], [20, 40]], float)
    for asked in (NOTHING, (NOTHING[0], labels, windows)):
        slots, distances = np.full((4, k), -7, np.int32), np.full((4, k), np.nan, np.float32)
        fine_kernels.scan_fine(source, queries, L2, bases, *asked, slots, distances)
        for query in range(4):
            own = np.arange(count)
            if len(asked[2]):
                own = own[(labels >= windows[query, 0]) & (labels < windows[query, 1])]
            order = own[np.lexsort((own, away[query, own]))][:k]
            assert slots[query].tolist() == order.tolist() + [-1] * (k - len(order))
            np.testing.assert_array_equal(distances[query, : len(order)], away[query, order])
            assert np.isinf(distances[query, len(order) :]).all()
