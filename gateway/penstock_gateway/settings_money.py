"""The section ``money`` of the configuration: what to do where a price is not known.

Owns `MoneySettings`; `deployment_prices` acts on it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penstock_gateway.settings_types import Section

UnknownPrice = Literal["deny", "estimate", "allow"]


class MoneySettings(Section):
    """How requests are paid for."""

    unknown_price: UnknownPrice = Field(
        "deny",
        description="A deployment without a price is refused (`deny`), billed at the dearest price of models like it, "
        "marked as an estimate (`estimate`), or answers at a cost that is unknown, and not for keys with a budget "
        "(`allow`).",
    )
