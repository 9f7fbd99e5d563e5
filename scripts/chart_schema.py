"""Makes `helm/penstock/values.schema.json`: the gateway's own configuration schema, and the shape of `values.yaml`.

``python scripts/chart_schema.py`` writes it; ``--check`` fails when the file is not what it would write. A value that
is not in `values.yaml` is refused, so that no setting is misspelt in silence.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from penstock_gateway.settings_models import Settings

CHART = Path(__file__).resolve().parent.parent / "helm" / "penstock"
TARGET = CHART / "values.schema.json"

# Objects whose content is Kubernetes' business, or the user's: of texts alone, and of anything.
TEXT_MAPS = frozenset(
    {
        "externalSecret.data",
        "gpu.nodeSelector",
        "ingress.annotations",
        "metrics.dashboards.annotations",
        "metrics.dashboards.labels",
        "metrics.podMonitor.labels",
        "metrics.rules.labels",
        "metrics.serviceMonitor.labels",
        "nodeSelector",
        "podAnnotations",
        "podLabels",
        "secrets.values",
        "service.annotations",
        "serviceAccount.annotations",
    }
)
FREE = TEXT_MAPS | {
    "affinity",
    "config",
    "encoder.remote.resources",
    "networkPolicy.redis",
    "podSecurityContext",
    "redis.resources",
    "resources",
    "retraining.resources",
    "securityContext",
}
_DIGEST = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
SPECIAL: dict[str, dict[str, Any]] = {
    "artifact.digest": _DIGEST,
    "artifact.source": {"type": "string", "enum": ["image", "volume", "http", "objectStore"]},
    "image.digest": _DIGEST,
    "image.pullPolicy": {"type": "string", "enum": ["Always", "IfNotPresent", "Never"]},
    "pdb.maxUnavailable": {"type": ["integer", "string"]},
    "retraining.image.digest": _DIGEST,
    "retraining.tradeoff": {"type": "string", "enum": ["cost", "balanced", "quality"]},
    "service.type": {"type": "string", "enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "topologySpreadConstraints": {"type": ["array", "null"], "items": {"type": "object"}},
}
TEXT_LISTS = frozenset(
    {
        "artifact.volume.accessModes",
        "events.accessModes",
        "httpRoute.hostnames",
        "image.pullSecrets",
        "ingress.hosts",
        "networkPolicy.providerCIDRs",
        "networkPolicy.providerExceptCIDRs",
        "retraining.fitArgs",
    }
)
INTEGER_LISTS = frozenset({"networkPolicy.providerPorts"})


def schema() -> dict[str, Any]:
    """Return the whole schema."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    root = _object(values, "")
    settings = Settings.model_json_schema()
    definitions = settings.pop("$defs", {})
    # Helm merges what a user gives into the chart's defaults, so nothing is required of either alone.
    settings.pop("required", None)
    root["properties"]["config"] = settings
    root["properties"]["global"] = {"type": "object", "description": "Helm's own: values that subcharts share."}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the Penstock chart",
        **root,
        "$defs": definitions,
    }


def _object(values: dict[str, Any], path: str) -> dict[str, Any]:
    properties = {}
    for name, value in values.items():
        own = f"{path}.{name}" if path else name
        properties[name] = _property(value, own)
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(value: Any, path: str) -> dict[str, Any]:
    if path in SPECIAL:
        return SPECIAL[path]
    if path in FREE:
        return {"type": "object", **({"additionalProperties": {"type": "string"}} if path in TEXT_MAPS else {})}
    if isinstance(value, dict):
        if not value:
            raise SystemExit(f"{path} is an empty object: say in FREE that anything may stand in it")
        return _object(value, path)
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer", "minimum": 0}
    if isinstance(value, list):
        kind = "string" if path in TEXT_LISTS else "integer" if path in INTEGER_LISTS else "object"
        return {"type": "array", "items": {"type": kind}}
    return {"type": "string"}


def main() -> None:
    """Write the schema, or compare it."""
    text = json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text() != text:
            raise SystemExit(f"{TARGET.name} is out of date: run python scripts/chart_schema.py")
        return
    TARGET.write_text(text)


if __name__ == "__main__":
    main()
