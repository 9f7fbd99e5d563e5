"""Asking a running gateway, as commands do that need no configuration.

Owns the request, and what is shown when it fails. The key comes from ``$PENSTOCK_API_KEY``. Nothing heavy is imported
before it is called. Read `ask`.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

import click

KEY_VARIABLE: Final = "PENSTOCK_API_KEY"
DEFAULT_URL: Final = "http://127.0.0.1:4000"
_TIMEOUT_SECONDS: Final = 30.0
_HTTP_OK: Final = range(200, 300)


def ask(method: str, url: str, path: str) -> dict[str, Any]:
    """Send one request to a gateway and return what it says, or show its error and leave.

    Parameters
    ----------
    method, url : str
        `url` as a client has it, with or without ``/v1``.
    path : str
        From ``/v1`` on.

    Raises
    ------
    click.ClickException
        No answer, or an error; its text is the gateway's own.

    Notes
    -----
    No redirect is followed, so the key goes nowhere else.
    """
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or parts.scheme not in ("http", "https"):
        raise click.UsageError(f"--url is not an http:// or https:// address: {url}")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(host, port, timeout=_TIMEOUT_SECONDS)
    key = os.environ.get(KEY_VARIABLE, "").strip()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    base = parts.path.rstrip("/").removesuffix("/v1")
    try:
        connection.request(method, f"{base}{path}", headers=headers)
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, HTTPException, UnicodeError) as error:
        raise click.ClickException(f"no answer from {url}: {str(error) or type(error).__name__}") from None
    except ValueError:  # its text would show the key
        raise click.ClickException(f"the key in ${KEY_VARIABLE} holds a character that no header may have") from None
    finally:
        connection.close()
    return _read(url, status, body)


def _read(url: str, status: int, body: bytes) -> dict[str, Any]:
    """Return an answer's content, or raise the error that it is."""
    try:
        content = json.loads(body)
        if status in _HTTP_OK and isinstance(content, dict):
            return content
        error = content["error"]
        message = f"{error['message']} [{error['code']}]"
    except (ValueError, KeyError, TypeError):
        raise click.ClickException(f"{url} answered with status {status}; is it a Penstock gateway?") from None
    hint = f" Put the key into ${KEY_VARIABLE}." if error["code"] == "missing_api_key" else ""
    raise click.ClickException(message + hint)


def plain(value: object) -> str:
    """Return a value for a terminal: what models write must not move its cursor."""
    text = str(value)
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)
