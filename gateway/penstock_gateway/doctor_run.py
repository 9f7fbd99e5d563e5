"""Everything that ``penstock doctor`` looks at, in order and in time.

Owns the list of checks beyond the installation: providers, encode server, Redis, GPU, machine, settings, clock. Read
`examine_all`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from penstock_gateway import doctor, doctor_encoder
from penstock_gateway.configuration_problems import ConfigurationError
from penstock_gateway.deployments import Deployment
from penstock_gateway.doctor_checks import Check, Looked, run_checks
from penstock_gateway.doctor_clock import Clocks
from penstock_gateway.doctor_encoder import look_at_encoder
from penstock_gateway.doctor_machine import look_at_descriptors, look_at_folders, look_at_gpu
from penstock_gateway.doctor_providers import look_at_provider, places_of
from penstock_gateway.doctor_redis import look_at_redis, uses_of
from penstock_gateway.doctor_risks import look_at_risks
from penstock_gateway.findings import Finding
from penstock_gateway.settings import Settings, build_deployments, load_settings

SECONDS: Final = 20.0
"""How long all of it may take, unless told otherwise."""

_HANGS: Final = "it hangs: look at DNS and network first, or take --offline"


def examine_all(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    seconds: float = SECONDS,
    is_offline: bool = False,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Looked:
    """Look at the installation, then at everything that it depends on.

    Parameters
    ----------
    path : Path or None
        Configuration file; None looks where ``penstock serve`` looks.
    environ : mapping of str to str
    seconds : float
        For all of it together.
    is_offline : bool
        Leave out what needs a connection: providers, the encode server, Redis, the clock.
    on_progress : callable
        See `run_checks`.

    Returns
    -------
    Looked
    """
    end = time.monotonic() + seconds
    first = Check("installation", lambda: doctor.examine(path, environ), _HANGS)
    installed = run_checks([first], seconds)
    try:
        settings = load_settings(path, environ)
    except ConfigurationError:  # said already
        return installed
    clocks = Clocks()
    checks = local_checks(settings)
    if not is_offline:
        checks += remote_checks(settings, build_deployments(settings), clocks)
    looked = run_checks(checks, max(0.0, end - time.monotonic()), on_progress=on_progress)
    clock = () if is_offline else (clocks.finding(),)
    return Looked(installed.findings + looked.findings + clock, installed.late + looked.late)


def local_checks(settings: Settings) -> list[Check]:
    """Return the checks that need nobody else."""
    return [
        Check("gpu", partial(look_at_gpu, settings.routing, doctor.installed_version), "look at the NVIDIA driver"),
        Check("open files", partial(look_at_descriptors, settings), _HANGS),
        Check("folders", partial(look_at_folders, settings), "the file system hangs: is a network volume away?"),
        Check("settings", partial(look_at_risks, settings), "the file system hangs: is a network volume away?"),
    ]


def remote_checks(settings: Settings, deployments: Sequence[Deployment], clocks: Clocks) -> list[Check]:
    """Return the checks that ask providers and Redis.

    Parameters
    ----------
    settings : Settings
    deployments : sequence of Deployment
    clocks : Clocks
        Told what time they have.
    """
    checks = [
        Check(
            place.subject, partial(look_at_provider, place, clocks), "look at DNS and network; is a proxy in between?"
        )
        for place in places_of(deployments)
    ]
    litellm = [each.name for each in deployments if each.adapter != "direct"]
    if litellm:
        checks.append(Check("litellm", partial(_not_tried, litellm), _HANGS))
    if settings.encoder.remote is not None:
        checks.append(Check(doctor_encoder.SUBJECT, partial(look_at_encoder, settings), "look at DNS and network"))
    return checks + [
        Check(use.subject, partial(look_at_redis, use, clocks), "look at DNS and network; is a proxy in between?")
        for use in uses_of(settings)
    ]


def _not_tried(names: Sequence[str]) -> tuple[Finding, ...]:
    detail = f"{', '.join(names)}: not tried, because litellm has no call that surely costs nothing"
    return (Finding("ok", "providers by litellm", detail),)
