"""A gateway that follows its artifact's source: swaps under load, refusals, downloads that go wrong, rollbacks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_gateway import artifact_download, artifact_source
from penstock_gateway.artifact_download import UrlSource
from penstock_gateway.artifact_source import FolderSource, Trust
from penstock_gateway.events.reading import read_events
from penstock_gateway.settings import load_settings
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder_manifest import read_encoder_folder
from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import GRAPH_FILE, MANIFEST_FILE, ArmEntry
from penstock_routers.registry_layout import POINTER_FILE
from penstock_routers.signatures import SIGNATURE_FILE, decode_public_key
from penstock_training.publishing.registry import Registry
from penstock_training.publishing.signing import make_key, sign_artifact
from support.artifact_server import ArtifactServer, serving
from support.artifact_variants import bundled_manifest, damage, write_variant
from support.fakes import FakeReply
from support.running_gateway import Running, eventually, running

CONFIG = """
routing: {{artifact: '{artifact}', artifact_poll_seconds: {poll}, default_arm: frontier{more}}}
deployments:
  - {{name: small, base_url: 'http://127.0.0.1:9/v1', tier: small, price: {{input: 0.1, output: 0.4}}}}
  - {{name: frontier, base_url: 'http://127.0.0.1:9/v1', tier: frontier, price: {{input: 5, output: 20}}}}
"""
QUESTION = [{"role": "user", "content": "A train covers 180 km in 2.5 hours. How fast is it?"}]


def settings_for(tmp_path: Path, artifact: object, *, poll: float = 0.02, **more: str) -> Any:
    """Settings of a gateway over two deployments that follows `artifact`."""
    path = tmp_path / "penstock.yaml"
    text = "".join(f", {name}: '{value}'" for name, value in more.items())
    path.write_text(CONFIG.format(artifact=artifact, poll=poll, more=text))
    return load_settings(path, {})


def plain(_: Any) -> FakeReply:
    """An answer without anything to look at."""
    return FakeReply(body=b'{"choices": []}')


async def ready(gateway: Running) -> dict[str, Any]:
    """What the readiness probe shows."""
    return await (await gateway.http.get(f"{gateway.url}/readyz")).json()


async def until_in_force(gateway: Running, artifact_id: str) -> None:
    """Wait for a swap."""
    await eventually(lambda: gateway.app.pipeline.chooser.artifact_id == artifact_id)


async def until_refused(gateway: Running, code: str) -> dict[str, Any]:
    """Wait until the readiness probe shows a refusal."""
    async with asyncio.timeout(10):
        while True:
            shown = await ready(gateway)
            if (shown["refused"] or {}).get("code") == code:
                return shown
            await asyncio.sleep(0.01)


def publish(registry: Registry, folder: Path, signature: bytes | None = None) -> None:
    """Put an artifact in force without asking the gate."""
    with registry.locked():
        registry.publish(folder, verdict="forced", reason="test", signature=signature)


def renamed_arms(names: dict[str, str]) -> dict[str, Any]:
    """Changes of a manifest whose arms have other names."""
    manifest = bundled_manifest()

    def renamed(entry: ArmEntry) -> ArmEntry:
        return msgspec.structs.replace(entry, name=names.get(entry.name, entry.name))

    return {
        "arms": tuple(names.get(arm, arm) for arm in manifest.arms),
        "arm_entries": tuple(renamed(entry) for entry in manifest.arm_entries),
    }


@pytest.fixture
def first(tmp_path: Path) -> str:
    """Id of an artifact in ``first``, in force in ``registry``."""
    artifact_id = write_variant(tmp_path / "first", cost_weight=0.0)
    publish(Registry(tmp_path / "registry"), tmp_path / "first")
    return artifact_id


@pytest.fixture
def second(tmp_path: Path) -> str:
    """Id of an artifact in ``second``, not yet published."""
    return write_variant(tmp_path / "second", cost_weight=20.0)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Events of warnings in the routing log."""
    events: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                events.append(record.getMessage())

    handler = Keep()
    logging.getLogger("penstock.router").addHandler(handler)
    yield events
    logging.getLogger("penstock.router").removeHandler(handler)


async def test_registry_publication_under_load_swaps_without_a_failed_request(
    tmp_path: Path, first: str, second: str
) -> None:
    """While requests run, an artifact is published: each is answered, by the first artifact or by the second."""
    registry = Registry(tmp_path / "registry")
    seen: list[tuple[int, str, str]] = []
    async with running(settings_for(tmp_path, registry.folder), plain) as gateway:

        async def client() -> None:
            while not seen or seen[-1][1] != second or len(seen) < 60:
                reply = await gateway.chat(model="auto", messages=QUESTION)
                headers = reply.headers
                seen.append((reply.status, headers["x-penstock-artifact"], headers["x-penstock-model"]))

        clients = [asyncio.create_task(client()) for _ in range(4)]
        await eventually(lambda: len(seen) >= 20)
        await asyncio.to_thread(publish, registry, tmp_path / "second")
        await asyncio.wait_for(asyncio.gather(*clients), 30)
        metrics = await gateway.metrics()
    assert {status for status, _, _ in seen} == {200}
    # One artifact, one model: estimates, cost scale and λ of different artifacts are never mixed.
    assert {(artifact, model) for _, artifact, model in seen} == {(first, "frontier"), (second, "small")}
    assert f'penstock_artifact_info{{artifact="{second}",calibration=' in metrics
    assert first not in metrics


async def test_event_after_a_swap_names_the_arms_of_the_new_artifact(tmp_path: Path, first: str) -> None:
    """Which arm stands behind a deployment is a matter of the artifact that decided, not of the one at the start."""
    registry = Registry(tmp_path / "registry")
    settings = settings_for(tmp_path, registry.folder)
    mini = settings.deployments[0].model_copy(update={"name": "mini"})
    settings = settings.model_copy(
        update={
            "deployments": (mini, *settings.deployments[1:]),
            "events": settings.events.model_copy(update={"folder": str(tmp_path / "log")}),
        }
    )
    second = write_variant(tmp_path / "second", **renamed_arms({"small": "mini"}))
    async with running(settings, plain) as gateway:
        await gateway.chat(model="auto", messages=QUESTION)
        publish(registry, tmp_path / "second")
        await until_in_force(gateway, second)
        await gateway.chat(model="auto", messages=QUESTION)
        await gateway.chat(model="mini", messages=QUESTION)
    events = list(read_events(tmp_path / "log", types=("decision",)))
    assert [event["artifact"] for event in events] == [first, second, None]
    shown = [{c["arm"]: c["artifact_arm"] for c in event["candidates"]} for event in events]
    assert shown == [
        {"mini": "small", "frontier": "frontier"},
        {"mini": "mini", "frontier": "frontier"},
        {"mini": "mini"},
    ]
    assert events[2]["intended_artifact_arm"] == "mini"
    outcomes = list(read_events(tmp_path / "log", types=("outcome",)))
    assert outcomes[2]["served_artifact_arm"] == "mini"


async def test_registry_with_a_damaged_artifact_keeps_the_old_one_serving(
    tmp_path: Path, first: str, second: str, log: list[str]
) -> None:
    """A bad artifact is refused, logged once, counted and shown; the old one answers."""
    registry = Registry(tmp_path / "registry")
    async with running(settings_for(tmp_path, registry.folder), plain) as gateway:
        publish(registry, tmp_path / "second")
        damage(registry.artifact_folder(second))
        shown = await until_refused(gateway, "artifact_corrupt")
        assert (shown["routing"], shown["artifact"], shown["problem"]) == ("on", first, None)
        assert shown["refused"]["artifact"] == second
        watch_count = 'penstock_artifact_refused_total{code="artifact_corrupt"}'
        async with asyncio.timeout(10):
            while f"{watch_count} 1.0" in await gateway.metrics():  # it is tried again, ever more rarely
                await asyncio.sleep(0.02)
        assert log.count("artifact_refused") == 1
        reply = await gateway.chat(model="auto", messages=QUESTION)
        assert (reply.status, reply.headers["x-penstock-artifact"]) == (200, first)
        with registry.locked():
            registry.rollback(first)
        async with asyncio.timeout(10):
            while (await ready(gateway))["refused"] is not None:
                await asyncio.sleep(0.01)


async def test_registry_rollback_reaches_the_gateway(tmp_path: Path, first: str, second: str) -> None:
    """What is rolled back in the registry is served again."""
    registry = Registry(tmp_path / "registry")
    publish(registry, tmp_path / "second")
    async with running(settings_for(tmp_path, registry.folder), plain) as gateway:
        assert gateway.app.pipeline.chooser.artifact_id == second
        with registry.locked():
            registry.rollback()
        await until_in_force(gateway, first)


async def test_artifact_without_estimates_for_the_default_arm_is_refused(tmp_path: Path, first: str) -> None:
    """An artifact that knows nothing of the default arm cannot route here."""
    write_variant(tmp_path / "foreign", **renamed_arms({"frontier": "else"}), reference_arm="small")
    registry = Registry(tmp_path / "registry")
    async with running(settings_for(tmp_path, registry.folder), plain) as gateway:
        publish(registry, tmp_path / "foreign")
        assert (await until_refused(gateway, "default_arm_unscored"))["artifact"] == first


async def test_plain_folder_that_is_refitted_is_followed(tmp_path: Path, first: str) -> None:
    """A folder that ``fit --out`` writes again is taken up without a restart."""
    folder = tmp_path / "first"
    async with running(settings_for(tmp_path, folder), plain) as gateway:
        new = write_variant(folder, cost_weight=3.0)
        await until_in_force(gateway, new)


async def test_swap_to_an_artifact_without_a_floored_category_warns(tmp_path: Path, first: str, log: list[str]) -> None:
    """A floor whose category the new artifact does not know holds for every prompt from then on, and that is said."""
    registry = Registry(tmp_path / "registry")
    settings = settings_for(tmp_path, registry.folder)
    routing = settings.routing.model_copy(update={"category_floors": {"medical": "frontier"}})
    names = tuple("else" if name == "medical" else name for name in bundled_manifest().categories)
    second = write_variant(tmp_path / "second", categories=names)
    async with running(settings.model_copy(update={"routing": routing}), plain) as gateway:
        assert log == []
        publish(registry, tmp_path / "second")
        await until_in_force(gateway, second)
        assert log == ["floors_for_every_prompt"]
        reply = await gateway.chat(model="auto@0", messages=QUESTION)
        assert reply.headers["x-penstock-model"] == "frontier"


async def test_plain_folder_whose_manifest_states_no_id_shows_none(tmp_path: Path, first: str) -> None:
    """What is no id is not repeated to whoever asks the readiness probe: it could be any text."""
    folder = tmp_path / "first"
    async with running(settings_for(tmp_path, folder), plain) as gateway:
        (folder / MANIFEST_FILE).write_text('{"id": "<b>any text</b>"}')
        shown = await until_refused(gateway, "artifact_schema")
        assert (shown["artifact"], shown["refused"]["artifact"]) == (first, None)


async def test_poll_of_zero_seconds_follows_nothing(tmp_path: Path, first: str, second: str) -> None:
    """Who wants restarts only has nothing looked at, until a reload names another pace."""
    registry = Registry(tmp_path / "registry")
    async with running(settings_for(tmp_path, registry.folder, poll=0), plain) as gateway:
        watch = gateway.app.running.parts.watch
        assert watch is not None
        look, looks = watch._source.look, list[str]()

        async def counted() -> str:
            looks.append(await look())
            return looks[-1]

        watch._source.look = counted  # type: ignore[method-assign]
        publish(registry, tmp_path / "second")
        await asyncio.sleep(0.2)
        assert looks == []
        assert (await ready(gateway))["artifact"] == first
        watch.poll_every(0.02)
        await eventually(lambda: len(looks) > 0)


async def test_registry_folder_with_a_pinned_digest_stays_with_it(tmp_path: Path, first: str, second: str) -> None:
    """A pinned artifact is served from a registry whichever is in force, and its publication there is no refusal."""
    registry = Registry(tmp_path / "registry")
    publish(registry, tmp_path / "second")
    async with running(settings_for(tmp_path, registry.folder, artifact_digest=first), plain) as gateway:
        assert gateway.app.pipeline.chooser.artifact_id == first
        publish(registry, tmp_path / "second")
        source = FolderSource(registry.folder, Trust(digest=first))
        assert await source.look() == first
        shown = await ready(gateway)
        assert (shown["artifact"], shown["refused"]) == (first, None)


async def test_watch_of_a_stopped_gateway_leaves_no_task(tmp_path: Path, first: str) -> None:
    """Stopping the server ends the polling."""
    async with running(settings_for(tmp_path, tmp_path / "registry"), plain):
        assert [task for task in asyncio.all_tasks() if task.get_name() == "penstock-artifact-watch"]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "penstock-artifact-watch"]


async def test_registry_by_url_with_a_key_is_followed(tmp_path: Path, first: str, second: str) -> None:
    """A signed registry behind a web server is fetched at the start and followed; an unsigned artifact is not."""
    pytest.importorskip("cryptography")
    public_key = make_key(tmp_path / "key.pem")
    registry = Registry(tmp_path / "registry")
    publish(registry, tmp_path / "first", sign_artifact(tmp_path / "key.pem", first))
    async with serving(registry.folder) as server:
        settings = settings_for(tmp_path, server.url, artifact_public_key=public_key)
        async with running(settings, plain) as gateway:
            assert (await ready(gateway))["artifact"] == first
            reply = await gateway.chat(model="auto", messages=QUESTION)
            assert reply.headers["x-penstock-artifact"] == first
            publish(registry, tmp_path / "second")
            assert (await until_refused(gateway, "signature_missing"))["artifact"] == first
            make_key(tmp_path / "other.pem")
            third = write_variant(tmp_path / "third", cost_weight=5.0)
            publish(registry, tmp_path / "third", sign_artifact(tmp_path / "other.pem", third))
            assert (await until_refused(gateway, "signature_wrong"))["artifact"] == first
            publish(registry, tmp_path / "third", sign_artifact(tmp_path / "key.pem", third))
            await until_in_force(gateway, third)


async def test_registry_by_url_that_appears_later_is_taken_up(tmp_path: Path, first: str) -> None:
    """A source that is down at the start leaves the default arm serving, until it is up."""
    (tmp_path / "registry").rename(tmp_path / "hidden")
    async with serving(tmp_path / "registry") as server:
        settings = settings_for(tmp_path, server.url, artifact_digest=first)
        async with running(settings, plain) as gateway:
            shown = await ready(gateway)
            assert (shown["routing"], shown["problem"]) == ("off", "artifact_missing")
            reply = await gateway.chat(model="auto", messages=QUESTION)
            assert reply.headers["x-penstock-model"] == "frontier"
            (tmp_path / "hidden").rename(tmp_path / "registry")
            await until_in_force(gateway, first)
            assert (await ready(gateway))["problem"] is None


@pytest.fixture
def encoder_id() -> str:
    """Fingerprint of the bundled encoder."""
    return read_encoder_folder(bundled_folder(DEFAULT_ENCODER))[0].encoder_id


async def code_of(server: ArtifactServer, trust: Trust, encoder_id: str, **options: float) -> str:
    """Fetch once and return the code of the refusal."""
    source = UrlSource(server.url, trust, **options)
    with pytest.raises(ArtifactError) as caught:
        await source.fetch(await source.look(), encoder_id)
    return caught.value.code


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("stall", "artifact_source_timeout"),
        ("truncate", "artifact_source_unreachable"),
        ("status", "artifact_source_status"),
        ("redirect", "artifact_source_redirect"),
        ("endless", "artifact_oversize"),
    ],
)
async def test_download_that_goes_wrong_is_refused_with_its_reason(
    tmp_path: Path, first: str, encoder_id: str, fault: str, code: str
) -> None:
    """Slow, short, failing, redirecting and endless servers are each refused, and nothing else is asked for."""
    async with serving(tmp_path / "registry") as server:
        server.fault = fault
        patience = {"fetch_timeout_seconds": 0.3 if fault == "stall" else 30.0}
        assert await code_of(server, Trust(digest=first), encoder_id, **patience) == code
        assert not any("elsewhere" in path for path in server.requests)


async def test_download_with_a_pinned_digest_takes_no_other_artifact(
    tmp_path: Path, first: str, second: str, encoder_id: str
) -> None:
    """What lies under the pinned id must have it; what the pointer says does not matter."""
    publish(Registry(tmp_path / "registry"), tmp_path / "second")
    async with serving(tmp_path / "registry") as server:
        source = UrlSource(server.url, Trust(digest=first))
        assert (await source.fetch(await source.look(), encoder_id)).id == first
        folder = tmp_path / "registry" / "artifacts"
        (folder / first.removeprefix("sha256:")).rename(folder / "old")
        (folder / second.removeprefix("sha256:")).rename(folder / first.removeprefix("sha256:"))
        assert await code_of(server, Trust(digest=first), encoder_id) == "artifact_other_digest"


async def test_download_of_a_plain_artifact_folder_needs_no_registry(
    tmp_path: Path, first: str, encoder_id: str
) -> None:
    """An artifact folder on a web server, pinned by its digest, is enough."""
    async with serving(tmp_path / "first") as server:
        source = UrlSource(server.url + "/", Trust(digest=first))
        assert (await source.fetch(await source.look(), encoder_id)).id == first


async def test_download_with_another_encoder_is_refused(tmp_path: Path, first: str) -> None:
    """An artifact for another encoder decides nothing here."""
    async with serving(tmp_path / "registry") as server:
        assert await code_of(server, Trust(digest=first), "other@000000000000") == "artifact_encoder_mismatch"


async def test_download_of_a_pointer_that_leads_out_is_refused(tmp_path: Path, first: str, encoder_id: str) -> None:
    """A pointer cannot make the gateway ask for another path."""
    path = tmp_path / "registry" / POINTER_FILE
    path.write_text(json.dumps({"id": "sha256:../../secret"}))
    async with serving(tmp_path / "registry") as server:
        assert await code_of(server, Trust(public_key=bytes(32)), encoder_id) == "registry_pointer"
        assert server.requests == [f"/{POINTER_FILE}"]


async def test_download_from_a_server_that_is_down_is_refused(tmp_path: Path, first: str, encoder_id: str) -> None:
    """No server is an error like others, and names no address."""
    async with serving(tmp_path / "registry") as server:
        url = server.url
    source = UrlSource(url, Trust(digest=first))
    with pytest.raises(ArtifactError) as caught:
        await source.fetch(first, encoder_id)
    assert caught.value.code == "artifact_source_unreachable"
    assert "127.0.0.1" not in caught.value.message


async def test_download_ignores_proxy_variables(
    tmp_path: Path, first: str, encoder_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment does not decide where an artifact comes from."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(tmp_path / "registry") as server:
        assert (await UrlSource(server.url, Trust(digest=first)).fetch(first, encoder_id)).id == first


def test_url_source_without_digest_and_key_cannot_be_made() -> None:
    """Nobody is trusted for having an address."""
    with pytest.raises(ValueError, match="digest or a key"):
        UrlSource("https://example.org/registry", Trust())


async def test_downloaded_artifact_leaves_nothing_on_the_disk(
    tmp_path: Path, first: str, encoder_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary folder is gone as soon as the artifact is open, or refused."""
    (tmp_path / "room").mkdir()
    monkeypatch.setattr(artifact_download.tempfile, "tempdir", str(tmp_path / "room"))
    async with serving(tmp_path / "registry") as server:
        assert (await UrlSource(server.url, Trust(digest=first)).fetch(first, encoder_id)).id == first
        await code_of(server, Trust(digest=first), "other@000000000000")
    assert list((tmp_path / "room").iterdir()) == []


async def test_folder_with_a_pinned_digest_is_checked_before_the_graph_runs(
    tmp_path: Path, first: str, second: str, encoder_id: str
) -> None:
    """Digest and key hold for folders too."""
    source = FolderSource(tmp_path / "first", Trust(digest=second))
    with pytest.raises(ArtifactError) as caught:
        await source.fetch(await source.look(), encoder_id)
    assert caught.value.code == "artifact_other_digest"
    keyed = FolderSource(tmp_path / "first", Trust(public_key=bytes(32)))
    with pytest.raises(ArtifactError) as unsigned:
        await keyed.fetch(await keyed.look(), encoder_id)
    assert unsigned.value.code == "signature_missing"


async def test_folder_that_is_exchanged_after_its_signature_was_checked_never_runs(
    tmp_path: Path, first: str, second: str, encoder_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is run is what was vouched for, whoever writes the folder in between."""
    folder = tmp_path / "first"
    verify = artifact_source.verify_signature

    def verified(*given: Any) -> Any:
        found = verify(*given)
        for file in (MANIFEST_FILE, GRAPH_FILE):
            (folder / file).write_bytes((tmp_path / "second" / file).read_bytes())
        return found

    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("the graph of another artifact was parsed")

    pytest.importorskip("cryptography")
    public_key = make_key(tmp_path / "key.pem")
    (folder / SIGNATURE_FILE).write_bytes(sign_artifact(tmp_path / "key.pem", first))
    monkeypatch.setattr(artifact_source, "verify_signature", verified)
    monkeypatch.setattr("penstock_routers.artifact.create_session", parsed)
    source = FolderSource(folder, Trust(public_key=decode_public_key(public_key)))
    with pytest.raises(ArtifactError) as caught:
        await source.fetch(first, encoder_id)
    assert caught.value.code == "artifact_corrupt"
