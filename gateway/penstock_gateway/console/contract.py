"""What pages are made from and what they return: one file, so that a page knows nothing of HTTP.

Read `Handler`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock_gateway.artifact_watch import ArtifactWatch
from penstock_gateway.endpoints.admin_requests import AdminParts
from penstock_gateway.pipeline import Pipeline
from penstock_gateway.workers.states import WorkerState, state_of, together


@dataclass(frozen=True, slots=True)
class ConsoleParts:
    """What the pages look at.

    Attributes
    ----------
    admin : AdminParts
        Keys, budgets, spend.
    pipeline : Pipeline
    watch : ArtifactWatch or None
        What follows the source of artifacts; None when nothing does.
    others : callable or None
        Returns what the other workers of this gateway know, given how many records are wanted of each; None when there
        are none.
    """

    admin: AdminParts
    pipeline: Pipeline
    watch: ArtifactWatch | None = None
    others: Callable[[int], Awaitable[list[WorkerState]]] | None = None

    async def state(self, records: int) -> WorkerState:
        """Return what all workers know of their last requests and of the deployments; `records` requests at most."""
        if self.others is None:
            return state_of(self.pipeline, records)
        return together([state_of(self.pipeline, records), *await self.others(records)], records)

    @property
    def events_folder(self) -> Path | None:
        """Where events are written; None when nothing is."""
        folder = self.pipeline.settings.events.folder
        return None if folder is None else Path(folder)

    @property
    def shows_content(self) -> bool:
        """Whether prompts and answers of callers may be shown: only where they are written down anyway."""
        return self.pipeline.settings.events.capture_content


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of somebody who has signed in.

    Attributes
    ----------
    path : str
        Below ``/console``, such as ``/models``.
    query, form : mapping of str to str
        Of a name that comes twice, the last value.
    client : str or None
        Address, for the audit line of a change.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    client: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page to be drawn.

    Attributes
    ----------
    template : str
    values : mapping of str to object
        Everything in it is escaped when it is shown; `charts.Chart` escapes what it draws itself.
    status : int
    """

    template: str
    values: Mapping[str, Any]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Moved:
    """Where to look after a change, so that a reload does not repeat it.

    Attributes
    ----------
    path : str
        Below ``/console``.
    done : str
        Key of `rendering.NOTES`: what is said there.
    """

    path: str
    done: str = ""


Handler = Callable[[ConsoleParts, Asked], Awaitable[Page | Moved]]
"""Returns what to show; raises `GatewayError` with a message for people."""
