"""``kill -9`` at random moments under load: every acknowledged outcome is found once, and nothing is counted twice."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from penstock_gateway.events.compaction import compact
from penstock_gateway.events.reading import Problem, ReadingProblem, read_events
from penstock_gateway.events.retention import RetentionRules, delete_old
from penstock_gateway.events.verification import verify
from support.event_samples import COST_PICOUSD, log_in

# Writes outcomes from four threads as fast as the log has places, and tells each acknowledgement to standard output.
WRITER = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from support.event_samples import COSTS, COST_PICOUSD, PRINCIPAL, SETTLED, log_in, sample_decision, sample_request

round_name = sys.argv[3]
log = log_in(Path(sys.argv[1]), capture_content=True, segment_bytes=65_536, max_waiting=300)
log.start()
request, lock = sample_request(), threading.Lock()

def acknowledge(name):
    with lock:
        os.write(1, name.encode() + b"\\n")

def load(worker):
    number = 0
    while True:
        if not log.admit():
            time.sleep(0.001)
            continue
        name = f"dec_{round_name}_{worker}_{number}"
        number += 1
        decision = sample_decision(id=name)
        log.note_decision(PRINCIPAL, name, request, decision)
        log.note_outcome(PRINCIPAL, name, decision, SETTLED, admitted_at=time.time(), cost_picousd=COST_PICOUSD,
                         attempt_costs=COSTS, on_written=lambda name=name: acknowledge(name))

for worker in range(4):
    threading.Thread(target=load, args=(worker,), daemon=True).start()
time.sleep(600)
"""


def _run_until_killed(folder: Path, root: Path, name: str, acknowledgements: int) -> list[str]:
    """Let a process write until it has told so many acknowledgements, kill it, and return all that it told."""
    command = [sys.executable, "-c", WRITER, str(folder), str(root / "tests"), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        told, deadline = b"", time.monotonic() + 60.0
        try:
            while told.count(b"\n") < acknowledgements:
                assert time.monotonic() < deadline, "the writer told nothing"
                ready, _, _ = select.select([process.stdout], [], [], 1.0)
                if ready:
                    chunk = os.read(process.stdout.fileno(), 65_536)
                    assert chunk, process.stderr.read().decode() if process.stderr else ""
                    told += chunk
        finally:
            os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
    lines = (told + rest).split(b"\n")
    return [line.decode() for line in lines[:-1]]  # the last one may be half


@pytest.mark.timeout(240)
def test_event_log_killed_at_random_moments_keeps_every_acknowledged_outcome_once(
    tmp_path: Path, repository_root: Path
) -> None:
    """Killed, repaired, compacted and thinned out again and again: what was acknowledged is spent exactly once."""
    random_source = random.Random(20261126)
    acknowledged: set[str] = set()
    for number in range(6):
        told = _run_until_killed(tmp_path, repository_root, str(number), random_source.randrange(1, 2500))
        assert len(told) == len(set(told))
        acknowledged.update(told)
        if number == 2:
            restarted = log_in(tmp_path)  # repairs what the killed ones left
            restarted.start()
            restarted.stop()
            compact(tmp_path)
    restarted = log_in(tmp_path)
    restarted.start()
    restarted.stop()
    damage: list[ReadingProblem] = []
    found = Counter(
        event["decision_id"] for event in read_events(tmp_path, types={"outcome"}, on_problem=damage.append)
    )
    assert acknowledged - set(found) == set()
    assert [name for name, count in found.items() if count > 1] == []
    assert [problem for problem in damage if problem.kind is not Problem.TORN_TAIL] == []
    assert verify(tmp_path).is_sound
    delete_old(tmp_path, RetentionRules(200_000, unsettled_seconds=-1.0), now=time.time())
    spent = 0
    for event in read_events(tmp_path, types={"outcome", "checkpoint"}):
        if event["type"] == "outcome" or event["scope"] == "key:k1":
            spent += event["cost_picousd"]
    assert spent == len(found) * COST_PICOUSD
    print(f"{len(acknowledged):,} outcomes acknowledged over 6 kills, {len(found):,} found, none lost, none twice")


def test_event_log_killed_in_the_middle_of_a_line_cuts_it_at_the_start(tmp_path: Path, repository_root: Path) -> None:
    """What a killed process left half is gone after the next start, and everything before it is as it was."""
    told = _run_until_killed(tmp_path, repository_root, "0", 50)
    (path, *_) = sorted(tmp_path.glob("events-*.jsonl"))
    whole = path.read_bytes().split(b"\n")[:-1]
    with path.open("ab") as stream:
        stream.write(b'{"schema":2,"type":"outcome","decision_id":"half')
    restarted = log_in(tmp_path)
    restarted.start()
    restarted.stop()
    assert path.read_bytes().split(b"\n")[:-1] == whole
    ids = {json.loads(line)["decision_id"] for file in tmp_path.glob("events-*.jsonl") for line in file.open("rb")}
    assert set(told) <= ids
