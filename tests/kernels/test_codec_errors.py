"""Codes against their references, and their errors against the formulas of their papers."""

import numpy as np
import pytest

from nearhash.index.arrays import aligned_empty
from nearhash.index.codecs import make_codec
from nearhash.index.codecs.rabitq import Rotation, encode_parts
from nearhash.kernels import codes, lvq4, pq8, rabitq, reference_codes
from nearhash.kernels.rotation import rotation_width
from nearhash.kernels.scan import DOT, L2


def encoded(codec, vectors, extra=None):
    rows = aligned_empty((len(vectors), codec.width), codec.dtype)
    rows.view(np.uint8)[...] = 0xAA
    codec.encode(vectors, np.zeros(len(vectors), np.float32) if extra is None else extra, rows)
    return rows


def trained(name, vectors, **options):
    codec = make_codec(name, vectors.shape[1], has_extra=False, **options)
    codec.train(vectors)
    return codec


def hard_vectors(dim, rng):
    vectors = rng.standard_normal((12, dim)).astype(np.float32)
    vectors[0] = 0
    vectors[1] = 3.25
    vectors[2] *= 1e12
    vectors[3] *= 1e-12
    vectors[4, 0] = 1e6
    vectors[5] *= 1e-44  # denormal
    vectors[6] = 1e15
    return vectors


def measured(codec, queries, metric, rows, function=codes.estimate_all):
    out = np.full((len(queries), len(rows)), np.nan, np.float32)
    function(codec.model, queries, metric, rows, 0, len(rows), out)
    return out


# --- half floats and float8 -------------------------------------------------------------------------------------


def test_half_floats_have_eleven_bits():
    vectors = np.random.default_rng(0).standard_normal((50, 33)).astype(np.float32)
    codec = make_codec("f16", 33, has_extra=False)
    decoded = codec.decode(encoded(codec, vectors))
    assert np.array_equal(decoded, vectors.astype(np.float16).astype(np.float32))
    normal = np.abs(vectors) >= 2.0**-14
    assert (np.abs(decoded - vectors)[normal] <= 2.0**-11 * np.abs(vectors)[normal]).all()


@pytest.mark.parametrize("dim", [1, 52, 53, 100, 784])
def test_float8_matches_its_reference(dim):
    vectors = hard_vectors(dim, np.random.default_rng(dim))
    codec = make_codec("float8", dim, has_extra=False)
    rows = encoded(codec, vectors)
    expected, scale = reference_codes.float8_encode(vectors)
    header = np.ascontiguousarray(rows[:, :12]).view(np.float32)
    usable = np.isfinite(np.float32(1) / np.where(scale > 0, scale, 1))
    np.testing.assert_array_equal(header[:, 0], np.where(usable, scale, 0))
    np.testing.assert_array_equal(rows[usable, 12 : 12 + dim], expected[usable])
    assert (rows[:, 12 + dim :] == 0).all()
    decoded = scale[:, None].astype(np.float64) * reference_codes.FLOAT8_VALUES[expected]
    np.testing.assert_allclose(codec.decode(rows)[usable], decoded[usable], rtol=1e-6, atol=1e-44)
    np.testing.assert_allclose(header[usable, 1], (decoded[usable] ** 2).sum(axis=1), rtol=1e-5)


def test_float8_rounds_ties_to_even_and_keeps_signs():
    values = np.zeros((1, 8), np.float32)
    values[0] = [448, 17, 19, -17, -0.0, 2.0**-10, 3 * 2.0**-10, 432]  # between 16, 18, 20; beneath 2^-9; 416 and 448
    codec = make_codec("float8", 8, has_extra=False)
    decoded = codec.decode(encoded(codec, values))[0]
    assert decoded.tolist() == [448, 16, 20, -16, 0, 0, 2.0**-8, 448]
    assert np.signbit(decoded[4])


def test_float8_error_is_relative():
    rng = np.random.default_rng(1)
    vectors = (rng.standard_normal((2000, 64)) * np.exp(rng.standard_normal((2000, 64)) * 3)).astype(np.float32)
    codec = make_codec("float8", 64, has_extra=False)
    error = np.abs(codec.decode(encoded(codec, vectors)) - vectors)
    scale = np.abs(vectors).max(axis=1, keepdims=True) / 448
    normal = np.abs(vectors) >= scale * 2.0**-6
    assert normal.mean() < 0.99, "some must lie below the least normal value"
    assert (error <= 2.0**-4 * np.abs(vectors) * 1.000001)[normal].all()
    assert (error <= scale * 2.0**-10 * 1.000001)[~normal].all()
    assert (error / np.abs(vectors))[normal].max() > 2.0**-4 * 0.9, "the bound is tight"


# --- LVQ-4 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_extra", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 3, 103, 104, 105, 784])
def test_lvq4_matches_its_reference(dim, has_extra):
    rng = np.random.default_rng(dim)
    vectors, mean = hard_vectors(dim, rng), rng.standard_normal(dim).astype(np.float32)
    scheme = lvq4.lvq4_scheme(dim, has_extra)
    rows = aligned_empty((12, scheme.width), np.uint8)
    rows[...] = 0xAA
    extra = rng.standard_normal(12).astype(np.float32)
    lvq4.encode(vectors, mean, extra, scheme.header, rows)
    expected, lower, step = reference_codes.lvq4_encode(vectors, mean)
    header = np.ascontiguousarray(rows[:, : scheme.header]).view(np.float32)
    np.testing.assert_allclose(header[:, 0], lower, rtol=1e-6)
    np.testing.assert_allclose(header[:, 1], step, rtol=1e-6)
    half = (dim + 1) // 2
    packed = rows[:, scheme.header : scheme.header + half]
    found = np.concatenate([packed & 15, packed >> 4], axis=1)
    assert (found[:, dim:] == 0).all()
    assert (rows[:, scheme.header + half :] == 0).all()
    found = found[:, :dim].astype(int)
    assert np.abs(found - expected).max() <= 1  # on a boundary a multiply-add may fall on the other side
    assert (found != expected).mean() < 0.01
    decoded = lower[:, None].astype(np.float64) + step[:, None].astype(np.float64) * found
    np.testing.assert_allclose(header[:, 2], (decoded**2).sum(axis=1) + (extra.astype(np.float64)) ** 2, rtol=1e-4)
    if has_extra:
        np.testing.assert_array_equal(header[:, 3], extra)


@pytest.mark.parametrize(("name", "levels"), [("lvq4", 15), ("lvq8", 255)])
def test_lvq_error_is_that_of_a_uniform_quantiser(name, levels):
    """At most step / 2, variance step^2 / 12 (Aguerrebere et al., sec. 4); the two extremes of a vector are exact."""
    vectors = np.random.default_rng(7).standard_normal((2000, 128)).astype(np.float32)
    codec = trained(name, vectors)
    error = codec.decode(encoded(codec, vectors)).astype(np.float64) - vectors
    centred = vectors - codec.mean
    step = ((centred.max(axis=1) - centred.min(axis=1)) / levels).astype(np.float64)
    assert (np.abs(error) <= step[:, None] * 0.501).all()
    # Within a cell of 15 the normal density is not flat, which moves the ratio a little.
    assert abs((error**2).mean() / (step**2 / 12).mean() - 126 / 128) < (0.01 if levels == 255 else 0.02)
    assert abs(error.mean()) < 4 * np.sqrt((step**2 / 12).mean() / error.size)


# --- product codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "parts"), [(1, 1), (7, 3), (16, 4), (30, 30), (100, 25)])
def test_pq8_takes_the_nearest_codewords(dim, parts):
    rng = np.random.default_rng(dim)
    codewords = rng.standard_normal((dim, 256)).astype(np.float32)
    codewords[:, 7] = codewords[:, 3]  # a tie: the lower code
    vectors = np.concatenate([codewords.T[:20], rng.standard_normal((300, dim)).astype(np.float32)])
    rows = np.full((320, parts), 0xAA, np.uint8)
    pq8.encode(vectors, codewords, parts, rows)
    assert (rows != 7).all()
    expected = reference_codes.pq8_encode(vectors, codewords, parts)
    different = rows != expected
    assert different.mean() < 0.001  # only where float32 cannot tell two codewords apart


def test_pq8_learns_codewords():
    """More codewords in a part must mean less error; 256 of 4 dimensions leave about 1 / sqrt(256) of the variance."""
    vectors = np.random.default_rng(0).standard_normal((4000, 16)).astype(np.float32)
    codec = trained("pq8", vectors)
    assert codec.parts == 4
    fresh = np.random.default_rng(1).standard_normal((500, 16)).astype(np.float32)
    error = ((codec.decode(encoded(codec, fresh)) - fresh) ** 2).mean()
    # Rate-distortion: no quantiser of 2 bits a dimension gets below 2^-4 of a normal variable's variance; the best one
    # in four dimensions loses less than the 0.1175 of a scalar one.
    assert 2.0**-4 < error < 0.1175
    alone = trained("pq8", vectors, parts=16)
    assert ((alone.decode(encoded(alone, fresh)) - fresh) ** 2).mean() < 1e-2


def test_pq8_of_few_vectors_holds_them_exactly():
    vectors = np.random.default_rng(2).standard_normal((100, 9)).astype(np.float32)
    codec = trained("pq8", vectors)
    assert np.array_equal(codec.decode(encoded(codec, vectors)), vectors)


# --- rotation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 63, 64, 65, 100, 129, 200, 300])
def test_rotation_is_its_matrix(dim):
    rotation = Rotation(dim, seed=5)
    width = rotation.width
    assert width == rotation_width(dim)
    assert width % 64 == 0
    assert 0 <= width - dim < 64
    matrix = reference_codes.rotation_matrix(rotation.signs)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-12)
    vectors = np.random.default_rng(dim).standard_normal((9, dim)).astype(np.float32)
    rotated = rotation.apply(vectors)
    np.testing.assert_allclose(rotated, vectors @ matrix[:dim], atol=1e-5)
    np.testing.assert_allclose(rotation.invert(rotated), vectors, atol=1e-5)
    assert rotation.apply(vectors[:0]).shape == (0, width)
    assert not np.array_equal(Rotation(dim, seed=6).signs, rotation.signs)


def test_rotation_spreads_a_single_coordinate():
    """Each coordinate of a rotated unit vector is nearly normal with variance 1 / D (with padding and Kac's walk)."""
    for dim in (64, 192, 300):
        rotated = np.concatenate([Rotation(dim, seed).apply(np.eye(dim, dtype=np.float32)[:8]) for seed in range(60)])
        assert abs((rotated**2).mean() * rotated.shape[1] - 1) < 1e-4
        share = ((rotated**2).mean(axis=0) * rotated.shape[1]).astype(np.float64)
        assert share.max() < 1.5
        assert share.min() > 0.6
        kurtosis = (rotated.astype(np.float64) ** 4).mean() * rotated.shape[1] ** 2
        assert 2.7 < kurtosis < 3.3


# --- RaBitQ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_rabitq_codes_are_nearly_the_best(bits):
    """cos of the codes against the largest possible one, by enumeration; one bit is exact."""
    rng = np.random.default_rng(bits)
    residuals = rng.standard_normal((24, 64)).astype(np.float32)
    residuals[1] = rng.standard_cauchy(64)
    residuals[2, 1:] = 0
    residuals[3] = 1
    found, _, _, _ = encode_parts(residuals, np.zeros((1, 64), np.float32), np.zeros(24, np.int32), L2, bits)
    assert found.max() < 1 << bits
    losses = []
    for i, residual in enumerate(residuals):
        y = found[i] - ((1 << bits) - 1) / 2
        assert ((y > 0) == (residual >= 0)).all()
        cosine = y @ residual / np.linalg.norm(y) / np.linalg.norm(residual)
        best = reference_codes.rabitq_cosine(residual, bits)
        if bits == 1:
            assert abs(cosine - best) < 1e-6
        assert cosine <= best + 1e-7
        if i != 1:  # heavy tails are not what rotations give
            losses.append((1 - cosine + 1e-7) / (1 - best + 1e-7))
    assert np.mean(losses) < 1.1
    assert np.max(losses) < 1.5


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_rabitq_rows_and_parts_say_the_same(bits):
    """The estimate of a row is that of the reference; parts about one centre are the row's codes and factors."""
    rng = np.random.default_rng(bits)
    vectors, queries = (
        rng.standard_normal((40, 100)).astype(np.float32),
        rng.standard_normal((5, 100)).astype(np.float32),
    )
    vectors[0] = 0
    codec = trained("rabitq", vectors, bits=bits)
    vectors[1] = codec.mean  # a residual of zero
    rows = encoded(codec, vectors)
    rotation = Rotation(100, 0)
    residuals, centre = rotation.apply(vectors - codec.mean), rotation.apply(codec.mean[None])
    rotated = rotation.apply(queries)
    for metric in (L2, DOT):
        parts = encode_parts(residuals, centre, np.zeros(40, np.int32), metric, bits)
        aims = rotated - centre if metric == L2 else rotated
        expected = np.empty((5, 40))
        for i in range(5):
            for j in range(40):
                product = 0.0
                if j != 1:
                    product = reference_codes.rabitq_estimate(parts.codes[j], residuals[j], aims[i], bits)
                if metric == L2:
                    expected[i, j] = (residuals[j] ** 2).sum() + (aims[i] ** 2).sum() - 2 * product
                else:
                    expected[i, j] = -product - queries[i] @ codec.mean
        found = measured(codec, queries, metric, rows)
        rounding = np.abs(aims).max() / 127 * np.sqrt(residuals.shape[1]) * np.linalg.norm(residuals, axis=1) * 2
        assert (np.abs(found - expected) <= rounding + 1e-3).all()
        deviation = 2 * np.linalg.norm(residuals, axis=1).max() * np.abs(aims).max() / 127 / np.sqrt(12)
        assert np.abs(found - expected).mean() < deviation
        # Parts, with a float query: no rounding of it, and in the terms of q, not of q - c.
        base = ((rotated - centre) ** 2).sum(axis=1) if metric == L2 else -(rotated @ centre[0])
        middle = ((1 << bits) - 1) / 2
        lookups = rotated @ parts.codes.T.astype(np.float64) - middle * rotated.sum(axis=1)[:, None]
        scored = base[:, None] + parts.add + parts.rescale * lookups
        if metric == L2:
            np.testing.assert_allclose(np.maximum(scored, 0), np.maximum(expected, 0), rtol=1e-3, atol=1e-2)
        else:  # about the centre the error is that of <r, q - c>, with <r, c> exact
            for i in range(5):
                for j in range(40):
                    product = 0.0
                    if j != 1:
                        own = rotated[i] - centre[0]
                        product = reference_codes.rabitq_estimate(parts.codes[j], residuals[j], own, bits)
                    exact = -product - residuals[j] @ centre[0] - queries[i] @ codec.mean
                    assert abs(scored[i, j] - exact) < 1e-2
        assert parts.error[1] == 0
        assert np.isfinite(np.array(parts[1:])).all()


@pytest.mark.parametrize("bits", [1, 3, 4, 7, 8])
def test_rabitq_is_unbiased_and_its_bound_holds(bits):
    """Over rotations the error of <r, q> has mean zero and the deviation of theorem 3.2; 1.9 of them bound 94%."""
    rng = np.random.default_rng(40 + bits)
    dim, rounds = 64, 150
    vectors = rng.standard_normal((6, dim)).astype(np.float32)
    queries = (vectors[:3] + 0.7 * rng.standard_normal((3, dim))).astype(np.float32)
    exact = {metric: reference_codes.distances(queries, vectors, metric) for metric in (L2, DOT)}
    errors = {L2: [], DOT: []}
    shares = {L2: [], DOT: []}
    for seed in range(rounds):
        codec = make_codec("rabitq", dim, has_extra=False, bits=bits)
        codec.train(vectors, seed=seed)
        rows = encoded(codec, vectors)
        for metric in (L2, DOT):
            slack = measured(codec, queries, metric, rows, codes.slack_all)
            error = measured(codec, queries, metric, rows) - exact[metric]
            assert (slack > 0).all()
            errors[metric].append(error / slack * rabitq.EPSILON)
            shares[metric].append(np.abs(error) <= slack)
    for metric in (L2, DOT):
        deviations = np.array(errors[metric])  # (rounds, q, n), in units of one deviation
        assert np.abs(deviations.mean(axis=0)).max() < 4.5 / np.sqrt(rounds), "unbiased for each pair"
        assert abs(deviations.mean()) < 4.5 / np.sqrt(deviations.size / 6)
        assert 0.75 < deviations.std() < 1.15
        assert np.mean(shares[metric]) > 0.93
        assert (deviations < rabitq.EPSILON).mean() > 0.965, "one-sided: a lower bound"


def test_rabitq_error_halves_with_each_bit():
    """The error of <o, q> for unit vectors is below 5.75 * 2^-B / sqrt(D) in 99.9% of cases (SIGMOD 2025, eq. 9)."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((1000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    zeros, one = np.zeros((1, 128), np.float32), np.zeros(1000, np.int32)
    queries = rng.standard_normal((4, 128)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for bits in range(1, 9):
        parts = encode_parts(vectors, zeros, one, DOT, bits)
        lookups = queries @ parts.codes.T.astype(np.float64) - ((1 << bits) - 1) / 2 * queries.sum(axis=1)[:, None]
        error = np.abs(parts.add + parts.rescale * lookups + queries @ vectors.T)
        assert np.quantile(error, 0.999) < 5.75 * 2.0**-bits / np.sqrt(128)


def test_nothing_to_encode():
    codes_found, *factors = encode_parts(
        np.empty((0, 64), np.float32), np.zeros((1, 64), np.float32), np.empty(0, np.int32), L2
    )
    assert codes_found.shape == (0, 64)
    assert [len(factor) for factor in factors] == [0, 0, 0]
