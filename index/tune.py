"""Choosing how thoroughly to search: the cheapest effort that reaches a recall, by measurement."""

import math
import time
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.index.arguments import as_matrix, check_count
from nearhash.index.base import Progress, VectorIndex
from nearhash.index.points import Filter
from nearhash.index.tuned import Effort, Tuned, TunedEntry, check_recall
from nearhash.kernels.threads import resolve_threads

CONFIDENCE = 1.645  # standard deviations: 95% of a normal distribution lie above its mean minus so many
NARROW = 1.04  # how closely the least effort is found, as a ratio
LEAST_GAIN = 0.0005  # of recall by twice the effort; below it other parameters are what is lacking

Self = TypeVar("Self", bound="TunableIndex")


class Measured(NamedTuple):
    """One effort and what it gave.

    Attributes
    ----------
    effort : dict of str to int
        Keyword arguments of `search`.
    recall : float
        Mean recall over the queries.
    bound : float
        What the recall of other queries like these exceeds with 95% confidence, see `lower_bound`.
    work : float
        Counted work of a query: the same on every machine and in every run. Efforts are compared by it.
    seconds : float
        Measured time of a query, in a batch on one thread.
    """

    effort: Effort
    recall: float
    bound: float
    work: float
    seconds: float


class Tuning(NamedTuple):
    """What `tune` found.

    Attributes
    ----------
    k : int
    recall : float
        The recall asked for.
    chosen : Measured
        The effort with the least work whose `bound` is at least that.
    curve : tuple of Measured
        All measured efforts that no other beats in both recall and work, by rising work.
    """

    k: int
    recall: float
    chosen: Measured
    curve: tuple[Measured, ...]


class Space(NamedTuple):
    """The efforts of an index: one parameter that rises from `low` to `high`, and others in steps.

    Attributes
    ----------
    parameter : str
    low, high : int
    lanes : sequence of efforts
        Values of the other parameters; one of them empty where there are none. By rising work.
    work : callable, optional
        The work of an effort; rises with the parameter. None where only a search can tell.
    """

    parameter: str
    low: int
    high: int
    lanes: Sequence[Effort]
    work: Callable[[Effort], float] | None = None


class Outcome(NamedTuple):
    """What a search with some effort gave.

    recalls: (q,) float64, of each query; work: what was counted, None where the space knows it.
    """

    recalls: NDArray[np.float64]
    work: float | None = None


def lower_bound(recalls: NDArray[np.float64]) -> float:
    """A one-sided 95% confidence bound of the mean: mean - 1.645 s / sqrt(q).

    The standard deviation s counts one query more, with recall 0, so that few queries, or equal ones, never look
    certain: with q queries that were all answered perfectly the bound is about 1 - 1.645 / q.

    Parameters
    ----------
    recalls : (q,) float64
        Recall of each query, q >= 1.
    """
    deviation = float(np.std(np.append(recalls, 0.0), ddof=1))
    return float(recalls.mean()) - CONFIDENCE * deviation / math.sqrt(len(recalls))


def find_effort(
    outcome_of: Callable[[Effort], Outcome], space: Space, recall: float, progress: Progress | None = None
) -> tuple[Measured | None, tuple[Measured, ...]]:
    """The effort with the least work whose recall is at least `recall` with 95% confidence.

    In each lane the least value of the parameter that reaches the recall is bracketed by doubling and narrowed by
    bisection to 4%; the lane with the least work wins. Only counted work decides, never time: the same index and
    queries give the same choice.

    Parameters
    ----------
    outcome_of : callable
        Searches with an effort; called once for each.
    space : Space
    recall : float
    progress : callable, optional
        Called with (lanes done, lanes in all).

    Returns
    -------
    chosen : Measured or None
        None where no effort reaches the recall.
    measured : tuple of Measured
        Every effort that was tried, in that order.
    """
    found: list[Measured] = []
    best: Measured | None = None
    for number, lane in enumerate(space.lanes):
        if progress is not None:
            progress(number, len(space.lanes))
        most = math.inf if best is None else best.work
        reached = _least_in_lane(outcome_of, space, lane, recall, most, found)
        best = best if reached is None or reached.work >= most else reached
    if progress is not None:
        progress(len(space.lanes), len(space.lanes))
    return best, tuple(found)


def _least_in_lane(
    outcome_of: Callable[[Effort], Outcome],
    space: Space,
    lane: Effort,
    recall: float,
    most: float,
    found: list[Measured],
) -> Measured | None:
    """The least effort of a lane that reaches the recall; what is tried goes to `found`.

    None if it takes `most` work or more, as far as that can be told in advance.
    """

    def measured(value: int) -> Measured:
        effort = {**lane, space.parameter: value}
        started = time.perf_counter()
        recalls, counted = outcome_of(effort)
        seconds = (time.perf_counter() - started) / len(recalls)
        work = space.work(effort) if counted is None and space.work is not None else counted
        assert work is not None
        found.append(Measured(effort, float(recalls.mean()), lower_bound(recalls), work, seconds))
        return found[-1]

    high = _greatest(space, lane, most)
    if high is None:
        return None
    value = below = space.low
    before = 0.0
    while True:
        tried = measured(value)
        if tried.bound >= recall:
            break
        if value == high or (value > space.low and tried.recall - before < LEAST_GAIN):
            return None
        below, before, value = value, tried.recall, min(high, 2 * value)
    best, above = tried, value
    while above > below * NARROW and above - below > 1:
        middle = min(above - 1, max(below + 1, round(math.sqrt(below * above))))
        tried = measured(middle)
        if tried.bound >= recall:
            best, above = tried, middle
        else:
            below = middle
    return best


def _greatest(space: Space, lane: Effort, most: float) -> int | None:
    """The greatest value of the parameter with less than `most` work; None if there is none."""
    work = space.work
    if work is None:
        return space.high
    values = range(space.low, space.high + 1)
    fitting = bisect_left(values, most, key=lambda value: work({**lane, space.parameter: value}))
    return values[fitting - 1] if fitting else None


def curve(found: Sequence[Measured]) -> tuple[Measured, ...]:
    """Those that no other beats in both recall and work, by rising work."""
    best: list[Measured] = []
    for point in sorted(found, key=lambda one: (one.work, -one.recall)):
        if not best or point.recall > best[-1].recall:
            best.append(point)
    return tuple(best)


class TunableIndex(VectorIndex):
    """An index whose searches have efforts, which it can choose itself for a recall.

    Files keep what was chosen, under ``tuned`` of the header.
    """

    _EFFORTS: ClassVar[Mapping[str, type]]
    """Keyword arguments of `search` that `tune` chooses, and whether they are whole numbers: int or float."""

    def __init__(self, dim: int, metric: str, threads: int | None = None) -> None:
        super().__init__(dim, metric, threads)
        self._tuned = Tuned()

    def tune(self, queries: ArrayLike, k: int = 10, recall: float = 0.95, progress: Progress | None = None) -> Tuning:
        """Find the cheapest effort that reaches a recall, and store it for ``search(..., recall=...)``.

        Recall is measured against an exact search of the index's own vectors, without filters. The effort is chosen by
        counted work, so the same index and queries give the same choice, and so that with 95% confidence other queries
        of the same kind reach the recall too: the more queries, the less is added for that. A thousand are a good
        number.

        Parameters
        ----------
        queries : (q, dim) array of a float or integer dtype
            Typical queries. Not vectors of the index: each would find itself.
        k : int
            Results per query.
        recall : float
            Between 0 and 1, both excluded: the mean share of the k nearest that a search shall find.
        progress : callable, optional
            Called with (steps done, steps in all).

        Returns
        -------
        Tuning
            What was chosen and the curve of recall against work and time.

        Raises
        ------
        InvalidArgumentError
            If no effort reaches the recall for sure, or the index or `queries` are empty. Nothing is stored then.

        Notes
        -----
        Searches go on meanwhile, changes wait. What is stored stays through `add` and `remove`; tune again when the
        index has changed much.
        """
        k, recall = check_count(k, "k"), check_recall(recall)
        prepared = self._queries_of(as_matrix(queries, self.dim, "queries"))
        if not len(prepared):
            raise InvalidArgumentError("queries: expected at least one, got none")
        with self._lock.read():
            if not self._points.size:
                raise InvalidArgumentError("tune: the index is empty; add vectors first")
            size = self._points.size
            chosen, found = find_effort(self._outcomes(prepared, k), self._effort_space(k), recall, progress)
        if chosen is None:
            best = max(found, key=lambda one: one.bound)
            raise InvalidArgumentError(
                f"recall: expected at most {best.bound:.4f}, of which {len(prepared)} queries make sure (they reached "
                f"{best.recall:.4f} at {_spelled(best.effort)}), got {recall:g}; more queries make surer"
            )
        entry = TunedEntry(k, recall, chosen.effort, chosen.recall, size)
        with self._lock.write():
            self._tuned = self._tuned.with_entry(entry)
        return Tuning(k, recall, chosen, curve(found))

    def _outcomes(self, queries: NDArray[Any], k: int) -> Callable[[Effort], Outcome]:
        """A function from an effort to the recall of each query and the work, on one thread. The lock is held."""
        wanted = self._filter(len(queries), None, None, None)
        nearest, distances = self._exact(queries, k, resolve_threads(None))
        expected = (nearest >= 0).sum(axis=1)
        farthest = np.where(nearest >= 0, distances, -np.inf).max(axis=1, keepdims=True)
        rows = np.arange(len(queries), dtype=np.int64)[:, None] << 32
        right_keys = np.where(nearest >= 0, rows | nearest, -1)

        def outcome(effort: Effort) -> Outcome:
            slots, found, work = self._counted_search(queries, k, wanted, effort)
            # One of several that are equally far is as right as another.
            right = (slots >= 0) & ((found <= farthest) | np.isin(rows | slots, right_keys))
            return Outcome(np.asarray(np.minimum(right.sum(axis=1), expected) / expected), work)

        return outcome

    def _counted_search(
        self, queries: NDArray[Any], k: int, wanted: Filter, effort: Effort
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], float | None]:
        """What `_nearest` finds on one thread, and the work of it where it is counted."""
        return *self._nearest(queries, k, wanted, self._effort_of(effort), 1), None

    def _check_effort(self, name: str, value: Any) -> Any:
        """The value of a parameter of an effort; raises InvalidArgumentError."""
        return check_count(value, name)

    def _search_effort(self, k: Any, recall: float | None, **given: Any) -> Any:
        """The effort of a search: what `tune` stored for `recall`, else what was given."""
        efforts = given if recall is None else self._tuned.effort(check_count(k, "k"), check_recall(recall))
        return self._effort_of({name: self._check_effort(name, value) for name, value in efforts.items()})

    # --- storage ---

    def _identity(self) -> dict[str, Any]:
        entries = self._tuned.state()
        return {**super()._identity(), **({"tuned": entries} if entries else {})}

    @classmethod
    def _from_file(cls: type[Self], header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Self:
        index = super()._from_file(header, tensors)
        index._tuned = Tuned.restored(header.get("tuned", []), cls._EFFORTS)
        return index

    # --- to be filled in ---

    @abstractmethod
    def _effort_space(self, k: int) -> Space:
        """The efforts of searches for k neighbours."""

    @abstractmethod
    def _effort_of(self, effort: Effort) -> Any:
        """An effort of the space in the form that `_nearest` takes."""

    @abstractmethod
    def _exact(self, queries: NDArray[Any], k: int, threads: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """What `_nearest` approximates, without filters."""


def _spelled(effort: Effort) -> str:
    return ", ".join(f"{name} {value}" for name, value in effort.items())
