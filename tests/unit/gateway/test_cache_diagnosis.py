"""What is said of a cache that can never give a semantic hit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.caching.diagnosis import SemanticGround, semantic_findings
from penstock_gateway.caching.start import policies_of
from penstock_gateway.doctor import examine
from penstock_gateway.findings import Finding
from penstock_gateway.settings_cache import CacheSettings
from penstock_gateway.settings_models import ClientKeySettings
from penstock_routers.bundled import bundled_folder
from support.semantic_gateway import rule

HEAD = ("coding", "science", "general")
CONFIG = """
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 1}}
  - {name: frontier, base_url: "http://127.0.0.1:9/v1", tier: frontier, price: {input: 9, output: 9}}
"""
KEY = "client_keys: [{name: a, key: '${K}', cache_category: faq}]\n"


def findings(
    cache: dict[str, Any],
    *,
    keys: tuple[ClientKeySettings, ...] = (),
    labels: tuple[str, ...] = HEAD,
    points: tuple[tuple[float, float | None], ...] = ((0.005, 0.9), (0.01, 0.8)),
    obstacle: tuple[str, str] | None = None,
    has_rule: bool = True,
) -> list[Finding]:
    """Judge a configuration by a rule with given operating points."""
    settings = CacheSettings.model_validate(cache)
    decided_by = rule(points=points) if has_rule else None
    return semantic_findings(SemanticGround(settings, policies_of(settings), keys, decided_by, obstacle, labels))


def test_diagnosis_of_exact_mode_is_content() -> None:
    """Who asks for exact repeats gets them; nothing is to be fixed."""
    assert findings({"mode": "exact"}) == [Finding("ok", "cache", "exact repeats only, as cache.mode says")]


def test_diagnosis_of_a_semantic_category_under_exact_mode_is_a_warning() -> None:
    """A category's mode holds below `cache.mode`, which is easily overlooked."""
    (finding,) = findings({"mode": "exact", "categories": {"faq": {"mode": "semantic"}}})
    assert (finding.level, finding.fix) == ("warn", "write cache.mode: semantic")
    assert "faq" in finding.detail


def test_diagnosis_of_semantic_mode_without_a_semantic_category_is_a_warning() -> None:
    """All categories below the mode that was asked for means that it never happens."""
    categories = {"faq": {"mode": "exact"}, "knowledge": {"mode": "off"}}
    (finding,) = findings({"mode": "semantic", "categories": categories})
    assert finding.level == "warn"
    assert "mode: semantic" in finding.fix


def test_diagnosis_of_a_rule_that_is_none_is_a_warning() -> None:
    """Without a rule nothing decides about other wordings."""
    (finding,) = findings({"mode": "semantic", "rule": "none"}, has_rule=False)
    assert (finding.level, finding.fix) == ("warn", "write cache.rule: default")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("no_encoder", "routing.artifact"),
        ("cache_rule_mismatch", "cache-calibrate"),
        ("cache_rule_missing", "cache.rule"),
        ("bundled_model_missing", "cache.verifier"),
    ],
)
def test_diagnosis_of_a_refused_rule_names_code_and_fix(code: str, word: str) -> None:
    """Each cause has its own way out."""
    (finding,) = findings({"mode": "semantic"}, obstacle=(code, "the sentence"), has_rule=False)
    assert finding.level == "warn"
    assert f"the sentence [{code}]" in finding.detail
    assert word in finding.fix


def test_diagnosis_of_certified_categories_names_budget_and_threshold() -> None:
    """The head's `science` is `knowledge`; `faq` is nobody's label, which is no fault as long as nobody asks for it."""
    knowledge, faq = findings({"mode": "semantic"})
    assert knowledge == Finding(
        "ok", "cache", "semantic hits in knowledge (at most 1 % of requests wrong, threshold 0.800)"
    )
    assert (faq.level, "cache.header_categories" in faq.fix) == ("ok", True)


@pytest.mark.parametrize(
    ("cache", "keys"),
    [
        ({"header_categories": ["faq"]}, ()),
        ({}, (ClientKeySettings(name="a", cache_category="faq"),)),
        ({}, (ClientKeySettings(name="a"), ClientKeySettings(name="b", cache_categories=("faq",)))),
    ],
)
def test_diagnosis_of_a_category_that_somebody_may_name_is_content(
    cache: dict[str, Any], keys: tuple[ClientKeySettings, ...]
) -> None:
    """A key's category, a key's allow-list, or the gateway's where there are no keys."""
    (finding,) = findings({"mode": "semantic", **cache}, keys=keys)
    assert finding.level == "ok"
    assert "faq" in finding.detail
    assert "knowledge" in finding.detail


def test_diagnosis_of_a_configured_category_that_nobody_can_be_in_is_a_warning() -> None:
    """Who configures a category wants requests in it; with keys, the keys have to name it."""
    cache = {"mode": "semantic", "categories": {"support": {"mode": "semantic", "false_hit_budget": 0.01}}}
    keys = (ClientKeySettings(name="a", cache_category="faq"),)
    support = next(finding for finding in findings(cache, keys=keys) if finding.detail.startswith("support"))
    assert support.level == "warn"
    assert "cache_categories" in support.fix


def test_diagnosis_of_an_uncertifiable_budget_names_the_least_that_is_certified() -> None:
    """A category stays off at a budget that the data cannot certify, and the next one is told."""
    cache = {"mode": "semantic", "categories": {"knowledge": {"false_hit_budget": 0.001}}}
    none, knowledge, _ = findings(cache)
    assert (none.level, knowledge.level) == ("warn", "warn")
    assert "no category can have a semantic hit" in none.detail
    assert knowledge.detail == "knowledge is not certifiable at its budget of 0.1 % in mode semantic"
    assert "false_hit_budget: 0.005" in knowledge.fix


def test_diagnosis_of_a_rule_that_certifies_nothing_points_to_calibration() -> None:
    """There is no looser budget to offer, so texts of one's own are needed."""
    none, *others = findings({"mode": "semantic"}, points=((0.01, None),))
    assert none.level == "warn"
    assert [finding.fix.startswith("calibrate on your own texts") for finding in others] == [True, True]


def test_diagnosis_of_an_intent_category_needs_a_rule_of_that_mode() -> None:
    """Strict paraphrases certify nothing about intents."""
    cache = {"mode": "faq-intent", "categories": {"faq": {"mode": "faq-intent"}}, "header_categories": ["faq"]}
    found = findings(cache)
    assert "knowledge" in found[0].detail
    assert "faq is not certifiable at its budget of 1 % in mode faq-intent" in found[1].detail


def cache_findings(tmp_path: Path, text: str) -> list[Finding]:
    """What ``penstock doctor`` says of a configuration's cache."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG + text)
    return [finding for finding in examine(path, {"K": "k" * 32}) if finding.subject == "cache"]


def test_doctor_of_a_configuration_without_a_cache_says_that_it_is_off(tmp_path: Path) -> None:
    """Off is the default and nothing to fix."""
    (finding,) = cache_findings(tmp_path, "")
    assert (finding.level, finding.fix) == ("ok", "")
    assert "off" in finding.detail


def test_doctor_of_the_bundled_rule_names_the_certified_categories(tmp_path: Path) -> None:
    """The shipped rule fits the shipped encoders and certifies the default budget of an FAQ."""
    (finding,) = cache_findings(tmp_path, KEY + "cache: {mode: semantic}\n")
    assert finding.level == "ok"
    assert "faq (at most 1 % of requests wrong, threshold 0." in finding.detail


def test_doctor_names_the_threshold_of_the_second_encoders_use(tmp_path: Path) -> None:
    """The bundled rule certifies each use by itself; without the second encoder the model's word counts for another."""
    told = {
        use: cache_findings(tmp_path, KEY + f"cache: {{mode: semantic, verifier_use: {use}}}\n")[0].detail
        for use in ("adaptive", "always", "never")
    }
    assert ["threshold 0.880" in told[use] for use in ("adaptive", "always")] == [True, True]
    assert "threshold 0.840" in told["never"]


def test_doctor_without_an_artifact_says_that_no_prompt_has_a_vector(tmp_path: Path) -> None:
    """Other wordings are found by the vector that the router's encoder makes."""
    (finding,) = cache_findings(tmp_path, "routing: {artifact: none}\ncache: {mode: semantic}\n")
    assert (finding.level, "[no_encoder]" in finding.detail) == ("warn", True)


@pytest.mark.parametrize(
    ("cache", "code"),
    [
        ("rule: ./damaged", "cache_rule_damaged"),
        ("verifier: static-minilm-256", "cache_rule_mismatch"),
    ],
)
def test_doctor_of_a_refused_rule_warns_before_the_gateway_starts(tmp_path: Path, cache: str, code: str) -> None:
    """What the gateway would only log when it starts is seen beforehand."""
    damaged = tmp_path / "damaged"
    shutil.copytree(bundled_folder("cache-rule"), damaged)
    (damaged / "pair_model.onnx").write_bytes(b"something else")
    (finding,) = cache_findings(tmp_path, f"cache: {{mode: semantic, {cache}}}\n")
    assert finding.level == "warn"
    assert f"[{code}]" in finding.detail
    assert finding.fix
