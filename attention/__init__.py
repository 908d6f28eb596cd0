"""Attention retrieval: codes of the keys choose what a decoder reads of a long context."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearhash.attention.batch import attend_batch
    from nearhash.attention.calibration import calibrate
    from nearhash.attention.decoder import KVCache, register
    from nearhash.attention.results import Attention, Retrieval, merge
    from nearhash.attention.store import KVStore

_HOME = {
    "Attention": "results",
    "KVCache": "decoder",
    "KVStore": "store",
    "Retrieval": "results",
    "attend_batch": "batch",
    "calibrate": "calibration",
    "merge": "results",
    "register": "decoder",
}

__all__ = ["Attention", "KVCache", "KVStore", "Retrieval", "attend_batch", "calibrate", "merge", "register"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nearhash.attention' has no attribute {name!r}")
    value = getattr(import_module(f"nearhash.attention.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
