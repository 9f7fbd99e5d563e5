"""The page of artifacts: the one in force and how it was judged, the registry's versions, differences, going back.

What changes a registry is ``penstock-train``'s, in a process of its own (`registry_process`). Read `artifacts_page`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any, Final

from penstock_gateway.artifact_source import is_artifact_url
from penstock_gateway.console.charts import Mark, frontier
from penstock_gateway.console.contract import Asked, ConsoleParts, Moved, Page
from penstock_gateway.console.registry_process import artifact_command, artifact_json
from penstock_gateway.errors import Conflict, GatewayError, InvalidRequest, NotFound
from penstock_gateway.settings_deployments import artifact_folder
from penstock_routers.errors import RouterError
from penstock_routers.manifest import Manifest
from penstock_routers.registry_layout import artifact_path, is_artifact_id, is_registry

_log = logging.getLogger("penstock.admin")

MAX_PICTURES: Final = 12
MAX_PICTURE_BYTES: Final = 2 << 20
MAX_VERSIONS: Final = 100
_PICTURE: Final = re.compile(r"[A-Za-z0-9_-]{1,60}\.png")


async def artifacts_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show the artifact in force, the registry it comes from, and what tells two of its versions apart."""
    routing = parts.pipeline.chooser.parts
    place = _place(parts)
    registry = place if place is not None and await asyncio.to_thread(is_registry, place) else None
    values: dict[str, Any] = {
        "manifest": None,
        "source": parts.pipeline.settings.routing.artifact,
        "refusal": None if parts.watch is None else parts.watch.refusal,
        "registry": None,
        "registry_problem": "",
        "difference": None,
        "first": asked.query.get("first", ""),
        "second": asked.query.get("second", ""),
        "pictures": [],
    }
    if routing is not None:
        values |= _described(routing.artifact.manifest)
        folder = _folder_in_force(place, registry, routing.artifact.id)
        values["pictures"] = [] if folder is None else await asyncio.to_thread(_pictures, folder)
    if registry is not None:
        try:
            values["registry"] = await _versions(registry)
            if values["first"] and values["second"]:
                values["difference"] = await _difference(registry, values["first"], values["second"])
        except GatewayError as error:
            values["registry_problem"] = error.message
    return Page("artifacts.html", values)


async def force_change(parts: ConsoleParts, asked: Asked) -> Moved:
    """Put a stored artifact in force: an earlier one, or one that was kept back."""
    place, wanted = _place(parts), asked.form.get("artifact", "")
    if place is None or not is_registry(place):
        raise Conflict("The artifact does not come from a registry on this machine, so nothing can be put in force.")
    if not is_artifact_id(wanted):
        raise InvalidRequest("That is no artifact's id.", param="artifact")
    await artifact_json("rollback", str(place), "--to", wanted)
    _log.info("artifact_put_in_force", extra={"artifact": wanted, "client": asked.client})
    if parts.watch is not None:
        await parts.watch.check()
    return Moved("/artifacts", "artifact-in-force")


async def picture(parts: ConsoleParts, asked: Asked) -> bytes:
    """Return one of the plots that lie beside the artifact in force.

    Raises
    ------
    NotFound
    """
    place, routing = _place(parts), parts.pipeline.chooser.parts
    name = asked.query.get("name", "")
    if place is None or routing is None or not _PICTURE.fullmatch(name):
        raise NotFound("There is no such picture.")
    registry = place if await asyncio.to_thread(is_registry, place) else None
    folder = _folder_in_force(place, registry, routing.artifact.id)
    if folder is None or name not in await asyncio.to_thread(_pictures, folder):
        raise NotFound("There is no such picture.")
    return await asyncio.to_thread((folder / name).read_bytes)


def _place(parts: ConsoleParts) -> Path | None:
    """Return the folder or registry that the configuration names; None for a URL, or for nothing."""
    routing = parts.pipeline.settings.routing
    if is_artifact_url(routing.artifact):
        return None
    try:
        found = artifact_folder(routing)
    except RouterError:
        return None
    if found is None:
        return None
    given = Path(routing.artifact)
    return given if given.is_dir() else found


def _folder_in_force(place: Path | None, registry: Path | None, artifact_id: str) -> Path | None:
    return place if registry is None else registry / artifact_path(artifact_id)


def _pictures(folder: Path) -> list[str]:
    found = [path for path in sorted(folder.glob("*.png")) if _PICTURE.fullmatch(path.name) and path.is_file()]
    return [path.name for path in found if path.stat().st_size <= MAX_PICTURE_BYTES][:MAX_PICTURES]


def _described(manifest: Manifest) -> dict[str, Any]:
    marks = [
        Mark(point.name, point.test.relative_cost, point.test.quality, point.test.quality_low, point.test.quality_high)
        for point in manifest.operating_points
    ]
    line = [(point.relative_cost, point.quality) for point in manifest.frontier]
    return {"manifest": manifest, "plot": frontier(line, marks)}


async def _versions(registry: Path) -> dict[str, Any]:
    listed = await artifact_json("list", str(registry))
    told: dict[str, dict[str, Any]] = {}
    for entry in listed["history"]:
        told[entry["id"]] = entry
    order = {artifact_id: place for place, artifact_id in enumerate(told)}
    ids = sorted(listed["artifacts"], key=lambda i: -order.get(i, -1))[:MAX_VERSIONS]
    return {
        "current": listed["current"],
        "versions": [{"id": i, "last": told.get(i), "is_current": i == listed["current"]} for i in ids],
        "history": list(reversed(listed["history"]))[:30],
    }


async def _difference(registry: Path, first: str, second: str) -> str:
    if not (is_artifact_id(first) and is_artifact_id(second)):
        raise InvalidRequest("Choose two versions.", param="first")
    places = [str(registry / artifact_path(artifact_id)) for artifact_id in (first, second)]
    return await artifact_command("diff", *places)
