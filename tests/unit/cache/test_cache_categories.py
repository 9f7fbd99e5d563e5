"""Policies by category, and what an uncertain label means."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from penstock_cache.categories import (
    DEFAULT_POLICIES,
    GENERAL,
    POLICY_NAMES,
    VOLATILE,
    CacheMode,
    CategoryPolicy,
    policy_for,
    reads_volatile,
)
from penstock_cache.errors import DirectiveError


def test_policy_names_cover_every_label_of_the_category_head() -> None:
    """Each label that a router is trained with has a policy, whatever labels are added later."""
    from penstock_training.categories import CATEGORIES

    assert set(POLICY_NAMES) == set(CATEGORIES)
    assert set(POLICY_NAMES.values()) <= set(DEFAULT_POLICIES)


@pytest.mark.parametrize("name", DEFAULT_POLICIES)
def test_default_policy_of_any_category_is_within_its_ranges(name: str) -> None:
    """Shares, budgets, times and temperatures are in range, and volatile answers are never prolonged."""
    policy = DEFAULT_POLICIES[name]
    assert 0 < policy.false_hit_budget <= 0.01
    assert policy.ttl_seconds > 0
    assert 0 <= policy.reserve_share <= policy.cap_share <= 1
    assert 0 <= policy.max_temperature <= 2
    assert policy.max_stale_seconds <= policy.ttl_seconds
    assert not (policy.is_volatile and policy.max_stale_seconds)
    assert not policy.is_shared_across_tenants


def test_default_policies_together_reserve_no_more_than_there_is() -> None:
    """Reserves are promises of bytes, so their sum is at most one."""
    assert sum(policy.reserve_share for policy in DEFAULT_POLICIES.values()) <= 1


def test_default_policy_for_unnamed_or_risky_traffic_allows_no_other_wording() -> None:
    """By default only knowledge and FAQ answer other wordings, and nothing answers same intents."""
    semantic = {name for name, policy in DEFAULT_POLICIES.items() if policy.mode.is_semantic}
    assert semantic == {"faq", "knowledge"}
    assert CacheMode.FAQ_INTENT not in {policy.mode for policy in DEFAULT_POLICIES.values()}


def test_strictest_of_any_two_policies_promises_what_both_promise() -> None:
    """Field by field the stricter value wins, in either order, quota shares apart."""
    order = list(CacheMode)
    for one, other in itertools.product(DEFAULT_POLICIES.values(), repeat=2):
        strict, back = one.strictest_with(other), other.strictest_with(one)
        assert dataclasses.replace(back, reserve_share=one.reserve_share, cap_share=one.cap_share) == strict
        assert order.index(strict.mode) == min(order.index(one.mode), order.index(other.mode))
        assert strict.false_hit_budget == min(one.false_hit_budget, other.false_hit_budget)
        assert strict.ttl_seconds == min(one.ttl_seconds, other.ttl_seconds)
        assert strict.is_volatile == (one.is_volatile or other.is_volatile)
        assert strict.max_temperature == min(one.max_temperature, other.max_temperature)
        assert strict.caches_default_temperature == (
            one.caches_default_temperature and other.caches_default_temperature
        )
        assert strict.max_stale_seconds == min(one.max_stale_seconds, other.max_stale_seconds)


def test_strictest_policy_is_shared_only_where_both_are() -> None:
    """Sharing across tenants needs every plausible category's consent."""
    shared, own = CategoryPolicy(is_shared_across_tenants=True), CategoryPolicy()
    assert shared.strictest_with(shared).is_shared_across_tenants
    assert not shared.strictest_with(own).is_shared_across_tenants


@pytest.mark.parametrize(
    ("shares", "category", "blended"),
    [
        ({}, GENERAL, ()),
        ({"science": 0.95, "medical": 0.05}, "knowledge", ()),
        ({"science": 0.6, "medical": 0.4}, "knowledge", ("medical",)),
        ({"science": 0.3, "history": 0.3, "coding": 0.4}, "knowledge", ("code",)),
        ({"maths": 0.45, "reasoning": 0.45, "coding": 0.1}, "maths", ()),
        ({"knowledge": 0.9}, "knowledge", ()),
        ({"astrology": 0.9, "medical": 0.1}, GENERAL, ()),
        ({"coding": 0.19, "medical": 0.18, "legal": 0.17, "finance": 0.16}, "code", (GENERAL,)),
    ],
)
def test_label_of_given_certainty_blends_every_plausible_category(
    shares: dict[str, float], category: str, blended: tuple[str, ...]
) -> None:
    """Shares of one policy add up; each plausible one tightens the likeliest; none plausible means general."""
    chosen = policy_for(shares)
    assert (chosen.category, chosen.blended) == (category, blended)


def test_uncertain_label_beside_a_strict_category_gets_the_strict_promises() -> None:
    """What may be medical is treated as medical, with the quota of what it is counted as."""
    chosen = policy_for({"science": 0.7, "medical": 0.3}).policy
    knowledge, medical = DEFAULT_POLICIES["knowledge"], DEFAULT_POLICIES["medical"]
    assert chosen.mode is CacheMode.EXACT
    assert chosen.false_hit_budget == medical.false_hit_budget
    assert chosen.ttl_seconds == medical.ttl_seconds
    assert chosen.reserve_share == knowledge.reserve_share


def test_category_off_in_the_table_switches_off_what_may_belong_to_it() -> None:
    """Off is the strictest mode, so a plausible category that is off keeps the request out."""
    table = {**DEFAULT_POLICIES, "medical": CategoryPolicy(mode=CacheMode.OFF)}
    assert policy_for({"science": 0.7, "medical": 0.3}, table).policy.mode is CacheMode.OFF
    assert policy_for({"science": 0.9, "medical": 0.1}, table).policy.mode is CacheMode.SEMANTIC


def test_prompt_that_asks_for_the_present_gets_the_volatile_promises() -> None:
    """Words like today shorten the TTL of whatever the head calls the prompt."""
    chosen = policy_for({"science": 1.0}, prompt="Who is leading the race today?")
    assert chosen.blended == (VOLATILE,)
    assert chosen.policy.ttl_seconds == DEFAULT_POLICIES[VOLATILE].ttl_seconds
    assert chosen.policy.is_volatile


@pytest.mark.parametrize(
    ("prompt", "is_volatile"),
    [
        ("What's the weather in Oslo?", True),
        ("Who is the current president of France?", True),
        ("latest version of numpy", True),
        ("EUR/USD exchange rate", True),
        ("Wie ist das Wetter morgen?", True),
        ("Quelles sont les actualités ?", True),
        ("¿Qué noticias hay hoy?", True),
        ("x" * 9000 + " as of today", True),
        ("print the current directory in Go", False),
        ("What is the current through a 5 ohm resistor at 10 V?", False),
        ("Where do penguins live?", False),
        ("Was ist hier falsch: x = 1?", False),
        ("Explain actual costs against planned costs.", False),
        ("What is the capital of France?", False),
        ("", False),
    ],
)
def test_prompt_of_given_words_reads_volatile_or_not(prompt: str, is_volatile: bool) -> None:
    """Words that ask for the present are found in four languages, words that look like them are not."""
    assert reads_volatile(prompt) is is_volatile


def test_category_named_within_the_allow_list_is_taken_as_it_is() -> None:
    """Who may name a category knows the traffic: the head's shares do not matter then."""
    chosen = policy_for({"medical": 1.0}, named="faq", allow_list=("faq", "code"), prompt="today")
    assert (chosen.category, chosen.policy, chosen.blended) == ("faq", DEFAULT_POLICIES["faq"], ())


@pytest.mark.parametrize(
    ("named", "allow_list", "hint"),
    [
        ("fqa", ("faq", "code"), "Did you mean 'faq'?"),
        ("medical", ("faq", "code"), "This key may name: code, faq."),
        ("faq", (), "This key may name none."),
        ("astrology", ("astrology",), "This key may name none."),
        ("", ("faq",), "This key may name: faq."),
    ],
)
def test_category_named_outside_the_allow_list_is_refused(named: str, allow_list: tuple[str, ...], hint: str) -> None:
    """A name that the key may not use, or that the table lacks, is an error with a hint."""
    with pytest.raises(DirectiveError) as caught:
        policy_for({}, named=named, allow_list=allow_list)
    assert hint in caught.value.message
    assert caught.value.code == "cache_category_not_allowed"
