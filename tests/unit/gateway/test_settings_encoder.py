"""The `encoder` section, and what is built from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.artifact_source import FolderSource, FusingSource, Trust
from penstock_gateway.configuration_problems import ConfigurationError
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.remote_encoder.opening import remote_encoder
from penstock_gateway.remote_encoder.service import RemoteEncoderService
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.wiring import build_pipeline, load_routing
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import EncoderService

SECRET = "a secret of sixteen"
FILE = """
deployments: [{{name: a, provider: openai, model: gpt-5.4-mini, tier: medium}}]
encoder: {encoder}
"""


def _settings(tmp_path: Path, encoder: str, **environment: str) -> Settings:
    path = tmp_path / "penstock.yaml"
    path.write_text(FILE.format(encoder=encoder))
    return load_settings(path, {"OPENAI_API_KEY": "k", **environment})


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("{remote: 'http://host:1'}", "should be unix:/path"),
        ("{remote: 'tcp://10.0.0.7:7070'}", "whoever answers there would be believed"),
        ("{remote: 'unix:/x', secret: 'written down here'}", "encoder.secret"),
        ("{remote: 'unix:/x', secret: '${SHORT}'}", "encoder.secret"),
        ("{remote: 'tls://host:1', ca_file: nowhere.pem}", "is no file"),
        ("{remote: 'unix:/x', fallback: nothing}", "encoder.fallback"),
        ("{remote: 'unix:/x', timeout_seconds: 0}", "encoder.timeout_seconds"),
    ],
)
def test_encoder_settings_that_cannot_work_are_refused(tmp_path: Path, encoder: str, said: str) -> None:
    """Each mistake is a problem of the configuration, and the secret is in none of them."""
    with pytest.raises(ConfigurationError) as caught:
        _settings(tmp_path, encoder, SHORT="too short")
    text = "\n".join(map(str, caught.value.problems))
    assert said in text
    assert "written down here" not in text
    assert "too short" not in text.replace("is too short", "")


@pytest.mark.parametrize("remote", ["unix:/run/x.sock", "tcp://127.0.0.1:7070", "tls://encoder.example:7070"])
def test_encoder_settings_that_need_no_secret_are_taken(tmp_path: Path, remote: str) -> None:
    """This machine, and a server that a certificate vouches for."""
    assert _settings(tmp_path, f"{{remote: '{remote}'}}").encoder.remote == remote


async def test_remote_encoder_takes_the_place_of_one_in_the_process(tmp_path: Path) -> None:
    """The gateway starts without its server, names the encoder that it expects, and shows the secret nowhere."""
    settings = _settings(tmp_path, "{remote: 'tcp://10.0.0.7:7070', secret: '${SECRET}'}", SECRET=SECRET)
    pipeline, finding = build_pipeline(settings, upstreams={})
    assert finding is None
    parts = pipeline.chooser.parts
    assert parts is not None
    assert isinstance(parts.encoder, RemoteEncoderService)
    assert parts.encoder.encoder_id == parts.artifact.manifest.encoder.id
    assert parts.artifact.fused is None
    assert SECRET not in repr(settings) + repr(parts.encoder._place) + repr(vars(parts.encoder))
    await parts.encoder.aclose()


def test_remote_encoder_without_an_address_is_none() -> None:
    """Prompts are encoded in the process."""
    assert remote_encoder(Settings(), GatewayMetrics()) is None


async def test_routing_is_loaded_with_the_joined_graph_and_reads_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gateway serves by default is one run: neither of the two graphs is run by itself."""
    parts, finding = load_routing(Settings().routing)
    assert finding is None
    assert parts is not None
    assert parts.artifact.fused is not None
    assert isinstance(parts.encoder, EncoderService)
    monkeypatch.setattr(type(parts.artifact), "estimate", lambda *_, **__: pytest.fail("the router was run by itself"))
    monkeypatch.setattr(parts.encoder.encoder, "_run", lambda _: pytest.fail("the encoder was run by itself"))
    vector, estimate = await parts.read("What is the capital of Peru?", "frontier")
    assert vector.shape == (256,)
    assert estimate.reference_arm == "frontier"


async def test_fusing_source_gives_what_is_fetched_the_joined_graph() -> None:
    """A router that is swapped in while the gateway runs is served by one run too."""
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    source = FusingSource(FolderSource(bundled_folder("default-router"), Trust()), encoder)
    artifact = await source.fetch(await source.look(), encoder.encoder_id)
    assert artifact.fused is not None
