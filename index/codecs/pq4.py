"""PQ4: product codes of 4 bits, for the fast scan of lists."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.arrays import aligned_empty
from nearhash.index.storage import take_tensor
from nearhash.kernels import product_codes
from nearhash.kernels.fastscan import LEVELS, Codebook
from nearhash.kernels.panels import fill_panels, multiply, panel_count
from nearhash.kernels.simd import PRODUCT_ROWS
from nearhash.kernels.simd_tables import GROUP
from nearhash.kernels.threads import run_chunks

SAMPLE = 20_000  # training vectors of the sub-quantisers: more than 1,000 for each codeword
ROUNDS = 12
DIMENSIONS = 2  # for a sub-quantiser
REFINEMENTS = 10  # passes of coordinate descent
# Directions that hold this much of the energy are coded if they are at most half of all; else all are.
ENERGY = 0.85
# Word vectors (residuals spread evenly over 100 dimensions) lose by a rotation, images (112 of 784) gain a factor of 4.
FEW = 0.5
# Dimensions between which directions are looked for: below there is nothing to gain, above the eigenvectors take a
# minute.
FEWEST, MOST = 64, 2048


class PQ4Codec:
    """Product quantisation with 16 codewords a sub-quantiser (Jegou et al., PAMI 2011), usually of residuals.

    Where the data has few directions (principal components of the sample) that matter, only those are coded: queries
    are projected once. Sub-quantisers then get about equal parts of the sum of standard deviations, so leading
    directions have a sub-quantiser of their own and trailing ones share.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    anisotropic : float, optional
        Threshold T of the anisotropic loss (Guo et al., ICML 2020): codes are chosen for
        ``|e|^2 + (eta - 1) <e, u>^2`` with eta = (d - 1) T^2 / (1 - T^2), u the direction of the whole vector. By
        default the plain loss ``|e|^2``.
    """

    name = "pq4"

    def __init__(self, dim: int, anisotropic: float | None = None) -> None:
        self.dim = dim
        self.anisotropic = anisotropic
        self.codebook = Codebook(np.zeros(1, np.int32), np.zeros((0, LEVELS), np.float32))
        self._directions: NDArray[np.float32] | None = None  # (coded, dim) orthonormal rows
        self._panels: NDArray[np.float32] | None = None

    @property
    def coded(self) -> int:
        """Dimensions that are coded."""
        return int(self.codebook.bounds[-1])

    @property
    def subs(self) -> int:
        """Number of sub-quantisers, a multiple of 8."""
        return len(self.codebook.bounds) - 1

    @property
    def width(self) -> int:
        """Bytes of a code."""
        return self.subs // 2

    @property
    def eta(self) -> float:
        """Weight of the parallel error."""
        if self.anisotropic is None or self.dim == 1:
            return 1.0
        return max(1.0, (self.dim - 1) * self.anisotropic**2 / (1 - self.anisotropic**2))

    def train(self, sample: NDArray[np.float32], threads: int = 1) -> None:
        """Learn from vectors (n, dim), n >= 1, in random order. The result does not depend on `threads`."""
        sample = sample[:SAMPLE]
        self._set_directions(self._principal(sample))
        projected = self.project(sample)
        coded = projected.shape[1]
        subs = GROUP * -(-coded // (GROUP * DIMENSIONS))
        bounds = (
            _even_bounds(coded, subs) if self._directions is None else bounds_by_deviation(projected.std(axis=0), subs)
        )
        values = np.zeros((coded, LEVELS), np.float32)

        def task(first: int, last: int) -> None:
            for sub in range(first, last):
                product_codes.train_sub_quantiser(projected, bounds[sub], bounds[sub + 1], ROUNDS, values)

        run_chunks(task, subs, threads, 1)
        self.codebook = Codebook(bounds, values)

    def _principal(self, sample: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """The directions that matter (coded, dim), if they are few."""
        if not FEWEST <= self.dim <= MOST or len(sample) < 2 * self.dim:
            return None
        wide = sample.astype(np.float64)
        energies, directions = np.linalg.eigh(wide.T @ wide)
        shares = np.cumsum(np.maximum(energies[::-1], 0))
        needed = int(np.searchsorted(shares, ENERGY * shares[-1])) + 1
        coded = GROUP * DIMENSIONS * -(-needed // (GROUP * DIMENSIONS))
        if coded > FEW * self.dim or shares[-1] == 0:
            return None
        return np.ascontiguousarray(directions[:, ::-1][:, :coded].T, np.float32)

    def _set_directions(self, directions: NDArray[np.float32] | None) -> None:
        self._directions = directions
        self._panels = None
        if directions is not None:
            self._panels = aligned_empty((panel_count(len(directions)), self.dim, PRODUCT_ROWS), np.float32)
            fill_panels(directions, self._panels)

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The coded part (n, coded) of vectors (n, dim)."""
        if self._panels is None or self._directions is None:
            return vectors
        out = np.empty((len(vectors), len(self._panels) * PRODUCT_ROWS), np.float32)
        multiply(vectors, self._panels, out)
        return np.ascontiguousarray(out[:, : len(self._directions)])

    def restored(self, projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors (n, dim) with coded parts (n, coded)."""
        return projected if self._directions is None else projected @ self._directions

    def encode(
        self, vectors: NDArray[np.float32], whole: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Codes (n, subs) uint8 of vectors (n, dim), and their errors (n, dim): code minus vector.

        whole (n, dim): the vectors whose directions the anisotropic loss is about, if these are residuals.
        """
        projected = self.project(vectors)
        codes = np.empty((len(vectors), self.subs), np.uint8)
        product_codes.encode(projected, *self.codebook, codes)
        if self.eta > 1:
            whole = vectors if whole is None else whole
            lengths = np.linalg.norm(whole, axis=1, keepdims=True)
            directions = np.divide(whole, lengths, out=np.zeros_like(whole), where=lengths > 0)
            product_codes.refine_anisotropic(
                projected, self.project(directions), np.float32(self.eta - 1), *self.codebook, REFINEMENTS, codes
            )
        return codes, self.decode(codes) - vectors

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Vectors (n, dim) that codes (n, subs) stand for."""
        projected = np.empty((len(codes), self.coded), np.float32)
        product_codes.decode(codes, *self.codebook, projected)
        return self.restored(projected)

    @property
    def nbytes(self) -> int:
        directions = 0 if self._directions is None else self._directions.nbytes * 2
        return int(sum(array.nbytes for array in self.codebook) + directions)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What was learned, for the index file."""
        tensors: dict[str, NDArray[Any]] = {"bounds": self.codebook.bounds, "codewords": self.codebook.values}
        if self._directions is not None:
            tensors["directions"] = self._directions
        return tensors

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave; raises CorruptIndexError if it cannot be that."""
        bounds = take_tensor(tensors, "bounds", np.int32, (None,))
        directions = None
        coded = self.dim
        if "directions" in tensors:
            directions = take_tensor(tensors, "directions", np.float32, (None, self.dim))
            coded = len(directions)
            if not 0 < coded <= self.dim or not np.isfinite(directions).all():
                raise CorruptIndexError("tensor 'directions': expected finite numbers, at most one row a dimension")
        values = take_tensor(tensors, "codewords", np.float32, (coded, LEVELS))
        subs = len(bounds) - 1
        if subs < GROUP or subs % GROUP or bounds[0] != 0 or bounds[-1] != coded or (np.diff(bounds) < 0).any():
            raise CorruptIndexError(f"tensor 'bounds': expected 8 m ascending steps from 0 to {coded}")
        if not np.isfinite(values).all():
            raise CorruptIndexError("tensor 'codewords': expected finite numbers")
        self._set_directions(directions)
        self.codebook = Codebook(bounds, values)


def _even_bounds(coded: int, subs: int) -> NDArray[np.int32]:
    """Dimensions divided evenly."""
    return np.round(np.linspace(0, coded, subs + 1)).astype(np.int32)


def bounds_by_deviation(deviations: NDArray[np.float32], subs: int) -> NDArray[np.int32]:
    """Descending directions divided so that each sub-quantiser, none empty, gets about an equal sum of deviations."""
    coded, total = len(deviations), np.cumsum(deviations.astype(np.float64))
    inner = np.searchsorted(total, np.arange(1, subs) * (total[-1] / subs)) + 1
    bounds = np.concatenate([[0], inner, [coded]])
    for sub in range(1, subs):
        bounds[sub] = max(bounds[sub], bounds[sub - 1] + 1)
    for sub in range(subs - 1, 0, -1):
        bounds[sub] = min(bounds[sub], bounds[sub + 1] - 1)
    return bounds.astype(np.int32)


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Codes (n, subs) as words (n, subs / 8): the four bytes of a vector for each group (``kernels.simd_tables``)."""
    parts = codes.reshape(len(codes), codes.shape[1] // GROUP, 2, GROUP // 2)
    packed = np.ascontiguousarray(parts[:, :, 0] | (parts[:, :, 1] << np.uint8(4)))
    return packed.view("<u4")[:, :, 0].astype(np.uint32, copy=False)


def unpack(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Inverse of `pack`."""
    packed = np.ascontiguousarray(words.astype("<u4", copy=False)).view(np.uint8)
    packed = packed.reshape(*words.shape, 1, GROUP // 2)
    codes = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=2)
    return np.ascontiguousarray(codes.reshape(len(words), GROUP * words.shape[1]))
