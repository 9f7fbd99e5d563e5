"""Artifacts with an index beside the graph: published, downloaded, swapped while serving, or refused with a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway import artifact_download
from penstock_gateway.artifact_download import UrlSource
from penstock_gateway.artifact_source import Trust
from penstock_gateway.settings import load_settings
from penstock_routers.artifact import RouterArtifact
from penstock_routers.errors import ArtifactError
from penstock_routers.neighbour_files import INDEX_FILE, NEIGHBOUR_FILES, SCORES_FILE
from penstock_training.errors import TrainingError
from penstock_training.publishing.publication import check_prompt_content
from penstock_training.publishing.registry import Registry
from support.artifact_server import serving
from support.artifact_variants import write_variant
from support.beside_router import served_beside_router
from support.fakes import FakeReply
from support.running_gateway import eventually, running

CONFIG = """
routing: {{artifact: '{artifact}', artifact_poll_seconds: 0.02, default_arm: frontier{more}}}
deployments:
  - {{name: small, base_url: 'http://127.0.0.1:9/v1', tier: small, price: {{input: 0.1, output: 0.4}}}}
  - {{name: frontier, base_url: 'http://127.0.0.1:9/v1', tier: frontier, price: {{input: 5, output: 20}}}}
"""
QUESTION = [{"role": "user", "content": "A train covers 180 km in 2.5 hours. How fast is it?"}]


@pytest.fixture
def beside(tmp_path: Path) -> str:
    """Id of an artifact with an index, in ``beside``."""
    return served_beside_router().write(tmp_path / "beside").id


def _publish(registry: Registry, folder: Path) -> None:
    with registry.locked():
        registry.publish(folder, verdict="forced", reason="test")


def _settings(tmp_path: Path, artifact: object, more: str = "") -> Any:
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG.format(artifact=artifact, more=more))
    return load_settings(path, {})


def _reply(_: Any) -> FakeReply:
    return FakeReply(body=b'{"choices": []}')


async def _code_of(url: str, trust: Trust, encoder_id: str) -> str:
    source = UrlSource(url, trust)
    with pytest.raises(ArtifactError) as caught:
        await source.fetch(await source.look(), encoder_id)
    return caught.value.code


def _encoder_id() -> str:
    return served_beside_router().manifest.encoder.id


def test_publish_copies_index_and_scores_and_serving_opens_them(tmp_path: Path, beside: str) -> None:
    """A registry holds all files of such an artifact, unwritable, and a later look finds them sound."""
    registry = Registry(tmp_path / "registry")
    _publish(registry, tmp_path / "beside")
    folder = registry.artifact_folder(beside)
    for name in NEIGHBOUR_FILES:
        assert (folder / name).read_bytes() == (tmp_path / "beside" / name).read_bytes()
        assert (folder / name).stat().st_mode & 0o222 == 0
    assert RouterArtifact.load(folder, encoder_id=_encoder_id()).neighbours is not None


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda path: path.unlink(), "artifact_missing"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "artifact_oversize"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "artifact_corrupt"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "artifact_corrupt"),
    ],
)
@pytest.mark.parametrize("file", NEIGHBOUR_FILES)
def test_publish_of_a_damaged_index_changes_nothing(
    tmp_path: Path, beside: str, harm: Any, code: str, file: str
) -> None:
    """What serving would refuse is not put in force, and no half of it stays."""
    harm(tmp_path / "beside" / file)
    registry = Registry(tmp_path / "registry")
    with pytest.raises(ArtifactError) as caught:
        _publish(registry, tmp_path / "beside")
    assert caught.value.code == code
    assert registry.current() is None
    assert registry.artifact_ids() == ()
    assert not list((tmp_path / "registry").glob("artifacts/*"))


def test_publish_of_captured_prompts_in_an_index_needs_leave() -> None:
    """Vectors beside the graph count like vectors inside it."""
    import msgspec

    manifest = served_beside_router().manifest
    captured = msgspec.structs.replace(manifest.training.sources[0], licence="captured")
    training = msgspec.structs.replace(manifest.training, sources=(captured,))
    manifest = msgspec.structs.replace(manifest, training=training, hyperparameters={})
    with pytest.raises(TrainingError) as caught:
        check_prompt_content(manifest, is_allowed=False)
    assert caught.value.code == "prompt_vectors_refused"


async def test_gateway_swaps_to_an_artifact_with_an_index_and_back(tmp_path: Path, beside: str) -> None:
    """Both ways while it serves: every request is answered, by the artifact in force."""
    plain = write_variant(tmp_path / "plain", cost_weight=0.0)
    registry = Registry(tmp_path / "registry")
    _publish(registry, tmp_path / "plain")
    async with running(_settings(tmp_path, registry.folder), _reply) as gateway:
        seen = []
        for folder, artifact_id in (("plain", plain), ("beside", beside), ("plain", plain)):
            if seen:
                _publish(registry, tmp_path / folder)
            await eventually(lambda wanted=artifact_id: gateway.app.pipeline.chooser.artifact_id == wanted)
            reply = await gateway.chat(model="auto", messages=QUESTION)
            assert reply.status == 200
            seen.append(reply.headers["x-penstock-artifact"])
    assert seen == [plain, beside, plain]


async def test_gateway_fetches_an_index_by_url(tmp_path: Path, beside: str) -> None:
    """Pinned by its digest, an artifact comes with both files, and nothing of them stays on the disk."""
    registry = Registry(tmp_path / "registry")
    _publish(registry, tmp_path / "beside")
    async with serving(registry.folder) as server:
        more = f", artifact_digest: '{beside}'"
        async with running(_settings(tmp_path, server.url, more), _reply) as gateway:
            await eventually(lambda: gateway.app.pipeline.chooser.artifact_id == beside)
            reply = await gateway.chat(model="auto", messages=QUESTION)
            assert reply.headers["x-penstock-artifact"] == beside
        asked = [path.rpartition("/")[2] for path in server.requests]
        assert asked[-2:] == [INDEX_FILE, SCORES_FILE]


async def test_download_of_an_index_in_several_blocks_is_whole(
    tmp_path: Path, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are written one after the other, the last one too."""
    monkeypatch.setattr(artifact_download, "_BLOCK_BYTES", 100_000)
    monkeypatch.setattr(artifact_download, "_CHUNK_BYTES", 1000)
    async with serving(tmp_path / "beside") as server:
        found = await UrlSource(server.url, Trust(digest=beside)).fetch(beside, _encoder_id())
    assert found.id == beside


async def test_download_of_an_index_without_room_for_it_says_so(
    tmp_path: Path, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is not taken for a server that is down."""
    plain_open = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if path.name == INDEX_FILE and mode == "xb":
            return plain_open(Path("/dev/full"), "wb")
        return plain_open(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    async with serving(tmp_path / "beside") as server:
        assert await _code_of(server.url, Trust(digest=beside), _encoder_id()) == "artifact_source_unusable"


async def test_download_with_a_longer_shorter_or_missing_index_is_refused(tmp_path: Path, beside: str) -> None:
    """The manifest's size bounds the download; what is short, changed or absent fails as on the disk."""
    path = tmp_path / "beside" / INDEX_FILE
    whole = path.read_bytes()
    async with serving(tmp_path / "beside") as server:
        for content, code in (
            (whole + b"\0" * 100_000, "artifact_oversize"),
            (whole[:-5], "artifact_corrupt"),
            (whole[::-1], "artifact_corrupt"),
        ):
            path.write_bytes(content)
            assert await _code_of(server.url, Trust(digest=beside), _encoder_id()) == code
        path.unlink()
        assert await _code_of(server.url, Trust(digest=beside), _encoder_id()) == "artifact_missing"


async def test_download_asks_for_an_index_only_when_the_rest_is_trusted(tmp_path: Path, beside: str) -> None:
    """Neither an artifact that is not the pinned one nor one for another encoder makes a gateway fetch gigabytes."""
    other = "sha256:" + "0" * 64
    async with serving(tmp_path / "beside") as server:
        assert await _code_of(server.url, Trust(digest=other), _encoder_id()) == "artifact_other_digest"
        assert await _code_of(server.url, Trust(digest=beside), "other@000000000000") == "artifact_encoder_mismatch"
        assert not any(path.endswith(NEIGHBOUR_FILES) for path in server.requests)


def test_neighbours_bench_in_quick_mode_compares_every_kind(repository_root: Path, penstock_data: Path) -> None:
    """The quick pass gives time, memory, recall and the loss in routing for every kind of index."""
    command = [sys.executable, str(repository_root / "bench" / "neighbours.py"), "--quick", "--json"]
    done = subprocess.run(
        [*command, "--data", str(penstock_data)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["results"]
    rows = {row["kind"]: row for row in found if row["recall_asked"] is not None}
    assert set(rows) == {"flat", "ivf_sq8", "ivf", "hnsw"}
    assert rows["flat"]["recall_new_prompts"] > 0.999
    assert rows["flat"]["area_difference"][0] == pytest.approx(0.0, abs=1e-3)
    assert all(row["recall_asked"] >= 0.9 and row["search_us"]["p50"] > 0.0 for row in rows.values())


def test_gpu_bench_runs_without_a_gpu(repository_root: Path) -> None:
    """The script for GPU machines works on any machine, and says where it ran."""
    command = [sys.executable, str(repository_root / "bench" / "gpu" / "neighbours.py"), "--points", "4000"]
    done = subprocess.run([*command, "--searches", "20"], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    by_kind = {row["index"]: row for row in document["results"]}
    assert by_kind["cpu flat"]["recall"] == pytest.approx(1.0, abs=1e-3)
    assert by_kind["cpu ivf_sq8"]["recall"] > 0.8
    assert all({"1", "32"} <= set(row["search_us"]) for row in document["results"])
