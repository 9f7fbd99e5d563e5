"""What keeps the cache from answering: a configuration that can never give a semantic hit, contexts that never repeat.

Owns the findings and their words, for ``penstock doctor`` and for a running gateway. It changes nothing and shows no
content. Read `semantic_findings`, then `diagnose`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from penstock_cache.categories import GENERAL, POLICY_NAMES, CacheMode, CategoryPolicy
from penstock_cache.contexts import Varies, VaryingField
from penstock_cache.rule import DecisionRule, RuleMode
from penstock_gateway.caching.context_samples import find_varying_fields
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.findings import Finding
from penstock_gateway.settings_cache import CacheSettings
from penstock_gateway.settings_models import ClientKeySettings

SUBJECT: Final = "cache"
CONTEXTS: Final = "contexts"
_ASK_FOR_SEMANTIC: Final = "write mode: semantic for a category that repeats, say cache.categories.faq"
_LEAST_SAMPLE: Final = 8  # requests from which shares are worth a sentence
_LEAST_SPLIT: Final = 3  # requests that a field must have split: fewer may be somebody trying things out
_SHOWN_PATH_CHARACTERS: Final = 80  # names inside a client's own fields may be content too

_RULE_FIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "no_encoder": "set routing.artifact and see the finding on routing: a prompt's vector comes from its encoder",
        "missing_extra": "see the finding on onnxruntime",
        "cache_rule_missing": "check the folder named in cache.rule",
        "cache_rule_damaged": "write the rule's folder again: penstock-train cache-calibrate; or cache.rule: default",
        "cache_rule_mismatch": "calibrate it again, for these encoders: penstock-train cache-calibrate",
    }
)
_OTHER_RULE_FIX: Final = "check cache.rule and cache.verifier: a bundled name or a folder"

_PARAMETER_FIX: Final = "send the same value each time, or leave it out"
_CONTEXT_FIXES: Final[Mapping[Varies, str]] = MappingProxyType(
    {
        Varies.DATE: "leave the date out where answers do not depend on it, or put it into the last user message",
        Varies.TIME: "leave the time out, or give the date alone: then contexts repeat for a day",
        Varies.UUID: "send it as metadata or user, which are no part of the key, or leave it out",
        Varies.IDENTIFIER: "send it as metadata or user, which are no part of the key, or leave it out",
        Varies.NUMBER: "leave it out, or put it into the last user message if the answer depends on it",
        Varies.OTHER: "put what differs into the last user message, or leave it out",
    }
)


@dataclass(frozen=True, slots=True)
class SemanticGround:
    """What semantic hits stand on in one gateway.

    Attributes
    ----------
    settings : CacheSettings
        With a mode other than ``off``.
    policies : mapping of str to CategoryPolicy
        In force by category, ``cache.mode`` applied.
    keys : sequence of ClientKeySettings
    rule : DecisionRule or None
    obstacle : tuple of (str, str) or None
        Code and sentence of why there is no rule although there should be one.
    labels : collection of str
        What the router's head can say of a prompt; empty without one.
    """

    settings: CacheSettings
    policies: Mapping[str, CategoryPolicy]
    keys: Sequence[ClientKeySettings]
    rule: DecisionRule | None
    obstacle: tuple[str, str] | None
    labels: Collection[str]


def semantic_findings(ground: SemanticGround) -> list[Finding]:
    """Say which categories may be answered from other wordings, and if none, why.

    Parameters
    ----------
    ground : SemanticGround

    Returns
    -------
    list of Finding
        At least one; a warning where semantic hits are asked for and can never happen.
    """
    settings = ground.settings
    if settings.mode == "exact":
        asked = [name for name, given in settings.categories.items() if given.mode in ("semantic", "faq-intent")]
        if not asked:
            return [Finding("ok", SUBJECT, "exact repeats only, as cache.mode says")]
        detail = f"{_listed(asked)} should be semantic, but cache.mode is exact, and no category goes beyond it"
        return [Finding("warn", SUBJECT, detail, "write cache.mode: semantic")]
    wanted = {name: policy for name, policy in ground.policies.items() if policy.mode.is_semantic}
    if not wanted:
        detail = f"cache.mode is {settings.mode}, but no category is: exact repeats only"
        return [Finding("warn", SUBJECT, detail, _ASK_FOR_SEMANTIC)]
    if ground.obstacle is not None:
        code, sentence = ground.obstacle
        fix = _RULE_FIXES.get(code, _OTHER_RULE_FIX)
        return [Finding("warn", SUBJECT, f"exact repeats only: {sentence} [{code}]", fix)]
    if ground.rule is None:
        return [Finding("warn", SUBJECT, "exact repeats only: cache.rule is none", "write cache.rule: default")]
    return _category_findings(ground, ground.rule, wanted)


def _category_findings(
    ground: SemanticGround, rule: DecisionRule, wanted: Mapping[str, CategoryPolicy]
) -> list[Finding]:
    """Say of each category that should be semantic whether it is certified and whether requests can be in it."""
    certified = {name: rule.threshold(name, _mode(policy), policy.false_hit_budget) for name, policy in wanted.items()}
    reachable = {GENERAL, *_named(ground)} | {POLICY_NAMES.get(label, label) for label in ground.labels}
    is_certified = [name for name, threshold in certified.items() if threshold is not None]
    on = [name for name in is_certified if name in reachable]
    findings = [_not_certifiable(rule, name, wanted[name]) for name in wanted if name not in is_certified]
    findings += [_not_reachable(ground, name) for name in is_certified if name not in reachable]
    if on:
        told = [
            f"{name} (at most {_percent(wanted[name].false_hit_budget)} of requests wrong, "
            f"threshold {certified[name]:.3f})"
            for name in on
        ]
        return [Finding("ok", SUBJECT, f"semantic hits in {_listed(told)}"), *findings]
    return [Finding("warn", SUBJECT, "no category can have a semantic hit: exact repeats only"), *findings]


def _not_certifiable(rule: DecisionRule, name: str, policy: CategoryPolicy) -> Finding:
    mode = _mode(policy)
    budgets = sorted({point.budget for point in rule.points if point.mode == mode})
    least = next((budget for budget in budgets if rule.threshold(name, mode, budget) is not None), None)
    detail = f"{name} is not certifiable at its budget of {_percent(policy.false_hit_budget)} in mode {mode}"
    fix = "calibrate on your own texts: penstock-train cache-calibrate --texts FILE --out FOLDER"
    if least is not None:
        fix = f"the rule certifies {_percent(least)}, if that is good enough (false_hit_budget: {least:g}); else {fix}"
    return Finding("warn", SUBJECT, detail, fix)


def _not_reachable(ground: SemanticGround, name: str) -> Finding:
    """A category that only callers can name is quietly unused by default, so it is a warning only when configured."""
    where = "a key (cache_category or cache_categories)" if ground.keys else "cache.header_categories"
    is_configured = name in ground.settings.categories
    detail = f"{name} is semantic, but no request can be in it: the router has no such label, and nobody may name it"
    return Finding("warn" if is_configured else "ok", SUBJECT, detail, f"name it in {where}, if you want it")


def _named(ground: SemanticGround) -> set[str]:
    if not ground.keys:
        return set(ground.settings.header_categories)
    own = {key.cache_category for key in ground.keys if key.cache_category is not None}
    return own.union(*(key.cache_categories for key in ground.keys))


def _mode(policy: CategoryPolicy) -> RuleMode:
    return "faq-intent" if policy.mode is CacheMode.FAQ_INTENT else "semantic"


def _percent(share: float) -> str:
    return f"{100.0 * share:g} %"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


async def diagnose(services: CacheServices, tenant: str, labels: Collection[str]) -> dict[str, Any]:
    """Look at a running cache for one tenant.

    Parameters
    ----------
    services : CacheServices
    tenant : str
    labels : collection of str
        As in `SemanticGround`.

    Returns
    -------
    dict
        Plain values: ``findings``, and of ``contexts`` the figures behind them.
    """
    sketches = services.samples.recent(tenant)
    varying = await asyncio.to_thread(find_varying_fields, sketches)
    fields = [field for field in varying if round(field.split_share * len(sketches)) >= _LEAST_SPLIT]
    repeat_share = services.cache.parts.contexts.repeat_share(tenant)
    findings = [*_semantic(services, labels), *_context_findings(len(sketches), repeat_share, fields)]
    return {
        "object": "cache.diagnosis",
        "findings": [finding.as_dict() for finding in findings],
        "contexts": {
            "repeat_share": None if repeat_share is None else round(repeat_share, 4),
            "sampled_requests": len(sketches),
            "varying_fields": [_field_as_json(field) for field in fields],
        },
    }


def _semantic(services: CacheServices, labels: Collection[str]) -> list[Finding]:
    judge = services.oversight.judge
    obstacle = None
    if services.finding is not None:
        obstacle = (services.finding, "the decision rule or an encoder was refused at the start; the log says why")
    ground = SemanticGround(
        settings=services.settings,
        policies=services.cache.parts.policies,
        keys=tuple(services.keys.values()),
        rule=None if judge is None else judge.rule,
        obstacle=obstacle,
        labels=labels,
    )
    steering = services.oversight.steering
    off = [name for name in ground.policies if (switch := steering.switch(name)) is not None and not switch.is_on]
    findings = semantic_findings(ground)
    if off:
        detail = f"audits have switched semantic hits off in {_listed(off)}"
        findings.append(Finding("warn", SUBJECT, detail, "they return when audits in the shadow prove them right"))
    return findings


def _context_findings(sampled: int, repeat_share: float | None, fields: Sequence[VaryingField]) -> list[Finding]:
    if repeat_share is None:
        return [Finding("ok", CONTEXTS, "no request of this key yet; ask again when there were some")]
    share = f"{repeat_share:.0%} of this key's requests have a context that repeats"
    if sampled < _LEAST_SAMPLE:
        detail = f"{share}; with {sampled} requests looked at it is too early to name a field"
        return [Finding("ok", CONTEXTS, detail)]
    if not fields:
        return [Finding("ok", CONTEXTS, f"{share}; no field keeps the others of the last {sampled} from it")]
    return [
        Finding("ok", CONTEXTS, f"{share}; fields that keep them from it, in the last {sampled}:"),
        *(_field_finding(field) for field in fields),
    ]


def _field_finding(field: VaryingField) -> Finding:
    if field.kind is Varies.HISTORY:
        return Finding("ok", CONTEXTS, str(field))
    fix = _CONTEXT_FIXES[field.kind] if field.path.startswith("messages[") else _PARAMETER_FIX
    return Finding("warn", CONTEXTS, str(field), fix)


def _field_as_json(field: VaryingField) -> dict[str, Any]:
    return {
        "path": field.path[:_SHOWN_PATH_CHARACTERS],
        "kind": field.kind.value,
        "position": field.position,
        "values": field.values,
        "split_share": round(field.split_share, 4),
    }
