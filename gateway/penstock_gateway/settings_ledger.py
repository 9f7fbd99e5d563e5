"""The `ledger` section: where spend is counted, in which time zone, and what happens without Redis.

Owns its shape, defaults and descriptions. Read `LedgerSettings`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from penstock_gateway.ledger.periods import time_zone
from penstock_gateway.settings_types import Key, LimitUsd, Name, Section, Share, plain_float


def _known_zone(name: str) -> str:
    time_zone(name)
    return name


ZoneName = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_known_zone)]
LeaseSeconds = Annotated[float, Field(ge=3, le=3600, allow_inf_nan=False), BeforeValidator(plain_float)]
SliceSeconds = Annotated[float, Field(ge=3, le=86_400, allow_inf_nan=False), BeforeValidator(plain_float)]
RedisSeconds = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False), BeforeValidator(plain_float)]
SettledSeconds = Annotated[float, Field(ge=60, le=2_592_000, allow_inf_nan=False), BeforeValidator(plain_float)]


class LedgerSettings(Section):
    """Counting what keys, teams and tags spend, and holding them to budgets and limits."""

    kind: Literal["memory", "redis"] = Field(
        "memory",
        description="`memory`: one process, which starts from its event log; `redis`: shared by all gateways.",
    )
    redis_url: Key | None = Field(
        None, description="Redis of the ledger, by reference, `${VARIABLE}`; default: `redis.url`."
    )
    organisation: Name = Field("default", description="Fleets with different names share a Redis without meeting.")
    timezone: ZoneName = Field(
        "UTC", description="IANA name of the zone in which hours, days, weeks and months begin, say `Europe/Berlin`."
    )
    lease_seconds: LeaseSeconds = Field(
        60.0, description="How long what a request may cost stays held when its gateway has died."
    )
    redis_timeout_seconds: RedisSeconds = Field(
        0.05, description="Deadline of a reservation in Redis; past it, `when_redis_is_away` holds."
    )
    when_redis_is_away: Literal["local", "open", "closed"] = Field(
        "local",
        description="`local`: each gateway spends from slices of the budgets that it holds beforehand; `open`: "
        "everything passes; `closed`: what has a budget or a limit gets a 503.",
    )
    slice_share: Share = Field(0.01, description="Part of a budget's limit that each gateway holds as its slice.")
    slice_minimum_usd: LimitUsd = Field(
        Decimal("0.5"),
        description="A slice is at least so large; all together are at most a tenth of what is left of a budget.",
    )
    slice_seconds: SliceSeconds = Field(600.0, description="How long a gateway spends from its slices without Redis.")
    expected_replicas: int = Field(
        1, ge=1, le=1000, description="Gateways that share the Redis: limits on rates are divided by it without Redis."
    )
    settled_seconds: SettledSeconds = Field(
        86_400.0,
        description="How long Redis remembers which requests were charged, so that none is charged twice after an "
        "outage; about 8 bytes a request.",
    )
    reserve_output_tokens: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Completion tokens held for a stream without `max_tokens`, and sent as limit with a plain request, "
        "or a stream whose reasoning nobody sees, for which the model's own does not fit the budget.",
    )
    top_up_output_tokens: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Completion tokens by which a stream's hold grows; no budget is passed by more.",
    )
    max_pending_charges: int = Field(
        200_000, ge=1000, le=10_000_000, description="Charges that wait for Redis, at which new requests get a 503."
    )
