"""The pepper: the secret under which keys are digested, so that stolen records alone are of no use.

Owns where it comes from: the configuration, or a file that is made at the first start. Read `read_pepper`.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from penstock_gateway.accounts.file_store import sync_folder
from penstock_gateway.settings_accounts import AccountsSettings
from penstock_gateway.settings_secrets import SecretFileError, read_secret

FILE: Final = "pepper"
MIN_CHARACTERS: Final = 16
_BYTES: Final = 32


class PepperError(Exception):
    """The pepper cannot be used; the message says why and what to do, without its value."""


def read_pepper(settings: AccountsSettings) -> bytes:
    """Return the pepper of a configuration.

    Parameters
    ----------
    settings : AccountsSettings

    Returns
    -------
    bytes
        Of ``accounts.pepper`` or ``accounts.pepper_file``; else of the file ``pepper`` in ``accounts.folder``, which is
        made when it is missing; without a folder 32 random bytes that last as long as the process, which is enough for
        the keys of a configuration.

    Raises
    ------
    PepperError
    """
    if settings.pepper is not None or settings.pepper_file is not None:
        try:
            text = read_secret(settings.pepper, settings.pepper_file)
        except SecretFileError as error:
            raise PepperError(f"accounts.pepper_file: {error}") from None
        if len(text) < MIN_CHARACTERS:
            raise PepperError(f"accounts.pepper_file holds a pepper of less than {MIN_CHARACTERS} characters")
        return text.encode()
    if not settings.is_on:
        return secrets.token_bytes(_BYTES)
    if settings.folder is None:
        raise PepperError("accounts.pepper is needed: without a folder there is no place to keep one that is made")
    try:
        return _own_pepper(Path(settings.folder) / FILE)
    except OSError as error:
        raise PepperError(f"{settings.folder}: no pepper can be kept there: {error.strerror}") from None


def _own_pepper(path: Path) -> bytes:
    """Read the pepper that was made, or make one; of several processes that make one, the first one's counts."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_name(f"{FILE}.{secrets.token_hex(8)}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_hex(_BYTES).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(beside, path)  # unlike a rename, never over a pepper that is there
            sync_folder(path.parent)
        finally:
            beside.unlink()
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PepperError(f"{path} may be read by others; run: chmod 600 {path}")
    try:
        text = read_secret(None, str(path))
    except SecretFileError as error:
        raise PepperError(str(error)) from None
    if len(text) < MIN_CHARACTERS:
        raise PepperError(f"{path} holds a pepper of less than {MIN_CHARACTERS} characters; restore it from a backup")
    return text.encode()
