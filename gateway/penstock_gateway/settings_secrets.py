"""Credentials that stand in files: reading them, and what is wrong with such a file.

Owns `read_secret`. The text it returns never goes into a message. Read that function first.
"""

from __future__ import annotations

import stat
from pathlib import Path

from pydantic import SecretStr

MAX_SECRET_BYTES = 8192


class SecretFileError(Exception):
    """A key file cannot be used; the message names the file and the reason, never its content."""


def read_secret(key: SecretStr | None, file: str | None) -> str:
    """Return a credential given directly or by file.

    Parameters
    ----------
    key : SecretStr or None
        The credential itself; wins when both are given.
    file : str or None
        Path of a file with the credential on one line; white space around it is ignored.

    Returns
    -------
    str
        Empty when neither is given.

    Raises
    ------
    SecretFileError
        The file is missing, unreadable, empty, too large, not one line of UTF-8, or writable by everybody.
    """
    if key is not None:
        return key.get_secret_value()
    if file is None:
        return ""
    path = Path(file)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise SecretFileError(f"{path} is not a file")
        if mode & stat.S_IWOTH:
            raise SecretFileError(f"{path} may be written by everybody; run: chmod o-w {path}")
        with path.open("rb") as opened:
            content = opened.read(MAX_SECRET_BYTES + 1)
        text = content.decode().strip()
    except OSError as error:
        raise SecretFileError(f"{path} cannot be read: {error.strerror or 'unknown error'}") from None
    except UnicodeDecodeError:
        raise SecretFileError(f"{path} is not UTF-8 text") from None
    if len(content) > MAX_SECRET_BYTES:
        raise SecretFileError(f"{path} is larger than {MAX_SECRET_BYTES} bytes")
    if not text or len(text.splitlines()) != 1:
        raise SecretFileError(f"{path} should hold the key on one line")
    return text


def is_readable_by_others(file: str) -> bool:
    """Say whether everybody on the machine may read a key file (Kubernetes mounts secrets so by default)."""
    try:
        return bool(Path(file).stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
