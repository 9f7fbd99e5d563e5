"""Who asks: the one object that stands for a presented key on the request path.

Made by `directory` when a key is first seen and kept until the key changes; immutable. Read `Principal`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock_gateway.ledger.contract import Account
from penstock_gateway.request_body import is_alias
from penstock_gateway.request_policy import UNLIMITED, RequestPolicy

OPEN_TENANT = "default"


@dataclass(frozen=True, slots=True)
class CacheRights:
    """What a key says of the cache; see `settings_models.ClientKeySettings` for each."""

    cache_category: str | None = None
    cache_categories: tuple[str, ...] = ()
    cache_under_load: bool = False
    may_share_answers: bool = False


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """What changes when a budget is nearly used.

    Attributes
    ----------
    used_share : float, in [0, 1]
        From here on, of any budget of the key, its team or its tags.
    tradeoff : str or float
        Takes the place of the request's own when that asks for more quality.
    """

    used_share: float
    tradeoff: str | float


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes
    ----------
    tenant : str
        Hard partition of cache, decisions and feedback: the team's name, or ``key:ID`` when the key has none. A key of
        the configuration is a tenant of its own name, in a team or not.
    key_id : str
        Public id of the key, or the name of a configured one; empty when the gateway asks for no key.
    key_name : str
    team : str or None
    tags : tuple of str
        The key's own; a request may add registered ones.
    accounts : tuple of Account
        Key, team and tags, in this order: what a request is charged to.
    policy : RequestPolicy
        The key's defaults and limits, its team's and the gateway's in them.
    allowed_models : frozenset of str or None
        Deployments and aliases that may be asked for; None: all. Ask `may_ask_for`.
    choosable_models : frozenset of str or None
        Deployments that may answer, be it by choice or as a fallback; None: all. Ask `may_choose`.
    cache : CacheRights
    priority : str
        ``high``, ``normal`` or ``low``: its place when requests wait.
    budget_rules : tuple of BudgetRule
    expires_at : float or None
        UNIX seconds.
    """

    tenant: str
    key_id: str = ""
    key_name: str = ""
    team: str | None = None
    tags: tuple[str, ...] = ()
    accounts: tuple[Account, ...] = ()
    policy: RequestPolicy = UNLIMITED
    allowed_models: frozenset[str] | None = None
    cache: CacheRights = field(default_factory=CacheRights)
    priority: str = "normal"
    budget_rules: tuple[BudgetRule, ...] = ()
    expires_at: float | None = None
    choosable_models: frozenset[str] | None = None

    def may_ask_for(self, model: str) -> bool:
        """Whether a request may name this deployment or alias; ``auto`` stands for ``auto@0.7`` and all its forms."""
        allowed = self.allowed_models
        return allowed is None or model in allowed or ("auto" in allowed and is_alias(model))

    def may_choose(self, deployment: str) -> bool:
        """Whether this deployment may answer the key's requests."""
        return self.choosable_models is None or deployment in self.choosable_models

    @property
    def is_free(self) -> bool:
        """Whether nothing can refuse a request for its cost or its rate."""
        return all(account.is_free for account in self.accounts)


OPEN_PRINCIPAL = Principal(OPEN_TENANT, accounts=(Account("key:default"),))
