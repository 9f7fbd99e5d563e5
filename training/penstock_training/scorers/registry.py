"""Scorers by name: ``build_scorer("numeric:tolerance=0.01", options)``.

Owns the list of names. A name maps to a function that imports its scorer when it is called, so that listing names costs
no import. Must not score. Read `build_scorer`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from penstock_training.errors import TrainingError
from penstock_training.scorers.protocol import Scorer


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
        Price of the judge, >= 0; without it the cost of judging is unknown and counted as 0.
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


Factory = Callable[[str, ScorerOptions], Scorer]


def build_scorer(spec: str, options: ScorerOptions) -> Scorer:
    """Make a scorer from its spec.

    Parameters
    ----------
    spec : str
        ``name`` or ``name:parameter``, such as ``exact``, ``exact:option``, ``regex:PATTERN``,
        ``numeric:tolerance=0.01``, ``json-schema:FILE``, ``judge-rubric:FILE``.
    options : ScorerOptions
        Settings that do not fit into a word.

    Returns
    -------
    Scorer

    Raises
    ------
    TrainingError
        Code ``scorer_unknown``, with the nearest name; ``scorer_spec`` when the parameter makes no sense; and what the
        scorer refuses, such as ``code_execution_not_allowed``.

    Examples
    --------
    >>> build_scorer("numeric:tolerance=0.01", ScorerOptions()).name
    'numeric'
    """
    name, _, parameter = spec.partition(":")
    factory = SCORERS.get(name)
    if factory is None:
        near = difflib.get_close_matches(name, SCORERS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SCORERS)}"
        raise TrainingError(f"there is no scorer {name[:40]!r}; {hint}", code="scorer_unknown")
    return factory(parameter, options)


def _exact(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.text_match import ExactScorer

    return ExactScorer.from_parameter(parameter)


def _regex(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.text_match import RegexScorer

    return RegexScorer(parameter)


def _numeric(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.text_match import NumericScorer

    return NumericScorer.from_parameter(parameter)


def _json_schema(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.json_answers import JsonSchemaScorer

    return JsonSchemaScorer.from_file(parameter)


def _similarity(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.similarity import SimilarityScorer

    return SimilarityScorer.from_parameter(parameter, options.encoder_folder)


def _judge_pairwise(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.judge_pairwise import PairwiseJudge

    return PairwiseJudge.from_options(parameter, options)


def _judge_rubric(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.judge_rubric import RubricJudge

    return RubricJudge.from_options(parameter, options)


def _human(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.human import HumanScorer

    return HumanScorer.from_options(parameter, options)


def _code(parameter: str, options: ScorerOptions) -> Scorer:
    from penstock_training.scorers.code_tests import CodeScorer

    return CodeScorer.from_options(parameter, options)


SCORERS: Final[dict[str, Factory]] = {
    "exact": _exact,
    "regex": _regex,
    "numeric": _numeric,
    "json-schema": _json_schema,
    "similarity": _similarity,
    "judge-pairwise": _judge_pairwise,
    "judge-rubric": _judge_rubric,
    "human": _human,
    "code": _code,
}
