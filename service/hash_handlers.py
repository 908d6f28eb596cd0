"""HashService: sketches of texts and sets, codes of vectors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.hashing.minhash import MinHash
from nearhash.hashing.simhash import SimHash
from nearhash.hashing.sketches import Sketches
from nearhash.protos.v1 import hashes_pb2
from nearhash.service.calls import Call, Calls
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.hash_wire import from_sketch_settings, to_sketches
from nearhash.service.queues import Queues
from nearhash.service.wire import MESSAGE_OVERHEAD, from_tensor, to_tensor

SERVICE_NAME: str = hashes_pb2.DESCRIPTOR.services_by_name["HashService"].full_name

_MOST_BITS = 1 << 16  # of a code
_BITS = 256
_METHODS = ("fss", "oph-optimal", "oph-reverse", "oph-rotation", "classic")


class HashHandlers:
    """The RPCs of HashService. They belong to no collection: whoever may read may call them."""

    def __init__(self, config: ServerConfig, queues: Queues) -> None:
        self._limits = config.limits
        self._threads = config.search_threads
        self._queues = queues

    def generic_handler(self, calls: Calls) -> Any:
        """The handlers in the form that ``grpc.aio.Server.add_generic_rpc_handlers`` takes."""
        return calls.handler(
            SERVICE_NAME,
            reads={
                "Sketch": (hashes_pb2.SketchRequest, self._sketch),
                "Encode": (hashes_pb2.EncodeRequest, self._encode),
            },
        )

    async def _sketch(self, request: hashes_pb2.SketchRequest, call: Call) -> bytes:
        settings = from_sketch_settings(request.settings)
        if settings.get("method", "fss") not in _METHODS:
            raise InvalidArgumentError(f"method: expected one of {', '.join(_METHODS)}, got {settings['method']!r:.80}")
        shingles = {name: settings.pop(name) for name in ("ngram", "unit") if name in settings}
        minhash = MinHash(**settings)
        kind = request.WhichOneof("input")
        if kind is None:
            raise InvalidArgumentError("input: expected texts or sets, got none")
        if kind == "texts":
            texts = checked_texts(request.texts, self._limits)
            call.rows = len(texts)
            size = self._answer_bytes(len(texts), minhash.k * minhash.bits // 8 + 1)

            def sketched() -> Sketches:
                return minhash.sketch_texts(texts, **shingles, threads=self._threads)
        else:
            indptr, tokens = _checked_sets(request.sets, self._limits)
            call.rows = len(indptr) - 1
            size = self._answer_bytes(len(indptr) - 1, minhash.k * minhash.bits // 8 + 1)

            def sketched() -> Sketches:
                return minhash.sketch(indptr, tokens, threads=self._threads)

        def answer() -> bytes:
            return hashes_pb2.SketchResponse(sketches=to_sketches(sketched())).SerializeToString()

        return await self._queues.searches.run(answer, call.deadline, call.size + size)

    async def _encode(self, request: hashes_pb2.EncodeRequest, call: Call) -> bytes:
        if not request.HasField("vectors"):
            raise InvalidArgumentError("vectors: expected a tensor, got none")
        vectors = from_tensor(request.vectors, "vectors", ndim=(1, 2))
        if vectors.dtype.kind == "b":
            raise DtypeError("vectors: expected numbers, got bool")
        matrix = vectors.reshape(-1, vectors.shape[-1]) if vectors.size else vectors.reshape(0, vectors.shape[-1])
        rows, dim = matrix.shape
        if rows > self._limits.max_rows:
            raise InvalidArgumentError(f"max_rows: {rows} vectors in a request, the limit is {self._limits.max_rows}")
        if dim > self._limits.max_dim:
            raise InvalidArgumentError(f"max_dim: the dimension is {dim}, the limit is {self._limits.max_dim}")
        bits = request.bits or _BITS
        if bits > _MOST_BITS:
            raise InvalidArgumentError(f"bits: expected at most {_MOST_BITS}, got {bits}")
        call.rows = rows
        size = self._answer_bytes(rows, -(-bits // 8))

        def answer() -> bytes:
            codes = _simhash(dim, bits, request.seed).encode(matrix, threads=self._threads)
            return hashes_pb2.EncodeResponse(codes=to_tensor(codes, "codes")).SerializeToString()

        return await self._queues.searches.run(answer, call.deadline, call.size + size)

    def _answer_bytes(self, rows: int, width: int) -> int:
        size = rows * width + MESSAGE_OVERHEAD
        if size > self._limits.max_message_bytes:
            raise InvalidArgumentError(
                f"max_message_bytes: the answer would have {size} bytes, the limit is "
                f"{self._limits.max_message_bytes}; ask for less at a time"
            )
        return size


def checked_texts(message: hashes_pb2.Texts, limits: Limits) -> list[bytes]:
    """Texts of a request; raises InvalidArgumentError beyond the limits, or where one is no UTF-8."""
    texts = list(message.values)
    if len(texts) > limits.max_texts:
        raise InvalidArgumentError(f"max_texts: {len(texts)} texts in a request, the limit is {limits.max_texts}")
    for number, text in enumerate(texts):
        if len(text) > limits.max_text_bytes:
            raise InvalidArgumentError(
                f"max_text_bytes: text {number} has {len(text)} bytes, the limit is {limits.max_text_bytes}"
            )
    return texts


def _checked_sets(message: hashes_pb2.Sets, limits: Limits) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    indptr = from_tensor(message.indptr, "sets.indptr", ndim=(1,))
    tokens = from_tensor(message.tokens, "sets.tokens", ndim=(1,))
    if indptr.dtype != np.int64 or tokens.dtype != np.uint64:
        raise DtypeError(f"sets: expected indptr of int64 and tokens of uint64, got {indptr.dtype} and {tokens.dtype}")
    if len(indptr) - 1 > limits.max_texts:
        raise InvalidArgumentError(f"max_texts: {len(indptr) - 1} sets in a request, the limit is {limits.max_texts}")
    return indptr, tokens


@lru_cache(maxsize=16)
def _simhash(dim: int, bits: int, seed: int) -> SimHash:
    return SimHash(dim, bits, seed)
