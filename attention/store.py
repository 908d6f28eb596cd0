"""`KVStore`: keys and values of one sequence in one layer, and attention over them that reads few of them."""

from __future__ import annotations

import threading
from copy import copy
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.attention.arguments import Reading, as_heads, as_queries, check_reading
from nearhash.attention.batch import attend_batch
from nearhash.attention.codes import make_codes
from nearhash.attention.decoding import (
    DenseStep,
    EstimatorStep,
    PriorityStep,
    Step,
    retrieve_estimator,
    retrieve_priority,
)
from nearhash.attention.estimators.base import Estimator
from nearhash.attention.estimators.dense import Dense
from nearhash.attention.estimators.priority import Priority
from nearhash.attention.memory import Budget, Pages
from nearhash.attention.results import Attention, Retrieval
from nearhash.attention.store_head import StoreHead
from nearhash.errors import ClosedError, InvalidArgumentError
from nearhash.hashing.randomness import check_seed
from nearhash.index.arguments import check_count
from nearhash.index.locks import ReadWriteLock
from nearhash.kernels.attention_rows import PAGE, ROWS, page_bytes, read_tokens, rows_scheme, write_tokens
from nearhash.kernels.threads import resolve_threads, run_chunks

MAX_DIM, MAX_HEADS, MAX_TOKENS = 1024, 4096, 2**31 - PAGE
_AT_ONCE = 4096  # tokens that are read back together


class _Codes(NamedTuple):
    """Codes of the first `coded` tokens, and what those of each head have in common, and of all heads together."""

    common: tuple[Any, ...]
    joint: Any
    coded: int


_NO_CODES = _Codes((), None, 0)


class KVStore:
    """Keys and values of one sequence in one layer.

    Parameters
    ----------
    kv_heads : int
    head_dim : int
        Of keys and of values, a multiple of 8.
    codec : {"lvq4", "pq4", "simhash"}
        Codes of the keys that decide what is read: d / 2 + 6 bytes a token, d / 4 + 2, or bits / 8 + 4. "simhash" has
        256 bits, "simhash512" 512, and so on by multiples of 64.
    dtype : {"float32", "float16", "bfloat16", "int8"}
        What keys and values are kept as; int8 has a scale for each key and each value.
    seed : int
        Of the draws. The same seed, layer and step draw the same tokens, whatever the threads.
    memory_limit : int or Budget, optional
        Bytes that the store and its forks may hold together; a `memory.Budget` is shared with other stores.
    threads : int, optional
        By default all cores; no result depends on it.

    Notes
    -----
    Tokens lie in pages of 256, key and value of a token side by side, and are never moved. Forks share pages until one
    of them writes to a page. Codes are made when attention first needs them, all together, then for those that leave
    the local window; what the codes of a head have in common (a mean key) is that of the keys which are there then.

    Any number of threads may attend to a store at once; changes wait for them and have the store alone.
    """

    def __init__(
        self,
        kv_heads: int,
        head_dim: int,
        codec: str = "lvq4",
        dtype: str = "float32",
        seed: int = 0,
        memory_limit: int | Budget | None = None,
        threads: int | None = None,
    ) -> None:
        self.kv_heads = check_count(kv_heads, "kv_heads", most=MAX_HEADS)
        self.head_dim = check_count(head_dim, "head_dim", most=MAX_DIM)
        if head_dim % 8:
            raise InvalidArgumentError(f"head_dim: expected a multiple of 8, got {head_dim}")
        if dtype not in ROWS:
            raise InvalidArgumentError(f"dtype: expected one of {', '.join(ROWS)}, got {dtype!r:.80}")
        self.codec, self.dtype, self.seed = codec, dtype, check_seed(seed)
        self._key_codes = make_codes(codec, self.head_dim, self.seed)
        self._threads = threads if threads is None else resolve_threads(threads)
        if not isinstance(memory_limit, Budget):
            memory_limit = Budget(None if memory_limit is None else check_count(memory_limit, "memory_limit"))
        self._rows = rows_scheme(dtype, self.head_dim)
        self._budget = memory_limit
        self._pages = Pages(self.kv_heads, page_bytes(self._rows), self._budget)
        self._code_pages = Pages(self.kv_heads, self._key_codes.page_bytes, self._budget)
        self._codes = _NO_CODES
        self._indexes: dict[tuple[Estimator, int], Any] = {}
        self._one_at_a_time = threading.Lock()
        self._length = 0
        self._closed = False
        self._lock = ReadWriteLock()

    # --- change ---

    def append(self, keys: ArrayLike, values: ArrayLike, *, start: int | None = None) -> int:
        """Append tokens and return how many there are then.

        Parameters
        ----------
        keys, values : (kv_heads, n, head_dim) arrays of a float dtype
            Finite, also as `dtype` holds them. Torch tensors are copied.
        start : int, optional
            The position that the first of them is to have: an append that was lost, or made twice, is noticed.

        Raises
        ------
        InvalidArgumentError
            And its subclasses; nothing has been appended. Also if `start` is not the number of tokens.
        MemoryLimitError
            There is no room for them; nothing has been appended.
        """
        new_keys = as_heads(keys, self.kv_heads, self.head_dim, "keys")
        new_values = as_heads(values, self.kv_heads, self.head_dim, "values")
        if new_keys.shape != new_values.shape:
            raise InvalidArgumentError(
                f"values: expected as many tokens as keys, {new_keys.shape[1]}, got {new_values.shape[1]}"
            )
        with self._lock.write():
            self._check_open()
            first, count = self._length, new_keys.shape[1]
            if start is not None and start != first:
                raise InvalidArgumentError(f"start: expected {first}, the tokens there are, got {start!r:.40}")
            if first + count > MAX_TOKENS:
                raise InvalidArgumentError(
                    f"keys: expected at most {MAX_TOKENS:,} tokens in all, got {first + count:,}"
                )
            self._pages.open(first, first + count)
            wrong = np.zeros(self.kv_heads, np.int64)

            def write(head: int, _: int) -> None:
                pages = self._pages.addresses(head)
                wrong[head] = write_tokens(self._rows, pages, first, new_keys[head], new_values[head])

            run_chunks(write, self.kv_heads, self._threads_for(count * self.kv_heads), 1)
            if wrong.any():
                self._pages.truncate(first)
                raise InvalidArgumentError(
                    f"keys, values: expected finite numbers that {self.dtype} holds, {wrong.sum()} rows have others"
                )
            self._length = first + count
            return self._length

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`; there must be so many."""
        with self._lock.write():
            self._check_open()
            wanted = check_count(length, "length", least=0)
            if wanted > self._length:
                raise InvalidArgumentError(
                    f"length: expected at most {self._length}, the tokens there are, got {wanted}"
                )
            self._length = wanted
            self._pages.truncate(wanted)
            kept = min(self._codes.coded, wanted)
            self._code_pages.truncate(kept)
            self._codes = self._codes._replace(coded=kept) if kept else _NO_CODES
            self._indexes = {name: index for name, index in self._indexes.items() if index.tokens <= wanted}

    def fork(self) -> KVStore:
        """Another store with the same tokens, which shares their memory: both may then change on their own."""
        with self._lock.write():
            self._check_open()
            other = object.__new__(KVStore)
            other.__dict__.update(self.__dict__)
            other._pages, other._code_pages = self._pages.fork(), self._code_pages.fork()
            other._indexes = {name: copy(index) for name, index in self._indexes.items()}
            other._lock, other._one_at_a_time = ReadWriteLock(), threading.Lock()
            return other

    def close(self) -> None:
        """Give the memory back that no fork shares."""
        with self._lock.write():
            self._closed = True
            self._length = 0
            self._pages.truncate(0)
            self._code_pages.truncate(0)
            self._indexes.clear()

    # --- attention ---

    def attend(
        self,
        queries: ArrayLike,
        estimator: str = "priority",
        budget: float | int = 0.05,
        sink: int = 4,
        local: int = 16,
        scale: float | None = None,
        step: int = 0,
        layer: int = 0,
        threads: int | None = None,
        **options: Any,
    ) -> Attention:
        """Attention of the queries of one step over all tokens.

        Parameters
        ----------
        queries : (q_heads, head_dim) array of a float dtype
            q_heads is a multiple of kv_heads: query head h reads KV head ``h // (q_heads // kv_heads)``.
        estimator : str
            "priority", the default, estimates from a sample, see Notes; "dense" reads all tokens. The others of
            `nearhash.attention.estimators` are there to be compared with: they run in NumPy, one call at a time, and
            what they keep beside the codes is made when they are first asked.
        budget : float or int
            How much is read. A float: the share of all tokens, 0 < budget <= 1, sink and local ones included. An int:
            the tokens of the sample, at least 1.
        sink, local : int
            The first and the last tokens that are always read.
        scale : float, optional
            Of the logits; by default ``1 / sqrt(head_dim)``.
        step, layer : int
            Name the draw, with the seed of the store and the head: draws of different names are independent.
        threads : int, optional
            By default those of the store.
        options
            Of "priority": ``temperature`` (1.0) and ``floor`` (0.02) of the sampling weights; ``eps``: the relative
            error that is wished for, with ``delta`` (0.1, at most 0.2), the probability with which it may be missed:
            more is read until the sample's own variance promises it, in the end everything.

        Returns
        -------
        Attention
            Of an empty store zeros, with the log-sum-exp -inf.

        Raises
        ------
        InvalidArgumentError
            And its subclasses DimensionError and DtypeError.

        Notes
        -----
        "priority": tokens outside sink and local window have weights
        ``w_i = mean over the group of softmax(l_i / temperature) |v_i|``, scaled to the sum 1, plus ``floor / n``, from
        logits l estimated by their codes. With uniform u_i the `budget` tokens of greatest w_i / u_i are read, and with
        t the greatest of the others, token i was taken with probability ``p_i = min(1, w_i / t)``: priority sampling
        (Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary subset sums", J. ACM 2007). Numerator
        and denominator of the softmax are then sums of ``exp(s_i) / p_i``, unbiased (Horvitz and Thompson 1952). One
        sample serves all queries of a group.
        """
        found = attend_batch(
            [self], [queries], estimator, budget, sink, local, scale, step, layer, threads, **options
        )  # fmt: skip
        return found[0]

    def retrieve(
        self,
        queries: ArrayLike,
        estimator: str = "priority",
        budget: float | int = 0.05,
        sink: int = 4,
        local: int = 16,
        scale: float | None = None,
        step: int = 0,
        layer: int = 0,
        threads: int | None = None,
        **options: Any,
    ) -> list[Retrieval]:
        """Which tokens `attend` reads, given the same arguments, for callers that have keys and values themselves.

        Returns
        -------
        list of Retrieval
            In the order of the query heads. Most estimators choose for all queries of a KV head together (16 of them
            at a time), "magicpig" for each. With `eps`, keys and values are read to find out how many tokens it takes.

        Raises
        ------
        InvalidArgumentError
            And its subclasses DimensionError and DtypeError.
        """
        reading = check_reading(estimator, budget, sink, local, scale, step, layer, self.head_dim, options)
        scaled, group = self._prepare(queries, reading)
        workers = resolve_threads(self._threads if threads is None else threads)
        with self._lock.read():
            self._check_open()
            if isinstance(reading.estimator, Priority):
                return retrieve_priority(self, scaled, group, reading, workers)
            with self._one_at_a_time:
                return retrieve_estimator(self, scaled, group, reading, workers)

    def _prepare(self, queries: ArrayLike, reading: Reading) -> tuple[NDArray[np.float32], int]:
        """Queries times the scale, and how many of them share a KV head; codes are made if they are needed."""
        own, group = as_queries(queries, self.kv_heads, self.head_dim)
        if reading.estimator.uses_codes:
            self._encode(reading.local)
        return own * np.float32(reading.scale), group

    def _step(self, scaled: NDArray[np.float32], group: int, reading: Reading, workers: int) -> Step:
        """Attention of a step on so many threads; the caller holds the lock until it has run."""
        self._check_open()
        if isinstance(reading.estimator, Priority):
            return PriorityStep(self, scaled, group, reading, workers)
        if isinstance(reading.estimator, Dense):
            return DenseStep(self, scaled, group, workers)
        return EstimatorStep(self, scaled, group, reading)

    def _index_of(self, estimator: Estimator, head: StoreHead, always: NDArray[np.int64]) -> Any:
        """What an estimator keeps of a head, made now if it is not there."""
        name = estimator, head.head
        index = self._indexes.get(name)
        if index is None:
            index = estimator.index(head, always)
            if index is not None:
                self._indexes[name] = index
        return index

    def _encode(self, local: int) -> None:
        """Make codes of all tokens outside the local window."""
        if self._codes.coded >= self._length - local:
            return
        with self._lock.write():
            self._check_open()
            first, last = self._codes.coded, self._length
            if last - local <= first:
                return
            if self._codes.common:
                last -= local  # the local window may yet be taken back, and is not asked for
            self._code_pages.open(first, last)
            common = list(self._codes.common) or [None] * self.kv_heads

            def encode(head: int, _: int) -> None:
                pages = self._code_pages.addresses(head)
                if common[head] is None:
                    common[head] = self._key_codes.train(self._read(head, np.arange(last))[0])
                for start in range(first, last, _AT_ONCE):
                    some = np.arange(start, min(start + _AT_ONCE, last))
                    self._key_codes.encode(common[head], pages, start, *self._read(head, some))

            run_chunks(encode, self.kv_heads, self._threads_for((last - first) * self.kv_heads), 1)
            joint = self._codes.joint if self._codes.common else self._key_codes.join(common)
            self._codes = _Codes(tuple(common), joint, last)

    # --- read ---

    def read(self, head: int, positions: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Keys and values (m, head_dim) float32 of some tokens of a KV head, as they are kept.

        Parameters
        ----------
        head : int
            KV head.
        positions : (m,) integers
            From 0 on; in any order.
        """
        number = check_count(head, "head", least=0, most=self.kv_heads - 1)
        wanted = np.asarray(positions)
        if wanted.ndim != 1 or (wanted.dtype.kind not in "iu" and len(wanted)):
            raise InvalidArgumentError(f"positions: expected integers of shape (m,), got {wanted.dtype} {wanted.shape}")
        with self._lock.read():
            self._check_open()
            if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self._length:
                raise InvalidArgumentError(
                    f"positions: expected 0 to {self._length - 1}, got {wanted.min()} to {wanted.max()}"
                )
            return self._read(number, wanted.astype(np.int64))

    def _read(self, head: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        keys, values = (np.empty((len(positions), self.head_dim), np.float32) for _ in range(2))
        read_tokens(self._rows, self._pages.addresses(head), positions, keys, values)
        return keys, values

    # --- facts ---

    def __len__(self) -> int:
        """Tokens."""
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and codes, those that are shared with forks included."""
        return self._pages.nbytes + self._code_pages.nbytes

    @property
    def index_nbytes(self) -> int:
        """Bytes of the codes alone."""
        return self._code_pages.nbytes

    def info(self) -> dict[str, Any]:
        """Facts about the store, ready for JSON. ``held_bytes``: of the store and its forks, shared pages once."""
        return {
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "codec": self.codec,
            "dtype": self.dtype,
            "seed": self.seed,
            "tokens": self._length,
            "coded": self._codes.coded,
            "nbytes": self.nbytes,
            "index_nbytes": self.index_nbytes,
            "index_bytes_per_token": self._key_codes.page_bytes / PAGE,
            "estimator_nbytes": sum(index.nbytes for index in self._indexes.values()),
            "held_bytes": self._budget.used,
            "memory_limit": self._budget.limit,
        }

    def __repr__(self) -> str:
        return (
            f"KVStore(kv_heads={self.kv_heads}, head_dim={self.head_dim}, codec={self.codec!r}, tokens={self._length})"
        )

    def __enter__(self) -> KVStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _threads_for(self, rows: int) -> int:
        """Threads for so many rows; one where handing them out costs more than it saves."""
        return 1 if 0 < rows < _AT_ONCE else resolve_threads(self._threads)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the store was closed")
