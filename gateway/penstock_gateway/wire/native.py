"""A request as its client wrote it, beside the chat request that it is judged as.

Plain values. Read `NativeRequest`.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.formats import WireFormat


@dataclass(frozen=True, slots=True)
class NativeRequest:
    """A request in another format than chat completions.

    Attributes
    ----------
    format : WireFormat
    fields : JsonObject
        The client's object without our control field.
    dropped : tuple of str
        What its chat form leaves out, by path.
    obstacle : str or None
        Why it has no chat form, so that only a server of the same format can take it; None when it has one.
    answer_id : str or None
        Of an earlier answer that its provider keeps and this request refers to.
    headers : tuple of (str, str)
        Of the client that belong to the format (``anthropic-beta``).
    """

    format: WireFormat
    fields: JsonObject
    dropped: tuple[str, ...] = ()
    obstacle: str | None = None
    answer_id: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
