"""How often somebody may try to sign in: wrong keys are counted, by address and over all.

Owns the counts, in memory and bounded; it knows nothing of keys or HTTP. Read `SignInLimits.wait_seconds`.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil
from typing import Final

WINDOW_SECONDS: Final = 60.0
PER_ADDRESS: Final = 10
"""Wrong keys from one address in a window; a person who mistypes needs fewer."""
OVERALL: Final = 100
"""Wrong keys from all addresses in a window: 16 random letters and digits stand that for 10^20 years."""
_ADDRESSES: Final = 1_024
_TRUSTED: Final = 64
_IPV6_PREFIX: Final = 64  # the smallest network that one customer gets (RFC 6177 section 2)


class SignInLimits:
    """Wrong keys of the last minute.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.

    Notes
    -----
    Addresses that have signed in before are not bound by the limit over all: who floods the form from many addresses
    must not lock out those who have the key.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()
        self._overall: deque[float] = deque(maxlen=OVERALL)
        self._trusted: OrderedDict[str, None] = OrderedDict()

    def wait_seconds(self, client: str | None) -> int:
        """Return how long a client has to wait before it may try again; 0 when it may now.

        Parameters
        ----------
        client : str or None
            Address; clients without one count as one.

        Returns
        -------
        int
            Whole seconds, rounded up.
        """
        address = _address_of(client)
        waits = [self._wait(self._by_address.get(address))]
        if address not in self._trusted:
            waits.append(self._wait(self._overall))
        return ceil(max(waits))

    def note_wrong(self, client: str | None) -> None:
        """Count a wrong key."""
        address, now = _address_of(client), self._clock()
        times = self._by_address.setdefault(address, deque(maxlen=PER_ADDRESS))
        self._by_address.move_to_end(address)
        times.append(now)
        self._overall.append(now)
        if len(self._by_address) > _ADDRESSES:
            self._by_address.popitem(last=False)

    def note_right(self, client: str | None) -> None:
        """Forget the wrong keys of an address that had the right one in the end."""
        address = _address_of(client)
        self._by_address.pop(address, None)
        self._trusted[address] = None
        self._trusted.move_to_end(address)
        if len(self._trusted) > _TRUSTED:
            self._trusted.popitem(last=False)

    def _wait(self, times: deque[float] | None) -> float:
        """Return how long until the oldest of as many wrong keys as are allowed is out of the window."""
        if times is None or len(times) < (times.maxlen or 0):
            return 0.0
        return max(0.0, times[0] + WINDOW_SECONDS - self._clock())


def _address_of(client: str | None) -> str:
    """Return what is counted as one address: of IPv6, the network of a customer."""
    try:
        address = ip_address(client or "")
    except ValueError:
        return client or ""
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), _IPV6_PREFIX), strict=False))
