"""Reasons and verdicts in plain words, for people who do not know the codes. Read `REASONS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REASONS: Final[Mapping[str, str]] = {
    "routed": "another model than the default has a surely higher utility at this trade-off",
    "default_best": "the default model has the highest utility itself",
    "default_kept": "another model looks better, but not by more than its own uncertainty: the default answers",
    "default_filtered": "the default cannot take this request; this is the best of the rest",
    "cheapest": "the trade-off stands at 0: the cheapest candidate answers, whatever the estimates say",
    "abstained_novel": "the prompt is unlike anything the router knows, so the default model answers",
    "abstained_no_estimate": "there is no estimate (no artifact, no text, or the router failed): the default answers",
    "physical_model": "the client named this model; nothing was chosen",
    "only_candidate": "every other model was ruled out",
    "min_quality": "the cheapest model that surely reaches the quality asked for",
    "min_quality_unreachable": "no model surely reaches the quality asked for; this one comes closest",
    "cached": "a stored answer was served; nothing was chosen",
    "continued": "a step of a conversation that its last model goes on with; nothing was chosen",
    "explored": "drawn to learn from, instead of the policy's own choice",
}

VERDICTS: Final[Mapping[str, str]] = {
    "hit-exact": "The same request is stored: it would be answered from the cache.",
    "hit-semantic": "Another wording of it is stored: it would be answered from the cache.",
    "no_entry": "Nothing that fits is stored yet.",
    "no_neighbour": "Nothing similar enough is stored.",
    "not_acceptable": "An entry is stored, but may not be served for this request (older, of a lower tier, or a model "
    "that is gone).",
    "not_certifiable": "No threshold keeps this category within its budget of false hits, so other wordings are not "
    "answered.",
    "switched_off": "Audits found too many wrong hits in this category, so other wordings are not answered for now.",
    "no_rule": "No decision rule is loaded, so only exact repeats are answered.",
    "no_vector": "There is no embedding of the prompt, so only exact repeats can be answered.",
    "store_unavailable": "The cache's store does not answer.",
}
