"""Small outcome files and matrices made up for tests; every prompt in here was written for that purpose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock_training.decisions import EstimateArrays
from penstock_training.outcomes import OutcomeMatrix


def outcome_row(prompt: str = "Why is the sea salty?", arm: str = "small", **changes: Any) -> dict[str, Any]:
    """One valid row; `changes` replace or add columns, a value of ``...`` removes one."""
    row: dict[str, Any] = {
        "prompt": prompt,
        "arm": arm,
        "score": 1.0,
        "input_tokens": 7,
        "output_tokens": 40,
        "cost_usd": 0.0001,
        "latency_seconds": 0.8,
        "category": "science",
        "task": "chat",
        "source": "sample",
        "timestamp": "2026-01-05T10:00:00+00:00",
        "propensity": 0.5,
    }
    row.update(changes)
    return {name: value for name, value in row.items() if value is not ...}


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    """Write rows, or raw text lines, as JSON Lines."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as Parquet with the types that pyarrow infers."""
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def random_trial(
    seed: int = 0, prompts: int = 400, arms: int = 3, skill: float = 0.6
) -> tuple[EstimateArrays, OutcomeMatrix]:
    """Outcomes of arms of rising quality and price, and estimates that know the truth by the share `skill`."""
    generator = np.random.default_rng(seed)
    names = tuple(f"arm{i}" for i in range(arms))
    level = np.linspace(-0.8, 1.2, arms)
    hardness = generator.normal(0.0, 1.5, size=(prompts, 1))
    truth = 1.0 / (1.0 + np.exp(-(level - hardness)))
    score = (generator.random((prompts, arms)) < truth).astype(np.float32)
    price = np.geomspace(1e-4, 1e-2, arms)
    cost = price * generator.uniform(0.9, 1.1, size=(prompts, 1))
    quality = skill * truth + (1 - skill) * truth.mean(axis=0)
    gain = quality - quality[:, [arms - 1]]
    categories = [("maths", "code", "law")[i % 3] for i in range(prompts)]
    matrix = OutcomeMatrix(
        prompts=[f"prompt {i}" for i in range(prompts)],
        groups=np.arange(prompts, dtype=np.int64) // 2,
        sources=["first" if i < prompts // 2 else "second" for i in range(prompts)],
        tasks=[""] * prompts,
        categories=categories,
        arms=names,
        score=score,
        input_tokens=np.full((prompts, arms), 20.0, dtype=np.float32),
        output_tokens=np.full((prompts, arms), 50.0, dtype=np.float32),
        cost_usd=cost.astype(np.float32),
    )
    estimates = EstimateArrays(
        arms=names,
        reference_arm=names[-1],
        quality=quality,
        gain=gain,
        gain_se=np.full((prompts, arms), 0.05),
        novelty=generator.uniform(0.0, 1.0, prompts),
        cost_usd=np.broadcast_to(price, (prompts, arms)).copy(),
    )
    return estimates, matrix
