"""Messages over pipes: a line of JSON, then the bytes of the arrays that it announces. Nothing is unpickled."""

import json
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def send(stream: IO[bytes], message: dict[str, Any], **arrays: NDArray[Any]) -> None:
    """Write a message and flush."""
    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    layout = [[name, array.dtype.str, list(array.shape)] for name, array in kept.items()]
    stream.write(json.dumps({**message, "arrays": layout}).encode() + b"\n")
    for array in kept.values():
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays]:
    """Read a message; EOFError if the other side has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other side has ended")
    message: dict[str, Any] = json.loads(line)
    arrays: Arrays = {}
    for name, kind, shape in message.pop("arrays"):
        dtype = np.dtype(kind)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        data = stream.read(size)
        if len(data) < size:
            raise EOFError("the other side has ended")
        arrays[name] = np.frombuffer(data, dtype).reshape(shape).copy()
    return message, arrays
