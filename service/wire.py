"""NumPy arrays as ``nearhash.v1.Tensor`` messages and back, for client and server. Imports neither grpc nor numba."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.protos.v1 import tensor_pb2

_WIRE_DTYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DTYPE_FLOAT64: np.dtype("<f8"),
    tensor_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DTYPE_INT8: np.dtype("i1"),
    tensor_pb2.DTYPE_UINT8: np.dtype("u1"),
    tensor_pb2.DTYPE_INT16: np.dtype("<i2"),
    tensor_pb2.DTYPE_UINT16: np.dtype("<u2"),
    tensor_pb2.DTYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DTYPE_UINT32: np.dtype("<u4"),
    tensor_pb2.DTYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DTYPE_UINT64: np.dtype("<u8"),
    tensor_pb2.DTYPE_BOOL: np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _WIRE_DTYPES.items()}

HIT_BYTES = 12
"""Bytes of one neighbour in an answer: int64 id, float32 distance."""

MESSAGE_OVERHEAD = 256
"""Bytes that suffice for everything in a message besides its tensors' data and the efforts."""

MAX_AXIS = 2**31 - 1
"""Longest axis of a tensor: far above any message limit, low enough that no product of two overflows in NumPy."""


def to_tensor(values: ArrayLike, name: str) -> tensor_pb2.Tensor:
    """Encode an array of any layout and byte order.

    Parameters
    ----------
    values
        Array of a dtype that the wire knows: bool, integers, float16 to float64.
    name
        Argument name for the error message.

    Raises
    ------
    DtypeError
        The dtype has no code on the wire.
    """
    array = np.asarray(values)
    wire_dtype = array.dtype
    code = _CODES.get(wire_dtype)
    if code is None:
        wire_dtype = wire_dtype.newbyteorder("<")
        code = _CODES.get(wire_dtype)
    if code is None:
        raise DtypeError(f"{name}: expected bool, integers or float16, float32, float64, got dtype {array.dtype}")
    data = array.astype(wire_dtype, copy=False).tobytes()
    return tensor_pb2.Tensor(dtype=code, shape=array.shape, data=data)  # type: ignore[arg-type]


def from_tensor(tensor: tensor_pb2.Tensor, name: str, ndim: tuple[int, ...]) -> NDArray[Any]:
    """Decode a tensor into a read-only array in native byte order, without copying on little-endian machines.

    Parameters
    ----------
    tensor
        The message.
    name
        Field name for the error message.
    ndim
        Accepted numbers of axes.

    Raises
    ------
    InvalidArgumentError
        Unknown dtype, wrong number of axes, or a byte length that does not fit shape and dtype.
    """
    dtype = _WIRE_DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidArgumentError(f"{name}.dtype: expected one of {_dtype_names()}, got {tensor.dtype}")
    shape = tuple(tensor.shape)
    if len(shape) not in ndim:
        expected = " or ".join(map(str, ndim))
        raise InvalidArgumentError(f"{name}.shape: expected {expected} axes, got {len(shape)}")
    if max(shape, default=0) > MAX_AXIS:
        raise InvalidArgumentError(f"{name}.shape: expected no axis above {MAX_AXIS}, got {list(shape)}")
    data = tensor.data
    expected_bytes = prod(shape) * dtype.itemsize
    if len(data) != expected_bytes:
        raise InvalidArgumentError(
            f"{name}.data: expected {expected_bytes} bytes for shape {list(shape)} of {dtype.name}, got {len(data)}"
        )
    if dtype.kind == "b" and data.strip(b"\x00\x01"):
        raise InvalidArgumentError(f"{name}.data: expected bytes 0 and 1 for bool, got others")
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _dtype_names() -> str:
    return ", ".join(f"{tensor_pb2.Dtype.Name(code)} = {code}" for code in _WIRE_DTYPES)
