"""One callable place of a model, as the request path sees it.

Built once from the settings; immutable; holds its credential masked in ``repr``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from penstock_gateway.money.prices import Price

TIERS = ("small", "medium", "large", "frontier")


class Ability(StrEnum):
    """What a request may need and a deployment may have."""

    STREAMING = "streaming"
    TOOLS = "tools"
    VISION = "vision"
    AUDIO = "audio"
    DOCUMENTS = "documents"
    JSON = "json"  # response_format json_object or json_schema


@dataclass(frozen=True, slots=True)
class ParameterRules:
    """How one model's parameters differ from the common chat schema.

    Attributes
    ----------
    max_tokens_field : str
        ``"max_tokens"``, ``"max_completion_tokens"`` or ``"both"`` (either is accepted as sent).
    unsupported : frozenset of str
        Body fields that the model refuses; a request that sets one of them to something other than its
        default is not sent there.
    droppable : dict of str to object
        Fields that the model refuses but whose given value equals its fixed behaviour (``temperature: 1``
        on reasoning models): dropped silently when equal, else the arm is filtered.
    """

    max_tokens_field: str = "both"
    unsupported: frozenset[str] = frozenset()
    droppable: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One callable place of a model.

    Attributes
    ----------
    name : str
        What clients may ask for; unique.
    model : str
        What the provider calls it.
    adapter : str
        ``"direct"`` or ``"litellm"``.
    base_url : str
        Of the OpenAI-compatible API, up to and without ``/chat/completions``; empty for litellm's default.
    tier : str or None
        One of `TIERS`.
    arm : str
        Name of the artifact's arm whose estimates apply (the deployment's own name, or its tier).
    price : Price
    context_tokens, max_output_tokens : int
        Limits of the model.
    abilities : frozenset of Ability
    parameters : ParameterRules
    api_key : str
        Upstream credential; never shown.
    headers : dict of str to str
        Extra request headers from the configuration; never shown.
    connect_timeout_seconds, first_byte_timeout_seconds, idle_timeout_seconds, total_timeout_seconds : float
        Deadlines of one attempt.
    is_routable : bool
        Whether ``auto`` may choose it.
    provider : str
        Who serves it; shown as ``owned_by``.
    """

    name: str
    model: str
    adapter: str
    base_url: str
    tier: str | None
    arm: str
    price: Price
    context_tokens: int
    max_output_tokens: int
    abilities: frozenset[Ability]
    parameters: ParameterRules = field(default_factory=ParameterRules)
    api_key: str = field(default="", repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 60.0
    idle_timeout_seconds: float = 60.0
    total_timeout_seconds: float = 600.0
    is_routable: bool = True
    provider: str = ""
