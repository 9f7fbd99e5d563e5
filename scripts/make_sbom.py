"""Writes what is installed in this Python's environment as a CycloneDX 1.5 document: name, version, licence, purl.

``python scripts/make_sbom.py FILE``. The standard library alone, so that it runs in the image that it describes.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any


def component(found: Distribution) -> dict[str, Any]:
    """Return one package as CycloneDX says it."""
    name, version = found.metadata["Name"], found.version
    purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    entry: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    licence = found.metadata.get("License-Expression") or found.metadata.get("License")
    if licence and len(licence) <= 100 and "\n" not in licence:
        entry["licenses"] = [{"license": {"name": licence}}]
    return entry


def document() -> dict[str, Any]:
    """Return the whole document; the same environment gives the same one."""
    found = {entry["purl"]: entry for entry in map(component, distributions())}
    components = [found[purl] for purl in sorted(found)]
    own = next((entry for entry in components if entry["name"] == "penstock"), None)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**(own or {"name": "penstock"}), "type": "application"}},
        "components": [entry for entry in components if entry is not own],
    }


def main() -> None:
    """Write the document."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_sbom.py FILE")
    Path(sys.argv[1]).write_text(json.dumps(document(), indent=1) + "\n")


if __name__ == "__main__":
    main()
