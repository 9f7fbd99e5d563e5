"""The list of formats, and an import from beginning to end.

Owns the order of the steps: read, check, write beside the target, read back, and only then take the target's name.
Must not know any layout. Read `import_outcomes`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, cast

import msgspec
import numpy as np

from penstock_training.errors import TrainingError
from penstock_training.importers.collected import ArmCount, Collector, ImportReport
from penstock_training.importers.list_prices import LIST_PRICES
from penstock_training.importers.options import ImportOptions

Reader = Callable[[Sequence[Path], Collector, ImportOptions], list[str]]
OUT_SUFFIXES: Final = (".parquet", ".jsonl")


@dataclass(frozen=True, slots=True)
class Format:
    """One importable format.

    Attributes
    ----------
    name, summary, takes : str
        Name on the command line, what it is, and which paths it takes.
    module, function : str
        Where its reader is; imported when it is used.
    """

    name: str
    summary: str
    takes: str
    module: str
    function: str

    def reader(self) -> Reader:
        """Import the function that reads the format."""
        module = importlib.import_module(f"penstock_training.importers.{self.module}")
        return cast(Reader, getattr(module, self.function))


FORMATS: Final[Mapping[str, Format]] = {
    made.name: made
    for made in (
        Format(
            "routerbench",
            "RouterBench: 11 models on exam, reasoning and code tasks, with costs",
            "wide tables, CSV, Parquet or JSONL (never the published pickles)",
            "routerbench",
            "read_routerbench",
        ),
        Format(
            "routellm",
            "RouteLLM: GPT-4 and Mixtral on MMLU, GSM8K and MT-Bench; battles",
            "routellm/evals or files in it",
            "routellm",
            "read_routellm",
        ),
        Format(
            "mmlu-pro",
            "MMLU-Pro: 29 models on 12,032 questions",
            "eval_results: zip archives, folders or JSON",
            "mmlu_pro",
            "read_mmlu_pro",
        ),
        Format(
            "zeroeval",
            "ZeroEval: 24 models on mathematics, code, knowledge and logic grids",
            "result_dirs or task folders in it",
            "zeroeval",
            "read_zeroeval",
        ),
        Format(
            "litellm-spend",
            "LiteLLM spend logs, with scores of your own (--scores)",
            "/spend/logs as JSON, or the table as CSV, JSONL or Parquet",
            "litellm_spend",
            "read_litellm_spend",
        ),
        Format(
            "events",
            "events of the Penstock gateway, with their feedback",
            "the events folder or segments in it",
            "events",
            "read_events",
        ),
    )
}


def import_outcomes(
    format_name: str,
    paths: Sequence[Path],
    out: Path,
    *,
    options: ImportOptions,
    arms: Sequence[str] = (),
    on_bad_rows: Literal["refuse", "skip"] = "refuse",
    may_overwrite: bool = False,
) -> ImportReport:
    """Turn local files of a format into one outcome file.

    Parameters
    ----------
    format_name : str
        A key of `FORMATS`.
    paths : sequence of Path
        What the format takes.
    out : Path
        ``.parquet`` or ``.jsonl``; its folder must exist.
    options : ImportOptions
        Without prices, those of `LIST_PRICES` are taken for the format.
    arms : sequence of str
        Keep only these arms; all of them when empty.
    on_bad_rows : {"refuse", "skip"}
        Whether one wrong row refuses everything, or is left out and counted.
    may_overwrite : bool
        Whether `out` may exist already.

    Returns
    -------
    ImportReport

    Raises
    ------
    TrainingError
        ``import_format_unknown``, ``import_out_refused`` (ending, missing folder, existing file),
        ``import_rows_refused``, ``import_no_usable_row``, ``import_arm_unknown``, what the format's reader raises.

    Notes
    -----
    Rows are held in memory, each text once: 347,215 rows over 12,032 prompts took 39 s and a peak of 0.5 GB. The file
    is written under a hidden name in the target's folder, read back with `load_outcomes` and then renamed, which is
    atomic. A run that is killed leaves at most that hidden file, and the next run replaces it.
    """
    if format_name not in FORMATS:
        raise TrainingError(
            f"there is no format {format_name!r}; formats: {', '.join(FORMATS)}", code="import_format_unknown"
        )
    _check_target(out, may_overwrite)
    if not options.prices:
        options = replace(options, prices=LIST_PRICES.get(format_name, {}))
    into = Collector(frozenset(arms) if arms else None)
    remarks = FORMATS[format_name].reader()(paths, into, options)
    if into.bad and on_bad_rows == "refuse":
        counts = into.describe_counts()
        raise TrainingError(
            f"rows that are refused: {sum(into.bad.values()):,}; --on-bad-rows skip leaves them out\n{counts}",
            code="import_rows_refused",
        )
    if not len(into):
        raise TrainingError(f"no row is left to write\n{into.describe_counts()}".rstrip(), code="import_no_usable_row")
    if missing := sorted(set(arms) - set(into.columns["arm"])):
        raise TrainingError(f"no row of {', '.join(missing)}", code="import_arm_unknown")
    options.progress("writing and reading back", 0, 1)
    digest, prompts = _write(out, into)
    options.progress("writing and reading back", 1, 1)
    return ImportReport(
        format_name=format_name,
        out=str(out),
        rows=len(into),
        prompts=prompts,
        arms=_arm_counts(into),
        digest=digest,
        bad=dict(into.bad),
        left_out=dict(into.left_out),
        places=tuple(into.places),
        remarks=tuple(remarks),
    )


def _check_target(out: Path, may_overwrite: bool) -> None:
    if out.suffix.lower() not in OUT_SUFFIXES:
        problem = f"the file to write must end in {' or '.join(OUT_SUFFIXES)}"
    elif not out.parent.is_dir():
        problem = f"there is no folder {out.parent}"
    elif out.is_dir():
        problem = "it is a folder"
    elif out.exists() and not may_overwrite:
        problem = "it exists already; --overwrite replaces it"
    else:
        return
    raise TrainingError(f"{out}: {problem}", code="import_out_refused")


def _write(out: Path, into: Collector) -> tuple[str, int]:
    """Write under a hidden name, read back, rename; returns the content's digest and the number of prompts."""
    from penstock_training.outcomes import load_outcomes

    hidden = out.with_name(f".{out.stem}.unfinished{out.suffix.lower()}")
    try:
        _write_columns(hidden, into)
        # Censored rows are kept without a score on purpose; the loader leaves them out.
        table = load_outcomes([hidden], on_bad_rows="skip" if into.keeps_censored else "refuse")
        matrix = table.matrix()
        hidden.replace(out)
    except OSError as error:
        raise TrainingError(f"{out}: cannot be written ({type(error).__name__})", code="import_out_refused") from error
    finally:
        hidden.unlink(missing_ok=True)
    return matrix.digest, len(matrix.prompts)


def _write_columns(path: Path, into: Collector) -> None:
    if path.suffix == ".parquet":
        from penstock_training.importers.parquet_tables import write_parquet

        write_parquet(path, into.columns)
        return
    names = list(into.columns)
    with path.open("wb") as stream:
        for values in zip(*into.columns.values(), strict=True):
            row = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            stream.write(msgspec.json.encode(row) + b"\n")


def _arm_counts(into: Collector) -> dict[str, ArmCount]:
    names = np.asarray(into.columns["arm"], dtype=object)
    scores = np.asarray([np.nan if score is None else score for score in into.columns["score"]], dtype=np.float64)
    counts = {}
    for name in sorted(set(into.columns["arm"])):
        own = scores[names == name]
        known = own[np.isfinite(own)]
        counts[name] = ArmCount(int(own.size), float(known.mean()) if known.size else float("nan"))
    return counts
