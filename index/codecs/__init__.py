"""Codecs: how an index keeps vectors in the form that its kernels scan."""

from typing import Any

from nearhash.errors import InvalidArgumentError
from nearhash.index.codecs.base import Codec
from nearhash.index.codecs.float_rows import Float16Codec, Float32Codec
from nearhash.index.codecs.lvq8 import LVQ8Codec

CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (Float32Codec, Float16Codec, LVQ8Codec)}

__all__ = ["CODECS", "Codec", "make_codec"]


def make_codec(name: Any, dim: int, has_extra: bool) -> Codec:
    """A new, untrained codec by name."""
    if name not in CODECS:
        raise InvalidArgumentError(f"codec: expected one of {', '.join(CODECS)}, got {name!r}")
    return CODECS[name](dim, has_extra)
