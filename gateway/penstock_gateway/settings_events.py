"""The `events` section of the configuration.

Owns its shape, defaults and descriptions. Read `EventSettings`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from penstock_gateway.settings_types import Key, LongKey, Section, Text, plain_float

_Days = Annotated[float, Field(gt=0, le=36_525, allow_inf_nan=False), BeforeValidator(plain_float)]
_SegmentSeconds = Annotated[float, Field(ge=1, le=31_536_000, allow_inf_nan=False), BeforeValidator(plain_float)]
_RetrySeconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False), BeforeValidator(plain_float)]


class ShipSettings(Section):
    """Where closed segments are copied to; one place."""

    url: Text | None = Field(
        None, description="Folder for whole segments, as fsspec names it: `s3://bucket/prefix`, `file:///mnt/events`."
    )
    redis_stream: Text | None = Field(None, description="Key of a Redis stream that takes one entry per event.")
    redis_url: Key | None = Field(
        None, description="Redis of that stream, by reference, `${VARIABLE}`: it may hold a password."
    )
    redis_stream_max_length: int = Field(
        1_000_000, ge=1, le=1_000_000_000, description="Events that the stream keeps, roughly; the oldest go first."
    )
    retry_seconds: _RetrySeconds = Field(
        30.0, description="Wait after a failure, and between looks for closed segments."
    )


class EventSettings(Section):
    """The log of decisions, outcomes and feedback: bills, reports and routers are made from it."""

    folder: Text | None = Field(None, description="Where segments are written; nothing is without it.")
    capture_content: bool = Field(
        False, description="Write prompts and comments too. They are content: who reads the folder reads them."
    )
    pseudonym_key: LongKey | None = Field(
        None,
        description="Secret of the pseudonyms of tenants and prompts, by reference only: `${VARIABLE}`, at least 16 "
        "characters. Without it, who knows a tenant's name finds its events.",
    )
    segment_bytes: int = Field(
        67_108_864, ge=65_536, le=4_294_967_296, description="Size at which a segment is closed, bytes."
    )
    segment_seconds: _SegmentSeconds = Field(3600.0, description="Age at which a segment is closed.")
    max_bytes: int = Field(
        10_737_418_240, ge=1_048_576, description="Size of all segments at which the oldest are deleted, bytes."
    )
    retention_days: _Days | None = Field(
        None, description="Age at which segments are deleted; what was spent stays in a checkpoint. Default: none."
    )
    content_days: _Days | None = Field(
        None, description="Age at which prompts, comments and labels are removed from the segments. Default: none."
    )
    max_waiting: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Requests under way plus outcomes that are not on disk yet; beyond it a request gets a 503.",
    )
    feedback_per_minute: int = Field(
        6_000, ge=1, le=1_000_000, description="Pieces of feedback that a tenant may send a minute."
    )
    ship: ShipSettings | None = Field(None, description="Copying closed segments elsewhere; default: not.")
