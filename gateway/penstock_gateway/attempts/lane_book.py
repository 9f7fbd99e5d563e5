"""All deployments and groups of one gateway, with their live state.

Owns the making of lanes and groups, and their survival when the configuration is reloaded. Read `LaneBook`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from penstock_gateway.attempts.balancing import Group, Mode
from penstock_gateway.attempts.breaker import BreakerState
from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.attempts.load import GroupPace
from penstock_gateway.attempts.slots import WaitingRoom
from penstock_gateway.deployments import Deployment, members
from penstock_gateway.metrics_attempts import AttemptMetrics
from penstock_gateway.settings_attempts import AttemptSettings


class LaneBook:
    """The live state of every deployment; made once, then `adopt` follows the configuration.

    Parameters
    ----------
    deployments : iterable of Deployment
    settings : AttemptSettings
    metrics : AttemptMetrics, optional
    draw : callable, optional
        Random numbers in [0, 1).

    Attributes
    ----------
    room : WaitingRoom
    settings : AttemptSettings
    groups : dict of str to Group
        Those with more than one member.
    """

    def __init__(
        self,
        deployments: Iterable[Deployment],
        settings: AttemptSettings,
        *,
        metrics: AttemptMetrics | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._lanes: dict[str, Lane] = {}
        self._departed: dict[str, Lane] = {}
        self._paces: dict[str, GroupPace] = {}
        self._metrics = metrics
        self._draw = draw
        self.groups: dict[str, Group] = {}
        self.settings = settings
        self.room = WaitingRoom(
            settings.max_waiting,
            settings.ageing_seconds,
            on_refusal=lambda code: None if metrics is None else metrics.note_refusal(code),
        )
        if metrics is not None:
            metrics.watch(lambda: self.room.counts)
        self.adopt(deployments, settings)

    def __iter__(self) -> Iterator[Lane]:
        """Return the lanes in the order of the configuration."""
        return iter(self._lanes.values())

    def adopt(self, deployments: Iterable[Deployment], settings: AttemptSettings) -> None:
        """Follow a configuration.

        Parameters
        ----------
        deployments : iterable of Deployment
            Those with the name of a known one keep its breaker, its load and the slots that are taken. Requests at
            others go on; nothing new is sent there.
        settings : AttemptSettings
        """
        deployments = tuple(deployments)
        self.settings = settings
        self.room.max_waiting = settings.max_waiting
        self.room.ageing_seconds = settings.ageing_seconds
        lanes: dict[str, Lane] = {}
        for deployment in deployments:
            known = self._lanes.get(deployment.name) or self._departed.get(deployment.name)
            lane = known or self._new(deployment, settings)
            lane.use(deployment)
            lane.breaker.settings = settings.breaker
            lane.load.pace = self._pace_of(deployment)
            lane.is_balanced = False
            lanes[deployment.name] = lane
        if self._metrics is not None:
            for name in self._lanes.keys() - lanes.keys():
                self._metrics.forget_lane(name)
            for name in lanes.keys() - self._lanes.keys():
                self._metrics.watch_lane(name, partial(getattr, lanes[name].slots, "in_flight"))
        self._departed = {name: lane for name, lane in self._lanes.items() if name not in lanes}
        self._lanes = lanes
        self._paces = {key: pace for key, pace in self._paces.items() if key in {_pace_key(d) for d in deployments}}
        names = dict.fromkeys(deployment.group for deployment in deployments if deployment.group is not None)
        groups = {name: [lanes[member.name] for member in members(deployments, name)] for name in names}
        self.groups = {name: self._new_group(name, group, settings) for name, group in groups.items() if len(group) > 1}

    def lane(self, deployment: Deployment) -> Lane:
        """Return a deployment's lane."""
        lane = self._lanes.get(deployment.name)
        if lane is None:  # it left the configuration after the request was planned
            lane = self._departed.get(deployment.name)
            if lane is None:
                lane = self._departed[deployment.name] = self._new(deployment, self.settings)
        return lane

    def group_of(self, lane: Lane) -> Group | None:
        """Return the group whose other members may take a lane's requests; None when there are none."""
        if not lane.is_balanced or lane.deployment.group is None:
            return None
        return self.groups.get(lane.deployment.group)

    def _new(self, deployment: Deployment, settings: AttemptSettings) -> Lane:
        return Lane(deployment, settings.breaker, self._pace_of(deployment), self._note_state)

    def _pace_of(self, deployment: Deployment) -> GroupPace:
        return self._paces.setdefault(_pace_key(deployment), GroupPace())

    def _new_group(self, name: str, lanes: list[Lane], settings: AttemptSettings) -> Group:
        for lane in lanes:
            lane.is_balanced = True
        group = Group(name, lanes, settings.balance, draw=self._draw, on_mode=lambda mode: self._note_mode(name, mode))
        self._note_mode(name, group.mode)
        return group

    def _note_state(self, name: str, state: BreakerState) -> None:
        if self._metrics is not None:
            self._metrics.note_state(name, state.value)

    def _note_mode(self, name: str, mode: Mode) -> None:
        if self._metrics is not None:
            self._metrics.note_mode(name, mode)


def _pace_key(deployment: Deployment) -> str:
    return f"deployment:{deployment.name}" if deployment.group is None else f"group:{deployment.group}"
