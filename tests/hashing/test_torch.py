"""Torch twins of hash functions and sketches against the NumPy specification: not one bit may differ."""

import numpy as np
import pytest

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.hashing import MinHash
from nearhash.hashing.minhash import METHODS
from nearhash.kernels import reference_hashes, reference_sketches

torch = pytest.importorskip("torch")

from nearhash.kernels import torch_hashes, torch_sketches  # noqa: E402

EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that Torch can use")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]


def words(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)
    random[: len(EDGES)] = np.array(EDGES, np.uint64)[:count]
    return random


def tensor(values: np.ndarray, device: str = "cpu"):
    """uint64 as the int64 tensor of the same bits."""
    return torch.from_numpy(np.ascontiguousarray(values).view(np.int64).copy()).to(device)


def numpy(values) -> np.ndarray:
    return values.cpu().numpy().view(np.uint64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [0, 1, 7, 1001])
def test_hash_functions(count: int, device: str) -> None:
    values, tables = words(count), words(2048, seed=1).reshape(8, 256)
    small, a, b = values & np.uint64(2**32 - 1), 0x9E3779B97F4A7C15, 2**64 - 1
    x, y = tensor(values, device), tensor(small, device)
    np.testing.assert_array_equal(numpy(torch_hashes.fmix64(x)), reference_hashes.fmix64(values))
    for given in ((a, b), (tensor(np.uint64([a]), device), tensor(np.uint64([b]), device))):
        np.testing.assert_array_equal(
            numpy(torch_hashes.multiply_shift(y, *given)), reference_hashes.multiply_shift(small, a, b)
        )
    for size in (1, 3, 2**31, 2**32 - 1):
        np.testing.assert_array_equal(
            numpy(torch_hashes.reduce_range(y, size)), reference_hashes.reduce_range(small, size)
        )
    np.testing.assert_array_equal(
        numpy(torch_hashes.tabulate(x, tensor(tables, device))), reference_hashes.tabulate(values, tables)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("blocks", [0, 1, 7, 1000])
def test_philox(blocks: int, device: str) -> None:
    for seed, stream, first in ((0, 0, 0), (2**63 + 5, 9, 2**32 - 3), (2**64 - 1, 2**64 - 1, 2**63 - 2)):
        np.testing.assert_array_equal(
            torch_hashes.philox_words(seed, stream, first, blocks, device=device).cpu().numpy(),
            reference_hashes.philox_words(seed, stream, first, blocks),
        )


def test_upper_half_of_products() -> None:
    x, y = (grid.reshape(-1) for grid in np.meshgrid(words(100), words(100, seed=1)))
    expected = [int(a) * int(b) >> 64 for a, b in zip(x, y, strict=True)]
    np.testing.assert_array_equal(
        numpy(torch_hashes.multiply_high(tensor(x), tensor(y))), np.array(expected, np.uint64)
    )


def test_order_and_numbers_of_uint64() -> None:
    values = np.sort(words(100))
    flipped = torch_hashes.flip_sign(tensor(values))
    assert bool((flipped[1:] >= flipped[:-1]).all())
    np.testing.assert_array_equal(numpy(torch_hashes.flip_sign(flipped)), values)
    assert [torch_hashes.signed(value) for value in EDGES] == np.array(EDGES, np.uint64).view(np.int64).tolist()


def sets(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sets of no, one, some and many tokens, with repetitions, edge values and an equal pair."""
    sizes = [0, 1, 2, 5, 40, 300, 0, 17, 17, 0]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    tokens = words(indptr[-1], seed)[::-1].copy()
    tokens[300:310] = tokens[290:300]
    tokens[-17:] = tokens[-34:-17][::-1]
    return indptr, tokens


EMPTY_SETS = (np.zeros(4, np.int64), np.zeros(0, np.uint64))
NO_SETS = (np.zeros(1, np.int64), np.zeros(0, np.uint64))
SALT = 0xFEDCBA9876543210


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["classic", "one_permutation", "fast_similarity"])
@pytest.mark.parametrize("k", [1, 3, 16, 65])
def test_minima(method: str, k: int, device: str) -> None:
    for indptr, tokens in (sets(), EMPTY_SETS, NO_SETS):
        given = torch.from_numpy(indptr).to(device), tensor(tokens, device)
        got = getattr(torch_sketches, method)(*given, k, SALT)
        assert got.device.type == device
        np.testing.assert_array_equal(numpy(got), getattr(reference_sketches, method)(indptr, tokens, k, SALT))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, 7, 64])
def test_affine32(k: int, device: str) -> None:
    a, b = (words(k, seed).astype(np.uint32) for seed in (5, 6))
    for indptr, tokens in (sets(), EMPTY_SETS, NO_SETS):
        small = tokens & np.uint64(2**32 - 1)
        parameters = (torch.from_numpy(each.astype(np.int64)).to(device) for each in (a, b))
        got = torch_sketches.affine32(torch.from_numpy(indptr).to(device), tensor(small, device), *parameters)
        np.testing.assert_array_equal(numpy(got), reference_sketches.affine32(indptr, small, a, b))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["densify_optimal", "densify_reverse", "densify_rotation"])
def test_densified_minima(method: str, device: str) -> None:
    for k in (1, 2, 5, 64):
        for indptr, tokens in (sets(k), EMPTY_SETS, NO_SETS):
            minima = reference_sketches.one_permutation(indptr, tokens, k, SALT)
            before = minima.copy()
            given = tensor(minima, device)
            got = getattr(torch_sketches, method)(given, SALT)
            np.testing.assert_array_equal(numpy(got), getattr(reference_sketches, method)(minima, SALT))
            np.testing.assert_array_equal(numpy(given), before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32])
def test_values_of_sketches(bits: int, device: str) -> None:
    for k in (1, 13, 64):
        minima = reference_sketches.one_permutation(*sets(), k, SALT)
        prints = torch_sketches.fingerprints(tensor(minima, device), bits)
        expected = reference_sketches.fingerprints(minima, bits)
        np.testing.assert_array_equal(numpy(prints), expected)
        expected = reference_sketches.pack(expected, bits) if bits < 8 else expected.astype(f"uint{bits}")
        values = torch_sketches.as_values(prints, bits).cpu().numpy()
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_tensors_have_the_sketches_of_arrays(method: str, device: str) -> None:
    for bits in (32, 16, 4):
        minhash = MinHash(k=33, method=method, bits=bits, seed=7)
        for indptr, tokens in (sets(), EMPTY_SETS, NO_SETS):
            tokens = tokens & np.uint64(2**32 - 1) if method == "affine32" else tokens
            expected = minhash.sketch(indptr, tokens)
            for starts in (indptr, torch.from_numpy(indptr.astype(np.int32)).to(device)):
                got = minhash.sketch(starts, tensor(tokens, device))
                assert got.values.device.type == device
                assert got.header == expected.header
                values = got.values.cpu().numpy()
                assert values.dtype == expected.values.dtype
                np.testing.assert_array_equal(values, expected.values)


def test_wrong_tensors() -> None:
    minhash, indptr, tokens = MinHash(k=4), torch.tensor([0, 2, 3]), torch.tensor([5, -1, 7])
    same = minhash.sketch(indptr, tokens.view(torch.uint64)).values
    assert same.tolist() == minhash.sketch(indptr, tokens).values.tolist()
    for starts, ids, error in (
        (indptr, tokens.to(torch.int32), DtypeError),
        (indptr, tokens.to(torch.float64), DtypeError),
        (indptr, tokens[None], InvalidArgumentError),
        (indptr.to(torch.float64), tokens, DtypeError),
        (indptr[None], tokens, InvalidArgumentError),
        (indptr[:0], tokens, InvalidArgumentError),
        (indptr + 1, tokens, InvalidArgumentError),
        (torch.tensor([0, 2, 4]), tokens, InvalidArgumentError),
        (torch.tensor([0, 5, 3]), tokens, InvalidArgumentError),
    ):
        with pytest.raises(error):
            minhash.sketch(starts, ids)
    with pytest.raises(InvalidArgumentError, match="32 bits"):
        MinHash(k=4, method="affine32").sketch(indptr, tokens)
