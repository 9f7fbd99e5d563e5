"""One thing that an examination found, and what to do about it.

Owns the shape of findings; `doctor` and `caching.diagnosis` make them. Read `Finding`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    level : str
        ``"ok"``, ``"warn"`` (works, but not as it should) or ``"fail"``.
    subject, detail : str
    fix : str
        What to do; empty when nothing needs doing.
    """

    level: Level
    subject: str
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding as plain text fields, for ``--json``."""
        return asdict(self)
