"""List prices of the models in the public benchmark sets, near the time when each was evaluated.

Owns these numbers and nothing else; the gateway's prices of today are in ``money/snapshot.json``. Read `LIST_PRICES`.

References
----------
OpenAI, Anthropic, Google, Mistral and Cohere: their list prices of 2024, as in the price map of litellm 1.55.8. Open
models: Together AI's classes by size of 2024 (USD per million tokens: up to 4B 0.10, 8B 0.20, 21B 0.30, 41B 0.80, 80B
0.90, 110B 1.80), since many of them had no price of their own. Costs made from them say which of two arms is dearer and
by about how much; they are no bill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_Prices = Mapping[str, tuple[float, float]]

_MMLU_PRO: Final[_Prices] = {
    "DeepSeek-Coder-V2": (0.14, 0.28),
    "Llama-2-13b-hf": (0.3, 0.3),
    "Llama-2-70b-hf": (0.9, 0.9),
    "Llama-2-7b-hf": (0.2, 0.2),
    "Meta-Llama-3-70B": (0.9, 0.9),
    "Meta-Llama-3-8B": (0.2, 0.2),
    "Meta-Llama-3_1-70B": (0.88, 0.88),
    "Meta-Llama-3_1-70B-Instruct": (0.88, 0.88),
    "Meta-Llama-3_1-8B": (0.18, 0.18),
    "Meta-Llama-3_1-8B-Instruct": (0.18, 0.18),
    "Mistral-7B-Instruct-v0.1": (0.2, 0.2),
    "Mistral-7B-Instruct-v0.2": (0.2, 0.2),
    "Mistral-7B-v0.1": (0.2, 0.2),
    "Mistral-7B-v0.2-hf": (0.2, 0.2),
    "Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6),
    "Mixtral-8x7B-v0.1": (0.6, 0.6),
    "Phi-3-mini-4k-instruct": (0.1, 0.1),
    "Qwen1.5-110B": (1.8, 1.8),
    "Qwen1.5-72B-Chat": (0.9, 0.9),
    "Qwen1.5-7B-Chat": (0.2, 0.2),
    "Yi-34B": (0.8, 0.8),
    "Yi-6B": (0.2, 0.2),
    "Yi-6b-Chat": (0.2, 0.2),
    "c4ai-command-r-v01": (0.5, 1.5),
    "gemini-1.5-flash-002": (0.075, 0.3),
    "gemini-1.5-pro-002": (1.25, 5.0),
    "gemma-7b": (0.2, 0.2),
    "jamba-1.5-large": (2.0, 8.0),
    "mathstral-7B": (0.2, 0.2),
}
_ZEROEVAL: Final[_Prices] = {
    "Athene-70B": (0.9, 0.9),
    "Llama-3.1-405B-Inst@sambanova": (3.5, 3.5),
    "Meta-Llama-3-70B-Instruct": (0.88, 0.88),
    "Meta-Llama-3-8B-Instruct": (0.2, 0.2),
    "Meta-Llama-3.1-70B-Instruct": (0.88, 0.88),
    "Mistral-Large-2": (3.0, 9.0),
    "Qwen2-72B-Instruct": (0.9, 0.9),
    "Qwen2-7B-Instruct": (0.2, 0.2),
    "Yi-1.5-34B-Chat": (0.8, 0.8),
    "Yi-1.5-9B-Chat": (0.3, 0.3),
    "claude-3-5-sonnet-20240620": (3.0, 15.0),
    "claude-3-haiku-20240307": (0.25, 1.25),
    "claude-3-opus-20240229": (15.0, 75.0),
    "deepseek-v2.5-0908": (0.14, 0.28),
    "gemini-1.5-flash": (0.075, 0.3),
    "gemini-1.5-pro": (1.25, 5.0),
    "gemma-2-27b-it": (0.8, 0.8),
    "gemma-2-2b-it": (0.1, 0.1),
    "gemma-2-9b-it": (0.3, 0.3),
    "gpt-3.5-turbo-0125": (0.5, 1.5),
    "gpt-4o-2024-05-13": (5.0, 15.0),
    "gpt-4o-2024-08-06": (2.5, 10.0),
    "gpt-4o-mini-2024-07-18": (0.15, 0.6),
    "reka-core-20240501": (10.0, 25.0),
}
_ROUTELLM: Final[_Prices] = {
    "gpt-4-1106-preview": (10.0, 30.0),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6),
}

LIST_PRICES: Final[Mapping[str, _Prices]] = {"mmlu-pro": _MMLU_PRO, "zeroeval": _ZEROEVAL, "routellm": _ROUTELLM}
"""Per format and arm, USD per million input and output tokens."""
