"""``penstock explain``: a decision that a running gateway has made, and what the request came to.

Owns arguments and output; the words are `decision_text`'s. Read `explain_command`.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import Any, Final

import click

from penstock_gateway.commands.gateway_client import DEFAULT_URL, ask, plain

_DECISION_ID: Final = re.compile(r"dec_[0-9a-f]{8,64}")
_OUTCOME = (
    ("status", "status"),
    ("error", "error_code"),
    ("cost_usd", "cost_usd"),
    ("input tokens", "input_tokens"),
    ("output tokens", "output_tokens"),
    ("duration ms", "duration_ms"),
    ("of it the gateway's own", "overhead_ms"),
)


@click.command("explain")
@click.argument("decision_id")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="Where the gateway listens.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def explain_command(decision_id: str, url: str, as_json: bool) -> int:
    """Show why a request was answered by the model that answered it, and what it cost.

    DECISION_ID is in the header x-penstock-decision-id of its answer. The gateway keeps the last ones
    (decisions.keep); the key in $PENSTOCK_API_KEY sees its own tenant's alone.

    \b
    penstock explain dec_5abe459ba5d87ce4b8a2f5c1
    """  # noqa: D301 - click reads the character
    if not _DECISION_ID.fullmatch(decision_id):
        raise click.UsageError("a decision id begins with dec_, as in the header x-penstock-decision-id")
    decision = ask("GET", url, f"/v1/decisions/{decision_id}")
    if as_json:
        click.echo(json.dumps(decision, indent=2))
        return 0
    from penstock_gateway.commands.decision_text import decision_lines

    for line in (*decision_lines(decision, None, shutil.get_terminal_size((120, 24)).columns), *_outcome(decision)):
        click.echo(plain(line))
    return 0


def _outcome(decision: dict[str, Any]) -> list[str]:
    """Say what the request came to."""
    outcome = decision.get("outcome")
    if outcome is None:
        return ["", "the request is not over yet"]
    said = [f"{label} {outcome[name]}" for label, name in _OUTCOME if outcome.get(name) is not None]
    estimated = " (the cost is estimated)" if outcome.get("is_cost_estimated") else ""
    return ["", "came to: " + ", ".join(said) + estimated]
