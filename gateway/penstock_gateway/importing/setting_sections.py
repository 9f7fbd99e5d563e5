"""``router_settings``, ``litellm_settings`` and ``general_settings`` as sections of the new configuration.

Owns which field goes where. Read `map_sections`; `_ROUTER`, `_LITELLM` and `_GENERAL` say which function takes which
field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from penstock_gateway.importing.client_access import map_budget, map_master_key, map_parallel_of_keys
from penstock_gateway.importing.draft import Draft, number_of, seconds_of, whole_number_of
from penstock_gateway.importing.foreign_yaml import Node
from penstock_gateway.importing.redis_fields import redis_url
from penstock_gateway.importing.substitutes import map_aliases, map_default_fallbacks, map_fallbacks, note_aliases
from penstock_gateway.importing.unmapped_fields import reason_for

_Handler = Callable[[Draft, Node], None]

_REDIS_FIELDS: Final = (
    "redis_url",
    "redis_host",
    "redis_port",
    "redis_password",
    "redis_username",
    "redis_db",
    "redis_ssl",
)
_CACHE_FIELDS: Final = ("url", "redis_url", "host", "port", "password", "username", "db", "ssl")
_BALANCE: Final = {
    "simple-shuffle": (
        "auto",
        "LiteLLM draws by weight; here the cheapest free one is taken, and under load the quickest",
    ),
    "least-busy": ("capacity", "by predicted work, not by the number of requests"),
    "latency-based-routing": ("capacity", "by predicted time of this request, not by past latency"),
    "usage-based-routing": ("capacity", "by predicted work, not by tokens a minute"),
    "usage-based-routing-v2": ("capacity", "by predicted work, not by tokens a minute"),
    "cost-based-routing": ("cost", "the cheapest that has a free slot"),
}
_RETRY_CAUSES: Final = {
    "TimeoutErrorRetries": "timeout",
    "RateLimitErrorRetries": "rate_limit",
    "InternalServerErrorRetries": "server_error",
    "ServiceUnavailableErrorRetries": "server_error",
}
_ALL_CAUSES: Final = ("connect", "timeout", "broken", "rate_limit", "conflict", "server_error")
_MAX_RETRIES: Final = 10


def map_sections(draft: Draft, root: Node) -> None:
    """Map the three sections of settings; deployments are complete but for fallbacks and time-outs.

    Parameters
    ----------
    draft : Draft
    root : Node
        The whole old configuration.
    """
    for name, table in (("general_settings", _GENERAL), ("router_settings", _ROUTER), ("litellm_settings", _LITELLM)):
        node = root.fields.get(name)
        if node is None:
            continue
        fields = sorted(node.fields.items(), key=lambda pair: _ORDER.get(pair[0], 0))
        if name == "router_settings":
            _map_shared_redis(draft, node.fields)
            if "model_group_alias" in node.fields:
                note_aliases(draft, node.fields["model_group_alias"])
        for field, value in fields:
            handler = table.get(field)
            if field in _LATE:
                continue
            if handler is not None:
                handler(draft, value)
                draft.findings.dropped(value, "has a value that Penstock does not take")  # when it was left open
            else:
                draft.findings.dropped(value, *reason_for(name, field, (*table, *_LATE, *_REDIS_FIELDS)))
        if not node.fields:
            draft.findings.dropped(node, "is no mapping of settings")


def map_late_sections(draft: Draft, root: Node) -> None:
    """Map what needs all deployments complete: aliases, which may be copies of them."""
    router = root.fields.get("router_settings")
    if router is not None and "model_group_alias" in router.fields:
        map_aliases(draft, router.fields["model_group_alias"])


# Aliases name groups that fallbacks may lead to; defaults come after what is written for one model.
_LATE: Final = frozenset({"model_group_alias"})
_ORDER: Final = {
    "master_key": -1,
    "context_window_fallbacks": 1,
    "default_fallbacks": 2,
    "cache": -1,
    "retry_policy": 1,
    "budget_duration": 1,
}


def _map_shared_redis(draft: Draft, fields: Mapping[str, Node]) -> None:
    url = redis_url(draft, fields, "redis_", "redis.url")
    if url is None:
        return
    draft.section("redis")["url"] = url
    draft.section("ledger")["kind"] = "redis"
    draft.step(
        "Install the redis extra: budgets and limits are counted in Redis (ledger.kind), for all gateways together."
    )


def _timeout(draft: Draft, node: Node) -> None:
    seconds = seconds_of(node)
    if seconds is not None:
        values = {"first_byte_seconds": seconds, "total_seconds": seconds}
        _write_timeouts(draft, node, values, "bounds the whole attempt, and its first byte")


def _stream_timeout(draft: Draft, node: Node) -> None:
    seconds = seconds_of(node)
    if seconds is not None:
        _write_timeouts(draft, node, {"idle_seconds": seconds}, "between two chunks of any answer")


def _write_timeouts(draft: Draft, node: Node, values: Mapping[str, Decimal], note: str) -> None:
    """Give a time-out to every deployment that has none yet; the last of `values` names it."""
    name = list(values)[-1]
    target = f"deployments[].timeouts.{name}"
    is_written = False
    for deployment in draft.deployments:
        timeouts = deployment.settings.setdefault("timeouts", {})
        assert isinstance(timeouts, dict)
        if name not in timeouts:
            timeouts.update(values)
            is_written = True
    if is_written:
        draft.findings.changed(node, target, f"written into every deployment without one of its own: {note}")
    else:
        draft.findings.dropped(node, "every deployment has one already, its own or that of router_settings", target)


def _retries(draft: Draft, node: Node) -> None:
    count = whole_number_of(node, 0, 1000)
    if count is None:
        return
    attempts = draft.section("attempts")
    target = "attempts.retries"
    if "retries" in attempts:
        draft.findings.dropped(node, "router_settings say it too, and they count", target)
        return
    attempts["retries"] = min(count, _MAX_RETRIES)
    if count > _MAX_RETRIES:
        draft.findings.changed(node, target, f"at most {_MAX_RETRIES}")
    else:
        note = "of the same deployment; others of its group are asked first, and attempts.max_attempts bounds all"
        draft.findings.changed(node, target, note)


def _retry_policy(draft: Draft, node: Node) -> None:
    counts: dict[str, int] = {}
    for name, value in node.fields.items():
        cause = _RETRY_CAUSES.get(name)
        count = whole_number_of(value, 0, 1000)
        if cause is None or count is None:
            note = (
                "a failure of this kind is not tried again at the same deployment" if cause is None else "is no number"
            )
            draft.findings.dropped(value, note, "attempts.retry_on")
            continue
        counts[cause] = max(count, counts.get(cause, 0))
        note = "one number of retries holds for all failures" if count else "0: not tried again at the same deployment"
        draft.findings.changed(value, "attempts.retry_on", note)
    if not counts:
        return
    attempts = draft.section("attempts")
    attempts["retry_on"] = [cause for cause in _ALL_CAUSES if counts.get(cause, 1)]
    attempts.setdefault("retries", min(max(counts.values()), _MAX_RETRIES))


def _allowed_fails(draft: Draft, node: Node) -> None:
    count = whole_number_of(node, 0, 99_999)
    if count is None:
        return
    breaker = draft.section("attempts", "breaker")
    if "consecutive_failures" in breaker:
        draft.findings.dropped(
            node, "router_settings say it too, and they count", "attempts.breaker.consecutive_failures"
        )
        return
    breaker["consecutive_failures"] = count + 1
    note = "failures in a row, one more than are allowed; LiteLLM counts those of a minute"
    draft.findings.changed(node, "attempts.breaker.consecutive_failures", note)


def _cooldown(draft: Draft, node: Node) -> None:
    seconds = seconds_of(node)
    if seconds is None:
        return
    breaker = draft.section("attempts", "breaker")
    breaker["open_seconds"] = seconds
    if seconds > 120:
        breaker["max_open_seconds"] = seconds
    note = "then one request is let through as a probe; the time doubles while it fails"
    draft.findings.changed(node, "attempts.breaker.open_seconds", note)


def _retry_after(draft: Draft, node: Node) -> None:
    seconds = seconds_of(node)
    if seconds is None:
        draft.findings.mapped(node, "attempts.backoff_seconds", "no least wait: the default")
        return
    attempts = draft.section("attempts")
    attempts["backoff_seconds"] = seconds
    if seconds > 8:
        attempts["max_backoff_seconds"] = seconds
    note = "the most that the first retry waits, drawn at random; LiteLLM's is the least"
    draft.findings.changed(node, "attempts.backoff_seconds", note)


def _strategy(draft: Draft, node: Node) -> None:
    mode, note = _BALANCE.get(str(node.value), ("", ""))
    if mode:
        draft.section("attempts", "balance")["mode"] = mode
        draft.findings.changed(node, "attempts.balance.mode", note)
    else:
        draft.findings.dropped(node, "no strategy of that name is known here", "attempts.balance.mode")


def _default_parallel(draft: Draft, node: Node) -> None:
    count = whole_number_of(node, 1, 1_000_000)
    if count is None:
        return
    for deployment in draft.deployments:
        deployment.settings.setdefault("max_parallel_requests", count)
    draft.findings.changed(node, "deployments[].max_parallel_requests", "written into every deployment without one")


def _pre_call_checks(draft: Draft, node: Node) -> None:
    if node.value is True:
        note = "lengths and abilities are looked at for every fallback and for 'auto'"
        draft.findings.mapped(node, "deployments[].context_tokens", note)
    else:
        draft.findings.dropped(node, "the checks cannot be switched off", "deployments[].context_tokens")


def _context_fallbacks(draft: Draft, node: Node) -> None:
    note = "they answer other failures as well; where the prompt was too long, only those with a larger context do"
    map_fallbacks(draft, node, note)


def _verbose(draft: Draft, node: Node) -> None:
    if node.value is True:
        draft.section("log")["level"] = "debug"
        draft.findings.changed(node, "log.level", "prompts and answers are not logged at any level")
    else:
        draft.findings.mapped(node, "log.level", "the default")


def _always(target: str, note: str) -> _Handler:
    """Return a rule for what Penstock does anyway; to switch it off cannot be mapped."""

    def take(draft: Draft, node: Node) -> None:
        if node.value is False:
            draft.findings.dropped(node, f"it cannot be switched off: {note}", target)
        else:
            draft.findings.mapped(node, target, note)

    return take


def _cache(draft: Draft, node: Node) -> None:
    if node.value is True:
        draft.section("cache")["mode"] = "exact"
        note = "whole answers that say the same to everybody; one tenant never gets another's"
        draft.findings.changed(node, "cache.mode", note)
    elif node.value is False:
        draft.section("cache")["mode"] = "off"
        draft.findings.mapped(node, "cache.mode")


def _cache_params(draft: Draft, node: Node) -> None:
    fields = node.fields
    kind = str(fields["type"].value) if "type" in fields else "redis"
    is_on = draft.section("cache").get("mode") != "off"
    if "type" in fields:
        _cache_type(draft, fields["type"], kind, is_on=is_on)
    if "redis" in kind or kind == "valkey-semantic":
        url = redis_url(draft, fields, "", "cache.store.redis_url")
        if url is not None and is_on:
            store = draft.section("cache", "store")
            store.update({"kind": "redis", "redis_url": url})
            draft.step("Install the redis extra: the cache is kept in Redis (cache.store).")
        elif is_on and "type" in fields:
            draft.section("cache", "store")["kind"] = "memory"
            draft.step("The cache is kept in memory: the old file does not say where its Redis is (cache.store).")
    for name, value in fields.items():
        draft.findings.dropped(value, *reason_for("cache_params", name, ("type", *_CACHE_FIELDS)))


def _cache_type(draft: Draft, node: Node, kind: str, *, is_on: bool) -> None:
    if kind.endswith("-semantic"):
        if is_on:
            draft.section("cache")["mode"] = "semantic"
        note = "another wording is answered only where a calibrated rule allows it, not above a similarity"
        draft.findings.changed(node, "cache.mode", note)
    elif kind == "redis":
        draft.findings.mapped(node, "cache.store.kind")
    elif kind in ("local", "disk"):
        note = (
            "memory, which a restart empties"
            if kind == "local"
            else "memory; cache.store.kind: file survives a restart"
        )
        if is_on:
            draft.section("cache", "store")["kind"] = "memory"
        draft.findings.changed(node, "cache.store.kind", note)
    else:
        draft.findings.dropped(node, "another kind of store", "cache.store.kind")


def _callbacks(draft: Draft, node: Node) -> None:
    for entry in node.items or [node]:
        if entry.value == "prometheus":
            draft.findings.changed(entry, "metrics", "always on at GET /metrics, under other names")
        else:
            reason = reason_for("litellm_settings", "callbacks", ())
            draft.findings.dropped(entry, *reason)


def _body_size(draft: Draft, node: Node) -> None:
    megabytes = number_of(node)
    if megabytes is not None and Decimal("0.001") <= megabytes <= 1024:
        draft.section("server")["max_body_bytes"] = max(1024, int(megabytes * 1_048_576))
        draft.findings.mapped(node, "server.max_body_bytes")


def _in_flight(draft: Draft, node: Node) -> None:
    count = whole_number_of(node, 1, 100_000)
    if count is not None:
        draft.section("server")["max_in_flight"] = count
        draft.findings.changed(node, "server.max_in_flight", "of one process; further requests get a 503")


_ROUTER: Final[Mapping[str, _Handler]] = {
    "routing_strategy": _strategy,
    "num_retries": _retries,
    "max_retries": _retries,
    "retry_after": _retry_after,
    "retry_policy": _retry_policy,
    "timeout": _timeout,
    "stream_timeout": _stream_timeout,
    "allowed_fails": _allowed_fails,
    "cooldown_time": _cooldown,
    "default_max_parallel_requests": _default_parallel,
    "enable_pre_call_checks": _pre_call_checks,
    "fallbacks": map_fallbacks,
    "context_window_fallbacks": _context_fallbacks,
    "default_fallbacks": map_default_fallbacks,
    "set_verbose": _verbose,
    "debug_level": _verbose,
}
_LITELLM: Final[Mapping[str, _Handler]] = {
    "num_retries": _retries,
    "request_timeout": _timeout,
    "allowed_fails": _allowed_fails,
    "fallbacks": map_fallbacks,
    "context_window_fallbacks": _context_fallbacks,
    "default_fallbacks": map_default_fallbacks,
    "set_verbose": _verbose,
    "json_logs": _always("log", "every line of the log is a JSON object"),
    "cache": _cache,
    "cache_params": _cache_params,
    "callbacks": _callbacks,
    "success_callback": _callbacks,
    "failure_callback": _callbacks,
    "service_callback": _callbacks,
    "service_callbacks": _callbacks,
    "turn_off_message_logging": _always("events.capture_content", "prompts and answers are not logged"),
    "redact_messages_in_exceptions": _always("events.capture_content", "no error holds a prompt"),
    "redact_user_api_key_info": _always("events.capture_content", "no log holds a key"),
    "max_budget": map_budget,
    "budget_duration": map_budget,
    "require_auth_for_metrics_endpoint": _always("client_keys", "metrics ask for a key where requests do"),
}
_GENERAL: Final[Mapping[str, _Handler]] = {
    "master_key": map_master_key,
    "max_parallel_requests": map_parallel_of_keys,
    "global_max_parallel_requests": _in_flight,
    "max_in_flight_requests_per_worker": _in_flight,
    "max_request_size_mb": _body_size,
}
