"""How good the searches of a server are: a few of them are compared with exact ones."""

from __future__ import annotations

import logging
import queue
import random
import threading
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Histogram

from nearhash.errors import NearhashError
from nearhash.service.engine.collection import Collection

log = logging.getLogger("nearhash.service")

PROBED = 1 / 1000
"""Share of searches that are compared with an exact one."""


class RecallProbe:
    """Compares a few searches with exact ones, one at a time, on a thread of its own.

    Parameters
    ----------
    recall
        Where the recall is recorded, by collection.
    share
        Of searches that are looked at; while one is, others pass.
    """

    def __init__(self, recall: Histogram, share: float) -> None:
        self._recall = recall
        self._share = share
        self._draw = random.Random(0)
        self._tasks: queue.Queue[tuple[str, Collection, NDArray[Any], NDArray[Any]] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._work, name="nearhash-recall", daemon=True)
        self._thread.start()

    def __call__(self, name: str, collection: Collection, queries: NDArray[Any], ids: NDArray[Any]) -> None:
        """A search without filters has found `ids` (q, k)."""
        if not len(queries) or self._draw.random() >= self._share:
            return
        with suppress(queue.Full):
            self._tasks.put_nowait((name, collection, np.array(queries[:1]), np.array(ids[:1])))

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            name, collection, queries, ids = task
            try:
                expected = collection.exact(queries, ids.shape[1]).ids[0].tolist()
            except NearhashError:  # it was dropped, or the like
                continue
            except Exception:
                log.exception("recall of %s could not be probed", name)
                continue
            wanted = [one for one in expected if one not in (-1, None)]
            if wanted:
                self._recall.labels(name).observe(len(set(wanted) & set(ids[0].tolist())) / len(wanted))
