"""What is known of a model before anybody configures it: price, limits, abilities and parameter rules.

Looks models up in the bundled price snapshot (exactly, then without a date suffix, never by similarity) and adds the
rules by which a model's parameters differ from the common chat schema. It decides nothing. Read `find_model` first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from penstock_gateway.deployments import Ability, HiddenReasoning, ParameterRules
from penstock_gateway.money.prices import Price
from penstock_gateway.money.snapshot import SnapshotModel, load_snapshot
from penstock_gateway.wire.claude_generations import FIRST_THINKING_UNASKED, generation_of

_DATE_SUFFIX = re.compile(r"[-@](20\d{2}-\d{2}-\d{2}|20\d{6})$")
_OPENAI_GPT = re.compile(r"gpt-(\d+)(?:\.\d+)?(?=[-.]|$)")
_OPENAI_O_SERIES = re.compile(r"o\d+(?=-|$)")

# platform.openai.com/docs/api-reference/chat/create, "stop": more are a 400 ("array too long").
_OPENAI_STOPS = 4
_UNCHANGED_SAMPLING: dict[str, object] = {"temperature": 1, "top_p": 1}
_NO_PENALTIES: dict[str, object] = {"presence_penalty": 0, "frequency_penalty": 0}
_NO_LOGPROBS: dict[str, object] = {"logprobs": False}
# OpenAI, Google and xAI stream nothing of it or a summary, Anthropic a summary; the servers of open models stream it
# as ``reasoning_content``.
_HIDING_PROVIDERS = frozenset({"openai", "azure", "gemini", "vertex_ai", "xai"})


# 400 "Unrecognized request argument supplied: reasoning_effort" from their models that do not reason.
_STRICT_ABOUT_EFFORT = frozenset({"openai", "azure"})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the snapshot and the rules say of one model.

    Attributes
    ----------
    price : Price
    context_tokens : int
        Most prompt tokens that the base price holds for: models whose price rises beyond a prompt length are cut there.
    provider_context_tokens : int
        What the provider itself takes.
    max_output_tokens : int
    abilities : frozenset of Ability
    deprecated_on : str
        ISO date on which the maker switches the model off; empty when none is known.
    hidden_reasoning : HiddenReasoning
        When its streams show less than they cost.
    """

    price: Price
    context_tokens: int
    provider_context_tokens: int
    max_output_tokens: int
    abilities: frozenset[Ability]
    deprecated_on: str = ""
    hidden_reasoning: HiddenReasoning = HiddenReasoning.NEVER


def find_model(provider: str, model: str, adapter: str) -> ModelFacts | None:
    """Look a model up in the bundled snapshot.

    Parameters
    ----------
    provider : str
        A name of `providers.PROVIDERS`.
    model : str
        What the provider calls it; a date at its end (``-2025-08-07``, ``-20250929``) may be unknown.
    adapter : str
        ``"direct"`` or ``"litellm"``; some OpenAI-compatible endpoints can do less than the provider's own.

    Returns
    -------
    ModelFacts or None
        None when the snapshot does not have it; a similar name is never taken for it.
    """
    found = _snapshot_model(provider, model)
    if found is None:
        return None
    snapshot = load_snapshot()
    return ModelFacts(
        price=found.price(snapshot),
        context_tokens=min(found.context_tokens, found.dearer_above_tokens or found.context_tokens),
        provider_context_tokens=found.context_tokens,
        max_output_tokens=found.max_output_tokens,
        abilities=_abilities(provider, adapter, found),
        deprecated_on=found.deprecated_on,
        hidden_reasoning=_hidden_reasoning(provider, model, found),
    )


def find_rules(provider: str, model: str, adapter: str) -> ParameterRules:
    """Return how a model's parameters differ from the common chat schema.

    Parameters
    ----------
    provider, model, adapter : str
        As for `find_model`.

    Returns
    -------
    ParameterRules
        Empty rules when nothing is known.
    """
    rules = _provider_rules(provider, model, adapter)
    found = _snapshot_model(provider, model)
    fixed: dict[str, object] = {}
    if found is not None and not found.takes_sampling:
        # Claude 4.7 and later answer 400 "`temperature` is deprecated for this model" whichever way they are
        # reached; the map marks them with supports_sampling_params: false.
        fixed |= _UNCHANGED_SAMPLING
    if found is not None and not found.takes_forced_tools:
        fixed["tool_choice"] = "auto"
    if found is not None and not found.is_reasoning and provider in _STRICT_ABOUT_EFFORT:
        rules = replace(rules, unsupported=rules.unsupported | {"reasoning_effort"})
    return replace(rules, droppable={**rules.droppable, **fixed}) if fixed else rules


def _provider_rules(provider: str, model: str, adapter: str) -> ParameterRules:
    """Return what a provider's documentation says; the page stands beside each rule."""
    if provider in ("openai", "azure"):
        return replace(_openai_rules(provider, model), max_stops=_OPENAI_STOPS)
    if provider == "anthropic" and adapter == "direct":
        # The Messages API has no such fields: leaving them out would change the answer of a routed request without a
        # word, so it goes elsewhere.
        unsupported = frozenset({"logit_bias", "top_logprobs", "prediction", "audio"})
        return ParameterRules("both", unsupported, {"n": 1, **_NO_PENALTIES, **_NO_LOGPROBS})
    if provider == "groq":
        # console.groq.com/docs/openai, "Currently unsupported OpenAI features": each is a 400; n must be 1.
        return ParameterRules("both", frozenset({"logit_bias", "top_logprobs"}), {"n": 1, **_NO_LOGPROBS})
    if provider == "mistral":
        # Fields that are not in docs.mistral.ai/api, "Chat completion", are a 422 "Extra inputs are not permitted";
        # max_completion_tokens is one (editor-code-assistant/eca#231, 2025-12).
        unsupported = frozenset({"logit_bias", "logprobs", "top_logprobs", "service_tier", "store", "user"})
        return ParameterRules("max_tokens", unsupported)
    if provider == "xai" and _is_reasoning(provider, model):
        # docs.x.ai, "Reasoning": penalties and stop are errors on reasoning models.
        return ParameterRules("both", frozenset({"stop", "logit_bias"}), dict(_NO_PENALTIES))
    return ParameterRules()


def _openai_rules(provider: str, model: str) -> ParameterRules:
    """Apply platform.openai.com/docs/guides/reasoning and /guides/latest-model, "Parameter compatibility".

    Reasoning models refuse ``max_tokens``, and any sampling but the default while they reason. Some (GPT-5.1 to 5.4)
    do not reason unless asked, and then take sampling.
    """
    name = _DATE_SUFFIX.sub("", model.rsplit("/", 1)[-1])
    gpt = _OPENAI_GPT.match(name)
    is_reasoning = _OPENAI_O_SERIES.match(name) is not None or (gpt is not None and int(gpt[1]) >= 5)
    if not is_reasoning:
        return ParameterRules()
    if "chat" in name.split("-"):  # gpt-5-chat-latest and the like do not reason, but take the newer length field
        return ParameterRules("max_completion_tokens")
    found = _snapshot_model(provider, model)
    if found is not None and found.has_optional_reasoning:
        return ParameterRules("max_completion_tokens", frozenset({"logit_bias", "stop"}), dict(_NO_PENALTIES))
    unsupported = {"logit_bias", "top_logprobs"}
    if not name.startswith("o1"):
        unsupported.add("stop")  # 400 "'stop' is not supported with this model" from o3 on
    fixed = {**_UNCHANGED_SAMPLING, **_NO_PENALTIES, **_NO_LOGPROBS}
    return ParameterRules("max_completion_tokens", frozenset(unsupported), fixed)


def _snapshot_model(provider: str, model: str) -> SnapshotModel | None:
    models = load_snapshot().models.get(provider, {})
    return models.get(model) or models.get(_DATE_SUFFIX.sub("", model))


def _is_reasoning(provider: str, model: str) -> bool:
    found = _snapshot_model(provider, model)
    return found is not None and found.is_reasoning and "non-reasoning" not in model


def _hidden_reasoning(provider: str, model: str, found: SnapshotModel) -> HiddenReasoning:
    is_claude = "claude" in model
    is_hidden = provider in _HIDING_PROVIDERS or is_claude or "gemini" in model
    if not found.is_reasoning or not is_hidden or "non-reasoning" in model:
        return HiddenReasoning.NEVER
    is_asked = is_claude and (generation_of(model) or FIRST_THINKING_UNASKED) < FIRST_THINKING_UNASKED
    return HiddenReasoning.ON_REQUEST if found.has_optional_reasoning or is_asked else HiddenReasoning.ALWAYS


def _abilities(provider: str, adapter: str, found: SnapshotModel) -> frozenset[Ability]:
    abilities = frozenset(Ability(name) for name in found.abilities)
    if provider == "anthropic" and adapter == "direct":
        abilities -= {Ability.AUDIO}  # platform.claude.com/docs/en/api/messages: no content block for sound
    return abilities
