"""What ``docs/cache.md`` says of the cache, held against the cache."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from penstock_cache.categories import DEFAULT_POLICIES, CategoryPolicy
from penstock_cache.directives import parse_directive
from penstock_cache.eligibility import Reason
from penstock_cache.guards import GUARD_NAMES, VETO_GUARDS
from penstock_cache.keys import UNKEYED_FIELDS
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.settings import load_settings
from penstock_training.cache_rule.certify import upper_bound
from penstock_training.cache_rule.texts import read_texts

ENVIRONMENT = {"SHOP_KEY": "0123456789abcdef", "REDIS_URL": "redis://127.0.0.1:6379/0"}
DEPLOYMENT = (
    'deployments: [{name: own, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 1}}]\n'
)
OF_ANSWERS = {"status", "cut", "unreadable", "too_large", "error_body", "tool_calls", "truncated", "filtered"} | {
    "unfinished", "refusal", "other_output", "empty", "context_not_repeated", "eligible",
}  # fmt: skip


@pytest.fixture(scope="module")
def page(repository_root: Path) -> str:
    """The page's text."""
    return (repository_root / "docs" / "cache.md").read_text(encoding="utf-8")


def shown_time(seconds: float) -> str:
    """Write a time as the table does."""
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return "–"


def row_of(name: str, policy: CategoryPolicy) -> list[str]:
    """Return a category's row as the table has it."""
    return [
        f"`{name}`",
        f"`{policy.mode.value}`",
        f"{100 * policy.false_hit_budget:g} %",
        shown_time(policy.ttl_seconds),
        "yes" if policy.is_volatile else "no",
        f"{100 * policy.reserve_share:g} %, {100 * policy.cap_share:g} %",
        shown_time(policy.max_stale_seconds),
        "cached" if policy.caches_default_temperature else "not cached",
        f"{policy.max_temperature:g}",
    ]


def test_cache_page_has_the_default_policy_of_every_category(page: str) -> None:
    """The table of categories is the one in the code, in its order."""
    part = page.partition("## Categories")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| `")
    ]
    assert rows == [row_of(name, policy) for name, policy in DEFAULT_POLICIES.items()]


def test_cache_page_names_every_metric_and_no_other(page: str) -> None:
    """Dashboards are built from the table of metrics."""
    registry = CollectorRegistry()
    CacheMetrics(registry)
    metrics = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    table = page.partition("## Metrics")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(penstock_cache_\w+)`", table, flags=re.MULTILINE)) == metrics


def test_cache_page_shows_directives_that_are_understood(page: str) -> None:
    """Every directive of the table can be sent as it stands."""
    table = page.partition("| `x-penstock-cache` | means |")[2].partition("\n\n")[0]
    shown = re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)
    assert len(shown) == 6
    for directive in shown:
        parse_directive(directive)


def test_cache_page_names_every_reason_of_a_miss(page: str) -> None:
    """Whoever reads a reason in a header finds it explained."""
    table = page.partition("| reason | the request |")[2].partition("\n\n")[0]
    missing = [reason.value for reason in Reason if f"`{reason.value}`" not in table]
    assert set(missing) == OF_ANSWERS


def test_cache_page_names_every_field_that_does_not_count(page: str) -> None:
    """The list of fields that are no part of the key is complete, but for those that the text treats apart."""
    part = page.partition("These fields do not count at all:")[2].partition("With `separates_end_users")[0]
    assert set(re.findall(r"`(\w+)`", part)) == set(UNKEYED_FIELDS) - {"model", "messages"}


def test_cache_page_counts_the_guards(page: str) -> None:
    """Nine guards forbid by themselves, the others inform."""
    words = {4: "Four", 5: "Five", 6: "Six", 8: "Eight", 9: "Nine", 10: "Ten"}
    assert f"{words[len(VETO_GUARDS)]} forbid reuse by themselves" in page
    assert f"{words[len(GUARD_NAMES) - len(VETO_GUARDS)]} more only inform the model" in page


def test_cache_page_shows_how_many_requests_certify_a_budget(page: str) -> None:
    """The table has the least streams without a false hit that certify each budget."""
    table = page.partition("| budget | 2 %")[2].partition("\n\n")[0]
    counts = [int(cell.replace(",", "")) for cell in re.findall(r"(?<=\| )[\d,]+(?= \|)", table)]
    budgets = (0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
    for budget, requests in zip(budgets, counts, strict=True):
        assert upper_bound(0, requests) <= budget < upper_bound(0, requests - 1)


def test_cache_page_shows_configurations_that_work(page: str, tmp_path: Path) -> None:
    """Every YAML block is accepted beside a deployment."""
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) > 4
    (tmp_path / "our-rule").mkdir()
    (tmp_path / "our-rule" / "manifest.json").write_text("{}")  # what the page has made just before
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(DEPLOYMENT + block, encoding="utf-8")
        assert load_settings(path, ENVIRONMENT).cache.mode != "off"


def test_cache_page_shows_texts_that_can_be_calibrated_on(page: str, tmp_path: Path) -> None:
    """The example rows are read: two wordings of one answer, and near-misses apart."""
    (block,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    path = tmp_path / "ours.jsonl"
    path.write_text(block, encoding="utf-8")
    texts = read_texts([path])
    rows = [json.loads(line) for line in block.splitlines()]
    groups = dict(zip(texts.texts, texts.groups.tolist(), strict=True))
    assert groups[rows[0]["text"]] == groups[rows[1]["text"]]
    assert groups[rows[2]["a"]] == groups[rows[2]["b"]]
    assert groups[rows[3]["a"]] != groups[rows[3]["b"]]
    assert groups[rows[4]["a"]] == groups[rows[4]["a2"]] != groups[rows[4]["b"]]
