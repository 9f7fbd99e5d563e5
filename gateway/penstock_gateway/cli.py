"""The ``penstock`` command: one function per subcommand, nothing heavy imported before it is needed.

Owns arguments, output and exit codes: 0 done; 1 refused, or problems found; 2 wrong usage; 70 unexpected failure; 130
interrupted. A user's mistake never shows a traceback. Each command imports what it needs when it runs, because
``penstock --help`` should answer at once (reading settings takes 0.4 s, the gateway 0.5 s more;
help takes 0.06 s). Read `main` first.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from penstock_gateway.cache_commands import cache_group, running_findings
from penstock_gateway.commands.artifact import artifact_group
from penstock_gateway.commands.budgets import budgets_group
from penstock_gateway.commands.completion import completion_command
from penstock_gateway.commands.encode_server import encode_server_command
from penstock_gateway.commands.explain import explain_command
from penstock_gateway.commands.groups import tags_group, teams_group
from penstock_gateway.commands.import_litellm import import_group
from penstock_gateway.commands.keys import keys_group
from penstock_gateway.commands.reconcile import reconcile_command
from penstock_gateway.commands.report import report_group
from penstock_gateway.commands.spend import spend_group
from penstock_gateway.events.commands import events_group

if TYPE_CHECKING:
    from penstock_gateway.configuration_problems import ConfigurationError
    from penstock_gateway.decisions import RouteDecision
    from penstock_gateway.settings import Settings

EXIT_REFUSED = 1
EXIT_UNEXPECTED = 70
EXIT_INTERRUPTED = 130

_config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Configuration file. Default: $PENSTOCK_CONFIG, ./penstock.yaml, else the provider keys in the environment.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; default: those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; see the module for the codes.

    Parameters
    ----------
    arguments : list of str

    Returns
    -------
    int
    """
    is_debugging = arguments[:1] == ["--debug"]
    try:
        status = penstock.main(args=arguments, prog_name="penstock", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone (`penstock prices | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the process edge: one line for the user, the traceback on demand
        if is_debugging:
            raise
        click.echo(f"penstock: unexpected {type(error).__name__}: {error}", err=True)
        click.echo("This is a bug in Penstock; 'penstock --debug …' shows where.", err=True)
        return EXIT_UNEXPECTED


_HELP = """Penstock sends each request to the model that predicted quality and your prices favour at the trade-off you
set.

\b
Try first:  penstock demo       (no key, no network)
Then:       export OPENAI_API_KEY=…
            penstock serve
"""


@click.group(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected failure.")
@click.version_option(package_name="penstock", prog_name="penstock")
def penstock(debug: bool) -> None:
    """Take the options before the subcommand; `run` reads ``--debug`` itself."""


penstock.add_command(cache_group)
penstock.add_command(events_group)
penstock.add_command(import_group)
penstock.add_command(artifact_group)
penstock.add_command(explain_command)
penstock.add_command(encode_server_command)
penstock.add_command(completion_command)
for _group in (keys_group, teams_group, tags_group, budgets_group, spend_group, report_group):
    penstock.add_command(_group)
spend_group.add_command(reconcile_command)


@penstock.command("serve")
@_config_option
@click.option("--host", help="Address to bind, over the configuration's.")
@click.option("--port", type=click.IntRange(0, 65_535), help="TCP port, over the configuration's.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that share the port; see docs/workers.md.")
@click.option("--insecure", is_flag=True, help="Accept a non-loopback address without client keys.")
def serve_command(path: Path | None, host: str | None, port: int | None, workers: int | None, insecure: bool) -> int:
    """Run the gateway until interrupted."""
    settings = _load(path, host=host, port=port, workers=workers, is_insecure=insecure)
    from penstock_gateway.accounts.start import start_problem
    from penstock_gateway.listening import bound_socket, held_address, port_problem

    problem = port_problem(settings.server.host, settings.server.port)
    if problem is not None:
        raise click.ClickException(f"{problem}; stop what listens there, or use --port")
    if settings.admin.port and (problem := port_problem(settings.admin.host, settings.admin.port)) is not None:
        raise click.ClickException(f"{problem}; stop what listens there, or change admin.port")
    if (problem := start_problem(settings)) is not None:
        raise click.ClickException(problem)
    if settings.server.workers > 1:
        from penstock_gateway.workers.supervisor import supervise
        from penstock_gateway.workers.task import WorkerTask

        task = WorkerTask(None if path is None else str(path), host, port, workers, insecure)
        try:
            listener = held_address(settings.server.host, settings.server.port)
            _say_address(settings, listener.getsockname()[1], f" in {settings.server.workers} workers")
            return 0 if supervise(settings, listener, task) else EXIT_REFUSED
        except OSError as error:  # another was quicker; no place for the workers' sockets; no further process
            raise click.ClickException(f"the workers cannot be started: {error}") from None
    from penstock_gateway.app import create_app
    from penstock_gateway.configurations import reloading_app
    from penstock_gateway.server import serve
    from penstock_gateway.settings_model_checks import routing_obstacle
    from penstock_gateway.settings_restart import ConfigurationReader

    app = create_app(settings)
    own = None if settings.server.port else bound_socket(settings.server.host, 0)
    off = "" if app.pipeline.chooser.parts is not None else f"; routing off: {routing_obstacle(settings)}"
    _say_address(settings, settings.server.port if own is None else own.getsockname()[1], off)
    reader = ConfigurationReader(path, os.environ, host=host, port=port, workers=workers, is_insecure=insecure)
    return 0 if serve(settings, reloading_app(app, settings, reader), listener=own) else EXIT_REFUSED


def _say_address(settings: Settings, port: int, more: str) -> None:
    """Tell where the gateway listens, and with what."""
    host, count = settings.server.host, len(settings.deployments)
    deployments = f"{count} deployment{'' if count == 1 else 's'}, default {settings.default_arm}"
    base_url = f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}/v1"
    click.echo(f"penstock {version()}: base URL {base_url} with {deployments}{more}", err=True)


@penstock.command("check-config")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--insecure", is_flag=True, help="Accept a non-loopback address without client keys.")
@_json_option
def check_config_command(path: Path | None, insecure: bool, as_json: bool) -> int:
    """Show every problem of a configuration, or what it would run."""
    from penstock_gateway.configuration_problems import ConfigurationError
    from penstock_gateway.settings import load_settings
    from penstock_gateway.settings_report import summarise, summary_text

    try:
        summary = summarise(load_settings(path, os.environ, is_insecure=insecure, must_route=True), os.environ)
    except ConfigurationError as error:
        if as_json:
            _write_json({"ok": False, "problems": [problem.as_dict() for problem in error.problems]})
        else:
            _show_problems(error, err=False)
        return EXIT_REFUSED
    if as_json:
        _write_json({"ok": True, "problems": [], **summary})
    else:
        click.echo(summary_text(summary, width=_width()))
    return 0


@penstock.command("doctor")
@_config_option
@click.option("--url", help="Also look at the cache of the gateway that runs there, with the key in $PENSTOCK_API_KEY.")
@click.option("--offline", is_flag=True, help="Ask nobody: leave out providers, Redis and the clock.")
@click.option(
    "--deadline",
    type=click.FloatRange(0.1, 600),
    default=20.0,
    show_default=True,
    help="Seconds for all of it; what hangs is given up and named.",
)
@_json_option
def doctor_command(path: Path | None, url: str | None, offline: bool, deadline: float, as_json: bool) -> int:
    """Look at installation, configuration, providers (nothing is spent), Redis, GPU, clock and ports; say what to fix.

    \b
    penstock doctor                       exit code 1 when something must be fixed
    penstock doctor --json --offline      for machines, without asking anybody
    """  # noqa: D301 - click reads the character
    from penstock_gateway.doctor_run import examine_all
    from penstock_gateway.settings_report import finding_lines

    logging.getLogger("penstock").addHandler(logging.NullHandler())  # findings say it, in better words
    with _progress(is_shown=not as_json) as on_progress:
        looked = examine_all(path, os.environ, seconds=deadline, is_offline=offline, on_progress=on_progress)
    findings = [finding.as_dict() for finding in looked.findings]
    if url is not None:
        findings += running_findings(url)
    if as_json:
        _write_json({"version": version(), "findings": findings})
    else:
        click.echo(f"ok    penstock: {version()}")
        for finding in findings:
            click.echo(finding_lines(finding, _width()))
    code = EXIT_REFUSED if any(finding["level"] == "fail" for finding in findings) else 0
    if looked.late:  # a thread that hangs in a library's own pool would keep the process from ending
        sys.stdout.flush()
        os._exit(code)
    return code


@contextmanager
def _progress(*, is_shown: bool) -> Iterator[Callable[[int, int], object]]:
    """Show on a terminal how many of the checks are done; the line is gone afterwards."""
    is_shown = is_shown and sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        if is_shown:
            click.echo(f"\r{done} of {total} checks", err=True, nl=False)

    show(0, 1)
    try:
        yield show
    finally:
        if is_shown:
            click.echo("\r\033[K", err=True, nl=False)


@penstock.command("route")
@click.argument("text")
@_config_option
@click.option("--tradeoff", help="cost, balanced, quality, or a number from 0 (cheapest) to 1 (best).")
@click.option("--max-cost-usd", type=click.FloatRange(0), help="Highest expected cost, USD.")
@click.option(
    "--min-quality",
    type=click.FloatRange(0, 1),
    help="Quality that the answer should surely have, in place of a trade-off.",
)
@_json_option
def route_command(
    text: str,
    path: Path | None,
    tradeoff: str | None,
    max_cost_usd: float | None,
    min_quality: float | None,
    as_json: bool,
) -> int:
    """Show what would answer TEXT and why, without calling a model; '-' reads standard input."""
    settings = _load(path)
    prompt = sys.stdin.read() if text == "-" else text
    decision, novelty_max = _decide(settings, prompt, tradeoff, max_cost_usd, min_quality)
    if as_json:
        _write_json(decision)
    else:
        from penstock_gateway.commands.decision_text import decision_lines

        click.echo("\n".join(decision_lines(decision, novelty_max, _width())))
    return 0


@penstock.command("demo")
@click.option("--once", is_flag=True, help="Exit after the totals.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port of the gateway; default: 4000, else a free one.")
@click.option("--tradeoff", default="balanced", show_default=True, help="cost, balanced, quality, or 0 … 1.")
@_json_option
def demo_command(once: bool, port: int | None, tradeoff: str, as_json: bool) -> int:
    """Route real prompts to four simulated models; needs no key and no network."""
    from penstock_gateway.demo.run import demo

    demo(once=once, as_json=as_json, port=port, tradeoff=tradeoff)
    return 0


@penstock.command("prices")
@click.argument("pattern", required=False)
@click.option("--provider", help="Only this provider.")
@_json_option
def prices_command(pattern: str | None, provider: str | None, as_json: bool) -> int:
    """List the bundled prices; PATTERN is a part of the model's name."""
    from penstock_gateway.configuration_problems import did_you_mean
    from penstock_gateway.money.price_text import long_prompt_text, price_fields, service_text
    from penstock_gateway.money.prices import format_usd
    from penstock_gateway.money.snapshot import load_snapshot
    from penstock_gateway.settings_report import table

    snapshot = load_snapshot()
    if provider is not None and provider not in snapshot.models:
        raise click.UsageError(f"no prices of {provider!r}; {did_you_mean(provider, list(snapshot.models))}")
    found = [
        (name, model, facts.price(snapshot), facts)
        for name, models in snapshot.models.items()
        for model, facts in models.items()
        if (provider is None or name == provider) and (pattern is None or pattern.lower() in model.lower())
    ]
    if as_json:
        shown = [
            {"provider": name, "model": model, **price_fields(price), "context_tokens": str(facts.context_tokens)}
            for name, model, price, facts in found
        ]
        unit = "USD per million tokens"
        _write_json({"source": snapshot.name, "as_of": snapshot.as_of, "unit": unit, "models": shown})
        return 0
    rows = [
        (
            name,
            model,
            *(format_usd(getattr(price.standard, rate)) for rate in ("input", "cached_input", "cache_write", "output")),
            long_prompt_text(price.above),
            service_text(price),
            str(facts.context_tokens),
        )
        for name, model, price, facts in found
    ]
    head = ("provider", "model", "in", "cached", "write", "out", "long prompts", "service tiers", "context")
    click.echo("\n".join(table(head, rows, right=(2, 3, 4, 5, 8), spare=(7, 8, 6, 4, 3), width=_width())))
    summary = f"{len(rows)} models; USD per million tokens, more kinds with --json; {snapshot.name}, {snapshot.as_of}"
    click.echo(f"\n{summary}", err=True)
    return 0


@penstock.command("config-schema")
def config_schema_command() -> int:
    """Write the JSON Schema of the configuration file."""
    from penstock_gateway.settings_docs import json_schema

    click.echo(json_schema(), nl=False)
    return 0


@penstock.group("config")
def config_group() -> None:
    """Check a configuration, or write the schema of one."""


config_group.add_command(check_config_command, "check")
config_group.add_command(config_schema_command, "schema")


@penstock.command("version")
def version_command() -> int:
    """Show the version."""
    click.echo(f"penstock {version()}")
    return 0


def version() -> str:
    """Return the version of the installed distribution."""
    from importlib import metadata

    return metadata.version("penstock")


def _load(
    path: Path | None,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    is_insecure: bool = False,
) -> Settings:
    """Load the settings, or show every problem and leave."""
    from penstock_gateway.configuration_problems import ConfigurationError
    from penstock_gateway.settings import load_settings

    try:
        return load_settings(path, os.environ, host=host, port=port, workers=workers, is_insecure=is_insecure)
    except ConfigurationError as error:
        _show_problems(error, err=True)
        raise click.exceptions.Exit(EXIT_REFUSED) from None


def _show_problems(error: ConfigurationError, *, err: bool) -> None:
    for problem in error.problems:
        click.echo(str(problem), err=err)
    count = len(error.problems)
    click.echo(f"{count} problem{'' if count == 1 else 's'}", err=True)


def _decide(
    settings: Settings, prompt: str, tradeoff: str | None, max_cost_usd: float | None, min_quality: float | None
) -> tuple[dict[str, Any], float | None]:
    """Decide as the gateway would, and return the novelty limit too; no upstream is made, so none can be called."""
    import asyncio

    from penstock_gateway.artifact_source import is_artifact_url
    from penstock_gateway.callers import Caller
    from penstock_gateway.errors import GatewayError
    from penstock_gateway.request_body import parse_chat_request
    from penstock_gateway.wiring import build_pipeline, build_watch

    pipeline, finding = build_pipeline(settings, upstreams={})
    if finding is not None:
        click.echo(f"routing is off: {finding.message} [{finding.code}]", err=True)
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": prompt}]}).encode()
    caller = Caller(
        "cli",
        "cli",
        tradeoff,
        includes_cost=False,
        started=time.perf_counter(),
        max_cost_usd=None if max_cost_usd is None else str(max_cost_usd),
        min_quality=None if min_quality is None else str(min_quality),
    )

    async def decided() -> RouteDecision:
        if is_artifact_url(settings.routing.artifact):
            watch, obstacle = build_watch(settings, pipeline)
            if watch is not None:
                await watch.check()
            refused = obstacle if watch is None else watch.refusal
            if refused is not None:
                click.echo(f"routing is off: {refused.message} [{refused.code}]", err=True)
        return await pipeline.decide(caller, parse_chat_request(body))

    try:
        decision = asyncio.run(decided()).as_json()
    except GatewayError as error:
        raise click.ClickException(error.message) from None
    parts = pipeline.chooser.parts
    return decision, None if parts is None else parts.artifact.manifest.guard.novelty_max


def _width() -> int:
    """Columns of the terminal (or ``COLUMNS``); plenty when the output goes elsewhere."""
    return shutil.get_terminal_size((120, 24)).columns


def _write_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))
