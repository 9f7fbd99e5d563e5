"""Rules of the memory of warm conversations."""

from __future__ import annotations

import json

from penstock_gateway.conversations import ConversationKeepers, KeptAnswer, Warm, WarmConversations
from penstock_gateway.request_body import ChatRequest, parse_chat_request

FOREIGN = KeptAnswer(None, is_foreign=True)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def parsed(*messages: tuple[str, object]) -> ChatRequest:
    """Return a request of these messages."""
    body = {"model": "auto", "messages": [{"role": role, "content": content} for role, content in messages]}
    return parse_chat_request(json.dumps(body).encode())


def test_conversation_is_warm_until_its_time_is_over() -> None:
    """Providers keep a prompt for some minutes after its last use, and so long it is counted on."""
    clock = Clock()
    memory = WarmConversations(keep=10, seconds=300.0, clock=clock)
    memory.remember("a", "opening", Warm("big", 5000))
    clock.now += 300.0
    assert memory.find("a", "opening") == Warm("big", 5000)
    clock.now += 0.1
    assert memory.find("a", "opening") is None


def test_conversation_of_another_tenant_is_another_one() -> None:
    """Two tenants with the same words share nothing."""
    memory = WarmConversations(keep=10, seconds=300.0)
    memory.remember("a", "opening", Warm("big", 5000))
    assert memory.find("b", "opening") is None


def test_conversations_beyond_the_bound_forget_the_longest_idle() -> None:
    """Memory is bounded by count; answering again keeps a conversation."""
    memory = WarmConversations(keep=2, seconds=300.0)
    for opening in ("one", "two", "one", "three"):
        memory.remember("a", opening, Warm("big", 5000))
    assert [memory.find("a", opening) is not None for opening in ("one", "two", "three")] == [True, False, True]
    assert len(memory) == 2


def test_conversations_of_a_smaller_memory_forget_the_longest_idle_at_the_next_answer() -> None:
    """The bound may be lowered while the memory is in use, and holds from the next answer on."""
    memory, keepers = WarmConversations(keep=9, seconds=300.0), ConversationKeepers(keep=9)
    memory.keep = keepers.keep = 2
    for opening in ("one", "two", "three", "four"):
        memory.remember("a", opening, Warm("big", 5000))
        keepers.remember("a", opening, "big")
    assert len(memory) == len(keepers) == 2


def test_request_opening_is_the_same_on_every_turn() -> None:
    """System prompt and first question tell a conversation, whatever follows."""
    first = parsed(("system", "be brief"), ("user", "hello"))
    later = parsed(("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "and now?"))
    assert first.opening == later.opening
    assert (first.is_follow_up, later.is_follow_up) == (False, True)


def test_request_opening_differs_with_system_prompt_or_first_question() -> None:
    """Another application, or another question, is another conversation."""
    openings = {
        parsed(("system", "be brief"), ("user", "hello")).opening,
        parsed(("system", "be long"), ("user", "hello")).opening,
        parsed(("user", "hello")).opening,
        parsed(("user", "hello there")).opening,
        parsed(("user", [{"type": "text", "text": "hello!"}])).opening,
    }
    assert len(openings) == 5


def test_request_opening_is_cut_to_its_windows() -> None:
    """A book as the first message costs no more than a page."""
    assert len(parsed(("system", "s" * 100_000), ("user", "u" * 100_000)).opening) == 2 * 1024 + 1


async def test_answer_that_a_provider_keeps_stays_with_who_had_it_first() -> None:
    """Whoever learns another tenant's id has no claim to it, not even by using it; forgotten ones are nobody's."""
    keepers = ConversationKeepers(keep=2)
    keepers.remember_answer("ann", "resp_1", "stored")
    keepers.remember_answer("bob", "resp_1", "stored")
    assert await keepers.find_answer("bob", "resp_1") == FOREIGN
    assert await keepers.find_answer("ann", "resp_1") == KeptAnswer("stored")
    for answer_id in ("resp_2", "resp_3"):
        keepers.remember_answer("bob", answer_id, "stored")
    assert await keepers.find_answer("bob", "resp_1") is None
    assert await keepers.find_answer("ann", "resp_3") == FOREIGN


class FakeShare:
    """What gateways share, in a dictionary, and how often it was asked."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, str]] = {}
        self.asked: list[str] = []

    async def find(self, tenant: str, answer_id: str) -> KeptAnswer | None:
        """Return what is known."""
        self.asked.append(answer_id)
        owner, deployment = self.known.get(answer_id, ("", ""))
        return None if not owner else KeptAnswer(deployment) if owner == tenant else FOREIGN

    def note(self, tenant: str, answer_id: str, deployment: str) -> None:
        """Keep it."""
        self.known.setdefault(answer_id, (tenant, deployment))


async def test_answer_of_another_gateway_is_asked_for_once_and_known_from_then_on() -> None:
    """Others are asked only for what this process does not know, and told of all that it learns itself."""
    here, there = ConversationKeepers(), ConversationKeepers()
    here.shared = there.shared = share = FakeShare()
    there.remember_answer("ann", "resp_1", "stored")
    for _ in range(2):
        assert await here.find_answer("ann", "resp_1") == KeptAnswer("stored")
    assert await there.find_answer("ann", "resp_1") == KeptAnswer("stored")
    assert share.asked == ["resp_1"]
    assert await here.find_answer("bob", "resp_1") == FOREIGN  # known here by now
    assert await ConversationKeepers().find_answer("bob", "resp_1") is None
    assert share.asked == ["resp_1"]
