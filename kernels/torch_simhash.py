"""SimHash of Torch tensors on their device; by method "hadamard" the bits of `kernels/simhash.py` exactly.

Rounds are whole-tensor additions in the order of the NumPy specification (`reference_dense.hadamard`). Imported only
when a tensor is given.
"""

from typing import Any

import torch

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError

LARGEST = 1e15
STEP = 65_536  # rows at a time: what is in between takes 4 blocks * size bytes a row


def hadamard(rows: torch.Tensor) -> torch.Tensor:
    """Walsh-Hadamard transform of the last axis of (n, size), not normalised."""
    count, size = rows.shape
    stride = 1
    while stride < size:
        x, y = rows.view(count, size // (2 * stride), 2, stride).unbind(2)
        rows = torch.stack((x + y, x - y), dim=2).view(count, size)
        stride *= 2
    return rows


def encode(hasher: Any, vectors: torch.Tensor) -> torch.Tensor:
    """Codes (n, bits // 8) uint8 of vectors (n, dim) or (dim,), for a `nearhash.hashing.SimHash`."""
    if vectors.dtype.is_complex or vectors.dtype == torch.bool:
        raise DtypeError(f"X: expected a float or integer dtype, got {vectors.dtype}")
    rows = vectors[None] if vectors.ndim == 1 else vectors
    if rows.ndim != 2 or rows.shape[1] != hasher.dim:
        raise DimensionError(f"X: expected shape (n, {hasher.dim}) or ({hasher.dim},), got {tuple(vectors.shape)}")
    rows = rows.detach().to(torch.float32)
    if not bool((rows.abs() <= LARGEST).all()):
        row, column = torch.nonzero(~(rows.abs() <= LARGEST))[0].tolist()
        raise InvalidArgumentError(
            f"X: expected finite values of at most {LARGEST:g} in magnitude, "
            f"got {rows[row, column].item()} in row {row}, column {column}"
        )
    codes = torch.empty((len(rows), hasher.bits // 8), dtype=torch.uint8, device=rows.device)
    parameters = _parameters(hasher, rows.device)
    for first in range(0, len(rows), STEP):
        part = rows[first : first + STEP]
        codes[first : first + STEP] = _pack(_projections(hasher, parameters, part)[:, : hasher.bits] >= 0)
    return codes


def _parameters(hasher: Any, device: torch.device) -> torch.Tensor:
    """Signs or projections of the hasher, copied to a device once."""
    if device not in hasher._tensors:
        source = hasher._signs if hasher.method == "hadamard" else hasher._projections
        hasher._tensors[device] = torch.from_numpy(source).to(device)
    tensor: torch.Tensor = hasher._tensors[device]
    return tensor


def _projections(hasher: Any, parameters: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    if hasher.method != "hadamard":
        return rows @ parameters.T
    blocks, rounds, size = parameters.shape
    padded = torch.nn.functional.pad(rows, (0, size - rows.shape[1]))
    made = []
    for block in range(blocks):
        work = padded
        for turn in range(rounds):
            work = hadamard(work * parameters[block, turn])
        made.append(work)
    return torch.cat(made, dim=1)


def _pack(bits: torch.Tensor) -> torch.Tensor:
    """Bits (n, 8 b) as bytes (n, b), the first bit the lowest."""
    weights = 1 << torch.arange(8, dtype=torch.int32, device=bits.device)
    return (bits.view(len(bits), -1, 8) * weights).sum(dim=2).to(torch.uint8)
