"""What the shape of the settings cannot say: names that must agree, prices that must exist, doors that must be closed.

Owns the checks across settings, each a function of one idea that adds problems to the source, and the notes that do
not stop the gateway. Read `check_settings` first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from penstock_gateway.artifact_source import artifact_url_problem, is_artifact_url
from penstock_gateway.configuration_problems import Problem, did_you_mean, setting_path
from penstock_gateway.environment import BASE_URL_VARIABLES
from penstock_gateway.model_facts import find_model
from penstock_gateway.providers import PROVIDERS
from penstock_gateway.settings_account_checks import check_accounts
from penstock_gateway.settings_attempts_checks import check_attempts
from penstock_gateway.settings_cache_checks import check_cache
from penstock_gateway.settings_deployments import (
    adapter_of,
    arm_of,
    base_url_of,
    provider_of,
    read_artifact_arms,
    read_reference_arm,
)
from penstock_gateway.settings_encoder_checks import check_encoder
from penstock_gateway.settings_ledger_checks import check_ledger
from penstock_gateway.settings_models import DeploymentSettings, RoutingSettings, Settings
from penstock_gateway.settings_policy_checks import check_policies
from penstock_gateway.settings_price_checks import check_price, notes_on_price
from penstock_gateway.settings_redis_checks import check_redis
from penstock_gateway.settings_secrets import SecretFileError, is_readable_by_others, read_secret
from penstock_gateway.settings_server_checks import check_server
from penstock_gateway.settings_source import SettingKey, SettingsSource
from penstock_gateway.wire.formats import PATHS, WireFormat
from penstock_routers.installation import install_command

_FORBIDDEN_HEADERS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "keep-alive", "te", "trailer"}
    | {"upgrade", "expect", "accept-encoding", "proxy-authorization", "proxy-connection"}
)


def check_settings(settings: Settings, source: SettingsSource, *, is_insecure: bool) -> None:
    """Add a problem to `source` for everything that does not fit together.

    Parameters
    ----------
    settings : Settings
        Valid in shape.
    source : SettingsSource
        Where each setting was written.
    is_insecure : bool
        Accept a non-loopback address without client keys.
    """
    _check_names(settings, source)
    _check_routing(settings, source)
    _check_artifact(settings.routing, source)
    for index, entry in enumerate(settings.deployments):
        key: SettingKey = ("deployments", index)
        count = len(source.problems)
        _check_provider(entry, key, source)
        is_known = len(source.problems) == count and not source.muted & {(*key, "name"), (*key, "provider")}
        _check_base_url(entry, key, source)
        _check_wire_formats(entry, key, source)
        if is_known:  # else price and key would be looked for under a wrong name
            check_price(settings, entry, key, source)
            _check_credential(entry, key, source)
        _check_headers(entry, key, source)
    _check_client_keys(settings, source)
    check_server(settings, source)
    check_encoder(settings, source)
    check_policies(settings, source)
    check_cache(settings, source)
    check_ledger(settings, source)
    check_redis(settings, source)
    check_attempts(settings, source)
    check_accounts(settings, source, is_admin_local=is_loopback(settings.admin.host))
    if not settings.asks_for_keys and not is_insecure and not is_loopback(settings.server.host):
        source.report(
            ("server", "host"),
            f"{settings.server.host} can be reached from other machines and there are no client keys",
            "add client_keys or an accounts.store, bind 127.0.0.1, or start with --insecure",
        )


def is_loopback(host: str) -> bool:
    """Say whether an address to bind can only be reached from this machine.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_names(settings: Settings, source: SettingsSource) -> None:
    if not settings.deployments:
        source.report(("deployments",), "is empty, so there is no model to call", "add a deployment")
    elif not any(entry.routable for entry in settings.deployments):
        source.report(("deployments",), "has no routable deployment for 'auto'", "set 'routable: true' on one")
    first_index: dict[str, int] = {}
    for index, entry in enumerate(settings.deployments):
        key: SettingKey = ("deployments", index, "name")
        if entry.name in first_index:
            first = source.place(("deployments", first_index[entry.name], "name"))
            source.report(key, f"{entry.name!r} is the name of another deployment ({first})")
        first_index.setdefault(entry.name, index)
        if entry.name == "auto" or entry.name.startswith(("auto:", "auto@")):
            source.report(key, f"{entry.name!r} is how clients let Penstock choose", "take another name")


def _check_routing(settings: Settings, source: SettingsSource) -> None:
    if ("deployments",) in source.muted:
        return
    # A name that is wrong itself has a stand-in here, which is not offered.
    names = [entry.name for i, entry in enumerate(settings.deployments) if not source.muted & _names_of(i)]
    for setting, name in (("default_arm", settings.routing.default_arm), ("baseline", settings.routing.baseline)):
        if name is not None and name not in names:
            source.report(("routing", setting), f"there is no deployment {name!r}", did_you_mean(name, names))
    default = next((entry for entry in settings.deployments if entry.name == settings.routing.default_arm), None)
    if default is not None and not default.routable:
        source.report(("routing", "default_arm"), f"{default.name!r} is not routable", "set 'routable: true' on it")


def _check_artifact(routing: RoutingSettings, source: SettingsSource) -> None:
    """A URL says where an artifact lies, not who made it."""
    key: SettingKey = ("routing", "artifact")
    is_ours = routing.artifact in ("default", "none")
    for name in ("artifact_digest", "artifact_public_key"):
        if is_ours and getattr(routing, name) is not None:
            source.report(("routing", name), f"has no meaning with 'artifact: {routing.artifact}'", "remove it")
    if routing.artifact_public_key is not None and find_spec("cryptography") is None:
        message = "checking a signature needs cryptography, which is not installed"
        source.report(("routing", "artifact_public_key"), message, f"run: {install_command('signing')}")
    if not is_artifact_url(routing.artifact):
        return
    if problem := artifact_url_problem(routing.artifact):
        source.report(key, problem)
    wrong = source.muted & {("routing", "artifact_digest"), ("routing", "artifact_public_key")}
    if routing.artifact_digest is None and routing.artifact_public_key is None and not wrong:
        message = "an artifact from a URL needs artifact_digest or artifact_public_key, to know who made it"
        source.report(key, message, "'penstock-train publish' prints the id, 'penstock-train keygen' the key")


def _names_of(index: int) -> set[SettingKey]:
    return {("deployments", index), ("deployments", index, "name")}


def _check_provider(entry: DeploymentSettings, key: SettingKey, source: SettingsSource) -> None:
    if entry.provider is None and entry.base_url is None:
        hint = "add 'provider: openai', or the base_url of an OpenAI-compatible server"
        source.report((*key, "provider"), f"{entry.name!r} has neither provider nor base_url", hint)
        return
    if entry.provider is not None and entry.provider not in PROVIDERS and entry.adapter is None:
        near = did_you_mean(entry.provider, list(PROVIDERS))
        hint = f"{near} Otherwise set adapter: litellm" if near else "set adapter: litellm"
        source.report((*key, "provider"), f"there is no known provider {entry.provider!r}", hint)
        return
    if adapter_of(entry) == "direct" and not base_url_of(entry):
        source.report((*key, "base_url"), f"{entry.name!r} needs a base_url", "for example https://host/v1")
    if adapter_of(entry) == "litellm" and find_spec("litellm") is None:
        message = f"{entry.name!r} is reached through litellm, which is not installed"
        source.report((*key, "adapter" if entry.adapter else "provider"), message, f"run: {install_command('litellm')}")


def _check_base_url(entry: DeploymentSettings, key: SettingKey, source: SettingsSource) -> None:
    if entry.base_url is None:
        return
    key = (*key, "base_url")
    try:
        parts = urlsplit(entry.base_url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        source.report(key, "is not a URL")
        return
    if parts.scheme not in ("http", "https") or not has_host:
        source.report(key, "should start with https:// (or http://) and a host")
    elif any(character.isspace() or ord(character) < 32 for character in entry.base_url):
        source.report(key, "should have no white space")
    elif parts.username or parts.password:
        source.report(key, "should hold no credentials", "use api_key or headers")
    elif parts.fragment or parts.query:
        source.report(key, "should have no query and no fragment")
    elif endpoint := next((path for path in PATHS.values() if parts.path.rstrip("/").endswith(path)), None):
        source.report(key, f"should end before {endpoint}", "for example https://host/v1")


def _check_wire_formats(entry: DeploymentSettings, key: SettingKey, source: SettingsSource) -> None:
    if entry.wire_formats is None or adapter_of(entry) != "litellm" or set(entry.wire_formats) == {WireFormat.CHAT}:
        return
    source.report((*key, "wire_formats"), "litellm takes and gives chat completions only", "leave it out")


def _check_credential(entry: DeploymentSettings, key: SettingKey, source: SettingsSource) -> None:
    if entry.api_key is not None and entry.api_key_file is not None:
        source.report((*key, "api_key_file"), "is given together with api_key", "keep one of them")
    text = _readable_secret(entry.api_key, entry.api_key_file, (*key, "api_key_file"), source)
    if text and not (text.isascii() and text.isprintable()):
        source.report((*key, "api_key"), "has characters that cannot stand in an HTTP header (a line break?)")
    known = PROVIDERS.get(provider_of(entry))
    has_own_header = any(name.lower() in ("authorization", "api-key", "x-api-key") for name in entry.headers)
    is_missing = entry.api_key is None and entry.api_key_file is None and (*key, "api_key") not in source.unresolved
    if not is_missing or has_own_header or adapter_of(entry) != "direct" or entry.base_url is not None:
        return
    if known is not None and known.key_variable:
        message = f"{entry.name!r} has no credential: environment variable {known.key_variable} is not set"
        source.report((*key, "api_key"), message, f"export {known.key_variable}=…, or add api_key / api_key_file")


def _readable_secret(secret: object, file: str | None, key: SettingKey, source: SettingsSource) -> str:
    if secret is not None or file is None:
        return secret.get_secret_value() if hasattr(secret, "get_secret_value") else ""
    try:
        return read_secret(None, file)
    except SecretFileError as error:
        source.report(key, str(error))
        return ""


def _check_headers(entry: DeploymentSettings, key: SettingKey, source: SettingsSource) -> None:
    for name, value in entry.headers.items():
        if name.lower() in _FORBIDDEN_HEADERS:
            source.report((*key, "headers", name), "is set by the gateway itself", "remove it")
        text = value.get_secret_value()
        if not (text.isascii() and text.isprintable()):
            source.report((*key, "headers", name), "has characters that cannot stand in an HTTP header")


def _check_client_keys(settings: Settings, source: SettingsSource) -> None:
    first_index: dict[str, int] = {}
    for index, entry in enumerate(settings.client_keys):
        key: SettingKey = ("client_keys", index)
        if entry.key is None and entry.key_file is None:
            if (*key, "key") not in source.unresolved:
                source.report(key, f"{entry.name!r} has neither key nor key_file", "add 'key: ${VARIABLE}'")
            continue
        if entry.key is not None and entry.key_file is not None:
            source.report((*key, "key_file"), "is given together with key", "keep one of them")
        text = _readable_secret(entry.key, entry.key_file, (*key, "key_file"), source)
        if entry.key is None and text and len(text) < 16:
            source.report((*key, "key_file"), "holds a key of less than 16 characters")
        if text and not (text.isascii() and text.isprintable() and text == text.strip()):
            source.report(key, f"{entry.name!r} has a key that no client can send in a header (ASCII, no outer blanks)")
        if text and text in first_index:
            other = settings.client_keys[first_index[text]].name
            source.report(key, f"{entry.name!r} has the same key as {other!r}", "give each its own")
        first_index.setdefault(text, index)


def note_settings(settings: Settings, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    """Return what is worth knowing about a valid configuration and does not stop the gateway.

    Parameters
    ----------
    settings : Settings
    environ : mapping of str to str, optional
        To say which variable moved a provider's address.

    Returns
    -------
    tuple of Problem
        Deployments that go to another address than their provider's own, a default arm that is not the one the
        artifact was measured with, deployments that ``auto`` cannot use for want of estimates, guessed limits, prompt
        lengths beyond which a provider charges more, models that are switched off soon, captured prompts, key files
        that everybody may read.
    """
    arms = read_artifact_arms(settings.routing)
    notes: list[Problem] = []
    for index, entry in enumerate(settings.deployments):
        where = setting_path(("deployments", index))
        found = _deployment_notes(entry, arms, environ or {}) + notes_on_price(settings, entry)
        notes += [Problem(entry.name, where, text, hint) for text, hint in found]
    if settings.routing.artifact != "none":
        notes += _routing_notes(settings, arms)
    if settings.events.folder is not None and settings.events.capture_content:
        text = f"prompts and comments are written to {settings.events.folder}"
        notes.append(Problem("events", "events.capture_content", text, "they are content: restrict who may read them"))
    for kind, files in (
        ("client_keys", [entry.key_file for entry in settings.client_keys]),
        ("deployments", [entry.api_key_file for entry in settings.deployments]),
    ):
        for index, file in enumerate(files):
            if file is not None and is_readable_by_others(file):
                text = f"{file} may be read by everybody on this machine"
                notes.append(Problem(file, setting_path((kind, index)), text, f"chmod o-r {file}"))
    return tuple(notes)


def _routing_notes(settings: Settings, arms: tuple[str, ...]) -> list[Problem]:
    """Say when the default arm keeps routing off, or is another than the artifact's."""
    if is_artifact_url(settings.routing.artifact):
        return []
    if not arms:
        text = "has no readable manifest; every request to 'auto' goes to the default arm"
        return [Problem("routing", "routing.artifact", text)]
    arm = next((arm_of(entry, arms) for entry in settings.deployments if entry.name == settings.default_arm), "")
    reference = read_reference_arm(settings.routing)
    if arm not in arms:
        text = f"the artifact has no estimates for the default {settings.default_arm!r}, so nothing is routed"
        return [Problem("routing", "routing.default_arm", text, f"set its tier or arm to one of: {', '.join(arms)}")]
    if settings.routing.artifact != "default" and reference and arm != reference:
        text = f"the default is {settings.default_arm!r} on arm {arm!r}; the artifact was measured with {reference!r}"
        return [Problem("routing", "routing.default_arm", text)]
    return []


def _deployment_notes(
    entry: DeploymentSettings, arms: tuple[str, ...], environ: Mapping[str, str]
) -> list[tuple[str, str]]:
    notes: list[tuple[str, str]] = []
    provider, model = provider_of(entry), entry.model or entry.name
    known = PROVIDERS.get(provider)
    if known is not None and known.base_url and entry.base_url and base_url_of(entry) != known.base_url:
        variable = BASE_URL_VARIABLES.get(provider, "")
        origin = f"{variable} is in force: " if variable and environ.get(variable) == entry.base_url else ""
        notes.append((f"{origin}requests go to {base_url_of(entry)}, not to {known.base_url}", ""))
    facts = find_model(provider, model, adapter_of(entry))
    if entry.routable and arms and arm_of(entry, arms) not in arms:
        notes.append(
            (
                "the artifact has no estimates for it, so 'auto' takes it only as the default arm",
                f"set tier or arm to one of: {', '.join(arms)}",
            )
        )
    guessed = [name for name in ("context_tokens", "max_output_tokens", "abilities") if getattr(entry, name) is None]
    if facts is None and guessed:
        guesses, them = ("are cautious guesses", "them") if len(guessed) > 1 else ("is a cautious guess", "it")
        text = f"the price list does not know {model!r}: {', '.join(guessed)} {guesses}"
        notes.append((text, f"set {them}"))
    if facts is not None and facts.deprecated_on:
        notes.append((f"its maker switches it off on {facts.deprecated_on}", "plan its replacement"))
    return notes
