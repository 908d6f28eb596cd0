"""Attention retrieval: codes of the keys choose what a decoder reads of a long context."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearhash.attention.batch import attend_batch
    from nearhash.attention.calibration import calibrate
    from nearhash.attention.decoder import KVCache, register
    from nearhash.attention.matching import TokenMatch, match_tokens
    from nearhash.attention.results import Attention, Retrieval, merge
    from nearhash.attention.reuse import Reused, reuse_keys_values, rotate_keys
    from nearhash.attention.store import KVStore

_HOME = {
    "Attention": "results",
    "KVCache": "decoder",
    "KVStore": "store",
    "Retrieval": "results",
    "Reused": "reuse",
    "TokenMatch": "matching",
    "attend_batch": "batch",
    "calibrate": "calibration",
    "match_tokens": "matching",
    "merge": "results",
    "register": "decoder",
    "reuse_keys_values": "reuse",
    "rotate_keys": "reuse",
}

__all__ = [
    "Attention",
    "KVCache",
    "KVStore",
    "Retrieval",
    "Reused",
    "TokenMatch",
    "attend_batch",
    "calibrate",
    "match_tokens",
    "merge",
    "register",
    "reuse_keys_values",
    "rotate_keys",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nearhash.attention' has no attribute {name!r}")
    value = getattr(import_module(f"nearhash.attention.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
