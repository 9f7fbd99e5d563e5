"""Secrets that nobody has given: made once, and kept in a file that only the gateway may read.

Read `made_secret`.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from penstock_gateway.accounts.file_store import sync_folder
from penstock_gateway.settings_secrets import SecretFileError, read_secret

MIN_CHARACTERS: Final = 16
_BYTES: Final = 32


def made_secret(path: Path) -> bytes:
    """Return the secret in a file, which is made when it is missing; blocks.

    Parameters
    ----------
    path : Path
        Of several processes that make one at once, the first one's counts.

    Returns
    -------
    bytes

    Raises
    ------
    SecretFileError
        Others may read it, or it holds none.
    OSError
        It can be neither read nor made.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_hex(_BYTES).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(beside, path)  # unlike a rename, never over a secret that is there
            sync_folder(path.parent)
        finally:
            beside.unlink()
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SecretFileError(f"{path} may be read by others; run: chmod 600 {path}")
    text = read_secret(None, str(path))
    if len(text) < MIN_CHARACTERS:
        raise SecretFileError(f"{path} holds less than {MIN_CHARACTERS} characters; restore it from a backup")
    return text.encode()
