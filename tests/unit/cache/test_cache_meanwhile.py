"""Work done while a store is waited for: when it is done, and what becomes of its failure."""

from __future__ import annotations

import asyncio

import pytest

from penstock_cache.meanwhile import Meanwhile


async def test_meanwhile_without_a_pause_does_nothing() -> None:
    """A store that answers at once is not held up, nor is anything done later."""
    done: list[str] = []
    ahead = Meanwhile(lambda: done.append("work"))
    with ahead:
        pass
    await asyncio.sleep(0.01)
    assert (done, ahead.result) == ([], None)


async def test_meanwhile_in_a_pause_works_after_what_the_turn_has_sent() -> None:
    """A client sends what was asked for in the turn after: the work must not come before that."""
    order: list[str] = []
    ahead = Meanwhile(lambda: order.append("work") or len(order))
    with ahead:
        answered = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(order.append, "sent")
        asyncio.get_running_loop().call_later(0.01, answered.set_result, None)
        await answered
        order.append("answered")
    assert order == ["sent", "work", "answered"]
    assert ahead.result == 2


async def test_meanwhile_whose_work_fails_raises_where_it_was_wanted() -> None:
    """Not in the loop, where nobody would know whose it is; and never over the failure of what was awaited."""

    def fail() -> None:
        raise ValueError("work")

    with pytest.raises(ValueError, match="work"), Meanwhile(fail):
        await asyncio.sleep(0.01)
    with pytest.raises(KeyError), Meanwhile(fail):
        await _fail_after(0.01)


async def _fail_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise KeyError("store")


async def test_meanwhile_of_a_request_that_is_given_up_is_left_undone() -> None:
    """Nobody wants it any more."""
    done: list[str] = []

    async def ask() -> None:
        with Meanwhile(lambda: done.append("work")):
            await asyncio.sleep(1.0)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert done == []
