"""The shape of the configuration: frozen, strict models with a range on every number.

Owns what may be written, its defaults and its descriptions (the table in docs/configuration.md and the JSON Schema are
made from them). It reads no file and no environment. Read `Settings` first; `settings.load_settings` fills it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from penstock_gateway.deployments import TIERS, Ability
from penstock_gateway.settings_accounts import (
    AccountsSettings,
    AdminSettings,
    KeyFields,
    NamedKeySettings,
    TagSettings,
    TeamSettings,
)
from penstock_gateway.settings_attempts import AttemptSettings, OnDisconnect
from penstock_gateway.settings_cache import CacheSettings
from penstock_gateway.settings_encoder import EncoderSettings
from penstock_gateway.settings_events import EventSettings
from penstock_gateway.settings_ledger import LedgerSettings
from penstock_gateway.settings_money import MoneySettings, UnknownPrice
from penstock_gateway.settings_prices import PriceSettings
from penstock_gateway.settings_redis import RedisSettings
from penstock_gateway.settings_server import CrossOriginSettings
from penstock_gateway.settings_tracing import TracingSettings
from penstock_gateway.settings_types import (
    Adapter,
    ArtifactDigest,
    HeaderName,
    HostName,
    Key,
    LongKey,
    Name,
    PollSeconds,
    PublicKey,
    Seconds,
    Section,
    Share,
    Text,
    Tier,
    Tradeoff,
    plain_float,
)
from penstock_gateway.wire.formats import WireFormat


class ServerSettings(Section):
    """Where the gateway listens, and how much it takes at once."""

    host: Text = Field(
        "127.0.0.1", description="Address to bind. Anything but loopback needs `client_keys` (or `--insecure`)."
    )
    port: int = Field(4000, ge=0, le=65_535, description="TCP port; 0 takes a free one.")
    allowed_hosts: tuple[HostName, ...] = Field(
        (),
        strict=False,
        max_length=256,
        description="`Host` names accepted besides loopback names and `host` itself; `*.example.org` takes a domain.",
    )
    max_body_bytes: int = Field(20_971_520, ge=1024, le=1_073_741_824, description="Largest request body, bytes.")
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the port, one a core at most. What they count together (keys, budgets, "
        "spend) needs `ledger.kind: redis`; limits of this file are divided among them (docs/workers.md).",
    )
    max_in_flight: int = Field(1024, ge=1, le=100_000, description="Requests in progress before new ones get a 503.")
    keep_alive_seconds: int = Field(
        75, ge=1, le=3600, description="How long a connection may be idle; longer than that of a proxy in front."
    )
    drain_seconds: int = Field(
        25,
        ge=0,
        le=3600,
        description="How long a stop waits for answers under way; Kubernetes kills 30 s after its first signal.",
    )
    compress_responses: bool = Field(
        False,
        description="gzip for clients that accept it, for plain answers of 1400 bytes or more; streams never. A 2 kB "
        "answer costs some 15 µs and shrinks by half, 1 MB 9 ms in a thread (`bench/http_edge.py`): worth it over slow "
        "networks.",
    )
    cors: CrossOriginSettings = Field(
        default_factory=CrossOriginSettings, description="Web pages of other origins that may call the gateway."
    )
    litellm_headers: bool = Field(
        False, description="Answer with `x-litellm-*` headers, too; a request asks with `x-penstock-litellm-headers`."
    )
    reload_on_change: bool = Field(
        False, description="Read the configuration again when its file, or a key file, changes; SIGHUP always does it."
    )


class ClientKeySettings(KeyFields, NamedKeySettings):
    """One key that clients may present."""


class ParameterSettings(Section):
    """How the model's parameters differ from the common chat schema; replaces the built-in rules where given."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens", "both"] | None = Field(
        None, description="Which of the two length fields the model takes; `both` leaves it as sent."
    )
    unsupported: tuple[Name, ...] | None = Field(
        None,
        strict=False,
        max_length=64,
        description="Body fields the model refuses; requests that set one go elsewhere.",
    )
    droppable: dict[Name, Annotated[bool | int | float | str | None, BeforeValidator(plain_float)]] | None = Field(
        None, description="Fields with one fixed value: dropped when the request asks for just that value."
    )
    max_stops: int | None = Field(
        None, ge=1, le=10_000, description="Most stop sequences that the model takes; requests with more go elsewhere."
    )


class TimeoutSettings(Section):
    """Deadlines of one attempt, seconds."""

    connect_seconds: Seconds = Field(5.0, description="Connection and TLS.")
    first_byte_seconds: Seconds = Field(60.0, description="From the request to the status line.")
    idle_seconds: Seconds = Field(60.0, description="Between two chunks.")
    total_seconds: Seconds = Field(600.0, description="The whole attempt.")


class DeploymentSettings(Section):
    """One callable place of a model."""

    name: Name = Field(description="What clients ask for; unique; not `auto…`, which lets Penstock choose.")
    provider: Name | None = Field(
        None, description="Who serves it; gives base URL, key variable and adapter. Not needed with `base_url`."
    )
    model: Text | None = Field(None, description="What the provider calls it; default: `name`.")
    adapter: Adapter | None = Field(
        None, description="`direct` for OpenAI-compatible servers, `litellm` for others; default: the provider's."
    )
    base_url: Text | None = Field(
        None, description="API, up to and without `/chat/completions` or the like; default: the provider's."
    )
    wire_formats: tuple[Annotated[WireFormat, Field(strict=False)], ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        max_length=8,
        description="What its server speaks: `chat`, `messages` (Anthropic's), `responses`, `completions`, "
        "`embeddings`. A client's format that is not among them is translated. Default: the provider's; "
        "`[chat, completions, embeddings]` for a `base_url` alone.",
    )
    api_key: Key | None = Field(
        None, description="Upstream credential, by reference only: `${VARIABLE}`; default: the provider's variable."
    )
    api_key_file: Text | None = Field(None, description="File that holds the credential, instead of `api_key`.")
    headers: dict[HeaderName, Annotated[SecretStr, Field(strict=False, max_length=8192)]] = Field(
        default_factory=dict, max_length=64, description="Extra request headers; secret ones by reference only."
    )
    tier: Tier | None = Field(
        None, description="Class of capability and price; the default artifact's estimates are per tier."
    )
    arm: Name | None = Field(
        None, description="Artifact arm whose estimates apply; default: `name` if the artifact has it, else `tier`."
    )
    price: PriceSettings | None = Field(None, description="Default: the bundled price snapshot.")
    unknown_price: UnknownPrice | None = Field(None, description="Instead of `money.unknown_price`.")
    context_tokens: int | None = Field(
        None, ge=1, le=100_000_000, description="Most prompt tokens; default: the snapshot, else 8192."
    )
    max_output_tokens: int | None = Field(
        None, ge=1, le=100_000_000, description="Most completion tokens; default: the snapshot, else 4096."
    )
    abilities: tuple[Annotated[Ability, Field(strict=False)], ...] | None = Field(
        None, strict=False, max_length=16, description="What it can do; default: the snapshot, else `[streaming]`."
    )
    parameters: ParameterSettings = Field(
        default_factory=ParameterSettings, description="Parameter rules; default: the built-in ones of the model."
    )
    timeouts: TimeoutSettings = Field(default_factory=TimeoutSettings, description="Deadlines of one attempt.")
    routable: bool = Field(True, description="Whether `auto` may choose it.")
    group: Name | None = Field(
        None, description="Deployments of one group serve the same model: each may take another's requests."
    )
    fallbacks: tuple[Name, ...] = Field(
        (),
        strict=False,
        max_length=16,
        description="Deployments or groups that answer in this order when it fails and a client asked for it by name.",
    )
    max_parallel_requests: int | None = Field(
        None, ge=1, le=1_000_000, description="Requests at once that it takes; further ones wait. Default: no limit."
    )
    on_disconnect: OnDisconnect = Field(
        "cancel",
        description="When a client leaves: `cancel`, or `drain`, which reads on to learn the usage that is billed.",
    )


class ExploreSettings(Section):
    """Trying out other deployments than the one chosen, to learn from."""

    rate: Share = Field(
        0.0, description="Share of routed requests whose deployment is drawn; 0.01 is enough to learn from."
    )
    max_cost_ratio: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False), BeforeValidator(plain_float)] = Field(
        1.0, description="A drawn deployment costs at most this many times the default arm."
    )
    key: LongKey | None = Field(
        None,
        description="Secret of the draws, by reference only: `${VARIABLE}`, at least 16 characters; default: a random "
        "one of each process. With one of your own, logged draws can be checked.",
    )


class RoutingSettings(Section):
    """How `auto` chooses."""

    artifact: Text = Field(
        "default",
        description="Router artifact: `default` (bundled), a folder, a registry, the `https://` URL of one, or `none` "
        "(always the default arm).",
    )
    artifact_digest: ArtifactDigest | None = Field(
        None, description="Id that the artifact must have: `sha256:` and 64 digits. Pins it for good."
    )
    artifact_public_key: PublicKey | None = Field(
        None,
        description="Ed25519 key, base64, that must have signed the artifact; a URL needs this or `artifact_digest`.",
    )
    artifact_poll_seconds: PollSeconds = Field(
        30.0, description="How often the artifact's folder or URL is looked at for a new one; 0: only at the start."
    )
    encoder: Text = Field("static-minilm-256", description="Prompt encoder: a bundled name or a folder.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the encoder runs.")
    default_arm: Name | None = Field(
        None,
        description="Deployment that answers when the router is not sure; default: the first routable one on the "
        "artifact's reference arm (`frontier` for the bundled artifact), else of the highest tier.",
    )
    baseline: Name | None = Field(
        None, description="Deployment that savings are measured against; default: the default arm."
    )
    tradeoff: Tradeoff = Field(
        "balanced", description="`cost`, `balanced`, `quality`, or a number from 0 (cheapest) to 1 (best)."
    )
    category_floors: dict[Name, Tier] = Field(
        default_factory=dict,
        max_length=64,
        description="Lowest tier that may answer a category, for example `{medical: large}`.",
    )
    floor_probability: Share = Field(
        0.2, description="Share of a floored category from which its floor applies, whatever the label."
    )
    switch_regret: Share = Field(
        0.25,
        description="Share of the lost cache discount that leaving a conversation's model is charged with; 0: none.",
    )
    warm_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False), BeforeValidator(plain_float)] = Field(
        300.0, description="How long a provider is expected to keep a prompt in its cache; 0 counts on no cache."
    )
    warm_conversations: int = Field(
        10_000, ge=1, le=1_000_000, description="Conversations whose last model is remembered, per process."
    )
    explore: ExploreSettings = Field(default_factory=ExploreSettings, description="Trying out other deployments.")
    observe: bool = Field(
        False,
        description="Requests that name a model are answered by it; what would have been chosen instead is logged.",
    )


class DecisionSettings(Section):
    """What is remembered of past decisions."""

    keep: int = Field(10_000, ge=0, le=1_000_000, description="Decisions kept in memory for `GET /v1/decisions/{id}`.")


class MetricSettings(Section):
    """Metrics; nothing to set yet."""


class LogSettings(Section):
    """Logging to standard error, one JSON object a line."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written.")


class Settings(Section):
    """The whole configuration, immutable.

    Built by `settings.load_settings` from a file and the environment, or directly in Python. A value of this
    type has the right shape; that names agree with each other is checked by `load_settings`.
    """

    version: Literal[1] = Field(1, description="Version of this format.")
    server: ServerSettings = Field(default_factory=ServerSettings, description="Listening address and limits.")
    client_keys: tuple[ClientKeySettings, ...] = Field(
        (), strict=False, max_length=10_000, description="Keys that clients must present; none: no key is asked for."
    )
    teams: tuple[TeamSettings, ...] = Field(
        (), strict=False, max_length=1000, description="Keys that share budgets, limits and restrictions."
    )
    tags: tuple[TagSettings, ...] = Field(
        (), strict=False, max_length=1000, description="Purposes that requests are charged to, across teams."
    )
    accounts: AccountsSettings = Field(
        default_factory=AccountsSettings, description="Where keys, teams and tags are stored."
    )
    admin: AdminSettings = Field(default_factory=AdminSettings, description="API that they are managed with.")
    deployments: tuple[DeploymentSettings, ...] = Field(
        (), strict=False, max_length=1000, description="The models that can be called."
    )
    routing: RoutingSettings = Field(default_factory=RoutingSettings, description="How `auto` chooses.")
    encoder: EncoderSettings = Field(
        default_factory=EncoderSettings, description="Where prompts are encoded, if not in this process."
    )
    money: MoneySettings = Field(default_factory=MoneySettings, description="What requests are charged.")
    cache: CacheSettings = Field(default_factory=CacheSettings, description="Answering repeats without a model.")
    redis: RedisSettings = Field(
        default_factory=RedisSettings, description="The Redis of every feature that names none of its own."
    )
    attempts: AttemptSettings = Field(
        default_factory=AttemptSettings, description="Retries, fallbacks, queues, breakers, hedges and balancing."
    )
    ledger: LedgerSettings = Field(default_factory=LedgerSettings, description="Counting what is spent.")
    decisions: DecisionSettings = Field(default_factory=DecisionSettings, description="Memory of past decisions.")
    events: EventSettings = Field(default_factory=EventSettings, description="Log of decisions and outcomes.")
    metrics: MetricSettings = Field(default_factory=MetricSettings, description="Metrics; nothing to set yet.")
    log: LogSettings = Field(default_factory=LogSettings, description="Logging.")
    tracing: TracingSettings = Field(default_factory=TracingSettings, description="Traces for OpenTelemetry.")

    @property
    def default_arm(self) -> str:
        """Name of the deployment that answers when the router is not sure.

        ``routing.default_arm`` (which `load_settings` fills in from the artifact's reference arm where it can), else
        the routable deployment of the highest tier (the first of several; no tier counts as the lowest), else the first
        deployment; empty when there is none.
        """
        if self.routing.default_arm is not None:
            return self.routing.default_arm
        routable = [d for d in self.deployments if d.routable] or list(self.deployments)
        if not routable:
            return ""
        return max(routable, key=lambda d: TIERS.index(d.tier) if d.tier else -1).name

    @property
    def asks_for_keys(self) -> bool:
        """Whether every request has to present a key; an empty store does not open the gateway."""
        return bool(self.client_keys) or self.accounts.is_on

    @property
    def baseline(self) -> str:
        """Name of the deployment that savings are measured against: ``routing.baseline``, else the default arm."""
        return self.routing.baseline or self.default_arm
