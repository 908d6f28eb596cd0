"""Hash functions and random numbers against their NumPy specification and published vectors."""

import numpy as np
import pytest

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import randomness
from nearhash.kernels import hashes, philox, reference_hashes

EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


def words(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)
    random[: len(EDGES)] = np.array(EDGES, np.uint64)[:count]
    return random


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known-answer vectors of Random123 1.14.0, "philox4x32 10"
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    block, stream, seed = (np.uint64(low | high << 32) for low, high in (counter[:2], counter[2:], key))
    out = np.full((1, 4), 0xDEAD, np.uint32)
    philox.philox_words(seed, stream, block, out)
    assert out[0].tolist() == expected
    assert reference_hashes.philox_words(seed, stream, block, 1)[0].tolist() == expected


@pytest.mark.parametrize("blocks", [0, 1, 2, 7, 1000])
def test_philox_streams(blocks: int) -> None:
    out = np.full((blocks, 4), 0xDEAD, np.uint32)
    philox.philox_words(np.uint64(2**63 + 5), np.uint64(9), np.uint64(2**32 - 3), out)
    np.testing.assert_array_equal(out, reference_hashes.philox_words(2**63 + 5, 9, 2**32 - 3, blocks))


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_hash_functions(count: int) -> None:
    values = words(count)
    tables = words(2048, seed=1).reshape(8, 256)
    a, b = np.uint64(0x9E3779B97F4A7C15), np.uint64(2**64 - 1)
    small = values & np.uint64(0xFFFFFFFF)
    for got, expected in (
        (lambda out: hashes.fmix64_all(values, out), reference_hashes.fmix64(values)),
        (lambda out: hashes.multiply_shift_all(small, a, b, out), reference_hashes.multiply_shift(small, a, b)),
        (lambda out: hashes.tabulate_all(values, tables, out), reference_hashes.tabulate(values, tables)),
    ):
        out = np.full(count, 0xDEAD, np.uint64)
        got(out)
        np.testing.assert_array_equal(out, expected)


def test_fmix64_known_answers() -> None:
    # MurmurHash3.cpp's fmix64, computed with arbitrary-precision integers.
    def exact(x: int) -> int:
        for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            x = (x ^ x >> 33) * multiplier % 2**64
        return x ^ x >> 33

    values = words(100)
    assert reference_hashes.fmix64(values).tolist() == [exact(int(x)) for x in values]
    assert len(np.unique(reference_hashes.fmix64(np.arange(10_000)))) == 10_000


def test_multiply_shift_is_two_universal() -> None:
    """Pr[h(x) = h(y) in m buckets] is at most 2 / m, over the choice of a and b."""
    trials, buckets = 20_000, 16
    parameters = randomness.words64(3, 0, 2 * trials).reshape(2, -1)
    x, y = (
        reference_hashes.reduce_range((parameters[0] * np.uint64(v) + parameters[1]) >> np.uint64(32), buckets)
        for v in (12, 2**31)
    )
    rate = (x == y).mean()
    assert rate <= 1 / buckets + 4 * np.sqrt(1 / buckets / trials)


def test_streams_are_prefixes_and_differ() -> None:
    assert np.array_equal(randomness.words32(1, 2, 5), randomness.words32(1, 2, 100)[:5])
    drawn = [randomness.words64(seed, stream, 8).tobytes() for seed in (0, 1, 2**64 - 1) for stream in (0, 1)]
    assert len(set(drawn)) == 6


def test_distributions() -> None:
    count = 200_000
    uniform, normal, sign = (draw(7, 0, count) for draw in (randomness.uniforms, randomness.normals, randomness.signs))
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 4 / np.sqrt(12 * count)
    assert abs(normal.mean()) < 4 / np.sqrt(count)
    assert abs(normal.var() - 1) < 4 * np.sqrt(2 / count)
    assert abs((normal**4).mean() - 3) < 4 * np.sqrt(96 / count)
    assert set(np.unique(sign)) == {-1.0, 1.0}
    assert abs(sign.mean()) < 4 / np.sqrt(count)
    assert len(randomness.normals(7, 0, 3)) == 3


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "1", None])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises(InvalidArgumentError, match="seed"):
        randomness.check_seed(seed)
