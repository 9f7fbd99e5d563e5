"""What the gateway serves by one run is what encoder and router say one after the other."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_gateway.demo.prompts import DEMO_PROMPTS
from penstock_routers import fused as fused_module
from penstock_routers import graph_join as graph_join_module
from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import EncoderService
from penstock_routers.errors import ArtifactError, RouterError
from penstock_routers.estimates import Estimate, Reading
from penstock_routers.features import prompt_features
from penstock_routers.fused import FusedGraph, fused_with
from penstock_routers.onnx_session import create_session
from penstock_routers.policy import Candidate, Choice, decide

_DATA = Path(os.environ.get("PENSTOCK_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
_SETS = sorted((_DATA / "routing").glob("*.parquet")) if (_DATA / "routing").is_dir() else []
ODD = (
    "",
    " \n",
    "\x00",
    "x",
    "Wie spät ist es? 🙂",
    "word " * 5000,
    "[CLS] [SEP]",
    "\ud800",
    "def f(x): return x[::-1]",
)
PER_SET = 400
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    """The shipped static encoder."""
    return PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))


@pytest.fixture(scope="module")
def artifact(encoder: PromptEncoder) -> RouterArtifact:
    """The shipped artifact with the joined graph."""
    loaded = RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    return fused_with(loaded, PromptEncoder.load(bundled_folder(DEFAULT_ENCODER)))  # one of its own: it is changed


def _by_two_runs(encoder: PromptEncoder, artifact: RouterArtifact, text: str, reference: str) -> Reading:
    vector = encoder.encode([text])[0]
    return vector, artifact.estimate(vector, prompt_features(text), reference_arm=reference)


def _choice(artifact: RouterArtifact, estimate: Estimate, setting: str) -> Choice:
    costs = 0.001 * np.arange(1, len(estimate.arms) + 1)
    candidates = [
        Candidate(arm, *numbers[:4], float(cost))
        for arm, numbers, cost in zip(estimate.arms, estimate.numbers(), costs, strict=True)
    ]
    return decide(
        candidates,
        default_arm=estimate.reference_arm,
        tradeoff=artifact.tradeoff(setting),
        cost_scale_usd=0.004,
        is_novel=artifact.is_novel(estimate),
    )


def _same_decisions(encoder: PromptEncoder, artifact: RouterArtifact, texts: list[str]) -> float:
    """Share of decisions at three trade-offs that are the same, ranking included."""
    assert artifact.fused is not None
    reference, same = artifact.manifest.reference_arm, []
    for text in texts:
        (_, found), (_, wanted) = (
            artifact.fused.read([text], reference)[0],
            _by_two_runs(encoder, artifact, text, reference),
        )
        for setting in ("cost", "balanced", "quality"):
            left, right = _choice(artifact, found, setting), _choice(artifact, wanted, setting)
            same.append((left.arm, left.reason, left.ranking) == (right.arm, right.reason, right.ranking))
    return float(np.mean(same))


def _assert_alike(found: Reading, wanted: Reading) -> None:
    np.testing.assert_allclose(found[0], wanted[0], atol=TOLERANCE)
    for name in ("quality", "quality_se", "gain", "gain_se", "category_probabilities"):
        np.testing.assert_allclose(getattr(found[1], name), getattr(wanted[1], name), atol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(found[1].output_tokens, wanted[1].output_tokens, rtol=1e-4)
    assert found[1].novelty == pytest.approx(wanted[1].novelty, abs=TOLERANCE)
    assert found[1].category == wanted[1].category


def test_fused_reading_is_that_of_two_runs(encoder: PromptEncoder, artifact: RouterArtifact) -> None:
    """Vector and every estimate agree within rounding, for texts without a token too, alone and in a batch."""
    assert artifact.fused is not None
    texts = [*ODD, *DEMO_PROMPTS]
    for reference in (artifact.manifest.arms[0], artifact.manifest.reference_arm):
        together = artifact.fused.read(texts, reference)
        for text, batched in zip(texts, together, strict=True):
            wanted = _by_two_runs(encoder, artifact, text, reference)
            _assert_alike(artifact.fused.read([text], reference)[0], wanted)
            _assert_alike(batched, wanted)
            assert batched[0].base is None or batched[0].base.size == batched[0].size  # not a view of the whole batch


def test_fused_encoder_gives_its_vectors_by_the_joined_graph(encoder: PromptEncoder) -> None:
    """What is only encoded has the vector that it had, and the encoder's own copy of the token table is let go."""
    other = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    own = weakref.ref(other._session._session)  # type: ignore[attr-defined]
    plain = RouterArtifact.load(bundled_folder("default-router"), encoder_id=other.encoder_id)
    fused = fused_with(plain, other)
    assert fused.fused is not None
    gc.collect()
    assert own() is None
    np.testing.assert_allclose(
        other.encode([*ODD, *DEMO_PROMPTS]), encoder.encode([*ODD, *DEMO_PROMPTS]), atol=TOLERANCE
    )
    assert fused_with(plain, other).fused is not None  # the next artifact is joined with the same encoder
    assert (other.device, other.fallback_reason) == ("cpu", None)


def test_fused_decisions_on_committed_prompts_are_those_of_two_runs(
    encoder: PromptEncoder, artifact: RouterArtifact
) -> None:
    """Every decision about the demo's prompts is the same, to the last place of the ranking."""
    assert _same_decisions(encoder, artifact, [*ODD, *DEMO_PROMPTS]) == 1.0


@pytest.mark.skipif(not _SETS, reason="the outcome sets are not there (set PENSTOCK_DATA)")
@pytest.mark.parametrize("path", _SETS, ids=lambda path: path.stem)
def test_fused_decisions_on_outcome_sets_are_those_of_two_runs(
    encoder: PromptEncoder, artifact: RouterArtifact, path: Path
) -> None:
    """At least 99.9 % of decisions on real prompts are the same; the rest would be ties within rounding."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["prompt"])
    prompts = list(dict.fromkeys(text for text in table["prompt"].to_pylist() if text))
    chosen = np.random.default_rng(0).permutation(len(prompts))[:PER_SET]
    share = _same_decisions(encoder, artifact, [prompts[row] for row in chosen])
    print(f"{path.stem}: {share:.4f} of {3 * len(chosen)} decisions are the same")
    assert share >= 0.999


class _FakeCuda:
    """A session that says it runs on CUDA, until the device is lost."""

    device, fallback_reason = "cuda", None

    def __init__(self, session: Any, *, can_capture: bool = False) -> None:
        self.can_capture = can_capture
        self.input_names, self.output_names = session.input_names, session.output_names
        self.is_lost = False
        self._session = session

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Answer, or fail as the runtime does."""
        if self.is_lost:
            raise ArtifactError("CUDA error 700", code="onnx_run_failed")
        return tuple(self._session.run(feeds))


def test_fused_graph_with_a_fault_of_the_device_answers_from_the_cpu(
    encoder: PromptEncoder, artifact: RouterArtifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU that breaks costs no prompt: the call that met the fault is computed on the CPU, and all later ones."""
    opened: list[Any] = []

    def open_session(graph: bytes, *, device: Any, **options: Any) -> Any:
        real = create_session(graph, device="cpu", **options)
        opened.append(_FakeCuda(real) if device == "cuda" else real)
        return opened[-1]

    monkeypatch.setattr(fused_module, "create_session", open_session)
    on_cuda = PromptEncoder(
        encoder.manifest, encoder._tokenizer._tokenizer, _FakeCuda(encoder._session), encoder.folder
    )
    plain = RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    fused = fused_with(plain, on_cuda).fused
    assert isinstance(fused, FusedGraph)
    assert (fused.device, len(opened)) == ("cuda", 1)
    texts = ("What is the capital of Peru?", "Why is the sky blue?")
    wanted = [_by_two_runs(encoder, artifact, text, artifact.manifest.reference_arm) for text in texts]
    opened[0].is_lost = True
    for text, expected in zip(texts, wanted, strict=True):  # single prompts take two runs there
        _assert_alike(fused.read([text], artifact.manifest.reference_arm)[0], expected)
    assert (fused.device, len(opened)) == ("cuda", 1)
    for _ in range(2):
        for found, expected in zip(fused.read(texts, artifact.manifest.reference_arm), wanted, strict=True):
            _assert_alike(found, expected)
    assert (fused.device, len(opened)) == ("cpu", 2)
    assert "CUDA error 700" in opened[1].fallback_reason


def test_readings_of_a_batch_own_their_numbers(artifact: RouterArtifact) -> None:
    """Whoever keeps one prompt's vector or estimate does not keep those of the whole batch alive."""
    assert artifact.fused is not None
    readings = artifact.fused.read([f"Question number {number}?" for number in range(16)], "small")
    for vector, estimate in readings:
        assert vector.base is None
        held = estimate.quality.base
        assert held is estimate.category_probabilities.base  # type: ignore[union-attr]
        assert held.nbytes < 16 * estimate.quality.nbytes


class _WithoutAMember:
    """A session in which a member of the ensemble gives no number, as one that divides by zero does."""

    device, fallback_reason = "cpu", None

    def __init__(self, session: Any) -> None:
        self._session = session
        self.input_names = session.input_names

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        rows, vector = self._session.run(feeds)
        assert rows.shape[1] > 30  # a row of four arms and nine categories, and the members' numbers
        rows[:, :4], rows[:, -1] = 0.123, np.nan
        return rows, vector


def test_fused_reading_of_a_failing_member_is_that_of_the_graph_with_its_guards(
    encoder: PromptEncoder, artifact: RouterArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The joined graph looks only once whether all members gave numbers; where one did not, the member is left out."""
    fused, reference = artifact.fused, artifact.manifest.reference_arm
    assert isinstance(fused, FusedGraph)
    monkeypatch.setattr(fused, "_session", _WithoutAMember(fused._session))
    for text in DEMO_PROMPTS[:3]:
        wanted = _by_two_runs(encoder, artifact, text, reference)
        _assert_alike(fused.read([text], reference)[0], wanted)
        _assert_alike(fused.read([text, "another"], reference)[0], wanted)


@pytest.mark.parametrize("can_capture", [True, False])
def test_fused_graph_reads_a_single_prompt_on_cuda_by_one_run_where_it_can_be_captured(
    encoder: PromptEncoder, artifact: RouterArtifact, monkeypatch: pytest.MonkeyPatch, can_capture: bool
) -> None:
    """Launched one by one the router's operators are faster on the CPU, in a captured graph they are not."""
    runs: list[int] = []

    class Counting(_FakeCuda):
        def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
            runs.append(len(feeds["features"]))
            return super().run(feeds)

    def open_session(graph: bytes, *, device: Any, **options: Any) -> Any:
        return Counting(create_session(graph, device="cpu", **options), can_capture=can_capture)

    monkeypatch.setattr(fused_module, "create_session", open_session)
    on_cuda = PromptEncoder(
        encoder.manifest, encoder._tokenizer._tokenizer, _FakeCuda(encoder._session), encoder.folder
    )
    plain = RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    fused = fused_with(plain, on_cuda).fused
    assert isinstance(fused, FusedGraph)
    runs.clear()
    reference = artifact.manifest.reference_arm
    found = fused.read(["Why is the sky blue?"], reference)[0]
    _assert_alike(found, _by_two_runs(encoder, artifact, "Why is the sky blue?", reference))
    assert runs == ([1] if can_capture else [])


def test_fused_with_a_joint_that_says_something_else_serves_by_two_runs(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The joined graph is compared with the two before it serves; a difference is told, and two runs serve."""
    plain = RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    monkeypatch.setattr(graph_join_module, "_SMALLEST_LENGTH", 1e6)
    assert fused_with(plain, encoder) is plain
    assert [record.message for record in caplog.records] == ["graphs_not_fused"]
    assert "differs" in caplog.records[0].problem  # type: ignore[attr-defined]


def test_fused_graph_of_an_arm_that_the_artifact_lacks_is_refused(artifact: RouterArtifact) -> None:
    """As for the artifact itself: gains against nothing are no estimates."""
    assert artifact.fused is not None
    with pytest.raises(RouterError) as caught:
        artifact.fused.read(["What is the capital of Peru?"], "nobody")
    assert caught.value.code == "artifact_unknown_arm"


def test_fused_with_a_transformer_on_the_cpu_is_not_worth_it(artifact: RouterArtifact) -> None:
    """A transformer's run dwarfs what a joined graph saves; on the CPU its vectors stay as they are."""
    transformer = PromptEncoder.load(bundled_folder(PARAPHRASE_ENCODER), device="cpu")
    plain = RouterArtifact.load(bundled_folder("default-router"), encoder_id=None)
    assert fused_with(plain, transformer) is plain


def test_fused_with_an_encoder_that_the_artifact_was_not_fitted_with_serves_by_two_runs(
    encoder: PromptEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """Another encoder's graph is never joined, even where the widths would fit; the log says so."""
    plain = RouterArtifact.load(bundled_folder("default-router"), encoder_id=None)
    stranger = PromptEncoder(encoder.manifest, encoder._tokenizer._tokenizer, encoder._session, encoder.folder)
    stranger.encoder_id = "static-minilm-256@000000000000"
    assert fused_with(plain, stranger) is plain
    assert [record.message for record in caplog.records] == ["graphs_not_fused"]


async def test_service_reads_by_the_joined_graph_and_encodes_in_the_same_queue(
    encoder: PromptEncoder, artifact: RouterArtifact
) -> None:
    """A service answers both kinds; a closed one refuses both."""
    assert artifact.fused is not None
    service = EncoderService(encoder)
    reading = await service.read("Why is the sky blue?", artifact.fused, artifact.manifest.reference_arm)
    np.testing.assert_allclose(reading[0], await service.encode("Why is the sky blue?"), atol=TOLERANCE)
    await service.aclose()
    with pytest.raises(RouterError, match="shutting down"):
        await service.read("Why is the sky blue?", artifact.fused, artifact.manifest.reference_arm)
