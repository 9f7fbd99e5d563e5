"""The bundled list of model prices and limits, dated, read from one JSON file when first asked for.

Owns the format of ``snapshot.json`` and its loading; `rebuild_snapshot` writes it. It never goes to the network. Read
`load_snapshot` first.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from importlib.resources import files

import msgspec

from penstock_gateway.money.price_forms import PriceForm, ServiceForm, build_price, given_rates, given_steps
from penstock_gateway.money.prices import Price


class SnapshotRates(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """Prices under the names of `prices.Rates`, USD per million tokens; None where nothing is said.

    What is left out costs like something else: `price_forms.build_price` has the rules.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoning: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None


class SnapshotStep(SnapshotRates, frozen=True, kw_only=True):
    """What changes for prompts of more than `tokens` tokens, for the whole request."""

    tokens: int


class SnapshotService(SnapshotRates, frozen=True, kw_only=True):
    """A service tier: standard prices times `multiplier` (None: 1), but for those given; context tiers of its own."""

    multiplier: Decimal | None = None
    above: tuple[SnapshotStep, ...] = ()


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
    is_reasoning : bool
        Whether the model can reason before it answers.
    has_optional_reasoning : bool
        Whether it answers without reasoning unless asked to, and takes sampling parameters then.
    takes_sampling, takes_forced_tools : bool
        Whether ``temperature``/``top_p``, and a ``tool_choice`` that names or requires a tool, are accepted.
    deprecated_on : str
        ISO date on which the maker switches it off; empty when none is known.
    cache_write, cache_write_1h, audio_input, audio_output, image_input : Decimal or None
        None when billed like `input`, like `cache_write`, like `input`, like `output`, like `input`.
    per_request : Decimal or None
        USD for each request, beside its tokens.
    web_search : Decimal or None
        USD for each search of the web that the provider does; None when it is not known.
    above : tuple of SnapshotStep
        Prices of long prompts, in ascending order.
    service_tiers : dict of str to SnapshotService
        Prices of other service tiers, by `Usage.service_tier`.
    """

    input: Decimal
    output: Decimal
    context_tokens: int
    max_output_tokens: int
    cached_input: Decimal | None = None
    reasoning: Decimal | None = None
    abilities: tuple[str, ...] = ()
    is_reasoning: bool = False
    has_optional_reasoning: bool = False
    takes_sampling: bool = True
    takes_forced_tools: bool = True
    deprecated_on: str = ""
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None
    per_request: Decimal | None = None
    web_search: Decimal | None = None
    above: tuple[SnapshotStep, ...] = ()
    service_tiers: dict[str, SnapshotService] = {}

    @property
    def dearer_above_tokens(self) -> int:
        """Prompt length beyond which the provider charges other prices for the whole request; 0 when it does not."""
        return self.above[0].tokens if self.above else 0

    def price(self, snapshot: Snapshot) -> Price:
        """Return the model's price, every rate filled in, with the snapshot as its source."""
        services = {
            name: ServiceForm(tier.multiplier or Decimal(1), given_rates(tier), given_steps(tier.above))
            for name, tier in self.service_tiers.items()
        }
        form = PriceForm(
            given_rates(self), self.per_request or Decimal(0), given_steps(self.above), services, self.web_search
        )
        return build_price(form, source=snapshot.name, as_of=snapshot.as_of)


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
