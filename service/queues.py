"""The threads of a server: those that read, those that write, and those for what is rare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from nearhash.kernels.threads import available_threads
from nearhash.service.admission import AdmissionQueue, ByteBudget
from nearhash.service.catalog import Catalog
from nearhash.service.config import ServerConfig
from nearhash.service.searchable import Served

_WRITERS = 16  # they mostly wait for the disk; those that come together are committed together
_SCROLLS = 2  # a scroll is no one's hurry, and reads of payloads hold the GIL
_ADMINS = 8  # such as copies of collections, which take long


class Queues:
    """Bounded queues with threads of their own, so that no kind of request waits behind another one.

    Attributes
    ----------
    searches
        Searches and reads: as many threads as cores.
    writes
        Upserts and deletions.
    appends
        Changes of attention sessions, which compute and wait for no disk: as many threads as cores.
    scrolls
        Messages of scrolls. A scroll has a place while a message is made, not while its reader takes it.
    admin
        What is rare, or a question about the server itself.
    """

    def __init__(self, config: ServerConfig) -> None:
        most = config.limits.max_pending
        budget = ByteBudget(config.limits.max_pending_bytes)
        self.searches = AdmissionQueue(config.workers or available_threads(), most, budget)
        self.writes = AdmissionQueue(_WRITERS, most, budget, "nearhash-write")
        self.appends = AdmissionQueue(config.workers or available_threads(), most, budget, "nearhash-append")
        self.scrolls = AdmissionQueue(_SCROLLS, most, budget, "nearhash-scroll")
        self.admin = AdmissionQueue(_ADMINS, most, budget, "nearhash-admin")

    @property
    def pending(self) -> int:
        """Requests that run or wait."""
        return sum(queue.pending for queue in self._all())

    def watch(self, watcher: Callable[[str, Sequence[float], int], None]) -> None:
        """Tell somebody of what is taken from each queue: its name, and as `admission.Watcher` says."""
        names = ("search", "write", "append", "scroll", "admin")
        for name, queue in zip(names, self._all(), strict=True):
            queue.watch(partial(watcher, name))

    async def find(self, catalog: Catalog, name: str) -> Served:
        """What is served under a name, on a thread where finding it may take time."""
        known = catalog.known(name)
        if known is not None:  # not its truth, which is its size: a look at the disk in processes that follow another
            return known
        return await self.admin.run(lambda: catalog.find(name), None)

    def close(self) -> None:
        """Wait until running jobs have ended, and end the threads. The event loop must still run."""
        for queue in self._all():
            queue.close()

    def _all(self) -> tuple[AdmissionQueue, ...]:
        return self.searches, self.writes, self.appends, self.scrolls, self.admin
