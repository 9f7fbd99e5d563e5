"""What a place of work can do: the same function on many parts, with one thing that all of them need.

Owns the protocol and its plain form, `LocalEngine`. Must not import a cluster's library. Read `Engine`.

A function that is given to an engine is a module's own function without side effects: what it returns depends on what
it is given alone, seeds included, so that it does not matter where it runs, how often, or in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar, cast

EngineName = Literal["local", "ray"]
Report = Callable[[int, int], None]
"""Called with parts done and parts in total."""

Common = TypeVar("Common")
Part = TypeVar("Part")
Piece = TypeVar("Piece")
Result = TypeVar("Result")


def unreported(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Shared(Generic[Common]):
    """Something that many parts need, where the engine's workers reach it; made by `Engine.share`.

    Attributes
    ----------
    held : object
        The engine's own: the thing itself, or a reference to it.
    """

    held: object


class Engine(Protocol):
    """A place of work."""

    @property
    def name(self) -> EngineName:
        """What it is called on the command line."""

    def share(self, common: Common) -> Shared[Common]:
        """Bring something to where the workers reach it, once for all parts; it may not be changed afterwards."""

    def map(
        self,
        function: Callable[[Common, Part], Result],
        shared: Shared[Common],
        parts: Sequence[Part],
        report: Report = unreported,
    ) -> list[Result]:
        """Apply a function to every part.

        Parameters
        ----------
        function : callable
            A module's function of what is shared and one part.
        shared : Shared
        parts : sequence, length k
        report : callable

        Returns
        -------
        list, length k
            In the order of `parts`.

        Raises
        ------
        TrainingError
            The one that `function` raised on the first part, in their order, on which it did; or what the engine itself
            cannot do.
        """

    def shuffle(
        self,
        spread: Callable[[Common, Part], Sequence[Piece]],
        gather: Callable[[Common, Sequence[Piece]], Result],
        shared: Shared[Common],
        parts: Sequence[Part],
        pieces: int,
    ) -> list[Result]:
        """Cut every part into pieces and bring those with one number together, without passing them through here.

        Parameters
        ----------
        spread : callable
            Cuts a part into `pieces` pieces.
        gather : callable
            Of all pieces with one number, in the order of `parts`.
        shared : Shared
        parts : sequence
        pieces : int
            At least 1.

        Returns
        -------
        list, length `pieces`

        Raises
        ------
        TrainingError
            As for `map`.
        """


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """One part after another in this process."""

    @property
    def name(self) -> EngineName:
        """``"local"``."""
        return "local"

    def share(self, common: Common) -> Shared[Common]:
        """Keep it."""
        return Shared(common)

    def map(
        self,
        function: Callable[[Common, Part], Result],
        shared: Shared[Common],
        parts: Sequence[Part],
        report: Report = unreported,
    ) -> list[Result]:
        """Apply a function to one part after another; see `Engine.map`."""
        found = []
        for done, part in enumerate(parts):
            report(done, len(parts))
            found.append(function(cast(Common, shared.held), part))
        report(len(parts), len(parts))
        return found

    def shuffle(
        self,
        spread: Callable[[Common, Part], Sequence[Piece]],
        gather: Callable[[Common, Sequence[Piece]], Result],
        shared: Shared[Common],
        parts: Sequence[Part],
        pieces: int,
    ) -> list[Result]:
        """Spread all parts, then gather; see `Engine.shuffle`."""
        spreads = self.map(spread, shared, parts)
        return self.map(gather, shared, [[each[number] for each in spreads] for number in range(pieces)])


LOCAL: Final = LocalEngine()
