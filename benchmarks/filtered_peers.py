"""Indexes that search under a filter, ours and faiss."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import Dataset
from benchmarks.filter_cases import Case, Filter
from benchmarks.peers import Effort, Peer
from benchmarks.peers.faiss_indexes import FaissIvfPqResidualHalf
from benchmarks.peers.nearhash_indexes import NearhashIvf

if TYPE_CHECKING:
    from nearhash import IVFIndex

WIDER = 1.25  # step of the effort, where a filter needs more of it
Ids = NDArray[np.int64]


class FilteredPeer(ABC):
    """An index over the base of a data set whose searches take filters.

    Attributes
    ----------
    kinds : names of the filters that it takes for a batch of queries.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def peer(self) -> Peer:
        """The index without filters."""

    @abstractmethod
    def prepare(self, data: Dataset, case: Case) -> None:
        """Make the labels or columns of a case known to the index; not timed."""

    @abstractmethod
    def search(self, queries: NDArray[Any], k: int, wanted: Filter | None, effort: Effort) -> Ids:
        """Ids (q, k), on one thread; the filter as the user has it, so that what it costs to pass it on is timed."""

    @abstractmethod
    def wider(self, effort: Effort) -> Iterator[Effort]:
        """This effort and higher ones, ever higher, to the highest that there is."""


class NearhashFiltered(FilteredPeer):
    name = "nearhash-ivf"
    kinds = ("window", "where", "allow")

    def __init__(self) -> None:
        self._plain = NearhashIvf()
        self._index: IVFIndex | None = None

    @property
    def peer(self) -> Peer:
        return self._plain

    def prepare(self, data: Dataset, case: Case) -> None:
        import nearhash as nh

        attributes = {"column": case.labels} if case.kind == "where" else None
        labels = case.labels if case.kind == "window" else None
        self._index = nh.IVFIndex(data.base.shape[1], metric=data.metric, threads=2)
        self._index.add(data.base, labels=labels, attributes=attributes)

    def search(self, queries: NDArray[Any], k: int, wanted: Filter | None, effort: Effort) -> Ids:
        from nearhash import where

        assert self._index is not None
        filters: dict[str, Any] = {}
        if wanted is not None and wanted.kind == "window":
            filters = {"window": wanted.windows}
        elif wanted is not None and wanted.kind == "where" and wanted.bounds is not None:
            filters = {"where": where.range("column", *wanted.bounds)}
        elif wanted is not None:
            filters = {"allow": wanted.mask}
        return self._index.search(queries, k, threads=1, **filters, **effort).ids

    def wider(self, effort: Effort) -> Iterator[Effort]:
        most = self._plain.parameters["trained_lists"]
        probes = effort["probes"]
        while True:
            yield {**effort, "probes": probes}
            if probes == most:
                break
            probes = min(most, max(probes + 1, round(probes * WIDER)))


class FaissFiltered(FilteredPeer):
    """The fastest of faiss's partition indexes, with a bitmap of what may answer.

    faiss takes one filter for all queries of a batch, so windows that differ by query are not for it. Where nprobe
    reaches all lists without enough recall, k_factor doubles.
    """

    name = "faiss-ivfpqr-2"
    kinds = ("where", "allow")
    most_k_factor = 1024

    def __init__(self) -> None:
        self._plain = FaissIvfPqResidualHalf()

    @property
    def peer(self) -> Peer:
        return self._plain

    def prepare(self, data: Dataset, case: Case) -> None:
        self._column = case.labels

    def search(self, queries: NDArray[Any], k: int, wanted: Filter | None, effort: Effort) -> Ids:
        import faiss

        if wanted is None:
            return self._plain.search(queries, k, effort)
        mask = wanted.mask
        if wanted.kind == "where" and wanted.bounds is not None:
            mask = (self._column >= wanted.bounds[0]) & (self._column < wanted.bounds[1])
        assert mask is not None
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        lists = faiss.SearchParametersIVF(sel=selector, nprobe=effort["nprobe"])
        parameters = faiss.IndexRefineSearchParameters(k_factor=effort["k_factor"], base_index_params=lists)
        faiss.omp_set_num_threads(1)
        _, ids = self._plain.index.search(queries, k, params=parameters)
        return np.asarray(ids)

    def wider(self, effort: Effort) -> Iterator[Effort]:
        most, probes, factor = self._plain.lists, effort["nprobe"], effort["k_factor"]
        while True:
            yield {"nprobe": probes, "k_factor": factor}
            if probes < most:
                probes = min(most, max(probes + 1, round(probes * WIDER)))
            elif factor < self.most_k_factor:
                factor *= 2
            else:
                break
