"""Settings of all scorers in one place, for the command line to fill.

Owns `ScorerOptions` and no behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True, slots=True)
class ScorerOptions:
    """What scorers need beyond their spec; every field has a default, and each scorer reads only its own.

    Attributes
    ----------
    reference_arm : str or None
        ``judge-pairwise``: arm whose answer all others are compared with; the task's reference when None.
    judge_base_url : str or None
        Base address of an OpenAI-compatible API, such as ``https://api.openai.com/v1``.
    judge_model : str or None
        Model that judges.
    judge_api_key_env : str
        Name of the environment variable that holds the key; no key is sent when the variable is not set.
    judge_price_usd_per_million_input_tokens, judge_price_usd_per_million_output_tokens : float or None
        Price of the judge, >= 0; judges are refused without it, as a budget would not hold. 0 for one that is free.
    judge_timeout_seconds : float
        Limit for one call of the judge, > 0.
    judge_retries : int
        Further tries after a call that failed in a way that may pass, >= 0.
    judge_concurrency : int
        Calls under way at once, >= 1.
    verdict_log : Path or None
        JSONL file to which judges append their verdicts, for ``penstock-train judge-report``.
    encoder_folder : Path or None
        ``similarity``: the encoder; the bundled one when None.
    allow_code_execution : bool
        ``code`` is refused without it: it runs what the models wrote.
    code_timeout_seconds : float
        Wall-clock limit for one answer with its tests, > 0.
    code_memory_bytes : int
        Address space of one process of an answer.
    seed : int
        ``human``: the order in which answers are shown; ``judge-*``: the markers around answers.
    human_input, human_output : TextIO or None
        ``human``: where answers come from and go to; standard input and standard error when None.
    """

    reference_arm: str | None = None
    judge_base_url: str | None = None
    judge_model: str | None = None
    judge_api_key_env: str = "OPENAI_API_KEY"
    judge_price_usd_per_million_input_tokens: float | None = None
    judge_price_usd_per_million_output_tokens: float | None = None
    judge_timeout_seconds: float = 60.0
    judge_retries: int = 3
    judge_concurrency: int = 4
    verdict_log: Path | None = None
    encoder_folder: Path | None = None
    allow_code_execution: bool = False
    code_timeout_seconds: float = 10.0
    code_memory_bytes: int = 512 * 1024 * 1024
    seed: int = 0
    human_input: TextIO | None = None
    human_output: TextIO | None = None
