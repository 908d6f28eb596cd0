"""E2LSH against its formula; the inner-product transform against inner products."""

import numpy as np
import pytest

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError, NotTrainedError
from nearhash.hashing import E2LSH, InnerProductTransform


def test_specification():
    vectors = np.random.default_rng(0).standard_normal((500, 33))
    family = E2LSH(33, 7, 0.5, seed=3)
    wide = vectors.astype(np.float32).astype(np.float64) @ family.projections.T.astype(np.float64)
    places = (wide + family.offsets) / family.width
    sure = np.abs(places - np.round(places)) > 1e-4  # float32 may round across a border
    numbers = family.hash(vectors, threads=1)
    assert numbers.dtype == np.int32
    assert (numbers == np.floor(places))[sure].all()
    assert sure.mean() > 0.99
    for threads in (2, 5):
        assert (family.hash(vectors, threads) == numbers).all()
    assert family.hash(np.empty((0, 33))).shape == (0, 7)
    assert (numbers < 0).any()


@pytest.mark.parametrize("dim", [3, 100])
@pytest.mark.parametrize("width", [0.5, 4.0])
def test_chance_and_variance(dim, width):
    """Share of numbers in common: mean within 4 standard errors, variance within 10%, at distances of all sizes."""
    rng = np.random.default_rng(dim)
    for distance in (0.05, 0.5, 1.0, 3.0, 12.0):
        shares = []
        for seed in range(150):
            family = E2LSH(dim, 64, width, seed)
            x, step = rng.standard_normal((2, 40, dim))
            y = x + distance * step / np.linalg.norm(step, axis=1, keepdims=True)
            shares.append((family.hash(x, 1) == family.hash(y, 1)).mean(axis=1))
        found = np.concatenate(shares)
        chance, variance = family.collision_probability(distance), family.variance(distance)
        error = max(found.std() / np.sqrt(len(found)), np.std([part.mean() for part in shares]) / np.sqrt(150))
        assert abs(found.mean() - chance) < 4 * error
        assert found.var() == pytest.approx(variance, rel=0.1)


def test_formula_at_the_ends():
    family = E2LSH(2, width=2.0)
    chances = family.collision_probability([0.0, 1e-9, 1e-3, 1.0, 10.0, 1e9])
    assert chances[0] == 1.0
    assert (np.diff(chances) < 0).all()
    assert 1 - chances[1] == pytest.approx(np.sqrt(2 / np.pi) * 5e-10, rel=1e-3)
    assert chances[2] == pytest.approx(1 - np.sqrt(2 / np.pi) * 5e-4, rel=1e-9)
    for bad in (-1.0, np.nan):
        with pytest.raises(InvalidArgumentError, match="distance"):
            family.collision_probability(bad)


def test_bad_input():
    for arguments in ({"dim": 0}, {"hashes": 0}, {"width": 0}, {"width": np.inf}, {"width": "1"}, {"seed": -1}):
        with pytest.raises(InvalidArgumentError):
            E2LSH(**{"dim": 4, **arguments})
    family = E2LSH(4, width=1e-9)
    with pytest.raises(InvalidArgumentError, match="width"):
        family.hash([[1e6, 0, 0, 0]])
    for bad, error in (([[np.nan] * 4], InvalidArgumentError), ([[1.0]], DimensionError), ([["a"] * 4], DtypeError)):
        with pytest.raises(error, match="X"):
            family.hash(bad)


def test_inner_products_become_cosines():
    rng = np.random.default_rng(1)
    keys, queries = rng.standard_normal((200, 12)) * rng.exponential(1, (200, 1)), rng.standard_normal((9, 12)) * 5
    queries[3] = 0
    transform = InnerProductTransform(12).fit(keys)
    k, q = transform.keys(keys), transform.queries(queries)
    assert k.shape == (200, 13)
    np.testing.assert_allclose(np.linalg.norm(k, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.delete(q, 3, 0), axis=1), 1, rtol=1e-6)
    found = transform.inner_product(q @ k.T, np.linalg.norm(queries, axis=1)[:, None])
    np.testing.assert_allclose(found, queries @ keys.T, rtol=1e-4, atol=1e-4)
    assert (q[3] == 0).all()


def test_transform_refuses():
    transform = InnerProductTransform(2)
    with pytest.raises(NotTrainedError, match="fit"):
        transform.keys([[1, 2]])
    for bad in (np.zeros((3, 2)), np.empty((0, 2))):
        with pytest.raises(InvalidArgumentError, match="not zero"):
            transform.fit(bad)
    with pytest.raises(InvalidArgumentError, match="longer"):
        transform.fit([[3, 4]]).keys([[1, 1], [4, 4]])
    assert transform.keys([[3, 4]])[0, 2] == pytest.approx(0, abs=1e-6)
