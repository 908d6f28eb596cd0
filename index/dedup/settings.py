"""What is a duplicate, and how it is looked for."""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing.banding import Banding
from nearhash.hashing.randomness import check_seed
from nearhash.index.arguments import check_count

if TYPE_CHECKING:
    from nearhash.hashing.minhash import MinHash
    from nearhash.hashing.texts import Shingler

VERIFY = ("exact", "sketch", None)
UNITS = ("word", "char")
DEFAULT_K = 128
BITS = 16  # of a slot: 2**-16 of the slots of unlike sets agree, which neither bands nor estimates notice
# Of pairs exactly at the threshold, how many the bands let through at least; more alike, more come through.
RECALL_AT_THRESHOLD = 0.98


@dataclass(frozen=True)
class Settings:
    """Everything that decides which documents are duplicates.

    Parameters
    ----------
    threshold : float in (0, 1]
        Jaccard similarity of the sets of shingles from which on two documents are near-duplicates.
    ngram : int
        Words or characters of a shingle.
    unit : {"word", "char"}
    k : int
        Slots of a sketch.
    bands, rows : int
        Documents are compared if all `rows` slots of one of `bands` bands agree.
    verify : {"exact", "sketch", None}
        What makes a candidate a duplicate: the Jaccard similarity itself, its estimate from the sketches, or nothing.
    seed : int
    """

    threshold: float
    ngram: int
    unit: str
    k: int
    bands: int
    rows: int
    verify: str | None
    seed: int

    @classmethod
    def choose(
        cls,
        threshold: float = 0.8,
        ngram: int = 5,
        unit: str = "word",
        k: int | None = None,
        bands: int | None = None,
        rows: int | None = None,
        verify: str | None = "exact",
        seed: int = 1,
    ) -> "Settings":
        """Settings of which some are left to us.

        `k` is 128 by default. `bands` and `rows`, both or neither: by default as many rows as still let 98% of the
        pairs at the threshold through, and all bands that k slots have room for.

        Raises
        ------
        InvalidArgumentError
        """
        k = check_count(DEFAULT_K if k is None else k, "k", most=65_536)
        threshold = _checked_threshold(threshold)
        if (bands is None) != (rows is None):
            raise InvalidArgumentError(f"bands, rows: expected both or neither, got {bands!r} and {rows!r}")
        if bands is None or rows is None:
            bands, rows = choose_banding(threshold, k)
        return cls(threshold, ngram, unit, k, bands, rows, verify, seed)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InvalidArgumentError(f"unit: expected one of {', '.join(UNITS)}, got {self.unit!r}")
        if self.verify not in VERIFY:
            raise InvalidArgumentError(f"verify: expected 'exact', 'sketch' or None, got {self.verify!r}")
        checked = {name: check_count(getattr(self, name), name) for name in ("k", "bands", "rows")}
        if self.bands * self.rows > self.k:
            raise InvalidArgumentError(
                f"bands, rows: {self.bands} bands of {self.rows} rows do not fit k = {self.k} slots"
            )
        checked |= {"ngram": check_count(self.ngram, "ngram", most=1024), "seed": check_seed(self.seed)}
        for name, value in {**checked, "threshold": _checked_threshold(self.threshold)}.items():
            object.__setattr__(self, name, value)  # as plain int and float, whatever came

    def facts(self) -> dict[str, Any]:
        """All of them, for files that must have been made with the same."""
        return asdict(self)

    def collision_probability(self, similarity: Any) -> NDArray[np.float64]:
        """Probability that two documents are compared: ``1 - (1 - s^rows)^bands``."""
        return Banding(self.bands, self.rows, BITS).collision_probability(similarity)

    @cached_property
    def minhash(self) -> "MinHash":
        from nearhash.hashing.minhash import MinHash

        return MinHash(self.k, bits=BITS, seed=self.seed)

    @cached_property
    def shingler(self) -> "Shingler":
        from nearhash.hashing.texts import Shingler

        return Shingler(ngram=self.ngram, unit=self.unit)


def _checked_threshold(threshold: object) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number) or not 0 < threshold <= 1:
        raise InvalidArgumentError(f"threshold: expected a number in (0, 1], got {threshold!r}")
    return float(threshold)


def choose_banding(threshold: float, k: int) -> tuple[int, int]:
    """The most selective (bands, rows) within k slots that miss few pairs at the threshold.

    Candidates are verified, so a wrong one costs time and a missed one is lost: the S-curve is put to the left of the
    threshold, where datasketch and others weigh both sides equally and miss half of the pairs at the threshold.
    """
    best = (k, 1)
    for rows in range(1, k + 1):
        bands = k // rows
        if float(Banding(bands, rows, BITS).collision_probability(threshold)) < RECALL_AT_THRESHOLD:
            break
        best = (bands, rows)
    return best


def standard_error(similarity: float, k: int) -> float:
    """Of an estimate from k slots, at most (fast similarity sketches have less)."""
    return math.sqrt(max(similarity * (1 - similarity), 1 / k) / k)
