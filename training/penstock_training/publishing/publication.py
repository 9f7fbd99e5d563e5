"""One publication from start to end: open, check, ask the gate, sign, put in force.

Owns the order of the steps and the rules about what may be published at all. Read `publish_artifact`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock_routers.artifact import RouterArtifact
from penstock_routers.manifest import Manifest
from penstock_routers.registry_layout import Pointer
from penstock_training.errors import TrainingError
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.predict import open_router
from penstock_training.prompt_vectors import check_prompt_content
from penstock_training.publishing.gate import GateAnswer, GateSettings, consult
from penstock_training.publishing.ledger import HoldoutLedger, holdout_digest
from penstock_training.publishing.paired import pair_policies
from penstock_training.publishing.registry import HOLDOUTS_FOLDER, Registry, login_name, utc_now
from penstock_training.publishing.signing import sign_artifact
from penstock_training.splits import normalise_question


@dataclass(frozen=True, slots=True)
class PublishOrder:
    """What is to be published, and under which conditions.

    Attributes
    ----------
    artifact : Path
        Artifact folder.
    holdout : OutcomeMatrix or None
        For the gate.
    trained_on : OutcomeMatrix or None
        What the candidate was fitted on, to check that the hold-out shares no question with it.
    force_reason : str or None
        Publish without asking the gate, and write this down.
    sign_key : Path or None
    may_hold_prompt_vectors : bool
        Allow vectors of single captured prompts in the artifact.
    default_arm : str or None
    encoder : Path or None
    gate : GateSettings
    """

    artifact: Path
    holdout: OutcomeMatrix | None = None
    trained_on: OutcomeMatrix | None = None
    force_reason: str | None = None
    sign_key: Path | None = None
    may_hold_prompt_vectors: bool = False
    default_arm: str | None = None
    encoder: Path | None = None
    gate: GateSettings = field(default_factory=GateSettings)


@dataclass(frozen=True, slots=True)
class Publication:
    """What came of it.

    Attributes
    ----------
    id : str
        Of the candidate.
    verdict : str
        ``promote``, ``keep``, ``not_enough_data``, ``first`` or ``forced``.
    reason : str
    pointer : Pointer or None
        None when the running artifact was kept.
    answer : GateAnswer or None
        None when the gate was not asked.
    running : str or None
        Id of the artifact that was in force before.
    is_signed : bool
    """

    id: str
    verdict: str
    reason: str
    pointer: Pointer | None
    answer: GateAnswer | None
    running: str | None
    is_signed: bool

    @property
    def is_published(self) -> bool:
        """Whether the candidate is in force now."""
        return self.pointer is not None

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return {
            "id": self.id,
            "published": self.is_published,
            "verdict": self.verdict,
            "reason": self.reason,
            "previous": self.running,
            "signed": self.is_signed,
            "gate": None if self.answer is None else self.answer.to_json(),
        }


def publish_artifact(
    order: PublishOrder, registry: Registry, *, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Publication:
    """Publish an artifact if it may be.

    Parameters
    ----------
    order : PublishOrder
    registry : Registry
    progress : callable, optional

    Returns
    -------
    Publication

    Raises
    ------
    RouterError
        The artifact, its encoder or the running artifact is refused.
    TrainingError
        ``prompt_vectors_refused``, ``holdout_needed``, ``holdout_is_training_data``, ``holdout_overlaps_training``,
        ``already_in_force``, and those of the registry, the key and the hold-out.
    """
    candidate = RouterArtifact.load(order.artifact, encoder_id=None)
    check_prompt_content(candidate.manifest, is_allowed=order.may_hold_prompt_vectors)
    if order.holdout is not None:
        check_holdout(candidate.manifest, order.holdout, order.trained_on)
    with registry.locked():
        before = registry.current()
        running = None if before is None else before.id
        if running == candidate.id and order.sign_key is None:
            raise TrainingError(f"{candidate.id[:19]} is in force already", code="already_in_force")
        # A key that cannot be used is found before a try of the hold-out is spent.
        signature = None if order.sign_key is None else sign_artifact(order.sign_key, candidate.id)
        verdict, reason, answer = _judge(order, registry, candidate.id, running, progress)
        if verdict in ("keep", "not_enough_data"):
            registry.note("keep" if verdict == "keep" else "not_enough_data", candidate.id, reason=reason)
            return Publication(candidate.id, verdict, reason, None, answer, running, is_signed=False)
        pointer = registry.publish(order.artifact, verdict=verdict, reason=reason, signature=signature)
        return Publication(candidate.id, verdict, reason, pointer, answer, running, signature is not None)


def check_holdout(manifest: Manifest, holdout: OutcomeMatrix, trained_on: OutcomeMatrix | None) -> None:
    """Refuse a hold-out that the candidate was fitted on.

    Parameters
    ----------
    manifest : Manifest
    holdout : OutcomeMatrix
    trained_on : OutcomeMatrix or None
        An artifact holds no prompts and no hashes of them (whoever guesses a prompt could test the guess), so shared
        questions are found only when the training outcomes are given too.

    Raises
    ------
    TrainingError
        ``holdout_is_training_data``, ``holdout_overlaps_training``.
    """
    if holdout.digest == manifest.training.digest:
        message = "the hold-out is what the artifact was fitted on; nothing can be learned from it"
        raise TrainingError(message, code="holdout_is_training_data")
    if trained_on is None:
        return
    known = {normalise_question(prompt) for prompt in trained_on.prompts}
    shared = sum(1 for prompt in holdout.prompts if normalise_question(prompt) in known)
    if shared:
        message = f"{shared:,} of {len(holdout.prompts):,} prompts of the hold-out ask what the artifact was fitted on"
        raise TrainingError(f"{message}; take them out of one of the two", code="holdout_overlaps_training")


def _judge(
    order: PublishOrder,
    registry: Registry,
    candidate_id: str,
    running: str | None,
    progress: Callable[[str, int, int], None],
) -> tuple[str, str, GateAnswer | None]:
    """Verdict, reason, and the gate's answer when it was asked."""
    if order.force_reason is not None:
        return "forced", order.force_reason, None
    if running == candidate_id:
        return "promote", "in force already; signed anew", None
    if order.holdout is None:
        if running is None:
            return "first", "nothing was in force, and there was no hold-out to compare with the default arm on", None
        message = (
            f"{running[:19]} is in force: give --holdout FILE so that the two can be compared, or --force-reason TEXT"
        )
        raise TrainingError(message, code="holdout_needed")
    answer = _ask_gate(order, order.holdout, registry, running, progress)
    return answer.verdict, answer.reason, answer


def _ask_gate(
    order: PublishOrder,
    holdout: OutcomeMatrix,
    registry: Registry,
    running: str | None,
    progress: Callable[[str, int, int], None],
) -> GateAnswer:
    candidate = open_router(order.artifact, order.encoder)
    folder = None if running is None else registry.artifact_folder(running)
    pairs = pair_policies(
        candidate,
        None if folder is None else open_router(folder, _encoder_of(folder, candidate[0].manifest, order.encoder)),
        holdout,
        default_arm=order.default_arm,
        progress=progress,
    )
    ledger = HoldoutLedger(registry.folder / HOLDOUTS_FOLDER, holdout_digest(holdout.prompts))
    settings = order.gate
    question = f"{candidate[0].id} {running or 'none'} {settings.point} {settings.margin:g} {order.default_arm or '-'}"
    at, by = utc_now(), login_name()
    return consult(pairs, ledger, settings, question, at=at, by=by)


def _encoder_of(folder: Path, candidate: Manifest, given: Path | None) -> Path | None:
    """Take the encoder that was named for both when both use one, else the bundled one of the running artifact."""
    running = RouterArtifact.load(folder, encoder_id=None).manifest
    return given if running.encoder.id == candidate.encoder.id else None
