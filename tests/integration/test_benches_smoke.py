"""The benches run: a short pass of each, so that they cannot rot. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def _bench(root: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "bench" / f"{name}.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=root)


@pytest.mark.skipif(sys.platform != "linux", reason="the overhead bench reads /proc")
def test_overhead_bench_in_quick_mode_measures_every_installed_target(repository_root: Path, tmp_path: Path) -> None:
    """The quick pass starts the gateway and the mock provider and gives a positive cost for each target."""
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    save, plot = tmp_path / "overhead.json", tmp_path / "overhead.png"
    done = _bench(repository_root, "overhead", "--quick", "--json", "--save", str(save), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows: dict[str, dict[str, Any]] = {row["target"]: row for row in document["results"]}
    assert {"bare", "penstock", "penstock-auto", "penstock-exact-hit", "penstock-semantic-hit"} <= set(rows)
    assert all(row["requests_per_second"] > 0 and row["cpu_us_per_request"] >= 0 for row in rows.values())
    assert rows["penstock"]["cpu_us_per_request"] > 0
    assert rows["penstock"]["start_mb"] > 0
    assert document["machine"]["packages"]["penstock"] != "absent"
    answered = document["answered_by"]
    assert answered["penstock-exact-hit"] == {"cached, cache hit-exact": 64}
    assert answered["penstock-semantic-hit"].get("cached, cache hit-semantic", 0) > 0
    assert all("cache miss" in reason for reason in answered["penstock-auto"])
    assert not any("abstained_no_estimate" in reason for reason in answered["penstock-auto"]), document["warnings"]
    assert save.read_text().startswith("{")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_overhead_bench_with_an_unknown_target_is_refused(repository_root: Path) -> None:
    """A typing error in the targets is a usage error."""
    done = _bench(repository_root, "overhead", "--targets", "apache")
    assert done.returncode == 2
    assert "unknown targets: apache" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "192.0.2.1"}, "loopback addresses only"),
        ({"connections": 100_000}, "at most"),
        ({"seconds": 1e9}, "at most"),
        ({"rate_per_second": 1e9}, "at most"),
        ({"max_requests": 10**9}, "at most"),
        ({"bodies": []}, "at least one body"),
    ],
)
def test_load_generator_beyond_its_bounds_refuses_to_run(
    repository_root: Path, changes: dict[str, Any], message: str
) -> None:
    """Load is bounded in number and time, and never leaves this machine."""
    plan = {"port": 9, "bodies": ["{}"], "connections": 1, "seconds": 0.1, **changes}
    done = subprocess.run(
        [sys.executable, str(repository_root / "bench" / "load.py")],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr


def test_machine_description_names_processor_cores_and_versions(repository_root: Path) -> None:
    """Every result can be judged: what it ran on is printed with it."""
    done = _bench(repository_root, "machine")
    assert done.returncode == 0, done.stderr
    assert "cores usable" in done.stdout
    assert "penstock 0." in done.stdout


def test_encoder_bench_in_quick_mode_gives_times(repository_root: Path) -> None:
    """The quick pass of the encoder bench times the bundled encoders."""
    done = _bench(repository_root, "encoder", "--quick", "--no-quality", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_fused_graph_bench_in_quick_mode_agrees_with_the_unfused_path(repository_root: Path) -> None:
    """The quick pass times one graph and its parts on any machine, and they name the same best arms."""
    done = _bench(repository_root, "gpu/fused", "--quick", "--json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["machine"]["packages"]["onnxruntime"] != "absent"
    assert all(value > 0.0 for value in document["ceilings"].values())
    rows = document["results"]
    assert [row["path"] for row in rows] == 2 * ["unfused", "fused, 1-stage, cpu", "fused, 2-stage, cpu"]
    assert all(row["same_best_arm"] == 1.0 and row["largest_difference"] < 1e-4 for row in rows)
    assert all(row["prompts_per_second"] > 0.0 and row["share_of_bandwidth"] > 0.0 for row in rows)


def test_adaptive_encoder_bench_in_quick_mode_counts_every_way(repository_root: Path) -> None:
    """The quick pass replays our own corpus: never, where plausible, where a hit is possible, and always."""
    done = _bench(repository_root, "adaptive_encoder", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    never, adaptive, possible, always = json.loads(done.stdout)["hits"]
    assert [row["way"] for row in (never, adaptive, possible, always)] == ["static", "adaptive", "possible", "always"]
    assert possible["agreement"] == 1.0
    assert adaptive["asked"] <= possible["asked"] <= always["asked"]
    assert never["asked"] == 0.0
    assert adaptive["asked"] < always["asked"]
    assert always["agreement"] == 1.0


def test_bandit_bench_in_quick_mode_judges_every_claim(repository_root: Path) -> None:
    """The quick pass estimates five policies with three reward models and judges four claims."""
    done = _bench(repository_root, "bandit", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    (world,) = json.loads(done.stdout)["worlds"]
    assert len({entry["policy"] for entry in world["policies"]}) == 5
    assert len(world["policies"]) == 15
    assert [len(verdict["claim"]) > 0 for verdict in world["verdicts"]] == [True] * 4
    assert all(entry["sndr"]["half_width"] >= 0.9 * entry["smallest_half_width"] for entry in world["policies"])


def test_conversation_bench_in_quick_mode_bills_every_policy(repository_root: Path) -> None:
    """The quick pass bills every kind of conversation under every policy."""
    done = _bench(repository_root, "conversations", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert {row["policy"] for row in rows} >= {"fixed", "naive", "aware, regret 0.25"}
    assert all(row["bill_usd"] > 0 for row in rows)


def test_router_bench_in_quick_mode_times_every_family(repository_root: Path) -> None:
    """The quick pass fits, exports and times families over 30 arms, and the gateway's whole decision."""
    done = _bench(repository_root, "router", "--quick", "--json", "--routers", "constant,linear,knn exact")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["routers"]
    assert [row["router"] for row in rows] == ["constant", "linear", "knn exact 2k"]
    assert all(0.0 < row["estimate_us"] < row["gateway_us"] for row in rows)


def test_training_bench_in_quick_mode_measures_each_family_in_its_own_process(repository_root: Path) -> None:
    """The quick pass fits two families and gives processor seconds and peak memory of each."""
    done = _bench(repository_root, "training", "--quick", "--json", "--families", "linear,knn")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["families"]
    assert [row["family"] for row in rows] == ["linear", "knn"]
    assert all(row["cpu_seconds"] > 0.0 and row["peak_mb"] > 0.0 for row in rows)


@pytest.mark.parametrize("name", ["router", "training"])
def test_family_benches_with_an_unknown_name_are_refused(repository_root: Path, name: str) -> None:
    """A typing error in the families is an error that lists the known ones."""
    option = "--routers" if name == "router" else "--families"
    done = _bench(repository_root, name, option, "magic")
    assert done.returncode != 0
    assert "known" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the cache bench reads /proc")
def test_cache_bench_in_quick_mode_serves_what_it_should_and_compares_with_the_aims(repository_root: Path) -> None:
    """The quick pass fills both placements, serves hits and only hits, follows every change and restarts."""
    done = _bench(repository_root, "cache", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {case["placement"] for case in document["cases"]} == {"one", "spread"}
    for case in document["cases"]:
        assert case["problems"] == []
        assert case["counted_bytes"] > 768.0
        for store in case["stores"].values():
            served = {kind: row["hits"] for kind, row in store["look_ups"].items()}
            assert served["exact hit"] > 0
            assert served["hit"] > 0
            assert served["exact miss"] == served["miss"] == 0
            assert store["churn"]["wall"]["p99_ms"] > 0.0
    assert document["single_flight"]["calls"] == 1
    assert document["single_flight"]["answered"] == 100
    assert {row["store"] for row in document["restarts"]} >= {"file"}
    assert all(aim["aim"] and aim["found"] for aim in document["aims"])
