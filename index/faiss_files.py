"""Index files of faiss, read into an IVFIndex."""

from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.arguments import as_float32
from nearhash.index.ivf import IVFIndex

UNIT = 1e-3  # how much the length of a unit vector may differ from 1


class _Content(NamedTuple):
    """What a faiss index holds: centroids (lists, dim), and of each vector, by id: vector, id, list."""

    metric: str
    centroids: NDArray[np.float32]
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    numbers: NDArray[np.int32]


def read_faiss(
    path: str | PathLike[str],
    metric: str | None = None,
    codec: str = "pq4",
    seed: int = 0,
    threads: int | None = None,
) -> IVFIndex:
    """Read an inverted-file index that faiss wrote (``faiss.write_index``).

    Centroids, the list of every vector, vectors and ids are taken over as they are; only the codes that our kernels
    scan are learned anew. So the same lists are read for the same number of probes, and with `rerank` high enough the
    results are those of faiss.

    Parameters
    ----------
    path : path
        A local file **that you trust**: it is read by the faiss library, which does not defend itself against hostile
        files.
    metric : {"l2", "ip", "cosine"}, optional
        By default that of the file. "cosine" may be given for inner products of unit vectors, which faiss cannot tell.
    codec, seed, threads
        Of the IVFIndex.

    Returns
    -------
    IVFIndex

    Raises
    ------
    CorruptIndexError
        If faiss cannot read the file.
    InvalidArgumentError
        If it holds anything but IndexIVFFlat, IndexIVFPQ (of any number of bits), IndexIVFPQFastScan, or one of these
        under an IndexRefineFlat; if it is empty; if the metric does not fit.

    Notes
    -----
    Of a product-quantised index without IndexRefineFlat there are only codes. They are decoded: distances are those
    to the decoded vectors, which is what faiss computes, and memory is that of float32 vectors.
    """
    import faiss

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        index = faiss.read_index(fspath(path))
    except RuntimeError as error:
        raise CorruptIndexError(f"{path}: faiss cannot read it: {' '.join(str(error).split())[-200:]}") from error
    content = _content(index, fspath(path))
    wanted = _metric(content, metric)
    result = IVFIndex(
        content.vectors.shape[1], wanted, lists=len(content.centroids), codec=codec, seed=seed, threads=threads
    )
    result._take(content.vectors, content.ids, content.centroids, content.numbers)
    return result


def _metric(content: _Content, metric: str | None) -> str:
    if metric is None or metric == content.metric:
        return content.metric
    if metric == "cosine" and content.metric == "ip":
        lengths = np.linalg.norm(content.vectors, axis=1)
        if np.abs(lengths - 1).max() <= UNIT:
            return metric
        raise InvalidArgumentError(
            f"metric: 'cosine' needs unit vectors, got lengths from {lengths.min():g} to {lengths.max():g}"
        )
    raise InvalidArgumentError(f"metric: expected {content.metric!r}, which is that of the file, got {metric!r}")


def _content(index: Any, path: str) -> _Content:
    """Vectors in the order of their ids, so that ties come in that order."""
    import faiss

    exact: NDArray[np.float32] | None = None
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefineFlat):
        flat = faiss.downcast_index(index.refine_index)
        exact = flat.reconstruct_n(0, flat.ntotal)
        index = faiss.downcast_index(index.base_index)
    if not isinstance(index, faiss.IndexIVFFlat | faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan):
        raise InvalidArgumentError(
            f"{path}: expected IndexIVFFlat, IndexIVFPQ or IndexIVFPQFastScan, also under IndexRefineFlat, "
            f"got {type(index).__name__}"
        )
    metrics = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "ip"}
    if index.metric_type not in metrics or index.quantizer.metric_type != index.metric_type:
        raise InvalidArgumentError(
            f"{path}: expected L2 or inner product for vectors and centroids alike, got faiss metrics "
            f"{index.metric_type} and {index.quantizer.metric_type}"
        )
    if not index.ntotal:
        raise InvalidArgumentError(f"{path}: expected an index that holds vectors, got an empty one")
    centroids = as_float32(index.quantizer.reconstruct_n(0, index.nlist), "centroids")
    lists = _plain_lists(index)
    ids, numbers, vectors = [], [], []
    for number in range(index.nlist):
        size = lists.list_size(number)
        if size:
            own = faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
            ids.append(own)
            numbers.append(np.full(size, number, np.int32))
            vectors.append(_decoded(index, lists, number, size, centroids) if exact is None else _rows(exact, own))
    everything = np.concatenate(ids)
    order = np.argsort(everything, kind="stable")
    found = as_float32(np.concatenate(vectors)[order], "vectors")
    return _Content(metrics[index.metric_type], centroids, found, everything[order], np.concatenate(numbers)[order])


def _rows(exact: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """The vectors that IndexRefineFlat keeps for some ids, which it counts from 0."""
    if ids.min() < 0 or ids.max() >= len(exact):
        raise CorruptIndexError(f"ids: expected those of the {len(exact):,} vectors of the refinement")
    return exact[ids]


def _plain_lists(index: Any) -> Any:
    """Lists of codes one after the other; fast scan has them interleaved."""
    import faiss

    if not isinstance(index, faiss.IndexIVFPQFastScan):
        return index.invlists
    index.orig_invlists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    index.reconstruct_orig_invlists()
    return index.orig_invlists


def _decoded(index: Any, lists: Any, number: int, size: int, centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (size, dim) that the codes of a list stand for."""
    import faiss

    width = lists.code_size
    codes = faiss.rev_swig_ptr(lists.get_codes(number), size * width).reshape(size, width).copy()
    if isinstance(index, faiss.IndexIVFFlat):
        return codes.view(np.float32)
    decoded: NDArray[np.float32] = index.pq.decode(codes)
    return decoded + centroids[number] if index.by_residual else decoded
