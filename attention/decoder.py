"""Attention retrieval in the decoders of transformers: ``attn_implementation="nearhash"``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nearhash.attention.arguments import check_reading
from nearhash.attention.batch import attend_batch
from nearhash.attention.results import Attention
from nearhash.attention.store import KVStore
from nearhash.errors import InvalidArgumentError, MissingExtraError
from nearhash.index.arguments import check_count

try:
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
    from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, DynamicLayer
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask
except ModuleNotFoundError as error:
    if error.name not in ("torch", "transformers"):
        raise
    raise MissingExtraError(f"decoders need {error.name}: pip install nearhash[attention]") from error

NAME = "nearhash"
"""The name by which transformers knows this attention."""

_FULL = "full_attention"
_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_TAG = "_nearhash_layer"  # attribute of the keys that a layer hands to the attention function


@dataclass(frozen=True)
class DecoderOptions:
    """How decoders attend to what they have read.

    Parameters
    ----------
    estimator, budget, sink, local
        As for `KVStore.attend`.
    options
        Further ones of the estimator, such as ``{"eps": 0.1}``.
    codec, dtype, seed, memory_limit, threads
        As for `KVStore`; dtype None stands for that of the model.
    dense_layers
        Layers that read everything.
    dense_below
        Tokens up to which everything is read: short contexts gain nothing.
    """

    estimator: str = "priority"
    budget: float | int = 0.05
    sink: int = 4
    local: int = 16
    options: dict[str, Any] = field(default_factory=dict)
    codec: str = "lvq4"
    dtype: str | None = None
    seed: int = 0
    memory_limit: int | None = None
    threads: int | None = None
    dense_layers: frozenset[int] = frozenset({0, 1})
    dense_below: int = 1024

    def __post_init__(self) -> None:
        check_reading(self.estimator, self.budget, self.sink, self.local, None, 0, 0, 64, self.options)
        check_count(self.dense_below, "dense_below", least=0)
        KVStore(1, 8, self.codec, self.dtype or "float32", self.seed, self.memory_limit, self.threads)
        if not all(isinstance(layer, int) and layer >= 0 for layer in self.dense_layers):
            raise InvalidArgumentError(f"dense_layers: expected numbers of layers, got {set(self.dense_layers)!r:.80}")


_default = DecoderOptions()


def register(**options: Any) -> None:
    """Make ``attn_implementation="nearhash"`` known to transformers.

    A prompt is read densely, by torch's attention. From then on keys and values are in a `KVStore` for each sequence
    and layer, and a step of one token reads what their codes choose. ``generate()`` needs nothing else: the caches
    that it makes find out by themselves that their model attends in this way. Caches of other models stay as they are.

    Parameters
    ----------
    options
        Of `DecoderOptions`, for caches that are not given others (`KVCache`). May be called again to change them.

    Raises
    ------
    InvalidArgumentError
        An option is unknown or impossible.
    MissingExtraError
        transformers or torch is not installed.
    """
    global _default
    _default = as_options(options)
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # without one, prompts in several parts would not be causal
    DYNAMIC_LAYER_TYPE_MAPPING[_FULL] = KVStoreLayer


def as_options(given: dict[str, Any], base: DecoderOptions | None = None) -> DecoderOptions:
    """Options by name."""
    known = DecoderOptions.__dataclass_fields__
    for name in given:
        if name not in known:
            raise InvalidArgumentError(f"{name}: expected an option of {', '.join(known)}")
    if "dense_layers" in given:
        layers: Iterable[int] = given["dense_layers"]
        given = {**given, "dense_layers": frozenset(layers)}
    return replace(base or DecoderOptions(), **given)


class KVStoreLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer: a stock layer until "nearhash" attends to it, from then on a store a sequence."""

    keys: Any
    values: Any

    def __init__(self, options: DecoderOptions | None = None) -> None:
        super().__init__()
        self._options = options
        self.stores: list[KVStore] | None = None
        self.options = _default
        self.reads = self.tokens = 0  # of all sampled steps, heads and sequences
        self.probe: list[float] | None = None  # relative errors of sampled steps, which are then answered densely

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens (batch, kv_heads, n, d).

        Returns what attention functions take: all keys and values, but for a single token where there are stores that
        token alone, as only "nearhash" reads on and reads the stores.
        """
        if self.stores is None:
            keys, values = super().update(key_states, value_states, *args, **kwargs)
        else:
            self._append(key_states, value_states)
            keys, values = (key_states, value_states) if key_states.shape[2] == 1 else self.read()
        keys = keys.view(keys.shape)  # an object of its own, that goes when the step is over
        setattr(keys, _TAG, self)
        return keys, values

    def adopt(self, layer: int) -> None:
        """Move what was read so far to stores."""
        self.options = self._options or _default
        self.layer = layer
        keys, values = self.keys, self.values
        batch, heads, self.length, dim = keys.shape
        dtype = self.options.dtype or _DTYPES.get(keys.dtype, "float32")
        self.stores = [
            KVStore(
                heads, dim, self.options.codec, dtype, self.options.seed + row, self.options.memory_limit,
                self.options.threads,
            )
            for row in range(batch)
        ]  # fmt: skip
        self.padding = [0] * batch
        for row, store in enumerate(self.stores):
            store.append(keys[row], values[row])
        self.keys = self.values = None

    def _append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        assert self.stores is not None
        for row, store in enumerate(self.stores):
            store.append(keys[row], values[row])
        self.length += keys.shape[2]

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values (batch, kv_heads, n, d), padding as zeros."""
        assert self.stores is not None
        shape = (len(self.stores), self.stores[0].kv_heads, self.length, self.stores[0].head_dim)
        keys, values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, store in enumerate(self.stores):
            for head in range(store.kv_heads):
                start = self.padding[row]
                keys[row, head, start:], values[row, head, start:] = store.read(head, np.arange(len(store)))
        device = {"dtype": self.dtype, "device": self.device}
        return torch.from_numpy(keys).to(**device), torch.from_numpy(values).to(**device)

    def skip_padding(self, allowed: torch.Tensor) -> bool:
        """Let go of tokens that are padding in front, by a mask (batch, n); False where others are masked, too."""
        assert self.stores is not None
        columns = allowed.cpu().numpy()
        starts = columns.argmax(axis=1)
        if (columns.sum(axis=1) != columns.shape[1] - starts).any():
            return False
        for row, start in enumerate(starts.tolist()):
            if start == self.padding[row]:
                continue
            if start < self.padding[row]:
                return False
            old = self.stores[row]
            kept = [old.read(head, np.arange(start - self.padding[row], len(old))) for head in range(old.kv_heads)]
            old.truncate(0)
            old.append(np.stack([keys for keys, _ in kept]), np.stack([values for _, values in kept]))
            self.padding[row] = start
        return True

    def attend(self, query: torch.Tensor, scaling: float | None) -> torch.Tensor:
        """Attention of one token for each sequence: query (batch, q_heads, 1, d) to (batch, 1, q_heads, d)."""
        assert self.stores is not None
        options, every = self.options, query[:, :, 0].float().cpu().numpy()
        outputs = np.empty(every.shape, np.float32)
        sampled: list[int] = []
        whole: list[int] = []
        for row, store in enumerate(self.stores):
            few = self.layer in options.dense_layers or len(store) <= options.dense_below
            (whole if few else sampled).append(row)
        for row, found in zip(whole, self._dense(whole, every, scaling), strict=True):
            outputs[row] = found.output
        results = attend_batch(
            [self.stores[row] for row in sampled], every[sampled], options.estimator, options.budget, options.sink,
            options.local, scaling, self.length, self.layer, options.threads, **options.options,
        )  # fmt: skip
        for row, found in zip(sampled, results, strict=True):
            self.reads += int(found.reads.sum())
            self.tokens += len(self.stores[row]) * self.stores[row].kv_heads
            outputs[row] = found.output
        if self.probe is not None:
            for row, found in zip(sampled, self._dense(sampled, every, scaling), strict=True):
                norms = np.linalg.norm(found.output, axis=1)
                distances = np.linalg.norm(outputs[row] - found.output, axis=1)
                self.probe.extend(np.divide(distances, norms, out=np.zeros_like(norms), where=norms > 0).tolist())
                outputs[row] = found.output
        return torch.from_numpy(outputs[:, None]).to(dtype=query.dtype, device=query.device)

    def _dense(self, rows: list[int], queries: Any, scaling: float | None) -> list[Attention]:
        """Attention over all tokens of some sequences; queries (batch, q_heads, d)."""
        assert self.stores is not None
        stores = [self.stores[row] for row in rows]
        return attend_batch(stores, queries[rows], "dense", scale=scaling, threads=self.options.threads)

    # --- what caches are asked for ---

    def get_seq_length(self) -> int:
        return int(super().get_seq_length()) if self.stores is None else self.length

    def reset(self) -> None:
        self._close(self.stores or ())
        self.stores = None
        super().reset()

    def crop(self, tokens_to_remove: int) -> None:
        if self.stores is None or tokens_to_remove > 0:
            super().crop(tokens_to_remove)
            return
        for store in self.stores:
            store.truncate(max(len(store) + tokens_to_remove, 0))
        self.length = max(self.length + tokens_to_remove, 0)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        if self.stores is None:
            super().reorder_cache(beam_idx)
        else:
            self._select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.stores is None:
            super().batch_repeat_interleave(repeats)
        else:
            self._select([row for row in range(len(self.stores)) for _ in range(repeats)])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.stores is None:
            super().batch_select_indices(indices)
        else:
            chosen = torch.arange(len(self.stores))[indices.cpu()]
            self._select(chosen.tolist())

    def offload(self) -> None:
        if self.stores is None:
            super().offload()

    def prefetch(self) -> None:
        if self.stores is None:
            super().prefetch()

    def _select(self, rows: list[int]) -> None:
        """The sequences of these rows, in this order; one that stands several times is forked."""
        assert self.stores is not None
        old, taken = self.stores, set[int]()
        self.stores = []
        for row in rows:
            self.stores.append(old[row].fork() if row in taken else old[row])
            taken.add(row)
        self.padding = [self.padding[row] for row in rows]
        self._close(store for row, store in enumerate(old) if row not in taken)

    @staticmethod
    def _close(stores: Iterable[KVStore]) -> None:
        for store in stores:
            store.close()


class KVCache(DynamicCache):  # type: ignore[misc]
    """A cache with options of its own: ``model.generate(..., past_key_values=KVCache(model.config, budget=0.1))``.

    Parameters
    ----------
    config
        Of the model. Its layers of full attention are kept in stores, others as always.
    options
        Of `DecoderOptions`; what is not given is as `register` was told.
    """

    layers: Any

    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config=config)
        own = as_options(options, _default)
        self.layers = [KVStoreLayer(own) if type(one) in (DynamicLayer, KVStoreLayer) else one for one in self.layers]

    def stats(self) -> dict[str, Any]:
        """Bytes held, and what share of the tokens sampled steps have read so far."""
        layers = [layer for layer in self.layers if isinstance(layer, KVStoreLayer)]
        stores = [store for layer in layers for store in layer.stores or ()]
        reads, tokens = (sum(getattr(layer, name) for layer in layers) for name in ("reads", "tokens"))
        return {
            "tokens": self.get_seq_length(),
            "nbytes": sum(store.nbytes for store in stores),
            "index_nbytes": sum(store.index_nbytes for store in stores),
            "read_share": reads / tokens if tokens else None,
        }


def attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers: query (b, q_heads, t, d) to (b, t, q_heads, d).

    Dense by torch for prompts, in training, without a cache, and where a mask leaves out more than padding in front.
    """
    layer: KVStoreLayer | None = getattr(key, _TAG, None)
    trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    if layer is not None and layer.stores is not None and query.shape[2] == 1:
        allowed = _allowed(attention_mask, len(layer.stores), layer.length)
        if allowed is None or layer.skip_padding(allowed):
            return layer.attend(query, scaling), None
        key, value = layer.read()
    output: torch.Tensor
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    if layer is not None and layer.stores is None and not trained:
        layer.adopt(module.layer_idx)
    return output, None


def _allowed(mask: torch.Tensor | None, batch: int, length: int) -> torch.Tensor | None:
    """(batch, length) bool of a mask for one query (batch or 1, 1, 1, at least length), bool or additive."""
    if mask is None:
        return None
    flat = mask[:, 0, -1, :length]
    allowed = flat if flat.dtype == torch.bool else flat > torch.finfo(flat.dtype).min / 2
    return allowed.expand(batch, -1)
