"""The `cache` section of the configuration.

Owns its shape, defaults and descriptions. Read `CacheSettings`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penstock_gateway.settings_types import CostUsd, Key, Name, Seconds, Section, Share, Text, plain_float

CacheModeName = Literal["off", "exact", "semantic", "faq-intent"]
LongSeconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False), BeforeValidator(plain_float)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), BeforeValidator(plain_float)]


class CategoryCacheSettings(Section):
    """How far answers of one category may be reused; what is not given keeps the category's default."""

    mode: CacheModeName | None = Field(
        None,
        description="`off`, `exact` (the same request), `semantic` (another wording of the same question), or "
        "`faq-intent` (another question that the same FAQ entry answers).",
    )
    false_hit_budget: Share | None = Field(
        None, description="Most requests, as a share, that may get an answer that does not fit."
    )
    ttl_seconds: LongSeconds | None = Field(None, description="Life of an answer; a hit does not prolong it.")
    is_volatile: bool | None = Field(None, description="The right answer changes with time: load never prolongs it.")
    reserve_share: Share | None = Field(None, description="Share of `max_bytes` that the category surely has.")
    cap_share: Share | None = Field(None, description="Share of `max_bytes` up to which it may borrow.")
    is_shared_across_tenants: bool | None = Field(
        None, description="Answers of keys with `may_share_answers` serve every tenant."
    )
    max_stale_seconds: LongSeconds | None = Field(
        None, description="How far the TTL may be prolonged while a model is overloaded."
    )
    caches_default_temperature: bool | None = Field(
        None, description="Whether answers at the provider's default temperature may be reused."
    )
    max_temperature: Temperature | None = Field(None, description="Highest other temperature that may be reused.")


class CacheStoreSettings(Section):
    """Where stored answers lie."""

    kind: Literal["memory", "file", "redis"] = Field(
        "memory", description="`memory`; `file`: memory that survives a restart; `redis`: shared by all gateways."
    )
    folder: Text | None = Field(None, description="Where `file` keeps its log.")
    redis_url: Key | None = Field(
        None, description="`redis://` or `rediss://` URL by reference, `${VARIABLE}`: it may hold a password."
    )
    lookup_timeout_seconds: Seconds = Field(0.05, description="Deadline of a look-up in Redis; past it, it is a miss.")
    write_timeout_seconds: Seconds = Field(0.25, description="Deadline of a write to Redis.")


class CacheAuditSettings(Section):
    """Hits whose question is put to the model all the same, in the background, to know how often they are wrong."""

    rate: Share = Field(0.0, description="Share of semantic hits that are audited; 0.02 is enough to learn from.")
    max_usd_per_day: CostUsd = Field(1.0, description="Most that audits may cost a day, USD; then they pause.")
    agreement_cosine: Share = Field(
        0.85,
        description="Answers at least this close count as the same; its own disagreement is subtracted.",
    )
    judge: Name | None = Field(
        None,
        description="Deployment that is asked whether two answers say the same, before the cosine is; on the same "
        "account. Name a cheap one that answers without thinking aloud.",
    )
    judge_timeout_seconds: Seconds = Field(20.0, description="Deadline of one opinion; past it, the cosine decides.")
    wrong_hit_cost_usd: CostUsd = Field(
        0.0,
        description="What one wrong hit costs, USD: a category goes off when that is proven to be more than its hits "
        "save. With 0 only the false-hit budget decides.",
    )


class CacheGreyZoneSettings(Section):
    """Prompts that the rule finds near, but not certain enough to serve, shown to a model in the background."""

    model: Name | None = Field(
        None,
        description="Deployment that is asked whether two questions ask the same; paid from the account of audits. "
        "Without one, none is asked.",
    )
    from_probability: Share = Field(0.5, description="Pairs that the rule finds less likely are not asked about.")
    waits: bool = Field(
        False,
        description="The request waits for the opinion and is served by it; else it is a miss, and the entry serves "
        "the same question the next time.",
    )
    timeout_seconds: Seconds = Field(5.0, description="Deadline of one opinion; past it, the request is a miss.")


class CacheLoadSettings(Section):
    """What an overloaded model may loosen, for tenants that opt in (`client_keys[].cache_under_load`)."""

    max_budget_factor: Annotated[float, Field(ge=1, le=10, allow_inf_nan=False), BeforeValidator(plain_float)] = Field(
        2.0, description="How many times a category's false-hit budget may grow."
    )
    slow_factor: Annotated[float, Field(ge=1.1, le=100, allow_inf_nan=False), BeforeValidator(plain_float)] = Field(
        3.0, description="Latency, as a multiple of the model's usual one, at which everything allowed is loosened."
    )
    max_in_flight: dict[Name, Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        default_factory=dict,
        max_length=1024,
        description="Requests at once that a deployment bears, by its name; the others go by latency alone.",
    )


class CacheSettings(Section):
    """Answering repeats without calling a model. Off unless `mode` says otherwise."""

    mode: CacheModeName = Field(
        "off",
        description="Most that any category may do: `off`, `exact`, `semantic` or `faq-intent`; each category's own "
        "mode holds below it.",
    )
    categories: dict[Name, CategoryCacheSettings] = Field(
        default_factory=dict, max_length=64, description="Policies by category, over the defaults in docs/cache.md."
    )
    max_bytes: int = Field(
        268_435_456, ge=1_048_576, le=1_099_511_627_776, description="Answers and vectors held in all, bytes."
    )
    max_answer_bytes: int = Field(262_144, ge=1024, le=16_777_216, description="Largest answer stored, bytes.")
    separates_end_users: bool = Field(
        False, description="Requests with another `user` (or `safety_identifier`) never share an answer."
    )
    header_categories: tuple[Name, ...] = Field(
        (),
        strict=False,
        max_length=64,
        description="Categories that `x-penstock-cache-category` may name where there are no client keys; with keys, "
        "each key's `cache_categories` says it.",
    )
    rule: Text = Field(
        "default", description="Decision rule of semantic hits: `default` (bundled), a folder, or `none`."
    )
    verifier: Text = Field("minilm-l6-v2", description="Second encoder: a bundled name or a folder.")
    verifier_use: Literal["adaptive", "always", "never"] = Field(
        "adaptive",
        description="Which near entries it is asked about: those that are plausible without it, all, or none. Each has "
        "thresholds of its own in the rule.",
    )
    single_flight_seconds: LongSeconds = Field(
        30.0, description="How long a request waits for an identical one under way; 0: each goes by itself."
    )
    store: CacheStoreSettings = Field(default_factory=CacheStoreSettings, description="Where stored answers lie.")
    audit: CacheAuditSettings = Field(default_factory=CacheAuditSettings, description="Measuring wrong hits.")
    grey_zone: CacheGreyZoneSettings = Field(
        default_factory=CacheGreyZoneSettings, description="A model's opinion where the rule is unsure."
    )
    load: CacheLoadSettings = Field(default_factory=CacheLoadSettings, description="Relief of overloaded models.")
