"""Whether what is written for a key, a team or a tag agrees with itself and with what there is.

Owns the rules that both the configuration and the admin API hold to. Pure. Read `disagreements`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock_cache.categories import DEFAULT_POLICIES
from penstock_gateway.accounts.composition import models_of
from penstock_gateway.configuration_problems import did_you_mean
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import AUTO_ALIASES, is_alias, parse_alias
from penstock_gateway.request_policy import tier_rank
from penstock_gateway.settings_accounts import KeyFields, PolicyFields, TagFields
from penstock_gateway.settings_deployments import with_default_arm
from penstock_gateway.settings_models import Settings

FieldPath = tuple[str | int, ...]


class Disagreement(NamedTuple):
    """One thing that does not fit.

    Attributes
    ----------
    path : tuple of str or int
        Of the field, such as ``("budgets", 1, "period")``.
    message, hint : str
    """

    path: FieldPath
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Known:
    """What there is besides keys.

    Attributes
    ----------
    teams : mapping of str to PolicyFields
    tags : collection of str
    deployments : collection of str
    cache_categories : collection of str
    default_tier : str or None
        Of the deployment that answers whenever the router is unsure, which every floor has to let pass.
    """

    teams: Mapping[str, PolicyFields] = field(default_factory=dict)
    tags: Collection[str] = ()
    deployments: Collection[str] = ()
    cache_categories: Collection[str] = ()
    default_tier: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Known:
        """Return what a configuration has."""
        name = with_default_arm(settings).default_arm
        tiers = {entry.name: entry.tier for entry in settings.deployments}
        return cls(
            teams={entry.name: entry for entry in settings.teams},
            tags=[entry.name for entry in settings.tags],
            deployments=[*tiers, *{entry.group: None for entry in settings.deployments if entry.group is not None}],
            cache_categories=sorted({*DEFAULT_POLICIES, *settings.cache.categories}),
            default_tier=tiers.get(name),
        )


def disagreements(fields: KeyFields | PolicyFields | TagFields, known: Known) -> Iterator[Disagreement]:
    """Yield what does not fit in the fields of a key, a team or a tag.

    Parameters
    ----------
    fields : KeyFields, PolicyFields or TagFields
        Valid in shape.
    known : Known

    Yields
    ------
    Disagreement
    """
    yield from _budgets(fields)
    if isinstance(fields, PolicyFields):
        yield from _models(fields, known)
        if fields.tradeoff is not None and fields.min_quality is not None:
            message = "is given with a tradeoff, and a minimum of quality takes its place"
            yield Disagreement(("min_quality",), message, "keep one of them")
        yield from _floors(fields, known)
    if isinstance(fields, KeyFields):
        yield from _memberships(fields, known)


def _budgets(fields: PolicyFields | TagFields) -> Iterator[Disagreement]:
    periods = [budget.period for budget in fields.budgets]
    for index, period in enumerate(periods):
        if period in periods[:index]:
            message = f"there are two budgets for one {period.value}"
            yield Disagreement(("budgets", index, "period"), message, "keep one of them")


def _models(fields: PolicyFields, known: Known) -> Iterator[Disagreement]:
    if fields.allowed_models is None:
        return
    if not fields.allowed_models:
        yield Disagreement(("allowed_models",), "is empty, so nothing could be asked for", "leave it out to allow all")
    for index, name in enumerate(fields.allowed_models):
        if is_alias(name):
            try:
                parse_alias(name)
            except InvalidRequest:
                hint = f"aliases: {', '.join(AUTO_ALIASES)}, auto@0.7"
                yield Disagreement(("allowed_models", index), f"there is no alias {name!r}", hint)
        elif name not in known.deployments:
            hint = did_you_mean(name, [*known.deployments, *AUTO_ALIASES])
            yield Disagreement(("allowed_models", index), f"there is no deployment {name!r}", hint)


def _floors(fields: PolicyFields, known: Known) -> Iterator[Disagreement]:
    for category, tier in fields.category_floors.items():
        if tier_rank(tier) > tier_rank(known.default_tier):
            message = "is above the default arm's tier, and the default arm answers whenever the router is unsure"
            hint = f"set routing.default_arm to a deployment of tier {tier} or above"
            yield Disagreement(("category_floors", category), message, hint)


def _memberships(fields: KeyFields, known: Known) -> Iterator[Disagreement]:
    team = None
    if fields.team is not None:
        team = known.teams.get(fields.team)
        if team is None:
            hint = did_you_mean(fields.team, list(known.teams))
            yield Disagreement(("team",), f"there is no team {fields.team!r}", hint)
    for index, name in enumerate(fields.tags):
        if name not in known.tags:
            yield Disagreement(("tags", index), f"there is no tag {name!r}", did_you_mean(name, list(known.tags)))
        elif name in fields.tags[:index]:
            yield Disagreement(("tags", index), f"{name!r} is named twice", "remove one")
    if team is not None and fields.allowed_models:
        asked, chosen = models_of([team, fields])
        if asked is not None and (not asked or chosen == frozenset()):
            message = f"has nothing in common with what the team {fields.team!r} allows"
            yield Disagreement(("allowed_models",), message, f"allowed there: {', '.join(team.allowed_models or ())}")
    named: list[tuple[FieldPath, str | None]] = [(("cache_category",), fields.cache_category)]
    named += [(("cache_categories", index), name) for index, name in enumerate(fields.cache_categories)]
    for path, category in named:
        if category is not None and category not in known.cache_categories:
            hint = did_you_mean(category, list(known.cache_categories))
            yield Disagreement(path, f"no cache category is called {category!r}", hint)
