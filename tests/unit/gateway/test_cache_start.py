"""What the gateway's cache is started with: the rule for the use of the second encoder that the settings name."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock_cache.rule import VerifierUse
from penstock_gateway.caching import start
from penstock_gateway.redis_servers import RedisServers
from penstock_gateway.settings_cache import CacheSettings, CacheStoreSettings
from penstock_gateway.settings_models import Settings
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder_manifest import read_encoder_folder


def pipeline() -> Any:
    """Return of a pipeline what the loading of a rule reads: which encoder makes the router's vectors."""
    encoder = SimpleNamespace(id=read_encoder_folder(bundled_folder(DEFAULT_ENCODER))[0].encoder_id)
    return SimpleNamespace(
        chooser=SimpleNamespace(
            parts=SimpleNamespace(artifact=SimpleNamespace(manifest=SimpleNamespace(encoder=encoder)))
        )
    )


@pytest.mark.parametrize(("use", "asks"), [("adaptive", True), ("always", True), ("never", False)])
async def test_cache_judges_with_the_use_of_the_second_encoder_that_is_set(use: VerifierUse, asks: bool) -> None:
    """The bundled rule serves each use by its own thresholds; its manifest says what each was certified with."""
    settings = CacheSettings(mode="semantic", verifier_use=use)
    judge, verifier, finding = await start._judge(settings, start.policies_of(settings), pipeline())
    assert judge is not None
    assert verifier is not None
    await verifier.aclose()
    manifest = judge.rule.manifest
    points = {"adaptive": manifest.points} | {other.use: other.points for other in manifest.other_uses}
    assert (finding, judge.rule.asks_verifier) == (None, asks)
    assert judge.rule.points == points[use]


async def test_client_of_a_shared_store_is_loaded_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading it takes a third of a second, and a reload may turn the cache on while requests are served."""
    loaded: list[threading.Thread] = []
    monkeypatch.setattr(start, "load_package", lambda: loaded.append(threading.current_thread()))
    settings = Settings(cache=CacheSettings(mode="exact", store=CacheStoreSettings(kind="redis")))
    servers = cast(RedisServers, SimpleNamespace(guard=lambda *_: SimpleNamespace(is_cluster=False)))
    await start.open_store(settings, servers, lambda _: None)
    assert loaded
    assert threading.main_thread() not in loaded
