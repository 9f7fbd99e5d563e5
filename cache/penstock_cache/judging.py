"""Whether a stored prompt asks what is asked now: the rule, with the texts and vectors that it needs brought to it.

Owns the use of the second encoder, the evidence about entries, and opinions on pairs that the rule alone would not
serve. Read `EntryJudge.judge`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from penstock_cache.entries import CachedDocument
from penstock_cache.lookups import Verifier
from penstock_cache.pairs import NO_EVIDENCE, Drafts, Evidence, JudgedText, PairCandidate, Screened
from penstock_cache.remembered_texts import RememberedTexts
from penstock_cache.rule import DecisionRule, Judgement
from penstock_cache.second_vectors import SecondVectors

REMEMBERED_EVIDENCE = 100_000
"""Entries whose audits and reports are remembered; the least recently judged are forgotten first."""

REMEMBERED_OPINIONS = 10_000
"""Entries about which opinions are kept, `OPINIONS_EACH` at most of each; the oldest are forgotten first."""

OPINIONS_EACH = 16


class EntryJudge:
    """Judges entries by a rule.

    Parameters
    ----------
    rule : DecisionRule
    verifier : Verifier
        The second encoder. By default it is asked only about entries that the rule finds plausible without it.
    reads_whole : callable
        Whether the second encoder reads a text to its end. Of texts that it cuts, any two that differ where it does not
        look have one vector, so these are never judged.

    Attributes
    ----------
    on_evidence : callable
        Called with an entry's id and its new precision over the old one, whenever evidence about it comes in.
    """

    def __init__(
        self, rule: DecisionRule, verifier: Verifier, *, reads_whole: Callable[[str], bool] = lambda _: True
    ) -> None:
        self.rule = rule
        self.reads_whole = reads_whole
        self.on_evidence: Callable[[str, float], None] = _ignore
        self._verifier = verifier
        self._remembered = RememberedTexts()
        self._evidence: OrderedDict[str, Evidence] = OrderedDict()
        self._opinions: OrderedDict[str, dict[bytes, bool]] = OrderedDict()
        self._asked = SecondVectors()

    def prepare(self, text: str, near: Sequence[tuple[str, float]], threshold: float) -> Drafts:
        """Do what `judge` does before it asks the second encoder, as far as that is possible without the documents.

        Parameters
        ----------
        text : str
        near : sequence of (str, float)
            Ids and cosines of entries that may turn out to be gone, or not to be servable. What is remembered of them
            is used, and is the text's that `judge` will be given, or is not used there.
        threshold : float

        Returns
        -------
        Drafts
            For `judge`.
        """
        drafts = Drafts(JudgedText.of(text))
        candidates = [
            PairCandidate(entry_id, judged, cosine)
            for entry_id, cosine in near
            if (judged := self._remembered.read(entry_id)) is not None
        ]
        self.rule.draft(drafts, candidates, threshold)
        return drafts

    async def judge(
        self,
        text: str,
        near: Sequence[tuple[CachedDocument, float]],
        threshold: float,
        *,
        tenant: str | None = None,
        drafts: Drafts | None = None,
    ) -> Judgement:
        """Choose the entry that answers a prompt, if any does.

        Parameters
        ----------
        text : str
            The last user text.
        near : sequence of (CachedDocument, float), at least 1
            Entries that may be served, with their cosines by the search encoder, nearest first.
        threshold : float
        tenant : str, optional
            Whose text it is: its second vector is remembered for the same text, and for the entry made of it, of the
            same tenant. Without one it is not.
        drafts : Drafts, optional
            What `prepare` returned for the same text.

        Returns
        -------
        Judgement
        """
        drafts = drafts or Drafts(JudgedText.of(text))
        candidates = [
            PairCandidate(document.entry_id, self._read(document), cosine, self._evidence_of(document.entry_id))
            for document, cosine in near
        ]
        screened, reason = self.rule.screen(drafts.prompt, candidates, threshold, drafts=drafts)
        if not screened:
            return Judgement(None, 0.0, near[0][1], reason)
        verified = await self._verify(text, screened, tenant) if self.rule.asks_verifier else None
        judgement = self.rule.judge(screened, verified, threshold)
        is_same = None if judgement.best_id is None else self.opinion(judgement.best_id, text)
        if is_same is None:
            return judgement
        return replace(
            judgement, entry_id=judgement.best_id if is_same else None, reason="served" if is_same else "opinion"
        )

    def note_evidence(self, entry_id: str, *, is_right: bool) -> None:
        """Mix the outcome of an audit, or a person's word, into an entry's precision."""
        known = self._evidence.pop(entry_id, NO_EVIDENCE)
        found = self._evidence[entry_id] = Evidence(known.right + is_right, known.wrong + (not is_right))
        if len(self._evidence) > REMEMBERED_EVIDENCE:
            self._evidence.popitem(last=False)
        self.on_evidence(entry_id, found.shrunk(1.0) / known.shrunk(1.0))

    def note_opinion(self, entry_id: str, text: str, *, is_same: bool) -> None:
        """Remember what was thought of one question and an entry: the same question is then served by it, or never.

        Parameters
        ----------
        entry_id : str
        text : str
            What was asked.
        is_same : bool
        """
        known = self._opinions.pop(entry_id, {})
        known[_digest(text)] = is_same
        if len(known) > OPINIONS_EACH:
            del known[next(iter(known))]
        self._opinions[entry_id] = known
        if len(self._opinions) > REMEMBERED_OPINIONS:
            self._opinions.popitem(last=False)

    def opinion(self, entry_id: str, text: str) -> bool | None:
        """Return what was thought of a question and an entry; None when nobody was asked."""
        known = self._opinions.get(entry_id)
        return None if known is None else known.get(_digest(text))

    def forget(self, entry_id: str) -> None:
        """Forget what is known of an entry."""
        self._remembered.forget(entry_id)
        self._evidence.pop(entry_id, None)
        self._opinions.pop(entry_id, None)

    def forget_tenant(self, tenant: str) -> None:
        """Forget the vectors of what a tenant has asked; of its entries, `forget` is told one by one."""
        self._asked.forget(tenant)

    def _evidence_of(self, entry_id: str) -> Evidence:
        return self._evidence.get(entry_id, NO_EVIDENCE)

    def _read(self, document: CachedDocument) -> JudgedText:
        judged = self._remembered.read(document.entry_id, document.prompt)
        if judged is None:
            vector = self._asked.find(document.tenant, document.prompt)
            judged = self._remembered.keep(document.entry_id, document.prompt, vector)
        return judged

    async def _verify(self, text: str, screened: Sequence[Screened], tenant: str | None) -> list[float]:
        """Return the cosines by the second encoder; vectors of entries and of texts asked before are computed once."""
        held = [self._remembered.get(item.candidate.entry_id) for item in screened]
        vectors = [None if known is None else known.verified for known in held]
        asked = None if tenant is None else self._asked.find(tenant, text)
        missing = [number for number, vector in enumerate(vectors) if vector is None]
        wanted = [] if asked is not None else [text]
        wanted += [screened[number].candidate.judged.text for number in missing]
        deletions = self._asked.deletions
        found = list(await self._verifier(wanted)) if wanted else []
        if asked is None:
            asked = found.pop(0)
            if tenant is not None:
                self._asked.keep(tenant, text, np.array(asked), deletions)  # a row alone would keep the whole batch
        for number, vector in zip(missing, found, strict=True):
            vectors[number] = vector
            known = held[number]
            if known is not None:
                known.verified = np.array(vector)
        return [float(np.dot(asked, vector)) for vector in vectors if vector is not None]


def _ignore(_entry_id: str, _factor: float) -> None:
    """Nobody asked to be told."""


def _digest(text: str) -> bytes:
    """Return what stands for a question, to the letter: an exponent or an indentation may be the whole difference."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
