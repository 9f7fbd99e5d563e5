"""Speaking to the admin API from the command line.

Owns where it is looked for, the credential, and what is said when it does not answer. The API is the one way in: it
keeps the rules of change, and a file or Redis changed behind a gateway's back would pass them by. Read `ask`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

KEY_VARIABLE: Final = "PENSTOCK_ADMIN_KEY"
DEFAULT_PORT: Final = 4001
_TIMEOUT_SECONDS: Final = 60.0
_PAGE: Final = 500
_OFF: Final = (
    "the admin API is off: add 'admin: {port: 4001, key: ${PENSTOCK_ADMIN_KEY}}' to %s and start the gateway again, "
    "or say where it is with --url"
)
_MISSING_KEY: Final = frozenset({"missing_admin_key", "invalid_admin_key"})

_Command = TypeVar("_Command", bound=Callable[..., int])


def shared_options(command: _Command) -> _Command:
    """Add the options that every command here takes."""
    url = click.option("--url", help="Where the admin API listens; default: as the configuration says.")
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Configuration file; default: $PENSTOCK_CONFIG, ./penstock.yaml.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
    return url(config(as_json(command)))


class AdminClient:
    """Sends requests to one admin API, with the credential in ``PENSTOCK_ADMIN_KEY``.

    Parameters
    ----------
    url : str or None
        None: what the configuration says, else port 4001 of this machine.
    config : Path or None

    Raises
    ------
    click.ClickException
        The configuration has no admin API.
    """

    def __init__(self, url: str | None, config: Path | None) -> None:
        self.url = configured_url(config, os.environ) if url is None else url

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send one request and return what it says, or show its error and leave.

        Parameters
        ----------
        method, path : str
            The path below ``/admin``, parts of it escaped by `escaped`.
        query : mapping, optional
            Parameters; those that are None are left out.
        content : mapping, optional
            The JSON body.

        Raises
        ------
        click.ClickException
        """
        return ask(self.url, method, path, query=query, content=content)

    def pages(self, path: str, query: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
        """Yield the entries of a list, page after page.

        Parameters
        ----------
        path : str
        query : mapping
        """
        after: str | None = None
        while True:
            page = self.ask("GET", path, query={**query, "limit": str(_PAGE), "after": after})
            yield from page["data"]
            after = page["next"]
            if after is None:
                return


def ask(
    url: str,
    method: str,
    path: str,
    *,
    query: Mapping[str, str | None] | None = None,
    content: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Send one request to an admin API, as `AdminClient.ask`; no redirect is followed, so the key goes nowhere else."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlencode, urlsplit

    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or parts.scheme not in ("http", "https"):
        raise click.UsageError(f"--url is not an http:// or https:// address: {url}")
    given = {name: value for name, value in (query or {}).items() if value is not None}
    target = f"{parts.path.rstrip('/')}/admin{path}{f'?{urlencode(given)}' if given else ''}"
    headers = {"content-type": "application/json"} if content is not None else {}
    if key := os.environ.get(KEY_VARIABLE, "").strip():
        headers["authorization"] = f"Bearer {key}"
    body = None if content is None else json.dumps(content).encode()
    connection = (HTTPSConnection if parts.scheme == "https" else HTTPConnection)(host, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        status, answer = response.status, response.read()
    except (OSError, HTTPException, UnicodeError) as error:
        problem = str(error) or type(error).__name__
        raise click.ClickException(
            f"no answer from {url}: {problem}. Is the gateway running, with 'admin: {{port: …}}' in its configuration?"
        ) from None
    except ValueError:  # its text would show the key
        raise click.ClickException(f"the key in ${KEY_VARIABLE} holds a character that no header may have") from None
    finally:
        connection.close()
    return _read(url, status, answer)


def configured_url(config: Path | None, environ: Mapping[str, str]) -> str:
    """Return where the admin API of a configuration listens.

    Parameters
    ----------
    config : Path or None
        None: ``PENSTOCK_CONFIG``, then ``./penstock.yaml``, then port 4001 of this machine.
    environ : mapping of str to str

    Raises
    ------
    click.ClickException
        A configuration is there and has no admin API, or one on a port that is drawn at start.
    """
    from penstock_gateway.settings import find_configuration
    from penstock_gateway.settings_source import read_source

    path = config or find_configuration(environ)
    source = read_source(path, environ)
    if config is not None and not source.tree and source.problems:
        raise click.ClickException(str(source.problems[0]))
    admin = source.tree.get("admin")
    section = admin if isinstance(admin, dict) else {}
    port = section.get("port")
    if port is None and path is not None:
        raise click.ClickException(_OFF % path)
    if port == 0:
        raise click.ClickException("the admin API takes a free port at every start; say where it is with --url")
    host = str(section.get("host") or "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{shown}:{DEFAULT_PORT if port is None else port}"


def escaped(name: str) -> str:
    """Return a name as a part of a path."""
    from urllib.parse import quote

    return quote(name, safe="")


def write_json(content: object) -> int:
    """Write one JSON document; return the exit code."""
    click.echo(json.dumps(content, indent=2))
    return 0


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Write rows as aligned lines; later columns are left out when the terminal is narrow."""
    from penstock_gateway.settings_report import table

    width = shutil.get_terminal_size((120, 24)).columns
    spare = tuple(range(len(head) - 1, 2, -1))
    shown = [[plain(cell) for cell in row] for row in rows]
    click.echo("\n".join(table(head, shown, right=right, spare=spare, width=width)))


def write_fields(record: Mapping[str, Any]) -> None:
    """Write what is set of a record, a line each."""
    for name, value in record.items():
        text = "" if value in (None, False) else plain(shown(value))
        if name != "object" and text:
            click.echo(f"{name}: {text}")


def shown(value: object) -> str:
    """Return a value of the API as one line of text."""
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={shown(item)}" for name, item in value.items() if item is not None)
    return "-" if value is None else str(value)


def plain(text: str) -> str:
    """Return text for a terminal: nothing in it moves the cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _read(url: str, status: int, body: bytes) -> dict[str, Any]:
    """Return an answer's content, or raise the error that it is."""
    try:
        content = json.loads(body)
        if status in range(200, 300) and isinstance(content, dict):
            return content
        error = content["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, KeyError, TypeError):
        raise click.ClickException(f"{url} answered with status {status}; is it Penstock's admin API?") from None
    hint = f" Put the admin key into ${KEY_VARIABLE}." if code in _MISSING_KEY else ""
    raise click.ClickException(f"{plain(message)} [{plain(code)}]{hint}")
