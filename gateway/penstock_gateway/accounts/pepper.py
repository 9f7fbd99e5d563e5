"""The pepper: the secret under which keys are digested, so that stolen records alone are of no use.

Owns where it comes from: the configuration, or a file that is made at the first start. Read `read_pepper`.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from penstock_gateway.made_secrets import MIN_CHARACTERS, made_secret
from penstock_gateway.settings_accounts import AccountsSettings
from penstock_gateway.settings_secrets import SecretFileError, read_secret

FILE: Final = "pepper"
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
        return made_secret(Path(settings.folder) / FILE)
    except SecretFileError as error:
        raise PepperError(str(error)) from None
    except OSError as error:
        raise PepperError(f"{settings.folder}: no pepper can be kept there: {error.strerror}") from None
