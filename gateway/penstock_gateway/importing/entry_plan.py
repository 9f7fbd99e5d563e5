"""Which deployments a ``model_list`` becomes: one of each entry, several of a wildcard, none of what is no chat model.

Owns that decision; the fields of an entry are `entry_fields`'s. Read `plan_entries`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock_gateway.environment import default_models
from penstock_gateway.importing.draft import DeploymentDraft
from penstock_gateway.importing.entry_names import assign_names, legal_name
from penstock_gateway.importing.foreign_yaml import Node
from penstock_gateway.importing.litellm_providers import Served, served_by
from penstock_gateway.importing.references import PREFIX, is_plain_text
from penstock_gateway.importing.verdicts import Findings
from penstock_gateway.money.snapshot import load_snapshot
from penstock_gateway.providers import PROVIDERS

EMBEDDING = "embedding"
_MODES = ("chat", "completion", "responses", EMBEDDING)
_EMBEDS = re.compile(r"(^|[-_/.])embed", re.IGNORECASE)
_MOST_OF_A_WILDCARD = 100
_MOST_DEPLOYMENTS = 1000
_NO_MODE = "Penstock serves text, chat, responses and embeddings, no {}"
_INCOMPLETE = "is not an entry with model_name and litellm_params.model"


def plan_entries(model_list: Node, findings: Findings) -> list[DeploymentDraft]:
    """Return a named draft for every deployment that can be made; the entries of all others are settled.

    Parameters
    ----------
    model_list : Node
    findings : Findings

    Returns
    -------
    list of DeploymentDraft
        In the order of the file; those of wildcards last, and none whose name an entry of its own has.
    """
    named: list[DeploymentDraft] = []
    wild: list[Node] = []
    for entry in model_list.items:
        if "*" in _text(entry, "model_name") or "*" in _model(entry):
            wild.append(entry)
        elif (draft := _plan(entry, findings)) is not None:
            named.append(draft)
    for late in named[_MOST_DEPLOYMENTS:]:
        findings.dropped(late.entry, f"a configuration has at most {_MOST_DEPLOYMENTS} deployments")
    named = named[:_MOST_DEPLOYMENTS]
    assign_names(named)
    taken = {name for draft in named for name in (draft.name, draft.group) if name}
    for entry in wild:
        for draft in _expand(entry, findings, taken, is_first=not named):
            if len(named) < _MOST_DEPLOYMENTS:
                named.append(draft)
    return named


def mode_of(draft: DeploymentDraft) -> str:
    """Return what an entry says it is for; an embedding model is also known by its name."""
    mode = _text(draft.entry, "model_info", "mode")
    return mode or (EMBEDDING if _EMBEDS.search(draft.served.model) else "chat")


def _plan(entry: Node, findings: Findings) -> DeploymentDraft | None:
    served = _served(entry, findings)
    if served is None:
        return None
    draft = DeploymentDraft("", _text(entry, "model_name"), served, entry)
    mode = mode_of(draft)
    if mode not in _MODES:
        findings.dropped(entry, _NO_MODE.format(mode.replace("_", " ")[:40]), "call the provider directly")
        return None
    if mode == EMBEDDING and served.adapter == "litellm":
        note = f"embeddings are served by OpenAI-compatible servers; {served.prefix} is reached through litellm"
        findings.dropped(entry, note, "an entry with the base_url of an OpenAI-compatible embeddings endpoint")
        return None
    return draft


def _served(entry: Node, findings: Findings) -> Served | None:
    """Return who serves an entry; an entry of which nobody can tell is settled."""
    model = _model(entry)
    if not model or not _text(entry, "model_name"):
        findings.dropped(entry, _INCOMPLETE)
        return None
    if model.startswith(PREFIX) or _text(entry, "model_name").startswith(PREFIX):
        findings.dropped(entry, "a name stands in a variable, so nobody can tell which model it is", "write the name")
        return None
    has_base = any(_text(entry, "litellm_params", name) for name in ("api_base", "base_url"))
    served = served_by(model, _text(entry, "litellm_params", "custom_llm_provider"), has_base=has_base)
    if served is None or not is_plain_text(served.model):
        findings.dropped(entry, "nobody can tell who serves this model", "put the provider before it: openai/MODEL")
        return None
    return served


def _expand(entry: Node, findings: Findings, taken: set[str], *, is_first: bool) -> Iterator[DeploymentDraft]:
    """Yield a deployment for every model of the bundled list that a wildcard stands for."""
    pattern, model = _text(entry, "model_name"), _model(entry)
    prefix, _, rest = model.partition("/")
    served = served_by(model.replace("*", "any", 1))
    known = load_snapshot().models.get(served.provider, {}) if served is not None else {}
    if pattern.count("*") != 1 or rest != "*" or served is None or served.provider not in PROVIDERS:
        note = "wildcards are followed where the model is PROVIDER/* and Penstock knows the provider"
        findings.dropped(entry, note, "an entry for each model")
        return
    as_of = load_snapshot().as_of
    models = [name for name, facts in known.items() if not facts.deprecated_on or facts.deprecated_on > as_of]
    if not 0 < len(models) <= _MOST_OF_A_WILDCARD:
        found = f"has {len(models)} models of {served.provider}" if models else f"has no models of {served.provider}"
        nearest = f"an entry for each model; penstock prices --provider {served.provider} lists them"
        findings.dropped(entry, f"the bundled list {found}, and nothing is passed on unknown", nearest)
        return
    note = f"stands for the {len(models)} models of {served.provider} in the list of {as_of}; add later ones by hand"
    for node in (entry.fields["model_name"], entry.fields["litellm_params"].fields["model"]):
        findings.changed(node, f"deployments[{pattern.replace('*', '…')}]", note)
    favourites = dict(default_models(served.provider))
    count = 0
    for name in models:
        asked_for = legal_name(pattern.replace("*", name))
        if asked_for in taken:
            continue
        taken.add(asked_for)
        draft = DeploymentDraft(asked_for, asked_for, Served(served.provider, name, served.adapter, prefix), entry)
        if not count:
            draft.comments.append(f"{entry.place}: {pattern.replace('*', '…')}, by name only")
        draft.is_named_only = not (is_first and name in favourites)
        if not draft.is_named_only:
            draft.settings["tier"] = favourites[name]
        yield draft
        count += 1


def _model(entry: Node) -> str:
    return _text(entry, "litellm_params", "model")


def _text(entry: Node, *names: str) -> str:
    """Return a text somewhere below an entry; empty when there is none."""
    node: Node | None = entry
    for name in names:
        node = None if node is None else node.fields.get(name)
    return str(node.value) if node is not None and isinstance(node.value, str | int) else ""
