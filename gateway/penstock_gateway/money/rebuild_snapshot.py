"""Builds ``snapshot.json`` from the public model map that the installed litellm package carries. Development time only.

Reads that one file without importing litellm, so nothing is fetched. Keeps the chat models of the providers that
Penstock speaks to, turns prices into decimal text per million tokens, and refuses a result that is too large.
Run ``python -m penstock_gateway.money.rebuild_snapshot``. Read `build_snapshot` first.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import msgspec

from penstock_gateway.money.listed_prices import read_prices, read_search_price
from penstock_gateway.money.snapshot import Snapshot, SnapshotModel, SnapshotService, SnapshotStep
from penstock_routers.installation import install_command

MAX_BYTES = 300_000

# litellm's name of a provider → ours, and the prefix of its model names.
_PROVIDERS = {
    "openai": ("openai", "openai/"),
    "anthropic": ("anthropic", "anthropic/"),
    "gemini": ("gemini", "gemini/"),
    "mistral": ("mistral", "mistral/"),
    "deepseek": ("deepseek", "deepseek/"),
    "xai": ("xai", "xai/"),
    "groq": ("groq", "groq/"),
    "cohere_chat": ("cohere", "cohere/"),
    "together_ai": ("together", "together_ai/"),
    "cerebras": ("cerebras", "cerebras/"),
    "deepinfra": ("deepinfra", "deepinfra/"),
    "fireworks_ai": ("fireworks", "fireworks_ai/"),
    "bedrock": ("bedrock", "bedrock/"),
    "bedrock_converse": ("bedrock", "bedrock/"),
    "azure": ("azure", "azure/"),
    "vertex_ai-language-models": ("vertex_ai", "vertex_ai/"),
}
# Fine-tunes, dedicated capacity and things that are not chat models behind a chat mode.
_LEFT_OUT = re.compile(
    r"^ft:|computer-use|robotics|lyria|-tts|deep-research|guard|container|image|live|commitment|realtime|"
    r"(^|/)(us-gov|invoke|mantle)|audio-preview|^\d+(b|\.\d)-|up-to"
)
_ABILITY_FLAGS = {
    "tools": "supports_function_calling",
    "vision": "supports_vision",
    "audio": "supports_audio_input",
    "documents": "supports_pdf_input",
    "json": "supports_response_schema",
}


def build_snapshot(entries: Mapping[str, Mapping[str, object]], *, as_of: str, litellm_version: str) -> Snapshot:
    """Turn litellm's model map into a snapshot.

    Parameters
    ----------
    entries : mapping of str to mapping
        The parsed map, numbers as Decimal.
    as_of : str
        ISO date.
    litellm_version : str
        Version of the package that the map comes from.

    Returns
    -------
    Snapshot
        Providers and models in alphabetical order.
    """
    models: dict[str, dict[str, SnapshotModel]] = {}
    for full_name in sorted(entries):
        entry = entries[full_name]
        place = _PROVIDERS.get(str(entry.get("litellm_provider")))
        if place is None or entry.get("mode") != "chat" or _LEFT_OUT.search(full_name):
            continue
        provider, prefix = place
        name = full_name.removeprefix(prefix)
        if (name.count("/") > 1 and provider == "bedrock") or ("/" in name and provider in ("openai", "azure")):
            continue  # price per region or size; the plain name is kept
        model = _model(entry, provider)
        if model is not None:
            models.setdefault(provider, {})[name] = model
    _drop_dated_twins(models)
    ordered = {provider: models[provider] for provider in sorted(models)}
    return Snapshot(
        name=f"snapshot of litellm {litellm_version}", as_of=as_of, litellm_version=litellm_version, models=ordered
    )


def _model(entry: Mapping[str, object], provider: str) -> SnapshotModel | None:
    prices = read_prices(entry, provider)
    context = entry.get("max_input_tokens") or entry.get("max_tokens")
    output = entry.get("max_output_tokens") or entry.get("max_tokens")
    if prices is None or not context or not output:
        return None
    services = {
        name: SnapshotService(
            multiplier=tier.multiplier if tier.multiplier != 1 else None, above=_steps(tier.above), **tier.given
        )
        for name, tier in prices.service_tiers.items()
    }
    return SnapshotModel(
        **prices.given,
        context_tokens=int(str(context)),
        max_output_tokens=int(str(output)),
        abilities=("streaming", *(name for name, flag in _ABILITY_FLAGS.items() if entry.get(flag) is True)),
        is_reasoning=entry.get("supports_reasoning") is True,
        has_optional_reasoning=entry.get("default_reasoning_effort") == "none",
        takes_sampling=entry.get("supports_sampling_params") is not False,
        takes_forced_tools=entry.get("supports_forced_tool_use") is not False,
        deprecated_on=str(entry.get("deprecation_date") or ""),
        per_request=prices.per_request or None,
        web_search=read_search_price(entry, provider),
        above=_steps(prices.above),
        service_tiers=services,
    )


def _steps(above: tuple[tuple[int, Mapping[str, Decimal]], ...]) -> tuple[SnapshotStep, ...]:
    return tuple(SnapshotStep(tokens=tokens, **rates) for tokens, rates in above)


def _drop_dated_twins(models: dict[str, dict[str, SnapshotModel]]) -> None:
    """Leave out dated names equal to the undated one; the look-up strips dates."""
    suffix = re.compile(r"[-@](20\d{2}-\d{2}-\d{2}|20\d{6})$")
    for known in models.values():
        for name in list(known):
            plain = suffix.sub("", name)
            if plain != name and known.get(plain) == known[name]:
                del known[name]


def main(arguments: list[str] | None = None) -> int:
    """Write the snapshot next to this file; return the exit status."""
    parser = argparse.ArgumentParser(description="Rebuild the bundled price snapshot from the installed litellm.")
    parser.add_argument("--as-of", default=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("snapshot.json"))
    options = parser.parse_args(arguments)
    spec = find_spec("litellm")  # finds the folder without running the package
    if spec is None or not spec.submodule_search_locations:
        print(f"litellm is not installed; run: {install_command('litellm')}", file=sys.stderr)
        return 1
    source = Path(spec.submodule_search_locations[0]) / "model_prices_and_context_window_backup.json"
    entries = json.loads(source.read_text(encoding="utf-8"), parse_float=Decimal)
    snapshot = build_snapshot(entries, as_of=options.as_of, litellm_version=metadata.version("litellm"))
    content = _encode(snapshot)
    if len(content) > MAX_BYTES:
        print(f"the snapshot has {len(content)} bytes, more than {MAX_BYTES}; leave something out", file=sys.stderr)
        return 1
    options.output.write_bytes(content)
    count = sum(len(known) for known in snapshot.models.values())
    print(f"{options.output}: {count} models of {len(snapshot.models)} providers, {len(content)} bytes")
    return 0


def _encode(snapshot: Snapshot) -> bytes:
    """Return JSON with one model per line, so that a rebuild shows as a readable difference."""
    tree = msgspec.to_builtins(snapshot)
    lines = ["{"]
    lines += [f" {json.dumps(key)}: {json.dumps(tree[key])}," for key in ("name", "as_of", "litellm_version")]
    lines.append(' "models": {')
    for provider_index, (provider, known) in enumerate(tree["models"].items()):
        lines.append(f"  {json.dumps(provider)}: {{")
        rows = [f"   {json.dumps(name)}: {json.dumps(model, separators=(',', ':'))}" for name, model in known.items()]
        lines.append(",\n".join(rows))
        lines.append("  }" if provider_index == len(tree["models"]) - 1 else "  },")
    lines += [" }", "}", ""]
    return "\n".join(lines).encode()


if __name__ == "__main__":
    sys.exit(main())
