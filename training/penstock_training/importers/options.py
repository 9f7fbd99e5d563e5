"""What every importer is given besides paths: names, prices, a token counter, joined scores and prompts.

Owns the join files and the expected cost. Must not know any format. Read `ImportOptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from penstock_training.errors import TrainingError
from penstock_training.importers.source_files import (
    TABLE_SUFFIXES,
    SourceFile,
    find_sources,
    number_of,
    read_records,
    text_of,
)
from penstock_training.importers.token_counts import CounterName, token_counter
from penstock_training.progress import Progress, silent

ID_NAMES: Final = ("id", "request_id", "decision_id", "litellm_call_id")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Options of an import; each format says which it uses.

    Attributes
    ----------
    source : str, optional
        Name of the set in the ``source`` column; the format's own when None.
    arm : str, optional
        Name of the arm for files that do not say which model answered.
    arm_field : {"model", "model_group"}
        Which field of a spend log names the arm.
    uses_artifact_arms : bool
        Name the arms of our own events as the artifact does (tiers) instead of by deployment.
    keeps_all_rows : bool
        Keep the rows of our own events that cannot be weighted or have no score.
    tokens : str
        Name of the token counter.
    prices : mapping of str to (float, float)
        Per arm, USD per million input and output tokens.
    scores : mapping of str to float, optional
        Scores in [0, 1] by request, from a file of the user's.
    prompts : mapping of str to str, optional
        Prompt texts by request, likewise.
    progress : callable
        Called with a stage's name, steps done and steps in total.
    """

    source: str | None = None
    arm: str | None = None
    arm_field: Literal["model", "model_group"] = "model"
    uses_artifact_arms: bool = False
    keeps_all_rows: bool = False
    tokens: CounterName = "estimate"
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    scores: Mapping[str, float] | None = None
    prompts: Mapping[str, str] | None = None
    progress: Progress = silent

    def counter(self) -> Callable[[str], int]:
        """Make the token counter that was asked for."""
        return token_counter(self.tokens)

    def list_cost_usd(self, arm: str, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """Return list price × tokens, USD of one request; None without a price or a count."""
        price = self.prices.get(arm)
        if price is None or input_tokens is None or output_tokens is None:
            return None
        return (price[0] * input_tokens + price[1] * output_tokens) / 1e6

    def tokens_source(self) -> str:
        """Say how tokens were counted, for the column of that name."""
        return "estimated_cl100k" if self.tokens == "cl100k" else "estimated_utf8_bytes"


def read_scores(path: Path) -> dict[str, float]:
    """Read scores to be joined by request id.

    Parameters
    ----------
    path : Path
        CSV, JSON Lines or Parquet with a column ``score`` in [0, 1] (or true/false) and one of `ID_NAMES`.

    Returns
    -------
    dict of str to float
        The last row of an id counts.

    Raises
    ------
    TrainingError
        ``import_column_missing``, ``import_scores_refused`` (a score that is none, with the row), and what
        `find_sources` raises.
    """
    scores: dict[str, float] = {}
    for where, identity, value in _joined(path, "score"):
        number = number_of(value)
        if number is None or not 0 <= number <= 1:
            raise TrainingError(f"{where}: the score is no number from 0 to 1", code="import_scores_refused")
        scores[identity] = number
    return scores


def read_prompts(path: Path) -> dict[str, str]:
    """Read prompt texts to be joined by request id; like `read_scores`, with a column ``prompt``."""
    return {identity: text_of(value) for _, identity, value in _joined(path, "prompt")}


def _joined(path: Path, column: str) -> list[tuple[str, str, object]]:
    """Rows of a join file as (place, id, value)."""
    if path.is_dir():
        raise TrainingError(f"{path}: expected one file, not a folder", code="import_file_format")
    rows: list[tuple[str, str, object]] = []
    [source] = find_sources([path], TABLE_SUFFIXES)
    for number, record in read_records(source):
        identity = "" if record is None else next((text_of(record[n]) for n in ID_NAMES if n in record), "")
        if record is None or column not in record or not identity:
            raise TrainingError(
                f"{source.place(number)}: needs a column {column} and one of {', '.join(ID_NAMES)}",
                code="import_column_missing",
            )
        rows.append((source.place(number), identity, record[column]))
    return rows


def stem(file: SourceFile) -> str:
    """Name of a source file without folders and ending, as it is spelled."""
    name = PurePosixPath(file.member or file.path.name).name
    return name.removesuffix(".gz").rpartition(".")[0]


def need_columns(record: Mapping[str, object], names: tuple[str, ...], file: SourceFile) -> None:
    """Raise ``import_column_missing`` unless a table has the columns of its format."""
    if missing := [name for name in names if name not in record]:
        raise TrainingError(f"{file.shown}: no column {', '.join(missing)}", code="import_column_missing")
