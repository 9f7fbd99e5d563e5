"""``penstock doctor`` and the encode server: one that answers, another one, one that hangs, one that is not there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from penstock_gateway.doctor_clock import Clocks
from penstock_gateway.doctor_encoder import look_at_encoder
from penstock_gateway.doctor_run import remote_checks
from penstock_gateway.settings_encoder import EncoderSettings
from penstock_gateway.settings_models import RoutingSettings, Settings
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from support.encode_parts import FakeEncoder, encode_server, talking_server

SECRET = "a-secret-of-the-encoders"


@contextmanager
def served(server: AbstractAsyncContextManager[object]) -> Iterator[None]:
    """Run a server in a thread of its own, since whoever looks has a loop of its own, too."""
    is_up, is_over = threading.Event(), threading.Event()

    async def run() -> None:
        async with server:
            is_up.set()
            await asyncio.to_thread(is_over.wait, 60)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert is_up.wait(30)
        yield
    finally:
        is_over.set()
        thread.join()


def settings(path: Path, **encoder: object) -> Settings:
    """Return a configuration that names a socket file."""
    return Settings(encoder=EncoderSettings.model_validate({"remote": f"unix:{path}", **encoder}))


def test_doctor_measures_an_encode_server_that_answers(tmp_path: Path) -> None:
    """Its latency is said; one that is slower than the gateway waits is a failure."""
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    path = tmp_path / "encoder.sock"
    with served(encode_server(encoder, tmp_path)):
        (found,) = look_at_encoder(settings(path, timeout_seconds=30.0))
        assert (found.level, "ms a prompt" in found.detail) == ("ok", True), found
        (slow,) = look_at_encoder(settings(path, timeout_seconds=1e-6))
        assert (slow.level, "given up" in slow.detail) == ("fail", True), slow
        assert slow.fix


def test_doctor_names_an_encode_server_with_another_encoder_or_secret(tmp_path: Path) -> None:
    """Without it the gateway does not route, or does the work itself: the first is a failure, the second a warning."""
    with served(encode_server(FakeEncoder(), tmp_path)):
        (other,) = look_at_encoder(settings(tmp_path / "encoder.sock"))
        assert (other.level, "each gateway encodes by itself" in other.detail) == ("warn", True), other
        (abstains,) = look_at_encoder(settings(tmp_path / "encoder.sock", fallback="abstain"))
        assert (abstains.level, "default model" in abstains.detail) == ("fail", True), abstains
        assert "same encoder" in abstains.fix
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    with served(encode_server(encoder, tmp_path, secret=SECRET.encode())):
        (wrong,) = look_at_encoder(settings(tmp_path / "encoder.sock", secret=SecretStr("another-secret-of-them")))
        (right,) = look_at_encoder(settings(tmp_path / "encoder.sock", secret=SecretStr(SECRET), timeout_seconds=30.0))
    assert (wrong.level, right.level) == ("warn", "ok"), (wrong, right)
    assert "another-secret" not in str(wrong)


def test_doctor_gives_up_an_encode_server_that_hangs_and_one_that_is_not_there(tmp_path: Path) -> None:
    """Each in a sentence with something to do, and in time."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    @asynccontextmanager
    async def hanging() -> AsyncIterator[object]:
        async with talking_server(tmp_path, hang) as address:
            yield address

    with served(hanging()):
        (silent,) = look_at_encoder(settings(tmp_path / "strange.sock"), seconds=0.2)
    (missing,) = look_at_encoder(settings(tmp_path / "nothing.sock"), seconds=0.2)
    assert "did not answer in time" in silent.detail
    assert "No such file" in missing.detail
    assert "penstock encode-server" in missing.fix


@pytest.mark.parametrize(("remote", "expected"), [("unix:/run/encoder.sock", 1), (None, 0)])
def test_doctor_asks_for_an_encode_server_only_where_one_is_configured(remote: str | None, expected: int) -> None:
    """It is a check like those of providers and Redis, left out with them by --offline."""
    configured = Settings(encoder=EncoderSettings(remote=remote), routing=RoutingSettings(artifact="none"))
    checks = [check for check in remote_checks(configured, (), Clocks()) if check.subject == "encode server"]
    assert len(checks) == expected
    for check in checks:
        (found,) = check.look()
        assert "routing.artifact is none" in found.detail
