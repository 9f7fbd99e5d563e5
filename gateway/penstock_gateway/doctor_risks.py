"""Settings that work and may hurt: weak keys, open doors, captured prompts, keys in clear.

Owns the judgement on settings in ``penstock doctor``. It shows names of settings and never a value of a secret. Read
`look_at_risks`.
"""

from __future__ import annotations

import math
from collections import Counter
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from penstock_gateway.findings import Finding
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_secrets import SecretFileError, is_readable_by_others, read_secret

LEAST_BITS: Final = 64.0
"""Of a key, by the entropy of its own characters (Shannon 1948): 16 random hexadecimal digits have some 50 to 60 and a
letter sixteen times has none. It sees repetition, not words; `secrets.token_urlsafe(32)` has some 200."""


def look_at_risks(settings: Settings) -> tuple[Finding, ...]:
    """Return what should be thought about before other people use the gateway.

    Parameters
    ----------
    settings : Settings
    """
    findings = [*_keys(settings), *_accounts(settings), *_doors(settings), *_content(settings)]
    return tuple(findings) or (Finding("ok", "settings", "nothing that is risky"),)


def bits_of(key: str) -> float:
    """Return the entropy of a key's characters, bits; see `LEAST_BITS`.

    Examples
    --------
    >>> bits_of("aaaaaaaaaaaaaaaa")
    0.0
    >>> bits_of("abababababababab")
    16.0
    """
    counts, length = Counter(key), len(key)
    return max(0.0, -math.fsum(count * math.log2(count / length) for count in counts.values()))


def _keys(settings: Settings) -> list[Finding]:
    admin = settings.admin
    named: list[tuple[str, SecretStr | None, str | None]] = [("admin.key", admin.key, admin.key_file)]
    named += [(f"client_keys: {each.name}", each.key, each.key_file) for each in settings.client_keys]
    findings = []
    for name, key, file in named:
        try:
            secret = read_secret(key, file)
        except SecretFileError as error:
            findings.append(Finding("fail", name, str(error), "correct the file, or name another one"))
            continue
        if secret and bits_of(secret) < LEAST_BITS:
            fix = 'make another one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            findings.append(Finding("warn", name, "is easily guessed: too short, or too repetitive", fix))
        if file is not None and is_readable_by_others(file):
            findings.append(Finding("warn", name, f"{file} may be read by everybody here", f"chmod o-r {file}"))
    return findings


def _accounts(settings: Settings) -> list[Finding]:
    accounts = settings.accounts
    if accounts.store == "none" or accounts.pepper is not None or accounts.pepper_file is not None:
        return []
    if accounts.store == "redis" and accounts.folder is None:
        detail = "keys are stored in Redis, and there is no pepper: each gateway would make another"
        fix = "set accounts.pepper: '${PENSTOCK_PEPPER}', the same for all gateways"
        return [Finding("fail", "accounts.pepper", detail, fix)]
    detail = "was made at the first start and lies beside the keys that it protects"
    fix = (
        "copy it out of accounts.folder to where secrets are kept, and set accounts.pepper; without it no key is valid"
    )
    return [Finding("warn", "accounts.pepper", detail, fix)]


def _doors(settings: Settings) -> list[Finding]:
    findings = []
    server, admin = settings.server, settings.admin
    if not is_local(server.host) and not settings.client_keys and not settings.accounts.is_on:
        detail = f"{server.host} can be reached from elsewhere, and no key is asked for: anyone may spend"
        findings.append(Finding("warn", "server.host", detail, "set client_keys, or bind 127.0.0.1"))
    if admin.port is not None and not is_local(admin.host):
        what = "API and console take" if admin.console else "API takes"
        detail = f"{admin.host}: the admin {what} the admin key over HTTP"
        findings.append(Finding("warn", "admin.host", detail, "let only a proxy with TLS reach it, or bind 127.0.0.1"))
    for each in settings.deployments:
        parts = urlsplit(each.base_url or "")
        has_key = each.api_key is not None or each.api_key_file is not None
        if parts.scheme == "http" and has_key and not is_local(parts.hostname or ""):
            detail = f"{each.name}: the key goes to {parts.hostname} unencrypted"
            findings.append(Finding("warn", "deployments", detail, "use https:// in base_url"))
    return findings


def _content(settings: Settings) -> list[Finding]:
    events = settings.events
    if not events.capture_content:
        return []
    detail = "prompts and comments are written down, and the console shows them"
    if events.content_days is None:
        fix = "switch it off, or set events.content_days so that they are removed in time"
        return [Finding("warn", "events.capture_content", detail, fix)]
    return [Finding("ok", "events.capture_content", f"{detail}; removed after {events.content_days:g} days")]


def is_local(host: str) -> bool:
    """Whether an address is this machine's alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
