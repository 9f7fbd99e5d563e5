"""What stands around a prompt is learned from outcomes that tell of it, and is looked at in serving as in training."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.request_body import parse_chat_request
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.requests import parse_request
from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import EncoderService
from penstock_routers.features import CONTEXT_FEATURE_NAMES, FEATURE_NAMES, NO_CONTEXT, PromptContext, prompt_features
from penstock_routers.fused import fused_with
from penstock_training.cli import main
from penstock_training.outcomes import load_outcomes
from penstock_training.prior import Prior
from support.fakes import deployment, price

WORDS = ("river", "market", "engine", "letter", "garden", "winter", "theory", "silver", "promise", "signal", "kitchen")
TOOLS = 4
PROMPTS = 900


def question(draw: random.Random) -> str:
    """Return a prompt that says nothing of what it takes to answer it."""
    return f"What about the {' '.join(draw.sample(WORDS, 4))} in case {draw.randrange(10**6)}?"


def rows() -> list[dict[str, Any]]:
    """Return outcomes of prompts of which half come with tools, where the small model fails."""
    draw = random.Random(3)
    found = []
    for number in range(PROMPTS):
        has_tools = draw.random() < 0.5
        context = {"system_bytes": draw.randrange(50, 2_000), "tools": TOOLS * has_tools, "turns": draw.randrange(3)}
        prompt = question(draw)
        for arm, chance, cost in (("small", 0.1 if has_tools else 0.92, 0.0001), ("frontier", 0.95, 0.01)):
            found.append(
                {
                    "prompt": prompt,
                    "query_id": str(number),
                    "arm": arm,
                    "score": float(draw.random() < chance),
                    "input_tokens": 40,
                    "output_tokens": 100,
                    "cost_usd": cost,
                    **context,
                }
            )
    return found


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    """The shipped static encoder."""
    return PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of outcomes that tell what stood around prompts."""
    path = tmp_path_factory.mktemp("context") / "outcomes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(outcomes: Path) -> Path:
    """A router that was fitted on them, from the bundled one as prior."""
    out = outcomes.parent / "router"
    prices = outcomes.parent / "prices.json"
    prices.write_text(json.dumps({"small": [0.1, 0.4], "frontier": [10, 30]}))
    command = ["fit", "--outcomes", str(outcomes), "--out", str(out), "--router", "linear", "--prices", str(prices)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def artifact(folder: Path, encoder: PromptEncoder) -> RouterArtifact:
    """The router, with the joined graph that serving uses."""
    loaded = RouterArtifact.load(folder, encoder_id=encoder.encoder_id)
    return fused_with(loaded, PromptEncoder.load(bundled_folder(DEFAULT_ENCODER)))


def test_router_fitted_on_contexts_names_their_features(artifact: RouterArtifact, outcomes: Path) -> None:
    """The manifest says what it looks at; outcomes that are all alike add nothing."""
    assert artifact.manifest.feature_names == FEATURE_NAMES + CONTEXT_FEATURE_NAMES
    matrix = load_outcomes([outcomes]).matrix()
    assert matrix.context is not None
    assert matrix.contexts[0].tools in (0, TOOLS)
    changed = replace(matrix, context=matrix.context + 1)
    assert changed.digest != matrix.digest


@pytest.mark.parametrize("is_fused", [True, False])
async def test_request_with_tools_goes_where_tools_are_answered_well(
    artifact: RouterArtifact, folder: Path, encoder: PromptEncoder, is_fused: bool
) -> None:
    """The same question is answered by the small model alone, and by the large one with tools, whoever asks again."""
    used = artifact if is_fused else RouterArtifact.load(folder, encoder_id=encoder.encoder_id)
    parts = RoutingParts(used, EncoderService(encoder))
    chooser = ArmChooser(
        (deployment("small", price=price("0.1", "0.4")), deployment("frontier", price=price("10", "30"))),
        default_arm="frontier",
        baseline="frontier",
        tradeoff="cost",
        parts=parts,
    )
    text = question(random.Random(11))
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    messages = [{"role": "system", "content": "Be brief. " * 60}, {"role": "user", "content": text}]
    chosen = []
    for tools in ({}, {"tools": [tool] * TOOLS}, {}):
        request = parse_chat_request(json.dumps({"model": "auto", "messages": messages, **tools}).encode())
        reading = await chooser.read(request, "ann")
        decision = await chooser.choose(request, None, reading=reading, tenant="ann")
        assert decision.context == PromptContext(600, TOOLS * bool(tools), 0)
        chosen.append(decision.chosen)
    assert chosen == ["small", "frontier", "small"]
    assert len(parts.readings) == 2


def test_joined_graph_says_of_contexts_what_the_two_runs_say(artifact: RouterArtifact, encoder: PromptEncoder) -> None:
    """One prompt or several, with and without what stands around them."""
    texts = [question(random.Random(seed)) for seed in range(5)]
    contexts = [PromptContext(seed * 300, seed % 2 * TOOLS, seed) for seed in range(5)]
    assert artifact.fused is not None
    together = artifact.fused.read(texts, "frontier", contexts)
    alone = [artifact.fused.read([text], "frontier", [around])[0] for text, around in zip(texts, contexts, strict=True)]
    bare = artifact.fused.read(texts, "frontier")
    for text, around, *found, without in zip(texts, contexts, together, alone, bare, strict=True):
        vector = encoder.encode([text])[0]
        for wanted, context in ((found, around), ([without], NO_CONTEXT)):
            expected = artifact.estimate(vector, prompt_features(text), reference_arm="frontier", context=context)
            for _, estimate in wanted:
                np.testing.assert_allclose(estimate.quality, expected.quality, atol=2e-5)
    assert abs(together[1][1].quality[1] - bare[1][1].quality[1]) > 0.3  # the small model, with tools and without


def test_evaluation_asks_about_prompts_in_their_contexts(folder: Path, outcomes: Path) -> None:
    """What `evaluate` measures is what serving does: nearly all of the quality for a part of the cost."""
    command = ["evaluate", str(folder), "--outcomes", str(outcomes), "--json", "--resamples", "50"]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)["artifacts"][0]["report"]
    [point] = [point for point in report["points"] if point["name"] == "cost"]
    assert point["relative_cost"]["value"] < 0.75
    assert point["over_best"]["value"] > -0.05


def test_prior_that_knows_contexts_serves_a_fit_that_does_not_and_the_other_way_round(
    folder: Path, encoder: PromptEncoder
) -> None:
    """What one of them lacks counts as nothing; for prompts without context both say the same of the category."""
    knowing = Prior.load(folder, encoder_id=encoder.encoder_id)
    bundled = Prior.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    assert knowing is not None
    assert bundled is not None
    for prior, other in ((knowing, bundled), (bundled, knowing)):
        forms = other.scaler.mean.size
        assert prior.directions_for(other.scaler).shape[0] == encoder.dimension + forms
        head, own = prior.categories_for(other.scaler), prior.categories
        bare = np.zeros(max(forms, prior.scaler.mean.size))
        inputs = [(bare[: each.mean.size] - each.mean) / each.scale for each in (other.scaler, prior.scaler)]
        vector = np.zeros(encoder.dimension)
        found, wanted = (
            np.concatenate((vector, form)) @ each.weight + each.bias
            for form, each in zip(inputs, (head, own), strict=True)
        )
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_context_is_read_alike_from_every_format() -> None:
    """Instructions and tools count wherever a format has them; broken tools are for others to refuse."""
    system, turns = "You are a careful assistant.", ["One?", "Two?"]
    chat = {
        "model": "auto",
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": turns[0]},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": turns[1]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    }
    messages = {
        "model": "auto",
        "max_tokens": 9,
        "system": system,
        "messages": chat["messages"][1:],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    }
    wanted = PromptContext(len(system), 1, 1)
    assert parse_request(WireFormat.CHAT, json.dumps(chat).encode()).context == wanted
    assert parse_request(WireFormat.MESSAGES, json.dumps(messages).encode()).context == wanted
    odd = {**chat, "tools": {"not": "a list"}}
    assert parse_request(WireFormat.CHAT, json.dumps(odd).encode()).context == wanted._replace(tools=0)
