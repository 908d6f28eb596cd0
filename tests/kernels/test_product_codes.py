"""Product codes: training, encoding with either loss, and what the 4-bit codec makes of them."""

import numpy as np
import pytest

from nearhash.errors import CorruptIndexError
from nearhash.index.codecs.pq4 import PQ4Codec, unpack
from nearhash.index.list_codes import ProductLists
from nearhash.index.partition import Partition
from nearhash.kernels import product_codes, reference_lists

DIM = 24


def bounds_of(dim, subs, rng):
    bounds = np.sort(rng.integers(0, dim + 1, subs + 1)).astype(np.int32)
    bounds[0], bounds[-1] = 0, dim
    return bounds


def clusters(count, dim, seed, spread=0.05):
    """Points close to 16 places in each pair of dimensions."""
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((16, dim)).astype(np.float32) * 3
    chosen = np.repeat(rng.integers(0, 16, (count, dim // 2)), 2, axis=1)
    return places[chosen, np.arange(dim)] + np.float32(spread) * rng.standard_normal((count, dim)).astype(np.float32)


def trained(residuals, first, last, rounds):
    values = np.full((residuals.shape[1], 16), np.nan, np.float32)
    product_codes.train_sub_quantiser(residuals, first, last, rounds, values)
    return values


def error_of(residuals, first, last, values):
    codes = reference_lists.nearest_codes(residuals[:, first:last], np.array([0, last - first]), values[first:last])
    return ((residuals[:, first:last] - values[first:last, codes[:, 0]].T) ** 2).sum(axis=1).mean()


# --- kernels ---


@pytest.mark.parametrize(("dim", "subs"), [(1, 8), (5, 8), (24, 8), (40, 24)])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_encode_takes_the_nearest_codeword(dim, subs, count):
    rng = np.random.default_rng(dim + count)
    bounds, values = bounds_of(dim, subs, rng), rng.integers(-3, 4, (dim, 16)).astype(np.float32)  # with ties
    residuals = rng.integers(-3, 4, (count, dim)).astype(np.float32)
    codes = np.full((count, subs), 77, np.uint8)
    product_codes.encode(residuals, bounds, values, codes)
    assert np.array_equal(codes, reference_lists.nearest_codes(residuals, bounds, values))
    back = np.full((count, dim), np.nan, np.float32)
    product_codes.decode(codes, bounds, values, back)
    assert np.array_equal(back, reference_lists.decoded(codes, bounds, values))


def test_training_lowers_the_error_and_touches_only_its_dimensions():
    residuals = np.random.default_rng(0).standard_normal((3000, 6)).astype(np.float32)
    errors = []
    for rounds in (0, 1, 3, 12):
        values = trained(residuals, 2, 4, rounds)
        assert np.isnan(values[[0, 1, 4, 5]]).all()
        assert np.isfinite(values[2:4]).all()
        errors.append(error_of(residuals, 2, 4, values))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    # Two scalar quantisers of 4 levels, made for the normal distribution, leave 2 * 0.1175 (Max, 1960, table I).
    assert errors[3] < 0.235


def test_one_round_is_a_step_of_lloyd():
    residuals = np.random.default_rng(1).standard_normal((500, 2)).astype(np.float32)
    before, after = trained(residuals, 0, 2, 0), trained(residuals, 0, 2, 1)
    codes = reference_lists.nearest_codes(residuals, np.array([0, 2]), before)[:, 0]
    assert (np.bincount(codes, minlength=16) > 0).all()
    for code in range(16):
        np.testing.assert_allclose(after[:, code], residuals[codes == code].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_every_codeword_is_used_on_clustered_data():
    residuals = clusters(2000, 8, 0)
    # In an order in which the first codewords are all of a few clusters.
    residuals = residuals[np.lexsort(residuals.T)]
    for sub in range(4):
        values = trained(residuals, 2 * sub, 2 * sub + 2, 20)
        bounds = np.array([0, 2])
        codes = reference_lists.nearest_codes(
            residuals[:, 2 * sub : 2 * sub + 2], bounds, values[2 * sub : 2 * sub + 2]
        )
        assert len(np.unique(codes)) == 16


@pytest.mark.parametrize("count", [1, 2, 5, 15, 16, 17, 300])
def test_vectors_that_codewords_suffice_for_are_coded_exactly(count):
    """Fewer than 16 vectors, or many copies of few."""
    rng = np.random.default_rng(count)
    few = rng.standard_normal((min(count, 6), DIM)).astype(np.float32)
    codec = PQ4Codec(DIM)
    codec.train(few[rng.permutation(np.arange(count) % len(few))])
    _, errors = codec.encode(few)
    assert np.abs(errors).max() < 0.01 * np.abs(few).max()
    assert np.isfinite(codec.codebook.values).all()


def test_training_without_spread():
    for values in (np.zeros((40, DIM), np.float32), np.full((40, DIM), 1e15, np.float32)):
        codec = PQ4Codec(DIM)
        codec.train(values)
        assert np.isfinite(codec.codebook.values).all()
        assert np.abs(codec.encode(values)[1]).max() <= 0.01 * values.max()


@pytest.mark.parametrize("extra", [-1.0, 0.0, 1.0, 30.0])
def test_refinement_ends_where_no_single_change_helps(extra):
    rng = np.random.default_rng(5)
    dim, subs = 16, 8
    bounds, values = bounds_of(dim, subs, rng), rng.standard_normal((dim, 16)).astype(np.float32)
    residuals, directions = rng.standard_normal((2, 30, dim)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[3] = 0
    plain = reference_lists.nearest_codes(residuals, bounds, values)

    def losses(codes):
        errors = residuals.astype(float) - reference_lists.decoded(codes, bounds, values)
        pairs = zip(errors, directions.astype(float), strict=True)
        return np.array([reference_lists.anisotropic_loss(error, direction, extra) for error, direction in pairs])

    before = losses(plain)
    for rounds in range(4):
        codes = plain.copy()
        product_codes.refine_anisotropic(residuals, directions, np.float32(extra), bounds, values, rounds, codes)
        after = losses(codes)
        assert (after <= before + 1e-4).all(), "no pass makes it worse"
        before = after
    codes = plain.copy()
    product_codes.refine_anisotropic(residuals, directions, np.float32(extra), bounds, values, 100, codes)
    reached = losses(codes)
    for sub in range(subs):
        for code in range(16):
            other = codes.copy()
            other[:, sub] = code
            assert (losses(other) >= reached - 1e-4).all(), "a single change would help"
    assert np.array_equal(codes, plain) == (extra == 0)
    assert np.array_equal(codes[3], plain[3]), "without a direction there is only the plain loss"


# --- codec ---


def images(count, seed):
    """Vectors of 96 dimensions of which 8 hold nearly all energy, so that the codec projects."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((8, 96)).astype(np.float32)
    return rng.standard_normal((count, 8)).astype(np.float32) @ mixing + np.float32(0.1) * rng.standard_normal(
        (count, 96)
    ).astype(np.float32)


@pytest.fixture(scope="module")
def projecting():
    codec = PQ4Codec(96)
    codec.train(images(2000, 0))
    assert codec.coded < 96
    return codec


def test_directions_that_matter_are_orthonormal_and_hold_the_energy(projecting):
    directions = projecting.tensors()["directions"].astype(float)
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-5)
    vectors = images(500, 1)
    projected = projecting.project(vectors)
    np.testing.assert_allclose(projected, vectors @ directions.T, rtol=1e-3, atol=1e-3)
    assert (projected**2).sum() > 0.85 * (vectors**2).sum()
    _, errors = projecting.encode(vectors)
    assert (errors**2).sum() < 0.25 * (vectors**2).sum()
    assert np.diff(projecting.codebook.bounds).min() >= 1
    assert projecting.codebook.bounds[-1] == projecting.coded == len(directions)


@pytest.mark.parametrize("dim", [1, 3, 16, 24, 100])
def test_errors_are_those_of_what_is_read_back(dim):
    rng = np.random.default_rng(dim)
    vectors = rng.standard_normal((200, dim)).astype(np.float32)
    codec = PQ4Codec(dim)
    codec.train(vectors, threads=2)
    codes, errors = codec.encode(vectors)
    assert codes.shape == (200, codec.subs)
    assert codec.subs % 8 == 0
    assert codec.width * 2 == codec.subs
    assert codes.max() < 16
    assert np.array_equal(codec.decode(codes) - vectors, errors)
    expected = reference_lists.decoded(codes, *codec.codebook)
    assert np.array_equal(codec.decode(codes), expected)


def test_training_is_the_same_at_any_number_of_threads():
    books = []
    for threads in (1, 2, 5):
        codec = PQ4Codec(96)
        codec.train(images(600, 3), threads)
        books.append(b"".join(array.tobytes() for _, array in sorted(codec.tensors().items())))
    assert books[0] == books[1] == books[2]


def test_the_anisotropic_loss_takes_less_error_along_the_vectors():
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((2000, 40)).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    plain, aware = PQ4Codec(40), PQ4Codec(40, anisotropic=0.3)
    assert aware.eta == pytest.approx(39 * 0.09 / 0.91)
    assert plain.eta == PQ4Codec(1, 0.3).eta == 1
    along, whole = [], []
    for codec in (plain, aware):
        codec.train(vectors)
        _, errors = codec.encode(vectors, vectors)
        along.append((np.einsum("ij,ij->i", errors, units) ** 2).mean())
        whole.append((errors**2).sum(axis=1).mean())
    assert along[1] < 0.6 * along[0]
    assert whole[0] < whole[1] < 1.3 * whole[0]


def test_zero_vectors_have_no_direction():
    codec = PQ4Codec(16, anisotropic=0.4)
    codec.train(np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32))
    codes, errors = codec.encode(np.zeros((3, 16), np.float32))
    assert np.isfinite(errors).all()
    assert (codes == codes[0]).all()


def test_what_was_learned_comes_back(projecting):
    plain = PQ4Codec(DIM)
    plain.train(clusters(100, DIM, 0))
    for codec, vectors in ((projecting, images(50, 5)), (plain, clusters(50, DIM, 5))):
        again = PQ4Codec(codec.dim)
        again.restore(codec.tensors())
        assert np.array_equal(again.encode(vectors)[0], codec.encode(vectors)[0])
        assert np.array_equal(again.project(vectors), codec.project(vectors))
        assert again.nbytes == codec.nbytes


def test_tensors_that_no_codec_has_written(projecting):
    good = projecting.tensors()
    coded = projecting.coded

    def changed(name, change):
        tensors = {key: array.copy() for key, array in good.items()}
        tensors[name] = change(tensors[name])
        return tensors

    def put(value, place):
        def change(array):
            array.reshape(-1)[place] = value
            return array

        return change

    hostile = {
        "bounds missing": {name: array for name, array in good.items() if name != "bounds"},
        "codewords missing": {name: array for name, array in good.items() if name != "codewords"},
        "directions missing": {name: array for name, array in good.items() if name != "directions"},
        "no bounds": changed("bounds", lambda b: b[:0]),
        "one bound": changed("bounds", lambda b: b[:1]),
        "7 sub-quantisers": changed("bounds", lambda b: np.array([0, 1, 2, 3, 4, 5, 6, coded], np.int32)),
        "one bound less": changed("bounds", lambda b: np.delete(b, 3)),
        "negative": changed("bounds", put(-1, 0)),
        "not from 0": changed("bounds", put(1, 0)),
        "beyond the end": changed("bounds", put(coded + 1, -1)),
        "short of the end": changed("bounds", put(coded - 1, -1)),
        "a step down": changed("bounds", put(coded, 2)),
        "a step far down": changed("bounds", put(-(2**31), 2)),
        "int64": changed("bounds", lambda b: b.astype(np.int64)),
        "two dimensions": changed("bounds", lambda b: b[None]),
        "nan codeword": changed("codewords", put(np.nan, 5)),
        "inf codeword": changed("codewords", put(np.inf, -1)),
        "15 codewords": changed("codewords", lambda v: np.ascontiguousarray(v[:, :15])),
        "a dimension less": changed("codewords", lambda v: v[:-1]),
        "nan direction": changed("directions", put(np.nan, 0)),
        "no directions": changed("directions", lambda d: d[:0]),
        "a direction less": changed("directions", lambda d: d[:-1]),
        "narrow directions": changed("directions", lambda d: np.ascontiguousarray(d[:, :-1])),
        "more directions than dimensions": changed("directions", lambda d: np.zeros((97, 96), np.float32)),
    }
    for description, tensors in hostile.items():
        codec = PQ4Codec(96)
        with pytest.raises(CorruptIndexError, match="tensor"):
            print(description, codec.restore(tensors))
        assert codec.subs == 0, "nothing is taken over"


# --- what lists add: the bias ---


def lists_of(metric, vectors, centroids):
    partition = Partition(centroids, metric)
    numbers = partition.assign(vectors, 1)
    residuals = vectors - centroids[numbers]
    lists = ProductLists(vectors.shape[1], metric)
    lists.train(vectors, residuals, 0, 1)
    return lists, partition, numbers, residuals


def scores_of(lists, partition, numbers, vectors, residuals, queries):
    """Scores (q, n), in float64 and without tables."""
    words, factors = lists.encode(vectors, residuals, partition)
    codes = unpack(words)
    read_back = lists._codec.decode(codes).astype(float) + partition.centroids[numbers]
    return float(partition.factor) * queries @ read_back.T + factors[0].astype(float), read_back - vectors


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_scores_are_distances_but_for_the_error_of_the_codes(metric):
    """factor (<q, c> + <q, r>) + bias is the distance but for |q|^2, factor <q, e> and the known part of that."""
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((300, DIM)).astype(np.float32), rng.standard_normal((9, DIM))
    lists, partition, numbers, residuals = lists_of(metric, vectors, vectors[:12].copy())
    scores, errors = scores_of(lists, partition, numbers, vectors, residuals, queries)
    exact = -(queries @ vectors.T) if metric != "l2" else (vectors**2).sum(axis=1) - 2 * queries @ vectors.T
    known = np.zeros(300)
    if metric != "ip":
        anchors = partition.centroids[numbers] + 0.45 * residuals
        known = np.einsum("ij,ij->i", anchors, errors)
    np.testing.assert_allclose(scores - exact, float(partition.factor) * (queries @ errors.T - known), atol=2e-4)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_bias_makes_scores_of_near_neighbours_less_noisy(metric):
    """For queries near a vector, where results are decided, the variance of the error of scores falls."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((4000, 32)).astype(np.float32)
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lists, partition, _, residuals = lists_of(metric, vectors, vectors[:40].copy())
    _, factors = lists.encode(vectors, residuals, partition)
    _, errors = lists._codec.encode(residuals, vectors)
    noise = rng.standard_normal(vectors.shape) * vectors.std() * 0.5
    queries = vectors + noise  # each near a vector of its own
    factor = float(partition.factor)
    plain = factor * np.einsum("ij,ij->i", queries, errors)
    bias = factors[0].astype(float) - ((vectors.astype(float) ** 2).sum(axis=1) if metric == "l2" else 0)
    corrected = plain + bias
    assert corrected.var() < 0.8 * plain.var()
