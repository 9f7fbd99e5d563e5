"""The `attempts` section: how often a request is tried, where, how long it waits, and when a deployment is left alone.

Owns the shape, the defaults and the descriptions of that section. Read `AttemptSettings`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from penstock_gateway.settings_types import Seconds, Section, Share, plain_float

RetryCause = Literal["connect", "timeout", "broken", "rate_limit", "conflict", "server_error"]
OnDisconnect = Literal["cancel", "drain"]
Quantile = Annotated[str, StringConstraints(pattern=r"^p[1-9][0-9]$")]
Factor = Annotated[float, Field(ge=1, le=100, allow_inf_nan=False), BeforeValidator(plain_float)]


class BreakerSettings(Section):
    """When a deployment is left alone, each by its own failures."""

    window_seconds: Seconds = Field(30.0, description="How far back failures are counted.")
    failure_share: Share = Field(0.5, description="Share of failed attempts in the window that opens the breaker.")
    min_attempts: int = Field(10, ge=1, le=100_000, description="Attempts in the window before a share says anything.")
    consecutive_failures: int = Field(5, ge=1, le=100_000, description="Failures in a row that open it by themselves.")
    open_seconds: Seconds = Field(5.0, description="Until one probe is let through; doubles when the probe fails.")
    max_open_seconds: Seconds = Field(120.0, description="Longest time between two probes.")
    rate_limited_seconds: Seconds = Field(
        1.0, description="Cool-down after a 429 that does not say how long; doubles while they go on."
    )
    max_cool_seconds: Seconds = Field(300.0, description="Longest cool-down, whatever `Retry-After` says.")
    rejected_key_seconds: Seconds = Field(
        60.0, description="How long a deployment is left alone that refuses our credential or has no credit left."
    )


class HedgeSettings(Section):
    """Asking a second deployment while the first is slow. The slower one is cancelled, and may have to be paid for."""

    after: Annotated[Literal["off"] | Quantile | Seconds, Field(union_mode="left_to_right")] = Field(
        "off",
        description="Time without a first byte: `off`, seconds, or a quantile of what the deployment took lately, "
        "say `p95`.",
    )
    max_share: Share = Field(0.05, description="Most extra calls, as a share of requests.")


class BalanceSettings(Section):
    """Choosing among deployments of one `group`."""

    mode: Literal["auto", "cost", "capacity"] = Field(
        "auto",
        description="`cost`: the cheapest that is free; `capacity`: least predicted work; `auto`: cost until the "
        "cheapest are under pressure.",
    )
    affinity_factor: Factor = Field(
        1.5,
        description="A conversation stays with its deployment while that one's predicted time is at most this many "
        "times the best one's; 1: no affinity.",
    )
    pressure_high: Share = Field(0.85, description="Pressure at which `auto` goes over to capacity.")
    pressure_low: Share = Field(0.6, description="Pressure at which it goes back to cost.")
    min_mode_seconds: Seconds = Field(15.0, description="Shortest time between two changes of mode.")


class DrainSettings(Section):
    """Reading on after a client has left, where `deployments[].on_disconnect` is `drain`, to learn the usage."""

    max_seconds: Seconds = Field(60.0, description="Longest that one answer is read on.")
    max_answers: int = Field(100, ge=0, le=100_000, description="Answers read on at once; further ones are cancelled.")


class AttemptSettings(Section):
    """Retries, fallbacks, queues, breakers, hedges and balancing."""

    retries: int = Field(1, ge=0, le=10, description="Further tries at the same deployment, before the first byte.")
    retry_on: tuple[RetryCause, ...] = Field(
        ("connect", "timeout", "broken", "rate_limit", "conflict", "server_error"),
        strict=False,
        max_length=6,
        description="Failures that are tried again at the same deployment; all of them fall back to others.",
    )
    max_attempts: int = Field(6, ge=1, le=100, description="Tries of one request in all, hedges included.")
    backoff_seconds: Seconds = Field(0.25, description="Most that the first retry waits; doubles with each, at random.")
    max_backoff_seconds: Seconds = Field(8.0, description="Most that any retry waits unless the provider asks for it.")
    max_wait_seconds: Seconds = Field(
        10.0, description="Longest that one request waits in all: for a free slot, `Retry-After` and between tries."
    )
    deadline_seconds: Seconds | None = Field(
        None, description="Deadline of all tries together; default: only each deployment's own `timeouts`."
    )
    max_waiting: int = Field(1000, ge=0, le=100_000, description="Requests that wait for a slot at once; then 429.")
    ageing_seconds: Seconds = Field(
        5.0, description="A request that has waited so much longer goes before one of the next higher priority."
    )
    when_full: Literal["wait", "fall_back"] = Field(
        "wait",
        description="What a request does when its deployment has no free slot: wait, or take a free one of its "
        "fallbacks.",
    )
    breaker: BreakerSettings = Field(default_factory=BreakerSettings, description="Leaving failing deployments alone.")
    hedge: HedgeSettings = Field(default_factory=HedgeSettings, description="Asking a second deployment meanwhile.")
    balance: BalanceSettings = Field(default_factory=BalanceSettings, description="Choosing within a `group`.")
    drain: DrainSettings = Field(default_factory=DrainSettings, description="Reading on after a client has left.")
