"""The bundled list of model prices and limits, dated, read from one JSON file when first asked for.

Owns the format of ``snapshot.json`` and its loading; `rebuild_snapshot` writes it. It never goes to the network. Read
`load_snapshot` first.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from importlib.resources import files

import msgspec


class SnapshotModel(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One model of one provider; prices in USD per million tokens.

    Attributes
    ----------
    input, output : Decimal
        Base prices.
    context_tokens, max_output_tokens : int
        Most prompt tokens and most completion tokens that the provider takes.
    cached_input, reasoning : Decimal or None
        None when billed like `input` and `output`.
    abilities : tuple of str
        Values of `deployments.Ability`.
    dearer_above_tokens : int
        Prompt length beyond which the provider charges more for the whole request; 0 when it does not.
    is_reasoning : bool
        Whether the model can reason before it answers.
    has_optional_reasoning : bool
        Whether it answers without reasoning unless asked to, and takes sampling parameters then.
    takes_sampling, takes_forced_tools : bool
        Whether ``temperature``/``top_p``, and a ``tool_choice`` that names or requires a tool, are accepted.
    deprecated_on : str
        ISO date on which the maker switches it off; empty when none is known.
    """

    input: Decimal
    output: Decimal
    context_tokens: int
    max_output_tokens: int
    cached_input: Decimal | None = None
    reasoning: Decimal | None = None
    abilities: tuple[str, ...] = ()
    dearer_above_tokens: int = 0
    is_reasoning: bool = False
    has_optional_reasoning: bool = False
    takes_sampling: bool = True
    takes_forced_tools: bool = True
    deprecated_on: str = ""


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dated list of models.

    Attributes
    ----------
    name : str
        Shown as the source of a price.
    as_of : str
        ISO date on which it was built; the map inside the named litellm version is at most that new.
    litellm_version : str
    models : dict of str to dict of str to SnapshotModel
        Provider → model → facts.
    """

    name: str
    as_of: str
    litellm_version: str
    models: dict[str, dict[str, SnapshotModel]]


@cache
def load_snapshot() -> Snapshot:
    """Return the bundled snapshot, decoded once per process.

    Returns
    -------
    Snapshot
        Shared; frozen structs.

    Raises
    ------
    msgspec.ValidationError
        The bundled file is damaged (a broken installation).
    """
    content = files(__package__).joinpath("snapshot.json").read_bytes()
    return msgspec.json.decode(content, type=Snapshot)
