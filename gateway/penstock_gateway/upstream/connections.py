"""The pool of connections to providers.

Owns how connections are kept and which of them may be used again. Read `new_session`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp

KEEP_ALIVE_SECONDS = 55.0
"""How long an idle connection is kept. Under the 60 s at which common load balancers close theirs."""

_MAX_HEADER_BYTES = 32 * 1024  # some cloud front ends send header fields beyond aiohttp's default of 8 kB


def new_session() -> aiohttp.ClientSession:
    """Return a client that keeps connections and nothing else; call it inside the running loop.

    Returns
    -------
    ClientSession
        Without cookies, proxy variables or ``.netrc``. The ``trace_request_ctx`` of a request, a `SimpleNamespace`,
        tells in ``is_reused`` whether its connection had served before.
    """
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    trace.on_connection_create_start.append(_note_creation)
    return aiohttp.ClientSession(
        # Admission is the gateway's business: the pool itself never makes a request wait.
        connector=SilentConnections(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        max_field_size=_MAX_HEADER_BYTES,
        max_line_size=_MAX_HEADER_BYTES,
        trace_configs=[trace],
        trust_env=False,
    )


class SilentConnections(aiohttp.TCPConnector):
    """A pool that gives out no connection on which something has come that nobody asked for.

    Notes
    -----
    aiohttp keeps such bytes and takes them for the answer to the next request on the connection, which may be another
    tenant's. It looks when a connection comes back (``should_close``), which can be before they arrive.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Return a pooled connection that has been silent since it was last used, or a new one."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


async def _note_reuse(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    """Mark the attempt as one on a connection that has served before."""
    context.trace_request_ctx.is_reused = True


async def _note_creation(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionCreateStartParams
) -> None:
    """Mark the attempt as one on a fresh connection, after a pooled one that was not silent too."""
    context.trace_request_ctx.is_reused = False
