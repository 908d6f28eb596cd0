"""Efforts that were found for a recall, and their form in the header of a file."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nearhash.errors import CorruptIndexError, InvalidArgumentError

Effort = dict[str, Any]
"""Keyword arguments of a search by name: numbers above 0, most of them whole."""

MOST_ENTRIES = 1000


class TunedEntry(NamedTuple):
    """An effort, what it was found for, and on how many vectors.

    k, recall: asked for; effort: keyword arguments of `search`; measured: recall on the queries of `tune`; size: of
    the index then.
    """

    k: int
    recall: float
    effort: Effort
    measured: float
    size: int


class Tuned(tuple[TunedEntry, ...]):
    """Entries by k and recall, none twice; immutable, so that searches read it while it is replaced."""

    __slots__ = ()

    def with_entry(self, entry: TunedEntry) -> "Tuned":
        """These entries and another, in place of one for the same k and recall."""
        others = [own for own in self if (own.k, own.recall) != (entry.k, entry.recall)]
        return Tuned(sorted([*others, entry], key=lambda own: (own.k, own.recall))[:MOST_ENTRIES])

    def effort(self, k: int, recall: float) -> Effort:
        """The effort of the nearest entry with at least this recall and at least this k.

        What finds the k nearest finds fewer of them at least as well; for more than it was measured for it would
        promise what nobody has seen, so that raises.
        """
        reaching = [own for own in self if own.recall >= recall and own.k >= k]
        if not reaching:
            known = ", ".join(f"{own.recall:g} at k = {own.k}" for own in self) or "none"
            raise InvalidArgumentError(
                f"recall: expected one that tune has found the effort for ({known}) or less, at such a k or less, "
                f"got {recall:g} at k = {k}; call tune(queries, k={k}, recall={recall:g})"
            )
        return dict(min(reaching, key=lambda own: (own.recall, own.k)).effort)

    def state(self) -> list[dict[str, Any]]:
        """For the header of a file."""
        return [dict(own._asdict()) for own in self]

    @classmethod
    def restored(cls, state: Any, parameters: Mapping[str, type]) -> "Tuned":
        """What `state` gave; raises CorruptIndexError if it is anything else."""
        if not isinstance(state, list) or len(state) > MOST_ENTRIES:
            raise CorruptIndexError(f"header 'tuned': expected a list of at most {MOST_ENTRIES}, got {state!r:.80}")
        tuned = cls()
        for item in state:
            if not _is_entry(item, parameters):
                names = ", ".join(sorted(parameters))
                raise CorruptIndexError(
                    f"header 'tuned': expected k, recall, measured, size and an effort of {names}, got {item!r:.120}"
                )
            tuned = tuned.with_entry(TunedEntry(**item))
        return tuned


def check_recall(recall: Any) -> float:
    """A recall that a search shall reach: above 0 and below 1."""
    if not _is_number(recall) or not 0 < recall < 1:
        raise InvalidArgumentError(
            f"recall: expected a number above 0 and below 1 (FlatIndex finds all), got {recall!r}"
        )
    return float(recall)


def _is_entry(item: Any, parameters: Mapping[str, type]) -> bool:
    if not isinstance(item, dict) or set(item) != set(TunedEntry._fields):
        return False
    effort: Any = item["effort"]
    recall, measured = item["recall"], item["measured"]
    if not isinstance(effort, dict) or set(effort) != set(parameters):
        return False
    counts: list[Any] = [item["k"], item["size"]]
    return (
        all(type(count) is int and 1 <= count < 1 << 31 for count in counts)
        and all(type(value) is parameters[name] for name, value in effort.items())
        and all(0 < value < 1 << 31 for value in effort.values())
        and _is_number(recall)
        and 0 < recall < 1
        and _is_number(measured)
        and 0 <= measured <= 1
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
