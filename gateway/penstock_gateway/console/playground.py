"""The playground: a prompt, the decision it leads to and why, its nearest known prompts, the cache's verdict.

Owns what is asked of the pipeline on the operator's behalf; nothing is decided here. A decision alone costs nothing and
is not remembered; sending is a request like any other, charged to the key that is chosen. Read `playground_answer`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec

from penstock_cache.lookups import Hit
from penstock_gateway.accounts.principal import Principal
from penstock_gateway.caching.desk import CacheCaller
from penstock_gateway.callers import Caller
from penstock_gateway.console.charts import Mark, cost_quality, interval
from penstock_gateway.console.contract import Asked, ConsoleParts, Page
from penstock_gateway.console.nearest import nearest_prompts
from penstock_gateway.console.reasons import REASONS, VERDICTS
from penstock_gateway.decisions import RouteDecision
from penstock_gateway.errors import GatewayError, InvalidRequest
from penstock_gateway.identifiers import identifier_source
from penstock_gateway.prompt_readings import PromptReading
from penstock_gateway.request_body import ChatRequest, is_alias, parse_chat_request

MAX_PROMPT_CHARACTERS: Final = 32_000
MAX_SHOWN_CHARACTERS: Final = 20_000
MAX_KEYS: Final = 500
OPEN: Final = ""  # stands for callers without a key
_TRADEOFFS: Final = ("", "cost", "balanced", "quality", "0", "0.25", "0.5", "0.75", "1")

_new_request_id = identifier_source("req")


async def playground_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show the empty form."""
    return Page("playground.html", _form_values(parts, {}))


async def playground_answer(parts: ConsoleParts, asked: Asked) -> Page:
    """Show what would answer a prompt, and send it where that is asked for."""
    form = asked.form
    values = _form_values(parts, form)
    try:
        values.update(await _results(parts, form))
    except GatewayError as error:
        return Page("playground.html", {**values, "problem": error}, error.status)
    return Page("playground.html", values)


async def _results(parts: ConsoleParts, form: Mapping[str, str]) -> dict[str, Any]:
    pipeline = parts.pipeline
    prompt = form.get("prompt", "").replace("\r\n", "\n")
    if not prompt.strip():
        raise InvalidRequest("Type a prompt first.", param="prompt")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(f"The prompt is longer than {MAX_PROMPT_CHARACTERS:,} characters.", param="prompt")
    principal = _principal(parts, form.get("key", OPEN))
    request = _request(form.get("model") or "auto", prompt)
    caller = _caller(principal, form)
    policy = pipeline.policy_of(caller, request)
    reading = await pipeline.chooser.read(request)
    decision = await pipeline.decide(caller, request, policy, reading)
    verdict = await _verdict(parts, caller, request, reading, decision)
    values = {
        "decision": decision.as_json(),
        "reason": REASONS.get(decision.reason.value, ""),
        "chart": chart_of(decision),
        "ranks": ranks_of(decision),
        "verdict": verdict,
        "novelty_max": None
        if pipeline.chooser.parts is None
        else pipeline.chooser.parts.artifact.manifest.guard.novelty_max,
        "nearest": await nearest_prompts(parts, reading.vector),
    }
    if form.get("action") == "send":
        values["answer"] = await _send(parts, _caller(principal, form), _request(form.get("model") or "auto", prompt))
    return values


def chart_of(decision: RouteDecision) -> object:
    """Return the plot of a decision's candidates; None where there is no estimate of their quality."""
    marks = []
    for candidate in decision.candidates:
        if candidate.quality is None or not candidate.estimated_cost_usd:
            continue
        low, high = interval(candidate.quality, candidate.quality_se) or (None, None)
        is_chosen = candidate.name == decision.chosen
        marks.append(Mark(candidate.name, candidate.estimated_cost_usd, candidate.quality, low, high, is_chosen))
    return cost_quality(marks)


def ranks_of(decision: RouteDecision) -> list[dict[str, Any]]:
    """Return the candidates as rows, each with its 95 % interval."""
    return [
        {
            **candidate.as_json(),
            "interval": None if candidate.quality is None else interval(candidate.quality, candidate.quality_se),
            "is_chosen": candidate.name == decision.chosen,
        }
        for candidate in decision.candidates
    ]


def _form_values(parts: ConsoleParts, form: Mapping[str, str]) -> dict[str, Any]:
    table = parts.admin.directory.table
    keys = [(entry.id, entry.name) for entry in table.keys.values() if entry.principal is not None]
    return {
        "form": {name: form.get(name, "") for name in ("prompt", "tradeoff", "model", "key", "max_cost_usd")},
        "keys": sorted(keys, key=lambda key: key[1])[:MAX_KEYS],
        "is_open": not parts.admin.directory.asks_for_keys,
        "models": ["auto", *parts.pipeline.deployments],
        "tradeoffs": _TRADEOFFS,
        "shows_content": parts.shows_content,
        "logs_events": parts.events_folder is not None,
        "problem": None,
        "decision": None,
        "answer": None,
    }


def _principal(parts: ConsoleParts, key_id: str) -> Principal:
    """Return on whose behalf a prompt is sent.

    Raises
    ------
    InvalidRequest
    """
    directory = parts.admin.directory
    if key_id == OPEN and not directory.asks_for_keys:
        return directory.configured.open_principal
    principal = directory.principal(key_id) if key_id else None
    if principal is None:
        raise InvalidRequest("Choose the key on whose behalf the prompt is decided and charged.", param="key")
    return principal


def _request(model: str, prompt: str) -> ChatRequest:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return parse_chat_request(msgspec.json.encode(body))


def _caller(principal: Principal, form: Mapping[str, str]) -> Caller:
    has_alias = is_alias(form.get("model") or "auto")
    return Caller(
        principal.tenant,
        _new_request_id(),
        (form.get("tradeoff") or None) if has_alias else None,
        includes_cost=False,
        started=time.perf_counter(),
        max_cost_usd=form.get("max_cost_usd", "").strip() or None,
        cache=CacheCaller(principal.tenant, rights=principal.cache),
        principal=principal,
    )


async def _verdict(
    parts: ConsoleParts, caller: Caller, request: ChatRequest, reading: PromptReading, decision: RouteDecision
) -> dict[str, Any] | None:
    """Return what the cache would say; None when there is none."""
    desk = parts.pipeline.cache
    if desk is None or not request.is_reusable:
        return None
    policy = parts.pipeline.policy_of(caller, request)
    asks = caller.cache or CacheCaller(caller.tenant)
    visit = desk.open(asks, request, policy, parts.pipeline.chooser.tradeoff, is_preview=True)
    found = await visit.preview(reading, decision)
    if isinstance(found, Hit):
        document = found.document
        return {
            "is_hit": True,
            "text": VERDICTS[found.kind],
            "code": found.kind,
            "similarity": found.similarity,
            "probability": found.probability,
            "entry": document.entry_id,
            "category": document.category,
            "age_seconds": found.age_seconds,
            "prompt": document.prompt if parts.shows_content else None,
        }
    text = VERDICTS.get(found.reason, "It would not be answered from the cache.")
    shown = {"similarity": found.similarity or None, "probability": found.probability or None}
    return {"is_hit": False, "text": text, "code": found.reason, **shown}


async def _send(parts: ConsoleParts, caller: Caller, request: ChatRequest) -> dict[str, Any]:
    """Send the prompt as any client would, and return what came back."""
    answer = await parts.pipeline.answer(caller, request)
    async with aclosing(answer):
        body = await answer.body()
        headers = answer.headers()
    settlement = answer.settlement
    text = answer_text(body)
    return {
        "text": text[:MAX_SHOWN_CHARACTERS],
        "is_cut": len(text) > MAX_SHOWN_CHARACTERS,
        "status": answer.reply.status,
        "model": headers.get("x-penstock-model", ""),
        "cache": headers.get("x-penstock-cache", ""),
        "decision": answer.decision.id,
        "outcome": None if settlement is None else settlement.as_json(),
    }


def answer_text(body: bytes) -> str:
    """Return the first choice's text, or the whole answer when there is none."""
    try:
        return str(msgspec.json.decode(body)["choices"][0]["message"]["content"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError):
        return body.decode("utf-8", "replace")
