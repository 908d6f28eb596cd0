"""Texts as sets of hashes: shingles of words or characters; and hashes of the members of Python sets."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing.sets import Sets, bounds_of
from nearhash.hashing.vectors import check_whole
from nearhash.kernels import shingles as kernels
from nearhash.kernels.reference_shingles import kind, normalise
from nearhash.kernels.threads import resolve_threads, run_chunks
from nearhash.kernels.xxh3 import SECRET, xxh3_parts

_UNITS = ("word", "char")
_FORMS = (None, "NFC", "NFKC")
_CHUNK_BYTES = 1 << 18  # of texts in a task
_CLASSES = {
    "separator": kernels.SEPARATOR,
    "word": kernels.WORD,
    "single": kernels.SINGLE,
    "mark": kernels.MARK,
    "space": kernels.SPACE,
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
        encoded = list(map(_encoded, range(len(texts)), _sequence(texts)))
        bounds = bounds_of(map(len, encoded), len(encoded))
        return self.shingles_utf8(np.frombuffer(b"".join(encoded), np.uint8), bounds, threads)

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
        threads = resolve_threads(threads)
        data, bounds = self._normalised(*_checked_text(text, offsets))
        ends = _tasks(bounds)
        parts: list[tuple[NDArray[np.int64], NDArray[np.uint64]] | None] = [None] * (len(ends) - 1)

        def task(first: int, last: int) -> None:
            for number in range(first, last):
                parts[number] = self._chunk(data, bounds[ends[number] : ends[number + 1] + 1])

        run_chunks(task, len(parts), threads, 1)
        done = [part for part in parts if part is not None]
        indptr = np.zeros(len(bounds), np.int64)
        total = 0
        for number, (starts, tokens) in enumerate(done):
            indptr[ends[number] + 1 : ends[number + 1] + 1] = starts[1:] + total
            total += len(tokens)
        return indptr, done[0][1] if len(done) == 1 else _joined([tokens for _, tokens in done], total)

    def _chunk(self, data: NDArray[np.uint8], bounds: NDArray[np.int64]) -> Sets:
        sizes = np.diff(bounds)
        longest, total = int(sizes.max(initial=0)), int(sizes.sum())
        # An ASCII word takes two bytes with its separator, a word of one character three bytes in UTF-8.
        room = (total + len(sizes)) // 2 + 1 if self.unit == "word" else total + 1
        starts, tokens = np.empty(len(bounds), np.int64), np.empty(room, np.uint64)
        found = kernels.shingle_texts(
            data,
            bounds,
            self.ngram,
            self.unit == "word",
            self.lowercase,
            _classes(),
            SECRET,
            np.empty(2 * longest + 8, np.uint8),
            np.empty(longest + 2, np.int64),
            starts,
            tokens,
        )
        return starts, tokens[:found].copy() if 2 * found < room else tokens[:found]

    def _normalised(
        self, text: NDArray[np.uint8], bounds: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Texts with all but ASCII letters folded and normalised; raises for invalid UTF-8."""
        plain = np.empty(len(bounds) - 1, np.bool_)
        kernels.ascii_rows(text, bounds, plain)
        others = np.flatnonzero(~plain)
        if not len(others):
            return text, bounds
        parts, sizes = [], np.diff(bounds)
        done = 0
        for row in others.tolist():
            first, last = int(bounds[row]), int(bounds[row + 1])
            try:
                decoded = text[first:last].tobytes().decode()
            except UnicodeDecodeError as error:
                raise InvalidArgumentError(
                    f"texts: number {row} is not UTF-8: {error.reason} at byte {error.start}"
                ) from None
            changed = normalise(decoded, self.lowercase, self.form).encode()
            parts += [text[done:first].tobytes(), changed]
            sizes[row], done = len(changed), last
        parts.append(text[done : int(bounds[-1])].tobytes())
        # What comes before the first text is kept: bounds stay those of the array.
        return np.frombuffer(bytearray(b"".join(parts)), np.uint8), np.concatenate(
            [bounds[:1], bounds[0] + np.cumsum(sizes)]
        )


@cache
def _classes() -> NDArray[np.uint8]:
    """(0x110000,) class of each code point."""
    classes = np.full(0x110000, kernels.SEPARATOR, np.uint8)
    for first, last in ((0, _PLANES), _SELECTORS):
        classes[first:last] = [_CLASSES[kind(chr(code))] for code in range(first, last)]
    return classes


def _sequence(texts: Any) -> Any:
    if isinstance(texts, str | bytes):
        raise InvalidArgumentError("texts: expected a sequence of texts, got a single one")
    return texts


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


def _tasks(bounds: NDArray[np.int64]) -> list[int]:
    """Texts at which tasks begin and end: of about as many bytes each."""
    ends, done, last = [0], int(bounds[0]), len(bounds) - 1
    while ends[-1] < last:
        row = int(np.searchsorted(bounds, done + _CHUNK_BYTES))
        ends.append(min(max(row, ends[-1] + 1), last))
        done = int(bounds[ends[-1]])
    return ends if len(ends) > 1 else [0, 0]


def _joined(parts: list[NDArray[np.uint64]], total: int) -> NDArray[np.uint64]:
    """One array of all parts, which are let go one by one: at most one is there twice."""
    out, at = np.empty(total, np.uint64), 0
    for number, part in enumerate(parts):
        out[at : at + len(part)] = part
        at += len(part)
        parts[number] = part[:0]
    return out


# --- members of Python sets ---


def hash_sets(sets: Iterable[Iterable[str | bytes | int]], function: str = "xxh3_64") -> Sets:
    """Members of sets as tokens, CSR: str (as UTF-8) and bytes hashed, int as it is.

    function: "xxh3_64", or "sha1_32", the first four bytes of SHA-1 as datasketch takes them.
    """
    tokens = [_hash_members(number, members, function) for number, members in enumerate(sets)]
    return bounds_of(map(len, tokens), len(tokens)), np.concatenate([np.empty(0, np.uint64), *tokens])


def _hash_members(number: int, members: Iterable[Any], function: str) -> NDArray[np.uint64]:
    if isinstance(members, str | bytes) or not isinstance(members, Iterable):
        raise InvalidArgumentError(
            f"sets: expected iterables of tokens, got {type(members).__name__} as number {number}"
        )
    listed = members if isinstance(members, list | tuple) else list(members)
    strings = _hash_strings(listed) if function == "xxh3_64" else None
    if strings is not None:
        return strings
    return np.array([_token(member, _HASHES[function]) for member in listed], np.uint64)


def _hash_strings(listed: Sequence[Any]) -> NDArray[np.uint64] | None:
    """XXH3 of strings by one kernel call; None if there is something else, or a string holds the separator."""
    try:
        joined = "\0".join(listed).encode()
    except (TypeError, UnicodeEncodeError):
        return None
    if joined.count(0) != len(listed) - 1:
        return None
    out = np.empty(len(listed), np.uint64)
    xxh3_parts(np.frombuffer(bytearray(joined), np.uint8), 0, len(joined), np.uint8(0), SECRET, out)
    return out


def _sha1_32(data: bytes) -> int:
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:4], "little")


_HASHES: dict[str, Callable[[bytes], int]] = {"xxh3_64": xxhash.xxh3_64_intdigest, "sha1_32": _sha1_32}


def _token(member: Any, function: Callable[[bytes], int]) -> int:
    if isinstance(member, str):
        return function(_encoded(0, member))
    if isinstance(member, bytes):
        return function(member)
    if isinstance(member, int | np.integer) and not isinstance(member, bool) and 0 <= member < 1 << 64:
        return int(member)
    raise InvalidArgumentError(f"sets: expected str, bytes or int from 0 to 2**64 - 1, got {member!r:.80}")
