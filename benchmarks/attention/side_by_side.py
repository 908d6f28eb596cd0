"""One context, read in several ways at once: rows of a batch that differ in how they attend to what they share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from nearhash.attention.decoder import DecoderOptions, KVCache, KVStoreLayer
from nearhash.attention.store import KVStore


class SideBySideLayer(KVStoreLayer):
    """A layer of the decoder backend whose sequences have options of their own."""

    def __init__(self, source: KVStoreLayer, stores: list[KVStore], ways: Sequence[DecoderOptions]) -> None:
        super().__init__()
        self.layer, self.length = source.layer, source.length
        self.dtype, self.device, self.is_initialized = source.dtype, source.device, True
        self.stores, self.padding = stores, [0] * len(stores)
        self.ways = list(ways)
        self.shares: NDArray[np.float64] = np.zeros(len(ways))  # of the tokens read, added up over sampled steps
        self.steps = 0

    def attend(self, query: torch.Tensor, scaling: float | None) -> torch.Tensor:
        rows = []
        self.steps += 1
        for row, queries in enumerate(query[:, :, 0].float().numpy()):
            store, way = self.stores[row], self.ways[row]
            if self.layer in way.dense_layers or way.estimator == "dense":
                found = store.attend(queries, "dense", scale=scaling)
            else:
                found = store.attend(
                    queries, way.estimator, way.budget, way.sink, way.local, scaling, self.length, self.layer,
                    **way.options,
                )  # fmt: skip
            self.shares[row] += found.reads.mean() / len(store)
            rows.append(found.output)
        return torch.from_numpy(np.stack(rows)[:, None]).to(query.dtype)


class SideBySide:
    """A context that a model has read densely, forked whenever it is to be continued.

    Parameters
    ----------
    model
        With ``attn_implementation="nearhash"``.
    tokens : (n,) ints
    """

    def __init__(self, model: Any, tokens: Sequence[int]) -> None:
        self.model = model
        self._read = KVCache(model.config, dense_layers=(), dense_below=0)
        with torch.no_grad():
            self.logits = model(torch.tensor([list(tokens)]), past_key_values=self._read, logits_to_keep=1).logits[
                0, -1
            ]
        self._stores: dict[tuple[int, str], KVStore] = {}

    def fork(self, ways: Sequence[DecoderOptions]) -> DynamicCache:
        """A cache for a batch of rows, one for each of `ways`, that share what was read so far."""
        cache = DynamicCache(config=self.model.config)
        cache.layers = [
            SideBySideLayer(layer, [self._store(layer, way).fork() for way in ways], ways)
            for layer in self._read.layers
        ]
        return cache

    def _store(self, layer: KVStoreLayer, way: DecoderOptions) -> KVStore:
        """The store of a layer with codes of the kind that is asked for."""
        place = layer.layer, way.codec
        if place not in self._stores:
            (read,) = layer.stores or []
            keys, values = zip(*(read.read(head, np.arange(len(read))) for head in range(read.kv_heads)), strict=True)
            store = self._stores[place] = KVStore(
                read.kv_heads, read.head_dim, way.codec, read.dtype, way.seed, threads=way.threads
            )  # fmt: skip
            store.append(np.stack(keys), np.stack(values))
            store.retrieve(keys[0][:1].repeat(read.kv_heads, axis=0), budget=1, sink=0, local=way.local)  # makes codes
        return self._stores[place]


def step(model: Any, cache: DynamicCache, tokens: Sequence[int]) -> torch.Tensor:
    """Logits (rows, vocabulary) after one more token in each row."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor(tokens)[:, None], past_key_values=cache).logits[:, -1]
    return logits


def read_shares(cache: DynamicCache, sampled_layers: Sequence[int]) -> NDArray[np.float64]:
    """Share of the tokens (rows,) that each row has read in the layers that are sampled."""
    shares: NDArray[np.float64] = np.mean(
        [cache.layers[at].shares / cache.layers[at].steps for at in sampled_layers], 0
    )
    return shares
