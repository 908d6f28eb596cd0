"""What a collection is told when it is made; it stays so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nearhash.errors import CorruptCollectionError, InvalidArgumentError
from nearhash.index.arguments import check_count, check_dim, check_metric
from nearhash.index.attributes import check_name

KINDS = ("auto", "graph", "ivf", "window", "flat")
MAX_LABELS = 16
_BUFFER_BYTES = 4 << 20  # a single query reads them in about .3 ms
_LEAST_SEAL, _MOST_SEAL = 1_000, 16_384


@dataclass(frozen=True)
class Settings:
    """Settings of a collection, see `nearhash.Collection`."""

    dim: int
    metric: str
    labels: tuple[str, ...] = ()
    index: str = "auto"
    index_options: dict[str, Any] = field(default_factory=dict)
    seal_at: int = 0

    @classmethod
    def checked(
        cls,
        dim: int,
        metric: str = "cosine",
        labels: Sequence[str] = (),
        index: str = "auto",
        index_options: dict[str, Any] | None = None,
        seal_at: int | None = None,
    ) -> Settings:
        """Settings from what a user gave; raises InvalidArgumentError and its subclasses."""
        dim, metric = check_dim(dim), check_metric(metric)
        if isinstance(labels, str) or len(labels) > MAX_LABELS or len(set(labels)) < len(labels):
            raise InvalidArgumentError(f"labels: expected at most {MAX_LABELS} distinct names, got {labels!r:.80}")
        names = tuple(check_name(name, "labels") for name in labels)
        if index not in KINDS:
            raise InvalidArgumentError(f"index: expected one of {', '.join(KINDS)}, got {index!r}")
        options = {} if index_options is None else index_options
        _check_options(dim, metric, index, options)
        default = max(_LEAST_SEAL, min(_MOST_SEAL, _BUFFER_BYTES // (4 * dim)))
        seal = default if not seal_at else check_count(seal_at, "seal_at", least=1, most=1 << 24)
        return cls(dim, metric, names, index, options, seal)

    def to_json(self) -> str:
        return json.dumps(self.document(), separators=(",", ":"), sort_keys=True)

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "dim": self.dim,
            "metric": self.metric,
            "labels": list(self.labels),
            "index": self.index,
            "index_options": dict(self.index_options),
            "seal_at": self.seal_at,
        }

    @classmethod
    def from_json(cls, text: str) -> Settings:
        try:
            return cls.checked(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise CorruptCollectionError(f"settings: {error}") from error


def _check_options(dim: int, metric: str, index: str, options: Any) -> None:
    """Options are those of the index's constructor, which says itself what is wrong with them."""
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise InvalidArgumentError(f"index_options: expected a dict of names to values, got {options!r:.80}")
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"index_options: expected values that JSON can hold: {error}") from error
    if not options:
        return
    if index == "auto":
        raise InvalidArgumentError("index_options: expected none with index='auto'; choose an index to set its options")
    from nearhash.service.engine.kinds import make_index

    try:
        make_index(index, dim, metric, options, threads=None)
    except TypeError as error:
        raise InvalidArgumentError(f"index_options: {error}") from error
