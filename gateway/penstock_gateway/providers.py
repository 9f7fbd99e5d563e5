"""The providers that are known by name: where they listen, which variable holds their key, how to speak to them.

Owns `PROVIDERS` and nothing else; no I/O. A provider that is not here is reached with an explicit ``base_url`` or
through litellm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Provider:
    """What is known of one provider.

    Attributes
    ----------
    name : str
    adapter : str
        ``"direct"`` when it has an OpenAI-compatible endpoint, else ``"litellm"``.
    base_url : str
        Empty when every customer has an own one.
    key_variable : str
        Environment variable that holds the credential by convention; empty when none is needed or when litellm finds
        the credentials itself.
    """

    name: str
    adapter: str
    base_url: str = ""
    key_variable: str = ""


_DIRECT = (
    Provider("openai", "direct", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    # Anthropic documents an OpenAI-compatible endpoint; with it no further package is needed.
    Provider("anthropic", "direct", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    Provider("gemini", "direct", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    Provider("mistral", "direct", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    Provider("deepseek", "direct", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    Provider("xai", "direct", "https://api.x.ai/v1", "XAI_API_KEY"),
    Provider("groq", "direct", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    Provider("cohere", "direct", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    Provider("together", "direct", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    Provider("fireworks", "direct", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    Provider("cerebras", "direct", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    Provider("deepinfra", "direct", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    Provider("openrouter", "direct", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    Provider("ollama", "direct", "http://127.0.0.1:11434/v1"),
    Provider("openai_compatible", "direct"),  # vLLM, SGLang, llama.cpp, a colleague's gateway
)
_LITELLM = (
    Provider("bedrock", "litellm"),
    Provider("vertex_ai", "litellm"),
    Provider("azure", "litellm"),
    Provider("azure_ai", "litellm"),
    Provider("sagemaker", "litellm"),
    Provider("watsonx", "litellm"),
    Provider("databricks", "litellm"),
    Provider("oci", "litellm"),
    Provider("snowflake", "litellm"),
    Provider("cloudflare", "litellm"),
)

PROVIDERS: Mapping[str, Provider] = MappingProxyType({provider.name: provider for provider in _DIRECT + _LITELLM})
"""Known providers by name."""
