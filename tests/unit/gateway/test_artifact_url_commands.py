"""``penstock doctor`` and ``penstock route`` with an artifact from a URL: they fetch it once, or say why not."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from penstock_gateway.cli import run
from penstock_gateway.doctor import examine
from support.artifact_variants import write_variant


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Address of a web server for ``served``."""
    (tmp_path / "served").mkdir()
    handler = partial(_Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def configuration(tmp_path: Path, url: str, digest: str) -> Path:
    """A configuration that takes its artifact from a URL."""
    path = tmp_path / "penstock.yaml"
    entries = [
        {"name": tier, "base_url": "http://127.0.0.1:9/v1", "tier": tier, "price": {"input": 1, "output": 2}}
        for tier in ("small", "frontier")
    ]
    routing = {"artifact": url, "artifact_digest": digest}
    path.write_text(json.dumps({"server": {"port": 0}, "routing": routing, "deployments": entries}))
    return path


def test_doctor_fetches_and_verifies_the_artifact_of_a_url(tmp_path: Path, url: str) -> None:
    """What a server would fetch is fetched now, and its id shown."""
    artifact_id = write_variant(tmp_path / "served", cost_weight=0.3)
    findings = {f.subject: f for f in examine(configuration(tmp_path, url, artifact_id), {})}
    assert findings["routing"].level == "ok"
    assert artifact_id[:19] in findings["routing"].detail


def test_doctor_names_what_is_wrong_with_the_artifact_of_a_url(tmp_path: Path, url: str) -> None:
    """An address without an artifact, and another artifact than the pinned one, are failures with a fix each."""
    path = configuration(tmp_path, url, "sha256:" + "ab" * 32)
    missing = {f.subject: f for f in examine(path, {})}["routing"]
    assert (missing.level, missing.fix) == ("fail", "check the address named in routing.artifact")
    write_variant(tmp_path / "served", cost_weight=0.3)
    other = {f.subject: f for f in examine(path, {})}["routing"]
    assert other.level == "fail"
    assert "artifact_digest" in other.fix


def test_route_with_an_artifact_of_a_url_decides_by_it(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run fetches the artifact like a server, and says so when it cannot."""
    path = configuration(tmp_path, url, write_variant(tmp_path / "served", cost_weight=100.0))
    assert run(["route", "What is 12 times 12?", "--config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["artifact"].startswith("sha256:")
    (tmp_path / "served" / "manifest.json").unlink()
    assert run(["route", "What is 12 times 12?", "--config", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["artifact"] is None
    assert "artifact_missing" in captured.err


def test_route_with_an_artifact_of_a_url_and_no_encoder_says_so(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an encoder nothing is fetched; that routing is off is said all the same."""
    path = configuration(tmp_path, url, "sha256:" + "ab" * 32)
    settings = json.loads(path.read_text())
    settings["routing"]["encoder"] = str(tmp_path / "nowhere")
    path.write_text(json.dumps(settings))
    assert run(["route", "What is 12 times 12?", "--config", str(path), "--json"]) == 0
    assert "routing is off: " in capsys.readouterr().err
