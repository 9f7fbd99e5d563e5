"""Whether a request may be looked up, and whether its answer may be stored: one reason per refusal, as a value.

Owns the rules and the one reading of a finished answer. No I/O, no clock. Read `may_look_up` and `may_store`, then
`survey_answer`. Rules err towards not storing: an answer that is not reused costs one call, a bad one is served for as
long as it lives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum, IntEnum
from functools import lru_cache
from typing import Final

import msgspec

from penstock_cache.categories import CacheMode, CategoryPolicy
from penstock_cache.directives import CacheDirective
from penstock_cache.errors import CacheError
from penstock_cache.keys import CacheKey

MAX_ANSWER_BYTES: Final = 262_144
"""Largest answer that is stored unless told otherwise: 64 k tokens of English text, or one long report."""

_DEFAULT_TEMPERATURE = Decimal(1)  # OpenAI API reference, "Create chat completion"; as in `keys`
_REFUSAL_CHARACTERS = 300  # a refusal opens the answer; further on the same words are a quotation
_REFUSAL = re.compile(
    r"^\W*(?:(?:i(?:['’]m| am)(?: really| very| so)? sorry|i apologi[sz]e|sorry|unfortunately)\b[^.!?\n]{0,80}?\b)?"
    r"(?:as an? (?:ai|artificial)\b|"
    r"i(?:['’]m| am)? ?(?:can ?not|can['’]t|won['’]t|will not|not able to|unable to|do not|don['’]t) "
    r"(?:really )?(?:help|assist|provide|comply|answer|discuss|fulfil|fulfill|do that|engage|support|create|write|"
    r"generate|offer|give|share|have (?:access|information|real-time|the ability))|"
    r"ich kann (?:dir|ihnen|dabei|das|diese)\b[^.!?\n]{0,60}\bnicht|es tut mir leid|tut mir leid|"
    r"je (?:ne peux pas|suis désolée?|ne suis pas en mesure)|désolée?\b|lo siento|no puedo (?:ayudar|proporcionar)|"
    r"mi dispiace|desculpe|não posso (?:ajudar|fornecer)|抱歉|对不起|很抱歉|我无法|申し訳)",
    re.IGNORECASE,
)


class Reach(IntEnum):
    """How far a request or an answer may go in the cache; a smaller reach is stricter."""

    NOTHING = 0
    EXACT = 1
    SEMANTIC = 2


class Reason(Enum):
    """Why a reach is not larger; values are stable names for metrics and headers."""

    ELIGIBLE = "eligible"
    # the policy's and the caller's wish
    CATEGORY_OFF = "category_off"
    CATEGORY_EXACT = "category_exact"
    DIRECTIVE = "directive"
    # the request
    PERSONALISED = "personalised"
    RETRIEVAL = "retrieval"
    SEVERAL_CHOICES = "several_choices"
    SAMPLING = "sampling"
    SEEDED_SAMPLING = "seeded_sampling"
    TOOLS_OFFERED = "tools_offered"
    LOGPROBS = "logprobs"
    ATTACHMENTS = "attachments"
    NO_USER_TEXT = "no_user_text"
    BEYOND_ENCODER = "beyond_encoder"
    CONTEXT_NOT_REPEATED = "context_not_repeated"
    # the answer
    STATUS = "status"
    CUT = "cut"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    ERROR_BODY = "error_body"
    TOOL_CALLS = "tool_calls"
    TRUNCATED = "truncated"
    FILTERED = "filtered"
    UNFINISHED = "unfinished"
    REFUSAL = "refusal"
    OTHER_OUTPUT = "other_output"
    EMPTY = "empty"


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """How far something may go, and why not further.

    Attributes
    ----------
    reach : Reach
    reason : Reason
        `Reason.ELIGIBLE` exactly when the reach is `Reach.SEMANTIC`.
    """

    reach: Reach
    reason: Reason


class RequestTraits(msgspec.Struct, frozen=True, gc=False):
    """What of a request decides about its reuse.

    Attributes
    ----------
    temperature : Decimal or None
        None stands for the provider's default, also where the request writes it out.
    has_one_choice : bool
        ``n`` is omitted or 1.
    has_seed, has_tools, has_logprobs, has_web_search : bool
    is_exact_only : bool
        `CacheKey.is_exact_only`.
    has_attachments : bool
    is_personalised, is_retrieval_augmented : bool
        Marked by the caller (a header or the key's settings): the prompt holds what only this user may see, or passages
        that were looked up for it.
    is_beyond_encoder : bool
        The last user text does not fit the encoder's window, so prompts that differ behind it would look alike.
    """

    temperature: Decimal | None = None
    has_one_choice: bool = True
    has_seed: bool = False
    has_tools: bool = False
    has_logprobs: bool = False
    has_web_search: bool = False
    is_exact_only: bool = False
    has_attachments: bool = False
    is_personalised: bool = False
    is_retrieval_augmented: bool = False
    is_beyond_encoder: bool = False


def survey_request(
    given: Mapping[str, bytes],
    key: CacheKey,
    *,
    is_personalised: bool = False,
    is_retrieval_augmented: bool = False,
    is_beyond_encoder: bool = False,
) -> RequestTraits:
    """Read what of a request decides about its reuse.

    Parameters
    ----------
    given : mapping of str to bytes
        The request's `keys.canonical_fields`: defaults are gone there, so what is left differs from its default.
    key : CacheKey
        Of the same request.
    is_personalised, is_retrieval_augmented, is_beyond_encoder : bool
        As in `RequestTraits`.

    Returns
    -------
    RequestTraits

    Raises
    ------
    CacheError
        Code ``cache_request_unreadable``: the temperature is no number.
    """
    return RequestTraits(
        temperature=_temperature(given.get("temperature")),
        has_one_choice="n" not in given,
        has_seed="seed" in given,
        has_tools="tools" in given or "functions" in given,
        has_logprobs="logprobs" in given or "top_logprobs" in given,
        has_web_search="web_search_options" in given,
        is_exact_only=key.is_exact_only,
        has_attachments=key.has_attachments,
        is_personalised=is_personalised,
        is_retrieval_augmented=is_retrieval_augmented,
        is_beyond_encoder=is_beyond_encoder,
    )


def may_look_up(traits: RequestTraits, policy: CategoryPolicy, directive: CacheDirective) -> Verdict:
    """Say how far a request may be looked up.

    Parameters
    ----------
    traits : RequestTraits
    policy : CategoryPolicy
    directive : CacheDirective

    Returns
    -------
    Verdict
        `Reach.NOTHING`: ask the model. `Reach.EXACT`: only the same request. `Reach.SEMANTIC`: other wordings too.
    """
    if not directive.may_look_up:
        return Verdict(Reach.NOTHING, Reason.DIRECTIVE)
    barred = _bars_all(traits, policy)
    if barred is not None:
        return Verdict(Reach.NOTHING, barred)
    if directive.is_exact_only:
        return Verdict(Reach.EXACT, Reason.DIRECTIVE)
    return _limited_to_exact(traits, policy)


def may_store(
    traits: RequestTraits,
    policy: CategoryPolicy,
    directive: CacheDirective,
    answer: AnswerSurvey,
    *,
    has_repeated_context: bool,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
) -> Verdict:
    """Say how far an answer may be stored.

    Parameters
    ----------
    traits : RequestTraits
    policy : CategoryPolicy
    directive : CacheDirective
    answer : AnswerSurvey
    has_repeated_context : bool
        The context was seen before; a context that was seen once gets no semantic entry.
    max_answer_bytes : int

    Returns
    -------
    Verdict
        `Reach.EXACT`: found by the same request only. `Reach.SEMANTIC`: by other wordings too.
    """
    if not directive.may_store:
        return Verdict(Reach.NOTHING, Reason.DIRECTIVE)
    barred = _bars_all(traits, policy) or _bars_answer(answer, max_answer_bytes)
    if barred is not None:
        return Verdict(Reach.NOTHING, barred)
    verdict = _limited_to_exact(traits, policy)
    if verdict.reach is Reach.SEMANTIC and not has_repeated_context:
        return Verdict(Reach.EXACT, Reason.CONTEXT_NOT_REPEATED)
    return verdict


class AnswerSurvey(msgspec.Struct, frozen=True, gc=False):
    """What of a finished answer decides about its reuse.

    Attributes
    ----------
    status : int
        HTTP status of the upstream's answer.
    size_bytes : int
    is_cut : bool
        The stream ended before its end, or the client left.
    is_readable : bool
        It is a completion object with at least one choice.
    has_error : bool
        A 200 that says in its body that it failed.
    finish_reasons : tuple of (str or None)
        One per choice.
    has_tool_calls, has_refusal, has_citations, has_audio : bool
    is_empty : bool
        Some choice has no text.
    """

    status: int
    size_bytes: int
    is_cut: bool = False
    is_readable: bool = False
    has_error: bool = False
    finish_reasons: tuple[str | None, ...] = ()
    has_tool_calls: bool = False
    has_refusal: bool = False
    has_citations: bool = False
    has_audio: bool = False
    is_empty: bool = False


def survey_answer(body: bytes, *, status: int, is_cut: bool = False) -> AnswerSurvey:
    """Read a finished answer once.

    Parameters
    ----------
    body : bytes
        The final completion object as JSON; for a stream, what its chunks add up to.
    status : int
        HTTP status.
    is_cut : bool
        As in `AnswerSurvey`.

    Returns
    -------
    AnswerSurvey
        With `is_readable` false when the body is no completion object: never an exception.
    """
    try:
        completion = _completion_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return AnswerSurvey(status, len(body), is_cut)
    has_tool_calls = has_refusal = has_audio = is_empty = False
    has_citations = bool(completion.citations or completion.search_results)
    for choice in completion.choices:
        message, text = choice.message, choice.message.text()
        has_tool_calls = has_tool_calls or bool(message.tool_calls) or message.function_call is not None
        has_refusal = has_refusal or bool(message.refusal) or reads_refusal(text)
        has_citations = has_citations or bool(message.annotations)
        has_audio = has_audio or message.audio is not None
        is_empty = is_empty or not text.strip()
    return AnswerSurvey(
        status=status,
        size_bytes=len(body),
        is_cut=is_cut,
        is_readable=bool(completion.choices),
        has_error=completion.error is not None,
        finish_reasons=tuple([choice.finish_reason for choice in completion.choices]),
        has_tool_calls=has_tool_calls,
        has_refusal=has_refusal,
        has_citations=has_citations,
        has_audio=has_audio,
        is_empty=is_empty,
    )


def is_decodable(body: bytes) -> bool:
    """Whether a body can be read whole; `survey_answer` skips what it does not look at, a number out of range, say."""
    try:
        _whole_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def reads_refusal(text: str) -> bool:
    """Whether an answer opens like a refusal, by its words.

    Parameters
    ----------
    text : str

    Returns
    -------
    bool
        True also for some answers that only begin with regret: those are not stored, which costs one call.
    """
    return _REFUSAL.match(text[:_REFUSAL_CHARACTERS].lstrip()) is not None


class _Message(msgspec.Struct):
    content: str | list[object] | None = None
    refusal: str | None = None
    tool_calls: list[object] | None = None
    function_call: object = None
    annotations: list[object] | None = None
    audio: object = None

    def text(self) -> str:
        if isinstance(self.content, list):
            parts = (part.get("text") for part in self.content if isinstance(part, dict))
            return "\n".join(part for part in parts if isinstance(part, str))
        return self.content or ""


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    error: object = None
    citations: object = None  # beside the choices: how Perplexity's API tells what it looked up
    search_results: object = None


_completion_decoder = msgspec.json.Decoder(_Completion)
_whole_decoder = msgspec.json.Decoder()


def _bars_all(traits: RequestTraits, policy: CategoryPolicy) -> Reason | None:
    """Return what keeps a request out of both tiers, in look-ups as in writes."""
    if policy.mode is CacheMode.OFF:
        return Reason.CATEGORY_OFF
    if traits.is_personalised:
        return Reason.PERSONALISED
    if traits.is_retrieval_augmented or traits.has_web_search:
        return Reason.RETRIEVAL
    if not traits.has_one_choice:
        return Reason.SEVERAL_CHOICES
    return Reason.SAMPLING if _is_sampled(traits, policy) and not traits.has_seed else None


def _limited_to_exact(traits: RequestTraits, policy: CategoryPolicy) -> Verdict:
    if not policy.mode.is_semantic:
        return _EXACT_CATEGORY
    # A seed asks for the same draw of the same request, and means nothing for another wording.
    if _is_sampled(traits, policy):
        return Verdict(Reach.EXACT, Reason.SEEDED_SAMPLING)
    limits = (
        # With tools at hand the model may well call one for the other wording.
        (traits.has_tools, Reason.TOOLS_OFFERED),
        (traits.has_logprobs, Reason.LOGPROBS),
        (traits.has_attachments, Reason.ATTACHMENTS),
        (traits.is_exact_only, Reason.NO_USER_TEXT),
        (traits.is_beyond_encoder, Reason.BEYOND_ENCODER),
    )
    for applies, reason in limits:
        if applies:
            return Verdict(Reach.EXACT, reason)
    return _ELIGIBLE


def _bars_answer(answer: AnswerSurvey, max_answer_bytes: int) -> Reason | None:
    has_other = answer.has_error or answer.has_tool_calls or answer.has_refusal or answer.has_citations
    is_whole = answer.is_readable and not answer.is_cut and answer.finish_reasons == ("stop",)
    if (
        is_whole
        and 200 <= answer.status < 300
        and answer.size_bytes <= max_answer_bytes
        and not (has_other or answer.has_audio or answer.is_empty)
    ):
        return None  # one whole answer, as nearly all are
    bars = (
        (not 200 <= answer.status < 300, Reason.STATUS),
        (answer.is_cut, Reason.CUT),
        (answer.size_bytes > max_answer_bytes, Reason.TOO_LARGE),
        (answer.has_error, Reason.ERROR_BODY),
        (not answer.is_readable, Reason.UNREADABLE),
        (answer.has_tool_calls or "tool_calls" in answer.finish_reasons, Reason.TOOL_CALLS),
        ("function_call" in answer.finish_reasons, Reason.TOOL_CALLS),
        ("length" in answer.finish_reasons, Reason.TRUNCATED),
        ("content_filter" in answer.finish_reasons, Reason.FILTERED),
        # Whatever else a provider may say, only "stop" is an answer that came to its end.
        (any(reason != "stop" for reason in answer.finish_reasons), Reason.UNFINISHED),
        (answer.has_refusal, Reason.REFUSAL),
        (answer.has_citations, Reason.RETRIEVAL),
        (answer.has_audio, Reason.OTHER_OUTPUT),
        (answer.is_empty, Reason.EMPTY),
    )
    return next((reason for applies, reason in bars if applies), None)


def _is_sampled(traits: RequestTraits, policy: CategoryPolicy) -> bool:
    """Whether a request asks for more variety than its category reuses.

    An omitted temperature and a written-out default have one key, so they have one rule.
    """
    bound = _decimal(policy.max_temperature)
    if traits.temperature is None:
        return not policy.caches_default_temperature and bound < _DEFAULT_TEMPERATURE
    return traits.temperature > bound


def _temperature(canonical: bytes | None) -> Decimal | None:
    if canonical is None:
        return None
    try:
        return _read_decimal(canonical)
    except ArithmeticError:
        raise CacheError(
            "The request's temperature is not a number; it is answered without the cache.",
            code="cache_request_unreadable",
        ) from None


@lru_cache(maxsize=256)
def _decimal(bound: float) -> Decimal:
    return Decimal(str(bound))


@lru_cache(maxsize=256)
def _read_decimal(canonical: bytes) -> Decimal:
    return Decimal(canonical.decode())


_EXACT_CATEGORY = Verdict(Reach.EXACT, Reason.CATEGORY_EXACT)
_ELIGIBLE = Verdict(Reach.SEMANTIC, Reason.ELIGIBLE)
