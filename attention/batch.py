"""One step of several sequences at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray

from nearhash.attention.arguments import check_reading
from nearhash.attention.decoding import run_steps
from nearhash.attention.estimators.dense import Dense
from nearhash.attention.estimators.priority import Priority
from nearhash.attention.results import Attention
from nearhash.errors import InvalidArgumentError
from nearhash.kernels.threads import resolve_threads

if TYPE_CHECKING:
    from nearhash.attention.store import KVStore

_FEW = 1 << 15  # tokens, of all heads: handing fewer to threads costs more than it saves, beside Torch's that spin


def attend_batch(
    stores: Sequence[KVStore],
    queries: Sequence[ArrayLike] | NDArray[Any],
    estimator: str = "priority",
    budget: float | int = 0.05,
    sink: int = 4,
    local: int = 16,
    scale: float | None = None,
    step: int = 0,
    layer: int = 0,
    threads: int | None = None,
    **options: Any,
) -> list[Attention]:
    """Attention of one step of several sequences, whose heads share the threads.

    Parameters
    ----------
    stores : (b,) KVStore
        One for each sequence, each at most once.
    queries : (b, q_heads, head_dim), or a sequence of (q_heads, head_dim)
    threads : int, optional
        By default those of the first store, and where it has none of its own, one for few tokens, else all cores.
    estimator, budget, sink, local, scale, step, layer, options
        As for `KVStore.attend`, for all of them.

    Returns
    -------
    list of Attention
        What `KVStore.attend` gives for each.

    Raises
    ------
    InvalidArgumentError
        And its subclasses DimensionError and DtypeError.
    """
    if len({id(store) for store in stores}) < len(stores):
        raise InvalidArgumentError("stores: expected each store once")
    if len(queries) != len(stores):
        raise InvalidArgumentError(f"queries: expected those of {len(stores)} stores, got {len(queries)}")
    if not stores:
        return []
    wanted = stores[0]._threads if threads is None else threads
    few = sum(len(store) * store.kv_heads for store in stores) < _FEW
    workers = 1 if wanted is None and few else resolve_threads(wanted)
    asked = []
    for store, some in zip(stores, queries, strict=True):
        reading = check_reading(estimator, budget, sink, local, scale, step, layer, store.head_dim, options)
        asked.append((*store._prepare(some, reading), reading))
    with ExitStack() as held:
        for store in sorted(stores, key=id):  # in one order everywhere: no two calls can wait for each other
            held.enter_context(store._lock.read())
            if not isinstance(reading.estimator, Priority | Dense):
                held.enter_context(store._one_at_a_time)
        steps = [store._step(*question, workers) for store, question in zip(stores, asked, strict=True)]
        return run_steps(steps, workers)
