"""Builds the parts of one gateway from its settings, once, at start.

Everything here lives as long as the process. Read `build_pipeline`. A refused artifact or encoder is a finding
(`RoutingFinding`), not a failure: the gateway then serves its default arm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock_gateway.artifact_source import (
    ArtifactSource,
    FolderSource,
    FusingSource,
    Trust,
    is_artifact_url,
    open_trusted,
)
from penstock_gateway.artifact_watch import ArtifactWatch
from penstock_gateway.calling import AttemptDesk
from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.configuration_problems import ConfigurationError, Problem
from penstock_gateway.conversations import WarmConversations
from penstock_gateway.decisions import RecentDecisions
from penstock_gateway.deployments import Deployment
from penstock_gateway.events.log import EventLog
from penstock_gateway.events.opening import open_event_log
from penstock_gateway.identifiers import DecisionIds
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.money.prices import Price
from penstock_gateway.pipeline import Pipeline
from penstock_gateway.remote_encoder.opening import remote_encoder
from penstock_gateway.remote_encoder.service import RemoteEncoderService
from penstock_gateway.request_policy import PolicyBook, rules_of
from penstock_gateway.settings import Settings, build_deployments
from penstock_gateway.settings_deployments import arm_of, artifact_folder, model_folder, with_default_arm
from penstock_gateway.settings_models import RoutingSettings
from penstock_gateway.settings_policy_checks import unknown_floors
from penstock_gateway.spending import SpendDesk
from penstock_gateway.spending_start import rules_of as rules_of_spending
from penstock_gateway.upstream.protocol import Upstream
from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import EncoderService
from penstock_routers.errors import ArtifactError, RouterError
from penstock_routers.fused import fused_with

_log = logging.getLogger("penstock.router")


@dataclass(frozen=True, slots=True)
class RoutingFinding:
    """Why routing is off although it was asked for.

    Attributes
    ----------
    code : str
    message : str
    """

    code: str
    message: str


def load_routing(
    settings: RoutingSettings, remote: RemoteEncoderService | None = None
) -> tuple[RoutingParts | None, RoutingFinding | None]:
    """Load the encoder and the artifact that the settings name.

    Parameters
    ----------
    settings : RoutingSettings
    remote : RemoteEncoderService, optional
        The encoder in another process, in place of one here.

    Returns
    -------
    parts : RoutingParts or None
        None for a URL: a server fetches it when it runs (`build_watch`).
    finding : RoutingFinding or None
        Set when an artifact was asked for and something was refused.
    """
    try:
        if is_artifact_url(settings.artifact):
            return None, None
        folder = artifact_folder(settings)
        if folder is None:
            return None, None
        if remote is not None:
            return RoutingParts(open_trusted(folder, remote.encoder_id, Trust.from_settings(settings)), remote), None
        encoder = PromptEncoder.load(model_folder(settings.encoder), device=settings.device)
        artifact = fused_with(open_trusted(folder, encoder.encoder_id, Trust.from_settings(settings)), encoder)
    except RouterError as error:
        return None, RoutingFinding(error.code, error.message)
    return RoutingParts(artifact, EncoderService(encoder)), None


def build_pipeline(
    settings: Settings, *, upstreams: Mapping[str, Upstream] | None = None
) -> tuple[Pipeline, RoutingFinding | None]:
    """Build the pipeline of one gateway.

    Parameters
    ----------
    settings : Settings
    upstreams : mapping of str to Upstream, optional
        By adapter name; tests pass their own, otherwise the ones that the deployments need are made.

    Returns
    -------
    pipeline : Pipeline
    finding : RoutingFinding or None
    """
    settings, metrics = with_default_arm(settings), GatewayMetrics()
    try:
        parts, finding = load_routing(settings.routing, remote_encoder(settings, metrics))
    except RouterError as error:
        parts, finding = None, RoutingFinding(error.code, error.message)
    # of the artifact that was loaded: a registry may move on at any time
    deployments = build_deployments(settings, artifact_arms=None if parts is None else parts.artifact.manifest.arms)
    default_arm = next(deployment.arm for deployment in deployments if deployment.name == settings.default_arm)
    if parts is not None and default_arm not in parts.artifact.manifest.arms:
        finding = _unscored_default(settings.default_arm, parts.artifact.manifest.arms)
        parts = None
    ids = DecisionIds()
    chooser = _chooser(settings, deployments, parts, metrics, ids)
    if parts is not None:
        metrics.router.note_artifact(parts.artifact.manifest)
    if upstreams is None:
        upstreams = {adapter: _UPSTREAMS[adapter]() for adapter in {d.adapter for d in deployments}}

    def settled_until() -> float:
        return pipeline.spending.settled_until()

    def price_of(name: str) -> Price | None:
        found = pipeline.deployments.get(name)
        return None if found is None else found.price

    pipeline = Pipeline(
        settings,
        deployments,
        chooser,
        AttemptDesk(
            {deployment.name: deployment for deployment in deployments},
            upstreams,
            settings.attempts,
            metrics=metrics.attempts,
        ),
        _uncounted(settings),
        RecentDecisions(settings.decisions.keep),
        metrics,
        PolicyBook(settings),
        _conversations(settings.routing, deployments),
        _events(settings, metrics, settled_until),
        ids,
    )
    metrics.router.price_of = price_of
    return pipeline, finding


def _chooser(
    settings: Settings,
    deployments: Sequence[Deployment],
    parts: RoutingParts | None,
    metrics: GatewayMetrics,
    ids: DecisionIds,
) -> ArmChooser:
    return ArmChooser(
        deployments,
        default_arm=settings.default_arm,
        baseline=settings.baseline,
        tradeoff=settings.routing.tradeoff,
        parts=parts,
        on_failure=metrics.router_failures.inc,
        rules=rules_of(settings),
        ids=ids,
    )


def reconfigure(settings: Settings, pipeline: Pipeline) -> Callable[[], None]:
    """Build what another configuration needs beside a pipeline that serves; blocks, and changes nothing.

    Parameters
    ----------
    settings : Settings
    pipeline : Pipeline
        Its router, cache, ledger, event log and connections stay.

    Returns
    -------
    callable
        Puts the new configuration in force, in one step of the event loop.

    Raises
    ------
    ConfigurationError
        A deployment cannot be built, or the artifact in force has no estimates for the new default arm.
    """
    settings = with_default_arm(settings)
    parts = pipeline.chooser.parts
    arms = None if parts is None else parts.artifact.manifest.arms
    deployments = build_deployments(settings, artifact_arms=arms)
    default_arm = next(deployment.arm for deployment in deployments if deployment.name == settings.default_arm)
    if arms is not None and default_arm not in arms:
        refused = _unscored_default(settings.default_arm, arms)
        raise ConfigurationError([Problem("settings", "routing.default_arm", refused.message)])
    chooser = _chooser(settings, deployments, parts, pipeline.metrics, pipeline.decision_ids)
    missing = {d.adapter for d in deployments} - set(pipeline.upstreams)
    upstreams = {**pipeline.upstreams, **{adapter: _UPSTREAMS[adapter]() for adapter in missing}}

    def take_over() -> None:
        pipeline.attempts.adopt(deployments, upstreams, settings.attempts)
        pipeline.adopt(settings, deployments, chooser, PolicyBook(settings))
        pipeline.use_conversations(_conversations(settings.routing, deployments, pipeline.conversations))
        pipeline.keepers.keep = settings.routing.warm_conversations
        if pipeline.events is not None:
            pipeline.events.follow(settings.events)

    return take_over


def _uncounted(settings: Settings) -> SpendDesk:
    """Return a desk over a ledger that nobody settles: for decisions without a server, and until it has started one."""
    return SpendDesk(MemoryLedger(), lambda _: None, rules_of_spending(settings.ledger))


def _conversations(
    routing: RoutingSettings, deployments: Sequence[Deployment], running: WarmConversations | None = None
) -> WarmConversations | None:
    """Return the memory of warm conversations, the running one where there is one.

    None when no deployment reads its cache at a lower price.
    """
    has_discount = any(deployment.price.cached_input < deployment.price.input for deployment in deployments)
    if routing.warm_seconds == 0.0 or not has_discount:
        return None
    if running is not None:
        running.keep, running.seconds = routing.warm_conversations, routing.warm_seconds
        return running
    return WarmConversations(keep=routing.warm_conversations, seconds=routing.warm_seconds)


def _events(settings: Settings, metrics: GatewayMetrics, settled_until: Callable[[], float]) -> EventLog | None:
    events = open_event_log(
        settings,
        on_drop=lambda kind: metrics.events_dropped.labels(kind).inc(),
        on_problem=lambda problem: metrics.event_problems.labels(problem).inc(),
        settled_until=settled_until,
    )
    if events is not None:
        metrics.event_places.set_function(lambda: events.places)
    return events


def build_watch(settings: Settings, pipeline: Pipeline) -> tuple[ArtifactWatch | None, RoutingFinding | None]:
    """Build what follows the artifact's source and swaps the router of a pipeline.

    Parameters
    ----------
    settings : Settings
        As for `build_pipeline`.
    pipeline : Pipeline

    Returns
    -------
    watch : ArtifactWatch or None
        None for the bundled artifact, without one, and when the encoder or the artifact's name is refused.
    finding : RoutingFinding or None
        Why it was.
    """
    routing, settings = settings.routing, with_default_arm(settings)
    if routing.artifact in ("default", "none"):
        return None, None
    parts = pipeline.chooser.parts
    try:
        source: ArtifactSource = _source(routing)
        encoder: EncoderService | RemoteEncoderService
        if parts is not None:
            encoder, encoder_id = parts.encoder, parts.artifact.manifest.encoder.id
        elif (remote := remote_encoder(settings, pipeline.metrics)) is not None:
            encoder, encoder_id = remote, remote.encoder_id
        else:
            loaded = PromptEncoder.load(model_folder(routing.encoder), device=routing.device)
            encoder, encoder_id = EncoderService(loaded), loaded.encoder_id
    except RouterError as error:
        return None, RoutingFinding(error.code, error.message)
    if isinstance(encoder, EncoderService) and isinstance(encoder.encoder, PromptEncoder):
        source = FusingSource(source, encoder.encoder)

    def adopt(artifact: RouterArtifact) -> None:
        in_force = pipeline.settings
        arms = _arms_of(in_force, artifact)
        if arms[in_force.default_arm] not in artifact.manifest.arms:
            refused = _unscored_default(in_force.default_arm, artifact.manifest.arms)
            raise ArtifactError(refused.message, code=refused.code)
        chooser = pipeline.chooser.with_artifact(artifact, encoder, arms)
        pipeline.use_router(chooser, {name: replace(d, arm=arms[name]) for name, d in pipeline.deployments.items()})
        pipeline.metrics.router.note_artifact(artifact.manifest)
        warn_of_floors(in_force, artifact)

    watch = ArtifactWatch(
        source,
        encoder=encoder,
        encoder_id=encoder_id,
        adopt=adopt,
        in_force=lambda: pipeline.chooser.artifact_id,
        poll_seconds=routing.artifact_poll_seconds,
        on_refusal=lambda code: pipeline.metrics.artifact_refused.labels(code).inc(),
    )
    return watch, None


def warn_of_floors(settings: Settings, artifact: RouterArtifact) -> None:
    """Log the floors of categories that the artifact in force cannot recognise: they hold for every prompt."""
    if unknown := unknown_floors(settings, artifact.manifest.categories):
        _log.warning("floors_for_every_prompt", extra={"categories": unknown, "artifact": artifact.id})


async def fetch_artifact(routing: RoutingSettings, encoder_id: str) -> RouterArtifact:
    """Fetch and verify what a source offers, once.

    Raises
    ------
    RouterError
        It cannot be had, or is refused.
    """
    source = _source(routing)
    return await source.fetch(await source.look(), encoder_id)


def _source(routing: RoutingSettings) -> ArtifactSource:
    trust = Trust.from_settings(routing)
    if not is_artifact_url(routing.artifact):
        return FolderSource(model_folder(routing.artifact), trust)
    from penstock_gateway.artifact_download import UrlSource  # noqa: PLC0415 - aiohttp only when called for

    return UrlSource(routing.artifact, trust)


def _arms_of(settings: Settings, artifact: RouterArtifact) -> dict[str, str]:
    """Return each deployment's arm in an artifact, by the deployment's name."""
    return {entry.name: arm_of(entry, artifact.manifest.arms) for entry in settings.deployments}


def _unscored_default(name: str, arms: Sequence[str]) -> RoutingFinding:
    """Without an estimate for the default there is nothing to gain against, so nothing can be routed."""
    known = ", ".join(arms)
    return RoutingFinding(
        "default_arm_unscored",
        f"the artifact has no estimates for the default deployment {name!r}; set its tier or arm to one of: {known}",
    )


def _direct() -> Upstream:
    from penstock_gateway.upstream.direct import DirectUpstream  # noqa: PLC0415 - aiohttp only when called for

    return DirectUpstream()


def _litellm() -> Upstream:
    from penstock_gateway.upstream.litellm_adapter import LitellmUpstream  # noqa: PLC0415 - 2.9 s and 200 MB

    return LitellmUpstream()


_UPSTREAMS: Mapping[str, Callable[[], Upstream]] = {"direct": _direct, "litellm": _litellm}
