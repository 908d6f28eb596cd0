"""Kernels are made ready with the first session of a kind, so that no step of a decoder waits for them."""

from __future__ import annotations

import threading

import numpy as np

from nearhash.attention.store import KVStore
from nearhash.service.sessions.session import SessionSettings

_TOKENS, _DIM = 300, 64  # more than a page, and more than the windows

_warmed: set[tuple[str, str]] = set()
_one_at_a_time = threading.Lock()


def warm(settings: SessionSettings) -> None:
    """Append to a small store of this kind and attend to it, if that has not been done in this process."""
    kind = settings.codec, settings.dtype
    if kind in _warmed:
        return
    with _one_at_a_time:
        tokens = np.ones((1, _TOKENS, _DIM), np.float32)
        with KVStore(1, _DIM, settings.codec, settings.dtype, threads=1) as store:
            store.append(tokens, tokens)
            for estimator in ("dense", "priority"):
                store.attend(tokens[0, :2], estimator, 40)
            store.retrieve(tokens[0, :2], budget=40)
        _warmed.add(kind)
