"""The known prompts that come nearest to one: those that were written down with content capture on.

Owns the bounds of that search; it reads the newest events in a thread and embeds their prompts anew, since no vector
of a prompt is kept anywhere. Read `nearest_prompts`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock_gateway.console.contract import ConsoleParts
from penstock_gateway.events.following import Follower
from penstock_gateway.events.parquet_segments import ParquetMissing
from penstock_routers.errors import RouterError
from penstock_routers.estimates import FloatArray

READ_EVENTS: Final = 1_000
COMPARED: Final = 200
"""Prompts that are embedded: 15 ms in all with the static encoder, half a second with the transformer."""
SHOWN: Final = 5


async def nearest_prompts(parts: ConsoleParts, vector: FloatArray | None) -> list[dict[str, Any]] | None:
    """Return the captured prompts most similar to a vector, the nearest first.

    Parameters
    ----------
    parts : ConsoleParts
    vector : ndarray of float32, shape (d,), or None

    Returns
    -------
    list of dict or None
        With ``prompt``, ``similarity`` (cosine), ``model`` and ``decision_id``; None when contents may not be shown, or
        the prompt has no vector.
    """
    folder, routing = parts.events_folder, parts.pipeline.chooser.parts
    if vector is None or routing is None or folder is None or not parts.shows_content:
        return None
    known = await asyncio.to_thread(_captured, folder)
    found = []
    for event in known:
        try:
            other = await routing.encoder.encode(event["prompt"])
        except RouterError:  # its queue is full: traffic comes first
            break
        await asyncio.sleep(0)  # a static encoder runs on the loop: let requests go between
        found.append({**event, "similarity": _cosine(vector, other)})
    return sorted(found, key=lambda event: -event["similarity"])[:SHOWN]


def newest_events(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return the last events of a folder, the newest last; blocks.

    Parameters
    ----------
    folder : Path
    count : int

    Raises
    ------
    OSError, ValueError, ParquetMissing
        They cannot be read.
    """
    follower = Follower(folder)
    try:
        return follower.last(count)
    finally:
        follower.close()


def _captured(folder: Path) -> list[dict[str, Any]]:
    try:
        events = newest_events(folder, READ_EVENTS)
    except (OSError, ValueError, ParquetMissing):
        return []
    prompts: dict[str, dict[str, Any]] = {}
    for event in reversed(events):
        prompt = event.get("prompt")
        if event.get("type") == "decision" and isinstance(prompt, str) and prompt and len(prompts) < COMPARED:
            shown = {"prompt": prompt, "model": event.get("intended_arm"), "decision_id": event.get("decision_id")}
            prompts.setdefault(prompt, shown)
    return list(prompts.values())


def _cosine(one: FloatArray, other: FloatArray) -> float:
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / norm if norm > 0.0 else 0.0
