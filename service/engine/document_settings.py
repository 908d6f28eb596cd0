"""What a collection of documents is told when it is made; it stays so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from nearhash.errors import CorruptCollectionError, InvalidArgumentError
from nearhash.hashing.sketches import Sketches
from nearhash.index.minhash_lsh import MinHashLSH

NAMES = ("threshold", "k", "method", "bits", "seed", "bands", "rows", "ngram", "unit")
_METHODS = ("fss", "oph-optimal", "oph-reverse", "oph-rotation", "classic")


@dataclass(frozen=True)
class DocumentSettings:
    """Settings of a collection of documents, see `nearhash.DocumentCollection`."""

    threshold: float
    k: int
    method: str
    bits: int
    seed: int
    bands: int
    rows: int
    ngram: int
    unit: str

    @classmethod
    def checked(cls, **given: Any) -> DocumentSettings:
        """Settings from what a user gave; raises InvalidArgumentError and its subclasses."""
        unknown = given.keys() - set(NAMES)
        if unknown:
            raise InvalidArgumentError(f"settings: expected {', '.join(NAMES)}, got {sorted(unknown)[0]!r:.80}")
        if given.get("method", "fss") not in _METHODS:
            raise InvalidArgumentError(f"method: expected one of {', '.join(_METHODS)}, got {given['method']!r:.80}")
        index = MinHashLSH(**given)
        return cls(**{name: getattr(index, name) for name in NAMES})

    def make_index(self, threads: int | None = None) -> MinHashLSH:
        """An empty index."""
        return MinHashLSH(**asdict(self), threads=threads)

    def sketch(self, texts: Any, threads: int | None = None) -> Sketches:
        """Sketches of texts, as the collection keeps them."""
        return self.make_index().minhash.sketch_texts(texts, ngram=self.ngram, unit=self.unit, threads=threads)

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.document(), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DocumentSettings:
        try:
            return cls.checked(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise CorruptCollectionError(f"settings: {error}") from error
