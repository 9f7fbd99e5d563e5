"""Reasoning items that are made of a chat answer's reasoning, and how they are known when the client returns them.

A Responses client sends reasoning items back as it got them, so what another format needs for the next step travels in
``encrypted_content``, which clients do not look into. Pure. Read `seal_thinking` and `open_thinking`.
"""

from __future__ import annotations

from typing import Final

import msgspec

OWN_REASONING_ID: Final = "rs_chat_"
"""How the ids of reasoning items begin that were made here: no provider keeps them, so they bind to no model."""

_SEAL: Final = "penstock.thinking_blocks:"

_encode = msgspec.json.Encoder().encode
_decode_blocks = msgspec.json.Decoder(list[dict[str, object]]).decode


def seal_thinking(blocks: object) -> str | None:
    """Return the ``encrypted_content`` that carries an answer's ``thinking_blocks``; None when there are none.

    Parameters
    ----------
    blocks : object
        The decoded ``thinking_blocks`` of a chat message or delta, whatever it is.

    Examples
    --------
    >>> open_thinking(seal_thinking([{"type": "redacted_thinking", "data": "AA"}]))
    [{'type': 'redacted_thinking', 'data': 'AA'}]
    """
    kept = [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    return _SEAL + _encode(kept).decode() if kept else None


def open_thinking(sealed: str | None) -> list[dict[str, object]] | None:
    """Return the blocks that `seal_thinking` was given; None for the ``encrypted_content`` of a provider."""
    if sealed is None or not sealed.startswith(_SEAL):
        return None
    try:
        return _decode_blocks(sealed[len(_SEAL) :])
    except (msgspec.DecodeError, RecursionError):
        return None


def reasoning_item(item_id: str, texts: list[object], sealed: str | None = None) -> dict[str, object]:
    """Return a reasoning item.

    Parameters
    ----------
    item_id : str
    texts : list of str or msgspec.Raw
        Reasoning that may be shown. It stands in the summary, the place that clients show.
    sealed : str, optional
        Its ``encrypted_content``.
    """
    item: dict[str, object] = {
        "id": item_id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in texts],
    }
    return item if sealed is None else {**item, "encrypted_content": sealed}


def whole_items(items: object) -> list[dict[str, object]]:
    """Return those of a chat answer's ``reasoning_items`` that are reasoning items, as they came."""
    if not isinstance(items, list):
        return []
    return [
        item
        for item in items
        if isinstance(item, dict)
        and item.get("type") == "reasoning"
        and isinstance(item.get("id"), str)
        and isinstance(item.get("summary"), list)
    ]
