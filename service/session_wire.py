"""What is asked of attention sessions, and answered, as ``nearhash.v1`` messages and back. No grpc, no numba.

Functions that decode raise InvalidArgumentError for whatever is not well-formed. Limits are the business of callers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.results import Attention, Retrieval
from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.protos.v1 import attention_pb2 as pb
from nearhash.protos.v1 import tensor_pb2
from nearhash.service.wire import from_tensor, to_tensor

_BFLOAT16 = tensor_pb2.DTYPE_BFLOAT16
_MOST_OPTIONS = 16
_LONGEST_NAME = 64
_LARGEST = 2**31 - 1
_RESERVED = frozenset(
    {"self", "queries", "estimator", "budget", "sink", "local", "scale", "step", "layer", "threads", "options"}
)

# --- tensors ---


def as_floats(values: Any, name: str) -> Any:
    """Keys, values or queries as they are sent: a NumPy array of at most 32 bits, or a Torch tensor of bfloat16.

    Raises
    ------
    DtypeError
        Neither floats nor integers.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:
            return values
        values = values.numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name}: expected a float or integer dtype, got {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        with np.errstate(over="ignore"):  # the server refuses what is not finite
            array = array.astype(np.float32)
    return array


def to_floats(values: Any, name: str) -> tensor_pb2.Tensor:
    """Encode what `as_floats` has given, or a part of it."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        bits = values.contiguous().view(torch.int16).numpy().astype("<i2", copy=False)
        return tensor_pb2.Tensor(dtype=_BFLOAT16, shape=bits.shape, data=bits.tobytes())
    return to_tensor(values, name)


def from_floats(tensor: tensor_pb2.Tensor, name: str, ndim: int) -> NDArray[Any]:
    """Decode keys, values or queries; bfloat16, which NumPy does not know, becomes float32."""
    if tensor.dtype != _BFLOAT16:
        return from_tensor(tensor, name, ndim=(ndim,))
    bits = tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_UINT16, shape=tensor.shape, data=tensor.data)
    widened = from_tensor(bits, name, ndim=(ndim,)).astype(np.uint32) << np.uint32(16)
    return widened.view(np.float32)


# --- how much is read ---


def to_reading(
    estimator: str, budget: Any, sink: Any, local: Any, scale: Any, options: Mapping[str, Any]
) -> pb.Reading:
    """Encode arguments of `KVStore.attend`. Whether the estimator takes them, the server finds out."""
    if not isinstance(estimator, str):
        raise InvalidArgumentError(f"estimator: expected a name, got {estimator!r:.80}")
    reading = pb.Reading(estimator=estimator)
    if isinstance(budget, float | np.floating):
        reading.share = float(budget)
    else:
        reading.count = _whole(budget, "budget", least=1)
    reading.sink, reading.local = _whole(sink, "sink"), _whole(local, "local")
    if scale is not None:
        reading.scale = _real(scale, "scale")
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool | np.bool_):
            reading.options[name].flag = bool(value)
        elif isinstance(value, int | np.integer) and -_LARGEST <= value <= _LARGEST:
            reading.options[name].integer = int(value)
        else:
            reading.options[name].real = _real(value, name)
    return reading


def from_reading(reading: pb.Reading) -> dict[str, Any]:
    """Arguments and options for `KVStore.attend`: those that were given. Other checks are its own."""
    arguments: dict[str, Any] = {}
    if reading.estimator:
        arguments["estimator"] = reading.estimator
    kind = reading.WhichOneof("budget")
    if kind == "share":
        arguments["budget"] = reading.share
    elif kind == "count":
        arguments["budget"] = reading.count
    for name in ("sink", "local", "scale"):
        if reading.HasField(name):
            arguments[name] = getattr(reading, name)
    if len(reading.options) > _MOST_OPTIONS:
        raise InvalidArgumentError(f"options: expected at most {_MOST_OPTIONS}, got {len(reading.options)}")
    for name, option in reading.options.items():
        kind = option.WhichOneof("kind")
        if name in _RESERVED or len(name) > _LONGEST_NAME or not name.isidentifier():
            raise InvalidArgumentError(f"options: {name[:_LONGEST_NAME]!r} is not the name of an option")
        if kind is None:
            raise InvalidArgumentError(f"options: {name} has no value")
        arguments[name] = getattr(option, kind)
    return arguments


def _whole(value: Any, name: str, least: int = 0) -> int:
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)
    if not fits or not least <= value <= _LARGEST:
        raise InvalidArgumentError(f"{name}: expected an integer from {least} to {_LARGEST}, got {value!r:.80}")
    return int(value)


def _real(value: Any, name: str) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidArgumentError(f"{name}: expected a number, got {value!r:.80}")
    if not math.isfinite(value):
        raise InvalidArgumentError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


# --- answers ---


def to_attended(attention: Attention) -> pb.Attended:
    """Encode what attention has given."""
    return pb.Attended(**{name: to_tensor(array, name) for name, array in attention._asdict().items()})


def from_attended(message: pb.Attended) -> Attention:
    """Decode it."""
    output = from_tensor(message.output, "output", ndim=(2,))
    heads = len(output)
    lse, error = from_tensor(message.lse, "lse", ndim=(1,)), from_tensor(message.error, "error", ndim=(1,))
    reads = from_tensor(message.reads, "reads", ndim=(1,))
    if {array.dtype for array in (output, lse, error)} != {np.dtype(np.float32)} or reads.dtype != np.int64:
        raise InvalidArgumentError("output, lse, reads, error: expected float32, and int64 of reads")
    if lse.shape != (heads,) or error.shape != (heads,):
        raise InvalidArgumentError(f"lse, error: expected ({heads},), got {lse.shape} and {error.shape}")
    return Attention(output.copy(), lse.copy(), reads.copy(), error.copy())


def to_retrieved(retrievals: list[Retrieval]) -> pb.Retrieved:
    """Encode what is to be read."""
    return pb.Retrieved(
        retrievals=[
            pb.Retrieval(
                head=one.head,
                first=one.first,
                last=one.last,
                positions=to_tensor(one.positions, "positions"),
                log_probabilities=to_tensor(one.log_probabilities, "log_probabilities"),
            )
            for one in retrievals
        ]
    )


def from_retrieved(message: pb.Retrieved) -> list[Retrieval]:
    """Decode it."""
    retrievals = []
    for one in message.retrievals:
        positions = from_tensor(one.positions, "positions", ndim=(1,))
        logs = from_tensor(one.log_probabilities, "log_probabilities", ndim=(1,))
        if positions.dtype != np.int64 or logs.dtype != np.float64 or positions.shape != logs.shape:
            raise InvalidArgumentError("positions, log_probabilities: expected int64 and float64 of one shape")
        retrievals.append(Retrieval(one.head, one.first, one.last, positions.copy(), logs.copy()))
    return retrievals
