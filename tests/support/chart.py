"""Rendering the Helm chart with the real helm, and reading what comes out."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "helm" / "penstock"
CI_FILES = sorted((CHART / "ci").glob("*-values.yaml"))
HELM = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")


class RenderFailed(Exception):
    """Helm refused; the message is its own."""


def helm(*arguments: str, values: dict[str, Any] | None = None) -> str:
    """Run helm; `values` lie over everything else.

    Raises
    ------
    RenderFailed
    """
    assert HELM is not None
    given = ["-f", "-"] if values is not None else []
    done = subprocess.run(
        [HELM, *arguments, *given],
        input=None if values is None else json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RenderFailed(done.stderr + done.stdout)
    return done.stdout


def rendered(values: dict[str, Any], *options: str) -> str:
    """Return all manifests for some values; the same are rendered once."""
    return _rendered(json.dumps(values), options)


@cache
def _rendered(values: str, options: tuple[str, ...]) -> str:
    return helm("template", "rel", str(CHART), "--namespace", "llm", *options, values=json.loads(values))


@cache
def rendered_file(path: Path) -> str:
    """Return all manifests for a file of `ci/`."""
    return helm("template", "rel", str(CHART), "--namespace", "llm", "-f", str(path))


def manifests(text: str) -> list[dict[str, Any]]:
    """Return the manifests in a render."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as quick
    return [document for document in yaml.load_all(text, Loader=loader) if document]


def of_kind(documents: list[dict[str, Any]], kind: str, component: str | None = None) -> list[dict[str, Any]]:
    """Return those of one kind, of one component when that is said."""
    return [
        document
        for document in documents
        if document["kind"] == kind
        and component in (None, document["metadata"].get("labels", {}).get("app.kubernetes.io/component"))
    ]


def pod_specs(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return every pod's spec, by kind and name."""
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "Pod":
            pod = spec
        elif document["kind"] == "CronJob":
            pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        elif document["kind"] in ("Deployment", "Job"):
            pod = spec["template"]["spec"]
        else:
            continue
        found[f"{document['kind']}/{document['metadata']['name']}"] = pod
    return found


def pod_labels(documents: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return every pod's labels, by kind and name of what makes it."""
    found = {}
    for document in documents:
        if document["kind"] == "Pod":
            made = document
        elif document["kind"] == "CronJob":
            made = document["spec"]["jobTemplate"]["spec"]["template"]
        elif document["kind"] in ("Deployment", "Job"):
            made = document["spec"]["template"]
        else:
            continue
        found[f"{document['kind']}/{document['metadata']['name']}"] = made["metadata"]["labels"]
    return found


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return one set of values over another, as Helm merges them: lists are replaced."""
    result = copy.deepcopy(base)
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def at(path: str, value: Any) -> dict[str, Any]:
    """Return values with one set, by its dotted path."""
    result: Any = value
    for name in reversed(path.split(".")):
        result = {name: result}
    return dict(result)


def leaves(values: dict[str, Any], free: frozenset[str], path: str = "") -> list[str]:
    """Return the dotted paths of all values; an object in `free` is one of them."""
    found = []
    for name, value in values.items():
        own = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value and own not in free:
            found += leaves(value, free, own)
        else:
            found.append(own)
    return found
