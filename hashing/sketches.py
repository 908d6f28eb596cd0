"""Sketches together with what they were made by."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError, SketchMismatchError

DTYPES: dict[int, type[np.unsignedinteger[Any]]] = {
    32: np.uint32,
    16: np.uint16,
    8: np.uint8,
    4: np.uint8,
    2: np.uint8,
    1: np.uint8,
}


class Sketches:
    """Sketches of n sets: an array, and a header that says how it was made.

    Parameters
    ----------
    values : (n, k) uint32, uint16 or uint8, or (n, ceil(k * bits / 8)) uint8 for fewer than 8 bits
        A row a set, in packed ones the first value in the lowest bits. A Torch tensor stays one.
    header : dict
        At least "scheme", "version", "k", "bits", "seed" and "hash"; "shingles" where sets were made of texts.

    Notes
    -----
    Values of two sketches mean something together only if they were made in the same way: whatever compares or merges
    them calls `check`.
    """

    def __init__(self, values: Any, header: dict[str, Any]) -> None:
        self.values = values
        self.header = dict(header)

    @property
    def k(self) -> int:
        """Values of a sketch."""
        return int(self.header["k"])

    @property
    def bits(self) -> int:
        """Bits of a value."""
        return int(self.header["bits"])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Any:
        """A row of values for a whole number, `Sketches` of some rows for a slice or an array."""
        chosen = self.values[rows]
        return chosen if chosen.ndim < 2 else Sketches(chosen, self.header)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = np.asarray(self.values, dtype)
        return array.copy() if copy and array is self.values else array

    def __repr__(self) -> str:
        return f"Sketches({len(self)} of {self.header})"

    def check(self, other: "Sketches") -> None:
        """Raise SketchMismatchError if `other` was made in another way."""
        for name in sorted(self.header.keys() | other.header.keys()):
            mine, theirs = self.header.get(name), other.header.get(name)
            # Sets given as tokens say nothing of shingles, and may be those of texts.
            unknown = name == "shingles" and (mine is None or theirs is None)
            if mine != theirs and not unknown:
                raise SketchMismatchError(f"sketches differ in {name}: {mine!r} and {theirs!r}")

    def unpacked(self) -> NDArray[Any]:
        """(n, k) values, one in each element."""
        return unpacked(np.asarray(self.values), self.bits)[:, : self.k]

    def agreement(self, other: "Sketches") -> NDArray[np.float64]:
        """Share of values that agree, row by row; one row stands for as many as the other side has."""
        self.check(other)
        if len(self) != len(other) and 1 not in (len(self), len(other)):
            raise InvalidArgumentError(f"other: expected {len(self)} sketches or one, got {len(other)}")
        share: NDArray[np.float64] = (self.unpacked() == other.unpacked()).mean(axis=1)
        return share

    def jaccard(self, other: "Sketches") -> NDArray[np.float64]:
        """Estimated similarity row by row, unbiased, so that it may lie a little below 0.

        Values of b < 32 bits agree by chance with probability ``C = 2**-b``; with P the share that agrees the estimate
        is ``(P - C) / (1 - C)`` (Li and Koenig, CACM 2011, with C1 = C2 = C: values are hashes, whatever the sets). Of
        sketches of weighted sets it is their weighted similarity.
        """
        chance = chance_of(self.bits)
        return (self.agreement(other) - chance) / (1 - chance)

    def containment(self, other: "Sketches", sizes: Any, other_sizes: Any) -> NDArray[np.float64]:
        """Estimated share of each set of this side that is also in the set of the other side.

        From the similarity J and the numbers of distinct elements of both: ``J (|A| + |B|) / ((1 + J) |A|)``, cut to
        [0, 1]; NaN for an empty set.
        """
        similarity = np.clip(self.jaccard(other), 0, 1)
        own, others = np.asarray(sizes, np.float64), np.asarray(other_sizes, np.float64)
        for name, given in (("sizes", own), ("other_sizes", others)):
            if not (np.isfinite(given) & (given >= 0)).all():
                raise InvalidArgumentError(f"{name}: expected numbers of elements, at least 0")
        with np.errstate(divide="ignore", invalid="ignore"):
            share = similarity * (own + others) / ((1 + similarity) * own)
        return np.where(own > 0, np.clip(share, 0, 1), np.nan)


def unpacked(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """One value in each element, (n, k) or a few more; below 8 bits they come packed, the lowest bits first."""
    if bits >= 8:
        return values
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (values[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(values), -1)


def chance_of(bits: int) -> float:
    """Probability that values of different elements agree; below anything measurable, taken as 0, at 32 bits."""
    return 0.0 if bits >= 32 else 2.0**-bits
