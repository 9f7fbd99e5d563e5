"""OpenAI's chat-completion objects around a simulated answer, whole and in chunks.

Owns the wire shapes only. Read `AnswerWire` first.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgspec

from penstock_gateway.demo.simulated_answers import CountTokens, SimulatedAnswer


class AnswerWire:
    """Puts one answer into OpenAI's objects.

    Ids are derived from the request, so that the same request gets the same ids in every run.

    Parameters
    ----------
    model_name : str
    seed : int
    request : object
        Anything JSON that identifies the request.

    Attributes
    ----------
    request_id : bytes
        For the ``x-request-id`` header.
    """

    def __init__(self, model_name: str, seed: int, request: object) -> None:
        digest = hashlib.sha256(msgspec.json.encode([model_name, seed, request])).hexdigest()
        self._model_name = model_name
        self._id = f"chatcmpl-sim-{digest[:24]}"
        self._call_id = f"call_sim_{digest[24:40]}"
        self._created = int(time.time())
        self.request_id = f"req-sim-{digest[40:56]}".encode()

    def completion(self, answer: SimulatedAnswer) -> dict[str, Any]:
        """Return the whole answer as a ``chat.completion`` object."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.tool_call is not None:
            message |= {"content": None, "tool_calls": [self._tool_call(answer.tool_call)]}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return self._envelope("chat.completion", [choice]) | {"usage": _usage(answer)}

    def chunks(
        self, answer: SimulatedAnswer, has_usage: bool, count_tokens: CountTokens
    ) -> list[tuple[dict[str, Any], int]]:
        """Return the answer as ``chat.completion.chunk`` objects, each with the number of tokens it carries."""
        deltas: list[tuple[dict[str, Any], int]] = [({"role": "assistant", "content": ""}, 0)]
        if answer.tool_call is not None:
            call = self._tool_call(answer.tool_call) | {"index": 0}
            deltas = [({"role": "assistant", "content": None, "tool_calls": [call]}, answer.output_tokens)]
        deltas += [({"content": piece}, count_tokens(piece)) for piece in answer.pieces]
        parts = [(self._chunk(delta, None), tokens) for delta, tokens in deltas]
        parts.append((self._chunk({}, answer.finish_reason), 0))
        if has_usage:
            parts.append((self._envelope("chat.completion.chunk", []) | {"usage": _usage(answer)}, 0))
        return parts

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._envelope("chat.completion.chunk", [choice])

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model_name,
            "system_fingerprint": "simulated",
            "choices": choices,
        }

    def _tool_call(self, call: tuple[str, str]) -> dict[str, Any]:
        return {"id": self._call_id, "type": "function", "function": {"name": call[0], "arguments": call[1]}}


def _usage(answer: SimulatedAnswer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
