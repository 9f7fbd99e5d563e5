"""From LiteLLM's configuration to one of Penstock's, with a verdict on every field.

Owns the order of the steps. Read `import_litellm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock_gateway.configuration_problems import did_you_mean
from penstock_gateway.importing.draft import Draft
from penstock_gateway.importing.entry_fields import map_entry
from penstock_gateway.importing.entry_plan import plan_entries
from penstock_gateway.importing.foreign_yaml import ForeignFileError, Node, read_foreign
from penstock_gateway.importing.references import References, Variable
from penstock_gateway.importing.setting_sections import map_late_sections, map_sections
from penstock_gateway.importing.unmapped_fields import SECTIONS, reason_for
from penstock_gateway.importing.verdicts import Fate, Findings, Verdict
from penstock_gateway.importing.yaml_text import configuration_text

_MAPPED_SECTIONS = (
    "model_list",
    "litellm_settings",
    "router_settings",
    "general_settings",
    "credential_list",
    "include",
)


@dataclass(frozen=True, slots=True)
class Imported:
    """A configuration that was taken over.

    Attributes
    ----------
    source : str
        Name of the file.
    text : str
        The new configuration, YAML.
    verdicts : tuple of Verdict
        One for every field of the old configuration, in its order.
    variables : tuple of Variable
        Environment variables that the new one refers to.
    steps : tuple of str
        What is left to do by hand.
    """

    source: str
    text: str
    verdicts: tuple[Verdict, ...]
    variables: tuple[Variable, ...]
    steps: tuple[str, ...]

    def of(self, fate: Fate) -> tuple[Verdict, ...]:
        """Return the fields that fared so."""
        return tuple(each for each in self.verdicts if each.fate is fate)


def import_litellm(path: Path) -> Imported:
    """Translate LiteLLM's proxy configuration.

    Parameters
    ----------
    path : Path
        Its ``config.yaml``; files that it includes are read too.

    Returns
    -------
    Imported

    Raises
    ------
    ForeignFileError
        The file cannot be read, is not LiteLLM's, or has no model that could be called.

    Notes
    -----
    Nothing is fetched and no environment variable is looked at: the result depends on the files alone. Secrets never
    get into it.
    """
    root = read_foreign(path)
    draft = Draft(Findings(), References(root))
    model_list = _model_list(root, path.name)
    _settle_empty(draft.findings, root)
    draft.deployments = plan_entries(model_list, draft.findings)
    if not draft.deployments:
        reason = next(iter(draft.findings.verdicts(model_list)), None)
        why = f"; the first entry: {reason.note}" if reason is not None and reason.note else ""
        raise ForeignFileError(f"{model_list.place}: model_list has no model that Penstock could call{why}")
    credentials = _credentials(root)
    for deployment in draft.deployments:
        map_entry(draft, deployment, credentials)
    map_sections(draft, root)
    map_late_sections(draft, root)
    _settle_rest(draft, root)
    _add_steps(draft)
    return Imported(
        path.name,
        configuration_text(draft, path.name),
        tuple(draft.findings.verdicts(root)),
        tuple(draft.references.variables.values()),
        tuple(draft.steps),
    )


def _model_list(root: Node, name: str) -> Node:
    found = root.fields.get("model_list")
    if found is None:
        names = [*_MAPPED_SECTIONS, *SECTIONS]
        hint = next((text for text in (did_you_mean(each, names[:1]) for each in root.fields) if "mean" in text), "")
        given = f"; it has {', '.join(repr(each[:40]) for each in list(root.fields)[:6])}" if root.fields else ""
        raise ForeignFileError(
            f"{name} has no model_list, so it is no configuration of LiteLLM's{given}"
            + (f" (one is nearly called so: {hint})" if hint else "")
        )
    if not isinstance(found.value, list) or not found.value:
        raise ForeignFileError(f"{found.place}: model_list should be a list with at least one entry")
    return found


def _settle_empty(findings: Findings, root: Node) -> None:
    """Say of fields without a value that they say nothing."""
    for leaf in root.leaves():
        if leaf.value is None or isinstance(leaf.value, dict | list):
            findings.mapped(leaf, "", "nothing is set")


def _credentials(root: Node) -> Mapping[str, Node]:
    """Return the named credentials: name → their values."""
    found: dict[str, Node] = {}
    section = root.fields.get("credential_list")
    for entry in [] if section is None else section.items:
        name, values = entry.fields.get("credential_name"), entry.fields.get("credential_values")
        if name is not None and values is not None:
            found[str(name.value)] = values
    return found


def _settle_rest(draft: Draft, root: Node) -> None:
    """Say something of everything that no rule has looked at."""
    findings = draft.findings
    section = root.fields.get("credential_list")
    for entry in [] if section is None else section.items:
        if "credential_name" in entry.fields:
            is_used = any(findings.is_settled(leaf) for leaf in entry.fields.get("credential_values", entry).leaves())
            if is_used:
                findings.mapped(entry.fields["credential_name"], "deployments[].api_key", "its values are written out")
        if "credential_info" in entry.fields:
            findings.dropped(entry.fields["credential_info"], "it is for people", "a comment in the file")
        findings.dropped(entry, "no deployment uses it", "deployments[].api_key")
    for name, node in root.fields.items():
        if name.startswith("include"):
            findings.mapped(node, "", "the file was read")
        elif name.endswith(" (replaced)"):
            findings.dropped(node, "a file that is included replaces this section")
        else:
            findings.dropped(node, *reason_for("", name, _MAPPED_SECTIONS))


def _add_steps(draft: Draft) -> None:
    names = sorted(draft.references.variables)
    if names:
        draft.step(f"Set the environment variables that the configuration refers to: {', '.join(names)}.")
    draft.step("Give each deployment its tier (small, medium, large, frontier), so that clients can ask for 'auto'.")
    draft.step("Look at it: penstock check-config FILE. LiteLLM listens on all addresses, Penstock on 127.0.0.1:4000.")
