"""An encode server in the test's own loop, encoders that answer on demand, and servers that misbehave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.metrics import EncodeServerMetrics, RemoteEncoderMetrics
from penstock_gateway.remote_encoder.server import EncodeServer
from penstock_gateway.remote_encoder.service import RemoteEncoderService, RemotePlace
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import EncoderManifest, read_manifest
from penstock_routers.errors import EncoderError

DIMENSION = 4
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def small_manifest() -> EncoderManifest:
    """The shipped manifest with four dimensions: an id of its own."""
    return msgspec.structs.replace(read_manifest(bundled_folder(DEFAULT_ENCODER)), dimension=DIMENSION)


class FakeEncoder:
    """Returns the text's length in every place; a transformer waits for `gate` in every batch."""

    def __init__(self, kind: Literal["static", "transformer"] = "static", *, value: float | None = None) -> None:
        self.kind: Literal["static", "transformer"] = kind
        self.encoder_id = small_manifest().encoder_id
        self.dimension = DIMENSION
        self.rows_per_run = 2
        self.gate = threading.Event()
        self.batches: list[list[str]] = []
        self.failure: EncoderError | None = None
        self._value = value

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Record the batch, wait if this is a transformer, then answer or fail."""
        self.batches.append(list(texts))
        if self.kind == "transformer":
            assert self.gate.wait(timeout=20)
        if self.failure is not None:
            raise self.failure
        return np.array([[self._value or len(text)] * DIMENSION for text in texts], dtype=np.float32)


@asynccontextmanager
async def encode_server(
    encoder: FakeEncoder | PromptEncoder, folder: Path, *, secret: bytes = b"", queue_limit: int = 256
) -> AsyncIterator[tuple[EncodeServer, EncoderAddress]]:
    """Serve an encoder at a socket file in a folder."""
    server = EncodeServer(
        [cast(PromptEncoder, encoder)],
        secret=secret,
        metrics=EncodeServerMetrics(CollectorRegistry()),
        queue_limit=queue_limit,
    )
    address = EncoderAddress("unix", path=str(folder / "encoder.sock"))
    await server.start(address)
    try:
        yield server, address
    finally:
        await server.aclose()


@asynccontextmanager
async def talking_server(folder: Path, talk: Talk) -> AsyncIterator[EncoderAddress]:
    """Listen at a socket file and treat every connection as `talk` does."""
    path = str(folder / "strange.sock")
    server = await asyncio.start_unix_server(talk, path)
    try:
        yield EncoderAddress("unix", path=path)
    finally:
        server.close()


def remote_service(
    address: EncoderAddress,
    *,
    local: FakeEncoder | None = None,
    manifest: EncoderManifest | None = None,
    timeout_seconds: float = 5.0,
    **place: Any,
) -> RemoteEncoderService:
    """A gateway's client; without `local` nothing stands in."""
    return RemoteEncoderService(
        manifest or small_manifest(),
        RemotePlace(address, timeout_seconds, **place),
        load_local=None if local is None else lambda: cast(PromptEncoder, local),
        metrics=RemoteEncoderMetrics(CollectorRegistry()),
    )
