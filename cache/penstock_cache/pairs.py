"""A prompt, an entry near it, and what is worked out of the two before it is known whether the entry may be served.

Owns the values that pass between `judging` and `rule`. Pure. Read `PairCandidate`, then `Drafts`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from penstock_cache.entries import FloatArray
from penstock_cache.guards.agreement import GuardReport
from penstock_cache.guards.signature import PromptSignature, signature_of
from penstock_cache.pair_features import Grams, grams_of

EVIDENCE_WEIGHT = 8.0
"""How many confirmed hits weigh as much as the model's own estimate; shrinkage of the per-entry evidence."""


class JudgedText(msgspec.Struct, frozen=True, gc=False):
    """A prompt with everything that is read out of it once.

    Attributes
    ----------
    text : str
    signature : PromptSignature
    """

    text: str
    signature: PromptSignature

    @classmethod
    def of(cls, text: str) -> JudgedText:
        """Read a prompt."""
        return cls(text, signature_of(text))


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """What is known of an entry's earlier hits.

    Attributes
    ----------
    right, wrong : int
        Hits that an audit or a person confirmed, or found wrong.
    """

    right: int = 0
    wrong: int = 0

    def shrunk(self, probability: float) -> float:
        """Return the probability with the evidence mixed in: ``(κ p + right) / (κ + right + wrong)``."""
        return (EVIDENCE_WEIGHT * probability + self.right) / (EVIDENCE_WEIGHT + self.right + self.wrong)


NO_EVIDENCE = Evidence()


class PairCandidate(msgspec.Struct, frozen=True, gc=False):
    """An entry near a prompt.

    Attributes
    ----------
    entry_id : str
    judged : JudgedText
        The prompt that it was stored for.
    cosine : float
        By the search encoder.
    evidence : Evidence
    """

    entry_id: str
    judged: JudgedText
    cosine: float
    evidence: Evidence = NO_EVIDENCE


class Screened(msgspec.Struct, frozen=True, gc=False):
    """A candidate that is worth the second encoder.

    Attributes
    ----------
    candidate : PairCandidate
    report : GuardReport
    features : ndarray of float32, shape (f,)
        Without the second encoder's cosine.
    """

    candidate: PairCandidate
    report: GuardReport
    features: FloatArray


class Draft(msgspec.Struct, gc=False):
    """What follows from two texts and their cosine alone.

    Attributes
    ----------
    text : str
        Of the entry.
    cosine : float
    found : GuardReport or str
        The name of the first guard that forbids reuse, where one does.
    features : ndarray of float32, shape (f,), or None
        None where a guard forbids reuse.
    alone : float or None
        The model's probability without the second encoder; None until it was asked.
    most : float or None
        Its probability at a second cosine of 1, which it cannot exceed; None until it was asked.
    """

    text: str
    cosine: float
    found: GuardReport | str
    features: FloatArray | None
    alone: float | None = None
    most: float | None = None


@dataclass(slots=True)
class Drafts:
    """What has been worked out of one prompt and entries near it.

    Attributes
    ----------
    prompt : JudgedText
    by_entry : dict of str to Draft
        By the entry's id; each is true of the text and the cosine in it alone.
    """

    prompt: JudgedText
    by_entry: dict[str, Draft] = field(default_factory=dict)
    _grams: Grams | None = None

    @property
    def grams(self) -> Grams:
        """The prompt's grams, read once for all entries."""
        if self._grams is None:
            self._grams = grams_of(self.prompt.signature)
        return self._grams

    def find(self, candidate: PairCandidate) -> Draft | None:
        """Return the draft of an entry; None when there is none, or its text or cosine was another one."""
        draft = self.by_entry.get(candidate.entry_id)
        is_same = draft is not None and draft.cosine == candidate.cosine and draft.text == candidate.judged.text
        return draft if is_same else None
