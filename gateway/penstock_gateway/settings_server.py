"""Settings of pages from other origins that may call the gateway.

Read `CrossOriginSettings`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from penstock_gateway.settings_types import HeaderName, Section

ANY_ORIGIN = "*"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _as_browsers_write_it(origin: str) -> str:
    """Refuse what no browser sends (HTML standard, "serialization of an origin"): it would never match."""
    scheme = origin.partition("://")[0]
    if scheme in _DEFAULT_PORTS and origin.endswith(_DEFAULT_PORTS[scheme]):
        raise ValueError(f"browsers leave the port out: {origin.removesuffix(_DEFAULT_PORTS[scheme])}")
    return origin


Origin = Annotated[
    str,
    StringConstraints(pattern=r"^(\*|[a-z][a-z0-9+.-]{0,31}://[a-z0-9_.:\[\]-]{1,253})$"),
    AfterValidator(_as_browsers_write_it),
]


class CrossOriginSettings(Section):
    """Which web pages of other origins may call the gateway from a browser (CORS)."""

    origins: tuple[Origin, ...] = Field(
        (),
        strict=False,
        max_length=256,
        description="Such as `https://chat.example.org`, without a path; `*`: any, which needs client keys. Empty: "
        "none, and no CORS header is ever sent.",
    )
    headers: tuple[HeaderName, ...] = Field(
        (),
        strict=False,
        max_length=64,
        description="Request headers that pages may send besides those of the OpenAI and Anthropic clients.",
    )
    credentials: bool = Field(
        False, description="Whether browsers may add cookies, for a proxy in front that reads them; never with `*`."
    )
    max_age_seconds: int = Field(
        600, ge=0, le=86_400, description="How long a browser need not ask again; Chromium takes 7200 at most."
    )
