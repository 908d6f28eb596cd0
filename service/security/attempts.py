"""How often calls without a good key may come from one address."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from urllib.parse import unquote


class FailedAttempts:
    """Counts failures by address within windows of time, for a bounded number of addresses.

    Parameters
    ----------
    limit
        Failures of one address in a window; further ones are too many.
    window
        Seconds.
    addresses
        How many addresses are remembered; beyond them the one whose window began first is forgotten.
    clock
        Seconds from any beginning.
    """

    def __init__(
        self,
        limit: int = 20,
        window: float = 60.0,
        addresses: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._window = window
        self._addresses = addresses
        self._clock = clock
        self._failures: dict[str, tuple[float, int]] = {}  # end of the window and failures; in the order of the ends

    def add(self, address: str) -> tuple[int, float]:
        """Count a failure; gives how many there are beyond the limit, and the seconds until the window ends."""
        now = self._clock()
        end, count = self._failures.get(address, (now, 0))
        if end <= now:
            self._failures.pop(address, None)
            if len(self._failures) >= self._addresses:
                del self._failures[next(iter(self._failures))]
            end, count = now + self._window, 0
        self._failures[address] = end, count + 1
        return max(count + 1 - self._limit, 0), end - now


def address_of(peer: str) -> str:
    """The address in what gRPC calls a peer, such as ``ipv4:10.0.0.7:53124``, without the port.

    Of IPv6 it is the network of 64 bits: whoever has one address there has them all.
    """
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    host = rest.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return kind
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:  # a client of IPv4 at a socket that takes both
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
