"""Texts as sets of hashes: shingles of words or characters."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing.normalisation import normalised
from nearhash.hashing.sets import Sets, bounds_of
from nearhash.hashing.vectors import check_whole
from nearhash.kernels import words
from nearhash.kernels.reference_shingles import kind
from nearhash.kernels.shingles import shingle_texts
from nearhash.kernels.threads import resolve_threads, run_chunks
from nearhash.kernels.xxh3 import SECRET

Use = Callable[[int, NDArray[np.int64], NDArray[np.uint64]], None]
"""What `Shingler.each` calls, with the number of the first text, and the sets of it and those behind it."""

_UNITS = ("word", "char")
_FORMS = (None, "NFC", "NFKC")
_CHUNK_BYTES = 1 << 18  # of texts in a task
_CLASSES = {
    "separator": words.SEPARATOR,
    "word": words.WORD,
    "single": words.SINGLE,
    "mark": words.MARK,
    "space": words.SPACE,
}
# Code points with assigned characters lie below the first, but for variation selectors, which are marks.
_PLANES, _SELECTORS = 0x40000, (0xE0100, 0xE01F0)


class Shingler:
    """Sets of shingles of texts: all runs of `ngram` consecutive words or characters, hashed.

    Parameters
    ----------
    ngram : int
        Words or characters of a shingle, 1 to 1,024. A text of fewer has one shingle, the whole of it; one without any,
        none.
    unit : {"word", "char"}
        Words are runs of letters, digits, marks and connectors (``_``) of any script; what is between them does not
        matter. Characters of scripts that are written without spaces (Han, Hiragana, Thai, Lao, Khmer, Burmese) are
        words of their own. For "char", white space counts as one blank and is dropped at both ends.
    lowercase : bool
        Fold case, as ``str.casefold`` does.
    form : {"NFC", "NFKC", None}
        Unicode normalisation, so that a letter and its accent are the same in one code point or two; "NFKC" also unites
        compatibility forms such as full-width letters.

    Notes
    -----
    A shingle's hash is XXH3 (64 bits, seed 0) of its UTF-8 bytes, words being joined by one blank: with the package
    xxhash ``xxhash.xxh3_64_intdigest(b"the quick brown fox jumps")``. Which characters are letters, and their case, is
    what the running Python's ``unicodedata`` says: it changes for newly assigned characters only.
    """

    def __init__(
        self, ngram: int = 5, unit: str = "word", *, lowercase: bool = True, form: Literal["NFC", "NFKC"] | None = "NFC"
    ) -> None:
        self.ngram = check_whole(ngram, "ngram", 1, 1024)
        if unit not in _UNITS:
            raise InvalidArgumentError(f"unit: expected 'word' or 'char', got {unit!r}")
        if form not in _FORMS:
            raise InvalidArgumentError(f"form: expected 'NFC', 'NFKC' or None, got {form!r}")
        self.unit, self.lowercase, self.form = unit, bool(lowercase), form

    def facts(self) -> dict[str, Any]:
        """What two texts must have in common in their treatment to be compared, ready for JSON."""
        return {"ngram": self.ngram, "unit": self.unit, "lowercase": self.lowercase, "form": self.form}

    def shingles(self, texts: Sequence[str] | Sequence[bytes], threads: int | None = None) -> Sets:
        """Shingles of texts.

        Parameters
        ----------
        texts : sequence of str, or of bytes in UTF-8
        threads : int, optional
            By default all cores; the result does not depend on it.

        Returns
        -------
        indptr : (n + 1,) int64
        tokens : (m,) uint64
            Shingles of text i are ``tokens[indptr[i]:indptr[i + 1]]``, in the order of the text, with repetitions.

        Raises
        ------
        InvalidArgumentError
            Something else than texts, invalid UTF-8 or a lone surrogate; the message has its number.
        """
        return self.shingles_utf8(*joined(texts), threads)

    def shingles_utf8(self, text: ArrayLike, offsets: ArrayLike, threads: int | None = None) -> Sets:
        """Shingles of texts that lie one behind the other, as in a column of Arrow.

        Parameters
        ----------
        text : (m,) uint8
            UTF-8.
        offsets : (n + 1,) int64
            Text i is ``text[offsets[i]:offsets[i + 1]]``.

        Returns and Raises
        ------------------
        As `shingles`.
        """
        parts: dict[int, Sets] = {}

        def keep(first: int, starts: NDArray[np.int64], tokens: NDArray[np.uint64]) -> None:
            parts[first] = starts, tokens.copy()

        self.each(text, offsets, keep, threads)
        done = [parts.pop(first) for first in sorted(parts)]
        # A part begins with 0, where the one before it ended.
        sizes = np.array([0, *(len(tokens) for _, tokens in done)])
        moved = [starts[1:] + before for (starts, _), before in zip(done, sizes.cumsum().tolist(), strict=False)]
        return np.concatenate([np.zeros(1, np.int64), *moved]), _one([tokens for _, tokens in done])

    def each(self, text: ArrayLike, offsets: ArrayLike, use: Use, threads: int | None = None) -> None:
        """Hand shingles on as they are made, a few texts at a time: `shingles_utf8` without the memory for all.

        Parameters
        ----------
        text, offsets
            As of `shingles_utf8`.
        use : callable
            ``use(first, indptr, tokens)`` gets the sets of the texts from `first` on. It is called by several threads
            and in any order; the arrays are its own only until it returns.
        threads : int, optional

        Raises
        ------
        InvalidArgumentError
            As `shingles`, perhaps after some calls.
        """
        data, bounds = _checked_text(text, offsets)
        ends = _tasks(bounds)

        def task(number: int, _: int) -> None:
            use(ends[number], *self._chunk(data, bounds[ends[number] : ends[number + 1] + 1]))

        try:
            run_chunks(task, len(ends) - 1, resolve_threads(threads), 1)
        except UnicodeDecodeError:
            _raise_invalid(data, bounds)

    def _chunk(self, data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> Sets:
        data, bounds = normalised(data, bounds, self.lowercase, self.form)
        sizes = np.diff(bounds)
        longest, total = int(sizes.max(initial=0)), int(sizes.sum())
        # An ASCII word takes two bytes with its separator, a word of one character three bytes in UTF-8.
        room = (total + len(sizes)) // 2 + 1 if self.unit == "word" else total + 1
        starts, tokens = np.empty(len(bounds), np.int64), np.empty(room, np.uint64)
        found = shingle_texts(
            data,
            bounds,
            self.ngram,
            self.unit == "word",
            self.lowercase,
            _classes(),
            SECRET,
            np.empty(2 * longest + words.SLACK, np.uint8),
            np.empty(longest + 2, np.int64),
            starts,
            tokens,
        )
        return starts, tokens[:found]


@cache
def _classes() -> NDArray[np.uint8]:
    """(0x110000,) class of each code point."""
    classes = np.full(0x110000, words.SEPARATOR, np.uint8)
    for first, last in ((0, _PLANES), _SELECTORS):
        classes[first:last] = [_CLASSES[kind(chr(code))] for code in range(first, last)]
    return classes


def joined(texts: Sequence[str] | Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts one behind the other in UTF-8, and their bounds; raises as `Shingler.shingles`."""
    if isinstance(texts, str | bytes):
        raise InvalidArgumentError("texts: expected a sequence of texts, got a single one")
    encoded = list(map(_encoded, range(len(texts)), texts))
    bounds = bounds_of(map(len, encoded), len(encoded))
    return np.frombuffer(bytearray().join(encoded), np.uint8), bounds


def _encoded(number: int, text: Any) -> bytes:
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"texts: number {number} has a lone surrogate, {text[error.start]!r}, at character {error.start}"
            ) from None
    if isinstance(text, bytes):
        return text
    raise InvalidArgumentError(f"texts: expected str or bytes, got {type(text).__name__} as number {number}")


def _checked_text(text: ArrayLike, offsets: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data, bounds = np.asarray(text), np.asarray(offsets)
    if data.dtype != np.uint8 or data.ndim != 1:
        raise InvalidArgumentError(f"text: expected uint8 of shape (m,), got {data.dtype} of {data.shape}")
    if bounds.dtype.kind not in "iu" or bounds.ndim != 1 or not len(bounds):
        raise InvalidArgumentError(f"offsets: expected integers (n + 1,), got {bounds.dtype} of shape {bounds.shape}")
    if bounds[0] < 0 or bounds[-1] > len(data) or (bounds[1:] < bounds[:-1]).any():
        raise InvalidArgumentError(f"offsets: expected numbers that ascend within 0 and {len(data)}")
    return (
        np.require(data, requirements=["C", "A", "W"]),
        np.require(bounds, np.int64, requirements=["C", "A", "W"]),
    )


def _raise_invalid(text: NDArray[np.uint8], bounds: NDArray[np.int64]) -> NoReturn:
    """Say which of these texts is not UTF-8: the first."""
    for row in range(len(bounds) - 1):
        try:
            text[bounds[row] : bounds[row + 1]].tobytes().decode()
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(
                f"texts: number {row} is not UTF-8: {error.reason} at byte {error.start}"
            ) from None
    raise AssertionError("all texts are UTF-8")


def _tasks(bounds: NDArray[np.int64]) -> list[int]:
    """Texts at which tasks begin and end: of about as many bytes each."""
    ends, done, last = [0], int(bounds[0]), len(bounds) - 1
    while ends[-1] < last:
        row = int(np.searchsorted(bounds, done + _CHUNK_BYTES))
        ends.append(min(max(row, ends[-1] + 1), last))
        done = int(bounds[ends[-1]])
    return ends if len(ends) > 1 else [0, 0]


def _one(parts: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """One array of all parts, which are let go one by one: at most one is there twice."""
    if len(parts) == 1:
        return parts[0]
    out, at = np.empty(sum(map(len, parts)), np.uint64), 0
    for number, part in enumerate(parts):
        out[at : at + len(part)] = part
        at += len(part)
        parts[number] = part[:0]
    return out
