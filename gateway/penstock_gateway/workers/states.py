"""What one worker remembers of its last requests and knows of its deployments, as the console of another shows it.

Owns the picture and how the pictures of all workers become one. Read `state_of`, then `together`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from penstock_gateway.decisions import RouteDecision, Settlement
from penstock_gateway.pipeline import Pipeline

Record = tuple[str, RouteDecision, Settlement | None]

CLOSED: Final = "closed"
COOLING: Final = "cooling"


class LaneState(msgspec.Struct, frozen=True):
    """One deployment's health.

    Attributes
    ----------
    state : str
        Of its breaker; `COOLING` when that is closed and a provider has asked for a pause.
    wait_seconds : float
        Until it is tried again.
    in_flight, waiting : int
        Requests.
    limit : int or None
        Most in flight.
    """

    state: str
    wait_seconds: float
    in_flight: int
    waiting: int
    limit: int | None


class WorkerState(msgspec.Struct, frozen=True):
    """What a worker knows.

    Attributes
    ----------
    records : list of (str, RouteDecision, Settlement or None)
        Tenant, decision and outcome of its last requests, the newest first.
    lanes : dict of str to LaneState
        By the deployment's name.
    errors : dict of str to int
        Since its start, by code; requests that were refused before a decision are among them.
    """

    records: list[Record]
    lanes: dict[str, LaneState]
    errors: dict[str, int]


encode_state = msgspec.msgpack.Encoder().encode
decode_state = msgspec.msgpack.Decoder(WorkerState).decode


def state_of(pipeline: Pipeline, records: int) -> WorkerState:
    """Return what a worker knows; O(records).

    Parameters
    ----------
    pipeline : Pipeline
        Its own.
    records : int
        At most so many.
    """
    now = time.perf_counter()
    lanes = {}
    for lane in pipeline.attempts.runner.book:
        wait, state = lane.breaker.closed_seconds(now), lane.breaker.state.value
        lanes[lane.name] = LaneState(
            COOLING if state == CLOSED and wait > 0 else state,
            wait,
            lane.slots.in_flight,
            lane.slots.waiting,
            lane.slots.limit,
        )
    samples = [sample for family in pipeline.metrics.errors.collect() for sample in family.samples]
    errors = {sample.labels["code"]: int(sample.value) for sample in samples if sample.value}
    return WorkerState(pipeline.decisions.newest(records), lanes, errors)


def together(states: Sequence[WorkerState], records: int) -> WorkerState:
    """Return the picture of several workers: the newest requests of all, sums, and of each deployment the worst state.

    Parameters
    ----------
    states : sequence of WorkerState
    records : int
        At most so many.
    """
    newest = sorted((record for state in states for record in state.records), key=lambda record: -record[1].created_at)
    errors: dict[str, int] = {}
    lanes: dict[str, LaneState] = {}
    for state in states:
        for code, count in state.errors.items():
            errors[code] = errors.get(code, 0) + count
        for name, lane in state.lanes.items():
            lanes[name] = lane if name not in lanes else _both(lanes[name], lane)
    return WorkerState(newest[:records], lanes, errors)


def _both(one: LaneState, other: LaneState) -> LaneState:
    worse = max(one, other, key=lambda lane: (lane.state != CLOSED, lane.wait_seconds))
    limits = None if one.limit is None or other.limit is None else one.limit + other.limit
    return LaneState(
        worse.state, worse.wait_seconds, one.in_flight + other.in_flight, one.waiting + other.waiting, limits
    )
