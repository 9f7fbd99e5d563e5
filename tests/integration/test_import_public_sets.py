"""The real outcome sets, turned back into their sources' layouts, come out of the importers as they went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_training.importers.formats import import_outcomes
from penstock_training.importers.list_prices import LIST_PRICES
from penstock_training.importers.options import ImportOptions
from penstock_training.outcomes import OutcomeMatrix, load_outcomes
from support.import_samples import write_csv

PROMPTS = 60


def _set(folder: Path, name: str) -> OutcomeMatrix:
    path = folder / "routing" / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the data folder")
    return load_outcomes([path]).matrix()


def _import(name: str, paths: list[Path], out: Path, **options: Any) -> OutcomeMatrix:
    import_outcomes(name, paths, out, options=ImportOptions(**options))
    return load_outcomes([out]).matrix()


def _options(prompt: str) -> tuple[str, list[str]]:
    """Question and options of a prompt whose options stand on lines of their own."""
    question, _, rest = prompt.partition("\nA. ")
    found = []
    for letter in "BCDEFGHIJ":
        option, mark, behind = rest.partition(f"\n{letter}. ")
        if not mark:
            break
        found.append(option)
        rest = behind
    return question, [*found, rest]


def test_routerbench_table_of_real_outcomes_keeps_scores_costs_and_prompts(penstock_data: Path, tmp_path: Path) -> None:
    """A wide table of real prompts gives back every score, cost and few-shot prompt."""
    matrix = _set(penstock_data, "routerbench_3tasks").rows(np.arange(PROMPTS, dtype=np.int64) * 50)
    rows = []
    for index, prompt in enumerate(matrix.prompts):
        row: dict[str, Any] = {"sample_id": f"q{index}", "prompt": repr([prompt]), "eval_name": "real"}
        row |= dict(zip(matrix.arms, matrix.score[index].tolist(), strict=True))
        row |= {f"{arm}|total_cost": c for arm, c in zip(matrix.arms, matrix.cost_usd[index].tolist(), strict=True)}
        rows.append(row)
    got = _import("routerbench", [write_csv(tmp_path / "real.csv", rows)], tmp_path / "out.parquet")
    assert (got.prompts, got.arms) == (matrix.prompts, matrix.arms)
    assert np.array_equal(got.score, matrix.score)
    assert np.array_equal(got.cost_usd, matrix.cost_usd)


def test_mmlu_pro_results_of_real_outcomes_keep_scores_topics_and_prompts(penstock_data: Path, tmp_path: Path) -> None:
    """One result file per model gives back prompts, topics and marks."""
    whole = _set(penstock_data, "mmlu_pro")
    picked = [i for i, prompt in enumerate(whole.prompts) if prompt.count("\nA. ") == 1][: PROMPTS * 100 : 100]
    matrix = whole.rows(np.asarray(picked, dtype=np.int64))
    for column, arm in enumerate(matrix.arms):
        answers = []
        for row, prompt in enumerate(matrix.prompts):
            if np.isnan(matrix.score[row, column]):
                continue
            question, options = _options(prompt)
            answers.append(
                {
                    "question_id": row,
                    "question": question,
                    "options": options,
                    "answer": "A",
                    "category": matrix.categories[row],
                    "src": matrix.tasks[row],
                    "pred": "A" if matrix.score[row, column] else "B",
                    "model_outputs": "The answer is (A).",
                }
            )
        (tmp_path / f"model_outputs_{arm}_5shots.json").write_text(json.dumps(answers), encoding="utf-8")
    got = _import("mmlu-pro", [tmp_path], tmp_path / "out.parquet")
    order = [got.prompts.index(prompt) for prompt in matrix.prompts]
    again = got.rows(np.asarray(order, dtype=np.int64))
    assert again.arms == matrix.arms
    assert np.array_equal(again.score, matrix.score, equal_nan=True)
    assert (again.categories, again.tasks) == (matrix.categories, matrix.tasks)


@pytest.mark.parametrize(
    ("name", "file"),
    [("mmlu-pro", "mmlu_pro"), ("zeroeval", "zeroeval_core"), ("routellm", "routellm_mmlu_gsm8k_mtbench")],
)
def test_list_prices_explain_the_costs_of_the_real_sets(penstock_data: Path, name: str, file: str) -> None:
    """List price times tokens is the cost that the set states, for every arm."""
    matrix = _set(penstock_data, file)
    assert set(LIST_PRICES[name]) == set(matrix.arms)
    prices = np.array([LIST_PRICES[name][arm] for arm in matrix.arms])
    expected = (matrix.input_tokens * prices[:, 0] + matrix.output_tokens * prices[:, 1]) / 1e6
    known = np.isfinite(matrix.cost_usd) & np.isfinite(expected)
    # Both sides were rounded to 32 bits once or twice.
    assert np.allclose(matrix.cost_usd[known], expected[known], rtol=1e-5)
