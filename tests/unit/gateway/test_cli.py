"""The command line: output and exit codes."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from penstock_gateway import cli, doctor, settings_report

GOOD = "deployments:\n  - {name: gpt-5.4-mini, provider: openai, tier: medium}\n"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a provider key into the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")


def test_help_of_the_command_imports_nothing_heavy() -> None:
    """Asking for help loads neither the gateway nor its dependencies."""
    code = (
        "import sys; from penstock_gateway.cli import run; assert run(['--help']) == 0; "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'pydantic','yaml','aiohttp','fastapi','uvicorn','numpy','onnxruntime','tokenizers','rich','asyncio','litellm'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["serve", "check-config", "doctor", "route", "demo", "prices", "config-schema"])
def test_help_of_each_subcommand_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every subcommand explains itself."""
    assert cli.run([command, "--help"]) == 0
    assert "Usage: penstock" in capsys.readouterr().out


def test_wrong_usage_exits_with_two_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command is wrong usage, not a failure."""
    assert cli.run(["serv"]) == 2
    assert "serve" in capsys.readouterr().err


def test_serve_without_anything_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """The first contact is a message with commands, not a traceback."""
    assert cli.run(["serve"]) == 1
    shown = capsys.readouterr().err
    assert "penstock demo" in shown
    assert "Traceback" not in shown


def test_serve_on_a_taken_port_says_so(keyed: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A port in use is found before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.run(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert "cannot be bound" in capsys.readouterr().err


def test_serve_on_an_open_address_without_keys_is_refused(keyed: None, capsys: pytest.CaptureFixture[str]) -> None:
    """--host is checked like the file's host, and named as the place."""
    assert cli.run(["serve", "--host", "0.0.0.0"]) == 1
    assert capsys.readouterr().err.startswith("--host: server.host: 0.0.0.0 can be reached")


def test_check_config_of_a_good_file_shows_what_would_run(
    keyed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary names deployments, prices and routing, and no secret."""
    (tmp_path / "c.yaml").write_text(GOOD)
    assert cli.run(["check-config", "c.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "gpt-5.4-mini" in shown
    assert "0.75" in shown
    assert "sk-very-secret" not in shown


def test_check_config_as_json_of_a_good_file_is_one_document(
    keyed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines get prices as decimal text and no secret."""
    (tmp_path / "c.yaml").write_text(GOOD)
    assert cli.run(["check-config", "c.yaml", "--json"]) == 0
    shown = capsys.readouterr().out
    summary = json.loads(shown)
    assert summary["ok"] is True
    assert summary["deployments"][0]["price_usd_per_million_tokens"]["input"] == "0.75"
    assert "sk-very-secret" not in shown


@pytest.mark.parametrize("as_json", [False, True])
def test_check_config_of_a_bad_file_shows_every_problem(
    as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Problems go to standard output, as lines or as JSON, and the exit code is 1."""
    (tmp_path / "c.yaml").write_text("server: {prt: 1}\n" + GOOD)
    assert cli.run(["check-config", "c.yaml", *(["--json"] if as_json else [])]) == 1
    shown = capsys.readouterr().out
    if as_json:
        problems = json.loads(shown)["problems"]
        assert [problem["where"] for problem in problems] == ["c.yaml:1", "c.yaml:3"]
    else:
        assert "c.yaml:1: server.prt: there is no such setting (did you mean 'port'?)" in shown
        assert "c.yaml:3: deployments[0].api_key:" in shown


def test_check_config_of_a_missing_file_exits_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path is a problem like any other."""
    assert cli.run(["check-config", "nowhere.yaml"]) == 1
    assert "cannot be read" in capsys.readouterr().out


def test_route_of_a_prompt_shows_the_decision_without_a_call(
    keyed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The decision and every candidate are shown; no upstream is even made."""
    (tmp_path / "c.yaml").write_text("routing: {artifact: none}\n" + GOOD)
    assert cli.run(["route", "What is a penstock?", "--config", "c.yaml"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("gpt-5.4-mini (abstained_no_estimate, tradeoff balanced)\n")
    assert cli.run(["route", "What is a penstock?", "--config", "c.yaml", "--tradeoff", "0.7", "--json"]) == 0
    decision = json.loads(capsys.readouterr().out)
    assert (decision["model"], decision["tradeoff"]) == ("gpt-5.4-mini", "0.7")


def test_route_from_standard_input_reads_the_prompt(
    keyed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dash reads the prompt, however long, from standard input."""
    (tmp_path / "c.yaml").write_text("routing: {artifact: none}\n" + GOOD)
    monkeypatch.setattr(sys, "stdin", io.StringIO("word " * 4000))
    assert cli.run(["route", "-", "--config", "c.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input_tokens"] > 3000


def test_route_with_an_unknown_tradeoff_is_refused_with_the_choices(
    keyed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong knob is the user's mistake: one line, no traceback."""
    (tmp_path / "c.yaml").write_text("routing: {artifact: none}\n" + GOOD)
    assert cli.run(["route", "x", "--config", "c.yaml", "--tradeoff", "best"]) == 1
    assert "cost, balanced, quality" in capsys.readouterr().err


def test_doctor_as_json_lists_findings_and_the_exit_code_follows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines get the same findings; a failure among them is exit code 1."""
    found = [doctor.Finding("ok", "python", "3.11"), doctor.Finding("warn", "port", "taken", "use --port")]
    monkeypatch.setattr(doctor, "examine", lambda *_: tuple(found))
    assert cli.run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"][1]["fix"] == "use --port"
    found.append(doctor.Finding("fail", "onnxruntime", "two builds", "pip uninstall …"))
    assert cli.run(["doctor"]) == 1
    assert "fail  onnxruntime: two builds\n      fix: pip uninstall …" in capsys.readouterr().out


def test_config_schema_command_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Editors get a JSON Schema."""
    assert cli.run(["config-schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Penstock configuration"


def test_prices_of_a_pattern_list_only_those_models(capsys: pytest.CaptureFixture[str]) -> None:
    """The list can be narrowed by provider and by a part of the name."""
    assert cli.run(["prices", "5.4-mini", "--provider", "openai", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["model"] for model in found["models"]] == ["gpt-5.4-mini"]
    assert found["models"][0]["cached_input"] == "0.075"


def test_prices_of_an_unknown_provider_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A provider that is not in the list is named with the nearest match."""
    assert cli.run(["prices", "--provider", "opnai"]) == 2
    assert "did you mean 'openai'?" in capsys.readouterr().err


def test_version_command_shows_the_version_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    """The version has one source."""
    assert cli.run(["version"]) == 0
    assert capsys.readouterr().out == f"penstock {cli.version()}\n"


def test_unexpected_failure_is_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug shows its kind and how to see more; --debug shows it all."""

    def explode() -> str:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(cli, "version", explode)
    assert cli.run(["version"]) == cli.EXIT_UNEXPECTED
    shown = capsys.readouterr().err
    assert "unexpected ZeroDivisionError" in shown
    assert "Traceback" not in shown
    with pytest.raises(ZeroDivisionError):
        cli.run(["--debug", "version"])


def test_interrupted_command_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is not an error message."""

    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "version", interrupt)
    assert cli.run(["version"]) == cli.EXIT_INTERRUPTED


def test_main_of_any_command_exits_with_its_code() -> None:
    """The console script ends the process with the command's exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["serv"])
    assert caught.value.code == 2


def test_table_of_uneven_cells_is_aligned_without_trailing_space() -> None:
    """Columns line up; nothing trails."""
    lines = settings_report.table(("name", "n"), [("a", "1"), ("long-name", "100")], right=(1,))
    assert lines == ["name         n", "a            1", "long-name  100"]


def test_table_wider_than_the_terminal_loses_its_spare_columns_in_order() -> None:
    """A narrow terminal shows whole words of fewer columns."""
    head, rows = ("name", "model", "arm"), [("gpt", "gpt-5.4-mini", "medium")]
    assert settings_report.table(head, rows, spare=(2, 1), width=80)[1] == "gpt   gpt-5.4-mini  medium"
    assert settings_report.table(head, rows, spare=(2, 1), width=20)[1] == "gpt   gpt-5.4-mini"
    assert settings_report.table(head, rows, spare=(2, 1), width=10)[1] == "gpt"


@pytest.mark.parametrize("command", [["check-config"], ["prices", "gpt-5"], ["doctor"], ["route", "What is 2 + 2?"]])
def test_output_at_80_columns_fits(
    keyed: None, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line is broken by the terminal, so none is broken inside a word."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    cli.run(command)
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) > 4
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_check_config_says_one_remark_about_several_deployments_once(
    keyed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Deployments with the same note share a line."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert cli.run(["check-config"]) == 0
    assert " ".join(capsys.readouterr().out.split()).count("OPENAI_BASE_URL is in force") == 1


def test_check_config_of_an_artifact_that_is_not_there_exits_with_one(
    keyed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the gateway would start without is a problem here."""
    (tmp_path / "c.yaml").write_text("routing: {artifact: ./nowhere}\n" + GOOD)
    assert cli.run(["check-config", "c.yaml"]) == 1
    assert "c.yaml:1: routing.artifact: ./nowhere has no manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("routing", "ending"),
    [
        ("{}", "default gpt-5.4-mini\n"),
        ("{artifact: none}", "; routing off: routing.artifact is none\n"),
        ("{artifact: ./nowhere}", "has no manifest.json\n"),
    ],
)
def test_serve_names_the_base_url_and_whether_it_routes(
    keyed: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    routing: str,
    ending: str,
) -> None:
    """The line can be pasted into a client, and a gateway that only serves its default arm says so and still starts."""
    ports: list[int] = []

    def serve(*_: object, listener: socket.socket) -> bool:
        with listener:
            ports.append(listener.getsockname()[1])
        return True

    monkeypatch.setattr("penstock_gateway.server.serve", serve)
    (tmp_path / "c.yaml").write_text(f"server: {{port: 0}}\nrouting: {routing}\n{GOOD}")
    assert cli.run(["serve", "--config", "c.yaml"]) == 0
    shown = capsys.readouterr().err
    (port,) = ports  # a free one was taken
    assert port > 0
    assert f"base URL http://127.0.0.1:{port}/v1 with 1 deployment, default" in shown
    assert shown.endswith(ending)


def test_route_shows_gain_with_its_error_and_aligned_costs(
    keyed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What decides is shown: the gain over the default arm, its standard error, and costs with equal decimals."""
    prompt = "A train covers 180 km in 2.5 hours. How fast is it?"
    assert cli.run(["route", prompt]) == 0
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("gpt-") and "±" in line]
    assert len(rows) == 4
    assert len({line.partition("±")[2].index(".", 6) for line in rows}) == 1
    assert "novelty" not in shown
    assert cli.run(["route", "Why is the sky blue?"]) == 0
    assert "limit" in capsys.readouterr().out.splitlines()[1]


def test_usd_amounts_of_different_length_get_the_same_decimals() -> None:
    """Amounts can be compared at a glance; none is rounded."""
    assert settings_report.aligned_usd(["0.1", None, "0.000025"]) == ["0.100000", "-", "0.000025"]


def test_help_of_every_command_keeps_its_examples_on_lines_of_their_own() -> None:
    """Click takes the character backspace for "as it stands"; written out, it would be shown and the lines joined."""
    seen = 0
    waiting: list[click.Command] = [cli.penstock]
    while waiting:
        command = waiting.pop()
        assert "\\b" not in (command.help or ""), command.name
        seen += "\b" in (command.help or "")
        if isinstance(command, click.Group):
            context = click.Context(command)
            found = (command.get_command(context, name) for name in command.list_commands(context))
            waiting += [each for each in found if each is not None]
    assert seen >= 5


def test_help_promises_what_the_router_does(capsys: pytest.CaptureFixture[str]) -> None:
    """It predicts quality; it does not know it."""
    assert cli.run(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "predicted quality and your prices favour at the trade-off you set" in shown
