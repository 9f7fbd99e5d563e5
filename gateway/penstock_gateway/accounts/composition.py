"""From the fields of a key, its team and its tags to the one `Principal` that stands for them.

Owns how restrictions of key, team and gateway add up. Pure. Read `compose`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from penstock_gateway.accounts.principal import BudgetRule, CacheRights, Principal
from penstock_gateway.ledger.contract import Account, Budget, RateLimits
from penstock_gateway.money.amounts import to_picousd
from penstock_gateway.request_body import is_alias
from penstock_gateway.request_policy import RequestPolicy, ranks_of
from penstock_gateway.settings_accounts import KeyFields, PolicyFields, TagFields
from penstock_gateway.settings_models import Settings

NORMAL: Final = "normal"
_ALIAS: Final = "auto"

AllowedModels = frozenset[str] | None


def gateway_policy(settings: Settings) -> RequestPolicy:
    """Return what holds for a key that says nothing itself."""
    routing = settings.routing
    return RequestPolicy(floors=ranks_of(routing.category_floors), explore_rate=routing.explore.rate)


def account_of(kind: str, name: str, fields: PolicyFields | TagFields) -> Account:
    """Return whose spend is counted.

    Parameters
    ----------
    kind : str
        ``key``, ``team`` or ``tag``.
    name : str
        The id of a key, the name of a team or tag.
    fields : PolicyFields or TagFields
        With its budgets and limits.
    """
    limits = fields.limits
    return Account(
        f"{kind}:{name}",
        tuple(Budget(given.period, to_picousd(given.limit_usd), given.soft_share) for given in fields.budgets),
        RateLimits(limits.requests_per_minute, limits.tokens_per_minute, limits.parallel_requests),
    )


def compose(
    key_id: str,
    name: str,
    fields: KeyFields,
    *,
    team: PolicyFields | None,
    tags: Sequence[Account],
    own: RequestPolicy,
    tenant: str,
) -> Principal:
    """Return who a key stands for.

    Parameters
    ----------
    key_id, name : str
    fields : KeyFields
        Its own.
    team : PolicyFields or None
        Of the team that `fields` names.
    tags : sequence of Account
        Of the tags that `fields` names, in their order.
    own : RequestPolicy
        Of `gateway_policy`.
    tenant : str

    Returns
    -------
    Principal

    Notes
    -----
    What a team forbids its keys cannot allow: allowed models are those of both, floors the higher of both, cost caps
    the lower. What a team merely presets (trade-off or quality, exploration, priority) a key may set otherwise.
    """
    layers = [fields] if team is None else [team, fields]
    accounts = [account_of("key", key_id, fields)]
    if team is not None:
        accounts.append(account_of("team", fields.team or "", team))
    asked, chosen = models_of(layers)
    return Principal(
        tenant=tenant,
        key_id=key_id,
        key_name=name,
        team=fields.team,
        tags=fields.tags,
        accounts=(*accounts, *tags),
        policy=_policy(fields, team, own),
        allowed_models=asked,
        cache=CacheRights(
            fields.cache_category, fields.cache_categories, fields.cache_under_load, fields.may_share_answers
        ),
        priority=fields.priority or (team.priority if team is not None else None) or NORMAL,
        budget_rules=tuple(
            BudgetRule(rule.used_share, rule.tradeoff) for layer in layers for rule in layer.budget_rules
        ),
        expires_at=fields.expires_at,
        choosable_models=chosen,
    )


def models_of(layers: Iterable[PolicyFields]) -> tuple[AllowedModels, AllowedModels]:
    """Return what may be asked for, and what may be chosen, where every layer has to allow it.

    Parameters
    ----------
    layers : iterable of PolicyFields
        A team and its key.

    Returns
    -------
    asked, chosen : frozenset of str or None
        None: all. A layer that names aliases alone restricts what may be asked for, and nothing of what is chosen.
    """
    asked: AllowedModels = None
    chosen: AllowedModels = None
    for layer in layers:
        if layer.allowed_models is None:
            continue
        names = frozenset(layer.allowed_models)
        asked = names if asked is None else _common(asked, names)
        deployments = frozenset(name for name in names if not is_alias(name))
        if deployments:
            chosen = deployments if chosen is None else chosen & deployments
    return asked, chosen


def _common(first: frozenset[str], second: frozenset[str]) -> frozenset[str]:
    """Return the names that both allow, one by ``auto`` perhaps, which stands for all aliases."""
    return frozenset(name for name in first | second if _allows(first, name) and _allows(second, name))


def _allows(names: frozenset[str], name: str) -> bool:
    return name in names or (_ALIAS in names and is_alias(name))


def _policy(fields: KeyFields, team: PolicyFields | None, own: RequestPolicy) -> RequestPolicy:
    layers: list[PolicyFields] = [fields] if team is None else [fields, team]
    floors = dict(own.floors)
    for layer in layers:
        for category, rank in ranks_of(layer.category_floors).items():
            floors[category] = max(rank, floors.get(category, rank))
    # trade-off and quality are two ways to set one thing: both come from the first layer that sets either
    knob = next((layer for layer in layers if (layer.tradeoff, layer.min_quality) != (None, None)), fields)
    caps = [layer.max_cost_usd for layer in layers if layer.max_cost_usd is not None]
    rates = [layer.explore_rate for layer in layers if layer.explore_rate is not None]
    return RequestPolicy(
        tradeoff=knob.tradeoff,
        max_cost_usd=min(caps, default=None),
        min_quality=knob.min_quality,
        floors=floors,
        explore_rate=rates[0] if rates else own.explore_rate,
    )
