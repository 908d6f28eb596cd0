"""The indexes that are compared, by name. Importing this imports none of their libraries."""

from benchmarks.peers.base import Effort, Lane, NotInstalledError, Peer, UnsuitableError, thread_limit
from benchmarks.peers.faiss_indexes import (
    FaissFlat,
    FaissHnsw,
    FaissIvfPq,
    FaissIvfPqHalf,
    FaissIvfPqResidual,
    FaissIvfPqResidualHalf,
    FaissIvfRabitq,
)
from benchmarks.peers.hnswlib_hnsw import HnswlibHnsw
from benchmarks.peers.nearhash_indexes import (
    NearhashFlat,
    NearhashGraphF32,
    NearhashGraphLvq4x8,
    NearhashGraphLvq8,
    NearhashIvf,
    NearhashIvfSpill,
)
from benchmarks.peers.scann_tree import ScannFewLeaves, ScannManyLeaves, ScannSoar, ScannTree
from benchmarks.peers.usearch_hnsw import UsearchBf16, UsearchF16, UsearchF32

PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        NearhashIvf,
        NearhashIvfSpill,
        NearhashGraphLvq8,
        NearhashGraphLvq4x8,
        NearhashGraphF32,
        NearhashFlat,
        HnswlibHnsw,
        FaissFlat,
        FaissHnsw,
        FaissIvfPq,
        FaissIvfPqHalf,
        FaissIvfPqResidual,
        FaissIvfPqResidualHalf,
        FaissIvfRabitq,
        ScannTree,
        ScannFewLeaves,
        ScannManyLeaves,
        ScannSoar,
        UsearchF32,
        UsearchF16,
        UsearchBf16,
    )
}

__all__ = ["PEERS", "Effort", "Lane", "NotInstalledError", "Peer", "UnsuitableError", "thread_limit"]
