"""Sketches, documents and duplicates as ``nearhash.v1`` messages and back, for client and server. No grpc, no numba.

Functions that decode raise InvalidArgumentError for whatever is not well-formed. Limits are the business of callers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.hashing.sketches import Sketches
from nearhash.protos.v1 import documents_pb2, hashes_pb2
from nearhash.service.engine.results import Duplicates, id_array
from nearhash.service.points_wire import from_repeated_ids, to_repeated_ids
from nearhash.service.wire import from_tensor, to_tensor

_MOST_HEADER = 4096  # characters of JSON

# --- settings ---


def to_sketch_settings(settings: Mapping[str, Any]) -> hashes_pb2.SketchSettings:
    """Encode settings of sketches; those that are None or missing are the server's business."""
    message = hashes_pb2.SketchSettings()
    for name in ("k", "method", "bits", "seed", "ngram", "unit"):
        if settings.get(name) is not None:
            _set(message, name, settings[name])
    return message


def from_sketch_settings(message: hashes_pb2.SketchSettings) -> dict[str, Any]:
    """Those settings that were given, as arguments."""
    given: dict[str, Any] = {"k": message.k, "method": message.method, "bits": message.bits}
    given |= {"ngram": message.ngram, "unit": message.unit}
    if message.HasField("seed"):
        given["seed"] = message.seed
    return {name: value for name, value in given.items() if value or name == "seed"}


def to_document_settings(settings: Mapping[str, Any]) -> documents_pb2.DocumentSettings:
    """Encode settings of a collection of documents; those that are None or missing are the server's business."""
    message = documents_pb2.DocumentSettings(sketches=to_sketch_settings(settings))
    for name in ("threshold", "bands", "rows"):
        if settings.get(name) is not None:
            _set(message, name, settings[name])
    return message


def from_document_settings(message: documents_pb2.DocumentSettings) -> dict[str, Any]:
    """Those settings that were given, as arguments."""
    given = {"threshold": message.threshold, "bands": message.bands, "rows": message.rows}
    return {name: value for name, value in given.items() if value} | from_sketch_settings(message.sketches)


def _set(message: Any, name: str, value: Any) -> None:
    try:
        setattr(message, name, value.item() if isinstance(value, np.generic) else value)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name}: {error!s:.80}, got {value!r:.80}") from error


# --- sketches ---


def to_sketches(sketches: Sketches) -> hashes_pb2.Sketches:
    """Encode sketches and how they were made."""
    return hashes_pb2.Sketches(
        values=to_tensor(np.asarray(sketches.values), "sketches"), header_json=json.dumps(sketches.header)
    )


def from_sketches(message: hashes_pb2.Sketches) -> Sketches:
    """Decode sketches. Whether they are what a collection takes, it finds out by their header, type and shape."""
    values = from_tensor(message.values, "sketches.values", ndim=(2,))
    if values.dtype.kind != "u":
        raise DtypeError(f"sketches.values: expected unsigned integers, got {values.dtype}")
    if len(message.header_json) > _MOST_HEADER:
        raise InvalidArgumentError(f"sketches.header_json: expected at most {_MOST_HEADER} characters")
    try:
        header = json.loads(message.header_json)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"sketches.header_json: not valid JSON: {error!s:.80}") from error
    if not isinstance(header, dict):
        raise InvalidArgumentError(f"sketches.header_json: expected a JSON object, got {header!r:.80}")
    return Sketches(values, header)


# --- duplicates ---


def to_duplicates(duplicates: Duplicates) -> documents_pb2.Duplicates:
    """Encode what was found."""
    return documents_pb2.Duplicates(
        indptr=to_tensor(duplicates.indptr, "indptr"),
        ids=to_repeated_ids(duplicates.ids.tolist()),
        similarities=to_tensor(duplicates.similarities, "similarities"),
    )


def from_duplicates(message: documents_pb2.Duplicates, count: int) -> Duplicates:
    """Decode what was found of `count` documents."""
    indptr = from_tensor(message.indptr, "indptr", ndim=(1,))
    similarities = from_tensor(message.similarities, "similarities", ndim=(1,))
    ids = from_repeated_ids(message.ids)
    if indptr.dtype != np.int64 or similarities.dtype != np.float32 or indptr.shape != (count + 1,):
        raise InvalidArgumentError(
            f"indptr, similarities: expected int64 ({count + 1},) and float32, "
            f"got {indptr.dtype} {indptr.shape} and {similarities.dtype}"
        )
    total = len(similarities)
    if len(ids) != total or indptr[0] != 0 or indptr[-1] != total or (np.diff(indptr) < 0).any():
        raise InvalidArgumentError(f"indptr: expected bounds of {total} similarities and {len(ids)} ids")
    return Duplicates(indptr.copy(), id_array(ids), similarities.copy())


def joined_duplicates(parts: list[Duplicates]) -> Duplicates:
    """Duplicates of consecutive documents."""
    if len(parts) == 1:
        return parts[0]
    counts: NDArray[np.int64] = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)]).astype(np.int64)
    return Duplicates(
        np.cumsum(counts),
        id_array([one for part in parts for one in part.ids.tolist()]),
        np.concatenate([part.similarities for part in parts]),
    )
