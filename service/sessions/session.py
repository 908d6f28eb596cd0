"""A session: keys and values of one sequence, in some layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.attention.memory import Budget
from nearhash.attention.store import KVStore
from nearhash.errors import ClosedError, InvalidArgumentError
from nearhash.index.arguments import check_count
from nearhash.index.locks import ReadWriteLock

MAX_LAYERS = 4096

_AT_ONCE = 4096  # tokens that are compared together


class SessionSettings(NamedTuple):
    """How the layers of a session are kept, see `KVStore`."""

    layers: int
    kv_heads: int
    head_dim: int
    codec: str = "lvq4"
    dtype: str = "float32"
    seed: int = 0


class Session:
    """Keys and values of one sequence, a `KVStore` for each layer.

    Parameters
    ----------
    settings
        Of its layers.
    budget
        What its bytes are taken from.
    threads
        Of what it does with the tokens of a layer.

    Raises
    ------
    InvalidArgumentError
        A setting is impossible.

    Notes
    -----
    Any number of threads may use a session. Appends to a layer wait for each other; attention goes on meanwhile, and
    forks, truncations and the end wait for appends.
    """

    def __init__(self, settings: SessionSettings, budget: Budget, threads: int) -> None:
        check_count(settings.layers, "layers", most=MAX_LAYERS)
        self.settings = settings
        self.budget = budget
        self._threads = threads
        self._empty = self._store()  # stands for layers without tokens, and finds out about impossible settings
        self._stores: list[KVStore | None] = [None] * settings.layers
        self._appends = [threading.Lock() for _ in range(settings.layers)]
        self._changes = ReadWriteLock()  # shared by appends
        self._closed = False

    # --- change ---

    def append(self, layer: int, start: int, keys: NDArray[Any], values: NDArray[Any]) -> int:
        """Append tokens to a layer and return how many it has then; tokens that are there already change nothing.

        Parameters
        ----------
        layer
            From 0 on.
        start
            Position of the first token: the number of tokens there are. Where it is less, all of them must be there.
        keys, values
            (kv_heads, n, head_dim).

        Raises
        ------
        InvalidArgumentError
            And its subclasses: a gap, other contents than those that are there, and what `KVStore.append` refuses.
            Nothing has changed.
        MemoryLimitError
            There is no room; nothing has changed.
        """
        self.check_layer(layer)
        with self._changes.read(), self._appends[layer]:
            self._check_open()
            store = self._stores[layer]
            if store is None:
                store = self._stores[layer] = self._store()
            there, count = len(store), keys.shape[1]
            if start == there:
                return store.append(keys, values, start=start)
            if start > there or start + count > there:
                raise InvalidArgumentError(
                    f"start: expected {there}, the tokens that layer {layer} has, or tokens that are all there "
                    f"already; got {count} from {start} on"
                )
            self._check_same(store, layer, start, keys, values)
            return there

    def _check_same(self, store: KVStore, layer: int, start: int, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """Raise unless tokens are those from `start` on, as the store keeps them: in its dtype."""
        with KVStore(**{**self._arguments(), "memory_limit": None}) as given:
            given.append(keys, values)
            for first in range(0, len(given), _AT_ONCE):
                positions = np.arange(first, min(first + _AT_ONCE, len(given)))
                for head in range(self.settings.kv_heads):
                    pairs = zip(given.read(head, positions), store.read(head, positions + start), strict=True)
                    differs = np.logical_or(*((new != old).any(axis=1) for new, old in pairs))
                    if differs.any():
                        position = start + first + int(np.argmax(differs))
                        raise InvalidArgumentError(
                            f"start: layer {layer} has {len(store)} tokens, and token {position} is not the one that "
                            f"was given; to replace tokens, truncate first"
                        )

    def truncate(self, length: int, layer: int | None = None) -> None:
        """Forget all tokens but the first `length` of a layer, or of all layers that have more.

        Raises
        ------
        InvalidArgumentError
            No layer, or not the one, has as many.
        """
        if layer is not None:
            self.check_layer(layer)
        with self._changes.write():
            self._check_open()
            stores = self._stores if layer is None else [self._stores[layer]]
            most = max(0 if store is None else len(store) for store in stores)
            if length > most:
                raise InvalidArgumentError(f"length: expected at most {most}, the tokens there are, got {length}")
            for store in stores:
                if store is not None and len(store) > length:
                    store.truncate(length)

    def fork(self, length: int | None = None) -> Session:
        """Another session with the same tokens, at most `length` of each layer, within the same budget."""
        with self._changes.write():
            self._check_open()
            other = Session(self.settings, self.budget, self._threads)
            for layer, store in self._stored():
                copy = other._stores[layer] = store.fork()
                if length is not None and len(copy) > length:
                    copy.truncate(length)
            return other

    def close(self) -> None:
        """Give the memory back that no fork shares, once nobody reads it any more."""
        with self._changes.write():
            self._closed = True
            for _, store in self._stored():
                store.close()

    # --- read ---

    def store(self, layer: int) -> KVStore:
        """The store of a layer, to read; an empty one where nothing was appended.

        Raises
        ------
        InvalidArgumentError
            There is no such layer.
        ClosedError
            The session has ended. The store raises it, too, if that happens later.
        """
        self.check_layer(layer)
        self._check_open()
        store = self._stores[layer]
        return self._empty if store is None else store

    def check_layer(self, layer: int) -> None:
        """Raise InvalidArgumentError if there is no such layer."""
        if not 0 <= layer < self.settings.layers:
            raise InvalidArgumentError(f"layer: expected 0 to {self.settings.layers - 1}, got {layer}")

    @property
    def lengths(self) -> list[int]:
        """Tokens of each layer."""
        return [0 if store is None else len(store) for store in self._stores]

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and codes, those that are shared with forks included."""
        return sum(store.nbytes for _, store in self._stored())

    @property
    def index_nbytes(self) -> int:
        """Bytes of the codes alone."""
        return sum(store.index_nbytes for _, store in self._stored())

    def _stored(self) -> Iterator[tuple[int, KVStore]]:
        return ((layer, store) for layer, store in enumerate(self._stores) if store is not None)

    def _store(self) -> KVStore:
        return KVStore(**self._arguments())

    def _arguments(self) -> dict[str, Any]:
        _, kv_heads, head_dim, codec, dtype, seed = self.settings
        return {
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "codec": codec,
            "dtype": dtype,
            "seed": seed,
            "memory_limit": self.budget,
            "threads": self._threads,
        }

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the session has ended")
