"""`penstock artifact fetch`: nothing but the artifact that was asked for ever lies under the folder's name."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from penstock_gateway.cli import run
from penstock_routers.manifest import GRAPH_FILE, MANIFEST_FILE, decode_manifest
from support.object_store import S3_CREDENTIALS, object_store

pytest.importorskip("fsspec", reason="the extra 'ship' is not installed")
BUNDLED = Path(__file__).resolve().parents[3] / "onnx_models" / "default-router"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a copy of the bundled router, to be spoilt."""
    copied = tmp_path / "store" / "support"
    shutil.copytree(BUNDLED, copied)
    return copied


def _id(folder: Path) -> str:
    return decode_manifest((folder / MANIFEST_FILE).read_bytes()).id


def test_fetch_artifact_with_the_right_digest_lays_it_down_once(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second start of a pod on the same volume fetches nothing."""
    target = tmp_path / "artifact" / "router"
    arguments = ["artifact", "fetch", f"file://{source}", str(target), "--digest", _id(source), "--json"]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["fetched"] is True
    assert (target / GRAPH_FILE).read_bytes() == (source / GRAPH_FILE).read_bytes()
    shutil.rmtree(source)
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["fetched"] is False
    assert [path.name for path in target.parent.iterdir()] == ["router"]


def test_fetch_artifact_from_s3_needs_no_client_beside_pyarrow(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image has the extra `ship`, and neither s3fs nor anything else for object stores."""
    pytest.importorskip("pyarrow.fs", reason="the extra 'ship' is not installed")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    target = tmp_path / "artifact" / "router"
    with object_store() as store:
        for name, value in {"AWS_ENDPOINT_URL": store.url, **S3_CREDENTIALS}.items():
            monkeypatch.setenv(name, value)
        for path in source.iterdir():
            if path.is_file():
                store.objects[f"/routers/support/{path.name}"] = path.read_bytes()
        arguments = ["artifact", "fetch", "s3://routers/support", str(target), "--digest", _id(source)]
        assert run(arguments) == 0
        assert (target / GRAPH_FILE).read_bytes() == (source / GRAPH_FILE).read_bytes()
        shutil.rmtree(target)
        store.objects[f"/routers/support/{GRAPH_FILE}"] += b"x"
        assert run(arguments) == 1
    assert not target.exists()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        ("graph", "artifact_corrupt"),
        ("digest", "artifact_other_digest"),
        ("no-graph", "artifact_missing"),
        ("nothing", "artifact_missing"),
        ("huge-manifest", "artifact_oversize"),
        ("scheme", "artifact_source_unusable"),
        ("no-digest", "artifact_other_digest"),
    ],
)
def test_fetch_artifact_that_is_not_the_one_leaves_the_folder_as_it_was(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: str, code: str
) -> None:
    """The router that is there goes on serving; the error says what was wrong, without a traceback."""
    target = tmp_path / "artifact" / "router"
    target.mkdir(parents=True)
    (target / "here").write_text("before")
    digest, url = _id(source), f"file://{source}"
    if spoil == "graph":
        (source / GRAPH_FILE).write_bytes((source / GRAPH_FILE).read_bytes() + b"x")
    elif spoil == "digest":
        digest = "sha256:" + "0" * 64
    elif spoil == "no-digest":
        digest = "latest"
    elif spoil == "no-graph":
        (source / GRAPH_FILE).unlink()
    elif spoil == "nothing":
        shutil.rmtree(source)
    elif spoil == "huge-manifest":
        (source / MANIFEST_FILE).write_bytes(b" " * 100_000_000)
    else:
        url = "nosuchstore://bucket/support"
    assert run(["artifact", "fetch", url, str(target), "--digest", digest]) == 1
    assert f"({code})" in capsys.readouterr().err
    assert (target / "here").read_text() == "before"
    assert [path.name for path in target.parent.iterdir()] == ["router"]
