"""Reading the files of a model folder: regular ones only, and no more of them than is allowed."""

from __future__ import annotations

from pathlib import Path

from penstock_routers.errors import RouterError


def read_model_file(
    path: Path, max_bytes: int, *, error: type[RouterError], missing_code: str, too_large_code: str
) -> bytes:
    """Read one file of a model folder.

    Parameters
    ----------
    path : Path
    max_bytes : int
        A larger file is a mistake or an attack.
    error : type of RouterError
        Raised with one of the two codes; its message names folder and file, not the whole path.
    missing_code, too_large_code : str

    Returns
    -------
    bytes

    Raises
    ------
    RouterError
        Of class `error`: absent, unreadable, no regular file (a pipe would block for ever), or too large.
    """
    name = f"{path.parent.name}/{path.name}"
    if path.exists() and not path.is_file():
        raise error(f"{name} is no regular file", code=missing_code)
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as failure:
        raise error(f"{name} cannot be read: {failure.strerror or 'unreadable'}", code=missing_code) from failure
    if len(content) > max_bytes:
        raise error(f"{name} is larger than {max_bytes:,} bytes", code=too_large_code)
    return content
