"""Makes `helm/penstock/dashboards/*.json` for Grafana from the tables below: a panel is a title, a unit and queries.

``python scripts/make_dashboards.py`` writes them; ``--check`` fails when a file is not what it would write.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "helm" / "penstock" / "dashboards"
_WIDTH, _HEIGHT = 8, 8


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes
    ----------
    title : str
    queries : tuple of (str, str)
        PromQL, and the legend of its series.
    unit : str
        As Grafana names it.
    kind : str
        ``timeseries``, ``stat`` or ``bargauge``.
    is_signed : bool
        Whether values below 0 mean something, and are shown.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    is_signed: bool = False


def _quantiles(metric: str, by: str = "") -> tuple[tuple[str, str], ...]:
    legend = f" {{{{{by}}}}}" if by else ""
    labels = f"le, {by}" if by else "le"
    return tuple(
        (
            f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))",
            f"p{name}{legend}",
        )
        for share, name in ((0.5, "50"), (0.99, "99"))
    )


def _rate(metric: str, by: str, selector: str = "") -> tuple[tuple[str, str], ...]:
    return ((f"sum by ({by}) (rate({metric}{selector}[$__rate_interval]))", f"{{{{{by}}}}}"),)


DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "traffic": (
        "Penstock: traffic and errors",
        (
            Panel("Requests by model", _rate("penstock_requests_total", "model"), "reqps"),
            Panel("Requests by status", _rate("penstock_requests_total", "status"), "reqps"),
            Panel("Errors by code", _rate("penstock_errors_total", "code"), "reqps"),
            Panel("Whole request", _quantiles("penstock_request_duration_seconds"), "s"),
            Panel("First byte by model", _quantiles("penstock_time_to_first_byte_seconds", "model"), "s"),
            Panel("The gateway's own time", _quantiles("penstock_overhead_seconds"), "s"),
            Panel("Routing", _quantiles("penstock_routing_duration_seconds"), "s"),
            Panel("Under way", (("sum(penstock_in_flight_requests)", "requests"),)),
            Panel("Waiting, by priority", (("sum by (priority) (penstock_waiting_requests)", "{{priority}}"),)),
        ),
    ),
    "providers": (
        "Penstock: providers",
        (
            Panel("Attempts by outcome", _rate("penstock_attempts_total", "outcome"), "reqps"),
            Panel("Attempts by kind", _rate("penstock_attempts_total", "kind"), "reqps"),
            Panel("First byte by deployment", _quantiles("penstock_first_byte_seconds", "deployment"), "s"),
            Panel("Breakers (2 is open)", (("max by (deployment) (penstock_breaker_state)", "{{deployment}}"),)),
            Panel("Under way", (("sum by (deployment) (penstock_attempts_in_flight)", "{{deployment}}"),)),
            Panel("Turned away", _rate("penstock_queue_refusals_total", "code"), "reqps"),
            Panel("Hedges by result", _rate("penstock_hedges_total", "result"), "reqps"),
            Panel("Read on without a client", _rate("penstock_drains_total", "outcome"), "reqps"),
            Panel("Groups balanced by work", (("max by (group) (penstock_group_capacity_mode)", "{{group}}"),)),
        ),
    ),
    "money": (
        "Penstock: spend and budgets",
        (
            Panel(
                "Spent in an hour, by model",
                (("sum by (model) (increase(penstock_cost_usd_total[1h]))", "{{model}}"),),
                "currencyUSD",
            ),
            Panel(
                "Spent in the range",
                (("sum(increase(penstock_cost_usd_total[$__range]))", "USD"),),
                "currencyUSD",
                "stat",
            ),
            Panel(
                "Share that is estimated",
                (
                    (
                        'sum(increase(penstock_cost_usd_total{is_estimated="true"}[$__range]))'
                        " / sum(increase(penstock_cost_usd_total[$__range]))",
                        "estimated",
                    ),
                ),
                "percentunit",
                "stat",
            ),
            Panel(
                "Saved by the cache",
                (("sum by (category) (increase(penstock_cache_saved_usd_total[1h]))", "{{category}}"),),
                "currencyUSD",
            ),
            Panel(
                "Saved by routing in an hour, against the baseline",
                (
                    (
                        "sum by (baseline) (increase(penstock_baseline_cost_usd_total[1h]))"
                        " - sum by (baseline) (increase(penstock_compared_cost_usd_total[1h]))",
                        "against {{baseline}}",
                    ),
                ),
                "currencyUSD",
                is_signed=True,
            ),
            Panel(
                "Share of the baseline's cost that is saved",
                (
                    (
                        "1 - sum by (baseline) (increase(penstock_compared_cost_usd_total[$__range]))"
                        " / sum by (baseline) (increase(penstock_baseline_cost_usd_total[$__range]))",
                        "against {{baseline}}",
                    ),
                ),
                "percentunit",
                "stat",
                is_signed=True,
            ),
            Panel("Routed, not compared, by reason", _rate("penstock_uncompared_requests_total", "reason"), "reqps"),
            Panel("Tokens by kind", _rate("penstock_tokens_total", "kind")),
            Panel("Without a price", _rate("penstock_unpriced_requests_total", "model"), "reqps"),
            Panel("Refused by limit or budget", _rate("penstock_ledger_refusals_total", "reason"), "reqps"),
            Panel("Charges that wait for Redis", (("sum(penstock_ledger_pending_charges)", "charges"),)),
            Panel(
                "Redis by feature (0 is well)", (("max by (feature) (penstock_redis_breaker_state)", "{{feature}}"),)
            ),
        ),
    ),
    "cache": (
        "Penstock: cache",
        (
            Panel("Look-ups by result", _rate("penstock_cache_lookups_total", "result"), "reqps"),
            Panel("Misses by reason", _rate("penstock_cache_misses_total", "reason"), "reqps"),
            Panel("Entries", (("sum(penstock_cache_entries)", "entries"),)),
            Panel(
                "False hits found by audits",
                (('max by (category) (penstock_cache_false_hit_rate{bound="estimate"})', "{{category}}"),),
                "percentunit",
            ),
            Panel("Audits", _rate("penstock_cache_audits_total", "category"), "reqps"),
            Panel(
                "Categories that answer other wordings",
                (("min by (category) (penstock_cache_switch_on)", "{{category}}"),),
            ),
            Panel("Problems", _rate("penstock_cache_problems_total", "code"), "reqps"),
        ),
    ),
    "router": (
        "Penstock: router",
        (
            Panel("Decisions by reason", _rate("penstock_requests_total", "reason"), "reqps"),
            Panel(
                "Share of decisions by model",
                (
                    (
                        "sum by (model) (rate(penstock_requests_total[$__rate_interval]))"
                        " / scalar(sum(rate(penstock_requests_total[$__rate_interval])))",
                        "{{model}}",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Abstained, of routed requests",
                (
                    (
                        'sum(rate(penstock_requests_total{reason=~"abstained.*"}[$__rate_interval]))'
                        ' / sum(rate(penstock_requests_total{reason!="physical_model"}[$__rate_interval]))',
                        "abstained",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Artifact in force, by gateways",
                (
                    (
                        "sum by (artifact, family, encoder) (penstock_artifact_info)",
                        "{{family}} {{encoder}} {{artifact}}",
                    ),
                ),
            ),
            Panel("Artifacts refused", _rate("penstock_artifact_refused_total", "code"), "reqps"),
            Panel("Router failures", (("sum(increase(penstock_router_failures_total[5m]))", "failures"),)),
            Panel("Routing", _quantiles("penstock_routing_duration_seconds"), "s"),
            Panel("Novelty (the artifact's limit is 1)", _quantiles("penstock_prompt_novelty_ratio")),
            Panel(
                "Prompts within the limit, and of the artifact's own",
                (("avg by (prompts) (penstock_novelty_within_share)", "{{prompts}}"),),
                "percentunit",
            ),
            Panel(
                "Drift: stability index (0.1 small, 0.25 large)",
                (("max by (of, against) (penstock_drift_stability_index)", "{{of}} against {{against}}"),),
            ),
            Panel(
                "Predicted minus observed quality, 24 h",
                (("penstock:calibration_bias:1d", "{{arm}}"),),
                "percentunit",
                is_signed=True,
            ),
            Panel(
                "Standard error of that difference",
                (("penstock:calibration_bias_se:1d", "{{arm}}"),),
                "percentunit",
            ),
            Panel(
                "Brier score by arm, 24 h",
                (
                    (
                        "sum by (arm) (increase(penstock_feedback_squared_error_total[1d]))"
                        " / sum by (arm) (increase(penstock_feedback_scores_total[1d]))",
                        "{{arm}}",
                    ),
                ),
            ),
            Panel("Feedback by arm", _rate("penstock_feedback_scores_total", "arm"), "reqps"),
            Panel("Remote encoder, seen by the gateways", _quantiles("penstock_remote_encoder_duration_seconds"), "s"),
            Panel(
                "Texts that it did not answer",
                (
                    *_rate("penstock_remote_encoder_fallbacks_total", "kind"),
                    ("count(penstock_remote_encoder_breaker_state > 0)", "gateways that leave it alone"),
                ),
            ),
            Panel("Texts of the encode servers", _rate("penstock_encode_server_texts_total", "outcome"), "reqps"),
            Panel("A text's time there", _quantiles("penstock_encode_server_duration_seconds"), "s"),
            Panel(
                "Texts a batch, and texts that wait",
                (
                    (
                        "sum(rate(penstock_encode_server_batch_texts_sum[$__rate_interval]))"
                        " / sum(rate(penstock_encode_server_batch_texts_count[$__rate_interval]))",
                        "a batch",
                    ),
                    ("max(penstock_encode_server_waiting_texts)", "most that wait"),
                ),
            ),
        ),
    ),
}


def dashboard(name: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """Return one dashboard as Grafana reads it."""
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "uid": f"penstock-{name}",
        "title": title,
        "tags": ["penstock"],
        "editable": True,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [
            {
                "id": number + 1,
                "title": panel.title,
                "type": panel.kind,
                "datasource": source,
                "gridPos": {"x": number % 3 * _WIDTH, "y": number // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
                "fieldConfig": {
                    "defaults": {"unit": panel.unit} | ({} if panel.is_signed else {"min": 0}),
                    "overrides": [],
                },
                "options": {"legend": {"displayMode": "list", "placement": "bottom"}}
                if panel.kind == "timeseries"
                else {},
                "targets": [
                    {"refId": chr(65 + index), "datasource": source, "expr": query, "legendFormat": legend}
                    for index, (query, legend) in enumerate(panel.queries)
                ],
            }
            for number, panel in enumerate(panels)
        ],
    }


def texts() -> dict[Path, str]:
    """Return every file and what is in it."""
    return {
        FOLDER / f"{name}.json": json.dumps(dashboard(name, title, panels), indent=1) + "\n"
        for name, (title, panels) in DASHBOARDS.items()
    }


def main() -> None:
    """Write the dashboards, or compare them."""
    for path, text in texts().items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            raise SystemExit(f"{path.name} is out of date: run python scripts/make_dashboards.py")


if __name__ == "__main__":
    main()
