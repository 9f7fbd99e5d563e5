"""The `encoder` section of the configuration: an encoder in another process.

Owns its shape, defaults and descriptions; which encoder it is stands in `routing.encoder`. Read `EncoderSettings`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.settings_types import LongKey, Seconds, Section, Text


def _address(text: str) -> str:
    EncoderAddress.parse(text)
    return text


class EncoderSettings(Section):
    """Where prompts are encoded, if not in this process."""

    remote: Annotated[Text, AfterValidator(_address)] | None = Field(
        None,
        description="Address of a `penstock encode-server` that has the encoder of `routing.encoder`: `unix:/path`, "
        "`tcp://host:port` or `tls://host:port`; default: prompts are encoded in this process.",
    )
    in_workers: Literal["auto", "own", "shared"] = Field(
        "auto",
        description="With `server.workers`: each its `own` encoder, or one process with a `shared` one that is started "
        "with them; `auto`: shared where a GPU encodes, as CPUs spend less on their own (ADR 0015).",
    )
    secret: LongKey | None = Field(
        None, description="Secret of that server, by reference only: `${VARIABLE}`, at least 16 characters."
    )
    ca_file: Text | None = Field(
        None, description="PEM certificates that its own must be signed by, for `tls://`; default: the system's."
    )
    timeout_seconds: Seconds = Field(0.1, description="Until a prompt is given up there.")
    fallback: Literal["local", "abstain"] = Field(
        "local",
        description="What answers when it does not: the same encoder in this process, loaded when first needed, or the "
        "default arm.",
    )
    precision: Literal["float32", "float16"] = Field(
        "float32", description="Of vectors on the wire; `float16` halves them and moves a number by 0.0002 at most."
    )
