"""SimHash in a space that was learned from pairs of records that match."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError, NotTrainedError
from nearhash.hashing import randomness
from nearhash.hashing.vectors import MAX_DIM, as_rows, check_positive, check_whole, is_tensor
from nearhash.kernels.panels import fill_panels, panel_count
from nearhash.kernels.simd import PRODUCT_ROWS
from nearhash.kernels.simhash import encode_product
from nearhash.kernels.threads import resolve_threads, run_chunks
from nearhash.kernels.union_find import components

MAX_BITS = 65_536
LEAST_MATCHES = 10
CHUNK = 1024  # vectors that a thread takes at a time
VERSION = 1

_PROJECTION_STREAM, _START_STREAM, _ORDER_STREAM = 0x4C524E01, 0x4C524E02, 0x4C524E03

Progress = Callable[[int, int], None]


class LearnedHash:
    """Codes of bits in bands; in each band vectors are weighted as it was learned from pairs.

    Elements of a vector belong to groups, such as the fields of a record. Band j multiplies group g by a weight
    ``w[j, g]`` and takes signs of `band_bits` random projections, so

        P(all bits of band j agree) = (1 - theta_j / pi)^band_bits,

    theta_j being the angle of the weighted vectors: the SimHash family (Charikar, STOC 2002) in a learned space of each
    band. `fit` maximises the chance that pairs which match agree in at least one band, and pays for candidates. So a
    band becomes a blocking key: fields that are rarely wrong together, and enough of them to be rare among others.
    After NLSHBlock (Wang et al. 2024, arXiv:2401.18064), which trains a network for distances within R of matches and
    beyond cR of others, and LSS (Liu et al. 2020, arXiv:2007.01230), which trains hash functions of tables. Here the
    probability of a collision is known, so nothing is relaxed, and weights are few, so some hundred pairs do.

    Codes have the form of `SimHash` codes and go wherever those go.

    Parameters
    ----------
    dim
        Elements of a vector, 1 to 32,768.
    bits
        Bits of a code, a multiple of `band_bits` up to 65,536.
    seed
        A whole number in [0, 2**64) for projections, first weights and the order of training.
    band_bits
        Bits of a band, a multiple of 8. More make fewer, rarer candidates; `fit` makes up for it where it can.
    groups
        (dim,) the group of each element, numbers from 0 without gaps. By default every element is its own, which
        takes more pairs and time.

    Raises
    ------
    InvalidArgumentError
        If an argument is none of the above.
    """

    def __init__(
        self, dim: int, bits: int = 512, seed: int = 0, *, band_bits: int = 32, groups: ArrayLike | None = None
    ) -> None:
        self.dim = check_whole(dim, "dim", 1, MAX_DIM)
        self.bits = check_whole(bits, "bits", 8, MAX_BITS)
        self.band_bits = check_whole(band_bits, "band_bits", 8, self.bits)
        if self.band_bits % 8:
            raise InvalidArgumentError(f"band_bits: expected a multiple of 8, got {band_bits!r}")
        if self.bits % self.band_bits:
            raise InvalidArgumentError(f"bits: expected a multiple of band_bits, {band_bits}, got {bits!r}")
        self.seed = randomness.check_seed(seed)
        self.groups = _check_groups(groups, self.dim)
        self._weights: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        known = "" if self._weights is None else ", fitted"
        return f"LearnedHash(dim={self.dim}, bits={self.bits}, seed={self.seed}, band_bits={self.band_bits}{known})"

    @property
    def bands(self) -> int:
        """Bands of a code: ``bits // band_bits``."""
        return self.bits // self.band_bits

    @property
    def weights(self) -> NDArray[np.float32]:
        """(bands, groups) float32, the greatest of a band 1. Raises NotTrainedError before `fit`."""
        if self._weights is None:
            raise NotTrainedError("LearnedHash: expected fit(X, pairs) before this call")
        return self._weights

    def fit(
        self,
        X: ArrayLike,
        pairs: ArrayLike,
        labels: ArrayLike | None = None,
        epochs: int = 10,
        *,
        records: int | None = None,
        cost: float = 0.01,
        rate: float = 0.15,
        progress: Progress | None = None,
    ) -> "LearnedHash":
        """Learn the weights; what was learned before is forgotten. Needs Torch, the extra ``nearhash[gpu]``.

        Minimises, with P the chance that two codes agree in at least one band,

            mean of -log P(pair) over matches and -log(1 - P(pair)) over others + cost * candidates per record,

        the last being `records` times the mean P of records of different pairs. Adam on the logarithms of the weights,
        256 pairs a step, on one thread; the same arguments give the same weights on one machine.

        Parameters
        ----------
        X
            (n, dim) vectors, as for `encode`.
        pairs
            (m, 2) integers: rows of X. At least 10 have to match; some hundred are enough where groups are few.
        labels
            (m,) bool, whether a pair matches; by default all do.
        epochs
            Passes over the pairs.
        records
            Size of the collection that is going to be blocked, by default n.
        cost
            What a candidate per record costs, in nats of a match's likelihood.
        rate
            Of learning.
        progress
            Called with the number of epochs done and their total.

        Raises
        ------
        InvalidArgumentError
            For NaN or infinity, rows that are not in X, fewer than 10 matches, or non-matches that matches connect.
        DimensionError, DtypeError
            For another shape or dtype.
        """
        vectors = as_rows(X, self.dim, "X")
        rows, matching = _check_pairs(pairs, labels, len(vectors))
        epochs = check_whole(epochs, "epochs", 1, 1_000_000)
        size = len(vectors) if records is None else check_whole(records, "records", 1, 1 << 62)
        cost, rate = check_positive(cost, "cost"), check_positive(rate, "rate")
        try:
            from nearhash.kernels import torch_learned
        except ImportError as error:
            raise ImportError("LearnedHash.fit needs Torch: pip install 'nearhash[gpu]'") from error
        known = np.arange(len(vectors), dtype=np.int64)
        components(known, np.ascontiguousarray(rows[matching]))
        apart = known[rows[:, 0]] != known[rows[:, 1]]
        if not (apart | matching).all():
            wrong = int(np.flatnonzero(~(apart | matching))[0])
            raise InvalidArgumentError(
                f"labels: pair {wrong} is none that matches, but matches connect its rows {rows[wrong].tolist()}"
            )
        groups = int(self.groups.max()) + 1
        start = randomness.normals(self.seed, _START_STREAM, self.bands * groups).reshape(self.bands, groups)
        words = randomness.words64(self.seed, _ORDER_STREAM, epochs * len(rows)).reshape(epochs, len(rows))

        def report(epoch: int, loss: float) -> None:
            if not np.isfinite(loss):
                raise InvalidArgumentError(f"rate: expected one at which the loss stays finite, got {rate!r}")
            if progress is not None:
                progress(epoch + 1, epochs)

        weights = torch_learned.learn(
            start.astype(np.float32),
            vectors,
            np.argsort(self.groups, kind="stable"),
            np.concatenate([[0], np.cumsum(np.bincount(self.groups))]),
            rows,
            matching,
            known,
            np.argsort(words, axis=1, kind="stable"),
            self.band_bits,
            size,
            cost,
            rate,
            report,
        )
        self._set_weights(weights)
        return self

    def encode(self, X: ArrayLike, threads: int | None = None) -> Any:
        """Codes of vectors: (n, bits // 8) uint8, as `SimHash.encode` makes them. Does not need Torch.

        Parameters
        ----------
        X
            (n, dim) or (dim,) of a float or integer dtype. A Torch tensor is encoded on its device and gives a tensor;
            products round differently there, so a bit whose projection is almost zero may differ.
        threads
            Threads to use, all cores by default. The codes do not depend on it.

        Raises
        ------
        NotTrainedError
            Before `fit`.
        DimensionError, DtypeError, InvalidArgumentError
            For another shape or dtype, and for NaN, infinity or values beyond 1e15 in magnitude.
        """
        _ = self.weights
        if is_tensor(X):
            return self._encode_tensor(X)
        threads = resolve_threads(threads)
        vectors = as_rows(X, self.dim, "X")
        codes = np.empty((len(vectors), self.bits // 8), np.uint8)

        def encode_some(first: int, last: int) -> None:
            encode_product(vectors[first:last], self._panels, self.bits, codes[first:last])

        run_chunks(encode_some, len(vectors), threads, CHUNK)
        return codes

    def band_keys(self, codes: ArrayLike) -> NDArray[np.void]:
        """Keys of codes: (n, bands), `band_bits` bits each as bytes. Records that share a key are candidates."""
        array = np.asarray(codes)
        if array.dtype != np.uint8:
            raise DtypeError(f"codes: expected uint8, got {array.dtype}")
        if array.ndim != 2 or array.shape[1] != self.bits // 8:
            raise DimensionError(f"codes: expected shape (n, {self.bits // 8}), got {array.shape}")
        keys: NDArray[np.void] = np.ascontiguousarray(array).view(f"V{self.band_bits // 8}")
        return keys

    def collision_probability(self, X: ArrayLike, Y: ArrayLike) -> NDArray[np.float64]:
        """Chance over random projections that vectors, row by row, agree in at least one band: (n,) float64.

        ``1 - prod_j (1 - (1 - theta_j / pi)^band_bits)``; exact for normal projections, which these are.
        """
        weights = np.square(self.weights.astype(np.float64))[:, self.groups]
        x, y = as_rows(X, self.dim, "X").astype(np.float64), as_rows(Y, self.dim, "Y").astype(np.float64)
        if x.shape != y.shape:
            raise DimensionError(f"Y: expected the shape of X, {x.shape}, got {y.shape}")
        products, x_squares, y_squares = (x * y) @ weights.T, np.square(x) @ weights.T, np.square(y) @ weights.T
        # All bits of a zero vector are 1; those of another one are random beside them.
        cosines = ((x_squares == 0) & (y_squares == 0)).astype(np.float64)
        lengths = np.sqrt(x_squares * y_squares)
        np.divide(products, lengths, out=cosines, where=lengths > 0)
        agree = (1.0 - np.arccos(np.clip(cosines, -1.0, 1.0)) / np.pi) ** self.band_bits
        chance: NDArray[np.float64] = 1.0 - np.prod(1.0 - agree, axis=1)
        return chance

    def state(self) -> dict[str, NDArray[Any]]:
        """All that makes an equal hash, as arrays: for ``numpy.savez`` or any container of arrays."""
        numbers = [VERSION, self.dim, self.bits, self.seed, self.band_bits]
        return {"numbers": np.array(numbers, np.uint64), "groups": self.groups.copy(), "weights": self.weights.copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, ArrayLike]) -> "LearnedHash":
        """The hash that `state` was taken of. Needs no Torch. Raises InvalidArgumentError for anything else."""
        missing = {"numbers", "groups", "weights"} - set(state)
        if missing:
            raise InvalidArgumentError(f"state: expected arrays numbers, groups and weights, got no {sorted(missing)}")
        numbers = np.asarray(state["numbers"])
        if numbers.dtype != np.uint64 or numbers.shape != (5,) or numbers[0] != VERSION:
            raise InvalidArgumentError(f"state: expected numbers (5,) uint64 of version {VERSION}, got {numbers!r}")
        _, dim, bits, seed, band_bits = map(int, numbers)
        made = cls(dim, bits, seed, band_bits=band_bits, groups=state["groups"])
        weights = np.asarray(state["weights"])
        expected = (made.bands, int(made.groups.max()) + 1)
        if weights.dtype != np.float32 or weights.shape != expected:
            raise InvalidArgumentError(
                f"state: expected weights {expected} float32, got {weights.shape} {weights.dtype}"
            )
        if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights <= 1).all()):
            raise InvalidArgumentError("state: expected weights in [0, 1]")
        made._set_weights(weights)
        return made

    def _set_weights(self, weights: NDArray[np.float32]) -> None:
        """Fold the weights into the projections: encoding is a product with one matrix."""
        drawn = randomness.normals(self.seed, _PROJECTION_STREAM, self.bits * self.dim)
        projections = drawn.reshape(self.bands, self.band_bits, self.dim).astype(np.float32)
        projections *= weights[:, None, self.groups]
        self._projections = projections.reshape(self.bits, self.dim)
        self._panels = np.empty((panel_count(self.bits), self.dim, PRODUCT_ROWS), np.float32)
        fill_panels(self._projections, self._panels)
        self._weights = np.array(weights, np.float32)

    def _encode_tensor(self, X: Any) -> Any:
        import torch

        from nearhash.kernels import torch_learned

        if X.dtype.is_complex or X.dtype == torch.bool:
            raise DtypeError(f"X: expected a float or integer dtype, got {X.dtype}")
        rows = X[None] if X.ndim == 1 else X
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise DimensionError(f"X: expected shape (n, {self.dim}) or ({self.dim},), got {tuple(X.shape)}")
        rows = rows.detach().to(torch.float32)
        if not bool((rows.abs() <= 1e15).all()):
            raise InvalidArgumentError("X: expected finite values of at most 1e15 in magnitude")
        return torch_learned.encode(rows, self._projections)


def _check_groups(groups: ArrayLike | None, dim: int) -> NDArray[np.int64]:
    if groups is None:
        return np.arange(dim, dtype=np.int64)
    array = np.asarray(groups)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"groups: expected integers, got {array.dtype}")
    if array.shape != (dim,):
        raise DimensionError(f"groups: expected shape ({dim},), got {array.shape}")
    numbers = np.unique(array)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise InvalidArgumentError(f"groups: expected numbers from 0 without gaps, got {numbers.tolist()[:20]}")
    return array.astype(np.int64)


def _check_pairs(pairs: ArrayLike, labels: ArrayLike | None, n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    array = np.asarray(pairs)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"pairs: expected integers, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != 2:
        raise DimensionError(f"pairs: expected shape (m, 2), got {array.shape}")
    wrong = np.flatnonzero(((array < 0) | (array >= n)).any(axis=1) | (array[:, 0] == array[:, 1]))
    if len(wrong):
        raise InvalidArgumentError(
            f"pairs: expected two different rows of the {n:,} in X, got {array[wrong[0]].tolist()} in pair {wrong[0]}"
        )
    matching = np.ones(len(array), np.bool_) if labels is None else np.asarray(labels)
    if matching.dtype != np.bool_:
        raise DtypeError(f"labels: expected bool, got {matching.dtype}")
    if matching.shape != (len(array),):
        raise DimensionError(f"labels: expected shape ({len(array)},), got {matching.shape}")
    count = int(matching.sum())
    if count < LEAST_MATCHES:
        raise InvalidArgumentError(f"pairs: expected at least {LEAST_MATCHES} that match, got {count}")
    return array.astype(np.int64), matching
