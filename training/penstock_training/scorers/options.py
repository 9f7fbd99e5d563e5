"""Settings of scorers that do not fit into the word that names one.

Owns their names, types and defaults. Must not build scorers (`registry` does). Read `ScorerOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ScorerOptions:
    """What scorers need beyond their spec.

    Attributes
    ----------
    verdict_log : Path or None
        JSONL file to which judges append their verdicts.
    seed : int
        Of every random order that a scorer draws.
    """

    verdict_log: Path | None = None
    seed: int = 0
