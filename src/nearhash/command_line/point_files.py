"""Points from files, in batches: matrices of vectors with ids and labels beside them, or lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearhash.command_line.vector_files import read_ids, read_labels, read_vectors
from nearhash.errors import InvalidArgumentError

_KEYS = ("id", "vector", "payload", "labels")


class PointBatch(NamedTuple):
    """Arguments of an upsert, and how much of the file has been read with it, of how much."""

    ids: Any
    vectors: Any
    labels: Any
    payloads: list[dict[str, Any] | None] | None
    done: int
    total: int


def array_batches(vectors: Path, ids: Path | None, labels: Path | None, size: int) -> Iterator[PointBatch]:
    """Rows of a matrix; ids 0, 1, 2, ... unless a file has them.

    Raises
    ------
    InvalidArgumentError, DtypeError
        A file is malformed, or they are of different lengths.
    """
    matrix = read_vectors(vectors)
    count = len(matrix)
    own = np.arange(count) if ids is None else read_ids(ids)
    marks = None if labels is None else read_labels(labels)
    for column, path in ((own, ids), (marks, labels)):
        if column is not None and len(column) != count:
            raise InvalidArgumentError(f"{path}: expected {count:,} values, one for each vector, got {len(column):,}")
    for first in range(0, count, size):
        rows = slice(first, min(first + size, count))
        yield PointBatch(own[rows], matrix[rows], None if marks is None else marks[rows], None, rows.stop, count)


def json_batches(path: Path, size: int) -> Iterator[PointBatch]:
    """Points of a file with one JSON object a line: id, vector, and if they have them payload and labels.

    `labels` is an object of numbers by name, or a number for the first field. A point whose id stands in the batch
    already begins a new one: the later line replaces the earlier one.

    Raises
    ------
    InvalidArgumentError
        A line is none such; the message names it.
    """
    points: dict[Any, dict[str, Any]] = {}
    done, total = 0, path.stat().st_size
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                point = _point(line, f"{path}: line {number}")
                if len(points) == size or point["id"] in points:
                    yield _as_batch(points, done, total)
                    points = {}
                points[point["id"]] = point
            done += len(line)
    if points:
        yield _as_batch(points, total, total)


def _as_batch(points: dict[Any, dict[str, Any]], done: int, total: int) -> PointBatch:
    some = list(points.values())
    width = len(some[0]["vector"])
    for point in some:
        if len(point["vector"]) != width:
            raise InvalidArgumentError(
                f"{point['where']}: vector: expected {width} numbers as before, got {len(point['vector'])}"
            )
        if (None in point["labels"]) != (None in some[0]["labels"]) and point["labels"] and some[0]["labels"]:
            raise InvalidArgumentError(f"{point['where']}: labels: expected a number or an object as before")
    names = {name for point in some for name in point["labels"]}
    columns = {name: [float(point["labels"].get(name, math.nan)) for point in some] for name in names}
    labels = columns.get(None, columns or None)
    vectors = np.array([point["vector"] for point in some], np.float64)
    return PointBatch(list(points), vectors, labels, [point["payload"] for point in some], done, total)


def _point(line: bytes, where: str) -> dict[str, Any]:
    try:
        point = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{where}: expected JSON: {error}") from error
    if not isinstance(point, dict) or not {"id", "vector"} <= point.keys() or point.keys() - set(_KEYS):
        raise InvalidArgumentError(
            f"{where}: expected an object with id and vector, and if need be payload and labels, got {line[:80]!r}"
        )
    own, vector, payload, labels = (point.get(key) for key in _KEYS)
    if isinstance(own, bool) or not isinstance(own, int | str):
        raise InvalidArgumentError(f"{where}: id: expected an integer or a text, got {own!r:.80}")
    if not isinstance(vector, list) or not vector or not all(_is_number(value) for value in vector):
        raise InvalidArgumentError(f"{where}: vector: expected a list of numbers, got {vector!r:.80}")
    if payload is not None and not isinstance(payload, dict):
        raise InvalidArgumentError(f"{where}: payload: expected an object, got {payload!r:.80}")
    marks = {} if labels is None else labels if isinstance(labels, dict) else {None: labels}
    if not all(_is_number(value) for value in marks.values()):
        raise InvalidArgumentError(f"{where}: labels: expected a number, or an object of numbers, got {labels!r:.80}")
    return {"id": own, "vector": vector, "payload": payload, "labels": marks, "where": where}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
