"""What the configured cache can do, found without starting it.

Owns the cache's part of ``penstock doctor``: it loads the decision rule as a server would. Read `examine_cache`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock_cache.errors import RuleError
from penstock_cache.rule import DecisionRule, load_rule
from penstock_gateway.caching.diagnosis import SUBJECT, SemanticGround, semantic_findings
from penstock_gateway.caching.start import open_pair_model, policies_of, rule_folder
from penstock_gateway.findings import Finding
from penstock_gateway.settings_cache import CacheSettings
from penstock_gateway.settings_deployments import model_folder
from penstock_routers.encoder_manifest import read_encoder_folder
from penstock_routers.errors import RouterError

if TYPE_CHECKING:
    from penstock_gateway.settings import Settings
    from penstock_routers.manifest import Manifest


def examine_cache(settings: Settings, manifest: Manifest | None) -> list[Finding]:
    """Say whether the configured cache can answer, exactly and from other wordings.

    Parameters
    ----------
    settings : Settings
    manifest : Manifest or None
        Of the router artifact; None when there is none, or it was refused.

    Returns
    -------
    list of Finding
    """
    cache = settings.cache
    if cache.mode == "off":
        return [Finding("ok", SUBJECT, "off: every request goes to a model (cache.mode)")]
    policies = policies_of(cache)
    needs_rule = cache.rule != "none" and any(policy.mode.is_semantic for policy in policies.values())
    rule, obstacle = _load(cache, manifest) if needs_rule else (None, None)
    ground = SemanticGround(
        settings=cache,
        policies=policies,
        keys=settings.client_keys,
        rule=rule,
        obstacle=obstacle,
        labels=() if manifest is None else manifest.categories,
    )
    return semantic_findings(ground)


def _load(cache: CacheSettings, manifest: Manifest | None) -> tuple[DecisionRule | None, tuple[str, str] | None]:
    if manifest is None:
        return None, ("no_encoder", "without a router artifact no prompt has a vector")
    try:
        rule = load_rule(
            rule_folder(cache.rule),
            open_pair_model,
            encoder_id=manifest.encoder.id,
            verifier_id=read_encoder_folder(model_folder(cache.verifier))[0].encoder_id,
            use=cache.verifier_use,
        )
    except (RuleError, RouterError) as error:
        return None, (error.code, error.message.rstrip("."))
    return rule, None
