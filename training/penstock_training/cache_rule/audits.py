"""Pairs of prompts from the audits that a gateway has written into its event log.

Owns which audits can teach a rule. Must not judge or fit. Read `audit_pairs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock_training.errors import TrainingError
from penstock_training.importers.event_files import find_segments, read_segment
from penstock_training.importers.events import AUDIT


def audit_pairs(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Read pairs of a prompt and a stored prompt, and whether the stored answer was right.

    Parameters
    ----------
    paths : sequence of Path
        Event folders or segments.

    Returns
    -------
    pairs : list of dict
        ``{"a", "b", "same", "category"}``, as `texts.read_texts` takes them.
    left_out : Counter of str
        Audits without use, by reason: ``no_prompts`` (contents were not captured, are removed, or belong to several
        tenants), ``prompt_cut`` (the log holds their beginning only), ``unsteady`` (the model contradicted itself),
        ``same_words``, ``damaged``.

    Raises
    ------
    TrainingError
        ``cache_audits_missing`` when none can be used; those of `find_segments` and `read_segment`.

    Notes
    -----
    Audits are a uniform sample of the hits, so they need no weights among themselves; they say nothing of what was not
    served. As pairs of one stream they are dearer in near-misses than the traffic was: what is certified with them errs
    on the side of fewer hits.
    """
    pairs: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for file in find_segments(paths):
        for _, event in read_segment(file):
            if event is None or event.get("type") != AUDIT:
                continue
            reason = _obstacle(event)
            if reason is not None:
                left_out[reason] += 1
                continue
            names = {"a": "stored_prompt", "b": "prompt", "same": "is_right", "category": "category"}
            pairs.append({name: event[field] for name, field in names.items()})
    if not pairs:
        counted = ", ".join(f"{name} {count:,}" for name, count in sorted(left_out.items())) or "there is none"
        raise TrainingError(
            f"no audit in these events can be used ({counted}); prompts are written only with events.capture_content",
            code="cache_audits_missing",
        )
    return pairs, left_out


def _obstacle(event: dict[str, Any]) -> str | None:
    asked, stored, category = (event.get(name) for name in ("prompt", "stored_prompt", "category"))
    if not isinstance(event.get("is_right"), bool) or not isinstance(category, str) or not category:
        return "damaged"
    if not isinstance(asked, str) or not isinstance(stored, str) or not asked.strip() or not stored.strip():
        return "no_prompts"
    if event.get("is_prompt_cut"):
        return "prompt_cut"
    if event.get("is_steady") is False:
        return "unsteady"
    return "same_words" if asked == stored else None
