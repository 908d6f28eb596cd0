"""Near-duplicates among texts in memory."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.index.dedup.candidates import compare_buckets, ends, sort_keys
from nearhash.index.dedup.groups import Groups, join
from nearhash.index.dedup.rates import estimated_rates
from nearhash.index.dedup.settings import Settings
from nearhash.index.dedup.shingle_sets import as_sets, jaccard
from nearhash.index.dedup.sketching import band_keys_of, empty_signatures, sketch_utf8
from nearhash.kernels.threads import resolve_threads
from nearhash.kernels.union_find import flatten

Progress = Callable[[str, int, int], None]
_DOCUMENTS, _BYTES = 8192, 1 << 24  # of a chunk


def deduplicate(
    texts: Iterable[str],
    threshold: float = 0.8,
    ngram: int = 5,
    unit: str = "word",
    k: int | None = None,
    bands: int | None = None,
    rows: int | None = None,
    verify: str | None = "exact",
    seed: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Groups:
    """Find groups of near-duplicates: texts whose sets of shingles have a Jaccard similarity of at least `threshold`.

    Sketches (`nearhash.hashing.MinHash`) are cut into bands; texts that share a band are compared; pairs that are
    similar enough are linked, and what is linked is a group. ``nearhash dedup`` does the same for files of any size.

    Parameters
    ----------
    texts : iterable of str
        An empty text, or one without a word, is nobody's duplicate. A text of fewer than `ngram` words is one shingle.
    threshold, ngram, unit, k, bands, rows, verify, seed
        See `Settings`.
    threads : int, optional
        All cores by default. The result does not depend on it.
    progress : callable, optional
        Called with ``(stage, done, total)``, the stages being "sketch", "compare" and "verify".

    Returns
    -------
    Groups
        ``.groups``, ``.labels``, ``.keep`` (a mask of what to keep), ``.pairs``, ``.statistics``.

    Raises
    ------
    InvalidArgumentError
        An impossible setting, or a text that is no valid Unicode (half a surrogate pair).
    DtypeError
        Something that is not a str.

    Examples
    --------
    >>> import nearhash as nh
    >>> texts = ["the cat sat on the mat today", "The cat sat on the mat, today!", "something else"]
    >>> nh.deduplicate(texts, ngram=2).groups
    [array([0, 1])]
    """
    settings = Settings.choose(threshold, ngram, unit, k, bands, rows, verify, seed)
    threads = resolve_threads(threads)
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise DtypeError(f"texts: expected an iterable of str, got {type(texts).__name__}")
    documents = texts if isinstance(texts, Sequence) else list(texts)
    report = progress or (lambda stage, done, total: None)

    count = len(documents)
    sketches = empty_signatures(count, settings)
    shingles = np.zeros(count, np.int64)
    for first, last, text, offsets in _chunks(documents, np.arange(count)):
        sketches[first:last], shingles[first:last] = sketch_utf8(text, offsets, settings, threads)
        report("sketch", last, count)

    filled = np.flatnonzero(shingles)
    keys = band_keys_of(sketches[filled], settings, threads).reshape(-1)
    members = np.repeat(filled, settings.bands)
    sort_keys(keys, members)
    report("compare", 0, count)
    compared = compare_buckets(keys, members, lambda wanted: sketches[wanted], settings, threads=threads)
    report("compare", count, count)

    pairs = compared.pairs
    if settings.verify == "exact" and len(pairs):
        needed, places = np.unique(np.concatenate(ends(pairs)), return_inverse=True)
        indptr, tokens = [np.zeros(1, np.int64)], []
        for _, last, text, offsets in _chunks(documents, needed):
            part = as_sets(settings.shingler.shingles_utf8(text, offsets, threads), threads)
            indptr.append(part[0][1:] + indptr[-1][-1])
            tokens.append(part[1])
            report("verify", last, len(needed))
        sets = np.concatenate(indptr), np.concatenate(tokens)
        exact = jaccard(sets, places[: len(pairs)], places[len(pairs) :], threads)
        pairs = pairs[exact >= settings.threshold]
        pairs["similarity"] = exact[exact >= settings.threshold]

    labels = np.arange(count)
    edges = np.stack(ends(pairs), axis=1)
    join(labels, edges, threads)
    flatten(labels)
    rates = estimated_rates(compared.histogram, settings)
    return Groups(labels, edges, pairs["similarity"].astype(np.float32), shingles == 0, rates, settings)


def _chunks(
    documents: Sequence[str], wanted: NDArray[np.int64]
) -> Iterable[tuple[int, int, NDArray[np.uint8], NDArray[np.int64]]]:
    """Some of the documents as UTF-8, in chunks: first and last (as places in `wanted`), bytes, offsets."""
    pieces: list[bytes] = []
    first = size = 0
    for place, number in enumerate(wanted.tolist()):
        pieces.append(_encoded(documents[number], number))
        size += len(pieces[-1])
        if len(pieces) == _DOCUMENTS or size >= _BYTES or place + 1 == len(wanted):
            offsets = np.zeros(len(pieces) + 1, np.int64)
            np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
            yield first, place + 1, np.frombuffer(bytearray().join(pieces), np.uint8), offsets
            pieces, first, size = [], place + 1, 0


def _encoded(text: object, number: int) -> bytes:
    if not isinstance(text, str):
        raise DtypeError(f"texts: expected str, got {type(text).__name__} in position {number}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"texts: half a surrogate pair in position {number}") from error
