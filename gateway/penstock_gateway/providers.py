"""The providers that are known by name: where they listen, which variable holds their key, how to speak to them.

Owns `PROVIDERS` and nothing else; no I/O. A provider that is not here is reached with an explicit ``base_url`` or
through litellm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from penstock_gateway.wire.formats import WireFormat


@dataclass(frozen=True, slots=True)
class Provider:
    """What is known of one provider.

    Attributes
    ----------
    name : str
    adapter : str
        ``"direct"`` when it speaks one of the `WireFormat`s, else ``"litellm"``.
    base_url : str
        Empty when every customer has an own one.
    key_variable : str
        Environment variable that holds the credential by convention; empty when none is needed or when litellm finds
        the credentials itself.
    wires : tuple of WireFormat
        Which formats its servers speak.
    """

    name: str
    adapter: str
    base_url: str = ""
    key_variable: str = ""
    wires: tuple[WireFormat, ...] = (WireFormat.CHAT, WireFormat.EMBEDDINGS)


# Chat models answer 404 to text completions at OpenAI; `settings_deployments.wires_of` knows those that do not.
_OPENAI = (WireFormat.CHAT, WireFormat.RESPONSES, WireFormat.EMBEDDINGS)
_WITH_TEXT = (WireFormat.CHAT, WireFormat.COMPLETIONS, WireFormat.EMBEDDINGS)
_CHAT_ONLY = (WireFormat.CHAT,)

_DIRECT = (
    Provider("openai", "direct", "https://api.openai.com/v1", "OPENAI_API_KEY", _OPENAI),
    # Its OpenAI-compatible endpoint knows no prompt caching, no thinking and no citations, so it is not used.
    Provider("anthropic", "direct", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", (WireFormat.MESSAGES,)),
    Provider("gemini", "direct", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    Provider("mistral", "direct", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    Provider("deepseek", "direct", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    Provider("xai", "direct", "https://api.x.ai/v1", "XAI_API_KEY"),
    Provider("groq", "direct", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    Provider("cohere", "direct", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    Provider("together", "direct", "https://api.together.xyz/v1", "TOGETHER_API_KEY", wires=_WITH_TEXT),
    Provider("fireworks", "direct", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", wires=_WITH_TEXT),
    Provider("cerebras", "direct", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    Provider("deepinfra", "direct", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY", wires=_WITH_TEXT),
    Provider("openrouter", "direct", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", wires=_WITH_TEXT),
    Provider("ollama", "direct", "http://127.0.0.1:11434/v1", wires=_WITH_TEXT),
    Provider("openai_compatible", "direct", wires=_WITH_TEXT),  # vLLM, SGLang, llama.cpp, a colleague's gateway
)
_LITELLM = (
    Provider("bedrock", "litellm", wires=_CHAT_ONLY),
    Provider("vertex_ai", "litellm", wires=_CHAT_ONLY),
    Provider("azure", "litellm", wires=_CHAT_ONLY),
    Provider("azure_ai", "litellm", wires=_CHAT_ONLY),
    Provider("sagemaker", "litellm", wires=_CHAT_ONLY),
    Provider("watsonx", "litellm", wires=_CHAT_ONLY),
    Provider("databricks", "litellm", wires=_CHAT_ONLY),
    Provider("oci", "litellm", wires=_CHAT_ONLY),
    Provider("snowflake", "litellm", wires=_CHAT_ONLY),
    Provider("cloudflare", "litellm", wires=_CHAT_ONLY),
)

PROVIDERS: Mapping[str, Provider] = MappingProxyType({provider.name: provider for provider in _DIRECT + _LITELLM})
"""Known providers by name."""
