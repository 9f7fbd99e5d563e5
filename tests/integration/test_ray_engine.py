"""Training on a real Ray cluster of two workers: the same router, whatever dies, and nothing half-written.

Ray takes a few seconds to start and is large, so these tests belong to `make test-all`, which installs it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock_training.engines.ray_engine import RayEngine, connected
from penstock_training.errors import TrainingError
from support import ray_parts
from support.generated_training import generated
from support.outcome_samples import outcome_row
from support.ray_cluster import RayCluster, local_ray

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
TRAIN = [sys.executable, "-c", "from penstock_training.cli import main; main()"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of two workers for this module."""
    with tempfile.TemporaryDirectory(prefix="pr") as folder, local_ray(Path(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def engine(cluster: RayCluster) -> Iterator[RayEngine]:
    """This process, connected to the cluster as from another machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.setenv(name, cluster.environment[name])
        with connected(cluster.client_address) as engine:
            yield engine


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same outcomes of 900 prompts on four arms, some cells missing, as one file and as a folder of parts."""
    folder = tmp_path_factory.mktemp("sets")
    table = pa.Table.from_pylist(_outcomes())
    pq.write_table(table, folder / "sample.parquet")
    (folder / "parts").mkdir()
    for number in range(3):
        own = table.slice(number * 1100, 1100)
        pq.write_table(own, folder / "parts" / f"{number}.parquet", row_group_size=500)
    return {"file": str(folder / "sample.parquet"), "parts": str(folder / "parts")}


def _outcomes() -> list[dict[str, object]]:
    sample = generated(900, arms=4, shape="cluster", missing=0.1, seed=2)
    subjects = ("tides", "contracts", "zinc", "fugues", "verbs", "moss", "leases")
    rows = []
    for prompt, scores in enumerate(sample.score):
        subject = subjects[int(np.argmax(sample.vectors[prompt][:7]))]
        text = f"Tell me about {subject}, case {prompt}. " + "Go into detail. " * (prompt % 13)
        for arm, score in enumerate(scores):
            if np.isfinite(score):
                told = {"score": float(score), "cost_usd": 1e-4 * (1 + arm), "output_tokens": 20 + prompt % 90}
                unsaid = {"propensity": ..., "timestamp": ...}
                rows.append(outcome_row(text, f"arm{arm}", source=f"source{prompt % 2}", **told, **unsaid))
    return rows


def _fit(cluster: RayCluster, out: Path, *arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [*TRAIN, "fit", "--json", "--out", str(out), *arguments],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def test_fit_on_ray_gives_the_artifact_of_the_local_engine(
    cluster: RayCluster, sets: dict[str, str], tmp_path: Path
) -> None:
    """Sets read and encoded by workers, heads, arms and sources fitted by them: the same id, so the same bytes."""
    local = _fit(cluster, tmp_path / "local", "--outcomes", sets["file"])
    near = ["--engine", "ray", "--ray-address", cluster.address]
    on_ray = _fit(cluster, tmp_path / "ray", "--outcomes", sets["file"], *near)
    far = ["--engine", "ray", "--ray-address", cluster.client_address]
    from_parts = _fit(cluster, tmp_path / "parts", "--outcomes", "file://" + sets["parts"], *far)
    assert on_ray["id"] == local["id"]
    assert from_parts["id"] == local["id"]
    assert (tmp_path / "ray" / "router.onnx").read_bytes() == (tmp_path / "local" / "router.onnx").read_bytes()


def test_cross_validate_on_ray_gives_the_numbers_of_the_local_engine(cluster: RayCluster, sets: dict[str, str]) -> None:
    """Folds are fitted by workers, shuffled ones too, and every number of the report is the same."""
    command = [*TRAIN, "cross-validate", "--json", "--router", "linear", "--folds", "2", "--resamples", "20"]
    command += ["--outcomes", sets["file"]]
    found = [
        subprocess.run(
            [*command, *engine], env=cluster.environment, capture_output=True, text=True, timeout=200, check=True
        ).stdout
        for engine in ([], ["--engine", "ray", "--ray-address", cluster.address])
    ]
    assert json.loads(found[0]) == json.loads(found[1])
    assert "cross_validation" in json.loads(found[0])


def test_map_returns_results_in_order_and_reports_each(engine: RayEngine) -> None:
    """Parts come back in their order, however tasks end, and the bar moves."""
    reported: list[tuple[int, int]] = []
    shared = engine.share(np.ones(1000))
    found = engine.map(ray_parts.scaled, shared, list(range(20)), lambda done, total: reported.append((done, total)))
    assert found == [1000.0 * number for number in range(20)]
    assert reported[0] == (0, 20)
    assert reported[-1] == (20, 20)
    assert reported == sorted(reported)


def test_map_hands_over_no_more_tasks_than_it_says(engine: RayEngine) -> None:
    """Two tasks per processor at a time, so that results do not pile up in the object store."""
    assert engine.in_flight == 4


def test_map_error_of_ours_comes_back_as_itself(engine: RayEngine) -> None:
    """The first refused part's error, with its code, as the local engine would raise it."""
    with pytest.raises(TrainingError) as caught:
        engine.map(ray_parts.refused_from, engine.share(3), list(range(6)))
    assert (caught.value.message, caught.value.code) == ("part 3 is refused", "too_few_prompts")


def test_map_worker_that_dies_is_replaced(engine: RayEngine, tmp_path: Path) -> None:
    """A task whose worker is killed runs again on another one."""
    assert engine.map(ray_parts.dies_once, engine.share(str(tmp_path)), [0, 1, 2, 3]) == [0, 1, 4, 9]
    assert (tmp_path / "tried-1").exists()


def test_map_worker_that_always_dies_is_an_error_of_ours(engine: RayEngine) -> None:
    """After the retries the run ends with a code, and the cluster goes on."""
    with pytest.raises(TrainingError) as caught:
        engine.map(ray_parts.dies_always, engine.share(None), [1])
    assert caught.value.code == "ray_task_failed"
    assert engine.map(ray_parts.scaled, engine.share(np.ones(2)), [3]) == [6.0]


def test_map_interrupted_cancels_what_is_left(engine: RayEngine, tmp_path: Path) -> None:
    """Ctrl-C ends the tasks that are running or waiting: none of them comes to its end afterwards."""

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.map(ray_parts.waits, engine.share(str(tmp_path)), list(range(12)), interrupt)
    (tmp_path / "go").touch()
    assert engine.map(ray_parts.scaled, engine.share(np.ones(2)), [1] * 6) == [2.0] * 6
    assert not list(tmp_path.glob("done-*"))


def test_shuffle_brings_pieces_together_in_order(engine: RayEngine) -> None:
    """As the local engine does, for one piece and for several."""
    parts = [[1, 2, 3], [4, 5], [6, 8]]
    assert engine.shuffle(ray_parts.halves, ray_parts.sums, engine.share(None), parts, 2) == [(2, 4, 14), (4, 5, 0)]


def test_workers_keep_linear_algebra_on_one_thread(engine: RayEngine) -> None:
    """The order of additions, and so the artifact's id, does not depend on a worker's processors."""
    (found,) = engine.map(ray_parts.threads, engine.share(None), [0])
    assert found
    assert set(found) == {1}


def test_connected_task_larger_than_any_node_is_refused(cluster: RayCluster) -> None:
    """A run that would wait for ever for a node with 64 processors ends at once instead."""
    done = subprocess.run(
        [*TRAIN, "fit", "--json", "--out", "unused", "--outcomes", "absent.parquet", "--engine", "ray",
         "--ray-address", cluster.address, "--ray-cpus-per-task", "64"],
        env=cluster.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ray_too_small" in done.stdout


def test_engines_bench_in_quick_mode_gives_one_artifact(cluster: RayCluster, penstock_data: Path) -> None:
    """The bench starts a Ray of its own, without an address, and compares what both engines wrote."""
    bench = Path(__file__).resolve().parents[2] / "bench" / "engines.py"
    done = subprocess.run(
        [sys.executable, str(bench), "--quick", "--json", "--data", str(penstock_data)],
        env=cluster.environment, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert [run["engine"] for run in runs] == ["local", "ray"]
    assert all(run["processor_seconds"] > 1.0 for run in runs)


DRIVER = """
import sys
from pathlib import Path
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.engines.ray_engine import connected
from penstock_training.fit import FitOptions
from penstock_training.own_router import fit_outcomes
from penstock_training.set_outcomes import load_sets

def report(stage, done, total):
    print(stage, done, flush=True)

address, source, out = sys.argv[1:]
folder = bundled_folder(DEFAULT_ENCODER)
encoder = PromptEncoder.load(folder)
with connected(address) as engine:
    found = load_sets([source], engine, progress=report)
    fit_outcomes(found.matrix, Path(out), encoder=encoder, reference_arm=None, prices={}, progress=report,
                 options=FitOptions(engine=engine), encode=found.encoding(folder, encoder))
"""


def test_driver_killed_while_heads_are_fitted_leaves_the_artifact_as_it_was(
    cluster: RayCluster, sets: dict[str, str], tmp_path: Path, engine: RayEngine
) -> None:
    """An earlier router stays whole, nothing half-written lies beside it, and the cluster takes the next run."""
    out = tmp_path / "router"
    _fit(cluster, out, "--outcomes", sets["file"], "--router", "linear")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, cluster.address, sets["parts"], str(out)],
        env=cluster.environment, stdout=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        assert any(line.startswith("fitting members 1") for line in driver.stdout)
        os.kill(driver.pid, signal.SIGKILL)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert engine.map(ray_parts.scaled, engine.share(np.ones(3)), [1, 2]) == [3.0, 6.0]
