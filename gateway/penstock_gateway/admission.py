"""Who may talk to the gateway: the host allow-list and the client keys.

Checked once per request, in front of every endpoint but the probes. Keys are known by digest only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from penstock_gateway.accounts.directory import Directory
from penstock_gateway.accounts.principal import Principal
from penstock_gateway.asgi import RequestHead
from penstock_gateway.errors import Forbidden

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARD_ADDRESSES = frozenset({"0.0.0.0", "::", ""})

_HOST_AND_PORT = re.compile(r"(?:\[(?P<address>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(?::[0-9]*)?")


class Gatekeeper:
    """Admits a request and says who asks.

    Parameters
    ----------
    directory : Directory
        Of keys; where none are asked for, every local caller is the same principal.
    bound_host : str
        The address that the server listens on.
    allowed_hosts : iterable of str
        Further names that a Host header may carry; ``*.example.org`` allows a domain.

    Notes
    -----
    The host check stops DNS rebinding: a web page in the user's browser can reach 127.0.0.1 under a name of its
    own, and would be answered without it. A server on a wildcard address accepts every name unless a list is
    configured: it needs a client key, which such a page does not have (``--insecure`` gives up both).
    """

    def __init__(self, directory: Directory, *, bound_host: str, allowed_hosts: Iterable[str]) -> None:
        self._directory = directory
        listed = {_host_name(name) for name in allowed_hosts}
        is_open = bound_host in WILDCARD_ADDRESSES and not listed
        self._hosts = None if is_open else LOOPBACK_HOSTS | listed | {_host_name(bound_host)}
        self._domains = tuple(name.removeprefix("*") for name in listed if name.startswith("*."))

    def admit(self, head: RequestHead) -> Principal:
        """Return who sends a request.

        Raises
        ------
        Forbidden
            Code ``host_not_allowed``.
        Unauthenticated
            Code ``missing_api_key``, ``invalid_api_key``, ``api_key_expired`` or ``api_key_revoked``.
        InvalidRequest
            Code ``unknown_tag``.
        """
        if not self._allows_host(_host_name(head.host)):
            raise Forbidden(
                "This Host header is not allowed; add the name to server.allowed_hosts.", code="host_not_allowed"
            )
        principal = self._directory.authenticate(head.credential)
        return self._directory.with_tags(principal, head.tags) if head.tags else principal

    def _allows_host(self, name: str) -> bool:
        return self._hosts is None or name in self._hosts or (bool(self._domains) and name.endswith(self._domains))


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets, in lower case; anything else stays as it is."""
    host = host.strip().lower()
    found = _HOST_AND_PORT.fullmatch(host)
    return found["address"] or found["name"] if found else host
