"""Names of deployments and groups: what clients asked for stays what they ask for.

Owns the rules of names. Read `assign_names`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from penstock_gateway.importing.draft import DeploymentDraft

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._:@/+-]+")
_MAX_NAME = 128
_ROOM = 40  # what a suffix may need


def legal_name(name: str) -> str:
    """Return a name that Penstock takes: its characters, its length, and none by which clients let it choose.

    Examples
    --------
    >>> legal_name("My Model"), legal_name("auto"), legal_name("gpt-4o")
    ('My-Model', 'litellm-auto', 'gpt-4o')
    """
    legal = _NOT_IN_NAMES.sub("-", name)[: _MAX_NAME - _ROOM]
    if not legal or not legal[0].isalnum():
        legal = f"model{legal}"
    is_ours = legal == "auto" or legal.startswith(("auto:", "auto@", "os.environ/"))
    return f"litellm-{legal}" if is_ours else legal


def assign_names(drafts: Sequence[DeploymentDraft]) -> None:
    """Name every deployment, and give those that are asked for by one name that name as their group.

    A single deployment is called what it was asked for. Several are called ``NAME/PROVIDER``, numbered where one
    provider has more than one of them.
    """
    counts = Counter(legal_name(draft.asked_for) for draft in drafts)
    taken = set(counts)
    for draft in drafts:
        name = legal_name(draft.asked_for)
        if counts[name] == 1:
            draft.name = name
            continue
        draft.settings["group"] = name
        base = f"{name}/{legal_name(draft.served.prefix)[:30]}"
        draft.name, number = base, 2
        while draft.name in taken:
            draft.name, number = f"{base}-{number}", number + 1
        taken.add(draft.name)
