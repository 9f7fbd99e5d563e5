"""Findings about an installation."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock_gateway import doctor
from penstock_gateway.doctor import examine
from penstock_gateway.findings import Finding
from penstock_gateway.listening import port_problem
from penstock_gateway.wiring import RoutingFinding
from penstock_routers.installation import install_command


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _versions(**installed: str) -> Callable[[str], str | None]:
    known = {name.replace("_", "-"): version for name, version in installed.items()}
    return known.get


def _find(findings: tuple[Finding, ...], subject: str) -> list[Finding]:
    return [finding for finding in findings if finding.subject == subject]


def test_cpu_builds_alone_are_fine() -> None:
    """One build of each library is as it should be."""
    findings = examine(None, {}, version_of=_versions(onnxruntime="1.20", faiss_cpu="1.9"))
    assert _find(findings, "onnxruntime") == [Finding("ok", "onnxruntime", "onnxruntime 1.20")]
    assert _find(findings, "faiss") == [Finding("ok", "faiss", "faiss-cpu 1.9")]
    assert _find(findings, "builds") == []


@pytest.mark.parametrize(
    ("installed", "subject"),
    [
        ({"onnxruntime": "1.20", "onnxruntime_gpu": "1.20"}, "onnxruntime"),
        ({"onnxruntime": "1.20", "faiss_cpu": "1.9", "faiss_gpu": "1.9"}, "faiss"),
    ],
)
def test_both_builds_of_one_library_are_a_failure_with_the_fix(installed: dict[str, str], subject: str) -> None:
    """Two builds overwrite each other's files; the fix removes both and installs one."""
    finding = _find(examine(None, {}, version_of=_versions(**installed)), subject)[0]
    assert finding.level == "fail"
    assert "pip uninstall -y" in finding.fix


def test_cpu_build_beside_a_gpu_build_is_a_warning() -> None:
    """Different builds of different libraries work, but are surely not meant."""
    findings = examine(None, {}, version_of=_versions(onnxruntime="1.20", faiss_gpu="1.9"))
    assert [finding.level for finding in _find(findings, "builds")] == ["warn"]


def test_missing_onnxruntime_is_a_failure_with_the_install_command() -> None:
    """Without ONNX Runtime nothing is routed."""
    finding = _find(examine(None, {}, version_of=_versions()), "onnxruntime")[0]
    assert finding.level == "fail"
    assert install_command("cpu") in finding.fix


def test_other_litellm_than_the_pinned_one_is_a_warning() -> None:
    """A litellm that Penstock is not tested with is named."""
    assert _find(examine(None, {}, version_of=_versions(litellm="1.0")), "litellm")[0].level == "warn"
    assert _find(examine(None, {}, version_of=_versions(litellm=doctor.PINNED_LITELLM)), "litellm")[0].level == "ok"


def test_no_configuration_is_a_warning_with_the_next_commands() -> None:
    """A fresh installation is healthy; it only has nothing to call yet."""
    finding = _find(examine(None, {}), "configuration")[0]
    assert finding.level == "warn"
    assert "penstock demo" in finding.fix


def test_wrong_configuration_is_a_failure_per_problem(tmp_path: Path) -> None:
    """Each problem is a finding with its place."""
    path = tmp_path / "c.yaml"
    path.write_text("server: {prt: 1}\nlog: {level: loud}\n")
    findings = _find(examine(path, {}), "configuration")
    assert [finding.level for finding in findings] == ["fail"] * 3
    assert findings[0].detail.startswith(f"{path}:")


def test_good_configuration_is_reported_without_its_key(tmp_path: Path) -> None:
    """What would run is named; secrets are not."""
    findings = examine(None, {"OPENAI_API_KEY": "sk-very-secret", "PENSTOCK__SERVER__PORT": "0"})
    finding = _find(findings, "configuration")[0]
    assert finding.level == "ok"
    assert "provider keys in the environment: 4 deployments" in finding.detail
    assert "sk-very-secret" not in str(findings)
    assert _find(findings, "port")[0].level == "ok"


def test_refused_artifact_is_a_failure_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loader refuses is shown with the code."""
    refused = RoutingFinding("artifact_corrupt", "the hash does not match")
    monkeypatch.setattr(doctor, "load_routing", lambda _: (None, refused))
    finding = _find(examine(None, {}), "routing")[0]
    assert (finding.level, finding.detail) == ("fail", "the hash does not match [artifact_corrupt]")


def test_port_in_use_is_reported_and_a_free_one_is_not() -> None:
    """Binding is tried, so the answer is the system's own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot be bound" in (port_problem("127.0.0.1", taken.getsockname()[1]) or "")
    assert port_problem("127.0.0.1", 0) is None
    assert port_problem("localhost", 0) is None


@pytest.mark.parametrize(
    ("routing", "fix"),
    [
        ("{artifact: ./nowhere}", "check the folder named in routing.artifact"),
        ("{encoder: static}", "check routing.encoder: a bundled name or a folder"),
        ("{encoder: minilm-l6-v2}", "set routing.encoder to the one that the artifact was fitted with"),
    ],
)
def test_mistyped_model_is_a_failure_with_its_setting(tmp_path: Path, routing: str, fix: str) -> None:
    """What the user named is to be checked, not installed again."""
    path = tmp_path / "c.yaml"
    text = f"routing: {routing}\ndeployments: [{{name: gpt-5.4-mini, provider: openai, tier: medium}}]\n"
    path.write_text(text)
    finding = _find(examine(path, {"OPENAI_API_KEY": "k"}), "routing")[0]
    assert (finding.level, finding.fix) == ("fail", fix)


def test_base_url_variable_in_force_is_shown() -> None:
    """The address that requests go to is a finding of its own."""
    findings = examine(None, {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    assert "OPENAI_BASE_URL is in force" in _find(findings, "base URL")[0].detail
