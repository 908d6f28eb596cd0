"""nearhash's own indexes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Effort, Lane, Peer, rerank_lanes

if TYPE_CHECKING:
    from nearhash import FlatIndex, GraphIndex, IVFIndex


class NearhashFlat(Peer):
    name = "nearhash-flat"
    package = "nearhash"
    reference = "docs/design.md"
    index: "FlatIndex"

    def prepare(self) -> None:
        compile_ahead(NearhashFlat())

    def build(self, base: NDArray[Any], metric: str, threads: int) -> None:
        import nearhash as nh

        self.index = nh.FlatIndex(base.shape[1], metric=metric)
        self.index.add(base)
        self.parameters = {"dtype": "float32"}

    def lanes(self, k: int) -> list[Lane]:
        return []

    def search(self, queries: NDArray[Any], k: int, effort: Effort, threads: int = 1) -> NDArray[Any]:
        return self.index.search(queries, k, threads=threads, **effort).ids

    def nbytes(self) -> int | None:
        return self.index.nbytes


class NearhashGraph(Peer):
    """GraphIndex with its default degree and build beam."""

    package = "nearhash"
    reference = "docs/design.md"
    codec: str
    index: "GraphIndex"

    def prepare(self) -> None:
        compile_ahead(type(self)())

    def build(self, base: NDArray[Any], metric: str, threads: int) -> None:
        import nearhash as nh

        self.index = nh.GraphIndex(base.shape[1], metric=metric, codec=self.codec, threads=threads)
        self.index.add(base)
        self.parameters = {
            "codec": self.codec,
            "degree": self.index.degree,
            "build_beam": self.index.build_beam,
            "seed": self.index.seed,
        }

    def lanes(self, k: int) -> list[Lane]:
        from nearhash.index.graph import SLACKS

        return [Lane("beam", k, 4096, {"slack": slack}) for slack in SLACKS]

    def search(self, queries: NDArray[Any], k: int, effort: Effort, threads: int = 1) -> NDArray[Any]:
        return self.index.search(queries, k, threads=threads, **effort).ids

    def nbytes(self) -> int | None:
        return self.index.nbytes


class NearhashGraphLvq8(NearhashGraph):
    name = "nearhash-graph-lvq8"
    codec = "lvq8"


class NearhashGraphLvq4x8(NearhashGraph):
    name = "nearhash-graph-lvq4x8"
    codec = "lvq4x8"


class NearhashGraphF32(NearhashGraph):
    name = "nearhash-graph-f32"
    codec = "f32"


class NearhashIvf(Peer):
    """IVFIndex with its default number of lists."""

    name = "nearhash-ivf"
    package = "nearhash"
    reference = "docs/design.md"
    family = "nearhash-ivf"
    spill = False
    index: "IVFIndex"

    def prepare(self) -> None:
        compile_ahead(type(self)())

    def build(self, base: NDArray[Any], metric: str, threads: int) -> None:
        import nearhash as nh

        self.index = nh.IVFIndex(base.shape[1], metric=metric, spill=self.spill, threads=threads)
        self.index.add(base)
        facts = self.index.info()
        self.parameters = {name: facts[name] for name in ("trained_lists", "codec", "spill", "seed")}

    def lanes(self, k: int) -> list[Lane]:
        return rerank_lanes("probes", self.parameters["trained_lists"], "rerank", k)

    def search(self, queries: NDArray[Any], k: int, effort: Effort, threads: int = 1) -> NDArray[Any]:
        return self.index.search(queries, k, threads=threads, **effort).ids

    def nbytes(self) -> int | None:
        return self.index.nbytes


class NearhashIvfSpill(NearhashIvf):
    name = "nearhash-ivf-spill"
    spill = True


def compile_ahead(peer: Peer) -> None:
    """Build and search a small index of each metric, so that no measurement contains a compilation."""
    vectors = np.random.default_rng(0).standard_normal((2000, 32)).astype(np.float32)
    for metric in ("l2", "ip", "cosine"):
        peer.build(vectors, metric, 2)
        for queries in (vectors, vectors[:1]):
            peer.search(queries, 10, {})
