"""What one try at one deployment came to.

Facts only; what it costs is worked out in `money`. Read `AttemptRecord`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from penstock_gateway.money.usage import Usage

_REJECTED_KEY = "upstream_rejected_credential"  # raised in the place of the statuses 401 and 403


class AttemptKind(StrEnum):
    """Why a try was made."""

    FIRST = "first"
    RETRY = "retry"  # the same deployment again
    FALLBACK = "fallback"  # another deployment after a failure
    HEDGE = "hedge"  # another deployment beside a slow one


class AttemptRecord(msgspec.Struct, gc=False):
    """One try at one deployment; completed when it is over.

    Attributes
    ----------
    deployment : str
        Name.
    kind : AttemptKind
    started_ms : float
        Since the request's body was complete.
    duration_ms : float
        Until it failed, lost to a hedge, or its answer ended.
    status : int or None
        The provider's; None when there was no status line.
    error_code : str or None
        None for the try that answered.
    was_sent : bool
        Whether the provider may have received the request, and so may bill it.
    usage : Usage or None
        As reported, or estimated from what had arrived; None when the provider has done nothing.
    first_byte_ms : float or None
        Since the request's body was complete.
    output_bytes : int
        Bytes of generated text that had come when it broke off.
    """

    deployment: str
    kind: AttemptKind
    started_ms: float
    duration_ms: float = 0.0
    status: int | None = None
    error_code: str | None = None
    was_sent: bool = False
    usage: Usage | None = None
    first_byte_ms: float | None = None
    output_bytes: int = 0

    @property
    def may_be_billed(self) -> bool:
        """Whether the provider may have begun to work: it has the request, and has not answered with an error.

        True of a try that lost to a hedge or broke off in the middle of a good status, usage or not.
        """
        return self.was_sent and (self.status is None or self.status < 400) and self.error_code != _REJECTED_KEY
