"""Who answers instead: fallbacks and aliases of the old gateway as ``fallbacks`` and ``group`` of deployments.

Owns these alone. Aliases are noted first, because fallbacks may name them, and written last, with the fallbacks of what
they stand for. Read `map_fallbacks` and `map_aliases`.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from penstock_gateway.importing.draft import DeploymentDraft, Draft
from penstock_gateway.importing.entry_names import legal_name
from penstock_gateway.importing.foreign_yaml import Node
from penstock_gateway.importing.unmapped_fields import Reason

_MAX_FALLBACKS = 16
_MAX_DEPLOYMENTS = 1000
_UNKNOWN = Reason("no deployment or group has that name here", "deployments[].fallbacks")
_LIST = "is no list of {MODEL: [OTHER, …]}"


def map_fallbacks(draft: Draft, node: Node, note: str = "") -> None:
    """Write ``fallbacks``, a list of ``{MODEL: [OTHER, …]}``; ``*`` stands for models without any of their own.

    Parameters
    ----------
    draft : Draft
    node : Node
    note : str
        How their meaning differs now; empty when it does not.
    """
    if node.is_leaf:
        draft.findings.dropped(node, _LIST)
        return
    pairs = [pair for entry in node.items for pair in entry.fields.items()] + list(node.fields.items())
    for name, others in sorted(pairs, key=lambda pair: pair[0] == "*"):
        if name == "*":
            map_default_fallbacks(draft, others)
            continue
        members = members_of(draft, name)
        if not members:
            draft.findings.dropped(others, f"no deployment or group is called {legal_name(name)}", _UNKNOWN.nearest)
            continue
        if all(_embeds(member) for member in members):
            draft.findings.dropped(others, "vectors of two models do not mix: an embedding model has no fallback")
            continue
        for other in others.items or [others]:
            _add(draft, members, other, note)
    draft.findings.dropped(node, _LIST)  # what was neither


def map_default_fallbacks(draft: Draft, node: Node) -> None:
    """Write fallbacks for every deployment that has none of its own."""
    members = [each for each in draft.deployments if not each.settings.get("fallbacks") and not _embeds(each)]
    if not members:
        draft.findings.dropped(node, "every deployment has fallbacks of its own", "deployments[].fallbacks")
    note = "written into every deployment that has no fallbacks of its own"
    for other in node.items or [node]:
        _add(draft, members, other, note)


def note_aliases(draft: Draft, node: Node) -> None:
    """Note which names are others for which, so that fallbacks can use them."""
    for alias, value in node.fields.items():
        model = value.fields.get("model", value)
        if isinstance(model.value, str):
            draft.aliases[legal_name(alias)] = model.value


def map_aliases(draft: Draft, node: Node) -> None:
    """Write ``model_group_alias``: another name for a deployment is its group, or that of copies.

    A deployment that is in a group already is written once more under the group of the alias, with breaker, slots and
    queue of its own.
    """
    draft.aliases.clear()
    for alias, value in node.fields.items():
        model = value.fields.get("model", value)
        if "hidden" in value.fields:
            draft.findings.dropped(value.fields["hidden"], "every name is listed", "client_keys[].allowed_models")
        members = members_of(draft, str(model.value)) if isinstance(model.value, str) else []
        name = legal_name(alias)
        if not members or members_of(draft, name):
            reason = "a deployment or group has that name already" if members else _UNKNOWN.note
            draft.findings.dropped(value, reason, "deployments[].group")
            continue
        if len(members) == 1 and members[0].group is None:
            members[0].settings["group"] = name
            draft.findings.mapped(model, members[0].target("group"))
        elif len(draft.deployments) + len(members) > _MAX_DEPLOYMENTS:
            draft.findings.dropped(value, f"a configuration has at most {_MAX_DEPLOYMENTS} deployments")
        else:
            for number, member in enumerate(members, start=1):
                draft.deployments.append(_copy(member, name, number if len(members) > 1 else 0))
            note = "deployments of their own under that name: they do not share breakers and slots with the others"
            draft.findings.changed(model, f"deployments[{name}]", note)
    draft.findings.dropped(node, "is no mapping of {NAME: MODEL}")


def members_of(draft: Draft, name: str) -> list[DeploymentDraft]:
    """Return the deployments that answer to a name of the old gateway."""
    legal = _resolved(draft, name)
    return [member for member in draft.deployments if legal in (member.name, member.group)]


def _add(draft: Draft, members: list[DeploymentDraft], other: Node, note: str) -> None:
    """Put one name behind the fallbacks of some deployments."""
    name = _resolved(draft, other.value) if isinstance(other.value, str) else ""
    if not name or not members_of(draft, name):
        draft.findings.dropped(other, *_UNKNOWN)
        return
    written = False
    for member in members:
        found = member.settings.setdefault("fallbacks", [])
        assert isinstance(found, list)
        if name not in (member.name, member.group, *found) and len(found) < _MAX_FALLBACKS:
            found.append(name)
            written = True
        elif name in found:
            written = True
        if not found:
            del member.settings["fallbacks"]
    target = members[0].target("fallbacks") if len(members) == 1 else "deployments[].fallbacks"
    if not written:
        draft.findings.dropped(other, f"a deployment is not its own fallback, and has at most {_MAX_FALLBACKS}")
    elif note:
        draft.findings.changed(other, target, note)
    else:
        draft.findings.mapped(other, target)


def _resolved(draft: Draft, name: str) -> str:
    """Return what a name is called now, that of the model when it is an alias."""
    legal = legal_name(name)
    return legal_name(draft.aliases.get(legal, legal))


def _embeds(member: DeploymentDraft) -> bool:
    return member.settings.get("wire_formats") == ["embeddings"]


def _copy(member: DeploymentDraft, name: str, number: int) -> DeploymentDraft:
    settings = deepcopy(member.settings)
    settings.setdefault("model", member.served.model)
    settings["routable"] = False
    own = f"{name}/{number}" if number else name
    settings.pop("group", None)
    if number:
        settings["group"] = name
    return replace(member, name=own, settings=settings, comments=[f"another name for {member.name}"])
