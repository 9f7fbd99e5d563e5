"""How far a log of chosen arms can be trusted: coverage, width and error of the estimates of five policies.

Draws logs of 10,000 decisions from traffic whose truth is known (5 arms, ε = .1) and estimates five policies from each:
generated grades always, real outcomes of MMLU-Pro where the data folder is there (PENSTOCK_DATA).

Usage::

    python bench/bandit.py                  200 logs of each kind, a few minutes on one core
    python bench/bandit.py --quick          20 logs of 3,000 decisions; no figure is to be believed
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from bandit_worlds import ARMS, EXPLORATION, World, generated_world, real_world
from data_folder import data_folder
from machine import describe_machine, machine_lines
from numpy.typing import NDArray

from penstock_training.bandit.estimators import ESTIMATORS, WeightedRows, effective_sample_size, estimate
from penstock_training.bandit.logged import LogCounts, LoggedOutcomes
from penstock_training.bandit.rewards import crossfit_rewards

PACKAGES = ("penstock", "numpy", "pyarrow")
ROWS = 10_000
REPLICATIONS = 200
DEFAULT_ESTIMATOR = "sndr"
MODEL_ESTIMATORS = ("dm", "dr", "sndr")
COVERAGE = (0.92, 0.98)
HALF_WIDTH = 0.03
EFFECTIVE_ROWS = 200
Say = Callable[[str], None]


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say: Say = (lambda line: print(line, file=sys.stderr)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    replications = 20 if options.quick else options.replications
    rows = 3_000 if options.quick else ROWS
    say(f"{replications} logs of {rows:,} decisions, {ARMS} arms, ε = {EXPLORATION:g}, seed {options.seed}")
    results = []
    for world in _worlds(options, say):
        found = _replicate(world, rows, replications, options.seed)
        results.append(_summary(world, found, rows))
        _print(results[-1], replications, say)
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows, "replications": replications, "worlds": results}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--replications", type=int, default=REPLICATIONS, help=f"logs of each kind ({REPLICATIONS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="20 logs of 3,000 generated decisions")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to stderr")
    return parser.parse_args()


def _worlds(options: argparse.Namespace, say: Say) -> list[World]:
    worlds = [generated_world(options.seed)]
    folder = data_folder()
    if options.quick:
        return worlds
    if not (folder / "routing" / "mmlu_pro.parquet").is_file() or importlib.util.find_spec("pyarrow") is None:
        say("real outcomes skipped: they need the outcome sets (PENSTOCK_DATA) and pyarrow")
        return worlds
    return [*worlds, real_world(folder, options.seed)]


def _replicate(
    world: World, rows: int, replications: int, seed: int
) -> dict[tuple[str, str, str], NDArray[np.float64]]:
    """Per policy, reward model and estimator: value, low, high and effective rows of every log, (replications, 4)."""
    found: dict[tuple[str, str, str], list[tuple[float, float, float, float]]] = {}
    for number in range(replications):
        random = np.random.default_rng((seed, number))
        prompts = random.integers(0, len(world.points), rows)
        probability = world.logging[prompts]
        arm = (random.random(rows)[:, None] > probability.cumsum(axis=1)).sum(axis=1).clip(0, ARMS - 1)
        score = world.score(prompts, arm, random)
        log = _log(arm, probability[np.arange(rows), arm], score)
        models = {name: model[prompts] for name, model in world.models.items()}
        # Two folds instead of the command's five, for the bench's running time.
        models["foreign + log"] = crossfit_rewards(
            world.points[prompts], log, score, base=models["foreign"], folds=2, seed=number
        )
        for policy, targets in world.policies.items():
            target = targets[prompts]
            weight = target[np.arange(rows), arm] / log.propensity
            ess = effective_sample_size(weight)
            for name, model in models.items():
                expected = (target * model).sum(axis=1)
                weighted = WeightedRows(weight, score, log.groups, expected, model[np.arange(rows), arm])
                for estimator, result in estimate(weighted).items():
                    key = (policy, name, estimator)
                    found.setdefault(key, []).append((result.value, result.low, result.high, ess))
    return {key: np.array(values) for key, values in found.items()}


def _log(arm: NDArray[np.int64], propensity: NDArray[np.float64], score: NDArray[np.float64]) -> LoggedOutcomes:
    """Every draw is a question of its own: the population is a distribution of prompts, drawn from independently."""
    n = arm.size
    unknown = np.full(n, np.nan)
    names = tuple(f"arm {index}" for index in range(ARMS))
    groups = np.arange(n, dtype=np.int64)
    rest = (unknown, unknown, unknown, unknown, unknown, np.zeros(n, dtype=bool), LogCounts(n, 0, {}))
    return LoggedOutcomes([""] * n, groups, names, arm, propensity, score, *rest)


def _summary(world: World, found: dict[tuple[str, str, str], NDArray[np.float64]], rows: int) -> dict[str, Any]:
    entries = []
    for policy, model in dict.fromkeys(key[:2] for key in found):
        truth = world.truth(policy)
        entry: dict[str, Any] = {"policy": policy, "model": model, "truth": truth}
        entry["smallest_half_width"] = world.smallest_half_width(policy, rows)
        errors = {name: found[policy, model, name][:, 0] - truth for name in ESTIMATORS}
        for name in ESTIMATORS:
            values = found[policy, model, name]
            entry["effective_rows"] = float(values[:, 3].mean())
            entry[name] = {
                "rmse": float(np.sqrt((errors[name] ** 2).mean())),
                "bias": float(errors[name].mean()),
                "coverage": float(((values[:, 1] <= truth) & (truth <= values[:, 2])).mean()),
                "half_width": float((values[:, 2] - values[:, 1]).mean() / 2.0),
            }
        for part in ("ips", "dm"):
            excess = errors[DEFAULT_ESTIMATOR] ** 2 - errors[part] ** 2
            spread = float(excess.std(ddof=1) / np.sqrt(excess.size))
            entry[f"mse_over_{part}"] = {"value": float(excess.mean()), "standard_error": spread}
        entries.append(entry)
    return {"world": world.name, "policies": entries, "verdicts": _verdicts(entries)}


def _verdicts(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judge each claim on the default estimator, naming what breaks it."""
    outside, wide, over_ips, over_dm = [], [], [], []
    for entry in entries:
        name, own = f"{entry['policy']} ({entry['model']})", entry[DEFAULT_ESTIMATOR]
        if not COVERAGE[0] <= own["coverage"] <= COVERAGE[1]:
            outside.append(f"{name} {own['coverage']:.3f}")
        if entry["effective_rows"] >= EFFECTIVE_ROWS and own["half_width"] > HALF_WIDTH:
            wide.append(f"{name} {own['half_width']:.3f}, smallest possible {entry['smallest_half_width']:.3f}")
        for part, broken in (("ips", over_ips), ("dm", over_dm)):
            if own["rmse"] > entry[part]["rmse"]:
                excess = entry[f"mse_over_{part}"]
                is_sure = excess["value"] > 2.0 * excess["standard_error"]
                broken.append(f"{name} {own['rmse']:.4f} > {entry[part]['rmse']:.4f}{'' if is_sure else ' (chance)'}")
    claims = (
        ("95 % intervals cover 92 to 98 %", outside),
        ("half-width at most .03 where the effective sample is at least 200", wide),
        ("doubly robust error at most that of inverse propensity", over_ips),
        ("doubly robust error at most that of the model alone", over_dm),
    )
    return [
        {"claim": claim, "holds": not broken, "checked": len(entries), "broken": broken} for claim, broken in claims
    ]


def _print(result: dict[str, Any], replications: int, say: Say) -> None:
    say(f"\n{result['world']}")
    titles = "".join(f"{name:>7}" for name in ESTIMATORS)
    say(f"{'':32}{'':8}{'':6}{'half-width':>16}  {'coverage':<28}  root mean squared error")
    say(
        f"{'policy':17} {'model':14}{'truth':>8}{'ESS':>6}{DEFAULT_ESTIMATOR:>9}{'bound':>7}"
        f"{''.join(f'{name:>7}' for name in ESTIMATORS if name != 'dm')}  {titles}"
    )
    for entry in result["policies"]:
        coverage = "".join(f"{entry[name]['coverage']:7.3f}" for name in ESTIMATORS if name != "dm")
        errors = "".join(f"{entry[name]['rmse']:7.4f}" for name in ESTIMATORS)
        say(
            f"{entry['policy']:17} {entry['model']:14}{entry['truth']:8.4f}{entry['effective_rows']:6.0f}"
            f"{entry[DEFAULT_ESTIMATOR]['half_width']:9.4f}{entry['smallest_half_width']:7.4f}{coverage}  {errors}"
        )
    pooled = np.mean([entry[DEFAULT_ESTIMATOR]["coverage"] for entry in result["policies"]])
    noise = np.sqrt(0.95 * 0.05 / replications)
    say(f"coverage of {DEFAULT_ESTIMATOR} over all rows {pooled:.3f}; one row's own chance error is {noise:.3f}")
    for verdict in result["verdicts"]:
        kept = verdict["checked"] - len(verdict["broken"])
        say(f"{'holds ' if verdict['holds'] else 'BROKEN'}  {verdict['claim']}: {kept} of {verdict['checked']}")
        for broken in verdict["broken"]:
            say(f"          {broken}")


if __name__ == "__main__":
    main()
