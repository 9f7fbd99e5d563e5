"""Small files in the layouts of other projects; every text in here was made up for these tests."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROUTERBENCH_MODELS = ("tiny-7b", "acme/big-1")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows with the first row's keys as the head line."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def routerbench_rows(count: int = 3) -> list[dict[str, Any]]:
    """Rows of RouterBench's wide table: prompts and responses are Python lists written as text."""
    rows = []
    for index in range(count):
        row: dict[str, Any] = {
            "": index,
            "sample_id": f"pond.test.{index}",
            "prompt": str([f"How deep is pond {index}?"]),
            "eval_name": "ponds",
        }
        row |= {model: float((index + offset) % 2) for offset, model in enumerate(ROUTERBENCH_MODELS)}
        row |= {f"{model}|model_response": str([f"{index} metres"]) for model in ROUTERBENCH_MODELS}
        row |= {f"{model}|total_cost": 0.001 * (offset + 1) for offset, model in enumerate(ROUTERBENCH_MODELS)}
        row["oracle_model_to_route_to"] = ROUTERBENCH_MODELS[0]
        rows.append(row)
    return rows


def routellm_folder(folder: Path) -> Path:
    """RouteLLM's ``routellm/evals`` with one MMLU subject, GSM8K and MT-Bench."""
    responses = folder / "evals" / "mmlu" / "responses"
    responses.mkdir(parents=True)
    weak, strong = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"
    write_csv(
        responses / "mmlu_pond_biology.csv",
        [
            {"prompt": "What do newts eat?\nA. Rocks\nB. Insects\nAnswer:", weak: "False", strong: "True"},
            {"prompt": "Where do frogs sleep?\nA. Mud\nB. Trees\nAnswer:", weak: "True", strong: "True"},
        ],
    )
    gsm = folder / "evals" / "gsm8k"
    gsm.mkdir()
    write_csv(
        gsm / "gsm8k_responses.csv",
        [
            {
                "prompt": "Ann has 2 newts and buys 3. How many?",
                weak: "True",
                strong: "True",
                f"{weak}_response": "Five.",
                f"{strong}_response": "2 + 3 = 5",
            }
        ],
    )
    bench = folder / "evals" / "mt_bench"
    bench.mkdir()
    judged = (
        "[Instruction]\nRate.\n\n[Question]\nWrite a poem about a newt.\n\n[The Start of Assistant's Answer]\nNewt."
    )
    grades = [(strong, 10, 1), (strong, 9, 2), (weak, 6, 1), (weak, -1, 2)]
    lines = [
        {"question_id": 7, "model": model, "score": score, "turn": turn, "user_prompt": judged}
        for model, score, turn in grades
    ]
    (bench / "judgements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (bench / "contaminated_prompts.jsonl").write_text(json.dumps({"eval_prompt": "What do newts eat?"}) + "\n")
    return folder / "evals"


def mmlu_pro_answers() -> list[dict[str, Any]]:
    """Two questions as MMLU-Pro's result files hold them; in the second no letter was found."""
    return [
        {
            "question_id": 11,
            "question": "Which gas do ponds release?",
            "options": ["Methane", "Neon", "N/A"],
            "answer": "A",
            "answer_index": 0,
            "category": "chemistry",
            "src": "ponds-Chemistry",
            "pred": "A",
            "model_outputs": "The answer is (A).",
        },
        {
            "question_id": 12,
            "question": "How many legs has a newt?",
            "options": ["Four", "Six"],
            "answer": "A",
            "answer_index": 0,
            "category": "biology",
            "src": "ponds-Biology",
            "pred": None,
            "model_outputs": "I cannot tell.",
        },
    ]


def write_zip(path: Path, members: Mapping[str, Any]) -> Path:
    """Write JSON members into a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, str | bytes) else json.dumps(content))
    return path


def zeroeval_folder(folder: Path) -> Path:
    """ZeroEval's ``result_dirs`` with two models on gsm and one on mmlu-redux."""
    gsm = folder / "result_dirs" / "gsm"
    gsm.mkdir(parents=True)
    for model, answer in (("small-1", "4"), ("large-1", "$5")):
        item = {
            "session_id": "gsm-#0",
            "chat_history": ["## Question:\n\nTwo newts meet three newts. How many?\n\nAnswer in JSON."],
            "output": [json.dumps({"reasoning": "add", "answer": answer})],
            "id": "gsm-#0",
            "question": "Two newts meet three newts. How many?",
            "answer": "# 5",
        }
        (gsm / f"{model}.json").write_text(json.dumps([item]))
    redux = folder / "result_dirs" / "mmlu-redux"
    redux.mkdir()
    choice = {
        "id": "pond-#1",
        "output": ['{"reasoning": "wet", "answer": "B"}'],
        "question": "Where do newts live?",
        "choices": ["Deserts", "Ponds"],
        "correct_answer": "Ponds",
        "config": "zoology",
    }
    (redux / "large-1.json").write_text(json.dumps([choice]))
    other = folder / "result_dirs" / "gsm" / "sampling"
    other.mkdir()
    (other / "large-1.json").write_text("[]")
    (folder / "result_dirs" / "gsm.summary.json").write_text("[]")
    return folder / "result_dirs"


def spend_log(request: str = "chatcmpl-1", **changes: Any) -> dict[str, Any]:
    """One row of LiteLLM's spend log; `changes` replace fields."""
    row: dict[str, Any] = {
        "request_id": request,
        "call_type": "acompletion",
        "api_key": "hashed",
        "spend": 0.0021,
        "total_tokens": 30,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "startTime": "2026-01-05T10:00:00",
        "endTime": "2026-01-05T10:00:02.500",
        "model": "acme/big-1",
        "model_group": "chat",
        "metadata": {"status": "success"},
        "cache_hit": "False",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why do newts hide?"}],
        "response": {},
        "status": "success",
    }
    return row | changes


def request_event(decision: str = "dec_1", **changes: Any) -> dict[str, Any]:
    """One request event of our gateway's log; `changes` replace fields."""
    event: dict[str, Any] = {
        "schema": 1,
        "type": "request",
        "decision_id": decision,
        "time": 1767607200.0,
        "tenant": "0123456789abcdef",
        "requested_model": "auto",
        "intended_arm": "big",
        "served_arm": "big",
        "intended_artifact_arm": "frontier",
        "served_artifact_arm": "frontier",
        "reason": "routed",
        "is_explored": False,
        "propensity": 0.99,
        "category": "chat",
        "input_tokens": 12,
        "output_tokens": 40,
        "cost_usd": "0.0012",
        "is_cost_estimated": False,
        "status": 200,
        "duration_ms": 1500.0,
        "is_timeout": False,
        "prompt": "Why do newts hide?",
        "is_prompt_cut": False,
    }
    return event | changes


def decision_and_outcome(decision: str = "dec_1", **changes: Any) -> list[dict[str, Any]]:
    """The same request as `request_event` in the two records of schema 2; `changes` go where the field is."""
    old = request_event(decision)
    shared = {"schema": 2, "decision_id": decision, "request_id": f"req_{decision}", "tenant": old["tenant"]}
    outcome = {
        **shared,
        "type": "outcome",
        "time": old["time"] + 1.5,
        "admitted_at": old["time"],
        "accounts": ["key:k1"],
        **{name: old[name] for name in ("served_arm", "served_artifact_arm", "status", "is_cost_estimated")},
        **{name: old[name] for name in ("duration_ms", "is_timeout", "cost_usd")},
        "cost_picousd": 1_200_000_000,
        "usage": {"input_tokens": 12, "output_tokens": 40},
        "attempts": [],
    }
    kept = {name: value for name, value in old.items() if name not in outcome}
    made = {**kept, **shared, "type": "decision", "time": old["time"]}
    made.pop("input_tokens", None)
    made.pop("output_tokens", None)
    return [
        made | {name: value for name, value in changes.items() if name in made},
        outcome | {name: value for name, value in changes.items() if name not in made},
    ]


def feedback_event(decision: str = "dec_1", score: object = 1.0, time: float = 1767607300.0) -> dict[str, Any]:
    """One feedback event of our gateway's log."""
    return {"schema": 1, "type": "feedback", "decision_id": decision, "time": time, "tenant": "0", "score": score}


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]], tail: str = "") -> Path:
    """Write JSON Lines and, behind them, a tail without a line end."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")
    return path
