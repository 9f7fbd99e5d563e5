"""Scorers by name: ``build_scorer("numeric:tolerance=0.01", options)``.

Owns the list of names. A name maps to a function that imports its scorer when it is called, so that listing names costs
no import. Must not score. Read `build_scorer`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Final

from penstock_training.errors import TrainingError
from penstock_training.scorers.options import ScorerOptions
from penstock_training.scorers.protocol import Scorer

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
