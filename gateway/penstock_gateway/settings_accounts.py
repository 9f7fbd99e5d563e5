"""Who asks: what a key, a team and a tag may have, where keys are stored, and the admin API.

Owns the shape of these sections, with defaults and descriptions. The admin API takes the same models, so that a limit
means the same wherever it is written. Read `KeyFields`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from penstock_gateway.ledger.contract import Period
from penstock_gateway.settings_types import (
    CostUsd,
    HostName,
    Key,
    LimitUsd,
    LongKey,
    Name,
    Section,
    Share,
    Text,
    Tier,
    Tradeoff,
    plain_float,
)

PRIORITIES = ("high", "normal", "low")
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def _moment(value: object) -> object:
    """Turn ISO 8601 text into UNIX seconds; a moment without a time zone could be any of 38 hours."""
    if isinstance(value, Decimal):
        return plain_float(value)
    if not isinstance(value, str):
        return value
    try:
        if len(value) == len("2026-12-31"):
            return datetime.combine(date.fromisoformat(value), time(), UTC).timestamp()
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("should be a moment such as 2026-12-31T18:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("should name its time zone, such as 2026-12-31T18:00:00Z")
    return moment.timestamp()


Moment = Annotated[
    float,
    Field(ge=0, le=_LATEST, allow_inf_nan=False),
    BeforeValidator(_moment),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number", "minimum": 0}]}),
]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
OverlapSeconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False), BeforeValidator(plain_float)]


class BudgetSettings(Section):
    """An allowance in each window of one period."""

    period: Annotated[Period, Field(strict=False)] = Field(
        description="`hour`, `day`, `week` (from Monday), `month` or `total`; in the ledger's time zone."
    )
    limit_usd: LimitUsd = Field(description="USD that may be spent in one window.")
    soft_share: Share = Field(0.8, description="Share of the limit from which a warning is given.")


class RateLimitSettings(Section):
    """Limits that renew themselves."""

    requests_per_minute: Count | None = Field(None, description="Requests a minute; default: no limit.")
    tokens_per_minute: Count | None = Field(
        None, description="Prompt and completion tokens a minute; default: no limit."
    )
    parallel_requests: Count | None = Field(None, description="Requests under way at once; default: no limit.")


class BudgetRuleSettings(Section):
    """What changes when a budget is nearly used."""

    used_share: Share = Field(description="From this share of any budget of the key, its team or its tags on.")
    tradeoff: Tradeoff = Field(description="In force then, unless the request's own asks for a cheaper model.")


class PolicyFields(Section):
    """What a key or a team may, and what it is given when a request says nothing."""

    allowed_models: tuple[Name, ...] | None = Field(
        None,
        strict=False,
        max_length=1000,
        description="Deployments and aliases that may be asked for; `auto` stands for all its forms and chooses among "
        "the deployments named here, or among all if none is. Default: all.",
    )
    tradeoff: Tradeoff | None = Field(
        None, description="In force when a request gives none; default: the team's, else `routing.tradeoff`."
    )
    max_cost_usd: CostUsd | None = Field(
        None, description="Highest expected cost of one request, USD; a request may lower it, not raise it."
    )
    min_quality: Share | None = Field(
        None, description="Quality that an answer should surely have, in place of a trade-off."
    )
    explore_rate: Share | None = Field(None, description="Instead of `routing.explore.rate`.")
    category_floors: dict[Name, Tier] = Field(
        default_factory=dict, max_length=64, description="Raise `routing.category_floors`."
    )
    priority: Literal["high", "normal", "low"] | None = Field(
        None, description="Place when requests wait: `high`, `normal` or `low`; default: the team's, else `normal`."
    )
    budgets: tuple[BudgetSettings, ...] = Field(
        (), strict=False, max_length=len(Period), description="What may be spent, one budget for each period."
    )
    limits: RateLimitSettings = Field(default_factory=RateLimitSettings, description="Limits that renew themselves.")
    budget_rules: tuple[BudgetRuleSettings, ...] = Field(
        (), strict=False, max_length=8, description="Cheaper modes when a budget is nearly used."
    )


class KeyFields(PolicyFields):
    """All that a key has besides its name and its secret."""

    team: Name | None = Field(None, description="Team whose budgets, limits and restrictions hold too.")
    tags: tuple[Name, ...] = Field(
        (), strict=False, max_length=16, description="Tags that every request of the key is charged to."
    )
    expires_at: Moment | None = Field(
        None, description="When the key ends: `2026-12-31T18:00:00Z`, or a date alone (its first moment, UTC)."
    )
    cache_category: Name | None = Field(
        None, description="Cache category of this key's requests, say `faq`; default: what the router sees in them."
    )
    cache_categories: tuple[Name, ...] = Field(
        (), strict=False, max_length=64, description="Categories that `x-penstock-cache-category` may name."
    )
    cache_under_load: bool = Field(
        False, description="Whether `cache.load` may loosen budget and TTL for this key while a model is overloaded."
    )
    may_share_answers: bool = Field(
        False, description="Whether answers of this key may serve all tenants, in categories that are shared."
    )


class TagFields(Section):
    """All that a tag has besides its name."""

    budgets: tuple[BudgetSettings, ...] = Field(
        (), strict=False, max_length=len(Period), description="What may be spent, one budget for each period."
    )
    limits: RateLimitSettings = Field(default_factory=RateLimitSettings, description="Limits that renew themselves.")


class NamedKeySettings(Section):
    """Name and secret of a key in the configuration."""

    name: Name = Field(description="Tenant that the key stands for; shown in logs and decisions.")
    key: LongKey | None = Field(None, description="The key, by reference only: `${VARIABLE}`. At least 16 characters.")
    key_file: Text | None = Field(None, description="File that holds the key, instead of `key`.")


class _TeamName(Section):
    name: Name = Field(description="Unique; the team's keys share one partition of cache, decisions and feedback.")


class TeamSettings(PolicyFields, _TeamName):
    """Keys that share budgets, limits and restrictions."""


class _TagName(Section):
    name: Name = Field(description="Unique; named by keys, and by requests in `x-penstock-tags`.")


class TagSettings(TagFields, _TagName):
    """A purpose that requests are charged to, across teams."""


class AccountsSettings(Section):
    """Where the keys, teams and tags lie that the admin API and the command line make."""

    store: Literal["none", "file", "redis"] = Field(
        "none",
        description="`none`: only what this file has; `file`: for gateways on one host; `redis`: shared by all.",
    )
    folder: Text | None = Field(None, description="Where `file` keeps its records, and the pepper that was made.")
    redis_url: Key | None = Field(
        None, description="`redis://` or `rediss://` URL by reference, `${VARIABLE}`: it may hold a password."
    )
    organisation: Name = Field("default", description="Fleets with different names share a Redis without meeting.")
    pepper: LongKey | None = Field(
        None,
        description="Secret under which keys are digested, by reference only: `${VARIABLE}`. Default: made at the "
        "first start, in `folder`. Without it, no stored key is valid.",
    )
    pepper_file: Text | None = Field(None, description="File that holds the pepper, instead of `pepper`.")
    poll_seconds: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), BeforeValidator(plain_float)] = Field(
        0.5, description="How often changes by other gateways are looked for; a revoked key is refused that late."
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False), BeforeValidator(plain_float)] = Field(
        0.25, description="Deadline of a look for changes; reading and writing the records has twenty times as long."
    )

    @property
    def is_on(self) -> bool:
        """Whether keys are stored, so that every request has to present one."""
        return self.store != "none"


class AdminSettings(Section):
    """The API that keys, teams, tags and budgets are managed with; on a port of its own, off by default."""

    port: int | None = Field(
        None, ge=0, le=65_535, description="TCP port, 4001 say; 0 takes a free one; default: no admin API."
    )
    host: Text = Field("127.0.0.1", description="Address to bind. Anything but loopback needs `admin.key`.")
    allowed_hosts: tuple[HostName, ...] = Field(
        (), strict=False, max_length=256, description="`Host` names accepted besides loopback names and `host`."
    )
    key: LongKey | None = Field(
        None, description="Credential of the admin API, by reference only: `${VARIABLE}`. At least 16 characters."
    )
    key_file: Text | None = Field(None, description="File that holds the credential, instead of `key`.")
    console: bool = Field(True, description="Whether the console's pages are at `/console` of that port.")
