"""``/admin/keys``, ``/admin/teams`` and ``/admin/tags``: list, create, read, change, end.

Read `account_routes`. The rules are in `accounts.registrar`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from penstock_gateway.accounts.fields import validated
from penstock_gateway.accounts.records import StoredKey
from penstock_gateway.accounts.registrar import DEFAULT_OVERLAP_SECONDS
from penstock_gateway.accounts.table import GroupEntry, KeyEntry
from penstock_gateway.accounts.views import group_view, key_view
from penstock_gateway.endpoints.admin_requests import (
    AdminParts,
    answer,
    note_change,
    page,
    read_object,
    refuse_unknown,
    stored,
    take_name,
)
from penstock_gateway.errors import NotFound
from penstock_gateway.settings_accounts import KeyFields, OverlapSeconds, PolicyFields, TagFields
from penstock_gateway.settings_types import Section

KeyName = Annotated[str, Path(description="Id of the key, or its name.")]
GroupName = Annotated[str, Path(description="Name.")]


class _Rotation(Section):
    overlap_seconds: OverlapSeconds = DEFAULT_OVERLAP_SECONDS


def account_routes(parts: AdminParts) -> APIRouter:
    """Return the routes of one gateway.

    Parameters
    ----------
    parts : AdminParts
    """
    routes = APIRouter()
    _add_key_actions(routes, parts)
    _add_keys(routes, parts)
    _add_groups(routes, parts, "team")
    _add_groups(routes, parts, "tag")
    _add_store(routes, parts)
    return routes


def _add_keys(routes: APIRouter, parts: AdminParts) -> None:
    directory, registrar = parts.directory, parts.registrar

    @routes.get("/admin/keys", summary="List keys")
    async def list_keys(request: Request) -> Response:
        """List keys in the order of their ids; `team` and `name` select, `after` and `limit` page."""
        team, name = request.query_params.get("team"), request.query_params.get("name")
        entries = {
            entry.id: entry
            for entry in directory.table.keys.values()
            if (team is None or entry.fields.team == team) and (name is None or entry.name == name)
        }
        ids, following = page(request, sorted(entries), known=("team", "name"))
        now = directory.clock()
        return answer({"object": "list", "data": [key_view(entries[i], now) for i in ids], "next": following})

    @routes.post("/admin/keys", summary="Create a key", openapi_extra=_body(KeyFields, "name"))
    async def create_key(request: Request) -> Response:
        """Create a key; its secret is in this answer and nowhere else."""
        content = await read_object(request)
        name = take_name(content)
        key, secret = await stored(registrar.create_key(name, content))
        note_change(request, "created", "key", key.id, content)
        return answer({**_view(parts, key), "secret": secret}, 201)

    @routes.get("/admin/keys/{key:path}", summary="Show a key")
    async def show_key(request: Request, key: KeyName) -> Response:
        """Show a key without its secret."""
        refuse_unknown(request.query_params, ())
        return answer(key_view(_find(parts, key), directory.clock()))

    @routes.patch("/admin/keys/{key:path}", summary="Change a key", openapi_extra=_body(KeyFields))
    async def update_key(request: Request, key: KeyName) -> Response:
        """Change the fields that are given; null sets the default."""
        content = await read_object(request)
        changed = await stored(registrar.update_key(key, content))
        note_change(request, "updated", "key", changed.id, content)
        return answer(_view(parts, changed))

    @routes.delete("/admin/keys/{key:path}", summary="Delete a key")
    async def delete_key(request: Request, key: KeyName) -> Response:
        """Delete a key at once; what it has spent stays counted for its team and tags."""
        refuse_unknown(request.query_params, ())
        deleted = await stored(registrar.delete_key(key))
        note_change(request, "deleted", "key", deleted.id)
        return answer({"object": "deletion", "kind": "key", "id": deleted.id, "name": deleted.name})


def _add_key_actions(routes: APIRouter, parts: AdminParts) -> None:
    registrar = parts.registrar

    @routes.post("/admin/keys/{key:path}/rotate", summary="Give a key a new secret", openapi_extra=_body(_Rotation))
    async def rotate_key(request: Request, key: KeyName) -> Response:
        """Give a key a new secret; the old one stays valid for `overlap_seconds`, a day if not given."""
        given = validated(_Rotation, await read_object(request))
        rotated, secret = await stored(registrar.rotate_key(key, given.overlap_seconds))
        note_change(request, "rotated", "key", rotated.id)
        return answer({**_view(parts, rotated), "secret": secret})

    @routes.post("/admin/keys/{key:path}/revoke", summary="Revoke a key", openapi_extra=_body(Section))
    async def revoke_key(request: Request, key: KeyName) -> Response:
        """End a key for good; streams under way end too, on other gateways within a second."""
        refuse_unknown(await read_object(request), ())
        revoked = await stored(registrar.revoke_key(key))
        note_change(request, "revoked", "key", revoked.id)
        return answer(_view(parts, revoked))


def _add_groups(routes: APIRouter, parts: AdminParts, kind: str) -> None:
    """Add the routes of teams, or of tags, which differ in their fields only."""
    registrar, table = parts.registrar, f"{kind}s"
    is_team = kind == "team"
    create = registrar.create_team if is_team else registrar.create_tag
    update = registrar.update_team if is_team else registrar.update_tag
    delete = registrar.delete_team if is_team else registrar.delete_tag
    fields = PolicyFields if is_team else TagFields

    def entries() -> dict[str, GroupEntry]:
        found = parts.directory.table.teams if is_team else parts.directory.table.tags
        return dict(found)

    def view(name: str) -> dict[str, Any]:
        entry = entries().get(name)
        if entry is None:
            raise NotFound(f"There is no {kind} '{name[:128]}'.", code=f"{kind}_not_found")
        return group_view(kind, entry)

    @routes.get(f"/admin/{table}", summary=f"List {table}")
    async def list_groups(request: Request) -> Response:
        found = entries()
        names, following = page(request, sorted(found))
        return answer({"object": "list", "data": [group_view(kind, found[n]) for n in names], "next": following})

    @routes.post(f"/admin/{table}", summary=f"Create a {kind}", openapi_extra=_body(fields, "name"))
    async def create_group(request: Request) -> Response:
        content = await read_object(request)
        name = take_name(content)
        await stored(create(name, content))
        note_change(request, "created", kind, name, content)
        return answer(view(name), 201)

    @routes.get(f"/admin/{table}/{{name:path}}", summary=f"Show a {kind}")
    async def show_group(request: Request, name: GroupName) -> Response:
        refuse_unknown(request.query_params, ())
        return answer(view(name))

    @routes.patch(f"/admin/{table}/{{name:path}}", summary=f"Change a {kind}", openapi_extra=_body(fields))
    async def update_group(request: Request, name: GroupName) -> Response:
        content = await read_object(request)
        await stored(update(name, content))
        note_change(request, "updated", kind, name, content)
        return answer(view(name))

    @routes.delete(f"/admin/{table}/{{name:path}}", summary=f"Delete a {kind}")
    async def delete_group(request: Request, name: GroupName) -> Response:
        refuse_unknown(request.query_params, ())
        await stored(delete(name))
        note_change(request, "deleted", kind, name)
        return answer({"object": "deletion", "kind": kind, "name": name})


def _add_store(routes: APIRouter, parts: AdminParts) -> None:
    directory = parts.directory

    @routes.get("/admin/status", summary="Show where accounts are stored, and how that is")
    async def status(request: Request) -> Response:
        """Show the kind of store, what is wrong with it, and how much is in it."""
        refuse_unknown(request.query_params, ())
        table = directory.table
        return answer(
            {
                "object": "status",
                "store": "none" if directory.store is None else directory.store.kind,
                "problem": directory.problem,
                "keys": len(table.keys),
                "teams": len(table.teams),
                "tags": len(table.tags),
                "blocked_keys": list(table.blocked[:100]),
            }
        )

    @routes.post("/admin/restore", summary="Write back what the store has lost", openapi_extra=_body(Section))
    async def restore(request: Request) -> Response:
        """Write all that this gateway knows into a store that was emptied; refused when anything is in it."""
        refuse_unknown(await read_object(request), ())
        count = await stored(directory.restore())
        note_change(request, "restored", "store", "all")
        return answer({"object": "restoration", "records": count})


def _find(parts: AdminParts, name_or_id: str) -> KeyEntry:
    keys = parts.directory.table.keys
    found = keys.get(name_or_id) or next((entry for entry in keys.values() if entry.name == name_or_id), None)
    if found is None:
        raise NotFound(f"There is no key '{name_or_id[:128]}'.", code="key_not_found")
    return found


def _view(parts: AdminParts, key: StoredKey) -> dict[str, Any]:
    return key_view(KeyEntry.of(key), parts.directory.clock())


_NAME: Final = {"type": "string", "maxLength": 128}


def _body(model: type[Section], *required: str) -> dict[str, Any]:
    """Return the OpenAPI document's part on a body; references are resolved, as each would lead out of it."""
    schema = model.model_json_schema(mode="validation")
    definitions = schema.pop("$defs", {})
    plain = _inlined(schema, definitions)
    if required:
        plain["required"] = list(required)
    if model is KeyFields or required:
        plain["properties"] = {"name": _NAME, **plain.get("properties", {})}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": plain}}}}


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(definitions[part["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in part.items()}
