"""Approximate nearest neighbours and hashing for retrieval.

Everything heavy (numba, grpc) loads on first use: ``import nearhash`` itself imports none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearhash import attention, hashing, where
    from nearhash.index.dedup import deduplicate
    from nearhash.index.disk import DiskIndex
    from nearhash.index.faiss_files import read_faiss
    from nearhash.index.flat import FlatIndex
    from nearhash.index.graph import GraphIndex
    from nearhash.index.hamming import HammingIndex
    from nearhash.index.hits import Hits, RangeHits
    from nearhash.index.ivf import IVFIndex
    from nearhash.index.load import load
    from nearhash.index.minhash_lsh import MinHashLSH
    from nearhash.service.async_client import AsyncClient
    from nearhash.service.client import Client
    from nearhash.service.connection import TLS
    from nearhash.service.engine.collection import Collection
    from nearhash.service.engine.document_collection import DocumentCollection

__version__ = "0.1.0"

_HOME = {
    "AsyncClient": "nearhash.service.async_client",
    "Client": "nearhash.service.client",
    "Collection": "nearhash.service.engine.collection",
    "DocumentCollection": "nearhash.service.engine.document_collection",
    "DiskIndex": "nearhash.index.disk",
    "FlatIndex": "nearhash.index.flat",
    "GraphIndex": "nearhash.index.graph",
    "HammingIndex": "nearhash.index.hamming",
    "Hits": "nearhash.index.hits",
    "IVFIndex": "nearhash.index.ivf",
    "LSHIndex": "nearhash.index.lsh",
    "MinHashLSH": "nearhash.index.minhash_lsh",
    "RangeHits": "nearhash.index.hits",
    "TLS": "nearhash.service.connection",
    "WindowIndex": "nearhash.index.window",
    "attention": "nearhash.attention",
    "deduplicate": "nearhash.index.dedup",
    "errors": "nearhash.errors",
    "hashing": "nearhash.hashing",
    "load": "nearhash.index.load",
    "read_faiss": "nearhash.index.faiss_files",
    "where": "nearhash.where",
}
_MODULES = ("attention", "errors", "hashing", "where")

__all__ = [
    "TLS",
    "AsyncClient",
    "Client",
    "Collection",
    "DiskIndex",
    "DocumentCollection",
    "FlatIndex",
    "GraphIndex",
    "HammingIndex",
    "Hits",
    "IVFIndex",
    "LSHIndex",
    "MinHashLSH",
    "RangeHits",
    "WindowIndex",
    "__version__",
    "attention",
    "deduplicate",
    "errors",
    "hashing",
    "load",
    "read_faiss",
    "where",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nearhash' has no attribute {name!r}")
    module = import_module(_HOME[name])
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
