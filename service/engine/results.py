"""What reads and writes of collections return, embedded and over gRPC alike. Imports neither grpc nor numba."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PointId = int | str


class Written(NamedTuple):
    """The answer to an upsert.

    Attributes
    ----------
    written : int
        Points written.
    replaced : int
        How many of them were there before.
    sequence : int
        Number of the write in its collection; rises with each.
    """

    written: int
    replaced: int
    sequence: int


class Deleted(NamedTuple):
    """The answer to a deletion: how many of the ids were there, and the number of the write."""

    deleted: int
    sequence: int


class Point(NamedTuple):
    """A point of a collection.

    Attributes
    ----------
    id : int or str
    labels : dict of str to float
        Of the label fields that the point has a value for.
    payload : dict or None
        None also where it was not asked for.
    vector : (dim,) float32 or None
        As it was given; None where it was not asked for.
    """

    id: PointId
    labels: dict[str, float]
    payload: dict[str, Any] | None
    vector: NDArray[np.float32] | None


class Found(NamedTuple):
    """The nearest points of a batch of queries.

    Attributes
    ----------
    ids : (q, k) int64, or object
        Ids by distance, -1 where fewer than k points match. If any of them is a text: objects, int, str, or None.
    distances : (q, k) float32
        Ascending; inf where there is no point. l2: squared Euclidean; cosine: 1 - cos; ip: -<q, x>.
    payloads : list of q lists of k dicts or None, or None
        If asked for.
    vectors : (q, k, dim) float32 or None
        If asked for; zeros where there is no point.
    """

    ids: NDArray[Any]
    distances: NDArray[np.float32]
    payloads: list[list[dict[str, Any] | None]] | None = None
    vectors: NDArray[np.float32] | None = None


class Page(NamedTuple):
    """Some points of a scroll, and the cursor to go on after them."""

    points: list[Point]
    cursor: str


class SnapshotInfo(NamedTuple):
    """A snapshot of a collection.

    Attributes
    ----------
    name : str
    collection : str
        The collection that it was made of.
    bytes : int
        On the disk.
    created : float
        Seconds since 1970.
    """

    name: str
    collection: str
    bytes: int
    created: float


class Duplicates(NamedTuple):
    """Documents that are similar to each of some others; those of number i are at ``indptr[i]:indptr[i + 1]``.

    Attributes
    ----------
    indptr : (n + 1,) int64
    ids : (total,) int64, or object
        The most similar ones first, then by age. If any id is a text: objects, int and str.
    similarities : (total,) float32
        Estimates of the Jaccard similarity.
    """

    indptr: NDArray[np.int64]
    ids: NDArray[Any]
    similarities: NDArray[np.float32]


class Checked(NamedTuple):
    """The answer to `DocumentCollection.check_and_add`.

    Attributes
    ----------
    added : (n,) bool
        Whether the document is new, and was added.
    duplicates : Duplicates
        Of those that were not: what they are similar to.
    sequence : int
        Number of the write.
    """

    added: NDArray[np.bool_]
    duplicates: Duplicates
    sequence: int


def id_array(ids: list[PointId]) -> NDArray[Any]:
    """Ids as int64 if all of them are numbers, else as objects."""
    if all(isinstance(one, int) for one in ids):
        return np.array(ids, np.int64)
    array = np.empty(len(ids), object)
    array[:] = ids
    return array
