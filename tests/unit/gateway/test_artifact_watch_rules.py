"""When a watch fetches, what it remembers, and that nothing it meets ends it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from penstock_gateway.artifact_watch import ArtifactWatch
from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_routers.errors import ArtifactError
from support.fakes import FakeArtifact, FakeEncoderService, deployment, price


class FakeSource:
    """Offers `offered`; fetching raises `error` when there is one."""

    def __init__(self, offered: str = "a", error: Exception | None = None) -> None:
        self.offered = offered
        self.error = error
        self.look_error: Exception | None = None
        self.fetches: list[str] = []

    async def look(self) -> str:
        """Return what is offered."""
        if self.look_error is not None:
            raise self.look_error
        return self.offered

    async def fetch(self, offered: str, encoder_id: str) -> Any:
        """Return something with an id."""
        self.fetches.append(offered)
        if self.error is not None:
            raise self.error
        return type("Artifact", (), {"id": offered})()


class World:
    """A watch over a fake source, with what it did."""

    def __init__(self, source: FakeSource, in_force: str | None = "old") -> None:
        self.in_force = in_force
        self.codes: list[str] = []
        self.watch = ArtifactWatch(
            source,
            encoder=cast(Any, FakeEncoderService()),
            encoder_id="e",
            adopt=self._adopt,
            in_force=lambda: self.in_force,
            poll_seconds=1.0,
            on_refusal=self.codes.append,
        )

    def _adopt(self, artifact: Any) -> None:
        self.in_force = artifact.id


async def test_check_of_what_is_in_force_fetches_nothing() -> None:
    """Looking is cheap as long as nothing is new."""
    source = FakeSource("old")
    world = World(source)
    assert not await world.watch.check()
    assert source.fetches == []


async def test_watch_polls_as_often_as_it_is_told_last() -> None:
    """A watch that looks once at its start can be told to look again and again, and one that sleeps wakes for it."""
    world = World(FakeSource("new"))
    world.watch.poll_every(0.0)
    await world.watch.start()
    await asyncio.sleep(0)
    world.watch.poll_every(86_400.0)
    await asyncio.sleep(0)
    assert world.in_force == "old"
    world.watch.poll_every(0.001)
    async with asyncio.timeout(10):
        while world.in_force == "old":
            await asyncio.sleep(0.001)
    await world.watch.aclose()


async def test_check_of_a_refused_artifact_fetches_it_ever_more_rarely() -> None:
    """A bad artifact is not downloaded at every poll, and counted whenever it is."""
    source = FakeSource("bad", ArtifactError("no", code="artifact_corrupt"))
    world = World(source)
    for _ in range(64):
        await world.watch.check()
    assert len(source.fetches) == 7  # at polls 1, 2, 4, 8, 16, 32, 64
    assert world.codes == ["artifact_corrupt"] * 7
    assert world.in_force == "old"


async def test_check_of_another_artifact_after_a_refusal_is_immediate() -> None:
    """Waiting holds for the refused artifact only."""
    source = FakeSource("bad", ArtifactError("no", code="artifact_corrupt"))
    world = World(source)
    for _ in range(20):
        await world.watch.check()
    source.offered, source.error = "good", None
    assert await world.watch.check()
    assert (world.in_force, world.watch.refusal) == ("good", None)


async def test_check_that_finds_the_old_one_offered_again_forgets_the_refusal() -> None:
    """A rollback at the source ends the refusal without a swap."""
    source = FakeSource("bad", ArtifactError("no", code="artifact_corrupt"))
    world = World(source)
    await world.watch.check()
    assert world.watch.refusal is not None
    source.offered = "old"
    assert not await world.watch.check()
    assert world.watch.refusal is None


async def test_check_that_meets_a_bug_reports_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is raised, the watch goes on and says so."""
    source = FakeSource("bad", RuntimeError("surprise"))
    world = World(source)
    assert not await world.watch.check()
    assert world.watch.refusal is not None
    assert world.watch.refusal.code == "internal_error"
    assert "surprise" not in world.watch.refusal.message
    assert "artifact_watch_failed" in caplog.text
    source.error = None
    source.offered = "good"
    assert await world.watch.check()


async def test_check_of_a_source_that_cannot_be_read_is_tried_at_every_poll() -> None:
    """A source that is down is asked again each time: looking costs little."""
    source = FakeSource("good")
    source.look_error = ArtifactError("down", code="artifact_source_unreachable")
    world = World(source)
    for _ in range(5):
        await world.watch.check()
    source.look_error = None
    assert await world.watch.check()
    assert world.codes == ["artifact_source_unreachable"] * 5


def test_chooser_with_another_artifact_leaves_the_old_one_as_it_was() -> None:
    """Artifact, arms and cost scale change together in a new object; requests under way keep theirs."""
    deployments = (deployment("small", price=price("0.1", "0.4")), deployment("frontier", price=price("10", "30")))
    encoder = cast(Any, FakeEncoderService())
    old = FakeArtifact({"small": 0.8, "frontier": 0.8})
    chooser = ArmChooser(
        deployments,
        default_arm="frontier",
        baseline="frontier",
        tradeoff="balanced",
        parts=RoutingParts(cast(Any, old), encoder),
    )
    new = FakeArtifact({"a": 0.5, "b": 0.5})
    new.id = "sha256:" + "1" * 64
    new.cost_scale_usd = lambda *_: 7.0  # type: ignore[method-assign]
    other = chooser.with_artifact(cast(Any, new), encoder, {"small": "a", "frontier": "b"})
    assert (other.artifact_id, chooser.artifact_id) == (new.id, old.id)
    assert other._cost_scale == 7.0
    assert chooser._cost_scale != 7.0
    assert [d.arm for d in other._routable] == ["a", "b"]
    assert [d.arm for d in chooser._routable] == ["small", "frontier"]
    assert (other._default.arm, other._baseline.arm) == ("b", "b")
