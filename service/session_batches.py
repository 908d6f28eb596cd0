"""Tokens as request messages, cut so that every request stays within the limits, and how many there are already."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from nearhash.errors import DimensionError, InvalidArgumentError
from nearhash.protos.v1 import attention_pb2 as pb
from nearhash.service.batches import Capacity
from nearhash.service.session_wire import as_floats, to_floats
from nearhash.service.wire import MESSAGE_OVERHEAD


class Lengths:
    """Tokens that each layer of a session is known to have.

    An append that failed leaves them as they were: made again, it begins where it did, and nothing is appended twice.
    """

    def __init__(self, known: dict[int, int] | None = None) -> None:
        self._known = {} if known is None else known
        self._fresh = known is None

    def start(self, layer: int) -> int | None:
        """Where an append to a layer begins; None where the server is to be asked."""
        return self._known.get(layer, 0 if self._fresh else None)

    def appended(self, layer: int, tokens: int) -> None:
        self._known[layer] = tokens

    def truncated(self, length: int, layer: int | None) -> None:
        for one, tokens in list(self._known.items()):
            if layer in (None, one):
                self._known[one] = min(tokens, length)

    def forked(self, length: int | None) -> Lengths:
        known = {layer: tokens if length is None else min(tokens, length) for layer, tokens in self._known.items()}
        other = Lengths(known)
        other._fresh = self._fresh
        return other


class TokenBatch:
    """Tokens of a layer, cut so that every request stays within the limits.

    Parameters
    ----------
    session, layer, start
        Where they belong.
    keys, values
        (kv_heads, n, head_dim); NumPy arrays or Torch tensors.
    capacity
        Limits.

    Raises
    ------
    InvalidArgumentError
        And its subclasses; also if a single token does not fit a message.
    """

    def __init__(self, session: str, layer: int, start: int, keys: Any, values: Any, capacity: Capacity) -> None:
        self._keys, self._values = as_floats(keys, "keys"), as_floats(values, "values")
        for name, array in (("keys", self._keys), ("values", self._values)):
            if array.ndim != 3:
                raise DimensionError(f"{name}: expected shape (kv_heads, n, head_dim), got {tuple(array.shape)}")
        self.count = int(self._keys.shape[1])
        if self._values.shape[1] != self.count:
            raise InvalidArgumentError(
                f"values: expected as many tokens as keys, {self.count}, got {self._values.shape[1]}"
            )
        self._template = filled(pb.AppendKVRequest, session=session, layer=layer)
        self._start = start
        token = sum(int(array[:, :1].nbytes) for array in (self._keys, self._values))
        self._step = (capacity.message_bytes - MESSAGE_OVERHEAD - self._template.ByteSize()) // max(token, 1)
        if self._step < 1:
            raise InvalidArgumentError(
                f"max_message_bytes: one token of {token} bytes exceeds the limit of {capacity.message_bytes}"
            )

    def stop(self, first: int, most: int) -> int:
        last: int = min(first + min(self._step, most), self.count)
        return last

    def request(self, first: int, stop: int) -> pb.AppendKVRequest:
        request = pb.AppendKVRequest()
        request.CopyFrom(self._template)
        set_field(request, "start", self._start + first)
        request.keys.CopyFrom(to_floats(self._keys[:, first:stop], "keys"))
        request.values.CopyFrom(to_floats(self._values[:, first:stop], "values"))
        return request


def filled(kind: Any, **fields: Any) -> Any:
    """A message with those fields that are not None; raises InvalidArgumentError where a value does not fit."""
    message = kind()
    for name, value in fields.items():
        if isinstance(value, Message):
            getattr(message, name).CopyFrom(value)
        elif value is not None:
            set_field(message, name, value)
    return message


def set_field(message: Any, name: str, value: Any) -> None:
    try:
        setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name}: {error!s:.80}, got {value!r:.80}") from error
