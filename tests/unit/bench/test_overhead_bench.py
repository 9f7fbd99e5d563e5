"""Rules of the overhead bench's arithmetic, on made-up samples and canned bytes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def overhead(repository_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The bench as a module; its neighbours are found as they are when it runs."""
    monkeypatch.syspath_prepend(str(repository_root / "bench"))
    return importlib.import_module("overhead")


@pytest.fixture
def traffic(repository_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What is sent, as a module."""
    monkeypatch.syspath_prepend(str(repository_root / "bench"))
    return importlib.import_module("traffic")


@pytest.fixture
def mock_upstream(repository_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The mock provider as a module."""
    monkeypatch.syspath_prepend(str(repository_root / "bench"))
    return importlib.import_module("mock_upstream")


def _sample(overhead: ModuleType, cpu_us: float, p50_ms: float | None) -> Any:
    values: dict[str, Any] = {
        "cpu_us": cpu_us,
        "per_second": 1000.0,
        "busy": 1.0,
        "load_busy": 0.2,
        "p50_ms": {} if p50_ms is None else {50.0: p50_ms},
        "p99_ms": {} if p50_ms is None else {50.0: 2 * p50_ms},
        "cpu_us_per_chunk": 30.0,
        "first_event_ms": 1.0,
    }
    return overhead.Sample(**values)


def test_summary_of_three_rounds_takes_medians_and_differences_within_a_round(overhead: ModuleType) -> None:
    """Added latency is the median of the rounds' own differences; a slow round is never set against a fast one."""
    samples = {
        "bare": [_sample(overhead, 10, p50) for p50 in (1.0, 5.0, 2.0)],
        "penstock": [_sample(overhead, cpu, p50) for cpu, p50 in ((100, 2.0), (300, 6.5), (120, 3.0))],
    }
    facts = {"penstock": overhead.ServerFacts(1.5, 150.0, 170.0, 50_000)}
    bare, penstock = overhead.summarise(samples, facts, (50.0,))
    assert penstock["cpu_us_per_request"] == 120
    assert penstock["cpu_us_spread"] == 3.0
    assert penstock["added_p50_ms_at_50"] == 1.0
    assert bare["added_p50_ms_at_50"] == 0.0
    assert (penstock["ready_seconds"], penstock["end_mb"]) == (1.5, 170.0)
    assert "ready_seconds" not in bare


def test_summary_of_a_target_that_cannot_keep_a_rate_leaves_it_out(overhead: ModuleType) -> None:
    """A latency that was not measured is absent, not zero, and shown as a dash."""
    samples = {"litellm": [_sample(overhead, 7000, None)]}
    rows = overhead.summarise(samples, {}, (50.0,))
    assert rows[0]["p50_ms_at_50"] is None
    assert "–" in overhead.table_lines(rows, (50.0,))[1]


def test_ratios_of_costs_are_to_nginx_and_of_litellm_to_the_gateway(overhead: ModuleType) -> None:
    """Ratios compare processor time per request, and exist only where both sides were measured."""
    rows = [{"target": name, "cpu_us_per_request": cost} for name, cost in (("nginx", 20), ("penstock", 100))]
    assert overhead.ratios(rows) == {"penstock / nginx": 5.0}
    rows.append({"target": "litellm", "cpu_us_per_request": 8000})
    assert overhead.ratios(rows)["litellm / penstock"] == 80.0


@pytest.mark.parametrize("kind", ["short", "long", "repeated", "reworded"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_bodies_of_a_model_are_different_prompts_of_one_size(traffic: ModuleType, kind: str, is_stream: bool) -> None:
    """Requests differ in their prompts, and where a model is to be asked each time, by a number of their own."""
    made = traffic.Traffic("mock-small", kind).bodies(is_stream=is_stream)
    prompts = {json.loads(body)["messages"][1]["content"] for body in made}
    assert len(prompts) == len(made) == traffic.BODY_COUNT
    assert min(len(body) for body in made) >= traffic.REQUEST_BYTES
    assert all((traffic.NUMBER in body) is (kind in ("short", "long")) for body in made)
    assert all(json.loads(body).get("stream", False) is is_stream for body in made)


def test_seeds_of_reworded_traffic_are_what_it_rewords(traffic: ModuleType) -> None:
    """Every question is asked before in the words of the other kind; the context is seen before the first of them."""
    reworded = traffic.Traffic("auto", "reworded")
    asked = [json.loads(body)["messages"][1]["content"] for body in reworded.seeds()]
    again = [json.loads(body)["messages"][1]["content"] for body in traffic.Traffic("auto", "repeated").bodies()]
    assert asked[1:] == again
    assert not set(asked) & {json.loads(body)["messages"][1]["content"] for body in reworded.bodies()}
    assert traffic.Traffic("auto", "short").seeds() == []


def test_canned_reply_of_the_mock_provider_has_its_stated_size(mock_upstream: ModuleType) -> None:
    """The reply's body is valid JSON of exactly the size that the results state."""
    head, _, body = mock_upstream.canned_reply().partition(b"\r\n\r\n")
    assert len(body) == mock_upstream.REPLY_BYTES
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["usage"]["total_tokens"] == 120


def test_canned_events_of_the_mock_provider_are_the_asked_number_of_chunks(mock_upstream: ModuleType) -> None:
    """Every chunk is one framed event; usage and the end follow together."""
    _, framed = mock_upstream.canned_events(10)
    assert len(framed) == 11
    for chunk in framed:
        size, _, rest = chunk.partition(b"\r\n")
        assert rest[int(size, 16) :].startswith(b"\r\n")
    assert framed[-1].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "end"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", 42),
        (b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc", None),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 58),
        (b"GET / HTTP/1.1\r\n\r\n", 18),
        (b"GET / HTTP/1.1\r\n", None),
    ],
)
def test_request_end_of_each_framing_is_found(mock_upstream: ModuleType, request_bytes: bytes, end: int | None) -> None:
    """Incomplete requests wait; complete ones end after their body, whatever follows."""
    assert mock_upstream._request_end(request_bytes) == end
    if end is not None:
        assert mock_upstream._request_end(request_bytes + b"POST / HTTP/1.1\r\n") == end
