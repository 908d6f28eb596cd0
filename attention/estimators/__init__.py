"""Ways to choose what is read of the tokens of a KV head, behind one interface: see `base.Estimator`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nearhash.errors import InvalidArgumentError

if TYPE_CHECKING:
    from nearhash.attention.estimators.base import Estimator

_CLASSES = {
    "priority": "Priority",
    "dense": "Dense",
    "topk_oracle": "TopKOracle",
    "uniform": "Uniform",
    "magicpig": "MagicPIG",
    "vattention": "VAttention",
    "hash_topk": "HashTopK",
    "quest": "Quest",
    "socket": "Socket",
    "hashevict": "HashEvict",
}
NAMES = tuple(_CLASSES)
"""What `make_estimator` knows, the default first; each in a module of its name."""

__all__ = ["NAMES", "make_estimator"]


def make_estimator(name: str = "priority", **options: Any) -> Estimator:
    """An estimator by its name.

    Parameters
    ----------
    name
        One of `NAMES`.
    options
        Those of its class.

    Raises
    ------
    InvalidArgumentError
        For an unknown name or option, or an option of an impossible value.
    """
    if name not in _CLASSES:
        raise InvalidArgumentError(f"estimator: expected one of {', '.join(NAMES)}, got {name!r:.80}")
    kind = getattr(import_module(f"nearhash.attention.estimators.{name}"), _CLASSES[name])
    known = getattr(kind, "__dataclass_fields__", {})
    for option in options:
        if option not in known:
            expected = f"one of {', '.join(known)}" if known else "none"
            raise InvalidArgumentError(f"{option}: the estimator {name!r} has options {expected}")
    estimator: Estimator = kind(**options)
    return estimator
