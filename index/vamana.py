"""A Vamana graph that grows by deterministic parallel batches."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.arrays import Growable
from nearhash.index.fine import FineQueries
from nearhash.kernels.codes import Model
from nearhash.kernels.grow import choose_parents, insert_batch, link_batch
from nearhash.kernels.threads import run_chunks
from nearhash.kernels.walk import search_batch

# The square of the paper's alpha, as distances are squared. Measured at degree 32: best recall at equal time for 1.05
# to 1.1 on word vectors and 1.1 to 1.2 on images; at 1.44 (the usual 1.2) rows fill up with close neighbours.
ALPHA = np.float32(1.1)
# Batches double up to this share of the graph (ParlayANN's choice); nodes of a batch do not see each other. Smaller
# batches and slower growth made no difference to recall (word vectors: .9194, .9194, .9195 for 2%, 0.3%, growth by
# an eighth).
BATCH_SHARE = 0.02
SMALLEST_CAP = 64

Progress = Callable[[int, int], None]


class Scratch:
    """Arrays that a search needs per thread, kept between searches."""

    def __init__(self) -> None:
        self._free: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []

    def take(self, nodes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(seen, state) for a graph of `nodes` nodes, see ``kernels.walk``."""
        while True:
            try:
                scratch = self._free.pop()
            except IndexError:
                return np.zeros(nodes, np.uint8), np.zeros(1, np.uint8)
            if len(scratch[0]) >= nodes:
                return scratch

    def give_back(self, scratch: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
        self._free.append(scratch)


class Vamana:
    """Links between the slots of an index (Subramanya et al., "DiskANN", NeurIPS 2019).

    Every node but the entry point has a parent whose link to it is never pruned, so all nodes are reachable.

    Parameters
    ----------
    degree : int
        Most links of a node.
    build_beam : int
        Beam of the searches that find the candidates for its links.
    seed : int
        Of the order of insertion.
    """

    def __init__(self, degree: int, build_beam: int, seed: int) -> None:
        self.degree = degree
        self.build_beam = build_beam
        self.seed = seed
        self.entry = -1
        self._neighbours = Growable.empty((degree,), np.int32)
        self._parents = Growable.empty((), np.int32)
        self._scratch = Scratch()

    @property
    def nodes(self) -> int:
        return len(self._parents.view)

    @property
    def neighbours(self) -> NDArray[np.int32]:
        """(n, degree) int32, -1 after the last link of a node."""
        return self._neighbours.view

    @property
    def nbytes(self) -> int:
        return self._neighbours.nbytes + self._parents.nbytes

    # --- build ---

    def grow(
        self, model: Model, codes: NDArray[Any], entry: int, threads: int, progress: Progress | None = None
    ) -> None:
        """Insert the rows of `codes` (n, width) of a codec (its `model`) that are not in the graph yet.

        `entry` is the entry point of a graph that is empty so far. If anything raises, the callback included, the
        graph holds the nodes that it held before.
        """
        first, count = self.nodes, len(codes) - self.nodes
        if not count:
            return
        order = (
            np.random.Generator(np.random.Philox(key=np.array([self.seed, first], np.uint64))).permutation(count)
            + first
        )
        if first == 0:
            order = np.concatenate([[entry], order[order != entry]])
        self._neighbours.extend(count)[...] = -1
        self._parents.extend(count)[...] = -1
        try:
            neighbours, parents = self._neighbours.view, self._parents.view
            self._insert(model, codes, order.astype(np.int32), neighbours, parents, threads, progress)
        except BaseException:
            self._truncate(first)
            raise

    def _insert(
        self,
        model: Model,
        codes: NDArray[Any],
        order: NDArray[np.int32],
        neighbours: NDArray[np.int32],
        parents: NDArray[np.int32],
        threads: int,
        progress: Progress | None,
    ) -> None:
        present, total = len(codes) - len(order), len(order)
        children, heirs = _family(parents)
        largest = max(SMALLEST_CAP, int(BATCH_SHARE * len(codes)))
        done = 0
        if present == 0:
            self.entry, done = int(order[0]), 1
        while done < total:
            batch = order[done : done + min(present + done, largest)]
            self._find_neighbours(model, codes, batch, neighbours, parents, threads)
            extra = np.empty((len(batch), 2), np.int32)
            added = choose_parents(neighbours, batch, parents, children, heirs, max(1, self.degree // 2), extra)
            self._link_back(model, codes, batch, extra[:added], neighbours, parents, threads)
            done += len(batch)
            if progress is not None:
                progress(done, total)
        if progress is not None and total == 1:
            progress(total, total)

    def _find_neighbours(
        self,
        model: Model,
        codes: NDArray[Any],
        batch: NDArray[np.int32],
        neighbours: NDArray[np.int32],
        parents: NDArray[np.int32],
        threads: int,
    ) -> None:
        def task(first: int, last: int) -> None:
            seen, state = scratch = self._scratch.take(len(codes))
            insert_batch(
                model, codes, neighbours, self.entry, batch, first, last, seen, state, self.build_beam, ALPHA, parents
            )
            self._scratch.give_back(scratch)

        run_chunks(task, len(batch), threads, 32)

    def _link_back(
        self,
        model: Model,
        codes: NDArray[Any],
        batch: NDArray[np.int32],
        extra: NDArray[np.int32],
        neighbours: NDArray[np.int32],
        parents: NDArray[np.int32],
        threads: int,
    ) -> None:
        """Give every new link its reverse; `extra` (m, 2) holds links (parent, node) that have none to reverse."""
        links = neighbours[batch]
        targets = np.concatenate([links[links >= 0], extra[:, 0]]).astype(np.uint64)
        sources = np.concatenate([np.repeat(batch, (links >= 0).sum(axis=1)), extra[:, 1]]).astype(np.uint64)
        pairs = np.sort((targets << np.uint64(32)) | sources)
        starts = np.flatnonzero(np.diff(pairs >> np.uint64(32), prepend=np.uint64(1 << 32), append=np.uint64(1 << 32)))

        def task(first: int, last: int) -> None:
            link_batch(model, codes, neighbours, pairs, starts, first, last, ALPHA, parents)

        run_chunks(task, len(starts) - 1, threads, 128)

    def _truncate(self, nodes: int) -> None:
        """Forget all nodes from `nodes` on. What is left stays reachable: parents are older than their children."""
        links = self._neighbours.view[:nodes]
        # A stable sort by "is gone" closes the gaps and keeps the order of the rest.
        links[links >= nodes] = -1
        order = np.argsort(links < 0, axis=1, kind="stable")
        kept = np.take_along_axis(links, order, axis=1)
        self._neighbours, parents = Growable.empty((self.degree,), np.int32), self._parents.view[:nodes].copy()
        self._neighbours.append(kept)
        self._parents = Growable(parents)
        if nodes == 0:
            self.entry = -1

    # --- search ---

    def search(
        self,
        model: Model,
        codes: NDArray[Any],
        queries: NDArray[np.float32],
        beams: NDArray[np.int64],
        rerank: int,
        fine: FineQueries,
        nearest: NDArray[np.int64],
        reach: float,
        wanted: tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]],
        results: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]],
        threads: int,
    ) -> None:
        """Walk for each query; arguments are those of ``kernels.walk.search_batch``.

        wanted: (mask, labels, windows); results: (slots, distances, matches, measured), written.
        """
        mask, labels, windows = wanted

        def task(first: int, last: int) -> None:
            part = slice(first, last)
            seen, state = scratch = self._scratch.take(len(codes))
            search_batch(
                model, codes, self.neighbours, self.entry, seen, state, beams[part], rerank, queries[part],
                fine.source, fine.queries[part], fine.metric, fine.bases[part], nearest[part], np.float32(reach),
                mask, labels, windows[part],
                *(array[part] for array in results),
            )  # fmt: skip
            self._scratch.give_back(scratch)

        run_chunks(task, len(queries), threads, max(1, len(queries)) if threads == 1 else 16)

    # --- storage ---

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"neighbours": self._neighbours.view, "parents": self._parents.view}

    def restore(self, tensors: dict[str, NDArray[Any]], entry: Any, nodes: int) -> None:
        """Take links read from a file; raises CorruptIndexError if a kernel could leave its arrays with them."""
        neighbours, parents = tensors.get("neighbours"), tensors.get("parents")
        if neighbours is None or neighbours.dtype != np.int32 or neighbours.shape != (nodes, self.degree):
            raise CorruptIndexError(f"tensor 'neighbours': expected int32 of shape ({nodes}, {self.degree})")
        if parents is None or parents.dtype != np.int32 or parents.shape != (nodes,):
            raise CorruptIndexError(f"tensor 'parents': expected int32 of shape ({nodes},)")
        if (
            isinstance(entry, bool)
            or not isinstance(entry, int)
            or not (0 <= entry < nodes or (entry, nodes) == (-1, 0))
        ):
            raise CorruptIndexError(f"header 'entry': expected the slot of a node, got {entry!r}")
        for name, array in (("neighbours", neighbours), ("parents", parents)):
            if nodes and (array.min() < -1 or array.max() >= nodes):
                raise CorruptIndexError(f"tensor {name!r}: expected slots from -1 to {nodes - 1}")
        _check_tree(neighbours, parents, entry, max(1, self.degree // 2))
        self.entry = entry
        self._neighbours, self._parents = Growable(neighbours), Growable(parents)


def _family(parents: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(number of children, one child or -1) of each node."""
    child = np.flatnonzero(parents >= 0)
    children = np.bincount(parents[child], minlength=len(parents)).astype(np.int32)
    heirs = np.full(len(parents), -1, np.int32)
    heirs[parents[child]] = child
    return children, heirs


def _check_tree(neighbours: NDArray[np.int32], parents: NDArray[np.int32], entry: int, most: int) -> None:
    """Raise unless parents form a tree that hangs on the entry point and stands among the links."""
    roots = np.flatnonzero(parents < 0)
    if len(parents) and (len(roots) != 1 or roots[0] != entry):
        raise CorruptIndexError("tensor 'parents': expected every node but the entry point to have a parent")
    if len(parents) and np.bincount(parents[parents >= 0], minlength=1).max() > most:
        raise CorruptIndexError(f"tensor 'parents': expected at most {most} children of a node")
    ancestors = parents.astype(np.int64)
    for _ in range(32):  # each round doubles the number of generations
        if (ancestors < 0).all():
            break
        ancestors = np.where(ancestors >= 0, ancestors[ancestors], -1)
    else:
        raise CorruptIndexError("tensor 'parents': expected a tree, got a cycle")
    child = np.flatnonzero(parents >= 0)
    for part in np.array_split(child, max(1, len(child) // 65536)):
        if not (neighbours[parents[part]] == part[:, None]).any(axis=1).all():
            raise CorruptIndexError("tensor 'neighbours': expected a link from every parent to its child")
