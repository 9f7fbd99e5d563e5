"""From a page's template and values to HTML: the one file that knows Jinja.

Owns escaping (always on), how numbers and times are written, and what is said after a change. Jinja is imported when
the first page is drawn. Read `Renderer.render`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER: Final = Path(__file__).parent
NOTES: Final[Mapping[str, str]] = {
    "entry-deleted": "The entry is deleted.",
    "category-deleted": "The entries of the category are deleted.",
    "budget-set": "The budget is set. It binds from the next request on.",
    "budget-removed": "The budget is removed.",
    "key-revoked": "The key is revoked. Requests and streams that use it end.",
    "artifact-in-force": "The registry points to that artifact now. Gateways follow at their next look.",
}
"""What a page says after a change; the address carries the key only, so nobody can put words into it."""

NAVIGATION: Final = (
    ("/", "Overview"),
    ("/playground", "Playground"),
    ("/models", "Models"),
    ("/cache", "Cache"),
    ("/artifacts", "Artifacts"),
    ("/accounts", "Keys and budgets"),
    ("/events", "Events"),
)


class Renderer:
    """Draws pages."""

    @cached_property
    def _environment(self) -> Environment:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - 30 ms, for who looks only

        made = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        made.filters.update(usd=usd, number=number, share=share, ms=milliseconds, moment=moment, short=short_id)
        made.filters.update(size=size, words=words)
        made.globals["navigation"] = NAVIGATION
        return made

    def render(self, template: str, values: Mapping[str, Any]) -> bytes:
        """Return a page as UTF-8.

        Parameters
        ----------
        template : str
        values : mapping of str to object
        """
        return self._environment.get_template(template).render(values).encode("utf-8", "replace")


def usd(value: object) -> str:
    """Write an amount: cents from a dollar on, else four significant digits; a dash for none."""
    if value is None or value == "":
        return "–"
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return str(value)
    if not amount.is_finite():
        return "–"
    if amount == 0:
        return "$0"
    sign, size_of = ("−" if amount < 0 else ""), abs(amount)
    if size_of >= 1:
        return f"{sign}${size_of:,.2f}"
    digits = min(max(3 - size_of.adjusted(), 2), 12)
    text = f"{size_of:.{digits}f}".rstrip("0")
    return f"{sign}${text}"


def number(value: object, digits: int = 0) -> str:
    """Write a number with groups of three; a dash for none."""
    return "–" if not isinstance(value, int | float | Decimal) else f"{value:,.{digits}f}".replace("-", "−")


def share(value: object, digits: int = 1) -> str:
    """Write a share as percent; a dash for none."""
    return "–" if not isinstance(value, int | float | Decimal) else f"{float(value):.{digits}%}".replace("%", " %")


def milliseconds(value: object) -> str:
    """Write a duration: milliseconds below ten seconds, else seconds; a dash for none."""
    if not isinstance(value, int | float):
        return "–"
    if value >= 10_000.0:
        return f"{value / 1000.0:,.1f} s"
    return f"{value:,.0f} ms" if value >= 10.0 else f"{value:.2g} ms"


def moment(value: object, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Write UNIX seconds as a time in UTC; a dash for none."""
    if not isinstance(value, int | float) or not 0 <= value < 253_402_300_799:
        return "–"
    return datetime.fromtimestamp(value, UTC).strftime(pattern)


def short_id(value: object) -> str:
    """Return the first digits of an artifact's id, else the text itself."""
    text = str(value or "–")
    return text.removeprefix("sha256:")[:12] if text.startswith("sha256:") else text


def size(value: object) -> str:
    """Write bytes with a decimal unit (kB = 1000 bytes)."""
    if not isinstance(value, int | float):
        return "–"
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000.0 or unit == "GB":
            return f"{amount:,.0f} {unit}" if unit == "B" else f"{amount:,.1f} {unit}"
        amount /= 1000.0
    return "–"


def words(value: object) -> str:
    """Write a code of ours as words."""
    return str(value).replace("_", " ")
