"""Data and indexes shared by the tests of indexes. Session-wide indexes are for searching only."""

import numpy as np
import pytest

import nearhash as nh

DIM = 24
METRICS = ["l2", "ip", "cosine"]
KINDS = [
    "flat",
    "flat-f16",
    "graph-lvq8",
    "graph-f32",
    "graph-lvq4x8",
    "ivf-pq4",
    "ivf-spill",
    "ivf-f16",
    "window-pq4",
    "window-f16",
    "lsh",
]

INEXACT = {"graph-lvq4x8"}  # they keep no vectors, and distances are those of what is left of them


def clustered(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    """Points around 20 centres, with norms that differ: hard enough that recall means something."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((20, dim)) * 2
    return (centres[rng.integers(0, 20, count)] + rng.standard_normal((count, dim))).astype(np.float32)


def make(kind: str, metric: str = "l2", dim: int = DIM, **options):
    if kind.startswith("flat"):
        return nh.FlatIndex(dim, metric, dtype="float16" if kind == "flat-f16" else "float32")
    if kind.startswith("ivf"):
        codec, store = ("lvq8", "f16") if kind == "ivf-f16" else ("pq4", "f32")
        return nh.IVFIndex(dim, metric, codec=codec, store=store, spill=kind == "ivf-spill", **options)
    if kind.startswith("window"):
        codec, store = ("lvq8", "f16") if kind == "window-f16" else ("pq4", "f32")
        return nh.WindowIndex(dim, metric, codec=codec, store=store, **options)
    if kind == "lsh":
        return nh.LSHIndex(dim, metric, tables=32, **options)
    return nh.GraphIndex(dim, metric, codec=kind.removeprefix("graph-"), degree=16, build_beam=48, **options)


def effort(kind: str) -> dict[str, int]:
    """Arguments of a search that finds nearly all."""
    return {"beam": 128} if kind.startswith(("graph", "window")) else {"probes": 512} if kind == "lsh" else {}


def exact_distances(base: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """(q, n) float64 distances, written down from their definitions."""
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return ((queries[:, None] - base[None]) ** 2).sum(-1)
    if metric == "ip":
        return -queries @ base.T

    def unit(x):
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        return np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)

    return 1 - unit(queries) @ unit(base).T


def recall(ids: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean([len(set(a) & set(b)) / max(1, len(b)) for a, b in zip(ids.tolist(), truth.tolist(), strict=True)])
    )


@pytest.fixture(scope="session")
def base():
    return clustered(1500, 0)


@pytest.fixture(scope="session")
def queries():
    return clustered(40, 1)


@pytest.fixture(scope="session")
def labels():
    """A permutation of 0 .. 1499, so that a window's width is its number of vectors."""
    return np.random.default_rng(5).permutation(1500).astype(np.float64)


@pytest.fixture(scope="session")
def built(base, labels):
    """built(kind, metric): an index over `base`, made once a session."""
    cache = {}

    def get(kind, metric="l2"):
        if (kind, metric) not in cache:
            index = make(kind, metric)
            index.add(base, labels=labels)
            cache[kind, metric] = index
        return cache[kind, metric]

    return get
