"""Torch twins of hash functions and sketches against the NumPy specification: not one bit may differ."""

import numpy as np
import pytest

from nearhash.kernels import reference_hashes

torch = pytest.importorskip("torch")

from nearhash.kernels import torch_hashes  # noqa: E402

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
