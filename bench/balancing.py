"""How long are the tails of balancing by predicted work, against least connections and round robin, on real traffic.

A trace is replayed through simulated deployments of one model (`balancing_world.py`), once for each policy, with the
same spells and the same errors in the predicted lengths. Ours is the gateway's own code (`attempts.balancing.Group`).
Nothing sleeps: an hour of traffic takes a second.

Usage::

    python bench/balancing.py            the Azure trace of the data folder; a minute
    python bench/balancing.py --held-out other hardware, speeds, spells and parts of the trace; two minutes
    python bench/balancing.py --quick    a generated trace; its figures mean nothing

The last columns divide by ours: above 1, ours is better. The form of the predictor and its memories were chosen on the
first scene and on "four equal"; the held-out scenes were looked at once, afterwards. Read `main`, then `measure`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from balancing_world import USUAL, Arrival, Hardware, Request, azure_trace, generated_trace, replay, requests_of
from data_folder import data_folder
from machine import describe_machine, machine_lines

from penstock_gateway.attempts.balancing import Group, Load
from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.attempts.load import GroupPace, Passage
from penstock_gateway.deployments import Deployment
from penstock_gateway.money.prices import Price
from penstock_gateway.settings_attempts import BalanceSettings, BreakerSettings

SEEDS = (0, 1, 2)
PART = 10_000  # requests of the trace in one run; each seed begins elsewhere
PACKAGES = ("penstock", "numpy", "pyarrow")


@dataclass(frozen=True)
class Scene:
    """What is compared on.

    Attributes
    ----------
    name : str
    speeds : tuple of float
        Of the deployments.
    speedups : tuple of float
        Of the trace: light, middling and heavy load.
    sigma : float or None
        Error of the predicted lengths, see `requests_of`.
    is_stream : bool
        Whether the gateway sees first bytes.
    hardware : Hardware
    """

    name: str
    speeds: tuple[float, ...]
    speedups: tuple[float, ...]
    sigma: float | None = 0.7
    is_stream: bool = True
    hardware: Hardware = USUAL


SCENES = (
    Scene("four speeds", (1.0, 0.8, 0.5, 0.3), (0.3, 0.6, 0.9)),
    Scene("four speeds, lengths unknown", (1.0, 0.8, 0.5, 0.3), (0.3, 0.6, 0.9), sigma=None),
    Scene("four speeds, plain replies", (1.0, 0.8, 0.5, 0.3), (0.3, 0.6, 0.9), is_stream=False),
    Scene("two fast, one slow", (1.0, 1.0, 0.4), (0.3, 0.6, 0.9)),
    Scene("four equal", (0.7, 0.7, 0.7, 0.7), (0.3, 0.6, 0.9)),
    Scene("eight equal", (0.7,) * 8, (0.6, 1.2, 1.8)),
)

HELD_OUT_SEEDS = (10, 11)
HELD_OUT_HARDWARE = {
    "usual": (USUAL, 1.0),
    "small batches, slow reading": (Hardware(4_000.0, 24, 20.0, 0.8), 0.5),
    "large batches, quick reading": (Hardware(30_000.0, 200, 150.0, 0.9), 1.0),
    "no slowdown at all": (Hardware(100_000.0, 10**6, 1e6, 1.0), 1.0),
}
HELD_OUT_SPEEDS = {
    "three speeds": ((1.2, 0.9, 0.6), (0.3, 0.6, 0.9)),
    "two speeds": ((1.0, 0.5), (0.2, 0.35, 0.5)),
    "six mixed": ((1.0, 1.0, 0.7, 0.7, 0.4, 0.4), (0.5, 0.9, 1.3)),
    "five equal": ((0.6,) * 5, (0.3, 0.6, 0.9)),
}
HELD_OUT = tuple(
    Scene(f"{what}, {name}", speeds, tuple(factor * speedup for speedup in speedups), hardware=hardware)
    for what, (hardware, factor) in HELD_OUT_HARDWARE.items()
    for name, (speeds, speedups) in HELD_OUT_SPEEDS.items()
)


class Counting:
    """What the simple policies have in common: the requests in flight at each deployment."""

    def __init__(self, speeds: Sequence[float], draws: random.Random) -> None:
        self.in_flight = [0] * len(speeds)
        self.draws = draws

    def choose(self, request: Request, now: float) -> int:
        """Choose and count."""
        index = self.pick(now)
        self.in_flight[index] += 1
        return index

    def pick(self, now: float) -> int:
        """Choose any."""
        return self.draws.randrange(len(self.in_flight))

    def note_first_byte(self, request: Request, now: float) -> None:
        """Learn nothing."""

    def note_end(self, request: Request, now: float) -> None:
        """Count."""
        self.in_flight[request.lane] -= 1


class RoundRobin(Counting):
    """One after the other."""

    _turn = -1

    def pick(self, now: float) -> int:
        """Choose the next."""
        self._turn += 1
        return self._turn % len(self.in_flight)


class LeastConnections(Counting):
    """The one with the fewest requests in flight; of several, any."""

    def pick(self, now: float) -> int:
        """Choose the least busy."""
        least = min(self.in_flight)
        return self.draws.choice([index for index, count in enumerate(self.in_flight) if count == least])


class PeakEwma(Counting):
    """Least latency times requests in flight, latency a mean that jumps up and decays (Finagle, linkerd, Helicone)."""

    DECAY_SECONDS = 10.0

    def __init__(self, speeds: Sequence[float], draws: random.Random) -> None:
        super().__init__(speeds, draws)
        self._latency = [0.0] * len(speeds)
        self._seen_at = [0.0] * len(speeds)

    def pick(self, now: float) -> int:
        """Choose the least product; an unknown one with nothing in flight goes first."""
        return min(range(len(self.in_flight)), key=lambda index: self._cost(index, now))

    def note_end(self, request: Request, now: float) -> None:
        """Take in a latency."""
        super().note_end(request, now)
        index, seconds = request.lane, now - request.at
        weight = math.exp((self._seen_at[index] - now) / self.DECAY_SECONDS)
        known = self._latency[index]
        self._latency[index] = seconds if seconds > known else known * weight + seconds * (1.0 - weight)
        self._seen_at[index] = now

    def _cost(self, index: int, now: float) -> tuple[float, float]:
        latency = self._latency[index] * math.exp((self._seen_at[index] - now) / self.DECAY_SECONDS)
        if latency == 0.0 and self.in_flight[index]:
            return 1e9 * self.in_flight[index], 0.0
        return latency * (self.in_flight[index] + 1), self.draws.random()


class Ours:
    """The gateway's own balancing."""

    def __init__(self, speeds: Sequence[float], draws: random.Random, *, is_stream: bool = True) -> None:
        pace = GroupPace()
        self._lanes = [Lane(_deployment(index), BreakerSettings(), pace) for index in range(len(speeds))]
        self._group = Group("bench", self._lanes, BalanceSettings(), draw=draws.random)
        self._passages: dict[int, Passage] = {}
        self._is_stream = is_stream

    def choose(self, request: Request, now: float) -> int:
        """Choose as the gateway does."""
        lane = self._group.order(self._load_of(request), now)[0]
        self._passages[request.number] = lane.load.begin(request.input_tokens, request.predicted_tokens)
        return self._lanes.index(lane)

    def note_first_byte(self, request: Request, now: float) -> None:
        """Learn from a stream's first byte."""
        if self._is_stream:
            self._lanes[request.lane].load.note_first_byte(self._passages[request.number], now - request.at)

    def note_end(self, request: Request, now: float) -> None:
        """Learn from the whole."""
        passage = self._passages.pop(request.number)
        self._lanes[request.lane].load.finish(passage, request.output_tokens, now - request.at, now)

    def _load_of(self, request: Request) -> Load:
        return Load(request.input_tokens, request.predicted_tokens)


class OursPlain(Ours):
    """The same without first bytes."""

    def __init__(self, speeds: Sequence[float], draws: random.Random) -> None:
        super().__init__(speeds, draws, is_stream=False)


class OursKeyed(Ours):
    """The same when every request is a conversation of its own, which has its place: what affinity costs at most."""

    def _load_of(self, request: Request) -> Load:
        return Load(request.input_tokens, request.predicted_tokens, b"%d" % request.number)


MakePolicy = Callable[[Sequence[float], random.Random], Any]
RIVALS: dict[str, MakePolicy] = {
    "least connections": LeastConnections,
    "round robin": RoundRobin,
    "peak EWMA": PeakEwma,
    "random": Counting,
}


def main() -> None:
    """Run the bench as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="a generated trace, one seed, two scenes")
    parser.add_argument("--held-out", action="store_true", help="scenes that nothing was chosen on")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    options = parser.parse_args()
    say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    if options.quick:
        trace, seeds, part = generated_trace(2_000, seed=0), SEEDS[:1], 2_000
        scenes = tuple(replace(scene, speedups=scene.speedups[1:2]) for scene in (SCENES[0], SCENES[4]))
    else:
        folder = data_folder()
        if not (folder / "traffic").is_dir():
            sys.exit(f"no traffic in {folder}: set PENSTOCK_DATA, or try --quick with a generated trace")
        trace, part = azure_trace(folder), PART
        seeds, scenes = (HELD_OUT_SEEDS, HELD_OUT) if options.held_out else (SEEDS, SCENES)
    rows = []
    for scene in scenes:
        found = [row for speedup in scene.speedups for row in measure(scene, speedup, trace, seeds, part)]
        print_scene(scene, found, say)
        rows += found
    print_summary(rows, say)
    if options.json:
        print(json.dumps({"machine": machine, "results": rows}, indent=1))


def measure(scene: Scene, speedup: float, trace: Sequence[Arrival], seeds: Sequence[int], part: int) -> list[Any]:
    """Return a row for each policy: means over the seeds of the latency's median and 99th percentile, and so on."""
    policies: dict[str, MakePolicy] = {"ours": Ours if scene.is_stream else OursPlain, "ours, all keyed": OursKeyed}
    policies |= RIVALS
    rows = []
    for name, make in policies.items():
        runs = []
        for number, seed in enumerate(seeds):
            begin = (2 * number + 1) * (len(trace) - part) // (2 * len(seeds))
            requests = requests_of(trace[begin : begin + part], speedup, scene.sigma, seed)
            replay(requests, scene.speeds, make(scene.speeds, random.Random(seed)), seed, scene.hardware)
            runs.append(_figures(requests))
        mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        rows.append({"scene": scene.name, "speedup": speedup, "policy": name, **mean})
    ours = rows[0]
    for row in rows:
        row["p50_to_ours"], row["p99_to_ours"] = row["p50"] / ours["p50"], row["p99"] / ours["p99"]
    return rows


def _figures(requests: Sequence[Request]) -> dict[str, float]:
    latency = np.array([request.ended_at - request.at for request in requests])
    first = np.array([request.first_at - request.at for request in requests])
    return {
        "p50": float(np.percentile(latency, 50)),
        "p99": float(np.percentile(latency, 99)),
        "mean": float(latency.mean()),
        "first_byte_p99": float(np.percentile(first, 99)),
    }


def print_scene(scene: Scene, rows: Sequence[Any], say: Callable[[str], object]) -> None:
    """Print one scene's table."""
    say(f"\n{scene.name}: speeds {', '.join(f'{speed:g}' for speed in scene.speeds)}; seconds")
    say(
        f"{'load':>5}  {'policy':18} {'p50':>8} {'p99':>8} {'mean':>8} {'1st p99':>8}   {'p50÷ours':>8} {'p99÷ours':>8}"
    )
    for row in rows:
        say(
            f"{row['speedup']:5g}  {row['policy']:18} {row['p50']:8.2f} {row['p99']:8.2f} {row['mean']:8.2f} "
            f"{row['first_byte_p99']:8.2f}   {row['p50_to_ours']:8.2f} {row['p99_to_ours']:8.2f}"
        )


def print_summary(rows: Sequence[Any], say: Callable[[str], object]) -> None:
    """Print each rival's p99 over ours: geometric mean, least and most over scenes and loads."""
    for are_equal in (False, True):
        say(f"\n{'equal' if are_equal else 'unequal'} deployments: p99 ÷ ours")
        say(f"{'':18} {'mean':>6} {'least':>6} {'most':>6}   where the least is")
        for name in RIVALS:
            found = [row for row in rows if row["policy"] == name and ("equal" in row["scene"]) is are_equal]
            ratios = [row["p99_to_ours"] for row in found]
            least = min(found, key=lambda row: row["p99_to_ours"])
            mean = math.exp(float(np.mean(np.log(ratios))))
            where = f"{least['scene']}, load {least['speedup']:g}"
            say(f"{name:18} {mean:6.2f} {min(ratios):6.2f} {max(ratios):6.2f}   {where}")


def _deployment(index: int) -> Deployment:
    price = Price(*(4 * [0]))  # type: ignore[list-item]
    return Deployment(f"lane-{index}", "model", "direct", "", None, "", price, 10**6, 10**6, frozenset())


if __name__ == "__main__":
    main()
