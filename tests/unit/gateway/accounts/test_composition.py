"""How the restrictions of key, team and gateway add up."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.composition import account_of, compose, gateway_policy, models_of
from penstock_gateway.accounts.directory import Directory
from penstock_gateway.accounts.principal import OPEN_TENANT, BudgetRule
from penstock_gateway.ledger.contract import Account, Budget, Period, RateLimits
from penstock_gateway.request_body import parse_chat_request
from penstock_gateway.request_policy import UNLIMITED, PolicyBook, RequestPolicy
from penstock_gateway.settings import Settings
from penstock_gateway.settings_accounts import (
    BudgetRuleSettings,
    BudgetSettings,
    KeyFields,
    PolicyFields,
    RateLimitSettings,
)
from penstock_gateway.settings_models import ClientKeySettings, ExploreSettings, RoutingSettings

REQUEST = parse_chat_request(msgspec.json.encode({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}))


def _composed(key: KeyFields, team: PolicyFields | None = None, own: RequestPolicy = UNLIMITED) -> Any:
    return compose("id", "ci", key, team=team, tags=(), own=own, tenant="t")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tradeoff": "cost", "max_cost_usd": 0.5},
        {"min_quality": 0.9, "explore_rate": 0.0},
        {"category_floors": {"medical": "large", "code": "small"}, "explore_rate": 0.25},
    ],
)
def test_policy_of_a_configured_key_is_what_the_policy_book_gives(fields: dict[str, Any]) -> None:
    """A principal's policy equals the one that the gateway has resolved for that key so far."""
    routing = RoutingSettings(category_floors={"code": "medium"}, explore=ExploreSettings(rate=0.01))
    key = ClientKeySettings(name="acme", key=SecretStr("k" * 20), **fields)
    settings = Settings(client_keys=(key,), routing=routing)
    directory = Directory(settings, None, b"0123456789abcdef")
    book = PolicyBook(settings)
    assert directory.authenticate("k" * 20).policy == book.resolve("acme", REQUEST, UNLIMITED, None)
    is_open = Directory(Settings(routing=routing), None, b"0123456789abcdef").authenticate(None)
    assert is_open.policy == PolicyBook(Settings(routing=routing)).resolve(OPEN_TENANT, REQUEST, UNLIMITED, None)


def test_floor_of_key_and_team_can_only_be_raised() -> None:
    """The highest floor of gateway, team and key holds in each category."""
    team = PolicyFields(category_floors={"medical": "large", "code": "small"})
    key = KeyFields(category_floors={"medical": "small", "law": "medium"})
    own = RequestPolicy(floors={"code": 1})
    assert _composed(key, team, own).policy.floors == {"medical": 2, "law": 1, "code": 1}


def test_cost_cap_of_key_and_team_is_the_lower_one() -> None:
    """A key cannot raise its team's cap."""
    assert _composed(KeyFields(max_cost_usd=5.0), PolicyFields(max_cost_usd=1.0)).policy.max_cost_usd == 1.0
    assert _composed(KeyFields(max_cost_usd=0.5), PolicyFields(max_cost_usd=1.0)).policy.max_cost_usd == 0.5
    assert _composed(KeyFields(), PolicyFields()).policy.max_cost_usd is None


def test_preset_of_a_team_gives_way_to_the_keys_own() -> None:
    """Trade-off and quality are one knob, taken from the key if it sets either; so are exploration and priority."""
    team = PolicyFields(tradeoff="cost", explore_rate=0.1, priority="low")
    inherited = _composed(KeyFields(), team)
    assert (inherited.policy.tradeoff, inherited.policy.explore_rate, inherited.priority) == ("cost", 0.1, "low")
    own = _composed(KeyFields(min_quality=0.9, explore_rate=0.0, priority="high"), team)
    assert (own.policy.tradeoff, own.policy.min_quality, own.policy.explore_rate) == (None, 0.9, 0.0)
    assert own.priority == "high"
    assert _composed(KeyFields()).priority == "normal"


@pytest.mark.parametrize(
    ("team", "key", "asked", "chosen"),
    [
        (None, None, None, None),
        (None, ("auto",), {"auto"}, None),
        (None, ("auto", "a", "b"), {"auto", "a", "b"}, {"a", "b"}),
        (("a", "b", "auto"), None, {"a", "b", "auto"}, {"a", "b"}),
        (("a", "b"), ("b", "c"), {"b"}, {"b"}),
        (("auto",), ("auto:cost",), {"auto:cost"}, None),
        (("auto@0.2", "a"), ("auto",), {"auto@0.2"}, {"a"}),
        (("a",), ("b",), set(), set()),
    ],
)
def test_allowed_models_of_key_and_team_are_those_of_both(
    team: tuple[str, ...] | None, key: tuple[str, ...] | None, asked: set[str] | None, chosen: set[str] | None
) -> None:
    """What is asked for must be allowed by both, an alias by ``auto`` too; aliases alone restrict no choice."""
    layers = [PolicyFields(allowed_models=team), KeyFields(allowed_models=key)]
    assert models_of(layers) == (asked, chosen)


def test_principal_with_auto_allowed_may_ask_for_all_its_forms() -> None:
    """``auto`` stands for every alias; a deployment has to be named itself."""
    principal = _composed(KeyFields(allowed_models=("auto", "a")))
    assert [principal.may_ask_for(model) for model in ("auto", "auto@0.7", "a", "b")] == [True, True, True, False]
    assert [principal.may_choose(model) for model in ("a", "b")] == [True, False]
    assert _composed(KeyFields()).may_ask_for("anything")
    assert _composed(KeyFields()).may_choose("anything")


def test_account_of_a_key_has_exact_budgets_and_limits() -> None:
    """Budgets become whole picodollars, limits stay as they are."""
    fields = KeyFields(
        budgets=(BudgetSettings(period=Period.DAY, limit_usd=Decimal("0.000000000001"), soft_share=0.5),),
        limits=RateLimitSettings(requests_per_minute=7, parallel_requests=2),
    )
    assert account_of("key", "id", fields) == Account(
        "key:id", (Budget(Period.DAY, 1, 0.5),), RateLimits(requests_per_minute=7, parallel_requests=2)
    )


def test_accounts_of_a_principal_are_key_team_and_tags_in_this_order() -> None:
    """A request is charged to its key, the key's team and its tags, and the rules of both hold."""
    rule = BudgetRuleSettings(used_share=0.8, tradeoff="cost")
    principal = compose(
        "id",
        "ci",
        KeyFields(team="search", tags=("x",), budget_rules=(BudgetRuleSettings(used_share=0.5, tradeoff=0.25),)),
        team=PolicyFields(budget_rules=(rule,)),
        tags=(Account("tag:x"),),
        own=UNLIMITED,
        tenant="search",
    )
    assert [account.scope for account in principal.accounts] == ["key:id", "team:search", "tag:x"]
    assert principal.budget_rules == (BudgetRule(0.8, "cost"), BudgetRule(0.5, 0.25))
    assert principal.is_free


def test_gateway_policy_of_the_routing_section_has_its_floors_and_rate() -> None:
    """A key that says nothing has the gateway's floors and exploration."""
    routing = RoutingSettings(category_floors={"code": "medium"}, explore=ExploreSettings(rate=0.5))
    assert gateway_policy(Settings(routing=routing)) == RequestPolicy(floors={"code": 1}, explore_rate=0.5)
