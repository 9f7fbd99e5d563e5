"""The image and the compose file, read as text: what no Docker engine is needed for."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import yaml

from penstock_gateway.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())


def _stages() -> dict[str, list[str]]:
    """Return each stage's instructions."""
    stages: dict[str, list[str]] = {}
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    for line in text.splitlines():
        if found := re.match(r"FROM (\S+) AS (\S+)", line):
            stages[found[2]] = list(stages.get(found[1], []))
        elif stages and line and not line.startswith("#"):
            stages[list(stages)[-1]].append(line)
    return stages


def test_image_of_every_target_runs_as_a_user_without_rights() -> None:
    """The last user of a stage is the one that its containers have."""
    for target in ("cpu", "cuda", "trainer", "ray"):
        users = [line.split()[1] for line in _stages()[target] if line.startswith("USER")]
        assert users[-1] == "65532:65532", target


def test_image_copies_only_what_its_context_has() -> None:
    """The build context is a list of what goes in; everything that is copied has to be on it."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in DOCKERFILE.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert source == "." or source in allowed, source
    assert all((ROOT / name).exists() for name in allowed)
    assert not {".git", "tests", "bench", "examples"} & allowed


def test_image_ends_without_build_tools_and_with_a_list_of_contents() -> None:
    """No pip in what runs, and an SBOM in every environment."""
    stages = _stages()
    for environment in ("environment", "trainer-environment", "ray-environment", "cuda-environment"):
        text = "\n".join(stages[environment])
        assert "pip uninstall -y pip setuptools" in text
        assert "sbom.cdx.json" in text
    for target in ("cpu", "cuda", "trainer", "ray"):
        text = "\n".join(stages[target])
        assert "/wheels" not in text
        assert not re.search(r"pip install|python3-venv|build-essential|gcc", text), target
        assert sum("/opt/penstock /opt/penstock" in line for line in stages[target]) == 1


def test_image_has_the_folders_of_the_volumes_for_its_user() -> None:
    """A named volume takes rights from the image's folder; without one it is root's, and the gateway cannot write."""
    gateway = COMPOSE["services"]["gateway"]
    mounted = [mount.split(":")[1] for mount in gateway["volumes"] if mount.split(":")[0] in COMPOSE["volumes"]]
    assert mounted == ["/events"]
    for target in ("cpu", "cuda", "trainer", "ray"):
        made = re.findall(r"install -d -o 65532 -g 65532 ([/a-z ]+)", "\n".join(_stages()[target]))
        assert set(made[0].split()) == {"/events", "/registry", "/artifact"}


def test_image_is_built_by_the_commands_of_the_make_targets() -> None:
    """`make wheel` and `make image-root` try out what Docker will run: the same builder, extras and pins."""
    makefile = (ROOT / "Makefile").read_text()
    extras = re.search(r"^EXTRAS \?= (.+)$", makefile, re.MULTILINE)
    assert extras is not None
    assert f"ARG EXTRAS={','.join(extras[1].split())}" in DOCKERFILE.splitlines()
    assert "hatchling build -t wheel" in makefile
    assert "hatchling build -t wheel" in DOCKERFILE
    for line in DOCKERFILE.splitlines():
        if "pip install" in line:
            assert re.search(r"-c \S*constraints\.txt", line), line


def test_image_default_stage_is_the_one_for_the_processor() -> None:
    """`docker build .` without a target builds the last stage."""
    assert list(_stages())[-1] == "cpu"


def test_sbom_lists_every_package_once_with_its_version() -> None:
    """CycloneDX 1.5: a name, a version and a package URL each."""
    spec = importlib.util.spec_from_file_location("make_sbom", ROOT / "scripts" / "make_sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    document = module.document()
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    purls = [entry["purl"] for entry in document["components"]]
    assert len(purls) == len(set(purls))
    assert any(purl.startswith("pkg:pypi/msgspec@") for purl in purls)
    assert document["metadata"]["component"]["name"] == "penstock"
    assert document == module.document()


def test_compose_gateway_has_a_configuration_that_it_accepts(tmp_path: Path) -> None:
    """What `docker compose up` mounts passes the gateway's own checks, with the environment that it is given."""
    gateway = COMPOSE["services"]["gateway"]
    text = (ROOT / "examples" / "compose" / "penstock.yaml").read_text().replace("/events", str(tmp_path))
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    settings = load_settings(path, gateway["environment"])
    assert settings.server.host == "0.0.0.0"
    assert gateway["ports"] == ["127.0.0.1:4000:4000"]


def test_compose_services_of_ours_are_hardened_and_mounts_exist() -> None:
    """Read-only, without capabilities; and every file that is mounted is in the repository."""
    for name in ("gateway", "models"):
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), mount
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_compose_prometheus_scrapes_with_the_key_of_the_gateway() -> None:
    """A scrape without the key is a 401 every ten seconds."""
    scrape = yaml.safe_load((ROOT / "examples" / "compose" / "prometheus.yaml").read_text())["scrape_configs"][0]
    assert (
        scrape["authorization"]["credentials"] == COMPOSE["services"]["gateway"]["environment"]["PENSTOCK_CLIENT_KEY"]
    )
