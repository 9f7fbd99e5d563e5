"""Our own gateway's events: requests joined with the feedback that came later.

Owns the reading of the event log (``docs/events.md``, schema 1). Must not weigh anything: what may be weighted by
propensity is marked, not decided, here. Read `read_events`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from penstock_training.errors import TrainingError
from penstock_training.importers.collected import Collector, OutcomeRow
from penstock_training.importers.options import ImportOptions
from penstock_training.importers.source_files import (
    SourceFile,
    find_sources,
    number_of,
    read_records,
    text_of,
    whole_of,
)

SOURCE: Final = "events"
SCHEMA: Final = 1
SUFFIXES: Final = (".jsonl", ".jsonl.gz")
_CLIENT_CHOICE: Final = "physical_model"  # the reason of a request that named its deployment (docs/routing.md)


@dataclass(slots=True)
class _Log:
    """What the segments hold, by decision."""

    requests: dict[str, tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)  # decision: (time, score)


def read_events(paths: Sequence[Path], into: Collector, options: ImportOptions) -> list[str]:
    """Read event segments and join feedback to requests.

    Parameters
    ----------
    paths : sequence of Path
        Segments, or the folder that holds them. Name all of them at once: feedback can lie in another segment than its
        request.
    into : Collector
    options : ImportOptions
        ``scores`` and ``prompts`` (by decision id; they win over what the log holds), ``uses_artifact_arms``,
        ``keeps_all_rows``, ``source`` (default ``events``).

    Returns
    -------
    list of str
        Remarks for the report.

    Raises
    ------
    TrainingError
        ``event_schema_unknown``, and what `find_sources` and `read_records` raise.

    Notes
    -----
    The last feedback on a decision counts. Left out, each under its name:

    - ``no_prompt``: contents were not captured and no ``prompts`` were given; ``prompt_cut``: the log holds its
      beginning only;
    - ``unscored``: no feedback; ``not_answered``: no provider answered and it was no time-out;
    - ``no_artifact_arm``: arms are to be named as in the artifact, and the deployment has none there;
    - ``censored``: a provider passed its deadline, before or within an answer. How good it would have been is unknown,
      which is not the same as bad;
    - ``fallback``: another arm than the chosen one answered. Its probability of being chosen is unknown;
    - ``client_choice``: the client named the deployment. A propensity of 1 says nothing about the policy then.

    With ``keeps_all_rows`` the last three are kept: fallbacks and client choices without a propensity, censored rows
    with the intended arm, ``is_censored`` and no score. Such a file is for the estimators of logged outcomes.
    """
    into.keeps_censored = options.keeps_all_rows
    log = _Log()
    files = find_sources(paths, SUFFIXES)
    for done, file in enumerate(files):
        options.progress("reading segments", done, len(files))
        _read_segment(file, log, into)
    options.progress("reading segments", len(files), len(files))
    for decision, (event, where) in log.requests.items():
        _add_request(decision, event, where, log, into, options)
    unknown = len(set(log.scores) - set(log.requests))
    return [f"{unknown:,} pieces of feedback refer to decisions that are not in these files"] if unknown else []


def _read_segment(file: SourceFile, log: _Log, into: Collector) -> None:
    broken: list[int] = []
    for number, event in read_records(file):
        where = file.place(number)
        kind = "" if event is None else text_of(event.get("type"))
        decision = "" if event is None else text_of(event.get("decision_id"))
        if event is None or kind not in {"request", "feedback"} or not decision:
            broken.append(number)
            continue
        for earlier in broken:  # a whole line follows, so these are no half-written tail
            into.refuse("broken_line", file.place(earlier))
        broken.clear()
        if event.get("schema") != SCHEMA:
            raise TrainingError(
                f"{where}: the event's schema is not {SCHEMA}; it was written by another version of the gateway",
                code="event_schema_unknown",
            )
        if kind == "request":
            if decision in log.requests:
                into.refuse("duplicate_cell", where)
            log.requests.setdefault(decision, (event, where))
        else:
            _take_feedback(event, decision, where, log, into)
    for number in broken:
        is_tail = number == broken[-1]
        (into.leave_out if is_tail else into.refuse)("cut_tail" if is_tail else "broken_line", file.place(number))


def _take_feedback(event: Mapping[str, Any], decision: str, where: str, log: _Log, into: Collector) -> None:
    score, time = number_of(event.get("score")), number_of(event.get("time")) or 0.0
    if score is None:
        into.refuse("wrong_type", where)
    elif not 0 <= score <= 1:
        into.refuse("score_out_of_range", where)
    elif decision not in log.scores or time >= log.scores[decision][0]:
        log.scores[decision] = (time, score)


def _add_request(
    decision: str, event: Mapping[str, Any], where: str, log: _Log, into: Collector, options: ImportOptions
) -> None:
    given = (options.prompts or {}).get(decision)
    prompt = given if given is not None else text_of(event.get("prompt"))
    prefix = "artifact_" if options.uses_artifact_arms else ""
    intended = text_of(event.get(f"intended_{prefix}arm"))
    served = text_of(event.get(f"served_{prefix}arm"))
    is_answered = event.get("served_arm") is not None
    is_censored = event.get("is_timeout") is True  # also when an answer had begun
    is_fallback = is_answered and event.get("served_arm") != event.get("intended_arm")
    is_client_choice = event.get("reason") == _CLIENT_CHOICE
    reasons = {
        "no_prompt": not prompt.strip(),
        "prompt_cut": given is None and event.get("is_prompt_cut") is True,
        "not_answered": not is_answered and not is_censored,
        "no_artifact_arm": options.uses_artifact_arms and not (intended if is_censored else served),
        "client_choice": is_client_choice and not options.keeps_all_rows,
        "censored": is_censored and not options.keeps_all_rows,
        "fallback": is_fallback and not options.keeps_all_rows,
    }
    if (reason := next((name for name, holds in reasons.items() if holds), None)) is not None:
        into.leave_out(reason, where)
        return
    logged = log.scores.get(decision)
    milliseconds = number_of(event.get("duration_ms"))
    into.add(
        OutcomeRow(
            prompt=prompt,
            arm=intended if is_censored else served,
            source=options.source or SOURCE,
            query_id=decision,
            category=text_of(event.get("category")) or None,
            score=None if is_censored else (options.scores or {}).get(decision, logged[1] if logged else None),
            input_tokens=whole_of(event.get("input_tokens")),
            output_tokens=whole_of(event.get("output_tokens")),
            cost_usd=number_of(event.get("cost_usd")),
            latency_seconds=None if milliseconds is None else milliseconds / 1000,
            timestamp=number_of(event.get("time")),
            propensity=None if is_fallback or is_client_choice else number_of(event.get("propensity")),
            tokens_source="reported",
            cost_source="estimated" if event.get("is_cost_estimated") is True else "reported",
            intended_arm=intended,
            is_censored=is_censored,
        ),
        where,
    )
