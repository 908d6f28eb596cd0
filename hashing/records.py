"""Records of a table as features: n-grams of characters, field by field."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from nearhash.errors import DimensionError, DtypeError
from nearhash.hashing.vectors import MAX_DIM, check_whole


class RecordFeatures:
    """Turns records, each a sequence of fields of text, into vectors or sets.

    A field is case-folded, its white space made single spaces, and cut into n-grams of characters, with a space before
    its first and after its last character. What is missing (None, NaN or empty text) has no n-grams.

    Parameters
    ----------
    fields
        Fields of a record.
    width
        Elements that each field has in a vector.
    ngram
        Characters of an n-gram.
    """

    def __init__(self, fields: int, width: int = 128, ngram: int = 2) -> None:
        self.fields = check_whole(fields, "fields", 1, MAX_DIM)
        self.width = check_whole(width, "width", 1, MAX_DIM // self.fields)
        self.ngram = check_whole(ngram, "ngram", 1, 16)

    def __repr__(self) -> str:
        return f"RecordFeatures(fields={self.fields}, width={self.width}, ngram={self.ngram})"

    @property
    def dim(self) -> int:
        """Elements of a vector: ``fields * width``."""
        return self.fields * self.width

    @property
    def groups(self) -> NDArray[np.int64]:
        """(dim,) the field of each element, as `LearnedHash` wants it."""
        return np.repeat(np.arange(self.fields, dtype=np.int64), self.width)

    def vectors(self, records: Sequence[Sequence[Any]]) -> NDArray[np.float32]:
        """Vectors of records: (n, dim) float32, of each field its n-grams hashed into `width` elements.

        An n-gram adds +1 or -1 to one element, sign and element given by its hash (feature hashing, Weinberger et
        al., ICML 2009), so that inner products estimate those of the counts; then each field is given length 1.
        Missing fields are zero.

        Raises
        ------
        DimensionError, DtypeError
            If a record has another number of fields, or a field is neither text nor missing.
        """
        out = np.zeros((len(records), self.fields, self.width), np.float32)
        hashes: dict[str, int] = {}
        for row, field, grams in self._fields(records):
            line = out[row, field]
            for gram in grams:
                if gram not in hashes:
                    hashes[gram] = xxhash.xxh3_64_intdigest(gram.encode("utf-8", "surrogatepass"))
                word = hashes[gram]
                line[(word & 0xFFFFFFFF) % self.width] += 1.0 - 2.0 * (word >> 63)
        lengths = np.sqrt(np.square(out).sum(axis=2, keepdims=True))
        np.divide(out, lengths, out=out, where=lengths > 0)
        return out.reshape(len(records), self.dim)

    def tokens(self, records: Sequence[Sequence[Any]]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The same n-grams as sets for `MinHash`: indptr (n + 1,), and one hash for each n-gram and field."""
        starts, tokens = np.zeros(len(records) + 1, np.int64), []
        hashes: dict[tuple[int, str], int] = {}
        for row, field, grams in self._fields(records):
            for gram in grams:
                if (field, gram) not in hashes:
                    text = f"{field}\t{gram}"
                    hashes[field, gram] = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
                tokens.append(hashes[field, gram])
            starts[row + 1] += len(grams)
        return np.cumsum(starts), np.array(tokens, np.uint64)

    def _fields(self, records: Sequence[Sequence[Any]]) -> Iterator[tuple[int, int, list[str]]]:
        """Row, field and n-grams of each field that is not missing."""
        for row, record in enumerate(records):
            if isinstance(record, str) or len(record) != self.fields:
                raise DimensionError(f"records: expected {self.fields} fields each, got {record!r} in row {row}")
            for field, value in enumerate(record):
                if value is None or value != value:  # NaN is what data frames have for None
                    continue
                if not isinstance(value, str):
                    raise DtypeError(f"records: expected text, None or NaN, got {value!r} in row {row}, field {field}")
                words = value.casefold().split()
                if words:
                    text = f" {' '.join(words)} "
                    yield row, field, [text[i : i + self.ngram] for i in range(max(1, len(text) - self.ngram + 1))]
