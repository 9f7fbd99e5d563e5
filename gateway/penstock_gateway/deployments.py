"""One callable place of a model, as the request path sees it.

Built once from the settings; immutable; holds its credential masked in ``repr``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from penstock_gateway.money.prices import Price
from penstock_gateway.wire.formats import WireFormat

TIERS = ("small", "medium", "large", "frontier")


class Ability(StrEnum):
    """What a request may need and a deployment may have."""

    STREAMING = "streaming"
    TOOLS = "tools"
    VISION = "vision"
    AUDIO = "audio"
    DOCUMENTS = "documents"
    JSON = "json"  # response_format json_object or json_schema

    __hash__ = str.__hash__  # an enumeration's own is a Python function, called for every member of a set


class HiddenReasoning(StrEnum):
    """When a model's stream holds back tokens of reasoning, which are billed all the same."""

    NEVER = "never"  # it does not reason, or shows what it thinks
    ON_REQUEST = "on_request"
    ALWAYS = "always"


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
    max_stops : int or None
        Most stop sequences that the provider takes; None where no limit is known.
    """

    max_tokens_field: str = "both"
    unsupported: frozenset[str] = frozenset()
    droppable: dict[str, object] = field(default_factory=dict)
    max_stops: int | None = None


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
    group : str or None
        Deployments of one group are interchangeable; clients may ask for the group's name.
    fallbacks : tuple of str
        Names of deployments or groups that answer instead when it fails and a client asked for it by name.
    max_parallel_requests : int or None, at least 1
        Requests at once that it takes; None for no limit.
    on_disconnect : str
        ``"cancel"`` or ``"drain"``: what becomes of an answer whose client has left.
    wires : tuple of WireFormat
        Which formats its server speaks. A request in one of them is passed on as it is; any other is translated to the
        first of `TRANSLATED` that is among them.
    hidden_reasoning : HiddenReasoning
        When its streams show less than they cost.
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
    group: str | None = None
    fallbacks: tuple[str, ...] = ()
    max_parallel_requests: int | None = None
    on_disconnect: str = "cancel"
    wires: tuple[WireFormat, ...] = (WireFormat.CHAT,)
    hidden_reasoning: HiddenReasoning = HiddenReasoning.NEVER


TRANSLATED = (WireFormat.CHAT, WireFormat.MESSAGES, WireFormat.RESPONSES)
"""What a request in a format that a server does not speak is translated to, in the order of preference."""


def wire_between(front: WireFormat, deployment: Deployment) -> WireFormat | None:
    """Return the format in which a request of another, or the same, is sent to a deployment; None when it cannot be.

    Parameters
    ----------
    front : WireFormat
        The client's.
    deployment : Deployment
    """
    if front in deployment.wires:
        return front
    if front is WireFormat.EMBEDDINGS:
        return None
    return next((wire for wire in TRANSLATED if wire in deployment.wires), None)


def members(deployments: Iterable[Deployment], group: str) -> tuple[Deployment, ...]:
    """Return the deployments of a group, in the order of the configuration; empty when there is no such group."""
    return tuple(deployment for deployment in deployments if deployment.group == group)


def named_plan(deployments: Mapping[str, Deployment], name: str) -> tuple[Deployment, ...]:
    """Return what answers a request for a deployment or group by name: it, then the fallbacks that it names.

    Parameters
    ----------
    deployments : mapping of str to Deployment
        By name.
    name : str
        Of a deployment, else of a group, whose first member's fallbacks hold.

    Returns
    -------
    tuple of Deployment
        In the order of preference, each once, of each group its first member: the others are found when the request
        is sent. Empty when nothing has that name.
    """
    first = _first_of(deployments, name)
    if first is None:
        return ()
    plan = {first.name: first}
    for fallback in first.fallbacks:
        other = _first_of(deployments, fallback)
        if other is not None:
            plan.setdefault(other.name, other)
    return tuple(plan.values())


def _first_of(deployments: Mapping[str, Deployment], name: str) -> Deployment | None:
    found = deployments.get(name)
    return found or next(iter(members(deployments.values(), name)), None)
