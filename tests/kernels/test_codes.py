"""The protocol of the codecs: estimates are the distances of what is read back, for every codec and metric."""

import numpy as np
import pytest

from nearhash.index.arrays import aligned_empty
from nearhash.index.codecs import CODECS, make_codec
from nearhash.kernels import codes, reference_codes
from nearhash.kernels.scan import DOT, L2

NAMES = [*CODECS, "rabitq2", "rabitq4", "rabitq7", "rabitq8"]
DIMS = [1, 2, 15, 16, 17, 63, 64, 65, 100, 131, 192]


def vectors_of(dim, rng, count=21):
    vectors = rng.standard_normal((count, dim)).astype(np.float32) + np.float32(0.5)
    vectors[0] = 0
    vectors[1] = 3.25
    vectors[2] *= 1e3
    vectors[3] *= 1e-3
    vectors[4, 0] = 100
    vectors[5] = vectors[6]
    return vectors


def encoded(codec, vectors, extra=None):
    rows = aligned_empty((len(vectors), codec.width), codec.dtype)
    rows.view(np.uint8)[...] = 0xAA
    codec.encode(vectors, np.zeros(len(vectors), np.float32) if extra is None else extra, rows)
    return rows


def made(name, dim, vectors, has_extra=False):
    codec = make_codec(name, dim, has_extra)
    codec.train(vectors)
    assert codec.trained
    return codec


def centre_of(codec):
    return getattr(codec, "mean", np.zeros(codec.dim, np.float32))


def estimates(codec, queries, metric, rows):
    out = np.full((len(queries), len(rows)), np.nan, np.float32)
    codes.estimate_all(codec.model, queries, metric, rows, 0, len(rows), out)
    return out


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", [name for name in CODECS if name != "rabitq"])
def test_estimate_is_the_distance_of_what_is_read_back(name, dim):
    rng = np.random.default_rng(dim)
    vectors, queries = vectors_of(dim, rng), vectors_of(dim, rng, 7)
    for has_extra in (False, True):
        extra = (
            rng.standard_normal(len(vectors)).astype(np.float32) if has_extra else np.zeros(len(vectors), np.float32)
        )
        codec = made(name, dim, vectors, has_extra)
        rows = encoded(codec, vectors, extra)
        decoded = codec.decode(rows)
        assert decoded.dtype == np.float32
        assert decoded.shape == vectors.shape
        if codec.exact:
            assert np.array_equal(decoded, vectors)
        for metric in (L2, DOT):
            expected = reference_codes.distances(queries, decoded, metric)
            if metric == L2:
                expected += extra.astype(np.float64) ** 2
            found = estimates(codec, queries, metric, rows)
            # Codecs of integers round queries too: by at most t / 2 a coordinate, which moves the distance by
            # 2 <e, q - x> + |e|^2 or <e, x>.
            centre = centre_of(codec)
            aim = queries - centre if metric == L2 else queries
            step = np.abs(aim).max(axis=1) / 127 if codec.dtype == np.uint8 else np.zeros(len(queries))
            gaps = np.abs(queries[:, None] - decoded[None] if metric == L2 else decoded[None] - centre).sum(axis=-1)
            rounding = step[:, None] / 2 * gaps * (2 if metric == L2 else 1) + (step[:, None] / 2) ** 2 * dim
            sizes = (queries.astype(np.float64) ** 2).sum(axis=1)[:, None] + (decoded.astype(np.float64) ** 2).sum(
                axis=1
            )
            assert (np.abs(found - expected) <= rounding + 1e-5 * (sizes + extra**2 + (centre**2).sum())).all()
            if metric == L2:
                assert (found >= 0).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", NAMES)
def test_distance_is_that_of_what_is_read_back(name, dim):
    rng = np.random.default_rng(dim)
    vectors = vectors_of(dim, rng)
    for has_extra in (False, True):
        extra = (
            rng.standard_normal(len(vectors)).astype(np.float32) if has_extra else np.zeros(len(vectors), np.float32)
        )
        extra[5] = extra[6]
        codec = made(name, dim, vectors, has_extra)
        rows = encoded(codec, vectors, extra)
        decoded = np.concatenate([codec.decode(rows).astype(np.float64), extra[:, None]], axis=1)
        expected = reference_codes.distances(decoded, decoded, L2)
        found = np.full(expected.shape, np.nan, np.float32)
        codes.distance_all(codec.model, rows, rows, found)
        sizes = (decoded**2).sum(axis=1) + (centre_of(codec) ** 2).sum()
        if not name.startswith("rabitq") or dim % 64 == 0:  # else what is read back has parts in the padding
            assert (np.abs(found - expected) <= 1e-5 * (sizes[:, None] + sizes)).all()
        assert (found >= 0).all()
        assert (np.diag(found) == 0).all()
        assert found[5, 6] == 0, "duplicates are at distance zero"


@pytest.mark.parametrize("name", NAMES)
def test_ranges_and_nothing(name):
    rng = np.random.default_rng(3)
    vectors = vectors_of(9, rng)
    codec = made(name, 9, vectors)
    rows = encoded(codec, vectors)
    whole = estimates(codec, vectors[:2], L2, rows)
    part = np.full((2, 4), np.nan, np.float32)
    codes.estimate_all(codec.model, vectors[:2], L2, rows, 3, 7, part)
    assert np.array_equal(part, whole[:, 3:7])
    assert estimates(codec, vectors[:0], L2, rows).shape == (0, len(rows))
    assert estimates(codec, vectors[:2], L2, encoded(codec, vectors[:0])).shape == (2, 0)
    assert codec.decode(rows[:0]).shape == (0, 9)
    assert codec.bytes_per_vector == rows.strides[0]
