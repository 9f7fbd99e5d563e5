"""The `redis` section of the configuration: one Redis for all features.

Owns its shape, defaults and descriptions; which URL a feature uses is `settings_redis_checks.redis_url_of`. Read
`RedisSettings`.
"""

from __future__ import annotations

from pydantic import Field

from penstock_gateway.settings_types import Key, Seconds, Section


class RedisSettings(Section):
    """The Redis of every feature that names none of its own."""

    url: Key | None = Field(
        None,
        description="`redis://` or `rediss://` URL by reference, `${REDIS_URL}`: it may hold a password. A feature's "
        "own `redis_url` takes its place.",
    )
    timeout_seconds: Seconds = Field(
        0.05, description="Deadline of a command that a request waits for, where the feature has none of its own."
    )
    failures: int = Field(5, ge=1, le=10_000, description="Failures in a row after which Redis is left alone.")
    probe_seconds: Seconds = Field(
        0.5, description="Until it is looked, in the background, whether it is back; doubles up to ten times that."
    )
