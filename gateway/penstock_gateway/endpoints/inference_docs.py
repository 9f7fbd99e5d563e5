"""What the OpenAPI document says of the endpoints that call models.

Owns the schemas of their bodies: the fields that Penstock reads, with the types that it insists on; every other field
is the provider's business and is passed on. Read `INFERENCE_DOCS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from penstock_gateway.wire.formats import WireFormat

_Schema = dict[str, Any]

_CONTROLS: Final[_Schema] = {
    "type": "object",
    "description": "Controls of the gateway; removed before the request is passed on.",
    "properties": {
        "tradeoff": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        "max_cost_usd": {"type": "number", "minimum": 0},
        "min_quality": {"type": "number", "minimum": 0, "maximum": 1},
        "include_cost": {"type": "boolean"},
    },
    "additionalProperties": False,
}
_MODEL: Final[_Schema] = {"type": "string", "examples": ["auto", "auto:cost", "auto@0.7"]}
_OBJECTS: Final[_Schema] = {"type": "array", "items": {"type": "object"}}
_LIMIT: Final[_Schema] = {"type": "integer", "minimum": 1, "maximum": 1_000_000_000}
_TEXT_OR_OBJECTS: Final[_Schema] = {"oneOf": [{"type": "string"}, _OBJECTS]}


@dataclass(frozen=True, slots=True)
class InferenceDoc:
    """What is said of one endpoint.

    Attributes
    ----------
    name : str
        Of the operation.
    summary, description : str
    required : tuple of str
        Fields.
    properties : dict
        JSON Schemas of the fields that are read, by name.
    """

    name: str
    summary: str
    description: str
    required: tuple[str, ...]
    properties: _Schema

    def openapi(self) -> _Schema:
        """Return what FastAPI takes as ``openapi_extra``."""
        properties = {"model": _MODEL, **self.properties, "penstock": _CONTROLS}
        schema = {
            "type": "object",
            "required": list(self.required),
            "properties": properties,
            "additionalProperties": True,
        }
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


INFERENCE_DOCS: Final[Mapping[WireFormat, InferenceDoc]] = MappingProxyType(
    {
        WireFormat.CHAT: InferenceDoc(
            "chat_completions",
            "Answer a conversation (OpenAI chat completions)",
            "Answer a conversation with the cheapest model that will answer it well, or with the model named.",
            ("model", "messages"),
            {"messages": {**_OBJECTS, "minItems": 1}, "stream": {"type": "boolean"}},
        ),
        WireFormat.MESSAGES: InferenceDoc(
            "messages",
            "Answer a conversation (Anthropic Messages)",
            "As `/v1/chat/completions`, for clients that speak Anthropic's format, whoever provides the model.",
            ("model", "messages", "max_tokens"),
            {
                "messages": {**_OBJECTS, "minItems": 1},
                "max_tokens": _LIMIT,
                "system": _TEXT_OR_OBJECTS,
                "stream": {"type": "boolean"},
            },
        ),
        WireFormat.RESPONSES: InferenceDoc(
            "responses",
            "Answer an input (OpenAI Responses)",
            "As `/v1/chat/completions`, for clients that speak the Responses format. What a provider keeps "
            "(`previous_response_id`, `conversation`) reaches only that provider.",
            ("model", "input"),
            {"input": _TEXT_OR_OBJECTS, "instructions": {"type": "string"}, "stream": {"type": "boolean"}},
        ),
        WireFormat.COMPLETIONS: InferenceDoc(
            "completions",
            "Continue a text (OpenAI completions)",
            "For older clients; a model that has only chat completions gets the text as a user's message.",
            ("model", "prompt"),
            {"prompt": {"type": "string"}, "stream": {"type": "boolean"}},
        ),
        WireFormat.EMBEDDINGS: InferenceDoc(
            "embeddings",
            "Embed texts (OpenAI embeddings)",
            "By the model named: vectors of two models do not mix, so there is neither routing nor another model.",
            ("model", "input"),
            {"input": {"oneOf": [{"type": "string"}, {"type": "array", "minItems": 1}]}},
        ),
    }
)
"""By the format of the endpoint."""
