"""Reading values of a request that are still raw JSON, and noting which of them get lost on the way.

Pure. Read `read` and `Dropped`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeVar

import msgspec

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.upstream.protocol import JsonObject

_T = TypeVar("_T")

STRING: Final = msgspec.json.Decoder(str)
OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
OBJECTS: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])

_NULL = b"null"
_QUOTE = ord('"')
_SPACES = frozenset(b" \\")  # what a text of spaces alone can begin with; a backslash begins an escape


class Dropped:
    """Paths of what the provider's format has no place for, each once, in the order of appearance."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """All that were noted."""
        return tuple(self._paths)

    def note(self, path: str) -> None:
        """Add a path."""
        self._paths[path] = None

    def note_others(self, fields: JsonObject, known: Collection[str], prefix: str = "") -> None:
        """Add every field that is not known and not null."""
        for name, value in fields.items():
            if name not in known and not is_null(value):
                self.note(prefix + name)


def read(raw: msgspec.Raw, decoder: msgspec.json.Decoder[_T], path: str) -> _T:
    """Decode a value.

    Parameters
    ----------
    raw : msgspec.Raw
    decoder : msgspec.json.Decoder
        Of the type wanted.
    path : str
        What to blame in the error, in the client's format.

    Raises
    ------
    InvalidRequest
        Another type (code ``invalid_type``), nested too deeply, or malformed.
    """
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise InvalidRequest(f"'{path}' is nested too deeply.", code="json_too_deep", param=path) from None
    except msgspec.ValidationError as error:
        problem = str(error).replace("`$", f"`{path}").replace("`", "'")
        raise InvalidRequest(f"'{path}' is not valid: {problem}.", code="invalid_type", param=path) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest(f"'{path}' holds malformed JSON.", code="invalid_json", param=path) from None


def given(fields: JsonObject, name: str) -> msgspec.Raw | None:
    """Return a field's raw value; None when it is absent or null."""
    value = fields.get(name)
    return None if value is None or is_null(value) else value


def required(fields: JsonObject, name: str, path: str) -> msgspec.Raw:
    """Return a field's raw value.

    Raises
    ------
    InvalidRequest
        Absent or null (code ``missing_field``).
    """
    value = given(fields, name)
    if value is None:
        raise InvalidRequest(f"'{path}' is required.", code="missing_field", param=path)
    return value


def is_null(raw: msgspec.Raw) -> bool:
    """Whether the value is null, or nothing at all."""
    return len(raw) == 0 or (len(raw) == len(_NULL) and bytes(raw) == _NULL)


def is_string(raw: msgspec.Raw) -> bool:
    """Whether the value is a string."""
    return len(raw) > 1 and memoryview(raw)[0] == _QUOTE


def is_blank(text: msgspec.Raw) -> bool:
    """Whether a string is empty or white space alone; decoded only when it begins with white space or an escape."""
    if len(text) == 2:
        return True
    if memoryview(text)[1] not in _SPACES:
        return False
    try:
        return not STRING.decode(text).strip()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def invalid(path: str, problem: str, *, code: str = "invalid_value") -> InvalidRequest:
    """Return the error that names a field: "'stop' must be …"."""
    return InvalidRequest(f"'{path}' {problem}.", code=code, param=path)
