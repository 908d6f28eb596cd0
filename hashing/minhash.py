"""MinHash: sketches of sets whose values agree with the probability of the sets' Jaccard similarity."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError, SketchMismatchError
from nearhash.hashing import slot_sources
from nearhash.hashing.randomness import check_seed, words64
from nearhash.hashing.sets import checked_sets
from nearhash.hashing.sketches import DTYPES, Sketches, chance_of
from nearhash.hashing.vectors import check_whole, is_tensor
from nearhash.kernels import set_sketches
from nearhash.kernels.threads import resolve_threads, run_chunks

if TYPE_CHECKING:
    from nearhash.hashing.texts import Shingler

METHODS = ("fss", "oph-optimal", "oph-reverse", "oph-rotation", "classic", "affine32")
VERSION = 1  # of the values: a change in what a method computes gets another
_STREAM = 0x4D494E48
_CHUNK = 256  # sets of a task
_DENSIFIERS: dict[str, Callable[..., None]] = {
    "oph-optimal": set_sketches.densify_optimal,
    "oph-reverse": set_sketches.densify_reverse,
    "oph-rotation": set_sketches.densify_rotation,
}


class MinHash:
    """Sketches of sets.

    Parameters
    ----------
    k : int
        Values of a sketch, 1 to 65,536. The standard error of an estimate is about ``sqrt(J (1 - J) / k)``.
    method : str
        - "fss", Fast Similarity Sketching (Dahlgaard, Knudsen and Thorup, FOCS 2017): as fast as one permutation
          hashing, and of all methods that with the least variance.
        - "oph-optimal", "oph-reverse", "oph-rotation": one permutation hashing (Li, Owen and Zhang, NIPS 2012), empty
          slots filled by optimal (Shrivastava, ICML 2017), reverse (Mai et al., UAI 2019) or rotation densification
          (Shrivastava and Li, ICML 2014; the baseline: its variance is far larger for small sets).
        - "classic": k hash functions (Broder, 1997), k times the work.
        - "affine32": the values of datasketch 2's default scheme, for sketches that datasketch made or is to read.
          Tokens are hashes of 32 bits; `sketch_sets` takes SHA-1 as datasketch does.
    bits : {32, 16, 8, 4, 2, 1}
        Kept of each value (b-bit minwise hashing, Li and Koenig, WWW 2010): fewer make smaller sketches of higher
        variance.
    seed : int
        0 to 2**64 - 1; for "affine32" 0 to 2**32 - 1.

    Notes
    -----
    A sketch depends on the set alone, not on order, repetition, or number of threads. `minima` merge.
    """

    def __init__(self, k: int = 128, method: str = "fss", bits: int = 32, seed: int = 1) -> None:
        self.k = check_whole(k, "k", 1, 1 << 16)
        if method not in METHODS:
            raise InvalidArgumentError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        if isinstance(bits, bool) or bits not in DTYPES:
            raise InvalidArgumentError(f"bits: expected 32, 16, 8, 4, 2 or 1, got {bits!r}")
        self.method, self.bits, self.seed = method, int(bits), check_seed(seed)
        if method == "affine32" and self.seed >= 1 << 32:
            raise InvalidArgumentError(f"seed: expected below 2**32 for affine32, got {seed}")

    @property
    def header(self) -> dict[str, Any]:
        """What two sketches must have in common to be compared."""
        return {
            "scheme": self.method,
            "version": VERSION,
            "k": self.k,
            "bits": self.bits,
            "seed": self.seed,
            "hash": "fmix32" if self.method == "affine32" else "fmix64",
        }

    # --- sketches ---

    def sketch(self, indptr: ArrayLike, tokens: ArrayLike, threads: int | None = None) -> Sketches:
        """Sketches of sets of tokens.

        Parameters
        ----------
        indptr : (n + 1,) int64
            Set i has the tokens ``indptr[i]:indptr[i + 1]``.
        tokens : (m,) uint64
            Any numbers, in any order; repetitions do not matter. Below 2**32 for "affine32". Torch tensors, int64
            standing for uint64, are sketched on their device, and tensors come back.
        threads : int, optional
            By default all cores; the result does not depend on it.

        Returns
        -------
        Sketches
            An empty set has all bits set in every value: its similarity is 1 with another empty set, and but for chance
            0 with any other.
        """
        if is_tensor(tokens):
            from nearhash.kernels.torch_sketches import sketch

            return Sketches(sketch(indptr, tokens, self.method, self.k, self.bits, *self._parameters), self.header)
        threads = resolve_threads(threads)
        starts, ids = self._checked(indptr, tokens)
        return self._sketch(len(starts) - 1, lambda first, last: self._minima(starts[first : last + 1], ids), threads)

    def sketch_texts(
        self, texts: Sequence[str] | Sequence[bytes], ngram: int = 5, unit: str = "word", threads: int | None = None
    ) -> Sketches:
        """Sketches of the sets of shingles of texts, see `Shingler`, whose defaults hold for what is not named here."""
        from nearhash.hashing.texts import Shingler, joined

        return self.sketch_utf8(*joined(texts), Shingler(ngram=ngram, unit=unit), threads)

    def sketch_utf8(
        self,
        text: ArrayLike,
        offsets: ArrayLike,
        shingler: "Shingler",
        threads: int | None = None,
        *,
        sizes: NDArray[np.int64] | None = None,
    ) -> Sketches:
        """Sketches of the sets of shingles of texts that lie one behind the other; see `Shingler.shingles_utf8`.

        Shingles are used as they are made: all of them together take no memory. sizes (n,), if given, gets the number
        of shingles of each text, repetitions included.
        """
        out = self._empty(np.asarray(offsets).size - 1)

        def use(first: int, starts: NDArray[np.int64], tokens: NDArray[np.uint64]) -> None:
            ids = self._folded(tokens)
            if sizes is not None:
                sizes[first : first + len(starts) - 1] = np.diff(starts)
            for row in range(0, len(starts) - 1, _CHUNK):
                some = starts[row : row + _CHUNK + 1]
                self._finish(self._minima(some, ids), out[first + row : first + row + len(some) - 1])

        shingler.each(text, offsets, use, threads)
        return Sketches(out, {**self.header, "shingles": shingler.facts()})

    def sketch_sets(self, sets: Iterable[Iterable[str | bytes | int]], threads: int | None = None) -> Sketches:
        """Sketches of Python sets (or lists) of str, bytes or int.

        Strings and bytes are hashed by XXH3 (64 bits), strings as UTF-8, and numbers, 0 to 2**64 - 1, are tokens as
        they are; for "affine32" strings and bytes are hashed by SHA-1 (32 bits), as datasketch does.
        """
        from nearhash.hashing.members import as_lists, hash_members

        lists, function = as_lists(sets), "sha1_32" if self.method == "affine32" else "xxh3_64"
        return self._sketch(
            len(lists),
            lambda first, last: self._minima(*self._checked(*hash_members(lists[first:last], function))),
            resolve_threads(threads),
        )

    def minima(self, indptr: ArrayLike, tokens: ArrayLike, threads: int | None = None) -> "Minima":
        """What sketches are made of, before empty slots are filled and values cut: minima of parts of a set merge."""
        threads = resolve_threads(threads)
        starts, ids = self._checked(indptr, tokens)
        keys = np.empty((len(starts) - 1, self.k), np.uint64)

        def task(first: int, last: int) -> None:
            keys[first:last] = self._minima(starts[first : last + 1], ids)

        run_chunks(task, len(keys), threads, _CHUNK)
        return Minima(keys, self)

    # --- what estimates are worth ---

    def collision_probability(self, jaccard: ArrayLike, union: int | None = None) -> NDArray[np.float64]:
        """Probability that a value of the sketches of two different sets agrees: ``C + (1 - C) J``.

        C is 2**-bits below 32 bits, else 0. It does not depend on `union`, the number of elements of both sets
        together: all methods are unbiased.
        """
        chance = chance_of(self.bits)
        return chance + (1 - chance) * _checked_jaccard(jaccard)

    def variance(self, jaccard: ArrayLike, union: int) -> NDArray[np.float64]:
        """Variance of `Sketches.jaccard` for two sets whose union has `union` elements.

        With p the probability that two slots of the union's sketch have their values from the same element, and
        ``R = (J union - 1) / (union - 1)``, ``J / k + (1 - 1/k) J (p + (1 - p) R) - J^2``: two slots agree if they
        share an element of the intersection or have two of them. `nearhash.hashing.slot_sources` has p by method; for
        optimal densification this is the formula of Shrivastava (ICML 2017, theorem 4), for "classic" ``J (1 - J) /
        k``. Fewer bits add ``C (1 - J) / ((1 - C) k)``, C = 2**-bits.
        """
        similarity, size = _checked_jaccard(jaccard), check_whole(union, "union", 1, 1 << 62)
        shared = slot_sources.same_source(self.method, size, self.k)
        rest = (similarity * size - 1) / (size - 1) if size > 1 else np.zeros_like(similarity)
        joint = similarity * (shared + (1 - shared) * np.clip(rest, 0, 1))
        own = similarity / self.k + (1 - 1 / self.k) * joint - similarity**2
        chance = chance_of(self.bits)
        spread: NDArray[np.float64] = np.maximum(own, 0) + chance * (1 - similarity) / ((1 - chance) * self.k)
        return spread

    # --- within ---

    @cached_property
    def _parameters(self) -> tuple[Any, ...]:
        """(salt of tokens, salt of densification), or (multipliers, addends) for "affine32"."""
        if self.method != "affine32":
            salt, filling = words64(self.seed, _STREAM, 2)
            return salt, filling
        # The draws of datasketch 2.0, in its order.
        legacy = np.random.RandomState(self.seed)
        multipliers = legacy.randint(0, 1 << 31, self.k, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        return multipliers, legacy.randint(0, 1 << 32, self.k, dtype=np.uint32)

    def _checked(self, indptr: ArrayLike, tokens: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        starts, ids = checked_sets(indptr, tokens)
        if self.method == "affine32" and len(ids) and ids.max() >> np.uint64(32):
            raise InvalidArgumentError("tokens: expected hashes of 32 bits for affine32, got greater ones")
        return starts, ids

    def _folded(self, tokens: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Hashes of 64 bits as tokens of this method."""
        return tokens & np.uint64(0xFFFFFFFF) if self.method == "affine32" else tokens

    def _minima(self, starts: NDArray[np.int64], ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """(n, k) minima of a few sets."""
        out = np.empty((len(starts) - 1, self.k), np.uint64)
        if self.method == "affine32":
            set_sketches.affine32(starts, ids, *self._parameters, out)
            return out
        kernel = {"fss": set_sketches.fast_similarity, "classic": set_sketches.classic}.get(
            self.method, set_sketches.one_permutation
        )
        kernel(starts, ids, self._parameters[0], out)
        return out

    def _finish(self, minima: NDArray[np.uint64], out: NDArray[Any]) -> None:
        """Fill empty slots of minima (n, k), in place, and write values of `bits` bits."""
        if self.method in _DENSIFIERS:
            _DENSIFIERS[self.method](minima, self._parameters[1])
        if self.method == "affine32" and self.bits == 32:
            out[:] = minima  # as datasketch has them; EMPTY becomes 2**32 - 1, there too the mark of an empty set
            return
        if self.bits >= 8:
            set_sketches.fingerprints(minima, self.bits, out)
            return
        values = np.empty(minima.shape, np.uint8)
        set_sketches.fingerprints(minima, self.bits, values)
        set_sketches.pack(values, self.bits, out)

    def _empty(self, count: int) -> NDArray[Any]:
        width = self.k if self.bits >= 8 else -(-self.k * self.bits // 8)
        return np.empty((max(count, 0), width), DTYPES[self.bits])

    def _sketch(self, count: int, minima: Callable[[int, int], NDArray[np.uint64]], threads: int) -> Sketches:
        out = self._empty(count)
        run_chunks(lambda first, last: self._finish(minima(first, last), out[first:last]), count, threads, _CHUNK)
        return Sketches(out, self.header)


class Minima:
    """Sketches in the making, which merge: see `MinHash.minima`.

    Attributes
    ----------
    values : (n, k) uint64
        2**64 - 1 where no element came. The elementwise least of two is that of the union.
    """

    def __init__(self, values: NDArray[np.uint64], minhash: MinHash) -> None:
        self.values = values
        self._minhash = minhash

    def __len__(self) -> int:
        return len(self.values)

    def merge(self, other: "Minima") -> "Minima":
        """Minima of the unions, row by row."""
        if self._minhash.header != other._minhash.header:
            raise SketchMismatchError(f"minima differ: {self._minhash.header} and {other._minhash.header}")
        if len(self) != len(other):
            raise InvalidArgumentError(f"other: expected {len(self)} rows, got {len(other)}")
        return Minima(np.minimum(self.values, other.values), self._minhash)

    def sketch(self, threads: int | None = None) -> Sketches:
        """The sketches, as `MinHash.sketch` makes them of the whole sets."""
        return self._minhash._sketch(
            len(self), lambda first, last: self.values[first:last].copy(), resolve_threads(threads)
        )


def _checked_jaccard(jaccard: ArrayLike) -> NDArray[np.float64]:
    similarity = np.asarray(jaccard, np.float64)
    if not ((similarity >= 0) & (similarity <= 1)).all():
        raise InvalidArgumentError(f"jaccard: expected numbers in [0, 1], got {jaccard!r:.80}")
    return similarity
