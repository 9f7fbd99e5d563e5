"""What the pipeline asks of the runner, and what it gets back.

Plain values. Read `AttemptJob`, then `Served`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from penstock_gateway.attempts.records import AttemptRecord
from penstock_gateway.attempts.slots import Priority
from penstock_gateway.deployments import Deployment
from penstock_gateway.upstream.protocol import UpstreamRequest

if TYPE_CHECKING:
    from penstock_gateway.attempts.reply import AttemptReply

_UNKNOWN: Mapping[str, float] = MappingProxyType({})


class AttemptJob(msgspec.Struct):
    """One request that shall be answered by one of some deployments.

    Attributes
    ----------
    plan : tuple of Deployment
        In the order of preference: the chosen one, then the fallbacks. One that is in a group stands for all of its
        members.
    prepare : callable
        Returns the request for a deployment. The deployment may be one of a group that is not in the plan, and its
        deadlines may be shorter than configured. May raise `GatewayError`: then the plan goes on.
    started : float
        ``time.perf_counter()`` when the client's request was complete.
    priority : str
        ``"high"``, ``"normal"`` or ``"low"``.
    deadline_seconds : float or None, above 0
        For all tries together, from `started`; ``attempts.deadline_seconds`` holds as well.
    input_tokens : float, at least 0
        Predicted.
    output_tokens : mapping of str to float
        Predicted by the name of the deployment; for those that are missing a usual number is taken.
    affinity_key : bytes or None
        Of the conversation, so that it stays where its prompt is cached; equal in all gateways, with the tenant in it.
    may_hedge : bool
    is_pinned : bool
        The client named a deployment: other members of its group do not answer instead.
    may_use : callable or None
        Whether a deployment can take the request; asked of group members that the plan does not name.
    on_drained : callable or None
        Called once when a request whose client left before its first byte has come to its end in the background, with
        what is known by then; see `is_draining`. Without it such a request is cancelled.
    records : list of AttemptRecord
        Filled by the runner in the order in which the tries began; the last ones are completed when they end.
    is_draining : bool
        Set when the job was cancelled and `on_drained` will be called: the request is settled there.
    """

    plan: tuple[Deployment, ...]
    prepare: Callable[[Deployment], UpstreamRequest]
    started: float
    priority: Priority = "normal"
    deadline_seconds: float | None = None
    input_tokens: float = 0.0
    output_tokens: Mapping[str, float] = msgspec.field(default_factory=lambda: _UNKNOWN)
    affinity_key: bytes | None = None
    may_hedge: bool = True
    is_pinned: bool = False
    may_use: Callable[[Deployment], bool] | None = None
    on_drained: Callable[[AttemptReply | None], None] | None = None
    records: list[AttemptRecord] = msgspec.field(default_factory=list)
    is_draining: bool = False


class Served(msgspec.Struct, frozen=True):
    """An answer, or the error of a provider that is passed on as it is.

    Attributes
    ----------
    deployment : Deployment
        Which answered.
    reply : AttemptReply
        A status below 400 is a success: a plain one's body has been read and a stream's first event has come. Must be
        closed.
    record : AttemptRecord
        Of this try; complete when the reply has been read to its end or closed (`AttemptReply.complete_record` fills it
        in before).
    """

    deployment: Deployment
    reply: AttemptReply
    record: AttemptRecord
