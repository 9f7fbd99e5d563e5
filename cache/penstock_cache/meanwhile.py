"""Work that is done while an answer is on its way.

Owns when it is done. Read `Meanwhile`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Meanwhile(Generic[Result]):
    """Does something in the first pause of what is awaited inside ``with``; nothing, when there is no pause.

    Parameters
    ----------
    work : callable
        Takes no longer than the loop may stand still. What it raises is raised at the end of ``with``.

    Attributes
    ----------
    result : what `work` returned, or None
        None when it was not done.

    Notes
    -----
    It begins one turn of the loop later than what is awaited: a client that gathers the commands of a turn has sent
    them by then, and the server answers while this works.
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self.result: Result | None = None
        self._work = work
        self._failure: Exception | None = None
        self._handle: asyncio.Handle | None = None

    def __enter__(self) -> None:
        self._handle = asyncio.get_running_loop().call_soon(self._next_turn)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if error is None and self._failure is not None:
            raise self._failure

    def _next_turn(self) -> None:
        self._handle = asyncio.get_running_loop().call_soon(self._do)

    def _do(self) -> None:
        try:
            self.result = self._work()
        except Exception as failure:  # raised where the work was wanted, not in the loop
            self._failure = failure
