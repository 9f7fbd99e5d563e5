"""Alerts and dashboards ask for metrics that the gateway has, with labels that these have."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.metrics_reload import ReloadMetrics
from penstock_gateway.remote_encoder.metrics import EncodeServerMetrics

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "penstock"
RULES = yaml.safe_load((CHART / "rules" / "penstock.yaml").read_text())
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_WORDS = {"by", "without", "ignoring", "on", "group_left", "group_right", "and", "or", "unless", "le"}
_FUNCTIONS = {
    "abs",
    "avg",
    "clamp_min",
    "histogram_quantile",
    "increase",
    "max",
    "count",
    "min",
    "rate",
    "scalar",
    "sqrt",
    "sum",
}
# Names that Prometheus or the scrape add.
_OUTER_LABELS = {"le", "namespace", "pod"}


def _exposed() -> dict[str, set[str]]:
    """Return the labels of every sample that a gateway or an encode server can show, by the sample's name."""
    metrics, servers = GatewayMetrics(), EncodeServerMetrics(CollectorRegistry())
    ReloadMetrics(metrics.registry)
    found = {}
    for collector in (*metrics.registry._collector_to_names, *servers.registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", getattr(collector, "label_names", ())))
        for family in collector.collect():
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            for ending in endings:
                found[family.name + ending] = labels
    return found


EXPOSED = _exposed()
RECORDED = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}


def _queries() -> Iterator[tuple[str, str]]:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for path in sorted((CHART / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
    template = (CHART / "templates" / "scaledobject.yaml").read_text()
    yield "keda", re.sub(r"\{\{.*?\}\}", '"x"', re.search(r"query: (.*)", template)[1])  # type: ignore[index]


QUERIES = list(_queries())


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])
def test_query_asks_for_metrics_and_labels_that_exist(name: str, query: str) -> None:
    """A query of a name that nobody exposes is an alert that never fires."""
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")
    plain = re.sub(r"\[[^\]]*\]", "", query)
    selectors = re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}", plain)
    grouped = re.findall(r"(?:by|ignoring|on) \(([^)]*)\)", plain)
    bare = re.sub(
        r"(?:by|ignoring|on|group_left) \([^)]*\)", "", re.sub(r"\{[^}]*\}", "", re.sub(r'"[^"]*"', "", plain))
    )
    metrics = {word for word in _NAME.findall(bare) if word not in _WORDS | _FUNCTIONS and not word.isdigit()}
    assert metrics, query
    for metric in metrics:
        assert metric in EXPOSED or metric in RECORDED, f"{name}: {metric} is not exposed"
    labels = {label.strip() for group in grouped for label in group.split(",")}
    for metric, inside in selectors:
        used = {part.split("=")[0].rstrip("!~ ") for part in re.sub(r'"[^"]*"', "", inside).split(",")}
        assert used <= EXPOSED[metric] | _OUTER_LABELS, f"{name}: {metric} has no label {used}"
    known = set().union(*(EXPOSED.get(metric, {"model", "status"}) for metric in metrics)) | _OUTER_LABELS
    assert labels <= known, f"{name}: {labels - known}"


def test_every_alert_has_a_severity_a_summary_and_a_runbook_that_is_there() -> None:
    """Whoever is woken up needs to be told what to do."""
    page = (ROOT / "docs" / "observability.md").read_text().lower()
    alerts = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"].endswith(".")
        assert alert["annotations"]["runbook"] == f"docs/observability.md#{alert['alert'].lower()}"
        assert f"### {alert['alert'].lower()}\n" in page


def test_dashboards_are_made_from_their_tables() -> None:
    """A dashboard that was edited by hand would be lost the next time."""
    spec = importlib.util.spec_from_file_location("make_dashboards", ROOT / "scripts" / "make_dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_dashboards"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    for path, text in module.texts().items():
        assert path.read_text() == text
    assert {path.stem for path in (CHART / "dashboards").glob("*.json")} == set(module.DASHBOARDS)
