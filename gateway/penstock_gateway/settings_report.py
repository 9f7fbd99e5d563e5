"""A checked configuration as text and as plain values: what ``penstock check-config`` prints.

Owns the summary and the plain table used by the command line. No secret is ever part of it. Read `summarise` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock_gateway.deployments import Deployment
from penstock_gateway.money.prices import format_usd
from penstock_gateway.settings import Settings, build_deployments, note_settings

_HEAD = ("name", "model", "provider", "tier", "arm", "in", "out", "context", "auto")


def summarise(settings: Settings) -> dict[str, Any]:
    """Return what would run, as plain values.

    Parameters
    ----------
    settings : Settings
        As `load_settings` returned it.

    Returns
    -------
    dict
        ``address``, ``client_keys`` (count), ``default_arm``, ``baseline``, ``tradeoff``, ``artifact``, ``encoder``,
        ``deployments`` and ``notes``; prices as decimal text, USD per million tokens.
    """
    return {
        "address": f"{settings.server.host}:{settings.server.port}",
        "client_keys": len(settings.client_keys),
        "default_arm": settings.default_arm,
        "baseline": settings.baseline,
        "tradeoff": settings.routing.tradeoff,
        "artifact": settings.routing.artifact,
        "encoder": settings.routing.encoder,
        "deployments": [_deployment(entry) for entry in build_deployments(settings)],
        "notes": [note.as_dict() for note in note_settings(settings)],
    }


def _deployment(entry: Deployment) -> dict[str, Any]:
    return {
        "name": entry.name,
        "model": entry.model,
        "provider": entry.provider,
        "adapter": entry.adapter,
        "base_url": entry.base_url,
        "tier": entry.tier,
        "arm": entry.arm,
        "price_usd_per_million_tokens": {
            "input": format_usd(entry.price.input),
            "cached_input": format_usd(entry.price.cached_input),
            "output": format_usd(entry.price.output),
            "reasoning": format_usd(entry.price.reasoning),
            "source": entry.price.source,
            "as_of": entry.price.as_of,
        },
        "context_tokens": entry.context_tokens,
        "max_output_tokens": entry.max_output_tokens,
        "abilities": sorted(entry.abilities),
        "has_credential": bool(entry.api_key or entry.headers),
        "routable": entry.is_routable,
    }


def summary_text(summary: dict[str, Any]) -> str:
    """Return a summary of `summarise` as text for people.

    Parameters
    ----------
    summary : dict

    Returns
    -------
    str
        A table of deployments, the routing in force, and the notes.
    """
    rows = [_row(entry) for entry in summary["deployments"]]
    keys = summary["client_keys"]
    lines = [
        *table(_HEAD, rows, right=(5, 6, 7)),
        "",
        "in and out are USD per million tokens; auto: 'auto' may choose it",
        "",
        f"address   {summary['address']}, {keys or 'no'} client key{'' if keys == 1 else 's'}",
        f"default   {summary['default_arm']} (baseline of savings: {summary['baseline']})",
        f"routing   artifact {summary['artifact']}, encoder {summary['encoder']}, tradeoff {summary['tradeoff']}",
    ]
    for note in summary["notes"]:
        hint = f" ({note['hint']})" if note["hint"] else ""
        lines.append(f"note      {note['where']}: {note['message']}{hint}")
    return "\n".join(lines)


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    price = entry["price_usd_per_million_tokens"]
    provider = entry["provider"] if entry["adapter"] == "direct" else f"{entry['provider']} (litellm)"
    return (
        entry["name"],
        entry["model"],
        provider,
        entry["tier"] or "-",
        entry["arm"],
        price["input"],
        price["output"],
        str(entry["context_tokens"]),
        "yes" if entry["routable"] else "no",
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Return rows as aligned lines.

    Parameters
    ----------
    head : sequence of str
    rows : sequence of sequence of str
        Each as long as `head`.
    right : sequence of int
        Columns to align at the right.

    Returns
    -------
    list of str

    Examples
    --------
    >>> table(("a", "n"), [("x", "10"), ("yy", "9")], right=(1,))
    ['a    n', 'x   10', 'yy   9']
    """
    cells = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
