"""What the desk of attempts keeps when a configuration changes."""

from __future__ import annotations

from penstock_gateway.calling import AttemptDesk
from support.fakes import FakeReply, FakeUpstream, deployment


def test_adapter_that_a_configuration_adds_is_there_for_who_asked_before() -> None:
    """A cache that outlives a reload audits through the upstreams that it was given at its start."""
    first, second = FakeUpstream(lambda _: FakeReply()), FakeUpstream(lambda _: FakeReply())
    desk = AttemptDesk({"small": deployment("small")}, {"fake": first})
    known = desk.upstreams
    added = deployment("large", adapter="other")
    desk.adopt([deployment("small"), added], {"fake": first, "other": second}, desk.settings)
    assert known == {"fake": first, "other": second}
