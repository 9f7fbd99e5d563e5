"""``penstock-train publish``, ``keygen`` and ``artifact``: what a person or a CI job sees, from file to pointer."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from penstock_routers.manifest import Manifest, SourceEntry
from penstock_routers.signatures import SIGNATURE_FILE
from penstock_training.cli import main
from penstock_training.errors import TrainingError
from penstock_training.prompt_vectors import check_prompt_content
from penstock_training.publishing.publication import check_holdout
from penstock_training.publishing.registry import Registry
from support.artifact_variants import bundled_manifest, damage, write_variant
from support.outcome_samples import outcome_row, write_json_lines

ARMS = {"small": 0.0001, "medium": 0.0004, "large": 0.001, "frontier": 0.004}
PROMPTS = [
    f"A {thing} travels {n} km in {n % 7 + 2} hours. What is its average speed?"
    for n in range(40, 260)
    for thing in ("train", "car", "ship")
]


def run(*arguments: str | Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def answer(*arguments: str | Path) -> dict:
    """Run the command with ``--json`` and return the object it prints."""
    result = run(*arguments, "--json")
    return json.loads(result.output)


def holdout(path: Path, score: Callable[[str, int], float], prompts: list[str] = PROMPTS) -> Path:
    """A hold-out on which each arm scores as `score` says."""
    rows = [
        outcome_row(prompt, arm, score=score(arm, index), cost_usd=cost, category=..., task=..., propensity=...)
        for index, prompt in enumerate(prompts)
        for arm, cost in ARMS.items()
    ]
    return write_json_lines(path, rows)


@pytest.fixture
def published(tmp_path: Path) -> str:
    """Id of an artifact in force in ``registry``: it takes a dear arm for most prompts."""
    artifact_id = write_variant(tmp_path / "running", cost_weight=0.0)
    result = run("publish", tmp_path / "running", "--registry", tmp_path / "registry")
    assert result.exit_code == 0, result.output
    return artifact_id


@pytest.fixture
def cheap(tmp_path: Path) -> Path:
    """An artifact that takes cheap arms for most prompts."""
    write_variant(tmp_path / "cheap", cost_weight=20.0)
    return tmp_path / "cheap"


def test_publish_the_first_artifact_needs_no_holdout(tmp_path: Path, published: str) -> None:
    """Where nothing is in force there is nothing to lose."""
    listed = answer("artifact", "list", tmp_path / "registry")
    assert listed["current"] == published
    assert [entry["verdict"] for entry in listed["history"]] == ["first"]


def test_publish_a_second_artifact_without_holdout_is_refused(tmp_path: Path, published: str, cheap: Path) -> None:
    """What is in force gives way to a comparison or to a written reason."""
    registry = tmp_path / "registry"
    assert answer("publish", cheap, "--registry", registry)["error"]["code"] == "holdout_needed"
    forced = answer("publish", cheap, "--registry", registry, "--force-reason", "the large arm is switched off")
    assert (forced["verdict"], forced["previous"]) == ("forced", published)
    assert answer("artifact", "list", registry)["history"][-1]["reason"] == "the large arm is switched off"


def test_publish_a_cheaper_artifact_of_equal_quality_promotes(tmp_path: Path, published: str, cheap: Path) -> None:
    """Where every arm answers well, the artifact that takes cheap ones goes into force."""
    file = holdout(tmp_path / "holdout.jsonl", lambda arm, _: 1.0)
    result = run("publish", cheap, "--registry", tmp_path / "registry", "--holdout", file)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("promote: ")
    assert "; try 1, error rate 0.018." in " ".join(result.output.split())
    current = Registry(tmp_path / "registry").current()
    assert current is not None
    assert (current.verdict, current.previous) == ("promote", published)


def test_publish_a_cheaper_artifact_of_lower_quality_keeps_the_running_one(
    tmp_path: Path, published: str, cheap: Path
) -> None:
    """Where the cheap arms fail, the running artifact stays, with status 3 and a line of history."""
    file = holdout(tmp_path / "holdout.jsonl", lambda arm, _: float(arm in ("large", "frontier")))
    registry = tmp_path / "registry"
    result = run("publish", cheap, "--registry", registry, "--holdout", file)
    assert result.exit_code == 3, result.output
    listed = answer("artifact", "list", registry)
    assert listed["current"] == published
    assert listed["history"][-1]["event"] in ("keep", "not_enough_data")


def test_publish_with_a_renamed_holdout_goes_on_with_its_account(tmp_path: Path, published: str) -> None:
    """Copying, renaming or reordering the file opens no new account, and one candidate is asked about once."""

    def undecided(arm: str, index: int) -> float:
        """As often right on one arm as on another, and not on the same prompts."""
        return float(index % 2 if arm == "frontier" else index // 2 % 2)

    registry, first = tmp_path / "registry", holdout(tmp_path / "a.jsonl", undecided)
    second = holdout(tmp_path / "b.jsonl", undecided, PROMPTS[::-1])
    found = []
    for number, file in ((1, first), (2, second), (2, first)):
        write_variant(tmp_path / f"try{number}", cost_weight=20.0 + number)
        found.append(answer("publish", tmp_path / f"try{number}", "--registry", registry, "--holdout", file))
    assert [entry["gate"]["try"] for entry in found] == [1, 2, 0]
    assert found[1]["gate"]["error_rate"] < found[0]["gate"]["error_rate"]


def test_publish_shows_intervals_of_the_open_part_at_every_try(tmp_path: Path, published: str, cheap: Path) -> None:
    """About a fifth of the questions is shown with intervals; the verdict stands beside it."""
    file = holdout(tmp_path / "holdout.jsonl", lambda arm, _: float(arm == "frontier"))
    seen = answer("publish", cheap, "--registry", tmp_path / "registry", "--holdout", file)["gate"]
    assert seen["open_prompts"] + seen["prompts"] == len(PROMPTS)
    assert 0.1 * len(PROMPTS) < seen["open_prompts"] < 0.35 * len(PROMPTS)
    value, low, high = seen["open_part"]["balanced"]["quality"]
    assert low <= value <= high < 0.0


def test_publish_against_nothing_compares_with_the_default_arm(tmp_path: Path, cheap: Path) -> None:
    """A first artifact with a hold-out has to beat what a gateway without any does."""
    lost = holdout(tmp_path / "lost.jsonl", lambda arm, _: float(arm == "frontier"))
    assert answer("publish", cheap, "--registry", tmp_path / "r", "--holdout", lost)["published"] is False
    won = holdout(tmp_path / "won.jsonl", lambda arm, _: 1.0, [prompt + " Be brief." for prompt in PROMPTS])
    assert answer("publish", cheap, "--registry", tmp_path / "r", "--holdout", won)["published"] is True


def test_publish_with_a_shared_question_in_the_training_file_is_refused(
    tmp_path: Path, published: str, cheap: Path
) -> None:
    """A question in another dress is recognised as the same."""
    file = holdout(tmp_path / "holdout.jsonl", lambda arm, _: 1.0)
    trained = holdout(tmp_path / "train.jsonl", lambda arm, _: 1.0, [f"Question: {PROMPTS[3]}\nAnswer:"])
    options = ("--registry", tmp_path / "registry", "--holdout", file, "--trained-on", trained)
    error = answer("publish", cheap, *options)["error"]
    assert error["code"] == "holdout_overlaps_training"
    assert error["message"].startswith("1 of 660 prompts")


def test_publish_of_a_damaged_artifact_is_refused_in_one_line(tmp_path: Path, cheap: Path) -> None:
    """What serving would refuse does not reach the registry."""
    damage(cheap)
    result = run("publish", cheap, "--registry", tmp_path / "registry")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "[artifact_corrupt]" in result.output
    assert not (tmp_path / "registry").exists()


def test_publish_of_what_is_in_force_is_refused(tmp_path: Path, published: str) -> None:
    """Publishing the same again is a mistake."""
    error = answer("publish", tmp_path / "running", "--registry", tmp_path / "registry")["error"]
    assert error["code"] == "already_in_force"


@pytest.mark.parametrize(
    "options",
    [
        ("--force-reason", "x", "--holdout", "f.jsonl"),
        ("--force-reason", "  "),
        ("--margin", "0"),
    ],
)
def test_publish_with_contradicting_options_is_a_usage_error(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Options that exclude each other are refused before anything is read."""
    assert run("publish", tmp_path, "--registry", tmp_path / "r", *options).exit_code == 2


def _captured(manifest: Manifest) -> Manifest:
    sources = (SourceEntry("gateway", "captured", 900, 900),)
    return msgspec.structs.replace(
        manifest,
        hyperparameters={"support_points": 900.0},
        training=msgspec.structs.replace(manifest.training, sources=sources),
    )


def test_prompt_vectors_of_captured_traffic_are_refused_unless_allowed() -> None:
    """Vectors of prompts are content: published only on request, and those of public prompts always."""
    manifest = _captured(bundled_manifest())
    with pytest.raises(TrainingError) as caught:
        check_prompt_content(manifest, is_allowed=False)
    assert caught.value.code == "prompt_vectors_refused"
    check_prompt_content(manifest, is_allowed=True)
    check_prompt_content(msgspec.structs.replace(manifest, hyperparameters={}), is_allowed=False)
    public = msgspec.structs.replace(manifest, training=bundled_manifest().training)
    check_prompt_content(public, is_allowed=False)


def test_publish_of_captured_prompt_vectors_needs_the_flag(tmp_path: Path) -> None:
    """The command refuses, names the flag, and obeys it."""
    manifest = _captured(bundled_manifest())
    write_variant(tmp_path / "a", hyperparameters=manifest.hyperparameters, training=manifest.training)
    refused = answer("publish", tmp_path / "a", "--registry", tmp_path / "r")
    assert refused["error"]["code"] == "prompt_vectors_refused"
    assert "--allow-prompt-vectors" in refused["error"]["message"]
    assert answer("publish", tmp_path / "a", "--registry", tmp_path / "r", "--allow-prompt-vectors")["published"]


def test_holdout_that_was_fitted_on_is_refused_by_its_digest(tmp_path: Path) -> None:
    """The very outcomes that an artifact was fitted on are recognised without a training file."""
    from penstock_training.outcomes import load_outcomes

    matrix = load_outcomes([holdout(tmp_path / "h.jsonl", lambda arm, _: 1.0)]).matrix()
    manifest = bundled_manifest()
    training = msgspec.structs.replace(manifest.training, digest=matrix.digest)
    with pytest.raises(TrainingError) as caught:
        check_holdout(msgspec.structs.replace(manifest, training=training), matrix, None)
    assert caught.value.code == "holdout_is_training_data"
    check_holdout(manifest, matrix, None)


def test_signed_publication_is_verified_with_the_public_key_only(tmp_path: Path, cheap: Path) -> None:
    """Key, signature and check belong together; another key is refused."""
    pytest.importorskip("cryptography")
    made = answer("keygen", tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert answer("keygen", tmp_path / "key.pem")["error"]["code"] == "key_exists"
    registry = tmp_path / "registry"
    assert answer("publish", cheap, "--registry", registry, "--sign-key", tmp_path / "key.pem")["signed"] is True
    assert answer("artifact", "show", registry)["signed_by"] == made["key_id"]
    assert answer("artifact", "verify", registry, "--public-key", made["public_key"])["signed_by"] == made["key_id"]
    other = answer("keygen", tmp_path / "other.pem")["public_key"]
    wrong = answer("artifact", "verify", registry, "--public-key", other)
    assert wrong["error"]["code"] == "signature_wrong"
    assert answer("artifact", "verify", cheap, "--public-key", other)["error"]["code"] == "signature_missing"


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_signing_with_something_else_than_a_key_is_refused(tmp_path: Path, cheap: Path, content: str) -> None:
    """A file that holds no key stops the publication before the pointer moves."""
    pytest.importorskip("cryptography")
    (tmp_path / "key").write_text(content)
    refused = answer("publish", cheap, "--registry", tmp_path / "r", "--sign-key", tmp_path / "key")
    assert refused["error"]["code"] == "key_unusable"
    assert Registry(tmp_path / "r").current() is None


def test_artifact_verify_with_another_digest_is_refused(cheap: Path, published: str) -> None:
    """A pinned digest is compared with what the content gives."""
    assert answer("artifact", "verify", cheap, "--digest", published)["error"]["code"] == "artifact_other_digest"
    own = answer("artifact", "show", cheap)["id"]
    assert answer("artifact", "verify", cheap, "--digest", own)["digest_matches"] is True


def test_artifact_diff_names_arms_settings_and_whether_intervals_touch(tmp_path: Path, cheap: Path) -> None:
    """A difference of λ and guard is listed, and equal measurements overlap."""
    manifest = bundled_manifest()
    write_variant(tmp_path / "b", guard=msgspec.structs.replace(manifest.guard, z=3.0))
    found = answer("artifact", "diff", cheap, tmp_path / "b")
    assert found["arms_added"] == found["arms_removed"] == []
    assert found["guard"] == {"z": [manifest.guard.z, 3.0]}
    assert found["operating_points"]["balanced"]["cost_weight"][0] == 20.0
    assert found["operating_points"]["balanced"]["quality"]["overlap"] is True
    text = run("artifact", "diff", cheap, tmp_path / "b").output
    assert "guard             z 2 → 3" in text


def test_artifact_diff_of_disjoint_intervals_says_apart(tmp_path: Path) -> None:
    """Intervals that do not touch are told from those that do."""
    manifest = bundled_manifest()
    write_variant(tmp_path / "a", metrics=manifest.metrics | {"m": [0.5, 0.4, 0.6], "n": [0.5, 0.4, 0.6]})
    write_variant(tmp_path / "b", metrics=manifest.metrics | {"m": [0.7, 0.65, 0.8], "n": [0.6, 0.55, 0.7]})
    metrics = answer("artifact", "diff", tmp_path / "a", tmp_path / "b")["metrics"]
    assert {name: values["overlap"] for name, values in metrics.items()} == {"m": False, "n": True}


def test_artifact_show_has_arms_points_sources_and_versions(cheap: Path) -> None:
    """A person sees what an artifact is made of, within 80 columns."""
    text = run("artifact", "show", cheap).output
    for word in ("frontier", "balanced", "Apache-2.0", "standard errors", "scikit-learn", "none of single prompts"):
        assert word in text, word
    assert max(map(len, text.splitlines())) <= 80
    assert "golden" not in answer("artifact", "show", cheap)


def test_artifact_rollback_by_command_moves_the_pointer(tmp_path: Path, published: str, cheap: Path) -> None:
    """One command brings the earlier artifact back."""
    registry = tmp_path / "registry"
    assert run("publish", cheap, "--registry", registry, "--force-reason", "try").exit_code == 0
    assert answer("artifact", "rollback", registry)["current"] == published
    text = run("artifact", "list", registry).output
    assert "rollback" in text
    assert text.splitlines()[0] == f"in force   {published}"


@pytest.mark.parametrize("command", ["list", "rollback"])
def test_artifact_command_on_something_else_than_a_registry_says_so(tmp_path: Path, command: str) -> None:
    """A folder that is no registry is not turned into one."""
    assert answer("artifact", command, tmp_path)["error"]["code"] == "registry_missing"
    assert list(tmp_path.iterdir()) == []


def test_signature_of_an_artifact_is_kept_when_it_is_published(tmp_path: Path, cheap: Path) -> None:
    """A folder that was signed elsewhere keeps its signature in the registry."""
    (cheap / SIGNATURE_FILE).write_bytes(b"{}")
    assert run("publish", cheap, "--registry", tmp_path / "r").exit_code == 0
    folder = Registry(tmp_path / "r").current_folder()
    assert folder is not None
    assert (folder / SIGNATURE_FILE).read_bytes() == b"{}"
