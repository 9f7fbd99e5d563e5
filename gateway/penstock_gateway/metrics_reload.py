"""Prometheus metrics of reading the configuration again.

Read `ReloadMetrics`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class ReloadMetrics:
    """What `reloading` feeds.

    Parameters
    ----------
    registry : CollectorRegistry
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reloads = Counter(
            "penstock_config_reloads",
            "Times the configuration was read again: reloaded, refused (it is wrong), failed (it could not be started; "
            "after these two the one before goes on), or partial (another worker did not take it).",
            ("result",),
            registry=registry,
        )
        self.is_current = Gauge(
            "penstock_config_is_current",
            "1 while the configuration that was read last is in force, 0 while an older one is.",
            registry=registry,
        )
        self.loaded_at = Gauge(
            "penstock_config_loaded_timestamp_seconds", "When the one in force was loaded.", registry=registry
        )
        self.draining = Gauge(
            "penstock_config_draining", "Older configurations that still have requests to finish.", registry=registry
        )
        self.is_current.set(1)
