"""Codecs: how an index keeps vectors in the form that its kernels scan."""

import re
from typing import Any

from nearhash.errors import InvalidArgumentError
from nearhash.index.codecs.base import Codec
from nearhash.index.codecs.float8 import Float8Codec
from nearhash.index.codecs.float_rows import Float16Codec, Float32Codec
from nearhash.index.codecs.lvq4 import LVQ4Codec
from nearhash.index.codecs.lvq4x8 import LVQ4x8Codec
from nearhash.index.codecs.lvq8 import LVQ8Codec
from nearhash.index.codecs.pq8 import PQ8Codec
from nearhash.index.codecs.rabitq import RaBitQCodec

CODECS: dict[str, type[Codec]] = {
    codec.name: codec
    for codec in (Float32Codec, Float16Codec, Float8Codec, LVQ8Codec, LVQ4Codec, PQ8Codec, RaBitQCodec)
}

GRAPH_CODECS: dict[str, type[Codec]] = {**CODECS, LVQ4x8Codec.name: LVQ4x8Codec}
"""Those that a graph may be over: lists have no place for a second level."""

__all__ = ["CODECS", "GRAPH_CODECS", "Codec", "make_codec"]


def make_codec(name: Any, dim: int, has_extra: bool, **options: Any) -> Codec:
    """A new, untrained codec.

    Parameters
    ----------
    name : str
        One of `GRAPH_CODECS`; ``"rabitq4"`` is short for ``"rabitq", bits=4``, and so on from 1 to 8.
    dim : int
        Dimension of the vectors.
    has_extra : bool
        Whether vectors come with one extra coordinate, see `Codec`.
    **options
        Of the codec: `parts` of "pq8", `bits` of "rabitq".

    Raises
    ------
    InvalidArgumentError
        Unknown name or option, or a value out of range.
    """
    short = re.fullmatch(r"rabitq([1-8])", name) if isinstance(name, str) else None
    if short is not None and "bits" not in options:
        name, options = "rabitq", {**options, "bits": int(short[1])}
    if not isinstance(name, str) or name not in GRAPH_CODECS:
        raise InvalidArgumentError(f"codec: expected one of {', '.join(GRAPH_CODECS)}, got {name!r}")
    try:
        return GRAPH_CODECS[name](dim, has_extra, **options)
    except TypeError:
        known = GRAPH_CODECS[name](dim, has_extra).options
        unknown = sorted(set(options) - set(known))
        if not unknown:
            raise
        expected = " and ".join(known) or "none"
        raise InvalidArgumentError(f"codec {name}: expected options {expected}, got {unknown[0]!r}") from None
