"""A checked configuration as text and as plain values: what ``penstock check-config`` prints.

Owns the summary and the plain table used by the command line. No secret is ever part of it. Read `summarise` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from textwrap import fill
from typing import Any

from penstock_gateway.deployments import Deployment
from penstock_gateway.money.price_text import price_fields
from penstock_gateway.settings import Settings, build_deployments, note_settings

_HEAD = ("name", "model", "provider", "tier", "arm", "in", "out", "context", "auto")
_WRAPPED = ("addr", "defa", "rout", "note")


def summarise(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what would run, as plain values.

    Parameters
    ----------
    settings : Settings
        As `load_settings` returned it.
    environ : mapping of str to str, optional
        For notes about variables in force.

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
        "notes": [note.as_dict() for note in note_settings(settings, environ)],
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
        "price_usd_per_million_tokens": price_fields(entry.price),
        "context_tokens": entry.context_tokens,
        "max_output_tokens": entry.max_output_tokens,
        "abilities": sorted(entry.abilities),
        "has_credential": bool(entry.api_key or entry.headers),
        "routable": entry.is_routable,
    }


def summary_text(summary: dict[str, Any], *, width: int = 120) -> str:
    """Return a summary of `summarise` as text for people.

    Parameters
    ----------
    summary : dict
    width : int
        Columns of the terminal; a narrower table lacks context, arm, then model.

    Returns
    -------
    str
        A table of deployments, the routing in force, and the notes; deployments with the same note share it.
    """
    rows = [_row(entry) for entry in summary["deployments"]]
    keys = summary["client_keys"]
    notes: dict[str, list[str]] = {}
    for note in summary["notes"]:
        text = f"{note['message']} ({note['hint']})" if note["hint"] else note["message"]
        notes.setdefault(text, []).append(note["where"])
    lines = [
        *table(_HEAD, rows, right=(5, 6, 7), spare=(7, 4, 1), width=width),
        "",
        "in and out are USD per million tokens; auto: 'auto' may choose it",
        "",
        f"address   {summary['address']}, {keys or 'no'} client key{'' if keys == 1 else 's'}",
        f"default   {summary['default_arm']} (baseline of savings: {summary['baseline']})",
        f"routing   artifact {summary['artifact']}, encoder {summary['encoder']}, tradeoff {summary['tradeoff']}",
    ]
    for text, places in notes.items():
        lines.append(f"note      {', '.join(places)}: {text}")
    return "\n".join(wrapped(line, 10, width) if line[:4] in _WRAPPED else line for line in lines)


def wrapped(line: str, indent: int, width: int) -> str:
    """Return a line broken between words, further lines indented."""
    if len(line) <= width:
        return line
    return fill(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def finding_lines(finding: Mapping[str, str], width: int) -> str:
    """Return a finding of `findings.Finding.as_dict` as lines of text, its fix below it."""
    shown = wrapped(f"{finding['level']:<5} {finding['subject']}: {finding['detail']}", 6, width)
    if finding["fix"]:
        shown += "\n" + wrapped(f"      fix: {finding['fix']}", 11, width)
    return shown


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    price = entry["price_usd_per_million_tokens"]
    provider = entry["provider"] if entry["adapter"] == "direct" else f"{entry['provider']} (litellm)"
    return (
        entry["name"],
        entry["model"],
        provider,
        entry["tier"] or "-",
        entry["arm"],
        _shown_price(price, "input"),
        _shown_price(price, "output"),
        str(entry["context_tokens"]),
        "yes" if entry["routable"] else "no",
    )


def _shown_price(price: Mapping[str, Any], name: str) -> str:
    """Return a price for the table; one that is not this model's own is marked."""
    return "?" if price["is_unknown"] else f"~{price[name]}" if price["is_estimate"] else str(price[name])


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    spare: Sequence[int] = (),
    width: int | None = None,
) -> list[str]:
    """Return rows as aligned lines.

    Parameters
    ----------
    head : sequence of str
    rows : sequence of sequence of str
        Each as long as `head`.
    right : sequence of int
        Columns to align at the right.
    spare : sequence of int
        Columns to leave out, the first of them first, until the table is not wider than `width`.
    width : int, optional

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
    kept = list(range(len(head)))
    for column in spare:
        if width is None or sum(widths[k] + 2 for k in kept) - 2 <= width:
            break
        kept.remove(column)
    return [
        "  ".join(row[k].rjust(widths[k]) if k in right else row[k].ljust(widths[k]) for k in kept).rstrip()
        for row in cells
    ]


def aligned_usd(amounts: Sequence[str | None]) -> list[str]:
    """Return decimal texts with the same number of decimals, ``-`` for None.

    Examples
    --------
    >>> aligned_usd(["0.1", None, "0.000025"])
    ['0.100000', '-', '0.000025']
    """
    places = max((len(text.partition(".")[2]) for text in amounts if text is not None), default=0)
    return ["-" if text is None else f"{Decimal(text):.{places}f}" for text in amounts]
