"""Rules of ``penstock events``: what each command writes, and with which exit code it ends."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from penstock_gateway.events import commands
from penstock_gateway.events.catalog import maintenance
from penstock_gateway.events.commands import events_group
from penstock_gateway.events.compaction import compact
from penstock_gateway.events.exporting import CSV_COLUMNS, parse_moment
from penstock_gateway.events.following import Follower
from penstock_gateway.events.pseudonyms import Pseudonyms
from penstock_gateway.events.reading import read_events
from penstock_gateway.events.segments import SegmentWriter
from support.event_samples import SECRET_TEXT, decision_event, outcome_event, write_segment

FEEDBACK = {
    "schema": 2,
    "type": "feedback",
    "decision_id": "1",
    "time": 1_700_000_002.0,
    "tenant": "0011223344556677",
    "score": 0.5,
    "label": "=cmd()",
}


def run(*arguments: str | Path, code: int = 0, stdin: str | None = None) -> Result:
    """Run a command and check its exit code."""
    done = CliRunner().invoke(events_group, [str(a) for a in arguments], input=stdin, standalone_mode=False)
    found = done.exit_code if done.exception is not None else done.return_value
    assert found == code, (done.output, done.exception)
    return done


def refused(*arguments: str | Path) -> str:
    """Run a command that ends in a user's mistake, and return its output."""
    done = CliRunner().invoke(events_group, [str(a) for a in arguments])
    assert done.exit_code in (1, 2), done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three events."""
    made = tmp_path / "log"
    write_segment(made, "1", [decision_event("1"), outcome_event("1"), FEEDBACK])
    return made


def test_export_to_standard_output_gives_the_events_as_json_lines(folder: Path) -> None:
    """Without --out the events go to standard output as they were written."""
    lines = run("export", "--folder", folder).stdout.splitlines()
    assert [json.loads(line) for line in lines] == list(read_events(folder))


def test_export_filters_by_type_time_and_tenant(folder: Path) -> None:
    """Each filter leaves out the rest; a tenant is named by its name or by its pseudonym."""
    name = "hospital-north"
    write_segment(folder, "2", [outcome_event("2", tenant=Pseudonyms().tenant(name), time=1_800_000_000.0)])

    def ids(*options: str) -> list[str]:
        lines = run("export", "--folder", folder, *options).stdout.splitlines()
        return [f"{(e := json.loads(line))['type']} {e['decision_id']}" for line in lines]

    assert ids("--type", "outcome", "--type", "feedback") == ["outcome 1", "feedback 1", "outcome 2"]
    assert ids("--tenant", name) == ["outcome 2"]
    assert ids("--tenant", "0011223344556677", "--type", "decision") == ["decision 1"]
    assert ids("--since", "2024-01-01") == ["outcome 2"]
    assert ids("--until", "1700000001") == ["decision 1"]


def test_export_to_csv_is_flat_and_safe_for_spreadsheets(folder: Path, tmp_path: Path) -> None:
    """One row an event; what a client wrote cannot become a formula."""
    out = tmp_path / "events.csv"
    run("export", "--folder", folder, "--out", out)
    rows = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert (rows[1]["cost_usd"], rows[1]["cost_picousd"], rows[1]["input_tokens"]) == ("0.000001", "1000000", "10")
    assert (rows[1]["accounts"], rows[1]["time"]) == ("key:k1 team:search", "2023-11-14T22:13:21.000+00:00")
    assert rows[2]["label"] == "'=cmd()"
    assert SECRET_TEXT not in out.read_text(encoding="utf-8")


def test_export_to_parquet_and_jsonl_reports_as_json(folder: Path, tmp_path: Path) -> None:
    """The ending of the file says the format, and --json what was done."""
    for ending in ("parquet", "jsonl"):
        out = tmp_path / f"events.{ending}"
        report = json.loads(run("export", "--folder", folder, "--out", out, "--json").stdout)
        assert report == {"events": 3, "out": str(out), "passed_over": 0}
    assert pq.read_table(tmp_path / "events.parquet").column("type").to_pylist() == ["decision", "outcome", "feedback"]


def test_export_passes_over_damage_and_says_so(folder: Path) -> None:
    """Lines that cannot be read are counted on standard error, with the first place."""
    write_segment(folder, "2", [b"{broken\n"])
    assert "passed over 1 lines" in (message := run("export", "--folder", folder).stderr)
    assert "events-2.jsonl line 1" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.xml"], "name a --format"),
        (["--format", "parquet"], "need --out"),
        (["--json"], "need --out"),
        (["--since", "yesterday"], "neither a time nor how long ago"),
        (["--type", "request"], "Invalid value for '--type'"),
    ],
)
def test_export_that_is_asked_wrongly_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    """A mistake is named in one line."""
    assert message in refused("export", "--folder", folder, *arguments)


def test_events_folder_comes_from_the_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --folder the configuration names it, with the key of its pseudonyms."""
    monkeypatch.setenv("PSEUDONYM_KEY", "0123456789abcdef")
    config = folder.parent / "penstock.yaml"
    config.write_text(
        "deployments: [{name: small, base_url: 'http://127.0.0.1:9/v1', price: {input: 1, output: 1}, "
        "context_tokens: 1000, max_output_tokens: 100}]\n"
        "events: {folder: log, pseudonym_key: '${PSEUDONYM_KEY}'}\n"
    )
    keyed = Pseudonyms("0123456789abcdef").tenant("north")
    write_segment(folder, "2", [outcome_event("7", tenant=keyed)])
    (line,) = run("export", "--config", config, "--tenant", "north").stdout.splitlines()
    assert json.loads(line)["decision_id"] == "7"
    monkeypatch.delenv("PSEUDONYM_KEY")
    assert "is its environment variable set?" in refused("delete", "--config", config, "--tenant", "north", "--yes")
    assert run("verify", "--config", config).return_value == 0
    unkeyed = run("delete", "--folder", folder, "--tenant", "north", "--yes")
    assert "name the configuration with --config" in unkeyed.stderr
    config.write_text("events: {}\n")
    assert "--folder" in refused("verify", "--config", config)
    assert "no folder" in refused("verify", "--folder", folder / "missing")


def test_verify_ends_with_1_when_something_is_unsound(folder: Path) -> None:
    """A job can act on the exit code; the text names file and line."""
    assert run("verify", "--folder", folder).stdout.endswith("sound\n")
    write_segment(folder, "2", [b"{broken\n", outcome_event("1")])
    text = run("verify", "--folder", folder, code=1).stdout
    assert "events-2.jsonl line 1: broken_line" in text
    assert "twice     events-2.jsonl line 2: 1" in text
    assert json.loads(run("verify", "--folder", folder, "--json", code=1).stdout)["duplicate_outcomes"] == 1


def test_compact_reports_what_it_did(folder: Path) -> None:
    """Sizes and counts are told, and a folder that is busy is named as such."""
    report = json.loads(run("compact", "--folder", folder, "--json").stdout)
    assert (report["segments"], report["events"]) == (1, 3)
    assert "compacted 0 segments" in run("compact", "--folder", folder).stdout
    with maintenance(folder):
        assert "another process" in refused("compact", "--folder", folder)


def test_delete_asks_and_takes_out_a_tenants_content(folder: Path) -> None:
    """Nothing goes without a yes; afterwards no prompt is left, and an open segment gives exit code 1."""
    assert "Aborted" in CliRunner().invoke(events_group, ["delete", "--folder", str(folder), "--tenant", "x"]).output
    tenant = ("--tenant", "0011223344556677")
    assert "content of 2 events" in run("delete", "--folder", folder, *tenant, stdin="y\n").stdout
    assert all("prompt" not in event and "label" not in event for event in read_events(folder))
    writer = SegmentWriter(folder, segment_bytes=10**6, segment_seconds=60.0)
    writer.append(json.dumps(decision_event("9")).encode() + b"\n")
    report = json.loads(run("delete", "--folder", folder, *tenant, "--yes", "--json", code=1).stdout)
    assert len(report["open_segments"]) == 1
    writer.close()


def test_tail_shows_the_newest_events_one_a_line(folder: Path) -> None:
    """Text is for people, --json for machines; control characters cannot move the cursor."""
    write_segment(folder, "2", [outcome_event("2", time=1_700_000_005.0, error_code="x\x1b[2J", served_arm="mini")])
    text = run("tail", "--folder", folder, "-n", "2").stdout
    assert [line.split()[1] for line in text.splitlines()] == ["feedback", "outcome"]
    assert "\x1b" not in text
    lines = run("tail", "--folder", folder, "-n", "1", "--json").stdout.splitlines()
    assert [json.loads(line)["decision_id"] for line in lines] == ["2"]
    assert run("tail", "--folder", folder, "-n", "0").stdout == ""


def test_tail_that_follows_shows_what_comes_until_it_is_interrupted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New events are shown as they come."""
    polls = 0

    def tick(_: float) -> None:
        nonlocal polls
        polls += 1
        if polls == 2:
            raise KeyboardInterrupt
        write_segment(folder, "5", [outcome_event("5")])

    monkeypatch.setattr(commands.time, "sleep", tick)
    done = CliRunner().invoke(events_group, ["tail", "--folder", str(folder), "-n", "0", "-f", "--json"])
    assert [json.loads(line)["decision_id"] for line in done.stdout.splitlines() if line.startswith("{")] == ["5"]


def test_follower_gives_every_event_once_across_rotation_and_compaction(tmp_path: Path) -> None:
    """Half a line waits for its rest; a segment that is closed and compacted between two looks loses nothing."""
    follower = Follower(tmp_path)
    writer = SegmentWriter(tmp_path, segment_bytes=10**6, segment_seconds=60.0)

    def line(name: str) -> bytes:
        return json.dumps(outcome_event(name)).encode() + b"\n"

    def seen() -> list[str]:
        return [event["decision_id"] for event in follower.poll()]

    writer.append(line("1"))
    assert [event["decision_id"] for event in follower.last(10)] == ["1"]
    assert seen() == []
    half = line("2")
    writer.append(half[:20])
    assert seen() == []
    writer.append(half[20:])
    assert seen() == ["2"]
    writer.append(line("3"))
    writer.close()
    compact(tmp_path)
    writer.append(line("4"))
    assert seen() == ["3", "4"]
    writer.close()
    assert seen() == []
    assert seen() == []
    follower.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90.0),
        ("1970-01-01T00:02:00Z", 120.0),
        ("1970-01-01T01:02:00+01:00", 120.0),
        ("1970-01-02", 86_400.0),
        ("1h", 6400.0),
        ("0.5d", 10_000.0 - 43_200.0),
    ],
)
def test_moment_on_the_command_line_is_read_in_several_ways(text: str, expected: float) -> None:
    """Dates are UTC unless they say otherwise; a number with a unit is a time ago."""
    assert parse_moment(text, 10_000.0) == expected


def test_events_commands_need_nothing_heavy_to_show_help() -> None:
    """The group is imported by ``penstock --help``, which answers at once."""
    program = (
        "import sys; import penstock_gateway.events.commands; "
        "print([m for m in ('pydantic', 'numpy', 'pyarrow', 'fsspec', 'rich', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
