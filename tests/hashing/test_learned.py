"""LearnedHash: its formula, what it learns, its arrays, its errors; RecordFeatures against a plain count."""

import subprocess
import sys
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError, NotTrainedError
from nearhash.hashing import LearnedHash, RecordFeatures

torch = pytest.importorskip("torch")

FEATURES = RecordFeatures(fields=4, width=32)
SMALL = {"bits": 64, "band_bits": 16}


def table(entities: int, seed: int = 0) -> tuple[list[list[str | None]], np.ndarray]:
    """Two records of each entity, one field of the second new; the last field, of three values, is of no use."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        return "".join(rng.choice(list("abcdefghij"), 8))

    records: list[list[str | None]] = []
    for _ in range(entities):
        first = [text(), text(), text(), ["north", "south", "east"][rng.integers(3)]]
        second = list(first)
        second[rng.integers(3)] = None if rng.integers(2) else text()
        records += [first, second]
    rows = np.arange(2 * entities).reshape(-1, 2)
    return records, rows


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    records, pairs = table(150)
    return FEATURES.vectors(records), pairs


@pytest.fixture(scope="module")
def fitted(data: tuple[np.ndarray, np.ndarray]) -> LearnedHash:
    return LearnedHash(FEATURES.dim, seed=3, groups=FEATURES.groups, **SMALL).fit(*data, epochs=30, cost=0.02)


def with_weights(weights: np.ndarray, dim: int, groups: np.ndarray, band_bits: int, seed: int) -> LearnedHash:
    numbers = np.array([1, dim, len(weights) * band_bits, seed, band_bits], np.uint64)
    return LearnedHash.from_state({"numbers": numbers, "groups": groups, "weights": weights.astype(np.float32)})


def test_codes_are_signs_of_projections(fitted: LearnedHash) -> None:
    for count in (0, 1, 7, 1025):
        vectors = np.random.default_rng(count).standard_normal((count, fitted.dim))
        codes = fitted.encode(vectors, threads=1)
        assert codes.dtype == np.uint8
        assert codes.shape == (count, fitted.bits // 8)
        np.testing.assert_array_equal(codes, fitted.encode(vectors, threads=3))
        scores = vectors.astype(np.float32).astype(np.float64) @ fitted._projections.T.astype(np.float64)
        bits = np.unpackbits(codes, axis=1, bitorder="little").astype(bool)
        assert ((scores >= 0) == bits)[np.abs(scores) > 1e-4].all()
        np.testing.assert_array_equal(codes, fitted.encode(4 * vectors))
    assert (fitted.encode(np.zeros(fitted.dim)) == 255).all()


def test_tensors_are_encoded_alike(fitted: LearnedHash, data: tuple[np.ndarray, np.ndarray]) -> None:
    codes = fitted.encode(torch.from_numpy(data[0]))
    assert codes.dtype == torch.uint8
    different = np.unpackbits(codes.numpy() ^ fitted.encode(data[0])).mean()
    assert different < 1e-4
    assert fitted.encode(torch.from_numpy(data[0][0])).shape == (1, fitted.bits // 8)


def test_bands_agree_as_the_formula_says() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [5, 20, 7])
    weights = np.array([1.0, 0.3, 0.05])
    bands = 4096
    base = rng.standard_normal((6, 32))
    other = base + np.array([0, 0.1, 0.3, 0.5, 1, 3])[:, None] * rng.standard_normal((6, 32))
    base[5] = 0  # against another vector its bits are a coin's
    hasher = with_weights(np.tile(weights, (bands, 1)), 32, groups, 8, seed=5)
    agree = (hasher.band_keys(hasher.encode(base)) == hasher.band_keys(hasher.encode(other))).mean(axis=1)
    single = with_weights(weights[None], 32, groups, 8, seed=5).collision_probability(base, other)
    assert single[0] == pytest.approx(1, abs=1e-6)
    assert single[5] == pytest.approx(2.0**-8)
    assert (np.abs(agree - single) <= 4 * np.sqrt(single * (1 - single) / bands) + 1e-6).all()
    many = with_weights(np.tile(weights, (5, 1)), 32, groups, 8, seed=5).collision_probability(base, other)
    np.testing.assert_allclose(many, 1 - (1 - single) ** 5, rtol=1e-9)
    assert hasher.collision_probability(np.zeros(32), np.zeros(32))[0] == 1


def test_learns_which_fields_to_trust(fitted: LearnedHash) -> None:
    records, pairs = table(400, seed=9)
    vectors = FEATURES.vectors(records)

    def quality(hasher: LearnedHash) -> tuple[float, float]:
        keys = hasher.band_keys(hasher.encode(vectors))
        found = (keys[pairs[:, 0]] == keys[pairs[:, 1]]).any(axis=1).mean()
        left, right = keys[0::2], np.roll(keys[1::2], 1, axis=0)
        others = [(left == np.roll(right, shift, axis=0)).any(axis=1).mean() for shift in range(50)]
        return float(found), float(np.mean(others))

    learned = quality(fitted)
    plain = quality(with_weights(np.ones((4, 4)), FEATURES.dim, FEATURES.groups, 16, seed=3))
    assert learned[0] > 0.9 > 0.5 > plain[0]
    assert learned[1] < 0.005
    assert (fitted.weights[:, 3] < 0.5).all()  # north, south and east
    assert (fitted.weights.max(axis=1) == 1).all()
    # Each of the first three fields is left to others by some band.
    assert (fitted.weights[:, :3].min(axis=0) < 0.2).all()
    expected = fitted.collision_probability(vectors[pairs[:, 0]], vectors[pairs[:, 1]]).mean()
    assert learned[0] == pytest.approx(expected, abs=0.05)


def test_same_arguments_same_weights(fitted: LearnedHash, data: tuple[np.ndarray, np.ndarray]) -> None:
    calls: list[tuple[int, int, int]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = LearnedHash(FEATURES.dim, seed=3, groups=FEATURES.groups, **SMALL)
        again.fit(
            *data,
            epochs=30,
            cost=0.02,
            progress=lambda done, total: calls.append((done, total, torch.get_num_threads())),
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert calls == [(i + 1, 30, 1) for i in range(30)]
    assert again.weights.tobytes() == fitted.weights.tobytes()
    other = LearnedHash(FEATURES.dim, seed=4, groups=FEATURES.groups, **SMALL).fit(*data, epochs=1)
    assert not np.array_equal(other.weights, fitted.weights)


def test_loss_is_that_of_the_docstring() -> None:
    from nearhash.kernels import torch_learned

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 6))
    groups, weights = np.array([0, 0, 1, 2, 2, 2]), rng.random((3, 3))  # weights are those of 3 bands
    pairs = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [0, 8], [9, 1]])
    labels = np.array([True, True, False, True, True, False])
    entity = np.arange(20)
    entity[[1, 8]], entity[3], entity[7] = 0, 2, 6

    def chance(i: int, j: int) -> float:
        missed = 1.0
        for own in weights:
            x, y = vectors[i] * own[groups], vectors[j] * own[groups]
            cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            missed *= 1 - (1 - np.arccos(cosine) / np.pi) ** 8
        return 1 - missed

    own = [
        -np.log(chance(i, j)) if label else -np.log(1 - chance(i, j))
        for (i, j), label in zip(pairs, labels, strict=True)
    ]
    others = [chance(i, j) for i in pairs[:, 0] for j in pairs[:, 1] if entity[i] != entity[j]]
    parts = [torch.from_numpy(vectors[:, groups == g]) for g in range(3)]
    loss = torch_learned._loss(
        torch.from_numpy(weights**2), parts, torch.stack([part.square().sum(dim=1) for part in parts]),
        torch.from_numpy(pairs), torch.from_numpy(labels), torch.from_numpy(entity), 8, 1000, 0.1,
    )  # fmt: skip
    assert loss.item() == pytest.approx(np.mean(own) + 0.1 * 1000 * np.mean(others), rel=1e-3)


def test_candidates_have_a_price(data: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, pairs = data
    chances = []
    for options in ({"cost": 0.001}, {"cost": 1.0}, {"cost": 0.001, "records": 300_000}):
        hasher = LearnedHash(FEATURES.dim, groups=FEATURES.groups, **SMALL).fit(vectors, pairs, **options)
        chances.append(hasher.collision_probability(vectors[0::2], np.roll(vectors[1::2], 2, axis=0)).mean())
    assert chances[0] > 2 * chances[1]
    assert chances[2] == pytest.approx(chances[1], rel=1e-3)  # 300 records at 1 cost what 300,000 at .001 do


def test_pairs_that_do_not_match_are_kept_apart(data: tuple[np.ndarray, np.ndarray]) -> None:
    vectors = data[0].copy()
    apart = np.stack([np.arange(0, 200, 2), np.arange(2, 202, 2)], axis=1)
    vectors[apart[:, 1], :32] = vectors[apart[:, 0], :32]  # the same first field, and yet another entity
    pairs = np.concatenate([data[1], apart])
    labels = np.arange(len(pairs)) < len(data[1])
    hashers = [
        LearnedHash(FEATURES.dim, groups=FEATURES.groups, **SMALL).fit(vectors, *given, cost=1e-6)
        for given in ((data[1],), (pairs, labels))
    ]
    blind, told = (
        hasher.collision_probability(vectors[apart[:, 0]], vectors[apart[:, 1]]).mean() for hasher in hashers
    )
    assert told < 0.85 * blind


def test_every_element_may_be_its_own_group() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 12)).astype(np.float32)
    vectors[1::2, :4] = vectors[0::2, :4]  # only these say what belongs together
    hasher = LearnedHash(12, bits=64, band_bits=16).fit(vectors, np.arange(200).reshape(-1, 2))
    assert hasher.weights.shape == (4, 12)
    assert hasher.weights[:, :4].mean() > 3 * hasher.weights[:, 4:].mean()


def test_state_is_arrays_and_gives_the_same_hash(fitted: LearnedHash, data: tuple, tmp_path) -> None:
    np.savez(tmp_path / "hash.npz", **fitted.state())
    with np.load(tmp_path / "hash.npz", allow_pickle=False) as file:
        again = LearnedHash.from_state(file)
    np.testing.assert_array_equal(again.encode(data[0]), fitted.encode(data[0]))
    assert repr(again) == repr(fitted) == "LearnedHash(dim=128, bits=64, seed=3, band_bits=16, fitted)"


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.ones((4, 3), np.float32)},
        {"weights": np.ones((4, 4))},
        {"weights": np.full((4, 4), np.nan, np.float32)},
        {"weights": np.full((4, 4), -1, np.float32)},
        {"weights": np.full((4, 4), 2, np.float32)},
        {"numbers": np.array([2, 128, 64, 3, 16], np.uint64)},
        {"numbers": np.array([1, 128, 64, 3], np.uint64)},
        {"numbers": np.array([1, 128, 64, 3, 16])},
        {"numbers": np.array([1, 127, 64, 3, 16], np.uint64)},
        {"numbers": np.array([1, 128, 64, 3, 12], np.uint64)},
        {"groups": np.full(128, 5)},
    ],
)
def test_forged_states_are_refused(fitted: LearnedHash, change: dict) -> None:
    with pytest.raises(InvalidArgumentError):
        LearnedHash.from_state({**fitted.state(), **change})
    (name,) = change
    without = {key: value for key, value in fitted.state().items() if key != name}
    with pytest.raises(InvalidArgumentError, match=name):
        LearnedHash.from_state(without)


def test_encoding_needs_no_torch(fitted: LearnedHash, data: tuple, tmp_path) -> None:
    np.savez(tmp_path / "hash.npz", X=data[0], codes=fitted.encode(data[0]), **fitted.state())
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from nearhash.hashing import LearnedHash
file = np.load({str(tmp_path / "hash.npz")!r})
hasher = LearnedHash.from_state(file)
assert np.array_equal(hasher.encode(file["X"]), file["codes"])
try:
    hasher.fit(file["X"], np.arange(300).reshape(-1, 2))
except ImportError as error:
    assert "nearhash[gpu]" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_codes_go_into_a_hamming_index(fitted: LearnedHash, data: tuple) -> None:
    codes = fitted.encode(data[0])
    index = nh.HammingIndex(fitted.bits)
    index.add(codes[0::2])
    hits = index.search(codes[1::2], k=5)
    assert (hits.ids == np.arange(150)[:, None]).any(axis=1).mean() > 0.8


def test_wrong_arguments() -> None:
    for options, expected in (
        ({"bits": 100, "band_bits": 8}, InvalidArgumentError),
        ({"bits": 64, "band_bits": 12}, InvalidArgumentError),
        ({"bits": 64, "band_bits": 128}, InvalidArgumentError),
        ({"seed": -1}, InvalidArgumentError),
        ({"groups": [0, 2, 2, 2]}, InvalidArgumentError),
        ({"groups": [0, 1, 1]}, DimensionError),
        ({"groups": [0.0, 1.0, 1.0, 1.0]}, DtypeError),
    ):
        with pytest.raises(expected):
            LearnedHash(4, **options)
    with pytest.raises(InvalidArgumentError, match="dim"):
        LearnedHash(0)


def test_wrong_input_to_fit_changes_nothing(fitted: LearnedHash, data: tuple) -> None:
    vectors, pairs = data
    nan = vectors.copy()
    nan[7, 3] = np.nan
    labels = np.ones(len(pairs), bool)
    looped = np.concatenate([pairs, [[0, 1]]])
    before = fitted.weights.tobytes()
    for arguments, options, expected, text in (
        ((nan, pairs), {}, InvalidArgumentError, "row 7, column 3"),
        ((vectors[:, :5], pairs), {}, DimensionError, "X"),
        ((vectors, pairs[:9]), {}, InvalidArgumentError, "at least 10 that match, got 9"),
        ((vectors, pairs, np.arange(150) < 9), {}, InvalidArgumentError, "got 9"),
        ((vectors, pairs[:, :1]), {}, DimensionError, "pairs"),
        ((vectors, pairs.astype(float)), {}, DtypeError, "pairs"),
        ((vectors, pairs + 1), {}, InvalidArgumentError, "in pair 149"),
        ((vectors, pairs - 1), {}, InvalidArgumentError, "in pair 0"),
        ((vectors, np.zeros((20, 2), int)), {}, InvalidArgumentError, "two different rows"),
        ((vectors, pairs, labels[:-1]), {}, DimensionError, "labels"),
        ((vectors, pairs, labels.astype(int)), {}, DtypeError, "labels"),
        ((vectors, looped, np.arange(151) < 150), {}, InvalidArgumentError, "pair 150"),
        ((vectors, pairs), {"epochs": 0}, InvalidArgumentError, "epochs"),
        ((vectors, pairs), {"cost": 0}, InvalidArgumentError, "cost"),
        ((vectors, pairs), {"rate": np.inf}, InvalidArgumentError, "rate"),
        ((vectors, pairs), {"records": 0}, InvalidArgumentError, "records"),
        ((vectors, pairs), {"rate": 1e6, "epochs": 5}, InvalidArgumentError, "rate"),
    ):
        with pytest.raises(expected, match=text):
            fitted.fit(*arguments, **options)
    assert fitted.weights.tobytes() == before


def test_wrong_input_to_encode(fitted: LearnedHash, data: tuple) -> None:
    with pytest.raises(NotTrainedError, match="fit"):
        LearnedHash(4).encode(np.zeros(4))
    for kind in (np.asarray, torch.from_numpy):
        with pytest.raises(DimensionError):
            fitted.encode(kind(np.zeros((2, 5))))
        with pytest.raises(InvalidArgumentError):
            fitted.encode(kind(np.full((2, fitted.dim), np.nan)))
        with pytest.raises(DtypeError):
            fitted.encode(kind(np.zeros((2, fitted.dim), bool)))
    with pytest.raises(DtypeError):
        fitted.band_keys(np.zeros((1, 8)))
    with pytest.raises(DimensionError):
        fitted.band_keys(np.zeros((1, 7), np.uint8))
    with pytest.raises(DimensionError, match="Y"):
        fitted.collision_probability(data[0][:2], data[0][:3])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), st.just(float("nan")), st.text(max_size=12)), min_size=3, max_size=3)))
def test_features_are_hashed_counts(records: list) -> None:
    features = RecordFeatures(fields=3, width=16, ngram=2)
    vectors, (starts, tokens) = features.vectors(records), features.tokens(records)
    assert vectors.shape == (len(records), 48)
    assert starts[0] == 0
    assert starts[-1] == len(tokens)
    for row, record in enumerate(records):
        expected, hashes = np.zeros((3, 16)), []
        for field, value in enumerate(record):
            words = value.casefold().split() if isinstance(value, str) else []
            text = f" {' '.join(words)} " if words else ""
            for first, second in pairwise(text):
                gram = (first + second).encode("utf-8", "surrogatepass")
                word = xxhash.xxh3_64_intdigest(gram)
                expected[field, word % 2**32 % 16] += -1 if word >= 2**63 else 1
                hashes.append(xxhash.xxh3_64_intdigest(f"{field}\t".encode() + gram))
        lengths = np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(vectors[row].reshape(3, 16) * np.where(lengths, lengths, 1), expected, atol=1e-5)
        np.testing.assert_array_equal(tokens[starts[row] : starts[row + 1]], np.array(hashes, np.uint64))


def test_features_of_records_fold_case_and_space() -> None:
    features = RecordFeatures(2, ngram=3)
    one, other = features.vectors([["New  Straße", None], ["\tnew strasse ", ""]])
    np.testing.assert_array_equal(one, other)
    assert features.tokens([["a", None]])[1].shape == (1,)  # " a "
    assert features.tokens([["é", "é"]])[1].shape == (2,)
    assert unicodedata.normalize("NFD", "é") != "é"
    assert RecordFeatures(2, ngram=16).tokens([["abc", None]])[1].shape == (1,)  # shorter than an n-gram: all of it
    np.testing.assert_array_equal(features.groups, np.repeat([0, 1], 128))
    for records, expected in (([["a"]], DimensionError), (["ab"], DimensionError), ([["a", 5]], DtypeError)):
        with pytest.raises(expected, match="row 0"):
            features.vectors(records)
