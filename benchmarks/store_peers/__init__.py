"""Stores that ``benchmarks.stores`` compares, each behind the interface of `base.Store`, each in a process of its own.

Modules of stores import their libraries when they are made, so that a worker needs only what its own store needs.
"""

from importlib import import_module

from benchmarks.store_peers.base import Store

# name -> module, class, and the arguments that make it
STORES = {
    "nearhash": ("nearhash_store", "Embedded", {}),
    "nearhash, gRPC": ("nearhash_store", "Served", {}),
    "pgvector": ("pgvector_store", "Pgvector", {}),
    "LanceDB, IVF_HNSW_SQ": ("lance_store", "Lance", {"kind": "IVF_HNSW_SQ"}),
    "LanceDB, IVF_PQ": ("lance_store", "Lance", {"kind": "IVF_PQ"}),
    "Chroma": ("chroma_store", "Chroma", {}),
    "Milvus Lite, HNSW": ("milvus_store", "Milvus", {"kind": "HNSW"}),
    "Milvus Lite, IVF_FLAT": ("milvus_store", "Milvus", {"kind": "IVF_FLAT"}),
}


def make_store(name: str) -> Store:
    """A store by its name; ImportError if its library is not installed."""
    module, kind, arguments = STORES[name]
    store: Store = getattr(import_module(f"benchmarks.store_peers.{module}"), kind)(**arguments)
    return store
