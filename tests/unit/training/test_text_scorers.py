"""Scorers that compare text: exact, by a pattern, by a number, by a JSON schema, by similarity; and the registry."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_training.errors import TrainingError
from penstock_training.scorers.final_answer import boxed, final_answer, normal_form, option_letter
from penstock_training.scorers.json_answers import json_in
from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.registry import SCORERS, ScorerOptions, build_scorer
from penstock_training.scorers.similarity import SimilarityScorer
from penstock_training.scorers.text_match import RegexScorer

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def task(answer: str, reference: str | None = None) -> ScoringTask:
    """One answer of one arm."""
    return ScoringTask("A question", answer, reference, "small", "q1")


async def score(spec: str, answer: str, reference: str | None = None) -> Scored:
    """Score one answer with a scorer of its own."""
    scorer = build_scorer(spec, ScorerOptions())
    try:
        return (await scorer.score_all([task(answer, reference)]))[0]
    finally:
        await scorer.aclose()


def test_scorer_with_an_unknown_name_is_refused_with_the_nearest() -> None:
    """A typing error is answered with the name that was meant, a strange word with all names."""
    with pytest.raises(TrainingError, match="did you mean 'judge-pairwise'") as caught:
        build_scorer("judge-pairwize", ScorerOptions())
    assert caught.value.code == "scorer_unknown"
    with pytest.raises(TrainingError, match="exact, regex, numeric"):
        build_scorer("", ScorerOptions())


def test_registry_of_scorers_when_listed_imports_none_of_them() -> None:
    """Listing names costs neither an HTTP client nor numpy."""
    script = (
        "import sys; from penstock_training.scorers.registry import SCORERS; "
        "print([m for m in ('aiohttp', 'numpy', 'onnxruntime', 'jsonschema') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "spec",
    [
        "exact:somewhere",
        "numeric:tolerance=much",
        "numeric:tolerance=-1",
        "numeric:tolerance=nan",
        "numeric:tolerence=0.1",
        "numeric:pick=all",
        "numeric:decimal=slash",
        "numeric:0.01",
        "similarity:threshold=2",
        "json-schema:no-such-file.json",
        "human:fast",
        "judge-pairwise:x",
    ],
)
def test_scorer_with_a_senseless_parameter_is_refused(spec: str) -> None:
    """What a scorer does not know is an error, never passed over."""
    with pytest.raises(TrainingError) as caught:
        build_scorer(spec, ScorerOptions())
    assert caught.value.code == "scorer_spec"


@pytest.mark.parametrize("spec", ["exact", "exact:option", "numeric", "regex", "json-schema", "similarity"])
async def test_scorer_without_a_reference_gives_no_score(spec: str) -> None:
    """No reference means not scored, which is not the same as wrong."""
    scored = await score(spec, "42", None)
    assert scored.score is None
    assert "reference" in scored.reason


@pytest.mark.parametrize("name", sorted(set(SCORERS) - {"code", "judge-pairwise", "judge-rubric"}))
def test_scorer_that_calls_no_model_costs_nothing(name: str) -> None:
    """Only judges cost money."""
    assert build_scorer(name, ScorerOptions()).estimate_cost_usd(1000, 10) == 0.0


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Paris", " paris. "),
        ("**Paris**", "Paris"),
        ("\u201cParis\u201d", "paris"),
        ("two  \n words", "Two words"),
        ("ﬁne", "fine"),
        ("①", "1"),
        ("Straße", "STRASSE"),
        ("e\u0301te", "éte"),
        ("$x$", "x"),
    ],
)
def test_normal_form_of_texts_that_say_the_same_is_equal(text: str, other: str) -> None:
    """Case, white space, compatibility forms, quotes and emphasis do not matter."""
    assert normal_form(text) == normal_form(other)


@pytest.mark.parametrize(("text", "other"), [("1.5", "15"), ("a b", "ab"), ("-1", "1"), ("u.s.", "us")])
def test_normal_form_of_different_texts_differs(text: str, other: str) -> None:
    """What carries meaning stays."""
    assert normal_form(text) != normal_form(other)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{42}", "42"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{A} \cup {B}} and \boxed{open", r"\text{A} \cup {B}"),
        ("nothing", None),
    ],
)
def test_boxed_answer_with_braces_inside_is_found_whole(text: str, found: str | None) -> None:
    """The last closed box counts, with the braces in it."""
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Let me think.\nAnswer: Paris", "Paris"),
        ("**Answer:** Paris\nBecause it is.", "Paris"),
        ("The answer is Rome. No: the answer is Paris", "Paris"),
        ("1 + 1\n#### 2", "2"),
        ("Answer:\nParis", "Paris"),
        ("It must be\nParis\n\n", "Paris"),
        (r"Answer: see box. \boxed{7}", "7"),
    ],
)
def test_final_answer_of_a_reasoned_text_is_its_conclusion(text: str, found: str) -> None:
    """Box before marker before last line, and the last of each."""
    assert final_answer(text) == found


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("**C**", "C"),
        ("B) because of heat", "B"),
        ("Answer: D", "D"),
        ("The answer is (C).", "C"),
        ("The correct answer is **B**.", "B"),
        ("the answer is option B.", "B"),
        (r"Thus \boxed{\text{E}}", "E"),
        ("A is wrong, B is too.\nAnswer: C", "C"),
        ("C.\n\nHere is why. It is warm.", "C"),
        ("Answer: A cat sat there", None),
        ("I do not know", None),
        ("Because of that", None),
        ("", None),
    ],
)
def test_option_letter_of_an_answer_is_its_choice(text: str, letter: str | None) -> None:
    """Letters are read where answers put them; an article or a word's first letter is no choice."""
    assert option_letter(text) == letter


async def test_exact_scorer_compares_whole_or_final_answer_as_asked() -> None:
    """The whole answer by default, the conclusion or the option when the spec says so."""
    text = "I think so.\nAnswer: (B)"
    assert (await score("exact", text, "B")).score == 0.0
    assert (await score("exact:option", text, "b")).score == 1.0
    assert (await score("exact:final", "Hm.\nAnswer: Paris.", "paris")).score == 1.0
    assert (await score("exact:option", "no idea", "B")).score == 0.0
    assert (await score("exact:option", text, "because")).score is None


async def test_regex_scorer_finds_the_pattern_of_spec_or_reference() -> None:
    """A pattern in the spec, colons and all, serves for every task; else the reference is the pattern."""
    assert (await score(r"regex:(?i)^total: \d+$", "TOTAL: 12")).score == 1.0
    assert (await score("regex", "the year 1969", r"\b1969\b")).score == 1.0
    assert (await score("regex", "the year 1970", r"\b1969\b")).score == 0.0
    assert (await score("regex", "x", "(")).score is None
    with pytest.raises(TrainingError, match="no regular expression") as caught:
        await score("regex:(", "x")
    assert caught.value.code == "scorer_spec"


async def test_regex_scorer_with_a_catastrophic_pattern_gives_up_and_goes_on() -> None:
    """A pattern that would take for ever is stopped; the next answer is searched as if nothing had been."""
    scorer = RegexScorer("", limit_seconds=0.5)
    scored = await scorer.score_all([task("a" * 60 + "!", "(a+)+$"), task("abc", "b")])
    await scorer.aclose()
    assert [entry.score for entry in scored] == [None, 1.0]
    assert "after at most 0.5 s" in scored[0].reason


async def test_regex_scorer_whose_process_died_goes_on_with_a_new_one() -> None:
    """An answer that kills the process costs that answer's score and not the run."""
    scorer = RegexScorer("a")
    first = await scorer.score_all([task("a")])
    process = scorer._worker._process
    assert process is not None
    process.kill()
    await process.wait()
    after = await scorer.score_all([task("a"), task("b")])
    await scorer.aclose()
    assert [entry.score for entry in [*first, *after]] == [1.0, None, 0.0]


async def test_numeric_scorer_picks_box_then_marker_then_last() -> None:
    """The number that is meant as the answer counts, not one of the reasoning."""
    assert (await score("numeric", r"6*7 = 42, so \boxed{42}. Check: 42/6 = 7", "42")).score == 1.0
    assert (await score("numeric", "The answer is 42 (6 times 7).", "42")).score == 1.0
    assert (await score("numeric", "We get 6*7 = 42 apples", "42")).score == 1.0
    assert (await score("numeric:pick=first", "42 of 50", "42")).score == 1.0
    assert (await score("numeric:pick=boxed", "42", "42")).score == 0.0
    assert (await score("numeric", "none", "42")).reason == "there is no number in the answer"
    assert (await score("numeric", "42", "many")).score is None


async def test_numeric_scorer_keeps_to_its_tolerances() -> None:
    """Relative and absolute tolerance are both taken from the spec; the larger one counts."""
    assert (await score("numeric", "3.14", "3.14159")).score == 0.0
    assert (await score("numeric:tolerance=0.01", "3.14", "3.14159")).score == 1.0
    assert (await score("numeric:absolute=0.5", "10.4", "10")).score == 1.0
    assert (await score("numeric:absolute=0.5", "10.6", "10")).score == 0.0
    assert (await score("numeric:decimal=comma", "1.234,5 Euro", "1.234,5")).score == 1.0


@pytest.fixture
def schema_file(tmp_path: Path) -> Path:
    """A JSON schema in a file."""
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"age": 3}', 1.0),
        ('Here:\n```json\n{"age": 3}\n```\nDone.', 1.0),
        ('```\n{"age": 3}\n```', 1.0),
        ('{"age": "3"}', 0.0),
        ("{}", 0.0),
        ("three", 0.0),
        ('{"age": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ('{"age": 3', 0.0),
        ('{"age": ' + "[" * 900 + "]" * 900 + "}", 0.0),
    ],
)
async def test_json_schema_scorer_tells_valid_from_other_answers(
    schema_file: Path, answer: str, expected: float
) -> None:
    """Bare and fenced JSON is validated; what is not JSON scores 0."""
    assert (await score(f"json-schema:{schema_file}", answer)).score == expected


async def test_json_schema_scorer_names_the_rule_and_not_the_value(schema_file: Path) -> None:
    """The reason says what is wrong where, without the answer's text."""
    scored = await score(f"json-schema:{schema_file}", '{"age": "secret"}')
    assert scored.reason == "`type` fails at $.age"


async def test_json_schema_of_a_reference_is_used_and_checked() -> None:
    """Each task can bring its schema; one that is no schema gives no score."""
    assert (await score("json-schema", '{"age": 1}', json.dumps(SCHEMA))).score == 1.0
    assert (await score("json-schema", "{}", '{"type": "strange"}')).score is None
    assert (await score("json-schema", "{}", "[1]")).score is None


async def test_json_schema_with_a_remote_reference_fetches_nothing() -> None:
    """A schema that refers elsewhere gives no score, and no address is opened."""
    scored = await score("json-schema", "{}", '{"$ref": "http://127.0.0.1:9/x.json"}')
    assert scored.score is None
    assert "not in it" in scored.reason


@pytest.mark.parametrize("content", ["{", "[1]", '{"type": "strange"}'])
def test_json_schema_file_that_holds_no_schema_is_refused(tmp_path: Path, content: str) -> None:
    """A broken schema is found when the scorer is made, not at the first answer."""
    path = tmp_path / "broken.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TrainingError) as caught:
        build_scorer(f"json-schema:{path}", ScorerOptions())
    assert caught.value.code == "scorer_spec"


def test_json_in_an_answer_with_two_blocks_is_the_last() -> None:
    """A corrected answer stands below the first one."""
    assert json_in("```json\n1\n```\nNo:\n```json\n2\n```") == (2,)
    assert json_in("null") == (None,)
    assert json_in("null and void") is None


class _Angles:
    """Encodes the text "30" as the unit vector at 30 degrees."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.radians([float(text) for text in texts])
        return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


async def test_similarity_scorer_is_the_cosine_cut_at_zero() -> None:
    """The score is the cosine, never below 0; with a threshold it is 0 or 1."""
    scored = await SimilarityScorer(_Angles()).score_all([task("60", "0"), task("180", "0"), task(" ", "0")])
    assert scored[0].score == pytest.approx(0.5, abs=1e-6)  # float32
    assert [scored[1].score, scored[2].score] == [0.0, 0.0]
    strict = await SimilarityScorer(_Angles(), threshold=0.9).score_all([task("60", "0"), task("10", "0")])
    assert [entry.score for entry in strict] == [0.0, 1.0]


# Reference, an answer that says the same, one that says something else about the same things. Written for this test.
PARAPHRASES = [
    (
        "The drug is safe during pregnancy.",
        "Pregnant women can take this drug safely.",
        "The drug is not safe during pregnancy.",
    ),
    (
        "Water boils at 100 degrees Celsius at sea level.",
        "At sea level the boiling point of water is 100 °C.",
        "Water boils at 90 degrees Celsius at sea level.",
    ),
    ("Paris is the capital of France.", "France's capital city is Paris.", "Lyon is the capital of France."),
    ("The train leaves at nine in the morning.", "Departure is at 9 a.m.", "The train leaves at nine in the evening."),
    ("Smoking causes lung cancer.", "Lung cancer can result from smoking cigarettes.", "Smoking prevents lung cancer."),
    (
        "The function returns a sorted copy of the list.",
        "It gives back a new list in order and leaves the old one.",
        "The function sorts the list in place and returns nothing.",
    ),
    ("World War II ended in 1945.", "The Second World War was over in 1945.", "World War II ended in 1918."),
    (
        "The contract may be cancelled within 14 days.",
        "You can withdraw from the agreement for two weeks.",
        "The contract may not be cancelled within 14 days.",
    ),
    (
        "Use HTTPS, because it encrypts traffic.",
        "HTTPS encrypts what is sent, so choose it.",
        "Avoid HTTPS, because it slows traffic.",
    ),
    (
        "The heart pumps blood through the body.",
        "Blood is moved through the body by the heart.",
        "The lungs pump blood through the body.",
    ),
    ("Light is faster than sound.", "Sound travels more slowly than light.", "Sound is faster than light."),
    (
        "The company's profit rose by ten percent.",
        "Earnings of the firm went up 10 %.",
        "The company's profit fell by ten percent.",
    ),
]
UNRELATED = ("My favourite soup has carrots.", "The match ended in a draw.", "Plant tulips in autumn.")


async def test_similarity_scorer_on_paraphrases_is_as_weak_as_documented(repository_root: Path) -> None:
    """It tells another subject from the right one, but not a wrong statement from a right one; the docs say so."""
    scorer = build_scorer("similarity", ScorerOptions())

    async def scores(pairs: list[tuple[str, str]]) -> list[float]:
        return [entry.score or 0.0 for entry in await scorer.score_all([task(a, b) for a, b in pairs])]

    right = await scores([(same, wanted) for wanted, same, _ in PARAPHRASES])
    wrong = await scores([(other, wanted) for wanted, _, other in PARAPHRASES])
    off = await scores([(text, wanted) for wanted, _, _ in PARAPHRASES for text in UNRELATED])
    contradiction, subject = _area(right, wrong), _area(right, off)
    assert contradiction < 0.5
    assert subject > 0.95
    documented = (repository_root / "docs" / "scoring.md").read_text(encoding="utf-8")
    assert f"ROC-AUC {contradiction:.3f}" in documented
    assert f"ROC-AUC {subject:.3f}" in documented


def _area(positives: list[float], negatives: list[float]) -> float:
    """Chance that a positive scores above a negative, ties counted half."""
    pairs = [(one > other) + 0.5 * (one == other) for one in positives for other in negatives]
    return float(np.mean(pairs))
