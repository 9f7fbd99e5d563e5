"""Does the cost of a request grow as its size does? Tool schemas of 1 MB and conversations of 100,000 tokens.

Every way from a client's format to a provider's is measured at four sizes: the body is parsed and judged, put into the
provider's format and encoded, as for each request, without a network and without a router. Time grows as size to some
power; a power of 1 is linear, 2 would make ten times the size a hundred times as slow. The same for answers: a stream
of many events through each translator, which has to cost as much per event at its end as at its beginning. **Exit code
1 when a power is above 1.25.** Run ``python bench/large_bodies.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from machine import describe_machine, machine_lines

from penstock_gateway.compatibility import outgoing
from penstock_gateway.deployments import Ability, Deployment
from penstock_gateway.money.snapshot import load_snapshot
from penstock_gateway.request_body import encode_object
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.pairs import find_translator
from penstock_gateway.wire.requests import parse_request
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import Asked

CONVERSATION_TOKENS = 100_000
SCHEMA_BYTES = 1_000_000
STREAM_EVENTS = 20_000
SHARES = (0.125, 0.25, 0.5, 1.0)
MAX_POWER = 1.25
"""Above 1 for what grows a little faster than its size without being at fault: larger bodies leave the processor's
caches. A quadratic step would show as nearly 2."""

CHAT, MESSAGES, RESPONSES = WireFormat.CHAT, WireFormat.MESSAGES, WireFormat.RESPONSES
WAYS = (
    (CHAT, CHAT),
    (CHAT, MESSAGES),
    (CHAT, RESPONSES),
    (MESSAGES, MESSAGES),
    (MESSAGES, CHAT),
    (RESPONSES, RESPONSES),
    (RESPONSES, CHAT),
    (RESPONSES, MESSAGES),
)
_SENTENCE = "The river rises in the hills, and the water is led through a gate to the mill below it. "
_TOKENS_PER_TURN = 500
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Measured:
    """One way at all sizes.

    Attributes
    ----------
    subject, front, back : str
    sizes : list of int
        Bytes of the request, or events of the stream.
    ms : list of float
        Processor time, the least of several runs.
    power : float
        Slope of log time over log size between the smallest and the largest.
    """

    subject: str
    front: str
    back: str
    sizes: list[int]
    ms: list[float]
    power: float


def conversation(front: WireFormat, tokens: int) -> dict[str, Any]:
    """Return a request with a conversation of about so many tokens, half of its turns calling a tool."""
    text = (_SENTENCE * (_TOKENS_PER_TURN * _CHARACTERS_PER_TOKEN // len(_SENTENCE) + 1))[: 4 * _TOKENS_PER_TURN]
    turns = max(2, tokens // _TOKENS_PER_TURN)
    items = [turn for number in range(turns // 2) for turn in _turns(front, number, text)]
    items.append({"role": "user", "content": "And what became of the mill?"})
    name = "input" if front is RESPONSES else "messages"
    return {"model": "m", name: items, **({"max_tokens": 100} if front is MESSAGES else {})}


def _turns(front: WireFormat, number: int, text: str) -> list[dict[str, Any]]:
    call_id, arguments = f"call_{number}", json.dumps({"text": text[:200]})
    if front is MESSAGES:
        use = {"type": "tool_use", "id": call_id, "name": "look", "input": {"text": text[:200]}}
        result = {"type": "tool_result", "tool_use_id": call_id, "content": text}
        return [
            {"role": "user", "content": text},
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": "It stands."},
        ]
    if front is RESPONSES:
        return [
            {"role": "user", "content": text},
            {"type": "function_call", "call_id": call_id, "name": "look", "arguments": arguments},
            {"type": "function_call_output", "call_id": call_id, "output": text},
            {"role": "assistant", "content": "It stands."},
        ]
    call = {"id": call_id, "type": "function", "function": {"name": "look", "arguments": arguments}}
    return [
        {"role": "user", "content": text},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": text},
        {"role": "assistant", "content": "It stands."},
    ]


def schemas(front: WireFormat, size: int) -> dict[str, Any]:
    """Return a request with tools whose schemas take about so many bytes."""
    field = {"type": "string", "description": _SENTENCE}
    properties = {f"field_{number}": field for number in range(40)}
    schema = {"type": "object", "properties": properties}
    tools = [_tool(front, f"tool_{number}", schema) for number in range(max(1, size // len(json.dumps(schema))))]
    asked = conversation(front, 0)
    return {**asked, "tools": tools}


def _tool(front: WireFormat, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if front is MESSAGES:
        return {"name": name, "description": "Looks.", "input_schema": schema}
    if front is RESPONSES:
        return {"type": "function", "name": name, "description": "Looks.", "parameters": schema, "strict": False}
    return {"type": "function", "function": {"name": name, "description": "Looks.", "parameters": schema}}


def deployment(back: WireFormat) -> Deployment:
    """Return a deployment whose server speaks one format."""
    price = load_snapshot().models["openai"]["gpt-5.4"].price
    return Deployment("m", "m", "direct", "", None, "m", price, 10**9, 10**6, frozenset(Ability), wires=(back,))


def measure_requests(subject: str, front: WireFormat, back: WireFormat, bodies: list[bytes], runs: int) -> Measured:
    """Measure one way at the sizes of the bodies."""
    there = deployment(back)

    def pass_on(body: bytes) -> None:
        encode_object(outgoing(parse_request(front, body), there, is_routed=False).body)

    times = [_least_ms(lambda body=body: pass_on(body), runs) for body in bodies]
    sizes = [len(body) for body in bodies]
    return Measured(subject, front.value, back.value, sizes, times, _power(sizes, times))


def chat_stream(events: int) -> list[tuple[str, bytes]]:
    """Return the events of a chat stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    texts = [{"index": 0, "delta": {"content": "water "}, "finish_reason": None}] * events
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [json.dumps({**head, "choices": [choice]}).encode() for choice in (*texts, last)]
    return [("", chunk) for chunk in chunks] + [("", b"[DONE]")]


def measure_stream(front: WireFormat, events: list[int], runs: int) -> Measured:
    """Measure a chat provider's stream on its way to a client of another format, and back again."""
    there, back_again = find_translator(front, CHAT), find_translator(CHAT, front)
    assert there is not None
    assert back_again is not None
    asked = Asked({}, "answer", 1)

    def translate(stream: list[tuple[str, bytes]]) -> None:
        first, second = there.stream(asked), back_again.stream(asked)
        for name, data in stream:
            for inner_name, inner in events_of(first.feed(name, data)):
                second.feed(inner_name, inner)
        for inner_name, inner in events_of(first.finish()):
            second.feed(inner_name, inner)
        second.finish()

    streams = [chat_stream(count) for count in events]
    times = [_least_ms(lambda stream=stream: translate(stream), runs) for stream in streams]
    return Measured("stream there and back", front.value, "chat", events, times, _power(events, times))


def _least_ms(work: Callable[[], None], runs: int) -> float:
    least = math.inf
    for _ in range(runs):
        started = time.process_time_ns()
        work()
        least = min(least, (time.process_time_ns() - started) / 1e6)
    return least


def _power(sizes: list[int], times: list[float]) -> float:
    return math.log(times[-1] / times[0]) / math.log(sizes[-1] / sizes[0])


def measure(share: float, runs: int) -> list[Measured]:
    """Measure everything at a share of the full sizes."""
    rows = []
    for front, back in WAYS:
        for subject, make, full in (
            ("conversation", conversation, CONVERSATION_TOKENS),
            ("tool schemas", schemas, SCHEMA_BYTES),
        ):
            bodies = [json.dumps(make(front, int(full * share * part))).encode() for part in SHARES]
            rows.append(measure_requests(subject, front, back, bodies, runs))
    events = [int(STREAM_EVENTS * share * part) for part in SHARES]
    return rows + [measure_stream(front, events, runs) for front in (MESSAGES, RESPONSES)]


def table(rows: list[Measured]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| what | client → provider | largest | ms there | per MB (or 1,000 events), smallest | largest | power |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        is_stream = row.subject.startswith("stream")
        unit, label = (1e3, f"{row.sizes[-1]:,} events") if is_stream else (1e6, f"{row.sizes[-1] / 1e6:.2f} MB")
        each = [f"{ms / size * unit:.2f} ms" for ms, size in zip(row.ms, row.sizes, strict=True)]
        way = f"{row.front} → {row.back}"
        lines.append(
            f"| {row.subject} | {way} | {label} | {row.ms[-1]:.2f} | {each[0]} | {each[-1]} | {row.power:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, fewer runs")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    rows = measure(0.1 if options.quick else 1.0, 3 if options.quick else 7)
    bent = [row for row in rows if row.power > MAX_POWER]
    if options.json:
        print(json.dumps({"machine": describe_machine(), "results": [asdict(row) for row in rows]}, indent=1))
        return 1 if bent else 0
    print("\n".join(machine_lines(describe_machine())), end="\n\n")
    print(table(rows))
    print(f"\nlargest power: {max(row.power for row in rows):.2f} (1 is linear; above {MAX_POWER} is a fault)")
    return 1 if bent else 0


if __name__ == "__main__":
    sys.exit(main())
