"""LiteLLM spend logs: what was asked of which model and what it cost, joined with scores that the user brings.

Owns the reading of ``LiteLLM_SpendLogs`` rows (``litellm/proxy/schema.prisma``), as the proxy's ``/spend/logs`` gives
them or as an export of the table. They hold no quality and no propensity. Read `read_litellm_spend`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock_training.errors import TrainingError
from penstock_training.importers.collected import Collector, OutcomeRow
from penstock_training.importers.options import ImportOptions, need_columns
from penstock_training.importers.source_files import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    find_sources,
    number_of,
    read_records,
    text_of,
    whole_of,
)

SOURCE: Final = "litellm"
_NEEDED: Final = ("request_id", "model")
# LiteLLM's names of calls that answer a prompt with text (litellm/types/utils.py, CallTypes).
TEXT_CALLS: Final = ("completion", "responses", "anthropic_messages", "generate_content")
_CUT_MARK: Final = "litellm_truncated"  # what LiteLLM writes into the middle of a text that it shortened
_NEEDS_SCORES: Final = (
    "spend logs say what a request cost and not how good the answer was. Rate the answers (by a judge, by users, by a "
    "test) and pass the ratings with --scores FILE: columns request_id and score, 0 to 1"
)


def read_litellm_spend(paths: Sequence[Path], into: Collector, options: ImportOptions) -> list[str]:
    """Read spend logs.

    Parameters
    ----------
    paths : sequence of Path
        JSON (a list, or an object with the list under ``data``), JSON Lines, CSV or Parquet, or folders with them.
    into : Collector
    options : ImportOptions
        ``scores`` (needed), ``prompts`` (for logs kept without contents), ``arm_field``, ``source`` (default
        ``litellm``).

    Returns
    -------
    list of str
        Remarks for the report.

    Raises
    ------
    TrainingError
        ``import_needs_scores``, ``import_column_missing``, and what `find_sources` and `read_records` raise.

    Notes
    -----
    Left out, each under its name: ``failed`` requests, ``cache_hit`` (no model answered), ``other_call`` (embeddings,
    images), ``no_prompt`` (contents were not stored: ``store_prompts_in_spend_logs``, and no ``prompts``),
    ``prompt_cut`` (shortened by LiteLLM), ``unscored``. The prompt is the text of the last user turn, as the gateway
    reads it. A request is answered by one arm, and the log does not say with which probability it was chosen.
    """
    if options.scores is None:
        raise TrainingError(_NEEDS_SCORES, code="import_needs_scores")
    files = find_sources(paths, (*TABLE_SUFFIXES, *JSON_SUFFIXES))
    for done, file in enumerate(files):
        options.progress("reading logs", done, len(files))
        is_first = True
        for number, record in read_records(file):
            where = file.place(number)
            if record is None:
                into.refuse("broken_line", where)
                continue
            if is_first:
                need_columns(record, _NEEDED, file)
                is_first = False
            _add_request(record, where, into, options)
    options.progress("reading logs", len(files), len(files))
    return [
        "each request was answered by one arm: differences between arms are mixed up with differences between "
        "prompts, and without a propensity they cannot be told apart"
    ]


def last_user_text(messages: object) -> str:
    """Return the text of the last user turn of chat messages; "" when there is none.

    Parameters
    ----------
    messages : object
        A list of messages, the JSON of one, or a bare text. Parts that are no text (images) are passed over.

    Examples
    --------
    >>> last_user_text([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
    'Why?'
    """
    content = _decoded(messages)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    for message in reversed(content):
        if isinstance(message, Mapping) and message.get("role") == "user":
            return _content_text(message.get("content"))
    return ""


def seconds_of(value: object) -> float | None:
    """Read a time of a spend log as UNIX seconds; one without a zone is UTC, as LiteLLM stores it."""
    if isinstance(value, datetime):
        moment = value
    else:
        if (number := number_of(value)) is not None:
            return number
        try:
            moment = datetime.fromisoformat(text_of(value))
        except ValueError:
            return None
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        return None


def _add_request(record: Mapping[str, Any], where: str, into: Collector, options: ImportOptions) -> None:
    request = text_of(record.get("request_id"))
    prompt = _prompt_of(record, request, options)
    if (reason := _reason_to_leave_out(record, prompt)) is not None:
        into.leave_out(reason, where)
        return
    scores = options.scores or {}
    start, end = seconds_of(record.get("startTime")), seconds_of(record.get("endTime"))
    milliseconds = number_of(record.get("request_duration_ms"))
    latency = milliseconds / 1000 if milliseconds is not None else (end - start if start and end else None)
    arm = text_of(record.get(options.arm_field)) or text_of(record.get("model"))
    into.add(
        OutcomeRow(
            prompt=prompt,
            arm=arm,
            source=options.source or SOURCE,
            query_id=request or None,
            score=scores.get(request, scores.get(text_of(record.get("litellm_call_id")))),
            input_tokens=whole_of(record.get("prompt_tokens")),
            output_tokens=whole_of(record.get("completion_tokens")),
            cost_usd=number_of(record.get("spend")),
            latency_seconds=latency,
            timestamp=start,
            tokens_source="reported",
            cost_source="reported",
        ),
        where,
    )


def _reason_to_leave_out(record: Mapping[str, Any], prompt: str) -> str | None:
    call = text_of(record.get("call_type")).lower()
    metadata = _decoded(record.get("metadata"))
    status = text_of(record.get("status")) or text_of(metadata.get("status") if isinstance(metadata, Mapping) else "")
    if call and not any(name in call for name in TEXT_CALLS):
        return "other_call"
    if status == "failure":
        return "failed"
    if text_of(record.get("cache_hit")).lower() == "true" or record.get("cache_hit") is True:
        return "cache_hit"
    if not prompt.strip():
        return "no_prompt"
    return "prompt_cut" if _CUT_MARK in prompt else None


def _prompt_of(record: Mapping[str, Any], request: str, options: ImportOptions) -> str:
    if options.prompts and request in options.prompts:
        return options.prompts[request]
    if text := last_user_text(record.get("messages")):
        return text
    sent = _decoded(record.get("proxy_server_request"))
    return last_user_text(sent.get("messages")) if isinstance(sent, Mapping) else ""


def _decoded(value: object) -> object:
    """Decode JSON that an export wrote as text; anything else stays as it is."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{", '"')):
        try:
            return msgspec.json.decode(value.encode("utf-8", "surrogatepass"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return value
    return value


def _content_text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))
