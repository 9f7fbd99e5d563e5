"""Who serves a model by LiteLLM's name for it, and how Penstock reaches them.

Owns the table from LiteLLM's provider prefixes (docs.litellm.ai/docs/providers) to `providers.PROVIDERS`, and what an
``api_base`` becomes. Read `served_by`, then `base_url_of`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from penstock_gateway.importing.references import Reference
from penstock_gateway.providers import PROVIDERS
from penstock_gateway.wire.formats import PATHS

COMPATIBLE: Final = "openai_compatible"

# LiteLLM's prefix → our provider, where they differ; those of one name in both are not listed.
_OTHER_NAMES: Final = {
    "text-completion-openai": "openai",
    "azure_text": "azure",
    "vertex_ai_beta": "vertex_ai",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "ollama_chat": "ollama",
    "sagemaker_chat": "sagemaker",
    "text-completion-codestral": "mistral",
    **dict.fromkeys(
        ("hosted_vllm", "vllm", "openai_like", "custom_openai", "lm_studio", "llamafile", "litellm_proxy", "custom"),
        COMPATIBLE,
    ),
    **dict.fromkeys(("docker_model_runner", "lemonade", "xinference", "aiohttp_openai"), COMPATIBLE),
}
# Prefixes that LiteLLM knows and for which Penstock goes through the litellm package.
_NAMES = """
ai21 aleph_alpha anyscale azure_ai baseten bedrock bytez clarifai cloudflare codestral compactifai cometapi dashscope
databricks datarobot deepgram elevenlabs empower featherless_ai friendliai galadriel github github_copilot gigachat
gradient_ai huggingface hyperbolic inception infinity jina_ai lambda_ai maritalk meta_llama minimax moonshot morph
nebius nlp_cloud novita nscale nvidia_nim oci oobabooga ovhcloud perplexity petals poe predibase publicai replicate
sagemaker sambanova sap snowflake synthetic topaz triton v0 vercel_ai_gateway vertex_ai volcengine voyage wandb watsonx
watsonx_text xiaomi_mimo zai
"""
_THROUGH_LITELLM: Final = frozenset(_NAMES.split())
# What LiteLLM takes for whose when a model has no prefix; its own map has every name, these are the families.
_FAMILIES: Final = (
    (
        re.compile(
            r"(gpt-|o\d|chatgpt-|text-embedding-|davinci-|babbage-|ft:|codex-|computer-use-|dall-e-|tts-|whisper-)"
        ),
        "openai",
    ),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"(command|embed-|c4ai-)"), "cohere"),
    (re.compile(r"gemini-"), "vertex_ai"),
    (re.compile(r"(us\.|eu\.|apac\.|global\.)?(anthropic|amazon|meta|mistral|cohere|ai21)\."), "bedrock"),
)
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ENDPOINTS: Final = tuple(sorted(PATHS.values(), key=len, reverse=True))  # "/chat/completions" before "/completions"


@dataclass(frozen=True, slots=True)
class Served:
    """Who serves a model.

    Attributes
    ----------
    provider : str
        One of `PROVIDERS`, or LiteLLM's name of one that only the litellm package knows.
    model : str
        Without the provider's prefix.
    adapter : str
        ``"direct"`` or ``"litellm"``.
    prefix : str
        What LiteLLM calls the provider.
    """

    provider: str
    model: str
    adapter: str
    prefix: str


def served_by(model: str, custom_provider: str = "", *, has_base: bool = False) -> Served | None:
    """Return who serves a model.

    Parameters
    ----------
    model : str
        ``litellm_params.model``.
    custom_provider : str
        ``litellm_params.custom_llm_provider``.
    has_base : bool
        Whether an ``api_base`` is given: a model without any known name is then taken for an OpenAI-compatible one.

    Returns
    -------
    Served or None
        None when nobody can tell.
    """
    prefix, separator, rest = model.partition("/")
    if custom_provider:
        prefix, rest = custom_provider, rest if separator and prefix == custom_provider else model
    elif not (separator and is_known_prefix(prefix)):
        prefix, rest = next((name for family, name in _FAMILIES if family.match(model)), ""), model
        if not prefix and has_base:
            prefix = "custom_openai"
    if not _PREFIX.fullmatch(prefix) or not rest:
        return None
    provider = _OTHER_NAMES.get(prefix, prefix)
    known = PROVIDERS.get(provider)
    return Served(provider, rest, known.adapter if known else "litellm", prefix)


def is_known_prefix(prefix: str) -> bool:
    """Say whether LiteLLM has a provider of that name."""
    return prefix in PROVIDERS or prefix in _OTHER_NAMES or prefix in _THROUGH_LITELLM


def base_url_of(served: Served, api_base: str) -> tuple[str, str]:
    """Return the base URL that an ``api_base`` becomes, and what was done to it.

    Parameters
    ----------
    served : Served
    api_base : str
        Text or a `Reference`.

    Returns
    -------
    url : str
        Empty when the address cannot be used.
    note : str
        Empty when it stays as it was.
    """
    given = api_base.rstrip("/")
    url = _without_endpoint(given, served)
    if served.adapter == "litellm":
        return _like(api_base, given), ""
    if served.provider == "anthropic":
        url = url if url.endswith("/v1") else f"{url}/v1"
    elif served.provider == "azure":
        url = re.sub(r"/openai(/.*)?$", "", url) + "/openai/v1"
    elif served.provider == "ollama":
        url = url if url.endswith("/v1") else f"{url}/v1"
    elif served.provider in ("gemini", "cohere"):
        return "", "LiteLLM speaks another API there than the OpenAI-compatible one that Penstock speaks"
    if url == given:
        return _like(api_base, given), ""
    if isinstance(api_base, Reference):
        added = url.removeprefix(given)
        return Reference(url), f"{added} is put behind it, so the variable should not end with a slash or with {added}"
    return url, f"is now {url.partition('?')[0]}" if "@" not in url else "the API's version is put behind it"


def _without_endpoint(url: str, served: Served) -> str:
    for path in _ENDPOINTS:
        if url.endswith(path) and served.adapter == "direct":
            return url.removesuffix(path)
    return url


def _like(original: str, text: str) -> str:
    return Reference(text) if isinstance(original, Reference) else text
