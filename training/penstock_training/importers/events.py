"""Our own gateway's events: decisions joined with their outcomes and with the feedback that came later.

Owns the meaning of the event log (``docs/events.md``, schemas 1 and 2) for fitting. Must not weigh anything: what may
be weighted by propensity is marked, not decided, here. Read `read_events`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from penstock_training.importers.collected import Collector, OutcomeRow
from penstock_training.importers.event_files import find_segments, read_segment
from penstock_training.importers.options import ImportOptions
from penstock_training.importers.source_files import (
    SourceFile,
    number_of,
    text_of,
    whole_of,
)

SOURCE: Final = "events"
_CLIENT_CHOICE: Final = "physical_model"  # the reason of a request that named its deployment (docs/routing.md)
AUDIT: Final = "audit"
_TYPES: Final = frozenset({"request", "decision", "outcome", "feedback"})
_Event = Mapping[str, Any]


@dataclass(slots=True)
class _Log:
    """What the segments hold, by decision."""

    decisions: dict[str, tuple[_Event, str]] = field(default_factory=dict)
    outcomes: dict[str, tuple[_Event, str]] = field(default_factory=dict)
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)  # decision: (time, score)


def read_events(paths: Sequence[Path], into: Collector, options: ImportOptions) -> list[str]:
    """Read event segments and join decisions, outcomes and feedback.

    Parameters
    ----------
    paths : sequence of Path
        Segments, or the folder that holds them. Name all of them at once: the events of one decision can lie in
        different segments.
    into : Collector
    options : ImportOptions
        ``scores`` and ``prompts`` (by decision or request id; they win over what the log holds),
        ``uses_artifact_arms``, ``keeps_all_rows``, ``source`` (default ``events``).

    Returns
    -------
    list of str
        Remarks for the report.

    Raises
    ------
    TrainingError
        What `find_segments` and `read_segment` raise.

    Notes
    -----
    The last feedback with a score counts. Left out, each under its name:

    - ``no_outcome``: the request was under way, or its outcome is in a file that was not named; ``no_decision``: the
      gateway left the decision out under load, or it is in such a file;
    - ``no_prompt``: contents were not captured and no ``prompts`` were given; ``prompt_cut``: the log holds its
      beginning only;
    - ``unscored``: no feedback; ``not_answered``: no provider answered and it was no time-out;
    - ``no_artifact_arm``: arms are to be named as in the artifact, and the deployment has none there;
    - ``censored``: a provider passed its deadline, before or within an answer. How good it would have been is unknown,
      which is not the same as bad;
    - ``fallback``: another arm than the chosen one answered. Its probability of being chosen is unknown;
    - ``client_choice``: the client named the deployment. A propensity of 1 says nothing about the policy then;
    - ``repeated_event``: the disk failed in the middle of a batch, which is there twice; ``damaged``: a line that could
      not be read when the segment was rewritten; ``unknown_event``: of a type that this version does not know.

    With ``keeps_all_rows`` censored rows, fallbacks and client choices are kept: fallbacks and client choices without a
    propensity, censored rows with the intended arm, ``is_censored`` and no score. Such a file is for the estimators of
    logged outcomes.
    """
    into.keeps_censored = options.keeps_all_rows
    log = _Log()
    files = find_segments(paths)
    for done, file in enumerate(files):
        options.progress("reading segments", done, len(files))
        _read_segment(file, log, into)
    options.progress("reading segments", len(files), len(files))
    for key, (decision, where) in log.decisions.items():
        if (found := log.outcomes.get(key)) is None:
            into.leave_out("no_outcome", where)
        else:
            _add_request(key, decision, found[0], where, log, into, options)
    for key, (_, where) in log.outcomes.items():
        if key not in log.decisions:
            into.leave_out("no_decision", where)
    unknown = len(set(log.scores) - set(log.decisions))
    return [f"{unknown:,} pieces of feedback refer to decisions that are not in these files"] if unknown else []


def _read_segment(file: SourceFile, log: _Log, into: Collector) -> None:
    broken: list[int] = []
    for number, event in read_segment(file):
        where = file.place(number)
        kind = "" if event is None else text_of(event.get("type"))
        decision = "" if event is None else text_of(event.get("decision_id"))
        if event is None or (kind in _TYPES and not decision):
            broken.append(number)
            continue
        for earlier in broken:  # a whole line follows, so these are no half-written tail
            into.refuse("broken_line", file.place(earlier))
        broken.clear()
        if kind == AUDIT:  # about a cached answer; `penstock-train cache-calibrate --events` reads it
            continue
        if kind == "feedback":
            _take_feedback(event, decision, where, log, into)
        elif kind not in _TYPES:
            into.leave_out("damaged" if kind == "damaged" else "unknown_event", where)
        else:
            _take(event, kind, decision, where, log, into)
    for number in broken:
        is_tail = number == broken[-1]
        (into.leave_out if is_tail else into.refuse)("cut_tail" if is_tail else "broken_line", file.place(number))


def _take(event: _Event, kind: str, decision: str, where: str, log: _Log, into: Collector) -> None:
    """Keep a decision, an outcome, or a request of schema 1, which is both."""
    targets = {"decision": (log.decisions,), "outcome": (log.outcomes,), "request": (log.decisions, log.outcomes)}
    for known in targets[kind]:
        if decision in known:
            into.leave_out("repeated_event", where)
            return
    for known in targets[kind]:
        known[decision] = (event, where)


def _take_feedback(event: _Event, decision: str, where: str, log: _Log, into: Collector) -> None:
    score, time = number_of(event.get("score")), number_of(event.get("time")) or 0.0
    if score is None and event.get("score") is None and "label" in event:  # a label or a comment without a score
        return
    if score is None:
        into.refuse("wrong_type", where)
    elif not 0 <= score <= 1:
        into.refuse("score_out_of_range", where)
    elif decision not in log.scores or time >= log.scores[decision][0]:
        log.scores[decision] = (time, score)


def _add_request(
    key: str, decision: _Event, outcome: _Event, where: str, log: _Log, into: Collector, options: ImportOptions
) -> None:
    ids = (key, text_of(decision.get("request_id")))
    given = next((options.prompts[name] for name in ids if options.prompts and name in options.prompts), None)
    prompt = given if given is not None else text_of(decision.get("prompt"))
    prefix = "artifact_" if options.uses_artifact_arms else ""
    intended = text_of(decision.get(f"intended_{prefix}arm"))
    served = text_of(outcome.get(f"served_{prefix}arm"))
    is_answered = outcome.get("served_arm") is not None
    is_censored = outcome.get("is_timeout") is True  # also when an answer had begun
    is_fallback = is_answered and outcome.get("served_arm") != decision.get("intended_arm")
    is_client_choice = decision.get("reason") == _CLIENT_CHOICE
    reasons = {
        "no_prompt": not prompt.strip(),
        "prompt_cut": given is None and decision.get("is_prompt_cut") is True,
        "not_answered": not is_answered and not is_censored,
        "no_artifact_arm": options.uses_artifact_arms and not (intended if is_censored else served),
        "client_choice": is_client_choice and not options.keeps_all_rows,
        "censored": is_censored and not options.keeps_all_rows,
        "fallback": is_fallback and not options.keeps_all_rows,
    }
    if (reason := next((name for name, holds in reasons.items() if holds), None)) is not None:
        into.leave_out(reason, where)
        return
    milliseconds, usage = number_of(outcome.get("duration_ms")), _usage_of(outcome)
    into.add(
        OutcomeRow(
            prompt=prompt,
            arm=intended if is_censored else served,
            source=options.source or SOURCE,
            query_id=key,
            category=text_of(decision.get("category")) or None,
            score=None if is_censored else _score(ids, log, options),
            input_tokens=whole_of(usage.get("input_tokens")),
            output_tokens=whole_of(usage.get("output_tokens")),
            cost_usd=_answer_cost(outcome),
            latency_seconds=None if milliseconds is None else milliseconds / 1000,
            timestamp=number_of(decision.get("time")),
            propensity=None if is_fallback or is_client_choice else number_of(decision.get("propensity")),
            tokens_source="reported",
            cost_source="estimated" if outcome.get("is_cost_estimated") is True else "reported",
            intended_arm=intended,
            is_censored=is_censored,
            tenant=text_of(decision.get("tenant")) or None,
            system_bytes=whole_of(decision.get("system_bytes")),
            tools=whole_of(decision.get("tools")),
            turns=whole_of(decision.get("turns")),
        ),
        where,
    )


def _score(ids: Sequence[str], log: _Log, options: ImportOptions) -> float | None:
    given = next((options.scores[name] for name in ids if options.scores and name in options.scores), None)
    logged = log.scores.get(ids[0])
    return given if given is not None else (None if logged is None else logged[1])


def _usage_of(outcome: _Event) -> _Event:
    """Token counts; schema 1 had them on the event itself."""
    if "usage" not in outcome:
        return outcome
    usage = outcome["usage"]
    return usage if isinstance(usage, Mapping) else {}


def _answer_cost(outcome: _Event) -> float | None:
    """Return what the attempt that answered cost, where that is known, else the whole.

    Failed attempts before it are billed too, but another request to the same arm would not have them.
    """
    attempts = outcome.get("attempts")
    for attempt in attempts if isinstance(attempts, list) else ():
        if isinstance(attempt, Mapping) and attempt.get("deployment") == outcome.get("served_arm"):
            cost = number_of(attempt.get("cost_usd"))
            if attempt.get("error_code") is None and cost is not None:
                return cost
    return number_of(outcome.get("cost_usd"))
