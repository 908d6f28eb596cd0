"""ScaNN: partitioning tree, anisotropic 4-bit codes, exact reordering."""

import math
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.distances import normalised
from benchmarks.peers.base import Effort, Lane, Peer, UnsuitableError, rerank_lanes

MOST_CODES = 256  # of a vector


class ScannTree(Peer):
    """As ScaNN's guide advises and ann-benchmarks does; where several are possible, what was fastest here.

    The guide: leaves of the order of sqrt(n), two dimensions a code, reordering. ann-benchmarks
    (erikbern/ann-benchmarks, ann_benchmarks/algorithms/scann): about twice sqrt(n) leaves (2,000 for 1.2 million word
    vectors, 600 for 60,000 images), trained on all of the data, a spherical tree for cosine, an anisotropic threshold
    of .2 for inner products and none for l2, and four dimensions a code for images: beyond 256 codes ScaNN cannot keep
    the sums of a query in 16 bits (MNIST: half as fast again with four as with two). Centroids are not quantised, the
    builder's default: for batches it is 1.2 to 1.5 times as fast. The guide would not partition below 100,000
    points; with a tree ScaNN is several times faster on 60,000 images, so it has one here.
    """

    name = "scann"
    package = "scann"
    family = "scann"
    leaves_factor: ClassVar[float] = 2.0
    spilling: ClassVar[dict[str, float]] = {}
    reference = "https://github.com/google-research/google-research/blob/master/scann/docs/algorithms.md"

    def build(self, base: NDArray[Any], metric: str, threads: int) -> None:
        import scann

        self.normalises = metric == "cosine"
        rows = normalised(base) if self.normalises else base
        n = len(rows)
        self.leaves = max(1, round(self.leaves_factor * math.sqrt(n)))
        euclidean = metric == "l2"
        if euclidean and self.spilling:
            raise UnsuitableError("ScaNN spills for inner products and cosine only")
        threshold = math.nan if euclidean else 0.2
        dimensions = max(2, math.ceil(base.shape[1] / MOST_CODES))
        self.index = (
            scann.scann_ops_pybind.builder(rows, 10, "squared_l2" if euclidean else "dot_product")
            .set_n_training_threads(threads)
            .tree(self.leaves, 1, training_sample_size=n, spherical=self.normalises, **self.spilling)
            .score_ah(dimensions, anisotropic_quantization_threshold=threshold)
            .reorder(100)
            .build()
        )
        self.parameters = {
            "leaves": self.leaves,
            "dimensions_per_block": dimensions,
            "anisotropic_quantization_threshold": None if euclidean else threshold,
            **self.spilling,
        }

    def lanes(self, k: int) -> list[Lane]:
        return rerank_lanes("leaves_to_search", self.leaves, "reorder", k)

    def convert(self, queries: NDArray[Any]) -> NDArray[Any]:
        return normalised(queries) if self.normalises else queries

    def search(self, queries: NDArray[Any], k: int, effort: Effort, threads: int = 1) -> NDArray[Any]:
        ask = self.index.search_batched if threads == 1 else self.index.search_batched_parallel
        if threads > 1:
            self.index.set_num_threads(threads)
        ids, distances = ask(queries, k, effort["reorder"], effort["leaves_to_search"])
        # Where a row has fewer than k results ScaNN fills up with id 0 at distance NaN.
        return np.where(np.isfinite(distances), np.asarray(ids).astype(np.int64), -1)

    def nbytes(self) -> int | None:
        """Bytes of its files: ScaNN does not count what it holds, and its files are what it holds."""
        with tempfile.TemporaryDirectory(prefix="nearhash-scann-") as folder:
            self.index.serialize(folder)
            return sum(file.stat().st_size for file in Path(folder).iterdir())


class ScannFewLeaves(ScannTree):
    name = "scann-1"
    leaves_factor = 1.0


class ScannManyLeaves(ScannTree):
    name = "scann-4"
    leaves_factor = 4.0


class ScannSoar(ScannTree):
    """Each vector in a second leaf, by the orthogonality-amplified loss (SOAR, Sun et al., NeurIPS 2023).

    The builder advises no lambda for the tree; 1.5 is its default where it has one, for the upper tree.
    """

    name = "scann-soar"
    spilling: ClassVar[dict[str, float]] = {"soar_lambda": 1.5}
