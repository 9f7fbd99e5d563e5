"""The fields of one ``model_list`` entry as settings of one deployment.

Owns the mapping of ``litellm_params`` and ``model_info``. Read `map_entry`; `_PARAMETERS` and `_INFO` say which method
takes which field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from penstock_gateway.deployments import Ability
from penstock_gateway.importing.draft import DeploymentDraft, Draft, seconds_of, whole_number_of
from penstock_gateway.importing.entry_plan import EMBEDDING, mode_of
from penstock_gateway.importing.foreign_yaml import Node
from penstock_gateway.importing.litellm_providers import COMPATIBLE, base_url_of
from penstock_gateway.importing.references import Reference
from penstock_gateway.importing.token_prices import PRICE_FIELDS, PriceFields, is_price_field
from penstock_gateway.importing.unmapped_fields import reason_for
from penstock_gateway.model_facts import ModelFacts, find_model
from penstock_gateway.providers import PROVIDERS
from penstock_gateway.settings_source import is_secret

_MAX_SECRET: Final = 8192
_MAX_HEADERS: Final = 64
# As `settings_checks` refuses them; a test compares the two.
FORBIDDEN_HEADERS: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "keep-alive", "te", "trailer"}
    | {"upgrade", "expect", "accept-encoding", "proxy-authorization", "proxy-connection"}
)
# A value that is a credential by its own words, whatever its header is called.
_CREDENTIAL: Final = re.compile(r"(bearer|basic)\s|sk-", re.IGNORECASE)
_ABILITIES: Final = {
    "supports_function_calling": Ability.TOOLS,
    "supports_vision": Ability.VISION,
    "supports_audio_input": Ability.AUDIO,
    "supports_pdf_input": Ability.DOCUMENTS,
    "supports_response_schema": Ability.JSON,
    "supports_native_streaming": Ability.STREAMING,
}
# What is written for a model that the bundled list does not know; LiteLLM knows no such limits and sends everything.
_GUESSED_ABILITIES: Final = (Ability.STREAMING, Ability.TOOLS, Ability.JSON)
_GUESSED_LENGTHS: Final = {"context_tokens": 131_072, "max_output_tokens": 32_768}


def map_entry(draft: Draft, entry: DeploymentDraft, credentials: Mapping[str, Node]) -> None:
    """Fill the settings of one deployment and settle every field of its entry.

    Parameters
    ----------
    draft : Draft
    entry : DeploymentDraft
        Named and empty.
    credentials : mapping of str to Node
        ``credential_list``: name → ``credential_values``.
    """
    _EntryMapper(draft, entry).run(credentials)


class _EntryMapper:
    def __init__(self, draft: Draft, entry: DeploymentDraft) -> None:
        self._draft = draft
        self._findings = draft.findings
        self._entry = entry
        self._settings = entry.settings
        self._prices = PriceFields(entry, draft.findings)
        self._given_abilities: dict[Ability, bool] = {}
        self._base_model = ""
        self._params = entry.entry.fields["litellm_params"].fields
        self._info = entry.entry.fields["model_info"].fields if "model_info" in entry.entry.fields else {}

    def run(self, credentials: Mapping[str, Node]) -> None:
        """Map every field, then write what follows from several of them."""
        self._settings.update({"provider": self._entry.served.provider, "model": self._entry.served.model})
        self._name()
        params = {**self._credential(credentials), **self._params}
        self._choose_adapter(params)
        for name, node in params.items():
            self._map("litellm_params", name, node, _PARAMETERS)
        for name, node in sorted(self._info.items(), key=lambda pair: pair[0] == "max_tokens"):  # it counts last
            self._map("model_info", name, node, _INFO)
        for name, node in self._entry.entry.fields.items():
            if name not in ("model_name", "litellm_params", "model_info"):
                self._findings.dropped(node, *reason_for("litellm_params", name, tuple(_PARAMETERS)))
        for name in ("litellm_params", "model_info"):  # not mappings, or empty
            if name in self._entry.entry.fields and not self._entry.entry.fields[name].fields:
                self._findings.dropped(self._entry.entry.fields[name], "has no fields")
        self._finish()

    def _map(self, section: str, name: str, node: Node, table: Mapping[str, _Handler]) -> None:
        handler = table.get(name)
        if is_price_field(name):
            self._prices.add(name, node)
        elif handler is not None:
            handler(self, node)
            self._findings.dropped(node, "has a value that Penstock does not take")  # when the handler left it open
        elif section == "model_info" and name in _ABILITIES and isinstance(node.value, bool):
            self._given_abilities[_ABILITIES[name]] = node.value
            self._findings.mapped(node, self._entry.target("abilities"))
        else:
            self._findings.dropped(node, *reason_for(section, name, (*table, *_ABILITIES, *PRICE_FIELDS)))

    def _name(self) -> None:
        node = self._entry.entry.fields["model_name"]
        asked = self._entry.group or self._entry.name
        target = self._entry.target("group" if self._entry.group else "name")
        if asked != self._entry.asked_for:
            self._findings.changed(node, target, f"is called {asked} now: clients have to ask for that")
        else:
            self._findings.mapped(node, target)

    def _credential(self, credentials: Mapping[str, Node]) -> dict[str, Node]:
        """Return the fields of the named credential that the entry does not set itself."""
        node = self._params.get("litellm_credential_name")
        if node is None:
            return {}
        values = credentials.get(str(node.value))
        if values is None:
            self._findings.dropped(node, "there is no credential of that name in credential_list")
            return {}
        self._findings.mapped(node, self._entry.target("api_key"), "its values are written out")
        return {name: value for name, value in values.fields.items() if name not in self._params}

    def _choose_adapter(self, params: Mapping[str, Node]) -> None:
        """Say who speaks to the provider where it is not the one that follows from the provider's name."""
        served = self._entry.served
        is_azure = served.provider == "azure"
        has_key, has_base = "api_key" in params, "api_base" in params or "base_url" in params
        if is_azure and has_key and has_base:
            self._entry.served = type(served)(served.provider, served.model, "direct", served.prefix)
        elif served.adapter == "litellm" and (served.provider not in PROVIDERS or (is_azure and has_base)):
            self._settings["adapter"] = "litellm"
        if self._entry.served.adapter == "litellm":
            self._draft.step(
                "Install the litellm extra: some deployments are reached through it, with the cloud credentials and "
                "regions that it finds in its own variables (AWS_…, VERTEXAI_…, AZURE_…)."
            )

    def _take_model(self, node: Node) -> None:
        self._findings.mapped(node, self._entry.target("model"))

    def _take_provider(self, node: Node) -> None:
        self._findings.mapped(node, self._entry.target("provider"))

    def _take_key(self, node: Node) -> None:
        found = self._draft.references.secret(node, f"{self._entry.name}_API_KEY")
        if found is None or len(str(node.value)) > _MAX_SECRET:
            return
        reference, is_plain = found
        self._settings["api_key"] = reference
        target = self._entry.target("api_key")
        if is_plain:
            self._findings.changed(node, target, f"the key stands in the old file; export it as {reference[2:-1]}")
        else:
            self._findings.mapped(node, target)

    def _take_base(self, node: Node) -> None:
        text = self._draft.references.text(node)
        if text is None:
            return
        is_reference = isinstance(text, Reference)
        if not is_reference and not text.startswith(("https://", "http://")):
            self._findings.dropped(node, "is no address that starts with https:// or http://")
            return
        if set(text.replace("${", "")) & set("@?# "):
            self._findings.dropped(node, "an address holds no credentials and no query", self._entry.target("headers"))
            return
        url, note = base_url_of(self._entry.served, text)
        target = self._entry.target("base_url")
        if not url:
            self._findings.dropped(node, note, "base_url of its OpenAI-compatible endpoint")
            return
        own = PROVIDERS.get(self._entry.served.provider)
        if own is not None and own.base_url and url == own.base_url:
            self._findings.mapped(node, target, "the provider's own address, which need not be written")
            return
        self._settings["base_url"] = url
        if note:
            self._findings.changed(node, target, note)
        else:
            self._findings.mapped(node, target)

    def _take_version(self, node: Node) -> None:
        if self._entry.served.provider == "azure" and self._entry.served.adapter == "direct":
            note = "Azure's /openai/v1 address is used, which needs no version"
            self._findings.dropped(node, note)
        else:
            self._findings.dropped(node, "an address has no query", "AZURE_API_VERSION in the environment")

    def _take_organisation(self, node: Node) -> None:
        self._header("OpenAI-Organization", node)

    def _take_headers(self, node: Node) -> None:
        for name, value in node.fields.items():
            self._header(name, value)

    def _header(self, name: str, node: Node) -> None:
        headers = self._settings.setdefault("headers", {})
        assert isinstance(headers, dict)
        target = self._entry.target(f"headers.{name}")
        is_legal = name.isascii() and name.isprintable() and not set(name) & set(' ()<>@,;:\\"/[]?={}') and name
        if not is_legal or name.lower() in FORBIDDEN_HEADERS or len(headers) >= _MAX_HEADERS:
            self._findings.dropped(node, "Penstock sets this header itself, or no header is called so")
            return
        if is_secret(("deployments", 0, "headers", name)) or _CREDENTIAL.match(str(node.value)):
            found = self._draft.references.secret(node, f"{self._entry.name}_{name}")
            if found is None:
                return
            headers[name], is_plain = found
            if is_plain:
                note = f"it stands in the old file; export it as {headers[name][2:-1]}"
                self._findings.changed(node, target, note)
            else:
                self._findings.mapped(node, target)
            return
        text = self._draft.references.text(node)
        if text is not None and text.isascii():
            headers[name] = text
            self._findings.mapped(node, target)

    def _take_timeout(self, node: Node) -> None:
        seconds = seconds_of(node)
        if seconds is None:
            return
        timeouts = self._settings.setdefault("timeouts", {})
        assert isinstance(timeouts, dict)
        timeouts.update({"first_byte_seconds": seconds, "total_seconds": seconds})
        note = "bounds the whole attempt, and its first byte"
        self._findings.changed(node, self._entry.target("timeouts.total_seconds"), note)

    def _take_stream_timeout(self, node: Node) -> None:
        seconds = seconds_of(node)
        if seconds is None:
            return
        timeouts = self._settings.setdefault("timeouts", {})
        assert isinstance(timeouts, dict)
        timeouts["idle_seconds"] = seconds
        note = "between two chunks of any answer, streamed or not"
        self._findings.changed(node, self._entry.target("timeouts.idle_seconds"), note)

    def _take_parallel(self, node: Node) -> None:
        count = whole_number_of(node, 1, 1_000_000)
        if count is not None:
            self._settings["max_parallel_requests"] = count
            self._findings.changed(
                node, self._entry.target("max_parallel_requests"), "further requests wait in one queue for all"
            )

    def _take_id(self, node: Node) -> None:
        self._findings.dropped(node, "a deployment's id is its name", self._entry.target("name"))

    def _take_mode(self, node: Node) -> None:
        self._findings.mapped(node, self._entry.target("wire_formats"))

    def _take_context(self, node: Node) -> None:
        self._length(node, "context_tokens")

    def _take_output(self, node: Node) -> None:
        self._length(node, "max_output_tokens")

    def _length(self, node: Node, setting: str) -> None:
        count = whole_number_of(node, 1, 100_000_000)
        if count is None:
            return
        if setting in self._settings:
            self._findings.dropped(node, "max_output_tokens says it more exactly", self._entry.target(setting))
            return
        self._settings[setting] = count
        self._findings.mapped(node, self._entry.target(setting))

    def _take_base_model(self, node: Node) -> None:
        name = str(node.value) if isinstance(node.value, str) else ""
        name = name.removeprefix(f"{self._entry.served.prefix}/").removeprefix(f"{self._entry.served.provider}/")
        if find_model(self._entry.served.provider, name, self._entry.served.adapter) is None:
            note = "the bundled list does not know that model"
            self._findings.dropped(node, note, self._entry.target("price"))
            return
        self._base_model = name
        note = "price, lengths and abilities of that model are written out; they do not follow the list any more"
        self._findings.changed(node, self._entry.target("price"), note)

    def _finish(self) -> None:
        """Write what follows from all fields together: formats, price, lengths, abilities, the order of settings."""
        served, settings = self._entry.served, self._settings
        mode = mode_of(self._entry)
        known = find_model(served.provider, served.model, served.adapter)
        based = find_model(served.provider, self._base_model, served.adapter) if self._base_model else None
        facts = based or known
        self._usual_key()
        self._address(facts, mode)
        self._prices.write(facts, base_model=self._base_model)
        if "price" not in settings and known is None:
            settings["unknown_price"] = "allow"
            self._draft.step(
                "Give prices to the deployments with `unknown_price: allow`: the bundled list does not know their "
                "models, so their costs are unknown and keys with a budget cannot use them."
            )
        if mode != EMBEDDING:
            self._limits(known, based)
        if self._entry.is_named_only:
            settings["routable"] = False
        if settings.get("model") == self._entry.name:
            del settings["model"]
        if not settings.get("headers", True):
            del settings["headers"]

    def _usual_key(self) -> None:
        """Refer to the provider's usual variable, where LiteLLM would look too."""
        served, settings = self._entry.served, self._settings
        known = PROVIDERS.get(served.provider)
        is_own = served.adapter == "direct" and "base_url" not in settings and known is not None and known.base_url
        if is_own and known is not None and known.key_variable and "api_key" not in settings:
            settings["api_key"] = self._draft.references.usual(known.key_variable)

    def _address(self, facts: ModelFacts | None, mode: str) -> None:
        """Say what the server speaks, where another one than the provider's own is asked."""
        served, settings = self._entry.served, self._settings
        has_own_server = "base_url" in settings and served.adapter == "direct" and served.provider != "azure"
        if served.provider == "openai" and has_own_server and facts is None:
            settings["provider"] = COMPATIBLE
        if settings["provider"] == COMPATIBLE:
            if "base_url" not in settings:
                settings["base_url"] = "http://127.0.0.1:8000/v1"
                name = self._entry.name
                self._draft.step(f"Set the base_url of {name}: the old file does not say where it listens.")
            if "base_url" in settings and "api_key" not in settings:
                self._entry.comments.append("no credential is sent; LiteLLM would send OPENAI_API_KEY")
            del settings["provider"]
        if served.adapter == "litellm":
            return
        if mode == EMBEDDING:
            settings["wire_formats"] = ["embeddings"]
        elif mode == "completion" or served.prefix == "text-completion-openai":
            settings["wire_formats"] = ["completions"]
        elif mode == "responses" and "provider" not in settings:
            settings["wire_formats"] = ["responses"]
        elif served.provider in ("openai", "azure") and "base_url" in settings and "provider" in settings:
            settings["wire_formats"] = ["chat", "responses"] if served.provider == "azure" else ["chat"]

    def _limits(self, known: ModelFacts | None, based: ModelFacts | None) -> None:
        settings = self._settings
        if based is not None:
            settings.setdefault("context_tokens", based.context_tokens)
            settings.setdefault("max_output_tokens", based.max_output_tokens)
        elif known is None:
            guessed = [name for name in _GUESSED_LENGTHS if name not in settings]
            for name in guessed:
                settings[name] = _GUESSED_LENGTHS[name]
            if guessed:
                self._entry.comments.append(f"{' and '.join(guessed)}: a guess, the bundled list does not know it")
                self._draft.step(
                    "Check context_tokens, max_output_tokens and abilities where a comment calls them a guess."
                )
        facts = based or known
        if facts is None or based is not None or self._given_abilities:
            abilities = set(_GUESSED_ABILITIES if facts is None else facts.abilities)
            abilities |= {ability for ability, is_given in self._given_abilities.items() if is_given}
            abilities -= {ability for ability, is_given in self._given_abilities.items() if not is_given}
            settings["abilities"] = [ability.value for ability in Ability if ability in abilities]


_Handler = Callable[[_EntryMapper, Node], None]

_PARAMETERS: Final[Mapping[str, _Handler]] = {
    "model": _EntryMapper._take_model,
    "custom_llm_provider": _EntryMapper._take_provider,
    "api_key": _EntryMapper._take_key,
    "api_base": _EntryMapper._take_base,
    "base_url": _EntryMapper._take_base,
    "api_version": _EntryMapper._take_version,
    "organization": _EntryMapper._take_organisation,
    "headers": _EntryMapper._take_headers,
    "extra_headers": _EntryMapper._take_headers,
    "timeout": _EntryMapper._take_timeout,
    "request_timeout": _EntryMapper._take_timeout,
    "stream_timeout": _EntryMapper._take_stream_timeout,
    "max_parallel_requests": _EntryMapper._take_parallel,
    "litellm_credential_name": _EntryMapper._take_provider,  # settled before
}
_INFO: Final[Mapping[str, _Handler]] = {
    "id": _EntryMapper._take_id,
    "mode": _EntryMapper._take_mode,
    "max_input_tokens": _EntryMapper._take_context,
    "max_output_tokens": _EntryMapper._take_output,
    "max_tokens": _EntryMapper._take_output,
    "base_model": _EntryMapper._take_base_model,
}
