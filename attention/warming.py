"""Kernels are made ready before they are needed, so that no step of a decoder waits for a compiler."""

from __future__ import annotations

import threading

import numpy as np

from nearhash.attention.store import KVStore

_TOKENS, _DIM = 300, 64  # more than a page, and more than the windows

_warmed: set[tuple[str, str]] = set()
_one_at_a_time = threading.Lock()


def warm(codec: str = "lvq4", dtype: str = "float32") -> None:
    """Append to a small store of this kind and attend to it, if that has not been done in this process."""
    if (codec, dtype) in _warmed:
        return
    with _one_at_a_time:
        tokens = np.ones((1, _TOKENS, _DIM), np.float32)
        with KVStore(1, _DIM, codec, dtype, threads=1) as store:
            store.append(tokens, tokens)
            for group in (1, 2):  # which have kernels of their own
                for estimator in ("dense", "priority"):
                    store.attend(tokens[0, :group], estimator, 40)
            store.retrieve(tokens[0, :2], budget=40)
        _warmed.add((codec, dtype))
