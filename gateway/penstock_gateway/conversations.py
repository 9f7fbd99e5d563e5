"""Which deployment answered a conversation last: its provider has the prompt cached, and some things only it can read.

Bounded memories of this process, not kept; of answers that providers keep, gateways may tell each other
(`penstock_gateway.shared_answers`). They hold hashes and token counts, no text. Read `WarmConversations.find` and
`ConversationKeepers.find_answer` first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Warm:
    """The end of a conversation's last request.

    Attributes
    ----------
    deployment : str
        Name of the deployment that answered.
    input_tokens : int
        Prompt tokens that its provider has seen.
    forgone_usd : float
        What staying there has cost so far, USD; see `penstock_routers.warmth.switch_cost_usd`.
    """

    deployment: str
    input_tokens: int
    forgone_usd: float = 0.0


class WarmConversations:
    """Remembers who answered last, for as long as providers keep a prompt.

    Parameters
    ----------
    keep : int
        Conversations remembered; the longest idle ones go first. May be set later, like `seconds`.
    seconds : float
        How long after its last answer a conversation counts as warm.
    clock : callable
        Seconds, not going back.

    Notes
    -----
    A conversation is known by its tenant, its system prompt and its first user message, cut to windows
    (`penstock_gateway.request_body.ChatRequest.opening`). Two that open alike are taken for one: their prompts then
    share a prefix, and an expected cost is off by what they do not share. Nothing else depends on it.
    """

    def __init__(self, *, keep: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.keep = keep
        self.seconds = seconds
        self._clock = clock
        self._last: OrderedDict[int, tuple[float, Warm]] = OrderedDict()

    def find(self, tenant: str, opening: str) -> Warm | None:
        """Return who answered a conversation last, or None when that is unknown or too long ago."""
        found = self._last.get(hash((tenant, opening)))
        if found is None or self._clock() - found[0] > self.seconds:
            return None
        return found[1]

    def remember(self, tenant: str, opening: str, warm: Warm) -> None:
        """Note an answer that has been given."""
        key = hash((tenant, opening))
        self._last[key] = (self._clock(), warm)
        self._last.move_to_end(key)
        while len(self._last) > self.keep:
            self._last.popitem(last=False)

    def __len__(self) -> int:
        """Return the number of conversations remembered."""
        return len(self._last)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What is known of an answer that a provider keeps.

    Attributes
    ----------
    deployment : str or None
        Name of the one that has it; None when that is not the asker's to know.
    is_foreign : bool
        Whether it is another tenant's.
    """

    deployment: str | None
    is_foreign: bool = False


class SharesAnswers(Protocol):
    """What other gateways know of kept answers; `penstock_gateway.shared_answers.SharedAnswers` is one."""

    async def find(self, tenant: str, answer_id: str) -> KeptAnswer | None:
        """Return what is known of an answer, None when nothing is."""
        ...

    def note(self, tenant: str, answer_id: str, deployment: str) -> None:
        """Tell the others who gave an answer, and for whom."""
        ...


class ConversationKeepers:
    """Remembers who goes on with a conversation, by its opening and by the ids of answers that providers keep.

    Parameters
    ----------
    keep : int
        May be set later. Openings and ids remembered, and owners of ids; the longest unused ones go first. One takes
        some 140 bytes.

    Attributes
    ----------
    shared : SharesAnswers or None
        Asked for what this process does not know of a kept answer; None when there is nobody to ask.
    """

    def __init__(self, keep: int = 10_000) -> None:
        self.shared: SharesAnswers | None = None
        self.keep = keep
        self._deployments: OrderedDict[int, str] = OrderedDict()
        self._owners: OrderedDict[int, str] = OrderedDict()

    def find(self, tenant: str, key: str) -> str | None:
        """Return the deployment's name, or None when it is not known."""
        found = self._deployments.get(hash((tenant, key)))
        if found is not None:
            self._deployments.move_to_end(hash((tenant, key)))
        return found

    def remember(self, tenant: str, key: str, deployment: str) -> None:
        """Note who answered."""
        self._deployments[hash((tenant, key))] = deployment
        self._deployments.move_to_end(hash((tenant, key)))
        while len(self._deployments) > self.keep:
            self._deployments.popitem(last=False)

    def known_answer(self, tenant: str, answer_id: str) -> KeptAnswer | None:
        """Return what this process knows of an answer that a provider keeps; None when it knows nothing."""
        if self._owners.get(hash(answer_id), tenant) != tenant:
            return KeptAnswer(None, is_foreign=True)
        known = self.find(tenant, answer_id)
        return None if known is None else KeptAnswer(known)

    async def find_answer(self, tenant: str, answer_id: str) -> KeptAnswer | None:
        """Return what is known of an answer that a provider keeps: here, else wherever gateways share it.

        Parameters
        ----------
        tenant : str
            Who asks.
        answer_id : str
            Of a response, or of a conversation.

        Returns
        -------
        KeptAnswer or None
            None when nobody who can be asked knows it.
        """
        if (known := self.known_answer(tenant, answer_id)) is not None:
            return known
        found = None if self.shared is None else await self.shared.find(tenant, answer_id)
        if found is not None and found.deployment is not None:
            self._own(tenant, answer_id, found.deployment)
        return found

    def remember_answer(self, tenant: str, answer_id: str, deployment: str) -> None:
        """Note who gave an answer that its provider keeps, and for whom; who had it first has it."""
        self._own(tenant, answer_id, deployment)
        if self.shared is not None:
            self.shared.note(tenant, answer_id, deployment)

    def _own(self, tenant: str, answer_id: str, deployment: str) -> None:
        self.remember(tenant, answer_id, deployment)
        key = hash(answer_id)
        self._owners.setdefault(key, tenant)
        self._owners.move_to_end(key)
        while len(self._owners) > self.keep:
            self._owners.popitem(last=False)

    def __len__(self) -> int:
        """Return the number of openings and ids remembered."""
        return len(self._deployments)
